"""What commands do with the rooms where no relay is needed: a fleet of their own, keys, certificates, records."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fleetshell_tools.core.audit import AuditLog
from fleetshell_tools.core.config import Config
from fleetshell_tools.core.home import Home
from fleetshell_tools.core.installing import Marketplace
from fleetshell_tools.core.mcps import Mcp
from fleetshell_tools.core.notes import NoteStore
from fleetshell_tools.core.servers import Inventory
from fleetshell_tools.core.types import Caller, Principal
from fleetshell_tools.fleet import keys
from fleetshell_tools.fleet.check import Step, changed_keys, check
from fleetshell_tools.fleet.facts import Learned
from fleetshell_tools.fleet.fleet import SshFleet, make_guard, private_folder
from fleetshell_tools.fleet.hostkeys import HostKeys
from fleetshell_tools.relay import auth, tls, x509
from fleetshell_tools.relay.auth import Authenticator, AuthState
from fleetshell_tools.relay.installer import PackageManagers
from fleetshell_tools.relay.totp import ACCOUNT as TOTP_ACCOUNT
from fleetshell_tools.relay.totp import check_code, provisioning_uri
from fleetshell_tools.relay.totp import new_secret as new_totp_secret
from fleetshell_tools.relay.upstream_trial import Trial, try_once

__all__ = [
    "TOTP_ACCOUNT",
    "SshFleet",
    "Step",
    "Trial",
    "changed_keys",
    "check",
    "check_code",
    "client_fleet",
    "make_guard",
    "new_totp_secret",
    "open_audit",
    "provisioning_uri",
]


def open_audit(home: Home, config: Config) -> AuditLog:
    """The audit log of a home."""
    limits = config.security
    return AuditLog(
        home.file(config.relay.audit_log), home.audit_key, home.audit_head, home.audit_reserve,
        max_bytes=limits.audit_max_bytes, keep=limits.audit_keep,
    )  # fmt: skip


def client_fleet(home: Home, config: Config) -> tuple[SshFleet, Inventory, Callable[[], None]]:
    """A fleet for one command of the CLI, with control sockets of its own; call the third to close it."""
    inventory = Inventory(home.servers, config.defaults)
    audit = open_audit(home, config)
    folder = private_folder(home)
    fleet = SshFleet(home, folder, config, inventory, audit)

    def close() -> None:
        fleet.close()
        audit.close()
        shutil.rmtree(folder, ignore_errors=True)

    return fleet, inventory, close


def cli_caller(command: str) -> Caller:
    """Whoever types a command of the CLI, as the audit log records it."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # containers run under user ids that have no name
        user = str(os.getuid())
    return Caller(Principal(f"cli:{user}"), client="fleetshell", tool=command)


def record(home: Home, config: Config, event: str, command: str, **fields: Any) -> None:
    """Write one durable record of what a command of the CLI is about to change.

    Raises:
        AuditUnavailable: It can't be written, so nothing may be changed.
    """
    caller = cli_caller(command)
    audit = open_audit(home, config)
    try:
        audit.record(
            event, durable=True, principal=caller.principal.key_id, client=caller.client, tool=command, **fields
        )
    finally:
        audit.close()


@contextlib.contextmanager
def recorder(home: Home, config: Config, command: str) -> Iterator[Callable[..., object]]:
    """What writes durable records of a command of the CLI that has several things to record."""
    caller = cli_caller(command)
    audit = open_audit(home, config)
    try:
        yield partial(audit.record, durable=True, principal=caller.principal.key_id, client=caller.client, tool=command)
    finally:
        audit.close()


def marketplace(home: Home) -> Marketplace:
    """What installs external MCP servers into a home."""
    return Marketplace(home, PackageManagers())


def try_mcp(home: Home, mcp: Mcp, smoke: tuple[str, Mapping[str, Any]] | None) -> Trial:
    """Start an external MCP server beside the relay, list its tools, make a harmless call, and stop it.

    Raises:
        FleetShellError: It can't be started, or does not speak MCP.
    """
    return try_once(mcp, home, smoke)


def public_line(home: Home, config: Config) -> str:
    """The relay's line for `authorized_keys`."""
    return keys.public_line(home.file(config.relay.private_key))


def line_of(private: Path) -> str:
    """The line for `authorized_keys` of a private key."""
    return keys.public_line(private)


def forget_server(home: Home, server_id: str) -> None:
    """Remove a server's pins, what was learned of it, and its notes."""
    HostKeys(home, home.run).forget(server_id)
    Learned(home.run / "facts").forget(server_id)
    NoteStore(home.notes).forget(server_id)


def create_relay_key(private: Path) -> None:
    """Make the relay's SSH key pair."""
    keys.create(private)


def create_certificate(cert: Path, key: Path, hostnames: list[str]) -> x509.Facts:
    """Make a self-signed certificate for these names and this machine's own."""
    return tls.create(cert, key, hostnames)


def read_certificate(cert: Path, key: Path | None = None) -> x509.Facts:
    """What a certificate says; with `key`, having checked that the two can be served together.

    Raises:
        ConfigError: Missing, no certificate, or another key's.
    """
    certificate = tls.read(cert)
    if key is not None:
        tls.server_context(cert, key)
    return certificate


def is_self_signed(cert: Path) -> bool:
    """Whether a certificate that `read_certificate` accepts is its own issuer, so that clients need a copy of it."""
    return tls.read(cert).self_signed


def confirm(home: Home, config: Config, code: str) -> None:
    """Check a fresh code of the operator, and use it up.

    Raises:
        AuthenticationFailed: Wrong, already used, or locked out; the sentence says which.
    """
    Authenticator(config, auth_state(home)).confirm(code)


def auth_state(home: Home) -> AuthState:
    """Lock-outs and used codes, by key."""
    return AuthState(home.auth_state)


def key_id(config: Config) -> str:
    """The digest that names the API key in logs."""
    return auth.key_id(config.relay.http.auth.api_key)


digest_of_key = auth.key_id
