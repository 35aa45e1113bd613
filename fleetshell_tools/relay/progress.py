"""Progress of a call as `notifications/progress`, at a pace that a client can bear (specification: "Progress")."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from fleetshell_tools.relay.jsonrpc import RequestId

PAUSE = 0.5
"""Seconds between two notifications: at most two a second."""


class Reporter:
    """Sends a call's progress to the client that asked for it; a `core.types.Progress`, for any thread.

    Values that do not rise are left out, since the specification wants them to, and so are those that come too soon.
    That none follows the answer is the conversation's part.

    Args:
        notify: A conversation's `notify`.
        token: The client's `progressToken`.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        notify: Callable[[str, dict[str, Any]], object],
        token: RequestId,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._notify = notify
        self._token = token
        self._clock = clock
        self._lock = threading.Lock()
        self._value = float("-inf")
        self._next = float("-inf")

    def __call__(self, done: float, total: float | None, message: str | None) -> None:
        # The lock is held until it is sent: two threads must not overtake each other on the way to the client.
        with self._lock:
            now = self._clock()
            if now < self._next or done <= self._value:
                return
            self._value, self._next = done, now + PAUSE
            params: dict[str, Any] = {"progressToken": self._token, "progress": done}
            if total is not None:
                params["total"] = total
            if message:
                params["message"] = message
            self._notify("notifications/progress", params)
