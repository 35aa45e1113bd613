"""A test that puts any bytes at all into the HTTP reader and what it makes of them into the protocol: a status comes out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from support.hostile import MARK_LENGTH
from support.hostile_http import HTTP
from support.hostile_json import JSON
from support.hostile_mcp import MCP
from support.protocol_client import Client, Wire

from fleetshell_tools.relay.exchange import Answer, Calls, HttpRequest, Listen, Subscription, ToolResult
from fleetshell_tools.relay.http1 import Malformed, Reader, RequestHead, Response, encode

STATUSES = {200, 202, 204, 400, 404, 405, 406, 409, 415, 429}
REFUSALS = {400, 411, 413, 417, 431, 501, 505}
REFUSED = 0
MOST_BODY = 4096
SEEDS = [row.sent for row in (*HTTP, *JSON, *MCP) if len(row.sent) < 3000]
PIECES = st.binary(max_size=4) | st.sampled_from(
    [b"\r\n", b"\n", b"\r\n\r\n", b"\0", b":", b" ", b"\t", b"\xff", b"{", b"}", b"[", b"]", b'"', b"\\", b",", b"=?base64?", b"?=",
     b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: a\r\n", b"HTTP/1.0", b'"id":', b"null", b"1e999", b"\\ud800"]
)  # fmt: skip
MARKS = re.compile(rb"@[A-Z_][A-Z_@]{%d}" % (MARK_LENGTH - 2))
EDITS = st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 40), PIECES), max_size=6)


def edited(seed: bytes, edits: list[tuple[int, int, bytes]], in_body: bool) -> bytes:
    """A request with pieces of it replaced; where only its body is, its length is put right again."""
    head, mark, body = seed.partition(b"\r\n\r\n")
    changed = body if in_body else seed
    for at, length, piece in edits:
        at = at % (len(changed) + 1)
        changed = changed[:at] + piece + changed[at + length :]
    if not in_body:
        return changed
    return re.sub(rb"Content-Length: \d+", b"Content-Length: %d" % len(changed), head) + mark + changed


def answer(client: Client, head: RequestHead, body: bytes) -> Response:
    """What the protocol says to one request, whose calls all have an outcome at once."""
    received = client.endpoint.receive(HttpRequest(head.method, head.headers, body, client.key))
    if isinstance(received, (Listen, Subscription)):
        wire = Wire()
        received.stream.attach(wire)
        client.endpoint.hang_up(received)
        return Response(200, content_type="text/event-stream")
    if isinstance(received, Calls):
        received = client.endpoint.finish(
            received, [ToolResult([{"type": "text", "text": "up"}])] * len(received.calls)
        )
    assert isinstance(received, Answer)
    return Response(received.status, received.body, received.content_type, received.headers)


def served(sent: bytes, edges: list[int]) -> Iterator[int]:
    """The statuses of what is answered, where the bytes come in pieces; `REFUSED` at the end where the reader has enough."""
    client, reader = Client(), Reader("peer", 32768, 50)
    filled = MARKS.sub(client.start().id.encode(), sent)
    assert len(filled) == len(sent)
    head: RequestHead | None = None
    try:
        for start, end in pairwise(edges):
            reader.feed(filled[start:end])
            while head or (head := reader.head()):
                if (head.content_length or 0) > MOST_BODY:
                    raise Malformed(413, "too long")
                body = reader.body(head.content_length or 0)
                if body is None:
                    break
                response, head = answer(client, head, body), None
                raw = encode(response)
                assert raw.startswith(b"HTTP/1.1 %d " % response.status)
                assert b'"code":-32603' not in response.body
                assert not response.body or json.loads(response.body)
                yield response.status
    except Malformed as fault:
        assert fault.status in REFUSALS
        assert encode(Response(fault.status, fault.why.encode()))
        # Which of several faults is seen first, and so the status, may depend on how much has come.
        yield REFUSED


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(SEEDS), EDITS, st.booleans()), min_size=1, max_size=3), st.lists(st.integers(0, 6000), max_size=5))  # fmt: skip
def test_any_bytes_are_answered_or_refused_and_alike_however_they_are_cut(
    requests: list[tuple[bytes, list[tuple[int, int, bytes]], bool]], cuts: list[int]
) -> None:
    whole = b"".join(edited(*each) for each in requests)
    edges = sorted({0, len(whole), *(min(cut, len(whole)) for cut in cuts)})
    statuses = list(served(whole, [0, len(whole)]))
    assert set(statuses) <= {*STATUSES, REFUSED}
    assert list(served(whole, edges)) == statuses
