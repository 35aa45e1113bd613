"""The first command on a new connection goes without a probe where the login shell is known, and never to a wrong one."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fleets import TestFleet, fleet_on
from support.processes import wait_until
from support.sshd import KeyPair, Sshd

from fleetshell_tools.fleet import remote
from fleetshell_tools.fleet.known_shells import KnownShells
from fleetshell_tools.fleet.remote import Probe
from fleetshell_tools.fleet.started import Left


@pytest.fixture
def web(tmp_path: Path, relay_key: KeyPair, sshd: Sshd) -> Iterator[TestFleet]:
    with fleet_on(tmp_path, relay_key) as found:
        found.add("web", sshd)
        yield found


def connection_of(fleet: TestFleet) -> Any:
    identity = fleet.fleet.identity(fleet.inventory.get("web"))
    return fleet.fleet.connections.of(identity)


def new_login(fleet: TestFleet) -> Any:
    connection = connection_of(fleet)
    fleet.fleet.connections.lost(connection)
    return connection


def test_the_first_command_of_a_later_connection_tells_what_the_probe_would(web: TestFleet, monkeypatch: Any) -> None:
    assert web.out("web", "echo one") == "one\n"
    connection = new_login(web)
    probed = connection.probe
    monkeypatch.setattr(type(web.fleet.connections), "_probe", lambda *_: pytest.fail("it was probed again"))
    done = web.run("web", "echo two; echo three >&2; exit 4")
    assert (done.exit_code, done.stdout.head, done.stderr.head) == (4, b"two\n", b"three\n")
    told = connection.probe
    assert not told.assumed
    assert (told.shell, told.system, told.boot) == (probed.shell, probed.system, probed.boot)
    assert abs(int(told.ticks_now()) - int(probed.ticks_now())) < 500


def test_what_the_first_command_notes_is_enough_to_find_it_again(web: TestFleet, tmp_path: Path) -> None:
    web.out("web", "true")
    new_login(web)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    noted: list[Left] = []

    def look() -> None:
        wait_until(lambda: bool(web.noted()), 20, "the command is noted")
        noted.extend(web.noted())
        fifo.write_text("go on\n")

    thread = threading.Thread(target=look)
    thread.start()
    assert web.out("web", f"cat {fifo}") == "go on\n"
    thread.join()
    assert [(left.server_id, bool(left.boot), int(left.start) > 0) for left in noted] == [("web", True, True)]


def test_a_login_shell_that_has_changed_is_noticed_and_the_command_runs_once(web: TestFleet, tmp_path: Path) -> None:
    count = tmp_path / "count"
    web.out("web", "true")
    connection = new_login(web)
    # The host's answer to our first line is what a shell that cannot read it gives: no marker, and the text not run.
    original = remote.introduce
    try:
        remote.introduce = lambda nonce: "exit 127"
        assert web.out("web", f"echo run >> {count}; echo done") == "done\n"
    finally:
        remote.introduce = original
    assert count.read_text() == "run\n"
    assert not connection.probe.assumed


@pytest.mark.parametrize("shell", ["fish", "tcsh", "csh"])
def test_a_shell_of_another_family_refuses_the_whole_text(shell: str, tmp_path: Path) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    touched = tmp_path / "touched"
    wire = remote.wrap(Probe("bash", assumed=True), f"touch {touched}", stdin=None, environment={}, folder=None)
    done = subprocess.run([shell, "-c", wire.command], capture_output=True, text=True, check=False)
    assert not touched.exists()
    assert wire.nonce + " " not in done.stdout


@pytest.mark.parametrize("shell", ["bash", "dash", "zsh", "busybox"])
def test_a_shell_of_the_family_introduces_itself(shell: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    wire = remote.wrap(Probe("bash", assumed=True), 'echo "$0-${FS_OS-none}"', stdin=None, environment={}, folder=None)
    words = [shell, "sh"] if shell == "busybox" else [shell]
    done = subprocess.run(
        [*words, "-c", wire.command],
        capture_output=True,
        start_new_session=True,
        text=True,
        check=False,
        env={"SHELL": f"/bin/{shell}"},
    )
    marker, rest = done.stdout.split("\n", 1)
    told = remote.introduced(Probe("sh"), marker.removeprefix(wire.nonce + " "))
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert (told.shell, told.system, told.boot) == (shell, "Linux", boot)
    assert told.uptime > 0
    assert rest.endswith("-none\n")
    assert done.stderr == ""


@pytest.mark.parametrize("words", ["12", "12 evil", "12 bash Linux", "12 bash Linux boot evil", "12 bash Linux boot"])
def test_odd_words_of_a_host_leave_out_what_cannot_be_read(words: str) -> None:
    assert remote.introduced(Probe("zsh", assumed=True), words) == Probe("bash" if "bash" in words else "zsh")


def test_what_is_known_outlives_the_relay_and_is_forgotten_where_it_was_wrong(tmp_path: Path) -> None:
    first = KnownShells(tmp_path / "shells")
    first.learn("m1", "bash")
    first.learn("m2", "fish")
    first.learn("m3", "zsh")
    first.forget("m3")
    again = KnownShells(tmp_path / "shells")
    assert [again.get(name) for name in ("m1", "m2", "m3", "m4")] == ["bash", "", "", ""]


def test_the_file_of_known_shells_does_not_grow_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "shells"
    known = KnownShells(path)
    for number in range(300):
        known.learn("m1", ("bash", "zsh")[number % 2])
    assert KnownShells(path).get("m1") == "zsh"
    assert path.read_text() == "m1 zsh\n"
