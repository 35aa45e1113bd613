"""One act on one server, from the guard to the outcome in the audit log, as a chain of steps in a mux loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from fleetshell_tools.core.audit import AuditLog
from fleetshell_tools.core.errors import BadArgument, Blocked, Cancelled, FleetShellError, TimedOut, Unreachable
from fleetshell_tools.core.servers import Server
from fleetshell_tools.core.text import decode, one_line
from fleetshell_tools.core.types import Act, Caller, Cancellation, Captured, Completed, HostResult, Verdict
from fleetshell_tools.fleet import remote
from fleetshell_tools.fleet.connections import Connection, Connections
from fleetshell_tools.fleet.identity import Identity
from fleetshell_tools.fleet.mux import Job, Loop
from fleetshell_tools.fleet.mux.session import Session
from fleetshell_tools.fleet.remote import Wire
from fleetshell_tools.fleet.started import Started
from fleetshell_tools.fleet.transport import Ended, Limits

STOP_SECONDS = 10.0
"""How long ending a remote process group may take."""

TRIES = 20
"""How often a session that the host refuses is asked for again where we have no other there that could end."""

LONGEST_PAUSE = 0.2
"""Seconds between these tries, at most: they begin with a hundredth, because a session that has ended counts for a moment."""


@dataclass(frozen=True)
class Road:
    """What every errand of a fleet shares."""

    audit: AuditLog
    connections: Connections
    started: Started
    limits: Limits


class Errand:
    """One act on one server.

    Attributes:
        completed: How it ended, where it came to that.
        error: Why it failed.
    """

    def __init__(
        self, road: Road, caller: Caller, server: Server, act: Act, *, timeout: float, cancelled: Cancellation,
        on_output: Callable[[bytes], None] | None = None,
    ) -> None:  # fmt: skip
        self.server = server
        self.completed: Completed | None = None
        self.error: Exception | None = None
        self.done = False
        self._road = road
        self._act = act
        self._timeout = timeout
        self._cancelled = cancelled
        self._on_output = on_output
        self._record = _Record(road.audit, caller, server, act)
        self._began = time.monotonic()
        self._deadline = self._began + timeout
        self._tries = 0
        self._reconnected = False
        self._opened = False
        self._on_trust = False
        self._doubtful = False
        self._made = 0
        self._took_ms: int | None = None
        self._session: Session | None = None
        self._lost: Ended | None = None
        self._on_done: Callable[[Errand], None] = lambda errand: None
        self._identity: Identity
        self._connection: Connection
        self._loop: Loop
        self._wire: Wire
        self._waiter: Callable[[], None] | None = None

    @property
    def duration_ms(self) -> int:
        return round((time.monotonic() - self._began) * 1000) if self._took_ms is None else self._took_ms

    @property
    def failed(self) -> bool:
        return self.completed is None or self.completed.exit_code != 0

    def snapshot(self) -> HostResult:
        """How it stands, for any thread: what it has printed so far, and once it is done how it ended."""
        took = self.duration_ms
        if not self.done:
            session = self._session
            so_far = session.captured() if session else (Captured(), Captured())
            return HostResult(self.server.id, Completed(None, *so_far, took), duration_ms=took, running=True)
        error = self.error
        if error is None:
            return HostResult(self.server.id, self.completed, duration_ms=took)
        if not isinstance(error, FleetShellError):
            return HostResult(self.server.id, error="internal error, see the relay's log", duration_ms=took)
        seen = None
        if self._lost is not None:
            seen = Completed(None, self._lost.stdout, self._lost.stderr, took, stopped="unconfirmed")
        return HostResult(self.server.id, seen, error.message, took)

    def admit(self, verdict: Verdict, identity: Callable[[], Identity], *, durable: bool) -> None:
        """Take the guard's verdict, find out who we are and write the intent; nothing has reached the host yet.

        Raises:
            Blocked, AuditUnavailable, ConfigError: It ends here.
        """
        self._record.verdict(verdict)
        if not verdict.allowed:
            self._record.outcome("blocked")
            raise Blocked(verdict.reason)
        self._identity = identity()
        self._connection = self._road.connections.of(self._identity)
        self._record.intent(durable)

    def start(self, on_done: Callable[[Errand], None]) -> None:
        """The time limit begins; `on_done` will be called at the end."""
        self._on_done = on_done
        self._began = time.monotonic()
        self._deadline = self._began + self._timeout

    @property
    def warm(self) -> bool:
        """Whether there is a connection already, so that `connect` takes no time."""
        return self._road.connections.is_open(self._identity)

    def connect(self) -> None:
        """Make the connection, in the calling thread; a failure becomes the errand's error.

        `run_in` must follow.
        """
        try:
            self._connection = self._road.connections.open(
                self._identity, self._deadline, self._cancelled, probed=self._doubtful
            )
        except Exception as error:
            self.error = error

    def run_in(self, loop: Loop) -> None:
        """Run over the connection, in the loop's thread."""
        self._loop = loop
        if self.error is not None:
            self._fail(self.error)
            return
        self._queue()

    def skip(self, error: FleetShellError) -> None:
        """It never gets its turn."""
        self._fail(error)

    def give_up(self) -> None:
        """The call was cancelled while this errand was waiting for its turn."""
        if not self.done and self._waiter is not None and self._connection.slots.forget(self._waiter):
            self._waiter = None
            self._fail(
                Cancelled(f"Cancelled while {self.server.id} was busy with other commands; nothing was run there.")
            )

    def _queue(self) -> None:
        """Wait for a place among the sessions of this host."""

        def admitted() -> None:
            self._loop.call(self._submit)

        def too_late() -> None:
            if not self.done and self._waiter is admitted and self._connection.slots.forget(admitted):
                self._waiter = None
                self._fail(
                    TimedOut(
                        f"{self.server.id} was busy with other commands for the whole {self._timeout:g} s; nothing was run there."
                    )
                )

        self._waiter = admitted
        self._loop.at(self._deadline, too_late)
        self._connection.slots.acquire(admitted)

    def _submit(self) -> None:
        self._waiter = None
        probe, act = self._connection.probe, self._act
        try:
            if self._cancelled.is_set():
                raise Cancelled(f"Cancelled before anything was run on {self.server.id}.")
            if self._identity.raw:
                self._wire = remote.wrap_raw(
                    act.command, act.stdin, environment=act.environment, folder=act.working_directory
                )
            else:
                assert probe is not None
                self._on_trust = probe.assumed
                self._wire = remote.wrap(
                    probe, act.command, stdin=act.stdin, environment=act.environment, folder=act.working_directory
                )
        except Exception as error:
            self._connection.slots.release()
            self._fail(error)
            return
        self._opened, self._made = False, self._connection.made
        job = Job(
            self._identity.name, self._wire.command, self._wire.nonce, self._wire.stdin, self._road.limits, self._deadline,
            self._on_output, self._note_start, self._note_open, on_begin=self._note_session,
        )  # fmt: skip
        self._loop.submit(job, self._ended)

    def _note_session(self, session: Session) -> None:
        self._session = session

    def _note_open(self) -> None:
        self._opened = True
        self._connection.slots.opened()

    def _note_start(self, marker: str) -> None:
        self._road.connections.told(self._connection, marker)
        assert self._connection.probe is not None
        self._road.started.add(
            self._wire.nonce,
            self.server.id,
            self._act.shown,
            remote.group_of(marker),
            self._connection.probe.ticks_now(),
            self._connection.probe.boot,
        )

    def _ended(self, ended: Ended) -> None:
        slots, why = self._connection.slots, ended.why
        self._tries += 1
        if why == "refused":
            slots.refused()
            others = slots.used > 1
            slots.release()
            pause = min(0.01 * self._tries, LONGEST_PAUSE)
            if (
                (others or self._tries < TRIES)
                and time.monotonic() + pause < self._deadline
                and not self._cancelled.is_set()
            ):
                self._loop.at(time.monotonic() + pause, self._queue)
            else:
                self._finish(ended)
            return
        slots.release(opened=self._opened)
        if why in ("no_master", "frozen") and not self._reconnected:
            self._reconnect(lambda: self._road.connections.lost(self._connection, self._made))
        elif self._on_trust and not ended.marker and why in ("", "signal") and not self._reconnected:
            # Another shell than the one that was there last time: it has refused all of our text at its first line.
            self._doubtful = True
            self._reconnect(lambda: self._road.connections.mistaken(self._connection))
        elif why in ("timeout", "cancelled", "flood") and self._wire.nonce:
            self._stop(ended)
        else:
            if why in ("no_master", "frozen", "lost"):
                self._in_background(lambda: self._road.connections.lost(self._connection, self._made))
            self._finish(ended)

    def _in_background(self, function: Callable[[], None]) -> bool:
        try:
            self._road.connections.in_background(function)
        except FleetShellError:  # the relay is stopping, which ends every connection
            return False
        return True

    def _reconnect(self, first: Callable[[], None]) -> None:
        """Nothing ran, because the master had gone (or hung) or the shell is another: once more from the start, off the loop."""
        self._reconnected = True

        def again() -> None:
            first()
            self.connect()
            self._loop.call(lambda: self.run_in(self._loop))

        if not self._in_background(again):
            self._fail(FleetShellError(f"The relay is stopping; nothing was run on {self.server.id}."))

    def _stop(self, ended: Ended) -> None:
        """End the remote process group of a command that we gave up on."""
        script = (
            remote.stop_script(remote.group_of(ended.marker))
            if ended.marker
            else remote.stop_unseen_script(self._wire.nonce)
        )
        deadline = time.monotonic() + STOP_SECONDS
        job = Job(self._identity.name, script, "", b"", Limits(8192, 1 << 20), deadline, protected=True)

        def stopped(end: Ended) -> None:
            self._finish(ended, *remote.parse_stop(decode(end.stdout.head)))

        def tried(end: Ended) -> None:
            if not end.why or self._identity.local or not self._in_background(alone):
                stopped(end)

        def alone() -> None:
            # The host may have no room for a second session (MaxSessions), or the master may be gone: a login of its own.
            connections = self._road.connections
            end = connections.run_alone(self._identity, script, max(deadline, time.monotonic() + STOP_SECONDS / 2))
            if not connections.alive(self._identity):
                connections.lost(self._connection, self._made)
            self._loop.call(lambda: stopped(end))

        self._loop.submit(job, tried)

    def _finish(self, ended: Ended, stopped: str = "", left: str = "") -> None:
        if ended.marker and stopped != "unconfirmed" and ended.why != "lost":
            self._road.started.remove(self._wire.nonce)
        self._lost = ended if ended.why == "lost" else None
        try:
            self.completed = self._completed(ended, stopped, left)
        except FleetShellError as error:
            self._fail(error)
            return
        done = self.completed
        event = "cancelled" if done.cancelled else "timed_out" if done.timed_out else "finished"
        more: dict[str, Any] = {"signal": done.signal} if done.signal else {}
        if done.stopped:
            more["stopped"] = done.stopped
        self._close(event, exit_code=done.exit_code, success=done.exit_code == 0, **more)

    def _completed(self, ended: Ended, stopped: str, left: str) -> Completed:
        name, why = self.server.id, ended.why
        if why == "unsent":
            if self._cancelled.is_set():
                raise Cancelled(f"Cancelled before anything was run on {name}.")
            raise TimedOut(f"The time limit of {self._timeout:g} s passed before anything was run on {name}.")
        if why == "crowded":
            raise FleetShellError(
                f"The relay has no room for another command ({ended.detail}); nothing was run on {name}. Raise `ulimit -n`."
            )
        if why in _NOT_STARTED:
            detail = f" ({one_line(ended.detail, 200)})" if ended.detail else ""
            raise Unreachable(
                f"{name} {_NOT_STARTED[why]}{detail}; the command did not start. Try again.",
                step="lost",
                seen=_seen(ended),
            )
        if why == "lost":
            group = f" (process group {remote.group_of(ended.marker)})" if ended.marker else ""
            raise Unreachable(
                f"The connection to {name} was lost while the command ran; it may still run there{group}, have done its work, or "
                f"part of it. Look before you run it again.",
                step="lost", seen=_seen(ended),
            )  # fmt: skip
        if remote.folder_failed(self._wire, ended.stdout.head):
            raise BadArgument(
                f"The working directory {self._act.working_directory} can't be entered on {name}: {one_line(decode(ended.stderr.head))}"
            )
        done = Completed(ended.exit_code, ended.stdout, ended.stderr, self.duration_ms)
        if why == "signal":
            # Network gear closes its sessions without saying how a command ended.
            return done if self._identity.raw else replace(done, signal=ended.detail or "unknown")
        if not why:
            return done
        note = f" (process ids {left})" if left else ""
        return replace(
            done,
            exit_code=None,
            timed_out=why == "timeout",
            cancelled=why == "cancelled",
            stopped=stopped or "unconfirmed",
            why=why + note,
        )

    def _fail(self, error: Exception) -> None:
        self.error = error
        known = isinstance(error, FleetShellError)
        reason, text = (error.reason, error.message) if isinstance(error, FleetShellError) else ("internal", "")
        self._close("failed", success=False, reason=reason, **({"error": text} if known else {}))

    def _close(self, event: str, **fields: Any) -> None:
        self._took_ms = self.duration_ms
        self.done = True
        try:
            self._record.outcome(event, duration_ms=self._took_ms, **fields)
        except FleetShellError as error:
            # The command has run, so its result is still given; that its outcome is missing is the louder news.
            self.error, self.completed = error, None
        self._on_done(self)


_NOT_STARTED = {
    "refused": "opens no more sessions (MaxSessions)",
    "no_master": "closed the connection",
    "frozen": "can't be used because ssh hung",
    "failed": "opened no session",
    "version": "opened no session",
}
"""What to say of ends at which nothing has run."""


class _Record:
    """Writes the audit records of one act: an intent that is on disk before anything runs, and one outcome."""

    def __init__(self, audit: AuditLog, caller: Caller, server: Server, act: Act) -> None:
        self._audit = audit
        self._fields: dict[str, Any] = {
            "server_id": server.id, "command": act.shown, "tool": caller.tool, "principal": caller.principal.key_id,
            "name": caller.principal.name, "client": caller.client, "session": caller.session,
        }  # fmt: skip
        if act.environment:
            self._fields["environment"] = sorted(act.environment)
        if act.stdin:
            self._fields["stdin_bytes"] = len(act.stdin)
        if act.working_directory:
            self._fields["working_directory"] = act.working_directory
        self._intent: int | None = None

    def verdict(self, verdict: Verdict) -> None:
        """What every record of this act says of the guard and of the operator."""
        self._fields["verdict"] = verdict.word
        if verdict.argv:
            self._fields["resolved"] = list(verdict.argv)
        if verdict.approval:
            self._fields["approval"] = verdict.approval

    def intent(self, durable: bool) -> None:
        self._intent = self._audit.record("started", durable=durable, **self._fields)

    def outcome(self, event: str, **more: Any) -> None:
        if self._intent is not None:
            more["intent"] = self._intent
        self._audit.record(event, **self._fields, **more)


def _seen(ended: Ended) -> str:
    def part(captured: Captured) -> str:
        return decode(captured.head[:2000] + captured.tail[-2000:]).strip()

    return "\n".join(text for text in (part(ended.stdout), part(ended.stderr)) if text)
