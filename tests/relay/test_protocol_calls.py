"""Tests of tool calls and batches: from the message to the caller, and from the outcome back to the client."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.protocol_client import Client, Everything, code, hello, read, rpc

from fleetshell_tools.relay.eras import MODERN_VERSION
from fleetshell_tools.relay.exchange import Answer, Calls, InputRequired, Outcome, Result, ToolResult
from fleetshell_tools.relay.jsonrpc import RpcError


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def started(client: Client) -> Client:
    client.start()
    return client


# Tool calls


def test_a_tool_call_reaches_the_caller_with_all_that_it_said(started: Client) -> None:
    calls = started.call(7, arguments={"server_id": "web-1"}, _meta={"progressToken": "p", "other": 1})
    (call,) = calls.calls
    assert (call.request_id, call.name, call.arguments) == (7, "execute_command", {"server_id": "web-1"})
    assert (call.method, call.params["_meta"]["other"]) == ("tools/call", 1)
    assert (call.progress_token, call.peer.version, calls.batch) == ("p", "2025-11-25", False)
    session = call.peer.session
    assert session is not None
    assert session.in_flight == {7: call.cancelled}
    assert (call.peer.modern, call.peer.key_id, call.peer.digest) == (False, "alice", session.digest)
    assert (call.peer.name, call.peer.client_version) == ("claude-ai (via mcp-remote 0.15.1)", "0.1.0")


OTHER_CALLS: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("prompts/get", {"name": "health", "arguments": {"server": "web-1"}}, "health", {"server": "web-1"}),
    ("prompts/get", {"name": "health", "arguments": None}, "health", {}),
    ("resources/read", {"uri": "fleetshell://servers/web-1"}, "fleetshell://servers/web-1", {}),
    ("completion/complete", {"ref": {}, "argument": {"name": "server", "value": "w"}}, "", {}),
]


@pytest.mark.parametrize(("method", "params", "name", "arguments"), OTHER_CALLS)
def test_what_the_offer_runs_reaches_the_caller_too(
    started: Client, method: str, params: dict[str, Any], name: str, arguments: dict[str, Any]
) -> None:
    calls = started.request(method, params)
    assert isinstance(calls, Calls)
    (call,) = calls.calls
    assert (call.method, call.params, call.name, call.arguments) == (method, params, name, arguments)
    assert read(started.answer(calls, Result({"x": 1}, cacheable=True)))["result"] == {"x": 1}


def test_what_the_client_declared_comes_with_its_calls(client: Client) -> None:
    client.start(capabilities={"elicitation": {}})
    assert client.call().calls[0].peer.capabilities == {"elicitation": {}}


def test_what_carries_a_modern_grant_is_taken_out_of_a_legacy_call_too(started: Client) -> None:
    handle = "h" * 43
    (call,) = started.call(arguments={"fleetshell_session": handle}, _meta={"dev.fleetshell/session": handle}).calls
    assert (call.arguments, call.peer.handles) == ({}, ())
    assert handle not in str(call.params)


def test_secrets_stay_out_of_the_representation_of_a_call(started: Client) -> None:
    calls = started.call(arguments={"code": "123456"})
    assert started.session_id
    assert "123456" not in repr(calls)
    assert started.session_id not in repr(calls)


def test_a_missing_resource_keeps_the_code_of_its_era(started: Client) -> None:
    calls = started.request("resources/read", {"uri": "x://y"})
    assert code(started.answer(calls, RpcError(-32002, "There is none.", {"reason": "not_found"}))) == -32002


def test_a_legacy_client_is_never_told_that_input_is_required(
    started: Client, caplog: pytest.LogCaptureFixture
) -> None:
    asked = InputRequired({"a": {"method": "roots/list"}})
    assert code(started.answer(started.call(), asked)) == -32603
    assert "wants input" in caplog.text


def test_a_handle_is_no_cookie_of_a_legacy_client(started: Client) -> None:
    assert started.answer(started.call(), ToolResult(TEXT, handle="h" * 43, handle_seconds=60)).headers == ()


def test_a_prompt_for_an_older_client_has_as_text_what_its_version_lacks(client: Client) -> None:
    client.start("2024-11-05")
    messages = [{"role": "user", "content": AUDIO}, {"role": "user", "content": TEXT[0]}]
    calls = client.request("prompts/get", {"name": "health"})
    sent = read(client.answer(calls, Result({"messages": messages})))["result"]["messages"]
    assert [message["content"]["type"] for message in sent] == ["text", "text"]
    assert messages[0]["content"] == AUDIO


@pytest.mark.parametrize("params", [{}, {"arguments": None}, {"arguments": {}}])
def test_a_tool_call_without_arguments_has_none(started: Client, params: dict[str, Any]) -> None:
    (call,) = started.call(1, **params).calls
    assert (call.arguments, call.progress_token) == ({}, None)


TEXT = [{"type": "text", "text": "up 3 days – ✓"}]
OUTCOMES: list[tuple[Outcome, dict[str, Any]]] = [
    (ToolResult(TEXT), {"result": {"content": TEXT, "isError": False}}),
    (
        ToolResult(TEXT, {"exit_code": 0}),
        {"result": {"content": TEXT, "isError": False, "structuredContent": {"exit_code": 0}}},
    ),
    (ToolResult(TEXT, None, True), {"result": {"content": TEXT, "isError": True}}),
    (RpcError(-32602, "Unknown tool: x"), {"error": {"code": -32602, "message": "Unknown tool: x"}}),
    (
        RpcError(-32001, "Authentication required.", {"reason": "totp_required"}),
        {"error": {"code": -32001, "message": "Authentication required.", "data": {"reason": "totp_required"}}},
    ),
]


@pytest.mark.parametrize(("outcome", "members"), OUTCOMES)
def test_an_outcome_becomes_a_response_and_frees_the_id(
    started: Client, outcome: Outcome, members: dict[str, Any]
) -> None:
    answer = started.endpoint.finish(started.call(5), [outcome])
    assert read(answer) == {"jsonrpc": "2.0", "id": 5, **members}
    assert started.sessions.live()[0].in_flight == {}
    started.call(5)


def test_half_a_character_in_a_result_does_not_break_the_answer(started: Client) -> None:
    answer = started.endpoint.finish(started.call(), [ToolResult([{"type": "text", "text": "a\udc80b"}])])
    assert read(answer)["result"]["content"][0]["text"] == "a?b"


@pytest.mark.parametrize("value", [object(), float("nan"), {1, 2}])
def test_a_result_that_is_no_json_is_logged_and_answered_as_an_internal_error(
    started: Client, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    answer = started.endpoint.finish(started.call(), [ToolResult(TEXT, {"x": value})])
    message = read(answer)["error"]["message"]
    incident = message.split()[-1].rstrip(".")
    assert f"Incident {incident}" in caplog.text
    assert "Traceback" in caplog.text


def test_the_number_of_outcomes_must_be_that_of_the_calls(started: Client) -> None:
    calls = started.call()
    with pytest.raises(ValueError, match="1 calls have 0 outcomes"):
        started.endpoint.finish(calls, [])
    assert started.sessions.live()[0].in_flight == {}


LINK = {"type": "resource_link", "uri": "fleetshell://servers/web-1", "name": "web-1", "description": "a server"}
AUDIO = {"type": "audio", "mimeType": "audio/wav", "data": "AAAA"}


@pytest.mark.parametrize(
    ("version", "types"),
    [
        ("2024-11-05", ["text", "text", "text"]),
        ("2025-03-26", ["text", "text", "audio"]),
        ("2025-06-18", ["text", "resource_link", "audio"]),
        ("2025-11-25", ["text", "resource_link", "audio"]),
    ],
)
def test_an_older_client_gets_as_text_what_its_version_lacks(client: Client, version: str, types: list[str]) -> None:
    client.start(version)
    content = read(client.endpoint.finish(client.call(), [ToolResult([*TEXT, LINK, AUDIO])]))["result"]["content"]
    assert [part["type"] for part in content] == types
    assert "fleetshell://servers/web-1" in json.dumps(content[1])
    assert "audio/wav" in json.dumps(content[2])


def test_an_id_in_flight_is_refused_in_its_session_alone(started: Client) -> None:
    calls = started.call(5)
    answer = read(started.request("tools/call", {"name": "x"}, id=5), 400)
    assert (answer["error"]["code"], answer["id"]) == (-32600, 5)
    started.call("5")
    first = started.session_id
    started.start()
    started.call(5)
    started.session_id = first
    started.endpoint.finish(calls, [ToolResult(TEXT)])
    started.call(5)


def test_a_cancelled_call_is_told_so_and_still_ends(started: Client) -> None:
    calls = started.call(5)
    note = rpc("notifications/cancelled", {"requestId": 5, "reason": "too\nslow"})
    assert started.post(note) == Answer(202, b"", (), "")
    assert calls.calls[0].cancelled.why == "cancelled by the client: too slow"
    answer = read(started.endpoint.finish(calls, [ToolResult(TEXT)]))
    error = {"code": -32800, "message": "Request cancelled", "data": {"reason": "cancelled"}}
    assert answer == {"jsonrpc": "2.0", "id": 5, "error": error}


def test_a_cancellation_from_another_session_or_for_another_id_changes_nothing(started: Client) -> None:
    calls = started.call(5)
    started.post(rpc("notifications/cancelled", {"requestId": "5"}))
    started.start()
    started.post(rpc("notifications/cancelled", {"requestId": 5}))
    assert not calls.calls[0].cancelled.is_set()


def test_the_end_of_the_session_cancels_its_calls(started: Client) -> None:
    calls = started.call()
    started.send("DELETE", b"")
    assert calls.calls[0].cancelled.is_set()
    assert code(started.endpoint.finish(calls, [ToolResult(TEXT)])) == -32800


def test_a_callback_that_fails_on_cancellation_is_logged_and_the_notification_accepted(
    started: Client, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise OSError("broken")

    started.call(5).calls[0].cancelled.on_set(fail)
    assert started.post(rpc("notifications/cancelled", {"requestId": 5})) == Answer(202, b"", (), "")
    assert "broken" in caplog.text


def test_a_call_in_a_session_that_would_be_idle_keeps_it(started: Client) -> None:
    calls = started.call()
    started.seconds += 7200
    assert read(started.request("ping"))["result"] == {}
    started.endpoint.finish(calls, [ToolResult(TEXT)])
    started.seconds += 3601
    assert code(started.request("ping"), 404) == -32001


def test_a_bug_behind_a_method_is_an_internal_error_with_the_id_and_without_its_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Everything):
        def listing(self, method: str, modern: bool) -> bytes | None:
            raise RuntimeError("the secret of the house")

    client = Client(offer=Broken())
    client.start()
    answer = read(client.request("tools/list", id=8))
    assert (answer["id"], answer["error"]["code"]) == (8, -32603)
    assert "secret" not in json.dumps(answer)
    assert "the secret of the house" in caplog.text


# Batches

PING, NOTE = rpc("ping", id="p"), rpc("notifications/initialized")
CALL = rpc("tools/call", {"name": "execute_command"}, id="c")
BATCHES: dict[str, tuple[list[Any], list[tuple[Any, int | None]]]] = {
    "one": ([PING], [("p", None)]),
    "one and a notification": ([NOTE, PING], [("p", None)]),
    "no message among them": ([1, PING, None], [(None, -32600), ("p", None), (None, -32600)]),
    "a batch in a batch": ([[PING], PING], [(None, -32600), ("p", None)]),
    "no such method": ([rpc("x", id=1), rpc("tools/list", {"cursor": "c"}, id=2)], [(1, -32601), (2, -32602)]),
    "fifty": ([PING] * 50, [("p", None)] * 50),
}


@pytest.mark.parametrize(("batch", "expected"), BATCHES.values(), ids=BATCHES.keys())
def test_a_batch_is_answered_by_an_array(
    client: Client, batch: list[Any], expected: list[tuple[Any, int | None]]
) -> None:
    client.start("2025-03-26")
    answers = read(client.post(batch))
    assert [(answer["id"], answer.get("error", {}).get("code")) for answer in answers] == expected


def test_a_batch_without_requests_is_accepted_without_an_answer(client: Client) -> None:
    client.start("2025-03-26")
    assert client.post([NOTE, {"jsonrpc": "2.0", "id": 1, "result": {}}]) == Answer(202, b"", (), "")


REFUSED_BATCHES = {
    "empty": [],
    "51 messages": [PING] * 51,
    "initialize in it": [PING, rpc("initialize", hello(), id=1)],
    "initialize alone": [rpc("initialize", hello(), id=1)],
}


@pytest.mark.parametrize("batch", REFUSED_BATCHES.values(), ids=REFUSED_BATCHES.keys())
def test_a_batch_that_must_not_be_is_refused_whole(client: Client, batch: list[Any]) -> None:
    client.start("2025-03-26")
    assert code(client.post(batch), 400) == -32600
    assert len(client.sessions.live()) == 1


@pytest.mark.parametrize("version", ["2024-11-05", "2025-06-18", "2025-11-25"])
def test_other_versions_have_no_batches(client: Client, version: str) -> None:
    client.start(version)
    assert code(client.post([PING]), 400) == -32600


def test_a_batch_needs_a_session_and_a_version_that_is_served(client: Client) -> None:
    assert code(client.post([PING]), 400) == -32600
    client.start("2025-03-26")
    assert code(client.post([PING], {"MCP-Protocol-Version": MODERN_VERSION}), 400) == -32600


def test_the_calls_of_a_batch_are_answered_in_their_places(client: Client) -> None:
    client.start("2025-03-26")
    calls = client.post([CALL, PING, CALL, {**CALL, "id": "d"}])
    assert isinstance(calls, Calls)
    assert [call.request_id for call in calls.calls] == ["c", "d"]
    answers = read(client.endpoint.finish(calls, [ToolResult(TEXT), RpcError(-32602, "Unknown tool")]))
    assert [answer["id"] for answer in answers] == ["c", "p", "c", "d"]
    assert [answer.get("error", {}).get("code") for answer in answers] == [None, None, -32600, -32602]


def test_one_call_in_a_batch_is_still_answered_by_an_array(client: Client) -> None:
    client.start("2025-03-26")
    calls = client.post([CALL])
    assert isinstance(calls, Calls)
    assert len(read(client.endpoint.finish(calls, [ToolResult(TEXT)]))) == 1


def test_a_batch_can_cancel_its_own_call(client: Client) -> None:
    client.start("2025-03-26")
    calls = client.post([CALL, rpc("notifications/cancelled", {"requestId": "c"})])
    assert isinstance(calls, Calls)
    (answer,) = read(client.endpoint.finish(calls, [ToolResult(TEXT)]))
    assert answer["error"]["code"] == -32800
