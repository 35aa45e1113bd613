"""Judging by words: tables of programs, and of the words that together make them destructive."""

from __future__ import annotations

from collections.abc import Iterable

from fleetshell_tools.fleet.guard.rules import Command, Finding
from fleetshell_tools.fleet.guard.symbols import MARKS

Row = tuple[str, tuple[str, str, str], tuple[str, ...]]
"""Programs, blank-separated; class, rule and effect; patterns, one of which must hold.

A pattern is groups of alternatives (`stop|disable ssh|sshd`), each of which a word of the command must meet; an
alternative that ends in `*` meets what begins so, an empty pattern is always met.
"""

Rules = dict[str, list[tuple[tuple[str, str, str], list[list[list[str]]]]]]

HARMLESS = frozenset(
    "--help --version --dry-run --dryrun --dry-run=client --dry-run=server --simulate --what-if --plan".split()
)


def table(rows: Iterable[Row]) -> Rules:
    """The rows by program."""
    rules: Rules = {}
    for programs, what, patterns in rows:
        groups = [[group.split("|") for group in pattern.split()] for pattern in patterns]
        for program in programs.split():
            rules.setdefault(program, []).append((what, groups))
    return rules


def by_words(command: Command, rules: Rules) -> Finding | None:
    """The first row of the table that a command meets."""
    words = set(command.arguments)
    # An option may carry its value: --force=true.
    words |= {
        word.partition("=")[0] for word in words if word.startswith("--") and not word.endswith(("=false", "=none"))
    }
    if words & HARMLESS:
        return None
    for (kind, rule, effect), patterns in rules.get(command.name, ()):
        if any(all(_met(group, words) for group in pattern) for pattern in patterns):
            return Finding(kind, rule, effect, command.argv)
    return None


def _met(group: list[str], words: set[str]) -> bool:
    for wanted in group:
        if wanted in words:
            return True
        if wanted.endswith("*") and any(word.startswith(wanted[:-1]) and word.strip(MARKS) for word in words):
            return True
    return False
