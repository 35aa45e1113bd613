"""What was started on hosts and has not ended yet, on disk, so that a relay that was killed can find what it left."""

from __future__ import annotations

import json
import logging
import os
import threading
from dataclasses import dataclass
from pathlib import Path

from fleetshell_tools.core import storage
from fleetshell_tools.core.masking import mask_whole

log = logging.getLogger("fleetshell")

COMPACT_AT = 256 * 1024
"""Bytes after which the journal is cut to what still runs."""


@dataclass(frozen=True)
class Left:
    """A command that had not ended when the relay was killed.

    `group` is its process group and session on the host; `start` is when it started, in clock ticks since the boot that
    `boot` names, as close as it is known ("" where it is not): ids are reused, all three together are not.
    """

    nonce: str
    server_id: str
    command: str
    group: int
    start: str
    boot: str


class Started:
    """A journal with a line for each start and each end, for threads at once.

    It is not fsynced: what it guards against is a relay that dies, and the kernel keeps what was written then.

    Args:
        path: The journal; what an earlier relay left in it is read by `left` before anything is added.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._running: dict[str, Left] = {left.nonce: left for left in read(path)}
        self._fd = -1
        self._size = 0
        self._rewrite()

    def add(self, nonce: str, server_id: str, command: str, group: int, start: str, boot: str) -> None:
        """Note that a command has started; secrets in it are masked, as in the audit log."""
        left = Left(nonce, server_id, mask_whole(command), group, start, boot)
        with self._lock:
            self._running[nonce] = left
            self._append(json.dumps(vars(left)))

    def remove(self, nonce: str) -> None:
        """Note that it has ended."""
        with self._lock:
            if self._running.pop(nonce, None) is None:
                return
            if self._size > COMPACT_AT:
                self._rewrite()
            else:
                self._append(f'{{"ended":"{nonce}"}}')

    def left(self) -> list[Left]:
        """What has not ended; at a start, that is what an earlier relay left."""
        with self._lock:
            return list(self._running.values())

    def adopt(self, path: Path) -> list[Left]:
        """Take over the notes of another journal, whose owner is gone; returns what they say."""
        found = read(path)
        with self._lock:
            self._running.update((left.nonce, left) for left in found)
            self._rewrite()
        return found

    def close(self) -> None:
        """Close the journal; a second time does nothing."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _append(self, line: str) -> None:
        if self._fd < 0:
            return
        try:
            self._size += os.write(self._fd, line.encode() + b"\n")
        except OSError as error:
            # The command runs already; without this note it could only not be found after a crash of the relay.
            log.warning("A running command can't be noted in %s: %s", self._path, error.strerror)

    def _rewrite(self) -> None:
        """Begin the journal anew with what still runs."""
        text = "".join(json.dumps(vars(left)) + "\n" for left in self._running.values())
        storage.write_atomic(self._path, text, durable=False)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._size = len(text)


def read(path: Path) -> list[Left]:
    """What a journal says is running; a line that a crash tore is left out."""
    running: dict[str, Left] = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            entry = json.loads(line)
            if "ended" in entry:
                running.pop(entry["ended"], None)
            else:
                left = Left(**entry)
                running[left.nonce] = left
        except (ValueError, TypeError):
            log.warning("A torn line in %s was left out.", path)
    return list(running.values())
