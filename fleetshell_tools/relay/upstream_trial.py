"""Trying an external MCP server once: start it, list its tools, make a harmless call, stop it. For `fleetshell mcp test`."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleetshell_tools.core.context import NoUpstreams
from fleetshell_tools.core.errors import FleetShellError, Refused, Unreachable
from fleetshell_tools.core.home import Home
from fleetshell_tools.core.mcps import Mcp, resolved
from fleetshell_tools.core.text import one_line
from fleetshell_tools.relay import upstream
from fleetshell_tools.relay.upstream import Connection, Hooks, NoHandshake
from fleetshell_tools.relay.upstream_children import Notes
from fleetshell_tools.relay.upstream_direct import ServerError
from fleetshell_tools.relay.upstream_log import UpstreamLog
from fleetshell_tools.relay.upstream_tools import usable

SMOKE_SECONDS = 60.0


@dataclass(frozen=True)
class Trial:
    """How a server did.

    Attributes:
        version: The protocol version that was agreed on; `modern` whether it is one without sessions.
        start_ms: From its start until it had listed its tools.
        tools: Their definitions, as the server wrote them; `refused` has a sentence for each that can't be used.
        smoke: What the harmless call came to, as a sentence; "" where none was made.
    """

    version: str
    modern: bool
    start_ms: int
    tools: list[dict[str, Any]]
    refused: list[str]
    smoke: str = ""
    smoke_ok: bool = True


def try_once(mcp: Mcp, home: Home, smoke: tuple[str, Mapping[str, Any]] | None = None) -> Trial:
    """Start a server beside the relay, and stop it again; what it prints goes to its log.

    Args:
        smoke: A tool and its arguments, for a call that changes nothing.

    Raises:
        FleetShellError: It can't be started, or does not speak MCP.
    """
    if not upstream.available():
        raise Refused(NoUpstreams.WHY)
    values, secrets = resolved(mcp, home.path)
    log = UpstreamLog(home.logs / f"mcp-{mcp.id}.log", secrets)
    # The relay owns the list of what it runs; a trial's process is in none that the relay would end.
    with tempfile.TemporaryDirectory(prefix="fleetshell-") as folder:
        notes = Notes(Path(folder, "mcps.json"))
        try:
            if mcp.url:
                return asyncio.run(_try(mcp, values, "auto", log, notes, smoke))
            try:
                return asyncio.run(_try(mcp, values, "legacy", log, notes, smoke))
            except NoHandshake:
                return asyncio.run(_try(mcp, values, "auto", log, notes, smoke))
        finally:
            notes.close()
            log.close()


async def _try(
    mcp: Mcp,
    values: Mapping[str, str],
    mode: str,
    log: UpstreamLog,
    notes: Notes,
    smoke: tuple[str, Mapping[str, Any]] | None,
) -> Trial:
    started = time.monotonic()
    try:
        async with upstream.connect(mcp, values, mode, log, notes, Hooks(lambda kind: None, _nobody)) as connection:
            tools, refused = usable(await connection.list("tools"))
            took = round((time.monotonic() - started) * 1000)
            said, fine = await _smoke(connection, smoke, log) if smoke else ("", True)
            return Trial(connection.version, connection.modern, took, tools, refused, said, fine)
    except ServerError as error:
        raise Unreachable(f"{mcp.id} answers with error {error.code}: {error.message}", step="start") from None


async def _smoke(connection: Connection, smoke: tuple[str, Mapping[str, Any]], log: UpstreamLog) -> tuple[str, bool]:
    name, arguments = smoke
    try:
        result = await asyncio.wait_for(connection.call(name, arguments, None, _nobody), SMOKE_SECONDS)
    except asyncio.TimeoutError:
        return f"{name} did not answer within {SMOKE_SECONDS:g} s", False
    except (FleetShellError, ServerError) as error:
        return f"{name}: {error}", False
    texts = [str(block.get("text", "")) for block in result.get("content") or () if isinstance(block, dict)]
    said = one_line(log.hide(" ".join(texts)), 200)
    return f"{name}: {said}", not result.get("isError")


async def _nobody(method: str, params: dict[str, Any]) -> dict[str, Any]:
    raise Refused("Nobody is there to be asked: this is a trial.")
