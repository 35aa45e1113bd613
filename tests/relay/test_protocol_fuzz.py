"""A test that puts anything at all into the protocol: whatever comes in, something valid comes out."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st
from support.protocol_client import Client, hello, modern, rpc

from fleetshell_tools.relay.eras import LEGACY_VERSIONS
from fleetshell_tools.relay.exchange import Answer, Calls, Listen, ToolResult

TEXT = [{"type": "text", "text": "up"}]
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(
    ["jsonrpc", "id", "method", "params", "result", "error", "_meta", "name", "arguments", "cursor"]
)
VALUES = (
    JUNK
    | st.sampled_from(
        ["2.0", "initialize", "ping", "tools/list", "tools/call", "notifications/cancelled", "server/discover", 1, "1"]
    )
    | st.sampled_from([hello(), modern(), {"name": "x", "arguments": {}}, {"requestId": 1}])
)
MESSAGES = st.dictionaries(NAMES, VALUES, max_size=7).map(
    lambda changes: rpc("tools/call", {"name": "x"}, id=1) | changes
)
BODIES_AT_ALL = (
    st.binary(max_size=200)
    | JUNK.map(json.dumps).map(str.encode)
    | MESSAGES.map(json.dumps).map(str.encode)
    | st.lists(MESSAGES | JUNK, max_size=6).map(json.dumps).map(str.encode)
)
HEADER_VALUES = st.none() | st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=20)


@settings(deadline=None, max_examples=400)
@given(
    st.sampled_from(["POST", "POST", "POST", "POST", "GET", "DELETE", "PUT", ""]),
    BODIES_AT_ALL,
    st.integers(0, 3),
    st.dictionaries(
        st.sampled_from(["Accept", "Content-Type", "MCP-Protocol-Version", "Mcp-Session-Id"]), HEADER_VALUES, max_size=1
    ),
    st.none() | st.tuples(st.integers(0, 200), st.binary(max_size=3)),
)
def test_receive_never_raises_and_always_gives_something_valid(
    method: str, body: bytes, version: int, headers: dict[str, str | None], splice: tuple[int, bytes] | None
) -> None:
    client = Client()
    client.start(LEGACY_VERSIONS[version])
    if splice:
        at, piece = splice
        body = body[:at] + piece + body[at + 1 :]
    received = client.send(method, body, headers)
    if isinstance(received, Listen):
        assert method == "GET"
        client.endpoint.hang_up(received)
    elif isinstance(received, Calls):
        assert received.calls
        received = client.endpoint.finish(received, [ToolResult(TEXT)] * len(received.calls))
    if isinstance(received, Answer):
        assert received.status in {200, 202, 204, 400, 404, 405, 406, 415}
        if received.body:
            answers = json.loads(received.body)
            for answer in answers if isinstance(answers, list) else [answers]:
                assert answer["jsonrpc"] == "2.0"
                assert ("result" in answer) != ("error" in answer)
                assert answer.get("error", {}).get("code") != -32603
    for session in client.sessions.live():
        assert not session.busy
