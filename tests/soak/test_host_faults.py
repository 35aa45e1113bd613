"""Hosts that die, freeze and come back under a relay at work: each command ran once or not at all, and each answer says what is known."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from support import processes
from support.mcp_client import Client, connected
from support.processes import wait_until
from support.relay import RelayProcess, make_home
from support.sshd import KeyPair, Sshd

from soak.amounts import amount, said

FAULTS = amount("FAULTS", 4, 100)
SEED = amount("SEED", 7, 7)
WORKERS = 4


class Work:
    """Clients that run one command after the other, and note what they were told of each."""

    def __init__(self, relay: RelayProcess, ran: Path) -> None:
        self._relay, self._ran = relay, ran
        self.told: dict[str, str] = {}
        self.failed: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._go_on, args=(number,)) for number in range(WORKERS)]
        for thread in self._threads:
            thread.start()

    def successes(self) -> int:
        return sum(not text for text in self.told.copy().values())

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a client waits for ever"

    def _go_on(self, worker: int) -> None:
        with connected(self._relay) as client:
            number = 0
            while not self._stop.is_set():
                number += 1
                word = f"word-{worker}-{number}"
                try:
                    self._one(client, word)
                except AssertionError as error:
                    self.failed.append(str(error))
                    return

    def _one(self, client: Client, word: str) -> None:
        # One write of a line is there or is not, whatever dies.
        answer = client.call(
            "execute_command", server_id="web-1", command=f"echo {word} >> '{self._ran}'; sleep 0.02", timeout=3
        )
        assert "error" not in answer, answer
        text = str(answer["content"][0]["text"])
        assert "internal error" not in text, text
        worked = not answer["isError"] and answer["structuredContent"]["exit_code"] == 0
        self.told[word] = "" if worked else text


def masters() -> list[processes.Process]:
    """The relay's control masters."""
    return [process for process in processes.alive(processes.RUN_MARK) if process.name == "ssh"]


@pytest.mark.timeout(FAULTS * 20 + 120)
def test_whatever_happens_to_a_host_a_command_runs_once_at_most_and_the_next_one_works(
    tmp_path: Path, relay_key: KeyPair, sshd_factory: Callable[..., Sshd]
) -> None:
    home, host, chance = (
        make_home(tmp_path / "home", relay_key.private),
        sshd_factory(max_sessions=2),
        random.Random(SEED),
    )
    home.run("auth", "disable")
    home.add("web-1", host)
    config = home.path / "config.yaml"
    text = config.read_text()
    config.write_text(f"{text}ssh:\n  alive_interval: 1\n  connect_timeout: 2\n" if "\nssh:" not in text else
                      text.replace("\nssh:\n", "\nssh:\n  alive_interval: 1\n  connect_timeout: 2\n", 1))  # fmt: skip
    ran = tmp_path / "ran"
    ran.touch()

    def kill_master() -> None:
        for process in masters():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)

    def freeze_master() -> None:
        for process in masters():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGSTOP)

    def freeze() -> None:
        host.freeze()
        threading.Event().wait(chance.random() * 3)
        host.thaw()

    def lose_power() -> None:
        host.kill()
        threading.Event().wait(chance.random() * 0.5)
        host.start()

    def restart() -> None:
        host.stop()
        host.start()

    faults = [kill_master, freeze_master, freeze, lose_power, restart]
    done: Counter[str] = Counter()
    relay = RelayProcess(home)
    try:
        work = Work(relay, ran)
        try:
            for number in range(FAULTS):
                enough = work.successes() + chance.randint(1, 20)
                wait_until(lambda: work.successes() >= enough or work.failed, 60, "commands work")  # noqa: B023
                fault = faults[number] if number < len(faults) else chance.choice(faults)
                fault()
                done[fault.__name__] += 1
            enough = work.successes() + 10
            wait_until(lambda: work.successes() >= enough or work.failed, 60, "commands work again")
        finally:
            work.stop()
        assert work.failed == []
        with connected(relay) as client:
            assert "well" in client.text("execute_command", server_id="web-1", command="echo well")
    finally:
        code = relay.stop()
    assert code == 0
    times = Counter(ran.read_text().split())
    assert set(times.values()) == {1}, "a command ran twice"
    told_of_success = {word for word, text in work.told.items() if not text}
    assert told_of_success <= set(times)
    records = home.audit()
    ends = {record.get("intent") for record in records}
    begun = [record["seq"] for record in records if record["event"] == "started"]
    assert [seq for seq in begun if seq not in ends] == [], "a command without an outcome in the log"
    home.run("audit", "verify")
    assert "Traceback" not in relay.log.read_text()
    errors = len(work.told) - len(told_of_success)
    said(
        f"{FAULTS} faults ({dict(done)}): {len(told_of_success)} commands worked, {errors} were answered with an error, none ran twice"
    )
