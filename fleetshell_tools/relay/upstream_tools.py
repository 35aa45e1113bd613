"""External tools as clients see them: checked definitions, names that cannot shadow ours, the budget of what is listed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fleetshell_tools.core.mcps import Mcp
from fleetshell_tools.core.text import clean, one_line

MAX_TOOLS = 512
"""The most tools that are taken of one server."""
MAX_DEFINITION = 64 * 1024
MAX_DEPTH = 24
MAX_DESCRIPTION = 8192
MAX_NAME = 128
LISTED_NAME = 47
"""The longest listed name: clients put up to 17 characters before it, and some allow 64."""

_ILLEGAL = re.compile(r"[^A-Za-z0-9_-]")
_HINTS = ("readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")


@dataclass(frozen=True)
class UpstreamTool:
    """One usable tool of a server.

    Attributes:
        name: As the server calls it.
        listed: As clients see it where it is listed directly.
        definition: As it is listed, under `listed`.
        size: The bytes of that.
    """

    name: str
    listed: str
    definition: dict[str, Any]
    size: int

    @property
    def description(self) -> str:
        return str(self.definition.get("description", ""))


def listed_name(mcp_id: str, name: str) -> str:
    """`<mcp_id>__<tool>` of letters, digits, `_` and `-`; what is too long ends in a hash of the whole."""
    whole = f"{mcp_id}__{_ILLEGAL.sub('_', name)}"
    if len(whole) <= LISTED_NAME:
        return whole
    return f"{whole[: LISTED_NAME - 9]}_{hashlib.sha256(f'{mcp_id}__{name}'.encode()).hexdigest()[:8]}"


def usable(definitions: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """What of a server's list of tools can be used at all, as the server wrote it.

    Returns:
        The definitions, and a sentence for each that is refused.
    """
    found: dict[str, dict[str, Any]] = {}
    refused: list[str] = []
    if not isinstance(definitions, list):
        return [], ["Its list of tools is no list."]
    for definition in definitions[:MAX_TOOLS]:
        why = _problem(definition)
        name = definition.get("name") if isinstance(definition, dict) else None
        shown = one_line(str(name), 80) or "without a name"
        if not why and name in found:
            why = "stands in the list twice"
        if why:
            refused.append(f"Its tool {shown} is refused: it {why}.")
        else:
            found[str(name)] = definition
    if len(definitions) > MAX_TOOLS:
        refused.append(f"It has {len(definitions):,} tools; only the first {MAX_TOOLS} are used.")
    return list(found.values()), refused


def _problem(definition: Any) -> str:
    if not isinstance(definition, dict):
        return "is no object"
    name = definition.get("name")
    if not isinstance(name, str) or not name or len(name) > MAX_NAME:
        return f"has no name of 1 to {MAX_NAME} characters"
    if clean(name) != name or not name.isprintable():
        return "has control or invisible characters in its name"
    schema = definition.get("inputSchema")
    if not isinstance(schema, dict) or schema.get("type") != "object":
        return "has no input schema of type object"
    try:
        if len(json.dumps(definition)) > MAX_DEFINITION:
            return f"has a definition of more than {MAX_DEFINITION // 1024} KiB"
    except (RecursionError, ValueError):
        return "has a definition that is nested too deeply"
    if not isinstance(definition.get("description", ""), str):
        return "has a description that is no text"
    for key in ("inputSchema", "outputSchema"):
        why = _schema_problem(definition.get(key), MAX_DEPTH)
        if why:
            return f"has a schema that {why}"
    return ""


def _schema_problem(schema: Any, depth: int) -> str:
    """Why a schema is refused; a remote reference would make clients fetch an address that the server chose."""
    if depth == 0:
        return f"is nested deeper than {MAX_DEPTH} levels"
    if isinstance(schema, dict):
        for key in ("$ref", "$dynamicRef", "$recursiveRef"):
            reference = schema.get(key)
            if isinstance(reference, str) and not reference.startswith("#"):
                return f"refers to another place ({one_line(reference, 100)})"
        parts: Iterable[Any] = schema.values()
    elif isinstance(schema, list):
        parts = schema
    else:
        return ""
    return next((why for part in parts if (why := _schema_problem(part, depth - 1))), "")


def examined(mcp_id: str, definitions: Sequence[Mapping[str, Any]]) -> tuple[list[UpstreamTool], list[str]]:
    """The tools that these definitions, usable ones, give; and a sentence for each whose listed name is taken."""
    tools: dict[str, UpstreamTool] = {}
    refused = []
    for definition in definitions:
        tool = _tool(mcp_id, definition)
        if tool.listed in tools:
            other = tools[tool.listed].name
            refused.append(
                f"Its tool {one_line(tool.name, 80)} is refused: with {one_line(other, 80)} it shares {tool.listed}."
            )
        else:
            tools[tool.listed] = tool
    return list(tools.values()), refused


def _tool(mcp_id: str, definition: Mapping[str, Any]) -> UpstreamTool:
    name = str(definition["name"])
    shown: dict[str, Any] = {"name": listed_name(mcp_id, name)}
    annotations = definition.get("annotations")
    annotations = annotations if isinstance(annotations, dict) else {}
    title = definition.get("title") or annotations.get("title")
    if isinstance(title, str) and title:
        shown["title"] = one_line(title, 100)
    description = clean(definition.get("description") or "")
    if description:
        shown["description"] = description[:MAX_DESCRIPTION]
    shown["inputSchema"] = _schema(definition["inputSchema"])
    output = definition.get("outputSchema")
    if isinstance(output, dict) and output.get("type") == "object":
        shown["outputSchema"] = _schema(output)
    hints = {key: annotations[key] for key in _HINTS if isinstance(annotations.get(key), bool)}
    if hints:
        shown["annotations"] = hints
    return UpstreamTool(name, shown["name"], shown, len(json.dumps(shown, separators=(",", ":"))))


def _schema(value: Any) -> Any:
    """A schema with clean texts, and without `x-mcp-header`: that header is between the server and us."""
    if isinstance(value, dict):
        return {clean(key): _schema(part) for key, part in value.items() if key != "x-mcp-header"}
    if isinstance(value, list):
        return [_schema(part) for part in value]
    return clean(value) if isinstance(value, str) else value


def exposed(
    servers: Iterable[tuple[Mcp, Sequence[UpstreamTool]]], server_bytes: int, total_bytes: int
) -> tuple[dict[str, tuple[Mcp, UpstreamTool]], list[str]]:
    """Which tools are listed directly, by their listed names: what the files ask for, then servers that fit the budget whole.

    Returns:
        The tools, and a sentence for each whose name another server has taken.
    """
    chosen: dict[str, tuple[Mcp, UpstreamTool]] = {}
    refused: list[str] = []
    left = total_bytes
    ordered = sorted(servers, key=lambda server: (server[0].expose is None, server[0].id))
    for mcp, tools in ordered:
        size = sum(tool.size for tool in tools)
        if mcp.expose is None:
            wanted = list(tools) if size <= min(server_bytes, left) else []
        elif isinstance(mcp.expose, str):
            wanted = list(tools) if mcp.expose == "all" else []
        else:
            wanted = [tool for tool in tools if tool.name in mcp.expose]
        for tool in wanted:
            if tool.listed in chosen:
                other = chosen[tool.listed][0].id
                refused.append(
                    f"{mcp.id}: the tool {one_line(tool.name, 80)} is not listed: {other} has {tool.listed} too."
                )
                continue
            chosen[tool.listed] = (mcp, tool)
            left -= tool.size
    return dict(sorted(chosen.items())), refused
