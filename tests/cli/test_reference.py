"""What is written from the commands' declarations is up to date, complete and well formed: the reference, the man page, `--help`."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from support.reference import EXIT_CODES, ROOT, commands, documents, usage

from fleetshell_tools.cli import COMMANDS, declared, main
from fleetshell_tools.cli.command import Command
from fleetshell_tools.core import errors

EVERY = {command.name: command for command in commands()}
PRINTS_NO_DATA = {
    *(
        "serve",
        "reload",
        "add-server",
        "edit",
        "remove",
        "trust",
        "auth enable",
        "auth disable",
        "auth unlock",
        "lock",
        "unlock",
        "approve",
        "mcp enable",
        "mcp disable",
        "mcp remove",
        "mcp logs",
        "auth test",
    ),
    *("prompt delete", "session close", "bundle", "service", "deploy", "completion", "demo"),
}
"""Commands that act, or whose output is a file's text: nothing to print as JSON."""


@pytest.mark.parametrize("name", documents())
def test_what_make_docs_writes_is_up_to_date(name: str) -> None:
    path = ROOT / name
    assert path.exists() and path.read_text() == documents()[name], f"{name} is out of date: run `make docs`"


def test_every_command_of_every_module_is_in_the_overview_and_in_the_reference() -> None:
    found = {command.name for name in COMMANDS for command in declared(name)}
    assert found == set(EVERY)
    assert {name.partition(" ")[0] for name in EVERY} == set(COMMANDS)
    reference = documents()["docs/commands.md"]
    assert [line[4:-1] for line in reference.splitlines() if line.startswith("## `")] == list(EVERY)


@pytest.mark.parametrize("command", EVERY.values(), ids=EVERY)
def test_the_help_of_every_command_has_an_example_of_itself_and_says_each_argument(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([*command.name.split(), "--help"])
    shown = capsys.readouterr().out
    assert end.value.code == 0
    assert f"fleetshell {command.name}" in command.example and command.example in shown
    assert usage(command).startswith(f"fleetshell {command.name}")
    for arg in command.arguments:
        assert arg.settings.get("help"), f"{arg.names} of {command.name} has no help"


def test_a_command_that_prints_data_prints_json_too() -> None:
    without = {name for name, command in EVERY.items() if not any("--json" in arg.names for arg in command.arguments)}
    assert without <= PRINTS_NO_DATA, f"without --json: {sorted(without - PRINTS_NO_DATA)}"


def test_every_exit_code_of_an_error_is_documented() -> None:
    def all_of(kind: type[errors.FleetShellError]) -> set[int]:
        return {kind.exit_code}.union(*(all_of(inner) for inner in kind.__subclasses__()))

    assert all_of(errors.FleetShellError) | {0} <= {int(code) for code, _ in EXIT_CODES}


def test_man_shows_the_page_without_a_complaint() -> None:
    if not shutil.which("groff"):
        pytest.skip("groff is not installed on this machine")
    page = ROOT / "share/man/man1/fleetshell.1"
    run = subprocess.run(["groff", "-man", "-ww", "-Tascii", str(page)], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert "key rotate" in run.stdout
