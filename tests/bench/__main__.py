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
LIMIT = 480
"""Seconds after which the run is given up, cleaned up and failed."""


def main() -> int:
    from bench import (
        guard_part,
        mcp_part,
        setup,
        ssh_command_part,
        ssh_fanout_part,
        ssh_mcp_part,
        ssh_shell_part,
        startup_part,
        tokens_part,
        upstream_part,
    )
    from bench.effort import full, quick
    from bench.table import machine, render

    modules = (
        mcp_part,
        startup_part,
        guard_part,
        ssh_command_part,
        ssh_mcp_part,
        ssh_fanout_part,
        ssh_shell_part,
        upstream_part,
        tokens_part,
    )
    parts = [module.PART for module in modules]
    names = sorted({part.name for part in parts} | {part.name.partition("-")[0] for part in parts})
    parser = argparse.ArgumentParser(prog="bench", description="FleetShell beside its peers, measured in one run.")
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    parser.add_argument(
        "--quick", action="store_true", help="tiny counts: shows that it works, not how fast; installs nothing"
    )
    parser.add_argument("--only", choices=names, help="one part of it alone, or those whose names begin so")
    options = parser.parse_args()
    effort = quick() if options.quick else full()
    chosen = [part for part in parts if options.only is None or f"{part.name}-".startswith(f"{options.only}-")]
    if not options.quick and any(part.name.startswith("ssh") for part in chosen):
        setup.install()
    if not options.quick and upstream_part.PART in chosen:
        setup.install_proxies()
    signal.signal(signal.SIGTERM, _give_up)
    signal.signal(signal.SIGALRM, _give_up)
    signal.alarm(LIMIT)
    lines: list[Line] = []
    for part in chosen:
        lines += measured(part, effort)
    signal.alarm(0)
    print(render(lines))
    if any(part.name.startswith("ssh") for part in chosen) and setup.versions():
        effort.note(f"peers: {setup.versions()}")
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
            return [part.line(row, values) for row in part.rows]
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
