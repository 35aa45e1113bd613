"""A client without a socket, for the tests of the protocol: it puts requests into an endpoint and reads the answers."""

from __future__ import annotations

import json
from email.message import Message as HttpHeaders
from typing import Any

from fleetshell_tools.relay.eras import MODERN_VERSION, VERSION_KEY
from fleetshell_tools.relay.exchange import Answer, Calls, HttpRequest, Listen
from fleetshell_tools.relay.protocol import Endpoint
from fleetshell_tools.relay.sessions import Session, Sessions

TOOLS = b'[ {"name":"execute_command",  "inputSchema":{"type":"object"}} ]'
SERVER = {"name": "fleetshell", "title": "FleetShell", "version": "0.1.0"}


class Client:
    """One API key that talks to an endpoint, in a session or not; `headers` of None leave one out."""

    def __init__(self, key: str = "alice") -> None:
        self.seconds = 1000.0
        self.sessions = Sessions(now=lambda: self.seconds)
        self.endpoint = Endpoint(
            server_info=SERVER,
            instructions="Call authenticate first.",
            list_tools=lambda: TOOLS,
            sessions=self.sessions,
        )
        self.key = key
        self.session_id: str | None = None

    def send(self, method: str, body: bytes, headers: dict[str, str | None] | None = None) -> Answer | Calls | Listen:
        every: dict[str, str | None] = {"Mcp-Session-Id": self.session_id}
        if method == "POST":
            every |= {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        message = HttpHeaders()
        for name, value in (every | (headers or {})).items():
            if value is not None:
                message[name] = value
        return self.endpoint.receive(HttpRequest(method, message, body, self.key))

    def post(self, message: Any, headers: dict[str, str | None] | None = None) -> Answer | Calls | Listen:
        return self.send("POST", message if isinstance(message, bytes) else json.dumps(message).encode(), headers)

    def request(
        self, method: str, params: Any = None, *, id: Any = 1, **headers: str | None
    ) -> Answer | Calls | Listen:
        return self.post(rpc(method, params, id=id), {name.replace("_", "-"): text for name, text in headers.items()})

    def start(self, version: str = "2025-11-25") -> Session:
        answer = self.request("initialize", hello(version), id=0)
        assert isinstance(answer, Answer)
        assert answer.status == 200
        self.session_id = dict(answer.headers)["Mcp-Session-Id"]
        return self.sessions.find(self.key, self.session_id)

    def call(self, id: Any = 1, **params: Any) -> Calls:
        calls = self.request("tools/call", {"name": "execute_command", **params}, id=id)
        assert isinstance(calls, Calls)
        return calls


def rpc(method: str, params: Any = None, **members: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": method, **({} if params is None else {"params": params}), **members}


def hello(version: Any = "2025-11-25", **changes: Any) -> dict[str, Any]:
    client = {"name": "claude-ai (via mcp-remote 0.15.1)", "version": "0.1.0"}
    return {"protocolVersion": version, "capabilities": {}, "clientInfo": client, **changes}


def modern(version: Any = MODERN_VERSION) -> dict[str, Any]:
    return {"_meta": {VERSION_KEY: version}}


def read(answer: object, status: int = 200) -> Any:
    """The JSON of an answer that must have this status."""
    assert isinstance(answer, Answer), answer
    assert (answer.status, answer.content_type) == (status, "application/json"), answer.body
    return json.loads(answer.body)


def code(answer: object, status: int = 200) -> int:
    error = read(answer, status)["error"]
    assert error["message"]
    return int(error["code"])
