"""Files on a server: `read_file`, `search_files` and `get_file_info`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fleetshell_tools.core import file_info, file_search, file_text
from fleetshell_tools.core.context import Context
from fleetshell_tools.core.errors import BadArgument, FleetShellError
from fleetshell_tools.core.host_files import READABLE, Found, found, on_host, unfit
from fleetshell_tools.core.scripts import Ran
from fleetshell_tools.core.servers import Server
from fleetshell_tools.core.text import clean, one_line
from fleetshell_tools.core.tool import Output, Range, tool

LINES = 300
BYTES = 12_000
"""What one call reads unless told otherwise: about 3,000 tokens."""

HASHED = 64 << 20
"""The largest file, in bytes, of which sha256 and the number of lines are told."""

_UTF16_BYTES = 256 << 10
"""How much of a UTF-16 file is read to find lines in it: the host's tools know lines of single bytes only."""

_SECONDS = 30
_SEARCH_SECONDS = 20

_READ = r"""
how=$1 from=$2 count=$3 most=$4 hashed=$5
state
[ "$kind" = file ] && [ -r "$path" ] || exit 1
part head
head -c 512 "$path"
part window
case $how in
  lines) tail -n "+$from" "$path" | head -n "$count" | head -c "$most" ;;
  last) tail -n "$from" "$path" | head -n "$count" | head -c "$most" ;;
  *) dd if="$path" bs=4096 skip=$((from / 4096)) count=$((most / 4096 + 2)) 2>/dev/null |
    tail -c "+$((from % 4096 + 1))" | head -c "$most" ;;
esac
size=$(size "$path")
part size
echo "size=$size"
if [ "${size:-0}" -le "$hashed" ]; then
  echo "ends=$(wc -l <"$path")"
  [ "$(tail -c 1 "$path" | wc -l)" -gt 0 ] || echo unended=1
  part digest
  digest <"$path"
fi
"""


@dataclass(frozen=True)
class FileContent(Output):
    server_id: str
    path: str
    content: str
    size_bytes: int | None
    sha256: str | None
    truncated: bool
    encoding: str
    newline: str | None
    first_line: int | None
    last_line: int | None
    total_lines: int | None
    next_offset: int | None
    next_byte: int | None
    target: str | None
    notice: str | None = None

    def text(self) -> str:
        size = "size unknown" if self.size_bytes is None else f"{self.size_bytes:,} bytes"
        parts = [size, self.encoding, *(["CRLF line ends"] if self.newline == "crlf" else [])]
        if self.first_line is not None:
            of = f" of {self.total_lines}" if self.total_lines is not None else ""
            parts.insert(0, f"lines {self.first_line} to {self.last_line}{of}")
        link = f" -> {one_line(self.target)}" if self.target else ""
        lines = [f"{one_line(self.path)}{link} on {self.server_id}: {', '.join(parts)}"]
        if self.sha256:
            lines.append(f"sha256 {self.sha256}")
        if self.content:
            lines += ["", self.content.rstrip("\r\n")]
        return "\n".join([*lines, *(["", self.notice] if self.notice else [])])


@dataclass(frozen=True)
class FileMatches(Output):
    server_id: str
    path: str
    matches: list[dict[str, Any]]
    count: int
    truncated: bool
    unreadable: int
    notice: str | None = None

    def text(self) -> str:
        shown = f" ({len(self.matches)} shown)" if len(self.matches) < self.count else ""
        lines = [
            f"Found {self.count} {'match' if self.count == 1 else 'matches'}{shown} under {one_line(self.path)} on {self.server_id}"
        ]
        for match in self.matches:
            size = f"{match['size_bytes']:>12,}" if match["type"] == "file" else f"{match['type']:>12}"
            lines.append(f"{match['modified']} {size} {one_line(match['path'], 1000)}")
        return "\n".join([*lines, *([self.notice] if self.notice else [])])


@dataclass(frozen=True)
class FileInfo(Output):
    server_id: str
    path: str
    exists: bool
    type: str | None
    size_bytes: int | None
    mode: str | None
    permissions: str | None
    owner: str | None
    group: str | None
    modified: str | None
    accessed: str | None
    target: str | None
    resolved: str | None
    hard_links: int | None
    acl: bool | None
    attributes: list[str]
    selinux: str | None
    nearest_parent: str | None
    notice: str | None = None

    def text(self) -> str:
        name = f"{one_line(self.path)} on {self.server_id}"
        notice = [self.notice] if self.notice else []
        if not self.exists:
            return "\n".join([f"{name} does not exist", *notice])
        link = f" -> {one_line(self.target)}" if self.target else ""
        facts = [
            f"{self.type}, {self.size_bytes:,} bytes" if self.size_bytes is not None else f"{self.type}",
            f"mode {self.mode} {self.permissions}" if self.mode else "mode unknown",
            f"owner {self.owner}:{self.group}",
            f"modified {self.modified}, accessed {self.accessed}",
            *([f"{self.hard_links} hard links"] if (self.hard_links or 1) > 1 and self.type == "file" else []),
            *([f"SELinux {self.selinux}"] if self.selinux else []),
            *self.attributes,
        ]
        return "\n".join([f"{name}{link}: {facts[0]}", *facts[1:], *notice])


@tool(title="Read a file", read_only=True)
def read_file(
    ctx: Context,
    server_id: Annotated[str, "From list_servers"],
    path: Annotated[str, "Absolute, or relative to the login's home"],
    offset: Annotated[int, "First line, from 1; -20 means the last 20 lines", Range(-(10**9), 10**12)] = 1,
    limit: Annotated[int | None, "Most lines; default 300", Range(1, 10**6)] = None,
    byte_offset: Annotated[int | None, "First byte, from 0, in place of a line", Range(0, 10**15)] = None,
    max_bytes: Annotated[int | None, "Most bytes; default 12000", Range(16, 10**6)] = None,
) -> FileContent:
    """Read a part of a text file, with the whole file's size and sha256. Binary files are described."""
    server = ctx.inventory.get(server_id)
    most = min(max_bytes or BYTES, ctx.config.security.max_output_bytes)
    if byte_offset is not None:
        how, start, count = "bytes", byte_offset, 10**9
    else:
        how, start = ("last", -offset) if offset < 0 else ("lines", max(offset, 1))
        count = limit or (10**9 if max_bytes else LINES)

    def run(how: str, start: int, most: int) -> tuple[Ran, Found]:
        data = (how, str(start), str(count + 1), str(most), str(HASHED))
        script = on_host("read_file", _READ, path, *data, enough=READABLE, shown=f"{one_line(path, 300)} {how} {start}")
        ran = ctx.fleet.run_script(ctx.caller, server, script, timeout=_SECONDS, cancelled=ctx.cancelled)
        return ran, _readable(server, path, ran)

    # Four more bytes tell whether there is more, and hold a character that would be torn.
    ran, at = run(how, start, most + 4)
    what = file_text.recognise(ran.part("head"), ran.part("window"))
    reading = _Reading(server, path, at, ran, what, most, count)
    if what.encoding == "binary":
        return reading.binary()
    if what.encoding.startswith("utf-16") and how != "bytes":
        size = reading.size or 0
        begin = max(size - _UTF16_BYTES, 0) // 2 * 2 if how == "last" else 0
        ran, at = run("bytes", begin, _UTF16_BYTES)
        return _Reading(server, path, at, ran, what, most, count).wide_lines(offset, begin)
    return reading.bytes(start) if how == "bytes" else reading.lines(offset)


def _readable(server: Server, path: str, ran: Ran) -> Found:
    at = found(ran)
    if why := unfit(server, path, at, ran, "file"):
        raise why
    if "window" not in ran.parts:
        raise FleetShellError(f"{one_line(path, 300)} on {server.id} could not be read: {one_line(ran.stderr, 300)}.")
    return at


class _Reading:
    """One look at a file, and what becomes of it."""

    def __init__(
        self, server: Server, path: str, at: Found, ran: Ran, what: file_text.Recognised, most: int, count: int
    ) -> None:
        self.server, self.path, self.at, self.ran, self.what = server, path, at, ran, what
        self.most, self.count = most, count
        self.window = ran.part("window")
        fields = ran.fields("size")
        size, ends = fields.get("size", ""), fields.get("ends", "").strip()
        self.size = int(size) if size.isdigit() else None
        self.notices: list[str] = []
        if self.size == 0 and self.window:
            self.size = None
            self.notices.append("The kernel makes this file while it is read, so it has no size.")
        self.ends = int(ends) if ends.isdigit() and self.size else None
        digest = ran.text("digest")[:64]
        self.sha256 = digest if len(digest) == 64 and self.size is not None else None
        if self.sha256 is None and self.size is not None:
            large = (
                f"the file is larger than {HASHED >> 20} MiB"
                if self.size > HASHED
                else "the host has no program for it"
            )
            self.notices.append(f"No sha256: {large}.")

    def binary(self) -> FileContent:
        first = self.ran.part("head")[:32].hex(" ")
        self.notices.insert(0, f"Binary file, not shown: {self.what.format}. First bytes: {first}.")
        return self._content("", truncated=bool(self.size))

    def bytes(self, start: int) -> FileContent:
        data, wide = self.window[: self.most], self.what.encoding.startswith("utf-16")
        more = len(self.window) > self.most
        skipped = 0
        if wide:
            skipped = start % 2
            data = data[skipped:]
            data = data[: len(data) // 2 * 2]
        elif self.what.encoding.startswith("utf-8"):
            skipped = file_text.leading(data) if start else 0
            data = data[skipped:]
            data = data[: len(data) - (file_text.torn(data) if more else 0)] or data
        # A line's end is not torn either: who reads on must find it whole.
        end = b"\r\0" if self.what.encoding == "utf-16-le" else b"\0\r" if wide else b"\r"
        if more and data.endswith(end):
            data = data.removesuffix(end) or data
        end_at = start + skipped + len(data)
        if more:
            self.notices.append(f"There is more: read on with byte_offset {end_at}.")
        elif not data and start:
            self.notices.append("The file ends before this byte.")
        return self._content(
            file_text.decoded(data, self.what.encoding), truncated=more or start > 0, next_byte=end_at if more else None
        )

    def lines(self, offset: int) -> FileContent:
        window = file_text.lines_window(self.window, self.count, self.most)
        total = self._total()
        first: int | None = max(offset, 1)
        if offset < 0:
            first = max(total + offset, 0) + 1 if total is not None else None
        next_byte = None
        if window.inside:
            next_byte = len(window.data) if first == 1 else None
            at = f"byte_offset {next_byte}" if next_byte else "byte_offset"
            self.notices.append(f"The line goes on: it is longer than {self.most:,} bytes. Read on with {at}.")
        if not window.lines and offset > 1 and (self.size or self.window):
            of = f": it has {total}" if total is not None else ""
            self.notices.append(f"The file has no line {offset}{of}.")
        last = first + window.lines - 1 if first is not None and window.lines else None
        return self._content(
            file_text.decoded(window.data, self.what.encoding), first=first if window.lines else None, last=last, total=total,
            more=window.more and not window.inside, truncated=window.more or window.inside or (first or 2) > 1, next_byte=next_byte,
        )  # fmt: skip

    def wide_lines(self, offset: int, begin: int) -> FileContent:
        """Lines of UTF-16, found here."""
        whole = self.window[: len(self.window) // 2 * 2]
        text = file_text.decoded(whole, self.what.encoding)
        part, first, lines, more = file_text.text_window(text, offset, self.count, self.most)
        known = begin == 0
        cut = self.size is not None and begin + len(whole) < self.size
        if cut or not known:
            self.notices.append(
                f"Lines of UTF-16 are looked for in {_UTF16_BYTES >> 10} KiB only; use byte_offset for the rest."
            )
        total = None if cut or not known else len(file_text.text_window(text, 1, 10**9, 1 << 30)[0].splitlines())
        return self._content(
            part, first=first if known and lines else None, last=first + lines - 1 if known and lines else None, total=total,
            more=more, truncated=more or cut or not known or first > 1,
        )  # fmt: skip

    def _total(self) -> int | None:
        """How many lines the file has: the host counted their ends, and what follows the last end is one more."""
        if self.ends is None or not self.size:
            return 0 if self.size == 0 else None
        return self.ends + (1 if "unended" in self.ran.fields("size") else 0)

    def _content(
        self, text: str, *, truncated: bool, first: int | None = None, last: int | None = None, total: int | None = None,
        more: bool = False, next_byte: int | None = None,
    ) -> FileContent:  # fmt: skip
        shown = file_text.shown(text)
        following = last + 1 if more and last is not None else None
        notices = list(self.notices)
        if more:
            notices.append(f"There is more: read on with offset {following}." if following else "There is more.")
        if shown.newline in ("crlf", "mixed"):
            notices.append("Its lines end in CRLF." if shown.newline == "crlf" else "Some of its lines end in CRLF.")
        if shown.removed:
            notices.append(f"{shown.removed:,} control or invisible characters are not shown as they are.")
        if shown.replaced:
            notices.append(
                f"{shown.replaced:,} bytes are not {self.what.encoding}, and shown as \N{REPLACEMENT CHARACTER}."
            )
        if self.at.link is not None:
            notices.append("The path is a symbolic link.")
        return FileContent(
            server_id=self.server.id, path=self.path, content=shown.text, size_bytes=self.size, sha256=self.sha256, truncated=truncated,
            encoding=self.what.encoding, newline=shown.newline, first_line=first, last_line=last, total_lines=total,
            next_offset=following, next_byte=next_byte, target=None if self.at.link is None else clean(self.at.link),
            notice=" ".join(notices) or None,
        )  # fmt: skip


@tool(title="Find files", read_only=True)
def search_files(
    ctx: Context,
    server_id: Annotated[str, "From list_servers"],
    path: Annotated[str, "Folder to look in"],
    pattern: Annotated[str, "Glob for the name: *.conf; with a slash for the end of the path: conf.d/*.conf"],
    type: Annotated[Literal["file", "directory", "any"], "What to find"] = "any",
    max_depth: Annotated[int | None, "1 means the folder's own entries", Range(1, 1000)] = None,
    max_results: Annotated[int, "Most matches to show", Range(1, 1000)] = 50,
    content: Annotated[str | None, "Extended regular expression that a file must contain"] = None,
    cross_file_systems: Annotated[bool, "Go into mounted file systems too (never /proc, /sys, /dev)"] = False,
) -> FileMatches:
    """Find files and folders by name under a folder, on its own file system, and optionally by content."""
    server = ctx.inventory.get(server_id)
    if content is not None and type == "directory":
        raise BadArgument("The argument `content` is about files, and `type` is directory; leave one of them out.")
    wanted = file_search.Wanted(pattern, type, max_depth, content, cross_file_systems, _SEARCH_SECONDS)
    script = on_host(
        "search_files", file_search.CODE, path, *wanted.data(), enough=file_search.ENOUGH, shown=wanted.label(path)
    )
    ran = ctx.fleet.run_script(ctx.caller, server, script, timeout=_SEARCH_SECONDS + 10, cancelled=ctx.cancelled)
    at = found(ran)
    if why := unfit(server, path, at, ran, "directory"):
        raise why
    result = file_search.results(ran, wanted, max_results, ctx.config.security.max_output_bytes)
    return FileMatches(
        server.id, path, result.matches, result.count, result.truncated, result.unreadable, result.notice
    )


@tool(title="Show a file's metadata", read_only=True)
def get_file_info(
    ctx: Context,
    server_id: Annotated[str, "From list_servers"],
    path: Annotated[str, "Absolute, or relative to the login's home"],
) -> FileInfo:
    """Show a file's or folder's type, size, mode, owner, times, link target, ACL; or that it does not exist."""
    server = ctx.inventory.get(server_id)
    script = on_host("get_file_info", file_info.CODE, path, enough=file_info.ENOUGH)
    ran = ctx.fleet.run_script(ctx.caller, server, script, timeout=_SECONDS, cancelled=ctx.cancelled)
    at = found(ran)
    if at.kind == "missing" and at.barred:
        why = unfit(server, path, at, ran, "file")
        assert why is not None
        raise why
    return FileInfo(server_id=server.id, path=path, **file_info.fields(ran, at))
