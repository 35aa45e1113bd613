"""Errands on many servers at once: so many in parallel in one loop, new connections made beside it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from fleetshell_tools.core.errors import Cancelled, FleetShellError
from fleetshell_tools.core.types import Cancellation
from fleetshell_tools.fleet.connections import Connections
from fleetshell_tools.fleet.errand import Errand
from fleetshell_tools.fleet.mux import Loop


class Drive:
    """At most `max_parallel` errands at once in one loop."""

    def __init__(
        self, loop: Loop, connections: Connections, errands: list[Errand], max_parallel: int, stop_on_failure: bool,
        on_done: Callable[[Errand], None],
    ) -> None:  # fmt: skip
        self._loop = loop
        self._connections = connections
        self._waiting = deque(errands)
        self._single = len(errands) == 1
        self._running: set[Errand] = set()
        self._max_parallel = max_parallel
        self._stop_on_failure = stop_on_failure
        self._on_done = on_done

    def run(self, cancelled: Cancellation) -> None:
        self._start_more()
        self._loop.run(lambda: bool(self._running or self._waiting), cancelled, self._cancel)

    def _start_more(self) -> None:
        while self._waiting and len(self._running) < self._max_parallel:
            errand = self._waiting.popleft()
            self._running.add(errand)
            errand.start(self._done)
            if errand.warm or self._single:
                errand.connect()
                errand.run_in(self._loop)
                continue
            try:
                self._connections.in_background(lambda errand=errand: self._connect(errand))  # type: ignore[misc]
            except FleetShellError as error:  # the relay is stopping
                errand.skip(error)

    def _connect(self, errand: Errand) -> None:
        errand.connect()
        self._loop.call(lambda: errand.run_in(self._loop))

    def _done(self, errand: Errand) -> None:
        self._running.discard(errand)
        self._on_done(errand)
        if self._stop_on_failure and errand.failed:
            self._skip("another server failed (stop_on_failure)")
        self._start_more()

    def _cancel(self) -> None:
        self._skip("the call was cancelled")
        for errand in list(self._running):
            errand.give_up()

    def _skip(self, why: str) -> None:
        while self._waiting:
            self._waiting.popleft().skip(Cancelled(f"Not started: {why}."))
