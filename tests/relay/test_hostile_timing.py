"""Clients that stop in the middle of a handshake, a request or a body, against a server with small limits."""

from __future__ import annotations

import math
import socket
import ssl
import threading
from contextlib import suppress

import pytest
from support.http_client import PATIENCE, Client, Serve, post, wait_until

from fleetshell_tools.relay.httpd import Limits

HEAD = post(body=b"x" * 1000)[:-1000]
GOOD = post(body=b"well")


def half(client: Client) -> None:
    """End the client's side of the connection as TCP has it, without a word of TLS."""
    socket.socket.shutdown(client.sock, socket.SHUT_WR)


def drip(sock: socket.socket, data: bytes, done: threading.Event) -> None:
    """Send a byte at a time until the server has had enough."""
    with suppress(OSError):
        for byte in data:
            if done.wait(0.01):
                return
            sock.sendall(bytes([byte]))


def client_hello(context: ssl.SSLContext) -> bytes:
    """The first flight of a handshake."""
    outgoing = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


def test_a_handshake_in_drips_is_cut_off_in_time_and_others_are_served(serve_tls: Serve) -> None:
    with serve_tls(Limits(handshake_seconds=0.5, max_workers=2)) as server:
        hello, done = client_hello(ssl.create_default_context()), threading.Event()
        socks = [server.tcp() for _ in range(8)]
        threads = [threading.Thread(target=drip, args=[sock, hello * 100, done]) for sock in socks]
        for thread in threads:
            thread.start()
        try:
            assert server.client().send(GOOD).answer().status == 200
            for sock in socks:
                with suppress(ConnectionResetError):
                    assert sock.recv(65_536)[:1] in (b"", b"\x15")
        finally:
            done.set()
            for thread in threads:
                thread.join(PATIENCE)


def test_a_whole_hello_and_then_nothing_is_cut_off_in_time(serve_tls: Serve) -> None:
    with serve_tls(Limits(handshake_seconds=0.2)) as server:
        sock = server.tcp()
        sock.sendall(client_hello(ssl.create_default_context()))
        said = b""
        with suppress(ConnectionResetError):
            while more := sock.recv(65_536):
                said += more
        assert said[:1] in (b"", b"\x16")  # on a busy machine the time is over before the server's own hello
        wait_until(lambda: server.has(connections=0))


def test_silence_behind_a_handshake_is_cut_off_without_a_word(serve: Serve) -> None:
    with serve(Limits(head_seconds=0.2)) as server:
        assert server.client().is_closed()


@pytest.mark.parametrize(
    "sent",
    [b"", b"P", HEAD[:30], HEAD[:-2], HEAD, HEAD + b"x" * 999, GOOD + HEAD],
    ids=["nothing", "a letter", "a line", "no end", "no body", "half a body", "a good one before"],
)
def test_a_client_that_has_ended_its_side_in_the_middle_is_not_waited_for(serve: Serve, sent: bytes) -> None:
    # No deadline would end it within the test's patience.
    with serve(Limits(head_seconds=1e6, body_seconds=1e6, idle_seconds=1e6)) as server:
        client = server.client().send(sent)
        half(client)
        if sent.startswith(GOOD):
            assert client.answer().body.endswith(b"well")
        # An end without a word of TLS is an error there, and may be answered by an alert.
        with suppress(ssl.SSLError):
            assert client.is_closed()
        wait_until(lambda: server.has(connections=0))
        assert server.client().send(GOOD).answer().status == 200


@pytest.mark.parametrize("sent", [GOOD + b"P", GOOD + HEAD, GOOD * 20 + HEAD[:-3]], ids=["a letter", "a head", "many"])
def test_a_request_that_stops_behind_good_ones_costs_only_itself(serve: Serve, sent: bytes) -> None:
    with serve(Limits(head_seconds=0.3, body_seconds=0.3, idle_seconds=math.inf)) as server:
        client = server.client().send(sent)
        statuses = [client.answer().status for _ in range(sent.count(GOOD))]
        assert statuses == [200] * len(statuses)
        assert client.answer().status == 408
        assert client.is_closed()


def test_a_body_in_drips_that_was_asked_for_is_cut_off_in_time(serve: Serve) -> None:
    with serve(Limits(body_seconds=0.4)) as server:
        done = threading.Event()
        client = server.client().send(post(body=b"x" * 5000, more="Expect: 100-continue\r\n")[:-5000])
        assert client.head().status == 100
        dripper = threading.Thread(target=drip, args=[client.sock, b"x" * 4000, done])
        dripper.start()
        try:
            assert client.answer().status == 408
        finally:
            done.set()
            dripper.join(PATIENCE)


def test_who_sends_requests_and_never_reads_an_answer_is_dropped(serve: Serve) -> None:
    with serve(Limits(write_seconds=0.3)) as server:
        client = server.client(receive_buffer=4096)
        with pytest.raises(OSError):
            while True:
                client.send(post(body=b"x" * 60_000) * 10)
        wait_until(lambda: server.has(connections=0))
        assert server.client().send(GOOD).answer().status == 200
