"""An external MCP server as `list_external_mcps` and `fleetshell mcp list` show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fleetshell_tools.core.mcps import Mcp
from fleetshell_tools.core.text import one_line
from fleetshell_tools.relay.upstream_supervisor import Supervisor
from fleetshell_tools.relay.upstream_tools import UpstreamTool

DESCRIPTION = 300
"""The longest description of a tool in a listing, in characters."""


def described(
    mcp: Mcp,
    supervisor: Supervisor | None,
    exposed: Mapping[str, tuple[Mcp, UpstreamTool]],
    clashes: Sequence[str],
    query: str,
) -> dict[str, Any]:
    """The state of one server whose file is good, with the tools whose name or description has every word of `query`."""
    entry: dict[str, Any] = {
        "id": mcp.id,
        "name": one_line(mcp.title, 100),
        "description": one_line(mcp.description, 500),
        "tags": [one_line(tag, 64) for tag in mcp.tags],
        "enabled": mcp.enabled,
        "transport": mcp.transport,
        "status": "disabled" if not mcp.enabled else "stopped",
        "tools": [],
        "error": None,
    }
    if supervisor is None or supervisor.mcp.id != mcp.id:
        return entry
    known = supervisor.known
    words = query.lower().split()
    listed = {tool.name for other, tool in exposed.values() if other.id == mcp.id}
    entry["tools"] = [
        {"name": tool.name, "description": one_line(tool.description, DESCRIPTION), "listed": tool.name in listed}
        for tool in known.tools
        if all(word in f"{tool.name} {tool.description}".lower() for word in words)
    ]
    failing = supervisor.status in ("waiting", "failed") or (supervisor.error and supervisor.status != "ready")
    entry.update(
        status=supervisor.status,
        error=one_line(supervisor.error, 1000) if failing else None,
        tool_count=len(known.tools),
        definition_bytes=sum(tool.size for tool in known.tools),
        listed_directly=len(listed),
        protocol_version=supervisor.version or None,
        pid=supervisor.pid,
        restarts=max(supervisor.restarts, 0),
        quarantined=[{"name": name, "difference": lines} for name, lines in (known.quarantined or {}).items()],
        problems=[*known.problems, *(sentence for sentence in clashes if sentence.startswith(f"{mcp.id}: "))][:20],
    )
    return entry
