"""The process table of a host: the program that reads it from /proc in two samples, and what it prints taken apart."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fleetshell_tools.core import proc
from fleetshell_tools.core.errors import BadArgument, FleetShellError
from fleetshell_tools.core.masking import mask_arguments
from fleetshell_tools.core.scripts import Ran, Script
from fleetshell_tools.core.text import clean, one_line

COMMAND = 200
"""Characters of a command line that are shown: its begin, and the end, where a Java program has its name."""

SORTS = ("cpu", "memory", "time")

_LOOK = r"""
part() { printf '\036%s %s\n' "$0" "$1"; }
by=$1 limit=$2 filter=$3 self=$5
cd "$4" || exit
rows=$({
  for round in 1 2; do
    [ "$round" = 1 ] || sleep 0.5 2>/dev/null || sleep 1
    read -r now _ <uptime
    echo "= $now"
    printf '%s/stat\n' [0-9]* | xargs cat 2>/dev/null
  done
} | awk -v self="$self" -v by="$by" '
  held == "" && $1 == "=" { round++; up[round] = $2; next }
  {
    line = held == "" ? $0 : held "?" $0
    held = ""
    if (!match(line, /\)[^)]*$/) || split(substr(line, RSTART + 1), f, " ") < 22) {
      if (length(line) < 4096) held = line
      next
    }
    split(line, word, " ")
    pid = word[1]
    if (round == 1) { before[pid] = f[12] + f[13]; began[pid] = f[20]; next }
    parent[pid] = f[2]; ticks[pid] = f[12] + f[13]; start[pid] = f[20]; rss[pid] = f[22]
    kernel[pid] = int(f[7] / 2097152) % 2
    name[pid] = substr(line, length(pid) + 3, RSTART - length(pid) - 3)
    rest[pid] = f[1] " " f[2] " " f[18] " " f[20] " " f[22]
  }
  END {
    for (pid in parent) {
      above = pid
      for (depth = 0; depth < 100 && above != self && above in parent; depth++) above = parent[above]
      if (above == self) continue
      spent = ticks[pid] - (began[pid] == start[pid] ? before[pid] : 0)
      key = by == "memory" ? rss[pid] : by == "time" ? ticks[pid] : spent
      printf "%s %.0f %.0f %s %s %.0f %.2f %s\n", kernel[pid] ? "k" : "u", key, ticks[pid], pid, rest[pid], spent, up[2] - up[1], name[pid]
    }
  }
' | sort -k2,2nr -k3,3nr -k4,4n)
if [ -n "$filter" ]; then
  refused=$(echo | grep -E -e "$filter" 2>&1)
  [ $? -lt 2 ] || { part pattern; printf '%s\n' "$refused"; exit; }
  # No process for a process: one cat reads all, and between two command lines its own environment, which nobody can forge.
  chosen=$({
    printf '%s\n' "$rows"
    echo =
    printf '%s\n' "$rows" | cut -d' ' -f4 | sed 's|.*|&/cmdline /proc/self/environ|' |
      xargs env -i "mark=$0" PATH="$PATH" cat 2>/dev/null | tr '\n\000' ' \n'
  } | awk -v mark="mark=$0" '
    !all && $0 == "=" { all = 1; next }
    !all { for (i = 0; i < 11; i++) sub(/^[^ ]+ /, ""); name[++count] = $0; next }
    skip { skip = 0; next }
    {
      at = length($0) - length(mark) + 1
      if (at < 1 || substr($0, at) != mark) { if (length(line) < 65536) line = line $0 " "; next }
      line = line substr($0, 1, at - 1)
      sub(/ +$/, "", line)
      done++
      print line ~ /[^ ]/ ? line : "[" name[done] "]"
      line = ""; skip = 1
    }
  ' | grep -nE -e "$filter" | cut -d: -f1)
  rows=$({ printf '%s\n' "$chosen"; echo =; printf '%s\n' "$rows"; } |
    awk '!all { if ($0 == "=") all = 1; else want[$0] = 1; next } want[++n]')
  chosen=$(printf '%s\n' "$rows" | head -n "$limit")
else
  chosen=$(printf '%s\n' "$rows" | grep '^u' | head -n "$limit")
fi
part counts
printf 'user=%s\n' "$(printf '%s\n' "$rows" | grep -c '^u')"
printf 'kernel=%s\n' "$(printf '%s\n' "$rows" | grep -c '^k')"
part rows
printf '%s\n' "$chosen"
uids=$(printf '%s\n' "$chosen" | while read -r _ _ _ pid _; do
  while read -r key id _; do
    [ "$key" = Uid: ] && { echo "$id"; break; }
  done <"$pid/status"
done 2>/dev/null | sort -u)
printf '%s\n' "$chosen" | while read -r _ _ _ pid _; do
  [ -n "$pid" ] || continue
  part "s$pid"
  cat "$pid/status"
  part "c$pid"
  head -c 4000 "$pid/cmdline"
done 2>/dev/null
part users
{
  if command -v getent >/dev/null 2>&1; then ${timeout:+timeout 3} getent passwd $uids; else false; fi || cat /etc/passwd
} 2>/dev/null | cut -d: -f1,3
"""
"""Reads the table; run by sudo as a whole where processes are hidden from the login."""

_SCRIPT = f"""
part host
proc=${{4:-/proc}}
if [ ! -r "$proc/uptime" ] || ! has awk || ! has xargs; then
  echo "missing=$([ -r "$proc/uptime" ] && echo awk or xargs || echo /proc)"
  exit
fi
hidden=
while read -r _ point type options _; do
  case $point.$type.$options in /proc.proc.*hidepid=*) hidden=1 ;; esac
done 2>/dev/null <"$proc/mounts"
[ "$uid" != 0 ] || hidden=
asked=
if [ -n "$hidden" ] && [ -n "$sudo" ] && sudo -n -- sh -c : 2>/dev/null; then hidden= asked=1; fi
echo "hidden=$hidden"
echo "ticks=$(getconf CLK_TCK 2>/dev/null)"
echo "page=$(getconf PAGESIZE 2>/dev/null)"
part self
cat "$proc/$$/stat" 2>/dev/null
part uptime
cat "$proc/uptime"
part meminfo
cat "$proc/meminfo"
export timeout
look={shlex.quote(_LOOK)}
set -- "$1" "$2" "$3" "$proc" $$
if [ -n "$asked" ]; then sudo -n -- sh -c "$look" "$0" "$@"; else eval "$look"; fi
"""


def script(sort_by: str, limit: int, pattern: str, folder: str = "/proc") -> Script:
    """The program that reads the process table.

    Args:
        sort_by: `cpu`, `memory` or `time`; what comes first.
        limit: How many processes are shown.
        pattern: An extended regular expression on the command line; "" for all but kernel threads.
        folder: Where /proc is.
    """
    shown = shlex.join([sort_by, str(limit), *([pattern] if pattern else [])])
    return Script("get_process_list", _SCRIPT, (sort_by, str(limit), pattern, folder), shown=shown)


@dataclass(frozen=True)
class Table:
    """What was seen: the processes that were asked for, how many there are, and what has to be said about them."""

    processes: list[dict[str, Any]]
    count: int
    notices: list[str]


_ROW = re.compile(rb"([uk]) \d+ (\d+) (\d+) (\S+) (\d+) (\d+) (\d+) (-?\d+) (-?\d+) ([0-9.]+) (.*)")


def parse(ran: Ran, pattern: str) -> Table:
    """Take apart what the program printed.

    Raises:
        BadArgument: The pattern is no extended regular expression.
        FleetShellError: There is no /proc, or a utility is missing.
    """
    host = ran.fields("host")
    if "pattern" in ran.parts:
        said = one_line(ran.text("pattern"), 120)
        raise BadArgument(f'The argument `filter` is "{pattern}", no extended regular expression ({said}).')
    if host.get("missing"):
        raise FleetShellError(
            f"This host has no {host['missing']}, which the process list is made from. Use execute_command with "
            "`ps -axo pid,ppid,user,state,pcpu,pmem,rss,etime,time,args`."
        )
    users = {uid: name for name, _, uid in (line.rpartition(":") for line in ran.lines("users"))}
    hertz = int(host["ticks"]) if host.get("ticks", "").isdigit() else 100
    page = int(host["page"]) if host.get("page", "").isdigit() else None
    memory = proc.meminfo(ran.part("meminfo")).total
    now = _now(ran, hertz)
    rows = [match for line in ran.part("rows").split(b"\n") if (match := _ROW.fullmatch(line))]
    processes = []
    for row in rows:
        pid = row[3].decode()
        status = proc.status(ran.part(f"s{pid}"))
        if not status:
            # It ended in the meantime.
            continue
        rss = proc.kilobytes(status.get("VmRSS"))
        if rss is None and page is not None:
            rss = int(row[8]) * page
        processes.append(
            {
                "pid": int(pid),
                "ppid": int(row[5]),
                "user": _user(status, users),
                "state": one_line(row[4].decode("ascii", "replace"), 4),
                "cpu_percent": _percent(int(row[9]) / hertz, float(row[10])),
                "memory_percent": _percent(rss, memory),
                "rss_bytes": rss,
                "elapsed_seconds": None if now is None else max(0, round(now - int(row[7]) / hertz)),
                "cpu_seconds": round(int(row[2]) / hertz, 1),
                "threads": int(row[6]),
                "command": _command(ran.part(f"c{pid}"), row[11]),
            }
        )
    counts = ran.fields("counts")
    user, kernel = (int(counts.get(key) or 0) for key in ("user", "kernel"))
    return Table(processes, user + (kernel if pattern else 0), _notices(host, kernel, pattern))


def _now(ran: Ran, hertz: int) -> float | None:
    """Seconds since the start of the host by the clock of start times.

    In a container /proc/uptime may be the container's own while start times are the host's, but the program itself has just
    started.
    """
    own = proc.stat(ran.part("self"))
    if own is not None:
        return own.start / hertz
    uptime = proc.numbers(ran.text("uptime"), 1)
    return uptime[0] if uptime else None


def _percent(part: float | None, whole: float | None) -> float | None:
    return round(100 * part / whole, 1) if part is not None and whole else None


def _user(status: Mapping[str, str], users: Mapping[str, str]) -> str | None:
    uid = (status.get("Uid") or "").split()
    return one_line(users.get(uid[0], uid[0]), 64) if uid else None


def _command(cmdline: bytes, name: bytes) -> str:
    words = mask_arguments(proc.arguments(cmdline))
    text = one_line(" ".join(words), 100_000) if words else f"[{one_line(name.decode('utf-8', 'replace'), 64)}]"
    if len(text) <= COMMAND:
        return text
    tail = COMMAND // 4
    return f"{text[: COMMAND - tail - 1]}…{clean(text[-tail:])}"


def _notices(host: Mapping[str, str], kernel: int, pattern: str) -> list[str]:
    notices = []
    if host.get("hidden"):
        notices.append(
            "This host hides other users' processes from the login (/proc is mounted with hidepid), so only its own are seen; "
            "`sudo: true` in the server's file would show all."
        )
    elif not kernel and not pattern:
        notices.append("No kernel threads are visible: this is a container, and only the processes inside it are seen.")
    if kernel and not pattern:
        notices.append(f"{kernel} kernel threads are left out; a filter such as `kworker` shows them.")
    return notices
