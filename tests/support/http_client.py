"""A raw HTTP client and an application whose handlers a test holds in its hand, for the tests of the server."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fleetshell_tools.relay.httpd import (
    Application,
    EventStream,
    HttpServer,
    Limits,
    Pending,
    Request,
    RequestHead,
    Response,
    Sink,
)

PATIENCE = 20.0
"""Seconds after which something that should happen is taken not to happen."""


def wait_until(happened: Callable[[], bool]) -> None:
    """Wait for another thread to bring something about; fails if it does not."""
    end = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        threading.Event().wait(0.002)


class ScriptedApp:
    """Admits who knows the key; what a path does is in `routes`, by default it says what it received."""

    def __init__(self) -> None:
        self.routes: dict[str, Callable[[Request, Pending], Response | EventStream | None]] = {}
        self.heads: list[RequestHead] = []
        self.before: list[object] = []

    def precheck(self, head: RequestHead, before: object) -> Response | object:
        self.heads.append(head)
        self.before.append(before)
        if head.path == "/precheck-fails":
            raise RuntimeError("the precheck has a bug")
        if head.headers.get("authorization") != "Bearer key":
            return Response(401, b'{"error":"unauthorized"}', headers=(("WWW-Authenticate", "Bearer"),))
        return "owner"

    def handle(self, request: Request, admitted: object, pending: Pending) -> Response | EventStream | None:
        assert admitted == "owner"
        if request.path in self.routes:
            return self.routes[request.path](request, pending)
        return Response(200, f"{request.method} {request.path}?{request.query} ".encode() + request.body)


class Events:
    """An application's side of one event stream."""

    def __init__(self, *, standing: bool = False) -> None:
        self.sink: Sink | None = None
        self.opened = threading.Event()
        self.closed = threading.Semaphore(0)
        self.stream = EventStream(self._on_open, self.closed.release, (("Mcp-Session-Id", "s"),), standing)

    def _on_open(self, sink: Sink) -> None:
        self.sink = sink
        self.opened.set()

    def open_sink(self) -> Sink:
        assert self.opened.wait(PATIENCE)
        assert self.sink is not None
        return self.sink

    def was_closed(self) -> bool:
        return self.closed.acquire(timeout=PATIENCE)

    def was_closed_again(self) -> bool:
        return self.closed.acquire(blocking=False)


@dataclass
class Answer:
    """An answer as it came over the wire."""

    status: int
    fields: dict[str, str]
    body: bytes = b""


@dataclass
class Client:
    """A connection that sends what it is told to, byte for byte."""

    sock: socket.socket
    _unread: bytes = field(default=b"")

    def send(self, data: bytes) -> Client:
        self.sock.sendall(data)
        return self

    def _more(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise EOFError
        self._unread += data

    def read_until(self, mark: bytes) -> bytes:
        while mark not in self._unread:
            self._more()
        found, _, self._unread = self._unread.partition(mark)
        return found

    def read_exactly(self, length: int) -> bytes:
        while len(self._unread) < length:
            self._more()
        found, self._unread = self._unread[:length], self._unread[length:]
        return found

    def head(self) -> Answer:
        lines = self.read_until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        return Answer(int(lines[0].split()[1]), fields)

    def answer(self) -> Answer:
        answer = self.head()
        answer.body = self.read_exactly(int(answer.fields.get("content-length", 0)))
        return answer

    def chunk(self) -> bytes:
        payload = self.read_exactly(int(self.read_until(b"\r\n"), 16))
        assert self.read_exactly(2) == b"\r\n"
        return payload

    def is_closed(self) -> bool:
        """Wait for the server to end the connection; False if it sends something instead."""
        if self._unread:
            return False
        try:
            return self.sock.recv(1) == b""
        except ConnectionResetError:
            return True


def post(path: str = "/echo", body: bytes = b"", key: str = "key", more: str = "") -> bytes:
    """A request as a well-behaved client sends it."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


class Running:
    """A server in a thread, and its clients."""

    def __init__(
        self,
        limits: Limits,
        server_tls: ssl.SSLContext | None,
        client_tls: ssl.SSLContext | None,
        application: Application | None = None,
    ) -> None:
        self.app = ScriptedApp()
        self.server = HttpServer(
            ("127.0.0.1", 0),
            application or self.app,
            ssl_context=server_tls,
            limits=limits,
            log=logging.getLogger("test.httpd"),
        )
        self._client_tls = client_tls
        self._clients = contextlib.ExitStack()
        self.thread = threading.Thread(target=self.server.serve_forever, name="loop")
        self.thread.start()

    def tcp(self, receive_buffer: int | None = None) -> socket.socket:
        """A connection without TLS, whatever the server speaks."""
        sock = socket.socket()
        self._clients.enter_context(sock)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(PATIENCE)
        sock.connect(("127.0.0.1", self.server.port))
        return sock

    def client(self, receive_buffer: int | None = None) -> Client:
        sock = self.tcp(receive_buffer)
        if self._client_tls is not None:
            sock = self._clients.enter_context(self._client_tls.wrap_socket(sock, server_hostname="localhost"))
        return Client(sock)

    def has(self, **counts: int) -> bool:
        """Whether the server's statistics are these."""
        stats = self.server.stats()
        return all(stats[name] == count for name, count in counts.items())

    def stop(self, grace: float = 0.0) -> None:
        self.server.shutdown(grace)
        self.thread.join(PATIENCE)
        self._clients.close()


@contextlib.contextmanager
def running(
    limits: Limits, server_tls: ssl.SSLContext | None = None, client_tls: ssl.SSLContext | None = None
) -> Iterator[Running]:
    server = Running(limits, server_tls, client_tls)
    try:
        yield server
    finally:
        server.stop()


Serve = Callable[..., contextlib.AbstractContextManager[Running]]
"""`running`, with the TLS of the test already chosen."""


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


def server_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def client_context(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate.parent / "cert.pem"))
