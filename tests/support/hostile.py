"""Hostile requests: how a row of the tables is written down, sent to a running relay over TLS, and judged."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fleetshell_tools.relay.eras import MODERN_VERSION
from support.http_client import PATIENCE, Answer, Client
from support.protocol_client import ENVELOPE, modern_headers
from support.relay import RelayProcess

LATEST = "2025-11-25"
MARK_LENGTH = 43  # of handles and session ids: a mark in a body must not change its length when it is filled in


def mark(name: str) -> str:
    """What stands in a row for something that only the running relay knows; `Target.facts` has the names."""
    return f"@{name}@".ljust(MARK_LENGTH, "@")


@dataclass(frozen=True)
class Row:
    """One hostile request and what must come of it.

    Attributes:
        status: The HTTP status; 0 where the connection is closed without a word.
        sent: The request, with marks.
        code, reason: The JSON-RPC error's code and `data.reason`; None where the answer has no error.
        closes: The connection ends with the answer, and what is sent behind the request is not served.
    """

    name: str
    status: int
    sent: bytes
    code: int | None = None
    reason: str | None = None
    closes: bool = False

    def __str__(self) -> str:
        return self.name


def malformed(name: str, status: int, sent: bytes) -> Row:
    """A request after which nothing on its connection can be trusted."""
    return Row(name, status, sent, closes=True)


def rpc(method: Any = "ping", params: Any = None, **members: Any) -> dict[str, Any]:
    """A JSON-RPC message; `id` is 1, and a member of None is left out."""
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params, **members}
    return {name: value for name, value in message.items() if value is not None}


Fields = Mapping[str, str | bytes | list[str] | None]


def request(
    body: object = None,
    fields: Fields | None = None,
    *,
    method: str = "POST",
    target: str = "/mcp",
    version: str = "HTTP/1.1",
    lines: tuple[bytes, ...] = (),
) -> bytes:
    """A request of the session era; with nothing given it is a good `ping`.

    Args:
        body: Bytes as they are, anything else as JSON.
        fields: Header fields instead of or beside the usual ones; None leaves one out, a list repeats it.
        lines: More lines of the head, byte for byte.
    """
    raw = body if isinstance(body, bytes) else json.dumps(rpc() if body is None else body).encode()
    every: dict[str, str | bytes | list[str] | None] = {
        "Host": "localhost",
        "Authorization": f"Bearer {mark('KEY')}",
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "Mcp-Session-Id": mark("SESSION"),
        "MCP-Protocol-Version": LATEST,
        "Content-Length": str(len(raw)),
        **(fields or {}),
    }
    head = [f"{method} {target} {version}".encode()]
    for name, value in every.items():
        for single in value if isinstance(value, list) else [] if value is None else [value]:
            head.append(name.encode() + b": " + (single if isinstance(single, bytes) else single.encode()))
    return b"\r\n".join([*head, *lines, b"", raw])


def bare(*lines: bytes) -> bytes:
    """A head of these lines and nothing else."""
    return b"\r\n".join([*lines, b"", b""])


def get(fields: Fields | None = None, *, method: str = "GET", target: str = "/mcp") -> bytes:
    """A GET of the session era, or another method without a body."""
    without_body: Fields = {"Content-Length": None, "Content-Type": None, **(fields or {})}
    return request(b"", without_body, method=method, target=target)


def modern(
    method: str = "server/discover",
    params: Mapping[str, Any] | None = None,
    fields: Fields | None = None,
    meta: Mapping[str, Any] | None = None,
    **members: Any,
) -> bytes:
    """A request of 2026-07-28 with all that it needs; in `meta` and `fields` None leaves a thing out."""
    every = {key: value for key, value in {**ENVELOPE, **(meta or {})}.items() if value is not None}
    body = rpc(method, {**(params or {}), "_meta": every}, **members)
    headers: Fields = {"Mcp-Session-Id": None, **modern_headers(method, params or {}), **(fields or {})}
    return request(body, headers)


def raw_modern(body: object, **fields: str | None) -> bytes:
    """Any body under the header of 2026-07-28."""
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return request(body, {"Mcp-Session-Id": None, "MCP-Protocol-Version": MODERN_VERSION, **named})


@dataclass
class Target:
    """A running relay, and what marks stand for there."""

    relay: RelayProcess
    facts: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.context = ssl.create_default_context(cafile=str(self.relay.home.certificate))

    def fill(self, sent: bytes) -> bytes:
        """Put what is true here in the place of the marks."""
        return re.sub(rb"@([A-Z_]+)@+", lambda found: self.facts[found[1].decode()].encode(), sent)

    @contextlib.contextmanager
    def tcp(self, source: str = "127.0.0.1") -> Iterator[socket.socket]:
        """A connection without TLS."""
        address = ("127.0.0.1", self.relay.port)
        with socket.create_connection(address, PATIENCE, source_address=(source, 0)) as sock:
            yield sock

    @contextlib.contextmanager
    def client(self) -> Iterator[Client]:
        """A connection over TLS."""
        with self.tcp() as sock, self.context.wrap_socket(sock, server_hostname="localhost") as wrapped:
            yield Client(wrapped)

    def ask(self, sent: bytes) -> Answer:
        """The answer to one request on a connection of its own."""
        with self.client() as client:
            return client.send(self.fill(sent)).answer()

    def is_well(self) -> None:
        """A good request on a fresh connection is answered."""
        is_pong(self.ask(request()))

    def check(self, row: Row) -> None:
        """Send a row, and judge what comes of it; what is sent behind it shows where its end was seen."""
        with self.client() as client:
            sent = self.fill(row.sent)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError):
                client.send(sent + (self.fill(request()) if row.closes else b""))
            if row.status:
                judge(row, client.head() if sent.startswith(b"HEAD ") else client.answer())
            if row.closes or not row.status:
                assert client.is_closed(), "something came behind the last answer"
            else:
                is_pong(client.send(self.fill(request())).answer())
        self.is_well()


def is_pong(answer: Answer) -> None:
    """Assert that this answers a `ping`."""
    assert answer.status == 200, answer
    assert json.loads(answer.body) == {"jsonrpc": "2.0", "id": 1, "result": {}}


def judge(row: Row, answer: Answer) -> None:
    """Assert that an answer is the one that a row expects."""
    assert answer.status == row.status, answer
    assert (answer.fields.get("connection") == "close") == row.closes, answer
    assert "server" not in answer.fields
    assert (answer.fields.get("www-authenticate") == "Bearer") == (row.status == 401), answer
    if row.status in (202, 204):
        assert not answer.body
    elif row.code is not None:
        message = json.loads(answer.body)
        assert set(message) == {"jsonrpc", "id", "error"} and message["error"]["message"], message
        assert (message["error"]["code"], message["error"]["data"]["reason"]) == (row.code, row.reason), message
        assert len(answer.body) < 2000, "an error repeats what was sent to it"
    elif answer.body and row.status >= 400:
        assert json.loads(answer.body)["error"]
    elif answer.body:
        message = json.loads(answer.body)
        assert isinstance(message, list) or ("result" in message and not message["result"].get("isError")), message
