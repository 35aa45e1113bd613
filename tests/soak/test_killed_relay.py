"""The relay killed by SIGKILL again and again under load: what was acknowledged is in the log, and the next start finds the rest."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.mcp_client import connected
from support.processes import wait_until
from support.relay import RelayHome, RelayProcess, make_home
from support.sshd import KeyPair, Sshd

from fleetshell_tools.core import yamlfile
from fleetshell_tools.core.errors import ConfigError
from fleetshell_tools.fleet.started import read as read_started
from soak.amounts import amount, said

KILLS = amount("KILLS", 3, 50)
SEED = amount("SEED", 20260, 20260)
LOST = (OSError, http.client.HTTPException, json.JSONDecodeError)


class Load:
    """Clients that run commands, write notes and prompts, and leave long commands running; they note what was acknowledged.

    Args:
        ran: A file on the host to which each command adds its word.
    """

    def __init__(self, relay: RelayProcess, ran: Path, names: Iterator[int]) -> None:
        self._relay, self._ran, self._names = relay, ran, names
        self.acknowledged: list[str] = []
        self.answers = 0
        self.failed: list[str] = []
        jobs = [self._commands, self._commands, self._notes, self._prompts, self._long]
        self._threads = [threading.Thread(target=self._until_it_dies, args=(job,)) for job in jobs]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a client waits for ever"

    def _until_it_dies(self, job: Callable[..., None]) -> None:
        with contextlib.suppress(*LOST), connected(self._relay) as client:
            try:
                while True:
                    job(client.call)
                    self.answers += 1
            except AssertionError as error:
                self.failed.append(str(error))
            finally:
                client.session = ""

    def _commands(self, call: Callable[..., dict[str, object]]) -> None:
        word = f"word-{next(self._names)}"
        # One write of one line: what it says has happened, whoever dies meanwhile.
        answer = call("execute_command", server_id="web-1", command=f"echo {word} >> '{self._ran}'")
        assert not answer.get("isError"), answer
        self.acknowledged.append(word)

    def _notes(self, call: Callable[..., dict[str, object]]) -> None:
        word = f"note-{next(self._names)}"
        answer = call("add_server_note", server_id="web-1", note=word * 50)
        assert not answer.get("isError") or "are the most" in str(answer), answer

    def _prompts(self, call: Callable[..., dict[str, object]]) -> None:
        answer = call(
            "save_prompt", name=f"p{next(self._names) % 4}", description="d", content="text " * 2000, overwrite=True
        )
        assert "error" not in answer, answer

    def _long(self, call: Callable[..., dict[str, object]]) -> None:
        call("execute_command", server_id="web-1", command="sleep 1000; :")


def torn(home: Path) -> list[str]:
    """Files of the home that cannot be read as what they are."""
    found = []
    for path in home.rglob("*"):
        try:
            if path.suffix in (".yaml", ".conf"):
                yamlfile.read(path)
            elif path.suffix == ".json" and "temporary" not in path.name:
                json.loads(path.read_text())
        except (ValueError, ConfigError) as error:
            found.append(f"{path}: {error}")
    return found


@pytest.fixture
def home(tmp_path: Path, relay_key: KeyPair, sshd_factory: Callable[..., Sshd]) -> tuple[RelayHome, Sshd]:
    made, host = make_home(tmp_path / "home", relay_key.private), sshd_factory()
    made.run("auth", "disable")
    made.add("web-1", host)
    return made, host


@pytest.mark.timeout(KILLS * 20 + 120)
def test_a_relay_killed_at_random_moments_loses_nothing_that_it_acknowledged(
    home: tuple[RelayHome, Sshd], tmp_path: Path
) -> None:
    relays, host = home
    chance, names, ran = random.Random(SEED), iter(range(1_000_000)), tmp_path / "ran"
    ran.touch()
    acknowledged: list[str] = []
    answers = orphans = 0
    for _ in range(KILLS):
        relay = RelayProcess(relays)
        try:
            load = Load(relay, ran, names)
            at_least = chance.randint(1, 60)
            wait_until(lambda: len(load.acknowledged) >= at_least or load.failed, 60, "the load is on")  # noqa: B023
            # At any point of whatever goes on then, which no condition could choose.
            threading.Event().wait(chance.random() * 0.05)
        finally:
            relay.stop(signal.SIGKILL)
        load.join()
        assert load.failed == []
        acknowledged += load.acknowledged
        answers += load.answers
        orphans += len(read_started(relays.path / "run" / "started.jsonl"))
        assert torn(relays.path) == []
    halves = [path for path in relays.path.rglob(".*") if path.name.endswith((".tmp", ".new"))]
    for path in halves:
        # The writer is dead, but what says so is only the age.
        os.utime(path, (1_000_000_000, 1_000_000_000))
    last = RelayProcess(relays)
    try:
        wait_until(lambda: read_started(relays.path / "run" / "started.jsonl") == [], 60, "every orphan was ended")
        wait_until(lambda: "sleep 1000" not in str(list(map(str, host.remote_processes()))), 20, "they are gone")
        with connected(last) as client:
            assert client.text("execute_command", server_id="web-1", command="echo again").count("again")
    finally:
        assert last.stop() == 0
    records = relays.audit()
    intents = {
        record["command"].split()[1]
        for record in records
        if record["event"] == "started" and "word-" in str(record.get("command"))
    }
    finished = {
        record["command"].split()[1]
        for record in records
        if record["event"] == "finished" and "word-" in str(record.get("command"))
    }
    done = ran.read_text().split()
    assert set(acknowledged) <= finished
    assert set(done) <= intents, "something ran that was not announced"
    assert len(done) == len(set(done)), "something ran twice"
    verified = relays.run("audit", "verify", check=False)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    left = sorted(path.name for path in relays.path.rglob("*") if path.name.endswith((".tmp", ".sock")))
    assert left == [], left
    said(
        f"{KILLS} kills: {answers} answers, {len(acknowledged)} commands acknowledged and all in the log, {orphans} orphans noted and ended, "
        f"{len(halves)} half-written files swept"
    )
