"""Who we are on a connection: everything that decides it, the socket's name made from that, and ssh's configuration.

`%C` would not do as a socket name: it leaves out the credential, so a second key for the same host would ride on the
connection of the first (seen on OpenSSH 9.2).
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from fleetshell_tools.core.config import Config
from fleetshell_tools.core.errors import ConfigError
from fleetshell_tools.core.home import Home
from fleetshell_tools.core.servers import Inventory, Server
from fleetshell_tools.fleet.keys import require
from fleetshell_tools.fleet.mux.local import LOCAL
from fleetshell_tools.fleet.transport import environment

USER_CONFIG = Path("~/.ssh/config")


@dataclass(frozen=True)
class Identity:
    """One distinct way to log in somewhere; `name` is its control socket's name inside `run/`.

    `target` is the host as ssh is told it. `raw` hosts have no POSIX shell.
    """

    server_id: str
    hostname: str
    port: int
    name: str
    config: str
    connect_timeout: int
    jump: Identity | None
    target: str = ""
    raw: bool = False

    @property
    def local(self) -> bool:
        """Whether it is this machine, without ssh."""
        return self.name == LOCAL

    @property
    def address(self) -> str:
        """What limits on connection starts count by."""
        return f"{self.jump.name if self.jump else ''}>{self.hostname}:{self.port}"


@dataclass(frozen=True)
class _Known:
    """An identity, and what it was made from: the same server object, jump and files give the same one again."""

    server: Server
    jump: Identity | None
    files: tuple[Path, ...]
    stamps: tuple[tuple[int, ...], ...]
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
        if known and known.server is server and known.jump is jump and known.stamps == _stamps(known.files):
            return known.identity
        identity, files = self._local(server) if server.connection == "local" else self._make(server, jump)
        self._known[server.id] = _Known(server, jump, files, _stamps(files), identity)
        return identity

    def glance(self, server: Server) -> Identity:
        """As `of`, but without a look at the key files where the identity is known; for showing, not for connecting."""
        known = self._known.get(server.id)
        return known.identity if known and known.server is server else self.of(server)

    def _local(self, server: Server) -> tuple[Identity, tuple[Path, ...]]:
        if not self._config.security.allow_local:
            raise ConfigError(
                f"{server.id} is the relay's own machine (`connection: local`), which needs `security.allow_local: true` in config.yaml."
            )
        return Identity(server.id, server.hostname, 0, LOCAL, "", 0, None), ()

    def _make(self, server: Server, jump: Identity | None) -> tuple[Identity, tuple[Path, ...]]:
        files: tuple[Path, ...] = (self._home.file(server.identity_file or self._config.relay.private_key),)
        settings = self._settings(server, files[0], jump)
        said = ""
        if server.use_ssh_config:
            said, more = self._of_user(server, settings)
            files += more
        digest = hashlib.sha256()
        for part in (settings, _key_digest(files[0], server), jump.name if jump else "", said):
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
            target=server.use_ssh_config or server.id,
            raw=server.raw,
        )
        return identity, files

    def _of_user(self, server: Server, settings: str) -> tuple[str, tuple[Path, ...]]:
        """What the user's ssh configuration makes of an alias, the content of the keys that it names included; and these files."""
        config = USER_CONFIG.expanduser()
        if not config.is_file():
            raise ConfigError(
                f"{server.id} uses the alias {server.use_ssh_config} of {config}, but there is no such file."
            )
        asked = subprocess.run(
            [require("ssh"), "-F", "/dev/stdin", "-G", "--", server.use_ssh_config or ""], cwd=self._folder, input=settings,
            capture_output=True, text=True, errors="replace", env=environment(),
        )  # fmt: skip
        if asked.returncode != 0:
            raise ConfigError(f"ssh can't read {config} for {server.id}: {asked.stderr.strip()}")
        keys = tuple(
            self._folder / os.path.expanduser(path)
            for path in re.findall(r"^identityfile (.+)$", asked.stdout, re.MULTILINE)
        )
        digests = "".join(hashlib.sha256(key.read_bytes()).hexdigest() for key in keys if key.is_file())
        return asked.stdout + digests, (config, *keys)

    def _settings(self, server: Server, key: Path, jump: Identity | None) -> str:
        """ssh's configuration for a server; ours come first because ssh keeps the first value of an option."""
        ssh = self._config.ssh
        alias = server.use_ssh_config
        # What an alias sets of these holds, but for what the server's own file says.
        user = server.ssh_user if alias else self._inventory.user(server)
        port = server.ssh_port if alias else self._inventory.port(server)
        host = {
            **({} if alias else {"HostName": server.hostname.strip("[]")}),
            **({"Port": str(port)} if port else {}),
            **({"User": user} if user else {}),
            "HostKeyAlias": server.id,
            "UserKnownHostsFile": self._path(self._home.known_hosts),
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
        }
        if jump:
            # The jump goes through the jump server's own master: `-J` would drop our key, pins and BatchMode.
            # The socket's name is ours (letters and digits), so that nothing here needs quoting for the shell.
            host["ProxyCommand"] = (
                f"ssh -F /dev/null -S {jump.name} -o ControlMaster=no -o ProxyCommand=false -W [%h]:%p jump"
            )
        everywhere = {
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
            "RemoteCommand": "none",
            "RequestTTY": "no",
            "ControlPersist": str(ssh.idle_seconds),
            "ServerAliveInterval": str(ssh.alive_interval),
            "ServerAliveCountMax": "3",
            "ConnectTimeout": str(server.connect_timeout or ssh.connect_timeout),
            "ConnectionAttempts": "1",
            "LogLevel": "ERROR",
        }
        # A jump host of the user's own configuration reads this file too: host keys and login name are not meant for it.
        text = _block(alias or "*", host) + _block("*", everywhere)
        text += "".join(f"  {name} {value}\n" for name, value in server.ssh_options.items())
        return text + (f"Host *\n  Include {self._path(USER_CONFIG.expanduser())}\n" if alias else "")

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


def _block(pattern: str, settings: dict[str, str]) -> str:
    return f"Host {pattern}\n" + "".join(f"  {name} {value}\n" for name, value in settings.items())


def _stamps(files: tuple[Path, ...]) -> tuple[tuple[int, ...], ...]:
    return tuple(_stamp(path) for path in files)


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
