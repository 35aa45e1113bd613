"""The sessions of the `initialize` era: who owns them, what runs in them, and when they end.

All of it is in memory only: a client whose session is gone starts a new one by itself, which also locks it again.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from fleetshell_tools.core.types import Cancellation
from fleetshell_tools.relay.jsonrpc import INVALID_REQUEST, SERVER_ERROR, SESSION_NOT_FOUND, Rejection, RequestId
from fleetshell_tools.relay.questions import Question, Questions

log = logging.getLogger(__name__)

SESSIONS_PER_KEY = 64
IDLE_SECONDS = 3600.0


class Sink(Protocol):
    """The writing end of an HTTP event stream, as the HTTP server gives it; neither method waits for the client."""

    def send(self, event: bytes, /) -> bool:
        """Send one event as it stands on the wire; returns False where the stream has ended."""

    def close(self) -> None:
        """End the stream after what was sent."""


class Stream:
    """A session's GET stream: taken when the request is accepted, and given its sink when the HTTP answer has begun.

    Events of the time between are kept, and come first.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sink: Sink | None = None
        self._early: list[bytes] = []
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    def attach(self, sink: Sink) -> None:
        """Let the events go to `sink` from now on; it is closed at once where the stream was closed already."""
        with self._lock:
            self._sink = sink
            for event in self._early:
                sink.send(event)
            self._early.clear()
            closed = self._closed
        if closed:
            sink.close()

    def send(self, event: bytes) -> bool:
        """Send one event; returns False where the stream has ended."""
        # The lock keeps the order of events that several threads send.
        with self._lock:
            if self._closed:
                return False
            if self._sink is None:
                self._early.append(event)
            else:
                self._closed = not self._sink.send(event)
            return not self._closed

    def close(self) -> None:
        """End the stream after what was sent."""
        with self._lock:
            self._closed = True
            sink = self._sink
        if sink is not None:
            sink.close()


@dataclass(eq=False)
class Session:
    """One client's session; `Sessions` changes `in_flight`, `stream`, `last_used` and `ended`, under its lock.

    Attributes:
        id: The bearer secret of the session: it is never logged. `digest` stands for it in logs.
        key_id: The API key that it was made with, and the only one it answers to.
        version: The protocol version agreed on.
        created, last_used: In seconds of the clock that `Sessions` was given.
        keep_until: Until when idleness does not end it, on the same clock; authentication sets it.
        initialized: Whether the client has said `notifications/initialized`.
        in_flight: The requests that are being worked on.
        stream: The open GET stream.
        capabilities: What the client declared in `initialize`.
        log_level: The least severe `notifications/message` that the client wants, or None for none.
        subscriptions: The URIs of the resources whose updates it wants.
        questions: The requests of ours that wait for its answer.
    """

    id: str = field(repr=False)
    key_id: str
    version: str
    client_name: str
    client_version: str
    created: float
    last_used: float
    keep_until: float = 0.0
    initialized: bool = False
    ended: bool = False
    in_flight: dict[RequestId, Cancellation] = field(default_factory=dict)
    stream: Stream | None = None
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    log_level: str | None = None
    subscriptions: set[str] = field(default_factory=set)
    questions: Questions = field(default_factory=Questions, repr=False)
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        self.digest = hashlib.sha256(self.id.encode()).hexdigest()[:12]

    @property
    def busy(self) -> bool:
        """Whether something waits for this session, so that it may not be dropped."""
        return bool(self.in_flight) or (self.stream is not None and not self.stream.closed)

    def expect(self, request_id: str | None = None) -> Question:
        """Note a request that is about to be sent to this client; see `Questions.expect`."""
        return self.questions.expect(request_id)


class SessionNotFound(Rejection):
    """The session is unknown, has ended or belongs to another key: one answer, so that ids cannot be probed."""

    def __init__(self) -> None:
        super().__init__(
            SESSION_NOT_FOUND,
            "This session does not exist or has ended; send `initialize` to start a new one.",
            status=404,
            why="session_not_found",
        )


class TooManySessions(Rejection):
    """Every session that the key may have is in use."""

    def __init__(self, cap: int) -> None:
        super().__init__(
            SERVER_ERROR,
            f"All {cap} sessions of this API key are in use; close a client, or end a session with DELETE, and try again.",
            status=429,
            why="too_many_sessions",
        )


class Sessions:
    """Every live session, safe to use from any thread.

    Args:
        now: The time in seconds, as authentication counts it in `Session.keep_until`.
        per_key: How many sessions one API key can have.
        idle_seconds: After how long a session ends in which nothing happens.
    """

    def __init__(
        self, *, now: Callable[[], float], per_key: int = SESSIONS_PER_KEY, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        self._now = now
        self._per_key = per_key
        self._idle_seconds = idle_seconds
        self._lock = threading.Lock()
        self._live: dict[tuple[str, str], Session] = {}
        self._on_end: list[Callable[[Session], None]] = []

    def on_end(self, callback: Callable[[Session], None]) -> None:
        """Have `callback` called after the end of every session, whatever ended it, outside the lock."""
        self._on_end.append(callback)

    def create(self, key_id: str, version: str, client_name: str = "", client_version: str = "") -> Session:
        """Start a session; where the key has as many as it may, the one that is missed least ends for it.

        That is the least recently used one of those without a request or a stream, and one that is not
        authenticated before one that is.

        Raises:
            TooManySessions: All of them are busy.
        """
        self.end_idle()
        now = self._now()
        session = Session(
            secrets.token_urlsafe(32), key_id, version, client_name, client_version, created=now, last_used=now
        )
        dropped = None
        with self._lock:
            mine = [other for other in self._live.values() if other.key_id == key_id]
            if len(mine) >= self._per_key:
                free = [other for other in mine if not other.busy]
                if not free:
                    raise TooManySessions(self._per_key)
                dropped = min(free, key=lambda other: (other.keep_until > now, other.last_used))
                self._remove(dropped)
            self._live[key_id, session.id] = session
        if dropped is not None:
            self._part_with(dropped)
        return session

    def find(self, key_id: str, session_id: str) -> Session:
        """The session of that id and key, now used.

        Raises:
            SessionNotFound: There is none, or it has just been idle for too long.
        """
        with self._lock:
            session = self._live.get((key_id, session_id))
            if session is None:
                raise SessionNotFound
            expired = self._is_idle(session)
            if expired:
                self._remove(session)
            else:
                session.last_used = self._now()
        if expired:
            self._part_with(session)
            raise SessionNotFound
        return session

    def end(self, session: Session) -> None:
        """End a session: its requests are cancelled, its stream is closed. Nothing happens where it has ended."""
        with self._lock:
            if session.ended:
                return
            self._remove(session)
        self._part_with(session)

    def end_idle(self) -> None:
        """End the sessions that have been idle for too long; for `create`, and for a housekeeping thread."""
        with self._lock:
            idle = [session for session in self._live.values() if self._is_idle(session)]
            for session in idle:
                self._remove(session)
        for session in idle:
            self._part_with(session)

    def begin(self, session: Session, request_id: RequestId) -> Cancellation:
        """Note that a request is being worked on; `finish` must follow.

        Raises:
            SessionNotFound: The session ended a moment ago.
            Rejection: -32600, where a request of that id is being worked on already.
        """
        with self._lock:
            if session.ended:
                raise SessionNotFound
            if request_id in session.in_flight:
                raise Rejection(
                    INVALID_REQUEST,
                    "A request with this id is still being worked on; use a new id for every request.",
                    why="id_in_use",
                )
            session.last_used = self._now()
            return session.in_flight.setdefault(request_id, Cancellation())

    def finish(self, session: Session, request_id: RequestId) -> None:
        """Forget a request that has its answer."""
        with self._lock:
            session.in_flight.pop(request_id, None)
            session.last_used = self._now()

    def cancel(self, session: Session, request_id: RequestId, why: str) -> bool:
        """Cancel a request of this session; returns False where no such request is being worked on."""
        with self._lock:
            cancellation = session.in_flight.get(request_id)
        if cancellation is None:
            return False
        cancellation.set(why)
        return True

    def open_stream(self, session: Session) -> Stream:
        """Open the session's GET stream; `close_stream` must follow.

        Raises:
            SessionNotFound: The session ended a moment ago.
            Rejection: HTTP 409, where it has one.
        """
        with self._lock:
            if session.ended:
                raise SessionNotFound
            if session.stream is not None and not session.stream.closed:
                raise Rejection(
                    INVALID_REQUEST,
                    "This session has an open GET stream; close that one first.",
                    status=409,
                    why="stream_open",
                )
            session.stream = Stream()
            return session.stream

    def close_stream(self, session: Session, stream: Stream) -> None:
        """Give the session's GET stream up."""
        stream.close()
        with self._lock:
            # A stream whose client was dropped may have a successor by now.
            if session.stream is stream:
                session.stream = None
            session.last_used = self._now()

    def live(self) -> list[Session]:
        """Every session that has not ended, the oldest first."""
        with self._lock:
            return list(self._live.values())

    def _is_idle(self, session: Session) -> bool:
        now = self._now()
        return not session.busy and now - session.last_used > self._idle_seconds and now > session.keep_until

    def _remove(self, session: Session) -> None:
        session.ended = True
        del self._live[session.key_id, session.id]

    def _part_with(self, session: Session) -> None:
        """Tell everyone that a removed session is gone: outside the lock, because they may call back."""
        with self._lock:
            waiting, stream = list(session.in_flight.values()), session.stream
        for callback in self._on_end:
            try:
                callback(session)
            except Exception:
                # One that fails must not keep the others, such as the one that takes the grant away, from running.
                log.exception("A callback failed after the end of session %s.", session.digest)
        if stream is not None:
            stream.close()
        for cancellation in waiting:
            cancellation.set("the session was ended")
        session.questions.close()
