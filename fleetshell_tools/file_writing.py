"""Writing files on a server: `write_file` creates, replaces, or replaces a unique string in, a file."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass
from typing import Annotated, Literal

from fleetshell_tools.core import file_text, file_write
from fleetshell_tools.core.context import Context
from fleetshell_tools.core.errors import BadArgument, FleetShellError, Refused
from fleetshell_tools.core.host_files import READABLE, Found, found, on_host, path_text, unfit
from fleetshell_tools.core.scripts import Ran, Script
from fleetshell_tools.core.servers import Server
from fleetshell_tools.core.text import clean, one_line
from fleetshell_tools.core.tool import Output, Pattern, tool

EDITED = 1 << 20
"""The largest file, in bytes, in which a string is replaced."""

_SECONDS = 60
_LINKS = 3
"""How often a path may turn out to be another one, which is judged anew, before we give up."""

_WHOLE = r"""
state
[ "$kind" = file ] && [ -r "$path" ] || exit 1
size=$(size "$path")
part size
echo "size=$size"
[ "${size:-0}" -le "$1" ] || exit 1
part whole
cat "$path"
"""


@dataclass(frozen=True)
class FileWritten(Output):
    server_id: str
    path: str
    created: bool
    changed: bool
    size_bytes: int
    sha256: str
    sha256_before: str | None
    size_before: int | None
    backup: str | None
    lines_added: int | None
    lines_removed: int | None
    mode: str | None
    owner: str | None
    target: str | None
    notice: str | None = None

    def text(self) -> str:
        name = one_line(self.target or self.path, 300)
        did = (
            "created" if self.created else "written" if self.changed else "not written, its content is the same already"
        )
        lines = [f"{name} on {self.server_id}: {did} ({self.size_bytes:,} bytes)", f"sha256 {self.sha256}"]
        if self.sha256_before and self.changed:
            lines.append(f"before: {self.size_before:,} bytes, sha256 {self.sha256_before}")
        if self.lines_added is not None:
            lines.append(f"{self.lines_added} lines added, {self.lines_removed} removed")
        if self.backup:
            lines.append(f"backup: {one_line(self.backup, 400)}")
        return "\n".join([*lines, *([self.notice] if self.notice else [])])


@tool(title="Write a file", destructive=True)
def write_file(
    ctx: Context,
    server_id: Annotated[str, "From list_servers"],
    path: Annotated[str, "Absolute, or relative to the login's home"],
    content: Annotated[str | None, "The whole new content; not with mode edit"] = None,
    mode: Annotated[
        Literal["create", "replace", "edit"], "create fails where the file exists; edit replaces old_text by new_text"
    ] = "create",
    old_text: Annotated[str | None, "With edit: text that stands once in the file"] = None,
    new_text: Annotated[str | None, "With edit: what takes its place"] = None,
    expected_sha256: Annotated[
        str | None, "Write only if the file still has this digest", Pattern("[0-9a-fA-F]{64}", "64 hexadecimal digits")
    ] = None,
    make_parents: Annotated[bool, "Make missing folders"] = False,
    file_mode: Annotated[str | None, "Mode of a new file, such as 0640", Pattern("0?[0-7]{3}", "an octal mode")] = None,
    approval_id: Annotated[str | None, "From the operator, where one was asked for"] = None,
) -> FileWritten:
    """Create, replace or edit a text file. Atomic; owner and mode stay, and the old file is kept as a backup beside it."""
    server = ctx.inventory.get(server_id)
    if path.endswith(("/", "/.", "/..")) or path in (".", "..", "~"):
        raise BadArgument(f"The argument `path` is {one_line(path)!r}, a folder; give the path of a file.")
    notices: list[str] = []
    if mode == "edit":
        if content is not None or not old_text or new_text is None:
            raise BadArgument("Mode edit takes `old_text` (not empty) and `new_text`, and no `content`.")
        data, expected = _edited(ctx, server, path, old_text, new_text, expected_sha256, notices)
    else:
        if content is None or old_text is not None or new_text is not None:
            raise BadArgument(f"Mode {mode} takes `content`, and neither `old_text` nor `new_text`.")
        data, expected = _bytes(content, "content", "utf-8"), (expected_sha256 or "").lower()
    writing = _Writing(server, mode, data, expected, make_parents, file_mode or "")
    at_path = path
    for _ in range(_LINKS):
        ran = ctx.fleet.run_script(
            ctx.caller,
            server,
            writing.script(at_path),
            timeout=_SECONDS,
            cancelled=ctx.cancelled,
            approval_id=approval_id,
        )
        at = found(ran)
        if why := file_write.failure(server, at_path, at, ran):
            raise why
        if "full" not in ran.parts:
            return writing.result(path, at_path, at, ran, notices)
        # The guard judges the file that will be written, not a link to it.
        at_path = _exact(ran.part("full"))
    raise FleetShellError(
        f"{one_line(path, 300)} on {server.id} leads elsewhere at each look; write to the file itself."
    )


def _bytes(text: str, name: str, encoding: str) -> bytes:
    try:
        return text.encode(encoding)
    except UnicodeEncodeError as error:
        raise BadArgument(
            f"Character {error.start + 1} of `{name}` ({text[error.start : error.start + 1]!r}) can't be written as {encoding}."
        ) from None


def _exact(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        shown = one_line(path_text(raw), 300)
        raise BadArgument(
            f"The path leads to {shown}, whose name is not UTF-8; write to it with execute_command."
        ) from None


def _edited(
    ctx: Context, server: Server, path: str, old: str, new: str, expected: str | None, notices: list[str]
) -> tuple[bytes, str]:
    """The file with `old` replaced, and the digest that it must still have when it is written."""
    script = on_host(
        "write_file", _WHOLE, path, str(EDITED), enough=READABLE, shown=f"{one_line(path, 300)} (read for edit)"
    )
    ran = ctx.fleet.run_script(ctx.caller, server, script, timeout=_SECONDS, cancelled=ctx.cancelled, keep=4 * EDITED)
    at, name = found(ran), one_line(path, 300)
    if why := unfit(server, path, at, ran, "file"):
        raise why
    whole = ran.part("whole")
    if "whole" not in ran.parts or not ran.complete:
        size = ran.fields("size").get("size") or "?"
        raise BadArgument(
            f"{name} on {server.id} has {size} bytes; edit takes at most {EDITED:,}. Use sed by execute_command."
        )
    digest = hashlib.sha256(whole).hexdigest()
    if expected is not None and expected.lower() != digest:
        raise Refused(
            f"{name} on {server.id} is not what was expected: its sha256 is {digest}. Read it again, then edit."
        )
    encoding = file_text.recognise(whole[:512], whole).encoding
    if encoding == "binary":
        raise BadArgument(f"{name} on {server.id} is a binary file, which edit does not change.")
    codec = "utf-8" if encoding == "utf-8-sig" else encoding
    if "\r" not in old + new and file_text.shown(file_text.decoded(whole, encoding)).newline == "crlf":
        old, new = old.replace("\n", "\r\n"), new.replace("\n", "\r\n")
        notices.append("Its lines end in CRLF, and those of new_text were made so.")
    before, after = _bytes(old, "old_text", codec), _bytes(new, "new_text", codec)
    count = _count(whole, before)
    if count != 1:
        where = f"stands {count} times in" if count else "does not stand in"
        advice = (
            "Give more of the text around it." if count else "Read the file again: spaces, tabs and line ends count."
        )
        raise BadArgument(f"`old_text` {where} {name} on {server.id}; it must stand there once. {advice}")
    if encoding not in ("utf-8", "utf-8-sig"):
        notices.append(f"The file is {encoding}, and stays so.")
    return whole.replace(before, after), digest


def _count(whole: bytes, text: bytes) -> int:
    """How often a text occurs, overlapping ones counted: `aa` stands twice in `aaa`."""
    count, at = 0, whole.find(text)
    while at >= 0:
        count, at = count + 1, whole.find(text, at + 1)
    return count


@dataclass(frozen=True)
class _Writing:
    server: Server
    mode: str
    data: bytes
    expected: str
    make_parents: bool
    file_mode: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def script(self, path: str) -> Script:
        """The program, with what the guard and the audit log see of it: never the content."""
        home = "~/" if path.startswith("~/") else ""
        judged = f"cat > {home}{shlex.quote(path.removeprefix(home))}"
        shown = f"{shlex.quote(path)} {self.mode} size={len(self.data)} sha256={self.digest}"
        data = (
            self.mode, "1" if self.make_parents else "", self.digest, str(len(self.data)), self.expected, self.file_mode, str(file_write.COMPARED),
            "1" if path.startswith("~") else "",
        )  # fmt: skip
        plain = on_host("write_file", file_write.CODE, path, *data, enough=file_write.ENOUGH, shown=shown)
        return Script(plain.name, plain.text, plain.data, self.data, judged, plain.shown)

    def result(self, path: str, written: str, at: Found, ran: Ran, notices: list[str]) -> FileWritten:
        old, after, diff = ran.fields("old"), ran.fields("done"), ran.fields("diff")
        created, changed = at.kind != "file", "same" not in ran.parts
        links = int(old.get("links") or 1)
        if links > 1 and changed:
            notices.append(f"It had {links} hard links; the others keep the old content.")
        if self.file_mode and not created:
            notices.append("file_mode is for new files; the mode was kept.")
        if path != written:
            notices.append(f"The path leads to {one_line(written, 300)}, which was written.")
        return FileWritten(
            server_id=self.server.id, path=path, created=created, changed=changed, size_bytes=len(self.data), sha256=self.digest,
            sha256_before=old.get("sha256") or None, size_before=_number(old.get("size")),
            backup=clean(path_text(ran.part("saved"))) or None, lines_added=_number(diff.get("added")),
            lines_removed=_number(diff.get("removed")), mode=after.get("mode", "").zfill(4) if after.get("mode") else None,
            owner=f"{after['owner']}:{after.get('group', '')}" if after.get("owner") else None,
            target=clean(written) if path != written else None, notice=" ".join(notices) or None,
        )  # fmt: skip


def _number(text: str | None) -> int | None:
    return int(text) if text and text.strip().isdigit() else None
