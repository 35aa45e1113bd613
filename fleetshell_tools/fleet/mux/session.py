"""One command over a control master's socket: its messages, its three pipes, and how it ends."""

from __future__ import annotations

import array
import contextlib
import errno
import os
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from fleetshell_tools.fleet.collect import HeadTail, Marked, Tee
from fleetshell_tools.fleet.mux import wire
from fleetshell_tools.fleet.transport import CHUNK, Ended, Limits

IDLE_AFTER_EXIT = 0.25
LONGEST_AFTER_EXIT = 5.0
"""Seconds to wait for output after the command has ended: a child in the background may hold its stdout for ever."""

SEND_SECONDS = 5.0


@dataclass(frozen=True)
class Job:
    """A command to run over the master whose socket is `name`.

    `deadline` is on `time.monotonic`; `on_output` is told of every piece of output, `on_marker` of our marker's words.
    """

    name: str
    command: str
    nonce: str
    stdin: bytes
    limits: Limits
    deadline: float
    on_output: Callable[[bytes], None] | None = None
    on_marker: Callable[[str], None] = lambda words: None


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


class MuxSession:
    """A job under way; the loop that owns it calls `ready` for its descriptors and `tick` as time passes.

    Args:
        folder: An open descriptor of the sockets' folder.
        null: An open descriptor of /dev/null.
        selector: Where the session registers its descriptors, with itself as data.

    Attributes:
        ended: How it ended, once it has. `why` may be "eof" here: `settle_eof` finds out what that means.
    """

    def __init__(self, job: Job, folder: int, null: int, selector: selectors.BaseSelector) -> None:
        self.job = job
        self.ended: Ended | None = None
        self._selector = selector
        self._out, self._err = HeadTail(job.limits.keep), HeadTail(job.limits.keep)
        listener = job.on_output
        self._marked = Marked(job.nonce, Tee(self._out, listener) if listener else self._out, job.on_marker)
        self._err_sink = Tee(self._err, listener) if listener else self._err
        self._reader = wire.Reader()
        self._stdin = memoryview(job.stdin)
        self._received = 0
        self._status: int | None = None
        self._last_sign = 0.0
        self._exited_at = 0.0
        self._control = connect(folder, job.name)
        self._pipes: dict[int, Callable[[], None]] = {}
        self._in = -1
        self._start(null)

    def _start(self, null: int) -> None:
        """Send everything at once: HELLO, the request, and three descriptors, each behind a byte of its own."""
        far: list[int] = []
        try:
            if self._stdin:
                stdin, self._in = os.pipe()
                far.append(stdin)
            out, out_far = os.pipe()
            far.append(out_far)
            err, err_far = os.pipe()
            far.append(err_far)
            self._pipes[out] = lambda: self._read(out, self._marked.feed)
            self._pipes[err] = lambda: self._read(err, self._err_sink.feed)
            self._control.settimeout(SEND_SECONDS)
            self._control.sendall(wire.hello() + wire.new_session(1, self.job.command.encode()))
            for fd in (far[0] if self._stdin else null, out_far, err_far):
                self._control.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
            self._control.setblocking(False)
        except (BrokenPipeError, ConnectionResetError):
            self.close()
            raise Gone from None
        except BaseException:
            self.close()
            raise
        finally:
            for fd in far:
                os.close(fd)
        for fd in self._pipes:
            os.set_blocking(fd, False)
            self._selector.register(fd, selectors.EVENT_READ, self)
        self._selector.register(self._control, selectors.EVENT_READ, self)
        if self._in >= 0:
            os.set_blocking(self._in, False)
            self._selector.register(self._in, selectors.EVENT_WRITE, self)

    def ready(self, fd: int) -> None:
        """One of the files can be read (or stdin written)."""
        if self.ended is not None:
            return
        if fd in self._pipes:
            self._pipes[fd]()
        elif fd == self._in:
            self._write()
        else:
            self._hear()
        self._settle()

    def due(self) -> float:
        """When `tick` is to be called at the latest."""
        if self._status is None:
            return self.job.deadline
        return min(self._last_sign + IDLE_AFTER_EXIT, self._exited_at + LONGEST_AFTER_EXIT)

    def tick(self, now: float) -> None:
        """Time has passed."""
        if self.ended is None and now >= self.due():
            self._finish("timeout" if self._status is None else "")

    def stop(self, why: str) -> None:
        """Give up on the command; its process group on the host is the caller's to end."""
        if self.ended is None:
            self._finish(why)

    def _read(self, fd: int, sink: Callable[[bytes], None]) -> None:
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return
        if not data:
            self._drop(fd)
            return
        sink(data)
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

    def _hear(self) -> None:
        try:
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
        for event in self._reader.feed(data):
            if isinstance(event, wire.Exited):
                self._status = event.status
                self._exited_at = self._last_sign = time.monotonic()
            elif isinstance(event, wire.Failed):
                self._finish("refused" if "refused" in event.why else "failed")

    def _settle(self) -> None:
        if self.ended is None and self._status is not None and not self._pipes:
            self._finish("")

    def _finish(self, why: str) -> None:
        self._marked.finish()
        code = self._status if not why else None
        self.ended = Ended(why, code, self._out.captured(), self._err.captured(), self._marked.words)
        self.close()

    def close(self) -> None:
        """Close every descriptor."""
        for fd in [*self._pipes, *([self._in] if self._in >= 0 else [])]:
            self._drop(fd)
        if self._control.fileno() >= 0:
            with contextlib.suppress(KeyError):
                self._selector.unregister(self._control)
            self._control.close()


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
