"""The HTTP server over real sockets, with and without TLS."""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, suppress
from functools import partial
from pathlib import Path

import pytest
from http_client import PATIENCE, Events, Running, ScriptedApp, post, running, wait_until

from fleetshell_tools.core.errors import FleetShellError
from fleetshell_tools.relay.httpd import Hangup, HttpServer, Limits, Request, Response

Serve = Callable[..., AbstractContextManager[Running]]
LOG = logging.getLogger("test.httpd")


def make_certificate(folder: Path) -> Path:
    """A certificate and its key in one file."""
    where = folder / "both.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command, *names, "-keyout", where, "-out", folder / "cert.pem"], check=True, capture_output=True)
    where.write_bytes(where.read_bytes() + (folder / "cert.pem").read_bytes())
    return where


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def server_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def client_context(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate.parent / "cert.pem"))


@pytest.fixture
def serve_tls(certificate: Path) -> Serve:
    return partial(running, server_tls=server_context(certificate), client_tls=client_context(certificate))


@pytest.fixture(params=["plain", "tls"])
def serve(request: pytest.FixtureRequest) -> Serve:
    """Starts a server with the given limits; the test runs once without and once with TLS."""
    return running if request.param == "plain" else request.getfixturevalue("serve_tls")


@pytest.fixture
def server(serve: Serve) -> Iterator[Running]:
    with serve(Limits()) as server:
        yield server


# ---- requests and answers


def test_a_request_reaches_the_application_whole(server: Running) -> None:
    answer = server.client().send(post("/a/b?c=d", b"body")).answer()
    assert (answer.status, answer.body) == (200, b"POST /a/b?c=d body")
    assert answer.fields["content-type"] == "application/json"
    assert "server" not in answer.fields
    assert "connection" not in answer.fields
    assert server.app.heads[0].peer == "127.0.0.1"


def test_one_connection_serves_many_requests(server: Running) -> None:
    client = server.client()
    for number in range(50):
        assert client.send(post(body=b"%d" % number)).answer().body.endswith(b" %d" % number)
    assert server.has(accepted=1)


def test_pipelined_requests_are_answered_in_their_order(server: Running) -> None:
    client = server.client().send(b"".join(post(body=b"%d" % number) for number in range(200)))
    assert [client.answer().body.rsplit(b" ")[-1] for _ in range(200)] == [b"%d" % number for number in range(200)]


def test_a_body_may_come_long_after_its_head_and_in_pieces(server: Running) -> None:
    client = server.client()
    whole = post(body=b"abc")
    for byte in range(len(whole)):
        client.send(whole[byte : byte + 1])
        if byte % 40 == 0:
            wait_until(lambda: server.has(parked=1))
    assert client.answer().body == b"POST /echo? abc"


def test_a_large_body_and_a_large_answer_pass(server: Running) -> None:
    body = os.urandom(3 << 20)
    assert server.client().send(post(body=body)).answer().body.endswith(body)


def test_a_slow_reader_gets_its_big_answer_while_others_are_served(serve: Serve) -> None:
    with serve(Limits(max_workers=1)) as server:
        server.app.routes["/big"] = lambda request, hangup: Response(200, b"x" * (8 << 20))
        slow = server.client(receive_buffer=4096).send(post("/big"))
        wait_until(lambda: server.has(parked=1))
        assert server.client().send(post()).answer().status == 200
        assert slow.answer().body == b"x" * (8 << 20)
        assert slow.send(post()).answer().status == 200


def test_a_client_that_does_not_read_its_answer_is_dropped(serve: Serve) -> None:
    with serve(Limits(write_seconds=0.2)) as server:
        server.app.routes["/big"] = lambda request, hangup: Response(200, b"x" * (8 << 20))
        slow = server.client(receive_buffer=4096).send(post("/big"))
        wait_until(lambda: server.has(connections=0, accepted=1))
        with pytest.raises((EOFError, ConnectionResetError, ssl.SSLError)):
            slow.answer()


def test_the_body_of_a_request_without_a_key_is_skipped_and_the_connection_stays_in_step(server: Running) -> None:
    client = server.client().send(post(body=b"GET /inner HTTP/1.1\r\n\r\n", key="wrong") + post())
    refused = client.answer()
    assert (refused.status, refused.fields["www-authenticate"]) == (401, "Bearer")
    assert client.answer().status == 200
    assert [head.path for head in server.app.heads] == ["/echo", "/echo"]


def test_the_application_is_asked_before_the_body_comes(server: Running) -> None:
    client = server.client().send(post(body=b"x" * 1000, key="wrong")[:-1000])
    assert client.answer().status == 401
    assert client.send(b"x" * 1000 + post()).answer().status == 200


def test_a_big_body_without_a_key_is_not_read(server: Running) -> None:
    client = server.client().send(post(body=b"x" * 4_000_000, key="wrong")[:200])
    answer = client.answer()
    assert (answer.status, answer.fields["connection"]) == (401, "close")
    assert client.is_closed()


def test_the_refusal_of_a_body_that_is_still_being_sent_arrives(server: Running) -> None:
    client = server.client().send(post(body=b"x" * 1_000_000, key="wrong"))
    assert client.answer().status == 401


def test_a_body_over_the_limit_is_refused(server: Running) -> None:
    client = server.client().send(post(body=b"x" * (5 << 20))[:150])
    assert client.answer().status == 413
    assert client.is_closed()


def test_a_client_that_expects_100_continue_gets_it_once_it_is_admitted(server: Running) -> None:
    whole = post(body=b"abc", more="Expect: 100-Continue\r\n")
    client = server.client().send(whole[:-3])
    assert client.head().status == 100
    assert client.send(b"abc").answer().body.endswith(b" abc")


def test_no_100_continue_without_a_key(server: Running) -> None:
    client = server.client().send(post(body=b"abc", key="wrong", more="Expect: 100-continue\r\n")[:-3])
    answer = client.answer()
    assert (answer.status, answer.fields["connection"]) == (401, "close")


def test_a_body_that_came_along_needs_no_100_continue(server: Running) -> None:
    assert server.client().send(post(body=b"abc", more="Expect: 100-continue\r\n")).head().status == 200


def test_head_gets_the_length_but_no_body(server: Running) -> None:
    client = server.client().send(post().replace(b"POST", b"HEAD") + post())
    assert client.head().fields["content-length"] == str(len(b"HEAD /echo? "))
    assert client.answer().status == 200


@pytest.mark.parametrize("status", [202, 204])
def test_an_empty_answer_has_no_content_type(server: Running, status: int) -> None:
    server.app.routes["/empty"] = lambda request, hangup: Response(status)
    answer = server.client().send(post("/empty")).answer()
    assert answer.status == status
    assert answer.fields.get("content-length") == (None if status == 204 else "0")
    assert "content-type" not in answer.fields


@pytest.mark.parametrize("more", ["Connection: close\r\n", "Connection: keep-alive, Close\r\n"])
def test_the_connection_ends_when_the_client_says_so(server: Running, more: str) -> None:
    client = server.client().send(post(more=more))
    assert client.answer().fields["connection"] == "close"
    assert client.is_closed()


def test_http_1_0_is_answered_and_closed(server: Running) -> None:
    client = server.client().send(post().replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert client.answer().status == 200
    assert client.is_closed()


def test_a_failing_handler_is_logged_with_the_id_that_the_client_sees(
    server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(request: Request, hangup: Hangup) -> Response:
        raise RuntimeError("a bug")

    server.app.routes["/fails"] = fail
    client = server.client().send(post("/fails"))
    answer = client.answer()
    message = json.loads(answer.body)["error"]
    number = message.removeprefix("internal error, see log ")
    assert answer.status == 500
    assert len(number) == 8
    assert f"internal error {number} in POST /fails" in caplog.text
    assert "RuntimeError: a bug" in caplog.text
    assert client.send(post()).answer().status == 200


def test_a_failing_precheck_admits_nobody(server: Running) -> None:
    client = server.client().send(post("/precheck-fails") + post())
    assert client.answer().status == 500
    assert client.answer().status == 200


def test_an_answer_with_a_line_break_in_a_field_is_not_sent(server: Running) -> None:
    server.app.routes["/split"] = lambda request, hangup: Response(200, headers=(("X", "a\r\nSet-Cookie: b"),))
    answer = server.client().send(post("/split")).answer()
    assert answer.status == 500
    assert "set-cookie" not in answer.fields


# ---- slow, silent and too many clients


@pytest.mark.parametrize(
    ("limits", "sent"),
    [(Limits(head_seconds=0.3), post()[:40]), (Limits(body_seconds=0.3), post(body=b"abcdef")[:-3])],
    ids=["head", "body"],
)
def test_a_request_that_does_not_arrive_in_time_is_answered_with_408(serve: Serve, limits: Limits, sent: bytes) -> None:
    with serve(limits) as server:
        client = server.client().send(sent)
        answer = client.answer()
        assert (answer.status, answer.fields["connection"]) == (408, "close")
        assert client.is_closed()


@pytest.mark.parametrize("limits", [Limits(head_seconds=0.5), Limits(body_seconds=0.5)], ids=["head", "body"])
def test_dripping_bytes_does_not_extend_the_deadline(serve: Serve, limits: Limits) -> None:
    with serve(limits) as server:
        client = server.client()
        answered = threading.Event()

        def drip() -> None:
            client.send(post(body=b"x" * 100_000)[:-100_000] if limits.body_seconds == 0.5 else b"POST /")
            while not answered.wait(0.02):
                try:
                    client.send(b"x")
                except OSError:
                    return

        dripper = threading.Thread(target=drip)
        dripper.start()
        assert client.answer().status == 408
        answered.set()
        dripper.join(PATIENCE)


def test_an_idle_connection_is_closed_without_a_word(serve: Serve) -> None:
    with serve(Limits(idle_seconds=0.1)) as server:
        client = server.client().send(post())
        assert client.answer().status == 200
        assert client.is_closed()


def test_three_hundred_idle_connections_hold_no_thread(serve: Serve) -> None:
    with serve(Limits()) as server:
        clients = []
        for _ in range(300):
            clients.append(server.client().send(post()))
            assert clients[-1].answer().status == 200
        wait_until(lambda: server.server.stats()["parked"] >= 300)
        assert server.server.stats()["workers"] <= 16
        assert all(client.send(post()).answer().status == 200 for client in clients)


def test_slow_handlers_keep_nobody_else_waiting(serve: Serve) -> None:
    release = threading.Event()
    with serve(Limits()) as server:
        server.app.routes["/slow"] = lambda request, hangup: Response(200 if release.wait(PATIENCE) else 500)
        slow = [server.client().send(post("/slow")) for _ in range(60)]
        wait_until(lambda: server.server.stats()["parked"] == 0)
        assert server.client().send(post()).answer().status == 200
        release.set()
        assert all(client.answer().status == 200 for client in slow)


def test_more_requests_than_workers_wait_in_line(serve: Serve) -> None:
    release = threading.Event()
    with serve(Limits(max_workers=2)) as server:
        server.app.routes["/slow"] = lambda request, hangup: Response(200 if release.wait(PATIENCE) else 500)
        # Without a key of their own to show first, all of them would have to wait for a worker to do the handshake.
        clients = [server.client().send(post()) for _ in range(5)]
        assert all(client.answer().status == 200 for client in clients)
        for client in clients:
            client.send(post("/slow"))
        wait_until(lambda: server.has(parked=0))
        assert server.has(workers=2)
        release.set()
        assert all(client.answer().status == 200 for client in clients)


def test_a_silent_tls_client_blocks_nobody(serve_tls: Serve) -> None:
    with serve_tls(Limits(max_workers=1)) as server:
        silent = [server.tcp() for _ in range(20)]
        for sock in silent[:10]:
            sock.sendall(b"\x16\x03\x01\x02\x00\x01")
        wait_until(lambda: server.has(connections=20, parked=20))
        assert server.client().send(post()).answer().status == 200


def test_a_tls_handshake_has_a_deadline(serve_tls: Serve) -> None:
    with serve_tls(Limits(handshake_seconds=0.1)) as server:
        sock = server.tcp()
        sock.sendall(b"\x16\x03\x01\x02\x00\x01")
        assert sock.recv(1) == b""


def test_plain_http_on_the_tls_port_is_told_to_use_https(serve_tls: Serve) -> None:
    with serve_tls(Limits()) as server:
        sock = server.tcp()
        sock.sendall(post())
        assert b"This port speaks HTTPS" in sock.recv(65536)


def test_a_new_certificate_serves_the_next_connection_and_leaves_the_old_one_alone(
    serve_tls: Serve, tmp_path: Path
) -> None:
    with serve_tls(Limits()) as server:
        before = server.client().send(post())
        assert before.answer().status == 200
        new = make_certificate(tmp_path)
        server.server.replace_ssl_context(server_context(new))
        with pytest.raises(ssl.SSLCertVerificationError):
            server.client()
        with closing(client_context(new).wrap_socket(server.tcp(), server_hostname="localhost")) as after:
            assert after.getpeercert(binary_form=True) != before.sock.getpeercert(binary_form=True)  # type: ignore[attr-defined]
        assert before.send(post()).answer().status == 200


def test_the_oldest_connection_without_a_key_is_dropped_first(serve: Serve) -> None:
    with serve(Limits(max_unproven_per_address=3)) as server:
        proven = server.client().send(post())
        assert proven.answer().status == 200
        refused = server.client().send(post(key="wrong"))
        assert refused.answer().status == 401
        others = [server.tcp() for _ in range(2)]
        wait_until(lambda: server.has(connections=4))
        others.append(server.tcp())
        assert refused.is_closed()
        assert proven.send(post()).answer().status == 200
        wait_until(lambda: server.has(connections=4, rejected=1))


def test_a_full_house_of_proven_connections_turns_newcomers_away(serve: Serve) -> None:
    with serve(Limits(max_connections=2)) as server:
        clients = [server.client().send(post()) for _ in range(2)]
        assert all(client.answer().status == 200 for client in clients)
        with suppress(ConnectionResetError):
            assert server.tcp().recv(1) == b""
        assert server.has(rejected=1, connections=2)
        assert all(client.send(post()).answer().status == 200 for client in clients)


def test_a_full_house_with_an_unproven_guest_lets_a_newcomer_in(serve: Serve) -> None:
    with serve(Limits(max_connections=2)) as server:
        proven = server.client().send(post())
        assert proven.answer().status == 200
        stranger = server.tcp()
        wait_until(lambda: server.has(connections=2))
        newcomer = server.client().send(post())
        assert newcomer.answer().status == 200
        assert stranger.recv(1) == b""


def test_running_out_of_descriptors_pauses_accepting_and_is_logged_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(Limits()) as server:
        first = server.client().send(post())
        assert first.answer().status == 200
        waiting = [socket.socket() for _ in range(3)]
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        free = os.open("/dev/null", os.O_RDONLY)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(free, highest), limits[1]))
        try:
            for sock in waiting:
                sock.settimeout(PATIENCE)
                sock.connect(("127.0.0.1", server.server.port))
                sock.sendall(post())
            wait_until(lambda: "cannot accept connections" in caplog.text)
            assert first.send(post()).answer().status == 200
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            os.close(free)
        for sock in waiting:
            with sock:
                assert sock.recv(65536).startswith(b"HTTP/1.1 200")
        assert caplog.text.count("cannot accept connections") == 1


# ---- hang-ups


def test_a_handler_learns_that_its_client_has_gone(server: Running) -> None:
    gone, handling = threading.Event(), threading.Event()

    def wait(request: Request, hangup: Hangup) -> Response:
        hangup.on_hangup(gone.set)
        handling.set()
        return Response(200 if gone.wait(PATIENCE) else 500)

    server.app.routes["/wait"] = wait
    client = server.client().send(post("/wait"))
    assert handling.wait(PATIENCE)
    if isinstance(client.sock, ssl.SSLSocket):
        client.sock.setblocking(False)
        with pytest.raises(ssl.SSLWantReadError):
            client.sock.unwrap()
    client.sock.close()
    assert gone.wait(PATIENCE)
    wait_until(lambda: server.has(connections=0))


def test_a_client_that_sends_its_next_request_has_not_hung_up(server: Running) -> None:
    calls: list[str] = []
    handling, seen = threading.Event(), threading.Event()

    def wait(request: Request, hangup: Hangup) -> Response:
        hangup.on_hangup(lambda: calls.append("hang-up"))
        handling.set()
        seen.wait(PATIENCE)
        return Response(200)

    server.app.routes["/wait"] = wait
    client = server.client().send(post("/wait"))
    assert handling.wait(PATIENCE)
    client.send(post(body=b"next"))
    # Another connection's hang-up is noticed only after the loop has looked at what came before.
    other_gone, other_handling = threading.Event(), threading.Event()

    def other(request: Request, hangup: Hangup) -> Response:
        hangup.on_hangup(other_gone.set)
        other_handling.set()
        return Response(200 if other_gone.wait(PATIENCE) else 500)

    server.app.routes["/other"] = other
    second = server.client().send(post("/other"))
    assert other_handling.wait(PATIENCE)
    second.sock.close()
    assert other_gone.wait(PATIENCE)
    seen.set()
    assert client.answer().status == 200
    assert client.answer().body.endswith(b"next")
    assert calls == []


def test_a_forgotten_callback_is_not_called() -> None:
    calls: list[int] = []
    hangup = Hangup()
    forget = hangup.on_hangup(lambda: calls.append(1))
    hangup.on_hangup(lambda: calls.append(2))
    forget()
    hangup.happened()
    hangup.on_hangup(lambda: calls.append(3))
    assert calls == [2, 3]


# ---- event streams


def test_events_arrive_as_they_are_sent_and_the_connection_serves_on_after_the_stream(server: Running) -> None:
    events = Events()
    server.app.routes["/events"] = lambda request, hangup: events.stream
    client = server.client().send(post("/events"))
    head = client.head()
    assert head.status == 200
    assert head.fields["content-type"] == "text/event-stream"
    assert head.fields["cache-control"] == "no-store"
    assert head.fields["x-accel-buffering"] == "no"
    assert head.fields["mcp-session-id"] == "s"
    sink = events.open_sink()
    wait_until(lambda: server.has(streams=1, parked=1))
    for number in range(3):
        assert sink.send(b"data: %d\n\n" % number)
        assert client.chunk() == b"data: %d\n\n" % number
    sink.close()
    assert client.chunk() == b""
    assert events.was_closed()
    assert not sink.send(b"data: late\n\n")
    assert client.send(post()).answer().status == 200
    assert not events.was_closed_again()


def test_a_stream_that_is_closed_where_it_is_opened_ends_properly(server: Running) -> None:
    events = Events()
    server.app.routes["/events"] = lambda request, hangup: events.stream
    opened = events._on_open

    def open_send_close(sink: object) -> None:
        opened(sink)  # type: ignore[arg-type]
        events.open_sink().send(b"data: only\n\n")
        events.open_sink().close()

    object.__setattr__(events.stream, "on_open", open_send_close)
    client = server.client().send(post("/events") + post())
    assert client.head().status == 200
    assert (client.chunk(), client.chunk()) == (b"data: only\n\n", b"")
    assert client.answer().status == 200
    assert events.was_closed()


def test_a_request_that_is_pipelined_behind_a_stream_waits_for_its_end(server: Running) -> None:
    events = Events()
    server.app.routes["/events"] = lambda request, hangup: events.stream
    client = server.client().send(post("/events"))
    sink = events.open_sink()
    client.send(post(body=b"behind"))
    assert sink.send(b"data: 1\n\n")
    sink.close()
    assert client.head().status == 200
    assert (client.chunk(), client.chunk()) == (b"data: 1\n\n", b"")
    assert client.answer().body.endswith(b"behind")


def test_a_stream_to_http_1_0_ends_with_the_connection(server: Running) -> None:
    events = Events()
    server.app.routes["/events"] = lambda request, hangup: events.stream
    client = server.client().send(post("/events").replace(b"HTTP/1.1", b"HTTP/1.0"))
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
        server.app.routes["/events"] = lambda request, hangup: events.stream
        client = server.client().send(post("/events"))
        assert client.head().status == 200
        assert [client.chunk() for _ in range(3)] == [b": ping\n\n"] * 3


def test_the_disconnect_of_a_stream_is_noticed_once(server: Running) -> None:
    events = Events()
    server.app.routes["/events"] = lambda request, hangup: events.stream
    client = server.client().send(post("/events"))
    sink = events.open_sink()
    assert client.head().status == 200
    client.sock.close()
    assert events.was_closed()
    assert not sink.send(b"data: 1\n\n")
    sink.close()
    wait_until(lambda: server.has(connections=0))
    assert not events.was_closed_again()


def test_a_stream_whose_client_does_not_read_is_dropped_at_its_backlog(server: Running) -> None:
    events = Events()
    server.app.routes["/events"] = lambda request, hangup: events.stream
    server.client(receive_buffer=4096).send(post("/events"))
    sink = events.open_sink()
    sent = 0
    while sink.send(b"x" * 100_000):
        sent += 1
        assert sent < 1000, "the backlog is not bounded"
    assert sent >= 10
    assert events.was_closed()
    wait_until(lambda: server.has(connections=0))


def test_a_stream_whose_client_stalls_is_dropped_in_time(serve: Serve) -> None:
    events = Events()
    with serve(Limits(write_seconds=0.2)) as server:
        server.app.routes["/events"] = lambda request, hangup: events.stream
        server.client(receive_buffer=4096).send(post("/events"))
        sink = events.open_sink()
        while server.server.stats()["connections"] and sink.send(b"x" * 1000):
            threading.Event().wait(0.0005)
        assert events.was_closed()


def test_events_of_many_threads_are_not_mixed_up(server: Running) -> None:
    events = Events()
    server.app.routes["/events"] = lambda request, hangup: events.stream
    client = server.client().send(post("/events"))
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

    def open_stream(request: Request, hangup: Hangup) -> object:
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


# ---- the end


def test_a_running_request_is_answered_before_the_server_ends(server: Running) -> None:
    release, handling = threading.Event(), threading.Event()

    def wait(request: Request, hangup: Hangup) -> Response:
        handling.set()
        return Response(200 if release.wait(PATIENCE) else 500)

    server.app.routes["/wait"] = wait
    idle = server.client().send(post())
    assert idle.answer().status == 200
    busy = server.client().send(post("/wait"))
    assert handling.wait(PATIENCE)
    stopper = threading.Thread(target=server.server.shutdown, args=(PATIENCE,))
    stopper.start()
    assert idle.is_closed()
    with pytest.raises(OSError):
        server.tcp()
    release.set()
    answer = busy.answer()
    assert (answer.status, answer.fields["connection"]) == (200, "close")
    stopper.join(PATIENCE)
    assert not stopper.is_alive()


def test_after_the_grace_a_handler_is_told_and_its_client_cut_off(server: Running) -> None:
    gone, handling = threading.Event(), threading.Event()

    def wait(request: Request, hangup: Hangup) -> Response:
        hangup.on_hangup(gone.set)
        handling.set()
        return Response(200 if gone.wait(PATIENCE) else 500)

    server.app.routes["/wait"] = wait
    busy = server.client().send(post("/wait"))
    assert handling.wait(PATIENCE)
    server.server.shutdown(0.05)
    assert gone.is_set()
    assert busy.is_closed()


def test_a_standing_stream_does_not_hold_up_the_end_but_one_that_answers_does(server: Running) -> None:
    standing, answering = Events(standing=True), Events()
    server.app.routes["/standing"] = lambda request, hangup: standing.stream
    server.app.routes["/answering"] = lambda request, hangup: answering.stream
    first, second = server.client().send(post("/standing")), server.client().send(post("/answering"))
    assert (first.head().status, second.head().status) == (200, 200)
    wait_until(lambda: server.has(streams=2, parked=2))
    stopper = threading.Thread(target=server.server.shutdown, args=(PATIENCE,))
    stopper.start()
    assert first.chunk() == b""
    assert first.is_closed()
    assert standing.was_closed()
    assert answering.open_sink().send(b"data: last\n\n")
    answering.open_sink().close()
    assert (second.chunk(), second.chunk()) == (b"data: last\n\n", b"")
    stopper.join(PATIENCE)
    assert not stopper.is_alive()
    assert answering.was_closed()


def test_a_stream_that_outlives_the_grace_is_closed(server: Running) -> None:
    events = Events()
    server.app.routes["/events"] = lambda request, hangup: events.stream
    client = server.client().send(post("/events"))
    assert client.head().status == 200
    server.server.shutdown(0.0)
    assert events.was_closed()
    assert client.is_closed()


def test_a_server_that_never_served_can_be_shut_down() -> None:
    server = HttpServer(("127.0.0.1", 0), ScriptedApp(), ssl_context=None, limits=Limits(), log=LOG)
    server.shutdown(1.0)
    server.serve_forever()


def test_shutting_down_twice_is_harmless(server: Running) -> None:
    server.server.shutdown(0.0)
    server.server.shutdown(0.0)


# ---- listening


def test_a_port_in_use_is_named_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(FleetShellError, match=rf"127\.0\.0\.1:{port}: another process .*--port.*ss -ltnp"):
            HttpServer(("127.0.0.1", port), ScriptedApp(), ssl_context=None, limits=Limits(), log=LOG)


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        (("192.0.2.1", 0), "192.0.2.1:0: this machine has no such address"),
        (("no-such-host.invalid", 0), "no-such-host.invalid:0: this machine has no such address"),
        (("127.0.0.1", 70000), "127.0.0.1:70000: a port is a number from 0 to 65535"),
    ],
)
def test_an_impossible_address_is_named(address: tuple[str, int], sentence: str) -> None:
    with pytest.raises(FleetShellError) as refusal:
        HttpServer(address, ScriptedApp(), ssl_context=None, limits=Limits(), log=LOG)
    assert sentence in refusal.value.message


def test_a_privileged_port_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse, raising=False)
    with pytest.raises(FleetShellError, match=r"127\.0\.0\.1:443: ports below 1024 need a privilege"):
        HttpServer(("127.0.0.1", 443), ScriptedApp(), ssl_context=None, limits=Limits(), log=LOG)


def test_ipv6_is_served() -> None:
    server = HttpServer(("::1", 0), ScriptedApp(), ssl_context=None, limits=Limits(), log=LOG)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with socket.create_connection(("::1", server.port), PATIENCE) as sock:
        sock.sendall(post())
        assert sock.recv(65536).startswith(b"HTTP/1.1 200")
    server.shutdown(0.0)
    thread.join(PATIENCE)
