"""A lean load generator for MCP over HTTP, a process of its own: a `Job` as JSON on stdin, a `Report` as JSON on stdout.

It shares the machine with the server that it measures, so it does as little as it can: requests are bytes made
beforehand, in which only the id changes, and of an answer only its end is looked for, unless its length is a new one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import re
import select
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

VERSION = "2025-11-25"
FIRST_ID = 10_000_000
SILENCE = 20.0
"""Seconds without any answer after which a measurement has failed."""

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked\r\n", re.IGNORECASE)
_SESSION = re.compile(rb"\r\nmcp-session-id: *([!-~]+)\r\n", re.IGNORECASE)
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError)


@dataclass(frozen=True)
class Job:
    """What is asked of one process.

    Args:
        port: On 127.0.0.1.
        certificate: The PEM file to trust; plain HTTP where it is "".
        key: The API key; no Authorization header where it is "".
        method, params: The JSON-RPC request that is repeated.
        connections: Keep-alive connections, each with one MCP session and one request at a time.
        seconds: How long to measure.
        most: After how many answers to stop, at the latest.
        warm_up: Seconds of the same load before, which do not count.
        sse: The server speaks the HTTP+SSE transport of 2024-11-05: answers come on a stream of their own.
    """

    port: int
    method: str
    params: dict[str, Any]
    certificate: str = ""
    key: str = ""
    connections: int = 1
    seconds: float = 1.0
    most: int = 1_000_000
    warm_up: float = 0.2
    sse: bool = False


@dataclass
class Report:
    """What was measured: `latencies` are seconds, sorted; `sent` counts the warm-up's requests too, `cpu` is a share of a core."""

    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0
    sent: int = 0
    cpu: float = 0.0
    answer: str = ""

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds


class Wire:
    """One connection with one MCP session."""

    def __init__(self, job: Job, ids: Iterator[int]) -> None:
        self.sock = socket.create_connection(("127.0.0.1", job.port), timeout=SILENCE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if job.certificate:
            self.sock = ssl.create_default_context(cafile=job.certificate).wrap_socket(
                self.sock, server_hostname="localhost"
            )
        self.fd = self.sock.fileno()
        self.sent_at = 0.0
        self.answer = b""
        self._job = job
        self._ids = ids
        self._session = b""
        self._data = bytearray()
        self._length = 0
        self._path = b"/mcp"
        self._open_session()
        self._prefix, self._suffix = self._frame(job.method, job.params)
        self.sock.setblocking(False)

    def send(self) -> None:
        """Send the next request."""
        data = b"%b%d%b" % (self._prefix, next(self._ids), self._suffix)
        self.sent_at = time.perf_counter()
        if self.sock.send(data) != len(data):
            raise RuntimeError("the server takes no whole request at once")

    def receive(self) -> bool:
        """Read what is there; whether the answer is complete now."""
        while True:
            try:
                data = self.sock.recv(262144)
            except _WOULD_BLOCK:
                return False
            if not data:
                raise RuntimeError(f"the server closed the connection; until then: {bytes(self._data[:500])!r}")
            self._data += data
            if _is_complete(self._data):
                if len(self._data) != self._length:
                    self._check()
                self._data.clear()
                return True

    def close(self) -> None:
        """End the session, then the connection."""
        self.sock.settimeout(SILENCE)
        head, _ = self._exchange(b"DELETE", b"")
        if not head.startswith(b"HTTP/1.1 2"):
            raise RuntimeError(f"the session could not be ended: {head!r}")
        self.sock.close()

    def _check(self) -> None:
        head, _, body = bytes(self._data).partition(b"\r\n\r\n")
        # The SDK puts a blank after a colon in some of its answers, and none in others.
        said = body.replace(b'": ', b'":')
        if not head.startswith(b"HTTP/1.1 200 ") or b'"result":' not in said or b'"isError":true' in said:
            raise RuntimeError(f"the server does not do what it was asked: {(head + body)[:2000]!r}")
        self._length, self.answer = len(self._data), body

    def _open_session(self) -> None:
        params = {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
        prefix, suffix = self._frame("initialize", params)
        head, body = self._exchange_raw(b"%b%d%b" % (prefix, next(self._ids), suffix))
        session = _SESSION.search(head + b"\r\n")
        if session is None:
            raise RuntimeError(f"initialize gave no session: {(head + body)[:2000]!r}")
        self._session = session[1]
        head, body = self._exchange(
            b"POST", json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}).encode()
        )
        if not head.startswith(b"HTTP/1.1 202 "):
            raise RuntimeError(f"the session was not opened: {(head + body)[:2000]!r}")

    def _frame(self, method: str, params: dict[str, Any]) -> tuple[bytes, bytes]:
        """A request's bytes before and after its id, which has eight digits."""
        before, after = (
            b'{"jsonrpc":"2.0","id":',
            b',"method":"%b","params":%b}' % (method.encode(), json.dumps(params).encode()),
        )
        return self._head(b"POST", len(before) + 8 + len(after)) + before, after

    def _head(self, method: bytes, length: int) -> bytes:
        lines = [
            b"%b %b HTTP/1.1" % (method, self._path),
            b"Host: 127.0.0.1:%d" % self._job.port,
            b"Accept: application/json, text/event-stream",
            b"Content-Type: application/json",
            b"Content-Length: %d" % length,
        ]
        if self._job.key:
            lines.append(b"Authorization: Bearer %b" % self._job.key.encode())
        if self._session:
            lines += [b"Mcp-Session-Id: %b" % self._session, b"MCP-Protocol-Version: %b" % VERSION.encode()]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _exchange(self, method: bytes, body: bytes) -> tuple[bytes, bytes]:
        return self._exchange_raw(self._head(method, len(body)) + body)

    def _exchange_raw(self, data: bytes) -> tuple[bytes, bytes]:
        self.sock.sendall(data)
        answer = bytearray()
        while not _is_complete(answer):
            more = self.sock.recv(262144)
            if not more:
                raise RuntimeError(f"the server closed the connection; until then: {bytes(answer[:500])!r}")
            answer += more
        head, _, rest = bytes(answer).partition(b"\r\n\r\n")
        return head, rest


class SseWire(Wire):
    """One session of the HTTP+SSE transport: requests on one connection, answers as events on another."""

    def send(self) -> None:
        """Send the next request, once the plain answers to those before it are out of the way."""
        while not self._acknowledged():
            self.sock.setblocking(True)
            self._said += self.sock.recv(65536)
            self.sock.setblocking(False)
        self._said.clear()
        super().send()

    def receive(self) -> bool:
        """Read what is there; whether the answer is complete now."""
        with contextlib.suppress(BlockingIOError):
            self._said += self.sock.recv(65536)
        with contextlib.suppress(BlockingIOError):
            more = self._events.recv(262144)
            if not more:
                raise RuntimeError("the server closed the stream of events")
            self._data += more
        if b"\n\n" not in self._data:
            return False
        if b'"result":' not in self._data or b'"isError":true' in self._data:
            raise RuntimeError(f"the server does not do what it was asked: {bytes(self._data[:2000])!r}")
        self.answer = bytes(self._data)
        self._data.clear()
        return True

    def close(self) -> None:
        """End both connections."""
        self.sock.close()
        self._events.close()

    def _acknowledged(self) -> bool:
        return b"\r\n\r\n" in self._said and _is_complete(self._said)

    def _open_session(self) -> None:
        self._said = bytearray()
        self._events = socket.create_connection(("127.0.0.1", self._job.port), timeout=SILENCE)
        self._events.sendall(b"GET /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n")
        while (endpoint := re.search(rb"data: (/[!-~]+)\n\n", self._data)) is None:
            self._data += self._events.recv(65536)
        self._path = endpoint[1]
        self._data.clear()
        params = {"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
        prefix, suffix = self._frame("initialize", params)
        self._exchange_raw(b"%b%d%b" % (prefix, next(self._ids), suffix))
        while b"\n\n" not in self._data:
            self._data += self._events.recv(65536)
        self._data.clear()
        self._exchange(b"POST", json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}).encode())
        self._said += b"HTTP/1.1 202 \r\n\r\n"
        self._events.setblocking(False)
        self.fd = self._events.fileno()


def _is_complete(data: bytearray) -> bool:
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return False
    length = _LENGTH.search(data, 0, end + 2)
    if length:
        return len(data) >= end + 4 + int(length[1])
    if _CHUNKED.search(data, 0, end + 2):
        return data.endswith(b"\r\n0\r\n\r\n")
    status = _STATUS.match(data)
    if status is None or status[1] not in (b"202", b"204"):
        raise RuntimeError(f"an answer of unknown length: {bytes(data[:500])!r}")
    return True


def drive(wires: list[Wire], seconds: float, most: int) -> tuple[list[float], float]:
    """Keep one request under way on each wire, until the time or the count is over and every answer is here.

    Returns:
        The latency of each request, and how long all of it took; seconds.
    """
    latencies: list[float] = []
    by_fd = {wire.fd: wire for wire in wires}
    clock = time.perf_counter
    with select.epoll() as poll:
        for wire in wires:
            poll.register(wire.fd, select.EPOLLIN)
        now = started = clock()
        left, pending = most, 0
        for wire in wires[:left]:
            wire.send()
            left, pending = left - 1, pending + 1
        while pending:
            events = poll.poll(SILENCE)
            if not events:
                raise RuntimeError(f"no answer for {SILENCE:g} s")
            for fd, _ in events:
                wire = by_fd[fd]
                # A TLS session ticket also makes the socket readable.
                if not wire.receive():
                    continue
                now = clock()
                latencies.append(now - wire.sent_at)
                if left > 0 and now - started < seconds:
                    wire.send()
                    left -= 1
                else:
                    pending -= 1
    return latencies, now - started


def run(job: Job) -> Report:
    """Open the sessions, warm up, measure, end the sessions."""
    ids = iter(range(FIRST_ID, 10 * FIRST_ID))
    wires = [(SseWire if job.sse else Wire)(job, ids) for _ in range(job.connections)]
    gc.disable()
    warm, _ = drive(wires, job.warm_up, job.most)
    cpu = time.process_time()
    latencies, seconds = drive(wires, job.seconds, job.most)
    cpu = time.process_time() - cpu
    answer = wires[0].answer.decode(errors="replace")
    for wire in wires:
        wire.close()
    return Report(sorted(latencies), seconds, len(warm) + len(latencies), cpu / seconds, answer)


if __name__ == "__main__":
    json.dump(dataclasses.asdict(run(Job(**json.load(sys.stdin)))), sys.stdout)
