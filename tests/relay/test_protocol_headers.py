"""Tests of the headers that a 2026-07-28 request repeats its own parts in: whatever differs is refused."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from support.protocol_client import Client, Received, read

from fleetshell_tools.relay.eras import MODERN_VERSION
from fleetshell_tools.relay.exchange import Calls
from fleetshell_tools.relay.headers import ParameterHeader, annotated


@pytest.fixture
def client() -> Client:
    return Client()


def b64(text: str) -> str:
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="


def refused(answer: Received) -> None:
    error = read(answer, 400)["error"]
    assert (error["code"], error["data"]["reason"]) == (-32020, "header_mismatch")


# Headers: what is sent instead, and whether the request is served

VERSION, METHOD, NAME = "MCP-Protocol-Version", "Mcp-Method", "Mcp-Name"
HEADERS: list[tuple[str, Any, bool]] = [
    (VERSION, f" \t{MODERN_VERSION} ", True),
    (VERSION, [MODERN_VERSION, MODERN_VERSION], False),
    (VERSION, [MODERN_VERSION, "2025-11-25"], False),
    (VERSION, "2025-11-25", False),
    (VERSION, "2031-01-01", False),
    (VERSION, "", False),
    (VERSION, None, False),
    (METHOD, " tools/call\t", True),
    (METHOD, None, False),
    (METHOD, "", False),
    (METHOD, "Tools/Call", False),
    (METHOD, "tools/list", False),
    (METHOD, ["tools/call", "tools/call"], False),
    (NAME, "  execute_command ", True),
    (NAME, b64("execute_command"), True),
    (NAME, None, False),
    (NAME, "", False),
    (NAME, "Execute_Command", False),
    (NAME, "other", False),
    (NAME, b64("other"), False),
    (NAME, ["execute_command", "execute_command"], False),
    (NAME, b64("execute_command").rstrip("?="), False),
    (NAME, "=?base64?ZXhlY3V0ZV9jb21tYW5kCg==?=", False),
    (NAME, "=?base64?ZXhlY3V0ZV9jb21tYW5k?=x", False),
    (NAME, "=?base64?ZX hlY3V0ZV9jb21tYW5k?=", False),
    (NAME, "=?base64?\xff?=", False),
    (NAME, "=?BASE64?ZXhlY3V0ZV9jb21tYW5k?=", False),
]


@pytest.mark.parametrize(("header", "value", "served"), HEADERS)
def test_the_headers_must_say_what_the_body_says(client: Client, header: str, value: Any, served: bool) -> None:
    received = client.modern("tools/call", {"name": "execute_command"}, headers={header: value})
    if served:
        assert isinstance(received, Calls)
    else:
        refused(received)


@pytest.mark.parametrize("name", ["größe", " x ", "=?base64?eA==?=", "日本", "=?base64??="])
def test_a_name_that_no_header_can_carry_comes_encoded(client: Client, name: str) -> None:
    received = client.modern("prompts/get", {"name": name}, headers={NAME: b64(name)})
    assert isinstance(received, Calls)
    refused(client.modern("prompts/get", {"name": name}, headers={NAME: "other"}))


def test_the_name_of_a_resource_is_its_address(client: Client) -> None:
    uri = {"uri": "fleetshell://servers/web-1"}
    assert isinstance(client.modern("resources/read", uri), Calls)
    refused(client.modern("resources/read", uri, headers={NAME: "web-1"}))


@pytest.mark.parametrize("method", ["tools/list", "completion/complete", "server/discover"])
def test_other_methods_have_no_name_to_compare(client: Client, method: str) -> None:
    received = client.modern(method, {"name": "a"}, headers={NAME: "b"})
    assert isinstance(received, Calls) or "result" in read(received)


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "region": {"type": "string", "x-mcp-header": "Region"},
        "count": {"type": "integer", "x-mcp-header": "Count"},
        "dry": {"type": "boolean", "x-mcp-header": "Dry"},
        "where": {"type": "object", "properties": {"zone": {"type": "string", "x-mcp-header": "Zone"}}},
        "query": {"type": "string"},
    },
}
PARAMETERS: list[tuple[dict[str, Any], dict[str, Any], bool]] = [
    ({}, {}, True),
    ({"query": "x"}, {"Mcp-Param-Query": "y"}, True),
    ({"region": "eu"}, {"Mcp-Param-Region": "eu"}, True),
    ({"region": "eu"}, {"mcp-param-region": " eu "}, True),
    ({"region": "süd"}, {"Mcp-Param-Region": b64("süd")}, True),
    ({"region": ""}, {"Mcp-Param-Region": ""}, True),
    ({"region": None}, {}, True),
    ({"region": "eu"}, {}, False),
    ({"region": "eu"}, {"Mcp-Param-Region": "EU"}, False),
    ({"region": "eu"}, {"Mcp-Param-Region": ["eu", "eu"]}, False),
    ({"region": "eu"}, {"Mcp-Param-Region": "=?base64?%%%?="}, False),
    ({}, {"Mcp-Param-Region": "eu"}, False),
    ({"region": None}, {"Mcp-Param-Region": "eu"}, False),
    ({"region": ["eu"]}, {"Mcp-Param-Region": "eu"}, False),
    ({"count": 42}, {"Mcp-Param-Count": "42"}, True),
    ({"count": 42}, {"Mcp-Param-Count": "42.0"}, True),
    ({"count": 42.0}, {"Mcp-Param-Count": "42"}, True),
    ({"count": -1}, {"Mcp-Param-Count": "-1"}, True),
    ({"count": 42}, {"Mcp-Param-Count": "43"}, False),
    ({"count": 42}, {"Mcp-Param-Count": "42.5"}, False),
    ({"count": 42}, {"Mcp-Param-Count": "4.2e1"}, False),
    ({"count": 1}, {"Mcp-Param-Count": "true"}, False),
    ({"count": 1}, {"Mcp-Param-Count": "9" * 2000}, False),
    ({"dry": True}, {"Mcp-Param-Dry": "true"}, True),
    ({"dry": False}, {"Mcp-Param-Dry": "false"}, True),
    ({"dry": True}, {"Mcp-Param-Dry": "1"}, False),
    ({"dry": True}, {"Mcp-Param-Dry": "True"}, False),
    ({"where": {"zone": "a"}}, {"Mcp-Param-Zone": "a"}, True),
    ({"where": {"zone": "a"}}, {}, False),
    ({"where": "a"}, {}, True),
]


@pytest.mark.parametrize(("arguments", "headers", "served"), PARAMETERS)
def test_annotated_arguments_must_be_in_their_headers(
    arguments: dict[str, Any], headers: dict[str, Any], served: bool
) -> None:
    client = Client(parameter_headers=lambda name: annotated(SCHEMA) if name == "deploy" else ())
    received = client.modern("tools/call", {"name": "deploy", "arguments": arguments}, headers=headers)
    if served:
        assert isinstance(received, Calls)
    else:
        refused(received)


def test_a_tool_without_annotations_has_no_headers_to_compare() -> None:
    client = Client(parameter_headers=lambda name: annotated(SCHEMA) if name == "deploy" else ())
    call = {"name": "other", "arguments": {"region": "eu"}}
    assert isinstance(client.modern("tools/call", call, headers={"Mcp-Param-Region": "us"}), Calls)


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"type": "number", "x-mcp-header": "A"}}},
        {"properties": {"a": {"type": ["string"], "x-mcp-header": "A"}}},
        {"properties": {"a": {"type": "string", "x-mcp-header": "A B"}}},
        {"properties": {"a": {"type": "string", "x-mcp-header": ""}}},
        {"properties": {"a": {"type": "string", "x-mcp-header": 7}}},
        {"properties": {"a": {"type": "string", "x-mcp-header": "X"}, "b": {"type": "string", "x-mcp-header": "x"}}},
    ],
)
def test_an_annotation_that_clients_drop_the_tool_for_is_an_error(schema: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="x-mcp-header"):
        annotated(schema)


def test_annotations_are_found_in_objects_too() -> None:
    assert ParameterHeader("Mcp-Param-Zone", ("where", "zone")) in annotated(SCHEMA)
    assert annotated({"type": "object"}) == ()
