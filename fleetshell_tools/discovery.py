"""Finding servers: `list_servers`, `search_servers` and `get_server_context`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from fleetshell_tools.core import yamlfile
from fleetshell_tools.core.context import Context
from fleetshell_tools.core.server_context import server_context
from fleetshell_tools.core.servers import Server
from fleetshell_tools.core.text import one_line
from fleetshell_tools.core.tool import Output, tool

SHOWN = 200
"""Servers that one answer lists; more is noise in a model's context."""


@dataclass(frozen=True)
class ServerList(Output):
    servers: list[dict[str, Any]]
    count: int
    disabled: list[dict[str, str]]
    notice: str | None = None

    def text(self) -> str:
        lines = [f"Found {self.count} server{'s' if self.count != 1 else ''}"]
        for server in self.servers:
            facts = [server["hostname"], server["environment"], ", ".join(server["tags"])]
            purpose = f": {one_line(server['purpose'], 120)}" if server["purpose"] else ""
            lines.append(f"- {server['id']} ({'; '.join(fact for fact in facts if fact)}){purpose}")
        lines += [f"- {item['id']} is disabled: {item['reason']}" for item in self.disabled]
        return "\n".join([*lines, *([self.notice] if self.notice else [])])


@dataclass(frozen=True)
class ServerContext(Output):
    id: str
    hostname: str
    tags: list[str]
    context: dict[str, Any]
    services: dict[str, Any]
    paths: dict[str, Any]
    troubleshooting: dict[str, Any]
    monitoring: dict[str, Any]
    ssh: dict[str, Any]
    host_keys: list[str]
    connection: dict[str, Any]

    def text(self) -> str:
        shown = {key: value for key, value in self.structured().items() if value not in ({}, [])}
        return yamlfile.dump(shown).rstrip()


def summary(server: Server, ctx: Context) -> dict[str, Any]:
    """One server in a list."""
    return {
        "id": server.id,
        "hostname": server.hostname,
        "environment": server.environment,
        "tags": list(server.tags),
        "purpose": server.purpose,
        "connection": ctx.fleet.connection_state(server).state,
    }


def _listed(ctx: Context, servers: list[Server], disabled: dict[str, str]) -> ServerList:
    notice = None
    if not servers and not disabled and not ctx.inventory.ids():
        notice = "No server is registered yet. The operator adds one with `fleetshell add-server`."
    elif len(servers) > SHOWN:
        notice = f"Only the first {SHOWN} are shown; narrow it down with search_servers."
    shown = [summary(server, ctx) for server in servers[:SHOWN]]
    return ServerList(shown, len(servers), [{"id": key, "reason": why} for key, why in disabled.items()], notice)


@tool(title="List servers", read_only=True, open_world=False, quick=True)
def list_servers(
    ctx: Context,
    tag: Annotated[str | None, "Only servers with this tag"] = None,
    environment: Annotated[str | None, "Only servers of this environment, such as production"] = None,
) -> ServerList:
    """List the registered servers with their tags, environment and purpose."""
    if tag or environment:
        return _listed(ctx, ctx.inventory.matching([tag] if tag else [], environment), {})
    return _listed(ctx, *ctx.inventory.listing())


@tool(title="Search servers", read_only=True, open_world=False)
def search_servers(
    ctx: Context,
    query: Annotated[
        str | None, "Words that must all occur in a server's id, host name, tags, services or context"
    ] = None,
    tags: Annotated[list[str] | None, "Only servers that have every one of these tags"] = None,
    environment: Annotated[str | None, "Only servers of this environment"] = None,
) -> ServerList:
    """Search servers by text, tags and environment."""
    words = (query or "").lower().split()
    servers = ctx.inventory.matching(tags or [], environment)
    return _listed(ctx, [server for server in servers if all(word in _haystack(server) for word in words)], {})


def _haystack(server: Server) -> str:
    sections = (server.context, server.services, server.paths, server.troubleshooting, server.monitoring)
    return "\n".join(
        [server.id, server.hostname, *server.tags, *(word for section in sections for word in _words(section))]
    ).lower()


def _words(value: Any) -> Iterator[str]:
    """Every key and value of free-form data as text."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _words(item)
    elif isinstance(value, list):
        for item in value:
            yield from _words(item)
    elif value is not None:
        yield str(value)


@tool(title="Show a server's context", read_only=True, open_world=False)
def get_server_context(ctx: Context, server_id: Annotated[str, "The server's id, from list_servers"]) -> ServerContext:
    """Show all that is known about one server: services, paths, named checks, notes, pinned host keys, connection."""
    return ServerContext(**server_context(ctx.inventory, ctx.fleet, server_id))
