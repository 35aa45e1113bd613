"""What the HTTP server and the protocol hand to each other, and the reading of the headers between them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from fleetshell_tools.core.types import Cancellation
from fleetshell_tools.relay.jsonrpc import RequestId, RpcError
from fleetshell_tools.relay.sessions import Session, Stream

JSON = "application/json"
EVENT_STREAM = "text/event-stream"


class Headers(Protocol):
    """The headers of a request, as `http.server` has them: names are case-insensitive."""

    def get_all(self, name: str, /) -> list[str] | None:
        """The values of every header of that name, in order; None or [] where there is none."""


@dataclass(frozen=True)
class HttpRequest:
    """One HTTP request whose API key is verified already: `key_id` is the digest that stands for the key."""

    method: str
    headers: Headers
    body: bytes
    key_id: str

    def header(self, name: str) -> str | None:
        """A header's value without the blanks around it, or None.

        Repeated headers are joined by commas (RFC 9110, section 5.2), so that a header that must stand alone has a
        value that nothing matches when it stands twice.
        """
        values = self.headers.get_all(name)
        return ", ".join(value.strip(" \t") for value in values) if values else None


@dataclass(frozen=True)
class Answer:
    """A whole HTTP answer; with an empty body there is no content type."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = JSON


@dataclass(frozen=True, eq=False)
class ToolCall:
    """A tool that the caller is to run; `version` is the protocol version that its result is written for."""

    request_id: RequestId
    session: Session
    name: str
    arguments: dict[str, Any]
    progress_token: RequestId | None
    cancelled: Cancellation
    version: str


@dataclass(frozen=True)
class Calls:
    """The tool calls of one POST, among the answers that are ready; `Endpoint.finish` must follow.

    `parts` has the order of the messages; with `batch` the answer is an array even where it has one element.
    """

    parts: list[bytes | ToolCall]
    batch: bool = False
    calls: list[ToolCall] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "calls", [part for part in self.parts if isinstance(part, ToolCall)])


@dataclass(frozen=True)
class Listen:
    """A GET stream to be opened: give its sink to `stream.attach`; `Endpoint.hang_up` must follow once it has ended."""

    session: Session
    stream: Stream


@dataclass(frozen=True)
class ToolResult:
    """What a tool answered: content blocks of MCP, and the same for programs."""

    content: list[dict[str, Any]]
    structured: dict[str, Any] | None = None
    is_error: bool = False


Outcome = ToolResult | RpcError


def accepts(header: str | None, offered: str) -> bool:
    """Whether an `Accept` header lets a media type through (RFC 9110, section 12.5.1); without one everything goes."""
    if not header:
        return True
    best, allowed = -1, False
    for entry in header.lower().split(","):
        media_range, *parameters = (piece.strip() for piece in entry.split(";"))
        exactness = _exactness(media_range, offered)
        if exactness > best:
            best, allowed = exactness, not any(_is_zero_weight(parameter) for parameter in parameters)
    return allowed


def _exactness(media_range: str, offered: str) -> int:
    if media_range == offered:
        return 2
    if media_range == offered.partition("/")[0] + "/*":
        return 1
    return 0 if media_range == "*/*" else -1


def _is_zero_weight(parameter: str) -> bool:
    name, _, value = parameter.partition("=")
    return name.strip() == "q" and value.strip().rstrip("0") in ("", "0.", ".")


def is_json(content_type: str | None) -> bool:
    """Whether a `Content-Type` header names JSON, with or without parameters."""
    return (content_type or "").partition(";")[0].strip().lower() == JSON
