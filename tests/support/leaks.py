"""The check that a test leaves nothing behind: no thread, no file descriptor, no process here or on a test's sshd.

A clean test costs two listings of /proc, under a millisecond; what is found is given `PATIENCE` seconds to end by itself.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from support import processes
from support.processes import Process

PATIENCE = 3.0
"""Seconds that a process or a thread gets to end after its test."""

_IGNORED_FILES = ("/.hypothesis/",)
_known: dict[int, frozenset[str] | None] = {}


def know(mark: int, names: frozenset[str] | None = None) -> None:
    """Let the processes of a daemon that is meant to outlive tests pass.

    Args:
        mark: From `processes.new_mark`, set on the daemon by `processes.set_mark` when it is started.
        names: Only processes with these names pass; all of them where it is None.
    """
    _known[mark] = names


@dataclass
class Snapshot:
    """The threads, descriptors and processes that were there before a test."""

    threads: set[threading.Thread]
    files: set[tuple[int, str]]
    pids: set[int]

    @staticmethod
    def take() -> Snapshot:
        return Snapshot(set(threading.enumerate()), _open_files(), processes.pids())

    def forgive(self) -> None:
        """Count what is there now as having been there before."""
        now = Snapshot.take()
        self.threads |= now.threads
        self.files |= now.files
        self.pids |= now.pids

    def new_threads(self) -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread not in self.threads]

    def new_files(self) -> list[tuple[int, str]]:
        new = _open_files() - self.files
        return sorted((fd, target) for fd, target in new if not any(part in target for part in _IGNORED_FILES))

    def new_processes(self) -> list[Process]:
        """What carries a mark of this run and not a known daemon's, however it was orphaned; and children not waited for."""
        found = [process for pid in sorted(processes.pids() - self.pids) if (process := processes.inspect(pid))]
        return [process for process in found if _is_ours(process)]

    def leaked(self) -> list[str]:
        """One line for each thing that is there now, was not before, and does not end within `PATIENCE`."""
        deadline = time.monotonic() + PATIENCE
        pause = 0.001
        while self.new_threads() or self.new_files() or self.new_processes():
            if time.monotonic() > deadline:
                break
            if self.new_files():
                # What only a reference cycle holds is closed sooner or later: now, so that the outcome is not up to luck.
                gc.collect()
            time.sleep(pause)
            pause = min(pause * 2, 0.1)
        return [
            *(f"the thread {thread.name!r}" for thread in self.new_threads()),
            *(f"the file descriptor {fd} ({target})" for fd, target in self.new_files()),
            *(f"the {_kind(process)} {process}" for process in self.new_processes()),
        ]


@contextlib.contextmanager
def nothing_left_behind(what: str, within: Snapshot | None = None) -> Iterator[Snapshot]:
    """Fail the test if the block leaves anything; processes are killed then, so that they cannot disturb later tests.

    Args:
        what: The subject of the message's sentence.
        within: The snapshot of a block around this one, which need not report the same again.
    """
    before = Snapshot.take()
    yield before
    left = before.leaked()
    if left:
        processes.signal_all(before.new_processes(), signal.SIGKILL)
        if within:
            within.forgive()
        pytest.fail(f"{what} left behind: {'; '.join(left)}", pytrace=False)


def _open_files() -> set[tuple[int, str]]:
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.add((int(fd), os.readlink(f"/proc/self/fd/{fd}")))
    return found


def _is_ours(process: Process) -> bool:
    if process.mark in _known:
        names = _known[process.mark]
        known = names is None or process.name in names
    else:
        known = process.mark == 0
    # A zombie is its parent's business: it is a leak where the parent is this process, and init's slowness elsewhere.
    return process.parent == os.getpid() if process.state == "Z" else not known


def _kind(process: Process) -> str:
    if process.parent == os.getpid():
        return "child process"
    return "orphaned process" if process.mark == processes.RUN_MARK else "remote process"
