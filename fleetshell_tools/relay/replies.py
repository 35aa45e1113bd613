"""Outcomes, refusals and notifications as the bytes that go out: each era has members and codes that the other lacks."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fleetshell_tools.core.text import one_line
from fleetshell_tools.relay import carriers, eras, inputs, jsonrpc
from fleetshell_tools.relay.exchange import Answer, Call, InputRequired, Outcome, Result, ToolResult
from fleetshell_tools.relay.jsonrpc import (
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    MISSING_CAPABILITY,
    MODERN_STATUS,
    REASONS,
    REQUEST_CANCELLED,
    RESOURCE_NOT_FOUND,
    UNSUPPORTED_VERSION,
    Rejection,
    RequestId,
    RpcError,
)
from fleetshell_tools.relay.params import NAME_LENGTH

log = logging.getLogger(__name__)

ACCEPTED = Answer(202, content_type="")
SERVER_INFO_KEY = eras.META + "serverInfo"

TTL_MS = {
    "server/discover": 300_000,
    "tools/list": 30_000,
    "prompts/list": 30_000,
    "resources/list": 30_000,
    "resources/templates/list": 30_000,
    "resources/read": 0,
}
"""How long a modern client may keep a result; a resource not at all, since a copy would outlive the grant it was read by."""

_CANCELLED = RpcError(REQUEST_CANCELLED, "Request cancelled", {"reason": REASONS[REQUEST_CANCELLED]})
STOPPING = "the relay is stopping"
"""Why calls are cancelled at the end of the relay."""

_RESERVED = range(-32099, -32019)  # for codes of the specification alone
_OURS = (HEADER_MISMATCH, MISSING_CAPABILITY, UNSUPPORTED_VERSION)


@dataclass(frozen=True)
class Reply:
    """The response to one call; status and headers are for where it is the whole HTTP answer."""

    body: bytes
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


class Replies:
    """Writes responses.

    Args:
        server_info: `name`, `title` and `version`.
        secure: The relay serves TLS, so that cookies can be Secure.
    """

    def __init__(self, server_info: Mapping[str, Any], secure: bool) -> None:
        self.server_info = dict(server_info)
        self._secure = secure
        self._meta = jsonrpc.encode({SERVER_INFO_KEY: self.server_info})

    def reply(self, call: Call, outcome: Outcome) -> Reply:
        """The response to a call. One that its client has cancelled is told so whatever its outcome, since somebody waits for
        the HTTP answer, although the specification would rather have none ("Cancellation"); where it was us, the outcome says why."""
        if call.cancelled.is_set() and call.cancelled.why != STOPPING:
            outcome = _CANCELLED
        try:
            if call.peer.modern:
                return self._modern(call, outcome)
            if isinstance(outcome, RpcError):
                return Reply(jsonrpc.error_bytes(call.request_id, outcome))
            return Reply(jsonrpc.result_bytes(call.request_id, _legacy_result(call, outcome)))
        except (TypeError, ValueError, LookupError, AttributeError, RecursionError):
            return Reply(jsonrpc.error_bytes(call.request_id, bug(f"the result of {_what(call)}")))

    def complete(
        self, value: Mapping[str, Any], ttl_ms: int | None = None, meta: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """A modern result with what each has besides its own members."""
        result = {**value, "resultType": "complete", "_meta": {**value.get("_meta", {}), **self.meta(), **(meta or {})}}
        if ttl_ms is not None:
            result.update(ttlMs=ttl_ms, cacheScope="private")
        return result

    def meta(self) -> dict[str, Any]:
        """The `_meta` that tells who answers."""
        return {SERVER_INFO_KEY: self.server_info}

    def modern_listing(self, request_id: RequestId, method: str, member: bytes, listing: bytes) -> bytes:
        """The response to a list method whose array is JSON already."""
        return jsonrpc.result_bytes(
            request_id,
            b'{"%b":%b,"resultType":"complete","ttlMs":%d,"cacheScope":"private","_meta":%b}'
            % (member, listing, TTL_MS[method], self._meta),
        )

    def _modern(self, call: Call, outcome: Outcome) -> Reply:
        if isinstance(outcome, InputRequired):
            outcome = _askable(call, outcome)
        if isinstance(outcome, RpcError):
            error = _modern_error(call, outcome)
            return Reply(jsonrpc.error_bytes(call.request_id, error), MODERN_STATUS.get(error.code, 200))
        headers: tuple[tuple[str, str], ...] = ()
        if isinstance(outcome, ToolResult):
            result = self.complete(_tool_result(outcome))
            if outcome.handle is not None:
                headers = (carriers.set_cookie(outcome.handle, outcome.handle_seconds, self._secure),)
        elif isinstance(outcome, Result):
            cacheable = outcome.cacheable or call.method in TTL_MS
            result = self.complete(outcome.value, TTL_MS.get(call.method, 0) if cacheable else None)
        else:
            result = {"resultType": "input_required", "_meta": self.meta()}
            if outcome.requests:
                result["inputRequests"] = outcome.requests
            if outcome.state is not None:
                result["requestState"] = outcome.state
        return Reply(jsonrpc.result_bytes(call.request_id, jsonrpc.encode(result)), headers=headers)


def event(message: bytes) -> bytes:
    """A JSON-RPC message, which is one line, as a server-sent event (HTML standard, "Server-sent events")."""
    return b"event: message\ndata: %b\n\n" % message


def notification(method: str, params: Mapping[str, Any] | None = None) -> bytes:
    """A notification to a client."""
    return jsonrpc.encode({"jsonrpc": "2.0", "method": method, **({} if params is None else {"params": params})})


def refusal(rejection: Rejection) -> Answer:
    """The HTTP answer to a request that goes no further."""
    return Answer(rejection.status, jsonrpc.error_bytes(rejection.request_id, rejection), rejection.headers)


def bug(what: str, status: int | None = None) -> Rejection:
    """Log the exception being handled, and say nothing of it but a number that finds it in the log."""
    incident = secrets.token_hex(4)
    log.exception("Incident %s: %s could not be answered.", incident, what)
    return Rejection(
        INTERNAL_ERROR,
        f"Internal error; the server's log tells more under incident {incident}.",
        status=status,
        data={"incident": incident},
    )


def _legacy_result(call: Call, outcome: ToolResult | Result | InputRequired) -> bytes:
    version = call.peer.version
    if isinstance(outcome, ToolResult):
        return jsonrpc.encode(_tool_result(outcome, version))
    if isinstance(outcome, InputRequired):
        raise TypeError(f"{call.method} wants input of a client whose version {version} has no way to ask for it")
    value = outcome.value
    if call.method == "prompts/get" and "messages" in value:
        said = [
            {**message, "content": eras.content_for(version, [message["content"]])[0]} for message in value["messages"]
        ]
        value = {**value, "messages": said}
    return jsonrpc.encode(value)


def _tool_result(outcome: ToolResult, version: str = eras.MODERN_VERSION) -> dict[str, Any]:
    content = eras.content_for(version, outcome.content)
    result: dict[str, Any] = {"content": content, "isError": outcome.is_error}
    if outcome.structured is not None:
        result["structuredContent"] = outcome.structured
    return result


def _askable(call: Call, outcome: InputRequired) -> InputRequired | RpcError:
    """The outcome where this client can be asked, or else the error that says what it lacks."""
    if call.method not in inputs.METHODS or not (outcome.requests or outcome.state is not None):
        raise ValueError(f"{call.method} cannot be answered by this request for input")
    missing = inputs.missing_capabilities(outcome.requests, call.peer.capabilities)
    if not missing:
        return outcome
    return RpcError(
        MISSING_CAPABILITY,
        f"This needs an answer from the user, but the client does not declare the capability {', '.join(missing)}.",
        {"reason": REASONS[MISSING_CAPABILITY], "requiredCapabilities": missing},
    )


def _modern_error(call: Call, error: RpcError) -> RpcError:
    """An error without the codes that 2026-07-28 has taken back or keeps for itself."""
    if error.code == RESOURCE_NOT_FOUND:
        return RpcError(INVALID_PARAMS, error.message, error.data)
    if error.code in _RESERVED and error.code not in _OURS:
        log.warning("The error code %d of %s is reserved; the client is told -32603.", error.code, _what(call))
        return RpcError(INTERNAL_ERROR, error.message, error.data)
    return error


def _what(call: Call) -> str:
    return one_line(f"{call.method} {call.name}", NAME_LENGTH)
