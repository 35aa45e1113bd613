"""The store of notes: what is kept of one, its caps, damaged files, and writers that meet."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fleetshell_tools.core.errors import AuditUnavailable, BadArgument, ConfigError, FleetShellError, NotFound
from fleetshell_tools.core.notes import LONGEST_NOTE, MOST_NOTES, NoteStore
from fleetshell_tools.core.types import Caller, Principal

CALLER = Caller(Principal("0a1b2c", "ops"), client="Claude 1.2", tool="add_server_note")


class Book:
    """Takes the records of an audit log."""

    def __init__(self) -> None:
        self.written: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: str, **fields: Any) -> None:
        self.written.append((event, fields))


@pytest.fixture
def store(tmp_path: Path) -> NoteStore:
    return NoteStore(tmp_path / "notes", lambda: 1_700_000_000)


@pytest.fixture
def book() -> Book:
    return Book()


def texts(store: NoteStore, server_id: str = "web-1") -> list[str]:
    return [note.note for note in store.of(server_id)]


def test_a_note_is_kept_with_its_author_client_and_date(store: NoteStore, book: Book) -> None:
    added, count = store.add("web-1", "Boots slowly", CALLER, book)
    assert (added, count) == (store.of("web-1")[0], 1)
    assert added.shown() == {"note": "Boots slowly", "author": "ops (Claude 1.2)", "date": "2023-11-14T22:13:20Z"}
    assert json.loads(store.path("web-1").read_text())["notes"][0]["key_id"] == "0a1b2c"
    assert store.path("web-1").stat().st_mode & 0o777 == 0o600
    assert book.written == [("note_added", {"server_id": "web-1", "note": "Boots slowly"})]


def test_notes_keep_their_order_and_each_server_has_its_own(store: NoteStore, book: Book) -> None:
    for server_id, text in (("web-1", "b"), ("db-1", "c"), ("web-1", "a")):
        store.add(server_id, text, CALLER, book)
    assert (texts(store), texts(store, "db-1"), texts(store, "none")) == (["b", "a"], ["c"], [])
    assert store.servers() == ["db-1", "web-1"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("  two\r\nlines \n", "two\nlines"),
        ("\x1b[31mred\x1b[0m \u202etxt\u202c\u200b", "red txt"),
        ("Größe", "Größe"),
        ("\ud800half", "half"),
        ("x" * LONGEST_NOTE, "x" * LONGEST_NOTE),
    ],
)
def test_a_note_is_kept_as_clean_text(store: NoteStore, book: Book, given: str, kept: str) -> None:
    store.add("web-1", given, CALLER, book)
    assert texts(store) == [kept]


@pytest.mark.parametrize(
    ("given", "says"),
    [("", "is empty"), (" \n\u200b\x1b[0m", "is empty"), ("x" * (LONGEST_NOTE + 1), "1,001 characters")],
)
def test_what_is_no_note_is_refused_and_not_recorded(store: NoteStore, book: Book, given: str, says: str) -> None:
    with pytest.raises(BadArgument, match=says):
        store.add("web-1", given, CALLER, book)
    assert (texts(store), book.written) == ([], [])


def test_a_hostile_name_of_a_client_stays_one_short_line(store: NoteStore, book: Book) -> None:
    caller = Caller(Principal("k", "owner"), client="a\n\x1b[2Jb" + "c" * 200)
    note, _ = store.add("web-1", "x", caller, book)
    assert note.client.startswith("a bccc") and len(note.client) == 80


def test_the_same_note_again_changes_nothing(store: NoteStore, book: Book) -> None:
    first, _ = store.add("web-1", "a", CALLER, book)
    again, count = store.add("web-1", " a\n", Caller(Principal("other")), book)
    assert (again, count, len(book.written)) == (first, 1, 1)


def test_a_full_server_takes_no_more_until_the_operator_deletes(store: NoteStore, book: Book) -> None:
    for number in range(MOST_NOTES):
        store.add("web-1", f"note {number}", CALLER, book)
    with pytest.raises(FleetShellError, match="web-1 has 50 notes.*fleetshell notes delete web-1 NUMBER"):
        store.add("web-1", "one more", CALLER, book)
    assert len(book.written) == MOST_NOTES
    store.add("db-1", "another server", CALLER, book)
    assert store.delete("web-1", 1, book) == MOST_NOTES - 1
    store.add("web-1", "one more", CALLER, book)
    assert (texts(store)[0], texts(store)[-1]) == ("note 1", "one more")


def test_without_an_audit_log_nothing_is_added_or_deleted(store: NoteStore, book: Book) -> None:
    def broken(event: str, **fields: Any) -> None:
        raise AuditUnavailable("no")

    store.add("web-1", "a", CALLER, book)
    changes: list[Callable[[], object]] = [
        lambda: store.add("web-1", "b", CALLER, broken),
        lambda: store.delete("web-1", 1, broken),
        lambda: store.delete("web-1", None, broken),
    ]
    for change in changes:
        with pytest.raises(AuditUnavailable):
            change()
    assert texts(store) == ["a"]


def test_one_note_or_all_are_deleted(store: NoteStore, book: Book) -> None:
    for text in ("a", "b", "c"):
        store.add("web-1", text, CALLER, book)
    assert store.delete("web-1", 2, book) == 2
    assert texts(store) == ["a", "c"]
    assert store.delete("web-1", None, book) == 0
    assert not store.path("web-1").exists() and store.servers() == []
    assert [event for event, _ in book.written[3:]] == ["note_deleted", "notes_deleted"]
    assert book.written[3][1] == {"server_id": "web-1", "note": "b"}


def test_with_the_last_note_its_file_goes(store: NoteStore, book: Book) -> None:
    store.add("web-1", "a", CALLER, book)
    assert store.delete("web-1", 1, book) == 0
    assert not store.path("web-1").exists()


@pytest.mark.parametrize("number", [0, -1, 2, None])
def test_a_note_that_is_not_there_is_not_found(store: NoteStore, book: Book, number: int | None) -> None:
    if number is not None:
        store.add("web-1", "a", CALLER, book)
    with pytest.raises(NotFound, match="web-1 has no note"):
        store.delete("web-1", number, book)
    assert texts(store) == ["a"] * (number is not None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        "null",
        '{"notes": [5]}',
        '{"notes": [{"note": 5}]}',
        '{"notes": [{}]}',
        "\xff",
        "[" * 100_000,
    ],
)
def test_a_damaged_file_is_named_and_kept_until_the_operator_deletes_it(
    store: NoteStore, book: Book, text: str
) -> None:
    store.add("web-1", "a", CALLER, book)
    store.path("web-1").write_bytes(text.encode("latin-1"))
    for use in (lambda: store.of("web-1"), lambda: store.add("web-1", "b", CALLER, book)):
        with pytest.raises(ConfigError, match=r"web-1\.json is damaged.*fleetshell notes delete web-1 --all"):
            use()
    assert store.path("web-1").read_bytes() == text.encode("latin-1")
    store.delete("web-1", None, book)
    assert texts(store) == []


def test_a_file_that_is_far_too_large_is_not_read(store: NoteStore, book: Book) -> None:
    store.add("web-1", "a", CALLER, book)
    with open(store.path("web-1"), "ab") as file:
        file.truncate(1 << 30)
    with pytest.raises(ConfigError, match="too large"):
        store.of("web-1")


def test_notes_written_by_hand_are_cleaned_when_they_are_read(store: NoteStore, book: Book) -> None:
    store.add("web-1", "a", CALLER, book)
    notes = [{"note": "\x1b]0;title\x07x" + "y" * 2000, "author": "me\nyou"}]
    store.path("web-1").write_text(json.dumps({"notes": notes}))
    (note,) = store.of("web-1")
    assert (note.note[:2], len(note.note), note.author, note.date) == ("xy", LONGEST_NOTE, "me you", "")


@pytest.mark.parametrize("server_id", ["../config", ".lock", "a/b", "", "x" * 65])
def test_what_is_no_servers_id_has_no_notes(store: NoteStore, tmp_path: Path, server_id: str) -> None:
    (tmp_path / "config.json").write_text('{"notes": [{"note": "no"}]}')
    assert store.of(server_id) == []


def test_writers_that_meet_lose_no_note(store: NoteStore, book: Book) -> None:
    def add(number: int) -> None:
        for part in "abcde":
            NoteStore(store.path("x").parent).add("web-1", f"{number}{part}", CALLER, book)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(texts(store)) == sorted(f"{number}{part}" for number in range(6) for part in "abcde")


def test_a_server_that_was_removed_has_no_notes_left(store: NoteStore, book: Book) -> None:
    store.add("web-1", "a", CALLER, book)
    store.forget("web-1")
    store.forget("web-1")
    assert store.servers() == []
