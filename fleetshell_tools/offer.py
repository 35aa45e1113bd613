"""What the relay offers besides tools: prompts, resources and completion, as the answers of the MCP methods.

A list may not change with authentication (MCP 2026-07-28), and clients ask for it at their start, so whoever has the API
key sees all of it. A prompt's name, description and arguments stand in one; its text does not. The servers' ids would tell
what `list_servers` keeps locked: while a one-time code is needed, `resources/list` is empty and the template alone says
where a server's context lies. Each method in `NEEDS_GRANT` is locked as the tools are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import unquote

from fleetshell_tools.core.context import Context
from fleetshell_tools.core.errors import BadArgument, NotFound
from fleetshell_tools.core.prompt_file import Prompt
from fleetshell_tools.core.prompts import PromptStore, rendered
from fleetshell_tools.core.server_context import server_context
from fleetshell_tools.core.servers import Inventory
from fleetshell_tools.core.text import one_line

LISTS = frozenset({"prompts/list", "resources/list", "resources/templates/list"})
NEEDS_GRANT = frozenset({"prompts/get", "resources/read", "completion/complete"})
"""Completion too: it tells the ids of servers and sessions."""

TEMPLATE = "fleetshell://servers/{id}"
JSON = "application/json"
MOST_VALUES = 100
"""Values of one completion (MCP, "Completion")."""


def listing(method: str, prompts: PromptStore, inventory: Inventory, *, locked: bool) -> list[dict[str, Any]] | None:
    """The entries of one of `LISTS`; None for another method.

    Args:
        locked: Whether this relay needs a one-time code; a setting of the relay, never the state of a client.
    """
    if method == "prompts/list":
        return [_prompt(prompt) for prompt in prompts.all()[0]]
    if method == "resources/list":
        return [] if locked else [_resource(server.id, server.purpose) for server in inventory.all()]
    if method == "resources/templates/list":
        about = "A server's services, paths, named checks, notes, pinned host keys and connection; list_servers has the ids."
        return [
            {
                "uriTemplate": TEMPLATE,
                "name": "server",
                "title": "Server context",
                "description": about,
                "mimeType": JSON,
            }
        ]
    return None


def answer(ctx: Context, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """The result of one of the methods in `NEEDS_GRANT`; that the caller has the grant must have been checked.

    Raises:
        BadArgument, NotFound: For -32602, Invalid params; a missing resource is `NotFound`.
        ConfigError: The prompt's or the server's file is damaged.
    """
    return {"prompts/get": _get_prompt, "resources/read": _read_resource, "completion/complete": _complete}[method](
        ctx, params
    )


def _prompt(prompt: Prompt) -> dict[str, Any]:
    arguments = []
    for name in prompt.arguments:
        about = one_line(prompt.argument_description(name))
        arguments.append({"name": name, **({"description": about} if about else {}), "required": True})
    title = {"title": one_line(prompt.title, 100)} if prompt.title else {}
    return {"name": prompt.name, **title, "description": _described(prompt), "arguments": arguments}


def _described(prompt: Prompt) -> str:
    by_a_model = " (written by a model)" if prompt.author == "model" else ""
    return f"{one_line(prompt.description, 500)}{by_a_model}"


def _resource(server_id: str, purpose: str) -> dict[str, Any]:
    about = {"description": one_line(purpose)} if purpose else {}
    return {"uri": TEMPLATE.replace("{id}", server_id), "name": server_id, **about, "mimeType": JSON}


def _get_prompt(ctx: Context, params: Mapping[str, Any]) -> dict[str, Any]:
    name, arguments = _text(params, "name"), _texts(params, "arguments")
    if _external(ctx, name) is not None:
        return ctx.upstreams.get_prompt(ctx.caller, name, arguments, cancelled=ctx.cancelled, ask=ctx.ask)
    prompt = ctx.prompts.get(name)
    text = rendered(prompt, arguments, ctx.inventory)
    message = {"role": "user", "content": {"type": "text", "text": text}}
    return {"description": _described(prompt), "messages": [message]}


def _external(ctx: Context, name: str) -> dict[str, Any] | None:
    """The definition of an external server's prompt, unless the prompt database has one of that name."""
    found = next((prompt for prompt in ctx.upstreams.prompts() if prompt["name"] == name), None)
    return None if found is None or name in ctx.prompts.names() else found


def _read_resource(ctx: Context, params: Mapping[str, Any]) -> dict[str, Any]:
    uri = _text(params, "uri")
    match = re.fullmatch(r"fleetshell://servers/([^/?#]+)", uri)
    if match is None:
        raise NotFound(
            f'There is no resource "{one_line(uri, 100)}". Servers are at {TEMPLATE}; list_servers has the ids.'
        )
    context = server_context(
        ctx.inventory, ctx.fleet, ctx.notes, unquote(match[1]), ctx.config.security.max_output_bytes // 2
    )
    return {"contents": [{"uri": uri, "mimeType": JSON, "text": json.dumps(context, indent=2, ensure_ascii=False)}]}


def _complete(ctx: Context, params: Mapping[str, Any]) -> dict[str, Any]:
    reference, argument = _object(params, "ref"), _object(params, "argument")
    name, typed = _text(argument, "name"), _text(argument, "value")
    if reference.get("type") == "ref/prompt":
        prompt = _text(reference, "name")
        external = _external(ctx, prompt)
        if external is None:
            known, source = ctx.prompts.get(prompt).arguments, SOURCES.get(name, _nothing)
        else:  # what an external server means by `server` is not known here
            known, source = [argument["name"] for argument in external.get("arguments", ())], _nothing
    elif reference.get("type") == "ref/resource":
        if reference.get("uri") != TEMPLATE:
            raise BadArgument(f"`ref.uri` is no resource template of this relay; the one that there is: {TEMPLATE}.")
        known, source = ["id"], _servers
    else:
        raise BadArgument("`ref.type` must be ref/prompt or ref/resource.")
    if name not in known:
        raise BadArgument(f"There is no argument `{one_line(name, 80)}` here. Known: {', '.join(known) or 'none'}.")
    chosen = _texts(_object(params, "context") if params.get("context") is not None else {}, "arguments")
    values = _matching(typed, source(ctx, chosen))
    shown = values[:MOST_VALUES]
    return {"completion": {"values": shown, "total": len(values), "hasMore": len(values) > len(shown)}}


def _matching(typed: str, values: Iterable[str]) -> list[str]:
    """The values that begin with what was typed, then those that hold it elsewhere; case does not matter."""
    wanted = typed.lower()
    found = sorted({value for value in values if wanted in value.lower()})
    return sorted(found, key=lambda value: not value.lower().startswith(wanted))


def _nothing(ctx: Context, chosen: Mapping[str, str]) -> Iterable[str]:
    return ()


def _servers(ctx: Context, chosen: Mapping[str, str]) -> Iterable[str]:
    return (server.id for server in ctx.inventory.all())


def _sessions(ctx: Context, chosen: Mapping[str, str]) -> Iterable[str]:
    wanted = _chosen_server(chosen)
    return (info.session_id for info in ctx.fleet.shells.active(ctx.caller) if wanted in (None, info.server_id))


def _services(ctx: Context, chosen: Mapping[str, str]) -> Iterable[str]:
    wanted = _chosen_server(chosen)
    return (
        str(name)
        for server in ctx.inventory.all()
        if wanted in (None, server.id)
        for name in server.section("services")
    )


def _environments(ctx: Context, chosen: Mapping[str, str]) -> Iterable[str]:
    return (server.environment for server in ctx.inventory.all() if server.environment)


def _tags(ctx: Context, chosen: Mapping[str, str]) -> Iterable[str]:
    return (tag for server in ctx.inventory.all() for tag in server.tags)


def _chosen_server(chosen: Mapping[str, str]) -> str | None:
    """The server that the client has filled in already."""
    return chosen.get("server_id") or chosen.get("server")


SOURCES: dict[str, Callable[[Context, Mapping[str, str]], Iterable[str]]] = {
    "server": _servers,
    "server_id": _servers,
    "session": _sessions,
    "session_id": _sessions,
    "service": _services,
    "service_name": _services,
    "environment": _environments,
    "tag": _tags,
}
"""Where the values of a prompt's argument come from, by the argument's name; any other name completes to nothing."""


def _text(params: Mapping[str, Any], key: str) -> str:
    value = params.get(key)
    if not isinstance(value, str) or "\0" in value:
        raise BadArgument(f"`{key}` is {'missing' if value is None else 'no text'}; it must be text.")
    return value


def _object(params: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = params.get(key)
    if not isinstance(value, dict):
        raise BadArgument(f"`{key}` is {'missing' if value is None else 'no object'}; it must be an object.")
    return value


def _texts(params: Mapping[str, Any], key: str) -> dict[str, str]:
    """An object with text values, empty where there is none."""
    value = params.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) and "\0" not in item for item in value.values()):
        raise BadArgument(f"`{key}` must be an object with text values.")
    return value
