"""TLS: a self-signed leaf certificate made by `openssl`, what a certificate says, and the server's TLS settings."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from fleetshell_tools.core import storage
from fleetshell_tools.core.errors import ConfigError, FleetShellError

DAYS = 825
"""How long a certificate is valid; some clients refuse longer ones."""


@dataclass(frozen=True)
class Certificate:
    """What a certificate says: its DNS names, its addresses, and when it ends."""

    names: tuple[str, ...]
    addresses: tuple[str, ...]
    ends: datetime


def _openssl() -> str:
    found = shutil.which("openssl")
    if found is None:
        raise FleetShellError("openssl is not installed. Install it (Debian, Ubuntu: `apt install openssl`).")
    return found


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


def create(cert: Path, key: Path, hostnames: list[str]) -> Certificate:
    """Make a self-signed leaf (CA:FALSE, serverAuth, keyUsage) for this machine, and its key (0600).

    Raises:
        FleetShellError: openssl is missing or failed, or a name is none.
    """
    names, addresses = machine_names(hostnames)
    alternative = ",".join([*(f"DNS:{name}" for name in names), *(f"IP:{address}" for address in addresses)])
    settings = f"""[req]
distinguished_name = name
x509_extensions = leaf
prompt = no
[name]
CN = {(hostnames or names or ["fleetshell"])[0][:64]}
O = FleetShell relay
[leaf]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
subjectAltName = {alternative}
"""
    with tempfile.TemporaryDirectory(prefix=".new-", dir=cert.parent) as folder:
        new_cert, new_key, config = Path(folder, "cert.pem"), Path(folder, "key.pem"), Path(folder, "openssl.cnf")
        config.write_text(settings)
        command = [_openssl(), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-sha256",
                   "-days", str(DAYS), "-config", str(config), "-keyout", str(new_key), "-out", str(new_cert)]  # fmt: skip
        run = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if run.returncode != 0:
            raise FleetShellError(
                f"openssl could not make the certificate: {run.stderr.strip().splitlines()[-1:] or 'no message'}"
            )
        storage.write_atomic(key, new_key.read_bytes())
        storage.write_atomic(cert, new_cert.read_bytes())
    return read(cert)


def read(cert: Path) -> Certificate:
    """What the (first) certificate of a PEM file says.

    Raises:
        ConfigError: Missing or no certificate.
    """
    command = [_openssl(), "x509", "-noout", "-enddate", "-ext", "subjectAltName", "-in", str(cert)]
    run = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env={**os.environ, "LC_ALL": "C"}
    )
    ends = re.search(r"notAfter=(.*)", run.stdout)
    if run.returncode != 0 or ends is None:
        raise ConfigError(
            f"{cert} is not a certificate in PEM form. Run `fleetshell init --renew-cert`, or set relay.http.cert_file."
        )
    when = datetime.strptime(" ".join(ends[1].split()), "%b %d %H:%M:%S %Y GMT").replace(tzinfo=timezone.utc)
    addresses = [str(ipaddress.ip_address(text.strip())) for text in re.findall(r"IP Address:([^,\n]+)", run.stdout)]
    return Certificate(tuple(re.findall(r"DNS:([^,\s]+)", run.stdout)), tuple(addresses), when)


def server_context(cert: Path, key: Path) -> ssl.SSLContext:
    """The server's TLS settings: TLS 1.2 or newer, this certificate.

    Raises:
        ConfigError: A file is missing, or the two do not belong together.
    """
    for path, what in ((cert, "certificate"), (key, "certificate's key")):
        if not path.exists():
            raise ConfigError(f"The {what} {path} does not exist. Run `fleetshell init` to make a self-signed one.")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"The certificate {cert} and the key {key} can't be used together: {getattr(error, 'reason', None) or error.strerror}."
        ) from None
    return context
