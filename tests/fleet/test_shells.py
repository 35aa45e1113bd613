"""Shell sessions on a real sshd: state that stays, framing that nothing breaks, waiting, ending, limits, and the audit of all."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from support.fleets import TestFleet, fleet_on, nothing
from support.processes import wait_until
from support.sshd import KeyPair, Sshd

from fleetshell_tools.core.config import Config, Sessions, Ssh
from fleetshell_tools.core.errors import BadArgument, Blocked, Cancelled, NotFound, Refused, Unreachable
from fleetshell_tools.core.types import Caller, Cancellation, Principal, ShellInfo, ShellOutput

CALLER = Caller(Principal("testkey"), tool="execute_in_session")


@dataclass
class Shell:
    """A session with helpers."""

    bed: TestFleet
    info: ShellInfo

    @property
    def id(self) -> str:
        return self.info.session_id

    def run(self, command: str, timeout: float = 20, cancelled: Cancellation | None = None) -> ShellOutput:
        return self.bed.fleet.shells.execute(
            CALLER, self.id, command, timeout=timeout, cancelled=cancelled or Cancellation(), progress=nothing
        )

    def out(self, command: str) -> str:
        """The output of a command that succeeds."""
        done = self.run(command)
        assert (done.exit_code, done.running, done.ended) == (0, False, False), done
        return text(done)

    def answer(self, words: str, timeout: float = 20) -> ShellOutput:
        return self.bed.fleet.shells.answer(
            CALLER, self.id, words, timeout=timeout, cancelled=Cancellation(), progress=nothing
        )

    def interrupt(self, timeout: float = 10) -> ShellOutput:
        return self.bed.fleet.shells.interrupt(
            CALLER, self.id, timeout=timeout, cancelled=Cancellation(), progress=nothing
        )

    def close(self) -> None:
        self.bed.fleet.shells.close(CALLER, self.id)


def text(done: ShellOutput) -> str:
    return (done.output.head + done.output.tail).decode()


def create(bed: TestFleet, server_id: str = "web", caller: Caller = CALLER, **more: str | None) -> Shell:
    """A new session; skips the test where sshd can't give terminals (an ordinary user in some containers)."""
    try:
        info = bed.fleet.shells.create(
            caller,
            bed.inventory.get(server_id),
            timeout=20,
            cancelled=Cancellation(),
            folder=more.get("folder"),
            shell=more.get("shell"),
        )
    except Unreachable as error:
        if error.step == "terminal":
            pytest.skip(f"sshd gives this user no terminals: {error.message}")
        raise
    return Shell(bed, info)


@pytest.fixture
def bed(tmp_path: Path, relay_key: KeyPair, sshd: Sshd) -> Iterator[TestFleet]:
    with fleet_on(tmp_path, relay_key) as made:
        made.add("web", sshd)
        yield made


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory, relay_key: KeyPair, sshd: Sshd) -> Iterator[TestFleet]:
    """A fleet that is connected already, because there are many tests of one session each."""
    with fleet_on(tmp_path_factory.mktemp("warm"), relay_key) as made:
        made.add("web", sshd)
        made.run("web", "true")
        yield made


@pytest.fixture(params=["login", "dash", "ash", "zsh"])
def any_shell(request: pytest.FixtureRequest, warm: TestFleet, tmp_path: Path) -> Iterator[Shell]:
    """A session under each of the shells that this machine has."""
    found: str | None = None
    if request.param != "login":
        found = shutil.which("busybox" if request.param == "ash" else request.param)
        if not found:
            pytest.skip(f"{request.param} is not installed on this machine")
    if found and request.param == "ash":
        (tmp_path / "ash").symlink_to(found)
        found = str(tmp_path / "ash")
    made = create(warm, shell=found)
    yield made
    if warm.fleet.shells.active(CALLER):
        made.close()


@pytest.fixture
def shell(bed: TestFleet) -> Shell:
    return create(bed)


# State


def test_folder_variables_functions_and_the_last_status_stay(any_shell: Shell) -> None:
    assert any_shell.out("cd /usr/bin && X=5") == ""
    any_shell.out('f() { echo "in f: $1 $X"; }')
    assert any_shell.out("pwd; f a") == "/usr/bin\nin f: a 5\n"
    done = any_shell.run("(exit 7)")
    assert (done.exit_code, done.cwd) == (7, "/usr/bin")
    assert any_shell.out("echo $?") == "7\n"


def test_a_session_begins_in_the_folder_that_was_asked_for(bed: TestFleet, tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s a "folder"'
    folder.mkdir()
    made = create(bed, folder=str(folder))
    assert made.info.cwd == str(folder) and made.out("pwd") == f"{folder}\n"


def test_a_folder_that_is_not_there_is_a_bad_argument_and_no_session_is_left(bed: TestFleet) -> None:
    with pytest.raises(BadArgument, match="can't be entered on web: .*No such file"):
        create(bed, folder="/no/such/folder")
    assert bed.fleet.shells.active(CALLER) == []
    assert bed.records()[-1]["event"] == "failed"


def test_a_folders_name_may_hold_anything(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "a\nb;'\x1e\x1f").mkdir()
    shell.out(f"cd '{tmp_path}' && cd a*")
    assert shell.run(":").cwd == str(tmp_path / "a\nb;'\x1e\x1f")


def test_the_shell_has_a_terminal_of_the_size_that_was_asked_for(bed: TestFleet) -> None:
    info = bed.fleet.shells.create(
        CALLER, bed.inventory.get("web"), rows=33, cols=101, timeout=20, cancelled=Cancellation()
    )
    assert Shell(bed, info).out("stty size; echo $TERM") == "33 101\ndumb\n"


# Framing: what has broken other products' sessions


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("echo a # a comment", "a\n"),
        ("echo 'it'\"'\"'s' \"$((1 + 1))\" \\\\ %s", "it's 2 \\ %s\n"),
        ("cat <<E\nhere\nE", "here\n"),
        ("cat <<'E'\n$HOME `id`\nE\n", "$HOME `id`\n"),
        ("g() {\n  echo one\n\techo two\n}\ng", "one\ntwo\n"),
        ("for i in 1 2; do\necho $i\ndone", "1\n2\n"),
        ("printf 'no newline'", "no newline"),
        ("echo é ✓ \U0001f600", "é ✓ \U0001f600\n"),
        ("echo a;", "a\n"),
        ("printf '\\036%s\\037' x; echo", "\x1ex\x1f\n"),
        ("echo '!!' '!1'", "!! !1\n"),
        ("printf '10%%\\r20%%\\r30%%\\n'", "30%\n"),
        ("cat </dev/null", ""),
        ("X='a  b'; echo \"$X\"", "a  b\n"),
        ("set -u; echo ok; set +u", "ok\n"),
        ("trap 'echo trapped' USR1; echo set", "set\n"),
        ("exec 3>&1; echo three >&3", "three\n"),
        ("alias p=echo; echo made", "made\n"),
        ("IFS=0; unset IFS; echo ifs", "ifs\n"),
    ],
)  # fmt: skip
def test_a_command_is_framed_whatever_it_holds(any_shell: Shell, command: str, output: str) -> None:
    assert any_shell.out(command) == output
    assert any_shell.out("echo next") == "next\n"


@pytest.mark.parametrize("command", ["echo 'open", 'echo "open', "echo $(", "if", "{", "case x in", ")", "fi"])
def test_a_syntax_error_ends_with_the_command(any_shell: Shell, command: str) -> None:
    done = any_shell.run(command)
    assert done.exit_code and not done.running and not done.ended and text(done)
    assert any_shell.out("echo next") == "next\n"


@pytest.mark.parametrize("command", [": ${nope?is not set}", "set -u; echo $nope", "unset nope; : ${nope:?}"])
def test_an_error_that_drops_the_rest_of_the_line_is_not_taken_for_a_running_command(
    any_shell: Shell, command: str
) -> None:
    done = any_shell.run(command)
    assert done.exit_code and not done.running and "nope" in text(done)
    assert any_shell.out("set +u; echo next") == "next\n"


@pytest.mark.parametrize("length", [3500, 4096, 4999])
def test_a_long_command_arrives_whole(any_shell: Shell, length: int) -> None:
    word = "x" * (length - len("echo "))
    assert any_shell.out(f"echo {word}") == f"{word}\n"


def test_a_long_command_of_many_lines_and_odd_characters_arrives_whole(any_shell: Shell) -> None:
    lines = [f"echo 'line {number}: %d \\n \t é'" for number in range(175)]
    assert len("\n".join(lines)) > 4096
    done = any_shell.run("\n".join(lines))
    assert done.exit_code == 0 and text(done).count("\n") >= 175 and "line 174" in text(done)


def test_ten_megabytes_of_output_keep_head_and_tail_and_are_counted(shell: Shell) -> None:
    done = shell.run("echo first; head -c 10000000 /dev/zero | tr '\\0' x; echo; echo last")
    assert done.output.total == 10_000_000 + len("first\n\nlast\n")
    assert done.output.head.startswith(b"first\n") and done.output.tail.endswith(b"\nlast\n")
    assert not done.output.complete
    assert shell.out("echo next") == "next\n"


def test_nul_and_invalid_utf8_come_through(any_shell: Shell) -> None:
    done = any_shell.run("printf 'a\\000b\\377c\\n'")
    assert done.output.head == b"a\0b\xffc\n"


def test_random_bytes_do_not_break_the_framing(shell: Shell) -> None:
    done = shell.run("head -c 300000 /dev/urandom")
    assert done.exit_code == 0 and not done.running
    assert shell.out("echo next") == "next\n"


def test_a_background_job_that_prints_later_reaches_the_next_command(any_shell: Shell, tmp_path: Path) -> None:
    assert (
        any_shell.run(
            f"(while ! [ -e '{tmp_path}/go' ]; do sleep 0.05; done; echo late; : > '{tmp_path}/printed') &"
        ).exit_code
        == 0
    )
    (tmp_path / "go").touch()
    wait_until((tmp_path / "printed").exists, 10, "the job has printed")
    assert "late\n" in text(any_shell.run("echo first")) or "late\n" in text(any_shell.run("echo second"))


def test_a_command_that_ends_in_an_ampersand_ends_at_once(any_shell: Shell) -> None:
    done = any_shell.run("sleep 1000 &")
    assert (done.exit_code, done.running) == (0, False)
    assert any_shell.run("kill $!; echo next").exit_code == 0


@pytest.mark.parametrize(
    "command", ["PS1='evil> '", "PS1='$ '; PS2='> '", "export PS1='x '", "PROMPT_COMMAND='echo prompt'"]
)
def test_a_changed_prompt_shows_nowhere(any_shell: Shell, command: str) -> None:
    any_shell.run(command)
    any_shell.run(":")
    assert any_shell.out("echo next") == "next\n"


@pytest.mark.parametrize(
    "command", ["stty echo", "stty sane", "stty raw", "stty -icanon -isig", "stty -icrnl onlcr opost", "stty intr ^P"]
)
def test_a_changed_terminal_is_made_sane_again(any_shell: Shell, command: str) -> None:
    assert any_shell.out(command) == ""
    assert any_shell.out("echo next") == "next\n"
    assert any_shell.run("sleep 1000", timeout=0.2).running
    assert any_shell.interrupt().exit_code == 130
    assert any_shell.out("echo " + "y" * 4500) == "y" * 4500 + "\n"


def test_a_command_that_leaves_the_echo_on_behind_our_back_does_not_show_our_lines(
    any_shell: Shell, tmp_path: Path
) -> None:
    script = tmp_path / "hidden"
    script.write_text("#!/bin/sh\nstty echo </dev/tty\n")
    script.chmod(0o755)
    any_shell.out(str(script))
    any_shell.run(":")
    assert any_shell.out("echo next") == "next\n"


def test_set_e_ends_the_session_with_the_status_of_what_failed_and_not_before(any_shell: Shell) -> None:
    assert any_shell.out("set -e; echo on") == "on\n"
    assert any_shell.out("true; echo still") == "still\n"
    done = any_shell.run("false; echo never")
    assert (done.exit_code, done.ended) == (1, True) and "never" not in text(done)
    with pytest.raises(NotFound):
        any_shell.run("echo x")


def test_tracing_shows_the_command_but_not_our_own_lines(any_shell: Shell) -> None:
    any_shell.run("set -x")
    said = text(any_shell.run("echo traced"))
    assert said.endswith("traced\n") and "+ echo traced" in said.replace("> echo", "+ echo")
    assert "__fs" not in said and "printf" not in said and not re.search("[0-9a-f]{24}", said)
    any_shell.run("set +x")
    assert any_shell.out("echo quiet") == "quiet\n"


def test_redirected_output_of_the_shell_itself_does_not_hide_the_end(any_shell: Shell, tmp_path: Path) -> None:
    any_shell.out(f"exec >'{tmp_path}/out' 2>&1")
    assert any_shell.out("echo hidden") == ""
    assert any_shell.out("exec >/dev/tty 2>&1; echo back") == "back\n"
    assert "hidden" in (tmp_path / "out").read_text()


def test_a_trap_on_interrupt_and_exit_leaves_the_framing_alone(any_shell: Shell) -> None:
    any_shell.out("trap 'echo bye' EXIT; trap '' TERM HUP")
    assert any_shell.out("echo next") == "next\n"
    done = any_shell.run("exit 3")
    assert (text(done).removeprefix("exit\n"), done.exit_code, done.ended) == ("bye\n", 3, True)


@pytest.mark.parametrize("program", ["sh", "bash", "dash"])
def test_a_shell_put_in_place_of_ours_is_made_ours(any_shell: Shell, program: str) -> None:
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed on this machine")
    any_shell.out("cd /usr; export KEPT=yes")
    done = any_shell.run(f"exec {program}")
    assert (done.exit_code, done.running, done.cwd) == (0, False, "/usr")
    any_shell.out("Y=1")
    assert any_shell.out("echo $KEPT $Y") == "yes 1\n"
    done = any_shell.run("exit 4")
    assert (done.exit_code, done.ended) == (4, True)


def test_nothing_is_written_to_a_history_file(any_shell: Shell, sshd: Sshd) -> None:
    any_shell.out("echo not-for-the-history")
    any_shell.run("exit 0")
    left = [
        path
        for path in (sshd.folder / "home").iterdir()
        if path.is_file() and "not-for-the-history" in path.read_text()
    ]
    assert left == []


# Waiting, answering, interrupting


def test_a_command_at_its_time_limit_runs_on_with_its_output_so_far(any_shell: Shell, tmp_path: Path) -> None:
    done = any_shell.run(f"echo begun; while ! [ -e '{tmp_path}/go' ]; do sleep 0.05; done; echo over", timeout=0.5)
    assert (done.running, done.exit_code, text(done)) == (True, None, "begun\n")
    with pytest.raises(BadArgument, match="still runs"):
        any_shell.run("echo x")
    (tmp_path / "go").touch()
    done = any_shell.answer("")
    assert (done.running, done.exit_code, text(done)) == (False, 0, "over\n")


def test_what_ended_while_nobody_waited_is_told_by_the_next_call(shell: Shell, tmp_path: Path) -> None:
    assert shell.run(f"sleep 0.3; echo over; : > '{tmp_path}/over'; (exit 9)", timeout=0.05).running
    wait_until((tmp_path / "over").exists, 10, "the command is over")
    wait_until(lambda: not shell.bed.fleet.shells.active(CALLER)[0].running, 10, "its end was seen")
    done = shell.answer("typed too late")
    assert (done.exit_code, text(done)) == (9, "over\n") and "had ended before" in done.notice
    assert shell.out("echo next") == "next\n"


def test_read_and_a_bare_cat_wait_for_input_and_get_it(any_shell: Shell) -> None:
    assert any_shell.run('read x; echo "got $x"', timeout=0.3).running
    assert text(any_shell.answer("a 'b' $c")) == "got a 'b' $c\n"
    assert any_shell.run("cat", timeout=0.3).running
    assert text(any_shell.answer("line", timeout=0.3)) == "line\n"
    done = any_shell.answer("\x04")
    assert (done.exit_code, done.running) == (0, False)
    assert any_shell.out("echo next") == "next\n"


def test_a_password_is_neither_echoed_nor_written_to_the_audit_log(shell: Shell) -> None:
    assert shell.run("stty -echo; read p; echo ${#p}", timeout=0.3).running
    assert text(shell.answer("pa55word-secret")) == "15\n"
    log = (shell.bed.home.logs / "audit.log").read_text()
    assert "pa55word" not in log
    sent = [record for record in shell.bed.records() if record["event"] == "session_input"]
    assert [record["bytes"] for record in sent] == [len("pa55word-secret\n")] and sent[0]["command"] is None


def test_input_is_refused_where_nothing_reads_it(shell: Shell) -> None:
    with pytest.raises(BadArgument, match="Nothing is running"):
        shell.answer("echo x")
    with pytest.raises(BadArgument, match="Nothing is running"):
        shell.interrupt()


@pytest.mark.parametrize(
    "command",
    [
        "sleep 1000",
        "while :; do sleep 0.1; done",
        "while :; do :; done",
        "read x",
        "cat",
        "(sleep 1000)",
        "sleep 1000 | cat",
    ],
)
def test_ctrl_c_ends_what_runs_and_the_session_stays_usable(any_shell: Shell, command: str) -> None:
    any_shell.out("KEPT=1")
    assert any_shell.run(command, timeout=0.3).running
    done = any_shell.interrupt()
    assert not done.running and not done.ended and done.exit_code
    assert any_shell.out("echo $KEPT") == "1\n"


def test_a_command_that_ignores_ctrl_c_stays_and_is_said_to(shell: Shell) -> None:
    assert shell.run("sh -c 'trap \"\" INT; echo deaf; while :; do sleep 0.1; done'", timeout=0.5).running
    done = shell.interrupt(timeout=0.3)
    assert done.running and "did not end on Ctrl-C" in done.notice
    shell.close()


def test_a_cancelled_call_interrupts_its_command(shell: Shell, tmp_path: Path) -> None:
    cancelled = Cancellation()

    def cancel() -> None:
        wait_until((tmp_path / "begun").exists, 20, "the command has begun")
        cancelled.set()

    timer = threading.Thread(target=cancel)
    timer.start()
    with pytest.raises(Cancelled, match="got Ctrl-C and ended"):
        shell.run(f"touch '{tmp_path}/begun'; sleep 1000", cancelled=cancelled)
    timer.join()
    assert shell.out("echo next") == "next\n"
    assert [record["event"] for record in shell.bed.records()].count("cancelled") == 1


def test_another_call_can_interrupt_what_a_call_waits_for(shell: Shell, tmp_path: Path) -> None:
    results: list[ShellOutput] = []
    waiting = threading.Thread(target=lambda: results.append(shell.run(f"touch '{tmp_path}/begun'; sleep 1000")))
    waiting.start()
    wait_until((tmp_path / "begun").exists, 20, "the command has begun")
    assert "Another call is waiting" in shell.interrupt().notice
    waiting.join()
    assert results[0].exit_code == 130


def test_two_calls_at_once_take_turns_and_two_sessions_do_not_wait_for_each_other(
    bed: TestFleet, tmp_path: Path
) -> None:
    one, other = create(bed), create(bed)
    outputs: list[str] = []
    calls = [
        threading.Thread(target=lambda word=word: outputs.append(one.out(f"echo {word}; echo {word}")))
        for word in "abcd"
    ]
    held = threading.Thread(
        target=lambda: outputs.append(other.out(f"while ! [ -e '{tmp_path}/go' ]; do sleep 0.05; done"))
    )
    held.start()
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    (tmp_path / "go").touch()
    held.join()
    assert sorted(outputs) == ["", "a\na\n", "b\nb\n", "c\nc\n", "d\nd\n"]


# Ending


def test_exit_ends_the_session_with_its_code(any_shell: Shell) -> None:
    done = any_shell.run("echo last; exit 3")
    assert (text(done), done.exit_code, done.ended, done.running) == ("last\n", 3, True, False)
    with pytest.raises(NotFound):
        any_shell.run("echo x")
    assert any_shell.bed.records()[-1]["event"] == "session_closed"


def test_a_shell_that_is_killed_ends_the_session_without_a_code(shell: Shell) -> None:
    done = shell.run("kill -KILL $$")
    assert (done.exit_code, done.ended) == (None, True) and "by a signal" in done.notice


def test_closing_ends_all_that_runs_in_the_session(any_shell: Shell, sshd: Sshd) -> None:
    any_shell.run("sleep 1000 & nohup sleep 1000 >/dev/null 2>&1 & true")
    assert any_shell.run("sleep 1000", timeout=0.3).running
    any_shell.close()
    assert [process for process in sshd.remote_processes() if process.name == "sleep"] == []
    record = any_shell.bed.records()[-1]
    assert (record["event"], record["stopped"], record["running"]) == ("session_closed", "confirmed", "sleep 1000")
    assert any_shell.bed.noted() == []


def test_closing_a_session_ends_the_call_that_waits_in_it(shell: Shell, tmp_path: Path) -> None:
    errors: list[Exception] = []

    def wait() -> None:
        try:
            shell.run(f"touch '{tmp_path}/begun'; sleep 1000")
        except Exception as error:
            errors.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    wait_until((tmp_path / "begun").exists, 20, "the command has begun")
    shell.close()
    waiting.join()
    assert isinstance(errors[0], Cancelled) and "was closed" in errors[0].message


def test_the_end_of_the_fleet_ends_its_sessions_and_what_runs_in_them(
    tmp_path: Path, relay_key: KeyPair, sshd: Sshd
) -> None:
    with fleet_on(tmp_path, relay_key) as bed:
        bed.add("web", sshd)
        assert create(bed).run("sleep 1000", timeout=0.2).running
        create(bed)
        # The leak check finds what is left.
    assert [process for process in sshd.remote_processes() if process.name == "sleep"] == []


def test_a_connection_cut_in_the_middle_is_told_from_an_end(
    bed: TestFleet, sshd_factory: Callable[..., Sshd], tmp_path: Path
) -> None:
    server = sshd_factory()
    bed.add("cut", server)
    made = create(bed, "cut")

    def cut() -> None:
        wait_until((tmp_path / "begun").exists, 20, "the command has begun")
        server.kill()

    cutter = threading.Thread(target=cut)
    cutter.start()
    with pytest.raises(Unreachable, match="connection to cut was lost") as caught:
        made.run(f"echo seen; touch '{tmp_path}/begun'; sleep 1000")
    cutter.join()
    assert caught.value.seen == "seen"
    with pytest.raises(NotFound):
        made.run("echo x")
    server.start()
    assert create(bed, "cut").out("echo again") == "again\n"


def test_a_session_that_ended_between_calls_is_no_longer_listed(
    bed: TestFleet, sshd_factory: Callable[..., Sshd]
) -> None:
    server = sshd_factory()
    bed.add("cut", server)
    create(bed, "cut")
    assert len(bed.fleet.shells.active(CALLER)) == 1
    server.kill()
    wait_until(lambda: bed.fleet.shells.active(CALLER) == [], 10, "the session is gone")


def test_a_relay_that_was_killed_finds_the_shells_that_it_left(shell: Shell) -> None:
    (noted,) = shell.bed.noted()
    assert noted.group == int(shell.out("echo $$")) and shell.id in noted.command


# Whose they are, how many, and for how long


def test_sessions_belong_to_the_principal_that_made_them(shell: Shell) -> None:
    stranger = replace(CALLER, principal=Principal("another"))
    shells = shell.bed.fleet.shells
    sentences = set()
    for session_id in (shell.id, "sess_000000000000"):
        for call in (
            lambda session_id=session_id: shells.close(stranger, session_id),
            lambda session_id=session_id: shells.execute(
                stranger, session_id, "id", timeout=5, cancelled=Cancellation(), progress=nothing
            ),
            lambda session_id=session_id: shells.interrupt(
                stranger, session_id, timeout=5, cancelled=Cancellation(), progress=nothing
            ),
            lambda session_id=session_id: shells.answer(
                stranger, session_id, "x", timeout=5, cancelled=Cancellation(), progress=nothing
            ),
        ):
            with pytest.raises(NotFound) as caught:
                call()
            sentences.add(caught.value.message.replace(session_id, "ID"))
    assert len(sentences) == 1
    assert shells.active(stranger) == [] and len(shells.active(CALLER)) == 1


def test_a_session_idle_for_thirty_minutes_is_ended(bed: TestFleet, sshd: Sshd) -> None:
    now = [0.0]
    bed.fleet.shells._table.now = lambda: now[0]
    idle, used = create(bed), create(bed)
    idle.run("sleep 1000", timeout=0.1)
    now[0] = 1799
    used.out(":")
    assert bed.fleet.shells.expire() == 0
    assert [info.expires_in for info in bed.fleet.shells.active(CALLER)] == [1, 1800]
    now[0] = 1800
    with pytest.raises(NotFound):
        idle.answer("")
    assert bed.fleet.shells.expire() == 1
    assert [info.session_id for info in bed.fleet.shells.active(CALLER)] == [used.id]
    assert [process for process in sshd.remote_processes() if process.name == "sleep"] == []
    assert (bed.records()[-1]["event"], bed.records()[-1]["reason"]) == ("session_closed", "idle")


def test_there_are_at_most_so_many_sessions_on_a_server_and_in_all(
    tmp_path: Path, relay_key: KeyPair, sshd: Sshd
) -> None:
    with fleet_on(tmp_path, relay_key, Config(sessions=Sessions(per_server=2, total=3))) as bed:
        bed.add("web", sshd)
        bed.add("db", sshd)
        first = create(bed)
        create(bed)
        with pytest.raises(Refused, match="already 2 shell sessions on web"):
            create(bed)
        create(bed, "db")
        with pytest.raises(Refused, match="already 3 shell sessions on this relay"):
            create(bed, "db")
        first.close()
        create(bed, "db")


def test_sessions_leave_room_for_other_commands_on_the_connection(
    tmp_path: Path, relay_key: KeyPair, sshd: Sshd
) -> None:
    with fleet_on(tmp_path, relay_key, Config(ssh=Ssh(sessions_per_server=4))) as bed:
        bed.add("web", sshd)
        create(bed)
        create(bed)
        with pytest.raises(Refused):
            create(bed)
        assert bed.out("web", "echo room") == "room\n"


def test_a_host_that_opens_no_more_sessions_says_so_and_keeps_what_it_has(
    bed: TestFleet, sshd_factory: Callable[..., Sshd]
) -> None:
    bed.add("small", sshd_factory(max_sessions=1))
    first = create(bed, "small")
    with pytest.raises((Unreachable, Refused), match="MaxSessions|already"):
        create(bed, "small")
    assert first.out("echo fine") == "fine\n"


# The guard and the audit log


def test_the_guard_judges_each_command_in_the_sessions_folder_and_with_what_it_has_defined(shell: Shell) -> None:
    shell.out("cd /")
    for before, command in (
        ("true", "rm -rf *"),
        ("true", "rm -rf /"),
        ("TARGET=/", "rm -rf $TARGET"),
        ('wipe() { rm -rf "$1"; }', "wipe /"),
    ):
        shell.out(before)
        with pytest.raises(Blocked):
            shell.run(command)
    assert shell.out("cd /usr; echo safe") == "safe\n"
    blocked = [record for record in shell.bed.records() if record["event"] == "blocked"]
    assert [record["command"] for record in blocked] == ["rm -rf *", "rm -rf /", "rm -rf $TARGET", "wipe /"]


def test_the_guard_judges_input_too_and_the_log_does_not_quote_it(shell: Shell) -> None:
    assert shell.run("sh", timeout=0.3).running
    with pytest.raises(Blocked):
        shell.answer("rm -rf /")
    record = shell.bed.records()[-1]
    assert (record["event"], record["command"], record["bytes"]) == ("blocked", None, len("rm -rf /\n"))
    assert shell.answer("exit").exit_code == 0


def test_every_command_has_an_intent_and_an_outcome_in_the_audit_log(shell: Shell) -> None:
    shell.run("(exit 4)")
    shell.run("read x", timeout=0.2)
    shell.interrupt()
    shell.close()
    records = [record for record in shell.bed.records() if record.get("shell_session")]
    events = [(record["event"], record["command"], record["exit_code"]) for record in records]
    assert events == [
        ("session_opened", None, None), ("session_command", "(exit 4)", None), ("finished", "(exit 4)", 4), ("session_command", "read x", None),
        ("still_running", "read x", None), ("session_interrupt", None, None), ("finished", "read x", records[6]["exit_code"]),
        ("session_closed", None, None),
    ]  # fmt: skip
    assert records[2]["intent"] == records[1]["seq"] and records[6]["intent"] == records[3]["seq"]


def test_the_intent_is_on_disk_before_the_command_runs(shell: Shell) -> None:
    log = shell.bed.home.logs / "audit.log"
    assert shell.out(f"grep -c 'grep -c' '{log}'") == "1\n"
