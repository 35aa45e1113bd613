"""`notes …`: what models noted about servers, for the operator to read and to delete."""

from __future__ import annotations

import argparse
from typing import Any

from fleetshell_tools.cli import output
from fleetshell_tools.cli.command import JSON, Arg, command
from fleetshell_tools.core.errors import ConfigError, UsageError
from fleetshell_tools.core.home import Home
from fleetshell_tools.core.notes import Note, NoteStore
from fleetshell_tools.core.servers import Inventory
from fleetshell_tools.core.text import one_line


@command(
    "notes list",
    Arg("id", metavar="ID", nargs="?", help="one server alone"),
    JSON,
    example="fleetshell notes list web-1",
)
def list_notes(args: argparse.Namespace, home: Home) -> int:
    """List the notes of all servers, or of one; each server's notes are numbered from the oldest."""
    inventory, store = _stores(home)
    if args.id is None:
        ids = store.servers()
    else:
        _check(args.id, inventory, store)
        ids = [args.id]
    found: dict[str, list[Note]] = {}
    problems: dict[str, str] = {}
    for server_id in ids:
        try:
            found[server_id] = store.of(server_id)
        except ConfigError as error:
            problems[server_id] = error.message
    if args.json:
        shown = [_as_json(name, number, note) for name, notes in found.items() for number, note in enumerate(notes, 1)]
        output.print_json([*shown, *({"server_id": name, "reason": why} for name, why in problems.items())])
        return 0
    for server_id, notes in found.items():
        if notes:
            _print(server_id, notes)
    if not any(found.values()) and not problems:
        print("No notes yet. Models add them with add_server_note.")
    for server_id, why in problems.items():
        print(f"{output.paint('✗', 'red')} {server_id}: {one_line(why, 500)}")
    return 0


@command(
    "notes delete",
    Arg("id", metavar="ID", help="the server's id"),
    Arg("number", metavar="NUMBER", type=int, nargs="?", help="which note, from `notes list`"),
    Arg("--all", action="store_true", help="all notes of the server"),
    Arg("--yes", action="store_true", help="do not ask"),
    JSON,
    example="fleetshell notes delete web-1 3",
)
def delete(args: argparse.Namespace, home: Home) -> int:
    """Delete a note of a server, or all of them. Later notes get new numbers. Without a terminal it does not ask."""
    if args.all == (args.number is not None):
        raise UsageError("Say which note: a NUMBER from `fleetshell notes list`, or --all.")
    inventory, store = _stores(home)
    _check(args.id, inventory, store)
    what = "all notes" if args.all else f"note {args.number}"
    if output.interactive() and not args.yes and not output.confirm(f"Delete {what} of {args.id}?"):
        print("Nothing was deleted.")
        return 1
    config = home.config()

    def record(event: str, **fields: Any) -> None:
        from fleetshell_tools.offline import record as write

        write(home, config, event, "notes delete", **fields)

    left = store.delete(args.id, args.number, record)
    if args.json:
        output.print_json({"server_id": args.id, "left": left})
    else:
        print(f"Deleted {what} of {args.id}; {left} left.")
    return 0


def _stores(home: Home) -> tuple[Inventory, NoteStore]:
    return Inventory(home.servers, home.config().defaults), NoteStore(home.notes)


def _check(server_id: str, inventory: Inventory, store: NoteStore) -> None:
    """Refuse an id that is no server's and has no notes.

    Raises:
        NotFound: Names near ids.
    """
    if server_id not in inventory.ids() and server_id not in store.servers():
        inventory.get(server_id)


def _print(server_id: str, notes: list[Note]) -> None:
    print(output.paint(server_id, "bold"))
    for number, note in enumerate(notes, 1):
        print(f"{number:>4}  {output.paint(f'{note.date}  {note.signed}', 'dim')}")
        for line in note.note.splitlines():
            print(f"      {line}")


def _as_json(server_id: str, number: int, note: Note) -> dict[str, Any]:
    return {
        "server_id": server_id, "number": number, "note": note.note, "author": note.author, "key_id": note.key_id,
        "client": note.client or None, "date": note.date,
    }  # fmt: skip


COMMANDS = (list_notes, delete)
