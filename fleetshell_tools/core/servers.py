"""The inventory: `servers/<id>.conf`, one YAML file a server; a bad file disables that server alone."""

from __future__ import annotations

import ipaddress
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleetshell_tools.core import schema, storage, yamlfile
from fleetshell_tools.core.config import SERVER_ID, USER_NAME, Defaults
from fleetshell_tools.core.errors import BadArgument, ConfigError, FleetShellError, NotFound
from fleetshell_tools.core.schema import option
from fleetshell_tools.core.words import nearest

_ADDRESS = r"[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9._-]{1,15})?"
HOSTNAME = rf"(?=.{{1,253}}$)[A-Za-z0-9_][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_][A-Za-z0-9_-]*)*\.?|(?=[^:]*:){_ADDRESS}|\[(?=[^:]*:){_ADDRESS}\]"
SETTLING_NS = 1_000_000_000
"""How long after a change a file's times may stay the same at another change: the clock of a file system is coarse."""
ALIAS = r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,127}"
_OPTION_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]{1,40}")

OWNED_OPTIONS = frozenset(
    name.lower()
    for name in (
        "BatchMode CanonicalizeHostname CheckHostIP ClearAllForwardings ConnectionAttempts ConnectTimeout ControlMaster ControlPath "
        "ControlPersist DynamicForward ExitOnForwardFailure ForkAfterAuthentication ForwardAgent ForwardX11 ForwardX11Trusted GatewayPorts "
        "GlobalKnownHostsFile Host HostKeyAlias Hostname IdentitiesOnly IdentityAgent IdentityFile IdentityFile2 Include KnownHostsCommand "
        "LocalCommand LocalForward Match PermitLocalCommand PermitRemoteOpen PKCS11Provider Port ProxyCommand ProxyJump "
        "ProxyUseFdpass RemoteCommand RemoteForward RequestTTY SecurityKeyProvider SendEnv ServerAliveCountMax ServerAliveInterval "
        "SessionType SmartcardDevice StdinNull StrictHostKeyChecking Tunnel TunnelDevice UpdateHostKeys User UserKnownHostsFile "
        "VerifyHostKeyDNS XAuthLocation"
    ).split()
)
"""ssh options that a server's file may not set: our engine owns them, or they would load programs or open forwardings."""

SECTIONS = ("services", "paths", "troubleshooting", "monitoring")
"""Keys that may stand at the top of a server's file or under `context`."""

POLICIES = ("normal", "read_only", "allow_list")

OWN_KEYS = {
    "connecttimeout": "the key `connect_timeout` of this file",
    "hostname": "the key `hostname` of this file",
    "identityfile": "the key `identity_file` of this file",
    "port": "the key `ssh_port` of this file",
    "proxyjump": "the key `jump` of this file",
    "serveraliveinterval": "`ssh.alive_interval` in config.yaml",
    "user": "the key `ssh_user` of this file",
}
"""What does the same as a refused ssh option."""


@dataclass(frozen=True)
class Server:
    """One server as its file describes it; `context` and its four neighbours are free-form data for people and models."""

    id: str = option(
        doc="The server's id, the same as the file's name.",
        pattern=SERVER_ID,
        means="letters, digits, `.`, `_`, `-`, at most 64",
    )
    hostname: str = option(doc="Host name or address.", pattern=HOSTNAME, means="a host name or an IP address")
    ssh_user: str | None = option(None, "Login user.", pattern=USER_NAME, means="a user name")
    ssh_port: int | None = option(None, "SSH port.", low=1, high=65535)
    tags: tuple[str, ...] = option((), "Words to select servers by.")
    context: dict[str, Any] = option(
        factory=dict, doc="What a person or a model should know: description, purpose, environment, …"
    )
    services: dict[str, Any] = option(
        factory=dict, doc="Services of this server: description, log_path, config_path, port, critical, …"
    )
    paths: dict[str, Any] = option(factory=dict, doc="Important paths.")
    troubleshooting: dict[str, Any] = option(factory=dict, doc="Named commands for checks.")
    monitoring: dict[str, Any] = option(factory=dict, doc="What to watch.")
    jump: str | None = option(None, "The id of the server to jump through.", pattern=SERVER_ID, means="a server's id")
    ssh_options: dict[str, str] = option(factory=dict, doc="More ssh options, but those that FleetShell sets itself.")
    identity_file: str | None = option(None, "Another private key than the relay's.")
    connect_timeout: int | None = option(None, "Seconds to wait for a connection.", low=1, high=300)
    use_ssh_config: str | None = option(
        None,
        "An alias of your ~/.ssh/config: its HostName and what else it sets hold where this file says nothing; `hostname` is only shown.",
        pattern=ALIAS,
        means="a host alias without patterns",
    )
    connection: str = option(
        "ssh",
        "How to reach it; `local` is the relay's own machine and needs security.allow_local.",
        choices=("ssh", "local"),
    )
    raw: bool = option(
        False, "No POSIX shell there (network gear): commands are sent as they are, and may outlive a time-out."
    )

    sudo: bool = option(
        False, "The tools that need root use `sudo -n` there; execute_command runs what it is given, without."
    )
    policy: str | None = option(
        None,
        "What may run there: all that the guard lets pass, only what is known to read, or only what `allowed_commands` lists.",
        choices=POLICIES,
    )
    allowed_commands: tuple[str, ...] = option(
        (), "Of the policy `allow_list`: the beginnings of command lines, word for word."
    )

    @property
    def environment(self) -> str:
        return str(self.context.get("environment") or "")

    @property
    def purpose(self) -> str:
        return str(self.context.get("purpose") or self.context.get("description") or "")

    def section(self, name: str) -> dict[str, Any]:
        """`services`, `paths`, `troubleshooting` or `monitoring`, from the top of the file or from under `context`."""
        inner = self.context.get(name)
        merged = dict(inner) if isinstance(inner, dict) else {}
        merged.update(getattr(self, name))
        return merged


def parse(text: str, name: str, expected_id: str | None = None) -> Server:
    """Check the text of a server's file.

    Raises:
        ConfigError: With file name and line.
    """
    document = yamlfile.parse(text, name)
    server = schema.build(Server, document.data, document)
    if expected_id is not None and server.id != expected_id:
        raise document.error(
            ("id",), f'id is "{server.id}", but the file is named {expected_id}.conf; make both the same.'
        )
    for tag in server.tags:
        if not tag.strip() or len(tag) > 64:
            raise document.error(("tags",), f'the tag "{tag}" is empty or longer than 64 characters.')
    if ":" in server.hostname:
        try:
            ipaddress.IPv6Address(server.hostname.strip("[]"))
        except ValueError:
            raise document.error(
                ("hostname",), f'hostname is "{server.hostname}"; allowed: a host name or an IP address.'
            ) from None
    for name in SECTIONS:
        if not isinstance(server.context.get(name, {}) or {}, dict):
            raise document.error(("context", name), f"context.{name} must be a map of keys and values.")
    if server.jump == server.id:
        raise document.error(("jump",), "a server can't be its own jump server.")
    if server.allowed_commands and server.policy not in (None, "allow_list"):
        raise document.error(
            ("allowed_commands",),
            f"allowed_commands means nothing with `policy: {server.policy}`; set `policy: allow_list`.",
        )
    if server.connection == "local":
        for key in (
            "jump",
            "ssh_options",
            "ssh_user",
            "ssh_port",
            "identity_file",
            "connect_timeout",
            "use_ssh_config",
            "raw",
        ):
            if getattr(server, key):
                raise document.error(
                    (key,), f"{key} means nothing with `connection: local`, which uses no SSH; remove it."
                )
    for key, value in server.ssh_options.items():
        check_option(key, value, document)
    return server


def check_option(key: str, value: str, document: yamlfile.Document) -> None:
    """Refuse an ssh option that our engine owns, or that could not stand in an ssh configuration file."""
    at = ("ssh_options", key)
    if not _OPTION_NAME.fullmatch(key):
        raise document.error(at, f'"{key}" is not the name of an ssh option.')
    if key.lower() in OWNED_OPTIONS:
        instead = OWN_KEYS.get(key.lower())
        raise document.error(
            at,
            f"the ssh option {key} is set by FleetShell itself"
            + (f"; use {instead}." if instead else " and can't be changed here."),
        )
    if any(ord(ch) < 32 or ord(ch) == 127 for ch in value):
        raise document.error(at, f"the value of the ssh option {key} holds a control character.")


@dataclass
class _Entry:
    """One file as it was read; `settled` is False where it had changed so shortly before that its times may not show another change."""

    stamp: tuple[int, ...]
    server: Server | None
    problem: str = ""
    settled: bool = False


class Inventory:
    """All servers of a home, read again when a file has changed; safe to use from several threads.

    Args:
        folder: The `servers` folder.
        defaults: What server files start from.
    """

    def __init__(self, folder: Path, defaults: Defaults | None = None) -> None:
        self._folder = folder
        self.defaults = defaults or Defaults()
        self._entries: dict[str, _Entry] = {}

    def _refresh(self) -> dict[str, _Entry]:
        """All entries, files that have changed read again; reading needs no lock, and the last reader's entries stay."""
        try:
            scan = sorted(os.scandir(self._folder), key=lambda item: item.name)
        except FileNotFoundError:
            scan = []
        except OSError as error:
            raise ConfigError(f"{self._folder} can't be read: {error.strerror}.") from None
        found: dict[str, _Entry] = {}
        for item in scan:
            if not item.name.endswith(".conf") or item.name.startswith("."):
                continue
            try:
                info = item.stat(follow_symlinks=False)
            except FileNotFoundError:  # removed since the folder was listed
                continue
            name = item.name.removesuffix(".conf")
            found[name] = self._current(name, info)
        self._entries = found
        return found

    def _current(self, name: str, info: os.stat_result) -> _Entry:
        """The entry for a file, from memory where the file has not changed."""
        # The time of the last status change shows a chmod, and an edit whose mtime was set back.
        stamp = (info.st_mtime_ns, info.st_ctime_ns, info.st_size, info.st_ino)
        known = self._entries.get(name)
        if known and known.settled and known.stamp == stamp:
            return known
        settled = time.time_ns() - info.st_ctime_ns > SETTLING_NS
        entry = self._load(name, self.path(name), stamp)
        entry.settled = settled
        return entry

    def _entry(self, server_id: str) -> _Entry | None:
        """One entry, without a look at the other files."""
        if not re.fullmatch(SERVER_ID, server_id):
            return None
        try:
            entry = self._current(server_id, os.stat(self.path(server_id), follow_symlinks=False))
        except OSError:
            return None  # the whole inventory knows what is wrong with its folder
        self._entries[server_id] = entry
        return entry

    def _load(self, name: str, path: Path, stamp: tuple[int, ...]) -> _Entry:
        try:
            storage.check_private(path, folder=False)
            if not re.fullmatch(SERVER_ID, name):
                raise ConfigError(f"{path}: the file's name is no valid id (letters, digits, `.`, `_`, `-`).")
            return _Entry(stamp, parse(yamlfile.read_text(path), str(path), name))
        except OSError as error:
            return _Entry(stamp, None, f"{path} can't be read: {error.strerror}.")
        except FleetShellError as error:
            return _Entry(stamp, None, error.message)

    def part(self, permits: Callable[[str, Sequence[str]], bool]) -> Inventory:
        """The inventory without the servers that somebody may not use: to whoever has it, they do not exist.

        Args:
            permits: Says of an id and its tags whether the server is in it.
        """
        return _Part(self, permits)

    def all(self) -> list[Server]:
        """Every server whose file is good, by id."""
        return [entry.server for entry in self._refresh().values() if entry.server]

    def listing(self) -> tuple[list[Server], dict[str, str]]:
        """`all` and `problems` by a single look at the folder."""
        entries = self._refresh()
        good = [entry.server for entry in entries.values() if entry.server]
        return good, {name: entry.problem for name, entry in entries.items() if not entry.server}

    def generation(self) -> int:
        """A number that is another one after the servers have changed, for one process to compare."""
        return hash(tuple((name, entry.stamp) for name, entry in self._refresh().items() if entry.server))

    def problems(self) -> dict[str, str]:
        """Why a server is disabled, for each whose file is bad."""
        return {name: entry.problem for name, entry in self._refresh().items() if not entry.server}

    def ids(self) -> list[str]:
        return list(self._refresh())

    def get(self, server_id: str) -> Server:
        """One server by id.

        Raises:
            NotFound: Unknown; names near ids.
            ConfigError: Its file is bad.
        """
        entry = self._entry(server_id)
        if entry is None:
            entries = self._refresh()
            known = ", ".join(list(entries)[:10]) or "none yet; add one with `fleetshell add-server`"
            raise NotFound(
                f'There is no server "{server_id[:80]}".{nearest(server_id, entries)} Known servers: {known}'
                f"{' and more; see list_servers' if len(entries) > 10 else ''}."
            )
        if entry.server is None:
            raise ConfigError(f"The server {server_id} is disabled because its file is invalid: {entry.problem}")
        return entry.server

    def path(self, server_id: str) -> Path:
        return self._folder / f"{server_id}.conf"

    def user(self, server: Server) -> str | None:
        return server.ssh_user or self.defaults.ssh_user

    def port(self, server: Server) -> int:
        return server.ssh_port or self.defaults.ssh_port or 22

    def policy(self, server: Server) -> str:
        return server.policy or self.defaults.policy

    def jump_id(self, server: Server) -> str | None:
        """The id of the server to jump through, whether or not there is such a server."""
        return server.jump or (self.defaults.jump if server.id != self.defaults.jump else None)

    def jump(self, server: Server) -> Server | None:
        """The server to jump through.

        Raises:
            ConfigError: It does not exist, is disabled, or the jumps go round in a circle.
        """
        name = self.jump_id(server)
        if name is None or server.connection == "local":
            return None
        seen = [server.id]
        at: str | None = name
        while at is not None:
            if at in seen:
                raise ConfigError(
                    f"The jump servers go round in a circle: {' → '.join([*seen, at])}. Change `jump` in one of their files."
                )
            seen.append(at)
            try:
                hop = self.get(at)
            except FleetShellError as error:
                raise ConfigError(f"{server.id} jumps through {at}, which can't be used: {error.message}") from None
            at = self.jump_id(hop)
        return self.get(name)

    def select(self, server_ids: Sequence[str], tags: Sequence[str], environment: str | None) -> list[Server]:
        """Servers by ids, and by tags and environment: ids ∪ (every tag ∩ environment); `*` among the ids means all.

        Raises:
            BadArgument: No selector at all, or nothing matches.
            NotFound: An unknown id.
        """
        if not server_ids and not tags and not environment:
            raise BadArgument('Say which servers: server_ids, tags or environment (server_ids: ["*"] means all).')
        chosen = {server.id: server for server in self.all()} if "*" in server_ids else {}
        for name in server_ids:
            if name != "*":
                chosen.setdefault(name, self.get(name))
        if tags or environment:
            for server in self.matching(tags, environment):
                chosen.setdefault(server.id, server)
        if not chosen:
            words = [f"tags {', '.join(tags)}"] * bool(tags) + [f'environment "{environment}"'] * bool(environment)
            raise BadArgument(f"No server matches {' and '.join(words) or 'this'}. list_servers shows what there is.")
        return list(chosen.values())

    def matching(self, tags: Iterable[str], environment: str | None) -> list[Server]:
        """Servers that have every tag and that environment (case does not matter)."""
        wanted = {tag.lower() for tag in tags}
        return [
            server
            for server in self.all()
            if wanted <= {tag.lower() for tag in server.tags}
            and (not environment or server.environment.lower() == environment.lower())
        ]


class _Part(Inventory):
    """Whatever it answers comes from the two methods that it replaces, so that no other can forget to leave something out."""

    def __init__(self, whole: Inventory, permits: Callable[[str, Sequence[str]], bool]) -> None:
        super().__init__(whole._folder, whole.defaults)
        self._whole = whole
        self._permits = permits

    def _refresh(self) -> dict[str, _Entry]:
        return {name: entry for name, entry in self._whole._refresh().items() if self._shows(name, entry)}

    def _entry(self, server_id: str) -> _Entry | None:
        entry = self._whole._entry(server_id)
        return entry if entry and self._shows(server_id, entry) else None

    def _shows(self, name: str, entry: _Entry) -> bool:
        # Of a file that can't be read nobody knows the tags.
        return self._permits(name, entry.server.tags if entry.server else ())


def write(path: Path, server: dict[str, Any]) -> None:
    """Write a server's file from plain data; checked before, atomic."""
    text = yamlfile.dump(server)
    parse(text, str(path), path.stem)
    storage.write_atomic(path, text)
