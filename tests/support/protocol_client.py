"""A client without a socket, for the tests of the protocol: it puts requests into an endpoint and reads the answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from email.message import Message as HttpHeaders
from typing import Any

from fleetshell_tools.relay.eras import MODERN_VERSION, VERSION_KEY
from fleetshell_tools.relay.exchange import Answer, Calls, HttpRequest, Listen, Offer, Outcome, Subscription
from fleetshell_tools.relay.modern import CAPABILITIES_KEY, CLIENT_KEY
from fleetshell_tools.relay.protocol import Endpoint
from fleetshell_tools.relay.sessions import Session, Sessions

TOOLS = b'[ {"name":"execute_command",  "inputSchema":{"type":"object"}} ]'
LISTINGS = {
    "tools/list": TOOLS,
    "prompts/list": b'[{"name":"health"}]',
    "resources/list": b"[]",
    "resources/templates/list": b'[{"uriTemplate":"fleetshell://servers/{id}","name":"server"}]',
}
SERVER = {"name": "fleetshell", "title": "FleetShell", "version": "0.1.0"}
CAPABILITIES: dict[str, Any] = {
    "tools": {"listChanged": True},
    "prompts": {"listChanged": True},
    "resources": {"subscribe": True},
}
Received = Answer | Calls | Listen | Subscription


class Everything:
    """An offer that has each kind of thing; a test takes away what it wants missing."""

    def __init__(self) -> None:
        self.instructions = "Call authenticate first."
        self.listings: dict[str, bytes] = dict(LISTINGS)
        self.shared: dict[str, Any] = dict(CAPABILITIES)
        self.methods = {"prompts/get", "resources/read", "completion/complete"}

    def capabilities(self, modern: bool) -> Mapping[str, Any]:
        return self.shared if modern else {**self.shared, "logging": {}}

    def listing(self, method: str, modern: bool) -> bytes | None:
        return self.listings.get(method)

    def runs(self, method: str) -> bool:
        return method in self.methods


class Wire:
    """A sink that keeps the messages of a stream."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.closed = False

    def send(self, event: bytes) -> bool:
        first, second, *rest = event.split(b"\n")
        assert (first, rest) == (b"event: message", [b"", b""])
        self.messages.append(json.loads(second.removeprefix(b"data: ")))
        return True

    def close(self) -> None:
        self.closed = True

    @property
    def methods(self) -> list[str]:
        return [message.get("method", "result") for message in self.messages]


class Client:
    """One API key that talks to an endpoint, in a session or not; `headers` of None leave one out."""

    def __init__(self, key: str = "alice", offer: Offer | None = None, **settings: Any) -> None:
        self.seconds = 1000.0
        self.sessions = Sessions(now=lambda: self.seconds)
        self.endpoint = Endpoint(server_info=SERVER, offer=offer or Everything(), sessions=self.sessions, **settings)
        self.key = key
        self.session_id: str | None = None

    def send(self, method: str, body: bytes, headers: Mapping[str, str | list[str] | None] | None = None) -> Received:
        """Send an HTTP request; a header whose value is a list stands once for each element."""
        every: dict[str, str | list[str] | None] = {"Mcp-Session-Id": self.session_id}
        if method == "POST":
            every |= {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        message = HttpHeaders()
        for name, value in (every | dict(headers or {})).items():
            for single in [value] if isinstance(value, str) else value or []:
                message[name] = single
        return self.endpoint.receive(HttpRequest(method, message, body, self.key))

    def post(self, message: Any, headers: Mapping[str, str | list[str] | None] | None = None) -> Received:
        return self.send("POST", message if isinstance(message, bytes) else json.dumps(message).encode(), headers)

    def request(self, method: str, params: Any = None, *, id: Any = 1, **headers: str | None) -> Received:
        return self.post(rpc(method, params, id=id), {name.replace("_", "-"): text for name, text in headers.items()})

    def start(self, version: str = "2025-11-25", **changes: Any) -> Session:
        answer = self.request("initialize", hello(version, **changes), id=0)
        assert isinstance(answer, Answer)
        assert answer.status == 200
        self.session_id = dict(answer.headers)["Mcp-Session-Id"]
        return self.sessions.find(self.key, self.session_id)

    def call(self, id: Any = 1, **params: Any) -> Calls:
        calls = self.request("tools/call", {"name": "execute_command", **params}, id=id)
        assert isinstance(calls, Calls)
        return calls

    def modern(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        id: Any = 1,
        meta: Mapping[str, Any] | None = None,
        headers: Mapping[str, str | list[str] | None] | None = None,
    ) -> Received:
        """Send a request of 2026-07-28 with everything that it needs; `meta` and `headers` change that, None takes away."""
        every = {key: value for key, value in {**ENVELOPE, **(meta or {})}.items() if value is not None}
        body = rpc(method, {**(params or {}), "_meta": every}, id=id)
        return self.post(body, modern_headers(method, params or {}) | dict(headers or {}))

    def modern_call(self, id: Any = 1, **changes: Any) -> Calls:
        calls = self.modern("tools/call", {"name": "execute_command"}, id=id, **changes)
        assert isinstance(calls, Calls)
        return calls

    def modern_call_with(self, arguments: dict[str, Any], cookie: str | list[str] | None, session: Any) -> Calls:
        """A call of 2026-07-28 with what may carry a grant: in a cookie, and in `_meta`."""
        received = self.modern(
            "tools/call",
            {"name": "execute_command", "arguments": arguments},
            meta={"dev.fleetshell/session": session},
            headers={"Cookie": cookie},
        )
        assert isinstance(received, Calls), received
        return received

    def answer(self, received: object, *outcomes: Outcome) -> Answer:
        """Finish calls with these outcomes."""
        assert isinstance(received, Calls), received
        return self.endpoint.finish(received, outcomes)

    def listen(self, id: Any = 1, **wish: Any) -> tuple[Subscription, Wire]:
        """Open a subscription of 2026-07-28, with a wire at its stream."""
        subscription = self.modern("subscriptions/listen", {"notifications": wish}, id=id)
        assert isinstance(subscription, Subscription), subscription
        wire = Wire()
        subscription.stream.attach(wire)
        return subscription, wire


ENVELOPE: dict[str, Any] = {
    VERSION_KEY: MODERN_VERSION,
    CAPABILITIES_KEY: {},
    CLIENT_KEY: {"name": "claude-code", "version": "3.0"},
}


def modern_headers(method: str, params: Mapping[str, Any]) -> dict[str, str | list[str] | None]:
    """The headers that repeat parts of a request."""
    name = params.get("uri" if method == "resources/read" else "name")
    named = method in ("tools/call", "prompts/get", "resources/read") and isinstance(name, str)
    headers: dict[str, str | list[str] | None] = {"MCP-Protocol-Version": MODERN_VERSION, "Mcp-Method": method}
    return headers | ({"Mcp-Name": name} if named else {})


def rpc(method: str, params: Any = None, **members: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": method, **({} if params is None else {"params": params}), **members}


def hello(version: Any = "2025-11-25", **changes: Any) -> dict[str, Any]:
    client = {"name": "claude-ai (via mcp-remote 0.15.1)", "version": "0.1.0"}
    return {"protocolVersion": version, "capabilities": {}, "clientInfo": client, **changes}


def modern(version: Any = MODERN_VERSION) -> dict[str, Any]:
    """Parameters that name a version, and nothing else of the envelope."""
    return {"_meta": {VERSION_KEY: version}}


def read(answer: object, status: int = 200) -> Any:
    """The JSON of an answer that must have this status."""
    assert isinstance(answer, Answer), answer
    assert (answer.status, answer.content_type) == (status, "application/json"), answer.body
    return json.loads(answer.body)


def code(answer: object, status: int = 200) -> int:
    error = read(answer, status)["error"]
    assert error["message"]
    assert error["data"]["reason"]
    return int(error["code"])
