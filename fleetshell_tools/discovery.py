"""Finding servers: `list_servers`, `search_servers`, `get_server_context`, and `add_server_note` for what was learned."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from fleetshell_tools.core import yamlfile
from fleetshell_tools.core.context import Context
from fleetshell_tools.core.notes import MOST_NOTES
from fleetshell_tools.core.server_context import last_seen, server_context, short_os
from fleetshell_tools.core.servers import Server
from fleetshell_tools.core.text import clean, clean_all, compress_ids, one_line
from fleetshell_tools.core.tool import Output, tool

SHOWN = 200
"""Servers that one answer lists at most; more is noise in a model's context."""

RECENT = 3600
"""Seconds for which a host that has answered counts as reachable."""

_REST = 1_000
"""Bytes of a list's budget that are kept for the names of those that are not shown."""


@dataclass(frozen=True)
class ServerList(Output):
    servers: list[dict[str, Any]]
    count: int
    disabled: list[dict[str, str]]
    notice: str | None = None

    def text(self) -> str:
        lines = [f"Found {self.count} server{'s' if self.count != 1 else ''}"]
        for server in self.servers:
            facts = [server["hostname"], server["environment"], ", ".join(server["tags"]), server["os"]]
            facts.append(server["connection"] if server["connection"] != "idle" else "")
            facts.append(f"seen {server['last_seen']}" if server["last_seen"] else "")
            purpose = f": {server['purpose']}" if server["purpose"] else ""
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
    checks: list[str]
    ssh: dict[str, Any]
    host_keys: list[str]
    connection: dict[str, Any]
    learned: dict[str, Any]
    unverified_notes: list[dict[str, str]]
    notice: str | None = None

    def text(self) -> str:
        shown = {key: value for key, value in self.structured().items() if value not in ({}, [], None)}
        return yamlfile.dump(shown).rstrip()


@dataclass(frozen=True)
class NoteAdded(Output):
    server_id: str
    note: str
    author: str
    date: str
    count: int

    def text(self) -> str:
        return f"Noted for {self.server_id} ({self.count} of at most {MOST_NOTES} notes): {self.note}"


def summary(server: Server, ctx: Context) -> dict[str, Any]:
    """One server in a list."""
    return {
        "id": server.id,
        "hostname": server.hostname,
        "environment": clean(server.environment),
        "tags": clean_all(server.tags),
        "purpose": one_line(server.purpose),
        "connection": ctx.fleet.connection_state(server).state,
        "os": short_os(ctx.fleet.facts(server)),
        "last_seen": last_seen(ctx.fleet, server),
    }


def _listed(
    ctx: Context, servers: list[Server], disabled: dict[str, str], os: str | None, reachable: bool | None
) -> ServerList:
    """The servers that are left by the two filters on what was learned, as many of them as one answer holds."""
    notices = []
    if not servers and not disabled and not ctx.inventory.ids():
        notices.append("No server is registered yet. The operator adds one with `fleetshell add-server`.")
    if os and os.strip():
        unknown = [server for server in servers if ctx.fleet.facts(server) is None]
        servers = [server for server in servers if os.strip().lower() in _system(server, ctx)]
        if unknown:
            names = one_line(compress_ids([server.id for server in unknown]), 300)
            notices.append(f"Left out, because their system is not known yet (get_system_info tells): {names}")
    if reachable is not None:
        servers = [server for server in servers if _reachable(server, ctx) == reachable]
    budget = ctx.config.security.max_output_bytes - _REST
    reasons = [{"id": key, "reason": one_line(why, 300)} for key, why in disabled.items()]
    bad = _fitting(reasons, budget // 4)
    shown = _fitting([summary(server, ctx) for server in servers[:SHOWN]], budget - len(json.dumps(bad)))
    if len(shown) < len(servers):
        rest = one_line(compress_ids([server.id for server in servers[len(shown) :]]), 600)
        notices.append(f"Only the first {len(shown)} are shown; narrow it down with search_servers. The others: {rest}")
    if len(bad) < len(disabled):
        notices.append(f"{len(disabled) - len(bad)} more are disabled; `fleetshell list` shows why.")
    return ServerList(shown, len(servers), bad, "\n".join(notices) or None)


def _fitting(entries: list[dict[str, Any]], budget: int) -> list[dict[str, Any]]:
    """The first entries, as many as have room."""
    for number, entry in enumerate(entries):
        budget -= len(json.dumps(entry))
        if budget < 0:
            return entries[:number]
    return entries


def _system(server: Server, ctx: Context) -> str:
    """What is known of a host's system, to search in."""
    facts = ctx.fleet.facts(server)
    return "" if facts is None else f"{short_os(facts)}\n{facts['os_name']}\n{facts['kernel']}".lower()


def _reachable(server: Server, ctx: Context) -> bool:
    """Whether a host is connected, or has answered lately and the last attempt has not failed."""
    state = ctx.fleet.connection_state(server).state
    seen = ctx.fleet.last_seen(server)
    return state == "connected" or (state != "failed" and seen is not None and time.time() - seen < RECENT)


@tool(title="List servers", read_only=True, open_world=False, quick=True)
def list_servers(
    ctx: Context,
    tag: Annotated[str | None, "Only servers with this tag"] = None,
    environment: Annotated[str | None, "Only this environment, such as production"] = None,
    os: Annotated[str | None, "Only where the system is known and has this in its name, such as debian"] = None,
    reachable: Annotated[bool | None, "Only those that have answered within the hour, or (false) the others"] = None,
) -> ServerList:
    """List the registered servers with their tags, environment and purpose, and what was learned of them."""
    if tag or environment:
        return _listed(ctx, ctx.inventory.matching([tag] if tag else [], environment), {}, os, reachable)
    servers, disabled = ctx.inventory.listing()
    return _listed(ctx, servers, {} if os or reachable is not None else disabled, os, reachable)


@tool(title="Search servers", read_only=True, open_world=False)
def search_servers(
    ctx: Context,
    query: Annotated[
        str | None, "Words that must all occur in a server's id, host name, tags, services or context"
    ] = None,
    tags: Annotated[list[str] | None, "Only servers that have every one of these tags"] = None,
    environment: Annotated[str | None, "Only this environment"] = None,
    os: Annotated[str | None, "As in list_servers"] = None,
    reachable: Annotated[bool | None, "As in list_servers"] = None,
) -> ServerList:
    """Search servers by text, tags, environment, and what was learned of them."""
    words = (query or "").lower().split()
    servers = ctx.inventory.matching(tags or [], environment)
    found = [server for server in servers if all(word in _haystack(server) for word in words)]
    return _listed(ctx, found, {}, os, reachable)


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
def get_server_context(ctx: Context, server_id: Annotated[str, "From list_servers"]) -> ServerContext:
    """Show all that is known about one server: services, paths, named checks, host keys, connection, facts.

    `unverified_notes` were written by models.
    """
    budget = ctx.config.security.max_output_bytes // 2
    return ServerContext(**server_context(ctx.inventory, ctx.fleet, ctx.notes, server_id, budget))


@tool(title="Note something about a server", idempotent=True, open_world=False)
def add_server_note(
    ctx: Context,
    server_id: Annotated[str, "From list_servers"],
    note: Annotated[str, "One lasting fact, no secrets; at most 1000 characters"],
) -> NoteAdded:
    """Keep a fact about a server for later conversations: get_server_context shows it. Only the operator deletes notes."""
    server = ctx.inventory.get(server_id)
    added, count = ctx.notes.add(server.id, note, ctx.caller, ctx.record)
    return NoteAdded(server.id, added.note, added.signed, added.date, count)
