"""External MCP servers as files: `mcps/<id>.conf`, one YAML file each; a bad file disables that server alone."""

from __future__ import annotations

import ipaddress
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fleetshell_tools.core import schema, storage, yamlfile
from fleetshell_tools.core.errors import BadArgument, ConfigError, FleetShellError, NotFound
from fleetshell_tools.core.schema import option
from fleetshell_tools.core.words import nearest

MCP_ID = r"(?!.*__)[a-z0-9][a-z0-9_-]{0,30}"
MCP_ID_MEANS = "a small letter or digit, then up to 30 small letters, digits, `-` or `_`, without `__`"
SETTLING_NS = 1_000_000_000
"""How long after a change a file's times may stay the same at another change: the clock of a file system is coarse."""
MAX_SECRET_BYTES = 65536
"""The most that `${file:…}` reads."""

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2
_REFERENCE = re.compile(r"\$\{(env|file):([^{}]*)\}")
_OWN_HEADERS = frozenset(
    "accept connection content-encoding content-length content-type cookie host last-event-id mcp-method mcp-name "
    "mcp-protocol-version mcp-session-id te transfer-encoding upgrade".split()
)


@dataclass(frozen=True)
class Mcp:
    """One external MCP server as its file describes it: a program that speaks MCP on stdio, or an HTTP endpoint."""

    id: str = option(doc="The server's id, the same as the file's name.", pattern=MCP_ID, means=MCP_ID_MEANS)
    name: str = option("", "Its name for people; the id where it is left out.")
    command: str | None = option(None, "The program to start.")
    args: tuple[str, ...] = option((), "The program's arguments.")
    env: dict[str, str] = option(
        factory=dict,
        doc="More environment variables; `${env:NAME}` and `${file:PATH}` stand for a variable of the relay's and a file's text.",
        secret=True,
    )
    url: str | None = option(None, "The endpoint of a remote server (streamable HTTP), in place of `command`.")
    headers: dict[str, str] = option(
        factory=dict, doc="Headers for every request to `url`; values as in `env`.", secret=True
    )
    enabled: bool = option(True, "Whether it may be used.")
    auto_start: bool = option(False, "Start it with the relay and keep it; else it starts at its first use.")
    description: str = option("", "What it is for.")
    tags: tuple[str, ...] = option((), "Words to find it by.")
    expose: str | tuple[str, ...] | None = option(
        None,
        "Which of its tools are listed directly: all, none or a list of names; left out, all if they fit the budget.",
    )
    timeout: int = option(120, "Seconds that one call may take.", low=1, high=86400)

    @property
    def title(self) -> str:
        return self.name or self.id

    @property
    def transport(self) -> str:
        return "http" if self.url else "stdio"


def parse(text: str, name: str, expected_id: str | None = None) -> Mcp:
    """Check the text of an external MCP server's file.

    Raises:
        ConfigError: With file name and line.
    """
    document = yamlfile.parse(text, name)
    mcp = schema.build(Mcp, document.data, document)
    if expected_id is not None and mcp.id != expected_id:
        raise document.error(
            ("id",), f'id is "{mcp.id}", but the file is named {expected_id}.conf; make both the same.'
        )
    if bool(mcp.command) == bool(mcp.url):
        raise document.error((), "give either `command` (a program) or `url` (a remote server), one of the two.")
    for key in ("args", "env") if mcp.url else ("headers",):
        if getattr(mcp, key):
            raise document.error((key,), f"{key} means nothing with `{'url' if mcp.url else 'command'}`; remove it.")
    if isinstance(mcp.expose, str) and mcp.expose not in ("all", "none"):
        raise document.error(
            ("expose",), f"expose is {schema.describe(mcp.expose)}; allowed: all, none, or a list of tool names."
        )
    if mcp.url:
        problem = url_problem(mcp.url)
        if problem:
            raise document.error(("url",), problem)
    _check_words(mcp, document)
    return mcp


def _check_words(mcp: Mcp, document: yamlfile.Document) -> None:
    for index, word in enumerate((mcp.command or "", *mcp.args)):
        if any(ord(ch) < 32 and ch not in "\t\n" for ch in word):
            raise document.error(
                ("args", index - 1) if index else ("command",), "a control character can't be part of a command."
            )
    for key, value in mcp.env.items():
        if not _ENV_NAME.fullmatch(key):
            raise document.error(("env", key), f'"{key}" is not the name of an environment variable.')
        _check_references(value, ("env", key), document)
    for key, value in mcp.headers.items():
        if not _HEADER_NAME.fullmatch(key) or key.lower() in _OWN_HEADERS:
            raise document.error(
                ("headers", key), f'"{key}" can\'t be set: it is no header name, or one that MCP itself uses.'
            )
        if any(ord(ch) < 32 or ord(ch) == 127 for ch in value):
            raise document.error(("headers", key), f"the value of the header {key} holds a control character.")
        _check_references(value, ("headers", key), document)


def _check_references(value: str, at: yamlfile.Path_, document: yamlfile.Document) -> None:
    for kind, name in _REFERENCE.findall(value):
        if not name or (kind == "env" and not _ENV_NAME.fullmatch(name)):
            raise document.error(at, f"${{{kind}:{name}}} names nothing; write ${{env:NAME}} or ${{file:PATH}}.")


def url_problem(url: str) -> str:
    """Why an address can't be an external server's, as a sentence; "" where it can."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return "url is no valid address; write it as https://host/path."
    if parts.scheme not in ("https", "http") or not host or any(ord(ch) <= 32 for ch in url):
        return "url is no valid address; write it as https://host/path."
    if "@" in parts.netloc:
        return "url holds a user name or a password; put credentials into `headers`."
    if parts.scheme == "http" and not is_loopback(host):
        return "url begins with http:// and goes to another machine, so everything would go in clear; use https://."
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ""
    return address_problem(str(address))


def is_loopback(host: str) -> bool:
    """Whether a host's name means this machine for certain."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def address_problem(address: str) -> str:
    """Why nothing may be sent to an address, as a sentence: link-local ones serve a cloud machine's credentials."""
    found = ipaddress.ip_address(address.partition("%")[0])
    found = getattr(found, "ipv4_mapped", None) or found
    if (
        found.is_link_local
        or found.is_unspecified
        or found.is_multicast
        or str(found) in ("fd00:ec2::254", "100.100.100.200")
    ):
        return f"{address} is a link-local or metadata address, where nothing may be sent."
    return ""


def resolved(mcp: Mcp, home: Path) -> tuple[dict[str, str], list[str]]:
    """The values of `env` (or of `headers`), with what they refer to put in its place.

    Args:
        home: FleetShell's home, of whose files only those under `mcps` may be referred to.

    Returns:
        The values, and those of them that no log may show.

    Raises:
        ConfigError: A variable is not set, a file can't be read; never says a value.
    """
    found: dict[str, str] = {}
    for key, value in (mcp.headers if mcp.url else mcp.env).items():
        where = f"{mcp.id}: {key}"
        found[key] = _REFERENCE.sub(lambda match, where=where: _referred(match[1], match[2], where, home), value)  # type: ignore[misc]
        if mcp.url and any(ord(ch) < 32 or ord(ch) == 127 for ch in found[key]):
            raise ConfigError(f"{mcp.id}: what {key} refers to holds a control character, which no header can hold.")
        if "\0" in found[key]:
            raise ConfigError(f"{mcp.id}: what {key} refers to holds a NUL character.")
    return found, [value for value in found.values() if len(value) >= 6]


def _referred(kind: str, name: str, where: str, home: Path) -> str:
    if kind == "env":
        value = os.environ.get(name)
        if value is None:
            raise ConfigError(f"{where} refers to the environment variable {name}, which the relay does not have.")
        return value
    path = Path(os.path.realpath(home / os.path.expanduser(name)))
    own = Path(os.path.realpath(home))
    if path.is_relative_to(own) and not path.is_relative_to(own / "mcps"):
        raise ConfigError(f"{where} refers to {path}, which is FleetShell's own; put secrets under {own / 'mcps'}.")
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_SECRET_BYTES + 1)
        if len(raw) > MAX_SECRET_BYTES:
            raise ConfigError(f"{where} refers to {path}, which is larger than {MAX_SECRET_BYTES // 1024} KiB.")
        return raw.decode().rstrip("\r\n")
    except OSError as error:
        raise ConfigError(f"{where} refers to {path}, which can't be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{where} refers to {path}, which is not UTF-8 text.") from None


@dataclass
class _Entry:
    """One file as it was read; `settled` is False where its times might not show another change yet."""

    stamp: tuple[int, ...]
    mcp: Mcp | None
    problem: str = ""
    settled: bool = False


class McpStore:
    """All external MCP servers of a home, read again when a file has changed; for threads at once.

    Args:
        folder: The `mcps` folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._entries: dict[str, _Entry] = {}

    def path(self, mcp_id: str) -> Path:
        return self._folder / f"{mcp_id}.conf"

    def listing(self) -> tuple[list[Mcp], dict[str, str]]:
        """Every server whose file is good, by id; and by id why another is disabled."""
        entries = self._refresh()
        good = [entry.mcp for entry in entries.values() if entry.mcp]
        return good, {name: entry.problem for name, entry in entries.items() if not entry.mcp}

    def generation(self) -> int:
        """A number that is another one after a file has changed, for one process to compare."""
        return hash(tuple((name, entry.stamp) for name, entry in self._refresh().items()))

    def get(self, mcp_id: str) -> Mcp:
        """One server by id.

        Raises:
            NotFound: Unknown; names a near id.
            ConfigError: Its file is bad.
        """
        entry = None
        if re.fullmatch(MCP_ID, mcp_id):
            try:
                entry = self._current(mcp_id, os.stat(self.path(mcp_id), follow_symlinks=False))
                self._entries[mcp_id] = entry
            except OSError:
                entry = None
        if entry is None:
            entries = self._refresh()
            known = ", ".join(list(entries)[:10]) or "none yet; add one with `fleetshell mcp add`"
            raise NotFound(
                f'There is no external MCP server "{mcp_id[:80]}".{nearest(mcp_id, entries)} Known: {known}.'
            )
        if entry.mcp is None:
            raise ConfigError(f"{mcp_id} is disabled because its file is invalid: {entry.problem}")
        return entry.mcp

    def write(self, values: Mapping[str, Any], *, replace: bool = False) -> Mcp:
        """Write the file of a server.

        Args:
            values: The keys of the file, `id` among them, in the order in which they are to stand.

        Raises:
            ConfigError: They are not valid.
            BadArgument: There is such a server already, and it is not to be replaced.
        """
        mcp_id = str(values.get("id", ""))
        if not re.fullmatch(MCP_ID, mcp_id):
            raise BadArgument(f'"{mcp_id[:80]}" can\'t be an id; allowed: {MCP_ID_MEANS}.')
        text = yamlfile.dump(values)
        mcp = parse(text, str(self.path(mcp_id)), mcp_id)
        with storage.locked(self._folder / ".lock"):
            if not replace and os.path.lexists(self.path(mcp_id)):
                raise BadArgument(
                    f'There is an external MCP server "{mcp_id}" already; remove it first, or choose another id.'
                )
            storage.write_atomic(self.path(mcp_id), text)
        return mcp

    def set_value(self, mcp_id: str, key: str, value: Any) -> Mcp:
        """Set one key of a server's file, such as `enabled`; comments and order stay.

        Raises:
            NotFound: There is no such server.
            ConfigError: The file is invalid before or would be after.
        """
        path = self.path(mcp_id)
        with storage.locked(self._folder / ".lock"):
            if not os.path.lexists(path):
                self.get(mcp_id)
            storage.check_private(path, folder=False)
            text = yamlfile.set_value(yamlfile.read_text(path), (key,), value, str(path))
            mcp = parse(text, str(path), mcp_id)
            storage.write_atomic(path, text)
        return mcp

    def remove(self, mcp_id: str) -> None:
        """Remove a server's file, a bad one too.

        Raises:
            NotFound: There is none.
        """
        with storage.locked(self._folder / ".lock"):
            if not re.fullmatch(MCP_ID, mcp_id) or not os.path.lexists(self.path(mcp_id)):
                self.get(mcp_id)
            self.path(mcp_id).unlink()
            storage.sync_folder(self._folder)

    def _refresh(self) -> dict[str, _Entry]:
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
        stamp = (info.st_mtime_ns, info.st_ctime_ns, info.st_size, info.st_ino)
        known = self._entries.get(name)
        if known and known.settled and known.stamp == stamp:
            return known
        settled = time.time_ns() - info.st_ctime_ns > SETTLING_NS
        entry = self._load(name, stamp)
        entry.settled = settled
        return entry

    def _load(self, name: str, stamp: tuple[int, ...]) -> _Entry:
        path = self.path(name)
        try:
            storage.check_private(path, folder=False)
            if not re.fullmatch(MCP_ID, name):
                raise ConfigError(f"{path}: the file's name is no valid id; allowed: {MCP_ID_MEANS}.")
            return _Entry(stamp, parse(yamlfile.read_text(path), str(path), name))
        except OSError as error:
            return _Entry(stamp, None, f"{path} can't be read: {error.strerror}.")
        except FleetShellError as error:
            return _Entry(stamp, None, error.message)
