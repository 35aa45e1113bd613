"""Tests of the tests' own support: the sshd does what a server does, and the leak check finds every kind of leak."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from run import parts

from support import leaks, processes
from support.leaks import Snapshot
from support.relay import ROOT
from support.sshd import KeyPair, Sshd, make_key

Ssh = Callable[..., "subprocess.CompletedProcess[str]"]

BACKGROUND = "setsid sleep 300 </dev/null >/dev/null 2>&1 & echo $!"
"""A remote command that returns at once and leaves a process whose connection to it is gone."""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "PATIENCE", 0.1)


@pytest.fixture
def ssh(relay_key: KeyPair, short_tmp: Path) -> Ssh:
    """Run a command on an Sshd by the ssh program, with exactly its host key known."""

    def run(server: Sshd, command: str, *options: str, address: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*ssh_command(server, relay_key, short_tmp, *options, address=address), command],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
        )

    return run


def ssh_command(server: Sshd, key: KeyPair, folder: Path, *options: str, address: str = "") -> list[str]:
    known = folder / "known_hosts"
    known.write_text(f"{server.host_key_line}\n")
    settings = ["BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=yes", "LogLevel=ERROR"]
    files = ["-F", "none", "-i", str(key.private), "-o", f"UserKnownHostsFile={known}"]
    where = ["-p", str(server.port), "-l", server.user, address or server.address]
    return ["ssh", *files, *(part for setting in settings for part in ("-o", setting)), *options, *where]


def test_a_remote_command_runs_with_the_servers_token_in_its_environment(sshd: Sshd, ssh: Ssh) -> None:
    done = ssh(sshd, "echo $FLEETSHELL_TEST_REMOTE")
    assert (done.stdout, done.stderr, done.returncode) == (f"{sshd.token}\n", "", 0)
    assert "Accepted publickey" in sshd.log()


def test_a_key_that_is_not_authorized_is_refused(sshd: Sshd, tmp_path: Path, short_tmp: Path) -> None:
    other = make_key(tmp_path / "other")
    done = subprocess.run([*ssh_command(sshd, other, short_tmp), "true"], capture_output=True, text=True)
    assert done.returncode == 255
    assert "Permission denied" in done.stderr


def test_one_daemon_answers_on_several_addresses(sshd_factory: Callable[..., Sshd], ssh: Ssh) -> None:
    fleet = sshd_factory(addresses=[f"127.10.1.{number}" for number in range(1, 17)])
    for address in (fleet.addresses[0], fleet.addresses[15]):
        assert ssh(fleet, "echo $SSH_CONNECTION", address=address).stdout.split()[2:] == [address, str(fleet.port)]


def test_a_port_that_another_program_takes_first_is_replaced(
    sshd_factory: Callable[..., Sshd], sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = iter([sshd.port, sshd.port, sshd.port + 1 if sshd.port < 32000 else 20000])
    monkeypatch.setattr("support.sshd.free_port", lambda addresses: next(ports))
    assert sshd_factory().port != sshd.port


def test_settings_given_win_over_the_usual_ones_and_a_wrong_one_is_reported(sshd_factory: Callable[..., Sshd]) -> None:
    server = sshd_factory(max_sessions=3, extra=["MaxStartups 100", "PasswordAuthentication yes"])
    config = server.folder / "sshd_config"
    shown = subprocess.run([server.program, "-T", "-f", str(config)], capture_output=True, text=True, check=True).stdout
    assert {"maxsessions 3", "maxstartups 100:30:100", "passwordauthentication yes"} <= set(shown.splitlines())
    with pytest.raises(AssertionError, match="Bad configuration option: NoSuchOption"):
        sshd_factory(extra=["NoSuchOption 1"])


def test_a_changed_host_key_stops_a_client_that_knew_the_old_one(
    sshd_factory: Callable[..., Sshd], ssh: Ssh, relay_key: KeyPair, short_tmp: Path
) -> None:
    server = sshd_factory()
    old = ssh_command(server, relay_key, short_tmp)
    assert subprocess.run([*old, "true"], capture_output=True).returncode == 0
    port = server.port
    server.change_host_key()
    assert server.port == port
    refused = subprocess.run([*old, "true"], capture_output=True, text=True)
    assert (refused.returncode, "Host key verification failed" in refused.stderr) == (255, True)
    assert ssh(server, "true").returncode == 0


def test_a_killed_server_takes_its_remote_processes_along_and_can_come_back(
    sshd_factory: Callable[..., Sshd], ssh: Ssh
) -> None:
    server = sshd_factory()
    left = int(ssh(server, BACKGROUND).stdout)
    assert left in {process.pid for process in server.remote_processes()}
    server.kill()
    assert processes.alive(server.mark) == []
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect((server.address, server.port))
    server.start()
    assert ssh(server, "echo back").stdout == "back\n"


def test_a_frozen_server_answers_nothing_until_it_thaws(sshd_factory: Callable[..., Sshd]) -> None:
    server = sshd_factory()
    server.freeze()
    assert {process.state for process in processes.alive(server.mark)} == {"T"}
    with socket.create_connection((server.address, server.port), timeout=0.2) as client:
        with pytest.raises(TimeoutError):
            client.recv(1)
        server.thaw()
        client.settimeout(30)
        assert client.recv(4) == b"SSH-"


def test_a_stopped_server_cuts_the_connections_but_leaves_remote_processes_to_be_found(
    sshd_factory: Callable[..., Sshd], ssh: Ssh
) -> None:
    server = sshd_factory()
    left = int(ssh(server, BACKGROUND).stdout)
    server.stop()
    assert [process.pid for process in processes.alive(server.mark)] == [left]
    os.kill(left, signal.SIGKILL)


def test_a_clean_block_leaks_nothing() -> None:
    before = Snapshot.take()
    with socket.socket():
        subprocess.run(["true"], check=True)
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    assert before.leaked() == []


def test_a_thread_left_behind_is_found(impatient: None) -> None:
    before = Snapshot.take()
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="left over")
    thread.start()
    assert before.leaked() == ["the thread 'left over'"]
    end.set()
    thread.join()


def test_a_descriptor_left_open_is_found(impatient: None) -> None:
    before = Snapshot.take()
    with open("/dev/null") as file:
        assert before.leaked() == [f"the file descriptor {file.fileno()} (/dev/null)"]


def test_a_descriptor_held_by_a_cycle_alone_is_closed_rather_than_reported() -> None:
    before = Snapshot.take()
    cycle: list[object] = [socket.socket()]
    cycle.append(cycle)
    with pytest.warns(ResourceWarning):
        del cycle
        assert before.leaked() == []


def test_a_child_left_running_is_found_and_so_is_one_not_waited_for(impatient: None) -> None:
    before = Snapshot.take()
    with subprocess.Popen(["sleep", "300"]) as child:
        assert before.leaked() == [f"the child process {child.pid} (sleep 300)"]
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert before.leaked() == [f"the child process {child.pid} (sleep, a zombie)"]
    assert before.leaked() == []


def test_a_grandchild_with_a_clean_environment_that_init_adopted_is_found(impatient: None) -> None:
    before = Snapshot.take()
    command = ["env", "-i", "sh", "-c", "setsid sleep 300 </dev/null >/dev/null 2>&1 & echo $!"]
    left = int(subprocess.run(command, capture_output=True, check=True).stdout)
    assert before.leaked() == [f"the orphaned process {left} (sleep 300)"]
    os.kill(left, signal.SIGKILL)
    assert before.leaked() == []


def test_a_connection_master_in_the_background_is_found(impatient: None, sshd: Sshd, ssh: Ssh, short_tmp: Path) -> None:
    before = Snapshot.take()
    path = short_tmp / "master"
    try:
        ssh(sshd, "true", "-o", f"ControlPath={path}", "-o", "ControlMaster=yes", "-o", "ControlPersist=yes")
        (found,) = before.leaked()
        assert found.startswith("the orphaned process ") and f"ssh: {path} [mux]" in found
    finally:
        subprocess.run(["ssh", "-S", str(path), "-O", "exit", "any"], capture_output=True)


def test_a_remote_process_left_on_the_shared_server_is_found(impatient: None, sshd: Sshd, ssh: Ssh) -> None:
    before = Snapshot.take()
    left = int(ssh(sshd, f"exec env -i /bin/sh -c '{BACKGROUND}'").stdout)
    assert before.leaked() == [f"the remote process {left} (sleep 300)"]
    os.kill(left, signal.SIGKILL)


def test_a_daemon_that_is_known_is_no_leak(impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "_known", dict(leaks._known))
    before = Snapshot.take()
    with subprocess.Popen(["sleep", "300"]) as process:
        mark = processes.new_mark()
        processes.set_mark(process.pid, mark)
        assert len(before.leaked()) == 1
        leaks.know(mark)
        assert before.leaked() == []
        process.kill()


LEAKY_TESTS = """
import os, subprocess, threading
from support import leaks
leaks.PATIENCE = 0.2

def test_clean():
    pass

def test_thread():
    threading.Thread(target=threading.Event().wait, name="stray", daemon=True).start()

def test_descriptor():
    os.open("/dev/null", os.O_RDONLY)

def test_process():
    subprocess.run(["sh", "-c", "setsid sleep 300 </dev/null >/dev/null 2>&1 &"])

def test_remote(sshd_factory, relay_key):
    server = sshd_factory()
    options = ["-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-i", relay_key.private]
    command = "setsid sleep 300 </dev/null >/dev/null 2>&1 &"
    subprocess.run(["ssh", *options, "-p", str(server.port), server.address, command], check=True)

def test_clean_after_the_others(sshd):
    pass
"""


def test_the_check_fails_exactly_the_tests_that_leak_and_ends_what_they_left(tmp_path: Path) -> None:
    tests = Path(__file__).parents[1]
    (tmp_path / "conftest.py").write_text((tests / "conftest.py").read_text())
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_leaky.py").write_text(LEAKY_TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rE", "-q", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    failed = [line.split("::")[1] for line in done.stdout.splitlines() if line.startswith("ERROR ")]
    assert [line.split(" - ")[0] for line in failed] == [
        "test_thread",
        "test_descriptor",
        "test_process",
        "test_remote",
    ]


def test_every_file_of_tests_is_run_by_exactly_one_process() -> None:
    tests = ROOT / "tests"
    run = [ROOT / path for paths in parts().values() for path in paths]
    for file in tests.rglob("test_*.py"):
        if "data" not in file.relative_to(tests).parts:
            assert sum(file == path or path in file.parents for path in run) == 1, file
