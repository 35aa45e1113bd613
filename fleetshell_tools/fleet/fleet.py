"""The one road to a server: implements `core.types.Fleet` over OpenSSH."""

from __future__ import annotations

import getpass
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fleetshell_tools.core import storage
from fleetshell_tools.core.approval_store import ApprovalStore
from fleetshell_tools.core.audit import AuditLog
from fleetshell_tools.core.config import Config
from fleetshell_tools.core.errors import BadArgument, Blocked, Cancelled, ConfigError, FleetShellError, TimedOut
from fleetshell_tools.core.home import Home
from fleetshell_tools.core.scripts import Facts, Ran, Script, facts_in, parts
from fleetshell_tools.core.servers import Inventory, Server
from fleetshell_tools.core.text import decode, one_line
from fleetshell_tools.core.types import (
    ALLOWED,
    Act,
    Caller,
    Cancellation,
    Completed,
    ConnectionState,
    HostResult,
    Progress,
    Snapshot,
    Verdict,
)
from fleetshell_tools.fleet import policies, remote
from fleetshell_tools.fleet.approving import Approving
from fleetshell_tools.fleet.collect import last_line
from fleetshell_tools.fleet.connections import Connections, end_master
from fleetshell_tools.fleet.drive import Drive
from fleetshell_tools.fleet.errand import Errand, Road
from fleetshell_tools.fleet.facts import Learned
from fleetshell_tools.fleet.guard import Guard, private
from fleetshell_tools.fleet.hostkeys import HostKey, HostKeys
from fleetshell_tools.fleet.identity import Identities, Identity
from fleetshell_tools.fleet.known_shells import KnownShells
from fleetshell_tools.fleet.mux import MuxTransport
from fleetshell_tools.fleet.shells import ShellRoad, Shells
from fleetshell_tools.fleet.started import Left, Started
from fleetshell_tools.fleet.transport import Limits

LOCK = ".lock"
"""Held in its folder by a fleet for as long as it lives."""

log = logging.getLogger("fleetshell")

RECOVERY_SECONDS = 30.0
"""How long ending what was left on one host may take, connecting included."""


_READ_ONLY: dict[str, Any] = {"policy": "read_only"}


class SshFleet:
    """Guard, audit, connection, run, and what is left ended: see `core.types.Fleet`.

    Args:
        folder: Where control sockets go: `run/` for the relay, a folder of its own for a CLI command.
        approvals: What the operator may let through; without it nothing ever is.
        reads_only: Every act is judged as on a server whose policy is `read_only`.
    """

    def __init__(
        self,
        home: Home,
        folder: Path,
        config: Config,
        inventory: Inventory,
        audit: AuditLog,
        approvals: ApprovalStore | None = None,
        *,
        reads_only: bool = False,
    ) -> None:
        self._reads_only = reads_only
        self._home = home
        self._config = config
        self._inventory = inventory
        self._audit = audit
        self._folder = folder
        self.transport = MuxTransport(folder)
        self._identities = Identities(home, folder, config, inventory)
        self.host_keys = HostKeys(home, folder, self._record_first)
        self.connections = Connections(
            folder, self.transport, self.host_keys, max_starting=config.ssh.max_starting,
            sessions_per_server=config.ssh.sessions_per_server, max_connections=config.ssh.max_connections,
            known=KnownShells(home.run / "shells"),
        )  # fmt: skip
        self._held = storage.try_lock(folder / LOCK)
        self._started = Started(folder / "started.jsonl")
        self._left = self._started.left()
        self._guard = make_guard(config)
        self.learned = Learned(home.run / "facts")
        self._approving = Approving(approvals or ApprovalStore(), lambda: self._inventory)
        road = ShellRoad(
            audit,
            self.connections,
            self.transport,
            self._started,
            lambda caller, server, act: self._judge(caller, policies.as_it_is_now(self._inventory, server), act),
            self._shell_identity,
            lambda: self._config,
            self._approving.decide,
        )
        self.shells = Shells(road)

    def reconfigure(self, config: Config, inventory: Inventory, home: Home) -> None:
        """Take a new configuration; running commands keep the old one."""
        self._guard = make_guard(config)
        self._identities = Identities(home, self._folder, config, inventory)
        self._config, self._inventory = config, inventory

    def close(self) -> None:
        """End every shell session and every connection."""
        self.shells.stop()
        self.connections.close()
        self.transport.close()
        self._started.close()
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def sweep(self) -> int:
        """End the connections that a killed relay and killed commands of the CLI have left; returns how many.

        What these had running is taken over by `end_what_was_left`. Only for the one relay of a home.
        """
        count = self.connections.sweep()
        for folder in (path for path in self._folder.glob("cli-*") if path.is_dir()):
            held = storage.try_lock(folder / LOCK)
            if held is None:
                continue  # its command is still running
            try:
                for socket in (path for path in folder.glob("m*") if path.is_socket()):
                    end_master(folder, socket.name)
                    count += 1
                self._left += self._started.adopt(folder / "started.jsonl")
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(held)
        for folder in self._folder.glob("hostkey-*"):
            shutil.rmtree(folder, ignore_errors=True)
        return count

    def identity(self, server: Server) -> Identity:
        """Who we are on the SSH connection to a server.

        Raises:
            ConfigError: There is no such connection: the server is local, or its key or its jump server can't be used.
        """
        identity = self._identities.of(server)
        if identity.local:
            raise ConfigError(
                f"{server.id} is the relay's own machine (`connection: local`): commands run there directly, and not over SSH."
            )
        return identity

    def _shell_identity(self, server: Server) -> Identity:
        identity = self.identity(server)
        if identity.raw:
            raise BadArgument(
                f"{server.id} is `raw` (it has no POSIX shell), so it has no shell sessions. Use execute_command."
            )
        return identity

    def fingerprints(self, server: Server) -> list[str]:
        return [key.fingerprint for key in self.host_keys.pinned(server.id)]

    def connection_state(self, server: Server) -> ConnectionState:
        try:
            return self.connections.state(self._identities.glance(server))
        except FleetShellError as error:
            return ConnectionState("failed", last_error=error.message)

    def run(
        self,
        caller: Caller,
        server: Server,
        act: Act,
        *,
        timeout: float,
        cancelled: Cancellation,
        progress: Progress,
        watch: Callable[[Snapshot], None] | None = None,
        on_output: Callable[[], None] | None = None,
        keep: int | None = None,
        approval_id: str | None = None,
    ) -> Completed:
        verdict = self._approving.decide(caller, [server], act, self._judge(caller, server, act), approval_id)
        report = last_line(progress)

        def heard(data: bytes) -> None:
            report(data)
            if on_output:
                on_output()

        errand = self._errand(caller, server, act, timeout, cancelled, heard, keep)
        errand.admit(verdict, lambda: self._identities.of(server), durable=True)
        if watch:
            watch(lambda: [errand.snapshot()])
        self._drive([errand], 1, False, cancelled, lambda done: None)
        if errand.error is not None:
            raise errand.error
        assert errand.completed is not None
        self.learned.seen(server.id)
        return errand.completed

    def run_script(
        self,
        caller: Caller,
        server: Server,
        script: Script,
        *,
        timeout: float,
        cancelled: Cancellation,
        keep: int = 1 << 20,
        approval_id: str | None = None,
    ) -> Ran:
        for text in script.data:
            remote.check_text(text)
            if "\0" in text:
                raise BadArgument(f"{one_line(text, 60)!r} holds a NUL character, which no program takes.")
        identity = self._identities.of(server)
        if identity.raw:
            raise BadArgument(
                f"{server.id} is `raw` (it has no POSIX shell), so this tool can't look there. Use execute_command."
            )
        if identity.local:
            for text in script.data:
                if private.may_reach(text, str(self._home.path.resolve())):
                    raise Blocked(
                        f"{one_line(text, 60)!r} is, or holds, FleetShell's own home on the relay's machine, with the relay's keys in it. "
                        f"Name a narrower path."
                    )
        nonce = f"fs-{secrets.token_hex(12)}"
        connection = self.connections.of(identity)
        facts = self.learned.of_connection(connection)
        act = Act(script.command(nonce, facts, sudo=server.sudo), script.stdin, label=script.label)
        judged = Act(script.judged, script.stdin)
        verdict = self._judge(caller, server, judged) if script.judged else ALLOWED
        verdict = self._approving.decide(
            caller,
            [server],
            judged,
            script.policy if verdict.allowed else verdict,
            approval_id,
            state=script.data,
            spare=True,
        )
        errand = self._errand(caller, server, act, timeout, cancelled, None, keep)
        errand.admit(verdict, lambda: identity, durable=True)
        self._drive([errand], 1, False, cancelled, lambda done: None)
        if errand.error is not None:
            raise errand.error
        done = errand.completed
        assert done is not None
        _raise_if_ended(server.id, script.name, done, timeout)
        found = parts(done.stdout.head + done.stdout.tail, nonce)
        told = facts_in(found)
        if told is not None:
            self.learned.learn(server.id, connection, told)
        self.learned.seen(server.id)
        stderr = decode(done.stderr.head + done.stderr.tail)
        return Ran(found, done.exit_code, stderr, done.stdout.complete, told or facts or Facts({}), done.duration_ms)

    def facts(self, server: Server) -> Facts | None:
        return self.learned.facts(server.id)

    def last_seen(self, server: Server) -> float | None:
        return self.learned.last_seen(server.id)

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
        watch: Callable[[Snapshot], None] | None = None,
        on_output: Callable[[], None] | None = None,
        keep: int | None = None,
        approval_id: str | None = None,
    ) -> list[HostResult]:
        hosts: list[Errand | HostResult] = []
        admitted: list[Errand] = []
        heard = (lambda data: on_output()) if on_output else None
        verdicts = self._approving.decide_all(
            caller, servers, act, [self._judge(caller, server, act) for server in servers], approval_id
        )
        asked = next((verdict for verdict in verdicts if verdict.approval and not verdict.allowed), None)
        for server, verdict in zip(servers, verdicts, strict=True):
            if asked and verdict.allowed:
                continue  # else the repeated call would run there for the second time
            errand = self._errand(caller, server, act, timeout, cancelled, heard, keep)
            try:
                # The first makes sure that there is room for all; one sync for the rest follows.
                errand.admit(verdict, lambda server=server: self._identities.of(server), durable=not admitted)  # type: ignore[misc]
                admitted.append(errand)
                hosts.append(errand)
            except FleetShellError as error:
                hosts.append(HostResult(server.id, error=error.message))
        if asked:
            raise Blocked(asked.reason)
        self._audit.sync()
        count = len(hosts) - len(admitted)

        def snapshot() -> list[HostResult]:
            return [host.snapshot() if isinstance(host, Errand) else host for host in hosts]

        if watch:
            watch(snapshot)

        def on_done(errand: Errand) -> None:
            nonlocal count
            count += 1
            progress(count, len(servers), f"{errand.server.id} is done")

        self._drive(admitted, max_parallel, stop_on_failure, cancelled, on_done)
        for errand in admitted:
            if errand.error is not None and not isinstance(errand.error, FleetShellError):
                log.error("A command on %s failed.", errand.server.id, exc_info=errand.error)
        return snapshot()

    def end_what_was_left(self, cancelled: Cancellation) -> Iterator[str]:
        """End the commands that a relay which was killed had left on hosts; gives a sentence for each.

        What can't be reached stays on the list for the next start.
        """
        for left in self._left:
            if cancelled.is_set():
                return
            yield self._end_left(left, cancelled)

    def _end_left(self, left: Left, cancelled: Cancellation) -> str:
        what = f"the command `{one_line(left.command, 80)}` (process group {left.group}) that a killed relay had left on {left.server_id}"
        deadline = time.monotonic() + RECOVERY_SECONDS
        try:
            connection = self.connections.open(
                self._identities.of(self._inventory.get(left.server_id)), deadline, cancelled
            )
        except FleetShellError as error:
            return f"Not ended, tried again at the next start: {what}: {error.message}"
        if not left.start or not left.boot:
            self._started.remove(left.nonce)
            return f"May still run: {what}: this host does not say what identifies a process, so it was left alone. Look there."
        script = remote.recover_script(left.group, left.start, left.boot)
        ended = self.transport.run(
            connection.name,
            script,
            nonce="",
            stdin=b"",
            limits=Limits(8192, 1 << 20),
            deadline=deadline,
            cancelled=cancelled,
        )
        said = [
            word
            for word in decode(ended.stdout.head + ended.stdout.tail).split()
            if word in ("gone", "other", "stopped", "left")
        ]
        if ended.why or not said:
            return f"Not ended, tried again at the next start: {what}: the host did not answer."
        self._started.remove(left.nonce)
        outcome = {"gone": "had ended by itself", "other": "had ended by itself", "stopped": "was ended"}.get(
            said[0], "could not be ended"
        )
        self._audit.record(
            "orphan_ended", server_id=left.server_id, command=left.command, outcome=outcome, group=left.group
        )
        return f"{what[0].upper()}{what[1:]} {outcome}."

    def _errand(
        self,
        caller: Caller,
        server: Server,
        act: Act,
        timeout: float,
        cancelled: Cancellation,
        on_output: Callable[[bytes], None] | None,
        keep: int | None,
    ) -> Errand:
        security = self._config.security
        # Half of it at either end, and never less than what one call may show.
        limits = Limits(keep=max(security.max_output_bytes, (keep or 0) // 2), drain=security.max_drain_bytes)
        road = Road(self._audit, self.connections, self._started, limits)
        return Errand(road, caller, server, act, timeout=timeout, cancelled=cancelled, on_output=on_output)

    def _judge(self, caller: Caller, server: Server, act: Act) -> Verdict:
        most = self._config.security.max_command_length
        if len(act.command) > most:
            raise BadArgument(
                f"The command has {len(act.command):,} characters; at most {most:,} are allowed (security.max_command_length). "
                f"Put long scripts into `stdin` of `sh`, or split the work."
            )
        act = replace(act, policy=self._inventory.policy(server), allowed=server.allowed_commands)
        if self._reads_only:
            act = replace(act, policy="read_only", allowed=())
        if server.connection == "local":
            act = replace(act, login_user=getpass.getuser(), private=str(self._home.path.resolve()))
        act = replace(act, login_user=act.login_user or self._inventory.user(server))
        return policies.judge(self._guard, caller, act)

    def _record_first(self, server_id: str, keys: list[HostKey]) -> None:
        self._audit.record("host_key_pinned", durable=True, server_id=server_id, keys=[key.fingerprint for key in keys])

    def _drive(
        self,
        errands: list[Errand],
        max_parallel: int,
        stop_on_failure: bool,
        cancelled: Cancellation,
        on_done: Callable[[Errand], None],
    ) -> None:
        """Run admitted errands to their ends: all in one loop, new connections made beside it."""
        with self.transport.loop() as loop:
            Drive(loop, self.connections, errands, max_parallel, stop_on_failure, on_done).run(cancelled)


def _raise_if_ended(server_id: str, name: str, done: Completed, timeout: float) -> None:
    """A program of ours that we had to end has no result."""
    if done.timed_out:
        raise TimedOut(
            f"{name} did not end on {server_id} within {timeout:g} s (stopped: {done.stopped}). Ask for less."
        )
    if done.cancelled:
        raise Cancelled(f"{name} on {server_id} was cancelled (stopped: {done.stopped}).")
    if done.why:
        raise FleetShellError(
            f"{name} on {server_id} printed too much and was ended (stopped: {done.stopped}). Ask for less."
        )


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
