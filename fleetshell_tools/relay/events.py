"""An event stream on its connection: events from any thread, pings, and an end to a client that does not read."""

from __future__ import annotations

import math
import threading
from time import monotonic
from typing import TYPE_CHECKING

from fleetshell_tools.relay.application import EventStream
from fleetshell_tools.relay.http1 import LAST_CHUNK, chunk, encode_stream_head
from fleetshell_tools.relay.phases import Loop
from fleetshell_tools.relay.transport import Transport

if TYPE_CHECKING:
    from fleetshell_tools.relay.connection import Connection

_BACKLOG = 1 << 20  # bytes that wait for the client before it is dropped
_PING = b": ping\n\n"


class OpenStream:
    """The `Sink` that an application gets, and what its connection needs to keep the stream going.

    Args:
        stream: What the application answered.
        connection: Whose stream it is.
        transport: Where to write.
        lock: The connection's lock.
        loop: What the connection belongs to; its limits have the pause between pings, and the patience with a client
            that does not read.
        chunked: False for HTTP/1.0, where the stream ends with the connection.
    """

    def __init__(
        self,
        stream: EventStream,
        connection: Connection,
        transport: Transport,
        lock: threading.Lock,
        loop: Loop,
        *,
        chunked: bool,
    ) -> None:
        self.standing = stream.standing
        self._fields = stream.headers
        self.on_close = stream.on_close
        self._on_open = stream.on_open
        self._connection = connection
        self._transport = transport
        self._lock = lock
        self._loop = loop
        self._chunked = chunked
        self._ended = False
        self._next_ping = monotonic() + loop.limits.ping_seconds
        self._stall = math.inf

    def begin(self) -> None:
        """Send the answer's head; the caller holds the lock."""
        self._transport.write(encode_stream_head(self._fields, chunked=self._chunked))

    def open(self) -> None:
        """Give the stream to the application."""
        self._on_open(self)

    def send(self, event: bytes) -> bool:
        """See `Sink.send`."""
        with self._lock:
            if self._ended:
                return False
            if not event:
                return True
            try:
                self._transport.write(chunk(event) if self._chunked else event)
                waiting = self._transport.unwritten
            except OSError:
                waiting = _BACKLOG + 1
            if not waiting:
                return True
            self._ended = waiting > _BACKLOG
        if waiting > _BACKLOG:
            self._loop.retire(self._connection)
            return False
        self._loop.nudge(self._connection)
        return True

    def close(self) -> None:
        """See `Sink.close`."""
        with self._lock:
            if self._ended:
                return
            self._ended, self._next_ping = True, math.inf
            try:
                if self._chunked:
                    self._transport.write(LAST_CHUNK)
            except OSError:
                self._transport.abort()
        self._loop.nudge(self._connection)

    # ---- in the loop, under the lock

    def abandon(self) -> None:
        """The connection is gone: nothing more can be sent."""
        self._ended = True

    @property
    def is_over(self) -> bool:
        """The stream has ended and its client has got everything."""
        return self._ended and not self._transport.unwritten

    def deadline(self) -> float:
        """When `ping` is due: for a ping, or because our patience with a client that does not read is over."""
        if not self._transport.unwritten:
            self._stall = math.inf
        elif self._stall == math.inf:
            self._stall = monotonic() + self._loop.limits.write_seconds
        return min(self._next_ping, self._stall)

    def ping(self, now: float) -> bool:
        """Show the client that we are here; False if it does not take even what it was sent before."""
        if now >= self._stall:
            return False
        if now >= self._next_ping:
            self._next_ping = now + self._loop.limits.ping_seconds
            self._transport.write(chunk(_PING) if self._chunked else _PING)
        return True
