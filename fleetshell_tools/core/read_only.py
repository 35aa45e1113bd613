"""A relay that only reads (`serve --read-only`): which tools it has, and how it refuses the others."""

from __future__ import annotations

from fleetshell_tools.core.errors import Refused
from fleetshell_tools.core.tool import Tool

JUDGED = frozenset({"execute_command", "multi_server_execute", "run_troubleshooting"})
"""Tools whose commands the guard judges one by one, as on a server with `policy: read_only`."""

_HARMLESS = frozenset({"authenticate", "cancel_job"})


def permits(tool: Tool) -> bool:
    """Whether such a relay has a tool."""
    return bool(tool.annotations["readOnlyHint"]) or tool.name in JUDGED | _HARMLESS


def refused(tool: Tool) -> Refused:
    """What a call of another tool is answered."""
    return Refused(
        f"{tool.name} was refused: the operator has started this relay with --read-only, and {tool.name} can change something. "
        "Tools that only read work, and execute_command runs commands that only read."
    )
