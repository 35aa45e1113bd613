"""Several people on one relay: each with a key, codes, servers and a policy of their own, and the record says who."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyotp
import pytest
from support.mcp_client import Client, connected
from support.modern_client import modern
from support.processes import wait_until
from support.relay import RelayHome, RelayProcess, make_home
from support.sshd import KeyPair, Sshd


@dataclass
class Member:
    """What `auth add-user --json` gave to somebody."""

    facts: dict[str, Any]

    @property
    def key(self) -> str:
        return str(self.facts["api_key"])

    def code(self, steps: int = 0) -> str:
        return pyotp.TOTP(self.facts["secret"]).at(int(time.time()) + steps * 30)


def add(home: RelayHome, name: str, *arguments: str) -> Member:
    return Member(json.loads(home.run("auth", "add-user", name, "--json", *arguments).stdout))


def unlock(client: Client, member: Member, steps: int = 0) -> str:
    code = member.code(steps)
    assert client.text("authenticate", code=code).startswith("Successfully")
    return code


@pytest.fixture
def relay(tmp_path: Path, relay_key: KeyPair, sshd: Sshd) -> Iterator[RelayProcess]:
    home = make_home(tmp_path / "home", relay_key.private)
    home.add("web-1", sshd, "--tags", "web")
    first = (home.path / "servers" / "web-1.conf").read_text()
    for name, tag in (("web-2", "Web"), ("db-1", "database")):
        path = home.path / "servers" / f"{name}.conf"
        path.write_text(first.replace("id: web-1", f"id: {name}").replace("- web", f"- {tag}"))
        path.chmod(0o600)
    with open(home.path / "config.yaml", "a") as file:
        file.write("jobs: {hand_over_seconds: 1}\n")
    process = RelayProcess(home)
    yield process
    assert process.stop() == 0


def ids(client: Client) -> list[str]:
    return [server["id"] for server in client.call("list_servers")["structuredContent"]["servers"]]


def refused(result: dict[str, Any]) -> str:
    assert result["isError"] and "structuredContent" not in result, result
    return str(result["content"][0]["text"])


def test_two_people_with_different_servers_share_a_relay_and_the_record_says_who(relay: RelayProcess) -> None:
    home = relay.home
    anna, bert = add(home, "anna", "--tags", "web"), add(home, "bert", "--servers", "db-1")
    with connected(relay, key=anna.key) as hers, connected(relay, key=bert.key) as his, connected(relay) as owners:
        assert hers.call("list_servers")["error"]["data"]["reason"] == "totp_required"
        assert "wrong" in refused(hers.call("authenticate", code=bert.code())), "everybody's codes are their own"
        unlock(hers, anna)
        unlock(his, bert)
        owners.text("authenticate", code=home.code())
        assert ids(hers) == ["web-1", "web-2"] and ids(his) == ["db-1"] and ids(owners) == ["db-1", "web-1", "web-2"]

        assert hers.call("execute_command", server_id="web-1", command="echo hers")["structuredContent"]["success"]
        said = refused(hers.call("execute_command", server_id="db-1", command="echo no"))
        assert said.startswith('There is no server "db-1".') and said.endswith("Known servers: web-1, web-2.")
        fan_out = his.call("multi_server_execute", server_ids=["*"], command="echo his")["structuredContent"]
        assert [result["server_id"] for result in fan_out["results"]] == ["db-1"]
        assert "web-1" in refused(his.call("multi_server_execute", server_ids=["db-1", "web-1"], command="echo no"))

        # What is one's own is there for nobody else.
        shell = hers.call("create_shell_session", server_id="web-2")["structuredContent"]["session_id"]
        job = hers.call("execute_command", server_id="web-1", command="sleep 300", timeout=300)["structuredContent"][
            "job_id"
        ]
        refused(his.call("execute_in_session", session_id=shell, command="id"))
        assert his.call("list_active_sessions")["structuredContent"]["count"] == 0
        refused(his.call("get_job", job_id=job))
        refused(his.call("cancel_job", job_id=job))
        assert hers.call("cancel_job", job_id=job)["structuredContent"]
        for method in ("resources/list", "resources/templates/list"):
            assert "web-1" not in his.rpc(method).body.decode()
        assert (
            his.rpc("resources/read", uri="fleetshell://servers/web-1").json["error"]["data"]["reason"] == "not_found"
        )
        assert "hostname" in his.rpc("resources/read", uri="fleetshell://servers/db-1").body.decode()
        complete = {
            "ref": {"type": "ref/resource", "uri": "fleetshell://servers/{id}"},
            "argument": {"name": "id", "value": ""},
        }
        values = his.rpc("completion/complete", **complete).json["result"]["completion"]["values"]
        assert values == ["db-1"]

    ran = [(record["name"], record["server_id"]) for record in home.audit() if record["event"] == "started"]
    assert next(entry for entry in ran if entry[0] == "anna") == ("anna", "web-1")
    assert ("bert", "db-1") in ran and ("bert", "web-1") not in ran and ("anna", "db-1") not in ran
    keys = {record["name"]: record["principal"] for record in home.audit() if record["event"] == "authenticated"}
    assert set(keys) == {"anna", "bert", "owner"} and len(set(keys.values())) == 3
    text = str(home.audit())
    assert not any(secret in text for member in (anna, bert) for secret in (member.key, member.facts["secret"]))


def test_a_person_comes_and_goes_without_a_restart_and_what_they_had_running_ends_at_once(relay: RelayProcess) -> None:
    home = relay.home
    anna, bert = add(home, "anna"), add(home, "bert", "--servers", "web-1")
    with (
        connected(relay, key=anna.key) as hers,
        connected(relay, key=bert.key) as his,
        modern(relay, anna.key) as newer,
    ):
        unlock(hers, anna)
        unlock(his, bert)
        code = anna.code(1)
        assert newer.call("authenticate", code=code).get("structuredContent", {}).get("authenticated")
        theirs = his.call("create_shell_session", server_id="web-1")["structuredContent"]["session_id"]
        mine = hers.call("create_shell_session", server_id="web-1")["structuredContent"]["session_id"]
        assert hers.call("execute_command", server_id="web-1", command="sleep 300", timeout=300)["structuredContent"][
            "running"
        ]
        said = home.run("auth", "remove", "anna").stdout
        assert "anna has no access any more." in said and "1 jobs, 1 shell sessions" in said
        assert hers.rpc("tools/list").status == 401, "on a connection that was open before, too"
        hers.session = ""
        assert newer.rpc("tools/list").status == 401
        sessions = home.run("session", "list").stdout
        assert theirs in sessions and mine not in sessions
        assert ids(his) == ["web-1"], "others notice nothing"

        # A file that is changed by hand holds as well, and whoever it is about starts again.
        path = home.path / "users" / "bert.conf"
        path.write_text(path.read_text().replace("web-1", "db-1"))
        wait_until(lambda: his.rpc("tools/list").status == 404, 20, "the session has ended")
        his.initialize()
        unlock(his, bert, 1)
        assert ids(his) == ["db-1"] and theirs not in home.run("session", "list").stdout
        path.chmod(0o644)
        wait_until(lambda: his.rpc("tools/list").status == 401, 20, "whose file others can read is shut out")
        his.session = ""
    assert "chmod 600" in home.run("auth", "list").stdout
    events = [record for record in home.audit() if record["event"] == "access_changed"]
    assert [record["names"] for record in events] == [["anna"], ["bert"], ["bert"]]


def test_lock_outs_and_used_codes_count_for_each_person_and_outlive_a_restart(relay: RelayProcess) -> None:
    home = relay.home
    anna, bert = add(home, "anna"), add(home, "bert")
    with connected(relay, key=anna.key) as hers, connected(relay, key=bert.key) as his:
        wrong = next(
            code
            for code in ("000000", "111111", "222222", "333333")
            if code not in {anna.code(step) for step in range(-2, 4)}
        )
        for _ in range(5):
            assert "wrong" in refused(hers.call("authenticate", code=wrong))
        assert "15 more minutes" in refused(hers.call("authenticate", code=anna.code()))
        used = unlock(his, bert)
    assert relay.stop() == 0
    again = RelayProcess(home)
    try:
        with connected(again, key=anna.key) as hers, connected(again, key=bert.key) as his:
            assert "Too many wrong codes" in refused(hers.call("authenticate", code=anna.code()))
            waits = re.fullmatch(
                r"This code was already used; the next one starts in (\d+) s\.",
                refused(his.call("authenticate", code=used)),
            )
            assert waits and 1 <= int(waits[1]) <= 60
            people = {entry["name"]: entry for entry in json.loads(home.run("auth", "list", "--json").stdout)["people"]}
            assert people["anna"]["locked_out_until"] and not people["bert"]["locked_out_until"]
            home.run("auth", "unlock")
            unlock(hers, anna)
    finally:
        again.stop()


def test_a_reader_runs_no_tool_that_changes_something(relay: RelayProcess) -> None:
    home = relay.home
    reader = add(home, "reader", "--servers", "web-1", "--policy", "read_only")
    with connected(relay, key=reader.key) as client:
        unlock(client, reader)
        for tool, arguments in (
            ("write_file", {"server_id": "web-1", "path": "/tmp/fleetshell-reader", "content": "x"}),
            ("restart_service", {"server_id": "web-1", "service_name": "nginx"}),
            ("save_prompt", {"name": "p", "description": "d", "content": "c"}),
            ("add_server_note", {"server_id": "web-1", "note": "n"}),
        ):
            assert "the policy of reader is read_only" in refused(client.call(tool, **arguments)), tool
        assert client.call("get_file_info", server_id="web-1", path="/etc/passwd")["structuredContent"]["exists"]


def test_a_reader_runs_the_commands_that_are_known_to_read_and_no_others(relay: RelayProcess) -> None:
    home = relay.home
    reader = add(home, "reader", "--servers", "web-1", "--policy", "read_only")
    with connected(relay, key=reader.key) as client:
        unlock(client, reader)
        assert client.call("execute_command", server_id="web-1", command="cat /etc/hostname")["structuredContent"][
            "success"
        ]
        said = refused(client.call("execute_command", server_id="web-1", command="touch /tmp/fleetshell-reader"))
        assert "read_only" in said and "reader" in said
        shell = client.call("create_shell_session", server_id="web-1")["structuredContent"]["session_id"]
        assert (
            client.call("execute_in_session", session_id=shell, command="uptime")["structuredContent"]["exit_code"] == 0
        )
        refused(client.call("execute_in_session", session_id=shell, command="touch /tmp/fleetshell-reader"))
        # A session that was opened before the server became one to read only obeys as well.
        with connected(relay) as owners:
            owners.text("authenticate", code=home.code())
            open_shell = owners.call("create_shell_session", server_id="web-2")["structuredContent"]["session_id"]
            command = {"session_id": open_shell, "command": "touch /tmp/fleetshell-none && rm /tmp/fleetshell-none"}
            assert owners.call("execute_in_session", **command)["structuredContent"]["exit_code"] == 0
            with open(home.path / "servers" / "web-2.conf", "a") as file:
                file.write("policy: read_only\n")
            assert "read-only" in refused(owners.call("execute_in_session", **command))
