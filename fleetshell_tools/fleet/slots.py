"""Places for sessions on one connection: more callers than places wait in a queue, first come, first served."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

Waiter = Callable[[], None]


class Slots:
    """Counts the sessions that are open on a host, and learns how many it allows.

    Args:
        limit: Sessions at once; `refused` lowers it, never below what the host is known to have allowed.
    """

    def __init__(self, limit: int) -> None:
        self._most = limit
        self._limit = limit
        self._used = 0
        self._open = 0
        self._proven = 1
        self._waiters: deque[Waiter] = deque()
        self._lock = threading.Lock()

    @property
    def limit(self) -> int:
        return self._limit

    @property
    def used(self) -> int:
        return self._used

    @property
    def idle(self) -> bool:
        """Whether nobody has a place or waits for one."""
        with self._lock:
            return not self._used and not self._waiters

    def acquire(self, waiter: Waiter) -> None:
        """Call `waiter` once it has a place: at once, or later in the thread that gives one back."""
        with self._lock:
            if self._used >= self._limit:
                self._waiters.append(waiter)
                return
            self._used += 1
        waiter()

    def forget(self, waiter: Waiter) -> bool:
        """Take a waiter out of the queue; False where it is not in it (any more)."""
        with self._lock:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
                return True
            return False

    def opened(self) -> None:
        """The host has opened a session for one of the places; `release` must say so too."""
        with self._lock:
            self._open += 1
            self._proven = max(self._proven, self._open)

    def release(self, *, opened: bool = False) -> None:
        """Give a place back."""
        with self._lock:
            self._used -= 1
            self._open -= opened
        self._admit()

    def refused(self) -> None:
        """The host has refused a session that had a place: it allows fewer than we thought (MaxSessions).

        A session that has just ended still counts there for a moment, so the limit stays at what has been open at once.
        """
        with self._lock:
            self._limit = min(self._limit, max(self._proven, self._used - 1))

    def renew(self) -> None:
        """A new connection was made: what was learned of the old one need not hold any more."""
        with self._lock:
            self._limit, self._proven = self._most, 1
        self._admit()

    def _admit(self) -> None:
        while True:
            with self._lock:
                if not self._waiters or self._used >= self._limit:
                    return
                self._used += 1
                waiter = self._waiters.popleft()
            waiter()
