"""A cable that is pulled in the middle of a command, before it, or only for a moment: what the caller hears, and what is left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.far import FarHost
from support.fleets import TestFleet, fleet_on
from support.processes import wait_until
from support.sshd import KeyPair

from fleetshell_tools.core.config import Config, Ssh
from fleetshell_tools.core.errors import Unreachable
from fleetshell_tools.core.types import Act, Cancellation, Completed, Progress
from fleetshell_tools.fleet import errand

QUICK = Config(ssh=Ssh(alive_interval=1, connect_timeout=2))


@pytest.fixture
def far(tmp_path: Path, relay_key: KeyPair) -> Iterator[FarHost]:
    made = FarHost(tmp_path / "far", relay_key)
    yield made
    made.stop()


def connect(fleet: TestFleet, far: FarHost) -> None:
    fleet.add("far", far.sshd)
    fleet.run("far", "true")


def run(fleet: TestFleet, command: str, progress: Progress, timeout: float = 100) -> Completed:
    """Run a command; `progress` is called when it has printed something."""
    return fleet.fleet.run(
        fleet.caller, fleet.inventory.get("far"), Act(command), timeout=timeout, cancelled=Cancellation(), progress=progress
    )  # fmt: skip


def test_a_command_whose_connection_breaks_is_lost_named_and_ended_by_the_next_start(
    far: FarHost, relay_key: KeyPair, tmp_path: Path
) -> None:
    with fleet_on(tmp_path, relay_key, QUICK) as fleet:
        connect(fleet, far)
        with pytest.raises(
            Unreachable, match="lost while the command ran; it may still run there .process group"
        ) as lost:
            run(fleet, "echo begun; sleep 1000; :", lambda *_: far.cut())
        assert lost.value.step == "lost" and lost.value.seen == "begun"
        (note,) = fleet.noted()
        assert f"(process group {note.group})" in lost.value.message
        assert fleet.records()[-1]["event"] == "failed"
        with pytest.raises(Unreachable, match="can't be reached"):
            fleet.run("far", "true")
        far.mend()
        assert fleet.out("far", "echo again") == "again\n"
        assert note.group in {process.pid for process in far.sshd.remote_processes()}
    with fleet_on(tmp_path, relay_key, QUICK) as fleet:
        (said,) = fleet.fleet.end_what_was_left(Cancellation())
        assert said.endswith("was ended.") and "`echo begun; sleep 1000; :`" in said
        assert fleet.noted() == [] and far.sshd.remote_processes() == []


def test_a_short_cut_harms_nothing(far: FarHost, relay_key: KeyPair, tmp_path: Path) -> None:
    with fleet_on(tmp_path, relay_key) as fleet:
        connect(fleet, far)
        times = 0

        def cut_and_mend(*_: object) -> None:
            nonlocal times
            times += 1
            if times == 1:
                far.cut()
                (tmp_path / "go").touch()
                wait_until((tmp_path / "said").exists, 20, "the command has printed into the void")
                far.mend()

        command = f"echo begun; until [ -e {tmp_path}/go ]; do sleep 0.02; done; echo late; : > {tmp_path}/said; exit 3"
        done = run(fleet, command, cut_and_mend)
        assert (done.exit_code, done.stdout.head) == (3, b"begun\nlate\n")
        assert times == 2


def test_a_connection_that_broke_while_it_was_idle_is_made_anew(
    far: FarHost, relay_key: KeyPair, tmp_path: Path
) -> None:
    with fleet_on(tmp_path, relay_key, QUICK) as fleet:
        connect(fleet, far)
        connection = fleet.fleet.connections.of(fleet.fleet.identity(fleet.inventory.get("far")))
        far.cut()
        wait_until(lambda: not fleet.fleet.transport.pid(connection.name), 30, "keep-alive has noticed")
        far.mend()
        assert fleet.out("far", "echo again") == "again\n"


def test_what_cannot_be_ended_for_want_of_a_network_is_said_to_be_unconfirmed(
    far: FarHost, relay_key: KeyPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errand, "STOP_SECONDS", 1.0)
    with fleet_on(tmp_path, relay_key) as fleet:
        connect(fleet, far)
        done = run(fleet, "echo begun; sleep 1000; :", lambda *_: far.cut(), timeout=1)
        assert (done.timed_out, done.stopped) == (True, "unconfirmed")
        assert [note.server_id for note in fleet.noted()] == ["far"]
        far.mend()
        assert fleet.out("far", "echo again") == "again\n"
