"""External prompts as clients see them: `<mcp_id>__<name>`, their texts clean and short."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fleetshell_tools.core.text import clean, one_line
from fleetshell_tools.relay.upstream_tools import MAX_NAME, listed_name

MAX_PROMPTS = 128
MAX_ARGUMENTS = 32


@dataclass(frozen=True)
class UpstreamPrompt:
    """One usable prompt: its name as the server says it, and how it is listed."""

    name: str
    listed: str
    definition: dict[str, Any]


def usable_prompts(mcp_id: str, definitions: list[Any]) -> tuple[tuple[UpstreamPrompt, ...], list[str]]:
    """The prompts that a server's list gives, and a sentence for each that is refused."""
    found: dict[str, UpstreamPrompt] = {}
    refused = []
    for definition in definitions[:MAX_PROMPTS]:
        name = definition.get("name") if isinstance(definition, dict) else None
        if (
            not isinstance(name, str)
            or not name
            or len(name) > MAX_NAME
            or clean(name) != name
            or not name.isprintable()
        ):
            refused.append(f"Its prompt {one_line(str(name), 80)} is refused: its name can't be used.")
            continue
        listed = listed_name(mcp_id, name)
        if listed in found:
            refused.append(f"Its prompt {name} is refused: with {found[listed].name} it shares {listed}.")
            continue
        found[listed] = UpstreamPrompt(name, listed, _definition(listed, definition))
    if len(definitions) > MAX_PROMPTS:
        refused.append(f"It has {len(definitions):,} prompts; only the first {MAX_PROMPTS} are used.")
    return tuple(found.values()), refused


def _definition(listed: str, definition: dict[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": listed}
    for key, limit in (("title", 100), ("description", 1000)):
        if isinstance(definition.get(key), str):
            shown[key] = one_line(definition[key], limit)
    arguments = []
    given = definition.get("arguments")
    for argument in (given if isinstance(given, list) else [])[:MAX_ARGUMENTS]:
        if isinstance(argument, dict) and isinstance(argument.get("name"), str):
            made: dict[str, Any] = {"name": clean(argument["name"]), "required": argument.get("required") is True}
            if isinstance(argument.get("description"), str):
                made["description"] = one_line(argument["description"], 500)
            arguments.append(made)
    if arguments:
        shown["arguments"] = arguments
    return shown
