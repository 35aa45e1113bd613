"""The end of a log, and what came after it: cursors that survive rotation, and the programs that read from them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass, replace

from fleetshell_tools.core.errors import BadArgument, FleetShellError
from fleetshell_tools.core.log_journal import FIELDS, JOURNAL, entries
from fleetshell_tools.core.log_source import ACCESS, CLOCK, Source, line
from fleetshell_tools.core.scripts import Ran, Script

WINDOW = 512 << 10
"""The most bytes that one call reads of a file."""
KEEP = 2 << 20
_SECONDS = 20
_MARKED = 256

_FILE = r"""
path=$1 lines=$2 inode=$3 offset=$4 marked=$5 mark=$6 window=$7 since=ever seconds=0
""" + (
    CLOCK
    + ACCESS
    + r"""
sum() {
  if has cksum; then head -c "$1" | cksum | { read -r sum rest; printf '%s\n' "$sum"; }
  else head -c "$1" | md5sum | { read -r sum rest; printf '%s\n' "$((0x${sum%????????????????????????}))"; }; fi
}
marks_of() { case $1 in *.gz) from "$1" 1 | gzip -dc 2>/dev/null | sum "$2" ;; *) from "$1" 1 | sum "$2" ;; esac; }
size_of() { about "$1" | { read -r mtime size rest; printf '%s\n' "$size"; }; }
inode_of() { about "$1" | { read -r mtime size inode rest; printf '%s\n' "$inode"; }; }
rest_of() { case $f in *.gz) from "$f" 1 | gzip -dc | tail -c "+$(($1 + 1))" ;; *) from "$f" $(($1 + 1)) ;; esac; }
case $path in -*) path=./$path ;; esac
set -- "$path"
if [ -z "$mark" ] && [ ! -e "$path" ] && [ ! -L "$path" ]; then
  case $path in *[*?[]*)
    IFS=; set -- $path; unset IFS
    newest=
    for f do
      [ ! -f "$f" ] || [ -n "$newest" ] && [ ! "$f" -nt "$newest" ] || newest=$f
    done
    set -- "${newest:-$path}" ;;
  esac
fi
path=$1
look "$path"
case $state in ok | unreadable) stats=$(about "$path") ;; *) stats= ;; esac
part files; printf '1\t%s\t%s\t%s\000' "$state" "$stats" "$path"
size=0
if [ $state = ok ]; then
  size=${stats#* }; size=${size%% *} new=${stats#* * }; new=${new%% *}
fi
start=0 same=
if [ -n "$mark" ]; then
  if [ $state = ok ] && [ "$new" = "$inode" ] && [ "$size" -ge "$offset" ]; then
    [ "$(marks_of "$path" "$marked")" != "$mark" ] || same=1
  fi
  if [ -n "$same" ]; then start=$offset
  else
    now_reader=$reader now_state=$state old= any=
    for o in "$path".[0-9]* "$path"-[0-9]*; do
      [ -f "$o" ] || continue
      look "$o"; [ $state = ok ] || continue
      [ "$(marks_of "$o" "$marked")" = "$mark" ] || continue
      if [ "$marked" = 0 ] && [ "$(inode_of "$o")" != "$inode" ]; then continue; fi
      case $o in *.gz) ;; *) [ "$(size_of "$o")" -ge "$offset" ] || continue ;; esac
      old=$o; break
    done
    part rotated
    if [ -n "$old" ]; then
      for o in "$path".[0-9]* "$path"-[0-9]*; do
        [ ! -f "$o" ] || [ ! "$o" -nt "$old" ] || any="$any $o"
      done
      printf '%s\n' "$old"; part between; printf '%s\n' "$any"
      look "$old"; f=$old; part old; rest_of "$offset" | head -c "$window"
    fi
    reader=$now_reader state=$now_state
  fi
elif [ "$size" -gt "$window" ]; then start=$((size - window))
fi
[ $state = ok ] || exit 0
f=$path
count=$((size - start)); [ $count -le "$window" ] || count=$window
marked=256; [ "$size" -ge 256 ] || marked=$size
part place; printf '%s %s %s %s %s\n' "$new" "$size" "$start" "$marked" "$(marks_of "$f" "$marked")"
part new
if [ -n "$mark" ]; then from "$f" $((start + 1)) | head -c $count
else from "$f" $((start + 1)) | head -c $count | tail -n $((lines + 2)); fi
"""
)

_JOURNAL = r"""
unit=$1 lines=$2 cursor=$3 limit=$4 since=ever seconds=0
[ -n "$timeout" ] || limit=
""" + (
    CLOCK
    + JOURNAL
    + rf"""
set -- "$@" -o json --output-fields={FIELDS}
part json
if [ -n "$cursor" ]; then entries "$@" "--after-cursor=$cursor" | head -n $((lines + 1))
else entries "$@" -n "$lines"; fi
"""
)


@dataclass(frozen=True)
class Place:
    """How far a log was read: a file by inode, byte offset and a checksum of its first `marked` bytes; a journal by cursor."""

    inode: int = 0
    offset: int = 0
    marked: int = 0
    mark: str = ""
    journal: str = ""

    def cursor(self, server_id: str, source: Source) -> str:
        """It as the text that a client hands back."""
        digest = _digest(server_id, source)
        if self.journal:
            return f"j.{digest}.{base64.urlsafe_b64encode(self.journal.encode()).decode().rstrip('=')}"
        return f"f.{digest}.{self.inode}.{self.offset}.{self.marked}.{self.mark}"


def _digest(server_id: str, source: Source) -> str:
    what = "\0".join([server_id, source.path, source.unit])
    return hashlib.sha256(what.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def read_cursor(text: str, server_id: str, source: Source) -> Place:
    """What a cursor means for a source.

    Raises:
        BadArgument: It is none, or that of another source.
    """
    match = re.fullmatch(r"f\.(\w{8})\.(\d{1,20})\.(\d{1,16})\.(\d{1,3})\.(\d{1,10})|j\.(\w{8})\.([\w-]{1,700})", text)
    if match is None:
        raise BadArgument(
            f"The cursor {text[:60]!r} is none of tail_logs; leave it out to start at the end of the log."
        )
    if (match[1] or match[6]) != _digest(server_id, source) or bool(match[1]) != bool(source.path):
        raise BadArgument(
            f"The cursor {text[:60]!r} belongs to another server or source than {source.label} on {server_id}. "
            "Use it with the server_id and the `source` of the answer that it came with, or leave it out."
        )
    if match[1]:
        return Place(int(match[2]), int(match[3]), int(match[4]), match[5])
    try:
        journal = base64.urlsafe_b64decode(match[7] + "=" * (-len(match[7]) % 4)).decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        journal = ""
    if not re.fullmatch(r"[a-z]=[0-9a-f]+(?:;[a-z]=[0-9a-f]+)*", journal):
        raise BadArgument(f"The cursor {text[:60]!r} is damaged; leave it out to start at the end of the journal.")
    return Place(journal=journal)


def file_script(path: str, lines: int, place: Place | None) -> Script:
    """The program that reads a file's end, or what came after a place."""
    where = ("", "", "", "") if place is None else (str(place.inode), str(place.offset), str(place.marked), place.mark)
    return Script("tail_logs", _FILE, (path, str(lines), *where, str(WINDOW)), shown=repr(path))


def journal_script(unit: str, lines: int, place: Place | None) -> Script:
    """The program that reads a journal's end, or what came after a place."""
    data = (unit, str(lines), place.journal if place else "", str(_SECONDS))
    return Script("tail_logs", _JOURNAL, data, shown=f"unit {unit}")


@dataclass(frozen=True)
class Tail:
    """Lines of a file, and the place after them.

    Attributes:
        partial: What stands after the last newline; not among the lines, and the place is before it.
        more: Bytes after the place that can be asked for now.
        cut: Whether older lines that were asked for did not fit.
    """

    lines: list[str]
    place: Place | None
    partial: str = ""
    more: int = 0
    cut: bool = False
    notices: tuple[str, ...] = ()


def end_of_file(ran: Ran, most: int, budget: int) -> Tail:
    """The last lines of a file, at most `most` and about `budget` bytes of them."""
    place, start = _place(ran)
    if place is None:
        if ran.part("new"):
            raise FleetShellError(
                "This host has neither cksum nor md5sum, by which tail_logs knows a file again. Use read_file with a negative offset."
            )
        return Tail([], None)
    *whole, rest = ran.part("new").split(b"\n")
    wanted = whole[-most:]
    torn = start > 0 and len(whole) <= most
    if torn and wanted:
        wanted = wanted[1:]
    lines, fits = _fitting([line(item) for item in reversed(wanted)], budget)
    notices = ["Older lines were left out: the end of the file that one call reads was at its limit."] if torn else []
    return Tail(
        lines[::-1], replace(place, offset=place.offset - len(rest)), line(rest) if rest else "", 0, not fits or torn,
        tuple(notices),
    )  # fmt: skip


def after(ran: Ran, place: Place, most: int, budget: int) -> Tail:
    """The lines after a place, from a rotated file first; at most `most` and about `budget` bytes of them."""
    now, start = _place(ran)
    notices = []
    if "rotated" not in ran.parts and now is not None:
        return _forward(ran.part("new"), replace(now, offset=start), now.offset, most, budget)
    size = now.offset if now else 0
    fresh = replace(now, offset=0) if now else None
    if "old" not in ran.parts:
        notices.append(
            "The file was rotated or replaced, and its former content was not found: lines between the cursor and that "
            "moment may be missing here; look in its rotated files with search_logs."
        )
        if fresh is None:
            return Tail([], place, notices=("The file is gone, and no rotated one continues it.",))
        return _with(_forward(ran.part("new"), fresh, size, most, budget), notices)
    old = ran.part("old")
    name = ran.text("rotated").strip()
    notices.append(f"The file was rotated; its former content went on in {name}.")
    if between := ran.text("between").strip():
        notices.append(f"It was rotated more than once: read {between} too.")
    tail = _forward(old, place, place.offset + len(old), most, budget)
    # A writer goes on in the old file until it opens the new one, so the place stays there while the new one is empty.
    if tail.more or not size or fresh is None or len(old) >= WINDOW:
        return _with(tail, notices)
    lines = tail.lines + ([tail.partial] if tail.partial else [])
    spent = sum(len(item.encode("utf-8", "replace")) + 6 for item in lines)
    if len(lines) >= most:
        return Tail(lines, fresh, more=size, notices=tuple(notices))
    rest = _forward(ran.part("new"), fresh, size, most - len(lines), max(budget - spent, 0))
    return _with(replace(rest, lines=lines + rest.lines), notices)


def of_journal(ran: Ran, place: Place | None, most: int, budget: int) -> Tail:
    """The entries of a journal: the last ones, or with a place the first that came after it."""
    found = entries(ran.part("json"))
    if place is None:
        lines, fits = _fitting([entry.dated for entry in reversed(found)], budget)
        return Tail(lines[::-1], Place(journal=found[-1].cursor) if found else None, cut=not fits)
    lines, _ = _fitting([entry.dated for entry in found[:most]], budget)
    if lines:
        place = Place(journal=found[len(lines) - 1].cursor)
    return Tail(lines, place, more=len(found) - len(lines))


def path_of(ran: Ran) -> str:
    """The path that was read, as the host has it; "" where it is not UTF-8."""
    fields = ran.part("files").rstrip(b"\0").split(b"\t", 3)
    try:
        return fields[3].decode() if len(fields) == 4 else ""
    except UnicodeDecodeError:
        return ""


def _with(tail: Tail, notices: list[str]) -> Tail:
    return replace(tail, notices=(*notices, *tail.notices))


def _forward(raw: bytes, place: Place, size: int, most: int, budget: int) -> Tail:
    """The first whole lines of `raw`, which begins at `place`, in a file of `size` bytes."""
    *whole, rest = raw.split(b"\n")
    if not whole and len(rest) >= WINDOW:
        whole, rest = [rest], b""
        notices: tuple[str, ...] = ("A line is longer than what one call reads; it comes in pieces.",)
        lines = [line(whole[0])]
        done = len(whole[0])
    else:
        notices = ()
        lines, _ = _fitting([line(item) for item in whole[:most]], budget)
        done = sum(len(item) + 1 for item in whole[: len(lines)])
    offset = place.offset + done
    finished = place.offset + len(raw) == size and len(lines) == len(whole)
    return Tail(
        lines, replace(place, offset=offset), line(rest) if finished and rest else "",
        0 if finished else size - offset, False, notices,
    )  # fmt: skip


def _place(ran: Ran) -> tuple[Place | None, int]:
    """The place at the end of the file, and where `new` began."""
    words = ran.text("place").split()
    if len(words) < 5 or not all(word.isdigit() for word in words[:5]):
        return None, 0
    inode, size, start, marked = map(int, words[:4])
    return Place(inode, size, marked, words[4]), start


def _fitting(lines: list[str], budget: int) -> tuple[list[str], bool]:
    """The first lines that fit, but at least one, and whether all do."""
    left = budget
    for index, item in enumerate(lines):
        left -= len(item.encode("utf-8", "replace")) + 6
        if left < 0 and index:
            return lines[:index], False
    return lines, True
