"""What the SSH engine withstands, on real sshds and real masters: limits, hangs, other versions, other ways to a host."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fleets import TestFleet, fleet_on, nothing
from support.processes import wait_until
from support.sshd import KeyPair, Sshd

from fleetshell_tools.core.config import Config, Security, Ssh
from fleetshell_tools.core.errors import BadArgument, ConfigError, FleetShellError, Unreachable
from fleetshell_tools.core.types import Act, Cancellation
from fleetshell_tools.fleet.collect import Marked
from fleetshell_tools.fleet.errand import Errand
from fleetshell_tools.fleet.mux import Job, session, wire
from fleetshell_tools.fleet.mux.session import Session
from fleetshell_tools.fleet.transport import Ended, Limits

MakeSshd = Callable[..., Sshd]


@pytest.fixture
def fleet(tmp_path: Path, relay_key: KeyPair) -> Iterator[TestFleet]:
    with fleet_on(tmp_path, relay_key) as made:
        yield made


@pytest.fixture
def web(fleet: TestFleet, sshd: Sshd) -> TestFleet:
    fleet.add("web", sshd)
    fleet.run("web", "true")
    return fleet


def connection_of(fleet: TestFleet, name: str) -> Any:
    return fleet.fleet.connections.of(fleet.fleet.identity(fleet.inventory.get(name)))


def outs(fleet: TestFleet, names: list[str], command: str) -> list[Any]:
    results = fleet.fleet.run_many(
        fleet.caller, [fleet.inventory.get(name) for name in names], Act(command), timeout=30, max_parallel=len(names),
        stop_on_failure=False, cancelled=Cancellation(), progress=nothing,
    )  # fmt: skip
    return [result.completed.stdout.head if result.completed else result.error for result in results]


def test_a_host_that_allows_two_sessions_serves_twelve_commands_and_its_limit_is_learned(
    fleet: TestFleet, sshd_factory: MakeSshd
) -> None:
    fleet.add("web", sshd_factory(max_sessions=2))
    for _ in range(2):
        assert outs(fleet, ["web"] * 12, "sleep 0.1; echo done") == [b"done\n"] * 12
        assert connection_of(fleet, "web").slots.limit == 2


def test_a_command_can_be_ended_where_the_host_allows_no_second_session(
    fleet: TestFleet, sshd_factory: MakeSshd
) -> None:
    sshd = sshd_factory(max_sessions=1)
    fleet.add("web", sshd)
    done = fleet.run("web", "echo begun; sleep 1000", timeout=1)
    assert done.timed_out and done.stopped == "confirmed" and not sshd.remote_processes()


def test_logins_that_a_busy_server_turns_away_are_tried_again(fleet: TestFleet, sshd_factory: MakeSshd) -> None:
    sshd = sshd_factory(extra=["MaxStartups 2:100:2"])
    names = [f"web{number}" for number in range(6)]
    for name in names:
        fleet.add(name, sshd)
    assert outs(fleet, names, "echo in") == [b"in\n"] * 6


def test_all_who_waited_for_a_connection_that_failed_share_its_failure(
    fleet: TestFleet, sshd_factory: MakeSshd
) -> None:
    sshd = sshd_factory()
    fleet.add("web", sshd, connect_timeout=1)
    fleet.run("web", "true")
    connection = connection_of(fleet, "web")
    fleet.fleet.connections.lost(connection)
    sshd.freeze()
    before = connection.attempts
    assert all("did not answer within 1 s" in said for said in outs(fleet, ["web"] * 6, "true"))
    assert connection.attempts == before + 1


def test_a_late_word_of_an_old_masters_end_does_not_end_the_new_one(web: TestFleet) -> None:
    connection = connection_of(web, "web")
    old = connection.made
    web.fleet.connections.lost(connection)
    web.run("web", "true")
    web.fleet.connections.lost(connection, old)
    assert web.fleet.transport.pid(connection.name)


def test_a_jump_server_that_dies_is_logged_in_to_again(fleet: TestFleet, sshd_factory: MakeSshd) -> None:
    fleet.add("bastion", sshd_factory())
    fleet.add("inner", sshd_factory(), jump="bastion")
    fleet.run("inner", "true")
    os.kill(connection_of(fleet, "bastion").pid, signal.SIGKILL)
    wait_until(
        lambda: not fleet.fleet.transport.pid(connection_of(fleet, "inner").name),
        10,
        "the inner connection is gone too",
    )
    assert fleet.out("inner", "echo again") == "again\n"


def test_a_frozen_master_is_replaced_and_its_host_used_again(web: TestFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "HELLO_SECONDS", 0.5)
    pid = connection_of(web, "web").pid
    os.kill(pid, signal.SIGSTOP)
    assert web.out("web", "echo again") == "again\n"
    wait_until(lambda: not os.path.exists(f"/proc/{pid}/exe"), 10, "the frozen master is gone")


def test_a_command_over_a_master_of_another_version_is_run_and_stopped_like_any_other(
    web: TestFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "VERSION", 5)  # a real master, and we are the ones who speak another version
    assert web.out("web", "echo x; cat", stdin=b"in") == "x\nin"
    done = web.run("web", "echo begun; sleep 1000", timeout=1)
    assert done.timed_out and done.stopped == "confirmed" and done.stdout.head == b"begun\n"


def test_without_descriptors_a_job_waits_and_nothing_leaks(web: TestFleet) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with web.fleet.transport.loop() as loop:
        before = len(os.listdir("/proc/self/fd"))
        for room in range(8):  # each way through the start of a session fails at another descriptor
            ends: list[Ended] = []
            job = Job(connection_of(web, "web").name, "true", "", b"x", Limits(4096, 1 << 20), time.monotonic() + 0.05)
            resource.setrlimit(resource.RLIMIT_NOFILE, (before - 1 + room, hard))
            try:
                loop.submit(job, ends.append)
                loop.run(lambda ends=ends: not ends, Cancellation())  # type: ignore[misc]
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert ends[0].why in ("crowded", "", "timeout")
            assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("words", ["evil", "1 S 1", "0", "-5", "12x", "99999999999", ""])
def test_a_marker_without_a_process_group_is_no_marker(words: str) -> None:
    out: list[bytes] = []
    marked = Marked("nonce", out.append)
    marked.feed(f"nonce {words}\nrest".encode())
    marked.finish()
    assert marked.words == "" and b"".join(out) == f"nonce {words}\nrest".encode()


def test_half_a_surrogate_pair_is_refused_with_a_sentence(web: TestFleet) -> None:
    with pytest.raises(FleetShellError, match="half of a surrogate pair"):
        web.run("web", "echo \ud800")


def test_a_host_that_falls_silent_is_noticed_by_keep_alive(
    tmp_path: Path, relay_key: KeyPair, sshd_factory: MakeSshd
) -> None:
    sshd = sshd_factory()
    with fleet_on(tmp_path, relay_key, Config(ssh=Ssh(alive_interval=1))) as fleet:
        fleet.add("web", sshd)
        command = f"echo x; until [ -e {tmp_path}/end ]; do sleep 0.05; done"
        try:
            with pytest.raises(Unreachable, match="lost while the command ran"):
                fleet.fleet.run(
                    fleet.caller, fleet.inventory.get("web"), Act(command), timeout=100, cancelled=Cancellation(),
                    progress=lambda *_: sshd.freeze(),
                )  # fmt: skip
        finally:
            (tmp_path / "end").touch()
            sshd.thaw()


@pytest.fixture
def user_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sshd: Sshd) -> Path:
    """A user's ~/.ssh/config that knows the test's sshd as `box`."""
    folder = tmp_path / "user" / ".ssh"
    folder.mkdir(parents=True, mode=0o700)
    monkeypatch.setenv("HOME", str(folder.parent))
    path = folder / "config"
    path.write_text(
        f"Host box\n  HostName {sshd.address}\n  Port {sshd.port}\n  User {sshd.user}\n  RemoteCommand echo of the user\n"
    )
    path.chmod(0o600)
    return path


def test_an_alias_says_where_a_server_is_but_the_servers_own_file_wins(fleet: TestFleet, user_config: Path) -> None:
    fleet.add("web", hostname="shown.invalid", use_ssh_config="box")
    assert fleet.out("web", "echo in") == "in\n"
    first = fleet.fleet.identity(fleet.inventory.get("web")).name
    user_config.write_text(user_config.read_text() + "  Compression yes\n")
    assert fleet.fleet.identity(fleet.inventory.get("web")).name != first
    fleet.add("other", hostname="shown.invalid", use_ssh_config="box", ssh_port=1)
    with pytest.raises(Unreachable, match="refuses connections on port 1"):
        fleet.run("other", "true")


def test_a_raw_host_gets_the_command_as_it_is_and_no_promise(
    fleet: TestFleet, sshd_factory: MakeSshd, tmp_path: Path
) -> None:
    fleet.add(
        "switch", sshd_factory(extra=['ForceCommand printf "<%s>" "$SSH_ORIGINAL_COMMAND"; cat; exit 5']), raw=True
    )
    done = fleet.run("switch", "show version | include 'x'", stdin=b"in")
    assert (done.exit_code, done.stdout.head) == (5, b"<show version | include 'x'>in")
    with pytest.raises(BadArgument, match="is `raw`"):
        fleet.run("switch", "show version", environment={"A": "b"})
    fleet.add("slow", sshd_factory(extra=[f"ForceCommand until [ -e {tmp_path}/end ]; do sleep 0.05; done"]), raw=True)
    done = fleet.run("slow", "reload", timeout=1)
    (tmp_path / "end").touch()
    assert done.timed_out and done.stopped == "unconfirmed"


def test_a_local_command_needs_permission_and_is_ended_like_a_remote_one(tmp_path: Path, relay_key: KeyPair) -> None:
    for allowed in (False, True):
        (tmp_path / str(allowed)).mkdir()
        with fleet_on(tmp_path / str(allowed), relay_key, Config(security=Security(allow_local=allowed))) as fleet:
            fleet.add("here", hostname="localhost", connection="local")
            if not allowed:
                with pytest.raises(ConfigError, match="security.allow_local: true"):
                    fleet.run("here", "true")
                continue
            done = fleet.run("here", 'cat; echo "$X" >&2; exit 3', stdin=b"in\n", environment={"X": "y"})
            assert (done.exit_code, done.stdout.head, done.stderr.head) == (3, b"in\n", b"y\n")
            done = fleet.run("here", "sleep 1000 & sleep 1000", timeout=1)
            assert done.timed_out and done.stopped == "confirmed"


def test_a_command_whose_marker_is_on_its_way_when_it_is_cancelled_is_ended(
    web: TestFleet, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bash has replaced itself by the command then: nothing on its command line tells whose it is."""
    cancelled = Cancellation()
    note = Errand._note_session

    def sent(errand: Errand, session: Session) -> None:
        note(errand, session)
        cancelled.set("the client changed its mind")

    monkeypatch.setattr(Errand, "_note_session", sent)
    done = web.run("web", "sleep 1000", cancelled=cancelled)
    assert (done.cancelled, done.stopped) == (True, "confirmed")
    assert [process for process in sshd.remote_processes() if process.name == "sleep"] == []
