"""`notes list` and `notes delete`, and that `remove` takes a server's notes with it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from support.homes import CliHome, home
from support.relay import PROGRAM, ROOT
from support.terminal import Terminal

from fleetshell_tools.core.notes import NoteStore
from fleetshell_tools.core.types import Caller, Principal

__all__ = ["home"]
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def store(home: CliHome) -> NoteStore:
    """Notes of two servers, of which only one is still registered."""
    home.write("web-1", "id: web-1\nhostname: w\n")
    store = NoteStore(home.path / "notes", lambda: 1_700_000_000)
    for server_id, text in (("web-1", "Boots slowly"), ("web-1", "two\nlines"), ("gone-1", "Old")):
        store.add(server_id, text, Caller(Principal("0a1b", "owner"), client="Claude 1"), lambda event, **fields: None)
    return store


def test_all_notes_are_listed_under_their_servers(home: CliHome, store: NoteStore, capsys: Captured) -> None:
    assert home.run("notes", "list") == 0
    assert capsys.readouterr().out == (
        "gone-1\n   1  2023-11-14T22:13:20Z  owner (Claude 1)\n      Old\n"
        "web-1\n   1  2023-11-14T22:13:20Z  owner (Claude 1)\n      Boots slowly\n"
        "   2  2023-11-14T22:13:20Z  owner (Claude 1)\n      two\n      lines\n"
    )


def test_the_notes_of_one_server_as_json(home: CliHome, store: NoteStore, capsys: Captured) -> None:
    assert home.run("notes", "list", "web-1", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [(item["number"], item["note"]) for item in found] == [(1, "Boots slowly"), (2, "two\nlines")]
    assert found[0] == {
        "server_id": "web-1", "number": 1, "note": "Boots slowly", "author": "owner", "key_id": "0a1b",
        "client": "Claude 1", "date": "2023-11-14T22:13:20Z",
    }  # fmt: skip


def test_without_notes_the_list_says_so(home: CliHome, capsys: Captured) -> None:
    home.write("web-1", "id: web-1\nhostname: w\n")
    for arguments in (["notes", "list"], ["notes", "list", "web-1"]):
        assert home.run(*arguments) == 0
        assert capsys.readouterr().out == "No notes yet. Models add them with add_server_note.\n"
        assert home.run(*arguments, "--json") == 0
        assert json.loads(capsys.readouterr().out) == []


def test_a_damaged_file_does_not_hide_the_other_servers(home: CliHome, store: NoteStore, capsys: Captured) -> None:
    store.path("gone-1").write_text("{")
    assert home.run("notes", "list") == 0
    shown = capsys.readouterr().out
    assert "Boots slowly" in shown and "gone-1.json is damaged" in shown
    assert home.run("notes", "list", "--json") == 0
    assert "damaged" in json.loads(capsys.readouterr().out)[-1]["reason"]


def test_a_note_is_deleted_by_its_number_and_recorded(home: CliHome, store: NoteStore, capsys: Captured) -> None:
    assert home.run("notes", "delete", "web-1", "1") == 0
    assert capsys.readouterr().out == "Deleted note 1 of web-1; 1 left.\n"
    assert [note.note for note in store.of("web-1")] == ["two\nlines"]
    (record,) = home.audit()
    assert (record["event"], record["server_id"], record["note"]) == ("note_deleted", "web-1", "Boots slowly")
    assert record["principal"].startswith("cli:")


def test_all_notes_of_a_server_are_deleted_also_where_it_is_gone(
    home: CliHome, store: NoteStore, capsys: Captured
) -> None:
    assert home.run("notes", "delete", "gone-1", "--all", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"server_id": "gone-1", "left": 0}
    assert store.servers() == ["web-1"]
    assert home.events() == ["notes_deleted"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["delete", "web-1"], 2, "Say which note"),
        (["delete", "web-1", "1", "--all"], 2, "Say which note"),
        (["delete", "web-1", "3"], 4, "web-1 has no note 3; its notes are numbered 1 to 2"),
        (["delete", "web-2", "1"], 4, 'Did you mean "web-1"'),
        (["list", "../servers/web-1"], 4, "There is no server"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    home: CliHome, store: NoteStore, capsys: Captured, arguments: list[str], code: int, says: str
) -> None:
    assert home.run("notes", *arguments) == code
    assert says in capsys.readouterr().err
    assert len(store.of("web-1")) == 2 and home.events() == []


@pytest.mark.parametrize(("answer", "code", "left"), [("n", 1, 2), ("y", 0, 0)])
def test_on_a_terminal_deleting_asks_first(home: CliHome, store: NoteStore, answer: str, code: int, left: int) -> None:
    with Terminal([*PROGRAM, "--home", str(home.path), "notes", "delete", "web-1", "--all"]) as terminal:
        terminal.answer("Delete all notes of web-1", answer)
        assert terminal.end() == code
    assert len(store.of("web-1")) == left


def test_listing_notes_loads_neither_the_relay_nor_the_fleet(home: CliHome, store: NoteStore) -> None:
    code = f"import sys; from fleetshell_tools.cli import main; main(['--home', {str(home.path)!r}, 'notes', 'list']); print(*sys.modules, file=sys.stderr)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert not {
        "fleetshell_tools.app",
        "fleetshell_tools.offline",
        "fleetshell_tools.fleet",
        "fleetshell_tools.relay",
    } & set(run.stderr.split())


def test_removing_a_server_removes_its_notes_and_what_was_learned_of_it(home: CliHome, store: NoteStore) -> None:
    facts = home.path / "run" / "facts"
    facts.mkdir(0o700)
    for name in ("web-1", "web-10"):
        (facts / f"{name}.json").write_text('{"seen": 1700000000, "facts": null}')
    assert home.run("remove", "web-1") == 0
    assert store.servers() == ["gone-1"]
    assert [path.name for path in facts.iterdir()] == ["web-10.json"]
