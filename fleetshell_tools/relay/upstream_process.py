"""One external MCP server's program: started in its own group, read within bounds, ended with all its children."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fleetshell_tools.core.errors import Unreachable
from fleetshell_tools.core.text import one_line
from fleetshell_tools.relay import upstream_children as children
from fleetshell_tools.relay.upstream_log import UpstreamLog

MAX_LINE = 32 << 20
"""The longest message that a server may send, in bytes."""
STDERR_PER_SECOND = 256 * 1024
"""What is read of stderr in a second; a server that prints more has to wait."""
STOP_SECONDS = 2.0
"""How long a program gets to end once its stdin is closed; then the same after SIGTERM."""
_LOOK_SECONDS = 0.02
_INHERITED = ("HOME", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "LOGNAME", "PATH", "SHELL", "TMPDIR", "TZ", "USER")


def environment(more: Mapping[str, str], mark: str) -> dict[str, str]:
    """What a server's program gets to see: a few harmless variables of ours, and what its file gives it."""
    ours = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {"PATH": os.defpath, **ours, **more, children.MARK: mark}


class Child:
    """A running program. All of it is for the event loop's thread.

    Args:
        on_line: Called with each line of stdout, without its end.

    Attributes:
        ended: Set once the program has ended or its stdout is closed; `why` then says how.
    """

    def __init__(
        self, mcp_id: str, errors: UpstreamLog, notes: children.Notes, on_line: Callable[[bytes], None]
    ) -> None:
        self.ended = asyncio.Event()
        self.why = ""
        self._mcp_id = mcp_id
        self._errors = errors
        self._notes = notes
        self._on_line = on_line
        self._loop = asyncio.get_running_loop()
        self._pieces: list[bytes] = []
        self._length = 0
        self._writable = asyncio.Event()
        self._pipes: list[tuple[Any, _Pipe]] = []
        self._watch: asyncio.Task[None] | None = None
        self._stdin: asyncio.WriteTransport | None = None
        self._stdout: asyncio.ReadTransport | None = None

    async def start(self, command: str, arguments: Sequence[str], more_environment: Mapping[str, str]) -> None:
        """Start the program.

        Raises:
            Unreachable: There is no such program, or it can't be run.
        """
        mark = children.new_mark()
        env = environment(more_environment, mark)
        program = shutil.which(os.path.expanduser(command), path=env["PATH"])
        if program is None:
            raise Unreachable(
                f"The program {one_line(command)!r} of {self._mcp_id} is not there, or can't be run. Install it, or "
                f"correct `command` in mcps/{self._mcp_id}.conf.",
                step="start",
            )
        try:
            self._process = subprocess.Popen(
                [program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env,
                cwd="/", start_new_session=True, bufsize=0,
            )  # fmt: skip
        except OSError as error:
            raise Unreachable(
                f"The program of {self._mcp_id} can't be started: {error.strerror} ({one_line(program)}).", step="start"
            ) from None
        self.group = children.note_of(self._mcp_id, self._process.pid, mark)
        self._notes.add(self.group)
        with contextlib.suppress(OSError):  # a core dump of a program that was given secrets
            resource.prlimit(self._process.pid, resource.RLIMIT_CORE, (0, 0))
        self._errors.event(f"started {one_line(command)} as process {self._process.pid}")
        self._writable.set()
        assert self._process.stdin and self._process.stdout and self._process.stderr
        # Each is noted at once: a start that is cancelled here is stopped like any other.
        self._pipes.append(await self._loop.connect_write_pipe(lambda: _Writer(self._writable), self._process.stdin))
        reader = _Reader(self._take, self._closed)
        self._pipes.append(await self._loop.connect_read_pipe(lambda: reader, self._process.stdout))
        self._pipes.append(
            await self._loop.connect_read_pipe(lambda: _Throttled(self._errors.feed), self._process.stderr)
        )
        self._stdin, self._stdout = self._pipes[0][0], self._pipes[1][0]
        self._watch = self._loop.create_task(self._wait())

    @property
    def pid(self) -> int:
        return self.group.pid

    def post(self, line: bytes) -> None:
        """Write one line without waiting for anything.

        Raises:
            ConnectionError: It has ended.
        """
        if self.ended.is_set() or self._stdin is None or self._stdin.is_closing():
            raise ConnectionResetError(self.why or "its stdin is closed")
        self._stdin.write(line + b"\n")

    async def write(self, line: bytes) -> None:
        """Write one line, and wait while the program does not read.

        Raises:
            ConnectionError: It has ended.
        """
        self.post(line)
        if not self._writable.is_set():
            # An end must wake a writer that waits, too.
            waits = [asyncio.ensure_future(event.wait()) for event in (self._writable, self.ended)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()

    def pause(self, paused: bool) -> None:
        """Stop reading stdout while nobody takes the lines, or go on."""
        if self._stdout is not None and not self._stdout.is_closing() and not self.ended.is_set():
            with contextlib.suppress(RuntimeError):  # it is in that state already
                (self._stdout.pause_reading if paused else self._stdout.resume_reading)()

    def fail(self, why: str) -> None:
        """Give the program up: it breaks the rules of the transport."""
        if not self.ended.is_set():
            self.why = why
            self._errors.event(f"given up: {why}")
            self.ended.set()

    async def stop(self) -> None:
        """End the program and everything that it started: stdin closed, then SIGTERM, then SIGKILL."""
        if not hasattr(self, "group"):
            return
        gave_up = self.ended.is_set() and self._process.poll() is None
        if self._pipes and not self._pipes[0][1].lost:
            (self._pipes[0][0].abort if gave_up else self._pipes[0][0].close)()
        elif not self._pipes and self._process.stdin is not None:
            self._process.stdin.close()
        if self._stdout is not None and not self._stdout.is_closing():
            self.ended.set()  # what it still prints is dropped
            self.pause(False)
        await self._until_gone(0.0 if gave_up else STOP_SECONDS, leader_only=True)
        # Whoever is left in the group when the leader has ended was not told by the closed stdin: it is told now.
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not await asyncio.to_thread(children.send, self.group, number):
                break
            await self._until_gone(STOP_SECONDS, leader_only=False)
        self._process.poll()
        for transport, protocol in self._pipes:
            if not protocol.lost:  # asyncio can't close what has closed itself
                transport.abort() if isinstance(transport, asyncio.WriteTransport) else transport.close()
        for file in (self._process.stdin, self._process.stdout, self._process.stderr)[len(self._pipes) :]:
            assert file is not None
            file.close()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        if self._process.returncode is None:
            self._errors.event("its process does not end, even by SIGKILL; it is left behind")
        else:
            self._notes.remove(self.group)
        self._errors.event(f"stopped ({self.outcome()})")

    def outcome(self) -> str:
        """How the program ended, in words."""
        code = self._process.returncode
        if code is None:
            return "its process is still there"
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"ended by {signal.Signals(-code).name}"
            return f"ended by signal {-code}"
        return f"exit code {code}"

    async def _until_gone(self, seconds: float, *, leader_only: bool) -> None:
        deadline = self._loop.time() + seconds
        while self._loop.time() < deadline:
            ended = self._process.poll() is not None
            if ended and (leader_only or not await asyncio.to_thread(children.members, self.group)):
                return
            await asyncio.sleep(_LOOK_SECONDS)

    async def _wait(self) -> None:
        """Notice the program's end, even where a child of it holds its stdout open."""
        gone = asyncio.Event()
        try:
            fd = os.pidfd_open(self._process.pid)
        except (OSError, AttributeError):  # Linux before 5.3
            while self._process.poll() is None:
                await asyncio.sleep(0.25)
        else:
            try:
                self._loop.add_reader(fd, gone.set)
                await gone.wait()
            finally:
                self._loop.remove_reader(fd)
                os.close(fd)
        self._process.poll()
        # What it printed last may still lie in the pipe: an answer counts, although the program ended behind it.
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.ended.wait(), 0.2)
        self._end(f"its program ended ({self.outcome()})")

    def _closed(self) -> None:
        if self._process.poll() is None and not self.ended.is_set():
            # Most programs close their stdout by ending: a moment later there is an exit code to tell.
            self._loop.call_later(0.1, lambda: self._end("it closed its stdout"))
            return
        self._end(f"its program ended ({self.outcome()})")

    def _end(self, why: str) -> None:
        if not self.ended.is_set():
            self._process.poll()
            self.why = f"its program ended ({self.outcome()})" if self._process.returncode is not None else why
            self.ended.set()

    def _take(self, data: bytes) -> None:
        """Cut stdout into lines; a line without an end would fill the memory."""
        if self.ended.is_set():
            return
        *lines, rest = data.split(b"\n")
        for line in lines:
            if self._pieces:
                line = b"".join((*self._pieces, line))
                self._pieces, self._length = [], 0
            if line and not self.ended.is_set():
                self._on_line(line)
        if rest:
            self._pieces.append(rest)
            self._length += len(rest)
            if self._length > MAX_LINE:
                self._pieces, self._length = [], 0
                self.fail(f"it sent a message of more than {MAX_LINE >> 20} MiB")


class _Pipe(asyncio.Protocol):
    """One end of a pipe; `lost` once asyncio has closed it."""

    lost = False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True


class _Writer(_Pipe):
    def __init__(self, writable: asyncio.Event) -> None:
        self._writable = writable

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._writable.set()


class _Reader(_Pipe):
    def __init__(self, take: Callable[[bytes], None], closed: Callable[[], None]) -> None:
        self._take = take
        self._closed = closed

    def data_received(self, data: bytes) -> None:
        self._take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._closed()


class _Throttled(_Pipe):
    """Reads so much in a second, and leaves the rest in the pipe, where it stops the writer and not us."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self._transport: Any = None
        self._second = 0.0
        self._read = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._take(data)
        loop = asyncio.get_running_loop()
        if loop.time() - self._second > 1:
            self._second, self._read = loop.time(), 0
        self._read += len(data)
        if self._read > STDERR_PER_SECOND:
            self._transport.pause_reading()
            loop.call_later(max(self._second + 1 - loop.time(), 0.01), self._resume)

    def _resume(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()
