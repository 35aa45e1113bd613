"""A client of protocol version 2026-07-28 for tests: every request carries its envelope, and cookies only where it is told to."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from support.mcp_client import Reply
from support.relay import RelayProcess

VERSION = "2026-07-28"
NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}


@dataclass
class ModernClient:
    """One connection; `cookie` is what the server set last, and is sent where `keeps_cookies`."""

    connection: http.client.HTTPConnection
    key: str
    keeps_cookies: bool = True
    cookie: str = ""
    meta: dict[str, Any] = field(default_factory=dict)
    _ids: Iterator[int] = field(default_factory=lambda: iter(range(1, 1_000_000)))

    def envelope(self) -> dict[str, Any]:
        prefix = "io.modelcontextprotocol/"
        return {
            f"{prefix}protocolVersion": VERSION,
            f"{prefix}clientCapabilities": {},
            f"{prefix}clientInfo": {"name": "modern", "version": "1"},
            **self.meta,
        }

    def send(self, method: str, **params: Any) -> None:
        """Send a request without waiting for its answer."""
        body = {"jsonrpc": "2.0", "id": next(self._ids), "method": method}
        body["params"] = {**params, "_meta": {**self.envelope(), **params.get("_meta", {})}}
        headers = {
            "Authorization": f"Bearer {self.key}",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": VERSION,
            "Mcp-Method": method,
        }
        if method in NAMED:
            headers["Mcp-Name"] = params[NAMED[method]]
        if self.cookie and self.keeps_cookies:
            headers["Cookie"] = self.cookie
        self.connection.request("POST", "/mcp", json.dumps(body).encode(), headers)

    def rpc(self, method: str, **params: Any) -> Reply:
        """Send a request; the answer's JSON is the last message of an event stream."""
        self.send(method, **params)
        answer = self.connection.getresponse()
        raw = answer.read()
        for value in answer.headers.get_all("Set-Cookie") or ():
            self.cookie = value.partition(";")[0]
        messages = [raw]
        if "event-stream" in (answer.getheader("Content-Type") or ""):
            messages = [line[6:] for line in raw.splitlines() if line.startswith(b"data: {")]
        parsed = json.loads(messages[-1]) if raw else None
        return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, raw, parsed)

    def call(self, tool: str, _meta: dict[str, Any] | None = None, **arguments: Any) -> dict[str, Any]:
        """Call a tool; returns its `result`, or its `error` under that name."""
        reply = self.rpc("tools/call", name=tool, arguments=arguments, **({"_meta": _meta} if _meta else {}))
        answer: dict[str, Any] = reply.json.get("result") or {"error": reply.json["error"]}
        return answer


@contextlib.contextmanager
def modern(relay: RelayProcess, key: str = "", *, cookies: bool = True) -> Iterator[ModernClient]:
    """A client of a running relay over TLS.

    Args:
        key: In place of the relay's own API key.
    """
    context = ssl.create_default_context(cafile=str(relay.home.certificate))
    connection = http.client.HTTPSConnection("127.0.0.1", relay.port, context=context, timeout=30)
    try:
        yield ModernClient(connection, key or relay.home.api_key, cookies)
    finally:
        connection.close()
