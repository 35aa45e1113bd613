"""Completion: what is offered where, how little it loads, and that bash, zsh and fish really complete by it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.homes import CliHome, home
from support.relay import PROGRAM, ROOT
from support.terminal import Terminal

from fleetshell_tools.cli import COMMANDS, declared
from fleetshell_tools.cli.completion import SHELLS

__all__ = ["home"]
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def stocked(home: CliHome) -> CliHome:
    """A home with names of every kind to complete."""
    home.write("web-1", "id: web-1\nhostname: a\n")
    home.write("web-2", "not even valid: [")
    home.write("db-1", "id: db-1\nhostname: b\n")
    (home.path / "prompts" / "check-logs.json").write_text("{}")
    (home.path / "mcps" / "playwright.conf").write_text("")
    return home


def offered(home: CliHome, capsys: Captured, *words: str) -> list[str]:
    from fleetshell_tools.cli import main

    assert main(["--complete", "--home", str(home.path), *words]) == 0
    return [line.partition("\t")[0] for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["te"], ["test"]),
        (["--v"], ["--version"]),
        (["test", ""], ["db-1", "web-1", "web-2"]),
        (["test", "w"], ["web-1", "web-2"]),
        (["test", "web-1", ""], []),
        (["test", "--al"], ["--all"]),
        (["test", "--all", "--al"], []),
        (["pubkey", "--install", "web-1", "d"], ["db-1"]),
        (["add-server", "--jump", "d"], ["db-1"]),
        (["add-server", "--jump", "=", "d"], ["db-1"]),
        (["add-server", "--user", ""], []),
        (["add-server", "--key", ""], ["@files"]),
        (["import", ""], ["@files"]),
        (["prompt", "show", ""], ["check-logs"]),
        (["prompt", "his"], ["history"]),
        (["audit", "--server", "w"], ["web-1", "web-2"]),
        (["audit", "ver"], ["verify"]),
        (["session", "close", ""], []),
        (["connect-info", "--os", "m"], ["macos"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["nonsense", ""], []),
    ],
    ids=" ".join,
)
def test_what_fits_at_the_cursor_is_offered(
    stocked: CliHome, words: list[str], expected: list[str], capsys: Captured
) -> None:
    assert offered(stocked, capsys, *words) == expected


def test_every_command_and_every_option_is_offered(stocked: CliHome, capsys: Captured) -> None:
    assert offered(stocked, capsys, "") == list(COMMANDS)
    for name in COMMANDS:
        for command in declared(name):
            wanted = {name for arg in command.arguments for name in arg.names if name.startswith("--")}
            assert wanted <= set(offered(stocked, capsys, *command.name.split(), "--"))


def test_without_a_home_there_are_just_no_names(tmp_path: Path, home: CliHome, capsys: Captured) -> None:
    from fleetshell_tools.cli import main

    assert main(["--complete", "--home", str(tmp_path / "none"), "test", ""]) == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "")


@pytest.mark.parametrize(
    "words", [["--complete", "te"], ["--complete", "completion", ""], ["--help"], ["--complete", "edit", ""]]
)
def test_it_loads_next_to_nothing(stocked: CliHome, words: list[str]) -> None:
    code = f"""import sys
before = set(sys.modules)
from fleetshell_tools.cli import main
try: main({words!r})
except SystemExit: pass
print(*set(sys.modules) - before, file=sys.stderr)"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    loaded = {".".join(name.split(".")[:2]) for name in run.stderr.split()}
    assert "fleetshell_tools.cli" in loaded
    heavy = {
        "fleetshell_tools.app",
        "fleetshell_tools.offline",
        "fleetshell_tools.daemon",
        "fleetshell_tools.fleet",
        "fleetshell_tools.relay",
        "mcp",
        "pyotp",
    }
    heavy |= {"asyncio", "http", "ssl", "socket", "subprocess", "tempfile", "logging", "urllib", "email"}
    if words[1:2] != ["edit"]:  # its module knows servers' files, which are YAML
        heavy |= {"yaml", "json", "concurrent"}
    assert not loaded & heavy


@pytest.fixture
def environment(stocked: CliHome, tmp_path: Path) -> dict[str, str]:
    """With a `fleetshell` in the search path, and the stocked home."""
    program = tmp_path / "bin" / "fleetshell"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {" ".join(PROGRAM)} "$@"\n')
    program.chmod(0o755)
    (tmp_path / "empty").mkdir()
    return {"PATH": f"{program.parent}:/usr/bin:/bin", "HOME": str(tmp_path / "empty"), "FLEETSHELL_HOME": str(stocked.path),
            "XDG_CONFIG_HOME": str(tmp_path / "empty"), "XDG_DATA_HOME": str(tmp_path / "empty")}  # fmt: skip


def shell(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed on this machine")
    return found


CASES = [  # what is typed, and what the word at its end becomes
    ("fleetshell te", "test"),
    ("fleetshell edit db", "db-1"),
    ("fleetshell connect-info --o", "--os"),
    ("fleetshell prompt show ch", "check-logs"),
]


@pytest.mark.parametrize(("typed", "completed"), CASES)
def test_a_tab_completes_in_bash(environment: dict[str, str], typed: str, completed: str) -> None:
    with Terminal([shell("bash"), "--norc", "--noprofile", "-i"], {**environment, "PS1": "ready> "}) as terminal:
        terminal.expect("ready> ")
        terminal.type('eval "$(fleetshell completion bash)"; PS1="d""one> "')
        terminal.expect("done> ")
        terminal.keys(f"{typed}\t")
        terminal.expect(f"{completed.removeprefix(typed.split()[-1])} ")


@pytest.mark.parametrize(("typed", "completed"), CASES)
def test_a_tab_completes_in_zsh(environment: dict[str, str], typed: str, completed: str) -> None:
    program = shell("zsh")
    with Terminal([program, "-f", "-i"], {**environment, "PS1": "ready> "}) as terminal:
        terminal.expect("ready> ")
        terminal.type('autoload -Uz compinit; compinit -u -D; eval "$(fleetshell completion zsh)"; PS1="d""one> "')
        terminal.expect("done> ")
        terminal.keys(f"{typed}\t")
        terminal.expect(f"{completed.removeprefix(typed.split()[-1])} ")


@pytest.mark.parametrize(("typed", "completed"), CASES)
def test_fish_completes(environment: dict[str, str], typed: str, completed: str) -> None:
    code = f"fleetshell completion fish | source; complete -C '{typed}'"
    run = subprocess.run(
        [shell("fish"), "--no-config", "-c", code], capture_output=True, text=True, env=environment, timeout=60
    )
    assert [line.partition("\t")[0] for line in run.stdout.splitlines()] == [completed], run.stderr


@pytest.mark.parametrize("name", SHELLS)
def test_the_shell_finds_no_fault_in_its_function(name: str) -> None:
    run = subprocess.run([shell(name), "-n"], input=SHELLS[name], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
