"""A pool of threads that grows with the work and shrinks when it is over."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable

Job = Callable[[], None]


class WorkerPool:
    """Runs jobs in threads: an idle one is used again, else a new one is started while there are fewer than `limit`.

    Beyond the first `EAGER` threads a new one is only started once nobody has taken a job for `PATIENCE` seconds, which
    shows that the threads are held by slow handlers: where they are merely busy, more of them would only contend for
    the interpreter's lock. `tend` finds that out.

    Args:
        name: What the threads are called.
        limit: The most threads; further jobs wait in line.
        log: Where a job's exception goes; jobs should not raise.
        idle_seconds: A thread without work ends after that.
    """

    EAGER = 8
    PATIENCE = 0.005
    LINGERERS = 8
    """How many workers may wait for their connection's next request."""

    def __init__(self, name: str, limit: int, log: logging.Logger, idle_seconds: float = 10.0) -> None:
        self._name = name
        self._limit = limit
        self._log = log
        self._idle_seconds = idle_seconds
        self._lock = threading.Lock()
        self._more = threading.Condition(self._lock)
        self._jobs: deque[Job] = deque()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._fresh = 0  # threads that were started and have not come to their first job yet
        self._lingering = 0
        self._lent = 0
        self._started = 0
        self._last_taken = 0.0
        self._stopping = False

    @property
    def size(self) -> int:
        """How many threads there are now."""
        return len(self._threads)

    @property
    def lent(self) -> int:
        """How many threads are out of the count now."""
        return self._lent

    def submit(self, job: Job) -> None:
        """Run `job` soon; after `stop` it is forgotten."""
        with self._lock:
            if self._stopping:
                return
            self._jobs.append(job)
            if len(self._jobs) <= self._idle:
                self._more.notify()
            elif len(self._threads) - self._lent < min(self._limit, self.EAGER):
                self._start()

    def tend(self) -> float:
        """Start threads for jobs that have waited too long.

        Returns:
            When to call this again (monotonic); infinity while nothing waits that a further thread could take.
        """
        if not self._jobs:
            return math.inf
        with self._lock:
            now, waiting = time.monotonic(), len(self._jobs) - self._idle - self._fresh
            free = self._limit + self._lent - len(self._threads)
            if waiting <= 0 or free <= 0:
                return math.inf
            if now >= self._last_taken + self.PATIENCE:
                for _ in range(min(waiting, free)):
                    self._start()
                self._last_taken = now
            return now + self.PATIENCE

    def lend(self, change: int) -> None:
        """Leave one thread more (1) or no longer (-1) out of the count: its job is no longer what the limit is for."""
        with self._lock:
            self._lent += change

    def linger(self, wait: Callable[[], bool]) -> bool:
        """Let a worker wait shortly by `wait` for more of what it just did, if nothing else is to be done.

        Returns:
            What `wait` returned; False if this is no time for waiting.
        """
        with self._lock:
            if self._jobs or self._stopping or self._lingering >= self.LINGERERS:
                return False
            self._lingering += 1
        try:
            return wait()
        finally:
            with self._lock:
                self._lingering -= 1

    def stop(self, seconds: float) -> int:
        """Take no more jobs, and wait for the ones it has.

        Returns:
            How many threads were still at work after `seconds`.
        """
        with self._lock:
            self._stopping = True
            self._more.notify_all()
            threads = list(self._threads)
        end = time.monotonic() + seconds
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, end - time.monotonic()))
        return sum(thread.is_alive() for thread in threads)

    def _start(self) -> None:
        """Start a thread; the lock is held."""
        self._started += 1
        # Daemons, so that a handler that never returns can't keep the process from ending after its grace.
        thread = threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True)
        self._threads.add(thread)
        self._fresh += 1
        try:
            thread.start()
        except RuntimeError as error:
            self._fresh -= 1
            # No more threads may be started (TasksMax, ulimit): the running ones will get to the job.
            self._threads.discard(thread)
            self._log.warning("cannot start another %s thread, %d are running: %s", self._name, self.size, error)

    def _work(self) -> None:
        fresh = 1
        while True:
            with self._lock:
                self._fresh -= fresh
                fresh = 0
                while not self._jobs:
                    if self._stopping or not self._wait_for_work():
                        self._threads.discard(threading.current_thread())
                        return
                job = self._jobs.popleft()
                self._last_taken = time.monotonic()
            try:
                job()
            except Exception:
                self._log.exception("a job of the %s threads failed", self._name)
            del job

    def _wait_for_work(self) -> bool:
        """Wait for a notification; the lock is held. False if none came in time and there is nothing to do."""
        self._idle += 1
        try:
            return self._more.wait(self._idle_seconds) or bool(self._jobs)
        finally:
            self._idle -= 1
