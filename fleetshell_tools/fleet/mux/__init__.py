"""Our own client of OpenSSH's control masters: runs commands over a master's socket without a process for each."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from fleetshell_tools.core.types import Cancellation
from fleetshell_tools.fleet.mux.local import LOCAL
from fleetshell_tools.fleet.mux.loop import Loop
from fleetshell_tools.fleet.mux.session import Job, alive, terminate
from fleetshell_tools.fleet.mux.terminal import Terminal
from fleetshell_tools.fleet.transport import Ended, Limits, SshTransport

__all__ = ["LOCAL", "Job", "Loop", "MuxTransport", "Terminal"]


class MuxTransport:
    """Implements `fleet.transport.Transport` over the mux protocol; falls back to `ssh -S` for another version of it.

    Args:
        folder: Where the sockets are.
    """

    def __init__(self, folder: Path) -> None:
        self.fallback = SshTransport(folder)
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Close our descriptors; a second time does nothing."""
        for fd in (self._folder, self._null):
            if fd >= 0:
                os.close(fd)
        self._folder = self._null = -1

    def alive(self, name: str) -> bool:
        """Whether a master answers on the socket."""
        return self.pid(name) != 0 or self.fallback.alive(name)

    def pid(self, name: str) -> int:
        """The process of the master behind a socket, 0 where none answers."""
        return alive(self._folder, name)

    def terminate(self, name: str) -> bool:
        """Ask the master to end; False where it does not answer."""
        return terminate(self._folder, name)

    @contextlib.contextmanager
    def loop(self) -> Iterator[Loop]:
        """A loop for many commands at once."""
        loop = Loop(self._folder, self._null, self.fallback)
        try:
            yield loop
        finally:
            loop.close()

    def terminal(self, name: str, command: str, *, rows: int, cols: int) -> Terminal:
        """A session with a terminal (see `Terminal`)."""
        return Terminal(self._folder, name, command, rows=rows, cols=cols)

    def run(
        self,
        name: str,
        command: str,
        *,
        nonce: str,
        stdin: bytes,
        limits: Limits,
        deadline: float,
        cancelled: Cancellation,
        on_output: Callable[[bytes], None] | None = None,
    ) -> Ended:
        """Run one command in the calling thread (see `Transport`)."""
        job = Job(name, command, nonce, stdin, limits, deadline, on_output)
        ended: list[Ended] = []
        with self.loop() as loop:
            loop.submit(job, ended.append)
            loop.run(lambda: not ended, cancelled)
        return ended[0]
