"""The shell session tools over MCP, and `session list` and `session close`, with a relay as a process of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from support.mcp_client import Client, connected
from support.relay import RelayHome, RelayProcess, fleetshell, make_home
from support.sshd import KeyPair, Sshd

TOOLS = ("create_shell_session", "execute_in_session", "close_shell_session", "list_active_sessions")


@pytest.fixture
def session(client: Client) -> Iterator[str]:
    created = client.call("create_shell_session", server_id="web-1")
    if created.get("isError") and "no terminal" in created["content"][0]["text"]:
        pytest.skip("sshd gives this user no terminals")
    session_id = str(created["structuredContent"]["session_id"])
    yield session_id
    client.call("close_shell_session", session_id=session_id)


def test_the_tools_are_listed_with_what_they_may_do(client: Client) -> None:
    listed = {tool["name"]: tool for tool in client.rpc("tools/list").json["result"]["tools"]}
    assert set(TOOLS) <= set(listed)
    hints = {name: listed[name]["annotations"] for name in TOOLS}
    assert hints["execute_in_session"]["destructiveHint"] and not hints["create_shell_session"]["readOnlyHint"]
    assert hints["close_shell_session"]["idempotentHint"] and hints["list_active_sessions"]["readOnlyHint"]


def test_a_session_from_its_creation_to_its_end(client: Client) -> None:
    created = client.call("create_shell_session", server_id="web-1")
    if created.get("isError") and "no terminal" in created["content"][0]["text"]:
        pytest.skip("sshd gives this user no terminals")
    session_id = created["structuredContent"]["session_id"]
    assert re.fullmatch("sess_[0-9a-f]{12}", session_id)
    assert created["content"][0]["text"].splitlines()[0] == f"Created session '{session_id}' on web-1"
    client.call("execute_in_session", session_id=session_id, command="cd /usr && X=5")
    done = client.call("execute_in_session", session_id=session_id, command="pwd; echo $X; (exit 3)")[
        "structuredContent"
    ]
    expected = {
        "output": "/usr\n5\n",
        "exit_code": 3,
        "cwd": "/usr",
        "running": False,
        "truncated": False,
        "ended": False,
    }
    assert {name: done[name] for name in expected} == expected
    listed = client.call("list_active_sessions")["structuredContent"]
    assert listed["count"] == 1
    assert {name: listed["sessions"][0][name] for name in ("session_id", "server_id", "cwd", "running")} == {
        "session_id": session_id, "server_id": "web-1", "cwd": "/usr", "running": False
    }  # fmt: skip
    assert client.text("close_shell_session", session_id=session_id) == "Session closed successfully"
    again = client.call("close_shell_session", session_id=session_id)
    assert again["isError"] and "There is no shell session" in again["content"][0]["text"]


def test_a_question_is_answered_and_a_program_interrupted(client: Client, session: str) -> None:
    asked = client.call(
        "execute_in_session", session_id=session, command='printf "name? "; read n; echo "hello $n"', timeout=1
    )
    assert asked["structuredContent"]["running"] and asked["structuredContent"]["exit_code"] is None
    assert asked["structuredContent"]["output"] == "name? " and "is_input" in asked["structuredContent"]["notice"]
    answered = client.call("execute_in_session", session_id=session, command="world", is_input=True)
    assert answered["structuredContent"]["output"] == "hello world\n"
    assert client.call("execute_in_session", session_id=session, command="sleep 1000", timeout=1)["structuredContent"][
        "running"
    ]
    assert (
        client.call("execute_in_session", session_id=session, interrupt=True)["structuredContent"]["exit_code"] == 130
    )


def test_large_output_is_cut_to_the_budget_and_escapes_are_stripped(client: Client, session: str) -> None:
    done = client.call("execute_in_session", session_id=session, command="seq 100000")["structuredContent"]
    assert done["truncated"] and len(done["output"]) < 20_000
    assert (
        done["output"].startswith("1\n2\n")
        and done["output"].endswith("\n100000\n")
        and "left out here" in done["output"]
    )
    coloured = client.call("execute_in_session", session_id=session, command="printf '\\033[31mred\\033[0m\\r\\n'")
    assert coloured["structuredContent"]["output"] == "red\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "`command` is missing"),
        ({"command": " "}, "`command` is missing"),
        ({"command": "x", "interrupt": True}, "no `command`"),
        ({"command": "id", "timeout": 100000}, "at most 3600"),
        ({"command": "rm -rf /"}, "Blocked"),
        ({"command": "x", "is_input": True}, "Nothing is running"),
        ({"interrupt": True}, "Nothing is running"),
    ],
)
def test_bad_calls_get_a_sentence(client: Client, session: str, arguments: dict[str, object], says: str) -> None:
    refused = client.call("execute_in_session", session_id=session, **arguments)
    assert refused["isError"] and says in refused["content"][0]["text"]


def test_a_session_outlives_the_mcp_session_that_made_it(open_relay: RelayProcess, session: str) -> None:
    with connected(open_relay) as other:
        assert (
            other.call("execute_in_session", session_id=session, command="echo kept")["structuredContent"]["output"]
            == "kept\n"
        )


def test_the_command_line_lists_and_closes_sessions(open_relay: RelayProcess, client: Client, session: str) -> None:
    home = open_relay.home
    (listed,) = json.loads(home.run("session", "list", "--json").stdout)
    assert (listed["session_id"], listed["server_id"], listed["running"]) == (session, "web-1", False)
    assert session in home.run("session", "list").stdout
    assert home.run("session", "close", session).stdout == f"Closed the session {session}.\n"
    assert home.run("session", "list").stdout == "There are no shell sessions.\n"
    assert client.call("execute_in_session", session_id=session, command="id")["isError"]
    gone = home.run("session", "close", session, check=False)
    assert gone.returncode == 4 and session in gone.stderr
    closed = [record for record in home.audit() if record["event"] == "session_closed"]
    assert closed[-1]["tool"] == "session close" and closed[-1]["stopped"] == "confirmed"


def test_without_a_relay_the_command_line_says_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    home: RelayHome = make_home(tmp_path_factory.mktemp("none") / "home")
    for arguments in (["list"], ["close", "sess_x"]):
        run = fleetshell(home.path, "session", *arguments, check=False)
        assert run.returncode == 1 and "No relay is running" in run.stderr


def test_stopping_the_relay_ends_what_runs_in_its_sessions(
    relay_key: KeyPair, sshd: Sshd, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = make_home(tmp_path_factory.mktemp("stop") / "home", relay_key.private)
    home.run("auth", "disable")
    home.add("web-1", sshd)
    process = RelayProcess(home)
    with connected(process) as made:
        created = made.call("create_shell_session", server_id="web-1")
        if created.get("isError") and "no terminal" in created["content"][0]["text"]:
            process.stop()
            pytest.skip("sshd gives this user no terminals")
        made.call(
            "execute_in_session", session_id=created["structuredContent"]["session_id"], command="sleep 1000", timeout=1
        )
    assert process.stop() == 0
    assert [found for found in sshd.remote_processes() if found.name == "sleep"] == []
    assert [record["reason"] for record in home.audit() if record["event"] == "session_closed"] == ["relay stopped"]
