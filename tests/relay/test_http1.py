"""Reading request heads strictly, and writing answers, without a socket; and bad requests over a real one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.http_client import Running, post, running

from fleetshell_tools.relay.http1 import (
    Headers,
    Malformed,
    Reader,
    RequestHead,
    Response,
    encode,
    encode_stream_head,
    parse_head,
)
from fleetshell_tools.relay.httpd import Limits

HOST = b"Host: localhost\r\n"


def get(*lines: bytes, request_line: bytes = b"GET / HTTP/1.1") -> bytes:
    return b"\r\n".join((request_line, b"Host: localhost", *lines)) + b"\r\n\r\n"


def line(request_line: bytes) -> bytes:
    return get(request_line=request_line)


def length(value: bytes) -> bytes:
    return get(b"Content-Length: " + value, request_line=b"POST / HTTP/1.1")


BAD_REQUESTS: list[tuple[str, int, bytes]] = [
    # the request line
    ("http/0.9", 505, b"GET /\r\n"),
    ("http/0.9 with fields", 505, line(b"GET /")),
    ("http/2 preface", 505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ("http/3.0", 505, line(b"GET / HTTP/3.0")),
    ("version in lower case", 400, line(b"GET / http/1.1")),
    ("version of one digit", 400, line(b"GET / HTTP/1")),
    ("version of many digits", 400, line(b"GET / HTTP/1.10")),
    ("method with a bracket", 400, line(b"GE{T / HTTP/1.1")),
    ("method with a NUL", 400, line(b"G\0T / HTTP/1.1")),
    ("no method", 400, line(b" / HTTP/1.1")),
    ("no target", 400, line(b"GET  HTTP/1.1")),
    ("two blanks", 400, line(b"GET  / HTTP/1.1")),
    ("blank in the target", 400, line(b"GET /a b HTTP/1.1")),
    ("tab for a blank", 400, line(b"GET\t/ HTTP/1.1")),
    ("blank after the version", 400, line(b"GET / HTTP/1.1 ")),
    ("target in UTF-8", 400, line("GET /ä HTTP/1.1".encode())),
    ("absolute target", 400, line(b"GET http://evil.example/ HTTP/1.1")),
    ("authority target", 400, line(b"CONNECT evil.example:443 HTTP/1.1")),
    ("asterisk for GET", 400, line(b"GET * HTTP/1.1")),
    ("relative target", 400, line(b"GET mcp HTTP/1.1")),
    ("two empty lines first", 400, b"\r\n\r\n" + get()),
    ("nonsense", 400, b"nonsense\r\n"),
    # line ends and control characters
    ("LF alone after the request line", 400, b"GET / HTTP/1.1\n" + HOST),
    ("LF alone in the fields", 400, b"GET / HTTP/1.1\r\nHost: localhost\nA: b\r\n\r\n"),
    ("LF LF at the end", 400, b"GET / HTTP/1.1\r\nHost: localhost\n\n"),
    ("CR alone", 400, get(b"A: b\rC: d")),
    ("NUL in a value", 400, get(b"A: b\0c")),
    ("escape in a value", 400, get(b"A: \x1b[31m")),
    ("DEL in a value", 400, get(b"A: b\x7f")),
    # fields
    ("blank before the colon", 400, get(b"A : b")),
    ("tab before the colon", 400, get(b"Content-Length\t: 3")),
    ("folded field", 400, get(b"A: b", b" c")),
    ("folded by a tab", 400, get(b"A: b", b"\tc")),
    ("fold of the first field", 400, b"GET / HTTP/1.1\r\n Host: localhost\r\n\r\n"),
    ("no colon", 400, get(b"nonsense")),
    ("empty name", 400, get(b": value")),
    ("quote in a name", 400, get(b'"A": b')),
    ("name in UTF-8", 400, get("Ä: b".encode())),
    ("101 fields", 431, get(*[b"A: b"] * 100)),
    ("head of 40 KiB", 431, get(b"A: " + b"b" * 40_000)),
    ("head without an end", 431, b"GET / HTTP/1.1\r\nA: " + b"b" * 70_000),
    # host
    ("no host", 400, b"GET / HTTP/1.1\r\n\r\n"),
    ("two hosts", 400, get(b"Host: localhost")),
    ("two names in a host", 400, b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
    ("user in the host", 400, b"GET / HTTP/1.1\r\nHost: me@localhost\r\n\r\n"),
    ("path in the host", 400, b"GET / HTTP/1.1\r\nHost: localhost/a\r\n\r\n"),
    ("port that is none", 400, b"GET / HTTP/1.1\r\nHost: localhost:a\r\n\r\n"),
    # what is admitted depends upon
    ("two authorizations", 400, get(b"Authorization: Bearer key", b"authorization: Bearer key")),
    ("two origins", 400, get(b"Origin: https://localhost", b"Origin: null")),
    ("two content types", 400, get(b"Content-Type: application/json;a=b", b"Content-Type: text/plain")),
    # the length of the body
    ("signed length", 400, length(b"+4")),
    ("negative length", 400, length(b"-1")),
    ("underscore in the length", 400, length(b"1_0")),
    ("blank in the length", 400, length(b"1 0")),
    ("list of lengths", 400, length(b"4, 4")),
    ("hexadecimal length", 400, length(b"0x4")),
    ("length with a fraction", 400, length(b"4.0")),
    ("empty length", 400, length(b"")),
    ("length in other digits", 400, length("٤".encode())),
    ("endless length", 400, length(b"9" * 5000)),
    ("two equal lengths", 400, length(b"4\r\nContent-Length: 4")),
    ("two different lengths", 400, length(b"4\r\ncontent-length: 5")),
    ("length with chunked", 400, length(b"4\r\nTransfer-Encoding: chunked")),
    ("chunked", 411, get(b"Transfer-Encoding: chunked", request_line=b"POST / HTTP/1.1")),
    ("chunked in capitals", 411, get(b"Transfer-Encoding:CHUNKED", request_line=b"POST / HTTP/1.1")),
    ("gzip, chunked", 501, get(b"Transfer-Encoding: gzip, chunked", request_line=b"POST / HTTP/1.1")),
    ("chunked twice", 501, get(*[b"Transfer-Encoding: chunked"] * 2, request_line=b"POST / HTTP/1.1")),
    ("disguised chunked", 501, get(b"Transfer-Encoding: xchunked")),
    ("chunked in http/1.0", 400, get(b"Transfer-Encoding: chunked", request_line=b"POST / HTTP/1.0")),
    ("post without a length", 411, line(b"POST / HTTP/1.1")),
    ("put without a length", 411, line(b"PUT / HTTP/1.1")),
    ("unknown expectation", 417, get(b"Expect: miracles")),
]


@pytest.fixture
def server() -> Iterator[Running]:
    with running(Limits()) as server:
        yield server


@pytest.mark.parametrize(("status", "sent"), [row[1:] for row in BAD_REQUESTS], ids=[row[0] for row in BAD_REQUESTS])
def test_a_bad_request_is_refused_and_nothing_behind_it_is_served(server: Running, status: int, sent: bytes) -> None:
    before = len(server.app.heads)
    client = server.client().send(sent + (b"" if sent.endswith(b"GET /\r\n") else post("/smuggled")))
    answer = client.answer()
    assert answer.status == status
    assert answer.fields["connection"] == "close"
    assert json.loads(answer.body)["error"]
    assert client.is_closed()
    assert len(server.app.heads) == before


GOOD_REQUESTS: dict[str, bytes] = {
    "an empty line first": b"\r\n" + get(),
    "blanks around a value": get(b"A: \t b \t"),
    "no blank before a value": get(b"A:b"),
    "an empty value": get(b"A:"),
    "a value in UTF-8": get("A: ä".encode()),
    "a hundred fields": get(*[b"A: b"] * 99),
    "http/1.0 without a host": b"GET / HTTP/1.0\r\n\r\n",
    "an asterisk for OPTIONS": line(b"OPTIONS * HTTP/1.1"),
    "a host with a port": b"GET / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n",
    "a length with zeros": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 000\r\n\r\n",
}


@pytest.mark.parametrize("sent", GOOD_REQUESTS.values(), ids=GOOD_REQUESTS.keys())
def test_an_unusual_but_good_request_is_read(sent: bytes) -> None:
    reader = Reader("peer", 32768, 100)
    reader.feed(sent)
    head = reader.head()
    assert head is not None
    assert (head.peer, len(reader)) == ("peer", 0)


def test_a_head_is_taken_apart() -> None:
    head = parse_head(
        b"POST /mcp?a=b?c HTTP/1.1\r\nhOsT: x\r\nContent-Length: 07\r\nA: 1\r\na:2 \r\nConnection: X, close\r\n", "p"
    )
    assert (head.method, head.path, head.query, head.content_length) == ("POST", "/mcp", "a=b?c", 7)
    assert head.headers.get_all("A") == ["1", "2"]
    assert head.close


def test_headers_are_found_in_any_case_and_lose_their_blanks() -> None:
    headers = Headers([("Accept", " a\t"), ("ACCEPT", "b"), ("X", "\xa0c")])
    assert (headers.get("accept"), headers.get_all("aCCEPT")) == ("a", ["a", "b"])
    assert (headers.get("nothing"), headers.get("nothing", "else"), headers.get_all("nothing")) == (None, "else", [])
    assert headers.get("x") == "\xa0c"
    assert len(headers) == 3


def _read(pieces: list[bytes]) -> list[tuple[str, bytes] | int]:
    """What a reader makes of bytes that come in these pieces: requests, and the status that ended it."""
    found: list[tuple[str, bytes] | int] = []
    reader, head = Reader("peer", 300, 5), None
    try:
        for piece in pieces:
            reader.feed(piece)
            while head or (head := reader.head()):
                body = reader.body(head.content_length or 0)
                if body is None:
                    break
                found.append((head.path, body))
                head = None
    except Malformed as fault:
        return [*found, fault.status]
    return found


STREAMS = st.lists(
    st.sampled_from([get(), b"\r\n", post("/p", b"body\r\n\r\n"), get(b"A : b"), line(b"GET /"), b"\n", b"x"]),
    max_size=5,
)


@given(STREAMS, st.lists(st.integers(0, 400), max_size=8))
def test_it_does_not_matter_in_which_pieces_a_request_comes(stream: list[bytes], cuts: list[int]) -> None:
    whole = b"".join(stream)
    edges = sorted({0, len(whole), *(min(cut, len(whole)) for cut in cuts)})
    pieces = [whole[start:end] for start, end in pairwise(edges)]
    assert _read(pieces) == _read([whole]) == _read([bytes([byte]) for byte in whole])


@given(st.binary(max_size=200))
def test_no_bytes_at_all_make_the_reader_fail_otherwise_than_by_refusing(noise: bytes) -> None:
    reader = Reader("peer", 300, 5)
    reader.feed(b"GET / HTTP/1.1\r\nHost: a\r\n" + noise + b"\r\n\r\n")
    try:
        head = reader.head()
    except Malformed as fault:
        assert 400 <= fault.status < 600
    else:
        assert isinstance(head, RequestHead)


def test_a_skipped_body_is_not_read_as_a_request() -> None:
    reader = Reader("peer", 300, 5)
    reader.feed(b"GET / HT")
    reader.skip(20)
    assert reader.is_skipping
    reader.feed(b"TP/1.1\r\n\r\n" + b"!!" + get(request_line=b"GET /after HTTP/1.1"))
    head = reader.head()
    assert head is not None
    assert head.path == "/after"
    assert not reader.has_begun


def test_an_answer_is_written_with_its_date_and_length() -> None:
    raw = encode(Response(404, b"{}", headers=(("X-A", "b"),)), close=True)
    head, _, body = raw.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 Not Found\r\nDate: ")
    assert head.endswith(b"GMT\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\nX-A: b")
    assert body == b"{}"


@pytest.mark.parametrize("field", [("A\r\nB", "c"), ("A", "b\r\nC: d"), ("A", "b\0")])
def test_a_field_with_a_control_character_is_never_written(field: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="control character"):
        encode(Response(200, headers=(field,)))
    with pytest.raises(ValueError, match="control character"):
        encode_stream_head((field,), chunked=True)


def test_only_a_head_that_is_the_same_byte_for_byte_is_not_read_again() -> None:
    reader = Reader("peer", 32768, 100)
    first = get(b"Authorization: Bearer a")
    reader.feed(first + first + get(b"Authorization: Bearer b") + first + get(b"X: " + b"x" * 3000) * 2)
    heads = [reader.head() for _ in range(6)]
    assert [head.headers.get("authorization") for head in heads if head] == ["Bearer a"] * 2 + [
        "Bearer b",
        "Bearer a",
        None,
        None,
    ]
    assert heads[0] is heads[1]
    assert heads[4] is not heads[5]
    assert reader.head() is None


def test_a_bad_head_is_refused_as_often_as_it_comes() -> None:
    reader = Reader("peer", 32768, 100)
    reader.feed(length(b"x") * 2)
    for _ in range(2):
        with pytest.raises(Malformed):
            reader.head()
