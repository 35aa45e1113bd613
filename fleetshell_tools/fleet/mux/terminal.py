"""A shell on a terminal of a host, over a control master's socket: the far pty's modes and size come from a pty of ours."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import select
import socket
import struct
import termios
import threading
import time
import tty

from fleetshell_tools.fleet.mux import wire
from fleetshell_tools.fleet.mux.session import IDLE_AFTER_EXIT, SEND_SECONDS, Gone, alive, connect
from fleetshell_tools.fleet.transport import CHUNK


class Refused(Exception):
    """The host opened no session; the argument is the master's sentence."""


class Terminal:
    """One session with a terminal. `write` and `wake` may be called from any thread, all else from one at a time.

    stdin is the slave of a pty, because its modes and its size become the far terminal's; stdout and stderr are a pipe,
    which ends cleanly and holds more.

    Args:
        folder: An open descriptor of the sockets' folder.
        name: The master's socket.
        command: What runs on the far terminal.

    Attributes:
        status: The exit status, once the command has ended by itself.
        over: Nothing more will come.

    Raises:
        Gone, Busy: There is no master; it has no time now.
    """

    def __init__(self, folder: int, name: str, command: str, *, rows: int, cols: int) -> None:
        self.status: int | None = None
        self.over = False
        self._folder = folder
        self._name = name
        self._reader = wire.Reader()
        self._pending = b""
        self._lock = threading.Lock()
        self._last_sign = 0.0
        self._out_open = self._control_open = True
        self._fds: list[int] = []
        self._poll = select.poll()
        self._control = connect(folder, name)
        try:
            self._start(command, rows, cols)
        except (BrokenPipeError, ConnectionResetError):
            self.close()
            raise Gone from None
        except BaseException:
            self.close()
            raise

    def _start(self, command: str, rows: int, cols: int) -> None:
        self._keys, self._slave = os.openpty()
        self._fds += [self._keys, self._slave]
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
        _set_far_modes(self._slave)
        self._out, out_far = os.pipe()
        self._fds.append(self._out)
        self._wake_read, self._wake_write = os.pipe()
        self._fds += [self._wake_read, self._wake_write]
        try:
            self._control.settimeout(SEND_SECONDS)
            self._control.sendall(wire.hello() + wire.new_session(1, command.encode(), tty=True, term=b"dumb"))
            for fd in (self._slave, out_far, out_far):
                self._control.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
        finally:
            os.close(out_far)
        self._control.setblocking(False)
        for fd in (self._keys, self._out, self._wake_read, self._wake_write):
            os.set_blocking(fd, False)
        for fd in (self._control.fileno(), self._out, self._wake_read):
            self._poll.register(fd, select.POLLIN)

    def write(self, data: bytes) -> None:
        """Type; what the terminal has no room for is typed as it is read."""
        with self._lock:
            if not self._fds:
                return
            self._pending += data
            self._flush()
            waiting = bool(self._pending)
        if waiting:
            self.wake()

    def wake(self) -> None:
        """Make a `read` in another thread return."""
        with self._lock:
            if self._fds:
                with contextlib.suppress(BlockingIOError):  # it is full of wake-ups already
                    os.write(self._wake_write, b"\0")

    def read(self, deadline: float) -> bytes:
        """What has been printed; empty at the deadline (on `time.monotonic`), after `wake`, and where it is `over`.

        Raises:
            Refused: The host opened no session.
            wire.ProtocolError: The master speaks another version of the protocol.
        """
        while not self.over:
            limit = min(deadline, self._last_sign + IDLE_AFTER_EXIT) if self._ending() else deadline
            with self._lock:
                self._poll.register(self._keys, select.POLLOUT if self._pending else 0)
            ready = [fd for fd, _ in self._poll.poll(max(limit - time.monotonic(), 0) * 1000)]
            if self._control.fileno() in ready:
                self._hear()
            if self._keys in ready:
                with self._lock:
                    self._flush()
            if self._out in ready:
                data = os.read(self._out, CHUNK)
                self._last_sign = time.monotonic()
                if data:
                    return data
                self._out_open = False
                self._poll.unregister(self._out)
            self.over = not self._out_open and (self.status is not None or not self._control_open)
            if self._wake_read in ready:
                os.read(self._wake_read, 4096)
                return b""
            if time.monotonic() >= limit:
                # What runs on in the background may hold the terminal for ever; its shell is gone.
                self.over = self.over or (self._ending() and limit < deadline)
                return b""
        return b""

    def alive(self) -> bool:
        """Whether the master still answers: tells a shell that was killed from a connection that broke."""
        return bool(alive(self._folder, self._name))

    def close(self) -> None:
        """Close every descriptor: the host hangs the terminal up. A second time does nothing."""
        with self._lock:
            fds, self._fds = self._fds, []
            self.over = True
        self._control.close()
        for fd in fds:
            os.close(fd)

    def _ending(self) -> bool:
        """Whether one of the two signs of the end is there, so that the other is due."""
        return self.status is not None or not self._out_open

    def _flush(self) -> None:
        while self._pending:
            try:
                self._pending = self._pending[os.write(self._keys, self._pending) :]
            except BlockingIOError:
                return
            except OSError:  # the terminal is gone, which `read` will find out
                self._pending = b""

    def _hear(self) -> None:
        try:
            data = self._control.recv(CHUNK)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            self._control_open = False
            self._poll.unregister(self._control.fileno())
            return
        for event in self._reader.feed(data):
            if isinstance(event, wire.Opened):
                # Not earlier: the master has only now read the modes that the far terminal gets.
                tty.setraw(self._slave, termios.TCSANOW)
            elif isinstance(event, wire.Exited):
                self.status = event.status
                self._last_sign = time.monotonic()
            elif isinstance(event, wire.Failed):
                raise Refused(event.why)


def _set_far_modes(slave: int) -> None:
    """Line by line and with Ctrl-C, as shells expect it, but without echo, flow control and rewritten newlines."""
    modes = termios.tcgetattr(slave)
    modes[0] &= ~(termios.IXON | termios.IXOFF)
    modes[1] &= ~termios.OPOST
    modes[3] &= ~(termios.ECHO | termios.ECHOE | termios.ECHOK | termios.ECHONL)
    termios.tcsetattr(slave, termios.TCSANOW, modes)
