"""What the HTTP server and the application behind it owe each other: limits, admission, answers, events, hang-ups."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from fleetshell_tools.relay.http1 import Request, RequestHead, Response


@dataclass(frozen=True)
class Limits:
    """What a client may use; seconds are totals that slow sending does not extend.

    `max_unproven_per_address` counts the connections of an address on which no request was admitted yet; `idle_seconds`
    is the wait between two requests, `ping_seconds` the pause between two pings of an event stream.
    """

    max_connections: int = 2048
    max_unproven_per_address: int = 64
    max_body: int = 4 << 20
    max_head: int = 32 << 10
    max_fields: int = 100
    handshake_seconds: float = 10.0
    head_seconds: float = 15.0
    body_seconds: float = 30.0
    idle_seconds: float = 120.0
    write_seconds: float = 30.0
    ping_seconds: float = 15.0
    max_workers: int = 256


class Owner(Protocol):
    """The connection behind a `Pending`; the methods are described there."""

    def watch(self) -> None: ...
    def take_over(self, pending: Pending, answer: Response | EventStream) -> bool: ...
    def detach(self, pending: Pending) -> None: ...


class Pending:
    """The answer to a request: any thread can give it in the handler's place, or wait for a hang-up.

    Args:
        owner: The connection.
        head: The request that is being answered.
    """

    __slots__ = ("_callbacks", "_gone", "_lock", "_owner", "detached", "head", "over")

    def __init__(self, owner: Owner, head: RequestHead) -> None:
        self._owner = owner
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []
        self._gone = False
        self.head = head
        # These two are the connection's, under its lock.
        self.detached = False
        self.over = False

    def answer(self, answer: Response | EventStream) -> bool:
        """Answer in the handler's place; what that returns is dropped then, and should be None.

        Returns:
            False if the answer has been given already, or nobody is there to take it; then nothing of `answer` is
            called. From True on a stream's `on_close` tells of a hang-up, and the callbacks of this are forgotten.
        """
        return self._owner.take_over(self, answer)

    def detach(self) -> None:
        """The handler goes on without a client: do not count its thread among those that clients may hold."""
        self._owner.detach(self)

    def on_hangup(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` once if the client leaves before it is answered (at once if it already has).

        Returns:
            A function that forgets the callback.
        """
        with self._lock:
            gone, first = self._gone, not self._callbacks
            if not gone:
                self._callbacks.append(callback)
        if gone:
            callback()
        elif first:
            self._owner.watch()
        return lambda: self._forget(callback)

    def happened(self) -> None:
        """The client has gone: call everybody back."""
        with self._lock:
            self._gone = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def end(self) -> None:
        """There is an answer: nobody is called back any more."""
        with self._lock:
            self._callbacks.clear()

    def _forget(self, callback: Callable[[], None]) -> None:
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)


class Sink(Protocol):
    """The writing end of an event stream, usable from any thread."""

    def send(self, event: bytes) -> bool:
        """Send one event, framed as SSE by the caller; it never waits for the client.

        Returns:
            False once the stream has ended, or if its client does not read and was dropped.
        """

    def close(self) -> None:
        """End the stream; what was sent before still arrives."""


@dataclass(frozen=True)
class EventStream:
    """An answer that stays open and sends events (`text/event-stream`).

    Args:
        on_open: Called once with the sink, in the thread that answers; it should return soon, the stream stays open.
        on_close: Called exactly once in a thread of the server, however the stream ended.
        headers: More header fields of the answer.
        standing: An open-ended stream, such as a session's GET stream, which a shutdown does not wait for.
    """

    on_open: Callable[[Sink], None]
    on_close: Callable[[], None]
    headers: tuple[tuple[str, str], ...] = ()
    standing: bool = False


class Public:
    """An admission that took no key: its connection counts on as one that has shown none."""


class Application(Protocol):
    """What a server serves; both methods are called in worker threads, many at a time."""

    def precheck(self, head: RequestHead, before: object, /) -> Response | object:
        """Judge a request before its body is read: a `Response` refuses it, anything else admits it.

        Args:
            before: What this returned for the last request that it admitted on the same connection; None at first.
        """

    def handle(self, request: Request, admitted: object, pending: Pending, /) -> Response | EventStream | None:
        """Answer a request; `admitted` is what `precheck` returned for it.

        Returns:
            None where `pending` has been answered, or will be: until then the connection holds no thread.
        """
