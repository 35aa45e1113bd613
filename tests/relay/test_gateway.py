"""The checks before a request's body is read, and when an answer becomes an event stream."""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import dataclass

import pytest
from support.gateway import MODERN, OWNER, Desk, McpClient, Offering, text
from support.http_client import wait_until

from fleetshell_tools.core.errors import BadArgument
from fleetshell_tools.core.types import Principal
from fleetshell_tools.relay.exchange import Call, Conversation, Outcome
from fleetshell_tools.relay.gateway import Gateway, HostNames
from fleetshell_tools.relay.http1 import Headers, RequestHead, Response
from fleetshell_tools.relay.protocol import Endpoint
from fleetshell_tools.relay.sessions import Sessions


class NoRunner:
    """Nothing is called here."""

    def is_quick(self, call: Call) -> bool:
        return False

    def run(self, principal: Principal, call: Call, conversation: Conversation) -> Outcome:
        pytest.fail("a call was run")


@dataclass
class Keys:
    """Knows the right key, and how often it was asked."""

    right: str = "Bearer right"
    asked: int = 0

    def __call__(self, header: str | None) -> Principal | None:
        self.asked += 1
        return OWNER if header == self.right else None


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
def gateway(keys: Keys) -> Gateway:
    endpoint = Endpoint(server_info={}, offer=Offering(), sessions=Sessions(now=lambda: 0.0))
    hosts = HostNames(["relay.example.com", "*.internal.example"])
    return Gateway(endpoint, keys, NoRunner(), hosts, logging.getLogger(__name__))


def head(path: str = "/mcp", method: str = "POST", **headers: str) -> RequestHead:
    fields = {"Host": "relay.example.com:8080", "Authorization": "Bearer right", **headers}
    return RequestHead(
        method, path, "", Headers([(name, value) for name, value in fields.items() if value]), "192.0.2.1"
    )


def check(gateway: Gateway, path: str = "/mcp", method: str = "POST", **headers: str) -> int:
    """The status of a refusal, or 0."""
    found = gateway.precheck(head(path, method, **headers), None)
    return found.status if isinstance(found, Response) else 0


@pytest.mark.parametrize(
    "host",
    ["relay.example.com", "RELAY.example.com.", "relay.example.com:8443", "localhost:8080", "127.0.0.1:8080", "10.1.2.3",
     "[::1]:8080", "[2001:db8::1]", "a.internal.example"],
)  # fmt: skip
def test_the_relays_own_names_and_ip_addresses_pass_the_host_check(gateway: Gateway, host: str) -> None:
    assert check(gateway, Host=host) == 0


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "relay.example.com.evil.example",
        "xrelay.example.com",
        "internal.example",
        "a.b.internal.example",
        "[evil]",
        "1.2.3.4.evil",
    ],
)
def test_a_foreign_host_is_refused_even_with_the_right_key(gateway: Gateway, host: str) -> None:
    assert check(gateway, Host=host) == 403
    assert check(gateway, "/healthz", "GET", Host=host) == 403


@pytest.mark.parametrize(
    ("origin", "status"),
    [("https://relay.example.com", 0), ("http://localhost:6274", 0), ("https://evil.example", 403), ("null", 403), ("file://", 403),
     ("https://relay.example.com.evil.example", 403), ("garbage", 403), ("https://[", 403)],
)  # fmt: skip
def test_a_foreign_origin_is_refused(gateway: Gateway, origin: str, status: int) -> None:
    assert check(gateway, Origin=origin) == status


@pytest.mark.parametrize("header", ["", "Bearer wrong", "right", "Basic right"])
def test_a_missing_or_wrong_key_is_answered_alike(gateway: Gateway, header: str) -> None:
    assert check(gateway, Authorization=header) == 401


def test_discovery_paths_that_mcp_remote_tries_are_plainly_not_found_with_or_without_a_key(gateway: Gateway) -> None:
    for path in (
        "/.well-known/oauth-protected-resource",
        "/.well-known/oauth-protected-resource/mcp",
        "/register",
        "/",
        "/mcp/x",
        "/mcpx",
    ):
        assert check(gateway, path, "GET", Authorization="") == 404, path


def test_health_needs_no_key_and_only_reads(gateway: Gateway) -> None:
    assert check(gateway, "/healthz", "GET", Authorization="") == 0
    assert check(gateway, "/healthz", "POST", Authorization="") == 405


def test_the_next_request_of_a_connection_needs_no_second_look_at_the_same_key(gateway: Gateway, keys: Keys) -> None:
    before = gateway.precheck(head(), None)
    assert gateway.precheck(head(), before) is before
    assert gateway.precheck(head(method="GET"), before) is before
    assert keys.asked == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": ""}, 401),
        ({"Authorization": "Bearer right\xe9"}, 401),
        ({"Host": "evil.example"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"path": "/other"}, 404),
    ],
)
def test_what_was_admitted_before_admits_nothing_else(gateway: Gateway, headers: dict[str, str], status: int) -> None:
    before = gateway.precheck(head(), None)
    found = gateway.precheck(head(**headers), before)
    assert isinstance(found, Response)
    assert found.status == status


def test_a_key_that_was_changed_ends_what_it_had_opened(gateway: Gateway, keys: Keys) -> None:
    before = gateway.precheck(head(), None)
    keys.right = "Bearer new"
    gateway.hosts = gateway.hosts
    found = gateway.precheck(head(), before)
    assert isinstance(found, Response)
    assert found.status == 401


# ---- JSON or an event stream


@pytest.fixture(params=["legacy", "modern"])
def client(request: pytest.FixtureRequest, relay: Desk) -> McpClient:
    return relay.legacy() if request.param == "legacy" else relay.modern()


def last(client: McpClient) -> str:
    """What the last event of a stream says."""
    said: str = client.events()[-1].message["result"]["content"][0]["text"]
    return said


def test_a_quick_call_is_answered_as_json(relay: Desk, client: McpClient) -> None:
    assert client.call("quick").json()["result"]["content"][0]["text"] == "quick"


def test_a_quiet_call_becomes_an_event_stream_in_time(relay: Desk, client: McpClient) -> None:
    with relay.held() as tool:
        client.call("held")
        assert tool.running.wait(20)
        relay.now += 1.0
        answer = client.head()
        assert answer.fields["content-type"] == "text/event-stream"
        assert answer.fields["cache-control"] == "no-cache"
        assert answer.fields["x-accel-buffering"] == "no"
        tool.release.set()
        assert last(client) == "done"
    assert client.call("quick").json()["id"] == client.last_id


@pytest.mark.parametrize(
    ("accept", "name"),
    [
        ("application/json", "held"),
        ("", "held"),
        ("*/*", "held"),
        ("application/json, text/event-stream", "authenticate"),
    ],
)
def test_an_answer_stays_json_where_a_stream_is_not_wanted_or_a_cookie_may_have_to_go_with_it(
    relay: Desk, client: McpClient, accept: str, name: str
) -> None:
    client.accept = accept
    with relay.held(name) as tool:
        client.call(name)
        tool.conversation.notify("notifications/message", {})
        relay.now += 1.0
        looked_at = tool.conversation.due
        wait_until(lambda: tool.conversation.due != looked_at)
        assert not relay.http.has(streams=1)
        tool.release.set()
        assert client.json()["result"]["content"][0]["text"] == "done"


def test_a_batch_is_answered_as_json_however_long_it_takes(relay: Desk) -> None:
    client = relay.legacy("2025-03-26")
    ran: list[str] = []

    def tool(call: Call, conversation: Conversation) -> Outcome:
        conversation.notify("notifications/message", {})
        conversation.when_impatient(lambda: ran.append("impatient"))()
        assert not conversation.answer(text("early"))
        with pytest.raises(BadArgument):
            conversation.request("elicitation/create", {}, 1)
        relay.now += 100
        return text(call.name)

    relay.tools.update({"one": tool, "two": tool})
    batch = [{"jsonrpc": "2.0", "id": i, "method": "tools/call", "params": {"name": i}} for i in ("one", "two")]
    answer = client.send("POST", json.dumps(batch).encode()).wire.answer()
    assert [part["result"]["content"][0]["text"] for part in json.loads(answer.body)] == ["one", "two"]
    assert ran == []


def test_a_runner_that_breaks_its_promise_is_an_internal_error_and_its_call_is_over(
    relay: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    client = relay.legacy()
    with caplog.at_level(logging.ERROR):
        assert client.call("missing").json()["error"]["code"] == -32603
    assert "tools/call could not be worked on" in caplog.text
    assert not relay.session_of(client).in_flight


# ---- hang-ups


def test_a_modern_client_that_hangs_up_cancels_its_call_whether_it_is_a_stream_yet_or_not(relay: Desk) -> None:
    for streams in (False, True):
        client = relay.modern()
        with relay.held() as tool:
            client.call("held")
            if streams:
                tool.conversation.notify("notifications/message", {})
                assert client.head().status == 200
            else:
                assert tool.running.wait(20)
                relay.now += 0.1
            client.hang_up()
            assert tool.cancelled.wait(20)


@pytest.mark.parametrize("streams", [False, True])
def test_a_legacy_client_that_hangs_up_cancels_nothing_but_will_not_wait_for_the_result(
    relay: Desk, streams: bool
) -> None:
    client, impatient = relay.legacy("2025-06-18"), threading.Event()
    with relay.held() as tool:
        client.call("held")
        tool.conversation.when_impatient(impatient.set)
        if streams:
            tool.conversation.notify("notifications/message", {})
            assert client.head().status == 200
        else:
            relay.now += 0.1
        client.hang_up()
        assert impatient.wait(20)
        assert not tool.cancelled.is_set()


def test_a_result_that_nobody_can_get_is_dropped_with_a_line_in_the_log(
    relay: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    client = relay.legacy("2025-06-18")
    with caplog.at_level(logging.DEBUG), relay.held() as tool:
        client.call("held")
        tool.conversation.notify("notifications/message", {})
        assert client.head().status == 200
        client.hang_up()
        wait_until(lambda: relay.http.has(connections=0))
        tool.release.set()
        wait_until(lambda: not relay.session_of(client).in_flight)
    wait_until(lambda: "its result is dropped" in caplog.text)


# ---- standing streams


def test_a_session_has_one_get_stream_at_a_time(relay: Desk) -> None:
    client = relay.legacy("2025-06-18")
    streams = [relay.beside(client) for _ in range(2)]
    assert streams[0].send("GET").head().status == 200
    assert streams[1].send("GET").wire.answer().status == 409
    relay.endpoint.changed("tools")
    event = streams[0].event()
    assert event is not None
    assert (event.id, event.message["method"]) == (None, "notifications/tools/list_changed")
    streams[0].hang_up()
    wait_until(lambda: relay.session_of(client).stream is None)
    assert relay.beside(client).send("GET").head().status == 200


def test_a_subscription_is_a_standing_stream_that_ends_with_its_client(relay: Desk) -> None:
    client = relay.modern()
    prefix = "io.modelcontextprotocol/"
    meta = {f"{prefix}protocolVersion": MODERN, f"{prefix}clientCapabilities": {}}
    client.rpc(
        "subscriptions/listen",
        {"notifications": {"toolsListChanged": True}, "_meta": meta},
        MCP_Protocol_Version=MODERN,
        Mcp_Method="subscriptions/listen",
    )
    assert client.head().fields["content-type"] == "text/event-stream"
    relay.endpoint.changed("tools")
    methods = [event.message["method"] for event in (client.event(), client.event()) if event]
    assert methods == ["notifications/subscriptions/acknowledged", "notifications/tools/list_changed"]
    relay.endpoint.stop()
    assert [event.message["id"] for event in client.events()] == [client.last_id]
