"""Who is connected, and who has to go when there are too many: the oldest that has not shown a valid key.

That way nobody who lacks the key can shut out those who have it, from one address or from many.
"""

from __future__ import annotations

import threading
from typing import Generic, Protocol, TypeVar


class Peer(Protocol):
    """A connection, as far as its caps go."""

    peer: str


P = TypeVar("P", bound=Peer)


class Roster(Generic[P]):
    """The connections in order of arrival; every method may be called from any thread.

    Args:
        most: The most connections in all.
        most_unproven: The most connections of one address on which no request was admitted yet.
    """

    def __init__(self, most: int, most_unproven: int) -> None:
        self._most = most
        self._most_unproven = most_unproven
        self._lock = threading.Lock()
        # Dictionaries without values: sets that keep the order.
        self._all: dict[P, None] = {}
        self._unproven: dict[P, None] = {}
        self._unproven_of: dict[str, dict[P, None]] = {}

    def snapshot(self) -> list[P]:
        """All connections now."""
        with self._lock:
            return list(self._all)

    def make_room(self, peer: str) -> tuple[bool, P | None]:
        """See whether another connection of `peer` may come.

        Returns:
            Whether it may, and the connection that must be dropped for it (no longer counted as unproven by then).
        """
        with self._lock:
            of_peer = self._unproven_of.get(peer, {})
            victim = None
            if len(of_peer) >= self._most_unproven:
                victim = next(iter(of_peer))
            elif len(self._all) >= self._most:
                victim = next(iter(self._unproven), None)
                if victim is None:
                    return False, None
            if victim is not None:
                self._forget_unproven(victim)
            return True, victim

    def add(self, connection: P) -> None:
        with self._lock:
            self._all[connection] = None
            self._unproven[connection] = None
            self._unproven_of.setdefault(connection.peer, {})[connection] = None

    def prove(self, connection: P) -> None:
        """The connection has shown a valid key."""
        with self._lock:
            self._forget_unproven(connection)

    def remove(self, connection: P) -> None:
        with self._lock:
            self._all.pop(connection, None)
            self._forget_unproven(connection)

    def _forget_unproven(self, connection: P) -> None:
        if connection not in self._unproven:
            return
        del self._unproven[connection]
        of_peer = self._unproven_of[connection.peer]
        del of_peer[connection]
        if not of_peer:
            del self._unproven_of[connection.peer]
