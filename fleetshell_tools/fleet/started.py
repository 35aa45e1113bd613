"""What was started on hosts and has not ended yet, on disk, so that a relay that was killed can find what it left."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from fleetshell_tools.core import storage

log = logging.getLogger("fleetshell")


@dataclass(frozen=True)
class Left:
    """A command that had not ended when the relay was killed.

    `group` is its process group and session on the host, `start` the leader's start time in clock ticks since the
    boot that `boot` names: ids are reused, both together are not.
    """

    nonce: str
    server_id: str
    command: str
    group: int
    start: str
    boot: str


class Started:
    """One small file for each running command, in a folder of its own.

    They are not fsynced: what they guard against is a relay that dies, and the kernel keeps what was written then.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        storage.make_folder(folder)

    def add(self, nonce: str, server_id: str, command: str, group: int, start: str, boot: str) -> None:
        """Note that a command has started."""
        text = json.dumps({"server_id": server_id, "command": command, "group": group, "start": start, "boot": boot})
        try:
            fd = os.open(
                self._folder / nonce, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, storage.PRIVATE_FILE
            )
            with os.fdopen(fd, "w") as file:
                file.write(text)
        except OSError as error:
            # The command runs already; without this note it could only not be found after a crash of the relay.
            log.warning("A running command on %s can't be noted in %s: %s", server_id, self._folder, error.strerror)

    def remove(self, nonce: str) -> None:
        """Note that it has ended."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._folder / nonce)

    def left(self) -> list[Left]:
        """What an earlier relay did not see the end of; files that a crash tore are removed."""
        found = []
        for path in sorted(self._folder.iterdir()):
            try:
                found.append(Left(nonce=path.name, **json.loads(path.read_text())))
            except (ValueError, TypeError):
                path.unlink(missing_ok=True)
        return found
