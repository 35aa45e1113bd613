"""`status --watch`: a live view of the running relay on the terminal, which is put back as it was at the end."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from fleetshell_tools.cli import output
from fleetshell_tools.core import control
from fleetshell_tools.core.errors import FleetShellError
from fleetshell_tools.core.home import Home
from fleetshell_tools.core.text import clean, width

REFRESH_SECONDS = 1.0

_ENTER = "\x1b[?1049h\x1b[?25l"
_LEAVE = "\x1b[?25h\x1b[?1049l"
_HOME, _TO_THE_RIGHT, _BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
"""The other screen without a cursor, and back; the first cell; what is erased: to the right, and below."""


@dataclass
class Section:
    """A headline with lines below it, of which some may have no room."""

    title: str
    lines: list[str]


def watch(home: Home) -> int:
    """Show the relay until q or Ctrl-C; one that stops and starts again is found again."""
    with _screen() as key:
        while True:
            size = shutil.get_terminal_size()
            frame = draw(_asked(home), size.columns, size.lines, time.time())
            sys.stdout.write(_HOME + "\n".join(f"{line}{_TO_THE_RIGHT}" for line in frame) + _BELOW)
            sys.stdout.flush()
            if key(REFRESH_SECONDS) in ("q", "Q"):
                return 0


def _asked(home: Home) -> dict[str, Any] | str:
    """What the relay says, or a sentence about why it does not."""
    try:
        answer = control.ask(home.control_socket, {"do": "watch"})
    except FleetShellError as error:
        return error.message
    return f"No relay is running on {home.path}. This goes on looking for one." if answer is None else answer


@contextlib.contextmanager
def _screen() -> Iterator[Callable[[float], str]]:
    """Take the whole terminal; yields what waits so many seconds for a key. Ctrl-Z gives the terminal back meanwhile."""
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)

    def enter() -> None:
        tty.setcbreak(terminal)
        sys.stdout.write(_ENTER)

    def leave() -> None:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)

    def suspend(number: int, frame: FrameType | None) -> None:
        leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        enter()

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    def key(seconds: float) -> str:
        ready, _, _ = select.select([terminal], [], [], seconds)
        if not ready:
            return ""
        return os.read(terminal, 1).decode("ascii", "replace") or "q"  # the terminal is gone

    handlers = {signal.SIGTSTP: suspend, signal.SIGTERM: end, signal.SIGHUP: end}
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    enter()
    try:
        yield key
    except KeyboardInterrupt:
        return
    finally:
        leave()
        for number, handler in previous.items():
            signal.signal(number, handler)


def draw(answer: dict[str, Any] | str, columns: int, rows: int, now: float) -> list[str]:
    """The lines of one picture, none wider than `columns` and not more than `rows`.

    Args:
        answer: What the relay says, or a sentence.
        now: Seconds since the epoch.
    """
    clock = time.strftime("%H:%M:%S", time.localtime(now))
    if isinstance(answer, str):
        return [_cut(f"FleetShell  {clock}  (q quits)", columns), "", *_wrapped(answer, columns)][:rows]
    status = answer["status"]
    head = [
        f"FleetShell {status['version']}  {status['address']}  up {_span(status['uptime_seconds'])}  {clock}  (q quits)",
        f"{status['http']['connections']} connections  {status['mcp_sessions']} MCP sessions  "
        f"{status['authenticated']} authenticated  {status['calls']} calls  MFA {'on' if status['mfa_enabled'] else 'OFF'}"
        + (f"  certificate until {status['certificate_ends'][:10]}" if status["certificate_ends"] else ""),
    ]
    sections = _sections(answer, now)
    _make_room(sections, rows - len(head) - 2 * len(sections))
    lines = [_cut(line, columns) for line in head]
    for section in sections:
        lines += [
            "",
            output.paint(_cut(section.title, columns), "bold"),
            *(_cut(line, columns) for line in section.lines),
        ]
    return lines[:rows]


def _sections(answer: dict[str, Any], now: float) -> list[Section]:
    status = answer["status"]
    connected = sum(server["state"] == "connected" for server in answer["servers"])
    usable = status["servers"]
    disabled = len(status["disabled_servers"])
    return [
        Section(
            f"Hosts: {connected} of {usable} connected" + (f", {disabled} disabled" if disabled else ""),
            [
                _server(server, now)
                for server in sorted(answer["servers"], key=lambda server: server["state"] == "connected")
            ],
        ),
        Section(
            f"Shell sessions: {status['shell_sessions']}",
            [
                f"  {session['session_id']}  {session['server_id']}  "
                f"{'runs a command' if session['running'] else 'idle ' + _span(session['idle_seconds'])}  {session['cwd']}"
                for session in answer["sessions"]
            ],
        ),
        Section(
            f"Running: {answer['running_count']} commands, {status['jobs']} of them in jobs",
            [
                f"  {_span(now - entry['at']):>7}  {entry['server_id']}  {entry['tool']}  {entry['command']}"
                for entry in answer["running"]
            ],
        ),
        Section(
            f"Last blocked: {len(answer['blocked'])}",
            [
                f"  {time.strftime('%H:%M:%S', time.localtime(entry['at']))}  {entry['server_id']}  {entry['command']}"
                for entry in answer["blocked"]
            ],
        ),
    ]


def _server(server: dict[str, Any], now: float) -> str:
    since = f"  {_span(now - server['since'])}" if server["state"] == "connected" and server["since"] else ""
    trouble = f"  {server['last_error']}" if server["last_error"] and server["state"] != "connected" else ""
    return f"  {server['id']}  {server['state']}{since}{trouble}"


def _make_room(sections: list[Section], rows: int) -> None:
    """Shorten the longest sections until all have room."""
    room = [len(section.lines) for section in sections]
    while sum(room) > max(rows, 0):
        room[room.index(max(room))] -= 1
    for section, places in zip(sections, room, strict=True):
        if places < len(section.lines):
            rest = len(section.lines) - places + 1
            section.lines = [*section.lines[: places - 1], f"  … {rest} more"] if places else []


def _span(seconds: float) -> str:
    whole = max(0, int(seconds))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if whole >= size:
            return f"{whole // size} {unit}"
    return f"{whole} s"


def _cut(text: str, columns: int) -> str:
    text = clean(text[:1000]).replace("\n", " ").replace("\t", " ")
    if width(text) <= columns:
        return text
    while text and width(text) >= columns:
        text = text[:-1]
    return f"{text}…"


def _wrapped(text: str, columns: int) -> list[str]:
    words, lines = text.split(), [""]
    for word in words:
        if lines[-1] and width(f"{lines[-1]} {word}") > columns:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return [_cut(line, columns) for line in lines]
