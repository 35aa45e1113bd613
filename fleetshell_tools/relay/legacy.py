"""The `initialize` era, 2024-11-05 to 2025-11-25: sessions, batches in one revision, GET streams.

Section names refer to the MCP specification of those revisions, "Transports" and "Lifecycle".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fleetshell_tools.core.text import one_line
from fleetshell_tools.relay import eras, jsonrpc, params
from fleetshell_tools.relay.carriers import take
from fleetshell_tools.relay.exchange import EVENT_STREAM, Answer, Call, Calls, HttpRequest, Listen, Offer, Peer, accepts
from fleetshell_tools.relay.jsonrpc import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    Message,
    Notification,
    Rejection,
    Request,
    Response,
)
from fleetshell_tools.relay.replies import ACCEPTED, Replies, bug, event, notification
from fleetshell_tools.relay.sessions import Session, Sessions, Stream

SESSION_HEADER = "Mcp-Session-Id"
BATCH_LIMIT = 50
FIRST_LOG_LEVEL = "info"
CAPABILITIES_LENGTH = 16 << 10
"""Bytes of JSON that a client's capabilities may have: they are kept as long as the session, and a key has many of these."""

_CHANGED = {
    kind: event(notification(f"notifications/{kind}/list_changed")) for kind in ("tools", "prompts", "resources")
}


class Legacy:
    """Answers what belongs to a session, for any number of threads at once."""

    def __init__(self, offer: Offer, sessions: Sessions, replies: Replies) -> None:
        self._offer = offer
        self._sessions = sessions
        self._replies = replies
        self._methods: dict[str, Callable[[Session, Request], bytes | Call]] = {
            "ping": self._ping,
            "tools/call": self._call,
            **dict.fromkeys(params.LISTS, self._list),
            "logging/setLevel": self._set_level,
            "resources/subscribe": self._subscribe,
            "resources/unsubscribe": self._unsubscribe,
        }
        self._notifications: dict[str, Callable[[Session, Notification], None]] = {
            "notifications/initialized": self._initialized,
            "notifications/cancelled": self._cancelled,
        }

    def get(self, http: HttpRequest) -> Listen:
        """Open the session's stream, or resume the stream of a call where the client says what it saw last."""
        if not accepts(http.header("Accept"), EVENT_STREAM):
            raise Rejection(
                INVALID_REQUEST, f"GET opens a stream: send `Accept: {EVENT_STREAM}`.", status=406, why="not_acceptable"
            )
        session = self._session(http)
        last = http.header("Last-Event-ID")
        return Listen(session, Stream() if last else self._sessions.open_stream(session), last or None)

    def delete(self, http: HttpRequest) -> Answer:
        """End the session."""
        self._sessions.end(self._session(http))
        return Answer(204, content_type="")

    def single(self, http: HttpRequest, message: Message) -> Answer | Calls:
        """Answer a POST of one message."""
        if isinstance(message, Request) and message.method == "initialize":
            return self._initialize(http, message)
        session = self._session(http)
        if not isinstance(message, Request):
            self._note(session, message)
            return ACCEPTED
        part = self._dispatch(session, message)
        return Calls([part]) if isinstance(part, Call) else Answer(200, part)

    def batch(self, http: HttpRequest, entries: list[Any]) -> Answer | Calls:
        """Answer an array of messages, which 2025-03-26 alone has ("Base protocol", batching)."""
        if not 0 < len(entries) <= BATCH_LIMIT:
            raise Rejection(INVALID_REQUEST, f"A batch has 1 to {BATCH_LIMIT} messages, but this one {len(entries)}.")
        if any(isinstance(entry, dict) and entry.get("method") == "initialize" for entry in entries):
            raise Rejection(INVALID_REQUEST, "`initialize` cannot be part of a batch; send it alone.")
        session = self._session(http)
        if session.version != eras.BATCH_VERSION:
            raise Rejection(
                INVALID_REQUEST,
                f"Protocol version {session.version} has no batches; send each message in a POST of its own.",
                why="no_batches",
            )
        parts: list[bytes | Call] = []
        for entry in entries:
            try:
                message = jsonrpc.classify(entry)
            except Rejection as rejection:
                parts.append(jsonrpc.error_bytes(rejection.request_id, rejection))
                continue
            if not isinstance(message, Request):
                self._note(session, message)
                continue
            try:
                parts.append(self._dispatch(session, message))
            except Rejection as rejection:
                parts.append(jsonrpc.error_bytes(message.id, rejection))
        calls = Calls(parts, batch=True)
        if calls.calls:
            return calls
        return (
            Answer(200, b"[%b]" % b",".join(part for part in parts if isinstance(part, bytes))) if parts else ACCEPTED
        )

    def changed(self, kind: str) -> None:
        """Tell every initialized client with an open GET stream that a list is another one now."""
        for session in self._sessions.live():
            stream = session.stream
            if session.initialized and stream is not None:
                stream.send(_CHANGED[kind])

    def resource_updated(self, uri: str) -> None:
        """Tell those among them that subscribed to a resource."""
        message = event(notification("notifications/resources/updated", {"uri": uri}))
        for session in self._sessions.live():
            stream = session.stream
            if session.initialized and stream is not None and uri in session.subscriptions:
                stream.send(message)

    def _session(self, http: HttpRequest) -> Session:
        session_id = http.header(SESSION_HEADER)
        if not session_id:
            raise Rejection(
                INVALID_REQUEST,
                f"The {SESSION_HEADER} header is missing: send `initialize` first, then the header of its answer "
                "with every request.",
                why="session_missing",
            )
        return self._sessions.find(http.key_id, session_id)

    def _dispatch(self, session: Session, request: Request) -> bytes | Call:
        method = self._methods.get(request.method)
        try:
            if method is not None:
                return method(session, request)
            if self._offer.runs(request.method):
                return self._call(session, request)
        except Rejection:
            raise
        except Exception as error:
            raise bug(request.method) from error
        raise params.unknown_method(request.method)

    def _note(self, session: Session, message: Message) -> None:
        """Take a message in that has no answer; one that nobody waits for is ignored (JSON-RPC 2.0, section 4.1)."""
        try:
            if isinstance(message, Response):
                session.questions.resolve(message)
            elif isinstance(message, Notification) and message.method in self._notifications:
                self._notifications[message.method](session, message)
        except Exception:
            # There is no answer that could carry the error, so the log alone has it.
            bug("a notification")

    def _initialize(self, http: HttpRequest, request: Request) -> Answer:
        """Start a session ("Lifecycle", version negotiation)."""
        requested = params.require(request, "protocolVersion", str, "a string")
        declared = params.require(request, "capabilities", dict, "an object")
        client = params.require(request, "clientInfo", dict, "an object")
        name, version = client.get("name"), client.get("version", "")
        if not isinstance(name, str) or not isinstance(version, str):
            raise Rejection(INVALID_PARAMS, "`clientInfo` needs a `name` and a `version`, both strings.")
        if len(jsonrpc.encode(declared)) > CAPABILITIES_LENGTH:
            raise Rejection(INVALID_PARAMS, f"`capabilities` may have {CAPABILITIES_LENGTH:,} bytes at most.")
        capabilities = self._offer.capabilities(False)
        session = self._sessions.create(
            http.key_id,
            eras.negotiate(requested),
            one_line(name, params.NAME_LENGTH),
            one_line(version, params.NAME_LENGTH),
        )
        session.capabilities = declared
        # Until a client says what it wants, the choice is the server's ("Logging").
        session.log_level = FIRST_LOG_LEVEL if "logging" in capabilities else None
        result: dict[str, Any] = {
            "protocolVersion": session.version,
            "capabilities": capabilities,
            "serverInfo": self._replies.server_info,
        }
        if self._offer.instructions:
            result["instructions"] = self._offer.instructions
        body = jsonrpc.result_bytes(request.id, jsonrpc.encode(result))
        return Answer(200, body, headers=((SESSION_HEADER, session.id),))

    def _ping(self, session: Session, request: Request) -> bytes:
        return jsonrpc.result_bytes(request.id, b"{}")

    def _list(self, session: Session, request: Request) -> bytes:
        params.refuse_cursor(request)
        listing = self._offer.listing(request.method, False)
        if listing is None:
            raise params.unknown_method(request.method)
        return jsonrpc.result_bytes(request.id, b'{"%b":%b}' % (params.LISTS[request.method], listing))

    def _call(self, session: Session, request: Request) -> Call:
        # A client of both eras may still send what the modern one is unlocked by; here the session is.
        take(request.params)
        checked = params.check(request)
        peer = Peer(
            session.key_id,
            session.version,
            session.client_name,
            session.client_version,
            session.capabilities,
            session,
            log_level=session.log_level,
        )
        return params.call(request, checked, peer, self._sessions.begin(session, request.id))

    def _set_level(self, session: Session, request: Request) -> bytes:
        if "logging" not in self._offer.capabilities(False):
            raise params.unknown_method(request.method)
        session.log_level = params.log_level(request.params.get("level"))
        return jsonrpc.result_bytes(request.id, b"{}")

    def _subscribe(self, session: Session, request: Request) -> bytes:
        uri = self._subscribable(request)
        if len(session.subscriptions) >= params.MOST_URIS and uri not in session.subscriptions:
            raise params.too_many_uris()
        session.subscriptions.add(uri)
        return jsonrpc.result_bytes(request.id, b"{}")

    def _unsubscribe(self, session: Session, request: Request) -> bytes:
        session.subscriptions.discard(self._subscribable(request))
        return jsonrpc.result_bytes(request.id, b"{}")

    def _subscribable(self, request: Request) -> str:
        resources = self._offer.capabilities(False).get("resources")
        if not resources or resources.get("subscribe") is not True:
            raise params.unknown_method(request.method)
        return params.uri(request.params.get("uri"))

    def _initialized(self, session: Session, notification: Notification) -> None:
        session.initialized = True

    def _cancelled(self, session: Session, notification: Notification) -> None:
        """Cancel a call of this session; an id that is unknown or done is ignored ("Cancellation", error handling)."""
        request_id, why = params.cancelled_request(notification)
        if request_id is not None:
            self._sessions.cancel(session, request_id, why)
