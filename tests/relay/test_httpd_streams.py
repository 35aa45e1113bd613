"""Event streams over real sockets, with and without TLS."""

from __future__ import annotations

import threading

from support.http_client import (
    PATIENCE,
    Events,
    Running,
    Serve,
    post,
    wait_until,
)

from fleetshell_tools.relay.httpd import Limits, Pending, Request


def test_events_arrive_as_they_are_sent_and_the_connection_serves_on_after_the_stream(http_server: Running) -> None:
    events = Events()
    http_server.app.routes["/events"] = lambda request, pending: events.stream
    client = http_server.client().send(post("/events"))
    head = client.head()
    assert head.status == 200
    assert head.fields["content-type"] == "text/event-stream"
    assert head.fields["cache-control"] == "no-cache"
    assert head.fields["x-accel-buffering"] == "no"
    assert head.fields["mcp-session-id"] == "s"
    sink = events.open_sink()
    wait_until(lambda: http_server.has(streams=1, parked=1))
    for number in range(3):
        assert sink.send(b"data: %d\n\n" % number)
        assert client.chunk() == b"data: %d\n\n" % number
    sink.close()
    assert client.chunk() == b""
    assert events.was_closed()
    assert not sink.send(b"data: late\n\n")
    assert client.send(post()).answer().status == 200
    assert not events.was_closed_again()


def test_a_stream_that_is_closed_where_it_is_opened_ends_properly(http_server: Running) -> None:
    events = Events()
    http_server.app.routes["/events"] = lambda request, pending: events.stream
    opened = events._on_open

    def open_send_close(sink: object) -> None:
        opened(sink)  # type: ignore[arg-type]
        events.open_sink().send(b"data: only\n\n")
        events.open_sink().close()

    object.__setattr__(events.stream, "on_open", open_send_close)
    client = http_server.client().send(post("/events") + post())
    assert client.head().status == 200
    assert (client.chunk(), client.chunk()) == (b"data: only\n\n", b"")
    assert client.answer().status == 200
    assert events.was_closed()


def test_a_request_that_is_pipelined_behind_a_stream_waits_for_its_end(http_server: Running) -> None:
    events = Events()
    http_server.app.routes["/events"] = lambda request, pending: events.stream
    client = http_server.client().send(post("/events"))
    sink = events.open_sink()
    client.send(post(body=b"behind"))
    assert sink.send(b"data: 1\n\n")
    sink.close()
    assert client.head().status == 200
    assert (client.chunk(), client.chunk()) == (b"data: 1\n\n", b"")
    assert client.answer().body.endswith(b"behind")


def test_a_stream_to_http_1_0_ends_with_the_connection(http_server: Running) -> None:
    events = Events()
    http_server.app.routes["/events"] = lambda request, pending: events.stream
    client = http_server.client().send(post("/events").replace(b"HTTP/1.1", b"HTTP/1.0"))
    head = client.head()
    assert "transfer-encoding" not in head.fields
    assert head.fields["connection"] == "close"
    events.open_sink().send(b"data: 1\n\n")
    events.open_sink().close()
    assert client.read_until(b"\n\n") == b"data: 1"
    assert client.is_closed()


def test_a_quiet_stream_is_pinged(serve: Serve) -> None:
    events = Events()
    with serve(Limits(ping_seconds=0.05)) as server:
        server.app.routes["/events"] = lambda request, pending: events.stream
        client = server.client().send(post("/events"))
        assert client.head().status == 200
        assert [client.chunk() for _ in range(3)] == [b": ping\n\n"] * 3


def test_the_disconnect_of_a_stream_is_noticed_once(http_server: Running) -> None:
    events = Events()
    http_server.app.routes["/events"] = lambda request, pending: events.stream
    client = http_server.client().send(post("/events"))
    sink = events.open_sink()
    assert client.head().status == 200
    client.sock.close()
    assert events.was_closed()
    assert not sink.send(b"data: 1\n\n")
    sink.close()
    wait_until(lambda: http_server.has(connections=0))
    assert not events.was_closed_again()


def test_a_stream_whose_client_does_not_read_is_dropped_at_its_backlog(http_server: Running) -> None:
    events = Events()
    http_server.app.routes["/events"] = lambda request, pending: events.stream
    http_server.client(receive_buffer=4096).send(post("/events"))
    sink = events.open_sink()
    sent = 0
    while sink.send(b"x" * 100_000):
        sent += 1
        assert sent < 1000, "the backlog is not bounded"
    assert sent >= 10
    assert events.was_closed()
    wait_until(lambda: http_server.has(connections=0))


def test_a_stream_whose_client_stalls_is_dropped_in_time(serve: Serve) -> None:
    events = Events()
    with serve(Limits(write_seconds=0.2)) as server:
        server.app.routes["/events"] = lambda request, pending: events.stream
        server.client(receive_buffer=4096).send(post("/events"))
        sink = events.open_sink()
        while server.server.stats()["connections"] and sink.send(b"x" * 1000):
            threading.Event().wait(0.0005)
        assert events.was_closed()


def test_events_of_many_threads_are_not_mixed_up(http_server: Running) -> None:
    events = Events()
    http_server.app.routes["/events"] = lambda request, pending: events.stream
    client = http_server.client().send(post("/events"))
    sink = events.open_sink()

    def send(number: int) -> None:
        for _ in range(100):
            sink.send(b"%d" % number * 500)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    assert client.head().status == 200
    received = [client.chunk() for _ in range(800)]
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(received) == sorted(b"%d" % number * 500 for number in range(8) for _ in range(100))


def test_two_hundred_streams_hold_no_thread(serve: Serve) -> None:
    opened: list[Events] = []

    def open_stream(request: Request, pending: Pending) -> object:
        opened.append(Events())
        return opened[-1].stream

    with serve(Limits()) as server:
        server.app.routes["/events"] = open_stream  # type: ignore[assignment]
        clients = []
        for _ in range(200):
            clients.append(server.client().send(post("/events")))
            assert clients[-1].head().status == 200
        wait_until(lambda: server.has(streams=200, parked=200))
        assert server.server.stats()["workers"] <= 16
        for events in opened:
            assert events.open_sink().send(b"data: x\n\n")
        assert all(client.chunk() == b"data: x\n\n" for client in clients)
