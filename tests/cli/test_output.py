"""What commands print: as wide as the terminal, in colour on a terminal alone, errors on stderr."""

from __future__ import annotations

import socket
import subprocess

import pytest
from support.homes import CliHome, home
from support.relay import PROGRAM
from support.sshd import Sshd
from support.terminal import Terminal

from fleetshell_tools.core.text import width

__all__ = ["home"]
LONG = "id: mail-prod-01\nhostname: a-very-long-name-of-a-host.in.a.deep.domain.example.com\ntags: [production, mail, postfix, dovecot, ispconfig]\n"


def shown(home: CliHome, *arguments: str, **environment: str) -> str:
    """What a terminal shows of a command; no colour unless the environment asks for it."""
    with Terminal([*PROGRAM, "--home", str(home.path), *arguments], environment) as terminal:
        terminal.end()
        return terminal.seen


@pytest.mark.parametrize("columns", [50, 60, 79, 80, 200])
def test_a_table_is_never_wider_than_the_terminal(home: CliHome, columns: int) -> None:
    home.write("mail-prod-01", LONG)
    lines = shown(home, "list", COLUMNS=str(columns)).splitlines()
    assert max(map(width, lines)) <= columns
    assert ("ispconfig" in lines[2]) == (columns == 200)
    assert ("…" in lines[2]) == (columns < 200)


def test_without_a_terminal_nothing_of_a_table_is_cut(home: CliHome) -> None:
    home.write("mail-prod-01", LONG)
    run = subprocess.run([*PROGRAM, "--home", str(home.path), "list"], capture_output=True, text=True, check=True)
    assert "ispconfig" in run.stdout and "…" not in run.stdout


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb", "NO_COLOR": ""}, False),
    ],
    ids=["a terminal", "NO_COLOR", "a terminal without colours"],
)
def test_colour_is_for_terminals_that_want_it(
    home: CliHome, sshd: Sshd, environment: dict[str, str], coloured: bool
) -> None:
    home.add("web-1", sshd)
    seen = shown(home, "test", "web-1", **environment)
    assert "✓" in seen
    assert ("\x1b[" in seen) == coloured


def test_a_pipe_gets_no_colour(home: CliHome, sshd: Sshd) -> None:
    home.add("web-1", sshd)
    run = subprocess.run(
        [*PROGRAM, "--home", str(home.path), "test", "web-1"], capture_output=True, text=True, check=True
    )
    assert "✓" in run.stdout and "\x1b" not in run.stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["nonsense"], 2),
        (["test"], 2),
        (["list", "--nonsense"], 2),
        (["test", "none"], 4),
        (["guard", "check", "rm -rf /"], 5),
        (["key"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_error_has_its_exit_code_and_stands_on_stderr(home: CliHome, arguments: list[str], code: int) -> None:
    run = subprocess.run([*PROGRAM, "--home", str(home.path), *arguments], capture_output=True, text=True)
    assert run.returncode == code
    assert run.stderr or arguments[0] == "guard"
    assert not run.stdout or arguments[0] == "guard"


def test_what_is_missing_is_asked_for_on_a_terminal(home: CliHome) -> None:
    home.write("mail-prod-01", LONG)
    with Terminal([*PROGRAM, "--home", str(home.path), "remove"]) as terminal:
        terminal.answer("ID (the server's id)", "")
        terminal.answer("ID (the server's id)", "mail-prod-01")
        terminal.answer("Remove mail-prod-01", "y")
        assert terminal.end() == 0
    with Terminal([*PROGRAM, "--home", str(home.path), "prompt", "save", "--content=Look."]) as terminal:
        terminal.answer("NAME (", "my-prompt")
        terminal.answer("description (", "-- what it is for")
        assert terminal.end() == 0
    assert "-- what it is for" in (home.path / "prompts" / "my-prompt.json").read_text()


def test_without_a_terminal_what_is_missing_is_an_error(home: CliHome, capsys: pytest.CaptureFixture[str]) -> None:
    assert home.run("prompt", "save", "--content=Look.") == 2
    assert "the following arguments are required: NAME, --description" in capsys.readouterr().err


def test_hosts_are_shown_as_they_answer(home: CliHome, sshd: Sshd) -> None:
    home.add("fast", sshd)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        home.write(
            "asleep", f"id: asleep\nhostname: 127.0.0.1\nssh_port: {silent.getsockname()[1]}\nconnect_timeout: 60\n"
        )
        with Terminal([*PROGRAM, "--home", str(home.path), "test", "--all"]) as terminal:
            assert "asleep" not in terminal.expect("fast (")
            silent.close()
            terminal.expect("asleep (")
            terminal.expect("1 of 2 servers passed.")
            assert terminal.end() == 1
