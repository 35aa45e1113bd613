"""Notes that models leave about servers: `notes/<id>.json`, one file a server, capped, each with its author and date.

What stands there was written by a model and checked by nobody, so it is kept apart from the operator's file and shown under
a name that says so. Only the operator deletes: a model that could make room would make what another one learned disappear.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fleetshell_tools.core import storage
from fleetshell_tools.core.config import SERVER_ID
from fleetshell_tools.core.errors import BadArgument, ConfigError, FleetShellError, NotFound
from fleetshell_tools.core.text import clean, one_line
from fleetshell_tools.core.types import Caller

MOST_NOTES = 50
"""Notes of one server."""
LONGEST_NOTE = 1_000
"""Characters."""
LARGEST_FILE = 1_048_576

Record = Callable[..., object]
"""Writes one record of the audit log, `record(event, **fields)`, before a note is added or deleted."""


@dataclass(frozen=True)
class Note:
    """A note; `author` is the name of the principal, `key_id` the digest of its API key, `date` is UTC."""

    note: str
    author: str
    key_id: str
    client: str
    date: str

    @property
    def signed(self) -> str:
        """The author, and with which client."""
        return f"{self.author} ({self.client})" if self.client else self.author

    def shown(self) -> dict[str, str]:
        """As a model sees it."""
        return {"note": self.note, "author": self.signed, "date": self.date}


class NoteStore:
    """The notes of all servers. Each call reads the files; writers take turns, across threads and processes.

    Args:
        folder: The `notes` folder.
        now: Seconds since the epoch.
    """

    def __init__(self, folder: Path, now: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._now = now

    def path(self, server_id: str) -> Path:
        return self._folder / f"{server_id}.json"

    def servers(self) -> list[str]:
        """The ids of all servers with notes, also of those that are no longer registered."""
        try:
            found = os.listdir(self._folder)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigError(f"{self._folder} can't be read: {error.strerror}.") from None
        names = (name.removesuffix(".json") for name in found if name.endswith(".json"))
        return sorted(name for name in names if re.fullmatch(SERVER_ID, name))

    def of(self, server_id: str) -> list[Note]:
        """The notes of a server, the oldest first.

        Raises:
            ConfigError: Their file is damaged.
        """
        path = self.path(server_id)
        if not re.fullmatch(SERVER_ID, server_id):
            return []
        try:
            storage.check_private(path, folder=False)
            if os.stat(path).st_size > LARGEST_FILE:
                raise ConfigError(f"{path} is too large for a file of notes. {_mend(server_id)}")
            return [_note(item) for item in json.loads(path.read_text(encoding="utf-8"))["notes"]]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigError(f"{path} can't be read: {error.strerror}.") from None
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ConfigError(f"{path} is damaged. {_mend(server_id)}") from None

    def add(self, server_id: str, text: str, caller: Caller, record: Record) -> tuple[Note, int]:
        """Add a note; one whose text stands there already is not added again.

        Args:
            server_id: A registered server.

        Returns:
            The note, and how many the server has now.

        Raises:
            BadArgument: The text is empty or too long.
            FleetShellError: The server has as many notes as there may be, or the note can't be written.
            ConfigError: The server's notes are damaged; they stay.
        """
        kept = clean(text).strip()
        if not kept:
            raise BadArgument("The argument `note` is empty; give one fact that the next conversation should know.")
        if len(kept) > LONGEST_NOTE:
            raise BadArgument(
                f"The note has {len(kept):,} characters; allowed: at most {LONGEST_NOTE:,}. Keep what will still matter."
            )
        with self._writing():
            notes = self.of(server_id)
            for known in notes:
                if known.note == kept:
                    return known, len(notes)
            if len(notes) >= MOST_NOTES:
                raise FleetShellError(
                    f"{server_id} has {len(notes)} notes, and {MOST_NOTES} are the most. Only the operator can make room: "
                    f"`fleetshell notes list {server_id}`, then `fleetshell notes delete {server_id} NUMBER`."
                )
            who = caller.principal
            date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._now()))
            added = Note(kept, one_line(who.name, 80), who.key_id, one_line(caller.client, 80), date)
            record("note_added", server_id=server_id, note=kept)
            self._write(server_id, [*notes, added])
            return added, len(notes) + 1

    def delete(self, server_id: str, number: int | None, record: Record) -> int:
        """Delete one note, or all of a server, also where their file is damaged.

        Args:
            number: Which note, from 1, the oldest; None for all.

        Returns:
            How many are left.

        Raises:
            NotFound: There is no such note.
            ConfigError: The file is damaged, and one note was to be deleted.
        """
        with self._writing():
            if number is None:
                if server_id not in self.servers():
                    raise NotFound(f"{one_line(server_id, 80)} has no notes.")
                record("notes_deleted", server_id=server_id)
                self._remove(server_id)
                return 0
            notes = self.of(server_id)
            if not 1 <= number <= len(notes):
                numbers = f"; its notes are numbered 1 to {len(notes)}" if notes else ", and no other"
                raise NotFound(f"{one_line(server_id, 80)} has no note {number}{numbers}.")
            gone = notes.pop(number - 1)
            record("note_deleted", server_id=server_id, note=gone.note)
            if notes:
                self._write(server_id, notes)
            else:
                self._remove(server_id)
            return len(notes)

    def forget(self, server_id: str) -> None:
        """The server was removed."""
        with self._writing():
            self._remove(server_id)

    def _remove(self, server_id: str) -> None:
        self.path(server_id).unlink(missing_ok=True)
        storage.sync_folder(self._folder)

    def _write(self, server_id: str, notes: list[Note]) -> None:
        text = json.dumps({"notes": [asdict(note) for note in notes]}, indent=2, ensure_ascii=False) + "\n"
        storage.write_atomic(self.path(server_id), text)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the lock of all notes; a full disk becomes a sentence."""
        try:
            storage.make_folder(self._folder)
            with storage.locked(self._folder / ".lock"):
                yield
        except OSError as error:
            raise FleetShellError(
                f"The notes in {self._folder} could not be changed: {error.strerror}. What was there before is unchanged."
            ) from error


def _note(item: Any) -> Note:
    """A note as its file has it; a person may have written it, so it is cleaned again."""
    if not isinstance(item, dict):
        raise TypeError
    values = {name: item.get(name, "") for name in ("note", "author", "key_id", "client", "date")}
    if not all(isinstance(value, str) for value in values.values()) or not values["note"]:
        raise ValueError
    text = clean(values.pop("note"))[:LONGEST_NOTE]
    return Note(text, **{name: one_line(value, 80) for name, value in values.items()})


def _mend(server_id: str) -> str:
    return f"Mend it, or run `fleetshell notes delete {server_id} --all`."
