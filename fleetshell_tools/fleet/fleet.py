"""The one road to a server: guard, audit, connection, run, and what is left ended."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fleetshell_tools.core.audit import AuditLog
from fleetshell_tools.core.config import Config
from fleetshell_tools.core.errors import BadArgument, Blocked, FleetShellError, Unreachable
from fleetshell_tools.core.home import Home
from fleetshell_tools.core.servers import Inventory, Server
from fleetshell_tools.core.text import decode, one_line
from fleetshell_tools.core.types import (
    Act,
    Caller,
    Cancellation,
    Captured,
    Completed,
    ConnectionState,
    HostResult,
    Progress,
    Verdict,
)
from fleetshell_tools.fleet import remote
from fleetshell_tools.fleet.connections import Connection, Connections, taken
from fleetshell_tools.fleet.guard import Guard
from fleetshell_tools.fleet.hostkeys import HostKey, HostKeys
from fleetshell_tools.fleet.identity import Identities, Identity
from fleetshell_tools.fleet.remote import Wire
from fleetshell_tools.fleet.transport import Ended, Limits, SshTransport

STOP_SECONDS = 10


class SshFleet:
    """Implements `core.types.Fleet` over OpenSSH.

    Args:
        folder: Where control sockets go: `run/` for the relay, a folder of its own for a CLI command.
    """

    def __init__(self, home: Home, folder: Path, config: Config, inventory: Inventory, audit: AuditLog) -> None:
        self._config = config
        self._inventory = inventory
        self._audit = audit
        self._folder = folder
        self._transport = SshTransport(folder)
        self._identities = Identities(home, folder, config, inventory)
        self.host_keys = HostKeys(home, folder, self._record_first)
        self.connections = Connections(
            folder, self._transport, self.host_keys,
            max_starting=config.ssh.max_starting, sessions_per_server=config.ssh.sessions_per_server,
        )  # fmt: skip
        self._guard = make_guard(config)

    def reconfigure(self, config: Config, inventory: Inventory, home: Home) -> None:
        """Take a new configuration; running commands keep the old one."""
        self._guard = make_guard(config)
        self._identities = Identities(home, self._folder, config, inventory)
        self._config, self._inventory = config, inventory

    def close(self) -> None:
        """End every connection."""
        self.connections.close()

    def identity(self, server: Server) -> Identity:
        return self._identities.of(server)

    def fingerprints(self, server: Server) -> list[str]:
        return [key.fingerprint for key in self.host_keys.pinned(server.id)]

    def connection_state(self, server: Server) -> ConnectionState:
        try:
            return self.connections.state(self._identities.of(server))
        except FleetShellError as error:
            return ConnectionState("failed", last_error=error.message)

    def run(
        self, caller: Caller, server: Server, act: Act, *, timeout: float, cancelled: Cancellation, progress: Progress
    ) -> Completed:
        started = time.monotonic()
        record = _Record(self._audit, caller, server, act)
        verdict = self._judge(server, act)
        if not verdict.allowed:
            record.outcome("blocked", verdict=f"blocked:{verdict.kind}:{verdict.rule}", resolved=list(verdict.argv))
            raise Blocked(verdict.reason)
        record.intent()
        try:
            completed = self._execute(server, act, started + timeout, started, cancelled, progress)
        except FleetShellError as error:
            record.outcome("failed", success=False, duration_ms=_ms(started), reason=error.reason, error=error.message)
            raise
        except BaseException:
            record.outcome("failed", success=False, duration_ms=_ms(started), reason="internal")
            raise
        event = "cancelled" if completed.cancelled else "timed_out" if completed.timed_out else "finished"
        record.outcome(
            event, exit_code=completed.exit_code, success=completed.exit_code == 0, duration_ms=completed.duration_ms,
            **({"signal": completed.signal} if completed.signal else {}), **({"stopped": completed.stopped} if completed.stopped else {}),
        )  # fmt: skip
        return completed

    def _record_first(self, server_id: str, keys: list[HostKey]) -> None:
        self._audit.record("host_key_pinned", durable=True, server_id=server_id, keys=[key.fingerprint for key in keys])

    def _judge(self, server: Server, act: Act) -> Verdict:
        most = self._config.security.max_command_length
        if len(act.command) > most:
            raise BadArgument(
                f"The command has {len(act.command):,} characters; at most {most:,} are allowed (security.max_command_length). "
                f"Put long scripts into `stdin` of `sh`, or split the work."
            )
        return self._guard.judge(act if act.login_user else _with_user(act, self._inventory.user(server)))

    def _execute(
        self, server: Server, act: Act, deadline: float, started: float, cancelled: Cancellation, progress: Progress
    ) -> Completed:
        """Connect and run; made twice at most, and only where nothing had started."""
        identity = self._identities.of(server)
        limits = Limits(keep=self._config.security.max_output_bytes, drain=self._config.security.max_drain_bytes)
        for last in (False, True):
            connection = self.connections.open(identity, deadline, cancelled)
            assert connection.probe is not None
            wire = remote.wrap(
                connection.probe, act.command, stdin=act.stdin, environment=act.environment, folder=act.working_directory
            )
            with taken(connection.slots, deadline, cancelled):
                ended = self._transport.run(
                    identity.name, wire.command, nonce=wire.nonce, stdin=wire.stdin, limits=limits, deadline=deadline,
                    cancelled=cancelled, on_output=_last_line(progress),
                )  # fmt: skip
            if ended.why == "no_master":
                self.connections.lost(connection)
                if not last:
                    continue
            break
        return self._completed(server, act, connection, wire, ended, started)

    def _completed(
        self, server: Server, act: Act, connection: Connection, wire: Wire, ended: Ended, started: float
    ) -> Completed:
        seen = _seen(ended)
        if ended.why in ("no_master", "refused"):
            what = "opens no more sessions (MaxSessions)" if ended.why == "refused" else "closed the connection"
            raise Unreachable(f"{server.id} {what}; the command did not start. Try again.", step="lost", seen=seen)
        if ended.why == "lost":
            self.connections.lost(connection)
            raise Unreachable(
                f"The connection to {server.id} was lost while the command ran; it may still run there (process group "
                f"{ended.marker}), have done its work, or part of it. Look before you run it again.",
                step="lost", seen=seen,
            )  # fmt: skip
        if remote.folder_failed(wire, ended.stdout.head):
            raise BadArgument(
                f"The working directory {act.working_directory} can't be entered on {server.id}: {one_line(decode(ended.stderr.head))}"
            )
        if not ended.why:
            return Completed(ended.exit_code, ended.stdout, ended.stderr, _ms(started))
        stopped, left = self._stop(connection, ended)
        if stopped == "unconfirmed" and left:
            left = f" (process ids {left})"
        return Completed(
            None, ended.stdout, ended.stderr, _ms(started), timed_out=ended.why == "timeout", cancelled=ended.why == "cancelled",
            stopped=stopped, why=ended.why + left,
        )  # fmt: skip

    def _stop(self, connection: Connection, ended: Ended) -> tuple[str, str]:
        """End the remote process group of a command that we gave up on."""
        if not ended.marker.isdigit():
            return "unconfirmed", ""
        deadline = time.monotonic() + STOP_SECONDS
        nonce = "fs-stop"
        end = self._transport.run(
            connection.name, remote.stop_script(int(ended.marker)), nonce=nonce, stdin=b"", limits=Limits(8192, 1 << 20),
            deadline=deadline, cancelled=Cancellation(),
        )  # fmt: skip
        return remote.parse_stop(decode(end.stdout.head))

    def run_many(
        self,
        caller: Caller,
        servers: Sequence[Server],
        act: Act,
        *,
        timeout: float,
        max_parallel: int,
        stop_on_failure: bool,
        cancelled: Cancellation,
        progress: Progress,
    ) -> list[HostResult]:
        failed = threading.Event()
        done = _Counter(progress, len(servers))

        def one(server: Server) -> HostResult:
            if cancelled.is_set() or (stop_on_failure and failed.is_set()):
                why = "the call was cancelled" if cancelled.is_set() else "another server failed (stop_on_failure)"
                return HostResult(server.id, error=f"Not started: {why}.")
            started = time.monotonic()
            try:
                completed = self.run(caller, server, act, timeout=timeout, cancelled=cancelled, progress=lambda *_: None)
                result = HostResult(server.id, completed, duration_ms=completed.duration_ms)
            except FleetShellError as error:
                result = HostResult(server.id, error=error.message, duration_ms=_ms(started))
            if result.completed is None or result.completed.exit_code != 0:
                failed.set()
            done.one_more(server.id)
            return result

        with ThreadPoolExecutor(min(max_parallel, max(len(servers), 1)), thread_name_prefix="fan-out") as pool:
            return list(pool.map(one, servers))


class _Record:
    """Writes the audit records of one act: an intent that is on disk before anything runs, and one outcome."""

    def __init__(self, audit: AuditLog, caller: Caller, server: Server, act: Act) -> None:
        self._audit = audit
        self._fields: dict[str, Any] = {
            "server_id": server.id, "command": act.command, "tool": caller.tool, "principal": caller.principal.key_id,
            "client": caller.client, "session": caller.session,
        }  # fmt: skip
        if act.environment:
            self._fields["environment"] = sorted(act.environment)
        if act.stdin:
            self._fields["stdin_bytes"] = len(act.stdin)
        if act.working_directory:
            self._fields["working_directory"] = act.working_directory
        self._intent: int | None = None

    def intent(self) -> None:
        self._intent = self._audit.record("started", durable=True, verdict="allowed", **self._fields)

    def outcome(self, event: str, *, verdict: str = "allowed", **more: Any) -> None:
        if self._intent is not None:
            more["intent"] = self._intent
        self._audit.record(event, verdict=verdict, **self._fields, **more)


class _Counter:
    """Counts servers that are done and reports each."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0
        self._lock = threading.Lock()

    def one_more(self, server_id: str) -> None:
        with self._lock:
            self._done += 1
            self._progress(self._done, self._total, f"{server_id} is done")


def make_guard(config: Config) -> Guard:
    """The guard as the configuration sets it.

    Raises:
        ConfigError: A pattern or a class of the guard is invalid.
    """
    security = config.security
    return Guard(security.dangerous_commands, security.guard, security.max_command_length)


def private_folder(home: Home) -> Path:
    """A folder in `run/` for the control sockets of one CLI command, so that it never meets the relay's."""
    folder = home.run / f"cli-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    return folder


def _with_user(act: Act, user: str | None) -> Act:
    return Act(act.command, act.stdin, act.environment, act.working_directory, user)


def _ms(started: float) -> int:
    return round((time.monotonic() - started) * 1000)


def _seen(ended: Ended) -> str:
    def part(captured: Captured) -> str:
        return decode(captured.head[:2000] + captured.tail[-2000:]).strip()

    return "\n".join(text for text in (part(ended.stdout), part(ended.stderr)) if text)


def _last_line(progress: Progress) -> Callable[[bytes], None]:
    """Report the last line of output as progress; the count is in bytes."""
    total = 0

    def report(data: bytes) -> None:
        nonlocal total
        total += len(data)
        lines = data.strip().rsplit(b"\n", 1)
        progress(float(total), None, one_line(decode(lines[-1][-200:])))

    return report
