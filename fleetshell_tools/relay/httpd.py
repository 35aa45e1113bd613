"""The HTTP/1.1 server: accepts connections, holds the waiting ones in one loop, and gives the ready ones to workers.

It knows nothing of MCP; an `Application` judges and answers the requests. Built upon `http.server` and `selectors`:
the listening socket is `http.server`'s, but a connection holds a thread only while a request of it is being handled,
so that a thousand idle clients and event streams cost a thousand sockets and no thread.
"""

from __future__ import annotations

import errno
import logging
import math
import selectors
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import TCPServer
from time import monotonic

from fleetshell_tools.core.errors import FleetShellError
from fleetshell_tools.relay.addresses import why_not_listening
from fleetshell_tools.relay.application import Application, EventStream, Limits, Pending, Sink
from fleetshell_tools.relay.connection import Connection
from fleetshell_tools.relay.http1 import Headers, Request, RequestHead, Response
from fleetshell_tools.relay.phases import Next, Phase
from fleetshell_tools.relay.roster import Roster
from fleetshell_tools.relay.workers import WorkerPool

__all__ = [
    "Application",
    "EventStream",
    "Headers",
    "HttpServer",
    "Limits",
    "Pending",
    "Request",
    "RequestHead",
    "Response",
    "Sink",
]

_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_ACCEPT_PAUSE = 0.5  # seconds without accepting after the descriptors ran out
_COMPLAIN_EVERY = 60.0  # seconds between two lines in the log about that
_WATCH_AFTER = 0.05  # seconds that a handler may take before the loop looks out for its client's hang-up
_LAST_SECONDS = 5.0  # what handlers get to end once they were told, after the grace, that their client is cut off
_CALLBACK_THREADS = 8


class HttpServer(HTTPServer):
    """An HTTP/1.1 server with keep-alive, TLS, event streams and limits.

    `serve_forever` runs the loop; every other public method may be called from any other thread.

    Args:
        address: Host name or address, and port; port 0 takes a free one (see `port`).
        application: What answers.
        ssl_context: For HTTPS; None for plain HTTP.
        limits: What clients may use.
        log: Where failures of the application and of the server go.

    Raises:
        FleetShellError: The address can't be listened on; the sentence says why and what to do.
    """

    # Two relays that silently share one port would each see half of the requests.
    allow_reuse_port = False
    request_queue_size = 512

    def __init__(
        self,
        address: tuple[str, int],
        application: Application,
        *,
        ssl_context: ssl.SSLContext | None,
        limits: Limits | None = None,
        log: logging.Logger,
    ) -> None:
        self.application = application
        self.limits = limits or Limits()
        self.log = log
        self.ssl_context = ssl_context
        self.stopping = False
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        try:
            # The stock handler holds a thread for as long as its connection lasts; `Connection` takes its place.
            super().__init__(address, BaseHTTPRequestHandler)
        except (OSError, OverflowError) as error:
            raise FleetShellError(why_not_listening(address, error)) from error
        self.socket.setblocking(False)
        self._workers = WorkerPool("http", self.limits.max_workers, log)
        self._callbacks = WorkerPool("http-callback", _CALLBACK_THREADS, log)
        self._roster: Roster[Connection] = Roster(self.limits.max_connections, self.limits.max_unproven_per_address)
        self._accepted = 0
        self._rejected = 0

        self._selector = selectors.DefaultSelector()
        self._waker, self._woken = socket.socketpair()
        self._waker.setblocking(False)
        self._woken.setblocking(False)
        self._commands: deque[Callable[[], None]] = deque()
        self._watches: deque[tuple[float, Connection]] = deque()
        self._asleep = False
        self._sleeps_until = math.inf
        self._next_expiry = math.inf
        self._accept_again = math.inf
        self._complained_at = -math.inf
        self._give_up_at = math.inf
        self._loop_thread = 0
        self._started = threading.Lock()  # taken for good by `serve_forever`, or by a `shutdown` before it
        self._finished = threading.Event()

    def server_bind(self) -> None:
        """Bind without `HTTPServer`'s look-up of the host's full name, which may wait for a DNS server."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return self.server_port

    def replace_ssl_context(self, context: ssl.SSLContext) -> None:
        """Use another certificate for the connections that come from now on."""
        if self.ssl_context is None:
            raise ValueError("a server of plain HTTP has no TLS context to replace")
        self.ssl_context = context

    def stats(self) -> dict[str, int]:
        """Counts for a status command.

        Returns:
            `connections` now, of them `parked` (waiting, holding no thread) and `streams`; `workers` now;
            `accepted` and `rejected` (turned away or dropped by a cap) since the start.
        """
        connections = self._roster.snapshot()
        streams = sum(connection.phase is Phase.STREAMING for connection in connections)
        parked = sum(connection.parked for connection in connections)
        return {
            "connections": len(connections),
            "parked": parked,
            "streams": streams,
            "workers": self._workers.size,
            "accepted": self._accepted,
            "rejected": self._rejected,
        }

    # ---- the loop

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Serve until `shutdown`; when this returns, every socket is closed. `poll_interval` is not used."""
        if not self._started.acquire(blocking=False):
            return
        self._loop_thread = threading.get_ident()
        self._selector.register(self.socket, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        try:
            while not (self.stopping and self._has_come_to_rest()):
                for key, events in self._sleep():
                    if isinstance(key.data, Connection):
                        self._ready(key.data, events)
                    elif key.fileobj is self.socket:
                        self._accept()
                    else:
                        self._woken.recv(4096)
                for _ in range(len(self._commands)):
                    self._commands.popleft()()
                self._keep_time()
        finally:
            self._tear_down()

    def _sleep(self) -> list[tuple[selectors.SelectorKey, int]]:
        # Announced before looking whether there is work: a thread that gives some after the look will see it and wake us.
        self._sleeps_until = math.inf
        self._asleep = True
        watch = self._watches[0][0] if self._watches else math.inf
        until = min(self._next_expiry, watch, self._accept_again, self._give_up_at, self._workers.tend())
        self._sleeps_until = until
        timeout = 0.0 if self._commands else None if until == math.inf else max(0.0, until - monotonic())
        events = self._selector.select(timeout)
        self._asleep = False
        return events

    def _wake(self) -> None:
        self._asleep = False
        try:
            self._waker.send(b"\0")
        except BlockingIOError:
            return  # it is full of wake-ups already
        except OSError:
            self.log.debug("the loop has ended")

    def _post(self, command: Callable[[], None]) -> None:
        self._commands.append(command)
        if self._asleep:
            self._wake()

    def _keep_time(self) -> None:
        now = monotonic()
        while self._watches and self._watches[0][0] <= now:
            self._start_watching(self._watches.popleft()[1])
        if now >= self._accept_again:
            self._accept_again = math.inf
            self._selector.register(self.socket, selectors.EVENT_READ)
        if now >= self._next_expiry:
            self._expire(now)

    def _expire(self, now: float) -> None:
        """End what has waited too long, and find out when to look again.

        A look at every connection is cheaper than a queue of deadlines, for most of these are put off before they come.
        """
        self._next_expiry = math.inf
        for connection in self._roster.snapshot():
            if connection.parked:
                if connection.deadline <= now:
                    self._follow(connection, partial(connection.expire, now))
                self._next_expiry = min(self._next_expiry, connection.deadline)

    def _ready(self, connection: Connection, events: int) -> None:
        if connection.phase is Phase.CLOSED:
            return  # by what came before it in this turn; its descriptor may be another connection's by now
        if connection.parked:
            self._follow(connection, partial(connection.attend, events))
        elif not connection.attend_handler():
            self._forget(connection)

    def _follow(self, connection: Connection, ask: Callable[[], Next]) -> None:
        """Ask a parked connection what it needs, and see to it."""
        try:
            step = ask()
        except OSError as gone:
            self.log.debug("connection of %s ended: %s", connection.peer, gone)
            step = Next.CLOSE
        except Exception:
            # A fault in one connection must not end the service of all others.
            self.log.exception("the connection of %s failed", connection.peer)
            step = Next.CLOSE
        if step is Next.CLOSE:
            self._close(connection)
        elif step is Next.RUN:
            self._forget(connection)
            connection.parked = False
            self._workers.submit(connection.run)
        else:
            self._register(connection, connection.interest)
            self._next_expiry = min(self._next_expiry, connection.deadline)

    def _register(self, connection: Connection, interest: int) -> None:
        key = self._selector.get_map().get(connection)
        if key is None:
            self._selector.register(connection, interest, connection)
        elif key.events != interest:
            self._selector.modify(connection, interest, connection)

    def _forget(self, connection: Connection) -> None:
        if connection in self._selector.get_map():
            self._selector.unregister(connection)

    # ---- commands of connections, and what they mean in the loop

    def park(self, connection: Connection) -> None:
        """Take a connection over from its worker."""
        self._post(partial(self._park, connection))

    def resume(self, connection: Connection) -> None:
        """Let a worker go on with a connection that nobody has in hand."""
        self._workers.submit(connection.run)

    def nudge(self, connection: Connection) -> None:
        """Look again at what a parked connection waits for."""
        self._post(partial(self._nudge, connection))

    def retire(self, connection: Connection) -> None:
        """Close a connection."""
        self._post(partial(self._close, connection))

    def watch(self, connection: Connection) -> None:
        """Look out for the client's hang-up while a handler runs.

        Most handlers return before a watch is worth its two system calls and its turn of the loop.
        """
        due = monotonic() + _WATCH_AFTER
        self._watches.append((due, connection))
        if self._asleep and self._sleeps_until > due:
            self._wake()

    def admitted(self, connection: Connection) -> None:
        """The connection has shown a valid key."""
        self._roster.prove(connection)

    def linger(self, wait: Callable[[], bool]) -> bool:
        """Let a worker wait shortly by `wait`, if it has nothing better to do."""
        return self._workers.linger(wait)

    def lend(self, change: int) -> None:
        """Allow one worker more (1) or no longer (-1): for a handler that goes on though its client has its answer."""
        self._workers.lend(change)
        if self.stopping:
            self._wake()  # that may have been what the end waited for

    def in_loop(self, callback: Callable[[], None]) -> None:
        """Run something quick in the loop, which shows that it turns."""
        self._post(callback)

    def call(self, callback: Callable[[], None]) -> None:
        """Run an application's callback apart from the workers, which may all be held by slow handlers."""
        self._callbacks.submit(callback)

    def _park(self, connection: Connection) -> None:
        if connection.phase is Phase.CLOSED:
            return
        connection.parked = True
        self._follow(connection, partial(connection.attend, 0))
        if self.stopping and connection.parked:
            self._follow(connection, connection.wind_up)

    def _nudge(self, connection: Connection) -> None:
        if connection.parked:
            self._follow(connection, partial(connection.attend, 0))

    def _start_watching(self, connection: Connection) -> None:
        if connection.phase is Phase.HANDLING:
            self._register(connection, selectors.EVENT_READ)

    def _close(self, connection: Connection) -> None:
        if connection.phase is not Phase.CLOSED:
            self._forget(connection)
            connection.parked = False
            connection.close()
        self._roster.remove(connection)

    # ---- accepting

    def _accept(self) -> None:
        for _ in range(64):
            try:
                sock, address = self.socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _OUT_OF_RESOURCES:
                    self._pause_accepting(error)
                    return
                continue  # the client left before it was accepted
            self._welcome(sock, str(address[0]))

    def _pause_accepting(self, error: OSError) -> None:
        """Without descriptors the listening socket stays readable: looking away is all that keeps us from spinning."""
        now = monotonic()
        if now >= self._complained_at + _COMPLAIN_EVERY:
            self._complained_at = now
            self.log.error("cannot accept connections: %s; raise the limit of open files (LimitNOFILE)", error)
        self._selector.unregister(self.socket)
        self._accept_again = now + _ACCEPT_PAUSE

    def _welcome(self, sock: socket.socket, address: str) -> None:
        peer = address.removeprefix("::ffff:")
        welcome, victim = self._roster.make_room(peer)
        if not welcome:
            self._rejected += 1
            sock.close()
            return
        if victim is not None:
            self._rejected += 1
            if victim.parked:
                self._close(victim)
            else:
                victim.abort()
        try:
            connection = Connection(sock, peer, self)
        except OSError:
            sock.close()  # the client has gone already
            return
        self._accepted += 1
        self._roster.add(connection)
        self._park(connection)

    # ---- the end

    def shutdown(self, grace_seconds: float = 0.0) -> None:
        """Stop: accept nothing more, let running requests and streams end within the grace, close everything.

        Handlers that go on though their client has its answer get the grace too. Idle connections and standing streams end at once. Returns when everything has ended; called in the thread of
        `serve_forever`, as by a signal handler, it returns at once and `serve_forever` does when everything has ended.
        """
        self._give_up_at = monotonic() + grace_seconds
        if self._started.acquire(blocking=False):
            self._tear_down()
        else:
            self._post(self._stop)
            if threading.get_ident() != self._loop_thread:
                self._finished.wait()

    def _stop(self) -> None:
        self.stopping = True
        self._stop_accepting()
        for connection in self._roster.snapshot():
            if connection.parked:
                self._follow(connection, connection.wind_up)

    def _stop_accepting(self) -> None:
        self._accept_again = math.inf
        if self.socket in self._selector.get_map():
            self._selector.unregister(self.socket)
        self.server_close()

    def _has_come_to_rest(self) -> bool:
        if monotonic() >= self._give_up_at:
            return True
        return not self._workers.lent and all(connection.is_finished for connection in self._roster.snapshot())

    def _tear_down(self) -> None:
        """Cut off what is left, and end every thread."""
        self.stopping = True
        if self.socket.fileno() >= 0:
            self._stop_accepting()
        connections = self._roster.snapshot()
        for connection in connections:
            if connection.parked:
                self._close(connection)
            else:
                connection.cut_off()
        stuck = self._workers.stop(_LAST_SECONDS)
        for connection in connections:
            self._close(connection)
        stuck += self._callbacks.stop(_LAST_SECONDS)
        if stuck:
            self.log.warning("%d threads were still at work when the server ended", stuck)
        self._selector.close()
        self._waker.close()
        self._woken.close()
        self._finished.set()
