"""MCP over Streamable HTTP without I/O: a request goes in, an answer or something to be done comes out.

`Endpoint.receive` gives an `Answer`; or `Calls`, for tools that the caller runs before it asks `Endpoint.finish` for
the answer; or `Listen`, for a GET stream. Nothing here reads a socket, starts a thread or looks at a clock.
Section names refer to the MCP specification, "Transports" and "Lifecycle", of 2024-11-05 to 2025-11-25.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fleetshell_tools.core.text import one_line
from fleetshell_tools.relay import eras, jsonrpc
from fleetshell_tools.relay.exchange import (
    EVENT_STREAM,
    JSON,
    Answer,
    Calls,
    HttpRequest,
    Listen,
    Outcome,
    ToolCall,
    ToolResult,
    accepts,
    is_json,
)
from fleetshell_tools.relay.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    REQUEST_CANCELLED,
    Message,
    Notification,
    Rejection,
    Request,
    RpcError,
    is_request_id,
)
from fleetshell_tools.relay.sessions import Session, Sessions

log = logging.getLogger(__name__)

SESSION_HEADER = "Mcp-Session-Id"
VERSION_HEADER = "MCP-Protocol-Version"
BATCH_LIMIT = 50
NAME_LENGTH = 80
REASON_LENGTH = 200

ACCEPTED = Answer(202, content_type="")
TOOLS_CHANGED = jsonrpc.encode({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})


class Endpoint:
    """The protocol of `/mcp`, for any number of threads at once.

    Args:
        server_info: `name`, `title` and `version`, as `initialize` gives them.
        instructions: What a model should know before it uses the tools; "" for nothing.
        list_tools: Gives the JSON text of the array of tool definitions.
        sessions: The sessions of the clients.
    """

    def __init__(
        self,
        *,
        server_info: Mapping[str, Any],
        instructions: str,
        list_tools: Callable[[], bytes],
        sessions: Sessions,
    ) -> None:
        self._server_info = dict(server_info)
        self._instructions = instructions
        self._list_tools = list_tools
        self._sessions = sessions
        self._methods: dict[str, Callable[[Session, Request], bytes | ToolCall]] = {
            "ping": self._ping,
            "tools/list": self._tools_list,
            "tools/call": self._tools_call,
        }
        self._notifications: dict[str, Callable[[Session, Notification], None]] = {
            "notifications/initialized": self._initialized,
            "notifications/cancelled": self._cancelled,
        }

    def receive(self, request: HttpRequest) -> Answer | Calls | Listen:
        """Take one HTTP request in. Whatever it has in it, this returns; a bug of ours is logged and answered as 500."""
        try:
            if request.method == "POST":
                return self._post(request)
            if request.method == "GET":
                return self._get(request)
            if request.method == "DELETE":
                return self._delete(request)
            raise Rejection(
                INVALID_REQUEST,
                f"{one_line(request.method, 20)} is not a method of this endpoint; it has GET, POST and DELETE.",
                status=405,
                headers=(("Allow", "GET, POST, DELETE"),),
            )
        except Rejection as rejection:
            return _refusal(rejection)
        except Exception:
            return _refusal(_bug("an HTTP request", status=500))

    def finish(self, calls: Calls, outcomes: Sequence[Outcome]) -> Answer:
        """The answer to `calls` once every one of `calls.calls` has its outcome, in the same order.

        A call that was cancelled is answered as such whatever its outcome: the specification would rather have no
        answer ("Cancellation"), but somebody waits for this HTTP request to end.

        Raises:
            ValueError: There are more or fewer outcomes than calls.
        """
        for call in calls.calls:
            self._sessions.finish(call.session, call.request_id)
        if len(outcomes) != len(calls.calls):
            raise ValueError(f"{len(calls.calls)} calls have {len(outcomes)} outcomes")
        replies = iter([_reply(call, outcome) for call, outcome in zip(calls.calls, outcomes, strict=True)])
        parts = [part if isinstance(part, bytes) else next(replies) for part in calls.parts]
        return Answer(200, b"[" + b",".join(parts) + b"]" if calls.batch else parts[0])

    def hang_up(self, listen: Listen) -> None:
        """Note that a GET stream has ended, from either side."""
        self._sessions.close_stream(listen.session, listen.stream)

    def tools_changed(self) -> None:
        """Tell every client with an open GET stream that the list of tools is another one now."""
        for session in self._sessions.live():
            stream = session.stream
            if session.initialized and stream is not None:
                stream.send(event(TOOLS_CHANGED))

    # HTTP methods ("Transports")

    def _post(self, request: HttpRequest) -> Answer | Calls:
        if not is_json(request.header("Content-Type")):
            raise Rejection(INVALID_REQUEST, f"The body must be JSON: send `Content-Type: {JSON}`.", status=415)
        if not accepts(request.header("Accept"), JSON):
            raise Rejection(
                INVALID_REQUEST, f"Answers are JSON: send `Accept: {JSON}, {EVENT_STREAM}`, or no Accept.", status=406
            )
        body = jsonrpc.parse(request.body)
        if isinstance(body, list):
            self._check_era(request, None)
            return self._batch(request, body)
        message = jsonrpc.classify(body)
        try:
            self._check_era(request, message)
            return self._single(request, message)
        except Rejection as rejection:
            if isinstance(message, Request):
                rejection.request_id = message.id
            raise

    def _get(self, request: HttpRequest) -> Listen:
        self._check_era(request, None)
        if not accepts(request.header("Accept"), EVENT_STREAM):
            raise Rejection(INVALID_REQUEST, f"GET opens a stream: send `Accept: {EVENT_STREAM}`.", status=406)
        session = self._session(request)
        return Listen(session, self._sessions.open_stream(session))

    def _delete(self, request: HttpRequest) -> Answer:
        self._check_era(request, None)
        self._sessions.end(self._session(request))
        return Answer(204, content_type="")

    def _check_era(self, request: HttpRequest, message: Message | None) -> None:
        header = request.header(VERSION_HEADER)
        if eras.route(header, message) is eras.Era.MODERN:
            raise eras.unsupported(header or "")

    def _session(self, request: HttpRequest) -> Session:
        session_id = request.header(SESSION_HEADER)
        if not session_id:
            raise Rejection(
                INVALID_REQUEST,
                f"The {SESSION_HEADER} header is missing: send `initialize` first, then the header of its answer "
                "with every request.",
                status=400,
            )
        return self._sessions.find(request.key_id, session_id)

    # Messages

    def _single(self, request: HttpRequest, message: Message) -> Answer | Calls:
        if isinstance(message, Request) and message.method == "initialize":
            return self._initialize(request, message)
        session = self._session(request)
        if not isinstance(message, Request):
            self._note(session, message)
            return ACCEPTED
        part = self._dispatch(session, message)
        return Calls([part]) if isinstance(part, ToolCall) else Answer(200, part)

    def _batch(self, request: HttpRequest, entries: list[Any]) -> Answer | Calls:
        """Answer an array of messages, which 2025-03-26 alone has ("Base protocol", batching)."""
        if not 0 < len(entries) <= BATCH_LIMIT:
            raise Rejection(INVALID_REQUEST, f"A batch has 1 to {BATCH_LIMIT} messages, but this one {len(entries)}.")
        if any(isinstance(entry, dict) and entry.get("method") == "initialize" for entry in entries):
            raise Rejection(INVALID_REQUEST, "`initialize` cannot be part of a batch; send it alone.")
        session = self._session(request)
        if session.version != eras.BATCH_VERSION:
            raise Rejection(
                INVALID_REQUEST,
                f"Protocol version {session.version} has no batches; send each message in a POST of its own.",
            )
        parts: list[bytes | ToolCall] = []
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
        return self.finish(calls, []) if parts else ACCEPTED

    def _dispatch(self, session: Session, request: Request) -> bytes | ToolCall:
        method = self._methods.get(request.method)
        if method is None:
            raise Rejection(METHOD_NOT_FOUND, f"There is no method {one_line(request.method, NAME_LENGTH)!r} here.")
        try:
            return method(session, request)
        except Rejection:
            raise
        except Exception as error:
            raise _bug(request.method) from error

    def _note(self, session: Session, message: Message) -> None:
        """Take a message in that has no answer; one that nobody waits for is ignored (JSON-RPC 2.0, section 4.1)."""
        if not isinstance(message, Notification) or message.method not in self._notifications:
            return
        try:
            self._notifications[message.method](session, message)
        except Exception:
            # There is no answer that could carry the error, so the log alone has it.
            _bug("a notification")

    def _initialize(self, http: HttpRequest, request: Request) -> Answer:
        """Start a session ("Lifecycle", version negotiation)."""
        requested = _param(request, "protocolVersion", str, "a string")
        _param(request, "capabilities", dict, "an object")
        client = _param(request, "clientInfo", dict, "an object")
        name, version = client.get("name"), client.get("version", "")
        if not isinstance(name, str) or not isinstance(version, str):
            raise Rejection(INVALID_PARAMS, "`clientInfo` needs a `name` and a `version`, both strings.")
        session = self._sessions.create(
            http.key_id,
            eras.negotiate(requested),
            one_line(name, NAME_LENGTH),
            one_line(version, NAME_LENGTH),
        )
        result = {
            "protocolVersion": session.version,
            "capabilities": {"tools": {"listChanged": True}},
            "serverInfo": self._server_info,
        }
        if self._instructions:
            result["instructions"] = self._instructions
        body = jsonrpc.result_bytes(request.id, jsonrpc.encode(result))
        return Answer(200, body, headers=((SESSION_HEADER, session.id),))

    def _ping(self, session: Session, request: Request) -> bytes:
        return jsonrpc.result_bytes(request.id, b"{}")

    def _tools_list(self, session: Session, request: Request) -> bytes:
        # Some clients never ask for a second page, so there is one alone, and no cursor can be ours.
        if request.params.get("cursor") is not None:
            raise Rejection(INVALID_PARAMS, "This `cursor` is not from here: the list of tools has a single page.")
        return jsonrpc.result_bytes(request.id, b'{"tools":%b}' % self._list_tools())

    def _tools_call(self, session: Session, request: Request) -> ToolCall:
        name = _param(request, "name", str, "a string")
        arguments = request.params.get("arguments")
        if not isinstance(arguments, (dict, type(None))):
            raise Rejection(INVALID_PARAMS, "`arguments` must be an object.")
        meta = request.params.get("_meta", {})
        if not isinstance(meta, dict):
            raise Rejection(INVALID_PARAMS, "`_meta` must be an object.")
        token = meta.get("progressToken")
        if token is not None and not is_request_id(token):
            raise Rejection(INVALID_PARAMS, "`_meta.progressToken` must be a string or an integer.")
        return ToolCall(
            request_id=request.id,
            session=session,
            name=name,
            arguments=arguments or {},
            progress_token=token,
            cancelled=self._sessions.begin(session, request.id),
            version=session.version,
        )

    def _initialized(self, session: Session, notification: Notification) -> None:
        session.initialized = True

    def _cancelled(self, session: Session, notification: Notification) -> None:
        """Cancel a call of this session; an id that is unknown or done is ignored ("Cancellation", error handling)."""
        request_id = notification.params.get("requestId")
        if is_request_id(request_id):
            reason = notification.params.get("reason")
            said = f": {one_line(reason, REASON_LENGTH)}" if isinstance(reason, str) else ""
            self._sessions.cancel(session, request_id, "cancelled by the client" + said)


def event(message: bytes) -> bytes:
    """A JSON-RPC message, which is one line, as a server-sent event (HTML standard, "Server-sent events")."""
    return b"event: message\ndata: %b\n\n" % message


def _param(request: Request, name: str, kind: type, kind_name: str) -> Any:
    value = request.params.get(name)
    if not isinstance(value, kind):
        raise Rejection(INVALID_PARAMS, f"`{name}` is missing or wrong: {request.method} needs {kind_name} there.")
    return value


def _reply(call: ToolCall, outcome: Outcome) -> bytes:
    if call.cancelled.is_set():
        return jsonrpc.error_bytes(call.request_id, RpcError(REQUEST_CANCELLED, "Request cancelled"))
    try:
        if isinstance(outcome, RpcError):
            return jsonrpc.error_bytes(call.request_id, outcome)
        return jsonrpc.result_bytes(call.request_id, _tool_result(call.version, outcome))
    except (TypeError, ValueError, RecursionError):
        return jsonrpc.error_bytes(call.request_id, _bug(f"the result of {one_line(call.name, NAME_LENGTH)}"))


def _tool_result(version: str, outcome: ToolResult) -> bytes:
    result: dict[str, Any] = {"content": eras.content_for(version, outcome.content), "isError": outcome.is_error}
    if outcome.structured is not None:
        result["structuredContent"] = outcome.structured
    return jsonrpc.encode(result)


def _refusal(rejection: Rejection) -> Answer:
    return Answer(rejection.status, jsonrpc.error_bytes(rejection.request_id, rejection), rejection.headers)


def _bug(what: str, status: int | None = None) -> Rejection:
    """Log the exception being handled, and say nothing of it but a number that finds it in the log."""
    incident = secrets.token_hex(4)
    log.exception("Incident %s: %s could not be answered.", incident, what)
    return Rejection(
        INTERNAL_ERROR, f"Internal error; the server's log tells more under incident {incident}.", status=status
    )
