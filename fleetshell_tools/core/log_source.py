"""Where log lines come from: a file (or glob) with its rotated neighbours, or a unit's journal; and what can't be read.

The shell texts here are pieces of programs for `core.scripts`. A program sets `path`, `since` and `seconds` (see `Since`) from
its data, then runs `CLOCK` and `FILES`, and finds the files to read, the newest first:

    for item in $order; do pick; eval "f=\\${$i}"; …content 1… ; done
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from fleetshell_tools.core.errors import BadArgument, FleetShellError, NotFound
from fleetshell_tools.core.scripts import Facts, Ran, sudo_refusal
from fleetshell_tools.core.servers import Server
from fleetshell_tools.core.text import decode, one_line
from fleetshell_tools.core.words import nearest

UNIT = re.compile(r"[A-Za-z0-9@._:\\][A-Za-z0-9@._:\\-]{0,254}")

LONGEST = 1000
"""The most bytes of a line that are shown."""

CLOCK = r"""
clock=$(date '+%s %z'); part clock; printf '%s\n' "$clock"
now=${clock% *} oldest=
case $since in
  ago) oldest=$((now - seconds)) ;;
  at) oldest=$seconds ;;
  local) h=${clock#* ?}; m=${h#??} h=${h%??}; h=${h#0} m=${m#0} oldest=$((h * 3600 + m * 60))
    case $clock in *-*) oldest=$((seconds + oldest)) ;; *) oldest=$((seconds - oldest)) ;; esac ;;
esac
"""
"""Prints the host's clock as the part `clock`, and sets `now` and `oldest` (empty where all there is was asked for)."""

ACCESS = r"""
as_root() {
  said=$(root tail -c 0 -- "$1" 2>&1) && return
  case $said in *sudo:*) printf '%s\n' "$said" >&2; sudo= ;; esac
  return 1
}
look() {
  state=ok reader=
  if [ -d "$1" ]; then state=folder
  elif [ -e "$1" ] && [ ! -f "$1" ]; then state=special
  elif [ -r "$1" ]; then :
  elif [ -n "$sudo" ] && as_root "$1"; then reader=root
  elif [ -e "$1" ]; then state=unreadable
  else
    state=missing d=$1
    while case $d in */*) d=${d%/*} ;; *) d=. ;; esac; [ -n "$d" ] && [ ! -e "$d" ]; do :; done
    [ -x "${d:-/}" ] || state=hidden
  fi
}
from() {
  if [ "$tools" = busybox ] && [ "$2" -gt 2000000000 ]; then  # beyond 2 GiB its tail fails
    $reader dd if="$1" bs=65536 skip=$((($2 - 1) / 65536)) 2>/dev/null | tail -c "+$((($2 - 1) % 65536 + 1))"
  else $reader tail -c "+$2" -- "$1"; fi
}
about() {
  case $stat in
    c) $reader stat -L -c '%Y %s %i %U:%G %a' -- "$1" ;;
    f) $reader stat -L -f '%m %z %i %Su:%Sg %Lp' -- "$1" ;;
    *) false ;;
  esac 2>/dev/null || { [ "$state" = ok ] && printf '0 %s 0 ? ?\n' $(from "$1" 1 | wc -c); }
}
content() {
  case $f in
    *.gz) from "$f" 1 | gzip -dc ;;
    *.xz) from "$f" 1 | xz -dc ;;
    *.bz2) from "$f" 1 | bzip2 -dc ;;
    *.zst) from "$f" 1 | zstd -dc ;;
    *) from "$f" "$1" ;;
  esac | head -c "$2" | tr -d '\000'
}
"""
"""`look FILE` sets `state` and `reader`; `about FILE` prints times, size, inode, owner, mode; `content START BYTES` prints `$f`
from a byte on (counted from 1; packed files always from their beginning), unpacked and without NULs."""

FILES = r"""
case $path in -*) path=./$path ;; esac
set -- "$path" "${path%/*}" "${path##*/}"
if [ -n "$sudo" ] && [ -d "$2" ] && { [ ! -r "$2" ] || [ ! -x "$2" ]; }; then
  set -- "$path" "$(root find "$2" -maxdepth 1 ! -type d \( -name "$3" ${oldest:+-o -name "$3.[0-9]*" -o -name "$3-[0-9]*"} \))"
  if [ -n "$2" ]; then IFS='
'; set -f; set -- $2; set +f; unset IFS
  else set -- "$path"; fi
else set -- "$path"; fi
if [ $# -gt 1 ] || [ -e "$path" ] || [ -L "$path" ]; then :
else case $path in *[*?[]*) IFS=; set -- $path; unset IFS ;; esac; fi
if [ -n "$oldest" ] && [ $# = 1 ]; then
  for f in "$1".[0-9]* "$1"-[0-9]*; do [ ! -f "$f" ] || set -- "$@" "$f"; done
fi
i=0 order=
for f do
  i=$((i + 1)) stats=
  [ $i -le 100 ] || { part more; printf '%s\n' $(($# - 100)); break; }
  look "$f"
  case $state in ok | unreadable) stats=$(about "$f") ;; esac
  if [ $state = ok ]; then
    mtime=${stats%% *} size=${stats#* }; size=${size%% *}
    if [ -n "$oldest" ] && [ "$mtime" != 0 ] && [ "$mtime" -lt "$oldest" ]; then state=older
    else
      case $f in
        *.gz) has gzip || state=packed ;; *.xz) has xz || state=packed ;;
        *.bz2) has bzip2 || state=packed ;; *.zst) has zstd || state=packed ;;
        *) last=1; [ "$size" -le 4096 ] || last=$((size - 4095))
          [ $(from "$f" $last | tr -dc '\000' | wc -c) = 0 ] || state=binary ;;
      esac
    fi
  fi
  [ $state != ok ] || order="$order $mtime:$i:$size:$reader"
  part files; printf '%s\t%s\t%s\t%s\000' $i "$state" "$stats" "$f"
done
order=$(printf '%s\n' $order | sort -t: -k1,1nr -k2,2n)
pick() { rest=${item#*:}; i=${rest%%:*} rest=${rest#*:}; size=${rest%%:*} reader=${rest#*:}; }
"""
"""Finds the files of `path`: a name first; where there is no such file, a glob. With `oldest`, the rotated ones too, but those
last written before it are `older`. In a folder that only root may look into, names with a newline are not found. Prints the part `files`, which `seen` reads, and sets `order` and `$1`, `$2`, …"""


@dataclass(frozen=True)
class Source:
    """One of a log file (or glob), `path`, or the journal of a `unit`."""

    path: str = ""
    unit: str = ""
    service: str = ""

    @property
    def label(self) -> str:
        """What the answer calls it."""
        return one_line(self.path, 300) if self.path else f"journal of {self.unit}"


def resolve(server: Server, log_path: str | None, service: str | None) -> Source:
    """Which source the arguments name.

    Raises:
        BadArgument: Both, or none, or a service that is no name of a unit.
    """
    known = server.section("services")
    if log_path and service:
        raise BadArgument("Give log_path or service, not both.")
    if log_path:
        return Source(path=log_path)
    if not service:
        names = ", ".join(list(known)[:20])
        raise BadArgument(
            "Give log_path (a file or a glob) or service."
            + (f" The services of {server.id}: {names}." if names else " A systemd unit's name is a service too.")
        )
    about = known.get(service)
    path = about.get("log_path") if isinstance(about, dict) else None
    if isinstance(path, str) and path:
        return Source(path=path, service=service)
    unit = str(about.get("unit") or service) if isinstance(about, dict) else service
    if not UNIT.fullmatch(unit):
        raise BadArgument(f"{unit[:80]!r} is neither a service of {server.id} nor the name of a systemd unit.")
    return Source(unit=unit, service=service)


@dataclass(frozen=True)
class Seen:
    """A file that was looked at.

    Attributes:
        number: Its number in the program's output, from 1.
        state: `ok`, `older` (than asked for), `missing`, `hidden` (in a folder the login may not search), `unreadable`,
            `folder`, `special`, `binary` or `packed` (the host has no program to unpack it).
        size: Bytes on disk; None where unknown.
    """

    number: int
    state: str
    path: str
    mtime: int | None = None
    size: int | None = None
    inode: int | None = None
    owner: str = ""
    mode: str = ""

    def why(self, server: Server, facts: Facts) -> str:
        """Why it was not read, and what would help."""
        user = facts["user"] or "the login user"
        if self.state == "missing":
            return "there is no such file"
        if self.state in ("unreadable", "hidden"):
            can_not = "search its folder" if self.state == "hidden" else "read it"
            of = f" ({self.owner}, mode {self.mode})" if self.owner else ""
            group = self.owner.partition(":")[2]
            joins = group not in ("", "?", "root") and len(self.mode) >= 3 and self.mode[-2] in "4567"
            ways = [f"add {user} to the group {group}"] if joins else []
            if not server.sudo:
                ways.append("set `sudo: true` in the server's file")
            return f"{user} may not {can_not}{of}" + (f"; the operator can {' or '.join(ways)}" if ways else "")
        return {
            "folder": "a folder: name a file in it, or a glob such as its path and /*.log",
            "special": "no regular file",
            "binary": "binary, no text",
            "packed": "the host has no program to unpack it",
        }.get(self.state, self.state)


def seen(ran: Ran) -> list[Seen]:
    """The files that `FILES` found, in the order of their numbers."""
    found = []
    for record in ran.part("files").split(b"\0"):
        fields = record.split(b"\t", 3)
        if len(fields) == 4 and fields[0].isdigit():
            found.append(_seen(int(fields[0]), decode(fields[1]), decode(fields[2]), one_line(decode(fields[3]), 300)))
    return found


def _seen(number: int, state: str, stats: str, path: str) -> Seen:
    values = stats.split(" ")
    if len(values) != 5 or not all(value.isdigit() for value in values[:3]):
        return Seen(number, state, path)
    mtime, size, inode = map(int, values[:3])
    return Seen(number, state, path, mtime or None, size, inode or None, values[3], values[4])


def line(raw: bytes, size: int | None = None) -> str:
    """A line's bytes as text, cut where it is long.

    Args:
        size: How many bytes it had on the host, where `raw` is only its beginning.
    """
    cut = (len(raw) if size is None else size) - LONGEST
    text = decode(raw[:LONGEST].removesuffix(b"\r")).replace("\n", " ")
    return f"{text}… [{cut:,} more bytes]" if cut > 0 else text


def skipped(files: Iterable[Seen], server: Server, facts: Facts) -> list[dict[str, str]]:
    """Those that were not read though they were asked for: path and reason."""
    return [
        {"path": file.path, "reason": file.why(server, facts)} for file in files if file.state not in ("ok", "older")
    ]


def nothing_to_read(source: Source, server: Server, files: list[Seen], ran: Ran) -> FleetShellError:
    """The error for a source of which no file could be read."""
    refusal = sudo_refusal(ran.stderr, "/usr/bin/tail", ran.facts)
    if len(files) == 1 and files[0].state == "missing":
        paths = [about["log_path"] for about in server.section("services").values() if _has_path(about)]
        hint = "Find it with search_files" if not paths else f"Logs of {server.id}: {', '.join(paths[:8])}"
        what = "No file matches" if re.search(r"[*?\[]", source.path) else "There is no file"
        return NotFound(f"{what} {source.label} on {server.id}. {hint}, or give service for a unit's journal.")
    reasons = "; ".join(f"{item['path']}: {item['reason']}" for item in skipped(files, server, ran.facts)[:5])
    return BadArgument(f"Nothing of {source.label} on {server.id} could be read: {reasons}. {refusal}".rstrip())


def _has_path(about: object) -> bool:
    return isinstance(about, dict) and isinstance(about.get("log_path"), str)


def no_such_unit(source: Source, server: Server, known: Iterable[str] = ()) -> FleetShellError:
    """The error for a service that neither the server's file nor the host knows."""
    names = [*server.section("services"), *known]
    return NotFound(
        f"{server.id} has neither a unit {source.unit!r} with a journal nor a service of that name with a log_path."
        f"{nearest(source.unit, names)} See list_services, or give log_path."
    )


def no_journal(source: Source, server: Server) -> FleetShellError:
    """The error for a service without a log_path on a host without a journal."""
    return NotFound(
        f"{source.service!r} has no log_path in the file of {server.id}, and the host has no journal. "
        "Give log_path, such as /var/log/messages or /var/log/syslog."
    )
