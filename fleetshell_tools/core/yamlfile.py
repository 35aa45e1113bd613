"""YAML as FleetShell reads it: plain data with line numbers, safe limits, and edits that keep the user's comments.

Only `true`/`false` and decimal integers of up to 18 digits are resolved; everything else plain stays text (`no`, `12:30`,
`1.5`), and an empty value, `null` or `~` is None. Aliases, tags, duplicate keys, deep nesting and large files are refused:
a file of 324 bytes with aliases can grow ninefold a level.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fleetshell_tools.core.errors import ConfigError

MAX_BYTES = 256 * 1024
MAX_DEPTH = 20
Path_ = tuple["str | int", ...]
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper: Any = type(
    "_Dumper", (getattr(yaml, "CSafeDumper", yaml.SafeDumper),), {"ignore_aliases": lambda self, data: True}
)
_UNREADABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
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
    return parse(read_text(path), str(path))


def read_text(path: Path) -> str:
    """The text of a file, its line ends as they are.

    Raises:
        ConfigError: Missing, unreadable, larger than `MAX_BYTES`, or not UTF-8.
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
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {line}: not UTF-8 text (byte {error.start}).") from None


def parse(text: str, name: str) -> Document:
    """Parse YAML text; `name` is what error messages call it.

    Raises:
        ConfigError: With file name and line.
    """
    document = Document(name, None)
    strange = _UNREADABLE.search(text)
    if strange:
        line = text.count("\n", 0, strange.start()) + 1
        raise ConfigError(
            f"{name}, line {line}: the control character U+{ord(strange[0]):04X} is not accepted; write it as an escape in quotes."
        )
    try:
        root = _compose(_ended(text))
        document.data = _convert(root, (), document) if root is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problem = (error.problem or "not valid YAML").strip()
        raise ConfigError(f"{name}, line {line}: {problem}.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: {str(error).splitlines()[0]}.") from None
    return document


def _ended(text: str) -> str:
    """The text with a line end at its end: without one, PyYAML drops the last line end of a block text."""
    return text if not text or text.endswith("\n") else text + "\n"


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
        if getattr(event, "tag", None) is not None:
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
                raise _refuse(f"the key {scalar(key[:60])} stands here twice", key_node.start_mark)
            at = (*path, key)
            document.lines[at] = key_node.start_mark.line + 1
            mapping[key] = _convert(value_node, at, document)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_convert(item, (*path, index), document) for index, item in enumerate(node.value)]
    return _scalar(node)


def _scalar(node: Any) -> Any:
    if not _is_plain(node):
        return node.value
    value: str = node.value
    if value in ("", "~", "null"):
        return None
    if value in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return value.lower() == "true"
    if _INTEGER.fullmatch(value):
        return int(value)
    return value


def _is_plain(node: Any) -> bool:
    """Neither quoted nor block text; the pure Python loader says None where the C loader says ""."""
    return isinstance(node, yaml.ScalarNode) and not node.style


def dump(data: Mapping[str, Any]) -> str:
    """Write plain data as block-style YAML in the given order, quoting what `read` would not give back as it is.

    Args:
        data: Text, whole numbers of up to 18 digits, booleans, None, lists and maps.
    """
    text: str = yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return text


def scalar(value: Any) -> str:
    """One value as it can stand behind `key: ` on one line, a list or a map in flow style."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return '"' + re.sub(r"[^ !#-\[\]-~\xa1-\u167f\u2c00-\ud7ff]", _escape, value) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(scalar(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)}: {scalar(item)}" for key, item in value.items()) + "}"
    raise TypeError(f"{type(value).__name__} has no place in a configuration file")


def _escape(match: re.Match[str]) -> str:
    short = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    code = ord(match[0])
    return short.get(match[0]) or (
        f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
    )


def _key(key: str) -> str:
    return key if _PLAIN_KEY.fullmatch(key) else scalar(key)


def set_value(text: str, path: tuple[str, ...], value: Any, name: str) -> str:
    """Return `text` with `path` set to `value`, everything else (comments, order, spacing, line ends) untouched.

    The comments inside a list or a map that is replaced move below the new value.

    Raises:
        ConfigError: The text is invalid, a parent of `path` is not a mapping, or the layout is too unusual for an edit.
    """
    expected = copy.deepcopy(parse(text, name).data) or {}
    target = expected
    for depth, key in enumerate(path):
        if not isinstance(target, dict):
            raise ConfigError(
                f"{name}: `{'.'.join(path[:depth])}` is not a block of keys; please edit the file by hand."
            )
        if depth == len(path) - 1:
            target[key] = value
        elif target.get(key) is None:
            target[key] = {}
        target = target[key]
    mark = "\ufeff" * text.startswith("\ufeff")
    windows = 0 < text.count("\n") == text.count("\r\n")
    lines = text.removeprefix(mark)
    new = mark + _set(_ended(lines.replace("\r\n", "\n") if windows else lines), path, value)
    if windows:
        new = new.replace("\n", "\r\n")
    try:
        fits = parse(new, name).data == expected
    except ConfigError:
        fits = False
    if not fits:
        raise ConfigError(
            f"{name}: `{'.'.join(path)}` can't be set without disturbing the rest of the file; please edit it by hand."
        )
    return new


def _set(text: str, path: tuple[str, ...], value: Any) -> str:
    """Set `path`, whose parents are known to be maps, empty or missing."""
    node: Any = _compose(text)
    if not isinstance(node, yaml.MappingNode):
        return text + _block(path, value, 0)
    for depth, part in enumerate(path):
        parent = node
        pair = next(((k, v) for k, v in parent.value if k.value == part), None)
        if pair is None:
            return _insert(text, parent, path[depth:], value)
        key, node = pair
        rest = path[depth + 1 :]
        if rest and not isinstance(node, yaml.MappingNode):
            if parent.flow_style:
                return _replace(text, key, node, _nested(rest, value))
            if node.value:  # `key: null`
                text = text[: node.start_mark.index] + text[node.end_mark.index :]
            at = _line_end(text, key.end_mark.index)
            return text[:at] + "\n" + _block(rest, value, key.start_mark.column + 2).rstrip("\n") + text[at:]
    return _replace(text, key, node, value)


def _replace(text: str, key: Any, node: Any, value: Any) -> str:
    """Put `value` in the place of `node`, which stands behind `key`."""
    new = scalar(value)
    start, end = node.start_mark.index, node.end_mark.index
    slot = _behind_colon(text, key)
    if _is_plain(node) and not node.value:
        return text[:slot] + (" " if text[slot - 1] == ":" else ": ") + new + text[slot:]
    if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
        body = text[start:end]
        comment = re.sub(r"^[|>][-+0-9]*", "", body.split("\n", 1)[0])
        return text[:start] + new + comment + body[len(body.rstrip()) :] + text[end:]
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        line = _line_end(text, slot)
        stop = _last_line_end(text, key, node)
        moved = "".join(
            f"\n{' ' * (key.start_mark.column + 2)}{comment}" for comment in _comments(text, line, stop, node)
        )
        return f"{text[:slot]} {new}{text[slot:line].rstrip()}{moved}{text[stop:]}"
    at = _line_end(text, end)
    moved = "".join(f"\n{' ' * (key.start_mark.column + 2)}{comment}" for comment in _comments(text, start, end, node))
    return text[:start] + ("" if text[start - 1].isspace() else " ") + new + text[end:at] + moved + text[at:]


def _insert(text: str, mapping: Any, keys: tuple[str, ...], value: Any) -> str:
    """Add `keys` as the last entry of a mapping."""
    if mapping.flow_style:
        entry = f"{_key(keys[0])}: {scalar(_nested(keys[1:], value))}"
        if not mapping.value:
            at = mapping.start_mark.index + 1
            return text[:at] + entry + text[at:]
        at = _content_end(text, *mapping.value[-1])
        return f"{text[:at]}{' ' if text[at - 1] == ':' else ''}, {entry}{text[at:]}"
    at = _last_line_end(text, None, mapping)
    return text[:at] + "\n" + _block(keys, value, mapping.start_mark.column).rstrip("\n") + text[at:]


def _behind_colon(text: str, key: Any) -> int:
    """The place behind the colon of `key`, or behind the key itself where it has none (in `{a, b: 1}`)."""
    end = int(key.end_mark.index)
    colon = re.compile(r"\s*:").match(text, end)
    return colon.end() if colon else end


def _content_end(text: str, key: Any, node: Any) -> int:
    """Where the last value of a node ends; a block's own end mark would lie behind the comments that follow it."""
    while isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        key, node = last if isinstance(last, tuple) else (None, last)
    if key is not None and _is_plain(node) and not node.value:
        return _behind_colon(text, key)
    return int(node.end_mark.index)


def _last_line_end(text: str, key: Any, node: Any) -> int:
    """The end of the last line of a block; the blank lines behind block text belong to it where it keeps them (`|+`)."""
    end = _content_end(text, key, node)
    last = [None, *_scalars(node)][-1]
    if last and last.end_mark.index == end and re.match(r"[|>][0-9]?\+", text[last.start_mark.index : end]):
        return end - 1
    return _line_end(text, len(text[:end].rstrip()))


def _scalars(node: Any) -> Iterator[Any]:
    """Every scalar of a node, keys too, in the order of the text."""
    if isinstance(node, yaml.ScalarNode):
        yield node
        return
    for child in node.value:
        for part in child if isinstance(child, tuple) else (child,):
            yield from _scalars(part)


def _comments(text: str, start: int, end: int, node: Any) -> list[str]:
    """The comments from `start` to `end` inside a node: between its scalars, `#` can stand for nothing else."""
    found = []
    for scalar_node in _scalars(node):
        found += re.findall(r"#[^\n]*", text[start : max(start, scalar_node.start_mark.index)])
        if scalar_node.style in ("|", ">"):
            found += re.findall(
                r"#[^\n]*", text[scalar_node.start_mark.index : _line_end(text, scalar_node.start_mark.index)]
            )
        start = max(start, scalar_node.end_mark.index)
    return found + re.findall(r"#[^\n]*", text[start:end])


def _line_end(text: str, index: int) -> int:
    return text.index("\n", index)


def _nested(keys: tuple[str, ...], value: Any) -> Any:
    for key in reversed(keys):
        value = {key: value}
    return value


def _block(keys: tuple[str, ...], value: Any, column: int) -> str:
    """A value in its blocks of keys, the first of them at `column`."""
    lines = [f"{' ' * (column + 2 * depth)}{_key(key)}:" for depth, key in enumerate(keys)]
    return "\n".join(lines) + f" {scalar(value)}\n"
