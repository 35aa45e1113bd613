"""A machine whose clock jumps, and one that gives the relay next to no descriptors."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from pathlib import Path

import pytest
from support.mcp_client import connected
from support.processes import wait_until
from support.relay import PROGRAM, RelayHome, RelayProcess, make_home
from support.sshd import KeyPair, Sshd

HOUR = 3600
PER_HOUR = 120
"""Time steps of a code."""


@pytest.fixture
def home(tmp_path: Path, relay_key: KeyPair, sshd: Sshd) -> RelayHome:
    made = make_home(tmp_path / "home", relay_key.private)
    made.add("web-1", sshd)
    return made


def test_a_clock_that_jumps_an_hour_neither_ends_nor_gives_access_nor_breaks_the_log(
    home: RelayHome, tmp_path: Path
) -> None:
    offset = tmp_path / "offset"
    offset.write_text("0")
    program = [sys.executable, str(Path(__file__).with_name("other_clock.py")), str(offset), "--home", str(home.path)]
    relay = RelayProcess(home, program=program)

    def set_clock(seconds: int) -> None:
        # The relay may look while it is written.
        aside = offset.with_name("aside")
        aside.write_text(str(seconds))
        aside.replace(offset)

    try:
        with connected(relay) as client, connected(relay) as second, connected(relay) as third:
            assert not client.call("authenticate", code=home.code()).get("isError")
            session = client.call("create_shell_session", server_id="web-1")["structuredContent"]["session_id"]
            used = home.code(PER_HOUR)
            for seconds in (HOUR, -HOUR):
                set_clock(seconds)
                assert "here" in client.text("execute_command", server_id="web-1", command="echo here")
                assert "kept" in client.text("execute_in_session", session_id=session, command="echo kept")
                if seconds == HOUR:
                    assert second.call("authenticate", code=home.code())["isError"], "a code of an hour ago"
                    assert not second.call("authenticate", code=used).get("isError")
            # Time goes backwards: what was used lies ahead, and nothing from before it may work again.
            for code in (used, home.code(-PER_HOUR)):
                assert third.call("authenticate", code=code)["isError"]
            assert third.call("list_servers")["error"]["data"]["reason"] == "totp_required"
            home.run("auth", "unlock")
            assert not third.call("authenticate", code=home.code(-PER_HOUR)).get("isError")
            set_clock(0)
            for each in (client, second, third):
                assert "here" in each.text("execute_command", server_id="web-1", command="echo here")
    finally:
        assert relay.stop() == 0
    stamps = [record["timestamp"] for record in home.audit()]
    assert stamps != sorted(stamps)
    home.run("audit", "verify")
    assert "Traceback" not in relay.log.read_text()


def test_with_sixty_four_descriptors_the_relay_says_what_it_lacks_and_recovers(home: RelayHome) -> None:
    home.run("auth", "disable")
    relay = RelayProcess(home, program=["prlimit", "--nofile=64:64", *PROGRAM, "--home", str(home.path)])
    pid = relay.process.pid
    try:
        with connected(relay) as client:
            assert "up" in client.text("execute_command", server_id="web-1", command="echo up")
            idle = len(os.listdir(f"/proc/{pid}/fd"))
            with contextlib.ExitStack() as strangers:
                for _ in range(100):
                    strangers.enter_context(socket.create_connection(("127.0.0.1", relay.port), 20))
                wait_until(lambda: len(os.listdir(f"/proc/{pid}/fd")) >= 60, 20, "it has as many as it may have")
                # It cannot run, but says so; nobody waits for ever.
                refused = client.call("execute_command", server_id="web-1", command="echo up", timeout=5)
                assert refused["isError"], refused
                assert "internal error" not in refused["content"][0]["text"], refused
                assert client.rpc("ping").status == 200
            wait_until(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= idle + 4, 30, "the strangers are gone")
            with connected(relay) as late:
                assert "up" in late.text("execute_command", server_id="web-1", command="echo up")
    finally:
        assert relay.stop() == 0
    assert "Traceback" not in relay.log.read_text()
    home.run("audit", "verify")
