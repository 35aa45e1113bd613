"""Running commands on real servers: results, errors told apart, time limits, cancellation, and the audit of each."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.fleets import TestFleet, fleet_on, nothing
from support.processes import wait_until
from support.sshd import KeyPair, Sshd, make_key

from fleetshell_tools.core.config import Config, Security, Ssh
from fleetshell_tools.core.errors import AuditUnavailable, BadArgument, Blocked, Cancelled, TimedOut, Unreachable
from fleetshell_tools.core.types import Act, Cancellation


@pytest.fixture
def fleet(tmp_path: Path, relay_key: KeyPair) -> Iterator[TestFleet]:
    with fleet_on(tmp_path, relay_key) as made:
        yield made


@pytest.fixture
def web(fleet: TestFleet, sshd: Sshd) -> TestFleet:
    fleet.add("web", sshd)
    return fleet


def test_a_commands_output_streams_and_exit_code_arrive_apart(web: TestFleet) -> None:
    done = web.run("web", "echo out; echo err >&2; exit 3")
    assert (done.exit_code, done.stdout.head, done.stderr.head) == (3, b"out\n", b"err\n")
    assert not done.timed_out and not done.why


def test_exit_code_255_of_a_command_is_no_lost_connection(web: TestFleet) -> None:
    assert web.run("web", "exit 255").exit_code == 255


def test_environment_values_reach_the_command_unchanged_and_not_its_argv(web: TestFleet) -> None:
    value = "a 'b' \"c\" $HOME `id` \\ \n second line é"
    done = web.run("web", 'printf %s "$SECRET"; tr "\\0" " " < /proc/$$/cmdline >&2', environment={"SECRET": value})
    assert done.stdout.head.decode() == value
    assert b"second line" not in done.stderr.head and b"SECRET" in done.stderr.head


def test_stdin_is_fed_and_closed_also_behind_an_environment(web: TestFleet) -> None:
    assert web.out("web", "cat; echo end", stdin=b"one\ntwo") == "one\ntwoend\n"
    assert web.out("web", 'cat; echo "$X"', stdin=b"one\n", environment={"X": "1"}) == "one\n1\n"


def test_a_large_stdin_and_a_large_output_at_once_do_not_block_each_other(web: TestFleet) -> None:
    done = web.run("web", "cat", stdin=b"x" * 5_000_000)
    assert done.stdout.total == 5_000_000


def test_the_working_directory_is_entered_whatever_its_name(web: TestFleet, tmp_path: Path) -> None:
    for name in ("plain", "with space", 'it\'s $(id) "q"', "-dash", "~tilde"):
        (tmp_path / name).mkdir()
        assert web.out("web", "pwd", working_directory=str(tmp_path / name)) == f"{tmp_path / name}\n"
    assert web.out("web", "pwd", working_directory="~") == web.out("web", 'cd "$HOME" && pwd')


def test_a_working_directory_that_is_not_there_is_a_bad_argument_and_nothing_runs(
    web: TestFleet, tmp_path: Path
) -> None:
    with pytest.raises(BadArgument, match="can't be entered on web: .*No such file"):
        web.run("web", f"touch {tmp_path}/ran", working_directory="/no/such/folder")
    assert not (tmp_path / "ran").exists()


def test_output_beyond_the_limit_keeps_head_and_tail_and_counts_the_rest(web: TestFleet) -> None:
    done = web.run("web", "echo first; head -c 100000000 /dev/zero; echo last")
    assert done.stdout.total == 100_000_000 + len("first\nlast\n")
    assert done.stdout.head.startswith(b"first\n") and done.stdout.tail.endswith(b"last\n")
    assert len(done.stdout.head) + len(done.stdout.tail) <= 2 * Config().security.max_output_bytes


def test_a_flood_is_ended_after_the_drain_budget(tmp_path: Path, relay_key: KeyPair, sshd: Sshd) -> None:
    config = Config(security=Security(max_drain_bytes=1_000_000))
    with fleet_on(tmp_path, relay_key, config) as fleet:
        fleet.add("web", sshd)
        done = fleet.run("web", "yes")
    assert done.why == "flood" and done.stopped == "confirmed"


def test_a_command_at_its_time_limit_is_ended_with_all_it_started(web: TestFleet, sshd: Sshd) -> None:
    done = web.run("web", "sleep 1000 & trap '' TERM; echo waiting; sleep 1000", timeout=2)
    assert done.timed_out and done.exit_code is None and done.stopped == "confirmed"
    assert done.stdout.head == b"waiting\n"
    # What is left would be found by the leak check too; this says it at once.
    assert not [process for process in sshd.remote_processes() if process.name == "sleep"]


def test_a_cancelled_command_is_ended(web: TestFleet, tmp_path: Path) -> None:
    cancelled = Cancellation()
    mark = tmp_path / "started"

    def cancel_soon() -> None:
        wait_until(mark.exists, 20, "the command has started")
        cancelled.set()

    timer = threading.Thread(target=cancel_soon)
    timer.start()
    done = web.run("web", f"touch '{mark}'; sleep 1000", cancelled=cancelled)
    timer.join()
    assert done.cancelled and done.stopped == "confirmed"
    assert web.records()[-1]["event"] == "cancelled"


def test_a_call_that_is_cancelled_before_it_runs_starts_nothing(web: TestFleet, tmp_path: Path) -> None:
    cancelled = Cancellation()
    cancelled.set()
    with pytest.raises(Cancelled):
        web.run("web", f"touch {tmp_path}/ran", cancelled=cancelled)
    assert not (tmp_path / "ran").exists()


def test_every_command_leaves_an_intent_and_an_outcome_in_the_audit_log(web: TestFleet) -> None:
    web.run("web", "exit 4", environment={"TOKEN": "s3cret-value"}, stdin=b"s3cret-stdin")
    started, pinned, finished = web.records()
    assert (pinned["event"], pinned["server_id"], pinned["keys"]) == (
        "host_key_pinned",
        "web",
        web.fleet.fingerprints(web.inventory.get("web")),
    )
    assert (started["event"], started["server_id"], started["command"]) == ("started", "web", "exit 4")
    assert (finished["event"], finished["exit_code"], finished["success"], finished["intent"]) == (
        "finished",
        4,
        False,
        started["seq"],
    )
    text = (web.home.logs / "audit.log").read_text()
    assert "s3cret" not in text and "TOKEN" in text


def test_a_blocked_command_never_connects_and_is_audited(fleet: TestFleet) -> None:
    fleet.add("nowhere", hostname="127.0.0.1", ssh_port=1)
    with pytest.raises(Blocked, match="power"):
        fleet.run("nowhere", "sudo reboot")
    (record,) = fleet.records()
    assert (
        record["event"] == "blocked"
        and record["verdict"].startswith("blocked:power")
        and record["command"] == "sudo reboot"
    )


def test_a_command_longer_than_allowed_is_refused_with_both_numbers(web: TestFleet) -> None:
    with pytest.raises(BadArgument, match="5,001 characters; at most 5,000"):
        web.run("web", "x" * 5001)
    assert web.out("web", "echo " + "x" * 4990).strip() == "x" * 4990


def test_no_command_runs_where_the_audit_log_cannot_be_written(web: TestFleet, tmp_path: Path) -> None:
    web.run("web", "true")
    web.audit.close()
    log = web.home.logs / "audit.log"
    log.unlink()
    log.mkdir()
    try:
        with pytest.raises(AuditUnavailable):
            web.run("web", f"touch {tmp_path}/ran")
    finally:
        log.rmdir()
    assert not (tmp_path / "ran").exists()


def test_a_refused_connection_says_so(fleet: TestFleet) -> None:
    fleet.add("down", hostname="127.0.0.1", ssh_port=1)
    with pytest.raises(Unreachable, match="refuses connections on port 1") as caught:
        fleet.run("down", "true")
    assert caught.value.step == "connect"
    assert fleet.records()[-1]["event"] == "failed"


def test_a_name_that_does_not_resolve_says_so(fleet: TestFleet) -> None:
    fleet.add("lost", hostname="no-such-host.invalid")
    with pytest.raises(Unreachable, match="could not be resolved") as caught:
        fleet.run("lost", "true")
    assert caught.value.step == "resolve"


def test_a_refused_login_names_the_methods_and_the_mending_command(
    fleet: TestFleet, sshd_factory: Callable[..., Sshd], tmp_path: Path
) -> None:
    fleet.add("strict", sshd_factory(authorized_keys=make_key(tmp_path / "other").public))
    with pytest.raises(Unreachable, match=r"offers: publickey.*fleetshell pubkey") as caught:
        fleet.run("strict", "true")
    assert caught.value.step == "login"


def test_a_changed_host_key_is_refused_and_explained(
    fleet: TestFleet, sshd_factory: Callable[..., Sshd], tmp_path: Path
) -> None:
    server = sshd_factory()
    fleet.add("moved", server)
    fleet.run("moved", "true")
    server.change_host_key()
    os.kill(_master_pid(fleet), 9)  # a connection that is up has no reason to ask for the key again
    with pytest.raises(Unreachable, match="host key of moved has changed.*fleetshell trust moved") as caught:
        fleet.run("moved", f"touch {tmp_path}/ran")
    assert caught.value.step == "host_key"
    assert not (tmp_path / "ran").exists()


def test_a_host_that_never_answers_is_given_up_within_the_time_limit(
    fleet: TestFleet, sshd_factory: Callable[..., Sshd]
) -> None:
    server = sshd_factory()
    fleet.add("frozen", server, connect_timeout=2)
    server.freeze()
    try:
        with pytest.raises((Unreachable, TimedOut), match="did not answer|time limit"):
            fleet.run("frozen", "true", timeout=5)
    finally:
        server.thaw()


def test_a_dead_master_is_replaced_by_the_next_command(web: TestFleet) -> None:
    web.run("web", "true")
    master = _master_pid(web)
    os.kill(master, 9)
    assert web.out("web", "echo again") == "again\n"
    assert _master_pid(web) != master


def test_a_connection_lost_in_mid_command_is_told_and_the_command_not_repeated(web: TestFleet, tmp_path: Path) -> None:
    mark = tmp_path / "runs"
    web.run("web", "true")
    master = _master_pid(web)

    def kill_soon() -> None:
        wait_until(mark.exists, 20, "the command has started")
        os.kill(master, 9)

    killer = threading.Thread(target=kill_soon)
    killer.start()
    with pytest.raises(Unreachable, match="lost while the command ran") as caught:
        web.run("web", f"echo partial; echo run >> '{mark}'; until [ -e '{tmp_path}/end' ]; do sleep 0.05; done")
    killer.join()
    (tmp_path / "end").touch()
    assert caught.value.step == "lost" and "partial" in caught.value.seen
    assert mark.read_text() == "run\n"


def test_a_second_key_cannot_ride_on_the_first_ones_connection(web: TestFleet, sshd: Sshd, tmp_path: Path) -> None:
    assert web.out("web", "echo in") == "in\n"
    other = make_key(tmp_path / "other")
    web.add("intruder", sshd, identity_file=str(other.private))
    with pytest.raises(Unreachable) as caught:
        web.run("intruder", "echo in")
    assert caught.value.step == "login"


def test_commands_beyond_the_hosts_session_limit_wait_their_turn(
    tmp_path: Path, relay_key: KeyPair, sshd: Sshd
) -> None:
    with fleet_on(tmp_path, relay_key, Config(ssh=Ssh(sessions_per_server=2))) as fleet:
        fleet.add("web", sshd)
        server = fleet.inventory.get("web")
        results = fleet.fleet.run_many(
            fleet.caller, [dataclasses.replace(server) for _ in range(8)], Act("echo done"), timeout=30, max_parallel=8,
            stop_on_failure=False, cancelled=Cancellation(), progress=nothing,
        )  # fmt: skip
    assert [result.completed.stdout.head for result in results if result.completed] == [b"done\n"] * 8


def test_one_login_serves_all_commands_that_arrive_while_it_is_made(web: TestFleet, sshd: Sshd) -> None:
    before = sshd.log().count("Accepted publickey")
    server = web.inventory.get("web")
    web.fleet.run_many(
        web.caller,
        [server] * 6,
        Act("true"),
        timeout=30,
        max_parallel=6,
        stop_on_failure=False,
        cancelled=Cancellation(),
        progress=nothing,
    )
    assert sshd.log().count("Accepted publickey") == before + 1


def test_a_fan_out_keeps_order_and_one_dead_host_does_not_hold_the_others(web: TestFleet, sshd: Sshd) -> None:
    web.add("dead", hostname="127.0.0.1", ssh_port=1)
    web.add("zweb", sshd)
    seen: list[str | None] = []
    results = web.fleet.run_many(
        web.caller, [web.inventory.get(name) for name in ("zweb", "dead", "web")], Act("echo up"), timeout=20, max_parallel=3,
        stop_on_failure=False, cancelled=Cancellation(), progress=lambda done, total, message: seen.append(message),
    )  # fmt: skip
    assert [result.server_id for result in results] == ["zweb", "dead", "web"]
    assert results[1].error and "refuses connections" in results[1].error
    assert [bool(result.completed) for result in results] == [True, False, True]
    assert sorted(message or "" for message in seen) == ["dead is done", "web is done", "zweb is done"]


def test_stop_on_failure_starts_no_further_server(web: TestFleet, tmp_path: Path) -> None:
    results = web.fleet.run_many(
        web.caller, [web.inventory.get("web")] * 3, Act(f"echo x >> {tmp_path}/runs; false"), timeout=20, max_parallel=1,
        stop_on_failure=True, cancelled=Cancellation(), progress=nothing,
    )  # fmt: skip
    assert (tmp_path / "runs").read_text() == "x\n"
    assert [result.error for result in results[1:]] == ["Not started: another server failed (stop_on_failure)."] * 2


def test_a_jump_goes_through_the_jump_servers_own_connection(
    fleet: TestFleet, sshd: Sshd, sshd_factory: Callable[..., Sshd]
) -> None:
    inner = sshd_factory()
    fleet.add("bastion", sshd)
    fleet.add("inner", inner, jump="bastion")
    assert fleet.out("inner", "echo behind") == "behind\n"
    assert fleet.fleet.connection_state(fleet.inventory.get("bastion")).state == "connected"


def test_every_option_that_the_engine_sets_comes_before_those_of_the_servers_file(web: TestFleet, sshd: Sshd) -> None:
    web.add("tuned", sshd, ssh_options={"Compression": "yes", "LogLevel": "DEBUG"})
    text = web.fleet.identity(web.inventory.get("tuned")).config
    assert text.index("BatchMode yes") < text.index("Compression yes")
    assert web.out("tuned", "echo ok") == "ok\n"


def test_a_login_shell_that_runs_nothing_is_refused_with_a_sentence(
    fleet: TestFleet, sshd_factory: Callable[..., Sshd]
) -> None:
    fleet.add("menu", sshd_factory(extra=["ForceCommand echo Welcome to the appliance"]))
    with pytest.raises(Unreachable, match="needs a login shell.*Welcome to the appliance") as caught:
        fleet.run("menu", "true")
    assert caught.value.step == "shell"


def test_closing_the_fleet_leaves_no_socket_and_no_master(web: TestFleet) -> None:
    web.run("web", "true")
    assert list(web.home.run.glob("m*"))
    web.fleet.close()
    assert not list(web.home.run.glob("m*"))


def test_masters_that_a_killed_relay_left_are_swept(web: TestFleet) -> None:
    web.run("web", "true")
    master = _master_pid(web)
    assert web.fleet.connections.sweep() == 1
    wait_until(lambda: not os.path.exists(f"/proc/{master}/exe") or not _running(master), 10, "the master has ended")
    assert not list(web.home.run.glob("m*"))


def _master_pid(fleet: TestFleet) -> int:
    (socket,) = [path for path in fleet.home.run.glob("m*") if path.is_socket()]
    said = subprocess.run(
        ["ssh", "-F", "/dev/null", "-S", socket.name, "-O", "check", "host"],
        cwd=fleet.home.run,
        capture_output=True,
        text=True,
    ).stderr
    return int(said.partition("pid=")[2].partition(")")[0])


def _running(pid: int) -> bool:
    try:
        return open(f"/proc/{pid}/stat").read().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False
