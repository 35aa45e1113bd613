"""What the process table showed while a block ran: the arguments and the environment of every process that a test started."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from support import processes


class Table:
    """Samples /proc some hundred times a second, in a thread of its own.

    Attributes:
        arguments: Every command line that was seen.
        environments: Every environment that was seen, but of processes with one of the marks `but`.
    """

    def __init__(self, but: set[int]) -> None:
        self.arguments: set[bytes] = set()
        self.environments: set[bytes] = set()
        self.samples = 0
        self._but = but
        self._stop = threading.Event()
        self._old = processes.pids()

    def _look(self) -> None:
        while not self._stop.is_set():
            for pid in processes.pids() - self._old:
                with contextlib.suppress(OSError):
                    self._take(pid)
            self.samples += 1
            self._stop.wait(0.001)

    def _take(self, pid: int) -> None:
        found = processes.inspect(pid)
        if not found or not found.mark:
            return
        folder = Path("/proc", str(pid))
        self.arguments.add((folder / "cmdline").read_bytes())
        if found.mark not in self._but:
            self.environments.add((folder / "environ").read_bytes())

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        thread = threading.Thread(target=self._look)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()
