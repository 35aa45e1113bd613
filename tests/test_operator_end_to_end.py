"""The operator and a running relay: approving a call, locking, revoking, new keys, new codes, and limits."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.mcp_client import Client, connected
from support.processes import wait_until
from support.relay import PROGRAM, RelayHome, RelayProcess, make_home
from support.sshd import KeyPair, Sshd
from support.terminal import Terminal

DROP = "mysql -e 'DROP DATABASE shop'"
"""Blocked, and approvable here; it harms nothing, because there is no such program."""


@pytest.fixture
def relay(tmp_path: Path, relay_key: KeyPair, sshd: Sshd) -> Iterator[RelayProcess]:
    home = make_home(tmp_path / "home", relay_key.private)
    home.add("web-1", sshd)
    configure(home, "security:\n", "security:\n  guard: {database: approvable}\n")
    process = RelayProcess(home)
    yield process
    assert process.stop() == 0


def configure(home: RelayHome, old: str, new: str) -> None:
    path = home.path / "config.yaml"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def terminal(home: RelayHome, *arguments: str) -> Terminal:
    return Terminal([*PROGRAM, "--home", str(home.path), *arguments])


def refusal(result: dict[str, Any]) -> str:
    assert result["isError"] and "structuredContent" not in result, result
    return str(result["content"][0]["text"])


def reason(result: dict[str, Any]) -> str:
    return str(result["error"]["data"]["reason"])


def authenticate(client: Client, home: RelayHome, steps: int = 0) -> str:
    code = home.code(steps)
    assert "Successfully" in client.text("authenticate", code=code)
    return code


def test_a_blocked_call_runs_once_after_the_operator_has_seen_it_and_typed_a_fresh_code(
    relay: RelayProcess, tmp_path: Path
) -> None:
    home, log = relay.home, tmp_path / "ran"
    call = {"server_id": "web-1", "command": f"echo ran >> {log}; cat; {DROP}", "stdin": "for \x1b[2J stdin"}
    with connected(relay) as client:
        used = authenticate(client, home)
        said = refusal(client.call("execute_command", **call))
        (entry,) = json.loads(home.run("approvals", "--json").stdout)
        assert f"`fleetshell approve {entry['id']}`" in said and not log.exists()
        table = home.run("approvals").stdout
        assert entry["id"] in table and DROP in table and "web-1" in table and "database: drop" in table
        with terminal(home, "approve", entry["id"]) as screen:
            shown = screen.expect("TOTP code, to let exactly this call through, once: ")
            assert f"| {call['command']}\n" in shown and "servers:   web-1 (1)" in shown and "database: drop" in shown
            assert "would run: mysql -e DROP DATABASE shop" in shown and r"| for \u{1b}[2J stdin" in shown
            screen.type(used)
            screen.expect("This code was already used; the next one starts in ")
            assert screen.end() == 5
        assert "not approved this call yet" in refusal(client.call("execute_command", **call, approval_id=entry["id"]))
        with terminal(home, "approve", entry["id"]) as screen:
            screen.answer("TOTP code", home.code(1))
            screen.expect("Approved.")
            assert screen.end() == 0
        for change in (
            {"stdin": "x"},
            {"command": f"{call['command']} "},
            {"environment": {"A": "1"}},
            {"working_directory": "/"},
        ):
            refusal(client.call("execute_command", **{**call, **change}, approval_id=entry["id"]))
        refusal(
            client.call("multi_server_execute", server_ids=["web-1"], command=call["command"], approval_id=entry["id"])
        )
        assert not log.exists()
        done = client.call("execute_command", **call, approval_id=entry["id"])
        assert done["structuredContent"]["exit_code"] == 127
        refusal(client.call("execute_command", **call, approval_id=entry["id"]))
        assert log.read_text() == "ran\n"
    mine = [record for record in home.audit() if record.get("approval") == entry["id"]]
    assert [record["event"] for record in mine] == [
        "blocked", "approval_failed", "blocked", "approved", "started", "finished"
    ]  # fmt: skip
    approved = mine[3]
    assert approved["principal"].startswith("cli:") and approved["command"] == call["command"]
    assert (approved["servers"], approved["rule"], approved["tool"]) == (["web-1"], "drop", "approve")
    assert home.run("audit", "verify").returncode == 0
    assert home.run("approve", "apr_0000000000", check=False).returncode == 4
    without = home.run("approve", json.loads(home.run("approvals", "--json").stdout)[0]["id"], check=False)
    assert without.returncode == 2 and "terminal" in without.stderr


def test_the_emergency_stop_ends_everything_and_outlives_a_restart(relay: RelayProcess, tmp_path: Path) -> None:
    home, ran = relay.home, tmp_path / "ran"
    with connected(relay) as client, connected(relay) as other:
        authenticate(client, home)
        session = client.call("create_shell_session", server_id="web-1")["structuredContent"]["session_id"]
        client.call("execute_in_session", session_id=session, command=f"touch {ran}; sleep 1000", timeout=1)
        refusal(client.call("execute_command", server_id="web-1", command=DROP))
        wait_until(ran.exists, 20, "the command runs")
        locked = home.run("lock").stdout
        assert "Locked: no tool works" in locked and "1 shell sessions" in locked and "1 authentications" in locked
        for tool, arguments in (
            ("list_servers", {}), ("execute_command", {"server_id": "web-1", "command": "true"}), ("authenticate", {"code": "123456"}),
            ("list_active_sessions", {}),
        ):  # fmt: skip
            assert "`fleetshell unlock`" in refusal(client.call(tool, **arguments))
            assert "locked this relay since" in refusal(other.call(tool, **arguments))
        assert home.run("session", "list", "--json").stdout.strip() == "[]"
        assert home.run("approvals").stdout == "No call waits for you.\n"
        assert "LOCKED" in home.run("status").stdout
    assert relay.stop() == 0
    again = RelayProcess(home)
    try:
        with connected(again) as client:
            assert "`fleetshell unlock`" in refusal(client.call("list_servers"))
            assert home.run("unlock", check=False).returncode == 2
            with terminal(home, "unlock") as screen:
                screen.answer("TOTP code, to unlock the relay, which is locked since", home.code(1))
                screen.expect("Unlocked.")
                assert screen.end() == 0
            assert reason(client.call("list_servers")) == "totp_required"
            assert home.run("unlock").stdout == "The relay is not locked.\n"
    finally:
        assert again.stop() == 0
    events = [record["event"] for record in home.audit()]
    assert events.index("locked") < events.index("unlocked") and "session_closed" in events


def test_a_lock_that_only_stands_in_the_file_is_heeded_too(relay: RelayProcess) -> None:
    home = relay.home
    with connected(relay) as client:
        authenticate(client, home)
        client.text("create_shell_session", server_id="web-1")
        (home.path / "run" / "locked.json").write_text("{}")
        refusal(client.call("list_servers"))
        wait_until(lambda: home.run("session", "list", "--json").stdout.strip() == "[]", 20, "the session was ended")


def test_revoking_ends_every_authentication_and_with_all_what_runs(relay: RelayProcess) -> None:
    home = relay.home
    with connected(relay) as client:
        authenticate(client, home)
        client.text("create_shell_session", server_id="web-1")
        assert home.run("auth", "revoke").stdout == "Ended: 1 authentications.\n"
        assert reason(client.call("list_servers")) == "session_expired"
        authenticate(client, home, 1)
        assert client.call("list_active_sessions")["structuredContent"]["count"] == 1
        assert json.loads(home.run("auth", "revoke", "--all", "--json").stdout) == {
            "grants": 1,
            "jobs": 0,
            "shell_sessions": 1,
        }
        assert reason(client.call("list_servers")) == "session_expired"
    assert [r["everything"] for r in home.audit() if r["event"] == "grants_revoked"] == [False, True]


def test_both_keys_are_valid_after_a_rotation_until_the_old_one_is_dropped(relay: RelayProcess) -> None:
    home, old = relay.home, relay.home.api_key
    with connected(relay) as client:
        used = authenticate(client, home)
        shown = home.run("auth", "rotate-key", "--keep", "2")
        new = home.api_key
        assert new != old and f"Bearer {new}" in shown.stdout and "stays valid until 2" in shown.stdout
        assert client.text("list_servers").startswith("Found 1 server")
        with connected(relay) as changed:
            assert changed.key == new
            assert "already used" in refusal(changed.call("authenticate", code=used)), (
                "a code is good once, not once a key"
            )
            authenticate(changed, home, 1)
            session = client.call("create_shell_session", server_id="web-1")["structuredContent"]["session_id"]
            home.run("auth", "rotate-key", "--keep", "0")
            # On connections that were admitted before, too.
            for gone in (client, changed):
                assert gone.rpc("tools/list").status == 401
                gone.session = ""
        assert session not in home.run("session", "list").stdout
        with connected(relay) as newest:
            assert reason(newest.call("list_servers")) == "totp_required"
    auth = home.config["relay"]["http"]["auth"]
    assert (auth["previous_api_key"], auth["previous_until"]) == ("", "")
    records = [record for record in home.audit() if record["event"] == "api_key_rotated"]
    assert len(records) == 2 and records[0]["new"] == records[1]["old"] and new not in str(home.audit())


def test_the_old_key_ends_by_itself_also_on_a_connection_that_it_has_opened(relay: RelayProcess) -> None:
    home, old = relay.home, relay.home.api_key
    with connected(relay) as client:
        home.run("auth", "rotate-key", "--keep", "1")
        assert client.key == old and client.rpc("tools/list").status == 200
        until = home.config["relay"]["http"]["auth"]["previous_until"]
        soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3))
        configure(home, until, soon)
        home.run("reload")
        # Each turn is a request on the one connection that was admitted with the old key.
        wait_until(lambda: client.rpc("tools/list").status == 401, 20, "the old key is refused")
        client.session = ""


def test_a_new_secret_ends_authentications_and_old_codes(relay: RelayProcess) -> None:
    home = relay.home
    with connected(relay) as client:
        authenticate(client, home)
        old, before = home.config["mfa"]["totp_secret"], home.code(1)
        assert home.run("auth", "reset", check=False).returncode == 2
        with terminal(home, "auth", "reset") as screen:
            screen.answer("Replace the TOTP secret?", "n")
            assert screen.end() == 1
        assert home.config["mfa"]["totp_secret"] == old
        with terminal(home, "auth", "reset") as screen:
            screen.answer("Replace the TOTP secret?", "y")
            screen.expect("Manual entry key: ")
            assert screen.end() == 0
        new = home.config["mfa"]["totp_secret"]
        assert new != old and home.run("auth", "setup").stdout.count(new) == 1
        assert reason(client.call("list_servers")) == "session_expired"
        assert "wrong" in refusal(client.call("authenticate", code=before))
        authenticate(client, home)
    assert new not in str(home.audit()) and "totp_secret_replaced" in [record["event"] for record in home.audit()]


def test_who_calls_too_often_is_told_how_long_to_wait(relay: RelayProcess) -> None:
    home = relay.home
    with open(home.path / "config.yaml", "a") as file:
        file.write("limits: {session_calls_per_minute: 3, authentications_per_minute: 2}\n")
    home.run("reload")
    with connected(relay) as client, connected(relay) as other:
        authenticate(client, home)
        for _ in range(3):
            client.text("list_active_sessions")
        said = refusal(client.call("list_active_sessions"))
        assert "(limits.session_calls_per_minute). Wait " in said
        refusal(client.call("list_active_sessions"))
        assert client.text("list_servers").startswith("Found"), "what costs nothing is not counted"
        refusal(other.call("authenticate", code="000000"))
        assert "(limits.authentications_per_minute). Wait " in refusal(other.call("authenticate", code=home.code(1)))
    limited = [record for record in home.audit() if record["event"] == "rate_limited"]
    assert [record["tool"] for record in limited] == ["list_active_sessions", "authenticate"]
