"""The guard: which labelled commands it blocks and lets pass, by class, beside searching for substrings; and its speed."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from support.guard_corpus import Labelled, corpus

from bench.effort import Effort
from bench.table import Part, Row, Values
from fleetshell_tools.core.types import Act
from fleetshell_tools.fleet.guard import DEFAULT_ENTRIES, Guard

SUBSTRINGS = "substrings"
CORPORA = ("development", "own")
BLOCKED = {name: Row(f"guard, {name}: dangerous blocked", SUBSTRINGS, "%", 1, at_least=True) for name in CORPORA}
PASSED = {name: Row(f"guard, {name}: harmless passed", SUBSTRINGS, "%", 1, at_least=True) for name in CORPORA}
TIME = Row("guard, one command", SUBSTRINGS, "µs")
LONGEST = Row("guard, the most intricate 5,000 characters", "limit", "ms", 1)
ROWS = (*BLOCKED.values(), *PASSED.values(), TIME, LONGEST)
LIMIT = 50.0
"""Milliseconds that a command of 5,000 characters may take."""
_PIECES = (
    "a;", "a|", "a&", "$(", "`", "${a:-", "[", "/*", "{1..9}", "a=$a$a;", "sudo ", "x(){ ", "trap 'a' 0;", "\n", "'",
    "find / -o ", "env -S ", "eval ", "<(", "<<E\n", "case a in ", "docker exec a ", "%x(", "x='a';", '"a" + ',
)  # fmt: skip
_FRAMES = ("%s", "python3 -c '%s", "make -f - <<'E'\n%s", 'psql -c "%s', "git -c %s", "sed '%s")
INTRICATE = [(frame % (piece * 5000))[:5000] for frame in _FRAMES for piece in _PIECES]
_SEARCHED = ("rm -rf /", "dd if=", "mkfs", "shutdown", "reboot", ":(){")
"""What many servers look for in the text of a command."""


def measure(folder: Path, effort: Effort) -> Values:
    """Judge every labelled command with both; counts by class go to the notes."""
    guard = Guard(DEFAULT_ENTRIES)

    def ours(command: str) -> bool:
        return not guard.judge_counted(Act(command))[0].allowed

    def theirs(command: str) -> bool:
        return any(text in command for text in _SEARCHED)

    values: Values = {}
    rows = {name: corpus(name) for name in CORPORA}
    for name, labelled in rows.items():
        values[BLOCKED[name]] = (_share(labelled, True, ours), _share(labelled, True, theirs))
        values[PASSED[name]] = (_share(labelled, False, ours), _share(labelled, False, theirs))
        effort.note(f"guard, {name}, dangerous blocked: {_by_class(labelled, True, ours)}")
        effort.note(f"guard, {name}, harmless passed: {_by_class(labelled, False, ours)}")
    commands = [row.command for labelled in rows.values() for row in labelled]
    values[TIME] = (_microseconds(ours, commands), _microseconds(theirs, commands))
    values[LONGEST] = (max(_milliseconds(guard, text) for text in INTRICATE), LIMIT)
    return values


def _right(rows: list[Labelled], dangerous: bool, judge: Callable[[str], bool]) -> list[tuple[str, bool]]:
    return [(row.kind, judge(row.command) is dangerous) for row in rows if row.dangerous is dangerous]


def _share(rows: list[Labelled], dangerous: bool, judge: Callable[[str], bool]) -> float:
    right = _right(rows, dangerous, judge)
    return 100 * sum(met for _, met in right) / len(right)


def _by_class(rows: list[Labelled], dangerous: bool, judge: Callable[[str], bool]) -> str:
    """`filesystem 50/50, device 31/31, …, all 407/407`"""
    right = _right(rows, dangerous, judge)
    all_of = Counter(kind for kind, _ in right)
    met = Counter(kind for kind, is_met in right if is_met)
    counts = [f"{kind} {met[kind]}/{count}" for kind, count in all_of.items()]
    return ", ".join([*counts, f"all {sum(met.values())}/{len(right)}"])


def _microseconds(judge: Callable[[str], bool], commands: list[str]) -> float:
    """The median of three rounds over all commands, for one."""
    rounds = []
    for _ in range(3):
        start = time.perf_counter()
        for command in commands:
            judge(command)
        rounds.append((time.perf_counter() - start) / len(commands) * 1e6)
    return statistics.median(rounds)


def _milliseconds(guard: Guard, text: str) -> float:
    """Processor time, the best of three, for one text of 5,000 characters."""
    times = []
    for _ in range(3):
        start = time.process_time()
        guard.judge_counted(Act(text))
        times.append(time.process_time() - start)
    return min(times) * 1e3


PART = Part("guard", ROWS, measure)
