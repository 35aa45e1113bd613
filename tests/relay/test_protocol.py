"""Tests of the MCP protocol: sessions, eras, HTTP rules and messages; no socket is in between."""

from __future__ import annotations

from typing import Any

import pytest
from support.protocol_client import SERVER, TOOLS, Client, code, hello, modern, read, rpc

from fleetshell_tools.relay.eras import LEGACY_VERSIONS, MODERN_VERSION, VERSION_KEY
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
            "capabilities": {"tools": {"listChanged": True}},
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
    client = Client()
    client.endpoint = Endpoint(server_info=SERVER, instructions="", list_tools=lambda: b"[]", sessions=client.sessions)
    assert "instructions" not in read(client.request("initialize", hello()))["result"]


BAD_HELLOS = {
    "nothing": None,
    "version as a number": hello(2025),
    "version null": hello(None),
    "no capabilities": hello(capabilities=None),
    "capabilities as a list": hello(capabilities=[]),
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
    client.endpoint = Endpoint(server_info=SERVER, instructions="", list_tools=lambda: b"[]", sessions=client.sessions)
    client.start()
    client.call()
    error = read(client.request("initialize", hello()), 429)["error"]
    assert error["data"] == {"reason": "too_many_sessions"}


# The era of a request: header, version in _meta, method -> JSON-RPC error and HTTP status (None: answered)

LEGACY_INIT, MODERN_INIT = hello(), hello() | modern()
ERAS: list[tuple[str | None, str, Any, int | None, int]] = [
    (None, "initialize", LEGACY_INIT, None, 200),
    (None, "initialize", MODERN_INIT, None, 200),
    ("2025-11-25", "initialize", LEGACY_INIT, None, 200),
    ("2025-11-25", "initialize", MODERN_INIT, -32020, 400),
    (MODERN_VERSION, "initialize", LEGACY_INIT, -32022, 400),
    ("2024-11-05", "ping", None, None, 200),
    ("2025-03-26", "ping", None, None, 200),
    ("2025-06-18", "ping", None, None, 200),
    ("2025-11-25", "ping", None, None, 200),
    (" \t2025-11-25 ", "ping", None, None, 200),
    ("2025-11-25", "ping", modern("2025-11-25"), None, 200),
    ("2025-11-25", "ping", modern("2031-01-01"), None, 200),
    ("2025-11-25", "ping", modern(), -32020, 400),
    ("2024-11-05", "tools/list", modern(), -32020, 400),
    (MODERN_VERSION, "server/discover", modern(), -32022, 400),
    (MODERN_VERSION, "tools/list", modern("2025-11-25"), -32022, 400),
    (MODERN_VERSION, "ping", None, -32022, 400),
    ("2031-01-01", "ping", None, -32022, 400),
    ("2025-11-25, 2025-11-25", "ping", None, -32022, 400),
    ("1", "ping", None, -32022, 400),
    ("", "ping", None, -32022, 400),
    (None, "ping", modern(), -32020, 400),
    (None, "server/discover", modern(), -32020, 400),
    (None, "ping", modern("2025-11-25"), -32020, 400),
    (None, "ping", modern(7), -32020, 400),
    (None, "ping", {"_meta": {}}, None, 200),
    (None, "ping", {"_meta": {VERSION_KEY: None}}, None, 200),
    (None, "ping", {"_meta": "text"}, None, 200),
    (None, "ping", None, None, 200),
    (None, "server/discover", None, -32601, 200),
]


@pytest.mark.parametrize(("header", "method", "params", "error", "status"), ERAS)
def test_header_and_meta_tell_the_era(
    started: Client, header: str | None, method: str, params: Any, error: int | None, status: int
) -> None:
    answer = read(started.request(method, params, id=9, MCP_Protocol_Version=header), status)
    assert answer["id"] == 9
    assert answer.get("error", {}).get("code") == error


def test_the_modern_era_is_refused_with_what_is_served_instead(client: Client) -> None:
    answer = read(client.request("server/discover", modern(), id=3, MCP_Protocol_Version=MODERN_VERSION), 400)
    supported = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"]
    assert answer["id"] == 3
    assert answer["error"]["data"] == {"supported": supported, "requested": MODERN_VERSION}


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_version_that_is_not_served_is_refused_without_a_body_too(started: Client, method: str) -> None:
    assert code(started.send(method, b"", {"MCP-Protocol-Version": MODERN_VERSION}), 400) == -32022
    assert len(started.sessions.live()) == 1


def test_method_and_name_headers_say_nothing_about_the_era(started: Client) -> None:
    assert read(started.request("ping", Mcp_Method="tools/call", Mcp_Name="slow"))["result"] == {}


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


def test_a_change_of_the_tools_goes_to_open_streams_of_initialized_sessions(started: Client) -> None:
    class Wire:
        def __init__(self) -> None:
            self.events: list[bytes] = []

        def send(self, event: bytes) -> bool:
            self.events.append(event)
            return True

        def close(self) -> None:
            self.events.append(b"closed")

    listen = started.send("GET", b"")
    assert isinstance(listen, Listen)
    wire = Wire()
    listen.stream.attach(wire)
    started.endpoint.tools_changed()
    assert wire.events == []
    started.post(rpc("notifications/initialized"))
    started.endpoint.tools_changed()
    changed = b'event: message\ndata: {"jsonrpc":"2.0","method":"notifications/tools/list_changed"}\n\n'
    started.send("DELETE", b"")
    assert wire.events == [changed, b"closed"]


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
    ("logging/setLevel", {"level": "info"}, -32601),
    ("prompts/list", None, -32601),
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


def test_the_list_of_tools_is_passed_on_byte_for_byte(started: Client) -> None:
    answer = started.request("tools/list", {"cursor": None}, id="ü")
    assert isinstance(answer, Answer)
    assert answer.body == '{"jsonrpc":"2.0","id":"ü","result":{"tools":'.encode() + TOOLS + b"}}"
