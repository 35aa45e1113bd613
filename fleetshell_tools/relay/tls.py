"""TLS: a self-signed leaf certificate, what a certificate says, and the server's TLS settings."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import re
import socket
import ssl
import textwrap
from datetime import datetime, timedelta, timezone
from pathlib import Path

from fleetshell_tools.core import storage
from fleetshell_tools.core.errors import ConfigError, FleetShellError
from fleetshell_tools.relay import x509

DAYS = 825
"""How long a certificate is valid; some clients refuse longer ones."""

SOON_DAYS = 30
"""How long before its end a certificate's renewal is asked for."""


def machine_names(hostnames: list[str]) -> tuple[list[str], list[str]]:
    """The names and addresses under which clients may reach this machine: those given, its own, and loopback."""
    names, addresses = [], []
    for host in [
        *hostnames,
        socket.gethostname(),
        socket.getfqdn(),
        "localhost",
        "127.0.0.1",
        "::1",
        *_own_addresses(),
    ]:
        try:
            addresses.append(str(ipaddress.ip_address(host.strip("[]"))))
        except ValueError:
            if re.fullmatch(r"(\*\.)?[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?", host):
                names.append(host.lower())
            elif host in hostnames:
                raise FleetShellError(
                    f'"{host}" is neither a host name nor an IP address; give --hostname one of these.'
                ) from None
    return list(dict.fromkeys(names)), list(dict.fromkeys(addresses))


def _own_addresses() -> list[str]:
    """The addresses from which this machine would reach others; a UDP connect sends nothing."""
    found = []
    for family, target in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((target, 9))
            found.append(probe.getsockname()[0].partition("%")[0])
    return found


def create(cert: Path, key: Path, hostnames: list[str]) -> x509.Facts:
    """Make a self-signed leaf (CA:FALSE, serverAuth, keyUsage) for this machine, and its key (0600).

    Raises:
        FleetShellError: A name is none.
    """
    names, addresses = machine_names(hostnames)
    begins = datetime.now(timezone.utc)
    certificate, secret = x509.self_signed_leaf(
        (hostnames or names or ["fleetshell"])[0][:64], names, addresses, begins, begins + timedelta(days=DAYS)
    )
    storage.write_atomic(key, _pem("PRIVATE KEY", secret))
    storage.write_atomic(cert, _pem("CERTIFICATE", certificate))
    return read(cert)


def _pem(what: str, data: bytes) -> str:
    """Data in text form (RFC 7468)."""
    return "\n".join(
        [f"-----BEGIN {what}-----", *textwrap.wrap(base64.b64encode(data).decode(), 64), f"-----END {what}-----", ""]
    )


def read(cert: Path) -> x509.Facts:
    """What the (first) certificate of a PEM file says.

    Raises:
        ConfigError: Missing, not to be read, or no certificate.
    """
    _look_at(cert, "certificate")
    try:
        text = cert.read_text("ascii", "replace")
        begin = text.index(ssl.PEM_HEADER)
        return x509.read(
            ssl.PEM_cert_to_DER_cert(text[begin : text.index(ssl.PEM_FOOTER, begin) + len(ssl.PEM_FOOTER)])
        )
    except ValueError:
        raise ConfigError(
            f"{cert} is not a certificate in PEM form. Run `fleetshell init --renew-cert`, or set relay.http.cert_file."
        ) from None


def _look_at(path: Path, what: str) -> None:
    """Refuse a file that can't be read with a sentence that says why: those of other programs often belong to root."""
    try:
        path.open("rb").close()
    except FileNotFoundError:
        raise ConfigError(
            f"The {what} {path} does not exist. Run `fleetshell init` to make a self-signed one."
        ) from None
    except OSError as error:
        raise ConfigError(
            f"The {what} {path} can't be read: {error.strerror}. Give FleetShell's user a copy that it may read."
        ) from None


def server_context(cert: Path, key: Path) -> ssl.SSLContext:
    """The server's TLS settings: TLS 1.2 or newer, this certificate.

    Raises:
        ConfigError: A file is missing, or the two do not belong together.
    """
    _look_at(cert, "certificate")
    _look_at(key, "certificate's key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"The certificate {cert} and the key {key} can't be used together: {getattr(error, 'reason', None) or error.strerror}."
        ) from None
    return context
