"""Every kind of login shell, on accounts of their own: commands arrive whole, end whole, and sessions keep their state."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.accounts import Accounts, make_accounts
from support.fleets import TestFleet, fleet_on, nothing
from support.processes import Process, signal_all, wait_until
from support.sshd import KeyPair

from fleetshell_tools.core.errors import Unreachable
from fleetshell_tools.core.types import Act, Caller, Cancellation, Completed, Principal, ShellOutput
from fleetshell_tools.fleet.started import read

LOGINS = ("root", "bash", "dash", "ash", "sh", "zsh", "fish", "tcsh")
OTHERS = ("fish", "tcsh")
"""Not POSIX: their users' commands are run by sh."""

CALLER = Caller(Principal("testkey"), tool="execute_in_session")

FAMILY = """
trap '' HUP
sleep 1000 &
sh -c 'sleep 1000 & wait' &
(sleep 1000 &)
sh -c 'trap "" TERM; sleep 1000; sleep 1000' &
nohup sleep 1000 >/dev/null 2>&1 &
: > "$MARKS/$(id -un)"
echo begun
sleep 1000
"""
"""A command with children, grandchildren, jobs in the background, one of an ended parent and one that ignores TERM."""


@dataclass
class Host:
    """One machine with an account for each shell, each of them registered as a server named after its shell."""

    accounts: Accounts
    fleet: TestFleet
    marks: Path
    """A folder where everybody may write."""

    def here(self) -> list[str]:
        """The names of the shells that are installed, root's included."""
        return [name for name in LOGINS if name == "root" or name in self.accounts.names]

    def processes(self) -> list[Process]:
        """What logins have running."""
        return self.accounts.sshd.remote_processes()

    def clear(self) -> None:
        """Forget whose FAMILY has begun."""
        for mark in self.marks.iterdir():
            mark.unlink()

    def marked(self) -> bool:
        """Whether everybody's FAMILY has begun."""
        return len(list(self.marks.iterdir())) == len(self.here())

    def run_all(
        self, *, timeout: float = 60, cancelled: Cancellation | None = None
    ) -> dict[str, Completed | str | None]:
        """Run FAMILY under every login at once."""
        servers = [self.fleet.inventory.get(name) for name in self.here()]
        results = self.fleet.fleet.run_many(
            self.fleet.caller, servers, Act(FAMILY, environment={"MARKS": str(self.marks)}), timeout=timeout, max_parallel=64,
            stop_on_failure=False, cancelled=cancelled or Cancellation(), progress=nothing,
        )  # fmt: skip
        return {result.server_id: result.completed or result.error for result in results}


@pytest.fixture(scope="module")
def open_folder() -> Iterator[Path]:
    """A folder that other users may enter, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="fs", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def host(open_folder: Path, relay_key: KeyPair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    accounts = make_accounts(open_folder, relay_key)
    marks = open_folder / "marks"
    marks.mkdir()
    marks.chmod(0o777)
    try:
        with fleet_on(tmp_path_factory.mktemp("logins"), relay_key) as fleet:
            fleet.add("root", accounts.sshd)
            for name, user in accounts.names.items():
                fleet.add(name, accounts.sshd, ssh_user=user)
            made = Host(accounts, fleet, marks)
            for name in made.here():
                fleet.run(name, "true")  # connected before the tests' own time limits begin
            yield made
    finally:
        accounts.sshd.stop()


@pytest.fixture(params=LOGINS)
def login(request: pytest.FixtureRequest, host: Host) -> str:
    """The name of a server whose login user has that shell."""
    name = str(request.param)
    if name != "root":
        host.accounts.need(name)
    return name


# Commands


def test_it_is_the_account_and_its_own_shell_that_answer(host: Host, login: str) -> None:
    user = "root" if login == "root" else host.accounts.names[login]
    assert host.fleet.out(login, "id -un") == f"{user}\n"
    shell = host.fleet.fleet.connection_state(host.fleet.inventory.get(login)).shell
    assert shell == login or login == "root"


def test_streams_exit_code_and_stdin_arrive_as_they_are(host: Host, login: str) -> None:
    done = host.fleet.run(login, "cat; echo err >&2; exit 7", stdin=b"one\n\0\xff!")
    assert (done.exit_code, done.stdout.head, done.stderr.head) == (7, b"one\n\0\xff!", b"err\n")


@pytest.mark.parametrize("code", [0, 1, 127, 255])
def test_an_exit_code_is_the_commands_own(host: Host, login: str, code: int) -> None:
    assert host.fleet.run(login, f"(exit {code})").exit_code == code


def test_environment_working_directory_and_stdin_work_together(host: Host, login: str, open_folder: Path) -> None:
    folder = open_folder / f"a 'b' \"c\" $HOME !x é {login}"
    folder.mkdir()
    value = 'it\'s "q" $HOME `id` \\ !! \n second line é✓'
    done = host.fleet.run(
        login, 'printf "%s\\n" "$VALUE"; pwd; cat', environment={"VALUE": value}, working_directory=str(folder), stdin=b"in"
    )  # fmt: skip
    assert done.stdout.head.decode() == f"{value}\n{folder}\nin"


def test_a_working_directory_may_begin_with_the_login_users_home(host: Host, login: str) -> None:
    home = host.fleet.out(login, 'cd "$HOME" && pwd')
    assert host.fleet.out(login, "pwd", working_directory="~") == home


def test_a_long_command_of_every_awkward_character_arrives_whole(host: Host, login: str) -> None:
    odd = 'it\'s "q" !x !! !$ \\ \\\\ \\n $no ${no} `no` $(no) %s é✓\U0001f600 * ? [a] {a,b} ~ # & | ; < >\t\n'
    begin, end = "cat <<'END'\n", "\nEND\nexit 5"
    room = 4900 - len(begin) - len(end)
    body = (odd * room)[:room]
    command = f"{begin}{body}{end}"
    assert len(command) == 4900
    done = host.fleet.run(login, command)
    assert (done.exit_code, done.stdout.head.decode()) == (5, f"{body}\n")


def test_a_command_that_a_signal_ends_says_so(host: Host, login: str) -> None:
    done = host.fleet.run(login, "kill -9 $$")
    assert (done.exit_code, done.signal, done.stopped) == (None, "unknown", "")


# Ending


def test_a_time_limit_ends_all_that_a_command_has_started_under_every_shell(host: Host) -> None:
    results = host.run_all(timeout=4)
    assert {
        name: (done.timed_out, done.stopped, done.stdout.head) if isinstance(done, Completed) else done
        for name, done in results.items()
    } == dict.fromkeys(host.here(), (True, "confirmed", b"begun\n"))
    assert host.processes() == []


def test_a_cancellation_ends_all_that_a_command_has_started_under_every_shell(host: Host) -> None:
    host.clear()
    cancelled = Cancellation()

    def cancel_soon() -> None:
        wait_until(host.marked, 30, "every command has begun")
        cancelled.set()

    helper = threading.Thread(target=cancel_soon)
    helper.start()
    results = host.run_all(cancelled=cancelled)
    helper.join()
    assert {
        name: (done.cancelled, done.stopped) if isinstance(done, Completed) else done for name, done in results.items()
    } == dict.fromkeys(host.here(), (True, "confirmed"))
    assert host.processes() == []
    assert host.fleet.noted() == []


def test_a_process_that_took_a_session_of_its_own_has_left_the_command(host: Host, login: str) -> None:
    cancelled = Cancellation()
    mark = host.marks / f"session-{login}"

    def cancel_soon() -> None:
        wait_until(lambda: mark.exists() and mark.read_text().strip(), 30, "the process has its session")
        cancelled.set()

    helper = threading.Thread(target=cancel_soon)
    helper.start()
    try:
        done = host.fleet.run(
            login, f"setsid sh -c 'echo $$ > {mark}; sleep 1000; :' & sleep 1000", cancelled=cancelled
        )
        helper.join()
        assert (done.cancelled, done.stopped) == (True, "confirmed")
        assert int(mark.read_text()) in {process.pid for process in host.processes()}
    finally:
        helper.join()
        mark.unlink(missing_ok=True)
        signal_all(host.processes(), signal.SIGKILL)


KILLED = """\
import sys
from pathlib import Path
from support.fleets import fleet_on, nothing
from support.sshd import KeyPair
from fleetshell_tools.core.types import Act, Cancellation
folder, key, command = sys.argv[1:]
with fleet_on(Path(folder), KeyPair(Path(key), Path(key + ".pub"))) as fleet:
    fleet.fleet.run_many(
        fleet.caller, fleet.inventory.all(), Act(command), timeout=1000, max_parallel=64, stop_on_failure=False,
        cancelled=Cancellation(), progress=nothing,
    )
"""
"""A relay's engine in a process of its own, to be killed."""

GENTLE = ': > "{marks}/$(id -un)"; sleep 1000 & sh -c "sleep 1000 & wait" & (sleep 1000 &); sleep 1000; :'


def test_what_a_killed_relay_has_left_under_every_shell_is_ended_by_the_next(
    host: Host, relay_key: KeyPair, tmp_path: Path
) -> None:
    host.clear()
    with fleet_on(tmp_path, relay_key) as fleet:
        for name in host.here():
            fleet.add(name, host.accounts.sshd, ssh_user=host.accounts.names.get(name, "root"))
    command = GENTLE.format(marks=host.marks)
    path = os.pathsep.join(str(Path(__file__).parents[depth]) for depth in (1, 2))
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path), str(relay_key.private), command],
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        journal = tmp_path / "home" / "run" / "started.jsonl"
        wait_until(lambda: host.marked() and len(read(journal)) == len(host.here()), 60, "every command is noted")
    finally:
        child.kill()
        child.wait()
    assert {process.name for process in host.processes()} >= {"sleep"}
    with fleet_on(tmp_path, relay_key) as fleet:
        assert fleet.fleet.sweep() == len(host.here())
        said = list(fleet.fleet.end_what_was_left(Cancellation()))
        assert len(said) == len(host.here()) and all(sentence.endswith("was ended.") for sentence in said), said
        assert fleet.noted() == []
    assert host.processes() == []


# Root's children of an ordinary login


@pytest.fixture
def with_sudo(
    request: pytest.FixtureRequest, relay_key: KeyPair, tmp_path: Path, short_tmp: Path
) -> Iterator[tuple[TestFleet, Accounts]]:
    """Accounts on a host; the parameter is another program for its `sh`, where there is one."""
    short_tmp.chmod(0o755)
    accounts = make_accounts(short_tmp, relay_key, sh=shutil.which(getattr(request, "param", "")) or "")
    try:
        accounts.need_sudo()
        accounts.need("dash")
        with fleet_on(tmp_path, relay_key) as fleet:
            for name in ("bash", "dash"):
                fleet.add(name, accounts.sshd, ssh_user=accounts.names[name])
                fleet.run(name, "true")
            yield fleet, accounts
    finally:
        accounts.sshd.stop()


# bash's `kill` of several succeeds where one of them could be ended, another shell's where all could.
@pytest.mark.parametrize("with_sudo", ["dash", "bash"], indirect=True)
def test_roots_children_of_an_ordinary_login_are_ended_by_sudo(
    with_sudo: tuple[TestFleet, Accounts],
) -> None:
    fleet, accounts = with_sudo
    beside = "set -m; (trap '' TERM; sleep 1000; sleep 1000) &"
    try:
        done = fleet.run("bash", f"{beside} sudo -n {accounts.folder}/stubborn & sleep 1000", timeout=2)
        assert done.stdout.head == b"begun\n"
        assert done.timed_out and done.stopped == "confirmed"
        assert accounts.stubborn() == [] == accounts.sshd.remote_processes()
    finally:
        signal_all(accounts.stubborn(), signal.SIGKILL)


def test_roots_children_that_the_login_may_not_end_are_named(with_sudo: tuple[TestFleet, Accounts]) -> None:
    fleet, accounts = with_sudo
    try:
        done = fleet.run("dash", f"sudo -n {accounts.folder}/stubborn", timeout=2)
        left = {process.pid for process in accounts.stubborn()}
        assert done.timed_out and done.stopped == "unconfirmed" and done.stdout.head == b"begun\n"
        assert left and {int(pid) for pid in re.findall("[0-9]+", done.why)} == left
        assert [note.server_id for note in fleet.noted()] == ["dash"]
    finally:
        signal_all(accounts.stubborn(), signal.SIGKILL)


# Sessions


def text(done: ShellOutput) -> str:
    return (done.output.head + done.output.tail).decode()


@dataclass
class Shell:
    """A shell session."""

    fleet: TestFleet
    id: str

    def run(self, command: str, timeout: float = 20) -> ShellOutput:
        return self.fleet.fleet.shells.execute(
            CALLER, self.id, command, timeout=timeout, cancelled=Cancellation(), progress=nothing
        )

    def out(self, command: str) -> str:
        done = self.run(command)
        assert (done.exit_code, done.running, done.ended) == (0, False, False), done
        return text(done)

    def interrupt(self) -> ShellOutput:
        return self.fleet.fleet.shells.interrupt(
            CALLER, self.id, timeout=10, cancelled=Cancellation(), progress=nothing
        )


@pytest.fixture
def session(host: Host, login: str) -> Iterator[Shell]:
    """A session under each login."""
    shells = host.fleet.fleet.shells
    info = shells.create(CALLER, host.fleet.inventory.get(login), timeout=20, cancelled=Cancellation())
    assert info.shell == ("sh" if login in OTHERS else login) or login == "root"
    yield Shell(host.fleet, info.session_id)
    for left in shells.active(CALLER):
        shells.close(CALLER, left.session_id)


def test_a_session_is_the_accounts_and_keeps_its_state(session: Shell, host: Host, login: str) -> None:
    user = "root" if login == "root" else host.accounts.names[login]
    assert session.out("id -un") == f"{user}\n"
    assert session.out('cd /usr/bin && X=5; f() { echo "in f: $1 $X"; }') == ""
    assert session.out("pwd; f a") == "/usr/bin\nin f: a 5\n"
    done = session.run("(exit 7)")
    assert (done.exit_code, done.cwd) == (7, "/usr/bin")


def test_a_long_command_of_awkward_characters_arrives_whole_in_a_session(session: Shell) -> None:
    body = ('it\'s "q" !x !! \\ \\n $no `no` é✓\U0001f600 * # & ;\n' * 100)[:4850].rstrip()
    assert session.out(f"cat <<'END'\n{body}\nEND") == f"{body}\n"
    assert session.out("echo next") == "next\n"


def test_a_session_can_be_interrupted_and_used_again_and_ended(session: Shell) -> None:
    assert session.run("sleep 1000", timeout=0.2).running
    assert session.interrupt().exit_code == 130
    assert session.out("echo next") == "next\n"
    done = session.run("exit 3")
    assert (done.exit_code, done.ended) == (3, True)


def test_closing_a_session_ends_what_it_has_running(session: Shell, host: Host) -> None:
    session.out("sleep 1000 & (sleep 1000 &)")
    assert session.run("sleep 1000", timeout=0.2).running
    host.fleet.fleet.shells.close(CALLER, session.id)
    assert host.processes() == []


# No shell at all


@pytest.mark.parametrize("shell", ["nologin", "false"])
def test_a_login_without_a_shell_is_refused_with_a_sentence_about_it(host: Host, shell: str) -> None:
    host.accounts.need(shell)
    with pytest.raises(Unreachable, match=f"^{shell} can't be used: FleetShell needs a login shell") as caught:
        host.fleet.run(shell, "true")
    assert caught.value.step == "shell" and "(`chsh`)" in caught.value.message
    with pytest.raises(Unreachable, match="needs a login shell"):
        host.fleet.fleet.shells.create(CALLER, host.fleet.inventory.get(shell), timeout=20, cancelled=Cancellation())
    assert host.fleet.noted() == [] or all(note.server_id != shell for note in host.fleet.noted())
