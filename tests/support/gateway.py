"""A gateway behind a real HTTP server, whose tools a test holds in its hand, and a client that reads its answers."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from fleetshell_tools.core.types import Principal
from fleetshell_tools.relay.conversation import CallConversation
from fleetshell_tools.relay.exchange import Call, Conversation, Outcome, ToolResult
from fleetshell_tools.relay.gateway import Gateway, HostNames
from fleetshell_tools.relay.httpd import Limits
from fleetshell_tools.relay.protocol import Endpoint
from fleetshell_tools.relay.sessions import Session, Sessions
from support.http_client import PATIENCE, Answer, Client, Running

OWNER = Principal("owner")
MODERN = "2026-07-28"
BOTH = "application/json, text/event-stream"

Tool = Callable[[Call, CallConversation], Outcome]


def text(words: str) -> ToolResult:
    """A result that says something."""
    return ToolResult([{"type": "text", "text": words}])


class Offering:
    """What the server has: tools that are in no list, and lists that can change."""

    instructions = ""

    def capabilities(self, modern: bool) -> Mapping[str, Any]:
        return {"tools": {"listChanged": True}, "resources": {"subscribe": True}}

    def listing(self, method: str, modern: bool) -> bytes | None:
        return b"[]"

    def runs(self, method: str) -> bool:
        return False


class Held:
    """A tool that runs until it is released or cancelled."""

    def __init__(self) -> None:
        self.running = threading.Event()
        self.release = threading.Event()
        self.cancelled = threading.Event()
        self.returned = threading.Event()
        self._conversation: CallConversation | None = None

    def __call__(self, call: Call, conversation: CallConversation) -> Outcome:
        self._conversation = conversation

        def cancel() -> None:
            self.cancelled.set()
            self.release.set()

        forget = call.cancelled.on_set(cancel)
        self.running.set()
        assert self.release.wait(PATIENCE)
        forget()
        self.returned.set()
        return text("done")

    @property
    def conversation(self) -> CallConversation:
        assert self.running.wait(PATIENCE)
        assert self._conversation is not None
        return self._conversation


@dataclass
class Event:
    """A server-sent event."""

    id: str | None = None
    data: str = ""
    retry: str | None = None

    @property
    def message(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.data)
        return message


@dataclass
class McpClient:
    """A client of one connection; a legacy one once it has a session."""

    wire: Client
    session: str = ""
    version: str = ""
    accept: str = BOTH
    last_id: int = 0
    more: list[tuple[str, str]] = field(default_factory=list)

    def send(self, http_method: str, body: bytes = b"", **fields: str) -> McpClient:
        """Send a request; underscores in the names of fields are hyphens."""
        lines = [f"{http_method} /mcp HTTP/1.1", "Host: localhost", "Authorization: Bearer right"]
        if self.accept:
            lines.append(f"Accept: {self.accept}")
        if self.session:
            lines += [f"Mcp-Session-Id: {self.session}", f"MCP-Protocol-Version: {self.version}"]
        if body:
            lines += ["Content-Type: application/json"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        if http_method == "POST":
            lines.append(f"Content-Length: {len(body)}")
        self.wire.send("\r\n".join([*lines, "", ""]).encode() + body)
        return self

    def rpc(self, method: str, params: dict[str, Any] | None = None, **fields: str) -> McpClient:
        """Send a JSON-RPC request."""
        self.last_id += 1
        message = {"jsonrpc": "2.0", "id": self.last_id, "method": method, "params": params or {}}
        return self.send("POST", json.dumps(message).encode(), **fields)

    def post(self, message: object) -> int:
        """Send any message; returns the status of its answer."""
        return self.send("POST", json.dumps(message).encode()).wire.answer().status

    def call(self, name: str, **meta: Any) -> McpClient:
        """Call a tool."""
        params: dict[str, Any] = {"name": name, "arguments": {}}
        if self.session:
            return self.rpc("tools/call", {**params, "_meta": meta})
        prefix = "io.modelcontextprotocol/"
        meta |= {f"{prefix}protocolVersion": MODERN, f"{prefix}clientCapabilities": {}}
        return self.rpc(
            "tools/call", {**params, "_meta": meta}, MCP_Protocol_Version=MODERN, Mcp_Method="tools/call", Mcp_Name=name
        )

    def head(self) -> Answer:
        return self.wire.head()

    def json(self) -> dict[str, Any]:
        """An answer that is JSON."""
        answer = self.wire.answer()
        assert (answer.status, answer.fields["content-type"]) == (200, "application/json"), answer
        message: dict[str, Any] = json.loads(answer.body)
        return message

    def event(self) -> Event | None:
        """The next event that is no ping; None at the end of the stream."""
        while True:
            chunk = self.wire.chunk().decode()
            if not chunk:
                return None
            if chunk.startswith(":"):
                continue
            fields = dict(line.split(": ", 1) for line in chunk.strip("\n").split("\n"))
            return Event(fields.get("id"), fields.get("data", ""), fields.get("retry"))

    def events(self) -> list[Event]:
        """All events up to the end of the stream."""
        events = []
        while event := self.event():
            events.append(event)
        return events

    def hang_up(self) -> None:
        self.wire.sock.close()


class Desk:
    """The server, its clock, and its tools by name."""

    def __init__(self, quiet: float, patience: float) -> None:
        self.now = 1000.0
        self.tools: dict[str, Tool] = {"quick": lambda call, conversation: text("quick")}
        self.sessions = Sessions(now=lambda: self.now)
        self.endpoint = Endpoint(server_info={}, offer=Offering(), sessions=self.sessions)
        self.gateway = Gateway(
            self.endpoint,
            lambda header: OWNER if header == "Bearer right" else None,
            self,
            HostNames([]),
            logging.getLogger("test.gateway"),
            patience,
            quiet,
            lambda: self.now,
            look_every=0.005,
        )
        self.http = Running(Limits(), None, None, self.gateway)

    def is_quick(self, call: Call) -> bool:
        return False

    def run(self, principal: Principal, call: Call, conversation: Conversation) -> Outcome:
        # In a batch it is another one, of which tools use what every conversation has.
        return self.tools[call.name](call, cast("CallConversation", conversation))

    def modern(self) -> McpClient:
        return McpClient(self.http.client())

    def legacy(self, version: str = "2025-11-25") -> McpClient:
        """A client with a session of its own."""
        client = McpClient(self.http.client())
        info = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
        client.session = client.rpc("initialize", info).wire.answer().fields["mcp-session-id"]
        client.version = version
        assert client.post({"jsonrpc": "2.0", "method": "notifications/initialized"}) == 202
        return client

    def beside(self, client: McpClient) -> McpClient:
        """Another connection of the same client."""
        return McpClient(self.http.client(), client.session, client.version)

    def session_of(self, client: McpClient) -> Session:
        (session,) = (session for session in self.sessions.live() if session.id == client.session)
        return session

    @contextlib.contextmanager
    def held(self, name: str = "held") -> Iterator[Held]:
        """A tool that runs until the block ends, at the latest."""
        tool = Held()
        self.tools[name] = tool
        try:
            yield tool
        finally:
            tool.release.set()

    def close(self) -> None:
        self.endpoint.cancel_all("the test is over")
        self.http.stop()
        self.gateway.close()


@contextlib.contextmanager
def desk(quiet: float = 1.0, patience: float = 45.0) -> Iterator[Desk]:
    made = Desk(quiet, patience)
    try:
        yield made
    finally:
        made.close()
