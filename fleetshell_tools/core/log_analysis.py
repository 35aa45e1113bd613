"""What a log says as a whole: events counted by level and grouped by template, each with its change of rate.

Work is linear in the bytes given and memory is bounded, whatever they hold; so is the answer.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fleetshell_tools.core import log_levels
from fleetshell_tools.core.log_events import events
from fleetshell_tools.core.log_formats import Entry, LineParser, lines_of
from fleetshell_tools.core.log_templates import Miner, Template, mask_path
from fleetshell_tools.core.log_time import Clock, Stamps, iso
from fleetshell_tools.core.text import decode, one_line

SHOWN = 12
"""Groups in an answer."""
LINES = 100_000
"""Lines that are looked at, the newest; no more than a few seconds of work, however short they are."""
LONGEST_TEMPLATE = 160
LONGEST_SAMPLE = 220

_SHARES = (("critical", 7), ("error", 7), ("warning", 4), ("info", 3), ("unknown", 3), ("debug", 1))
"""How many places the groups of each level have in a summary before the rest is given by count."""
_KINDS = {"errors": ("critical", "error"), "warnings": ("warning",), "summary": log_levels.LEVELS}
_LOOKED_FOR_TIME = 200
_TOLD = 3
"""Events below which a change of rate would be noise."""


@dataclass(frozen=True)
class Piece:
    """A stretch of a log; pieces come in the order in which they were written.

    Attributes:
        weight: How many bytes of the log each of its bytes stands for; 1 where all of it was read.
        torn: It begins (and ends) in the middle of a line where it is not the log's.
    """

    data: bytes
    weight: float = 1.0
    torn_start: bool = False
    torn_end: bool = False

    def text(self) -> str:
        """Its whole lines, cleaned."""
        data = self.data
        if self.torn_start:
            data = data.partition(b"\n")[2]
        if self.torn_end:
            data = data[: data.rfind(b"\n") + 1]
        return decode(data)


@dataclass
class Analysis:
    """What came out.

    Attributes:
        totals: Events by level, in the window.
        groups: The groups asked for, as the answer holds them, the most telling first.
        kinds: How many groups of the levels asked for there were.
        others: Events of the levels asked for that are in no group shown.
        lines: Lines that were read and lie in the window.
        first, last: Of the window's events, seconds since the epoch.
        compared: What the rates are compared with, in words; "" where with nothing.
        sampled: Some events of the window stand for others, so the numbers are estimates.
        cut: More lines were read than those that were wanted.
        undated: The log's lines have no times that we know, so `since` could not be applied.
        reaches: The earliest time seen at all.
        access: Requests by status class, where it is an access log.
    """

    totals: dict[str, int]
    groups: list[dict[str, Any]]
    kinds: int
    others: int
    lines: int
    first: float | None
    last: float | None
    compared: str
    sampled: bool
    cut: bool
    undated: bool
    reaches: float | None
    access: dict[str, int]


@dataclass(slots=True)
class _Window:
    """Which events count, and which are those before that the rates are compared with."""

    start: float | None
    before: float | None
    middle: float | None

    def weights(self, seconds: float | None, weight: float) -> tuple[float, float]:
        """What an event adds to the window, and to the one before (of halves: to the older one)."""
        if self.start is not None and self.before is not None:
            if seconds is None or seconds >= self.start:
                return weight, 0.0
            return 0.0, weight if seconds >= self.before else 0.0
        older = self.middle is not None and seconds is not None and seconds < self.middle
        return weight, weight if older else 0.0


def analyse(
    pieces: Sequence[Piece], clock: Clock, kind: str = "summary", start: float | None = None, most: int | None = None
) -> Analysis:
    """Analyse a log.

    Args:
        pieces: What was read of it, the oldest first.
        clock: The host's, for times without year or zone, and as the end of the window that begins at `start`.
        kind: `errors`, `warnings` or `summary`.
        start: Seconds since the epoch; older events are left out, but those of an equally long window before are what the rates
            are compared with. None: all count, and the newer half of the time is compared with the older one.
        most: Only the newest lines.
    """
    texts = [(piece, list(lines_of(piece.text()))) for piece in pieces]
    most = LINES if most is None else min(most, LINES)
    cut = sum(len(lines) for _, lines in texts) > most
    if cut:
        texts = _newest(texts, most)
    before = start - max(clock.now - start, 1) if start is not None else None
    window = _Window(start, before, None if start is not None else _middle(texts, LineParser(Stamps(clock))))
    tally, miner = _Tally(), Miner()
    for entry, weight in _events(texts, LineParser(Stamps(clock))):
        now, earlier = window.weights(entry.seconds, weight)
        tally.add(entry, now)
        if now or earlier:
            _template(miner, entry).add(now * entry.times, earlier * entry.times, entry.seconds, entry.raw)
    compared = _compared(window, tally)
    groups, kinds, others = _groups(miner, kind, window, bool(compared))
    return Analysis(
        totals={level: round(tally.levels[level]) for level in log_levels.LEVELS if tally.levels[level] >= 0.5},
        groups=groups, kinds=kinds, others=others, lines=round(tally.lines), first=tally.first, last=tally.last, compared=compared,
        sampled=tally.sampled, cut=cut, undated=tally.lines > 0 and tally.reaches is None, reaches=tally.reaches,
        access={f"{hundreds}xx": round(count) for hundreds, count in sorted(tally.statuses.items())},
    )  # fmt: skip


@dataclass
class _Tally:
    """What is counted beside the templates."""

    lines: float = 0.0
    levels: dict[str, float] = field(default_factory=lambda: dict.fromkeys(log_levels.LEVELS, 0.0))
    statuses: dict[int, float] = field(default_factory=dict)
    sampled: bool = False
    first: float | None = None
    last: float | None = None
    reaches: float | None = None

    def add(self, entry: Entry, now: float) -> None:
        """Count an event that stands for `now` of the window; for none where it lies before."""
        seconds = entry.seconds
        if seconds is not None:
            self.reaches = _least(self.reaches, seconds)
        if not now:
            return
        if seconds is not None:
            self.first = _least(self.first, seconds)
            self.last = seconds if self.last is None else max(self.last, seconds)
        self.lines += now * entry.lines
        self.levels[entry.level] += now * entry.times
        self.sampled = self.sampled or now > 1
        if entry.status:
            self.statuses[entry.status // 100] = self.statuses.get(entry.status // 100, 0.0) + now * entry.times


def _least(known: float | None, value: float) -> float:
    return value if known is None else min(known, value)


def _newest(texts: list[tuple[Piece, list[str]]], most: int) -> list[tuple[Piece, list[str]]]:
    kept: list[tuple[Piece, list[str]]] = []
    for piece, lines in reversed(texts):
        kept.append((piece, lines[-most:] if most else []))
        most -= min(most, len(lines))
    return kept[::-1]


def _middle(texts: list[tuple[Piece, list[str]]], parser: LineParser) -> float | None:
    """Half-way between the first and the last time; None where there is none or but one."""
    flat = (line for _, lines in texts for line in lines[:_LOOKED_FOR_TIME])
    back = (line for _, lines in reversed(texts) for line in lines[: -_LOOKED_FOR_TIME - 1 : -1])
    ends = [_first_time(lines, parser) for lines in (flat, back)]
    if ends[0] is None or ends[1] is None or ends[1] <= ends[0]:
        return None
    return (ends[0] + ends[1]) / 2


def _first_time(lines: Iterable[str], parser: LineParser) -> float | None:
    for line in itertools.islice(lines, _LOOKED_FOR_TIME):
        seconds = parser.parse(line).seconds
        if seconds is not None:
            return seconds
    return None


def _events(texts: list[tuple[Piece, list[str]]], parser: LineParser) -> Iterator[tuple[Entry, float]]:
    """Events with their weight; one without a time has that of the one before it in its stretch."""
    for piece, lines in texts:
        for event in events(_entries(lines, parser)):
            yield event, piece.weight


def _entries(lines: list[str], parser: LineParser) -> Iterator[Entry]:
    seconds: float | None = None
    for line in lines:
        entry = parser.parse(line)
        seconds = entry.seconds = seconds if entry.seconds is None else entry.seconds
        yield entry


def _template(miner: Miner, entry: Entry) -> Template:
    if entry.request is None:
        return miner.find(entry.level, entry.program, entry.message)
    method, path = entry.request
    spill = f"{method} <other paths> {entry.status}"
    text = f"{method} {mask_path(path)} {entry.status}" if path else f"{method} {entry.status}"
    return miner.find_exact(entry.level, "", text, spill)


def _compared(window: _Window, tally: _Tally) -> str:
    """What the rates are compared with, in words; "" where what was read holds nothing to compare with."""
    if window.start is not None and window.before is not None:
        length = window.start - window.before
        # The first events of the window before are rarely at its very beginning.
        reached = tally.reaches is not None and tally.reaches <= window.before + length / 4
        return f"the {span(length)} before" if reached else ""
    return "the older half of the time" if window.middle is not None else ""


def _groups(miner: Miner, kind: str, window: _Window, compared: bool) -> tuple[list[dict[str, Any]], int, int]:
    levels = _KINDS[kind]
    found = [template for template in miner.templates() if template.level in levels and template.count >= 0.5]
    found.sort(key=lambda template: (-template.count, template.program, template.text))
    chosen = found[:SHOWN]
    if kind == "summary" and len(found) > SHOWN:
        chosen = _mixed(found)
    order = {level: index for index, level in enumerate(("critical", "error", "warning"))}
    if kind == "summary":
        chosen.sort(key=lambda template: (order.get(template.level, 3), -template.count))
    others = sum(template.count for template in found) - sum(template.count for template in chosen)
    others += sum(counts[0] for level, counts in miner.other.items() if level in levels)
    return [_group(template, window, compared) for template in chosen], len(found), round(others)


def _mixed(found: list[Template]) -> list[Template]:
    """The bad ones first, but some of each level, so that a summary of a log full of errors still shows what it is about."""
    chosen: list[Template] = []
    for level, share in _SHARES:
        room = max(SHOWN - len(chosen) - (3 if level in log_levels.ERRORS else 0), 0)
        chosen += [template for template in found if template.level == level][: min(share, room)]
    taken = set(map(id, chosen))
    rest = [template for template in found if id(template) not in taken]
    return chosen + rest[: SHOWN - len(chosen)]


def _group(template: Template, window: _Window, compared: bool) -> dict[str, Any]:
    text = f"{template.program}: {template.text}" if template.program else template.text
    now = template.count if window.start is not None else template.count - template.before
    change = None
    if compared and template.before and template.count + template.before >= _TOLD:
        change = round(now / template.before, 2)
    return {
        "template": one_line(text, LONGEST_TEMPLATE),
        "level": template.level,
        "count": round(template.count),
        "first_seen": None if template.first is None else iso(template.first),
        "last_seen": None if template.last is None else iso(template.last),
        "sample": one_line(template.sample, LONGEST_SAMPLE),
        "before": round(template.before) if compared else None,
        "rate_change": change,
    }


def span(seconds: float) -> str:
    """A length of time in one or two units: `45 s`, `50 min`, `2 h 30 min`, `3 d 4 h`."""
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h" + (f" {minutes} min" if minutes else "")
    days, hours = divmod(hours, 24)
    return f"{days} d" + (f" {hours} h" if hours else "")
