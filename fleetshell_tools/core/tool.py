"""Declaring a tool: the signature is the schema, the docstring the description, the annotations say what it may do."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fleetshell_tools.core.errors import BadArgument
from fleetshell_tools.core.words import nearest


@dataclass(frozen=True)
class Range:
    """Limits of a number, both included."""

    low: int
    high: int


@dataclass(frozen=True)
class Pattern:
    """What a text must match as a whole, and that in words."""

    regex: str
    means: str


class Output:
    """Base of the dataclasses that tools return: fields become `structuredContent`, `text` is for the model to read."""

    def text(self) -> str:
        """The result as text; its first line says what came of it."""
        raise TypeError(f"{type(self).__name__} says nothing about its text")

    def structured(self) -> dict[str, Any]:
        """The result as JSON, conforming to the declared output schema; fields hold plain data, which is not copied."""
        return dict(vars(self))


@dataclass(frozen=True)
class Parameter:
    """One argument of a tool."""

    name: str
    hint: Any
    required: bool
    default: Any
    description: str
    rules: tuple[Range | Pattern, ...]

    def schema(self) -> dict[str, Any]:
        schema = _json_type(self.hint)
        for rule in self.rules:
            if isinstance(rule, Range):
                schema.update(minimum=rule.low, maximum=rule.high)
            else:
                schema["pattern"] = f"^(?:{rule.regex})$"
        if self.default not in (None, [], {}) and not self.required:
            schema["default"] = self.default
        if self.description:
            schema["description"] = self.description
        return schema


@dataclass(frozen=True)
class Tool:
    """A declared tool: how clients see it, and the function behind it."""

    name: str
    title: str
    description: str
    annotations: Mapping[str, Any]
    parameters: tuple[Parameter, ...]
    output: type[Output]
    function: Callable[..., Output]
    needs_grant: bool = True
    quick: bool = False

    def definition(self) -> dict[str, Any]:
        """The tool as `tools/list` shows it."""
        properties = {parameter.name: parameter.schema() for parameter in self.parameters}
        required = [parameter.name for parameter in self.parameters if parameter.required]
        schema: dict[str, Any] = {"type": "object"}
        if properties:
            schema["properties"] = properties
        if required:
            schema["required"] = required
        schema["additionalProperties"] = False
        return {
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "inputSchema": schema,
            "outputSchema": output_schema(self.output),
            "annotations": dict(self.annotations),
        }

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Check a call's arguments; lists and objects that arrive as JSON strings are decoded.

        Raises:
            BadArgument: Names the argument, what was given and what is allowed.
        """
        known = {parameter.name: parameter for parameter in self.parameters}
        for name in given:
            if name not in known:
                allowed = ", ".join(known) or "none"
                raise BadArgument(
                    f'{self.name} has no argument "{name}".{nearest(name, known)} Its arguments: {allowed}.'
                )
        values: dict[str, Any] = {}
        for parameter in self.parameters:
            value = given.get(parameter.name)
            if value is None:
                if parameter.required:
                    raise BadArgument(f"{self.name} needs the argument `{parameter.name}` ({_allowed(parameter)}).")
                continue
            values[parameter.name] = _check(parameter, value)
        return values


def tool(
    *,
    title: str,
    read_only: bool = False,
    destructive: bool = False,
    idempotent: bool = False,
    open_world: bool = True,
    needs_grant: bool = True,
    quick: bool = False,
) -> Callable[[Callable[..., Output]], Tool]:
    """Declare a function as an MCP tool.

    Args:
        title: Its name for people.
        read_only: It changes nothing; a read-only tool is neither destructive nor needs an idempotence hint.
        destructive: It may destroy something.
        idempotent: Doing it twice is the same as once.
        open_world: It reaches other machines.
        needs_grant: It is locked until `authenticate` has succeeded.
        quick: It waits for nothing and is done in well under a millisecond.
    """

    def declare(function: Callable[..., Output]) -> Tool:
        hints = typing.get_type_hints(function, include_extras=True)
        parameters = []
        for name, parameter in list(inspect.signature(function).parameters.items())[1:]:
            parameters.append(_parameter(name, hints[name], parameter.default))
        return Tool(
            name=function.__name__,
            title=title,
            description=inspect.cleandoc(function.__doc__ or ""),
            annotations={
                "title": title,
                "readOnlyHint": read_only,
                "destructiveHint": destructive,
                "idempotentHint": idempotent or read_only,
                "openWorldHint": open_world,
            },
            parameters=tuple(parameters),
            output=hints["return"],
            function=function,
            needs_grant=needs_grant,
            quick=quick,
        )

    return declare


def _parameter(name: str, hint: Any, default: Any) -> Parameter:
    description, rules = "", []
    if typing.get_origin(hint) is typing.Union:
        # Python 3.10 makes `Annotated[…] = None` an Optional around the annotation.
        hint = next((arg for arg in typing.get_args(hint) if typing.get_origin(arg) is typing.Annotated), hint)
    if typing.get_origin(hint) is typing.Annotated:
        hint, *extras = typing.get_args(hint)
        for extra in extras:
            if isinstance(extra, str):
                description = extra
            else:
                rules.append(extra)
    required = default is inspect.Parameter.empty
    return Parameter(name, hint, required, None if required else default, description, tuple(rules))


def _strip_none(hint: Any) -> tuple[Any, bool]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        rest = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        assert len(rest) == 1, f"a tool's argument has one type, not {hint}"
        return rest[0], True
    return hint, False


_NAMES: dict[Any, str] = {str: "string", int: "integer", bool: "boolean", float: "number"}


def _json_type(hint: Any) -> dict[str, Any]:
    hint, _ = _strip_none(hint)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return {"type": "string", "enum": list(args)}
    if origin is list:
        return {"type": "array", "items": _json_type(args[0])}
    if origin is dict:
        values = {} if args[1] is Any else {"additionalProperties": _json_type(args[1])}
        return {"type": "object", **values}
    return {"type": _NAMES[hint]}


def output_schema(cls: type[Output]) -> dict[str, Any]:
    """The schema of `structuredContent`: one level deep and without descriptions, because a model pays for each byte."""
    hints = typing.get_type_hints(cls)
    properties: dict[str, Any] = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        hint, optional = _strip_none(hints[field.name])
        origin = typing.get_origin(hint)
        if hint is Any:
            properties[field.name] = {}
            continue
        name = "array" if origin in (list, tuple) else "object" if origin is dict else _NAMES[hint]
        properties[field.name] = {"type": [name, "null"] if optional else name}
    # All of them are always there; saying so would cost a model each name a second time.
    return {"type": "object", "properties": properties}


def _allowed(parameter: Parameter) -> str:
    hint, _ = _strip_none(parameter.hint)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "one of " + ", ".join(args)
    if origin is list:
        return "a list of " + {str: "texts without NUL characters", int: "whole numbers"}.get(args[0], "values")
    if origin is dict:
        return "an object with text values, none with a NUL character" if args[1] is str else "an object"
    for rule in parameter.rules:
        if isinstance(rule, Range):
            return (
                f"a whole number from {rule.low} to {rule.high}"
                if hint is int
                else f"a number from {rule.low} to {rule.high}"
            )
        return rule.means
    return {str: "text without NUL characters", int: "a whole number", bool: "true or false", float: "a number"}[hint]


def _check(parameter: Parameter, value: Any) -> Any:
    hint, _ = _strip_none(parameter.hint)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (list, dict) and isinstance(value, str):
        value = _decoded(value, origin)
    valid = False
    if origin is typing.Literal:
        valid = value in args and isinstance(value, str)
    elif origin is list:
        valid = isinstance(value, list) and all(_is(args[0], item) for item in value)
    elif origin is dict:
        valid = isinstance(value, dict) and all(
            _is(str, key) and (args[1] is Any or _is(args[1], item)) for key, item in value.items()
        )
    elif _is(hint, value):
        value = int(value) if hint is int else value
        valid = all(_obeys(rule, value) for rule in parameter.rules)
    if not valid:
        raise BadArgument(f"The argument `{parameter.name}` is {_shown(value)}; allowed: {_allowed(parameter)}.")
    return value


def _shown(value: Any) -> str:
    """A refused value, short, for the error message; the texts in an object may be secrets of an environment."""
    if isinstance(value, dict):
        value = {name: "…" if isinstance(item, str) else item for name, item in value.items()}
    try:
        shown = json.dumps(value, ensure_ascii=False, default=str)
    except RecursionError:
        return "nested too deeply"
    return shown if len(shown) <= 100 else shown[:99] + "…"


def _decoded(value: str, origin: Any) -> Any:
    """A list or an object that a client sent as a JSON string; anything else stays the text it is."""
    try:
        decoded = json.loads(value, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return value
    return decoded if isinstance(decoded, origin) else value


def _no_constant(name: str) -> None:
    """NaN and Infinity are no JSON, and no client could read them back."""
    raise ValueError(name)


def _is(hint: Any, value: Any) -> bool:
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return (isinstance(value, int) and not isinstance(value, bool)) or (
            isinstance(value, float) and value.is_integer()
        )
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, str) and "\0" not in value


def _obeys(rule: Range | Pattern, value: Any) -> bool:
    if isinstance(rule, Range):
        return bool(rule.low <= value <= rule.high)
    return re.fullmatch(rule.regex, value) is not None
