"""JSON-RPC 2.0 as MCP uses it: a strict parse of what came in, and the bytes of what goes out.

`parse` turns a body into a JSON value, `classify` turns a value into a `Request`, a `Notification` or a
`Response`; both raise `Rejection`, which names the JSON-RPC error and the HTTP status that go back. Strict means
that two parsers cannot read a body differently: no duplicate keys, no lone surrogates, no NaN (RFC 7493, I-JSON).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, TypeGuard

from fleetshell_tools.core.errors import FleetShellError

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
SERVER_ERROR = -32000
SESSION_NOT_FOUND = -32001
RESOURCE_NOT_FOUND = -32002
HEADER_MISMATCH = -32020
MISSING_CAPABILITY = -32021
UNSUPPORTED_VERSION = -32022
REQUEST_CANCELLED = -32800

HTTP_STATUS = {PARSE_ERROR: 400, INVALID_REQUEST: 400, HEADER_MISMATCH: 400, UNSUPPORTED_VERSION: 400}
"""The HTTP status that an error code has where nothing more fitting is said; every other code travels on 200."""

MODERN_STATUS = {**HTTP_STATUS, MISSING_CAPABILITY: 400, INVALID_PARAMS: 400, METHOD_NOT_FOUND: 404}
"""The same for 2026-07-28, which has more of them."""

REASONS = {
    PARSE_ERROR: "parse_error",
    INVALID_REQUEST: "invalid_request",
    METHOD_NOT_FOUND: "method_not_found",
    INVALID_PARAMS: "invalid_params",
    INTERNAL_ERROR: "internal_error",
    HEADER_MISMATCH: "header_mismatch",
    MISSING_CAPABILITY: "missing_capability",
    UNSUPPORTED_VERSION: "unsupported_version",
    REQUEST_CANCELLED: "cancelled",
}
"""`error.data.reason` where nothing more exact is said: several codes mean more than one thing among the clients."""

MAX_DEPTH = 64
MAX_DIGITS = 1000

RequestId = str | int


class Rejection(FleetShellError):
    """A message that is answered by an error and goes no further.

    Args:
        code: The JSON-RPC error code.
        message: What was wrong and what to do next.
        status: The HTTP status, where the error answers a whole POST; by default what `HTTP_STATUS` says.
        why: `error.data.reason`, for programs; by default what `REASONS` says.
        data: What else `error.data` has.
        request_id: The id of the refused request, or None where it could not be read.
        headers: HTTP headers that go with the answer.
    """

    reason = "rejected"

    def __init__(
        self,
        code: int,
        message: str,
        *,
        status: int | None = None,
        why: str | None = None,
        data: dict[str, Any] | None = None,
        request_id: RequestId | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = HTTP_STATUS.get(code, 200) if status is None else status
        self.data = {"reason": why or REASONS.get(code, self.reason), **(data or {})}
        self.request_id = request_id
        self.headers = headers


@dataclass(frozen=True)
class RpcError:
    """The `error` member of a response."""

    code: int
    message: str
    data: dict[str, Any] | None = None


@dataclass(frozen=True)
class Request:
    """A message that wants an answer."""

    id: RequestId
    method: str
    params: dict[str, Any]


@dataclass(frozen=True)
class Notification:
    """A message that wants none."""

    method: str
    params: dict[str, Any]


@dataclass(frozen=True)
class Response:
    """The client's answer to a request of ours."""

    id: RequestId | None
    result: Any = None
    error: Any = None


Message = Request | Notification | Response


def parse(body: bytes) -> Any:
    """Read one JSON text, in time linear in its length and without deep recursion.

    Raises:
        Rejection: -32700, with a sentence that says what is wrong with the text.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _unreadable(f"it is not UTF-8 (byte {error.start})") from None
    if _too_deep(body):
        raise _unreadable(f"its brackets do not balance, or nest deeper than {MAX_DEPTH} levels")
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise _unreadable(f"{error.msg} (character {error.pos})") from None
    if _SURROGATE_ESCAPE.search(text) and _has_lone_surrogate(value):
        raise _unreadable("a \\u escape stands for half a character (a lone surrogate)")
    return value


def classify(value: Any) -> Message:
    """Tell what kind of message a JSON value is (JSON-RPC 2.0, sections 4 and 5; MCP narrows the id).

    Raises:
        Rejection: -32600, with the request's id where it could be read.
    """
    if not isinstance(value, dict):
        raise Rejection(INVALID_REQUEST, f"A JSON-RPC message is an object, but this is {_kind(value)}.")
    raw_id = value.get("id")
    known_id = raw_id if is_request_id(raw_id) else None
    if value.get("jsonrpc") != "2.0":
        raise Rejection(INVALID_REQUEST, 'A JSON-RPC message says "jsonrpc": "2.0".', request_id=known_id)
    if "method" not in value:
        return _classify_response(value, known_id)
    method = value["method"]
    if not isinstance(method, str):
        raise Rejection(INVALID_REQUEST, f"`method` is a string, but this is {_kind(method)}.", request_id=known_id)
    if "id" in value and known_id is None:
        raise Rejection(INVALID_REQUEST, f"`id` is a string or an integer, but this is {_kind(raw_id)}.")
    params = value.get("params", {})
    if not isinstance(params, dict):
        raise Rejection(INVALID_REQUEST, f"`params` is an object, but this is {_kind(params)}.", request_id=known_id)
    return Notification(method, params) if known_id is None else Request(known_id, method, params)


def is_request_id(value: object) -> TypeGuard[RequestId]:
    """Whether MCP allows `value` as a request id or a progress token: a string or an integer."""
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def encode(value: Any) -> bytes:
    """Write a value as compact UTF-8 JSON on one line; half a surrogate pair becomes `?`, since no peer could read it.

    Raises:
        TypeError, ValueError: The value has something in it that JSON does not have.
    """
    return _ENCODER.encode(value).encode("utf-8", "replace")


def result_bytes(request_id: RequestId, result: bytes) -> bytes:
    """The response to a request whose `result` is JSON already."""
    written = b"%d" % request_id if isinstance(request_id, int) else encode(request_id)
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (written, result)


def error_bytes(request_id: RequestId | None, error: RpcError | Rejection) -> bytes:
    """The error response to a request; `request_id` is None where it could not be read."""
    body: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.data is not None:
        body["data"] = error.data
    return encode({"jsonrpc": "2.0", "id": request_id, "error": body})


def _classify_response(value: dict[str, Any], known_id: RequestId | None) -> Response:
    if ("result" in value) == ("error" in value):
        raise Rejection(
            INVALID_REQUEST,
            "A JSON-RPC message has a `method`, or else one of `result` and `error`.",
            request_id=known_id,
        )
    # An error response has a null id where the peer could not read ours (JSON-RPC 2.0, section 5).
    if known_id is None and not ("error" in value and value.get("id") is None):
        raise Rejection(INVALID_REQUEST, f"`id` is a string or an integer, but this is {_kind(value.get('id'))}.")
    return Response(known_id, value.get("result"), value.get("error"))


def _unreadable(why: str) -> Rejection:
    return Rejection(PARSE_ERROR, f"The body could not be read as JSON: {why}.")


_KINDS = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a fraction",
}


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "null")


_FLATTEN = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _too_deep(body: bytes) -> bool:
    """Whether brackets nest deeper than `MAX_DEPTH`, found before a recursive parser meets them.

    Strings are cut out, every bracket is made square, and each pass takes away the innermost level. All of it is
    done by bytes methods: a loop over the characters would take a second of CPU for a few megabytes of brackets.
    """
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return False
    unescaped = body.replace(rb"\\", b"").replace(rb"\"", b"")
    brackets = _STRING.sub(b"", unescaped).translate(_FLATTEN, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):
        inner = brackets.replace(b"[]", b"")
        if len(inner) == len(brackets):
            break
        brackets = inner
    return bool(brackets)


# The closing quote is optional so that an unterminated string is matched once, not tried again from every quote in it.
_STRING = re.compile(rb'"[^"]*"?')
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def _has_lone_surrogate(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise _unreadable(f"the key {json.dumps(twice[:40])} stands twice in one object")
    return result


def _integer(digits: str) -> int:
    # int() takes quadratic time, and refuses over 4,300 digits with an error of its own.
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise _unreadable(f"a number has more than {MAX_DIGITS:,} digits")
    return int(digits)


def _fraction(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise _unreadable(f"the number {digits[:40]} is too large")
    return value


def _constant(name: str) -> float:
    raise _unreadable(f"{name} is not a JSON value")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_fraction, parse_constant=_constant
)
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
