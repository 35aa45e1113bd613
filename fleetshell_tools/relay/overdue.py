"""Watches over calls that take long: one thread for all of them, in place of a timer for each."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

LOOK_EVERY = 0.25
"""Seconds between two looks at what is running."""

SLEEP_AFTER = 5.0
"""Seconds of looks that found nothing, after which the thread sleeps until it is woken."""


class Item(Protocol):
    """Something that has a next moment."""

    due: float
    """When `look` wants to be called (on the clock of `Overdue`); infinity for never."""

    def look(self, now: float) -> None:
        """Do what is due, and set `due` anew. In the thread of all items: it must not take long."""


class Overdue:
    """Calls `look` of each item soon after it is due.

    Most calls end before the next look, so adding and removing costs two operations on a dict, which CPython does in
    one piece each: no lock, no timer, no wake-up.

    Args:
        log: Where an item's exception goes.
        clock: Seconds, monotonic.
        look_every: Seconds between two looks.
    """

    def __init__(
        self, log: logging.Logger, clock: Callable[[], float] = time.monotonic, look_every: float = LOOK_EVERY
    ) -> None:
        self.clock = clock
        self._log = log
        self._look_every = look_every
        self._items: dict[Item, None] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._asleep = False

    def add(self, item: Item) -> None:
        """Watch an item from now on; the first one starts the thread."""
        self._items[item] = None
        # The thread says that it sleeps before it looks whether there is an item: one of us two sees the other.
        if self._asleep:
            self._wake.set()
        elif self._thread is None:
            self._start()

    def remove(self, item: Item) -> None:
        """Forget an item; its `look` may be running still."""
        self._items.pop(item, None)

    def look(self) -> int:
        """See to what is due.

        Returns:
            How many items there are.
        """
        now, items = self.clock(), list(self._items)
        for item in items:
            if item.due <= now:
                try:
                    item.look(now)
                except Exception:
                    # The others are waiting, and this one would fail at every look.
                    self.remove(item)
                    self._log.exception("A call that takes long could not be looked after.")
        return len(items)

    def close(self) -> None:
        """End the thread; items are no longer watched."""
        with self._lock:
            self._stop.set()
            self._wake.set()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._stop.is_set():
                self._thread = threading.Thread(target=self._run, name="overdue", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        idle = 0.0
        while not self._stop.wait(self._look_every):
            idle = 0.0 if self.look() else idle + self._look_every
            if idle >= SLEEP_AFTER:
                idle = 0.0
                self._sleep()

    def _sleep(self) -> None:
        self._wake.clear()
        self._asleep = True
        if not self._items and not self._stop.is_set():
            self._wake.wait()
        self._asleep = False
