"""Start-up: how long `fleetshell --help` and `fleetshell list` take beside Python itself and `import mcp`."""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path

from support.relay import PROGRAM

from bench.effort import Effort
from bench.peers import make_home, make_key, need, seconds
from bench.table import Part, Row, Values

IMPORT_MCP = 'python -c "import mcp"'
PASS = "python -c pass"
HELP, LIST = "fleetshell --help", "fleetshell list"
ROWS = tuple(
    Row(what, peer, "ms", target) for what in (HELP, LIST) for peer, target in ((IMPORT_MCP, 1 / 8), (PASS, 6))
)


def measure(folder: Path, effort: Effort) -> Values:
    """Start the four in turn, so that all meet the same machine; medians are compared."""
    need(module="mcp")
    home = str(make_home(folder / "home", make_key(folder / "key"), "127.0.0.1", 22, "nobody").path)
    commands = {
        HELP: [*PROGRAM, "--help"],
        LIST: [*PROGRAM, "--home", home, "list"],
        PASS: [sys.executable, "-c", "pass"],
        IMPORT_MCP: [sys.executable, "-c", "import mcp"],
    }
    # Python may be told not to write compiled modules, or may not be allowed to; an installed FleetShell has them, like its peers.
    compiled = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(folder / "compiled")}
    environment = {HELP: compiled, LIST: compiled, PASS: dict(os.environ), IMPORT_MCP: dict(os.environ)}
    for name, command in commands.items():
        _milliseconds(command, environment[name])  # so that compiled modules and disk caches are there for all
    times: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(effort.starts):
        for name, command in commands.items():
            # `import mcp` takes a second or more: a third of the counts must do.
            if name != IMPORT_MCP or number % 3 == 0:
                times[name].append(_milliseconds(command, environment[name]))
    effort.note("start-up, fastest: " + ", ".join(f"{name} {min(found):.0f} ms" for name, found in times.items()))
    return {row: (statistics.median(times[row.what]), statistics.median(times[row.peer])) for row in ROWS}


def _milliseconds(command: list[str], environment: dict[str, str]) -> float:
    return seconds(command, environment) * 1000


PART = Part("startup", ROWS, measure)
