"""Resuming event streams in sessions of 2025-11-25: ids, replays, and what is forgotten."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator

import pytest
from support.gateway import Desk, Event, McpClient, text
from support.http_client import PATIENCE, wait_until

from fleetshell_tools.relay import replay
from fleetshell_tools.relay.conversation import CallConversation
from fleetshell_tools.relay.exchange import Call, Outcome
from fleetshell_tools.relay.overdue import Overdue
from fleetshell_tools.relay.replay import KEPT_SECONDS, STREAMS, Replays
from fleetshell_tools.relay.sessions import Session


def said(event: Event | None) -> str:
    assert event is not None
    words: str = event.message["result"]["content"][0]["text"]
    return words


def begin(relay: Desk, client: McpClient) -> str:
    """Read a stream's head and its first event; returns its first id."""
    answer = client.head()
    assert (answer.status, answer.fields["content-type"]) == (200, "text/event-stream")
    event = client.event()
    assert event is not None
    assert event.id is not None
    assert event.data == ""
    return event.id


def resume(relay: Desk, client: McpClient, event_id: str) -> McpClient:
    """Ask for what follows an event, on a new connection."""
    beside = relay.beside(client).send("GET", Last_Event_ID=event_id)
    assert beside.head().status == 200
    return beside


# ---- over the wire


def test_a_stream_begins_with_an_id_and_every_event_has_one_that_names_it(relay: Desk) -> None:
    client = relay.legacy()
    seen: list[str] = []
    for _ in range(2):
        with relay.held() as tool:
            client.call("held")
            tool.conversation.notify("notifications/message", {})
            tool.release.set()
            first = begin(relay, client)
            stream, _, number = first.rpartition("-")
            assert number == "0"
            ids = [event.id for event in client.events()]
        assert ids == [f"{stream}-1", f"{stream}-2"]
        seen += [first, *(name for name in ids if name)]
    assert len(set(seen)) == 6


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "modern"])
def test_other_versions_have_no_ids(relay: Desk, version: str) -> None:
    client = relay.modern() if version == "modern" else relay.legacy(version)
    with relay.held() as tool:
        client.call("held")
        tool.conversation.notify("notifications/message", {})
        tool.release.set()
        assert client.head().status == 200
        assert [(event.id, bool(event.data)) for event in client.events()] == [(None, True)] * 2


def test_a_client_that_was_cut_off_gets_the_rest_and_goes_on_until_the_answer(relay: Desk) -> None:
    client = relay.legacy()
    with relay.held() as tool:
        client.call("held")
        for number in range(3):
            tool.conversation.notify("notifications/message", {"data": number})
        begin(relay, client)
        event = client.event()
        assert event is not None
        assert event.id is not None
        client.hang_up()
        tool.conversation.notify("notifications/message", {"data": 3})
        again = resume(relay, client, event.id)
        got = [again.event() for _ in range(3)]
        assert [event.message["params"]["data"] for event in got if event] == [1, 2, 3]
        tool.conversation.notify("notifications/message", {"data": 4})
        event = again.event()
        assert event is not None
        assert event.message["params"]["data"] == 4
        tool.release.set()
        (answer,) = again.events()
        assert said(answer) == "done"


def test_the_answer_can_be_fetched_after_the_call_has_ended_as_often_as_it_is_asked_for(relay: Desk) -> None:
    client = relay.legacy()
    with relay.held() as tool:
        client.call("held")
        assert tool.running.wait(PATIENCE)
        relay.now += 1
        first = begin(relay, client)
        client.hang_up()
        wait_until(lambda: relay.http.has(connections=0))
        tool.release.set()
        wait_until(lambda: not relay.session_of(client).in_flight)
    for _ in range(2):
        (answer,) = resume(relay, client, first).events()
        assert said(answer) == "done"
        assert answer.message["id"] == client.last_id
        assert resume(relay, client, answer.id or "").events() == []


def test_nothing_of_another_stream_is_replayed(relay: Desk) -> None:
    client, other = relay.legacy(), None
    with relay.held("one") as one, relay.held("two") as two:
        client.call("one")
        one.conversation.notify("notifications/message", {"data": "one"})
        first = begin(relay, client)
        other = relay.beside(client)
        other.last_id = 50
        other.call("two")
        two.conversation.notify("notifications/message", {"data": "two"})
        begin(relay, other)
        client.hang_up()
        again = resume(relay, client, first)
        one.release.set()
        notification, answer = again.events()
        assert notification.message["params"]["data"] == "one"
        assert answer.message["id"] == client.last_id


def test_a_second_reader_takes_the_stream_over_from_the_first(relay: Desk) -> None:
    client = relay.legacy()
    with relay.held() as tool:
        client.call("held")
        assert tool.running.wait(PATIENCE)
        relay.now += 1
        first = begin(relay, client)
        again = resume(relay, client, first)
        assert client.events() == []
        tool.release.set()
        assert said(again.events()[0]) == "done"


def unknown_ids() -> list[str]:
    return ["1-9", "9-0", "1", "-", "1-", "-1", "1--1", "1-x", "1-²", "x-1", "1-0-0", "1-99999999999999999999"]


@pytest.mark.parametrize("event_id", unknown_ids())
def test_an_unknown_id_is_refused_without_ending_the_session(relay: Desk, event_id: str) -> None:
    client = relay.legacy()
    with relay.held() as tool:
        client.call("held")
        assert tool.running.wait(PATIENCE)
        relay.now += 1
        assert begin(relay, client) == "1-0"
        answer = relay.beside(client).send("GET", Last_Event_ID=event_id.encode().decode("latin-1")).wire.answer()
        assert answer.status == 400
        assert json.loads(answer.body)["error"]["data"]["reason"] == "unknown_event_id"
        tool.release.set()
        assert said(client.events()[-1]) == "done"
    assert client.call("quick").json()["id"] == client.last_id


def test_an_id_of_another_session_is_unknown(relay: Desk) -> None:
    mine, foreign = relay.legacy(), relay.legacy()
    with relay.held() as tool:
        mine.call("held")
        assert tool.running.wait(PATIENCE)
        relay.now += 1
        first = begin(relay, mine)
        assert relay.beside(foreign).send("GET", Last_Event_ID=first).wire.answer().status == 400
        tool.release.set()
        assert said(mine.events()[-1]) == "done"


def as_time_passes(relay: Desk, happened: Callable[[], bool]) -> None:
    """Wait for what comes some minutes later; the clock goes on, since what looks at it does so now and then."""

    def later() -> bool:
        relay.now += 60
        return happened()

    wait_until(later)


def test_a_stream_is_forgotten_five_minutes_after_its_end(relay: Desk) -> None:
    client = relay.legacy()
    with relay.held() as tool:
        client.call("held")
        assert tool.running.wait(PATIENCE)
        relay.now += 1
        first = begin(relay, client)
        tool.release.set()
        assert said(client.events()[-1]) == "done"
    relay.now += KEPT_SECONDS - 1
    assert said(resume(relay, client, first).events()[-1]) == "done"
    as_time_passes(relay, lambda: len(relay.gateway._replays) == 0)
    assert relay.beside(client).send("GET", Last_Event_ID=first).wire.answer().status == 400


def test_a_call_can_send_its_client_away_to_come_back_for_the_answer(relay: Desk) -> None:
    def tool(call: Call, conversation: CallConversation) -> Outcome:
        sent_away.append(conversation.disconnect(250))
        return text("later")

    sent_away: list[bool] = []
    client = relay.legacy()
    relay.tools["leave"] = tool
    client.call("leave")
    first = begin(relay, client)
    (event,) = client.events()
    assert (event.id, event.data, event.retry) == (None, "", "250")
    assert said(resume(relay, client, first).events()[-1]) == "later"
    assert sent_away == [True]


# ---- the session's own stream


def test_what_the_standing_stream_was_sent_meanwhile_is_replayed(relay: Desk) -> None:
    client = relay.legacy()
    standing = relay.beside(client).send("GET")
    first = begin(relay, standing)
    relay.endpoint.changed("tools")
    assert standing.event() is not None
    standing.hang_up()
    wait_until(lambda: relay.http.has(streams=0))
    relay.endpoint.changed("prompts")
    again = resume(relay, client, first)
    methods = [event.message["method"] for event in (again.event(), again.event()) if event]
    assert methods == ["notifications/tools/list_changed", "notifications/prompts/list_changed"]
    relay.endpoint.changed("resources")
    event = again.event()
    assert event is not None
    assert event.message["method"] == "notifications/resources/list_changed"
    assert relay.beside(client).send("GET").wire.answer().status == 409


def test_a_client_that_opens_a_new_standing_stream_in_place_of_its_lost_one_may(relay: Desk) -> None:
    client = relay.legacy()
    for _ in range(3):
        standing = relay.beside(client).send("GET")
        begin(relay, standing)
        standing.hang_up()
        wait_until(lambda: relay.http.has(streams=0))
    assert len(relay.gateway._replays) == 1


def test_a_lost_standing_stream_is_given_up_in_time_and_its_session_may_end(relay: Desk) -> None:
    client = relay.legacy()
    session = relay.session_of(client)
    standing = relay.beside(client).send("GET")
    first = begin(relay, standing)
    standing.hang_up()
    wait_until(lambda: relay.http.has(streams=0))
    assert session.busy
    as_time_passes(relay, lambda: not session.busy)
    assert relay.beside(client).send("GET", Last_Event_ID=first).wire.answer().status == 400


def test_the_end_of_its_session_ends_a_resumed_standing_stream(relay: Desk) -> None:
    client = relay.legacy()
    standing = relay.beside(client).send("GET")
    first = begin(relay, standing)
    standing.hang_up()
    wait_until(lambda: relay.http.has(streams=0))
    again = resume(relay, client, first)
    assert client.send("DELETE").wire.answer().status == 204
    assert again.events() == []


# ---- what is kept


class Reader:
    """Takes events until it is closed or full."""

    def __init__(self, full: int = 1000) -> None:
        self.events: list[bytes] = []
        self.closed = False
        self._full = full

    def send(self, event: bytes) -> bool:
        if self.closed or len(self.events) >= self._full:
            return False
        self.events.append(event)
        return True

    def close(self) -> None:
        self.closed = True


class Shelf:
    def __init__(self, overdue: Overdue) -> None:
        self.replays = Replays(overdue)
        self.session = Session("secret", "key", "2025-11-25", "c", "1", created=0, last_used=0)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def shelf(clock: Clock) -> Iterator[Shelf]:
    overdue = Overdue(logging.getLogger("test.replay"), clock, look_every=1e6)
    yield Shelf(overdue)
    overdue.close()


def test_a_stream_keeps_its_last_megabyte(shelf: Shelf) -> None:
    recording = shelf.replays.open(shelf.session)
    for _ in range(20):
        assert recording.send(b"x" * 100_000)
    assert recording.size <= replay.STREAM_BYTES
    assert shelf.replays.find(shelf.session, "1-9") is None
    assert shelf.replays.find(shelf.session, "1-10") == (recording, 10)
    reader = Reader()
    recording.resume(reader, 10)
    assert len(reader.events) == 10
    assert reader.events[0].startswith(b"id: 1-11\n")


def test_an_event_that_is_too_big_to_keep_is_sent_all_the_same(shelf: Shelf) -> None:
    recording, reader = shelf.replays.open(shelf.session), Reader()
    recording.begin(reader)
    assert recording.send(b"x" * (2 << 20))
    assert len(reader.events) == 2
    assert shelf.replays.find(shelf.session, "1-0") is None
    assert recording.size == 0


def test_a_reader_that_comes_too_late_for_what_it_misses_gets_nothing(shelf: Shelf) -> None:
    recording, reader = shelf.replays.open(shelf.session), Reader()
    found = shelf.replays.find(shelf.session, "1-0")
    assert found is not None
    recording.send(b"x" * (2 << 20))
    recording.resume(reader, found[1])
    assert (reader.events, reader.closed) == ([], True)


def test_the_first_reader_gets_what_was_sent_before_it_came(shelf: Shelf) -> None:
    recording, reader = shelf.replays.open(shelf.session), Reader()
    recording.send(b"event: message\n\n")
    recording.begin(reader)
    assert reader.events == [b"id: 1-0\ndata: \n\n", b"id: 1-1\nevent: message\n\n"]


def test_a_standing_stream_whose_reader_never_came_is_forgotten(shelf: Shelf, clock: Clock) -> None:
    forgotten: list[bool] = []
    recording = shelf.replays.open(shelf.session, standing=True)
    recording.on_forgotten = lambda: forgotten.append(True)
    replay.Reader(recording, None, lambda: None).close()
    shelf.replays.look(clock.now + KEPT_SECONDS)
    assert forgotten == [True]


def test_a_reader_that_is_dropped_leaves_the_stream_as_it_is(shelf: Shelf) -> None:
    recording = shelf.replays.open(shelf.session)
    recording.begin(Reader(full=2))
    assert all(recording.send(b"event: message\n\n") for _ in range(3))
    assert not recording.is_read
    reader = Reader()
    recording.resume(reader, 1)
    assert len(reader.events) == 2


def test_the_oldest_stream_goes_where_a_session_has_too_many_but_running_ones_go_last(
    shelf: Shelf, clock: Clock
) -> None:
    running = shelf.replays.open(shelf.session)
    for _ in range(STREAMS + 3):
        clock.now += 1
        shelf.replays.open(shelf.session).close()
    assert len(shelf.replays) == STREAMS
    assert shelf.replays.find(shelf.session, f"{running.name}-0") is not None
    assert shelf.replays.find(shelf.session, "5-0") is None
    assert shelf.replays.find(shelf.session, "6-0") is not None


def test_all_sessions_together_have_a_limit(shelf: Shelf, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "TOTAL_BYTES", 1000)
    for _ in range(4):
        clock.now += 1
        recording = shelf.replays.open(shelf.session)
        recording.send(b"x" * 400)
        recording.close()
    shelf.replays.look(clock.now)
    assert len(shelf.replays) == 2
    assert shelf.replays.find(shelf.session, "4-0") is not None


def test_what_belongs_to_a_session_that_is_gone_is_gone(shelf: Shelf) -> None:
    shelf.replays.open(shelf.session).send(b"x")
    assert len(shelf.replays) == 1
    shelf.session = Session("other", "key", "2025-11-25", "c", "1", created=0, last_used=0)
    assert len(shelf.replays) == 0


def test_threads_that_send_and_resume_at_once_lose_nothing(shelf: Shelf) -> None:
    recording, done = shelf.replays.open(shelf.session), threading.Event()

    def send() -> None:
        for _ in range(2000):
            recording.send(b"event: message\n\n")
        done.set()

    sender = threading.Thread(target=send)
    sender.start()
    seen: list[bytes] = []
    while not done.is_set() or len(seen) < 2000:
        reader = Reader(full=10_000)
        recording.resume(reader, len(seen))
        recording.leave(reader)
        seen += reader.events
    sender.join(PATIENCE)
    assert seen == [b"id: 1-%d\nevent: message\n\n" % (number + 1) for number in range(2000)]
