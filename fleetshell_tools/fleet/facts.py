"""What was learned of the hosts, by connection; and on disk for the next start: what a host was, when it answered."""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path

from fleetshell_tools.core import storage
from fleetshell_tools.core.errors import ConfigError
from fleetshell_tools.core.scripts import FACTS, Facts
from fleetshell_tools.fleet.connections import Connection

log = logging.getLogger("fleetshell")

PAUSE = 60.0
"""Seconds between two notes on disk that a host has answered."""


class Learned:
    """Facts by server, for threads at once; the files are a cache and may be deleted.

    Args:
        folder: One JSON file a server: `{"seen": …, "facts": {…}}`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._connections: dict[str, tuple[int, Facts]] = {}
        self._known: dict[str, tuple[float, Facts | None]] = {}
        self._written: dict[str, float] = {}

    def of_connection(self, connection: Connection) -> Facts | None:
        """What was found out over this very connection, or None where that is still to be done."""
        made, facts = self._connections.get(connection.name, (0, None))
        return facts if made == connection.made and connection.since else None

    def learn(self, server_id: str, connection: Connection, facts: Facts) -> None:
        """Keep what was found out over a connection."""
        with self._lock:
            self._connections[connection.name] = (connection.made, facts)
            self._known[server_id] = (time.time(), facts)
            self._write(server_id)

    def seen(self, server_id: str) -> None:
        """A host has answered."""
        now = time.time()
        if now - self._written.get(server_id, 0.0) < PAUSE:
            known = self._known.get(server_id)
            self._known[server_id] = (now, known[1] if known else None)
            return
        facts = self.facts(server_id)
        with self._lock:
            self._known[server_id] = (now, facts)
            self._write(server_id)

    def facts(self, server_id: str) -> Facts | None:
        """What a host was when it was last looked at."""
        return self._read(server_id)[1]

    def last_seen(self, server_id: str) -> float | None:
        """When a host last answered, in seconds since the epoch."""
        return self._read(server_id)[0] or None

    def forget(self, server_id: str) -> None:
        """The server was removed."""
        with self._lock:
            self._known.pop(server_id, None)
            self._written.pop(server_id, None)
            self._path(server_id).unlink(missing_ok=True)

    def _path(self, server_id: str) -> Path:
        return self._folder / f"{server_id}.json"

    def _read(self, server_id: str) -> tuple[float, Facts | None]:
        found = self._known.get(server_id)
        if found is None:
            found = self._load(self._path(server_id))
            self._known[server_id] = found
        return found

    def _load(self, path: Path) -> tuple[float, Facts | None]:
        try:
            storage.check_private(path, folder=False)
            document = json.loads(path.read_text(encoding="utf-8"))
            values = document["facts"]
            facts = Facts({name: str(values[name]) for name in FACTS if name in values}) if values else None
            return float(document["seen"]), facts
        except FileNotFoundError:
            return 0.0, None
        except (OSError, ConfigError, ValueError, KeyError, TypeError) as error:
            log.warning("%s can't be used (%s); what was known of that host is learned again.", path, error)
            return 0.0, None

    def _write(self, server_id: str) -> None:
        """Write a server's file; the lock is held."""
        seen, facts = self._known[server_id]
        try:
            storage.make_folder(self._folder)
            text = json.dumps({"seen": round(seen), "facts": dict(facts.values) if facts else None})
            storage.write_atomic(self._path(server_id), text, durable=False)
            self._written[server_id] = seen
        except OSError as error:
            log.warning("What was learned of %s can't be noted in %s: %s", server_id, self._folder, error.strerror)
