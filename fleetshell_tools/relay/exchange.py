"""What the HTTP server, the protocol and whoever runs a call hand to each other, and the reading of headers between them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

from fleetshell_tools.core.errors import FleetShellError
from fleetshell_tools.core.types import Cancellation, Principal
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
    headers: Headers = field(repr=False)
    body: bytes = field(repr=False)
    key_id: str

    def values(self, name: str) -> list[str]:
        """Every value of a header without the blanks around it, which the parser of the standard library keeps."""
        return [value.strip(" \t") for value in self.headers.get_all(name) or ()]

    def header(self, name: str) -> str | None:
        """A header's value without the blanks around it, or None.

        Repeated headers are joined by commas (RFC 9110, section 5.2), so that a header that must stand alone has a
        value that nothing matches when it stands twice.
        """
        values = self.values(name)
        return ", ".join(values) if values else None


@dataclass(frozen=True)
class Answer:
    """A whole HTTP answer; with an empty body there is no content type."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = JSON


@dataclass(frozen=True, eq=False)
class Peer:
    """Who is at the other end of a call.

    Attributes:
        key_id: The digest of the API key.
        version: The protocol version that answers are written for.
        name, client_version: What the client calls itself: for display, never for a decision.
        capabilities: What the client declared.
        session: Its session, or None in the modern era, which has none.
        handles: What may carry the TOTP grant of a modern client, the most trusted carrier first. Secrets.
        log_level: The least severe `notifications/message` that it wants, or None for none.
    """

    key_id: str
    version: str
    name: str = ""
    client_version: str = ""
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    session: Session | None = None
    handles: tuple[str, ...] = field(default=(), repr=False)
    log_level: str | None = None

    @property
    def modern(self) -> bool:
        return self.session is None

    @property
    def digest(self) -> str:
        """What stands in logs for the session or the handle; "" where there is neither."""
        if self.session is not None:
            return self.session.digest
        return hashlib.sha256(self.handles[0].encode()).hexdigest()[:12] if self.handles else ""


@dataclass(frozen=True, eq=False)
class Call:
    """One request that somebody must work on.

    Attributes:
        method: `tools/call`, or another method that the offer says it runs.
        params: All of them, without what carries a grant. Never logged: there may be secrets of the user in them.
        name: `params.name` of `tools/call` and `prompts/get`, `params.uri` of `resources/read`; checked already.
        arguments: `params.arguments` of `tools/call` and `prompts/get`; checked to be an object.
    """

    request_id: RequestId
    peer: Peer
    method: str
    params: dict[str, Any] = field(repr=False)
    cancelled: Cancellation
    name: str = ""
    arguments: dict[str, Any] = field(default_factory=dict, repr=False)
    progress_token: RequestId | None = None


@dataclass(frozen=True)
class Calls:
    """The calls of one POST, among the answers that are ready; `Endpoint.finish` must follow.

    `parts` has the order of the messages; with `batch` the answer is an array even where it has one element.
    """

    parts: list[bytes | Call]
    batch: bool = False
    calls: list[Call] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "calls", [part for part in self.parts if isinstance(part, Call)])


@dataclass(frozen=True, eq=False)
class Listen:
    """A legacy GET stream to be opened: give its sink to `stream.attach`; `Endpoint.hang_up` must follow once it has ended.

    Attributes:
        last_event_id: What a resuming client saw last, or None. A resumed stream is not the session's standing one.
    """

    session: Session
    stream: Stream
    last_event_id: str | None = None


@dataclass(frozen=True, eq=False)
class Subscription:
    """A modern `subscriptions/listen`: an event stream to be opened and used as that of `Listen` is.

    Its first event, the acknowledgement, waits in the stream.

    Attributes:
        kinds: Which of `tools`, `prompts` and `resources` it is told the list changes of.
        uris: Which resources it is told the updates of.
        cancelled: Set to end it.
    """

    request_id: RequestId
    peer: Peer
    stream: Stream
    kinds: frozenset[str]
    uris: frozenset[str]
    cancelled: Cancellation


@dataclass(frozen=True)
class ToolResult:
    """What a tool answered: content blocks of MCP, and the same for programs.

    Attributes:
        handle: What `authenticate` minted for a modern client: it goes back as a cookie. A secret.
        handle_seconds: How long the grant behind it lives.
    """

    content: list[dict[str, Any]]
    structured: dict[str, Any] | None = None
    is_error: bool = False
    handle: str | None = field(default=None, repr=False)
    handle_seconds: int = 0


@dataclass(frozen=True)
class Result:
    """The result of any other method; `cacheable` says that the modern era may have it kept for a while."""

    value: dict[str, Any]
    cacheable: bool = False


@dataclass(frozen=True)
class InputRequired:
    """A modern call that goes on once its client sends it again with answers to `requests` (key to method and params)."""

    requests: dict[str, Any]
    state: str | None = None


Outcome = ToolResult | Result | InputRequired | RpcError


class RpcFailure(FleetShellError):
    """A client answered a request of ours with this error."""

    reason = "client_error"

    def __init__(self, code: int, message: str, data: dict[str, Any] | None = None) -> None:
        super().__init__(f"The client answered with error {code}: {message}")
        self.code = code
        self.data = data


class Conversation(Protocol):
    """What a running call may do towards its client, from any thread."""

    def notify(self, method: str, params: dict[str, Any]) -> None:
        """Send a notification that belongs to this call on the call's own stream; a JSON answer becomes an event stream."""

    def request(self, method: str, params: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Ask a legacy client on the call's stream, and wait.

        Raises:
            RpcFailure: The client answered with an error.
            TimedOut, Cancelled: There was no answer in time; the call was cancelled.
            BadArgument: This client cannot be asked.
        """

    def when_impatient(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back once, in another thread, when the client will not wait any longer; returns what forgets the callback."""

    def answer(self, outcome: Outcome) -> bool:
        """Answer now although the call goes on; False where it has been answered. What the call returns later is dropped."""


class Runner(Protocol):
    """Who works on calls."""

    def is_quick(self, call: Call) -> bool:
        """Whether a call waits for nothing, reports nothing, and is done in well under a millisecond."""

    def run(self, principal: Principal, call: Call, conversation: Conversation) -> Outcome:
        """Work on one call; never raises. A missing resource is -32002 in both eras: the protocol knows what to say."""


class Offer(Protocol):
    """What the server has for its clients."""

    @property
    def instructions(self) -> str:
        """What a model should know before it uses the tools; "" for nothing."""

    def capabilities(self, modern: bool) -> Mapping[str, Any]:
        """The server's capabilities, as `initialize` or `server/discover` gives them."""

    def listing(self, method: str, modern: bool) -> bytes | None:
        """The JSON array of `tools/list`, `prompts/list`, `resources/list` or `resources/templates/list`; None: no such method."""

    def runs(self, method: str) -> bool:
        """Whether requests of that method go to the runner; `tools/call` always does."""


@lru_cache(64)  # clients send one and the same with every request
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
