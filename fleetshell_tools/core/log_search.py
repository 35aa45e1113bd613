"""Searching logs: the programs that run grep or journalctl on a host, and the matches in what they print."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from fleetshell_tools.core.errors import BadArgument
from fleetshell_tools.core.log_journal import FIELDS, JOURNAL, entries
from fleetshell_tools.core.log_source import ACCESS, CLOCK, FILES, LONGEST, Seen, line
from fleetshell_tools.core.log_time import Stamps, iso
from fleetshell_tools.core.scripts import Ran, Script

SECONDS = 20
"""How long grep or journalctl may run in all; what was not searched by then is said."""
BYTES = 512 << 20
"""The most that is read of all files, the newest first, of a larger one its end."""
KEEP = 8 << 20

_AWK = r"""
RING='/^[0-9]+:/ { count++ } { ring[++n % keep] = length($0) ":" substr($0, 1, cut) }
END { print count + 0; for (i = n > keep ? n - keep + 1 : 1; i <= n; i++) print ring[i % keep] }'
"""

_GREP = r"""
said=$(printf '\n' | LC_ALL=$locale grep -E $fold -e "$pattern" 2>&1 >/dev/null)
[ $? -lt 2 ] || { part bad; printf '%s\n' "$said"; exit 0; }
deadline=$(($(date +%s) + allowed))
left() { limit=$((deadline - $(date +%s))); [ $limit -gt 0 ] && [ "$bytes" -gt 0 ] && { [ -n "$timeout" ] || limit=; }; }
search() {
  { LC_ALL=$locale ${limit:+timeout $limit} grep -aE -n $fold -C "$context" -e "$pattern"; printf 'end %s\n' $?; } |
    awk -v keep="$keep" -v cut="$cut" "$RING"
}
"""

_IN_FILES = r"""
path=$1 since=$2 seconds=$3 pattern=$4 locale=$5 fold=$6 context=$7 keep=$8 cut=$9; shift 9
allowed=$1 bytes=$2
""" + (
    _AWK
    + _GREP
    + CLOCK
    + ACCESS
    + FILES
    + r"""
for item in $order; do
  pick; eval "f=\${$i}"
  left || break
  start=1 cost=$size
  case $f in
    *.gz | *.xz | *.bz2 | *.zst) cost=$((size * 10)) ;;
    *) [ "$size" -le "$bytes" ] || start=$((size - bytes + 1)) cost=$bytes ;;
  esac
  part "hits$i"; printf '%s\n' $start
  content $start "$bytes" | search
  bytes=$((bytes - cost))
done
"""
)

_IN_JOURNAL = r"""
unit=$1 since=$2 seconds=$3 pattern=$4 locale=$5 fold=$6 context=$7 keep=$8 cut=$9; shift 9
allowed=$1 bytes=1
""" + (
    _AWK
    + _GREP
    + CLOCK
    + 'limit=$allowed; [ -n "$timeout" ] || limit=\n'
    + JOURNAL
    + rf"""
plain() {{ [ "$context" = 0 ] && [ -z "$(entries "$@" -q -n 0 --grep="$pattern" 2>&1)" ]; }}
if plain "$@"; then
  part json
  {{ entries "$@" -r -o json --output-fields={FIELDS} \
      --grep="$pattern" --case-sensitive=$([ -n "$fold" ] && echo no || echo yes); printf 'end %s\n' $?; }} |
    awk -v keep="$keep" '/^end [0-9]+$/ {{ print }} /^{{/ && ++n <= keep {{ print }} END {{ print "count", n + 0 }}'
else
  part hits1; echo 1
  {{ entries "$@" -a -o short-unix | tr -d '\000'; }} | search
fi
"""
)


@dataclass(frozen=True)
class Query:
    """What is searched for; all of it is data."""

    pattern: str
    ignore_case: bool = False
    context: int = 0
    most: int = 50

    def __post_init__(self) -> None:
        """Refuse what grep would quietly take for something else.

        Raises:
            BadArgument: The pattern holds a newline, or a construct that extended regular expressions do not have.
        """
        if "\n" in self.pattern:
            raise BadArgument(
                "The pattern holds a newline, but it is matched line by line; write a|b for alternatives."
            )
        strange = re.search(r"(?<!\\)(?:\\\\)*(\\[dD]|\(\?)", self.pattern)
        if strange is not None:
            instead = {
                "\\d": "write [0-9]",
                "\\D": "write [^0-9]",
                "(?": "(write ( for groups; ignore_case is an argument)",
            }
            raise BadArgument(
                f"The pattern {self.pattern[:80]!r} has {strange[1]}, which extended regular expressions do not know: "
                f"{instead[strange[1]]}."
            )

    def script(self, where: str, since: tuple[str, int], *, journal: bool) -> Script:
        """The program that searches a path or a unit's journal.

        Args:
            since: Kind and seconds of a `Since`. With it more lines are brought, because lines are dated here.
        """
        lines = self.most if since[0] == "ever" or journal else 2000
        data = (
            *(where, since[0], str(since[1]), self.pattern, "C" if self.pattern.isascii() else "C.UTF-8"),
            *("-i" if self.ignore_case else "", str(self.context), str(min(lines * (2 * self.context + 2) + 1, 6000))),
            *(str(LONGEST + 20), str(SECONDS), str(BYTES)),
        )
        shown = json.dumps([self.pattern, where], ensure_ascii=False)
        return Script("search_logs", _IN_JOURNAL if journal else _IN_FILES, data, shown=shown)


@dataclass
class Match:
    """A line that matched, or (from the journal) an entry; `number` is None where lines could not be counted."""

    line: str
    number: int | None = None
    time: float | None = None
    path: str = ""
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)

    def shown(self, *, with_file: bool) -> dict[str, Any]:
        """It as the answer has it."""
        item: dict[str, Any] = {"file": self.path} if with_file else {}
        if self.number is not None:
            item["line_number"] = self.number
        elif self.time is not None:
            item["timestamp"] = iso(self.time)
        item["line"] = self.line
        if self.before or self.after:
            item.update(before=self.before, after=self.after)
        return item


@dataclass
class Found:
    """What was found in one file, or in the journal: the newest `matches`, of `count` in all."""

    matches: list[Match]
    count: int
    path: str = ""
    from_byte: int = 1
    status: int = 0
    undated: int = 0
    exact: bool = True

    @property
    def ended_early(self) -> bool:
        """Whether the time limit ended it (GNU timeout exits with 124, busybox's with 143)."""
        return self.status in (124, 137, 143)


def bad_pattern(ran: Ran, pattern: str) -> BadArgument | None:
    """The error for a pattern that grep refused, in its own words."""
    if "bad" not in ran.parts:
        return None
    said = re.sub(r"^.*?grep: ", "", ran.text("bad").strip()) or "invalid"
    return BadArgument(
        f"grep refuses the pattern {pattern[:80]!r}: {said[:200]}. A \\ before a sign takes it literally."
    )


def in_files(ran: Ran, files: Iterable[Seen], query: Query, stamps: Stamps, since: float | None) -> Iterator[Found]:
    """What was found in each file that was searched."""
    for file in files:
        raw = ran.part(f"hits{file.number}")
        if raw:
            found = _hits(raw, query.context)
            for match in found.matches:
                match.path = file.path
                match.time = stamps.of(match.line)
            found.path = file.path
            if since is not None:
                _only_since(found, since)
            if found.from_byte > 1:
                for match in found.matches:
                    match.number = None
            yield found


def in_journal(ran: Ran, query: Query, stamps: Stamps) -> Found:
    """What was found in a journal."""
    if "json" in ran.parts:
        raw = ran.part("json")
        ends = re.search(rb"^end (\d+)$", raw, re.MULTILINE)
        count = re.search(rb"^count (\d+)$", raw, re.MULTILINE)
        matches = [Match(entry.line, time=entry.time) for entry in reversed(entries(raw))]
        whole = count is not None and ends is not None
        return Found(matches, int(count[1]) if count else len(matches), status=int(ends[1]) if ends else 0, exact=whole)
    found = _hits(ran.part("hits1"), query.context)
    for match in found.matches:
        match.number, match.time = None, stamps.of(match.line)
        match.line = re.sub(r"^\d+\.\d+ \S+ ", "", match.line)
    return found


def _hits(raw: bytes, context: int) -> Found:
    """Take apart: the first byte searched, the count, and grep's lines, each after its length; the last is grep's status."""
    start, _, rest = raw.partition(b"\n")
    total, _, rest = rest.partition(b"\n")
    found = Found([], int(total) if total.isdigit() else 0, from_byte=int(start) if start.isdigit() else 1)
    waiting: list[str] = []
    last: Match | None = None
    ended = False
    for record in rest.split(b"\n"):
        size, _, raw = record.partition(b":")
        match = re.match(rb"(\d+)([:-])|(--)$|end (\d+)$", raw)
        if match is None or not size.isdigit():
            continue
        text = line(raw[match.end() :], int(size) - match.end())
        if match[4]:
            found.status, ended = int(match[4]), True
        elif match[3]:
            waiting, last = [], None
        elif match[2] == b":":
            last = Match(text, int(match[1]), before=waiting[-context:] if context else [])
            waiting = []
            found.matches.append(last)
        elif last is not None and len(last.after) < context:
            last.after.append(text)
        else:
            waiting.append(text)
    # Without its last line the output was cut on the way: then the newest matches are not all there.
    found.exact = ended and total.isdigit()
    return found


def _only_since(found: Found, since: float) -> None:
    """Drop what was written before `since`; a line without a time is as old as its neighbours, where they agree."""
    times = [match.time for match in found.matches]
    before: list[float | None] = _filled(times)
    behind = _filled(times[::-1])[::-1]
    kept, undated = [], 0
    for match, lower, upper in zip(found.matches, before, behind, strict=True):
        if (
            match.time is None
            and not (lower is not None and lower >= since)
            and not (upper is not None and upper < since)
        ):
            undated += 1
        if (match.time if match.time is not None else upper if upper is not None else since) >= since:
            kept.append(match)
    brought_all = len(found.matches) == found.count
    reached = any(time is not None and time < since for time in times)
    found.exact = found.exact and (brought_all or reached)
    found.matches, found.count, found.undated = kept, len(kept), undated


def _filled(times: list[float | None]) -> list[float | None]:
    """Each gap filled with the last time before it."""
    filled: list[float | None] = []
    for time in times:
        filled.append(time if time is not None else filled[-1] if filled else None)
    return filled
