"""Many commands at once in one selectors loop, in the thread that waits for them."""

from __future__ import annotations

import contextlib
import errno
import heapq
import itertools
import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from fleetshell_tools.core.types import Cancellation, Captured
from fleetshell_tools.fleet.mux import wire
from fleetshell_tools.fleet.mux.local import LOCAL, LocalSession
from fleetshell_tools.fleet.mux.session import Busy, Gone, Job, MuxSession, Session, alive
from fleetshell_tools.fleet.transport import Ended, SshTransport

RETRY = 0.005
"""Seconds until a master whose queue was full, or a descriptor where none was left, is tried again."""

OnEnd = Callable[[Ended], None]
_NOTHING = Captured()
_CROWDED = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)


class Loop:
    """Runs jobs until nobody waits for any more. `call` may be used from any thread, all else from the loop's.

    Args:
        folder: The open folder of the sockets.
        null: An open /dev/null.
        fallback: Runs the jobs of masters that speak another version of the protocol, in a thread for each.
    """

    def __init__(self, folder: int, null: int, fallback: SshTransport) -> None:
        self._folder = folder
        self._null = null
        self._selector = selectors.DefaultSelector()
        self._fallback = fallback
        self._fallen: dict[threading.Thread, Cancellation] = {}
        self._cancelled = False
        try:
            self._wake_read, self._wake_write = os.pipe()
        except BaseException:
            self._selector.close()
            raise
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._calls: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._sessions: dict[Session, OnEnd] = {}
        self._lock = threading.Lock()
        self._closed = False

    def call(self, function: Callable[[], None]) -> None:
        """Have a function called in the loop's thread, soon."""
        self._calls.append(function)
        self._wake()

    def at(self, when: float, function: Callable[[], None]) -> None:
        """Have a function called at a time of `time.monotonic`."""
        heapq.heappush(self._timers, (when, next(self._count), function))

    def submit(self, job: Job, on_end: OnEnd) -> None:
        """Run a job; `on_end` is called in the loop's thread."""
        now = time.monotonic()
        if now >= job.deadline:
            on_end(_unsent("unsent"))
            return
        try:
            if job.name == LOCAL:
                session: Session = LocalSession(job, self._selector)
            else:
                session = MuxSession(job, self._folder, self._null, self._selector)
        except Gone:
            on_end(_unsent("no_master"))
        except Busy:
            self._again(job, on_end, "unsent", "")
        except OSError as error:
            detail = os.strerror(error.errno) if error.errno else str(error)
            if error.errno in _CROWDED:
                self._again(job, on_end, "crowded", detail)
            else:
                on_end(_unsent("failed", detail))
        else:
            self._sessions[session] = on_end

    def run(
        self, busy: Callable[[], bool], cancelled: Cancellation, on_cancel: Callable[[], None] = lambda: None
    ) -> None:
        """Run until `busy` says that nothing is awaited any more.

        A cancellation ends the jobs that run at that time, and calls `on_cancel` once; what is submitted afterwards
        (to end what a job left on its host, say) runs.
        """
        forget = cancelled.on_set(lambda: self.call(lambda: self._cancel(on_cancel)))
        try:
            while busy():
                while self._calls:
                    self._calls.popleft()()
                self._reap()
                if busy():
                    self._wait()
        finally:
            forget()

    def close(self) -> None:
        """Close every descriptor of the loop and of what still runs in it."""
        with self._lock:
            self._closed = True
        for thread, cancelled in list(self._fallen.items()):
            cancelled.set()
            thread.join()
        for session in self._sessions:
            session.close()
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _again(self, job: Job, on_end: OnEnd, why: str, detail: str) -> None:
        """Submit a job once more in a moment, unless it is too late by then, or the call is cancelled."""

        def submit() -> None:
            if self._cancelled and not job.protected:
                on_end(_unsent("unsent"))
            elif time.monotonic() + RETRY >= job.deadline:
                on_end(_unsent(why, detail))
            else:
                self.submit(job, on_end)

        self.at(time.monotonic() + RETRY, submit)

    def _wake(self) -> None:
        with self._lock:
            # A late caller must not write into a descriptor that is somebody else's by now.
            if not self._closed:
                with contextlib.suppress(BlockingIOError):  # it is full of wake-ups already
                    os.write(self._wake_write, b"\0")

    def _cancel(self, on_cancel: Callable[[], None]) -> None:
        self._cancelled = True
        for session in list(self._sessions):
            if not session.job.protected:
                session.stop("cancelled")
        for cancelled in list(self._fallen.values()):
            cancelled.set()
        on_cancel()

    def _wait(self) -> None:
        due = min((session.due() for session in self._sessions), default=float("inf"))
        if self._timers:
            due = min(due, self._timers[0][0])
        timeout = None if due == float("inf") else max(due - time.monotonic(), 0)
        if self._calls:
            timeout = 0
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                os.read(self._wake_read, 4096)
            else:
                self._attend(key.data, key.fd)
        now = time.monotonic()
        if now >= due:
            while self._timers and self._timers[0][0] <= now:
                heapq.heappop(self._timers)[2]()
            for session in list(self._sessions):
                session.tick(now)

    def _attend(self, session: Session, fd: int) -> None:
        try:
            session.ready(fd)
        except wire.ProtocolError:
            # Only what has certainly not begun may be given to the fall-back, or it would run twice.
            session.fail("lost" if session.opened or session.marker else "version")

    def _reap(self) -> None:
        while True:
            over = [session for session in self._sessions if session.ended is not None]
            if not over:
                return
            for session in over:
                on_end = self._sessions.pop(session)
                assert session.ended is not None
                if session.ended.why == "version":
                    self._fall_back(session.job, on_end)
                else:
                    on_end(self._settled(session, session.ended))

    def _settled(self, session: Session, ended: Ended) -> Ended:
        """What an end without exit status means: ask the master whether it is still there."""
        if ended.why != "eof":
            return ended
        started = bool(ended.marker) or session.opened
        if alive(self._folder, session.job.name):
            return replace(ended, why="signal" if started else "failed")
        return replace(ended, why="lost" if started else "no_master")

    def _fall_back(self, job: Job, on_end: OnEnd) -> None:
        """Run a job by `ssh -S`, beside the loop."""
        cancelled = Cancellation()

        def run() -> None:
            try:
                ended = self._fallback.run(
                    job.name, job.command, nonce=job.nonce, stdin=job.stdin, limits=job.limits, deadline=job.deadline,
                    cancelled=cancelled, on_output=job.on_output, on_marker=lambda words: self.call(lambda: job.on_marker(words)),
                )  # fmt: skip
            except OSError as error:
                ended = _unsent("crowded" if error.errno in _CROWDED else "failed", os.strerror(error.errno or 0))
            self.call(lambda: over(ended))

        def over(ended: Ended) -> None:
            del self._fallen[thread]
            thread.join()
            on_end(ended)

        thread = threading.Thread(target=run, name="ssh -S")
        self._fallen[thread] = cancelled
        thread.start()


def _unsent(why: str, detail: str = "") -> Ended:
    """The end of a job that never began."""
    return Ended(why, None, _NOTHING, _NOTHING, "", detail)
