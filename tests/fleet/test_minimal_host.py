"""A host with nothing but dropbear and busybox: commands, their ends, sessions, and fan-out beside OpenSSH's hosts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fleets import TestFleet, fleet_on, nothing
from support.minimal import MinimalHost
from support.processes import wait_until
from support.sshd import KeyPair, Sshd

from fleetshell_tools.core.scripts import Script
from fleetshell_tools.core.types import Act, Caller, Cancellation, Principal, ShellOutput

CALLER = Caller(Principal("testkey"), tool="execute_in_session")

FAMILY = "sleep 1000 & sh -c 'sleep 1000 & wait' & (sleep 1000 &); : > /tmp/begun; echo begun; sleep 1000; :"


@pytest.fixture
def host(relay_key: KeyPair, short_tmp: Path) -> Iterator[MinimalHost]:
    made = MinimalHost(short_tmp, relay_key)
    yield made
    made.stop()


@pytest.fixture
def fleet(tmp_path: Path, relay_key: KeyPair, host: MinimalHost) -> Iterator[TestFleet]:
    with fleet_on(tmp_path, relay_key) as made:
        add(made, "small", host)
        yield made


def add(fleet: TestFleet, server_id: str, host: MinimalHost) -> None:
    fleet.add(server_id, hostname=host.address, ssh_port=host.port, ssh_user=host.user)


def test_streams_exit_code_stdin_environment_and_folder_work_as_elsewhere(fleet: TestFleet, host: MinimalHost) -> None:
    folder = '/tmp/it\'s "a" $folder é'
    (host.root / folder[1:]).mkdir()
    value = 'it\'s "q" $HOME `id` \\ !! \n second line é✓'
    done = fleet.run(
        "small", 'printf "%s\\n" "$VALUE"; pwd; cat; echo err >&2; exit 7', environment={"VALUE": value},
        working_directory=folder, stdin=b"in\0\xff",
    )  # fmt: skip
    assert done.stdout.head == f"{value}\n{folder}\nin".encode() + b"\0\xff"
    assert (done.exit_code, done.stderr.head) == (7, b"err\n")


def test_a_long_command_arrives_whole(fleet: TestFleet) -> None:
    body = ('it\'s "q" !x \\ \\n $no `no` $(no) é✓\U0001f600 * # & | ; <\n' * 200)[:4870].strip()
    assert fleet.out("small", f"cat <<'END'\n{body}\nEND") == f"{body}\n"


def test_a_time_limit_ends_all_that_a_command_has_started(fleet: TestFleet, host: MinimalHost) -> None:
    fleet.run("small", "true")
    done = fleet.run("small", FAMILY, timeout=3)
    assert (done.timed_out, done.stopped, done.stdout.head) == (True, "confirmed", b"begun\n")
    assert host.remote_processes() == []


def test_a_cancellation_ends_a_command_and_not_the_one_beside_it(fleet: TestFleet, host: MinimalHost) -> None:
    cancelled = Cancellation()
    beside: list[str] = []
    other = threading.Thread(
        target=lambda: beside.append(
            fleet.out("small", ": > /tmp/other; until [ -e /tmp/end ]; do sleep 0.05; done; echo unhurt")
        )
    )

    def cancel_soon() -> None:
        begun = (host.root / "tmp/begun", host.root / "tmp/other")
        wait_until(lambda: all(mark.exists() for mark in begun), 30, "both commands have begun")
        cancelled.set()

    helper = threading.Thread(target=cancel_soon)
    other.start()
    helper.start()
    done = fleet.run("small", FAMILY, cancelled=cancelled)
    helper.join()
    (host.root / "tmp/end").touch()
    other.join()
    assert (done.cancelled, done.stopped, beside) == (True, "confirmed", ["unhurt\n"])
    assert host.remote_processes() == []


def test_a_shell_that_is_known_from_an_openssh_server_there_before_is_looked_at_again(
    fleet: TestFleet, host: MinimalHost
) -> None:
    connections = fleet.fleet.connections
    identity = fleet.fleet.identity(fleet.inventory.get("small"))
    connections._known.learn(identity.name, "sh")
    done = fleet.run("small", FAMILY, timeout=3)
    assert (done.timed_out, done.stopped, done.stdout.head) == (True, "confirmed", b"begun\n")
    assert host.remote_processes() == []


def test_it_takes_part_in_a_fan_out_beside_openssh(fleet: TestFleet, sshd: Sshd) -> None:
    for name in ("a", "b"):
        fleet.add(name, sshd)
    results = fleet.fleet.run_many(
        fleet.caller, fleet.inventory.all(), Act("echo up; exit 3"), timeout=60, max_parallel=8, stop_on_failure=False,
        cancelled=Cancellation(), progress=nothing,
    )  # fmt: skip
    got = {
        result.server_id: result.completed and (result.completed.exit_code, result.completed.stdout.head)
        for result in results
    }
    assert got == dict.fromkeys(("a", "b", "small"), (3, b"up\n"))


def test_more_logins_than_it_takes_at_once_are_made_one_after_another(fleet: TestFleet, host: MinimalHost) -> None:
    for number in range(11):  # dropbear keeps five of one address waiting for their login, and closes more
        add(fleet, f"small{number}", host)
    results = fleet.fleet.run_many(
        fleet.caller, fleet.inventory.all(), Act("echo up"), timeout=60, max_parallel=16, stop_on_failure=False,
        cancelled=Cancellation(), progress=nothing,
    )  # fmt: skip
    said = [result.completed.stdout.head if result.completed else result.error for result in results]
    assert said == [b"up\n"] * 12


def test_a_session_keeps_its_state_and_can_be_interrupted(fleet: TestFleet, host: MinimalHost) -> None:
    shells = fleet.fleet.shells
    info = shells.create(CALLER, fleet.inventory.get("small"), timeout=20, cancelled=Cancellation())

    def run(command: str, timeout: float = 20) -> ShellOutput:
        return shells.execute(
            CALLER, info.session_id, command, timeout=timeout, cancelled=Cancellation(), progress=nothing
        )

    assert run("cd /tmp; X='it''s'").exit_code == 0
    done = run('echo "$X é"; (exit 7)')
    assert (done.output.head.decode(), done.exit_code, done.cwd) == ("its é\n", 7, "/tmp")
    assert run("sleep 1000", timeout=0.2).running
    done = shells.interrupt(CALLER, info.session_id, timeout=10, cancelled=Cancellation(), progress=nothing)
    assert done.exit_code == 130
    assert run("sleep 1000 & echo next").output.head == b"next\n"
    shells.close(CALLER, info.session_id)
    assert host.remote_processes() == []


def test_a_program_of_ours_that_is_longer_than_a_command_line_may_be_arrives_whole(fleet: TestFleet) -> None:
    script = Script("long", f"part out; cat; printf %s '{'x' * 20_000}' | wc -c", ("data",), stdin=b"in\n")
    server = fleet.inventory.get("small")
    for _ in range(2):
        ran = fleet.fleet.run_script(fleet.caller, server, script, timeout=20, cancelled=Cancellation())
        assert ran.part("out").split() == [b"in", b"20000"] and ran.facts["tools"] == "busybox"
