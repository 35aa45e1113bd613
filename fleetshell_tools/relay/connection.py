"""One client's connection: TLS, requests one after the other, answers, event streams, and an end without loss.

A connection is always in one hand. Either a worker has it (`run`), which goes as far as the bytes at hand allow and
then parks it; or the server's loop has it (`attend`, `expire`), which waits for its socket and holds no thread for it.
While an answer is pending, whoever clears `_pending` under `_lock` has the connection from then on: its worker when the
handler returns an answer, another thread that answers in its place (`take_over`), or the loop that closes it. A worker
that finds it taken must not touch the connection again, which may be serving the next request by then.
Nothing here blocks on a client: what it does not take yet waits in the transport, and every wait has a total deadline
that no trickle of bytes extends. Two others may reach in, under `_lock`: a `Sink`, and the loop when it watches for a
hang-up during a handler. The lock also keeps OpenSSL from being entered twice.
"""

from __future__ import annotations

import math
import secrets
import selectors
import socket
import threading
from time import monotonic
from typing import NoReturn

from fleetshell_tools.relay.application import EventStream, Pending, Public
from fleetshell_tools.relay.events import OpenStream
from fleetshell_tools.relay.farewell import Farewell
from fleetshell_tools.relay.http1 import (
    CONTINUE,
    Malformed,
    Reader,
    Request,
    RequestHead,
    Response,
    encode,
    error,
)
from fleetshell_tools.relay.phases import Loop, Next, Phase
from fleetshell_tools.relay.transport import NotTls, Transport

_DRAIN_LIMIT = 65536  # the body of a refused request is skipped up to this size; beyond it the connection is closed
_AHEAD_LIMIT = 131072  # bytes that a client may send during an event stream before it is dropped
_CLOSE_SECONDS = 2.0  # how long the client may take to read the last answer and to close its side
_LINGER_MS = 10  # how long a worker waits for the next request before it parks the connection
_HTTPS_ONLY = error(400, "This port speaks HTTPS; use https:// in the URL.")


class _TakenOver(Exception):
    """The running handler's connection is in another hand."""


class Connection:
    """See the module. `deadline` (monotonic) is when the loop calls `expire`; `parked` is the loop's own mark."""

    def __init__(self, sock: socket.socket, peer: str, loop: Loop) -> None:
        self.peer = peer
        self.parked = False
        self.phase = Phase.RECEIVING
        self.stream: OpenStream | None = None
        self._transport = Transport(sock)
        self._loop = loop
        self._shaken = loop.ssl_context is None
        self._lock = threading.Lock()
        self._reader = Reader(peer, loop.limits.max_head, loop.limits.max_fields)
        self._head: RequestHead | None = None
        self._admission: object = None
        self._pending: Pending | None = None
        self._close_after_stream = False
        self._farewell = Farewell(self._transport, loop.limits.max_body)
        limits = loop.limits
        self.deadline = monotonic() + (limits.head_seconds if self._shaken else limits.handshake_seconds)

    def fileno(self) -> int:
        """The socket's descriptor, also once it is closed; so the loop can register the connection itself."""
        return self._transport.fileno()

    # ---- in a worker

    def run(self) -> None:
        """Go on as far as the bytes at hand allow, then park the connection or have it closed."""
        try:
            if self._shaken or self._shake_hands():
                self._converse()
        except _TakenOver:
            return
        except (OSError, EOFError) as gone:
            # The client left or broke off TLS: its right, and nothing an operator should read of.
            self._loop.log.debug("connection of %s ended: %s", self.peer, gone or "closed by the client")
            self._loop.retire(self)
        except BaseException:
            self._loop.retire(self)
            raise
        else:
            self._loop.park(self)

    def _shake_hands(self) -> bool:
        """Go on with the TLS handshake; False while it waits for the client."""
        context = self._loop.ssl_context
        assert context is not None
        try:
            if not self._transport.shake_hands(context):
                return False
        except NotTls:
            self._reply(_HTTPS_ONLY, close=True)
            return False
        self._shaken = True
        self.deadline = monotonic() + self._loop.limits.head_seconds
        return True

    def _converse(self) -> None:
        """Serve requests until one is not complete, an answer can't be written, or the connection changes its phase."""
        ready = True  # a worker is only sent here when there is something to read
        while self.phase is Phase.RECEIVING and not self._transport.unwritten:
            try:
                if self._reader and self._take():
                    ready = False
                    continue
            except Malformed as fault:
                self._reply(error(fault.status, fault.why), close=True)
                return
            if not ready and not self._loop.linger(self._next_bytes_come):
                return
            if not self._receive():
                return
            ready = False

    def _next_bytes_come(self) -> bool:
        """Wait a moment: a busy client's next request is here sooner than a parked connection could be woken."""
        return self._transport.wait(_LINGER_MS)

    def _receive(self) -> bool:
        """Read what is there; False if that is nothing, or comes after the deadline."""
        data = self._transport.receive()
        if data is None:
            return False
        if not data:
            raise EOFError
        if self._reader.has_begun or self._head:
            if monotonic() > self.deadline:
                return False
        else:
            self.deadline = monotonic() + self._loop.limits.head_seconds
        self._reader.feed(data)
        return True

    def _take(self) -> bool:
        """Serve one request out of what was read; False if it is not complete yet.

        Raises:
            Malformed: The request can't be served, and what follows it can't be trusted.
        """
        if self._head is None:
            head = self._reader.head()
            if head is None:
                return False
            if not self._admit(head):
                return True
        head = self._head
        assert head is not None
        body = self._reader.body(head.content_length or 0)
        if body is None:
            return False
        self._head = None
        self._handle(head, body)
        return True

    def _admit(self, head: RequestHead) -> bool:
        """Ask the application whether the request may send its body; a refusal is answered here."""
        try:
            verdict = self._loop.application.precheck(head, self._admission)
        except Exception:
            verdict = self._failure(f"{head.method} {head.path}")
        length = head.content_length or 0
        if isinstance(verdict, Response):
            # After a refusal a client that expects 100-continue may send the body or leave it out: only closing is safe.
            close = verdict.close or head.close or length > _DRAIN_LIMIT or head.expects_continue
            self._reader.skip(length)
            self._reply(verdict, close=close, without_body=head.method == "HEAD")
            return False
        if (self._admission is None or isinstance(self._admission, Public)) and not isinstance(verdict, Public):
            self._loop.admitted(self)
        limits = self._loop.limits
        if length > limits.max_body:
            raise Malformed(413, f"The body has {length} bytes; at most {limits.max_body} are accepted.")
        self._head, self._admission = head, verdict
        if len(self._reader) < length:
            self.deadline = monotonic() + limits.body_seconds
            if head.expects_continue:
                self._transport.write(CONTINUE)
        return True

    def _handle(self, head: RequestHead, body: bytes) -> None:
        request = Request(head.method, head.path, head.query, head.headers, body, head.peer)
        pending = Pending(self, head)
        self._pending, self.deadline, self.phase = pending, math.inf, Phase.HANDLING
        try:
            answer = self._loop.application.handle(request, self._admission, pending)
        except Exception:
            answer = self._failure(f"{head.method} {head.path}")
        if answer is None:
            self._leave(pending)
        with self._lock:
            # From here on nobody else answers, and the loop no longer reads on behalf of a hang-up.
            mine = self._pending is pending
            stream = self._begin(answer, head) if mine else None
        pending.end()
        if not mine:
            if isinstance(answer, EventStream):
                self._loop.call(answer.on_close)
            self._leave(pending)
        if stream is not None:
            stream.open()

    def _begin(self, answer: Response | EventStream, head: RequestHead) -> OpenStream | None:
        """Send an answer, or an event stream's head, on behalf of the pending handler; the lock is held."""
        self._pending, self.phase = None, Phase.RECEIVING
        without_body = head.method == "HEAD"
        if isinstance(answer, EventStream):
            if not without_body:
                return self._begin_stream(answer, head)
            self._loop.call(answer.on_close)
            answer = Response(200, content_type="text/event-stream", close=True)
        self._reply(answer, close=answer.close or head.close, without_body=without_body)
        return None

    def _leave(self, pending: Pending) -> NoReturn:
        """The handler has returned, but its connection was taken over or closed meanwhile, or will be."""
        with self._lock:
            pending.over = True
            detached = pending.detached
        if detached:
            self._loop.lend(-1)
        raise _TakenOver

    def _failure(self, where: str) -> Response:
        """The application failed: its traceback goes to the log, an id to the client."""
        number = secrets.token_hex(4)
        self._loop.log.exception("internal error %s in %s", number, where)
        return error(500, f"internal error, see log {number}")

    def _reply(self, response: Response, *, close: bool, without_body: bool = False) -> None:
        close = close or self._loop.stopping
        try:
            data = encode(response, close=close, without_body=without_body)
        except ValueError:
            data, close = encode(self._failure("the encoding of an answer"), close=True), True
        self._transport.write(data)
        if close:
            self.phase = Phase.CLOSING
            self.deadline = monotonic() + self._loop.limits.write_seconds
        else:
            self._renew_deadline()

    def _renew_deadline(self) -> None:
        """The deadline of whatever comes next: the writing, a request that has begun, or the wait for one."""
        limits = self._loop.limits
        if self._transport.unwritten:
            seconds = limits.write_seconds
        elif self._reader.has_begun:
            seconds = limits.body_seconds if self._reader.is_skipping else limits.head_seconds
        else:
            seconds = limits.idle_seconds
        self.deadline = monotonic() + seconds

    def _begin_stream(self, answer: EventStream, head: RequestHead) -> OpenStream:
        self._close_after_stream = head.close
        stream = OpenStream(answer, self, self._transport, self._lock, self._loop, chunked=not head.http10)
        self.stream, self.phase = stream, Phase.STREAMING
        stream.begin()
        return stream

    # ---- from any thread

    def watch(self) -> None:
        """See `Pending.on_hangup`."""
        self._loop.watch(self)

    def take_over(self, pending: Pending, answer: Response | EventStream) -> bool:
        """See `Pending.answer`: take the connection out of the hand of the worker whose handler is still running."""
        try:
            with self._lock:
                if self._pending is not pending:
                    return False
                stream = self._begin(answer, pending.head)
            pending.end()
            if stream is not None:
                stream.open()
        except OSError as gone:
            self._loop.log.debug("connection of %s ended: %s", self.peer, gone)
            self._loop.retire(self)
        except BaseException:
            self._loop.retire(self)
            raise
        else:
            (self._loop.resume if stream is None else self._loop.park)(self)
        return True

    def detach(self, pending: Pending) -> None:
        """See `Pending.detach`."""
        with self._lock:
            first = not (pending.over or pending.detached)
            pending.detached = True
        if first:
            self._loop.lend(1)

    def abort(self) -> None:
        """Cut the connection off; whoever has it in hand will meet the end of it and retire it."""
        self._transport.abort()

    def cut_off(self) -> None:
        """The server has no more time for the running handler: tell it so, and cut its client off."""
        with self._lock:
            pending = self._pending
        if pending is not None:
            self._loop.call(pending.happened)
        self.abort()

    # ---- in the loop

    @property
    def interest(self) -> int:
        """What the loop should wait for, as a mask of `selectors`."""
        if self.phase is Phase.STREAMING:
            return selectors.EVENT_READ | (selectors.EVENT_WRITE if self._transport.unwritten else 0)
        if self._transport.unwritten or self._transport.handshake_wants_write:
            return selectors.EVENT_WRITE
        return selectors.EVENT_READ

    def attend(self, events: int) -> Next:
        """Do what can be done without a worker: write on, take note of a stream's disconnect, see a closing through.

        Args:
            events: What the socket is ready for, as a mask of `selectors`; 0 to look at the connection's own state.

        Raises:
            OSError: The client has gone.
        """
        with self._lock:
            unwritten = bool(self._transport.unwritten)
            self._transport.flush()
            if self.stream is not None:
                return self._attend_stream(self.stream, events)
            if self.phase is Phase.CLOSING:
                return self._attend_closing(events)
            if self._transport.unwritten or not (events or unwritten):
                return Next.WAIT
            if unwritten:
                self._renew_deadline()
            return Next.RUN

    def _attend_stream(self, stream: OpenStream, events: int) -> Next:
        if events & selectors.EVENT_READ and not self._hear():
            return Next.CLOSE
        self.deadline = stream.deadline()
        if not stream.is_over:
            return Next.WAIT
        self._stream_is_over()
        if self._close_after_stream or self._loop.stopping:
            self.phase = Phase.CLOSING
            return self._attend_closing(0)
        self.phase = Phase.RECEIVING
        self._renew_deadline()
        return Next.RUN

    def _hear(self) -> bool:
        """Read what a client sends while it is being answered; False if it has left, or sends too much ahead."""
        data = self._transport.receive()
        if data is None:
            return True
        self._reader.feed(data)
        return bool(data) and len(self._reader) <= _AHEAD_LIMIT

    def _attend_closing(self, events: int) -> Next:
        if self._transport.unwritten:
            return Next.WAIT
        if not self._farewell.begun:
            self.deadline = monotonic() + _CLOSE_SECONDS
            self._farewell.begin()
        if events & selectors.EVENT_READ and not self._farewell.hear():
            return Next.CLOSE
        return Next.WAIT

    def attend_handler(self) -> bool:
        """See whether the client of a running handler has left.

        Returns:
            Whether to go on watching. A client that sends more is alive, and what it sends is left for later.
        """
        with self._lock:
            pending = self._pending
            if pending is None or self._reader:
                return False
            try:
                present, more = self._hear(), bool(self._reader)
            except OSError:
                present, more = False, False
        if not present:
            self._loop.call(pending.happened)
        return present and not more

    def expire(self, now: float) -> Next:
        """The deadline has passed.

        Raises:
            OSError: The client has gone.
        """
        with self._lock:
            if self.stream is not None and self.stream.ping(now):
                self.deadline = self.stream.deadline()
                return Next.WAIT
            begun = bool(self._reader or self._head) and not self._reader.is_skipping
            if self.phase is Phase.RECEIVING and begun and not self._transport.unwritten:
                self._reply(error(408, "The request did not arrive in time."), close=True)
                return self._attend_closing(0)
            return Next.CLOSE

    def wind_up(self) -> Next:
        """The server is stopping: end what is idle, let what is under way come to its end."""
        if self.stream is not None and self.stream.standing:
            self.stream.close()
            return self.attend(0)
        if self.phase is Phase.RECEIVING and not (self._head or self._transport.unwritten):
            return Next.CLOSE
        return Next.WAIT

    @property
    def is_finished(self) -> bool:
        """Nothing is left but to see the client close its side."""
        return self.parked and self.phase is Phase.CLOSING and not self._transport.unwritten

    def close(self) -> None:
        """Close the socket and tell everybody whom it concerns; a second call does nothing."""
        with self._lock:
            if self.phase is Phase.CLOSED:
                return
            self.phase = Phase.CLOSED
            pending, self._pending = self._pending, None
            self._stream_is_over()
            self._transport.close()
        if pending is not None:
            self._loop.call(pending.happened)

    def _stream_is_over(self) -> None:
        """Tell the application, once."""
        stream, self.stream = self.stream, None
        if stream is not None:
            stream.abandon()
            self._loop.call(stream.on_close)
