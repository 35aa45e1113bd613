"""What a killed relay leaves on hosts: noted while it runs, ended at the next start, and nothing else touched."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fleets import TestFleet, fleet_on
from support.mcp_client import connected
from support.processes import wait_until
from support.relay import RelayProcess, make_home
from support.sshd import KeyPair, Sshd

from fleetshell_tools.core.types import Cancellation
from fleetshell_tools.fleet import remote
from fleetshell_tools.fleet.started import Started, read


@pytest.fixture
def web(tmp_path: Path, relay_key: KeyPair, sshd: Sshd) -> Iterator[TestFleet]:
    with fleet_on(tmp_path, relay_key) as fleet:
        fleet.add("web", sshd)
        yield fleet


def test_a_command_is_noted_while_it_runs_and_forgotten_when_it_has_ended(web: TestFleet, tmp_path: Path) -> None:
    journal = web.home.run / "started.jsonl"
    done = web.run("web", f"until grep -q '\"group\": '$$, '{journal}'; do sleep 0.02; done; grep -c web '{journal}'")
    assert done.stdout.head == b"1\n"
    assert web.noted() == []


def test_a_command_at_its_time_limit_is_forgotten_once_it_is_known_to_have_ended(web: TestFleet) -> None:
    assert web.run("web", "sleep 1000", timeout=1).stopped == "confirmed"
    assert web.noted() == []


def test_a_killed_relay_s_command_is_ended_by_its_next_start(tmp_path: Path, relay_key: KeyPair, sshd: Sshd) -> None:
    home = make_home(tmp_path / "home", relay_key.private)
    home.run("auth", "disable")
    home.add("web-1", sshd)
    relay = RelayProcess(home)
    with connected(relay) as client:
        mark = tmp_path / "pid"
        call = {
            "name": "execute_command",
            "arguments": {"server_id": "web-1", "command": f"echo $$ > '{mark}'; sleep 1000; :"},
        }
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
        raw = json.dumps(body)
        headers = {
            "Authorization": f"Bearer {client.key}",
            "Content-Type": "application/json",
            "Mcp-Session-Id": client.session,
        }
        client.connection.request("POST", "/mcp", raw, headers)
        wait_until(lambda: mark.exists() and mark.read_text().strip() != "", 20, "the command has started")
        wait_until(lambda: read(home.path / "run" / "started.jsonl") != [], 20, "it is noted")
        relay.stop(signal.SIGKILL)
        client.session = ""
    pid = int(mark.read_text())
    assert Path(f"/proc/{pid}").exists()
    again = RelayProcess(home)
    try:
        wait_until(lambda: "was ended" in again.log.read_text(), 40, "the new relay has ended it")
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), 10, "it is gone")
        assert read(home.path / "run" / "started.jsonl") == []
        assert [record["outcome"] for record in home.audit() if record["event"] == "orphan_ended"] == ["was ended"]
        assert home.run("audit", "verify").returncode == 0
    finally:
        assert again.stop() == 0


@pytest.mark.parametrize("what", ["boot", "earlier", "later", "unknown"])
def test_a_process_that_is_not_the_one_that_was_started_is_left_alone(web: TestFleet, what: str) -> None:
    server = web.inventory.get("web")
    connection = web.fleet.connections.open(web.fleet.identity(server), time.monotonic() + 20, Cancellation())
    assert connection.probe
    now, boot = int(connection.probe.ticks_now()), connection.probe.boot
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as bystander:
        try:
            start = {"boot": now, "earlier": now - 100_000, "later": now + 100_000, "unknown": ""}[what]
            script = remote.recover_script(bystander.pid, str(start), "another-boot" if what == "boot" else boot)
            run = subprocess.run(["sh", "-c", script], capture_output=True, text=True)
            assert run.stdout.split() == ["other"] and bystander.poll() is None
            right = remote.recover_script(bystander.pid, str(now), boot)
            assert subprocess.run(["sh", "-c", right], capture_output=True, text=True).stdout.split() == ["stopped"]
        finally:
            bystander.kill()


def test_what_cannot_be_reached_stays_on_the_list(tmp_path: Path, relay_key: KeyPair) -> None:
    with fleet_on(tmp_path, relay_key) as killed:
        killed.fleet._started.add("n1", "gone", "sleep 1000", 4711, "5", "boot")
    with fleet_on(tmp_path, relay_key) as fleet:
        (said,) = fleet.fleet.end_what_was_left(Cancellation())
        assert "tried again at the next start" in said and "gone" in said
        assert [left.nonce for left in fleet.noted()] == ["n1"]


def test_a_torn_line_of_the_journal_is_left_out(tmp_path: Path) -> None:
    journal = Started(tmp_path / "journal")
    journal.add("n1", "web", "true", 10, "5", "b")
    journal.add("n2", "web", "false", 11, "6", "b")
    journal.remove("n1")
    journal.close()
    with open(tmp_path / "journal", "a") as file:
        file.write('{"nonce": "n3", "server')
    again = Started(tmp_path / "journal")
    assert [left.nonce for left in again.left()] == ["n2"]
    again.close()


def test_the_journal_holds_no_secret_of_a_command(tmp_path: Path) -> None:
    journal = Started(tmp_path / "journal")
    journal.add("n1", "web", "mysql -phunter2 -e 'select 1'", 10, "5", "b")
    assert "hunter2" not in (tmp_path / "journal").read_text()
    assert [left.command for left in journal.left()] == ["mysql -p*** -e 'select 1'"]
    journal.close()
