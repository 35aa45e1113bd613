"""What a service manager is told, over real sockets, and the lines that its journal gets."""

from __future__ import annotations

import logging
import os
import socket
import sys
from pathlib import Path

import pytest

from fleetshell_tools.core import supervisor


@pytest.mark.parametrize("abstract", [False, True])
def test_a_message_reaches_the_named_socket(abstract: bool, short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"@fleetshell-test-{os.getpid()}" if abstract else str(short_tmp / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name[1:]}" if abstract else name)
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        supervisor.notify("READY=1", "STATUS=serves")
        assert manager.recv(100) == b"READY=1\nSTATUS=serves"


def test_without_a_manager_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    supervisor.notify("READY=1")


def test_a_manager_that_has_gone_is_logged_and_nothing_fails(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(short_tmp / "none"))
    supervisor.notify("WATCHDOG=1")
    assert "could not be told WATCHDOG=1" in caplog.text


@pytest.mark.parametrize(
    ("microseconds", "pid", "seconds"),
    [
        ("60000000", "", 60.0),
        ("1500000", str(os.getpid()), 1.5),
        ("1500000", "1", None),
        ("0", "", None),
        ("", "", None),
        ("x", "", None),
    ],
)
def test_the_watchdogs_patience_is_read_where_it_is_ours(
    monkeypatch: pytest.MonkeyPatch, microseconds: str, pid: str, seconds: float | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", microseconds)
    monkeypatch.setenv("WATCHDOG_PID", pid)
    assert supervisor.watchdog_seconds() == seconds


def test_only_the_stream_that_is_journalds_is_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(tmp_path / "stream", "w") as stream, open(tmp_path / "other", "w") as other:
        info = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{info.st_dev}:{info.st_ino}")
        assert supervisor.is_journal(stream)
        assert not supervisor.is_journal(other)
    assert not supervisor.is_journal(stream)


@pytest.mark.parametrize(
    ("level", "number"), [(logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7)]
)
def test_every_line_of_a_message_has_its_priority(level: int, number: int) -> None:
    record = logging.LogRecord("x", level, __file__, 1, "one %s", ("thing",), None)
    assert supervisor.JournalFormatter().format(record) == f"<{number}>one thing"


def test_a_traceback_is_an_error_in_every_line() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, __file__, 1, "failed", (), sys.exc_info())
    lines = supervisor.JournalFormatter().format(record).splitlines()
    assert len(lines) > 3 and all(line.startswith("<3>") for line in lines)
