"""YAML as FleetShell reads it: plain data with line numbers, safe limits, and edits that keep the user's comments.

Only `true`/`false` and decimal integers are resolved; everything else plain stays text (`no`, `12:30`, `1.5`), and an
empty value is None. Aliases, tags, duplicate keys, deep nesting and large files are refused: a file of 324 bytes with
aliases can grow ninefold a level.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fleetshell_tools.core.errors import ConfigError

MAX_BYTES = 256 * 1024
MAX_DEPTH = 20
Path_ = tuple["str | int", ...]
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")


@dataclass
class Document:
    """A parsed file: `data` as plain Python values, and the 1-based line of every key and item in `lines`."""

    name: str
    data: Any
    lines: dict[Path_, int] = field(default_factory=dict)

    def line(self, path: Path_) -> int:
        """The line of `path`, or of the nearest parent that has one."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def error(self, path: Path_, message: str) -> ConfigError:
        return ConfigError(f"{self.name}, line {self.line(path)}: {message}")


def read(path: Path) -> Document:
    """Read a YAML file.

    Raises:
        ConfigError: Unreadable, too large, or not the YAML that we accept; names the file and the line.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist.") from None
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}.") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_BYTES // 1024} KiB, the most that FleetShell reads.")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}).") from None
    return parse(text, str(path))


def parse(text: str, name: str) -> Document:
    """Parse YAML text; `name` is what error messages call it.

    Raises:
        ConfigError: With file name and line.
    """
    document = Document(name, None)
    try:
        root = _compose(text)
        document.data = _convert(root, (), document) if root is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problem = (error.problem or "not valid YAML").strip()
        raise ConfigError(f"{name}, line {line}: {problem}.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: {str(error).splitlines()[0]}.") from None
    return document


def _refuse(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def _compose(text: str) -> Any:
    """Compose the node tree, having refused aliases, tags and depth on the events, before a tree exists."""
    depth = 0
    events: Any = yaml.parse(text, Loader=_Loader)
    for event in events:
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _refuse(
                "anchors and aliases (& and *) are not accepted; quote a value that starts with them", event.start_mark
            )
        if getattr(event, "tag", None) not in (None, "!"):
            raise _refuse(f"the tag {event.tag} is not accepted", event.start_mark)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise _refuse(f"nested deeper than {MAX_DEPTH} levels", event.start_mark)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return yaml.compose(text, Loader=_Loader)


def _convert(node: Any, path: Path_, document: Document) -> Any:
    document.lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _refuse("a key must be a plain word", key_node.start_mark)
            key = key_node.value
            if key in mapping:
                raise _refuse(f'the key "{key}" stands here twice', key_node.start_mark)
            at = (*path, key)
            document.lines[at] = key_node.start_mark.line + 1
            mapping[key] = _convert(value_node, at, document)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_convert(item, (*path, index), document) for index, item in enumerate(node.value)]
    return _scalar(node)


def _scalar(node: Any) -> Any:
    if node.style:  # quoted or block text; a plain scalar has None, or "" with the C loader
        return node.value
    value: str = node.value
    if value in ("", "~", "null"):
        return None
    if value in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return value.lower() == "true"
    if _INTEGER.fullmatch(value):
        return int(value)
    return value


def dump(data: Mapping[str, Any]) -> str:
    """Write plain data as block-style YAML in the given order, quoting what `read` would not give back as it is."""
    text: str = yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return text


def scalar(value: Any) -> str:
    """One value as it can stand behind `key: ` on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    text: str = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.strip().removesuffix("...").strip()


def set_value(text: str, path: tuple[str, ...], value: Any, name: str) -> str:
    """Return `text` with `path` set to `value`, everything else (comments, order, spacing) untouched.

    Raises:
        ConfigError: The text is invalid, or a parent of `path` is not a mapping.
    """
    before = parse(text, name)
    new = _set(text, path, value, name)
    after = parse(new, name)
    expected = before.data or {}
    target = expected
    for key in path[:-1]:
        if target.get(key) is None:
            target[key] = {}
        target = target[key]
    target[path[-1]] = value
    if after.data != expected:
        raise ConfigError(
            f"{name}: `{'.'.join(path)}` can't be set without disturbing the rest of the file; please edit it by hand."
        )
    return new


def _set(text: str, path: tuple[str, ...], value: Any, name: str) -> str:
    root = _compose(text)
    if root is None:
        return text.rstrip("\n") + ("\n" if text.strip() else "") + _block(path, value, 0)
    node, depth = root, 0
    while depth < len(path):
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{name}: `{'.'.join(path[:depth])}` is not a block of keys.")
        found = next(((k, v) for k, v in node.value if k.value == path[depth]), None)
        if found is None or (
            depth < len(path) - 1 and not isinstance(found[1], yaml.MappingNode) and not found[1].value
        ):
            if found is not None:  # an empty `key:`; give it its block
                at = _line_end(text, found[0].end_mark.index)
                return (
                    text[:at]
                    + "\n"
                    + _block(path[depth + 1 :], value, found[0].start_mark.column + 2).rstrip("\n")
                    + text[at:]
                )
            return _insert(text, node, path[depth:], value)
        node = found[1]
        depth += 1
    start, end = node.start_mark.index, node.end_mark.index
    if isinstance(node, yaml.ScalarNode) and node.style in (None, "", "'", '"'):
        gap = "" if start == 0 or text[start - 1] in " \t" else " "
        return text[:start] + gap + scalar(value) + text[end:]
    tail = text[start:end]
    kept = tail[len(tail.rstrip()) :]
    key_line_end = text.rfind(":", 0, start) + 1
    return text[:key_line_end] + " " + scalar(value) + kept + text[end:]


def _insert(text: str, mapping: Any, keys: tuple[str, ...], value: Any) -> str:
    """Add `keys` as the last entry of a mapping."""
    if mapping.flow_style:
        at = text.rindex("}", 0, mapping.end_mark.index)
        nested = scalar(value)
        for key in reversed(keys[1:]):
            nested = f"{{{key}: {nested}}}"
        return text[:at].rstrip() + (", " if mapping.value else "") + f"{keys[0]}: {nested}" + text[at:]
    column = mapping.start_mark.column
    at = _line_end(text, len(text[: _content_end(mapping)].rstrip()))
    return text[:at] + "\n" + _block(keys, value, column).rstrip("\n") + (text[at:] or "\n")


def _content_end(node: Any) -> int:
    """Where the last value of a node ends; a block's own end mark would lie behind the comments that follow it."""
    while not isinstance(node, yaml.ScalarNode) and not node.flow_style and node.value:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    return int(node.end_mark.index)


def _line_end(text: str, index: int) -> int:
    end = text.find("\n", index)
    return len(text) if end < 0 else end


def _block(keys: tuple[str, ...], value: Any, column: int) -> str:
    lines = []
    for depth, key in enumerate(keys[:-1]):
        lines.append(f"{' ' * (column + 2 * depth)}{key}:")
    lines.append(f"{' ' * (column + 2 * (len(keys) - 1))}{keys[-1]}: {scalar(value)}")
    return "\n".join(lines) + "\n"
