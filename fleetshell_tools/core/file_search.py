"""Finding files on a host by name and content: the program around find(1), and what it printed as matches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fleetshell_tools.core.errors import BadArgument
from fleetshell_tools.core.host_files import iso, kind_of, path_text
from fleetshell_tools.core.scripts import Ran
from fleetshell_tools.core.text import clean, one_line

ENOUGH = "false"
"""As root where that can be had: the login would miss what it may not read."""

PRINTED = 256 << 10
"""Bytes of matches that are looked at; beyond them the search ends."""

# Matches are `size modified type path`, each ended by NUL. GNU find prints them itself; elsewhere a shell does by stat(1).
# The descriptors: 3 is the output, 4 the exit code of find; errors are counted on their way.
CODE = r"""
test=$1 pattern=$2 type=$3 depth=$4 content=$5 within=$6 seconds=$7 most=$8 locale=$9
state
[ "$kind" = directory ] && [ -r "$path" ] || exit 1
if [ "$content" != - ]; then
  content=${content#=}
  wrong=$(printf x | grep -E -e "$content" 2>&1 >/dev/null)
  if [ $? -gt 1 ]; then part wrong; printf '%s\n' "$wrong"; exit 0; fi
else content=
fi
# GNU timeout(1) ends what find has started too; busybox's holds the output open for a second longer than its command runs.
look_up() {
  if [ "$tools" = gnu ] && has timeout; then LC_ALL=$locale timeout "$seconds" find "$@"; return; fi
  LC_ALL=$locale find "$@" &
  find=$!
  (n=0; while [ $n -lt "$seconds" ]; do sleep 1; n=$((n + 1)); done; kill $find) >/dev/null 2>&1 3>&- 4>&- &
  watch=$!
  wait $find
  set -- $?
  kill $watch
  return "$1"
}
gnu=
case $(find --version 2>/dev/null) in *GNU*) gnu=1 ;; esac
set -- -H "$path"
[ "$depth" = - ] || set -- "$@" -maxdepth "$depth"
[ "$within" = - ] || set -- "$@" -xdev
set -- "$@" -mindepth 1 \( -path /proc -o -path /sys -o -path /dev \) -prune -o "$test" "$pattern"
[ "$type" = - ] || set -- "$@" -type "$type"
look='
content=$1; shift
for file do
  [ -z "$content" ] || grep -qE -e "$content" "$file" || continue
  facts=$(stat -c "%s %Y %f" "$file") || facts="- - -"
  printf "%s %s\0" "$facts" "$file"
done'
part matches
exec 3>&1
ended=$( {
  { {
    if [ -z "$gnu" ]; then set -- "$@" -exec sh -c "$look" sh "$content" {} +
    elif [ -z "$content" ]; then set -- "$@" -printf '%s %T@ %y %p\0'
    else set -- "$@" -exec grep -lZE -e "$content" {} +
    fi
    { look_up "$@"; echo "exit=$?" >&4; } |
      if [ -n "$gnu" ] && [ -n "$content" ]; then xargs -0 -r stat --printf '%s %Y %f %n\0'; else cat; fi
  } | head -c "$most" >&3; } 2>&1 |
    awk '/ermission denied/ { d++; next } { o++; if (o < 4) print "error=" $0 } END { print "denied=" d + 0 }'
} 4>&1)
part end
printf '%s\n' "$ended"
part mounts
cat /proc/mounts 2>/dev/null
"""

_PSEUDO = frozenset(
    "proc sysfs devtmpfs devpts cgroup cgroup2 securityfs debugfs tracefs mqueue hugetlbfs pstore bpf configfs fusectl autofs"
    " binfmt_misc rpc_pipefs nsfs efivarfs ramfs squashfs overlay".split()
)
_TYPES = {
    "f": "file",
    "d": "directory",
    "l": "link",
    "p": "fifo",
    "s": "socket",
    "b": "block_device",
    "c": "character_device",
}


@dataclass(frozen=True)
class Wanted:
    """What is looked for; see `search_files`. `seconds` is how long."""

    pattern: str
    type: str
    max_depth: int | None
    content: str | None
    cross: bool
    seconds: int

    def data(self) -> tuple[str, ...]:
        """The positional data of `CODE`.

        Raises:
            BadArgument: The pattern is empty.
        """
        name = self.pattern
        while name.startswith("**/"):
            name = name[3:]
        if not name:
            raise BadArgument("The argument `pattern` is empty; give a glob such as *.conf, or * for all.")
        test = "-name"
        if "/" in name:
            test, name = "-path", name if name.startswith("/") else f"*/{name}"
        kind = "f" if self.content is not None else {"file": "f", "directory": "d"}.get(self.type, "-")
        # With C a `?` is one byte; with UTF-8 some libraries match no name that is not UTF-8, so it is used only where it matters.
        locale = "C" if name.isascii() and "?" not in name and "[" not in name else "C.UTF-8"
        depth = "-" if self.max_depth is None else str(self.max_depth)
        content = "-" if self.content is None else f"={self.content}"
        within = "-" if self.cross else "1"
        return test, name, kind, depth, content, within, str(self.seconds), str(PRINTED), locale

    def label(self, path: str) -> str:
        """What the audit log shows."""
        inside = f" content {one_line(self.content, 120)}" if self.content is not None else ""
        return f"{one_line(path, 200)} {one_line(self.pattern, 120)}{inside}"


@dataclass(frozen=True)
class Results:
    """What was found: `count` of all, of which `matches` are shown; with `truncated` there may be more than either."""

    matches: list[dict[str, Any]]
    count: int
    truncated: bool
    unreadable: int
    notice: str | None


def results(ran: Ran, wanted: Wanted, most: int, budget: int) -> Results:
    """Take the program's output apart.

    Args:
        most: Matches to show.
        budget: Bytes that these may take.

    Raises:
        BadArgument: grep does not take the expression.
    """
    if "wrong" in ran.parts:
        why = one_line(ran.text("wrong").removeprefix("grep: "), 200)
        raise BadArgument(f"The argument `content` is no extended regular expression for the host's grep: {why}.")
    printed = ran.part("matches")
    *whole, rest = printed.split(b"\0")
    found = sorted((match for match in map(_match, whole) if match), key=lambda match: str(match["path"]))
    odd = sum(b"\n" in item or not _is_utf8(item) for item in whole)
    ended = ran.fields("end")
    denied = int(ended.get("denied") or 0)
    # timeout(1) ends with 124, or as the signal that it sent: 143.
    late = ended.get("exit") in ("124", "143")
    full = bool(rest) or len(printed) >= PRINTED or not ran.complete
    shown, size = [], 0
    for match in found[:most]:
        size += len(match["path"].encode()) + 90
        if size > budget:
            break
        shown.append(match)
    notices = _notices(ran, wanted, len(found), len(shown), late=late, full=full)
    if denied:
        notices.append(f"{denied:,} folders or files could not be read, so there may be more.")
    if odd:
        notices.append(f"{odd:,} names hold line breaks or bytes that are not UTF-8 (shown as \\xNN).")
    if error := ended.get("error"):
        notices.append(f"find said: {one_line(error, 200)}.")
    return Results(shown, len(found), late or full or len(shown) < len(found), denied, " ".join(notices) or None)


def _notices(ran: Ran, wanted: Wanted, count: int, shown: int, *, late: bool, full: bool) -> list[str]:
    notices = []
    if late:
        notices.append(
            f"The search was ended after {wanted.seconds} s; what is shown is what it had found. Search a smaller folder."
        )
    if full:
        notices.append(f"The search was ended at {count:,} matches; narrow it down.")
    elif shown < count:
        notices.append(f"{shown:,} of {count:,} matches are shown; raise max_results or narrow it down.")
    if not count and not any(mark in wanted.pattern for mark in "*?["):
        notices.append(
            f"A pattern without wildcards is a whole name; *{one_line(wanted.pattern, 60)}* finds it as a part."
        )
    if not wanted.cross and (others := _mounts(ran)):
        names = ", ".join(one_line(name, 80) for name in others[:5]) + (" …" if len(others) > 5 else "")
        notices.append(f"Not searched, being other file systems: {names} (cross_file_systems).")
    return notices


def _match(item: bytes) -> dict[str, Any] | None:
    try:
        size, modified, kind, path = item.split(b" ", 3)
    except ValueError:
        return None
    letter = kind.decode("ascii", "replace")
    if letter == "-":  # it was gone before it could be looked at
        return None
    known = _TYPES.get(letter, "other") if len(letter) == 1 else kind_of(_int(kind, 16) or 0)
    seconds = _int(modified.partition(b".")[0], 10)
    return {
        "path": clean(path_text(path)),
        "size_bytes": _int(size, 10),
        "modified": None if seconds is None else iso(seconds),
        "type": known,
    }


def _int(text: bytes, base: int) -> int | None:
    try:
        return int(text, base)
    except ValueError:
        return None


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _mounts(ran: Ran) -> list[str]:
    """Mounted file systems below the folder that hold files of their own; /proc/mounts has blanks in names as `\\040`."""
    start = path_text(ran.part("near")).rstrip("/")
    if not start.startswith("/") and start:
        return []
    found = []
    for line in ran.lines("mounts"):
        words = line.split(" ")
        if len(words) > 2 and words[2] not in _PSEUDO and words[1].startswith(start + "/") and words[1] != "/":
            name = words[1].replace("\\040", " ")
            if not name.startswith(("/proc", "/sys", "/dev")):
                found.append(name)
    return list(dict.fromkeys(found))
