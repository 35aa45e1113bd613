"""A small MCP client over HTTP for tests: `http.client` and JSON, so that a test sees exactly what goes over the wire."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass
class Reply:
    """An HTTP answer; `json` is its body where it is JSON, and the last message where it is an event stream."""

    status: int
    headers: dict[str, str]
    body: bytes
    json: Any = None


@dataclass
class Client:
    """One MCP session of the `initialize` era over one keep-alive connection."""

    connection: http.client.HTTPConnection
    key: str
    session: str = ""
    version: str = "2025-11-25"
    _ids: Iterator[int] = field(default_factory=lambda: iter(range(1, 1_000_000)))

    def post(self, body: Any, **headers: str) -> Reply:
        """POST a body (bytes as they are, anything else as JSON)."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        fields = {
            "Authorization": f"Bearer {self.key}",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
        }
        if self.session:
            fields["Mcp-Session-Id"] = self.session
            fields["MCP-Protocol-Version"] = self.version
        fields.update({name.replace("_", "-"): value for name, value in headers.items()})
        return self.request("POST", raw, {name: value for name, value in fields.items() if value})

    def request(self, method: str, body: bytes | None, headers: dict[str, str], path: str = "/mcp") -> Reply:
        self.connection.request(method, path, body, headers)
        answer = self.connection.getresponse()
        raw = answer.read()
        parsed = None
        if raw and "json" in (answer.getheader("Content-Type") or ""):
            parsed = json.loads(raw)
        elif raw and "event-stream" in (answer.getheader("Content-Type") or ""):
            messages = [line[6:] for line in raw.decode().splitlines() if line.startswith("data: {")]
            parsed = json.loads(messages[-1]) if messages else None
        return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, raw, parsed)

    def initialize(self, version: str = "2025-11-25") -> dict[str, Any]:
        reply = self.rpc(
            "initialize", protocolVersion=version, capabilities={}, clientInfo={"name": "test", "version": "1"}
        )
        assert reply.status == 200, reply
        self.session = reply.headers["mcp-session-id"]
        self.version = reply.json["result"]["protocolVersion"]
        assert self.post({"jsonrpc": "2.0", "method": "notifications/initialized"}).status == 202
        result: dict[str, Any] = reply.json["result"]
        return result

    def rpc(self, method: str, **params: Any) -> Reply:
        return self.post({"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params})

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool; returns the JSON-RPC answer's `result`, or its `error` under that name."""
        reply = self.rpc("tools/call", name=tool, arguments=arguments)
        assert reply.status == 200, reply
        answer: dict[str, Any] = reply.json.get("result") or {"error": reply.json["error"]}
        return answer

    def text(self, tool: str, **arguments: Any) -> str:
        result = self.call(tool, **arguments)
        assert "error" not in result, result
        return str(result["content"][0]["text"])


class _Home(Protocol):
    @property
    def certificate(self) -> Path: ...
    @property
    def api_key(self) -> str: ...


class Reachable(Protocol):
    """What a client has to know of a running relay."""

    @property
    def scheme(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def home(self) -> _Home: ...


@contextlib.contextmanager
def connected(relay: Reachable, *, key: str = "", initialize: bool = True, timeout: float = 30) -> Iterator[Client]:
    """A client of a running relay, over TLS where the relay has it."""
    connection: http.client.HTTPConnection
    if relay.scheme == "https":
        context = ssl.create_default_context(cafile=str(relay.home.certificate))
        connection = http.client.HTTPSConnection("127.0.0.1", relay.port, context=context, timeout=timeout)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", relay.port, timeout=timeout)
    client = Client(connection, key or relay.home.api_key)
    try:
        if initialize:
            client.initialize()
        yield client
    finally:
        if client.session:
            client.request("DELETE", None, {"Authorization": f"Bearer {client.key}", "Mcp-Session-Id": client.session})
        connection.close()
