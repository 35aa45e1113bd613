"""Who we are on a connection: everything that decides it, the socket's name made from that, and ssh's configuration.

`%C` would not do as a socket name: it leaves out the credential, so a second key for the same host would ride on the
connection of the first (seen on OpenSSH 9.2).
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from fleetshell_tools.core.config import Config
from fleetshell_tools.core.errors import ConfigError
from fleetshell_tools.core.home import Home
from fleetshell_tools.core.servers import Inventory, Server


@dataclass(frozen=True)
class Identity:
    """One distinct way to log in somewhere; `name` is its control socket's name inside `run/`."""

    server_id: str
    hostname: str
    port: int
    name: str
    config: str
    connect_timeout: int
    jump: Identity | None

    @property
    def address(self) -> str:
        """What limits on connection starts count by."""
        return f"{self.jump.name if self.jump else ''}>{self.hostname}:{self.port}"


@dataclass(frozen=True)
class _Known:
    """An identity, and what it was made from: the same server object, jump and key file give the same one again."""

    server: Server
    jump: Identity | None
    key: Path
    stamp: tuple[int, ...]
    identity: Identity


class Identities:
    """Makes identities from the configuration and the inventory.

    Args:
        folder: ssh's working folder, where the sockets are.
    """

    def __init__(self, home: Home, folder: Path, config: Config, inventory: Inventory) -> None:
        self._home = home
        self._folder = folder
        self._config = config
        self._inventory = inventory
        self._known: dict[str, _Known] = {}

    def of(self, server: Server) -> Identity:
        """The identity for a server, its jump servers' included.

        Raises:
            ConfigError: The key is missing, or a jump server can't be used.
        """
        hop = self._inventory.jump(server)
        jump = self.of(hop) if hop else None
        known = self._known.get(server.id)
        if known and known.server is server and known.jump is jump and known.stamp == _stamp(known.key):
            return known.identity
        identity, key = self._make(server, jump)
        self._known[server.id] = _Known(server, jump, key, _stamp(key), identity)
        return identity

    def _make(self, server: Server, jump: Identity | None) -> tuple[Identity, Path]:
        key = self._home.file(server.identity_file or self._config.relay.private_key)
        settings = self._settings(server, key, jump)
        digest = hashlib.sha256()
        for part in (settings, _key_digest(key, server), jump.name if jump else ""):
            digest.update(part.encode() + b"\0")
        name = f"m{digest.hexdigest()[:20]}"
        identity = Identity(
            server_id=server.id,
            hostname=server.hostname.strip("[]"),
            port=self._inventory.port(server),
            name=name,
            config=settings,
            connect_timeout=server.connect_timeout or self._config.ssh.connect_timeout,
            jump=jump,
        )
        return identity, key

    def _settings(self, server: Server, key: Path, jump: Identity | None) -> str:
        """ssh's configuration for a server; ours come first because ssh keeps the first value of an option."""
        ssh = self._config.ssh
        user = self._inventory.user(server)
        lines = {
            "HostName": server.hostname.strip("[]"),
            "Port": str(self._inventory.port(server)),
            **({"User": user} if user else {}),
            "HostKeyAlias": server.id,
            "UserKnownHostsFile": self._path(self._home.known_hosts),
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "CheckHostIP": "no",
            "UpdateHostKeys": "no",
            "VerifyHostKeyDNS": "no",
            "IdentityFile": self._path(key),
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "BatchMode": "yes",
            "ForwardAgent": "no",
            "ForwardX11": "no",
            "ClearAllForwardings": "yes",
            "PermitLocalCommand": "no",
            "RequestTTY": "no",
            "ControlPersist": str(ssh.idle_seconds),
            "ServerAliveInterval": str(ssh.alive_interval),
            "ServerAliveCountMax": "3",
            "ConnectTimeout": str(server.connect_timeout or ssh.connect_timeout),
            "ConnectionAttempts": "1",
            "LogLevel": "ERROR",
        }
        if jump:
            # The jump goes through the jump server's own master: `-J` would drop our key, pins and BatchMode.
            # The socket's name is ours (letters and digits), so that nothing here needs quoting for the shell.
            lines["ProxyCommand"] = (
                f"ssh -F /dev/null -S {jump.name} -o ControlMaster=no -o ProxyCommand=false -W [%h]:%p jump"
            )
        text = "Host *\n" + "".join(f"  {name} {value}\n" for name, value in lines.items())
        return text + "".join(f"  {name} {value}\n" for name, value in server.ssh_options.items())

    def _path(self, path: Path) -> str:
        """A path as ssh's configuration takes it: relative to ssh's working folder; `%` and `${` would be expanded."""
        text = str(path)
        if path.is_relative_to(self._home.path):
            text = os.path.relpath(path, self._folder)
        if '"' in text or "${" in text or any(ord(ch) < 32 for ch in text):
            raise ConfigError(
                f"ssh can't take the path {path!s}: it holds a quote, `${{` or a control character. Use another path."
            )
        return '"' + text.replace("\\", "\\\\").replace("%", "%%") + '"'


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes when a file's content does; () where it can't be looked at."""
    try:
        info = os.stat(path)
    except OSError:
        return ()
    return (info.st_mtime_ns, info.st_ctime_ns, info.st_size, info.st_ino)


def _key_digest(key: Path, server: Server) -> str:
    try:
        return hashlib.sha256(key.read_bytes()).hexdigest()
    except FileNotFoundError:
        hint = "identity_file of its file" if server.identity_file else "`fleetshell init` makes one"
        raise ConfigError(f"The key {key} for {server.id} does not exist ({hint}).") from None
    except OSError as error:
        raise ConfigError(f"The key {key} for {server.id} can't be read: {error.strerror}.") from None
