"""Tests of 2026-07-28, requests: the envelope, the headers, versions and methods, and the order in which they are judged."""

from __future__ import annotations

from typing import Any

import pytest
from support.protocol_client import CAPABILITIES, LISTINGS, SERVER, Client, Everything, Received, code, read, rpc

from fleetshell_tools.relay.eras import LEGACY_VERSIONS, MODERN_VERSION, VERSION_KEY
from fleetshell_tools.relay.exchange import Answer, Calls, Result, ToolResult
from fleetshell_tools.relay.jsonrpc import Rejection
from fleetshell_tools.relay.modern import CAPABILITIES_KEY, CLIENT_KEY, LOG_LEVEL_KEY, REMOVED

SERVER_INFO = {"io.modelcontextprotocol/serverInfo": SERVER}
TEXT = [{"type": "text", "text": "up"}]


@pytest.fixture
def client() -> Client:
    return Client()


def refused(answer: Received, status: int, error: int, request_id: Any = 1) -> dict[str, Any]:
    body = read(answer, status)
    assert (body["error"]["code"], body["id"]) == (error, request_id)
    data: dict[str, Any] = body["error"]["data"]
    assert data["reason"]
    return data


# What is there


def test_discover_tells_versions_capabilities_and_instructions(client: Client) -> None:
    answer = client.modern("server/discover", id="d")
    assert read(answer) == {
        "jsonrpc": "2.0",
        "id": "d",
        "result": {
            "supportedVersions": [MODERN_VERSION, *LEGACY_VERSIONS],
            "capabilities": CAPABILITIES,
            "instructions": "Call authenticate first.",
            "resultType": "complete",
            "ttlMs": 300_000,
            "cacheScope": "private",
            "_meta": SERVER_INFO,
        },
    }
    assert isinstance(answer, Answer)
    assert answer.headers == ()


@pytest.mark.parametrize("method", LISTINGS)
def test_a_list_has_its_array_byte_for_byte_and_may_be_kept_privately(client: Client, method: str) -> None:
    answer = client.modern(method)
    assert isinstance(answer, Answer)
    assert LISTINGS[method] in answer.body
    result = read(answer)["result"]
    member = "resourceTemplates" if "templates" in method else method.removesuffix("/list")
    assert isinstance(result.pop(member), list)
    assert result == {"resultType": "complete", "ttlMs": 30_000, "cacheScope": "private", "_meta": SERVER_INFO}


def test_a_call_comes_with_all_that_its_client_said(client: Client) -> None:
    meta = {"progressToken": 5, CAPABILITIES_KEY: {"sampling": {}}, LOG_LEVEL_KEY: "warning"}
    params = {
        "name": "execute_command",
        "arguments": {"command": "id"},
        "requestState": "s",
        "inputResponses": {"a": {}},
    }
    calls = client.modern("tools/call", params, id="c", meta=meta)
    assert isinstance(calls, Calls)
    (call,) = calls.calls
    assert (call.request_id, call.method, call.name, call.arguments) == (
        "c", "tools/call", "execute_command", {"command": "id"},
    )  # fmt: skip
    assert (call.params["requestState"], call.params["inputResponses"]) == ("s", {"a": {}})
    assert call.progress_token == 5
    peer = call.peer
    assert (peer.modern, peer.session, peer.key_id, peer.version) == (True, None, "alice", MODERN_VERSION)
    assert (peer.name, peer.client_version, peer.capabilities) == ("claude-code", "3.0", {"sampling": {}})
    assert (peer.log_level, peer.handles, peer.digest) == ("warning", (), "")


@pytest.mark.parametrize(
    ("method", "params", "name"),
    [
        ("prompts/get", {"name": "health", "arguments": {"a": "b"}}, "health"),
        ("resources/read", {"uri": "fleetshell://servers/web-1"}, "fleetshell://servers/web-1"),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "x"}}, ""),
    ],
)
def test_what_the_offer_runs_becomes_a_call(client: Client, method: str, params: dict[str, Any], name: str) -> None:
    calls = client.modern(method, params)
    assert isinstance(calls, Calls)
    assert (calls.calls[0].method, calls.calls[0].name) == (method, name)


def test_session_ids_and_event_ids_are_ignored_and_none_is_given(client: Client) -> None:
    answer = client.modern("tools/list", headers={"Mcp-Session-Id": "nonsense", "Last-Event-ID": "7"})
    assert "result" in read(answer)
    assert isinstance(answer, Answer)
    assert answer.headers == ()
    assert client.sessions.live() == []


@pytest.mark.parametrize("info", [None, {}, {"name": 5, "version": None}, {"name": "a\x1b[31m\n" + "b" * 500}])
def test_the_clients_name_is_for_show_and_may_be_anything(client: Client, info: Any) -> None:
    (call,) = client.modern_call(meta={CLIENT_KEY: info}).calls
    assert len(call.peer.name) <= 80
    assert call.peer.name.isprintable()


# The envelope

ENVELOPES: dict[str, dict[str, Any]] = {
    "no version": {VERSION_KEY: None},
    "version as a number": {VERSION_KEY: 20260728},
    "version as a list": {VERSION_KEY: [MODERN_VERSION]},
    "no capabilities": {CAPABILITIES_KEY: None},
    "capabilities as a list": {CAPABILITIES_KEY: ["sampling"]},
    "capabilities as text": {CAPABILITIES_KEY: "sampling"},
    "client as text": {CLIENT_KEY: "claude"},
    "unknown log level": {LOG_LEVEL_KEY: "loud"},
    "log level as a list": {LOG_LEVEL_KEY: ["info"]},
}


@pytest.mark.parametrize("meta", ENVELOPES.values(), ids=ENVELOPES.keys())
@pytest.mark.parametrize("method", ["tools/list", "tools/call", "server/discover", "made/up"])
def test_a_bad_envelope_is_the_first_thing_that_is_refused(client: Client, method: str, meta: dict[str, Any]) -> None:
    wrong = {"Mcp-Method": "other", "Mcp-Name": "other"}
    data = refused(client.modern(method, {"name": "x"}, meta=meta, headers=wrong), 400, -32602)
    assert data["reason"] == "bad_envelope"


@pytest.mark.parametrize("params", [None, {}, {"_meta": None}, {"_meta": []}, {"_meta": "text"}, {"_meta": {}}])
def test_a_request_without_an_envelope_is_refused(client: Client, params: Any) -> None:
    headers = {"MCP-Protocol-Version": MODERN_VERSION, "Mcp-Method": "tools/list"}
    refused(client.post(rpc("tools/list", params, id=1), headers), 400, -32602)


# Versions

VERSION = "MCP-Protocol-Version"


@pytest.mark.parametrize("version", ["2031-01-01", "1.0", "DRAFT-2026-v1", "2026-07-28 "])
def test_an_unknown_version_is_answered_with_the_known_ones(client: Client, version: str) -> None:
    data = refused(client.modern("tools/list", meta={VERSION_KEY: version}, headers={VERSION: version.strip()}), 400,
        -32020 if version.endswith(" ") else -32022)  # fmt: skip
    if not version.endswith(" "):
        discovered = read(client.modern("server/discover"))["result"]["supportedVersions"]
        assert (data["supported"], data["requested"]) == (discovered, version)


@pytest.mark.parametrize("method", ["ping", "initialize", "tools/list", "made/up"])
def test_a_version_without_an_envelope_that_is_known_here_is_answered_so_too(client: Client, method: str) -> None:
    refused(client.request(method, None, MCP_Protocol_Version="2031-01-01"), 400, -32022)


def test_the_version_is_judged_before_the_method(client: Client) -> None:
    answer = client.modern("made/up", meta={VERSION_KEY: "2031-01-01"}, headers={VERSION: "2031-01-01"})
    refused(answer, 400, -32022)


@pytest.mark.parametrize(
    ("header", "meta"), [(MODERN_VERSION, "2025-11-25"), ("2025-11-25", MODERN_VERSION), (None, MODERN_VERSION)]
)
def test_two_versions_in_one_request_are_a_mismatch(client: Client, header: str | None, meta: str) -> None:
    refused(client.modern("tools/list", meta={VERSION_KEY: meta}, headers={VERSION: header}), 400, -32020)


def test_switched_off_it_is_answered_with_the_older_versions_whatever_is_asked() -> None:
    client = Client(modern=False)
    for method in ("server/discover", "tools/list", "tools/call", "subscriptions/listen", "initialize", "made/up"):
        data = refused(client.modern(method, {"name": "x"}), 400, -32022)
        assert data["supported"] == list(LEGACY_VERSIONS)
        assert data["requested"] == MODERN_VERSION


# Methods


@pytest.mark.parametrize("method", [*sorted(REMOVED), "tasks/get", "made/up", "", "notifications/initialized"])
def test_an_unknown_or_a_removed_method_is_not_found(method: str) -> None:
    offer = Everything()
    offer.methods |= REMOVED
    refused(Client(offer=offer).modern(method, {"uri": "x://y", "level": "info"}), 404, -32601)


def test_a_list_that_is_not_offered_is_not_found() -> None:
    offer = Everything()
    offer.listings.clear()
    for method in LISTINGS:
        refused(Client(offer=offer).modern(method, {"cursor": "x"}), 404, -32601)


BAD_PARAMS: list[tuple[str, Any]] = [
    ("tools/list", {"cursor": "abc"}),
    ("prompts/list", {"cursor": ""}),
    ("resources/list", {"cursor": 5}),
    ("resources/templates/list", {"cursor": "abc"}),
    ("tools/call", {}),
    ("tools/call", {"name": 5}),
    ("tools/call", {"name": "x", "arguments": []}),
    ("tools/call", {"name": "x", "arguments": "{}"}),
    ("tools/call", {"name": "x", "inputResponses": []}),
    ("tools/call", {"name": "x", "requestState": {}}),
    ("prompts/get", {}),
    ("prompts/get", {"name": "x", "arguments": 1}),
    ("resources/read", {}),
    ("resources/read", {"uri": ["x"]}),
    ("subscriptions/listen", {}),
    ("subscriptions/listen", {"notifications": []}),
    ("subscriptions/listen", {"notifications": {"toolsListChanged": "yes"}}),
    ("subscriptions/listen", {"notifications": {"toolsListChanged": 1}}),
    ("subscriptions/listen", {"notifications": {"resourceSubscriptions": "x://y"}}),
    ("subscriptions/listen", {"notifications": {"resourceSubscriptions": [1]}}),
    ("subscriptions/listen", {"notifications": {"resourceSubscriptions": ["x"] * 257}}),
]


@pytest.mark.parametrize(("method", "params"), BAD_PARAMS)
def test_bad_parameters_are_http_400(client: Client, method: str, params: Any) -> None:
    refused(client.modern(method, params), 400, -32602)


@pytest.mark.parametrize("token", [True, 1.5, [1], {}])
def test_a_progress_token_is_a_string_or_an_integer(client: Client, token: Any) -> None:
    refused(client.modern("tools/call", {"name": "x"}, meta={"progressToken": token}), 400, -32602)


# Everything but a request


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_there_is_nothing_to_get_or_delete(client: Client, method: str) -> None:
    answer = client.send(method, b"", {VERSION: MODERN_VERSION})
    assert code(answer, 405) == -32600
    assert isinstance(answer, Answer)
    assert answer.headers == (("Allow", "POST"),)
    assert code(client.send(method, b"", {VERSION: "2031-01-01"}), 400) == -32022


@pytest.mark.parametrize(
    "body",
    [
        [],
        [rpc("tools/list", id=1)],
        {"jsonrpc": "2.0", "id": 1, "result": {}},
        {"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "x"}},
        {"jsonrpc": "2.0", "id": None, "method": "tools/list"},
        {"jsonrpc": "1.0", "id": 1, "method": "tools/list"},
        7,
    ],
)
def test_batches_responses_and_what_is_no_message_are_refused(client: Client, body: Any) -> None:
    assert code(client.post(body, {VERSION: MODERN_VERSION}), 400) == -32600


def test_what_is_no_json_is_a_parse_error(client: Client) -> None:
    assert code(client.post(b"{", {VERSION: MODERN_VERSION}), 400) == -32700


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("notifications/cancelled", {"requestId": 99}),
        ("notifications/cancelled", {"requestId": [1]}),
        ("notifications/cancelled", None),
        ("notifications/initialized", None),
        ("notifications/made_up", {"_meta": {VERSION_KEY: MODERN_VERSION}}),
        ("tools/call", {"name": "execute_command"}),
    ],
)
def test_a_notification_is_accepted_without_an_envelope(client: Client, method: str, params: Any) -> None:
    assert client.post(rpc(method, params), {VERSION: MODERN_VERSION}) == Answer(202, b"", (), "")


@pytest.mark.parametrize(
    ("header", "meta", "error"), [("2031-01-01", None, -32022), (MODERN_VERSION, "2025-11-25", -32020)]
)
def test_a_notification_of_another_version_is_refused(
    client: Client, header: str, meta: str | None, error: int
) -> None:
    params = {"_meta": {VERSION_KEY: meta}} if meta else None
    assert code(client.post(rpc("notifications/cancelled", params), {VERSION: header}), 400) == error


@pytest.mark.parametrize(
    ("method", "accept", "served"),
    [
        ("tools/list", None, True),
        ("tools/list", "*/*", True),
        ("tools/list", "application/json", True),
        ("tools/list", "text/event-stream", False),
        ("subscriptions/listen", None, True),
        ("subscriptions/listen", "text/event-stream", True),
        ("subscriptions/listen", "application/json", False),
    ],
)
def test_only_what_the_client_takes_is_sent(client: Client, method: str, accept: str | None, served: bool) -> None:
    received = client.modern(method, {"notifications": {}}, headers={"Accept": accept})
    if not served:
        refused(received, 406, -32600)
    elif isinstance(received, Answer):
        assert "result" in read(received)


def test_a_bug_is_an_internal_error_on_http_200_and_leaves_nothing_in_flight(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Everything):
        def capabilities(self, modern: bool) -> dict[str, Any]:
            raise RuntimeError("the secret of the house")

    client = Client(offer=Broken())
    assert "secret" not in str(refused(client.modern("server/discover"), 200, -32603))
    assert "the secret of the house" in caplog.text
    refused(client.modern("subscriptions/listen", {"notifications": {}}), 200, -32603)
    calls = client.modern_call()
    client.post(rpc("notifications/cancelled", {"requestId": 1}), {VERSION: MODERN_VERSION})
    assert calls.calls[0].cancelled.is_set()


# Cancelling


def cancel(client: Client, request_id: Any) -> None:
    note = rpc("notifications/cancelled", {"requestId": request_id, "reason": "too\nslow"})
    assert client.post(note, {VERSION: MODERN_VERSION}) == Answer(202, b"", (), "")


def test_a_posted_cancellation_ends_the_only_call_of_that_id(client: Client) -> None:
    calls, other = client.modern_call(5), client.modern_call("5")
    cancel(client, 5)
    assert calls.calls[0].cancelled.why == "cancelled by the client: too slow"
    assert not other.calls[0].cancelled.is_set()
    assert code(client.answer(calls, ToolResult(TEXT))) == -32800


def test_a_posted_cancellation_that_could_mean_two_calls_means_none(client: Client) -> None:
    first, second = client.modern_call(5), client.modern_call(5)
    cancel(client, 5)
    assert not first.calls[0].cancelled.is_set()
    assert not second.calls[0].cancelled.is_set()
    assert "result" in read(client.answer(first, ToolResult(TEXT)))
    cancel(client, 5)
    assert second.calls[0].cancelled.is_set()


def test_a_posted_cancellation_reaches_no_other_key_no_session_and_no_answered_call(client: Client) -> None:
    client.start()
    legacy, modern = client.call(5), client.modern_call(5)
    client.key = "mallory"
    cancel(client, 5)
    assert not modern.calls[0].cancelled.is_set()
    client.key = "alice"
    client.answer(modern, ToolResult(TEXT))
    cancel(client, 5)
    assert not legacy.calls[0].cancelled.is_set()
    assert not modern.calls[0].cancelled.is_set()


def test_a_legacy_cancellation_reaches_no_modern_call(client: Client) -> None:
    client.start()
    calls = client.modern_call(5)
    client.post(rpc("notifications/cancelled", {"requestId": 5}))
    assert not calls.calls[0].cancelled.is_set()


def test_a_posted_cancellation_may_lack_the_versions_header_where_there_is_no_session(client: Client) -> None:
    calls = client.modern_call(5)
    note = rpc("notifications/cancelled", {"requestId": 5})
    accepted = client.post(note)
    assert isinstance(accepted, Answer) and accepted.status == 202
    assert calls.calls[0].cancelled.is_set()
    client.answer(calls, ToolResult(TEXT))
    read(client.post(note), 400)


def test_everything_can_be_cancelled_at_once(client: Client) -> None:
    client.start()
    legacy, modern = client.call(5), client.modern_call(5)
    client.endpoint.cancel_all("the relay is stopping")
    assert [calls.calls[0].cancelled.why for calls in (legacy, modern)] == ["the relay is stopping"] * 2


def test_the_number_of_outcomes_must_be_that_of_the_calls(client: Client) -> None:
    calls = client.modern_call(5)
    with pytest.raises(ValueError, match="1 calls have 2 outcomes"):
        client.answer(calls, Result({}), Result({}))


def test_a_callback_that_fails_on_cancellation_is_logged(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise OSError("broken")

    client.modern_call(5).calls[0].cancelled.on_set(fail)
    cancel(client, 5)
    assert "broken" in caplog.text


def test_a_rejection_always_has_a_reason() -> None:
    assert Rejection(-32000, "x").data == {"reason": "rejected"}
    assert Rejection(-32602, "x", data={"a": 1}).data == {"reason": "invalid_params", "a": 1}
