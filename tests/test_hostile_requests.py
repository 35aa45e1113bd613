"""Hostile requests, byte for byte over TLS, to one running relay: each gets its exact answer, and harms nothing."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import secrets
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.hostile import Row, Target, get, is_pong, mark, modern, request, rpc
from support.hostile_http import HTTP, PING
from support.hostile_json import HELLO, JSON
from support.hostile_mcp import MCP
from support.http_client import PATIENCE, Client
from support.processes import wait_until
from support.relay import RelayProcess, make_home

ROWS = [*HTTP, *JSON, *MCP]
CROWD = 1500


def usage(pid: int) -> dict[str, int]:
    """Descriptors, threads, and resident memory in MiB of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    numbers = {name: int(value) for name, value in re.findall(r"^(Threads|VmRSS):\s+(\d+)", status, re.MULTILINE)}
    return {
        "files": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": numbers["Threads"],
        "memory": numbers["VmRSS"] >> 10,
    }


def _hello(target: Target, version: str = "2025-11-25") -> str:
    body = rpc("initialize", {**HELLO["params"], "protocolVersion": version})
    return target.ask(request(body, {"Mcp-Session-Id": None, "MCP-Protocol-Version": None})).fields["mcp-session-id"]


def _unlock(target: Target) -> str:
    sent = modern("tools/call", {"name": "authenticate", "arguments": {"code": target.relay.home.code()}})
    return str(json.loads(target.ask(sent).body)["result"]["structuredContent"]["fleetshell_session"])


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A relay whose API key has been another one, under which there were a session and a handle."""
    home = make_home(tmp_path_factory.mktemp("hostile") / "home")
    process = RelayProcess(home, shared=True)
    try:
        target = Target(process, {"KEY": home.api_key, "OLD_KEY": home.api_key})
        target.facts |= {"FOREIGN": _hello(target), "FOREIGN_HANDLE": _unlock(target)}
        key, config = secrets.token_urlsafe(32), home.path / "config.yaml"
        config.write_text(config.read_text().replace(home.api_key, key))
        home.run("reload")
        target.facts |= {"KEY": key, "KEY_HANDLE": key}
        target.facts |= {"SESSION": _hello(target), "BATCH": _hello(target, "2025-03-26"), "ENDED": _hello(target)}
        assert target.ask(get({"Mcp-Session-Id": mark("ENDED")}, method="DELETE")).status == 204
        target.facts["HANDLE"] = _unlock(target)
        yield target
    finally:
        process.stop()


@pytest.fixture(scope="module")
def before(target: Target) -> dict[str, int]:
    """What the relay used when it had answered its first requests."""
    wait_until(lambda: _connections(target) == 0, PATIENCE, "the connections of the preparation are closed")
    return usage(target.relay.process.pid)


def _connections(target: Target) -> int:
    """The connections of the relay that are not closed, as the kernel counts its sockets beyond those of its own."""
    port = f":{target.relay.port:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    own = set()
    for entry in Path(f"/proc/{target.relay.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            own.add(os.readlink(entry))
    return sum(line[1].endswith(port) and line[3] != "0A" and f"socket:[{line[9]}]" in own for line in lines)


def test_the_table_is_long_and_says_nothing_twice() -> None:
    assert len(ROWS) >= 150
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert len({row.sent for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_hostile_request_gets_its_answer_and_the_next_one_is_served(
    target: Target, before: dict[str, int], row: Row
) -> None:
    target.check(row)


def test_bytes_behind_the_length_are_no_part_of_the_body_but_the_next_request(target: Target) -> None:
    with target.client() as client:
        client.send(target.fill(request(PING, {"Content-Length": str(len(PING) - 1)}) + b"\r\n\r\n"))
        first, second = client.answer(), client.answer()
        assert (first.status, json.loads(first.body)["error"]["code"], second.status) == (400, -32700, 400)
        assert client.is_closed()
    target.is_well()


@pytest.mark.parametrize("count", [2, 200])
def test_requests_in_one_write_are_answered_in_their_order(target: Target, count: int) -> None:
    with target.client() as client:
        client.send(b"".join(target.fill(request(rpc(id=number))) for number in range(count)))
        assert [json.loads(client.answer().body)["id"] for _ in range(count)] == list(range(count))


def test_a_bad_request_among_two_hundred_ends_the_connection_behind_those_before_it(target: Target) -> None:
    pings = [target.fill(request(rpc(id=number))) for number in range(200)]
    pings[100] = target.fill(request(rpc(id=100), lines=(b"Transfer-Encoding: chunked",)))
    with target.client() as client:
        client.send(b"".join(pings))
        assert [json.loads(client.answer().body)["id"] for _ in range(100)] == list(range(100))
        assert client.answer().status == 400
        assert client.is_closed()
    target.is_well()


def test_requests_of_several_clients_on_one_connection_are_each_judged_by_their_own_key(target: Target) -> None:
    others = [request(None, {"Authorization": "Bearer x"}), request(None, {"Host": "evil.example"})]
    expected = [200, 401, 200, 403, 200]
    with target.client() as client:
        client.send(b"".join(map(target.fill, [request(), others[0], request(), others[1], request()])))
        assert [client.answer().status for _ in expected] == expected


def test_a_body_that_waits_for_100_is_asked_for_once_and_read(target: Target) -> None:
    head, _, body = target.fill(request(None, {"Expect": "100-Continue"})).partition(b"\r\n\r\n")
    with target.client() as client:
        client.send(head + b"\r\n\r\n")
        assert client.head().status == 100
        is_pong(client.send(body).answer())
        is_pong(client.send(target.fill(request())).answer())


def test_a_second_stream_of_a_session_is_refused_and_the_first_goes_on(target: Target) -> None:
    with target.client() as first, target.client() as second:
        head = first.send(target.fill(get())).head()
        assert (head.status, head.fields["content-type"]) == (200, "text/event-stream")
        answer = second.send(target.fill(get())).answer()
        assert answer.status == 409, answer
        assert json.loads(answer.body)["error"]["data"]["reason"] == "stream_open"
        is_pong(second.send(target.fill(request())).answer())


NO_HANDSHAKE = {
    "noise": bytes(range(128, 256)) * 8,
    "zeros": b"\0" * 4096,
    "a hello of SSLv2": b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + b"\1" * 40,
    "a record of no type": b"\x63\x03\x03\x00\x05hello",
    "an alert": b"\x15\x03\x03\x00\x02\x02\x28",
    "application data": b"\x17\x03\x03\x00\x05hello",
    "an event stream": get({"Authorization": None}),
    "a request": request(None, {"Authorization": None, "Mcp-Session-Id": None}),
}
BAD_HANDSHAKE = {
    "a record that is too long": b"\x16\x03\x01\xff\xff" + b"\1" * 65_535,
    "a record of SSLv3": b"\x16\x03\x00\x00\x04\x01\x00\x00\x00",
    "a hello without content": b"\x16\x03\x01\x00\x04\x01\x00\x00\x00",
    "a hello that lies about its length": b"\x16\x03\x01\x00\x08\x01\xff\xff\xff\x03\x03\x00\x00",
}


def _said_in_clear(target: Target, sent: bytes) -> bytes:
    with target.tcp() as sock:
        said = b""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(sent)
            while more := sock.recv(65_536):
                said += more
    target.is_well()
    return said


@pytest.mark.parametrize("sent", NO_HANDSHAKE.values(), ids=NO_HANDSHAKE.keys())
def test_what_does_not_begin_with_a_handshake_is_told_to_use_https(target: Target, sent: bytes) -> None:
    said = _said_in_clear(target, sent)
    assert said.startswith(b"HTTP/1.1 400 ") and b"use https://" in said


@pytest.mark.parametrize("sent", BAD_HANDSHAKE.values(), ids=BAD_HANDSHAKE.keys())
def test_a_bad_handshake_is_answered_by_an_alert_at_most(target: Target, sent: bytes) -> None:
    said = _said_in_clear(target, sent)
    assert len(said) <= 7 and said[:1] in (b"", b"\x15")


def test_a_client_that_leaves_in_the_middle_harms_nobody(target: Target) -> None:
    whole = target.fill(request(b" " * 100_000 + PING))
    for cut in (0, 1, 20, 300, 700, 50_000, len(whole) - 1):
        with target.client() as client:
            client.send(whole[:cut])
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
    for cut in (0, 1, 5, len(hello)):
        with target.tcp() as sock:
            sock.sendall(hello[:cut])
    target.is_well()


def test_an_old_tls_is_refused(target: Target) -> None:
    context = ssl.create_default_context(cafile=str(target.relay.home.certificate))
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with target.tcp() as sock, pytest.raises((ssl.SSLError, ConnectionResetError)):
        context.wrap_socket(sock, server_hostname="localhost")
    target.is_well()


@pytest.fixture
def many_files(target: Target) -> Iterator[None]:
    """Room for the crowd in this process and in the relay."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    relays = resource.prlimit(target.relay.process.pid, resource.RLIMIT_NOFILE)[0]
    needed = CROWD + 500
    if resource.RLIM_INFINITY not in (hard, soft) and hard < needed:
        pytest.skip(f"the hard limit of open files is {hard}; this needs {needed}")
    if relays != resource.RLIM_INFINITY and relays < needed:
        pytest.skip(f"the relay may have {relays} open files; this needs {needed}")
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_fifteen_hundred_idle_connections_keep_no_good_client_waiting(
    target: Target, before: dict[str, int], many_files: None
) -> None:
    ping = target.fill(request())
    with contextlib.ExitStack() as crowd, ThreadPoolExecutor(4) as pool:
        lock = threading.Lock()

        def arrive(_: int) -> Client:
            with contextlib.ExitStack() as mine:
                client = mine.enter_context(target.client())
                is_pong(client.send(ping).answer())
                with lock:
                    crowd.push(mine.pop_all())
            return client

        clients = list(pool.map(arrive, range(CROWD)))
        # And strangers, of whom only so many from one address stay that the others still come in.
        for number in range(100):
            crowd.enter_context(target.tcp(f"127.0.0.{2 + number % 2}"))
        wait_until(lambda: _connections(target) >= CROWD, PATIENCE, "the relay holds all of them")
        for _ in range(20):
            target.is_well()
        assert usage(target.relay.process.pid)["threads"] <= before["threads"] + 16
        for client in clients[::100]:
            is_pong(client.send(ping).answer())


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=["silent", "refused", "asking for the health"],
)
def test_strangers_cannot_shut_out_who_has_the_key(target: Target, sent: bytes) -> None:
    with contextlib.ExitStack() as strangers:
        for _ in range(200):
            client = strangers.enter_context(target.client())
            if sent:
                client.send(sent).answer()
        target.is_well()
        wait_until(lambda: _connections(target) <= 64, PATIENCE, "the oldest strangers were dropped")


def test_afterwards_the_relay_uses_what_it_used_before(target: Target, before: dict[str, int]) -> None:
    pid = target.relay.process.pid
    wait_until(lambda: _connections(target) == 0, PATIENCE, "every connection is closed")
    wait_until(lambda: usage(pid)["files"] <= before["files"], PATIENCE, "every descriptor is closed")
    # The two pools keep some eight idle threads each for a while.
    wait_until(lambda: usage(pid)["threads"] <= before["threads"] + 16, 30, "the workers that were too many have ended")
    assert usage(pid)["memory"] <= before["memory"] + 150


def test_afterwards_no_log_has_an_error_or_a_secret(target: Target) -> None:
    home = target.relay.home
    secret = {
        *target.facts.values(),
        home.config["mfa"]["totp_secret"],
        home.config["relay"]["http"]["auth"]["api_key"],
    }
    files = [target.relay.log, *(path for path in (home.path / "logs").iterdir() if path.is_file())]
    assert {path.name for path in files} >= {"serve.log", "relay.log", "audit.log"}
    for path in files:
        text = path.read_text()
        assert not [word for word in secret if word in text], path
        assert not re.search(r" (ERROR|CRITICAL) |Traceback", text), path
    assert home.run("audit", "verify").returncode == 0
