"""Control masters: one per distinct identity, shared by commands, restarted when dead, ended at the end."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from fleetshell_tools.core import storage
from fleetshell_tools.core.errors import Cancelled, FleetShellError, TimedOut, Unreachable
from fleetshell_tools.core.text import decode, one_line
from fleetshell_tools.core.types import Cancellation, ConnectionState
from fleetshell_tools.fleet import diagnose, remote
from fleetshell_tools.fleet.hostkeys import HostKeys
from fleetshell_tools.fleet.identity import Identity
from fleetshell_tools.fleet.keys import require
from fleetshell_tools.fleet.known_shells import KnownShells
from fleetshell_tools.fleet.mux import MuxTransport
from fleetshell_tools.fleet.remote import Probe
from fleetshell_tools.fleet.slots import Slots
from fleetshell_tools.fleet.transport import Ended, Limits, environment

PER_ADDRESS = 8
"""Logins at once to one address: sshd's MaxStartups turns some away from ten on."""


@dataclass
class Connection:
    """A control master, or the place where one will be.

    `made` counts the masters that there were, `attempts` the tries to make one; `failure` is what the last try came to,
    `pid` the master's process.
    """

    identity: Identity
    slots: Slots
    lock: threading.Lock = field(default_factory=threading.Lock)
    probe: Probe | None = None
    since: float = 0.0
    used: float = 0.0
    last_error: str = ""
    made: int = 0
    attempts: int = 0
    failure: Unreachable | None = None
    pid: int = 0

    @property
    def name(self) -> str:
        return self.identity.name


class Connections:
    """All connections of a relay (or of one command of the CLI).

    Args:
        folder: Where sockets and ssh's configuration files go: `run/`, or a folder in it.
        transport: Runs the probe.
        max_starting: Logins at once in all.
        sessions_per_server: Commands at once over one connection; more wait.
        max_connections: Connections at once; beyond it the one that was idle longest is closed.
        known: The login shells that are known from earlier connections.
    """

    def __init__(
        self,
        folder: Path,
        transport: MuxTransport,
        host_keys: HostKeys,
        *,
        max_starting: int,
        sessions_per_server: int,
        max_connections: int,
        known: KnownShells,
    ) -> None:
        self._folder = folder
        self._transport = transport
        self._host_keys = host_keys
        self._sessions = sessions_per_server
        self._max_starting = max_starting
        self._max_connections = max_connections
        self._known = known
        self._starting = threading.BoundedSemaphore(max_starting)
        self._pool: ThreadPoolExecutor | None = None
        self._per_address: dict[str, threading.BoundedSemaphore] = {}
        self._connections: dict[str, Connection] = {}
        self._lock = threading.Lock()
        self._logins: set[subprocess.Popen[bytes]] = set()
        self._closed = False

    def of(self, identity: Identity) -> Connection:
        """The connection's record, without connecting."""
        with self._lock:
            if self._closed:
                raise FleetShellError("The relay is stopping; nothing new is started.")
            found = self._connections.get(identity.name)
            if found is None:
                found = Connection(identity, Slots(self._sessions))
                self._connections[identity.name] = found
            return found

    def state(self, identity: Identity) -> ConnectionState:
        """What is known now, without connecting."""
        with self._lock:
            found = self._connections.get(identity.name)
        if found is None:
            return ConnectionState("idle")
        shell = found.probe.shell if found.probe else ""
        if found.lock.locked():
            return ConnectionState("connecting", last_error=found.last_error, shell=shell)
        if found.since and self._there(identity):
            return ConnectionState("connected", since=found.since, shell=shell)
        return ConnectionState("failed" if found.last_error else "idle", last_error=found.last_error, shell=shell)

    def open(self, identity: Identity, deadline: float, cancelled: Cancellation, *, probed: bool = True) -> Connection:
        """A live connection; callers that arrive while one is being made share it.

        Args:
            deadline: On `time.monotonic`; covers waiting, connecting and the probe.
            probed: False where a probe that is only assumed will do.

        Raises:
            Unreachable: With the step that failed and what to do.
            TimedOut, Cancelled: Before there was a connection.
        """
        connection = self.of(identity)
        connection.used = time.monotonic()
        if self._will_do(connection, probed):
            return connection
        attempts = connection.attempts
        with taken(connection.lock, deadline, cancelled):
            if self._will_do(connection, probed):
                return connection
            if self.is_open(identity):
                connection.probe = self._probe(connection, deadline, cancelled)
                return connection
            if connection.attempts > attempts and connection.failure:
                # Who waited for a try that failed shares its failure, or a queue would wait for one time-out after another.
                raise Unreachable(connection.failure.message, step=connection.failure.step)
            try:
                connection.failure = None
                self._make(connection, deadline, cancelled, probed)
            except Unreachable as error:
                connection.last_error, connection.failure = error.message, error
                raise
            except OSError as error:
                raise FleetShellError(
                    f"The relay can't start ssh: {error.strerror}. Raise its limits (`ulimit -n`, `ulimit -u`)."
                ) from error
            finally:
                connection.attempts += 1
            connection.last_error = ""
            connection.made += 1
            connection.since = time.time()
        return connection

    def _will_do(self, connection: Connection, probed: bool) -> bool:
        probe = connection.probe
        return self.is_open(connection.identity) and not (probed and probe is not None and probe.assumed)

    def told(self, connection: Connection, marker: str) -> None:
        """The first command on a connection has told what was only assumed."""
        if connection.probe is not None and connection.probe.assumed:
            connection.probe = remote.introduced(connection.probe, marker)
            self._known.learn(connection.name, connection.probe.shell)

    def mistaken(self, connection: Connection) -> None:
        """The login shell is not the one that was assumed."""
        self._known.forget(connection.name)

    def _make(self, connection: Connection, deadline: float, cancelled: Cancellation, probed: bool) -> None:
        if connection.identity.local:
            connection.probe = Probe("sh", os.uname().sysname, _boot())
            return
        self._make_room(connection)
        self._start(connection, deadline, cancelled, probed)
        connection.slots.renew()

    def is_open(self, identity: Identity) -> bool:
        """Whether there is a connection, as far as can be told without using it."""
        connection = self._connections.get(identity.name)
        return connection is not None and connection.since > 0 and self._there(identity)

    def _there(self, identity: Identity) -> bool:
        return identity.local or self._socket(identity).exists()

    def in_background(self, function: Callable[[], None]) -> None:
        """Run a function that may connect in another thread; as many at once as connections may start at once."""
        with self._lock:
            if self._closed:
                raise FleetShellError("The relay is stopping; nothing new is started.")
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._max_starting, thread_name_prefix="connect")
            self._pool.submit(function)

    def _make_room(self, connection: Connection) -> None:
        """At the cap, close the connection that was used least recently of those without work."""
        with self._lock:
            if len(self._connections) <= self._max_connections:
                return
            live = [
                other for other in self._connections.values()
                if other is not connection and not other.identity.local and (other.lock.locked() or (other.since and self._there(other.identity)))
            ]  # fmt: skip
            serving = {other.identity.jump.name for other in (*live, connection) if other.identity.jump}
            idle = sorted(
                (other for other in live if other.slots.idle and other.name not in serving),
                key=lambda other: other.used,
            )
        over = len(live) + 1 - self._max_connections
        for other in idle:
            # One that is being made just now is in use after all; and its lock keeps a new master from getting our farewell.
            if over <= 0 or not other.lock.acquire(blocking=False):
                continue
            try:
                if other.since and other.slots.idle:
                    self._end(other)
                    over -= 1
            finally:
                other.lock.release()

    @contextlib.contextmanager
    def admitted(self, identity: Identity, deadline: float, cancelled: Cancellation) -> Iterator[None]:
        """Hold a place among the connections that may start at once, in all and to this address.

        Raises:
            TimedOut, Cancelled: Before there was a place.
        """
        with self._lock:
            gate = self._per_address.setdefault(identity.address, threading.BoundedSemaphore(PER_ADDRESS))
        with taken(gate, deadline, cancelled), taken(self._starting, deadline, cancelled):
            yield

    def alive(self, identity: Identity) -> bool:
        """Whether the master answers now."""
        return self._transport.alive(identity.name)

    def run_alone(self, identity: Identity, script: str, deadline: float) -> Ended:
        """Run a script that ends a command over a login of its own (see `SshTransport.run_alone`)."""
        return self._transport.fallback.run_alone(identity.name, identity.target, script, deadline=deadline)

    def lost(self, connection: Connection, made: int | None = None) -> None:
        """Forget a master that is gone or hangs, so that the next command makes a new one.

        Args:
            made: `connection.made` when it was used, so that a later master is not taken for the one that is gone.
        """
        if connection.identity.local or not connection.lock.acquire(blocking=False):
            return  # somebody makes a new one already
        try:
            if made in (None, connection.made):
                self._end(connection)
        finally:
            connection.lock.release()

    def close(self) -> None:
        """End every master that belongs to us; what waits for a connection gets an error."""
        with self._lock:
            self._closed = True
            connections, pool, logins = list(self._connections.values()), self._pool, list(self._logins)
        for process in logins:
            _kill(process)
        if pool is not None:
            pool.shutdown()  # what is queued runs, and fails at once
        for connection in connections:
            self._end(connection)
            for suffix in (".conf", ".log"):
                (self._folder / f"{connection.name}{suffix}").unlink(missing_ok=True)

    def sweep(self) -> int:
        """End masters that an earlier relay left here; returns how many. Only for the one relay of a home."""
        left = [path for path in self._folder.glob("m*") if len(path.name) == 21 and path.is_socket()]
        for path in left:
            end_master(self._folder, path.name)
        for path in self._folder.glob("m*.*"):
            if len(path.stem.split(".")[0]) == 21:
                path.unlink(missing_ok=True)
        return len(left)

    def _socket(self, identity: Identity) -> Path:
        return self._folder / identity.name

    def _end(self, connection: Connection) -> None:
        """End a master, by force where it hangs."""
        connection.since = 0.0
        if not connection.identity.local:
            end_master(self._folder, connection.name, connection.pid)
            connection.pid = 0

    def _start(self, connection: Connection, deadline: float, cancelled: Cancellation, probed: bool) -> None:
        identity = connection.identity
        if identity.jump:
            self._open_jump(identity.jump, deadline, cancelled)
        with self.admitted(identity, deadline, cancelled):
            if cancelled.is_set():
                raise Cancelled(f"Cancelled before connecting to {identity.server_id}.")
            if not self._host_keys.pinned(identity.server_id):
                self._retried(lambda: self._pin_first(identity, deadline, cancelled), deadline, cancelled)
            self._retried(lambda: self._login(identity, deadline, cancelled), deadline, cancelled)
        connection.pid = self._transport.pid(identity.name)
        shell = "" if probed or identity.raw else self._known.get(identity.name)
        connection.probe = Probe(shell, assumed=True) if shell else self._probe(connection, deadline, cancelled)

    def _open_jump(self, jump: Identity, deadline: float, cancelled: Cancellation) -> None:
        """Open the connection to a jump server, and make sure that it lives: ssh would only say that it was closed."""
        connection = self.open(jump, deadline, cancelled, probed=False)
        made = connection.made
        if not self._transport.alive(jump.name):
            self.lost(connection, made)
            self.open(jump, deadline, cancelled, probed=False)

    def _retried(self, attempt: Callable[[], None], deadline: float, cancelled: Cancellation) -> None:
        """Try again, with jitter, while a server is only too busy (MaxStartups) to let us try to log in."""
        pause = 0.1
        while True:
            try:
                return attempt()
            except diagnose.TurnedAway:
                if time.monotonic() + pause >= deadline or pause > 5:
                    raise
            cancelled.wait(pause * random.uniform(0.5, 1.5))
            pause *= 2

    def _pin_first(self, identity: Identity, deadline: float, cancelled: Cancellation) -> None:
        try:
            self._host_keys.pin_first(identity, seconds=deadline - time.monotonic(), cancelled=cancelled)
        except Unreachable:
            if cancelled.is_set():
                raise Cancelled(f"Cancelled while connecting to {identity.server_id}.") from None
            raise

    def _login(self, identity: Identity, deadline: float, cancelled: Cancellation) -> None:
        """Start the master."""
        self._socket(identity).unlink(missing_ok=True)
        config = self._folder / f"{identity.name}.conf"
        if not config.exists():  # the name is a digest of the content
            storage.write_atomic(config, identity.config, durable=False)
        stderr = self._spawn(identity, deadline, cancelled)
        if self._closed and stderr is not None:
            raise FleetShellError("The relay is stopping; nothing new is started.")
        if stderr is not None:
            raise diagnose.explain(identity, stderr)

    def _spawn(self, identity: Identity, deadline: float, cancelled: Cancellation) -> str | None:
        """One try; returns what ssh complained of, or None where the master is up.

        With `-f` ssh goes into the background once it is logged in and its socket is there: its exit is our signal.
        Its messages go to a file, because the master keeps the descriptor.
        """
        log = self._folder / f"{identity.name}.log"
        command = [
            require("ssh"),
            "-F",
            f"{identity.name}.conf",
            "-M",
            "-S",
            identity.name,
            "-aTxNf",
            "--",
            identity.target,
        ]
        limit = min(deadline, time.monotonic() + identity.connect_timeout)
        with open(log, "w+b", opener=lambda path, flags: os.open(path, flags, storage.PRIVATE_FILE)) as file:
            process = subprocess.Popen(command, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                                       start_new_session=True, env=environment())  # fmt: skip
            forget = cancelled.on_set(lambda: _kill(process))
            with self._lock:
                self._logins.add(process)
                if self._closed:
                    _kill(process)
            try:
                code = process.wait(max(limit - time.monotonic(), 0.05))
            except subprocess.TimeoutExpired:
                _kill(process)
                process.wait()
                raise diagnose.timed_out(identity) from None
            finally:
                forget()
                with self._lock:
                    self._logins.discard(process)
            file.seek(0)
            said = file.read().decode("utf-8", "replace")
        if cancelled.is_set():
            end_master(self._folder, identity.name)
            raise Cancelled(f"Cancelled while connecting to {identity.server_id}.")
        return None if code == 0 else said or f"ssh ended with status {code} and said nothing"

    def _probe(self, connection: Connection, deadline: float, cancelled: Cancellation) -> Probe:
        """Find out which shell answers there."""
        identity = connection.identity
        if identity.raw:
            return Probe("raw", "")
        nonce = f"fs-probe-{random.getrandbits(64):016x}"
        ended = self._transport.run(
            identity.name, remote.probe_script(nonce), nonce="", stdin=b"", limits=Limits(8192, 1 << 20),
            deadline=min(deadline, time.monotonic() + max(identity.connect_timeout, 10)), cancelled=cancelled,
        )  # fmt: skip
        probe = remote.parse_probe(nonce, decode(ended.stdout.head + ended.stdout.tail))
        if probe is not None and (probe.posix or probe.shell in remote.OTHER_SHELLS):
            if probe.leader:
                self._known.learn(identity.name, probe.shell)
            return probe
        self._end(connection)
        if ended.why == "cancelled":
            raise Cancelled(f"Cancelled while connecting to {identity.server_id}.")
        if ended.why in ("timeout", "unsent", "no_master", "frozen", "crowded"):
            raise Unreachable(
                f"{identity.server_id} let FleetShell in, but then did not answer ({_PROBE_ENDS[ended.why]}). Do its login shell's start-up "
                f"files hang?", step="shell",
            )  # fmt: skip
        said = one_line(decode(ended.stdout.head) + " " + decode(ended.stderr.head), 200)
        if not said and ended.why == "refused":
            said = ended.detail
        where = f"its login shell is {probe.shell}" if probe else f"the host answered: {said or 'nothing'}"
        raise Unreachable(
            f"{identity.server_id} can't be used: FleetShell needs a login shell that runs commands, but {where}. "
            f"Give the login user a shell such as /bin/bash or /bin/sh (`chsh`).",
            step="shell",
        )


_PROBE_ENDS = {
    "timeout": "no answer in time", "unsent": "no time was left", "no_master": "the connection closed", "frozen": "ssh hangs",
    "crowded": "the relay has no descriptors left",
}  # fmt: skip


def end_master(folder: Path, name: str, pid: int = 0) -> None:
    """End the master behind a socket, by force where it does not answer, and remove the socket.

    Args:
        pid: Its process, where that is known; else it is looked for where that is needed.
    """
    with contextlib.closing(MuxTransport(folder)) as transport:
        done = transport.terminate(name)
    if not done:
        for found in [pid] if pid else _pids():
            if _is_master(found, folder, name):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(found, signal.SIGKILL)
    (folder / name).unlink(missing_ok=True)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _is_master(pid: int, folder: Path, name: str) -> bool:
    """Whether a process is the master of that socket: process ids are reused."""
    try:
        return name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes() and os.path.samefile(
            f"/proc/{pid}/cwd", folder
        )
    except OSError:
        return False


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


@contextlib.contextmanager
def taken(
    lock: threading.Lock | threading.BoundedSemaphore, deadline: float, cancelled: Cancellation
) -> Iterator[None]:
    """Hold a lock or a semaphore's place, giving up at the deadline or on a cancellation."""
    while not lock.acquire(timeout=max(min(0.1, deadline - time.monotonic()), 0)):
        if cancelled.is_set():
            raise Cancelled("Cancelled while waiting for a connection.")
        if time.monotonic() >= deadline:
            raise TimedOut("The time limit passed while the call waited for a connection; nothing was run.")
    try:
        yield
    finally:
        lock.release()


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
