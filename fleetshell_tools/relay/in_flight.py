"""The requests of modern clients that are being worked on, so that a posted notification can cancel one."""

from __future__ import annotations

import threading
from collections.abc import Callable

from fleetshell_tools.core.types import Cancellation
from fleetshell_tools.relay.jsonrpc import RequestId


class InFlight:
    """Requests by API key and id, for any thread.

    Clients choose the ids, and without sessions two clients of one key may well use the same id at once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[tuple[str, RequestId], list[Cancellation]] = {}

    def begin(self, key_id: str, request_id: RequestId) -> Cancellation:
        """Note a request; `finish` must follow."""
        cancellation = Cancellation()
        with self._lock:
            self._running.setdefault((key_id, request_id), []).append(cancellation)
        return cancellation

    def finish(self, key_id: str, request_id: RequestId, cancellation: Cancellation) -> None:
        """Forget a request that has its answer; nothing happens where it is forgotten already."""
        with self._lock:
            running = self._running.get((key_id, request_id), [])
            if cancellation in running:
                running.remove(cancellation)
                if not running:
                    del self._running[key_id, request_id]

    def cancel(self, key_id: str, request_id: RequestId, why: str) -> bool:
        """Cancel the one request of that key and id; where there are several, nobody knows which one is meant."""
        with self._lock:
            running = self._running.get((key_id, request_id), [])
            only = running[0] if len(running) == 1 else None
        if only is None:
            return False
        only.set(why)
        return True

    def all(self, of: Callable[[str], bool] = lambda key: True) -> list[Cancellation]:
        """Every request `of` those keys that is being worked on."""
        with self._lock:
            chosen = [running for (key, _), running in self._running.items() if of(key)]
            return [cancellation for running in chosen for cancellation in running]
