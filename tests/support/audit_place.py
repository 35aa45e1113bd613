"""Places with an audit log in them: files, writers in other processes, and disks so small that they are soon full."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fleetshell_tools.core.audit import AuditLog
from fleetshell_tools.core.audit_checkpoints import Checkpoints
from fleetshell_tools.core.audit_files import numbered
from fleetshell_tools.core.audit_reading import read
from fleetshell_tools.core.audit_verification import Verification, verify

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Place:
    """A home with an audit log in it."""

    folder: Path
    logs: list[AuditLog] = field(default_factory=list, compare=False)

    @property
    def path(self) -> Path:
        return self.folder / "audit.log"

    @property
    def key(self) -> Path:
        return self.folder / "audit.key"

    @property
    def head(self) -> Path:
        return self.folder / "audit.head"

    @property
    def reserve(self) -> Path:
        return self.folder / "audit.reserve"

    @property
    def signing_key(self) -> Path:
        return self.folder / "audit-signing.key"

    def older(self, number: int) -> Path:
        return numbered(self.path, number)

    def log(self, *, reserve: bool = False, max_bytes: int = 0, keep: int = 0) -> AuditLog:
        reserved = self.reserve if reserve else None
        self.logs.append(AuditLog(self.path, self.key, self.head, reserved, max_bytes=max_bytes, keep=keep))
        return self.logs[-1]

    def checkpoints(self, log: AuditLog, journal: Path | None = None) -> Checkpoints:
        return Checkpoints(log, self.signing_key, str(journal or self.folder / "no-journal"))

    def close(self) -> None:
        for log in self.logs:
            log.close()

    def verify(self) -> Verification:
        return verify(self.path, self.key, self.head, self.signing_key)

    def lines(self, number: int = 0) -> list[bytes]:
        return (self.older(number) if number else self.path).read_bytes().splitlines(keepends=True)

    def records(self) -> list[dict[str, object]]:
        return list(read(self.path))


def fill(place: Place, count: int) -> None:
    log = place.log()
    for number in range(count):
        log.record("command", server_id="web-1", command=f"echo {number}")
    log.close()


def writer(place: Place, body: str, more: str = "") -> list[str]:
    """The argv of another process that has `log` (with `more` arguments) and runs `body`."""
    lines = [
        "import sys, resource",
        "from pathlib import Path",
        "from fleetshell_tools.core.audit import AuditLog",
        "from fleetshell_tools.core.errors import AuditUnavailable",
        "home = Path(sys.argv[1])",
        f"log = AuditLog(home / 'audit.log', home / 'audit.key', home / 'audit.head', {more})",
        body,
    ]
    return [sys.executable, "-c", "\n".join(lines), str(place.folder)]


Mount = Callable[[int], Place]


@contextlib.contextmanager
def small_disks(folder: Path) -> Iterator[Mount]:
    """A function that mounts a tmpfs of so many KiB on `folder`, with a place in it; the test is skipped without root."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    folder.mkdir()

    def run(kibibytes: int) -> Place:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k,mode=700", "tmpfs", str(folder)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
        mounted.append(Place(folder))
        return mounted[-1]

    mounted: list[Place] = []
    yield run
    for place in mounted:
        place.close()
        subprocess.run(["umount", str(place.folder)], check=True)


def occupy(path: Path, leave: int = 0) -> None:
    """Fill the file system of `path`, but for `leave` bytes."""
    with path.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(b"\0" * 4096)
            except OSError:
                break
        file.truncate(max(file.tell() - leave, 0))
