"""What was sent on a session's event streams, so that a client that lost one can read on (2025-11-25, "Resumability").

Every event has an id `<stream>-<number>`, unique in its session; a stream begins with an event that has nothing but an
id, so that a client that is cut off before the first message can ask as well. A GET with `Last-Event-ID` gets the rest
of that very stream. All of it is in memory, and bounded.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable

from fleetshell_tools.relay.exchange import HttpRequest
from fleetshell_tools.relay.overdue import Overdue
from fleetshell_tools.relay.sessions import Session, Sink

RESUMABLE = "2025-11-25"
"""The protocol version whose sessions have this."""

STREAM_BYTES = 1 << 20
STREAMS = 32
TOTAL_BYTES = 64 << 20
KEPT_SECONDS = 300.0
"""How long a stream is kept after its end; a session's standing stream: after its reader was lost."""

_LOOK_EVERY = 5.0


class Recording:
    """One stream: numbers its events, keeps the last ones, and passes them on to whoever reads it now. A `Sink` itself.

    Args:
        name: Its part of the ids.
        standing: A session's GET stream, which nothing but a loss of its reader ends.
        clock: Seconds, monotonic.
    """

    def __init__(self, name: str, *, standing: bool, clock: Callable[[], float]) -> None:
        self.name = name
        self.standing = standing
        self.size = 0
        self.ended = False
        self.idle_since = float("inf")
        self.on_forgotten: Callable[[], None] = lambda: None
        self._clock = clock
        self._lock = threading.Lock()
        self._events: deque[bytes] = deque()
        self._last = 0
        self._sink: Sink | None = None

    def send(self, event: bytes, /) -> bool:
        """Number and keep an event, and send it to the reader if there is one; False once the stream has ended."""
        with self._lock:
            if self.ended:
                return False
            self._last += 1
            framed = b"id: %b-%d\n%b" % (self.name.encode(), self._last, event)
            self._events.append(framed)
            self.size += len(framed)
            while self.size > STREAM_BYTES:
                self.size -= len(self._events.popleft())
            if self._sink is not None and not self._sink.send(framed):
                self._lose()
            return True

    def close(self) -> None:
        """End the stream: there is nothing to come."""
        with self._lock:
            if self.ended:
                return
            self.ended, self.idle_since = True, self._clock()
            sink, self._sink = self._sink, None
        if sink is not None:
            sink.close()

    def begin(self, sink: Sink) -> None:
        """Give the stream its first reader, and its first id."""
        with self._lock:
            self._sink = sink
            sink.send(b"id: %b-0\ndata: \n\n" % self.name.encode())
            for event in self._events:
                sink.send(event)

    def has(self, number: int) -> bool:
        """Whether everything that follows that event is still here."""
        return self._last - len(self._events) <= number <= self._last

    def resume(self, sink: Sink, after: int) -> None:
        """Send what follows the event of that number, then what is to come; a reader from before is cut off."""
        with self._lock:
            kept = self.has(after)
            if kept:
                for event in list(self._events)[len(self._events) - (self._last - after) :]:
                    sink.send(event)
            before = None
            if kept and not self.ended:
                before, self._sink, self.idle_since = self._sink, sink, float("inf")
            else:
                before = sink
        if before is not None:
            before.close()

    def leave(self, sink: Sink | None) -> None:
        """That reader is gone; None for one that never came."""
        with self._lock:
            if self._sink is sink:
                self._lose()

    def disconnect(self, milliseconds: int) -> None:
        """Send the reader away; it shall ask again after that time."""
        with self._lock:
            sink = self._sink
            self._lose()
        if sink is not None:
            sink.send(b"retry: %d\n\n" % milliseconds)
            sink.close()

    @property
    def is_read(self) -> bool:
        return self._sink is not None

    def _lose(self) -> None:
        self._sink = None
        if self.standing:
            self.idle_since = self._clock()


class Reader:
    """A client's connection to a recording.

    Args:
        after: The number of the last event that the client has seen, or None if this is the first connection.
        then: Called at the end of the connection.
    """

    def __init__(self, recording: Recording, after: int | None, then: Callable[[], None]) -> None:
        self.recording = recording
        self._after = after
        self._then = then
        self._sink: Sink | None = None

    def open(self, sink: Sink) -> None:
        """The connection is there."""
        self._sink = sink
        if self._after is None:
            self.recording.begin(sink)
        else:
            self.recording.resume(sink, self._after)

    def close(self) -> None:
        """The connection has ended."""
        self.recording.leave(self._sink)
        self._then()


class Replays:
    """The recordings of every session, for any thread; an `overdue.Item`, which forgets what is too old.

    A recording belongs to its session: an id of another one's stream finds nothing.

    Args:
        overdue: Has it look for that, as long as there is something.
    """

    def __init__(self, overdue: Overdue) -> None:
        self.due = 0.0
        self._overdue = overdue
        self._lock = threading.Lock()
        # What belongs to a session goes with it.
        self._shelves: weakref.WeakKeyDictionary[Session, _Shelf] = weakref.WeakKeyDictionary()

    def open(self, session: Session, *, standing: bool = False) -> Recording:
        """A new stream of a session; its oldest one is forgotten where it has too many."""
        with self._lock:
            shelf = self._shelves.setdefault(session, _Shelf())
            shelf.count += 1
            recording = Recording(str(shelf.count), standing=standing, clock=self._overdue.clock)
            dropped = []
            while len(shelf.recordings) >= STREAMS:
                oldest = min(shelf.recordings.values(), key=lambda kept: (kept.idle_since, int(kept.name)))
                dropped.append(shelf.recordings.pop(oldest.name))
            shelf.recordings[recording.name] = recording
            self._overdue.add(self)
        _forget(dropped)
        return recording

    def find(self, session: Session, event_id: str) -> tuple[Recording, int] | None:
        """The stream that has sent the event, and the event's number; None where what follows it is not known any more."""
        name, _, number = event_id.partition("-")
        with self._lock:
            shelf = self._shelves.get(session)
            recording = shelf.recordings.get(name) if shelf else None
        if recording is None or not (number.isascii() and number.isdigit() and len(number) < 10):
            return None
        return (recording, int(number)) if recording.has(int(number)) else None

    def give_way(self, request: HttpRequest) -> None:
        """Forget a session's standing stream that nobody reads: its client sends GET, but not to resume it."""
        session_id = request.header("Mcp-Session-Id")
        if session_id is None or request.header("Last-Event-ID") is not None:
            return
        with self._lock:
            dropped = [
                shelf.recordings.pop(recording.name)
                for session, shelf in self._shelves.items()
                if session.id == session_id and session.key_id == request.key_id
                for recording in list(shelf.recordings.values())
                if recording.standing and not recording.is_read
            ]
        _forget(dropped)

    def look(self, now: float) -> None:
        """Forget what is too old, or too much."""
        self.due = now + _LOOK_EVERY
        dropped = []
        with self._lock:
            kept = [(recording, shelf) for shelf in self._shelves.values() for recording in shelf.recordings.values()]
            total = sum(recording.size for recording, _ in kept)
            for recording, shelf in sorted(kept, key=lambda pair: pair[0].idle_since):
                if recording.idle_since + KEPT_SECONDS <= now or total > TOTAL_BYTES:
                    dropped.append(shelf.recordings.pop(recording.name))
                    total -= recording.size
            if len(dropped) == len(kept):
                self._overdue.remove(self)
        _forget(dropped)

    def __len__(self) -> int:
        """How many streams are kept."""
        with self._lock:
            return sum(len(shelf.recordings) for shelf in self._shelves.values())


class _Shelf:
    """The streams of one session."""

    def __init__(self) -> None:
        self.count = 0
        self.recordings: dict[str, Recording] = {}


def _forget(recordings: list[Recording]) -> None:
    for recording in recordings:
        recording.on_forgotten()
