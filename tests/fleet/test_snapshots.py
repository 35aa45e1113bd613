"""Looking at commands while they run: the output so far, from another thread, and how each server stands."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.fleets import TestFleet, fleet_on, nothing
from support.processes import wait_until
from support.sshd import KeyPair, Sshd

from fleetshell_tools.core.errors import Blocked
from fleetshell_tools.core.types import Act, Cancellation, HostResult, Snapshot
from fleetshell_tools.fleet.collect import HeadTail


@pytest.fixture
def fleet(tmp_path: Path, relay_key: KeyPair, sshd: Sshd) -> Iterator[TestFleet]:
    with fleet_on(tmp_path, relay_key) as made:
        for name in ("a", "b"):
            made.add(name, sshd)
        yield made


@dataclass
class Watcher:
    """Runs commands in a thread, and looks at them from the test's."""

    fleet: TestFleet
    cancelled: Cancellation = field(default_factory=Cancellation)
    looks: list[Snapshot] = field(default_factory=list)
    ended: list[HostResult] = field(default_factory=list)
    heard: int = 0

    def hear(self) -> None:
        self.heard += 1

    def start(self, command: str, *, parallel: int = 8, keep: int | None = None) -> threading.Thread:
        def run() -> None:
            self.ended += self.fleet.fleet.run_many(
                self.fleet.caller, self.fleet.inventory.all(), Act(command), timeout=60, max_parallel=parallel,
                stop_on_failure=False, cancelled=self.cancelled, progress=nothing, watch=self.looks.append, on_output=self.hear, keep=keep,
            )  # fmt: skip

        thread = threading.Thread(target=run)
        thread.start()
        wait_until(lambda: self.looks, 20, "the call can be watched")
        return thread

    def look(self) -> dict[str, HostResult]:
        return {host.server_id: host for host in self.looks[0]()}

    def output(self, server_id: str) -> bytes:
        done = self.look()[server_id].completed
        assert done is not None
        return done.stdout.head + done.stdout.tail


def test_a_running_commands_output_is_seen_and_its_end_is_the_result(fleet: TestFleet, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "go")
    watcher = Watcher(fleet)
    # One after the other: the second waits for its turn until the first has been let go on.
    thread = watcher.start(f"echo begun; echo beside >&2; read x < '{tmp_path}/go'; echo $x; exit 3", parallel=1)
    wait_until(lambda: watcher.output("a") == b"begun\n", 20, "the first has printed")
    first, second = watcher.look()["a"], watcher.look()["b"]
    assert first.running and first.completed and first.completed.exit_code is None and watcher.heard
    wait_until(lambda: (host := watcher.look()["a"].completed) and host.stderr.head == b"beside\n", 20, "stderr too")
    assert second.running and watcher.output("b") == b""
    (tmp_path / "go").write_text("one\n")
    wait_until(lambda: watcher.output("b") == b"begun\n", 20, "the second has printed")
    ended = watcher.look()["a"]
    assert not ended.running and ended.completed and ended.completed.exit_code == 3
    (tmp_path / "go").write_text("two\n")
    thread.join()
    assert watcher.looks[0]() == watcher.ended
    assert [host.completed.stdout.head for host in watcher.ended if host.completed] == [
        b"begun\none\n",
        b"begun\ntwo\n",
    ]
    assert watcher.ended[0] == ended, "how long it took does not grow after its end"


def test_a_single_command_is_watched_too_and_nothing_is_watched_that_was_blocked(fleet: TestFleet) -> None:
    looks: list[Snapshot] = []
    server, fleet_ = fleet.inventory.get("a"), fleet.fleet
    with pytest.raises(Blocked):
        fleet_.run(
            fleet.caller, server, Act("rm -rf /"), timeout=20, cancelled=Cancellation(), progress=nothing, watch=looks.append
        )  # fmt: skip
    assert not looks
    done = fleet_.run(
        fleet.caller, server, Act("echo x"), timeout=20, cancelled=Cancellation(), progress=nothing, watch=looks.append
    )  # fmt: skip
    assert [host.completed for host in looks[0]()] == [done]


def test_what_had_been_seen_of_a_lost_connection_stays(fleet: TestFleet, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "go")
    watcher = Watcher(fleet)
    thread = watcher.start(f"echo begun; read x < '{tmp_path}/go'")
    wait_until(lambda: watcher.output("a") == watcher.output("b") == b"begun\n", 20, "both run")
    for name in ("a", "b"):
        identity = fleet.fleet.identity(fleet.inventory.get(name))
        fleet.fleet.transport.terminate(identity.name)
    thread.join()
    for host in watcher.ended:
        assert host.error and "was lost" in host.error and not host.running
        assert host.completed and host.completed.stdout.head == b"begun\n" and host.completed.stopped == "unconfirmed"
    (tmp_path / "go").write_text("end")  # what the lost connections left


def test_more_output_is_kept_where_more_is_asked_for(fleet: TestFleet) -> None:
    watcher = Watcher(fleet)
    watcher.start("seq 100000", keep=300_000).join()
    for host in watcher.ended:
        assert host.completed is not None
        out = host.completed.stdout
        assert (len(out.head), len(out.tail), out.total) == (150_000, 150_000, 588_895)


def test_head_and_tail_fit_together_whenever_they_are_looked_at() -> None:
    kept, stop, torn = HeadTail(1000), threading.Event(), list[str]()

    def look() -> None:
        while not stop.is_set():
            seen = kept.captured()
            first = b"".join(b"%08d" % number for number in range(125))
            if not first.startswith(seen.head) or len(seen.head) != min(seen.total, 1000):
                torn.append("head")
            if seen.tail and seen.total >= 2000 and seen.tail[-8:] != b"%08d" % (seen.total // 8 - 1):
                torn.append("tail")
            if not seen.complete and len(seen.tail) != 1000:
                torn.append("size")

    looker = threading.Thread(target=look)
    looker.start()
    for number in range(100_000):
        kept.feed(b"%08d" % number)
    stop.set()
    looker.join()
    assert not torn
