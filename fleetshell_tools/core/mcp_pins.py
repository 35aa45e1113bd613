"""The definitions of external tools as they were first seen: a changed one is held back until the operator accepts it."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fleetshell_tools.core import storage
from fleetshell_tools.core.errors import ConfigError, NotFound
from fleetshell_tools.core.text import clean

PINNED = ("name", "title", "description", "inputSchema", "outputSchema", "annotations")
"""The keys of a definition that a model sees."""
SHOWN_LINES = 60
"""The longest difference that is shown, in lines."""


def canonical(definition: Mapping[str, Any]) -> dict[str, Any]:
    """What is pinned of a tool's definition."""
    return {key: definition[key] for key in PINNED if definition.get(key) is not None}


def digest(definition: Mapping[str, Any]) -> str:
    """SHA-256 over the canonical form of a tool's definition, in hexadecimal."""
    text = json.dumps(canonical(definition), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What changed between two definitions, as the lines of a unified diff, safe to print."""
    before, after = _lines(canonical(old)), _lines(canonical(new))
    lines = list(difflib.unified_diff(before, after, "accepted", "now", lineterm="", n=1))
    if len(lines) > SHOWN_LINES:
        lines = [*lines[:SHOWN_LINES], f"… and {len(lines) - SHOWN_LINES} more lines"]
    return lines


def _lines(definition: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for key in PINNED:
        value = definition.get(key)
        if isinstance(value, str):
            lines += [f"{key}: {line}" for line in clean(value).split("\n")]
        elif value is not None:
            shown = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
            lines += [f"{key}: {clean(line)}" for line in shown.split("\n")]
    return [line[:500] for line in lines]


class Pins:
    """The pins of every external server, one file each; relay and command line use them at the same time.

    Args:
        folder: `mcps/.pins`; made when there is something to pin.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def stamp(self, mcp_id: str) -> tuple[int, ...]:
        """What is another value once the pins of a server have changed."""
        try:
            info = os.stat(self._path(mcp_id))
        except FileNotFoundError:
            return ()
        return info.st_mtime_ns, info.st_ino, info.st_size

    def check(self, mcp_id: str, definitions: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
        """Compare what a server lists now with its pins; what was never seen is pinned, what changed is noted.

        Returns:
            The differences of the tools that changed, by name: they may not be used.

        Raises:
            ConfigError, OSError: The pins can't be read or written.
        """
        now = {str(definition["name"]): canonical(definition) for definition in definitions}
        storage.make_folder(self._folder)
        with storage.locked(self._folder / ".lock"):
            state = self._read(mcp_id)
            pinned = state["tools"]
            changed = {name: new for name, new in now.items() if name in pinned and digest(pinned[name]) != digest(new)}
            new_state = {
                "tools": {**{name: new for name, new in now.items() if name not in pinned}, **pinned},
                "pending": changed,
                "listed": list(now),
            }
            if new_state != state:
                self._write(mcp_id, new_state)
        return {name: difference(pinned[name], new) for name, new in changed.items()}

    def remembered(self, mcp_id: str) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
        """The tools of a server's last listing as they were accepted, and the differences of those held back."""
        state = self._read(mcp_id)
        tools = [state["tools"][name] for name in state["listed"] if name in state["tools"]]
        return tools, self._differences(state)

    def pending(self, mcp_id: str) -> dict[str, list[str]]:
        """The differences that wait for the operator, by tool."""
        return self._differences(self._read(mcp_id))

    def accept(self, mcp_id: str, names: Iterable[str] | None = None) -> list[str]:
        """Accept the changed definitions of these tools, or of all; returns which.

        Raises:
            NotFound: One of them has not changed.
        """
        storage.make_folder(self._folder)
        with storage.locked(self._folder / ".lock"):
            state = self._read(mcp_id)
            accepted = list(state["pending"]) if names is None else list(names)
            for name in accepted:
                if name not in state["pending"]:
                    waiting = ", ".join(state["pending"]) or "none"
                    raise NotFound(
                        f'The tool "{name[:80]}" of {mcp_id} has not changed. Waiting to be accepted: {waiting}.'
                    )
                state["tools"][name] = state["pending"].pop(name)
            if accepted:
                self._write(mcp_id, state)
        return accepted

    def forget(self, mcp_id: str) -> None:
        """Remove the pins of a server that is removed."""
        self._path(mcp_id).unlink(missing_ok=True)

    def _differences(self, state: dict[str, Any]) -> dict[str, list[str]]:
        return {name: difference(state["tools"][name], new) for name, new in state["pending"].items()}

    def _path(self, mcp_id: str) -> Path:
        return self._folder / f"{mcp_id}.json"

    def _write(self, mcp_id: str, state: dict[str, Any]) -> None:
        storage.write_atomic(self._path(mcp_id), json.dumps(state, indent=1) + "\n")

    def _read(self, mcp_id: str) -> dict[str, Any]:
        path = self._path(mcp_id)
        empty: dict[str, Any] = {"tools": {}, "pending": {}, "listed": []}
        try:
            storage.check_private(path, folder=False)
            state = json.loads(path.read_bytes())
        except FileNotFoundError:
            return empty
        except (ValueError, RecursionError):
            state = None
        if not _is_state(state):
            raise ConfigError(
                f"{path} is damaged, so changes of {mcp_id}'s tools can't be seen. Remove the file to pin them anew."
            )
        return {key: state[key] for key in empty}


def _is_state(state: Any) -> bool:
    if not isinstance(state, dict) or not all(isinstance(state.get(key), dict) for key in ("tools", "pending")):
        return False
    definitions = [*state["tools"].values(), *state["pending"].values()]
    return isinstance(state.get("listed"), list) and all(isinstance(one, dict) for one in definitions)
