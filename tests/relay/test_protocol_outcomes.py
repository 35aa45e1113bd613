"""Tests of 2026-07-28, answers: results, errors and their HTTP status, requests for input, and what carries the grant."""

from __future__ import annotations

from typing import Any

import pytest
from support.protocol_client import SERVER, Client, code, read

from fleetshell_tools.relay.exchange import Calls, InputRequired, Outcome, Result, ToolResult
from fleetshell_tools.relay.jsonrpc import RpcError
from fleetshell_tools.relay.modern import CAPABILITIES_KEY

TEXT = [{"type": "text", "text": "up"}]
META = {"io.modelcontextprotocol/serverInfo": SERVER}
DONE = {"resultType": "complete", "_meta": META}
KEPT = {**DONE, "ttlMs": 0, "cacheScope": "private"}


@pytest.fixture
def client() -> Client:
    return Client()


def work(client: Client, method: str, **settings: Any) -> Calls:
    received = client.modern(method, {"name": "x", "uri": "x://y"}, **settings)
    assert isinstance(received, Calls)
    return received


RESULTS: list[tuple[str, Outcome, dict[str, Any]]] = [
    ("tools/call", ToolResult(TEXT), {"content": TEXT, "isError": False, **DONE}),
    ("tools/call", ToolResult(TEXT, None, True), {"content": TEXT, "isError": True, **DONE}),
    (
        "tools/call",
        ToolResult(TEXT, {"a": 1}),
        {"content": TEXT, "isError": False, "structuredContent": {"a": 1}, **DONE},
    ),
    ("tools/call", Result({"content": TEXT}), {"content": TEXT, **DONE}),
    ("prompts/get", Result({"messages": []}), {"messages": [], **DONE}),
    ("resources/read", Result({"contents": []}), {"contents": [], **KEPT}),
    ("resources/read", Result({"contents": []}, cacheable=True), {"contents": [], **KEPT}),
    ("completion/complete", Result({"completion": {"values": []}}), {"completion": {"values": []}, **DONE}),
    ("prompts/get", Result({"_meta": {"a": 1}}), {"resultType": "complete", "_meta": {"a": 1, **META}}),
]


@pytest.mark.parametrize(("method", "outcome", "result"), RESULTS)
def test_a_result_says_that_it_is_complete_and_who_made_it(
    client: Client, method: str, outcome: Outcome, result: dict[str, Any]
) -> None:
    answer = client.answer(work(client, method), outcome)
    assert read(answer) == {"jsonrpc": "2.0", "id": 1, "result": result}
    assert answer.headers == ()


def test_a_result_is_not_changed_by_its_answer(client: Client) -> None:
    value: dict[str, Any] = {"contents": [], "_meta": {}}
    client.answer(work(client, "resources/read"), Result(value))
    assert value == {"contents": [], "_meta": {}}


ERRORS = [
    (-32700, 400, -32700),
    (-32600, 400, -32600),
    (-32601, 404, -32601),
    (-32602, 400, -32602),
    (-32603, 200, -32603),
    (-32020, 400, -32020),
    (-32021, 400, -32021),
    (-32022, 400, -32022),
    (-32001, 200, -32001),
    (-32000, 200, -32000),
    (-32002, 400, -32602),
    (-32042, 200, -32603),
    (-32023, 200, -32603),
    (-32099, 200, -32603),
    (-32100, 200, -32100),
    (5, 200, 5),
]


@pytest.mark.parametrize(("given", "status", "sent"), ERRORS)
def test_an_error_has_its_http_status_and_no_code_that_the_revision_keeps_for_itself(
    client: Client, given: int, status: int, sent: int
) -> None:
    data = {"reason": "because"}
    answer = read(client.answer(work(client, "resources/read"), RpcError(given, "No.", data)), status)
    assert answer["error"] == {"code": sent, "message": "No.", "data": data}


def test_a_cancelled_call_is_told_so(client: Client) -> None:
    calls = work(client, "tools/call")
    calls.calls[0].cancelled.set()
    answer = client.answer(calls, ToolResult(TEXT, handle="h" * 43, handle_seconds=60))
    assert code(answer) == -32800
    assert answer.headers == ()


@pytest.mark.parametrize("value", [object(), float("nan"), {1, 2}])
def test_a_result_that_is_no_json_is_logged_and_answered_as_an_internal_error(
    client: Client, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    assert code(client.answer(work(client, "prompts/get"), Result({"x": value}))) == -32603
    assert "prompts/get x could not be answered" in caplog.text


# Input

FORM = {"method": "elicitation/create", "params": {"message": "Sure?", "requestedSchema": {"type": "object"}}}
URL = {"method": "elicitation/create", "params": {"mode": "url", "url": "https://example.com"}}
SAMPLE = {"method": "sampling/createMessage", "params": {"messages": []}}
TOOLED = {"method": "sampling/createMessage", "params": {"messages": [], "tools": [{"name": "x"}]}}
ROOTS = {"method": "roots/list"}
CAPABLE: list[tuple[list[Any], dict[str, Any], dict[str, Any] | None]] = [
    ([], {}, None),
    ([FORM], {"elicitation": {}}, None),
    ([FORM], {"elicitation": {"form": {}}}, None),
    ([FORM], {"elicitation": {"url": {}}}, {"elicitation": {"form": {}}}),
    ([FORM], {}, {"elicitation": {}}),
    ([FORM], {"elicitation": None}, {"elicitation": {}}),
    ([URL], {"elicitation": {"form": {}, "url": {}}}, None),
    ([URL], {"elicitation": {}}, {"elicitation": {"url": {}}}),
    ([URL], {"sampling": {}}, {"elicitation": {"url": {}}}),
    ([SAMPLE], {"sampling": {}}, None),
    ([SAMPLE], {"elicitation": {}}, {"sampling": {}}),
    ([TOOLED], {"sampling": {"tools": {}}}, None),
    ([TOOLED], {"sampling": {}}, {"sampling": {"tools": {}}}),
    ([ROOTS], {"roots": {}}, None),
    ([FORM, SAMPLE, ROOTS], {"sampling": {}}, {"elicitation": {}, "roots": {}}),
]


@pytest.mark.parametrize("method", ["tools/call", "prompts/get", "resources/read"])
@pytest.mark.parametrize(("asked", "declared", "missing"), CAPABLE)
def test_a_client_is_only_asked_for_what_it_declared(
    client: Client, method: str, asked: list[Any], declared: dict[str, Any], missing: dict[str, Any] | None
) -> None:
    calls = work(client, method, meta={CAPABILITIES_KEY: declared})
    requests = {f"q{number}": request for number, request in enumerate(asked)}
    answer = client.answer(calls, InputRequired(requests, "sealed"))
    if missing is None:
        asking = {"inputRequests": requests} if requests else {}
        expected = {"resultType": "input_required", **asking, "requestState": "sealed", "_meta": META}
        assert read(answer)["result"] == expected
    else:
        error = read(answer, 400)["error"]
        assert (error["code"], error["data"]) == (
            -32021, {"reason": "missing_capability", "requiredCapabilities": missing},
        )  # fmt: skip


def test_a_request_for_input_needs_no_state(client: Client) -> None:
    calls = work(client, "tools/call", meta={CAPABILITIES_KEY: {"elicitation": {}}})
    assert "requestState" not in read(client.answer(calls, InputRequired({"a": FORM})))["result"]


@pytest.mark.parametrize(
    ("method", "outcome"),
    [
        ("completion/complete", InputRequired({"a": ROOTS})),
        ("tools/call", InputRequired({})),
        ("tools/call", InputRequired({"a": {"method": "made/up"}})),
        ("tools/call", InputRequired({"a": "roots/list"})),
        ("tools/call", InputRequired({"a": {"method": "elicitation/create", "params": None}})),
    ],
)
def test_a_request_for_input_that_must_not_be_is_a_bug_of_ours(
    client: Client, method: str, outcome: Outcome, caplog: pytest.LogCaptureFixture
) -> None:
    calls = work(client, method, meta={CAPABILITIES_KEY: {"roots": {}, "elicitation": {}}})
    assert code(client.answer(calls, outcome)) == -32603
    assert "Incident" in caplog.text


# What carries the grant

A, B, C, D, E = (letter * 43 for letter in "ABCDE")
META_KEY, ARGUMENT = "dev.fleetshell/session", "fleetshell_session"
CARRIERS: dict[str, tuple[Any, Any, Any, tuple[str, ...]]] = {
    "none": (None, None, None, ()),
    "cookie": (f"__Host-fleetshell={A}", None, None, (A,)),
    "_meta": (None, A, None, (A,)),
    "argument": (None, None, A, (A,)),
    "all, in order": (f"__Host-fleetshell={A}", B, C, (A, B, C)),
    "the same one thrice": (f"__Host-fleetshell={A}", A, A, (A,)),
    "among other cookies": (f"a=b; __Host-fleetshell={A};c", None, None, (A,)),
    "in two headers": ([f"__Host-fleetshell={A}", f"__Host-fleetshell={B}"], None, None, (A, B)),
    "too many cookies": ("; ".join(f"__Host-fleetshell={x}" for x in (A, B, C, D)), E, None, (A, B, E)),
    "the cookie of plain HTTP": (f"fleetshell={A}", None, None, ()),
    "another cookie": (f"x__Host-fleetshell={A}; __host-fleetshell={A}", None, None, ()),
    "too short": ("__Host-fleetshell=" + "x" * 19, "x" * 19, "x" * 19, ()),
    "just long enough": ("__Host-fleetshell=" + "x" * 20, "y" * 200, None, ("x" * 20, "y" * 200)),
    "too long": (None, "x" * 201, None, ()),
    "not safe in URLs": (f"__Host-fleetshell={A}+", f"{A}\n", f"{A}é", ()),
    "no text": (None, 5, [A], ()),
}


@pytest.mark.parametrize(("cookie", "meta", "argument", "expected"), CARRIERS.values(), ids=CARRIERS.keys())
def test_the_handle_comes_by_cookie_meta_or_argument(
    client: Client, cookie: Any, meta: Any, argument: Any, expected: tuple[str, ...]
) -> None:
    arguments = {"command": "id", **({} if argument is None else {ARGUMENT: argument})}
    (call,) = client.modern_call_with(arguments, cookie, meta).calls
    assert call.peer.handles == expected
    assert call.arguments == {"command": "id"}
    assert ARGUMENT not in call.params["arguments"]
    assert META_KEY not in call.params["_meta"]
    assert (len(call.peer.digest) == 12) == bool(expected)
    for handle in expected:
        assert handle not in repr(call)


def test_without_tls_the_cookie_has_a_plain_name() -> None:
    client = Client(secure=False)
    (call,) = client.modern_call_with({}, f"fleetshell={A}; __Host-fleetshell={B}", None).calls
    assert call.peer.handles == (A,)


@pytest.mark.parametrize(
    ("secure", "cookie"),
    [
        (True, f"__Host-fleetshell={A}; Secure; HttpOnly; SameSite=Strict; Path=/; Max-Age=3600"),
        (False, f"fleetshell={A}; HttpOnly; SameSite=Strict; Path=/; Max-Age=3600"),
    ],
)
def test_a_new_handle_goes_back_as_a_cookie(secure: bool, cookie: str) -> None:
    client = Client(secure=secure)
    answer = client.answer(work(client, "tools/call"), ToolResult(TEXT, handle=A, handle_seconds=3600))
    assert answer.headers == (("Set-Cookie", cookie),)
    assert A.encode() not in answer.body


def test_a_handle_that_is_none_never_gets_into_a_header(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    answer = client.answer(work(client, "tools/call"), ToolResult(TEXT, handle="x\r\nSet-Cookie: y", handle_seconds=1))
    assert code(answer) == -32603
    assert answer.headers == ()
    assert "x\r\n" not in caplog.text


def test_a_handle_stays_out_of_the_representation_of_a_result() -> None:
    assert A not in repr(ToolResult(TEXT, handle=A, handle_seconds=1))
