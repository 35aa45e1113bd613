"""What a fixture of the conformance suites is, and what it may do while it runs."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import struct
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fleetshell_tools.core.types import Principal
from fleetshell_tools.relay.exchange import Call, Conversation, InputRequired, Outcome, ToolResult
from fleetshell_tools.relay.jsonrpc import INVALID_PARAMS, RpcError
from fleetshell_tools.relay.params import LOG_LEVELS

ANSWER_SECONDS = 20.0
STATE_SECONDS = 300.0
NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}


class Refused(Exception):
    """A fixture answers with a JSON-RPC error."""

    def __init__(self, code: int, message: str, data: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.error = RpcError(code, message, data)


class States:
    """Seals the `requestState` that a client carries from one round to the next: signed, bound to its owner, and expiring."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def seal(self, owner: str, name: str, content: Mapping[str, Any]) -> str:
        ends = time.monotonic() + STATE_SECONDS
        body = json.dumps({"owner": owner, "name": name, "ends": ends, "content": content}).encode()
        return f"{base64.urlsafe_b64encode(body).decode()}.{self._signature(body)}"

    def open(self, owner: str, name: str, sealed: object) -> dict[str, Any]:
        """What was sealed.

        Raises:
            Refused: It was tampered with, is another's, another tool's, or too old.
        """
        encoded, _, signature = str(sealed).partition(".")
        try:
            body = base64.urlsafe_b64decode(encoded)
        except ValueError:
            body = b""
        if hmac.compare_digest(signature.encode(), self._signature(body).encode()):
            state = json.loads(body)
            if (state["owner"], state["name"]) == (owner, name) and state["ends"] > time.monotonic():
                content: dict[str, Any] = state["content"]
                return content
        raise Refused(INVALID_PARAMS, "The requestState is not one that this server gave out; call again without it.")

    def _signature(self, body: bytes) -> str:
        return hmac.new(self._key, body, hashlib.sha256).hexdigest()


@dataclass
class Work:
    """One running call of a fixture.

    Args:
        changed: Tells the clients that a list has changed: "tools", "prompts" or "resources".
    """

    principal: Principal
    call: Call
    conversation: Conversation
    states: States
    changed: Callable[[str], None]

    @property
    def arguments(self) -> dict[str, Any]:
        return self.call.arguments

    @property
    def inputs(self) -> dict[str, Any]:
        """The client's `inputResponses`; {} where there are none, or none that can be read."""
        given = self.call.params.get("inputResponses")
        return given if isinstance(given, dict) else {}

    def pause(self) -> None:
        """Let 50 ms pass, which the suites prescribe between two notifications."""
        self.call.cancelled.wait(0.05)

    def log(self, text: str) -> None:
        """A log message for the client, if it wants those of the level `info`."""
        wanted = self.call.peer.log_level
        if wanted is not None and LOG_LEVELS.index(wanted) <= LOG_LEVELS.index("info"):
            self.conversation.notify("notifications/message", {"level": "info", "logger": "fixture", "data": text})

    def progress(self, done: float, total: float) -> None:
        token = self.call.progress_token
        if token is not None:
            content = {"progressToken": token, "progress": done, "total": total}
            self.conversation.notify("notifications/progress", content)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Ask the client in the middle of a call, which only the `initialize` era has."""
        return self.conversation.request(request["method"], request["params"], ANSWER_SECONDS)

    def state(self) -> dict[str, Any]:
        """The state of the round before; {} in the first."""
        sealed = self.call.params.get("requestState")
        return {} if sealed is None else self.states.open(self.principal.key_id, self.call.name, sealed)

    def need(self, requests: dict[str, Any], state: Mapping[str, Any] | None = None) -> InputRequired:
        """End this round: the client is to answer these requests and to call again."""
        sealed = None if state is None else self.states.seal(self.principal.key_id, self.call.name, state)
        return InputRequired(requests, sealed)


Run = Callable[[Work], Outcome]


@dataclass(frozen=True)
class Tool:
    """A tool of the registry; `schema` is its inputSchema."""

    name: str
    description: str
    run: Run
    schema: Mapping[str, Any] = field(default_factory=lambda: NO_ARGUMENTS)

    def definition(self) -> dict[str, Any]:
        hints = {"readOnlyHint": True, "destructiveHint": False, "idempotentHint": True, "openWorldHint": False}
        return {
            "name": self.name,
            "title": self.description,
            "description": self.description,
            "inputSchema": dict(self.schema),
            "annotations": hints,
        }


def text(words: str) -> dict[str, Any]:
    """A content block of text."""
    return {"type": "text", "text": words}


def said(words: str) -> ToolResult:
    """A tool's result of one text."""
    return ToolResult([text(words)])


def elicit(message: str, properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    """A request for the user's input; every property is required unless `required` says which."""
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    schema["required"] = list(properties) if required is None else required
    return {"method": "elicitation/create", "params": {"message": message, "requestedSchema": schema}}


def sample(words: str, tokens: int = 100) -> dict[str, Any]:
    """A request to the client's model."""
    messages = [{"role": "user", "content": text(words)}]
    return {"method": "sampling/createMessage", "params": {"messages": messages, "maxTokens": tokens}}


ROOTS: dict[str, Any] = {"method": "roots/list", "params": {}}


def _png() -> bytes:
    """One red pixel (PNG, ISO/IEC 15948)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixel = zlib.compress(b"\0\xff\0\0")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")


def _wav() -> bytes:
    """A sound of no samples: mono, 8 kHz, 8 bit (RIFF)."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8000, 8000, 1, 8)
    data = struct.pack("<4sI", b"data", 0)
    return struct.pack("<4sI4s", b"RIFF", 4 + len(form) + len(data), b"WAVE") + form + data


PNG = base64.b64encode(_png()).decode()
WAV = base64.b64encode(_wav()).decode()
IMAGE = {"type": "image", "data": PNG, "mimeType": "image/png"}
AUDIO = {"type": "audio", "data": WAV, "mimeType": "audio/wav"}


def embedded(uri: str, media_type: str, words: str) -> dict[str, Any]:
    """A content block that holds a resource."""
    return {"type": "resource", "resource": {"uri": uri, "mimeType": media_type, "text": words}}
