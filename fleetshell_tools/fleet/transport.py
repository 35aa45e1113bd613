"""Running one command over an existing control master with the system's `ssh -S`.

This is the way that always works; whoever replaces it keeps `run`'s contract.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fleetshell_tools.core.types import Cancellation, Captured
from fleetshell_tools.fleet.collect import HeadTail, Marked
from fleetshell_tools.fleet.keys import require

CHUNK = 65536
LOST = 255


@dataclass(frozen=True)
class Limits:
    """How much output is kept on either end of a stream, and after how much a command is ended; bytes."""

    keep: int
    drain: int


@dataclass(frozen=True)
class Ended:
    """How a command over a master ended.

    `why` is "" (it ended by itself), "timeout", "cancelled", "flood", "refused" (the host opened no session),
    "no_master" (the master is gone and nothing ran), "lost" (the connection broke), "signal" (a signal ended it), "failed"
    (no session was opened), "unsent" (the deadline passed before it was sent), "crowded" (this machine has no
    descriptors or processes left), "frozen" (the master does not answer; nothing ran) or "version" (the master speaks
    another protocol; nothing ran). `marker` is what followed our nonce, beginning with the remote process group; "" where
    the command never started. `detail` is the master's own sentence on a failure.
    """

    why: str
    exit_code: int | None
    stdout: Captured
    stderr: Captured
    marker: str
    detail: str = ""


class Transport(Protocol):
    """Runs a command over the master whose socket is `name`."""

    def run(
        self,
        name: str,
        command: str,
        *,
        nonce: str,
        stdin: bytes,
        limits: Limits,
        deadline: float,
        cancelled: Cancellation,
        on_output: Callable[[bytes], None] | None = None,
    ) -> Ended:
        """Run to the end, the deadline (on `time.monotonic`), a cancellation or too much output."""


class SshTransport:
    """`ssh -S NAME`, one process a command.

    Args:
        folder: `run/`, where the sockets are; ssh's working folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def alive(self, name: str) -> bool:
        """Whether a master answers on the socket."""
        check = [require("ssh"), "-F", "/dev/null", "-S", name, "-O", "check", "--", "host"]
        try:
            return (
                subprocess.run(
                    check, cwd=self._folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=10
                ).returncode
                == 0
            )
        except subprocess.TimeoutExpired:
            return False

    def run(
        self,
        name: str,
        command: str,
        *,
        nonce: str,
        stdin: bytes,
        limits: Limits,
        deadline: float,
        cancelled: Cancellation,
        on_output: Callable[[bytes], None] | None = None,
        on_marker: Callable[[str], None] = lambda words: None,
    ) -> Ended:
        """See `Transport.run`.

        Args:
            on_marker: Told of our marker's words.
        """
        # ProxyCommand=false: where the master refuses or is gone, ssh must not quietly make a connection of its own.
        argv = [require("ssh"), "-F", "/dev/null", "-S", name, "-o", "ControlMaster=no", "-o", "ProxyCommand=false",
                "-o", "LogLevel=ERROR", "-aTx", "--", "host", command]  # fmt: skip
        return self._run(argv, name, nonce, stdin, limits, deadline, cancelled, on_output, on_marker)

    def run_alone(self, name: str, target: str, command: str, *, deadline: float) -> Ended:
        """Run a short script over a login of its own, for when the master has no room for it (MaxSessions) or is gone.

        Args:
            name: Whose configuration file to use: `NAME.conf`.
            target: The host as that configuration knows it.
        """
        argv = [require("ssh"), "-F", f"{name}.conf", "-S", "none", "-aTx", "--", target, command]
        return self._run(argv, "", "", b"", Limits(8192, 1 << 20), deadline, Cancellation(), None, lambda words: None)

    def _run(
        self, argv: list[str], name: str, nonce: str, stdin: bytes, limits: Limits, deadline: float, cancelled: Cancellation,
        on_output: Callable[[bytes], None] | None, on_marker: Callable[[str], None],
    ) -> Ended:  # fmt: skip
        process = subprocess.Popen(
            argv, cwd=self._folder, stdin=subprocess.PIPE if stdin else subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True, env=environment(),
        )  # fmt: skip
        out, err = HeadTail(limits.keep), HeadTail(limits.keep)

        def take(into: HeadTail, data: bytes) -> None:
            into.feed(data)
            if on_output:
                on_output(data)

        marked = Marked(nonce, lambda data: take(out, data), on_marker)
        pump = _Pump(process, stdin, limits, deadline, cancelled)
        try:
            why = pump.run(marked.feed, lambda data: take(err, data))
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()
        marked.finish()
        code: int | None = process.returncode
        if not why and code == LOST and name:
            why = self._why_255(name, marked.found, err.captured())
        if why:
            code = None
        return Ended(why, code, out.captured(), err.captured(), marked.words)

    def _why_255(self, name: str, started: bool, stderr: Captured) -> str:
        """255 is ssh's own failure, or the command's exit code: tell them apart."""
        said = stderr.head + stderr.tail
        if not started and b"ession open refused by peer" in said:
            return "refused"
        if self.alive(name):
            return ""
        return "lost" if started else "no_master"


class _Pump:
    """Moves bytes between a process and us until it ends or has to be ended."""

    def __init__(
        self, process: subprocess.Popen[bytes], stdin: bytes, limits: Limits, deadline: float, cancelled: Cancellation
    ) -> None:
        self._process = process
        self._stdin = memoryview(stdin)
        self._limits = limits
        self._deadline = deadline
        self._cancelled = cancelled

    def run(self, on_out: Callable[[bytes], None], on_err: Callable[[bytes], None]) -> str:
        """Returns why it was ended, or "" where the process ended by itself."""
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_write, False)

        def wake() -> None:
            os.write(wake_write, b"x")

        forget = self._cancelled.on_set(wake)
        try:
            with selectors.DefaultSelector() as selector:
                assert self._process.stdout and self._process.stderr
                selector.register(wake_read, selectors.EVENT_READ, "wake")
                selector.register(self._process.stdout, selectors.EVENT_READ, on_out)
                selector.register(self._process.stderr, selectors.EVENT_READ, on_err)
                if self._process.stdin:
                    os.set_blocking(self._process.stdin.fileno(), False)
                    selector.register(self._process.stdin, selectors.EVENT_WRITE, "stdin")
                why = self._loop(selector)
            return why or self._reap()
        finally:
            forget()
            os.close(wake_read)
            os.close(wake_write)

    def _loop(self, selector: selectors.BaseSelector) -> str:
        received, open_streams = 0, 2
        while open_streams:
            if self._cancelled.is_set():
                return "cancelled"
            left = self._deadline - time.monotonic()
            if left <= 0:
                return "timeout"
            for key, _ in selector.select(left):
                if key.data == "wake":
                    return "cancelled"
                if key.data == "stdin":
                    self._feed(selector, key)
                    continue
                data = os.read(key.fd, CHUNK)
                if not data:
                    selector.unregister(key.fileobj)
                    open_streams -= 1
                    continue
                key.data(data)
                received += len(data)
                if received > self._limits.drain:
                    return "flood"
        return ""

    def _feed(self, selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
        try:
            self._stdin = self._stdin[os.write(key.fd, self._stdin[:CHUNK]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._stdin = memoryview(b"")
        if not self._stdin:
            selector.unregister(key.fileobj)
            assert self._process.stdin
            self._process.stdin.close()

    def _reap(self) -> str:
        """Both streams are at their end; ssh itself ends at once, unless something is badly wrong."""
        try:
            self._process.wait(max(self._deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            return "timeout"
        return ""


def environment() -> dict[str, str]:
    """What ssh processes get: our own environment without agent, askpass and display, and a shell for the ProxyCommand."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SSH_", "DISPLAY", "WAYLAND_"))}
    return {**kept, "SHELL": "/bin/sh"}
