"""A test that puts anything at all into the protocol: whatever comes in, something valid comes out."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from support.protocol_client import ENVELOPE, Client, Received, Wire, hello, modern, modern_headers, rpc

from fleetshell_tools.relay.eras import LEGACY_VERSIONS, MODERN_VERSION
from fleetshell_tools.relay.exchange import (
    Answer,
    Calls,
    InputRequired,
    Listen,
    Outcome,
    Result,
    Subscription,
    ToolResult,
)
from fleetshell_tools.relay.jsonrpc import RpcError

TEXT = [{"type": "text", "text": "up"}]
HANDLE = "h" * 43
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
METHODS = st.sampled_from(
    """initialize ping tools/list tools/call prompts/list prompts/get resources/list resources/templates/list resources/read
    resources/subscribe resources/unsubscribe logging/setLevel completion/complete server/discover subscriptions/listen
    notifications/cancelled notifications/initialized made/up""".split()
)
NAMES = st.sampled_from(
    ["jsonrpc", "id", "method", "params", "result", "error", "_meta", "name", "arguments", "cursor"]
)
VALUES = (
    JUNK
    | METHODS
    | st.sampled_from(["2.0", 1, "1"])
    | st.sampled_from([hello(), modern(), {"name": "x", "arguments": {}}, {"requestId": 1}, {"uri": "x://y"}])
)
MESSAGES = st.dictionaries(NAMES, VALUES, max_size=7).map(
    lambda changes: rpc("tools/call", {"name": "x"}, id=1) | changes
)
BODIES = (
    st.binary(max_size=200)
    | JUNK.map(json.dumps).map(str.encode)
    | MESSAGES.map(json.dumps).map(str.encode)
    | st.lists(MESSAGES | JUNK, max_size=6).map(json.dumps).map(str.encode)
)
HEADER_VALUES = st.none() | st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=20)
OUTCOMES: st.SearchStrategy[Outcome] = st.sampled_from(
    [
        ToolResult(TEXT),
        ToolResult(TEXT, {"a": 1}, handle=HANDLE, handle_seconds=60),
        Result({"contents": []}, cacheable=True),
        InputRequired({"a": {"method": "elicitation/create", "params": {}}}),
        RpcError(-32602, "No.", {"reason": "x"}),
        RpcError(-32002, "No.", {"reason": "x"}),
        RpcError(-32042, "No.", {"reason": "x"}),
    ]
)
MODERN_STATUSES = {
    -32700: {400}, -32600: {400, 405, 406, 415}, -32602: {400}, -32020: {400}, -32021: {400}, -32022: {400},
    -32601: {404}, -32603: {200},
}  # fmt: skip


def check(client: Client, received: Received, outcome: Outcome) -> list[tuple[int, dict[str, Any]]]:
    """Bring whatever came out to its end; returns every JSON-RPC answer with its HTTP status."""
    if isinstance(received, (Listen, Subscription)):
        wire = Wire()
        received.stream.attach(wire)
        client.endpoint.hang_up(received)
        assert wire.closed
        return []
    if isinstance(received, Calls):
        assert received.calls
        received = client.endpoint.finish(received, [outcome] * len(received.calls))
    assert received.status in {200, 202, 204, 400, 404, 405, 406, 415}
    assert (received.content_type == "application/json") == bool(received.body)
    if not received.body:
        return []
    answers = json.loads(received.body)
    for answer in answers if isinstance(answers, list) else [answers]:
        assert answer["jsonrpc"] == "2.0"
        assert ("result" in answer) != ("error" in answer)
        assert "error" not in answer or answer["error"]["data"]["reason"]
    assert not client.endpoint._modern.in_flight.all()
    return [(received.status, answer) for answer in (answers if isinstance(answers, list) else [answers])]


@settings(deadline=None, max_examples=400)
@given(
    st.sampled_from(["POST", "POST", "POST", "POST", "GET", "DELETE", "PUT", ""]),
    BODIES,
    st.sampled_from(LEGACY_VERSIONS),
    st.dictionaries(
        st.sampled_from(["Accept", "Content-Type", "MCP-Protocol-Version", "Mcp-Session-Id", "Last-Event-ID"]),
        HEADER_VALUES,
        max_size=1,
    ),
    st.none() | st.tuples(st.integers(0, 200), st.binary(max_size=3)),
)
def test_receive_never_raises_and_always_gives_something_valid(
    method: str, body: bytes, version: str, headers: dict[str, str | None], splice: tuple[int, bytes] | None
) -> None:
    client = Client()
    client.start(version)
    if splice:
        at, piece = splice
        body = body[:at] + piece + body[at + 1 :]
    for _, answer in check(client, client.send(method, body, headers), ToolResult(TEXT)):
        assert answer.get("error", {}).get("code") != -32603
        assert "resultType" not in answer.get("result", {}) or MODERN_VERSION in headers.values()
    for session in client.sessions.live():
        assert not session.busy


PARAMS = st.dictionaries(
    st.sampled_from(["name", "uri", "arguments", "cursor", "notifications", "inputResponses", "requestState", "level"]),
    JUNK | st.sampled_from(["x", "x://y", {"fleetshell_session": HANDLE}, {"toolsListChanged": True}]),
    max_size=4,
)
METAS = st.dictionaries(
    st.sampled_from([*ENVELOPE, "progressToken", "dev.fleetshell/session", "io.modelcontextprotocol/logLevel"]),
    JUNK | st.sampled_from([MODERN_VERSION, "2025-11-25", "info", HANDLE, {"elicitation": {}}]),
    max_size=2,
)
HEADERS = st.dictionaries(
    st.sampled_from(["MCP-Protocol-Version", "Mcp-Method", "Mcp-Name", "Accept", "Cookie"]),
    HEADER_VALUES
    | st.lists(st.sampled_from([MODERN_VERSION, "x", "=?base64?eA==?=", f"__Host-fleetshell={HANDLE}"]), max_size=3),
    max_size=2,
)


@settings(deadline=None, max_examples=600)
@given(METHODS, PARAMS, METAS, HEADERS, st.sampled_from([1, "a", 0, ""]), st.booleans(), OUTCOMES)
def test_a_modern_request_gets_one_answer_under_its_id_with_the_status_of_the_table(
    method: str, params: Any, meta: Any, headers: Any, request_id: Any, switched_on: bool, outcome: Outcome
) -> None:
    client = Client(modern=switched_on)
    body = rpc(method, {**params, "_meta": {**ENVELOPE, **meta}}, id=request_id)
    received = client.post(body, {**modern_headers(method, params), **headers})
    for status, answer in check(client, received, outcome):
        assert answer["id"] == request_id
        if "result" in answer:
            assert status == 200
            assert switched_on
            assert answer["result"]["resultType"] in ("complete", "input_required")
        elif headers.get("MCP-Protocol-Version", MODERN_VERSION):  # without it, it may be a legacy request
            assert status in MODERN_STATUSES[answer["error"]["code"]]
    assert not client.sessions.live()
    assert isinstance(received, (Answer, Calls, Subscription))
