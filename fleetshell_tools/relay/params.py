"""The parameters of requests, checked alike in both eras, and the call that a request becomes."""

from __future__ import annotations

from typing import Any

from fleetshell_tools.core.text import one_line
from fleetshell_tools.core.types import Cancellation
from fleetshell_tools.relay.exchange import Call, Peer
from fleetshell_tools.relay.jsonrpc import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    Notification,
    Rejection,
    Request,
    RequestId,
    is_request_id,
)

LISTS = {
    "tools/list": b"tools",
    "prompts/list": b"prompts",
    "resources/list": b"resources",
    "resources/templates/list": b"resourceTemplates",
}
"""The list methods, and the member of the result that has the array."""

NAMED_BY = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
"""The methods whose request names one thing, and the parameter that does."""

LOG_LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
NAME_LENGTH = 80
REASON_LENGTH = 200
MOST_URIS = 256
URI_LENGTH = 2048


def check(request: Request) -> tuple[str, dict[str, Any], RequestId | None]:
    """What `Call` has of its own: the name, the arguments and the progress token.

    Raises:
        Rejection: -32602, with the parameter that is missing or wrong.
    """
    params, key = request.params, NAMED_BY.get(request.method)
    name = require(request, key, str, "a string") if key else ""
    arguments = params.get("arguments") if key == "name" else None
    if not isinstance(arguments, (dict, type(None))):
        raise Rejection(INVALID_PARAMS, "`arguments` must be an object.")
    meta = params.get("_meta", {})
    if not isinstance(meta, dict):
        raise Rejection(INVALID_PARAMS, "`_meta` must be an object.")
    token = meta.get("progressToken")
    if token is not None and not is_request_id(token):
        raise Rejection(INVALID_PARAMS, "`_meta.progressToken` must be a string or an integer.")
    return name, arguments or {}, token


def call(
    request: Request, checked: tuple[str, dict[str, Any], RequestId | None], peer: Peer, cancelled: Cancellation
) -> Call:
    """The call that a request becomes, from what `check` gave."""
    name, arguments, token = checked
    return Call(request.id, peer, request.method, request.params, cancelled, name, arguments, token)


def require(request: Request, name: str, kind: type, kind_name: str) -> Any:
    """A parameter that must be there.

    Raises:
        Rejection: -32602.
    """
    value = request.params.get(name)
    if not isinstance(value, kind):
        raise Rejection(INVALID_PARAMS, f"`{name}` is missing or wrong: {request.method} needs {kind_name} there.")
    return value


def refuse_cursor(request: Request) -> None:
    """Some clients never ask for a second page, so there is one alone, and no cursor can be ours.

    Raises:
        Rejection: -32602, where there is a cursor.
    """
    if request.params.get("cursor") is not None:
        raise Rejection(
            INVALID_PARAMS, "This `cursor` is not from here: the list has a single page.", why="invalid_cursor"
        )


def log_level(value: object) -> str:
    """A level of `notifications/message` (RFC 5424, section 6.2.1).

    Raises:
        Rejection: -32602.
    """
    if value not in LOG_LEVELS:
        raise Rejection(INVALID_PARAMS, f"The log level must be one of {', '.join(LOG_LEVELS)}.")
    return str(value)


def uri(value: object) -> str:
    """The address of a resource.

    Raises:
        Rejection: -32602.
    """
    if not isinstance(value, str) or not 0 < len(value) <= URI_LENGTH:
        raise Rejection(INVALID_PARAMS, f"A resource's `uri` is a string of at most {URI_LENGTH:,} characters.")
    return value


def too_many_uris() -> Rejection:
    """The answer to a client that wants to be told about everything."""
    return Rejection(
        INVALID_PARAMS, f"At most {MOST_URIS} resources can be subscribed to.", why="too_many_subscriptions"
    )


def unknown_method(method: str) -> Rejection:
    """The answer to a method that there is not, or not in this era."""
    return Rejection(METHOD_NOT_FOUND, f"There is no method {one_line(method, NAME_LENGTH)!r} here.")


def cancelled_request(notification: Notification) -> tuple[RequestId | None, str]:
    """Which request `notifications/cancelled` names, or None, and why in words for the log."""
    request_id = notification.params.get("requestId")
    reason = notification.params.get("reason")
    said = f": {one_line(reason, REASON_LENGTH)}" if isinstance(reason, str) else ""
    return (request_id if is_request_id(request_id) else None), "cancelled by the client" + said
