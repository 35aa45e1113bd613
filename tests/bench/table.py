"""What the benchmark prints: rows of our value, a peer's value, their ratio, and whether it meets its target."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.effort import Effort


class Missing(Exception):
    """Something that a part of the benchmark, or one peer in it, needs is not there; its rows are skipped."""


@dataclass(frozen=True)
class Row:
    """A line of the table before anything was measured.

    Args:
        what: What is measured.
        peer: With whom we compare ourselves.
        unit: "/s", "ms", "µs", "MiB" or "tokens".
        target: The limit of our value divided by the peer's; None where there is no target.
        at_least: Whether the target is a lower limit.
    """

    what: str
    peer: str
    unit: str
    target: float | None = None
    at_least: bool = False

    @property
    def goal(self) -> str:
        if self.target is None:
            return "-"
        inverse = self.target < 0.3 and not self.at_least
        return ("≥ " if self.at_least else "≤ ") + (f"1/{1 / self.target:.0f}" if inverse else f"{self.target:g} ×")


@dataclass(frozen=True)
class Line:
    """A row with its two values; or with `problem`, the reason why there are none."""

    row: Row
    ours: float = 0.0
    theirs: float = 0.0
    problem: str = ""

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none, or no value."""
        if self.problem or self.row.target is None:
            return None
        return self.ratio >= self.row.target if self.row.at_least else self.ratio <= self.row.target

    def cells(self) -> list[str]:
        row = self.row
        if self.problem:
            return [row.what, "-", row.peer, "-", row.goal, self.problem]
        met = {True: "yes", False: "NO", None: "-"}[self.met]
        return [
            row.what,
            _number(self.ours, row.unit),
            f"{row.peer}: {_number(self.theirs, row.unit)}",
            f"{self.ratio:.3g} ×",
            row.goal,
            met,
        ]

    def as_json(self) -> dict[str, Any]:
        row = self.row
        about = {"what": row.what, "peer": row.peer, "unit": row.unit, "target": row.target, "at_least": row.at_least}
        values = (
            {"ours": None, "theirs": None, "ratio": None}
            if self.problem
            else {"ours": self.ours, "theirs": self.theirs, "ratio": self.ratio}
        )
        return {**about, **values, "met": self.met, "problem": self.problem}


Values = dict[Row, "tuple[float, float] | Missing"]
"""Our value and the peer's, or why there are none."""


@dataclass(frozen=True)
class Part:
    """Rows that are measured together; `measure` gives the values of each of them."""

    name: str
    rows: tuple[Row, ...]
    measure: Callable[[Path, Effort], Values]

    def line(self, row: Row, values: Values) -> Line:
        found = values[row]
        return Line(row, problem=f"skipped: {found}") if isinstance(found, Missing) else Line(row, *found)


def render(lines: Iterable[Line]) -> str:
    """The table as text."""
    cells = [["what", "FleetShell", "peer", "ratio", "target", "met"], *(line.cells() for line in lines)]
    widths = [max(len(row[column]) for row in cells) for column in range(5)]
    cells.insert(1, ["-" * width for width in [*widths, 3]])
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[5]]).rstrip()
        for row in cells
    )


def machine() -> str:
    """What the numbers were measured on."""
    model = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("mcp", "uvicorn") if _installed(name)]
    facts = [
        model[1] if model else platform.machine(),
        f"{len(os.sched_getaffinity(0))} cores",
        f"load {os.getloadavg()[0]:.1f}",
        f"Linux {platform.release()}",
        f"Python {sys.version.split()[0]}",
        _openssh(),
        *versions,
        time.strftime("%Y-%m-%d", time.gmtime()),
    ]
    return ", ".join(facts)


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _openssh() -> str:
    try:
        return subprocess.run(["ssh", "-V"], capture_output=True, text=True).stderr.split(",")[0].strip()
    except FileNotFoundError:
        return "no OpenSSH"


def _number(value: float, unit: str) -> str:
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
