"""Progress of a call as `notifications/progress`, at a pace that a client can bear (specification: "Progress")."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from fleetshell_tools.relay import jsonrpc
from fleetshell_tools.relay.jsonrpc import RequestId

PAUSE = 0.5
"""Seconds between two notifications: at most two a second."""


class Reporter:
    """Sends a call's progress to the client that asked for it; a `core.types.Progress`, for any thread.

    Values that do not rise are left out, since the specification wants them to, and so are those that come too soon.

    Args:
        send: Takes one JSON-RPC message.
        token: The client's `progressToken`.
        clock: Seconds, monotonic.
    """

    def __init__(
        self, send: Callable[[bytes], object], token: RequestId, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._send = send
        self._token = token
        self._clock = clock
        self._lock = threading.Lock()
        self._value = float("-inf")
        self._next = float("-inf")
        self._over = False

    def __call__(self, done: float, total: float | None, message: str | None) -> None:
        with self._lock:
            now = self._clock()
            if self._over or now < self._next or done <= self._value:
                return
            self._value, self._next = done, now + PAUSE
            params: dict[str, Any] = {"progressToken": self._token, "progress": done}
            if total is not None:
                params["total"] = total
            if message:
                params["message"] = message
            self._send(jsonrpc.encode({"jsonrpc": "2.0", "method": "notifications/progress", "params": params}))

    def finish(self) -> None:
        """The call has its answer: progress must stop."""
        with self._lock:
            self._over = True
