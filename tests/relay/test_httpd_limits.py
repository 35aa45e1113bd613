"""The HTTP server and clients that are slow, silent or too many."""

from __future__ import annotations

import os
import resource
import socket
import ssl
import threading
from contextlib import closing, suppress
from pathlib import Path

import pytest
from support.http_client import (
    PATIENCE,
    Serve,
    client_context,
    make_certificate,
    post,
    running,
    server_context,
    wait_until,
)

from fleetshell_tools.relay.httpd import Limits, Response


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
        server.app.routes["/slow"] = lambda request, pending: Response(200 if release.wait(PATIENCE) else 500)
        slow = [server.client().send(post("/slow")) for _ in range(60)]
        wait_until(lambda: sum(head.path == "/slow" for head in server.app.heads) == 60)
        assert server.client().send(post()).answer().status == 200
        release.set()
        assert all(client.answer().status == 200 for client in slow)


def test_more_requests_than_workers_wait_in_line(serve: Serve) -> None:
    release = threading.Event()
    with serve(Limits(max_workers=2)) as server:
        server.app.routes["/slow"] = lambda request, pending: Response(200 if release.wait(PATIENCE) else 500)
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
