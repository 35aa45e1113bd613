"""Finding every process that a test run started, however it hid: a mark that all descendants inherit.

An environment variable is not enough: OpenSSH's `ssh` and `sshd` overwrite their environment's memory with their process
title, so a ControlMaster in the background shows an empty /proc/PID/environ, and its parent is init. A resource limit
survives fork, exec, a cleaned environment and a daemon's double fork, and anyone may read it. The mark is the soft limit
RLIMIT_RSS, which Linux has ignored since 2.4.30 (getrlimit(2)), at a value near 2**60 that is unique to this run.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import resource
import secrets
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

_PER_RUN = 1 << 16
RUN_MARK = (1 << 60) + secrets.randbits(40) * _PER_RUN
"""The mark of this test run's own process and of everything that it starts, until it is given another."""

_LIMIT = re.compile(r"^Max resident set +(\d+)", re.MULTILINE)
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Process:
    """A living process or a zombie (`state` is "Z"), as /proc showed it; `mark` is 0 where it has none of this run."""

    pid: int
    parent: int
    name: str
    state: str
    mark: int
    command: str

    def __str__(self) -> str:
        return f"{self.pid} ({self.command or self.name}{', a zombie' if self.state == 'Z' else ''})"


def mark_this_process() -> None:
    """Mark the test run: call once, before it starts any process."""
    resource.setrlimit(resource.RLIMIT_RSS, (RUN_MARK, resource.getrlimit(resource.RLIMIT_RSS)[1]))


def new_mark() -> int:
    """A mark of this run that no process has yet, for a daemon whose processes shall be told apart from all others."""
    return RUN_MARK + next(_numbers)


def set_mark(pid: int, mark: int) -> None:
    """Mark a process just started, and with it all that it will start."""
    resource.prlimit(pid, resource.RLIMIT_RSS, (mark, resource.getrlimit(resource.RLIMIT_RSS)[1]))


def pids() -> set[int]:
    """Every process id on this machine."""
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


def inspect(pid: int) -> Process | None:
    """What /proc says of one process; None where it is gone."""
    folder = Path("/proc", str(pid))
    try:
        limit = _LIMIT.search((folder / "limits").read_text())
        name, _, rest = (folder / "stat").read_text(errors="replace").partition("(")[2].rpartition(")")
        command = (folder / "cmdline").read_text(errors="replace").replace("\0", " ").strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    value = int(limit[1]) if limit else 0
    state, parent = rest.split()[:2]
    mark = value if RUN_MARK <= value < RUN_MARK + _PER_RUN else 0
    return Process(pid, int(parent), name, state, mark, command[:200])


def alive(mark: int) -> list[Process]:
    """Every process with this mark that is not a zombie, parents before their children (but where ids have wrapped)."""
    found = [process for pid in sorted(pids()) if (process := inspect(pid)) and process.mark == mark]
    return [process for process in found if process.state != "Z"]


def signal_all(processes: Iterable[Process], number: signal.Signals) -> None:
    """Send a signal to each process that is still there."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Poll until `condition()` is true.

    Raises:
        AssertionError: It was not within `seconds`; the message names `what` was awaited.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s in vain: {what}")
        time.sleep(0.005)
