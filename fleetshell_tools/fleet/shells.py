"""The shell sessions of a relay: who may use which, guard and audit of every command, limits, idle time, and ending them.

Nothing reads a session between calls: what a host prints then waits in ssh's window until a call, a listing or `expire`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from fleetshell_tools.core.audit import AuditLog
from fleetshell_tools.core.config import Config
from fleetshell_tools.core.errors import BadArgument, Blocked, Cancelled, FleetShellError, TimedOut, Unreachable
from fleetshell_tools.core.servers import Server
from fleetshell_tools.core.text import decode, one_line
from fleetshell_tools.core.types import (
    Act,
    Caller,
    Cancellation,
    Captured,
    Principal,
    Progress,
    ShellInfo,
    ShellOutput,
    Verdict,
)
from fleetshell_tools.fleet import framing, remote
from fleetshell_tools.fleet.collect import last_line
from fleetshell_tools.fleet.connections import Connections, taken
from fleetshell_tools.fleet.identity import Identity
from fleetshell_tools.fleet.mux import Job, MuxTransport
from fleetshell_tools.fleet.shell_session import Heard, ShellSession
from fleetshell_tools.fleet.shell_start import start
from fleetshell_tools.fleet.shell_table import ShellTable, unknown
from fleetshell_tools.fleet.started import Started
from fleetshell_tools.fleet.transport import Ended, Limits

STOP_SECONDS = 10.0
"""How long ending what runs in sessions may take."""

CLOSING_SECONDS = 10.0
"""How long a call that waits in a session gets to notice that the session is being closed."""

RELAY = Caller(Principal("relay"))


@dataclass(frozen=True)
class ShellRoad:
    """What the sessions share with the rest of a fleet."""

    audit: AuditLog
    connections: Connections
    transport: MuxTransport
    started: Started
    judge: Callable[[Caller, Server, Act], Verdict]
    identity: Callable[[Server], Identity]
    config: Callable[[], Config]
    decide: Callable[..., Verdict]
    """See `Approving.decide`."""


class Shells:
    """Implements `core.types.ShellSessions`.

    Args:
        now: A clock in seconds, for idle times.
    """

    def __init__(self, road: ShellRoad, now: Callable[[], float] = time.monotonic) -> None:
        self._road = road
        self._table = ShellTable(road.config, now)

    def create(
        self, caller: Caller, server: Server, *, folder: str | None = None, rows: int = 24, cols: int = 80, timeout: float,
        cancelled: Cancellation, shell: str | None = None,
    ) -> ShellInfo:  # fmt: skip
        """See `ShellSessions.create`.

        Args:
            shell: Another shell than the login shell.
        """
        began = time.monotonic()
        deadline = began + timeout
        identity = self._road.identity(server)
        fields = {**_who(caller), "server_id": server.id}
        intent = self._road.audit.record("session_opening", durable=True, verdict="allowed", **fields)
        fields["intent"] = intent
        session = None
        try:
            connection = self._road.connections.open(identity, deadline, cancelled)
            session = self._table.admit(caller, server, connection)
            start(self._road.transport, self._road.connections, session, folder, shell, rows, cols, deadline, cancelled)
            group = self._note(session)
        except BaseException as error:
            if session is not None:
                self._table.remove(session)
            fields["reason"] = error.reason if isinstance(error, FleetShellError) else "internal"
            if isinstance(error, FleetShellError):
                fields["error"] = error.message
            self._road.audit.record("failed", success=False, duration_ms=_since(began), **fields)
            raise
        self._road.audit.record(
            "session_opened", success=True, duration_ms=_since(began), shell_session=session.id, group=group, **fields
        )
        return self._info(session)

    def execute(
        self, caller: Caller, session_id: str, command: str, *, timeout: float, cancelled: Cancellation, progress: Progress,
        approval_id: str | None = None,
    ) -> ShellOutput:  # fmt: skip
        session, deadline = self._table.find(caller, session_id), time.monotonic() + timeout
        passed = self._pass_guard(session, caller, command, approval_id)
        with self._turn(session, deadline, cancelled):
            if session.running is not None:
                raise BadArgument(
                    f"`{one_line(session.running, 80)}` still runs in {session.id}. Answer it with is_input, end it with interrupt, "
                    f"or create another session."
                )
            earlier, began = session.unreported, time.monotonic()
            session.intent = self._record("session_command", session, caller, durable=True, command=command, **passed)
            heard = session.run(command, deadline, cancelled, last_line(progress))
            output = self._settle(session, caller, heard, began, command)
        if earlier is not None and not output.notice:
            notice = f"The output begins with what the command before still printed; that one ended with exit code {earlier}."
            return replace(output, notice=notice)
        return output

    def answer(
        self, caller: Caller, session_id: str, text: str, *, timeout: float, cancelled: Cancellation, progress: Progress,
        approval_id: str | None = None,
    ) -> ShellOutput:  # fmt: skip
        session = self._table.find(caller, session_id)
        data = framing.keys(text)
        passed = self._pass_guard(session, caller, text, approval_id, typed=len(data)) if data else {}

        def send() -> None:
            if data:
                self._record("session_input", session, caller, durable=True, bytes=len(data), **passed)
                session.terminal.write(data)

        return self._type(session, caller, send, time.monotonic() + timeout, cancelled, progress, "read input")

    def interrupt(
        self, caller: Caller, session_id: str, *, timeout: float, cancelled: Cancellation, progress: Progress
    ) -> ShellOutput:
        session = self._table.find(caller, session_id)

        def send() -> None:
            self._record("session_interrupt", session, caller, durable=True)
            session.interrupt()

        output = self._type(session, caller, send, time.monotonic() + timeout, cancelled, progress, "be interrupted")
        if output.notice == _STILL_RUNNING:
            return replace(
                output, notice="The command did not end on Ctrl-C. Try again, or close the session, which ends it."
            )
        return output

    def close(self, caller: Caller, session_id: str) -> None:
        self._close([self._table.find(caller, session_id)], caller, "closed")

    def active(self, caller: Caller) -> list[ShellInfo]:
        return [
            self._info(session)
            for session in self._current()
            if session.owner == caller.principal.key_id and not self._table.is_idle(session)
        ]

    def all(self) -> list[tuple[str, ShellInfo]]:
        """Everybody's sessions, each with its owner's key id."""
        return [(session.owner, self._info(session)) for session in self._current()]

    def close_any(self, session_id: str, caller: Caller) -> None:
        """Close a session, whoever's it is.

        Raises:
            NotFound: There is none.
        """
        self._close([self._table.any(session_id)], caller, "closed")

    def close_every(self, caller: Caller, why: str, of: Callable[[str], bool] = lambda owner: True) -> int:
        """Close the sessions `of` those owners; returns how many there were."""
        sessions = [session for session in self._current() if of(session.owner)]
        self._close(sessions, caller, why)
        return len(sessions)

    def stop(self) -> None:
        """Close every session and take no more; the relay stops."""
        self._table.close()
        self._close(self._current(), RELAY, "relay stopped")

    def expire(self) -> int:
        """End the sessions that were idle for too long, and take note of those that have ended; returns how many were idle."""
        idle = [session for session in self._current() if self._table.is_idle(session) and not session.lock.locked()]
        self._close(idle, RELAY, "idle")
        return len(idle)

    def _note(self, session: ShellSession) -> int:
        """Put the shell on the list of what a killed relay has left."""
        group, probe = remote.group_of(session.marker), session.connection.probe
        assert probe is not None
        self._road.started.add(
            session.nonce, session.server.id, f"shell session {session.id}", group, probe.ticks_now(), probe.boot
        )
        return group

    def _pass_guard(
        self, session: ShellSession, caller: Caller, command: str, approval_id: str | None, typed: int = 0
    ) -> dict[str, Any]:
        """Judge a command, alone and with what earlier commands have defined; returns what the audit log says of that.

        Args:
            typed: It is not submitted at the prompt, but typed as so many bytes into what runs; it may be a password.

        Raises:
            Blocked: It may not be typed.
        """
        act = Act(command, working_directory=session.cwd or None)
        verdict = self._road.judge(caller, session.server, act)
        now = f"cd -- {remote.quote_folder(session.cwd or '/')}\n{command}"
        before = session.definitions(self._road.config().security.max_command_length - len(now) - 1)
        if verdict.allowed and before:
            verdict = self._road.judge(caller, session.server, Act(f"{before}\n{now}"))
        # Typed into a program, the same text is something else than at the prompt.
        state = (before, session.running or "")
        verdict = self._road.decide(
            caller, [session.server], act, verdict, approval_id, session=session.id, typed=typed > 0, state=state
        )
        said: dict[str, Any] = {"verdict": verdict.word}
        if verdict.approval:
            said["approval"] = verdict.approval
        if verdict.argv and not typed:
            said["resolved"] = list(verdict.argv)
        if not verdict.allowed:
            what: dict[str, Any] = {"bytes": typed} if typed else {"command": command}
            self._record("blocked", session, caller, **what, **said)
            raise Blocked(verdict.reason)
        return said

    @contextlib.contextmanager
    def _turn(self, session: ShellSession, deadline: float, cancelled: Cancellation) -> Iterator[None]:
        """Hold the session, with what was printed meanwhile taken in.

        Raises:
            TimedOut, NotFound: Another call kept it, or it has ended.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(taken(session.lock, deadline, cancelled))
            except TimedOut:
                raise TimedOut(f"Another call was using {session.id} for the whole time; nothing was typed.") from None
            if session not in self._table or session.closing:
                raise unknown(session.id)
            self._catch_up(session)
            if session.terminal.over:
                raise unknown(session.id)
            yield

    def _catch_up(self, session: ShellSession) -> None:
        """Take in what was printed since the last call, and what it says of the command and the shell."""
        was_running = session.running
        session.catch_up()
        if was_running is not None and session.running is None:
            self._outcome(
                "finished", session, RELAY, was_running, exit_code=session.unreported, success=session.unreported == 0
            )
        if session.terminal.over:
            self._over(session, RELAY, session.ending())

    def _current(self) -> list[ShellSession]:
        """The live sessions; those that have ended by themselves are forgotten on the way."""
        sessions = self._table.ready()
        for session in sessions:
            if session.lock.acquire(blocking=False):
                try:
                    if session in self._table:
                        self._catch_up(session)
                finally:
                    session.lock.release()
        return [session for session in sessions if session in self._table]

    def _type(
        self, session: ShellSession, caller: Caller, send: Callable[[], None], deadline: float, cancelled: Cancellation, progress: Progress,
        purpose: str,
    ) -> ShellOutput:  # fmt: skip
        """Type something into what runs, and wait for its end."""
        began = time.monotonic()
        if session.lock.locked() and session.running is not None:
            send()
            notice = "Another call is waiting for this command, and gets its output."
            return ShellOutput(session.server.id, Captured(), None, session.cwd, True, False, _since(began), notice)
        with self._turn(session, deadline, cancelled):
            command = session.running
            notice = ""
            if command is not None:
                send()
            elif session.unreported is None:
                raise BadArgument(f"Nothing is running in {session.id} that could {purpose}.")
            else:
                notice = "The command had ended before; nothing was typed."
            heard = session.listen(deadline, cancelled, last_line(progress))
            if command is None:
                return _output(session, heard, began, notice)
            return self._settle(session, caller, heard, began, command, again=True)

    def _settle(
        self, session: ShellSession, caller: Caller, heard: Heard, began: float, command: str, *, again: bool = False
    ) -> ShellOutput:
        """Record what came of a call, and make it the call's result or error."""
        where, took = session.server.id, {"duration_ms": _since(began)}
        if heard.state == "closed":
            self._outcome("cancelled", session, caller, command, reason="session closed", **took)
            raise Cancelled(
                f"The session {session.id} was closed while the call waited; what ran in it was ended.",
                seen=_seen(heard),
            )
        if heard.state == "lost":
            self._outcome("failed", session, caller, command, success=False, reason="lost", **took)
            self._over(session, caller, heard)
            raise Unreachable(
                f"The connection to {where} was lost, and with it the shell session {session.id}; the command may still run there, have done "
                f"its work, or part of it. Look before you run it again, in a new session.",
                step="lost", seen=_seen(heard),
            )  # fmt: skip
        if heard.state == "ended":
            self._outcome(
                "finished", session, caller, command, exit_code=heard.status, success=heard.status == 0, **took
            )
            self._over(session, caller, heard)
            how = f"with exit code {heard.status}" if heard.status is not None else "by a signal"
            return _output(session, heard, began, f"The shell has ended {how}, and the session with it.")
        if heard.cancelled:
            self._outcome("cancelled", session, caller, command, exit_code=heard.status, **took)
            effect = f"ended (exit code {heard.status})" if heard.state == "finished" else "still runs"
            raise Cancelled(
                f"The call was cancelled: the command got Ctrl-C and {effect}. The session {session.id} stays.",
                seen=_seen(heard),
            )
        if heard.state == "finished":
            self._outcome(
                "finished", session, caller, command, exit_code=heard.status, success=heard.status == 0, **took
            )
            return _output(session, heard, began)
        if not again:
            self._outcome("still_running", session, caller, command, **took)
        return _output(session, heard, began, _STILL_RUNNING)

    def _over(self, session: ShellSession, caller: Caller, heard: Heard) -> None:
        """The shell is gone by itself, or the connection to it."""
        if not self._table.remove(session):
            return
        if heard.state == "lost":
            self._road.connections.lost(session.connection, session.made)
        else:
            self._road.started.remove(session.nonce)
        self._record("session_closed", session, caller, reason=heard.state, exit_code=heard.status)

    def _close(self, sessions: Iterable[ShellSession], caller: Caller, why: str) -> None:
        """End sessions, all at once, and look that nothing is left of them."""
        removed = []
        for session in sessions:
            session.closing = True
            session.terminal.wake()
        for session in sessions:
            got = session.lock.acquire(timeout=CLOSING_SECONDS)
            try:
                if self._table.remove(session):
                    removed.append(session)
            finally:
                if got:
                    session.lock.release()
        states = self._stop(removed) if removed else {}
        for session in removed:
            state, left = states[session.id]
            if state == "confirmed":
                self._road.started.remove(session.nonce)
            more: dict[str, Any] = {"left": left} if left else {}
            if session.running is not None:
                more["running"] = session.running
            self._record("session_closed", session, caller, reason=why, stopped=state, **more)

    def _stop(self, sessions: list[ShellSession]) -> dict[str, tuple[str, str]]:
        """End the process groups of closed sessions, over their connections; by session `confirmed` or not, and what is left."""
        states: dict[str, tuple[str, str]] = {}
        deadline = time.monotonic() + STOP_SECONDS
        with self._road.transport.loop() as loop:
            for session in sessions:
                script = remote.stop_script(remote.group_of(session.marker), hang_up=True)
                job = Job(session.connection.name, script, "", b"", Limits(8192, 1 << 20), deadline)

                def stopped(end: Ended, session: ShellSession = session, script: str = script) -> None:
                    if end.why:  # no room for one more session (MaxSessions), or the master is gone: a login of its own
                        end = self._road.connections.run_alone(session.connection.identity, script, deadline)
                    states[session.id] = remote.parse_stop(decode(end.stdout.head))

                loop.submit(job, stopped)
            loop.run(lambda: len(states) < len(sessions), Cancellation())
        return states

    def _info(self, session: ShellSession) -> ShellInfo:
        idle = int(max(self._table.now() - session.used, 0))
        limit = self._road.config().sessions.idle_seconds
        return ShellInfo(
            session.id, session.server.id, session.shell, session.cwd, session.running is not None, session.created_at, session.used_at,
            idle, max(limit - idle, 0),
        )  # fmt: skip

    def _outcome(self, event: str, session: ShellSession, caller: Caller, command: str, **fields: Any) -> None:
        self._record(event, session, caller, command=command, intent=session.intent, verdict="allowed", **fields)

    def _record(
        self, event: str, session: ShellSession, caller: Caller, *, durable: bool = False, **fields: Any
    ) -> int:
        return self._road.audit.record(
            event, durable=durable, server_id=session.server.id, shell_session=session.id, **_who(caller), **fields
        )


_STILL_RUNNING = "The command is still running. Wait for more output or answer it with is_input (empty text only waits), or end it with interrupt."


def _who(caller: Caller) -> dict[str, Any]:
    return {
        "tool": caller.tool,
        "principal": caller.principal.key_id,
        "name": caller.principal.name,
        "client": caller.client,
        "session": caller.session,
    }


def _since(began: float) -> int:
    return round((time.monotonic() - began) * 1000)


def _output(session: ShellSession, heard: Heard, began: float, notice: str = "") -> ShellOutput:
    running, ended = heard.state in ("running", "cancelled"), heard.state in ("ended", "lost")
    return ShellOutput(
        session.server.id, heard.output, heard.status, session.cwd, running, ended, _since(began), notice
    )


def _seen(heard: Heard) -> str:
    return decode(heard.output.head[:2000] + heard.output.tail[-2000:]).strip()
