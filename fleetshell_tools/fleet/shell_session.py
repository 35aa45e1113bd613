"""One shell session: a shell on a host's terminal, what is typed into it, and what it answers."""

from __future__ import annotations

import os
import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from fleetshell_tools.core.errors import BadArgument, Cancelled, TimedOut, Unreachable
from fleetshell_tools.core.servers import Server
from fleetshell_tools.core.text import decode, one_line
from fleetshell_tools.core.types import Cancellation, Captured
from fleetshell_tools.fleet import framing
from fleetshell_tools.fleet.collect import HeadTail
from fleetshell_tools.fleet.connections import Connection
from fleetshell_tools.fleet.mux import Terminal

INSIST_SECONDS = 2.0
"""After how long a Ctrl-C that has ended nothing is repeated, once."""

CANCEL_SECONDS = 2.0
"""How long a command gets to end after Ctrl-C because its call was cancelled."""

QUIET_SECONDS = 0.5
"""After how long without output a shell that replaced ours by `exec` is taken to wait for a line."""

_CTRL_C = b"\x03"
_DEFINES = re.compile(r"[A-Za-z_]\w*\+?=|\(\s*\)|\b(?:alias|function|read|eval|source|trap|hash|set|declare|typeset)\b")


@dataclass(frozen=True)
class Heard:
    """What came of one call.

    `state` is "finished", "running", "cancelled" (and still running), "ended" (the shell is gone: by itself, or by a
    signal where `status` is None), "lost" (the connection broke) or "closed" (another call closed the session).
    """

    state: str
    output: Captured
    status: int | None = None
    cancelled: bool = False


class ShellSession:
    """A shell that keeps its state between commands. The caller of `run` and `listen` holds `lock`.

    Args:
        owner: The principal's key id.
        keep: Bytes of output kept from the start and from the end of what one call sees.

    Attributes:
        running: The command that has not ended yet.
        unreported: The status of a command that ended while no call was waiting for it.
        marker: What identifies the shell's process on the host (see `remote.announce`).
        made: Which of the connection's masters it goes over.
        holds_place: Whether it has a terminal, and a place among the sessions of its connection.
        ready: Whether the shell has answered.
        closing: Set by whoever closes the session, so that a waiting call returns.
    """

    def __init__(
        self, session_id: str, owner: str, server: Server, connection: Connection, keep: int, now: Callable[[], float]
    ) -> None:
        self.id = session_id
        self.owner = owner
        self.server = server
        self.connection = connection
        self.made = connection.made
        self.nonce = f"fs-{secrets.token_hex(12)}"
        self.lock = threading.Lock()
        self.created_at = time.time()
        self.used = now()
        self.used_at = self.created_at
        self.shell = ""
        self.cwd = ""
        self.marker = ""
        self.running: str | None = None
        self.unreported: int | None = None
        self.ready = False
        self.holds_place = False
        self.closing = False
        self.intent: int | None = None
        self.terminal: Terminal
        self._now = now
        self._on_output: Callable[[bytes], None] = _unheard
        self._keep = keep
        self._sink = HeadTail(keep)
        self._prompt = secrets.token_hex(8)
        self._framing = framing.Framing(self._prompt, self._take)
        self._nonces: list[str] = []
        self._zsh = False
        self._began = False
        self._insist_at = float("inf")
        self._probing = False
        self._replaced = False
        self._echoed = False
        self._healed = False
        self._definitions: list[str] = []

    def open(self, shell: str, deadline: float, cancelled: Cancellation) -> None:
        """Wait until the shell is there and ours.

        Raises:
            Unreachable, BadArgument, TimedOut, Cancelled: There is no shell; `release` is the caller's to call.
        """
        self.shell, terminal = shell, self.terminal
        forget = cancelled.on_set(terminal.wake)
        try:
            self._await_marker(deadline, cancelled)
            ready = framing.ready(self.nonce).encode()
            while ready not in self._sink.captured().head:
                self._check_opening(deadline, cancelled)
                self._absorb(terminal.read(deadline))
            self._probe()
            while self._probing:
                self._check_opening(deadline, cancelled)
                self._absorb(terminal.read(deadline))
        finally:
            forget()
        self._sink = HeadTail(self._keep)  # start-up noise is nobody's output
        self.ready = True

    def run(self, command: str, deadline: float, cancelled: Cancellation, on_output: Callable[[bytes], None]) -> Heard:
        """Type a command, and wait for its end or the deadline."""
        nonce = self._new_nonce()
        self.running, self.unreported = command, None
        self._began = self._probing = self._echoed = self._healed = False
        self._replaced = framing.replaces_the_shell(command)
        if _DEFINES.search(command):
            self._definitions.append(command)
        self.terminal.write(framing.typed(command, nonce, zsh=self._zsh))
        return self.listen(deadline, cancelled, on_output)

    def listen(self, deadline: float, cancelled: Cancellation, on_output: Callable[[bytes], None]) -> Heard:
        """Wait for the end of what runs, or the deadline."""
        forget = cancelled.on_set(self.terminal.wake)
        self._on_output = on_output
        interrupted = False
        try:
            while self.running is not None and not self.terminal.over and not self.closing:
                if cancelled.is_set() and not interrupted:
                    interrupted, deadline = True, time.monotonic() + CANCEL_SECONDS
                    self.interrupt()
                if time.monotonic() >= self._insist_at:
                    self.interrupt()
                    self._insist_at = float("inf")
                limit = min(deadline, time.monotonic() + QUIET_SECONDS) if self._replaced else deadline
                limit = min(limit, self._insist_at)
                data = self.terminal.read(limit)
                if data:
                    self._absorb(data)
                elif time.monotonic() >= deadline:
                    break
                elif time.monotonic() >= limit and self._replaced:
                    self._replaced = False
                    self._probe()
        finally:
            forget()
            self._insist_at = float("inf")
            self._on_output = _unheard
            self.touch()
        return self._heard(interrupted)

    def catch_up(self) -> None:
        """Take in, without waiting, what was printed while no call was waiting."""
        while not self.terminal.over and (data := self.terminal.read(0)):
            self._absorb(data)

    def release(self) -> None:
        """Hang up, and give the place on the connection back; a second time does nothing."""
        if self.holds_place:
            self.holds_place = False
            self.terminal.close()
            self.connection.slots.release()

    def ending(self) -> Heard:
        """How a shell that is gone has ended, with what it said last."""
        return self._heard(False)

    def interrupt(self) -> None:
        """Ctrl-C; a prompt that comes now says that nothing runs any more, whatever became of our line.

        Whoever listens sends a second one after a while: a shell between two commands of a loop may miss the first.
        """
        self._began = True
        self._insist_at = time.monotonic() + INSIST_SECONDS
        self.terminal.write(_CTRL_C)

    def touch(self) -> None:
        """The session was used just now."""
        self.used, self.used_at = self._now(), time.time()

    def definitions(self, room: int) -> str:
        """What earlier commands have defined that a later one may use, the newest first to be kept in `room` characters."""
        kept: list[str] = []
        for command in reversed(self._definitions):
            room -= len(command) + 1
            if room < 0:
                break
            kept.insert(0, command)
        self._definitions = kept
        return "\n".join(kept)

    def _await_marker(self, deadline: float, cancelled: Cancellation) -> None:
        """Read until the shell's first line: its process group, or why there is none."""
        said, name = b"", self.server.id
        pattern = re.compile(rb"(?:^|\n)" + self.nonce.encode() + rb" ([^\r\n]+)\r?\n")
        while not (found := pattern.search(said)):
            self._check_opening(deadline, cancelled, said)
            said += self.terminal.read(deadline)
        self.marker = found[1].decode("ascii", "replace").strip()
        if self.marker == "notty":
            raise Unreachable(
                f"{name} gives no terminal (pty), which a shell session needs. Use execute_command there.",
                step="terminal",
            )
        self._sink = HeadTail(self._keep)
        self._absorb(said[found.end() :])

    def _check_opening(self, deadline: float, cancelled: Cancellation, said: bytes = b"") -> None:
        name = self.server.id
        if cancelled.is_set():
            raise Cancelled(f"Cancelled while a shell was starting on {name}.")
        if self.terminal.over:
            seen = one_line(decode(said or self._sink.captured().head), 300)
            if f"{self.nonce} cd" in seen:
                raise BadArgument(
                    f"The working directory can't be entered on {name}: {seen.partition(self.nonce)[0].strip()}"
                )
            if self.terminal.status is None and not said and not self.terminal.alive():
                raise Unreachable(
                    f"{name} closed the connection when it was asked for a terminal (pty), which a shell session needs; an sshd that does not "
                    f"run as root may be unable to give one. Use execute_command there.",
                    step="terminal",
                )
            raise Unreachable(f"The shell on {name} ended at once; it said: {seen or 'nothing'}.", step="shell")
        if time.monotonic() >= deadline:
            raise TimedOut(f"No shell answered on {name} within the time limit.")

    def _absorb(self, data: bytes) -> None:
        for mark in self._framing.feed(data):
            if isinstance(mark, framing.Began):
                self._began = True
            elif isinstance(mark, framing.Prompted):
                if self._began and not self._probing:
                    self._probe()
            else:
                self._finished(mark)

    def _finished(self, mark: framing.Finished) -> None:
        self.cwd = os.fsdecode(mark.folder) or self.cwd
        self._zsh = mark.zsh
        self._probing = self._began = self._replaced = False
        if self.running is None:
            return
        if (self._echoed or "stty" in self.running) and not self._healed:
            self._healed = True
            self._probe(mark.status)
            return
        self.running, self.unreported = None, mark.status

    def _probe(self, status: int | None = None) -> None:
        """The shell waits for a line, but dropped ours or never knew it: make it ours (again), and ask for the status."""
        self._probing, self._began = True, False
        self.terminal.write(framing.prepare(self._new_nonce(), self._prompt, status))

    def _new_nonce(self) -> str:
        nonce = secrets.token_hex(12)
        self._framing.expect(nonce)
        self._nonces = [*self._nonces[-3:], nonce]
        return nonce

    def _take(self, data: bytes) -> None:
        if not self._began and self._nonces and self._nonces[-1].encode() in data:
            self._echoed = True  # a command has left the terminal with echo on
        if (
            not self._probing
        ):  # what comes meanwhile are echoes of our own line, in whatever form a line editor gives them
            self._sink.feed(data)
            self._on_output(data)

    def _heard(self, cancelled: bool) -> Heard:
        if self.terminal.over:
            self._framing.finish()
        output = framing.tidy(self._sink.captured(), self._nonces, farewell=self.terminal.over and self.shell == "bash")
        self._sink = HeadTail(self._keep)
        if self.closing:
            return Heard("closed", output)
        if self.running is None and self.unreported is not None:
            status, self.unreported = self.unreported, None
            return Heard("finished", output, status, cancelled)
        if not self.terminal.over:
            return Heard("cancelled" if cancelled else "running", output, None, cancelled)
        if self.terminal.status is not None:
            return Heard("ended", output, self.terminal.status, cancelled)
        return Heard("ended" if self.terminal.alive() else "lost", output, None, cancelled)


def _unheard(data: bytes) -> None:
    """Output while no call waits."""
