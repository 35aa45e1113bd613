"""Jobs: calls that go on after their client was answered, and output that is kept so that it can be read on."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from fleetshell_tools.core import config
from fleetshell_tools.core.errors import FleetShellError, NotFound
from fleetshell_tools.core.tool import Output
from fleetshell_tools.core.types import Caller, Cancellation, HostResult, Reply, Snapshot

log = logging.getLogger("fleetshell")

PAUSE = 0.05
"""Seconds between two looks of one who waits at a command that prints all the time, so that looking does not slow it."""


@dataclass(frozen=True)
class Work:
    """What a call does, for those who look at it once it has become a job.

    Attributes:
        cancelled: Ends the call.
        settle: Makes an end that we brought about ourselves an error with a sentence.
        show: All servers' outcomes as one text.
    """

    caller: Caller
    command: str
    server_ids: tuple[str, ...]
    cancelled: Cancellation
    settle: Callable[[HostResult], HostResult]
    show: Callable[[list[HostResult]], str]


class Job:
    """A call of one principal, running or ended; all of it is for any thread.

    Args:
        began: When its call began, on the clock of `Jobs`.
        snapshot: How its servers stand; not used any more once it has ended.

    Attributes:
        size: Bytes of output that are kept of it; 0 while it runs.
    """

    def __init__(self, work: Work, began: float, now: Callable[[], float], snapshot: Snapshot) -> None:
        self.job_id = f"job_{secrets.token_urlsafe(9)}"
        self.work = work
        self.started_at = time.time() - (now() - began)
        self.kept_since = 0.0
        self.size = 0
        self._began = began
        self._now = now
        self._snapshot = snapshot
        self._ended: list[HostResult] | None = None
        self._ended_ms = 0
        self._changed = threading.Condition()
        self._changes = 0

    @property
    def owner(self) -> str:
        return self.work.caller.principal.key_id

    @property
    def running(self) -> bool:
        return self._ended is None

    @property
    def duration_ms(self) -> int:
        return round((self._now() - self._began) * 1000) if self._ended is None else self._ended_ms

    def results(self) -> list[HostResult]:
        """How its servers stand now, or how they ended."""
        snapshot = self._snapshot  # before the look at `_ended`, which is set before this is replaced
        ended = self._ended
        return [self.work.settle(result) for result in snapshot()] if ended is None else ended

    def end(self, results: list[HostResult]) -> None:
        """It is over; wakes all who wait."""
        self._ended_ms = self.duration_ms
        self.size = sum(map(_size, results))
        self._ended = results
        self._snapshot = list
        self.wake()

    def wake(self) -> None:
        """There may be news for those who wait."""
        with self._changed:
            self._changes += 1
            self._changed.notify_all()

    def wait(self, ready: Callable[[], bool], seconds: float, cancelled: Cancellation) -> None:
        """Wait until `ready`, the job's end, a cancellation of the wait, or so many seconds have passed."""
        deadline = time.monotonic() + seconds
        forget = cancelled.on_set(self.wake)
        try:
            while True:
                seen = self._changes
                left = deadline - time.monotonic()
                if left <= 0 or cancelled.is_set() or not self.running or ready():
                    return
                with self._changed:
                    self._changed.wait_for(lambda seen=seen: self._changes != seen, left)  # type: ignore[misc]
                if self.running and not ready():
                    cancelled.wait(min(PAUSE, left))
        finally:
            forget()


class Jobs:
    """Every principal's jobs, in memory: bounded in number, in bytes and in time.

    Args:
        limits: The limits as they are configured now.
        record: Writes an audit record: takes the event and the record's fields.
        now: A monotonic clock, in seconds.
    """

    def __init__(
        self,
        limits: Callable[[], config.Jobs],
        record: Callable[..., object],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._record = record
        self.now = now
        self._lock = threading.Lock()
        self._running: dict[str, Job] = {}
        self._kept: dict[str, Job] = {}  # the one that ended first comes first
        self._closed = False

    def start(self, work: Work, began: float, snapshot: Snapshot) -> Job | None:
        """Make a running call a job; None where no more jobs may run.

        Raises:
            AuditUnavailable: It can't be recorded, so it is none.
        """
        limits, job = self._limits(), Job(work, began, self.now, snapshot)
        with self._lock:
            running = sum(other.owner == job.owner for other in self._running.values())
            if self._closed or running >= min(limits.running, limits.kept):
                return None
            self._running[job.job_id] = job
            self._trim()
        try:
            self._record("job_started", **_fields(job))
        except FleetShellError:
            with self._lock:
                del self._running[job.job_id]
            raise
        return job

    def end(self, job: Job, results: list[HostResult]) -> None:
        """A job that was started is over; it is recorded, then shown to those who wait, and its output is kept."""
        outcome: dict[str, Any] = {"success": all(map(succeeded, results)), "duration_ms": job.duration_ms}
        if len(results) == 1:
            outcome["exit_code"] = results[0].completed.exit_code if results[0].completed else None
        if job.work.cancelled.is_set():
            outcome["reason"] = job.work.cancelled.why
        try:
            self._record("job_ended", **_fields(job), **outcome)
        except FleetShellError as error:
            # What it did on servers has been recorded by the fleet, or not, in the same log; its output is still good.
            log.error("The end of %s could not be recorded: %s", job.job_id, error.message)
        job.end(results)
        with self._lock:
            self._running.pop(job.job_id, None)
            self._add(job)

    def keep(self, work: Work, began: float, results: list[HostResult]) -> Job | None:
        """Keep the output of a call that has ended and was answered; None where there is no room for it."""
        job = Job(work, began, self.now, list)
        job.end(results)
        with self._lock:
            self._add(job)
            return job if job.job_id in self._kept else None

    def get(self, caller: Caller, job_id: str) -> Job:
        """A job of the caller.

        Raises:
            NotFound: Unknown, no longer kept, or another's: always the same sentence.
        """
        with self._lock:
            self._trim()
            job = self._running.get(job_id) or self._kept.get(job_id)
        if job is None or job.owner != caller.principal.key_id:
            raise NotFound(
                f"There is no job {job_id[:40]!r}, or its output is no longer kept. get_job without job_id lists yours."
            )
        return job

    def of(self, caller: Caller) -> list[Job]:
        """The caller's jobs, the oldest first."""
        with self._lock:
            self._trim()
            jobs = [*self._kept.values(), *self._running.values()]
        mine = [job for job in jobs if job.owner == caller.principal.key_id]
        return sorted(mine, key=lambda job: job.started_at)

    def running(self) -> int:
        """How many jobs run now, of all principals."""
        return len(self._running)

    def expire(self) -> None:
        """Forget what was kept for its time."""
        with self._lock:
            self._trim()

    def cancel_all(self, why: str, of: Callable[[str], bool] = lambda owner: True) -> int:
        """End every running job `of` those owners, and return how many there were; what has ended stays."""
        with self._lock:
            running = [job for job in self._running.values() if of(job.owner)]
        for job in running:
            job.work.cancelled.set(why)
        return len(running)

    def close(self) -> None:
        """End every running job and start no more; the threads of their calls end soon after."""
        with self._lock:
            self._closed = True
        self.cancel_all("the relay is stopping")

    def _add(self, job: Job) -> None:
        job.kept_since = self.now()
        self._kept[job.job_id] = job
        self._trim()

    def _trim(self) -> None:
        """Forget what is beyond the limits, what ended first before all else."""
        limits = self._limits()
        counts: dict[str, int] = {}
        for job in [*self._running.values(), *self._kept.values()]:
            counts[job.owner] = counts.get(job.owner, 0) + 1
        size = sum(job.size for job in self._kept.values())
        for job in list(self._kept.values()):
            old = self.now() - job.kept_since >= limits.keep_seconds
            if old or counts[job.owner] > limits.kept or size > limits.memory_bytes:
                del self._kept[job.job_id]
                counts[job.owner] -= 1
                size -= job.size


class Call:
    """A call whose client may be answered before its end: wrap the fleet's work in it.

    Where the client will not wait longer, the call becomes a job and the client is answered with `so_far`. If no more jobs
    may run, it keeps waiting.

    Args:
        so_far: What to answer with; given the job.

    Attributes:
        results: How its servers ended, once it is over.
    """

    def __init__(self, jobs: Jobs, work: Work, reply: Reply, so_far: Callable[[Job], Output]) -> None:
        self.results: list[HostResult] = []
        self._jobs = jobs
        self._work = work
        self._reply = reply
        self._so_far = so_far
        self._began = jobs.now()
        self._lock = threading.Lock()
        self._job: Job | None = None
        self._over = False
        self._snapshot: Snapshot | None = None
        self._forget: Callable[[], None] = lambda: None

    def __enter__(self) -> Call:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._forget()
        with self._lock:
            self._over = True
        if self._snapshot is not None:
            self.results = [self._work.settle(_ended(result)) for result in self._snapshot()]
        if self._job is not None:
            self._jobs.end(self._job, self.results)

    def watch(self, snapshot: Snapshot) -> None:
        """It begins: from now on the client may be answered with what there is."""
        self._snapshot = snapshot
        self._forget = self._reply.when_impatient(self._hand_over)

    def heard(self) -> None:
        """There is more output, or a server has ended."""
        if self._job is not None:
            self._job.wake()

    def keep(self) -> Job | None:
        """Keep the output of the call, which is over, so that it can be read on; None where there is no room for it."""
        return self._job or self._jobs.keep(self._work, self._began, self.results)

    def _hand_over(self) -> None:
        with self._lock:
            if self._over or self._snapshot is None or self._work.cancelled.is_set():
                return
            try:
                self._job = self._jobs.start(self._work, self._began, self._snapshot)
            except FleetShellError as error:
                log.error("A call could not become a job, so its client waits on: %s", error.message)
        if self._job is not None:
            self._reply.answer(self._so_far(self._job))


NO_JOBS = Jobs(lambda: config.Jobs(running=0, kept=0), lambda event, **fields: None)
"""For calls that never become jobs."""


def succeeded(result: HostResult) -> bool:
    """Whether a server's command ended by itself, with exit code 0."""
    done = result.completed
    return not result.running and result.error is None and done is not None and done.exit_code == 0


def _size(result: HostResult) -> int:
    done = result.completed
    return sum(len(out.head) + len(out.tail) for out in (done.stdout, done.stderr)) if done else 0


def _ended(result: HostResult) -> HostResult:
    """The call is over, so this is too; only a fault of ours leaves it in the middle."""
    return replace(result, running=False, error="internal error, see the relay's log") if result.running else result


def _fields(job: Job) -> dict[str, Any]:
    caller, servers = job.work.caller, job.work.server_ids
    where: dict[str, Any] = {"server_id": servers[0]} if len(servers) == 1 else {"servers": list(servers)}
    return {
        **where, "command": job.work.command, "tool": caller.tool, "principal": caller.principal.key_id,
        "name": caller.principal.name, "client": caller.client, "session": caller.session, "job_id": job.job_id,
    }  # fmt: skip
