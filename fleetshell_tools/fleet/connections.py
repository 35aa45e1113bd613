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
from fleetshell_tools.fleet.remote import Probe
from fleetshell_tools.fleet.slots import Slots
from fleetshell_tools.fleet.transport import Limits, Transport, environment

PER_ADDRESS = 8
"""Logins at once to one address: sshd's MaxStartups turns some away from ten on."""


@dataclass
class Connection:
    """A control master, or the place where one will be."""

    identity: Identity
    slots: Slots
    lock: threading.Lock = field(default_factory=threading.Lock)
    probe: Probe | None = None
    since: float = 0.0
    used: float = 0.0
    last_error: str = ""

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
    """

    def __init__(
        self,
        folder: Path,
        transport: Transport,
        host_keys: HostKeys,
        *,
        max_starting: int,
        sessions_per_server: int,
        max_connections: int,
    ) -> None:
        self._folder = folder
        self._transport = transport
        self._host_keys = host_keys
        self._sessions = sessions_per_server
        self._max_starting = max_starting
        self._max_connections = max_connections
        self._starting = threading.BoundedSemaphore(max_starting)
        self._pool: ThreadPoolExecutor | None = None
        self._per_address: dict[str, threading.BoundedSemaphore] = {}
        self._connections: dict[str, Connection] = {}
        self._lock = threading.Lock()
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
        if found.since and self._socket(identity).exists():
            return ConnectionState("connected", since=found.since, shell=shell)
        return ConnectionState("failed" if found.last_error else "idle", last_error=found.last_error, shell=shell)

    def open(self, identity: Identity, deadline: float, cancelled: Cancellation) -> Connection:
        """A live, probed connection; callers that arrive while one is being made share it.

        Args:
            deadline: On `time.monotonic`; covers waiting, connecting and the probe.

        Raises:
            Unreachable: With the step that failed and what to do.
            TimedOut, Cancelled: Before there was a connection.
        """
        connection = self.of(identity)
        connection.used = time.monotonic()
        if self.is_open(identity):
            return connection
        with taken(connection.lock, deadline, cancelled):
            if self.is_open(identity):
                return connection
            self._make_room(identity)
            try:
                self._start(connection, deadline, cancelled)
            except Unreachable as error:
                connection.last_error = error.message
                raise
            connection.last_error = ""
            connection.since = time.time()
        return connection

    def is_open(self, identity: Identity) -> bool:
        """Whether there is a connection, as far as can be told without using it."""
        connection = self._connections.get(identity.name)
        return connection is not None and connection.since > 0 and self._socket(identity).exists()

    def in_background(self, function: Callable[[], None]) -> None:
        """Run a function that may connect in another thread; as many at once as connections may start at once."""
        with self._lock:
            if self._closed:
                raise FleetShellError("The relay is stopping; nothing new is started.")
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._max_starting, thread_name_prefix="connect")
            self._pool.submit(function)

    def _make_room(self, identity: Identity) -> None:
        """At the cap, close the connection that was used least recently of those without work."""
        with self._lock:
            live = [
                other for other in self._connections.values() if other.since and self._socket(other.identity).exists()
            ]
            serving = {other.identity.jump.name for other in live if other.identity.jump} | {
                identity.jump.name if identity.jump else ""
            }
            idle = sorted(
                (other for other in live if other.slots.idle and other.name not in serving),
                key=lambda other: other.used,
            )
            over = idle[: max(len(live) + 1 - self._max_connections, 0)]
            for other in over:
                other.since = 0.0
        for other in over:
            self._exit(other.name)

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

    def lost(self, connection: Connection) -> None:
        """Forget a master that is gone, so that the next command makes a new one."""
        connection.since = 0.0
        self._socket(connection.identity).unlink(missing_ok=True)

    def close(self) -> None:
        """End every master that belongs to us."""
        with self._lock:
            self._closed = True
            names, pool = list(self._connections), self._pool
        if pool is not None:
            pool.shutdown(cancel_futures=True)
        for name in names:
            self._exit(name)
        for name in names:
            for path in (self._folder / name, self._folder / f"{name}.conf", self._folder / f"{name}.log"):
                path.unlink(missing_ok=True)

    def sweep(self) -> int:
        """End masters that an earlier relay left here; returns how many. Only for the one relay of a home."""
        left = [path for path in self._folder.glob("m*") if len(path.name) == 21 and path.is_socket()]
        for path in left:
            self._exit(path.name)
            path.unlink(missing_ok=True)
        for path in self._folder.glob("m*.*"):
            if len(path.stem.split(".")[0]) == 21:
                path.unlink(missing_ok=True)
        return len(left)

    def _socket(self, identity: Identity) -> Path:
        return self._folder / identity.name

    def _exit(self, name: str) -> None:
        command = [require("ssh"), "-F", "/dev/null", "-S", name, "-O", "exit", "--", "host"]
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(command, cwd=self._folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=5)

    def _start(self, connection: Connection, deadline: float, cancelled: Cancellation) -> None:
        identity = connection.identity
        if identity.jump:
            self.open(identity.jump, deadline, cancelled)
        with self.admitted(identity, deadline, cancelled):
            if not self._host_keys.pinned(identity.server_id):
                self._host_keys.pin_first(identity)
            self._login(identity, deadline, cancelled)
        connection.probe = self._probe(connection, deadline, cancelled)

    def _login(self, identity: Identity, deadline: float, cancelled: Cancellation) -> None:
        """Start the master; a server that is only too busy (MaxStartups) is asked again, with jitter, before login."""
        socket = self._socket(identity)
        socket.unlink(missing_ok=True)
        config = self._folder / f"{identity.name}.conf"
        if not config.exists():  # the name is a digest of the content
            storage.write_atomic(config, identity.config)
        pause = 0.1
        while True:
            stderr = self._spawn(identity, deadline, cancelled)
            if stderr is None:
                return
            if not diagnose.started_late(stderr) or time.monotonic() + pause >= deadline or pause > 5:
                raise diagnose.explain(identity, stderr)
            cancelled.wait(pause * random.uniform(0.5, 1.5))
            pause *= 2

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
            identity.server_id,
        ]
        limit = min(deadline, time.monotonic() + identity.connect_timeout)
        with open(log, "w+b", opener=lambda path, flags: os.open(path, flags, storage.PRIVATE_FILE)) as file:
            process = subprocess.Popen(command, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                                       start_new_session=True, env=environment())  # fmt: skip
            forget = cancelled.on_set(lambda: _kill(process))
            try:
                code = process.wait(max(limit - time.monotonic(), 0.05))
            except subprocess.TimeoutExpired:
                _kill(process)
                process.wait()
                raise diagnose.timed_out(identity) from None
            finally:
                forget()
            file.seek(0)
            said = file.read().decode("utf-8", "replace")
        if cancelled.is_set():
            self._exit(identity.name)
            raise Cancelled(f"Cancelled while connecting to {identity.server_id}.")
        return None if code == 0 else said or f"ssh ended with status {code} and said nothing"

    def _probe(self, connection: Connection, deadline: float, cancelled: Cancellation) -> Probe:
        """Find out which shell answers there."""
        identity = connection.identity
        nonce = f"fs-probe-{random.getrandbits(64):016x}"
        ended = self._transport.run(
            identity.name, remote.probe_script(nonce), nonce=nonce, stdin=b"", limits=Limits(8192, 1 << 20),
            deadline=min(deadline, time.monotonic() + max(identity.connect_timeout, 10)), cancelled=cancelled,
        )  # fmt: skip
        probe = remote.parse_probe(ended.marker, decode(ended.stdout.head))
        if probe is not None and (probe.posix or probe.shell in remote.OTHER_SHELLS):
            return probe
        self._exit(identity.name)
        self.lost(connection)
        if ended.why == "cancelled":
            raise Cancelled(f"Cancelled while connecting to {identity.server_id}.")
        said = one_line(decode(ended.stdout.head) + " " + decode(ended.stderr.head), 200)
        where = f"its login shell is {probe.shell}" if probe else f"the host answered: {said or 'nothing'}"
        raise Unreachable(
            f"{identity.server_id} can't be used: FleetShell needs a login shell that runs commands, but {where}. "
            f"Give the login user a shell such as /bin/bash or /bin/sh (`chsh`).",
            step="shell",
        )


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
