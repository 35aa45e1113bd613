"""`prompt save|list|show|edit|delete|history|diff|rollback`, as a person and as a script uses them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.homes import CliHome, home
from support.relay import PROGRAM, ROOT
from support.terminal import Terminal

__all__ = ["home"]
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes `$EDITOR` a shell script that gets the file as its first argument."""
    monkeypatch.delenv("VISUAL", raising=False)

    def make(script: str) -> Path:
        path = tmp_path / "the editor"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o700)
        monkeypatch.setenv("EDITOR", f"'{path}'")
        return path

    return make


def save(
    home: CliHome, name: str = "my-prompt", description: str = "Analyze logs", content: str = "Look at {server}"
) -> None:
    assert home.run("prompt", "save", name, "--description", description, "--content", content) == 0


def stored(home: CliHome, name: str = "my-prompt") -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((home.path / "prompts" / f"{name}.json").read_text())
    return loaded


def typed(monkeypatch: pytest.MonkeyPatch, raw: bytes) -> None:
    """Put bytes on standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))


# save


def test_a_prompt_is_saved_as_documented_and_recorded(home: CliHome, capsys: Captured) -> None:
    save(home)
    assert capsys.readouterr().out == "Prompt 'my-prompt' saved successfully\n"
    assert (stored(home)["description"], stored(home)["content"]) == ("Analyze logs", "Look at {server}")
    (record,) = home.audit()
    assert (record["event"], record["prompt"], record["tool"]) == ("prompt_saved", "my-prompt", "prompt save")
    assert record["principal"].startswith("cli:") and "Look at" not in json.dumps(record)


def test_content_comes_from_standard_input_or_a_file_byte_for_byte(
    home: CliHome, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Captured
) -> None:
    raw = "@ größer\r\n{{.Names}}\n\n".encode()
    typed(monkeypatch, raw)
    save(home, "piped", content="-")
    (tmp_path / "text").write_bytes(raw)
    (tmp_path / "about").write_text("What it is\n")
    save(home, "file", f"@{tmp_path}/about", f"@{tmp_path}/text")
    assert stored(home, "piped")["content"] == stored(home, "file")["content"] == raw.decode()
    assert stored(home, "file")["description"] == "What it is"
    run = subprocess.run(
        [*PROGRAM, "--home", str(home.path), "prompt", "show", "file", "--raw"], capture_output=True, check=True
    )
    assert run.stdout == raw
    capsys.readouterr()


def test_saving_as_json_prints_the_prompt(home: CliHome, capsys: Captured) -> None:
    assert home.run("prompt", "save", "a", "--description", "d", "--content", "{x}", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["name"], shown["arguments"], shown["revision"], shown["author"]) == ("a", ["x"], 1, "operator")


def too_long(folder: Path) -> str:
    (folder / "long").write_text("x" * 1_000_000)
    return f"@{folder}/long"


@pytest.mark.parametrize(("arguments", "code", "said"), [
    (["prompt"], 2, "say which subcommand"),
    (["prompt", "sav"], 2, "none of its subcommands"),
    (["prompt", "save"], 2, "NAME"),
    (["prompt", "save", "a", "--description", "d"], 2, "--content"),
    (["prompt", "save", "a/b", "--description", "d", "--content", "c"], 2, "letters, digits"),
    (["prompt", "save", "../config", "--description", "d", "--content", "c"], 2, "letters, digits"),
    (["prompt", "save", "a", "--description", "", "--content", "c"], 2, "can't be empty"),
    (["prompt", "save", "a", "--description", "d", "--content", "LONG"], 2, "1,000,000 bytes"),
    (["prompt", "save", "a", "--description", "d", "--content", "@/nowhere"], 2, "/nowhere can't be read"),
    (["prompt", "save", "a", "--description", "d", "--content", "@"], 2, "can't be read"),
    (["prompt", "save", "a", "--description", "-", "--content", "-"], 2, "Only one of"),
    (["prompt", "edit", "my-prompt", "--description", "-", "--content", "-"], 2, "Only one of"),
    (["prompt", "edit", "my-prompt", "--content", ""], 2, "can't be empty"),
    (["prompt", "edit", "nope", "--content", "x"], 4, "There is no prompt"),
    (["prompt", "edit", "nope"], 4, "There is no prompt"),
    (["prompt", "show", "my-promt"], 4, 'Did you mean "my-prompt"'),
    (["prompt", "show", "my-prompt", "--revision", "9"], 4, "no revision 9"),
    (["prompt", "show", "my-prompt", "--revision", "x"], 2, "invalid int"),
    (["prompt", "delete", "nope"], 4, "There is no prompt"),
    (["prompt", "delete", "a\0b"], 2, "letters, digits"),
    (["prompt", "history", "nope"], 4, "There is no prompt"),
    (["prompt", "diff", "my-prompt"], 4, "no revision before 1"),
    (["prompt", "diff", "my-prompt", "1", "2"], 4, "no revision 2"),
    (["prompt", "rollback", "my-prompt"], 4, "no earlier revision"),
    (["prompt", "rollback", "my-prompt", "0"], 4, "no revision 0"),
    (["prompt", "show", "broken"], 3, "line 1"),
    (["prompt", "save", "broken", "--description", "d", "--content", "c"], 3, "line 1"),
])  # fmt: skip
def test_a_mistake_has_an_exit_code_and_a_sentence_and_changes_nothing(
    home: CliHome, capsys: Captured, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    save(home)
    broken = home.path / "prompts" / "broken.json"
    broken.write_text("{")
    broken.chmod(0o600)
    before = {path: path.read_bytes() for path in (home.path / "prompts").rglob("*.json")}
    given = [too_long(tmp_path) if argument == "LONG" else argument for argument in arguments]
    capsys.readouterr()
    assert home.run(*given) == code
    seen = capsys.readouterr()
    assert said in seen.err and seen.out == ""
    assert {path: path.read_bytes() for path in (home.path / "prompts").rglob("*.json")} == before
    assert home.events() == ["prompt_saved"]


def test_text_that_is_not_utf8_is_refused(home: CliHome, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    typed(monkeypatch, b"ab\xff")
    assert home.run("prompt", "save", "a", "--description", "d", "--content", "-") == 2
    assert "not UTF-8 text (byte 2)" in capsys.readouterr().err


def test_without_a_home_nothing_is_made(tmp_path: Path, capsys: Captured) -> None:
    for arguments in (["list"], ["save", "a", "--description", "d", "--content", "c"], ["delete", "a"]):
        assert CliHome(tmp_path / "none").run("prompt", *arguments) == 3
        assert "fleetshell init" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


# list and show


def test_the_list_is_a_table_and_damaged_prompts_stand_below(home: CliHome, capsys: Captured) -> None:
    assert home.run("prompt", "list") == 0
    assert "fleetshell prompt save" in capsys.readouterr().out
    save(home)
    save(home, "db-health", "Database", "x")
    (home.path / "prompts" / "db-health.json").write_text("{")
    capsys.readouterr()
    assert home.run("prompt", "list") == 0
    table, _, rest = capsys.readouterr().out.partition("\nDisabled")
    assert "my-prompt" in table and "Analyze logs" in table and "server" in table and "db-health" not in table
    assert "✗ db-health: " in rest and "line 1" in rest
    assert home.run("prompt", "list", "--json") == 0
    mine, broken = json.loads(capsys.readouterr().out)
    assert mine["arguments"] == ["server"] and "content" not in mine
    assert broken["disabled"] and "line 1" in broken["reason"]


def test_listing_loads_neither_the_relay_nor_the_fleet(home: CliHome) -> None:
    code = f"import sys; from fleetshell_tools.cli import main; main(['--home', {str(home.path)!r}, 'prompt', 'list']); print(*sys.modules, file=sys.stderr)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    loaded = {".".join(name.split(".")[:2]) for name in run.stderr.split()}
    assert "fleetshell_tools.core" in loaded
    assert not loaded & {
        "fleetshell_tools.app",
        "fleetshell_tools.offline",
        "fleetshell_tools.relay",
        "ssl",
        "subprocess",
        "tempfile",
    }


def test_a_prompt_is_shown_with_its_facts_and_an_earlier_revision_too(home: CliHome, capsys: Captured) -> None:
    save(home)
    save(home, content="Second text")
    capsys.readouterr()
    assert home.run("prompt", "show", "my-prompt") == 0
    out = capsys.readouterr().out
    assert out.startswith("Name:        my-prompt\nDescription: Analyze logs\n") and out.endswith("\n\nSecond text\n")
    assert "Revision:    2, by operator" in out
    assert home.run("prompt", "show", "my-prompt", "--revision", "1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["content"] == "Look at {server}"


def test_a_prompt_cannot_write_to_the_operators_terminal(home: CliHome) -> None:
    save(home, content="\x1b]0;owned\x07plain")
    with Terminal([*PROGRAM, "--home", str(home.path), "prompt", "show", "my-prompt"]) as terminal:
        assert terminal.end() == 0
        assert "plain" in terminal.seen and "owned" not in terminal.seen


# edit


def test_an_edit_in_the_editor_changes_description_and_content(
    home: CliHome, editor: Callable[[str], Path], capsys: Captured
) -> None:
    save(home)
    editor(
        'cp "$1" seen.txt && printf "New description\\n\\nNew {content}\\n" > "$1"'.replace(
            "seen.txt", f"{home.path}/seen.txt"
        )
    )
    assert home.run("prompt", "edit", "my-prompt") == 0
    assert (home.path / "seen.txt").read_text() == "Analyze logs\n\nLook at {server}"
    assert (stored(home)["description"], stored(home)["content"]) == ("New description", "New {content}")
    assert "revision 2" in capsys.readouterr().out and home.events() == ["prompt_saved", "prompt_edited"]
    assert [path.name for path in home.path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("script", ["true", 'echo >> "$1"', 'touch "$1"'])
def test_an_edit_that_changes_nothing_makes_no_revision(
    home: CliHome, editor: Callable[[str], Path], capsys: Captured, script: str
) -> None:
    save(home)
    editor(script)
    assert home.run("prompt", "edit", "my-prompt") == 0
    assert "Nothing was changed." in capsys.readouterr().out and stored(home)["revision"] == 1
    assert home.events() == ["prompt_saved"]


@pytest.mark.parametrize(("written", "said"), [
    ("", "can't be empty"),
    ("only a description\n", "can't be empty"),
    ("a\nb\nc\n", "second line must be empty"),
    ("a\n\n" + "x" * 70_000, "allowed: at most"),
])  # fmt: skip
def test_an_invalid_text_is_kept_aside_and_the_prompt_stays(
    home: CliHome, editor: Callable[[str], Path], tmp_path: Path, capsys: Captured, written: str, said: str
) -> None:
    save(home)
    (tmp_path / "written").write_text(written)
    editor(f'cp "{tmp_path}/written" "$1"')
    assert home.run("prompt", "edit", "my-prompt") == 3
    error = capsys.readouterr().err
    assert said in error and Path(error.rstrip(".\n").rpartition(" is in ")[2]).read_text() == written
    assert stored(home)["revision"] == 1


def test_what_was_written_is_kept_where_somebody_else_changed_the_prompt(
    home: CliHome, editor: Callable[[str], Path], capsys: Captured
) -> None:
    save(home)
    program = " ".join([*PROGRAM, "--home", str(home.path)])
    editor(f'{program} prompt edit my-prompt --content theirs >/dev/null\nprintf "mine\\n\\nmy text" > "$1"')
    assert home.run("prompt", "edit", "my-prompt") == 1
    error = capsys.readouterr().err
    assert "changed by somebody else" in error
    assert Path(error.rstrip(".\n").rpartition(" is in ")[2]).read_text() == "mine\n\nmy text"
    assert stored(home)["content"] == "theirs"


def test_what_was_written_is_kept_where_the_audit_log_cannot_be_written(
    home: CliHome, editor: Callable[[str], Path], capsys: Captured
) -> None:
    save(home)
    (home.path / "audit.key").unlink()
    editor('printf "mine\\n\\nmy text" > "$1"')
    assert home.run("prompt", "edit", "my-prompt") == 1
    error = capsys.readouterr().err
    assert "audit" in error and Path(error.rstrip(".\n").rpartition(" is in ")[2]).read_text() == "mine\n\nmy text"
    assert stored(home)["revision"] == 1


def test_a_damaged_file_is_opened_as_it_is_and_mended(
    home: CliHome, editor: Callable[[str], Path], capsys: Captured
) -> None:
    save(home)
    (home.path / "prompts" / "my-prompt.json").write_text('{"content": "a"')
    editor('printf "}" >> "$1"')
    assert home.run("prompt", "edit", "my-prompt") == 0
    assert "damaged" in capsys.readouterr().err
    assert home.run("prompt", "show", "my-prompt", "--raw") == 0
    assert capsys.readouterr().out.endswith("a")
    assert home.events() == ["prompt_saved", "prompt_mended"]


def test_an_edit_without_an_editor(home: CliHome, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("EDITOR", "false")
    save(home)
    assert home.run("prompt", "edit", "my-prompt", "--description", "Other") == 0
    typed(monkeypatch, b"from stdin\n")
    assert home.run("prompt", "edit", "my-prompt", "--content", "-") == 0
    assert (stored(home)["description"], stored(home)["content"]) == ("Other", "from stdin\n")
    assert "Prompt 'my-prompt' updated successfully" in capsys.readouterr().out


# delete, history, diff, rollback


def test_a_deleted_prompt_comes_back_by_a_rollback(home: CliHome, capsys: Captured) -> None:
    save(home)
    assert home.run("prompt", "delete", "my-prompt") == 0
    assert "Prompt 'my-prompt' deleted successfully" in capsys.readouterr().out
    assert home.run("prompt", "show", "my-prompt") == 4
    assert home.run("prompt", "history", "my-prompt") == 0
    assert home.run("prompt", "rollback", "my-prompt") == 0
    assert stored(home)["content"] == "Look at {server}"
    assert home.run("prompt", "delete", "my-prompt", "--forget") == 0
    capsys.readouterr()
    assert home.run("prompt", "rollback", "my-prompt") == 4
    assert home.events() == ["prompt_saved", "prompt_deleted", "prompt_rolled_back", "prompt_deleted"]


def test_on_a_terminal_deleting_asks(home: CliHome) -> None:
    save(home)
    with Terminal([*PROGRAM, "--home", str(home.path), "prompt", "delete", "my-prompt"]) as terminal:
        terminal.answer("Delete the prompt my-prompt?", "n")
        assert terminal.end() == 1
    assert stored(home)["revision"] == 1


def test_history_and_diff_show_what_changed(home: CliHome, capsys: Captured) -> None:
    save(home, content="one\ntwo\n")
    save(home, description="Other", content="one\n2\n")
    capsys.readouterr()
    assert home.run("prompt", "history", "my-prompt") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["Revision", "Saved", "By", "Bytes", "Description"]
    assert [line.split()[0] for line in lines[2:]] == ["1", "2"]
    assert home.run("prompt", "history", "my-prompt", "--json") == 0
    assert [(entry["revision"], entry["bytes"]) for entry in json.loads(capsys.readouterr().out)] == [(1, 8), (2, 6)]
    assert home.run("prompt", "diff", "my-prompt") == 0
    assert capsys.readouterr().out == (
        "--- my-prompt revision 1\n+++ my-prompt revision 2\n@@ -1,5 +1,5 @@\n-Analyze logs\n+Other\n \n one\n-two\n+2\n \n"
    )
    assert home.run("prompt", "diff", "my-prompt", "2", "1", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["old"], shown["new"]) == (2, 1) and "+two" in shown["diff"]
    assert home.run("prompt", "diff", "my-prompt", "1", "1") == 0
    assert "same text" in capsys.readouterr().out


def test_a_damaged_revision_is_named_in_the_history(home: CliHome, capsys: Captured) -> None:
    save(home)
    save(home, content="two")
    (home.path / "prompts" / ".history" / "my-prompt" / "1.json").write_text("{")
    capsys.readouterr()
    assert home.run("prompt", "history", "my-prompt") == 0
    assert "damaged: " in capsys.readouterr().out
    assert home.run("prompt", "rollback", "my-prompt") == 3
