"""Tests of the MCP protocol: sessions, eras, HTTP rules and messages; no socket is in between."""

from __future__ import annotations

from typing import Any

import pytest
from support.protocol_client import (
    CAPABILITIES,
    LISTINGS,
    SERVER,
    TOOLS,
    Client,
    Everything,
    Wire,
    code,
    hello,
    read,
    rpc,
)

from fleetshell_tools.relay.eras import LEGACY_VERSIONS
from fleetshell_tools.relay.exchange import Answer, Listen, accepts
from fleetshell_tools.relay.protocol import Endpoint
from fleetshell_tools.relay.sessions import Sessions


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def started(client: Client) -> Client:
    client.start()
    return client


# The start of a session


@pytest.mark.parametrize("version", LEGACY_VERSIONS)
def test_initialize_agrees_on_every_legacy_version(client: Client, version: str) -> None:
    answer = client.request("initialize", hello(version), id="a")
    assert read(answer) == {
        "jsonrpc": "2.0",
        "id": "a",
        "result": {
            "protocolVersion": version,
            "capabilities": {**CAPABILITIES, "logging": {}},
            "serverInfo": SERVER,
            "instructions": "Call authenticate first.",
        },
    }
    assert isinstance(answer, Answer)
    assert [name for name, _ in answer.headers] == ["Mcp-Session-Id"]


@pytest.mark.parametrize("version", ["2026-07-28", "2099-01-01", "1.0", ""])
def test_initialize_offers_the_latest_where_the_version_is_not_served(client: Client, version: str) -> None:
    assert client.start(version).version == "2025-11-25"


def test_instructions_are_left_out_where_there_are_none() -> None:
    offer = Everything()
    offer.instructions = ""
    assert "instructions" not in read(Client(offer=offer).request("initialize", hello()))["result"]


BAD_HELLOS = {
    "nothing": None,
    "version as a number": hello(2025),
    "version null": hello(None),
    "no capabilities": hello(capabilities=None),
    "capabilities as a list": hello(capabilities=[]),
    "capabilities without end": hello(capabilities={"experimental": {"x": {"y": [[]] * 10_000}}}),
    "no client": hello(clientInfo=None),
    "client as text": hello(clientInfo="x"),
    "client without a name": hello(clientInfo={"version": "1"}),
    "client name as a number": hello(clientInfo={"name": 1, "version": "1"}),
    "client version as a number": hello(clientInfo={"name": "x", "version": 1}),
}


@pytest.mark.parametrize("params", BAD_HELLOS.values(), ids=BAD_HELLOS.keys())
def test_initialize_with_bad_parameters_starts_nothing(client: Client, params: Any) -> None:
    assert code(client.request("initialize", params)) == -32602
    assert client.sessions.live() == []


def test_what_the_client_calls_itself_is_one_short_printable_line(client: Client) -> None:
    client.request("initialize", hello(clientInfo={"name": "a\x1b[31m\nb\u202e" + "c" * 500, "version": "1\r\n2"}))
    (session,) = client.sessions.live()
    assert session.client_name.startswith("a bccc")
    assert len(session.client_name) == 80
    assert session.client_version == "1 2"


def test_initialize_ignores_the_id_of_an_older_session(started: Client) -> None:
    before = started.session_id
    started.start()
    assert started.session_id != before
    assert len(started.sessions.live()) == 2


def test_a_key_with_every_session_in_use_gets_a_sentence(client: Client) -> None:
    client.sessions = Sessions(now=lambda: 0.0, per_key=1)
    client.endpoint = Endpoint(server_info=SERVER, offer=Everything(), sessions=client.sessions)
    client.start()
    client.call()
    error = read(client.request("initialize", hello()), 429)["error"]
    assert error["data"] == {"reason": "too_many_sessions"}


# HTTP rules

POSTS: list[tuple[str, str | None, int]] = [
    ("Content-Type", None, 415),
    ("Content-Type", "", 415),
    ("Content-Type", "text/plain", 415),
    ("Content-Type", "application/x-www-form-urlencoded", 415),
    ("Content-Type", "application/jsonp", 415),
    ("Content-Type", "application/json, text/plain", 415),
    ("Content-Type", "application/json", 200),
    ("Content-Type", " Application/JSON ; charset=utf-8", 200),
    ("Accept", None, 200),
    ("Accept", "", 200),
    ("Accept", "*/*", 200),
    ("Accept", "application/*", 200),
    ("Accept", "text/html, application/json;q=0.1", 200),
    ("Accept", "APPLICATION/JSON", 200),
    ("Accept", "text/event-stream", 406),
    ("Accept", "text/html", 406),
    ("Accept", "*/*, application/json;q=0", 406),
    ("Mcp-Session-Id", None, 400),
    ("Mcp-Session-Id", "", 400),
    ("Mcp-Session-Id", "unknown", 404),
]


@pytest.mark.parametrize(("header", "value", "status"), POSTS)
def test_a_post_is_judged_by_its_headers(started: Client, header: str, value: str | None, status: int) -> None:
    answer = started.post(rpc("ping", id=1), {header: value})
    assert ("error" in read(answer, status)) == (status != 200)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "HEAD", "OPTIONS", "TRACE", "post", "BREW\x1b"])
def test_other_http_methods_are_refused_with_those_that_there_are(started: Client, method: str) -> None:
    answer = started.send(method, b"")
    assert code(answer, 405) == -32600
    assert isinstance(answer, Answer)
    assert answer.headers == (("Allow", "GET, POST, DELETE"),)


@pytest.mark.parametrize(
    ("header", "offered", "expected"),
    [
        ("text/*;q=0, text/event-stream", "text/event-stream", True),
        ("text/event-stream;q=0.000, */*", "text/event-stream", False),
        ("text/event-stream;q=0.001", "text/event-stream", True),
        ("text/event-stream ; Q = 0", "text/event-stream", False),
        ("*/*;q=0", "text/event-stream", False),
        ("text/event-stream;q=high", "text/event-stream", True),
        (",;,", "text/event-stream", False),
    ],
)
def test_the_closest_media_range_decides(header: str, offered: str, expected: bool) -> None:
    assert accepts(header, offered) is expected


def test_a_foreign_an_unknown_and_an_ended_session_answer_alike(started: Client) -> None:
    ended = started.session_id
    started.send("DELETE", b"")
    started.start()
    answers = [started.request("ping", Mcp_Session_Id=ended), started.request("ping", Mcp_Session_Id="unknown")]
    started.key = "mallory"
    answers.append(started.request("ping"))
    assert answers[0] == answers[1] == answers[2]
    error = read(answers[0], 404)["error"]
    assert (error["code"], error["data"]) == (-32001, {"reason": "session_not_found"})


def test_delete_ends_the_session_once(started: Client) -> None:
    assert started.send("DELETE", b"") == Answer(204, content_type="")
    assert code(started.send("DELETE", b""), 404) == -32001
    assert code(started.request("ping"), 404) == -32001
    assert code(started.send("DELETE", b"", {"Mcp-Session-Id": None}), 400) == -32600


def test_get_opens_one_stream_of_a_session(started: Client) -> None:
    first = started.send("GET", b"", {"Accept": "text/event-stream"})
    assert isinstance(first, Listen)
    assert code(started.send("GET", b""), 409) == -32600
    started.endpoint.hang_up(first)
    assert isinstance(started.send("GET", b"", {"Accept": "*/*"}), Listen)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Mcp-Session-Id": None}, 400),
        ({"Mcp-Session-Id": "unknown"}, 404),
        ({"Accept": "application/json"}, 406),
        ({"Accept": "text/event-stream;q=0"}, 406),
    ],
)
def test_get_is_refused_without_a_session_or_a_stream_in_accept(
    started: Client, headers: dict[str, str | None], status: int
) -> None:
    read(started.send("GET", b"", headers), status)


def test_a_change_of_a_list_goes_to_open_streams_of_initialized_sessions(started: Client) -> None:
    listen = started.send("GET", b"")
    assert isinstance(listen, Listen)
    wire = Wire()
    listen.stream.attach(wire)
    started.endpoint.changed("tools")
    assert wire.messages == []
    started.post(rpc("notifications/initialized"))
    for kind in ("tools", "prompts", "resources"):
        started.endpoint.changed(kind)
    assert wire.messages == [
        rpc("notifications/tools/list_changed"),
        rpc("notifications/prompts/list_changed"),
        rpc("notifications/resources/list_changed"),
    ]
    assert not wire.closed
    started.send("DELETE", b"")
    assert wire.closed


# Messages

BODIES: dict[str, tuple[Any, int, int | None]] = {
    "no JSON": (b"hello", -32700, None),
    "invalid UTF-8": (b'{"jsonrpc":"\xff"}', -32700, None),
    "too deep": (b"[" * 5000, -32700, None),
    "duplicate key": (b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}', -32700, None),
    "no object": (b"7", -32600, None),
    "null": (b"null", -32600, None),
    "id null": (rpc("ping", id=None), -32600, None),
    "id fraction": (rpc("ping", id=1.5), -32600, None),
    "id boolean": (rpc("ping", id=True), -32600, None),
    "method as a number": ({"jsonrpc": "2.0", "id": 4, "method": 1}, -32600, 4),
    "params as an array": (rpc("ping", [], id=4), -32600, 4),
    "wrong version": ({"jsonrpc": "1.0", "id": 4, "method": "ping"}, -32600, 4),
    "no kind of message": ({"jsonrpc": "2.0", "id": 4}, -32600, 4),
}


@pytest.mark.parametrize(("body", "error", "request_id"), BODIES.values(), ids=BODIES.keys())
def test_what_is_no_message_is_refused_with_http_400(started: Client, body: Any, error: int, request_id: Any) -> None:
    answer = read(started.post(body), 400)
    assert (answer["error"]["code"], answer["id"]) == (error, request_id)


REQUESTS: list[tuple[str, Any, int]] = [
    ("logging/setLevel", {"level": "loud"}, -32602),
    ("logging/setLevel", {"level": ["info"]}, -32602),
    ("logging/setLevel", None, -32602),
    ("resources/subscribe", {"uri": 1}, -32602),
    ("resources/subscribe", {"uri": ""}, -32602),
    ("resources/subscribe", {"uri": "x" * 2049}, -32602),
    ("resources/unsubscribe", None, -32602),
    ("prompts/list", {"cursor": "abc"}, -32602),
    ("resources/list", {"cursor": "abc"}, -32602),
    ("resources/templates/list", {"cursor": "abc"}, -32602),
    ("prompts/get", None, -32602),
    ("prompts/get", {"name": 1}, -32602),
    ("prompts/get", {"name": "x", "arguments": []}, -32602),
    ("resources/read", {"name": "x"}, -32602),
    ("resources/read", {"uri": None}, -32602),
    ("server/discover", None, -32601),
    ("subscriptions/listen", {"notifications": {}}, -32601),
    ("tasks/list", None, -32601),
    ("notifications/initialized", None, -32601),
    ("Ping", None, -32601),
    ("", None, -32601),
    ("tools/list", {"cursor": "abc"}, -32602),
    ("tools/list", {"cursor": ""}, -32602),
    ("tools/list", {"cursor": 0}, -32602),
    ("tools/call", None, -32602),
    ("tools/call", {"name": None}, -32602),
    ("tools/call", {"name": 5}, -32602),
    ("tools/call", {"name": "x", "arguments": []}, -32602),
    ("tools/call", {"name": "x", "arguments": "{}"}, -32602),
    ("tools/call", {"name": "x", "arguments": False}, -32602),
    ("tools/call", {"name": "x", "_meta": []}, -32602),
    ("tools/call", {"name": "x", "_meta": {"progressToken": True}}, -32602),
    ("tools/call", {"name": "x", "_meta": {"progressToken": 1.5}}, -32602),
]


@pytest.mark.parametrize(("method", "params", "error"), REQUESTS)
def test_a_request_that_cannot_be_served_is_answered_under_its_id(
    started: Client, method: str, params: Any, error: int
) -> None:
    answer = read(started.request(method, params, id="q"))
    assert (answer["error"]["code"], answer["id"]) == (error, "q")
    assert started.sessions.live()[0].in_flight == {}


UNANSWERED: list[Any] = [
    rpc("notifications/initialized"),
    rpc("notifications/cancelled", {"requestId": 99}),
    rpc("notifications/cancelled", {"requestId": True}),
    rpc("notifications/cancelled", {"requestId": [1]}),
    rpc("notifications/cancelled", {"requestId": 1, "reason": 5}),
    rpc("notifications/cancelled"),
    rpc("notifications/roots/list_changed"),
    rpc("notifications/made_up", {"x": 1}),
    rpc("tools/call", {"name": "execute_command"}),
    rpc("initialize", hello()),
    {"jsonrpc": "2.0", "id": 1, "result": {}},
    {"jsonrpc": "2.0", "id": "x", "error": {"code": -1, "message": "no"}},
    {"jsonrpc": "2.0", "id": None, "error": {"code": -1, "message": "no"}},
]


@pytest.mark.parametrize("message", UNANSWERED)
def test_notifications_and_responses_are_accepted_without_an_answer(started: Client, message: Any) -> None:
    assert started.post(message) == Answer(202, b"", (), "")
    assert code(started.post(message, {"Mcp-Session-Id": None}), 400) == -32600


def test_initialized_is_noted(started: Client) -> None:
    (session,) = started.sessions.live()
    assert not session.initialized
    started.post(rpc("notifications/initialized"))
    assert session.initialized


@pytest.mark.parametrize("method", LISTINGS)
def test_a_list_is_passed_on_byte_for_byte(started: Client, method: str) -> None:
    member = "resourceTemplates" if "templates" in method else method.removesuffix("/list")
    answer = started.request(method, {"cursor": None}, id="ü")
    assert isinstance(answer, Answer)
    assert answer.body == f'{{"jsonrpc":"2.0","id":"ü","result":{{"{member}":'.encode() + LISTINGS[method] + b"}}"


def test_what_is_not_offered_is_no_method() -> None:
    offer = Everything()
    offer.methods.clear()
    offer.shared = {"resources": {"listChanged": True}}
    offer.listings = {"tools/list": TOOLS}
    client = Client(offer=offer)
    client.start()
    uri = {"uri": "fleetshell://servers/web-1"}
    for method in ("prompts/list", "prompts/get", "resources/read", "completion/complete", "resources/subscribe"):
        assert code(client.request(method, uri)) == -32601


def test_a_log_level_is_kept_where_there_is_logging(started: Client) -> None:
    assert started.call(1).calls[0].peer.log_level == "info"
    assert read(started.request("logging/setLevel", {"level": "error"}))["result"] == {}
    assert started.call(2).calls[0].peer.log_level == "error"


def test_without_logging_no_client_gets_log_messages() -> None:
    class Quiet(Everything):
        def capabilities(self, modern: bool) -> dict[str, Any]:
            return {}

    client = Client(offer=Quiet())
    client.start()
    assert code(client.request("logging/setLevel", {"level": "error"})) == -32601
    assert client.call().calls[0].peer.log_level is None


def test_an_update_of_a_resource_goes_to_the_sessions_that_subscribed_to_it(started: Client) -> None:
    listen = started.send("GET", b"")
    assert isinstance(listen, Listen)
    wire = Wire()
    listen.stream.attach(wire)
    started.post(rpc("notifications/initialized"))
    uri = {"uri": "fleetshell://servers/web-1"}
    started.endpoint.resource_updated(uri["uri"])
    assert read(started.request("resources/subscribe", uri))["result"] == {}
    started.endpoint.resource_updated("fleetshell://servers/web-2")
    started.endpoint.resource_updated(uri["uri"])
    assert read(started.request("resources/unsubscribe", uri))["result"] == {}
    started.endpoint.resource_updated(uri["uri"])
    assert wire.messages == [rpc("notifications/resources/updated", uri)]


def test_subscriptions_of_a_session_have_an_end(started: Client) -> None:
    for number in range(256):
        assert "result" in read(started.request("resources/subscribe", {"uri": f"x://{number}"}))
    error = read(started.request("resources/subscribe", {"uri": "x://256"}))["error"]
    assert (error["code"], error["data"]["reason"]) == (-32602, "too_many_subscriptions")
    assert "result" in read(started.request("resources/subscribe", {"uri": "x://0"}))


def test_a_resumed_stream_is_beside_the_standing_one(started: Client) -> None:
    standing = started.send("GET", b"")
    resumed = started.send("GET", b"", {"Last-Event-ID": " 7_3 "})
    assert isinstance(standing, Listen)
    assert isinstance(resumed, Listen)
    assert (standing.last_event_id, resumed.last_event_id) == (None, "7_3")
    started.endpoint.hang_up(resumed)
    assert not standing.stream.closed
    assert resumed.stream.closed
