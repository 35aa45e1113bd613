"""What a service manager wants to hear of us, and how its journal wants log lines: sd_notify(3), sd-daemon(3)."""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import TextIO

log = logging.getLogger("fleetshell")


def notify(*lines: str) -> None:
    """Tell the service manager something, such as `READY=1`; without one nothing happens, and one that does not listen is logged."""
    name = os.environ.get("NOTIFY_SOCKET", "")
    if not name:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sender:
            sender.connect(f"\0{name[1:]}" if name.startswith("@") else name)
            sender.send("\n".join(lines).encode())
    except OSError as error:
        log.warning("The service manager could not be told %s on %s: %s", lines[0], name, error.strerror)


def reloading() -> tuple[str, str]:
    """The lines that begin a reload; `READY=1` ends it."""
    return "RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}"


def watchdog_seconds() -> float | None:
    """After how many seconds without a `WATCHDOG=1` we are taken for dead; None where nobody watches (sd_watchdog_enabled(3))."""
    microseconds, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not microseconds.isdigit() or int(microseconds) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(microseconds) / 1e6


def is_journal(stream: TextIO) -> bool:
    """Whether what is written to a stream goes to journald itself (`JOURNAL_STREAM`, systemd.exec(5))."""
    try:
        info = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{info.st_dev}:{info.st_ino}"


class JournalFormatter(logging.Formatter):
    """Lines for journald, which has the time itself and takes the priority from the beginning of each line."""

    _PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        priority = next(number for level, number in self._PRIORITIES if record.levelno >= level)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())
