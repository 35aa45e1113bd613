"""The end of a relay: running commands and jobs get their time, a second signal takes it from them."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from support.mcp_client import Client, connected
from support.processes import wait_until
from support.relay import RelayHome, RelayProcess, make_home
from support.sshd import KeyPair, Sshd


@pytest.fixture
def home(tmp_path: Path, relay_key: KeyPair, sshd: Sshd) -> RelayHome:
    home = make_home(tmp_path / "home", relay_key.private)
    home.run("auth", "disable")
    home.add("web-1", sshd)
    return home


class Calling:
    """A command that runs until its gate is there, called in a thread."""

    def __init__(self, client: Client, folder: Path) -> None:
        self.gate = folder / "gate"
        self.finished = folder / "finished"
        self._begun = folder / "begun"
        self.answers: list[dict[str, Any]] = []
        command = f"touch {self._begun}; while [ ! -e {self.gate} ]; do sleep 0.1; done; touch {self.finished}"

        def call() -> None:
            self.answers.append(client.call("execute_command", server_id="web-1", command=command))
            client.session = ""  # nobody is left to end it

        self._thread = threading.Thread(target=call)
        self._thread.start()
        wait_until(self._begun.exists, 20, "the command has begun")

    def answer(self) -> dict[str, Any]:
        self._thread.join()
        return self.answers[0]


def test_a_running_command_ends_and_is_answered_before_the_relay_does(home: RelayHome, tmp_path: Path) -> None:
    relay = RelayProcess(home)
    with connected(relay) as client:
        calling = Calling(client, tmp_path)
        relay.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "Stopping: 1 running" in relay.log.read_text(), 10, "it is stopping")
        calling.gate.touch()
        assert calling.answer()["structuredContent"]["exit_code"] == 0
    assert relay.process.wait(20) == 0


@pytest.mark.parametrize("seconds", [1, 3600])
def test_a_command_that_has_used_up_its_time_is_ended_and_says_why(
    home: RelayHome, tmp_path: Path, seconds: int
) -> None:
    config = home.path / "config.yaml"
    config.write_text(config.read_text().replace("relay:\n", f"relay:\n  stop_seconds: {seconds}\n", 1))
    relay = RelayProcess(home)
    with connected(relay) as client:
        calling = Calling(client, tmp_path)
        relay.process.send_signal(signal.SIGTERM)
        wait_until(lambda: f"get {seconds} s" in relay.log.read_text(), 10, "it is stopping")
        if seconds > 60:
            relay.process.send_signal(signal.SIGTERM)
        answer = calling.answer()
    assert "its process group on the host was ended (stopped: confirmed)" in str(answer)
    assert relay.process.wait(20) == 0
    assert not calling.finished.exists()


def test_a_job_gets_its_time_although_nobody_waits_for_it(home: RelayHome, tmp_path: Path) -> None:
    config = home.path / "config.yaml"
    config.write_text(f"{config.read_text()}jobs:\n  hand_over_seconds: 1\n")
    relay = RelayProcess(home)
    with connected(relay) as client:
        calling = Calling(client, tmp_path)
        assert calling.answer()["structuredContent"]["running"]
        relay.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "Stopping: 1 running" in relay.log.read_text(), 10, "it is stopping")
        calling.gate.touch()
    assert relay.process.wait(20) == 0
    assert calling.finished.exists()
