"""Runs the benchmark: `python tests/bench/__main__.py`, or `python -m bench` with `tests` and the project on PYTHONPATH.

It is a report: a missed target is no failure. The exit code is 1 where something could not be measured.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.effort import Effort
    from bench.table import Line, Part

_TESTS = Path(__file__).resolve().parent.parent
LIMIT = 240
"""Seconds after which the run is given up, cleaned up and failed."""


def main() -> int:
    from bench import mcp_part, ssh_part, startup_part
    from bench.effort import full, quick
    from bench.table import machine, render

    parts = {part.name: part for part in (mcp_part.PART, startup_part.PART, ssh_part.PART)}
    parser = argparse.ArgumentParser(prog="bench", description="FleetShell beside its peers, measured in one run.")
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    parser.add_argument("--quick", action="store_true", help="tiny counts: shows that it works, not how fast")
    parser.add_argument("--only", choices=parts, help="one part of it alone")
    options = parser.parse_args()
    effort = quick() if options.quick else full()
    signal.signal(signal.SIGTERM, _give_up)
    signal.signal(signal.SIGALRM, _give_up)
    signal.alarm(LIMIT)
    lines: list[Line] = []
    for part in parts.values() if options.only is None else [parts[options.only]]:
        lines += measured(part, effort)
    signal.alarm(0)
    print(render(lines))
    about = machine()
    print("", *(f"{note}." for note in effort.notes), about, sep="\n")
    if options.json:
        document = {"machine": about, "notes": effort.notes, "rows": [line.as_json() for line in lines]}
        Path(options.json).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return 1 if any(line.problem.startswith("FAILED") for line in lines) else 0


def measured(part: Part, effort: Effort) -> list[Line]:
    """The lines of one part; where it fails they say so, and stderr says why."""
    from bench.table import Line, Missing

    try:
        # Control sockets have paths of at most 104 bytes, hence not the default folder.
        with tempfile.TemporaryDirectory(prefix="fs", dir="/tmp") as folder:
            values = part.measure(Path(folder), effort)
            return [Line(row, *values[row]) for row in part.rows]
    except Missing as missing:
        problem = f"skipped: {missing}"
    except Exception as error:
        traceback.print_exc()
        problem = f"FAILED: {type(error).__name__}"
    return [Line(row, problem=problem) for row in part.rows]


def _give_up(number: int, frame: FrameType | None) -> None:
    raise SystemExit(f"bench: ended by {signal.Signals(number).name}; a whole run has {LIMIT} s.")


if __name__ == "__main__":
    # Run as a file, Python puts this folder first, where our modules could hide those of the standard library.
    sys.path[:1] = [str(_TESTS), str(_TESTS.parent)]
    sys.exit(main())
