"""Writes docs/configuration.md and docs/tools.md from the code: `make docs`; with `--check` it only says whether they are current."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # run as a script, this file's folder is the first on the path

from fleetshell_tools.catalog import TOOLS  # noqa: E402
from fleetshell_tools.core.config import Config  # noqa: E402
from fleetshell_tools.core.mcps import Mcp  # noqa: E402
from fleetshell_tools.core.servers import OWNED_OPTIONS, Server  # noqa: E402
from fleetshell_tools.core.tool import Tool  # noqa: E402

MARK = "<!-- Made by `make docs` from the code. Change it there. -->\n"

PARTS = Path(__file__).with_name("docs_parts")
"""The text around the tables, and the tools' examples."""


def keys(cls: type[Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every key below a dataclass of the configuration: its dotted name, its type and its dataclass field."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from keys(typing.cast(Any, hint), f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", hint, field


def key_table(cls: type[Any], prefix: str = "") -> str:
    """A Markdown table of the keys below `cls`."""
    rows = ["| key | default | allowed | means |", "|---|---|---|---|"]
    for name, hint, field in keys(cls, prefix):
        rules = field.metadata
        rows.append(f"| `{name}` | {_default(field)} | {_cell(_allowed(hint, rules))} | {_cell(rules['doc'])} |")
    return "\n".join(rows)


def _default(field: Any) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return "none"
    value = field.default
    if value is dataclasses.MISSING:
        return "required"
    if value in (None, "", ()):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{json.dumps(list(value))}`"
    return f"`{value}`"


def _allowed(hint: Any, rules: Any) -> str:
    if rules["choices"]:
        words = " or ".join(f"`{choice}`" for choice in rules["choices"])
        return f"a map to {words}" if typing.get_origin(hint) is dict else words
    if rules["means"]:
        return str(rules["means"])
    if rules["low"] is not None or rules["high"] is not None:
        return f"{rules['low']} or more" if rules["high"] is None else f"{rules['low']} to {rules['high']}"
    return _kind(hint)


def _kind(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_kind(argument) for argument in arguments if argument is not type(None))
    if origin in (tuple, list):
        return "a list of texts"
    if origin is dict:
        return "a map of texts" if arguments[1] is str else "a map"
    return {str: "text", int: "a number", bool: "`true` or `false`"}[hint]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def configuration() -> str:
    """The text of docs/configuration.md."""
    groups = []
    for field in dataclasses.fields(Config):
        hint = typing.get_type_hints(Config)[field.name]
        groups.append(f"### `{field.name}`\n\n{field.metadata['doc']}\n\n{key_table(hint, f'{field.name}.')}")
    text = (PARTS / "configuration.md").read_text()
    values = {
        "config": "\n\n".join(groups),
        "server": key_table(Server),
        "mcp": key_table(Mcp),
        "owned": ", ".join(f"`{name}`" for name in sorted(OWNED_OPTIONS)),
    }
    return MARK + _filled(text, values)


def examples() -> dict[str, Any]:
    """Arguments of an example call, by tool."""
    loaded: dict[str, Any] = json.loads((PARTS / "tools.json").read_text())
    return loaded


def tools() -> str:
    """The text of docs/tools.md."""
    shown = examples()
    text = (PARTS / "tools.md").read_text()
    contents = " · ".join(f"[{tool.name}](#{tool.name})" for tool in TOOLS)
    every = "\n\n".join(_tool(tool, shown.get(tool.name)) for tool in TOOLS)
    return MARK + _filled(text, {"contents": contents, "tools": every})


def _filled(text: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def _tool(tool: Tool, example: Any) -> str:
    """One tool's section."""
    definition = tool.definition()
    parts = [f"## {tool.name}", definition["description"], _nature(definition["annotations"])]
    schema = definition["inputSchema"]
    if schema.get("properties"):
        rows = ["| argument | type | means |", "|---|---|---|"]
        for name, rule in schema["properties"].items():
            star = " (required)" if name in schema.get("required", ()) else ""
            rows.append(f"| `{name}`{star} | {_cell(_type(rule))} | {_cell(rule.get('description', ''))} |")
        parts.append("\n".join(rows))
    else:
        parts.append("It takes no arguments.")
    fields = definition["outputSchema"]["properties"].items()
    parts.append("Result: " + ", ".join(f"`{name}` ({_type(rule)})" for name, rule in fields) + ".")
    if example is not None:
        parts.append(f"```json\n{json.dumps({'name': tool.name, 'arguments': example}, ensure_ascii=False)}\n```")
    return "\n\n".join(parts)


def _nature(hints: dict[str, Any]) -> str:
    return "Only reads." if hints["readOnlyHint"] else "May destroy." if hints["destructiveHint"] else "Changes things."


def _type(rule: dict[str, Any]) -> str:
    kind = rule.get("type", "any")
    text = " or ".join(kind) if isinstance(kind, list) else str(kind)
    if "items" in rule:
        text = f"array of {_type(rule['items'])}"
    if "enum" in rule:
        text = " or ".join(f"`{value}`" for value in rule["enum"])
    if "minimum" in rule:
        text += f", {rule['minimum']} to {rule['maximum']}"
    if "default" in rule:
        text += f", default `{json.dumps(rule['default'])}`"
    return text


PAGES = {"docs/configuration.md": configuration, "docs/tools.md": tools}
"""Every page that is made, and by what."""


def main() -> int:
    stale = []
    for name, make in PAGES.items():
        path, text = ROOT / name, make()
        if path.exists() and path.read_text() == text:
            continue
        stale.append(name)
        if "--check" not in sys.argv:
            path.write_text(text)
    print(
        f"written: {', '.join(stale) or 'nothing; all pages are current'}"
        if "--check" not in sys.argv
        else "\n".join(stale)
    )
    return int("--check" in sys.argv and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
