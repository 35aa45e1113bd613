"""Tests of which era a request belongs to, with the modern one switched off and on."""

from __future__ import annotations

from typing import Any

import pytest
from support.protocol_client import Client, code, hello, modern, read

from fleetshell_tools.relay.eras import MODERN_VERSION, VERSION_KEY


@pytest.fixture
def started() -> Client:
    client = Client()
    client.start()
    return client


# The era of a request where the modern one is switched off: header, version in _meta, method -> JSON-RPC error and
# HTTP status (None: answered)

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
    header: str | None, method: str, params: Any, error: int | None, status: int
) -> None:
    started = Client(modern=False)
    started.start()
    answer = read(started.request(method, params, id=9, MCP_Protocol_Version=header), status)
    assert answer["id"] == 9
    assert answer.get("error", {}).get("code") == error


def test_the_modern_era_is_refused_with_what_is_served_instead_where_it_is_switched_off() -> None:
    client = Client(modern=False)
    answer = read(client.request("server/discover", modern(), id=3, MCP_Protocol_Version=MODERN_VERSION), 400)
    supported = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"]
    assert answer["id"] == 3
    assert answer["error"]["data"] == {
        "reason": "unsupported_version",
        "supported": supported,
        "requested": MODERN_VERSION,
    }


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_version_that_is_switched_off_is_refused_without_a_body_too(method: str) -> None:
    started = Client(modern=False)
    started.start()
    assert code(started.send(method, b"", {"MCP-Protocol-Version": MODERN_VERSION}), 400) == -32022
    assert len(started.sessions.live()) == 1


def test_method_and_name_headers_say_nothing_about_the_era(started: Client) -> None:
    assert read(started.request("ping", Mcp_Method="tools/call", Mcp_Name="slow"))["result"] == {}


# The same where it is switched on: what differs

ON: list[tuple[str | None, str, Any, int | None, int]] = [
    (None, "initialize", LEGACY_INIT, None, 200),
    (None, "initialize", MODERN_INIT, None, 200),
    ("2025-11-25", "initialize", LEGACY_INIT, None, 200),
    ("2025-11-25", "initialize", MODERN_INIT, -32020, 400),
    (MODERN_VERSION, "initialize", LEGACY_INIT, -32602, 400),
    ("2024-11-05", "ping", None, None, 200),
    ("2025-11-25", "ping", modern("2031-01-01"), None, 200),
    ("2025-11-25", "ping", modern(), -32020, 400),
    (MODERN_VERSION, "server/discover", modern(), -32602, 400),
    (MODERN_VERSION, "ping", None, -32602, 400),
    ("2031-01-01", "ping", None, -32022, 400),
    ("2031-01-01", "ping", modern(), -32602, 400),
    ("2025-11-25, 2025-11-25", "ping", None, -32022, 400),
    ("", "ping", None, -32022, 400),
    (None, "server/discover", modern(), -32020, 400),
    (None, "ping", modern(7), -32020, 400),
    (None, "ping", {"_meta": {VERSION_KEY: None}}, None, 200),
    (None, "server/discover", None, -32601, 200),
]


@pytest.mark.parametrize(("header", "method", "params", "error", "status"), ON)
def test_header_and_meta_tell_the_era_where_both_are_served(
    started: Client, header: str | None, method: str, params: Any, error: int | None, status: int
) -> None:
    answer = read(started.request(method, params, id=9, MCP_Protocol_Version=header), status)
    assert answer["id"] == 9
    assert answer.get("error", {}).get("code") == error
