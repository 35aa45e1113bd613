"""The checks before a request's body is read: Host, Origin, path and key."""

from __future__ import annotations

import logging

import pytest

from fleetshell_tools.core.types import Principal
from fleetshell_tools.relay.gateway import Gateway, HostNames
from fleetshell_tools.relay.http1 import Headers, RequestHead, Response
from fleetshell_tools.relay.protocol import Endpoint
from fleetshell_tools.relay.sessions import Sessions

OWNER = Principal("owner")


@pytest.fixture
def gateway() -> Gateway:
    endpoint = Endpoint(server_info={}, instructions="", list_tools=lambda: b"[]", sessions=Sessions(now=lambda: 0.0))
    return Gateway(
        endpoint,
        lambda header: OWNER if header == "Bearer right" else None,
        lambda principal, call, progress: pytest.fail("no tool is called here"),
        HostNames(["relay.example.com", "*.internal.example"]),
        logging.getLogger(__name__),
    )


def check(gateway: Gateway, path: str = "/mcp", method: str = "POST", **headers: str) -> int:
    """The status of a refusal, or 0."""
    fields = {"Host": "relay.example.com:8080", "Authorization": "Bearer right", **headers}
    found = gateway.precheck(
        RequestHead(method, path, "", Headers([(name, value) for name, value in fields.items() if value]), "192.0.2.1")
    )
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
