"""One call and its client: an answer as JSON or, once that takes longer or there is more to say, as an event stream."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fleetshell_tools.core.errors import BadArgument, Cancelled, TimedOut
from fleetshell_tools.relay import jsonrpc
from fleetshell_tools.relay.application import EventStream, Pending
from fleetshell_tools.relay.exchange import Answer, Call, Outcome, RpcFailure
from fleetshell_tools.relay.http1 import Response
from fleetshell_tools.relay.jsonrpc import RpcError
from fleetshell_tools.relay.protocol import event
from fleetshell_tools.relay.questions import Question
from fleetshell_tools.relay.replay import RESUMABLE, Reader, Recording, Replays
from fleetshell_tools.relay.sessions import Sink

RETRY_MILLISECONDS = 500
_WATCH_AFTER = 0.05
"""Seconds before we look out for a hang-up: most calls end sooner, and for them it is not worth the effort."""


@dataclass(frozen=True)
class Terms:
    """What holds for the answers to all calls: `quiet` and `patience` are seconds, see `Gateway`."""

    quiet: float
    patience: float
    replays: Replays
    log: logging.Logger


class CallConversation:
    """The `Conversation` of a call in a POST of its own; an `overdue.Item`. The first answer wins.

    Args:
        call: What is being worked on.
        pending: The HTTP answer.
        finish: Writes the call's outcome as an answer; called once.
        streams: Whether the answer may become an event stream.
        terms: When, for example.
        now: The time, on the clock of `Overdue`.
    """

    def __init__(
        self,
        call: Call,
        pending: Pending,
        finish: Callable[[Outcome], Answer],
        terms: Terms,
        *,
        streams: bool,
        now: float,
    ) -> None:
        self.due = now + min(_WATCH_AFTER, terms.quiet)
        self._call = call
        self._pending = pending
        self._finish = finish
        self._terms = terms
        self._streams = streams
        self._quiet_at = now + terms.quiet if streams else math.inf
        self._impatient_at = now + terms.patience
        # Held while something is sent, so that nothing overtakes or follows the answer; taken before all other locks.
        self._lock = threading.Lock()
        self._answered = False
        self._gone = False
        self._watched = False
        self._impatient = False
        self._callbacks: list[Callable[[], None]] = []
        self._questions: list[Question] = []
        self._sink: Sink | None = None
        self._recording: Recording | None = None
        self._reader: Reader | None = None

    # ---- for the running call

    def notify(self, method: str, params: dict[str, Any]) -> None:
        """See `Conversation.notify`; nothing happens after the answer, or where the client takes no event stream."""
        message = jsonrpc.encode({"jsonrpc": "2.0", "method": method, "params": params})
        with self._lock:
            self._send(message)

    def request(self, method: str, params: dict[str, Any], seconds: float) -> dict[str, Any]:
        """See `Conversation.request`."""
        session, cancelled = self._call.peer.session, self._call.cancelled
        if session is None or not self._streams:
            raise BadArgument("This client can't be asked anything while a call of it is running.")
        with session.expect() as question:
            message = {"jsonrpc": "2.0", "id": question.id, "method": method, "params": params}
            forget = cancelled.on_set(question.interrupt)
            try:
                with self._lock:
                    self._questions.append(question)
                    if not self._send(jsonrpc.encode(message)):
                        raise BadArgument("This client can't be asked any more: it has its answer, or has hung up.")
                found = question.wait(seconds)
            finally:
                forget()
                with self._lock:
                    self._questions.remove(question)
        if isinstance(found, RpcError):
            raise RpcFailure(found.code, found.message, found.data)
        if found is not None:
            return found
        if cancelled.is_set():
            raise Cancelled(f"The client was asked by {method}, but meanwhile the call was {cancelled.why}.")
        if session.ended:
            raise Cancelled(f"The client was asked by {method}, but its session has ended.")
        if self._gone:
            raise TimedOut(f"The client was asked by {method}, but hung up.")
        raise TimedOut(f"The client was asked by {method}, and did not answer within {seconds:g} s.")

    def when_impatient(self, callback: Callable[[], None]) -> Callable[[], None]:
        """See `Conversation.when_impatient`."""
        with self._lock:
            self._callbacks.append(callback)
            if self._impatient and not self._answered:
                self.due = self._impatient_at = -math.inf  # the next look calls it, for this thread may hold locks

        def forget() -> None:
            with self._lock:
                if callback in self._callbacks:
                    self._callbacks.remove(callback)

        return forget

    def answer(self, outcome: Outcome) -> bool:
        """See `Conversation.answer`."""
        if not self._claim():
            return False
        self._pending.detach()
        response = self._deliver(outcome)
        if response is not None and not self._pending.answer(response):
            self._dropped()
        return True

    def disconnect(self, milliseconds: int = RETRY_MILLISECONDS) -> bool:
        """End the client's connection to the stream, but not the stream: the client asks for the rest of it after a time.

        Returns:
            False where this client could not resume; then nothing happens.
        """
        with self._lock:
            if self._answered or not self._open() or self._recording is None:
                return False
            self._recording.disconnect(milliseconds)
            return True

    # ---- for the gateway

    def end(self, outcome: Outcome) -> Response | None:
        """The call has returned: its answer, or None where it went another way or has been answered before."""
        if not self._claim():
            self._terms.log.debug("%s has been answered before it ended", self._call.method)
            return None
        return self._deliver(outcome)

    def look(self, now: float) -> None:
        """See `overdue.Item`: watch the client, become an event stream, lose patience."""
        if not self._watched:
            self._watched = True
            self._pending.on_hangup(self._hung_up)
        with self._lock:
            if self._answered:
                self.due = math.inf
                return
            if now >= self._quiet_at:
                self._open()
            impatient = now >= self._impatient_at
            if impatient:
                self._impatient_at = math.inf
            self.due = min(self._quiet_at, self._impatient_at)
        if impatient:
            self._lose_patience()

    # ---- the answer

    def _claim(self) -> bool:
        with self._lock:
            first = not self._answered
            self._answered = True
            self._callbacks.clear()
        return first

    def _deliver(self, outcome: Outcome) -> Response | None:
        """Send the answer if there is a stream; else return it."""
        answer = self._finish(outcome)
        if self._sink is None:
            return Response(answer.status, answer.body, answer.content_type, answer.headers)
        if not self._sink.send(event(answer.body)):
            self._dropped()
        self._sink.close()
        return None

    def _dropped(self) -> None:
        self._terms.log.debug("the client of %s has gone; its result is dropped", self._call.method)

    def _send(self, message: bytes) -> bool:
        """Send one message of our own on the call's stream; the lock is held. False where it can't reach the client."""
        if self._answered or not self._open():
            return False
        assert self._sink is not None
        return self._sink.send(event(message))

    def _open(self) -> bool:
        """Turn the answer into an event stream if it is none; the lock is held. False where that can't be."""
        if self._sink is None and self._streams and not self._gone:
            self._quiet_at = math.inf
            session = self._call.peer.session
            if session is not None and session.version == RESUMABLE:
                self._recording = self._terms.replays.open(session)
                self._reader = Reader(self._recording, None, lambda: None)
            self._pending.answer(EventStream(self._opened, self._closed))
            if self._sink is None:
                self._gone, self._reader = True, None
                if self._recording is not None:
                    self._recording.close()
                    self._recording = None
        return self._sink is not None

    # ---- from the HTTP server

    def _opened(self, sink: Sink) -> None:
        if self._reader is not None:
            self._reader.open(sink)
        self._sink = self._recording or sink

    def _closed(self) -> None:
        with self._lock:
            reader = self._reader
        if reader is None:
            self._hung_up()
        else:
            reader.close()

    def _hung_up(self) -> None:
        """The client will not get an answer on this connection, and can't resume it on another."""
        with self._lock:
            if self._answered:
                return
            self._gone = True
            questions = list(self._questions)
        for question in questions:
            question.interrupt()
        if self._call.peer.modern:
            self._call.cancelled.set("cancelled: the client hung up")
        else:
            self._lose_patience()

    def _lose_patience(self) -> None:
        with self._lock:
            self._impatient = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            try:
                callback()
            except Exception:
                self._terms.log.exception("%s could not be handed over", self._call.method)


class BatchConversation:
    """The `Conversation` of a call in a batch (2025-03-26): the answer is one JSON array, so nothing can come before it."""

    def notify(self, method: str, params: dict[str, Any]) -> None:
        """Nothing can be sent."""

    def request(self, method: str, params: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Nobody can be asked.

        Raises:
            BadArgument: Always.
        """
        raise BadArgument("A client can't be asked anything in a batch.")

    def when_impatient(self, callback: Callable[[], None]) -> Callable[[], None]:
        """A batch is waited for to its end."""
        return lambda: None

    def answer(self, outcome: Outcome) -> bool:
        """There is no answer before that of the whole batch."""
        return False
