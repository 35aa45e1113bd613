"""Which login shell answered on each connection before, so that the first command on a new one needs no probe."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

from fleetshell_tools.core import storage
from fleetshell_tools.fleet.remote import POSIX_SHELLS

log = logging.getLogger("fleetshell")


class KnownShells:
    """Login shells by connection identity, for threads and processes at once; the file is a cache and may be deleted.

    Each line is `IDENTITY SHELL`, of which the last one counts; "-" takes a name out.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._shells: dict[str, str] | None = None

    def get(self, name: str) -> str:
        """The POSIX shell behind an identity, or "" where it is not known."""
        with self._lock:
            return self._read().get(name, "")

    def learn(self, name: str, shell: str) -> None:
        """Keep what a probe or a first command told; a shell that is not POSIX is probed each time."""
        if shell not in POSIX_SHELLS:
            shell = "-"
        with self._lock:
            if self._read().get(name, "-") != shell:
                self._read()[name] = shell
                self._append(f"{name} {shell}\n")

    def forget(self, name: str) -> None:
        """What was known has proved wrong."""
        self.learn(name, "-")
        with self._lock:
            self._read().pop(name, None)

    def _read(self) -> dict[str, str]:
        if self._shells is None:
            lines = []
            try:
                storage.check_private(self._path, folder=False)
                lines = self._path.read_text(errors="replace").splitlines()
            except FileNotFoundError:
                pass
            known = dict(pair for line in lines if len(pair := line.split(" ")) == 2)
            self._shells = {name: shell for name, shell in known.items() if shell in POSIX_SHELLS}
            if len(lines) > 2 * len(self._shells) + 100:
                text = "".join(f"{name} {shell}\n" for name, shell in self._shells.items())
                storage.write_atomic(self._path, text, durable=False)
        return self._shells

    def _append(self, line: str) -> None:
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(self._path, flags, storage.PRIVATE_FILE)
            try:
                os.write(fd, line.encode())
            finally:
                os.close(fd)
        except OSError as error:
            log.warning(
                "%s can't be written (%s): the next connections probe their hosts again.", self._path, error.strerror
            )
