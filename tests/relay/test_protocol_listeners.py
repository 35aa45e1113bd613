"""Tests of subscriptions: acknowledged first, told what was asked for alone, and ended with a result."""

from __future__ import annotations

from typing import Any

import pytest
from support.protocol_client import SERVER, Client, Everything, Wire, code, read, rpc

from fleetshell_tools.relay.eras import MODERN_VERSION
from fleetshell_tools.relay.exchange import Subscription

SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
URI = "fleetshell://servers/web-1"


@pytest.fixture
def client() -> Client:
    return Client()


def change_everything(client: Client) -> None:
    for kind in ("tools", "prompts", "resources"):
        client.endpoint.changed(kind)
    client.endpoint.resource_updated(URI)


# What is asked for, what of it is honoured (the offer's resources tell no changes of their list), and what arrives

WISHES: list[tuple[dict[str, Any], dict[str, Any], list[str]]] = [
    ({}, {}, []),
    ({"toolsListChanged": False, "promptsListChanged": None}, {}, []),
    ({"toolsListChanged": True}, {"toolsListChanged": True}, ["notifications/tools/list_changed"]),
    ({"promptsListChanged": True}, {"promptsListChanged": True}, ["notifications/prompts/list_changed"]),
    ({"resourcesListChanged": True}, {}, []),
    ({"resourceSubscriptions": []}, {}, []),
    ({"resourceSubscriptions": ["x://y"]}, {"resourceSubscriptions": ["x://y"]}, []),
    ({"resourceSubscriptions": [URI, URI]}, {"resourceSubscriptions": [URI]}, ["notifications/resources/updated"]),
    ({"madeUp": True}, {}, []),
    (
        {"toolsListChanged": True, "promptsListChanged": True, "resourcesListChanged": True, "resourceSubscriptions": [URI]},
        {"toolsListChanged": True, "promptsListChanged": True, "resourceSubscriptions": [URI]},
        ["notifications/tools/list_changed", "notifications/prompts/list_changed", "notifications/resources/updated"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("wish", "honoured", "told"), WISHES)
def test_a_subscription_is_acknowledged_and_told_what_it_asked_for(
    client: Client, wish: dict[str, Any], honoured: dict[str, Any], told: list[str]
) -> None:
    _, wire = client.listen("sub", **wish)
    meta = {"_meta": {SUBSCRIPTION: "sub"}}
    acknowledged = rpc("notifications/subscriptions/acknowledged", {"notifications": honoured, **meta})
    assert wire.messages == [acknowledged]
    change_everything(client)
    assert wire.methods[1:] == told
    for message in wire.messages:
        assert message["params"]["_meta"] == {SUBSCRIPTION: "sub"}
        assert message["params"].get("uri") in (None, URI)


def test_what_is_not_offered_is_not_honoured() -> None:
    offer = Everything()
    offer.shared = {"tools": {}}
    client = Client(offer=offer)
    _, wire = client.listen(1, toolsListChanged=True, promptsListChanged=True, resourceSubscriptions=[URI])
    assert wire.messages[0]["params"]["notifications"] == {}


def test_two_subscriptions_are_told_under_their_own_ids(client: Client) -> None:
    _, first = client.listen(1, toolsListChanged=True)
    _, second = client.listen("1", toolsListChanged=True)
    client.endpoint.changed("tools")
    assert [wire.messages[1]["params"]["_meta"][SUBSCRIPTION] for wire in (first, second)] == [1, "1"]


def test_what_changes_before_the_answer_has_begun_follows_the_acknowledgement(client: Client) -> None:
    wish = {"notifications": {"toolsListChanged": True}}
    subscription = client.modern("subscriptions/listen", wish)
    assert isinstance(subscription, Subscription)
    client.endpoint.changed("tools")
    wire = Wire()
    subscription.stream.attach(wire)
    assert wire.methods == ["notifications/subscriptions/acknowledged", "notifications/tools/list_changed"]


RESULT = {
    "resultType": "complete",
    "_meta": {SUBSCRIPTION: 7, "io.modelcontextprotocol/serverInfo": SERVER},
}


def test_the_end_of_the_relay_ends_subscriptions_with_their_result(client: Client) -> None:
    subscription, wire = client.listen(7, toolsListChanged=True)
    client.endpoint.stop()
    client.endpoint.stop()
    client.endpoint.changed("tools")
    assert wire.messages[1:] == [{"jsonrpc": "2.0", "id": 7, "result": RESULT}]
    assert wire.closed
    client.endpoint.hang_up(subscription)
    _, late = client.listen(7, toolsListChanged=True)
    assert late.methods == ["notifications/subscriptions/acknowledged", "result"]
    assert late.closed


def test_a_posted_cancellation_ends_a_subscription_with_its_result(client: Client) -> None:
    _, wire = client.listen(7, toolsListChanged=True)
    note = rpc("notifications/cancelled", {"requestId": 7})
    client.post(note, {"MCP-Protocol-Version": MODERN_VERSION})
    assert wire.messages[1] == {"jsonrpc": "2.0", "id": 7, "result": RESULT}
    assert wire.closed


def test_a_client_that_hung_up_is_told_nothing_more(client: Client) -> None:
    subscription, wire = client.listen(7, toolsListChanged=True)
    client.endpoint.hang_up(subscription)
    client.endpoint.changed("tools")
    client.endpoint.stop()
    client.endpoint.cancel_all("the relay is stopping")
    assert wire.methods == ["notifications/subscriptions/acknowledged"]
    assert wire.closed


def test_a_key_has_a_number_of_subscriptions_and_gets_a_place_back_by_hanging_up(client: Client) -> None:
    subscriptions = [client.listen(number)[0] for number in range(64)]
    answer = client.modern("subscriptions/listen", {"notifications": {}}, id=64)
    assert code(answer, 429) == -32603
    assert read(answer, 429)["error"]["data"]["reason"] == "too_many_subscriptions"
    client.key = "bob"
    client.listen(1)
    client.key = "alice"
    client.endpoint.hang_up(subscriptions[0])
    client.listen(64)


def test_sessions_and_subscriptions_are_told_side_by_side(client: Client) -> None:
    client.start()
    _, wire = client.listen(1, toolsListChanged=True)
    client.endpoint.changed("tools")
    assert len(wire.messages) == 2
