"""The processes of external MCP servers: who belongs to one, ending them all, and what a killed relay left.

A process belongs to a server if it is in the server's process group, or carries its mark: an environment variable that all
descendants inherit, so that one that left the group is found too.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import signal
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from fleetshell_tools.core import proc, storage
from fleetshell_tools.relay.upstream_keeper import Keeper

log = logging.getLogger("fleetshell")

MARK = "FLEETSHELL_MCP"
"""The environment variable whose value is a server's mark."""
GRACE_SECONDS = 2.0
"""How long processes get to end after SIGTERM."""


@dataclass(frozen=True)
class Group:
    """The processes of one start of a server: its leader's id and start (clock ticks since the boot `boot`), and its mark."""

    mcp_id: str
    pid: int
    start: int
    boot: str
    mark: str


def new_mark() -> str:
    return secrets.token_hex(12)


def note_of(mcp_id: str, pid: int, mark: str) -> Group:
    """The group that a program just started leads."""
    found = _stat(pid)
    return Group(mcp_id, pid, found.start if found else 0, _boot(), mark)


def members(group: Group) -> list[int]:
    """The processes of a group that live, in the order of their ids."""
    leader = _stat(group.pid)
    reused = leader is not None and leader.start != group.start
    wanted = f"{MARK}={group.mark}".encode()
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        folder = Path("/proc", name)
        try:
            if folder.stat().st_uid != os.geteuid():
                continue
            state, in_group = _state(folder, group.pid)
            if state == "Z":
                continue
            if (in_group and not reused) or wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(name))
        except OSError:  # it has ended, or may not be looked at
            continue
    return sorted(found)


def send(group: Group, number: signal.Signals) -> bool:
    """Send a signal to every process of a group; returns whether there was one."""
    found = members(group)
    for pid in found:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
    return bool(found)


def end(group: Group, grace: float = GRACE_SECONDS) -> int:
    """End a group by SIGTERM, then SIGKILL, and wait for it; returns how many processes there were."""
    count = len(members(group))
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, GRACE_SECONDS)):
        if not send(group, number):
            break
        deadline = time.monotonic() + seconds
        while members(group) and time.monotonic() < deadline:
            time.sleep(0.02)
    return count


class Notes:
    """The groups that run, known to a keeper and noted in a file, for a relay that is killed; for threads at once.

    Args:
        path: The file; what it says when this is made is what was left.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._keeper = Keeper()
        self._groups: dict[str, Group] = {group.mark: group for group in _read(path)}

    def left(self) -> list[Group]:
        with self._lock:
            return list(self._groups.values())

    def add(self, group: Group) -> None:
        self._keeper.add(group.pid)
        with self._lock:
            self._groups[group.mark] = group
            self._write()

    def remove(self, group: Group) -> None:
        self._keeper.remove(group.pid)
        with self._lock:
            if self._groups.pop(group.mark, None) is not None:
                self._write()

    def close(self) -> None:
        """Nothing is started any more."""
        self._keeper.close()

    def _write(self) -> None:
        try:
            text = json.dumps([asdict(group) for group in self._groups.values()])
            storage.write_atomic(self._path, text + "\n", durable=False)
        except OSError as error:
            # The server runs already; without this note it could only not be found after a crash of the relay.
            log.warning("External MCP servers can't be noted in %s: %s", self._path, error.strerror)


def sweep(notes: Notes, groups: Iterable[Group]) -> list[str]:
    """End what an earlier relay left, all of it at once; returns a sentence for each server that was still there."""
    said = []
    groups = list(groups)
    alive = [group for group in groups if group.boot == _boot() and send(group, signal.SIGTERM)]
    for group in alive:
        count = end(group)
        said.append(
            f"Ended {max(count, 1)} process(es) of the external MCP server {group.mcp_id} that an earlier relay left."
        )
    for group in groups:
        notes.remove(group)
    return said


def _read(path: Path) -> list[Group]:
    try:
        entries = json.loads(path.read_bytes())
        return [Group(**entry) for entry in entries]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError):
        log.warning("%s is damaged: external MCP servers that an earlier relay left can't be found by it.", path)
        return []


def _stat(pid: int) -> proc.Stat | None:
    try:
        return proc.stat(Path("/proc", str(pid), "stat").read_bytes())
    except OSError:
        return None


def _state(folder: Path, group: int) -> tuple[str, bool]:
    """A process's state, and whether it is in a process group; proc(5): behind the name come state, parent, group."""
    fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
    return fields[0].decode(), int(fields[2]) == group


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
