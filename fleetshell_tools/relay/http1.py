"""HTTP/1.1 messages without I/O: a strict reader of request heads and a writer of answers (RFC 9110, RFC 9112).

Whatever two programs could read in two ways is refused here, with the connection closed: a proxy in front of the
relay and the relay itself must never disagree on where a request ends (RFC 9112 section 11.2).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HEAD_END = b"\r\n\r\n"

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rf"({_TOKEN}) ([!-~]+) HTTP/([0-9])\.([0-9])")
# One pass over all field lines. Neither a token nor a value can hold the characters that end it, so that
# the match never backtracks over more than one line.
_FIELD_LINES = re.compile(rf"(?:{_TOKEN}:[^\x00-\x08\x0a-\x1f\x7f]*\r\n)*")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_HOST = re.compile(r"[0-9A-Za-z.\-_~%]*(?::[0-9]*)?|\[[0-9A-Fa-f:.]+\](?::[0-9]*)?")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_DIGITS = re.compile(r"[0-9]{1,18}")
_REMEMBERED = 2048  # bytes of a head that is kept to be compared with the next one
_BODY_METHODS = frozenset({"POST", "PUT", "PATCH"})
_SINGLE = ("Authorization", "Content-Type", "Origin")  # that what is admitted depends upon, beside Host


class Malformed(Exception):
    """A request that is answered with an error, after which the connection is closed.

    Args:
        status: The HTTP status of the answer.
        why: A sentence for whoever wrote the client.
    """

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why


class Headers:
    """The fields of a request, found by name without regard to case; values carry no blanks around them."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self._fields: dict[str, list[str]] = {}
        for name, value in fields:
            self._fields.setdefault(name.lower(), []).append(value.strip(" \t"))

    def get(self, name: str, default: str | None = None) -> str | None:
        """The first value of a field; use `get_all` where a second one must not pass unseen."""
        values = self._fields.get(name.lower())
        return values[0] if values else default

    def get_all(self, name: str) -> list[str]:
        """Every value of a field, in the order of the request."""
        return list(self._fields.get(name.lower(), ()))

    def __len__(self) -> int:
        return sum(map(len, self._fields.values()))


@dataclass(frozen=True)
class RequestHead:
    """A request before its body: `path` is without the query, `peer` is the client's address without its port.

    `content_length` is None where the request names none; `close` is True where the connection ends with the answer.
    """

    method: str
    path: str
    query: str
    headers: Headers
    peer: str
    content_length: int | None = None
    close: bool = False
    http10: bool = False

    @property
    def expects_continue(self) -> bool:
        return not self.http10 and self.headers.get("expect") is not None


@dataclass(frozen=True)
class Request:
    """A whole request, as an application handles it."""

    method: str
    path: str
    query: str
    headers: Headers
    body: bytes
    peer: str


@dataclass(frozen=True)
class Response:
    """An ordinary answer; `close` ends the connection after it."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    close: bool = False


def error(status: int, why: str, *, close: bool = False) -> Response:
    """An answer that carries a sentence."""
    return Response(status, json.dumps({"error": why}).encode(), close=close)


class Reader:
    """Turns the bytes of a connection into request heads and bodies, as they come.

    Args:
        peer: The client's address, for the heads.
        max_head: The most bytes of a head.
        max_fields: The most header fields.
    """

    def __init__(self, peer: str, max_head: int, max_fields: int) -> None:
        self._peer = peer
        self._max_head = max_head
        self._max_fields = max_fields
        self._buffer = bytearray()
        self._scanned = 0
        self._skip = 0
        # Most heads of a connection are the same as the one before.
        self._raw_before = b""
        self._before: RequestHead | None = None

    def __len__(self) -> int:
        """How many bytes wait to be taken."""
        return len(self._buffer)

    @property
    def is_skipping(self) -> bool:
        return self._skip > 0

    @property
    def has_begun(self) -> bool:
        """Whether the client is in the middle of something."""
        return bool(self._buffer) or self._skip > 0

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def skip(self, length: int) -> None:
        """Throw away the next `length` bytes: the body of a request that is not wanted."""
        self._skip += length
        self._drop_skipped()

    def head(self) -> RequestHead | None:
        """The next request's head; None while it is not complete.

        Raises:
            Malformed: What has come is no head that can be served.
        """
        self._drop_skipped()
        buffer = self._buffer
        if not buffer:
            return None
        # RFC 9112 section 2.2: one empty line before a request is overlooked.
        start = 2 if buffer.startswith(b"\r\n") else 0
        end = buffer.find(HEAD_END, max(start, self._scanned - 3))
        if (end if end >= 0 else len(buffer)) > self._max_head:
            raise Malformed(431, f"The request head is longer than {self._max_head} bytes.")
        if end < 0:
            self._scanned = len(buffer)
            _check_unfinished_head(buffer[start:])
            return None
        self._scanned = 0
        raw = bytes(memoryview(buffer)[start : end + 2])
        del buffer[: end + 4]
        if raw == self._raw_before:
            return self._before
        head = parse_head(raw, self._peer, self._max_fields)
        if len(raw) <= _REMEMBERED:
            self._raw_before, self._before = raw, head
        return head

    def body(self, length: int) -> bytes | None:
        """The body of the head that was taken last; None while it is not complete."""
        if len(self._buffer) < length:
            return None
        body = bytes(memoryview(self._buffer)[:length])
        del self._buffer[:length]
        return body

    def _drop_skipped(self) -> None:
        if self._skip:
            skipped = min(self._skip, len(self._buffer))
            del self._buffer[:skipped]
            self._skip -= skipped


def _check_unfinished_head(raw: bytearray) -> None:
    """Refuse at once what can't become a valid head any more, instead of waiting for the rest until a deadline."""
    if _BARE_LF.search(raw):
        raise Malformed(400, "A line of the head ends in LF without CR.")
    line, end, _ = raw.partition(b"\r\n")
    if end:
        _request_line(line.decode("latin-1"))


def parse_head(raw: bytes | bytearray, peer: str, max_fields: int = 100) -> RequestHead:
    """Read a request head.

    Args:
        raw: The request line and the field lines up to the CR LF that ends the last one; without the empty line.
        peer: The client's address, handed on.
        max_fields: More header fields than that are refused.

    Raises:
        Malformed: With the status that RFC 9110 and RFC 9112 give for the fault.
    """
    line, _, rest = raw.decode("latin-1").partition("\r\n")
    method, target, http10 = _request_line(line)
    if not _FIELD_LINES.fullmatch(rest):
        raise Malformed(400, _what_is_wrong(rest))
    lines = rest.split("\r\n")
    if len(lines) - 1 > max_fields:
        raise Malformed(431, f"The request has {len(lines) - 1} header fields; at most {max_fields} are accepted.")
    lines.pop()
    headers = Headers([(name, value) for name, _, value in [line.partition(":") for line in lines]])
    _check_host(headers, http10)
    for name in _SINGLE:
        # RFC 9110 section 5.3: not to be sent twice; of two a proxy in front may have judged the other one.
        if len(headers.get_all(name)) > 1:
            raise Malformed(400, f"The request has more than one {name} field.")
    length = _content_length(headers, http10)
    if length is None and method in _BODY_METHODS:
        raise Malformed(411, f"A {method} request needs a Content-Length.")
    expect = headers.get("expect")
    if expect is not None and expect.lower() != "100-continue":
        raise Malformed(417, "The only expectation that is met is 100-continue.")
    connection = headers.get_all("connection")
    close = http10 or (bool(connection) and "close" in re.split(r"[,\s]+", ",".join(connection).lower()))
    path, _, query = target.partition("?")
    return RequestHead(method, path, query, headers, peer, length, close, http10)


def _request_line(line: str) -> tuple[str, str, bool]:
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        if re.fullmatch(rf"{_TOKEN} /[!-~]*", line):
            raise Malformed(505, "HTTP/0.9 is not spoken here; send HTTP/1.1.")
        raise Malformed(400, "The request line is not of the form METHOD /path HTTP/1.1.")
    method, target, major, minor = match.groups()
    if major != "1":
        raise Malformed(505, f"HTTP/{major}.{minor} is not spoken here; send HTTP/1.1.")
    if target[0] != "/" and (target != "*" or method != "OPTIONS"):
        raise Malformed(400, "The request target must be a path that begins with a slash.")
    return method, target, minor == "0"


def _what_is_wrong(rest: str) -> str:
    """Why the field lines are refused: only looked for once they are, to keep the good case fast."""
    for line in rest.removesuffix("\r\n").split("\r\n"):
        if _CONTROL.search(line):
            return "A header field holds a control character."
        if line[:1] in (" ", "\t"):
            return "A header field is folded over two lines, which RFC 9112 section 5.2 forbids."
        name, colon, _ = line.partition(":")
        if colon and name != name.rstrip(" \t"):
            return "There is a blank between the name of a header field and its colon."
        if not re.fullmatch(_TOKEN, name) or not colon:
            return "A header field is not of the form Name: value."
    return "The header fields are malformed."


def _check_host(headers: Headers, http10: bool) -> None:
    """RFC 9112 section 3.2: exactly one Host, else 400."""
    hosts = headers.get_all("host")
    if len(hosts) > 1 or (not hosts and not http10):
        raise Malformed(400, f"The request has {len(hosts)} Host fields; it must have exactly one.")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise Malformed(400, "The Host field is not of the form name:port.")


def _content_length(headers: Headers, http10: bool) -> int | None:
    """How long the body is; RFC 9112 section 6.3, in its strictest reading."""
    lengths, codings = headers.get_all("content-length"), headers.get_all("transfer-encoding")
    if codings:
        if lengths or http10:
            raise Malformed(400, "Transfer-Encoding can't come with Content-Length, nor in HTTP/1.0.")
        if [coding.lower() for coding in codings] == ["chunked"]:
            raise Malformed(411, "Chunked request bodies are not accepted; send a Content-Length.")
        raise Malformed(501, "This transfer coding is not implemented; send a Content-Length.")
    if not lengths:
        return None
    if len(lengths) > 1:
        raise Malformed(400, f"The request has {len(lengths)} Content-Length fields; it must have one.")
    if not _DIGITS.fullmatch(lengths[0]):
        raise Malformed(400, "Content-Length must be a decimal number of at most 18 digits.")
    return int(lengths[0])


_PHRASES = BaseHTTPRequestHandler.responses
_STATUS_LINES = {int(status): f"HTTP/1.1 {int(status)} {phrases[0]}\r\n" for status, phrases in _PHRASES.items()}
_date = (0, "")


def _date_line() -> str:
    """The Date field, which RFC 9110 section 6.6.1 wants of a server with a clock; made once a second."""
    global _date
    now = int(time.time())
    if _date[0] != now:
        _date = (now, f"Date: {formatdate(now, usegmt=True)}\r\n")
    return _date[1]


def encode(response: Response, *, close: bool = False, without_body: bool = False) -> bytes:
    """An answer as the bytes of one write.

    Args:
        close: Tell the client that the connection ends.
        without_body: For HEAD: the length is named, the body left out (RFC 9110 section 9.3.2).

    Raises:
        ValueError: A header field holds a control character.
    """
    parts = [_status_line(response.status), _date_line()]
    if response.body:
        parts.append(f"Content-Type: {response.content_type}\r\nContent-Length: {len(response.body)}\r\n")
    elif response.status not in (204, 304):
        parts.append("Content-Length: 0\r\n")
    parts.append(_field_lines(response.headers, close))
    head = "".join(parts).encode("latin-1")
    return head if without_body else head + response.body


def encode_stream_head(fields: tuple[tuple[str, str], ...], *, chunked: bool) -> bytes:
    """The head of an event stream with an application's own `fields`; unchunked (HTTP/1.0) it ends with the connection.

    Raises:
        ValueError: A header field holds a control character.
    """
    framing = "Transfer-Encoding: chunked\r\n" if chunked else ""
    return (
        f"{_status_line(200)}{_date_line()}Content-Type: text/event-stream\r\n"
        f"Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n{framing}{_field_lines(fields, not chunked)}"
    ).encode("latin-1")


def chunk(payload: bytes) -> bytes:
    """One chunk of a chunked body (RFC 9112 section 7.1); `payload` must not be empty, for that would end the body."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


LAST_CHUNK = b"0\r\n\r\n"


def _status_line(status: int) -> str:
    return _STATUS_LINES.get(status) or f"HTTP/1.1 {status} \r\n"


def _field_lines(fields: tuple[tuple[str, str], ...], close: bool) -> str:
    """The application's own fields and the end of the head."""
    text = "Connection: close\r\n" if close else ""
    for name, value in fields:
        if _CONTROL.search(name) or _CONTROL.search(value):
            raise ValueError(f"the header field {name!r} holds a control character")
        text += f"{name}: {value}\r\n"
    return text + "\r\n"
