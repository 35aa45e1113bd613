"""The HTTP server over real sockets, with and without TLS: requests, hang-ups, listening and its end."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import socket
import ssl
import threading

import pytest
from support.http_client import (
    PATIENCE,
    Events,
    Running,
    ScriptedApp,
    Serve,
    post,
    wait_until,
)

from fleetshell_tools.core.errors import FleetShellError
from fleetshell_tools.relay.httpd import Headers, HttpServer, Limits, Pending, Request, RequestHead, Response

LOG = logging.getLogger("test.httpd")


# ---- requests and answers


def test_a_request_reaches_the_application_whole(http_server: Running) -> None:
    answer = http_server.client().send(post("/a/b?c=d", b"body")).answer()
    assert (answer.status, answer.body) == (200, b"POST /a/b?c=d body")
    assert answer.fields["content-type"] == "application/json"
    assert "server" not in answer.fields
    assert "connection" not in answer.fields
    assert http_server.app.heads[0].peer == "127.0.0.1"


def test_one_connection_serves_many_requests(http_server: Running) -> None:
    client = http_server.client()
    for number in range(50):
        assert client.send(post(body=b"%d" % number)).answer().body.endswith(b" %d" % number)
    assert http_server.has(accepted=1)


def test_pipelined_requests_are_answered_in_their_order(http_server: Running) -> None:
    client = http_server.client().send(b"".join(post(body=b"%d" % number) for number in range(200)))
    assert [client.answer().body.rsplit(b" ")[-1] for _ in range(200)] == [b"%d" % number for number in range(200)]


def test_a_body_may_come_long_after_its_head_and_in_pieces(http_server: Running) -> None:
    client = http_server.client()
    whole = post(body=b"abc")
    for byte in range(len(whole)):
        client.send(whole[byte : byte + 1])
        if byte % 40 == 0:
            wait_until(lambda: http_server.has(parked=1))
    assert client.answer().body == b"POST /echo? abc"


def test_a_large_body_and_a_large_answer_pass(http_server: Running) -> None:
    body = os.urandom(3 << 20)
    assert http_server.client().send(post(body=body)).answer().body.endswith(body)


def test_a_slow_reader_gets_its_big_answer_while_others_are_served(serve: Serve) -> None:
    with serve(Limits(max_workers=1)) as server:
        server.app.routes["/big"] = lambda request, pending: Response(200, b"x" * (8 << 20))
        slow = server.client(receive_buffer=4096).send(post("/big"))
        wait_until(lambda: server.has(parked=1))
        assert server.client().send(post()).answer().status == 200
        assert slow.answer().body == b"x" * (8 << 20)
        assert slow.send(post()).answer().status == 200


def test_a_client_that_does_not_read_its_answer_is_dropped(serve: Serve) -> None:
    with serve(Limits(write_seconds=0.2)) as server:
        server.app.routes["/big"] = lambda request, pending: Response(200, b"x" * (8 << 20))
        slow = server.client(receive_buffer=4096).send(post("/big"))
        wait_until(lambda: server.has(connections=0, accepted=1))
        with pytest.raises((EOFError, ConnectionResetError, ssl.SSLError)):
            slow.answer()


def test_the_body_of_a_request_without_a_key_is_skipped_and_the_connection_stays_in_step(http_server: Running) -> None:
    client = http_server.client().send(post(body=b"GET /inner HTTP/1.1\r\n\r\n", key="wrong") + post())
    refused = client.answer()
    assert (refused.status, refused.fields["www-authenticate"]) == (401, "Bearer")
    assert client.answer().status == 200
    assert [head.path for head in http_server.app.heads] == ["/echo", "/echo"]


def test_the_application_is_asked_before_the_body_comes(http_server: Running) -> None:
    client = http_server.client().send(post(body=b"x" * 1000, key="wrong")[:-1000])
    assert client.answer().status == 401
    assert client.send(b"x" * 1000 + post()).answer().status == 200


def test_a_big_body_without_a_key_is_not_read(http_server: Running) -> None:
    client = http_server.client().send(post(body=b"x" * 4_000_000, key="wrong")[:200])
    answer = client.answer()
    assert (answer.status, answer.fields["connection"]) == (401, "close")
    assert client.is_closed()


def test_the_refusal_of_a_body_that_is_still_being_sent_arrives(http_server: Running) -> None:
    client = http_server.client().send(post(body=b"x" * 1_000_000, key="wrong"))
    assert client.answer().status == 401


def test_a_body_over_the_limit_is_refused(http_server: Running) -> None:
    client = http_server.client().send(post(body=b"x" * (5 << 20))[:150])
    assert client.answer().status == 413
    assert client.is_closed()


def test_a_client_that_expects_100_continue_gets_it_once_it_is_admitted(http_server: Running) -> None:
    whole = post(body=b"abc", more="Expect: 100-Continue\r\n")
    client = http_server.client().send(whole[:-3])
    assert client.head().status == 100
    assert client.send(b"abc").answer().body.endswith(b" abc")


def test_no_100_continue_without_a_key(http_server: Running) -> None:
    client = http_server.client().send(post(body=b"abc", key="wrong", more="Expect: 100-continue\r\n")[:-3])
    answer = client.answer()
    assert (answer.status, answer.fields["connection"]) == (401, "close")


def test_a_body_that_came_along_needs_no_100_continue(http_server: Running) -> None:
    assert http_server.client().send(post(body=b"abc", more="Expect: 100-continue\r\n")).head().status == 200


def test_head_gets_the_length_but_no_body(http_server: Running) -> None:
    client = http_server.client().send(post().replace(b"POST", b"HEAD") + post())
    assert client.head().fields["content-length"] == str(len(b"HEAD /echo? "))
    assert client.answer().status == 200


@pytest.mark.parametrize("status", [202, 204])
def test_an_empty_answer_has_no_content_type(http_server: Running, status: int) -> None:
    http_server.app.routes["/empty"] = lambda request, pending: Response(status)
    answer = http_server.client().send(post("/empty")).answer()
    assert answer.status == status
    assert answer.fields.get("content-length") == (None if status == 204 else "0")
    assert "content-type" not in answer.fields


@pytest.mark.parametrize("more", ["Connection: close\r\n", "Connection: keep-alive, Close\r\n"])
def test_the_connection_ends_when_the_client_says_so(http_server: Running, more: str) -> None:
    client = http_server.client().send(post(more=more))
    assert client.answer().fields["connection"] == "close"
    assert client.is_closed()


def test_http_1_0_is_answered_and_closed(http_server: Running) -> None:
    client = http_server.client().send(post().replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert client.answer().status == 200
    assert client.is_closed()


def test_a_failing_handler_is_logged_with_the_id_that_the_client_sees(
    http_server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(request: Request, pending: Pending) -> Response:
        raise RuntimeError("a bug")

    http_server.app.routes["/fails"] = fail
    client = http_server.client().send(post("/fails"))
    answer = client.answer()
    message = json.loads(answer.body)["error"]
    number = message.removeprefix("internal error, see log ")
    assert answer.status == 500
    assert len(number) == 8
    assert f"internal error {number} in POST /fails" in caplog.text
    assert "RuntimeError: a bug" in caplog.text
    assert client.send(post()).answer().status == 200


def test_a_failing_precheck_admits_nobody(http_server: Running) -> None:
    client = http_server.client().send(post("/precheck-fails") + post())
    assert client.answer().status == 500
    assert client.answer().status == 200


def test_an_answer_with_a_line_break_in_a_field_is_not_sent(http_server: Running) -> None:
    http_server.app.routes["/split"] = lambda request, pending: Response(200, headers=(("X", "a\r\nSet-Cookie: b"),))
    answer = http_server.client().send(post("/split")).answer()
    assert answer.status == 500
    assert "set-cookie" not in answer.fields


# ---- hang-ups


def test_a_handler_learns_that_its_client_has_gone(http_server: Running) -> None:
    gone, handling = threading.Event(), threading.Event()

    def wait(request: Request, pending: Pending) -> Response:
        pending.on_hangup(gone.set)
        handling.set()
        return Response(200 if gone.wait(PATIENCE) else 500)

    http_server.app.routes["/wait"] = wait
    client = http_server.client().send(post("/wait"))
    assert handling.wait(PATIENCE)
    if isinstance(client.sock, ssl.SSLSocket):
        client.sock.setblocking(False)
        with pytest.raises(ssl.SSLWantReadError):
            client.sock.unwrap()
    client.sock.close()
    assert gone.wait(PATIENCE)
    wait_until(lambda: http_server.has(connections=0))


def test_a_client_that_sends_its_next_request_has_not_hung_up(http_server: Running) -> None:
    calls: list[str] = []
    handling, seen = threading.Event(), threading.Event()

    def wait(request: Request, pending: Pending) -> Response:
        pending.on_hangup(lambda: calls.append("hang-up"))
        handling.set()
        seen.wait(PATIENCE)
        return Response(200)

    http_server.app.routes["/wait"] = wait
    client = http_server.client().send(post("/wait"))
    assert handling.wait(PATIENCE)
    client.send(post(body=b"next"))
    # Another connection's hang-up is noticed only after the loop has looked at what came before.
    other_gone, other_handling = threading.Event(), threading.Event()

    def other(request: Request, pending: Pending) -> Response:
        pending.on_hangup(other_gone.set)
        other_handling.set()
        return Response(200 if other_gone.wait(PATIENCE) else 500)

    http_server.app.routes["/other"] = other
    second = http_server.client().send(post("/other"))
    assert other_handling.wait(PATIENCE)
    second.sock.close()
    assert other_gone.wait(PATIENCE)
    seen.set()
    assert client.answer().status == 200
    assert client.answer().body.endswith(b"next")
    assert calls == []


class NoOwner:
    """A connection on which nothing happens."""

    def watch(self) -> None: ...

    def detach(self, pending: Pending) -> None: ...

    def take_over(self, pending: Pending, answer: object) -> bool:
        return False


def test_a_forgotten_callback_is_not_called() -> None:
    calls: list[int] = []
    pending = Pending(NoOwner(), RequestHead("POST", "/", "", Headers(), "192.0.2.1"))
    forget = pending.on_hangup(lambda: calls.append(1))
    pending.on_hangup(lambda: calls.append(2))
    forget()
    pending.happened()
    pending.on_hangup(lambda: calls.append(3))
    assert calls == [2, 3]


# ---- the end


def test_a_running_request_is_answered_before_the_server_ends(http_server: Running) -> None:
    release, handling = threading.Event(), threading.Event()

    def wait(request: Request, pending: Pending) -> Response:
        handling.set()
        return Response(200 if release.wait(PATIENCE) else 500)

    http_server.app.routes["/wait"] = wait
    idle = http_server.client().send(post())
    assert idle.answer().status == 200
    busy = http_server.client().send(post("/wait"))
    assert handling.wait(PATIENCE)
    stopper = threading.Thread(target=http_server.server.shutdown, args=(PATIENCE,))
    stopper.start()
    assert idle.is_closed()
    with pytest.raises(OSError):
        http_server.tcp()
    release.set()
    answer = busy.answer()
    assert (answer.status, answer.fields["connection"]) == (200, "close")
    stopper.join(PATIENCE)
    assert not stopper.is_alive()


def test_after_the_grace_a_handler_is_told_and_its_client_cut_off(http_server: Running) -> None:
    gone, handling = threading.Event(), threading.Event()

    def wait(request: Request, pending: Pending) -> Response:
        pending.on_hangup(gone.set)
        handling.set()
        return Response(200 if gone.wait(PATIENCE) else 500)

    http_server.app.routes["/wait"] = wait
    busy = http_server.client().send(post("/wait"))
    assert handling.wait(PATIENCE)
    http_server.server.shutdown(0.05)
    assert gone.is_set()
    assert busy.is_closed()


def test_a_standing_stream_does_not_hold_up_the_end_but_one_that_answers_does(http_server: Running) -> None:
    standing, answering = Events(standing=True), Events()
    http_server.app.routes["/standing"] = lambda request, pending: standing.stream
    http_server.app.routes["/answering"] = lambda request, pending: answering.stream
    first, second = http_server.client().send(post("/standing")), http_server.client().send(post("/answering"))
    assert (first.head().status, second.head().status) == (200, 200)
    wait_until(lambda: http_server.has(streams=2, parked=2))
    stopper = threading.Thread(target=http_server.server.shutdown, args=(PATIENCE,))
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


def test_a_stream_that_outlives_the_grace_is_closed(http_server: Running) -> None:
    events = Events()
    http_server.app.routes["/events"] = lambda request, pending: events.stream
    client = http_server.client().send(post("/events"))
    assert client.head().status == 200
    http_server.server.shutdown(0.0)
    assert events.was_closed()
    assert client.is_closed()


def test_a_server_that_never_served_can_be_shut_down() -> None:
    server = HttpServer(("127.0.0.1", 0), ScriptedApp(), ssl_context=None, limits=Limits(), log=LOG)
    server.shutdown(1.0)
    server.serve_forever()


def test_shutting_down_twice_is_harmless(http_server: Running) -> None:
    http_server.server.shutdown(0.0)
    http_server.server.shutdown(0.0)


def test_a_signal_handler_may_stop_the_server_it_interrupts() -> None:
    server = HttpServer(("127.0.0.1", 0), ScriptedApp(), ssl_context=None, limits=Limits(), log=LOG)
    handler = signal.signal(signal.SIGUSR1, lambda number, frame: server.shutdown(0.0))
    try:
        sender = threading.Thread(target=_signal_once_served, args=(server.port,))
        sender.start()
        server.serve_forever()
        sender.join(PATIENCE)
    finally:
        signal.signal(signal.SIGUSR1, handler)


def _signal_once_served(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        sock.sendall(post())
        assert sock.recv(65536).startswith(b"HTTP/1.1 200")
        os.kill(os.getpid(), signal.SIGUSR1)


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
