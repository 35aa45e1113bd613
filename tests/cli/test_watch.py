"""`status --watch` on a real terminal, and the picture that it draws."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.mcp_client import connected
from support.processes import wait_until
from support.relay import PROGRAM, RelayHome, RelayProcess, make_home
from support.sshd import KeyPair, Sshd
from support.terminal import Terminal

from fleetshell_tools.cli.watch import draw
from fleetshell_tools.core.text import width

ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"


def watching(home: RelayHome) -> Terminal:
    return Terminal(
        [*PROGRAM, "--home", str(home.path), "status", "--watch"], {"LINES": "40", "COLUMNS": "250"}, 10, controls=True
    )


@pytest.fixture
def relay(tmp_path: Path, relay_key: KeyPair, sshd: Sshd) -> RelayProcess:
    home = make_home(tmp_path / "home", relay_key.private)
    home.run("auth", "disable")
    home.add("web-1", sshd)
    return RelayProcess(home)


def test_hosts_sessions_running_commands_and_blocked_ones_are_shown_as_they_come(
    relay: RelayProcess, tmp_path: Path
) -> None:
    try:
        with watching(relay.home) as terminal, connected(relay) as client:
            terminal.expect("Hosts: 0 of 1 connected")
            session = client.call("create_shell_session", server_id="web-1")["structuredContent"]["session_id"]
            terminal.expect(f"{session}  web-1  idle")
            client.call("execute_command", server_id="web-1", command="mkfs /dev/sda; true")
            terminal.expect("Last blocked: 1")
            terminal.expect("web-1  mkfs /dev/sda; true")
            gate = tmp_path / "gate"
            command = f"true --password=hunter2; while [ ! -e {gate} ]; do sleep 0.1; done"
            calling = threading.Thread(
                target=lambda: client.call("execute_command", server_id="web-1", command=command)
            )
            calling.start()
            terminal.expect("Running: 1 commands")
            terminal.expect("--password=***; while")
            assert "hunter2" not in terminal.seen
            gate.touch()
            calling.join()
            terminal.expect("Running: 0 commands")
            terminal.keys("q")
            assert terminal.end() == 0
    finally:
        relay.stop()
    assert terminal.seen.startswith(ENTER) and terminal.seen.endswith(LEAVE)


@pytest.mark.parametrize("way", ["q", "\x03", signal.SIGTERM, signal.SIGHUP])
def test_the_terminal_is_put_back_however_it_ends(tmp_path: Path, way: str | signal.Signals) -> None:
    home = make_home(tmp_path / "home")
    with watching(home) as terminal:
        before = terminal.settings()
        terminal.expect("No relay is running")
        assert terminal.settings() != before
        if isinstance(way, str):
            terminal.keys(way)
        else:
            terminal.process.send_signal(way)
        terminal.expect(LEAVE)
        assert terminal.process.wait(20) == (0 if isinstance(way, str) else 128 + way)
        assert terminal.settings() == before


def test_a_suspended_view_gives_the_terminal_back_and_takes_it_again(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    with watching(home) as terminal:
        before = terminal.settings()
        terminal.expect("No relay is running")
        terminal.process.send_signal(signal.SIGTSTP)
        terminal.expect(LEAVE)
        status = Path(f"/proc/{terminal.process.pid}/status")
        wait_until(lambda: "State:\tT" in status.read_text(), 20, "it is stopped")
        assert terminal.settings() == before
        terminal.process.send_signal(signal.SIGCONT)
        terminal.expect(ENTER)
        terminal.expect("No relay is running")
        terminal.keys("q")
        assert terminal.end() == 0


def test_a_relay_that_is_started_later_is_found(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    with watching(home) as terminal:
        terminal.expect("No relay is running")
        relay = RelayProcess(home)
        try:
            terminal.expect(f":{relay.port}/mcp")
        finally:
            relay.stop()
        terminal.expect("No relay is running")


def test_without_a_terminal_it_is_refused_and_names_the_other_way(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    run = home.run("status", "--watch", check=False)
    assert (run.returncode, "status --json" in run.stderr) == (2, True)


def an_answer(servers: int = 0, running: int = 0, blocked: int = 0) -> dict[str, Any]:
    """What a relay says, with so many lines in each part."""
    status = {
        "version": "1.2.3", "address": "https://relay:8080/mcp", "uptime_seconds": 7200, "http": {"connections": 3}, "mcp_sessions": 2,
        "authenticated": 1, "calls": 9, "mfa_enabled": True, "certificate_ends": "2030-01-01T00:00:00Z", "servers": servers,
        "disabled_servers": {}, "shell_sessions": 0, "jobs": 0,
    }  # fmt: skip
    entry = {"server_id": "web", "tool": "execute_command", "command": "sleep 1\x1b[2J\n" + "x" * 200, "at": 0.0}
    server = {"id": "web", "state": "failed", "since": None, "last_error": "no route\x1b[31m"}
    return {
        "status": status, "servers": [server] * servers, "sessions": [], "running": [entry] * running,
        "running_count": running, "blocked": [entry] * blocked,
    }  # fmt: skip


@pytest.mark.parametrize("rows", [1, 5, 10, 24, 100])
@pytest.mark.parametrize("columns", [20, 80, 300])
def test_a_picture_fits_its_terminal_and_shows_no_control_characters(rows: int, columns: int) -> None:
    for answer in (an_answer(), an_answer(500, 300, 20), an_answer(1, 1, 1), "Nobody is there, and this is why: " * 9):
        lines = draw(answer, columns, rows, time.time())
        assert len(lines) <= rows
        assert all(width(line) <= columns for line in lines)
        assert not any(ord(letter) < 32 for line in lines for letter in line)


def test_what_has_no_room_is_counted() -> None:
    lines = draw(an_answer(servers=500, running=2), 80, 20, time.time())
    shown = sum("no route" in line for line in lines)
    assert f"  … {500 - shown} more" in lines
    assert sum("execute_command" in line for line in lines) == 2
