"""Protocol version 2026-07-28 against the real relay: what carries the grant, and what ends with the client."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.mcp_client import connected
from support.modern_client import ModernClient, modern
from support.processes import wait_until
from support.relay import RelayHome, RelayProcess, make_home
from support.sshd import KeyPair, Sshd

META = "dev.fleetshell/session"


@pytest.fixture
def home(tmp_path: Path, relay_key: KeyPair, sshd: Sshd) -> RelayHome:
    made = make_home(tmp_path / "home", relay_key.private)
    made.add("web-1", sshd)
    return made


@contextlib.contextmanager
def serving(home: RelayHome, *arguments: str) -> Iterator[RelayProcess]:
    process = RelayProcess(home, *arguments)
    try:
        yield process
    finally:
        process.stop()


@pytest.fixture
def locked_relay(home: RelayHome) -> Iterator[RelayProcess]:
    with serving(home) as process:
        yield process


def why_locked(answer: dict[str, Any]) -> str:
    """The reason of a refusal; "" where the call was let through."""
    if "error" not in answer:
        return ""
    assert answer["error"]["code"] == -32001, answer
    return str(answer["error"]["data"]["reason"])


def unlock(client: ModernClient, relay: RelayProcess) -> str:
    """Authenticate; returns the handle."""
    result = client.call("authenticate", code=relay.home.code())
    assert result["structuredContent"]["authenticated"], result
    return str(result["structuredContent"]["fleetshell_session"])


def test_discover_says_who_answers_and_in_which_versions(locked_relay: RelayProcess) -> None:
    with modern(locked_relay) as client:
        result = client.rpc("server/discover").json["result"]
    assert "2026-07-28" in result["supportedVersions"] and "2025-11-25" in result["supportedVersions"]
    assert result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "fleetshell"
    assert result["cacheScope"] == "private" and "authenticate" in result["instructions"]


def test_a_cookie_carries_the_grant(locked_relay: RelayProcess) -> None:
    with modern(locked_relay) as client:
        assert why_locked(client.call("list_servers")) == "totp_required"
        unlock(client, locked_relay)
        assert client.cookie.startswith("__Host-fleetshell=")
        assert client.call("list_servers")["structuredContent"]["count"] == 1
        client.cookie = ""
        assert why_locked(client.call("list_servers")) == "totp_required"


def test_a_client_without_cookies_carries_the_grant_in_meta_or_in_an_argument(locked_relay: RelayProcess) -> None:
    with modern(locked_relay, cookies=False) as client:
        handle = unlock(client, locked_relay)
        assert why_locked(client.call("list_servers")) == "totp_required"
        assert why_locked(client.call("list_servers", _meta={META: handle})) == ""
        assert why_locked(client.call("list_servers", fleetshell_session=handle)) == ""
        assert why_locked(client.call("list_servers", fleetshell_session=handle[:-1] + "x")) == "totp_required"


def test_every_carrier_is_in_the_schema_of_modern_clients_alone(locked_relay: RelayProcess) -> None:
    with modern(locked_relay) as client, connected(locked_relay) as old:
        tools = {tool["name"]: tool for tool in client.rpc("tools/list").json["result"]["tools"]}
        legacy = old.rpc("tools/list").json["result"]["tools"]
    assert all(
        ("fleetshell_session" in tool["inputSchema"]["properties"]) == (name != "authenticate")
        for name, tool in tools.items()
    )
    assert not any("fleetshell_session" in json.dumps(tool) for tool in legacy)


def test_a_handle_is_worth_nothing_with_another_key_or_after_a_restart(home: RelayHome) -> None:
    with serving(home) as relay, modern(relay, cookies=False) as client:
        handle = unlock(client, relay)
        with modern(relay, "x" * 40) as thief:
            thief.meta = {META: handle}
            thief.send("tools/list")
            assert thief.connection.getresponse().status == 401
    with serving(home) as relay, modern(relay, cookies=False) as client:
        assert why_locked(client.call("list_servers", fleetshell_session=handle)) == "totp_required"


def test_a_grant_of_a_session_does_not_unlock_modern_requests_nor_the_other_way(locked_relay: RelayProcess) -> None:
    with connected(locked_relay) as old, modern(locked_relay) as client:
        assert "error" not in old.call("authenticate", code=locked_relay.home.code())
        assert why_locked(client.call("list_servers")) == "totp_required"
        assert why_locked(client.call("list_servers", fleetshell_session=old.session)) == "totp_required"
        unlock_again = client.call("authenticate", code=locked_relay.home.code())
        assert unlock_again["isError"] and "already used" in unlock_again["content"][0]["text"]


def test_with_one_grant_for_the_key_every_client_is_unlocked(home: RelayHome) -> None:
    config = home.path / "config.yaml"
    config.write_text(config.read_text().replace("grant_scope: session", "grant_scope: key"))
    assert "grant_scope: key" in config.read_text()
    with (
        serving(home) as relay,
        modern(relay) as client,
        modern(relay, cookies=False) as other,
        connected(relay) as old,
    ):
        unlock(client, relay)
        assert why_locked(other.call("list_servers")) == "" and why_locked(old.call("list_servers")) == ""


def test_no_handle_is_in_the_log_or_the_audit_log(home: RelayHome) -> None:
    with serving(home) as relay, modern(relay) as client:
        handle = unlock(client, relay)
        client.call("list_servers", fleetshell_session=handle)
        client.call("execute_command", server_id="web-1", command="echo x", fleetshell_session=handle)
    for path in [*(home.path / "logs").iterdir(), relay.log]:
        assert handle not in path.read_text(), path
    started = next(r for r in home.audit() if (r["event"], r["tool"]) == ("started", "execute_command"))
    assert started["session"] and started["client"] == "modern 1"


def test_content_is_locked_and_lists_are_not(locked_relay: RelayProcess) -> None:
    locked_relay.home.run("prompt", "save", "check", "--description", "Look", "--content", "Look at {server}.")
    with modern(locked_relay) as client:
        listed = client.rpc("prompts/list").json["result"]
        assert [prompt["name"] for prompt in listed["prompts"]] == ["check"] and listed["cacheScope"] == "private"
        assert client.rpc("resources/list").json["result"]["resources"] == []
        uri = "fleetshell://servers/web-1"
        get = {"name": "check", "arguments": {"server": "web-1"}}
        complete = {"ref": {"type": "ref/prompt", "name": "check"}, "argument": {"name": "server", "value": "w"}}
        for method, params in (
            ("prompts/get", get),
            ("resources/read", {"uri": uri}),
            ("completion/complete", complete),
        ):
            assert why_locked(client.rpc(method, **params).json) == "totp_required", method
        unlock(client, locked_relay)
        assert client.rpc("prompts/get", **get).json["result"]["messages"][0]["content"]["text"] == "Look at web-1."
        read = client.rpc("resources/read", uri=uri).json["result"]
        assert json.loads(read["contents"][0]["text"])["id"] == "web-1" and read["ttlMs"] == 0
        assert client.rpc("completion/complete", **complete).json["result"]["completion"]["values"] == ["web-1"]
        missing = client.rpc("resources/read", uri="fleetshell://servers/none")
        assert missing.status == 400 and missing.json["error"]["code"] == -32602


def test_a_modern_client_that_hangs_up_ends_its_command(locked_relay: RelayProcess, tmp_path: Path, sshd: Sshd) -> None:
    mark = tmp_path / "begun"
    with modern(locked_relay) as client:
        unlock(client, locked_relay)
        with modern(locked_relay) as leaving:
            leaving.cookie = client.cookie
            command = f"touch '{mark}'; sleep 1000"
            leaving.send("tools/call", name="execute_command", arguments={"server_id": "web-1", "command": command})
            wait_until(mark.exists, 20, "the command runs")
        wait_until(
            lambda: any(r["event"] == "cancelled" and r["stopped"] == "confirmed" for r in locked_relay.home.audit()),
            20,
            "the command was cancelled",
        )
    assert [process.name for process in sshd.remote_processes() if process.name == "sleep"] == []


def test_a_legacy_client_that_hangs_up_leaves_a_job(home: RelayHome, tmp_path: Path) -> None:
    home.run("auth", "disable")
    mark, go_on = tmp_path / "begun", tmp_path / "go-on"
    with serving(home) as relay, connected(relay) as stays:
        with connected(relay, initialize=False) as leaving:
            leaving.session, body = stays.session, {"name": "execute_command", "arguments": {
                "server_id": "web-1", "command": f"touch '{mark}'; until [ -e '{go_on}' ]; do sleep 0.05; done; echo done"}}  # fmt: skip
            leaving.connection.request(
                "POST",
                "/mcp",
                json.dumps({"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": body}).encode(),
                {
                    "Authorization": f"Bearer {home.api_key}",
                    "Content-Type": "application/json",
                    "Mcp-Session-Id": leaving.session,
                },
            )
            wait_until(mark.exists, 20, "the command runs")
            leaving.session = ""
        wait_until(lambda: any(r["event"] == "job_started" for r in home.audit()), 20, "the call has become a job")
        (jobs,) = stays.call("get_job")["structuredContent"]["jobs"]
        go_on.touch()
        while (result := stays.call("get_job", job_id=jobs["job_id"], wait=20)["structuredContent"])["running"]:
            assert result["output"] in ("", "done\n")
        assert (result["exit_code"], result["output"]) == (0, "done\n")
    assert any(record["event"] == "job_ended" and record["success"] for record in home.audit())


def test_a_command_that_outlives_the_clients_patience_goes_on_as_a_job(home: RelayHome, tmp_path: Path) -> None:
    home.run("auth", "disable")
    config = home.path / "config.yaml"
    config.write_text(config.read_text() + "jobs:\n  hand_over_seconds: 1\n")
    go_on = tmp_path / "go-on"
    with serving(home) as relay, connected(relay) as client:
        command = f"echo begun; until [ -e '{go_on}' ]; do sleep 0.05; done; echo done"
        first = client.call("execute_command", server_id="web-1", command=command)["structuredContent"]
        assert (first["running"], first["exit_code"], first["success"], first["stdout"]) == (
            True,
            None,
            None,
            "begun\n",
        )
        go_on.touch()
        read = {"job_id": first["job_id"], "offset": len("begun\n")}
        while (last := client.call("get_job", **read, wait=20)["structuredContent"])["running"]:
            assert last["output"] in ("", "done\n")
        assert (last["success"], last["output"]) == (True, "done\n")
        second = client.call("execute_command", server_id="web-1", command="echo b; sleep 1000")["structuredContent"]
        ended = client.call("cancel_job", job_id=second["job_id"])["structuredContent"]
        assert ended["stopped"] == "confirmed"


def test_a_change_of_prompts_is_told_to_who_listens(home: RelayHome) -> None:
    home.run("auth", "disable")
    with serving(home) as relay, modern(relay) as client:
        client.send("subscriptions/listen", notifications={"promptsListChanged": True})
        stream = client.connection.getresponse()
        assert b"acknowledged" in _next_message(stream)
        home.run("prompt", "save", "new", "--description", "New", "--content", "text")
        assert b"notifications/prompts/list_changed" in _next_message(stream)


def _next_message(stream: Any) -> bytes:
    while not (line := stream.readline()).startswith(b"data: {"):
        assert line, "the stream has ended"
    return bytes(line)


def test_the_switch_refuses_the_modern_era_with_the_versions_that_are_served(home: RelayHome) -> None:
    config = home.path / "config.yaml"
    config.write_text(config.read_text() + "protocol:\n  modern: false\n")
    with serving(home) as relay, modern(relay) as client:
        reply = client.rpc("server/discover")
        assert reply.status == 400 and reply.json["error"]["code"] == -32022
        assert reply.json["error"]["data"]["supported"][0] == "2025-11-25"
