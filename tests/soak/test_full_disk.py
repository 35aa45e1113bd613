"""A home without room, and one that nothing can be written to: each write fails with a sentence, nothing is torn, and it goes on after."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.mcp_client import Client, connected
from support.relay import RelayHome, RelayProcess, make_home
from support.small_disk import SmallDisk
from support.sshd import KeyPair, Sshd

LOGS = ("audit.log", "relay.log", "serve.log", "audit.head", "audit.reserve", "started.jsonl")
LONG = ": " + "x" * 4096
"""More than a page: the last page of a file on a full tmpfs has room left."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    made = SmallDisk(tmp_path / "disk", 8192)
    yield made
    made.stop()


@pytest.fixture
def home(disk: SmallDisk, relay_key: KeyPair, sshd: Sshd) -> RelayHome:
    made = make_home(disk.folder / "home", relay_key.private)
    made.add("web-1", sshd)
    return made


def contents(home: RelayHome) -> dict[str, bytes]:
    """Every file but the logs, which may hold what there was room for."""
    files = (
        path
        for path in home.path.rglob("*")
        if path.is_file() and path.name not in LOGS and path.suffix != ".lock" and path.name != ".lock"
    )
    return {str(path.relative_to(home.path)): path.read_bytes() for path in files}


COMMANDS = [
    ["add-server", "--id", "web-2", "--hostname", "192.0.2.1", "--user", "ops", "--no-verify"],
    ["prompt", "save", "health", "--description", "d", "--content", "Look after it."],
    ["auth", "rotate-key"],
    ["auth", "disable"],
    ["auth", "unlock"],
    ["init", "--renew-cert"],
    ["remove", "web-1"],
]


SAYS = {"full": "No space left on device", "read-only": "Read-only file system"}


@pytest.mark.parametrize("state", SAYS)
def test_commands_fail_with_a_sentence_and_change_nothing_and_work_again_after(
    home: RelayHome, disk: SmallDisk, state: str
) -> None:
    before = contents(home)
    disk.fill() if state == "full" else disk.read_only(True)
    for command in COMMANDS:
        run = home.run(*command, check=False)
        said = run.stderr.strip()
        assert run.returncode in (1, 3) and "Traceback" not in said, (command, said)
        assert SAYS[state] in said and str(home.path) in said and len(said.splitlines()) == 1, (command, said)
        assert contents(home) == before, command
    disk.make_room() if state == "full" else disk.read_only(False)
    for command in COMMANDS:
        home.run(*command)
    home.run("audit", "verify")


def test_the_emergency_stop_works_on_a_full_disk(home: RelayHome, disk: SmallDisk) -> None:
    relay = RelayProcess(home)
    try:
        with connected(relay) as client:
            disk.fill()
            run = home.run("lock")
            assert "Locked" in run.stdout
            refused = client.call("authenticate", code=home.code())
            assert refused["isError"] and "locked this relay" in refused["content"][0]["text"]
            disk.make_room()
    finally:
        relay.stop()


def failed(client: Client, tool: str, **arguments: Any) -> str:
    """What the model is told of a call that must fail."""
    answer = client.call(tool, **arguments)
    assert answer.get("isError"), (tool, answer)
    text = str(answer["content"][0]["text"])
    assert "internal error" not in text.lower(), text
    return text


def test_a_running_relay_refuses_what_it_cannot_record_and_goes_on_when_it_can(
    home: RelayHome, disk: SmallDisk, tmp_path: Path
) -> None:
    relay = RelayProcess(home)
    ran = tmp_path / "ran"
    try:
        with connected(relay) as client, connected(relay) as other:
            assert not client.call("authenticate", code=home.code()).get("isError")
            client.text("execute_command", server_id="web-1", command="true")
            before = contents(home)
            disk.fill()
            assert SAYS["full"] in failed(
                client, "execute_command", server_id="web-1", command=f"touch '{ran}'; {LONG}"
            )
            # A code whose use cannot be remembered could be used again.
            for code in (home.code(1), "000000"):
                assert SAYS["full"] in failed(other, "authenticate", code=code)
            assert other.call("list_servers")["error"]["data"]["reason"] == "totp_required"
            assert SAYS["full"] in failed(client, "add_server_note", server_id="web-1", note="x" * 900)
            assert SAYS["full"] in failed(client, "save_prompt", name="p", description="d", content="text")
            assert failed(client, "create_shell_session", server_id="web-1")
            assert [server["id"] for server in client.call("list_servers")["structuredContent"]["servers"]] == ["web-1"]
            assert not ran.exists()
            assert contents(home) == before
            disk.make_room()
            client.text("execute_command", server_id="web-1", command=f"touch '{ran}'")
            assert ran.exists()
            client.text("add_server_note", server_id="web-1", note="x" * 900)
            assert not other.call("authenticate", code=home.code(1)).get("isError")
    finally:
        assert relay.stop() == 0
    home.run("audit", "verify")
    assert "Traceback" not in relay.log.read_text()


def test_where_only_run_is_full_nothing_breaks_and_what_can_go_on_does(
    tmp_path: Path, relay_key: KeyPair, sshd: Sshd
) -> None:
    home = make_home(tmp_path / "home", relay_key.private)
    home.add("web-1", sshd)
    home.add("web-2", sshd)
    (home.path / "run").rename(tmp_path / "run")
    disk = SmallDisk(home.path / "run", 2048)
    shutil.copytree(tmp_path / "run", disk.folder, dirs_exist_ok=True)
    try:
        relay = RelayProcess(home)
        try:
            with connected(relay) as client:
                assert not client.call("authenticate", code=home.code()).get("isError")
                client.text("execute_command", server_id="web-1", command="true")
                disk.fill()
                # One that is connected, and one that is not: what is learned of it can be kept nowhere.
                for server in ("web-1", "web-2"):
                    answer = client.call("execute_command", server_id=server, command="echo up")
                    text = str(answer["content"][0]["text"])
                    assert "internal error" not in text and ("up" in text or SAYS["full"] in text), text
                disk.make_room()
                for server in ("web-1", "web-2"):
                    assert "up" in client.text("execute_command", server_id=server, command="echo up")
        finally:
            assert relay.stop() == 0
        home.run("audit", "verify")
        assert "Traceback" not in relay.log.read_text()
    finally:
        disk.stop()


def test_a_relay_that_cannot_write_its_home_does_not_start_and_says_why(home: RelayHome, disk: SmallDisk) -> None:
    disk.read_only(True)
    run = home.run("serve", "--port", "0", check=False)
    disk.read_only(False)
    assert run.returncode in (1, 3) and "Read-only file system" in run.stderr and "Traceback" not in run.stderr
    relay = RelayProcess(home)
    assert relay.stop(signal.SIGTERM) == 0
    assert os.listdir(home.path / "run").count("control.sock") == 0
