"""Tests of the sessions: owners, limits, ends; the clock is an argument, so the tests turn it by hand."""

from __future__ import annotations

import hashlib
import threading

import pytest

from fleetshell_tools.relay.jsonrpc import Rejection
from fleetshell_tools.relay.sessions import Session, SessionNotFound, Sessions, Stream, TooManySessions


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class Wire:
    """A sink that keeps what it is given, until there is no room and the client is dropped."""

    def __init__(self, room: int = 100) -> None:
        self.events: list[bytes] = []
        self.closed = False
        self._room = room

    def send(self, event: bytes) -> bool:
        if self.closed or len(self.events) == self._room:
            return False
        self.events.append(event)
        return True

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ended() -> list[Session]:
    return []


@pytest.fixture
def sessions(clock: Clock, ended: list[Session]) -> Sessions:
    sessions = Sessions(now=clock, per_key=3, idle_seconds=60)
    sessions.on_end(ended.append)
    return sessions


def start(sessions: Sessions, key: str = "alice") -> Session:
    return sessions.create(key, "2025-11-25", "test", "1")


def test_an_id_has_256_bits_and_stays_out_of_the_representation(sessions: Sessions) -> None:
    first, second = start(sessions), start(sessions)
    assert first.id != second.id
    assert len(first.id) >= 43
    assert first.id.isascii()
    assert first.id.isprintable()
    assert first.digest == hashlib.sha256(first.id.encode()).hexdigest()[:12]
    assert first.id not in repr(first)


def test_a_session_answers_to_the_key_that_made_it_alone(sessions: Sessions) -> None:
    session = start(sessions)
    assert sessions.find("alice", session.id) is session
    with pytest.raises(SessionNotFound) as foreign:
        sessions.find("mallory", session.id)
    with pytest.raises(SessionNotFound) as unknown:
        sessions.find("alice", "nothing")
    sessions.end(session)
    with pytest.raises(SessionNotFound) as gone:
        sessions.find("alice", session.id)
    answers = {(error.value.message, error.value.status, str(error.value.data)) for error in (foreign, unknown, gone)}
    assert len(answers) == 1
    assert (gone.value.status, gone.value.code) == (404, -32001)


def test_an_idle_session_ends_once_and_tells_so(sessions: Sessions, clock: Clock, ended: list[Session]) -> None:
    session = start(sessions)
    clock.seconds += 60
    sessions.end_idle()
    assert ended == []
    clock.seconds += 0.1
    sessions.end_idle()
    sessions.end_idle()
    sessions.end(session)
    assert ended == [session]
    assert session.ended


def test_an_idle_session_is_gone_even_before_the_housekeeping_came(
    sessions: Sessions, clock: Clock, ended: list[Session]
) -> None:
    session = start(sessions)
    clock.seconds += 61
    with pytest.raises(SessionNotFound):
        sessions.find("alice", session.id)
    assert ended == [session]


def test_use_keeps_a_session_alive(sessions: Sessions, clock: Clock) -> None:
    session = start(sessions)
    for _ in range(5):
        clock.seconds += 50
        assert sessions.find("alice", session.id) is session


def test_a_live_grant_keeps_an_idle_session(sessions: Sessions, clock: Clock, ended: list[Session]) -> None:
    session = start(sessions)
    session.keep_until = clock.seconds + 500
    clock.seconds += 500
    sessions.end_idle()
    assert ended == []
    clock.seconds += 1
    sessions.end_idle()
    assert ended == [session]


def test_a_request_in_flight_keeps_a_session_and_idleness_counts_from_its_end(
    sessions: Sessions, clock: Clock, ended: list[Session]
) -> None:
    session = start(sessions)
    sessions.begin(session, 1)
    clock.seconds += 1000
    sessions.end_idle()
    sessions.finish(session, 1)
    clock.seconds += 60
    sessions.end_idle()
    assert ended == []
    clock.seconds += 1
    sessions.end_idle()
    assert ended == [session]


def test_an_open_stream_keeps_a_session_and_idleness_counts_from_its_end(
    sessions: Sessions, clock: Clock, ended: list[Session]
) -> None:
    session = start(sessions)
    stream = sessions.open_stream(session)
    clock.seconds += 1000
    sessions.end_idle()
    sessions.close_stream(session, stream)
    clock.seconds += 60
    sessions.end_idle()
    assert ended == []
    clock.seconds += 1
    sessions.end_idle()
    assert ended == [session]


def test_one_session_too_many_ends_the_least_recently_used_of_that_key(
    sessions: Sessions, clock: Clock, ended: list[Session]
) -> None:
    other = start(sessions, "bob")
    mine = []
    for _ in range(3):
        clock.seconds += 1
        mine.append(start(sessions))
    clock.seconds += 1
    sessions.find("alice", mine[0].id)
    start(sessions)
    assert ended == [mine[1]]
    assert sessions.find("bob", other.id) is other


def test_a_session_with_a_grant_outlives_a_younger_one_without(
    sessions: Sessions, clock: Clock, ended: list[Session]
) -> None:
    granted = start(sessions)
    granted.keep_until = clock.seconds + 3600
    clock.seconds += 1
    younger = start(sessions)
    start(sessions)
    start(sessions)
    assert ended == [younger]


def test_busy_sessions_are_never_dropped_for_a_new_one(sessions: Sessions, ended: list[Session]) -> None:
    mine = [start(sessions) for _ in range(3)]
    sessions.begin(mine[0], 1)
    sessions.open_stream(mine[1])
    sessions.begin(mine[2], 1)
    with pytest.raises(TooManySessions, match="All 3 sessions of this API key are in use") as caught:
        start(sessions)
    assert caught.value.status == 429
    assert start(sessions, "bob").key_id == "bob"
    sessions.finish(mine[2], 1)
    start(sessions)
    assert ended == [mine[2]]


def test_the_end_of_a_session_cancels_its_requests_and_closes_its_stream(sessions: Sessions) -> None:
    session = start(sessions)
    cancelled = sessions.begin(session, 1)
    stream = sessions.open_stream(session)
    sessions.end(session)
    assert cancelled.is_set()
    assert "ended" in cancelled.why
    assert stream.closed
    with pytest.raises(SessionNotFound):
        sessions.begin(session, 2)
    with pytest.raises(SessionNotFound):
        sessions.open_stream(session)
    sessions.finish(session, 1)
    sessions.close_stream(session, stream)


def test_a_callback_that_fails_does_not_keep_the_next_from_running(
    sessions: Sessions, ended: list[Session], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(session: Session) -> None:
        raise OSError("broken")

    later: list[Session] = []
    sessions.on_end(fail)
    sessions.on_end(later.append)
    session = start(sessions)
    sessions.end(session)
    assert ended == later == [session]
    assert "broken" in caplog.text
    assert session.id not in caplog.text


def test_a_callback_may_use_the_sessions(sessions: Sessions) -> None:
    seen: list[int] = []
    sessions.on_end(lambda session: seen.append(len(sessions.live())))
    first = start(sessions)
    start(sessions)
    sessions.end(first)
    assert seen == [1]


def test_ids_of_requests_are_unique_while_in_flight_and_text_is_not_a_number(sessions: Sessions) -> None:
    session, other = start(sessions), start(sessions)
    sessions.begin(session, 1)
    sessions.begin(session, "1")
    sessions.begin(other, 1)
    with pytest.raises(Rejection, match="still being worked on") as caught:
        sessions.begin(session, 1)
    assert caught.value.code == -32600
    sessions.finish(session, 1)
    sessions.begin(session, 1)


def test_cancel_reaches_the_request_of_its_own_session_alone(sessions: Sessions) -> None:
    session, other = start(sessions), start(sessions)
    mine, theirs = sessions.begin(session, 1), sessions.begin(other, 1)
    assert sessions.cancel(session, 1, "enough")
    assert (mine.is_set(), mine.why, theirs.is_set()) == (True, "enough", False)
    assert not sessions.cancel(session, 2, "nothing there")


def test_a_session_has_one_stream_at_a_time(sessions: Sessions) -> None:
    session = start(sessions)
    first = sessions.open_stream(session)
    with pytest.raises(Rejection) as caught:
        sessions.open_stream(session)
    assert caught.value.status == 409
    sessions.close_stream(session, first)
    assert not sessions.open_stream(session).closed


def test_a_stream_whose_client_was_dropped_makes_room_and_its_late_end_leaves_the_next_one_alone(
    sessions: Sessions,
) -> None:
    session = start(sessions)
    dropped = sessions.open_stream(session)
    dropped.attach(Wire(room=1))
    assert dropped.send(b"1")
    assert not dropped.send(b"2")
    assert not session.busy
    following = sessions.open_stream(session)
    sessions.close_stream(session, dropped)
    assert session.stream is following
    assert not following.closed


def test_events_that_were_sent_before_the_answer_began_come_first_and_in_order() -> None:
    stream, wire = Stream(), Wire()
    assert stream.send(b"1")
    assert stream.send(b"2")
    stream.attach(wire)
    assert stream.send(b"3")
    assert wire.events == [b"1", b"2", b"3"]
    assert not wire.closed


def test_a_closed_stream_closes_its_sink_and_takes_no_more() -> None:
    stream, wire = Stream(), Wire()
    stream.attach(wire)
    stream.close()
    assert not stream.send(b"late")
    assert (wire.events, wire.closed) == ([], True)


def test_a_stream_closed_before_its_answer_began_still_says_what_was_sent() -> None:
    stream, wire = Stream(), Wire()
    stream.send(b"1")
    stream.close()
    stream.attach(wire)
    assert (wire.events, wire.closed) == ([b"1"], True)


def test_threads_that_start_and_end_sessions_keep_the_cap_and_the_count(clock: Clock) -> None:
    sessions = Sessions(now=clock, per_key=8)
    ended: list[Session] = []
    sessions.on_end(ended.append)
    started: list[Session] = []

    def work() -> None:
        for _ in range(100):
            session = start(sessions)
            started.append(session)
            try:
                sessions.begin(session, 1)
                sessions.finish(session, 1)
            except SessionNotFound:
                continue

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    live = sessions.live()
    assert len(live) == 8
    assert {*live, *ended} == {*started}
    assert len(ended) == len(started) - 8 == 392
