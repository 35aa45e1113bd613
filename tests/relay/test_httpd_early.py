"""Answers that another thread gives while the handler is still running, over real sockets, with and without TLS."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support.http_client import PATIENCE, Client, Events, Running, Serve, post, wait_until

from fleetshell_tools.relay.httpd import EventStream, Limits, Pending, Request, Response


class Held:
    """A handler that runs until it is released, and then returns what it was told to."""

    def __init__(self, returns: Response | EventStream | None = None) -> None:
        self.pending: Pending | None = None
        self.returns = returns
        self.running = threading.Event()
        self.release = threading.Event()
        self.returned = threading.Event()

    def __call__(self, request: Request, pending: Pending) -> Response | EventStream | None:
        self.pending = pending
        self.running.set()
        assert self.release.wait(PATIENCE)
        self.returned.set()
        return self.returns

    def answer(self, answer: Response | EventStream) -> bool:
        """Answer in its place, from the test's own thread."""
        assert self.running.wait(PATIENCE)
        assert self.pending is not None
        return self.pending.answer(answer)


@contextmanager
def held(server: Running, returns: Response | EventStream | None = None, path: str = "/held") -> Iterator[Held]:
    handler = Held(returns)
    server.app.routes[path] = handler
    try:
        yield handler
    finally:
        handler.release.set()


def read_stream(client: Client) -> list[bytes]:
    """The chunks of an event stream up to its end, without its head."""
    chunks = []
    while chunk := client.chunk():
        chunks.append(chunk)
    return chunks


def test_a_pending_answer_becomes_a_stream_while_the_handler_runs(http_server: Running) -> None:
    events = Events()
    with held(http_server) as handler:
        client = http_server.client().send(post("/held"))
        assert handler.answer(events.stream)
        assert client.head().fields["content-type"] == "text/event-stream"
        wait_until(lambda: http_server.has(streams=1, parked=1))
        for number in range(3):
            assert events.open_sink().send(b"data: %d\n\n" % number)
            assert client.chunk() == b"data: %d\n\n" % number
        handler.release.set()
        assert handler.returned.wait(PATIENCE)
        events.open_sink().send(b"data: after\n\n")
        events.open_sink().close()
    assert read_stream(client) == [b"data: after\n\n"]
    assert events.was_closed()
    assert client.send(post()).answer().status == 200
    assert not events.was_closed_again()


def test_an_early_stream_is_pinged_and_its_disconnect_noticed_while_the_handler_runs(serve: Serve) -> None:
    events = Events()
    with serve(Limits(ping_seconds=0.05)) as server, held(server) as handler:
        client = server.client().send(post("/held"))
        assert handler.answer(events.stream)
        assert client.head().status == 200
        assert [client.chunk() for _ in range(2)] == [b": ping\n\n"] * 2
        client.sock.close()
        assert events.was_closed()
        assert not events.open_sink().send(b"data: 1\n\n")
        wait_until(lambda: server.has(connections=0))
    assert handler.returned.wait(PATIENCE)
    assert not events.was_closed_again()


@pytest.mark.parametrize("returns", [None, Response(200, b"late"), Events().stream], ids=["none", "response", "stream"])
def test_the_connection_serves_on_while_the_handler_of_an_answered_request_runs(
    http_server: Running, returns: Response | EventStream | None
) -> None:
    events = Events()
    with held(http_server, returns) as handler:
        client = http_server.client().send(post("/held"))
        assert handler.answer(events.stream)
        events.open_sink().close()
        assert client.head().status == 200
        assert read_stream(client) == []
        assert client.send(post(body=b"second")).answer().body.endswith(b"second")
        with held(http_server, Response(200, b"third"), "/third") as third:
            client.send(post("/third"))
            assert third.running.wait(PATIENCE)
            handler.release.set()
            assert handler.returned.wait(PATIENCE)
        assert client.answer().body == b"third"
    assert client.send(post(body=b"fourth")).answer().body.endswith(b"fourth")


def test_a_pending_answer_can_be_given_whole_and_the_next_request_does_not_wait(http_server: Running) -> None:
    with held(http_server, Response(500, b"late")) as handler:
        client = http_server.client().send(post("/held") + post(body=b"pipelined"))
        assert handler.answer(Response(200, b"early"))
        assert client.answer().body == b"early"
        assert client.answer().body.endswith(b"pipelined")
        assert client.send(post(body=b"next")).answer().body.endswith(b"next")
    assert handler.returned.wait(PATIENCE)
    assert client.send(post(body=b"last")).answer().body.endswith(b"last")


def test_only_the_first_answer_counts(http_server: Running) -> None:
    first, second = Events(), Events()
    with held(http_server, Response(200, b"third")) as handler:
        client = http_server.client().send(post("/held"))
        assert handler.answer(first.stream)
        assert not handler.answer(second.stream)
        assert not handler.answer(Response(200, b"second"))
        first.open_sink().close()
    assert client.head().status == 200
    assert read_stream(client) == []
    assert client.send(post()).answer().status == 200
    assert not second.opened.is_set()
    assert not second.was_closed_again()


def test_a_stream_that_a_handler_returns_in_vain_is_closed(http_server: Running) -> None:
    late = Events()
    with held(http_server, late.stream) as handler:
        client = http_server.client().send(post("/held"))
        assert handler.answer(Response(200))
        assert client.answer().status == 200
    assert late.was_closed()
    assert not late.opened.is_set()


def test_an_answer_after_the_handlers_return_is_refused(http_server: Running) -> None:
    events = Events()
    with held(http_server, Response(200, b"mine")) as handler:
        client = http_server.client().send(post("/held"))
        assert handler.running.wait(PATIENCE)
        handler.release.set()
        assert client.answer().body == b"mine"
        assert not handler.answer(events.stream)
    assert not events.was_closed_again()


def test_a_handler_may_leave_the_answer_to_a_thread_that_comes_later(http_server: Running) -> None:
    """Meanwhile the connection holds no worker, and its hang-up is noticed all the same."""
    for answered in (True, False):
        gone = threading.Event()
        with held(http_server) as handler:
            client = http_server.client().send(post("/held"))
            assert handler.running.wait(PATIENCE)
            assert handler.pending is not None
            handler.pending.on_hangup(gone.set)
            handler.release.set()
            assert handler.returned.wait(PATIENCE)
            assert http_server.client().send(post()).answer().status == 200
            if answered:
                assert handler.answer(Response(200, b"later"))
                assert client.answer().body == b"later"
                assert client.send(post(body=b"next")).answer().body.endswith(b"next")
            else:
                client.sock.close()
                assert gone.wait(PATIENCE)


def test_a_stream_whose_opening_fails_costs_only_its_own_connection(http_server: Running) -> None:
    def fail(sink: object) -> None:
        raise RuntimeError("the application has a bug")

    closed = threading.Event()
    with held(http_server) as handler:
        client = http_server.client().send(post("/held"))
        with pytest.raises(RuntimeError):
            handler.answer(EventStream(fail, closed.set))
        assert client.head().status == 200
        assert client.is_closed()
        assert closed.wait(PATIENCE)
    assert http_server.client().send(post()).answer().status == 200


def test_head_gets_no_stream(http_server: Running) -> None:
    events = Events()
    with held(http_server) as handler:
        client = http_server.client().send(post("/held").replace(b"POST", b"HEAD", 1))
        assert handler.answer(events.stream)
        assert events.was_closed()
        assert client.head().fields["connection"] == "close"
        assert client.is_closed()


def test_when_handler_and_thread_answer_at_once_one_wins_and_the_connection_stays_in_step(
    http_server: Running,
) -> None:
    """Two hundred times, with the two started by one barrier."""
    winners = {"handler": 0, "thread": 0}
    client = http_server.client()
    for _ in range(200):
        events, barrier = Events(), threading.Barrier(2)
        won: list[bool] = []

        def answer(
            pending: Pending, events: Events = events, barrier: threading.Barrier = barrier, won: list[bool] = won
        ) -> None:
            barrier.wait(PATIENCE)
            if pending.answer(events.stream):
                events.open_sink().close()
                won.append(True)

        threads: list[threading.Thread] = []

        def handle(
            request: Request,
            pending: Pending,
            barrier: threading.Barrier = barrier,
            threads: list[threading.Thread] = threads,
        ) -> Response:
            thread = threading.Thread(target=answer, args=[pending])
            thread.start()
            threads.append(thread)
            barrier.wait(PATIENCE)
            return Response(200, b"json")

        http_server.app.routes["/race"] = handle
        head = client.send(post("/race")).head()
        if head.fields["content-type"] == "text/event-stream":
            assert read_stream(client) == []
            winners["thread"] += 1
        else:
            assert client.read_exactly(4) == b"json"
            winners["handler"] += 1
        threads[0].join(PATIENCE)
        assert bool(won) == (head.fields["content-type"] == "text/event-stream")
        assert events.was_closed() if won else not events.was_closed_again()
        assert client.send(post()).answer().status == 200
    assert winners["handler"] + winners["thread"] == 200


def test_a_disconnect_at_the_moment_of_the_answer_is_told_once(http_server: Running) -> None:
    for _ in range(50):
        events, gone = Events(), threading.Event()
        with held(http_server) as handler:
            client = http_server.client().send(post("/held"))
            assert handler.running.wait(PATIENCE)
            assert handler.pending is not None
            handler.pending.on_hangup(gone.set)
            closer = threading.Thread(target=client.sock.close)
            closer.start()
            taken = handler.answer(events.stream)
            closer.join(PATIENCE)
            if taken:
                assert events.was_closed()
                assert not events.was_closed_again()
            else:
                assert gone.wait(PATIENCE)
        wait_until(lambda: http_server.has(connections=0))


def test_an_early_stream_that_outlives_the_grace_is_closed_and_lets_its_handler_go(http_server: Running) -> None:
    events = Events()
    with held(http_server) as handler:

        def close() -> None:
            events.closed.release()
            handler.release.set()

        stream = EventStream(events.stream.on_open, close)
        client = http_server.client().send(post("/held"))
        assert handler.answer(stream)
        assert client.head().status == 200
        http_server.server.shutdown(0.05)
        assert events.was_closed()
        assert handler.returned.wait(PATIENCE)
        assert not events.open_sink().send(b"data: late\n\n")


def test_an_early_answer_during_the_grace_arrives_and_ends_the_connection(http_server: Running) -> None:
    with held(http_server) as handler:
        client = http_server.client().send(post("/held"))
        assert handler.running.wait(PATIENCE)
        stopper = threading.Thread(target=http_server.server.shutdown, args=[PATIENCE])
        stopper.start()
        wait_until(lambda: http_server.server.stopping)
        assert handler.answer(Response(200, b"early"))
        answer = client.answer()
        assert (answer.body, answer.fields["connection"]) == (b"early", "close")
        assert client.is_closed()
        handler.release.set()
        client.sock.close()
        stopper.join(PATIENCE)
        assert not stopper.is_alive()


def test_a_detached_handler_does_not_count_among_the_workers(serve: Serve) -> None:
    with serve(Limits(max_workers=1)) as server, held(server) as handler:
        client = server.client().send(post("/held"))
        assert handler.answer(Response(200))
        assert handler.pending is not None
        handler.pending.detach()
        handler.pending.detach()
        assert client.answer().status == 200
        with held(server, Response(200), "/other") as other:
            second = server.client().send(post("/other"))
            assert other.running.wait(PATIENCE)
            assert not handler.returned.is_set()
        assert second.answer().status == 200
        handler.release.set()
        wait_until(lambda: server.server._workers._lent == 0)
        assert second.send(post()).answer().status == 200
