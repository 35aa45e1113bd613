"""What runs on servers now, and what was blocked last, as the audit log hears of it; for `fleetshell status --watch`."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

from fleetshell_tools.core.masking import mask

_MOST = 10_000
_SHOWN = ("server_id", "tool", "client", "principal")


class Activity:
    """An observer of the audit log; for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[int, dict[str, Any]] = {}
        self._blocked: deque[dict[str, Any]] = deque(maxlen=20)

    def note(self, event: str, seq: int, fields: dict[str, Any]) -> None:
        """See `AuditLog.observer`."""
        if event not in ("started", "blocked") and "intent" not in fields:
            return
        entry = {**fields, "at": time.time()}
        with self._lock:
            if event == "blocked":
                self._blocked.append(entry)
            elif event == "started" and len(self._running) < _MOST:
                self._running[seq] = entry
            self._running.pop(fields.get("intent", 0), None)

    def running(self, most: int) -> list[dict[str, Any]]:
        """The commands that run now, the one that runs longest first, with what looks like a secret masked."""
        with self._lock:
            entries = list(self._running.values())[:most]
        return [_shown(entry) for entry in entries]

    def running_count(self) -> int:
        return len(self._running)

    def blocked(self) -> list[dict[str, Any]]:
        """What was blocked since the start, the last one first."""
        with self._lock:
            entries = list(self._blocked)
        return [{**_shown(entry), "verdict": entry.get("verdict")} for entry in reversed(entries)]


def _shown(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        **{key: entry.get(key) for key in _SHOWN},
        "command": mask(str(entry.get("command") or ""))[:500],
        "at": entry["at"],
    }
