"""One command over a control master's socket: its messages, its three pipes, and how it ends."""

from __future__ import annotations

import array
import contextlib
import errno
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from fleetshell_tools.core.types import Captured
from fleetshell_tools.fleet.collect import HeadTail, Marked
from fleetshell_tools.fleet.mux import wire
from fleetshell_tools.fleet.transport import CHUNK, Ended, Limits

IDLE_AFTER_EXIT = 0.25
LONGEST_AFTER_EXIT = 5.0
"""Seconds to wait for output after the command has ended: a child in the background may hold its stdout for ever."""

SEND_SECONDS = 5.0

TERMINATE_PAUSE = 0.002
"""Seconds between looks whether a master that was asked to end has done so."""

MARKER_SECONDS = 1.0
"""How long the marker of a command that we give up on is waited for."""

HELLO_SECONDS = 8.0
"""How long a master may take to say a first word, which it does as soon as it accepts: after that it hangs."""


@dataclass(frozen=True)
class Job:
    """A command to run over the master whose socket is `name` (or here: `mux.local.LOCAL`).

    `deadline` is on `time.monotonic`; `on_output` is told of every piece of output, `on_marker` of our marker's words,
    `on_open` that the host has opened the session, `on_begin` of the session whose output may be looked at from then on.
    A `protected` job runs on when its loop is cancelled.
    """

    name: str
    command: str
    nonce: str
    stdin: bytes
    limits: Limits
    deadline: float
    on_output: Callable[[bytes], None] | None = None
    on_marker: Callable[[str], None] = lambda words: None
    on_open: Callable[[], None] = lambda: None
    protected: bool = False
    on_begin: Callable[[Session], None] = lambda session: None


class Gone(Exception):
    """Nobody listens on the socket."""


class Busy(Exception):
    """The master's queue of new connections is full."""


def connect(folder: int, name: str) -> socket.socket:
    """Connect to a master by way of the open folder, because a Unix socket's path ends at 108 bytes.

    Raises:
        Gone: There is no master any more.
        Busy: Try again in a moment.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        connection.connect(f"/proc/self/fd/{folder}/{name}")
    except BlockingIOError:
        connection.close()
        raise Busy from None
    except OSError as error:
        connection.close()
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
            raise Gone from None
        raise
    return connection


class Session:
    """A job under way; the loop that owns it calls `ready` for its descriptors and `tick` as time passes.

    Args:
        selector: Where the session registers its descriptors, with itself as data.

    Attributes:
        ended: How it ended, once it has. `why` may be "eof" here: the loop finds out what that means.
        opened: Whether the command may have begun.
    """

    def __init__(self, job: Job, selector: selectors.BaseSelector) -> None:
        self.job = job
        self.ended: Ended | None = None
        self.opened = False
        self._selector = selector
        self._out, self._err = HeadTail(job.limits.keep), HeadTail(job.limits.keep)
        self._marked = Marked(job.nonce, lambda data: self._take(self._out, data), job.on_marker)
        self._stdin = memoryview(job.stdin)
        self._received = 0
        self._status: int | None = None
        self._last_sign = 0.0
        self._exited_at = 0.0
        self._given_up = ""
        self._wait_until = 0.0
        self._pipes: dict[int, Callable[[], None]] = {}
        self._in = -1
        job.on_begin(self)

    @property
    def marker(self) -> str:
        return self._marked.words

    def captured(self) -> tuple[Captured, Captured]:
        """Its stdout and stderr so far; for any thread."""
        return self._out.captured(), self._err.captured()

    def ready(self, fd: int) -> None:
        """One of the files can be read (or written).

        Raises:
            wire.ProtocolError: The master says what we do not know.
        """
        if self.ended is not None:
            return
        if fd in self._pipes:
            self._pipes[fd]()
        elif fd == self._in:
            self._write()
        else:
            self._hear()
        if self.ended is None and self._status is not None and not self._pipes:
            self._finish("")

    def due(self) -> float:
        """When `tick` is to be called at the latest."""
        if self._given_up:
            return self._wait_until
        if self._status is None:
            return self.job.deadline
        return min(self._last_sign + IDLE_AFTER_EXIT, self._exited_at + LONGEST_AFTER_EXIT)

    def tick(self, now: float) -> None:
        """Time has passed."""
        if self.ended is None and now >= self.due():
            if self._status is None:
                self.stop("timeout")
            else:
                self._finish("")

    def stop(self, why: str) -> None:
        """Give up on the command; its process group is the caller's to end.

        Which one that is tells the marker, which may be on its way: it is waited for a moment.
        """
        if self.ended is not None:
            return
        if self._given_up or not self.job.nonce or self.marker or self._status is not None:
            self._finish(self._given_up or why)
        else:
            self._given_up, self._wait_until = why, time.monotonic() + MARKER_SECONDS

    def fail(self, why: str) -> None:
        """The way to the command has failed."""
        if self.ended is None:
            self._finish(why)

    def close(self) -> None:
        """Close every descriptor."""
        for fd in [*self._pipes, *([self._in] if self._in >= 0 else [])]:
            self._drop(fd)

    def _hear(self) -> None:
        """What is neither a pipe nor stdin is ready."""
        raise NotImplementedError

    def _make_pipes(self) -> tuple[list[int], list[int]]:
        """Pipes for stdin (where there is any), stdout and stderr: our ends and the far ends, in that order.

        Raises:
            OSError: No descriptors are left; nothing stays open.
        """
        ours: list[int] = []
        far: list[int] = []
        try:
            if self._stdin:
                read, write = os.pipe()
                ours, far = [write], [read]
            for _ in ("stdout", "stderr"):
                read, write = os.pipe()
                ours.append(read)
                far.append(write)
        except BaseException:
            for fd in (*ours, *far):
                os.close(fd)
            raise
        return ours, far

    def _attend(self, ours: list[int]) -> None:
        """Take over our ends of the pipes."""
        *stdin, out, err = ours
        self._pipes[out] = lambda: self._read(out, self._marked.feed)
        self._pipes[err] = lambda: self._read(err, lambda data: self._take(self._err, data))
        self._in = stdin[0] if stdin else -1
        for fd in ours:
            os.set_blocking(fd, False)
            self._selector.register(fd, selectors.EVENT_WRITE if fd == self._in else selectors.EVENT_READ, self)

    def _take(self, into: HeadTail, data: bytes) -> None:
        into.feed(data)
        if self.job.on_output:
            self.job.on_output(data)

    def _read(self, fd: int, sink: Callable[[bytes], None]) -> None:
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return
        if not data:
            self._drop(fd)
            return
        sink(data)
        if self._given_up and self.marker:
            self._finish(self._given_up)
            return
        self._received += len(data)
        self._last_sign = time.monotonic()
        if self._received > self.job.limits.drain:
            self._finish("flood")

    def _write(self) -> None:
        try:
            self._stdin = self._stdin[os.write(self._in, self._stdin[:CHUNK]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._stdin = memoryview(b"")
        if not self._stdin:
            self._drop(self._in)

    def _drop(self, fd: int) -> None:
        """Forget one of our pipes; the selector first, because the number may be another file's in a moment."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(fd)
        os.close(fd)
        self._pipes.pop(fd, None)
        if fd == self._in:
            self._in = -1

    def _exited(self, status: int) -> None:
        self._status = status
        self._exited_at = self._last_sign = time.monotonic()

    def _finish(self, why: str, detail: str = "") -> None:
        self._marked.finish()
        code = self._status if not why else None
        self.ended = Ended(why, code, *self.captured(), self._marked.words, detail)
        self.close()


class MuxSession(Session):
    """A command on a host, over a master.

    Args:
        folder: An open descriptor of the sockets' folder.
        null: An open descriptor of /dev/null.

    Raises:
        Gone, Busy: There is no master; it has no time now.
        OSError: No descriptors are left.
    """

    def __init__(self, job: Job, folder: int, null: int, selector: selectors.BaseSelector) -> None:
        super().__init__(job, selector)
        self._reader = wire.Reader()
        self._silent_until: float | None = time.monotonic() + HELLO_SECONDS
        self._control = connect(folder, job.name)
        self._far: list[int] = []
        try:
            ours, self._far = self._make_pipes()
            self._attend(ours)
            # All at once: HELLO, the request, and three descriptors, each behind a byte of its own.
            self._outgoing: deque[tuple[bytes, int]] = deque(
                [(wire.hello() + wire.new_session(1, job.command.encode()), -1)]
            )
            self._outgoing += [(b"\0", fd) for fd in (self._far if self._stdin else [null, *self._far])]
            self._send()
            self._selector.register(
                self._control, selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outgoing else 0), self
            )
        except BaseException:
            self.close()
            raise

    def due(self) -> float:
        due = super().due()
        return due if self._silent_until is None else min(due, self._silent_until)

    def tick(self, now: float) -> None:
        if self.ended is None and self._silent_until is not None and now >= self._silent_until:
            self._finish("frozen")
        super().tick(now)

    def close(self) -> None:
        super().close()
        self._close_far()
        if self._control.fileno() >= 0:
            with contextlib.suppress(KeyError):
                self._selector.unregister(self._control)
            self._control.close()

    def _close_far(self) -> None:
        far, self._far = self._far, []
        for fd in far:
            os.close(fd)

    def _send(self) -> None:
        """Send as much as the socket takes now."""
        while self._outgoing:
            data, fd = self._outgoing[0]
            try:
                if fd < 0:
                    sent = self._control.send(data)
                else:
                    sent = self._control.sendmsg(
                        [data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
                    )
            except BlockingIOError:
                return
            except (BrokenPipeError, ConnectionResetError):
                self._outgoing.clear()  # what it said before it hung up is still to be read
                break
            if sent < len(data):
                self._outgoing[0] = (data[sent:], fd)
            else:
                self._outgoing.popleft()
        self._close_far()

    def _hear(self) -> None:
        try:
            if self._outgoing:
                self._send()
                if not self._outgoing:
                    self._selector.modify(self._control, selectors.EVENT_READ, self)
            data = self._control.recv(CHUNK)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            if self._status is None:
                self._finish("eof")
            else:
                self._selector.unregister(self._control)
            return
        self._silent_until = None
        for event in self._reader.feed(data):
            if isinstance(event, wire.Opened):
                self.opened = True
                self.job.on_open()
            elif isinstance(event, wire.Exited):
                self._exited(event.status)
            elif isinstance(event, wire.Failed):
                self._finish("refused" if "refused" in event.why else "failed", event.why)
                return
        self._reader.feed(b"")  # raises what came behind these


def alive(folder: int, name: str, seconds: float = 2.0) -> int:
    """The process id of the master behind a socket, or 0 where none answers in time."""
    try:
        with connect(folder, name) as connection:
            connection.settimeout(seconds)
            connection.sendall(wire.hello() + wire.alive_check(1))
            reader = wire.Reader()
            while data := connection.recv(CHUNK):
                for event in reader.feed(data):
                    if isinstance(event, wire.Alive):
                        return event.pid
    except (Gone, Busy, OSError, wire.ProtocolError):
        return 0
    return 0


def terminate(folder: int, name: str, seconds: float = 2.0) -> bool:
    """Ask a master to end, and wait until it has; False where it has not in that time."""
    deadline = time.monotonic() + seconds
    asked = False
    while time.monotonic() < deadline:
        try:
            with connect(folder, name) as connection:
                if not asked:
                    connection.settimeout(seconds)
                    connection.sendall(wire.hello() + wire.terminate(1))
                    asked = True
                    while connection.recv(CHUNK):
                        pass
        except Gone:
            return True
        except (Busy, OSError):
            pass
        time.sleep(TERMINATE_PAUSE)
    return False
