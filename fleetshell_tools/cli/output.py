"""Printing for people and for programs: tables that fit the terminal, colour, JSON, and questions on a terminal."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from typing import Any

from fleetshell_tools.core.errors import UsageError
from fleetshell_tools.core.text import one_line, width

_COLOURS = {"red": "31", "green": "32", "yellow": "33", "dim": "2", "bold": "1"}


def coloured(stream: Any = None) -> bool:
    """Whether colour is wanted: a terminal, and no `NO_COLOR` (no-color.org)."""
    stream = stream or sys.stdout
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str) -> str:
    """Text in a colour where colour is wanted."""
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if coloured() else text


def print_json(data: Any) -> None:
    print(json.dumps(data, indent=2, ensure_ascii=False))


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with a rule under its head; on a terminal the widest columns are cut so that it fits."""
    cells = [[one_line(cell, 500) for cell in row] for row in rows]
    widths = [max([width(head), *(width(row[column]) for row in cells)]) for column, head in enumerate(headers)]
    if sys.stdout.isatty():
        _fit(widths, shutil.get_terminal_size().columns, [width(head) for head in headers])
    lines = [_row(headers, widths), "─" * (sum(widths) + 2 * (len(widths) - 1))]
    return "\n".join([*lines, *(_row(row, widths) for row in cells)])


def _fit(widths: list[int], columns: int, least: Sequence[int]) -> None:
    while sum(widths) + 2 * (len(widths) - 1) > columns:
        widest = max(range(len(widths)), key=lambda column: widths[column] - least[column])
        if widths[widest] <= max(least[widest], 8):
            return
        widths[widest] -= 1


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = []
    for cell, size in zip(cells, widths, strict=True):
        while width(cell) > size:
            cell = cell[:-2] + "…"
        padded.append(cell + " " * (size - width(cell)))
    return "  ".join(padded).rstrip()


def warn(message: str) -> None:
    """A warning on stderr: the command goes on, but the reader should know."""
    sys.stdout.flush()
    print(f"fleetshell: warning: {message}", file=sys.stderr)


def interactive() -> bool:
    """Whether questions can be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def ask(question: str, default: str = "") -> str:
    """Ask for a line on the terminal; an empty answer is the default.

    Raises:
        UsageError: End of input.
    """
    shown = f"{question} [{default}]: " if default else f"{question}: "
    try:
        return input(shown).strip() or default
    except EOFError:
        print()
        raise UsageError("The input ended before the question was answered; nothing was changed.") from None


def confirm(question: str, default: bool = False) -> bool:
    """Ask yes or no on the terminal."""
    while True:
        answer = ask(f"{question} ({'Y/n' if default else 'y/N'})").lower()
        if not answer:
            return default
        if answer in ("y", "yes", "n", "no"):
            return answer.startswith("y")
