"""Turning a parsed YAML mapping into a dataclass, with errors that name the key, its line and what is allowed.

A field's rules stand in its `metadata` (made by `option`): a sentence for the documentation, limits, choices, a pattern.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from fleetshell_tools.core.words import nearest
from fleetshell_tools.core.yamlfile import Document, Path_, scalar

T = TypeVar("T")


def option(
    default: Any = dataclasses.MISSING,
    doc: str = "",
    *,
    factory: Callable[[], Any] | None = None,
    low: int | None = None,
    high: int | None = None,
    choices: Iterable[str] = (),
    pattern: str = "",
    means: str = "",
    secret: bool = False,
) -> Any:
    """A dataclass field with rules: `low`/`high` for integers, `choices` or `pattern` for text.

    Args:
        doc: One sentence for the configuration reference.
        means: What a `pattern` allows, in words.
        secret: Its value never stands in an error message.
    """
    metadata = {
        "doc": doc,
        "low": low,
        "high": high,
        "choices": tuple(choices),
        "pattern": pattern,
        "means": means,
        "secret": secret,
    }
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def build(cls: type[T], data: Any, document: Document, path: Path_ = ()) -> T:
    """Make a `cls` from the mapping `data` that stands at `path` of `document`.

    Raises:
        ConfigError: An unknown key, a missing one, a wrong type or an impossible value.
    """
    where = ".".join(str(part) for part in path)
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise document.error(path, f"{where or 'the file'} must hold keys with values, not {_kind(data)}.")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            place = f" in {where}" if where else ""
            raise document.error(
                (*path, key),
                f"unknown key {describe(key)}{place}.{nearest(key, fields)} Allowed here: {', '.join(fields)}.",
            )
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        at = (*path, name)
        if name not in data or (data[name] is None and not _optional(hints[name])):
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise document.error(path, f'the key "{".".join(str(p) for p in at)}" is missing.')
            continue
        values[name] = _value(hints[name], data[name], document, at, field.metadata)
    return cls(**values)


def _optional(hint: Any) -> bool:
    return type(None) in typing.get_args(hint)


def _value(hint: Any, value: Any, document: Document, path: Path_, rules: Any) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    name = ".".join(str(part) for part in path)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        last: Exception | None = None
        for choice in (arg for arg in args if arg is not type(None)):
            try:
                return _value(choice, value, document, path, rules)
            except Exception as error:
                last = error
        assert last is not None
        raise last
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(Any, hint), value, document, path)
    if hint is Any:
        return value
    if origin in (tuple, list):
        if not isinstance(value, list):
            raise document.error(path, f"{name} must be a list, not {describe(value)}.")
        items = [_value(args[0], item, document, (*path, index), rules) for index, item in enumerate(value)]
        return tuple(items) if origin is tuple else items
    if origin is dict:
        if not isinstance(value, dict):
            raise document.error(path, f"{name} must be a map of keys and values, not {describe(value)}.")
        if args[1] is str:  # such as an ssh option, where `true` is as good as "true"
            value = {key: str(item).lower() if isinstance(item, bool) else item for key, item in value.items()}
        return {key: _value(args[1], item, document, (*path, key), rules) for key, item in value.items()}
    if hint is bool:
        if not isinstance(value, bool):
            raise document.error(path, f"{name} must be true or false, not {describe(value)}.")
        return value
    if hint is int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise document.error(path, f"{name} must be a whole number, not {describe(value)}.")
        return _check_range(value, document, path, name, rules)
    if hint is str:
        if isinstance(value, (dict, list, bool)) or value is None:
            raise document.error(path, f"{name} must be text, not {describe(value)}.")
        return _check_text(str(value), document, path, name, rules)
    raise TypeError(f"no rule for {hint} at {name}")


def _check_range(value: int, document: Document, path: Path_, name: str, rules: Any) -> int:
    low, high = rules.get("low"), rules.get("high")
    if (low is not None and value < low) or (high is not None and value > high):
        allowed = (
            f"from {low} to {high}"
            if low is not None and high is not None
            else f"{low} or more"
            if low is not None
            else f"{high} or less"
        )
        raise document.error(path, f"{name} is {value}; allowed: {allowed}.")
    return value


def _check_text(value: str, document: Document, path: Path_, name: str, rules: Any) -> str:
    choices, pattern = rules.get("choices"), rules.get("pattern")
    if choices and value not in choices:
        raise document.error(
            path, f"{name} is {describe(value)}; allowed: {', '.join(choices)}.{nearest(value, choices)}"
        )
    if pattern and not re.fullmatch(pattern, value):
        what = "holds other characters than are allowed" if rules.get("secret") else f"is {describe(value)}"
        raise document.error(path, f"{name} {what}; allowed: {rules.get('means') or pattern}.")
    if "\0" in value:
        raise document.error(path, f"{name} holds a NUL character.")
    return value


def describe(value: Any) -> str:
    """A YAML value in a few words, for an error message."""
    if value is None or isinstance(value, (dict, list)):
        return _kind(value)
    if isinstance(value, str):
        return scalar(value if len(value) <= 60 else value[:59] + "…")
    return str(value).lower()


def _kind(value: Any) -> str:
    """What sort of value this is, without the value: where a map should stand, it may be a secret."""
    if value is None:
        return "nothing"
    kinds = {dict: "a map", list: "a list", str: "text", bool: "true or false"}
    return kinds.get(type(value), "a number")
