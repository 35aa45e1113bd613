"""A client's socket, with or without TLS: never blocks, and keeps what the client does not take yet."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl

_READ_SIZE = 65536
_WRITE_SIZE = 65536
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_TLS_HANDSHAKE_RECORD = b"\x16"  # the first byte of every TLS connection (RFC 8446 section 5.1)


class NotTls(Exception):
    """A client speaks plain text where TLS is expected."""


class Transport:
    """Non-blocking reading and writing; not locked, so that its owner says who may enter (OpenSSL takes one at a time).

    Every method may raise `OSError` (of which `ssl.SSLError` is one) where the client has gone.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        # Without this a small answer waits for the acknowledgement of the one before: 40 ms a request.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.handshake_wants_write = False
        self._sock = sock
        self._fd = sock.fileno()
        self._out = bytearray()
        self._poll: select.poll | None = None

    def fileno(self) -> int:
        """The socket's descriptor, also once it is closed."""
        return self._fd

    @property
    def unwritten(self) -> int:
        """How many bytes wait for the client to take them."""
        return len(self._out)

    def shake_hands(self, context: ssl.SSLContext) -> bool:
        """Go on with the TLS handshake; False while it waits for the client.

        Raises:
            NotTls: The client sends something else; the transport can then answer in plain text.
        """
        if not isinstance(self._sock, ssl.SSLSocket):
            first = self._sock.recv(1, socket.MSG_PEEK)
            if not first:
                raise ConnectionAbortedError("left before the TLS handshake")
            if first != _TLS_HANDSHAKE_RECORD:
                raise NotTls
            self._sock = context.wrap_socket(self._sock, server_side=True, do_handshake_on_connect=False)
        self.handshake_wants_write = False
        try:
            self._sock.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLWantWriteError:
            self.handshake_wants_write = True
            return False
        return True

    def receive(self) -> bytes | None:
        """What has come; None if nothing has, empty at the end."""
        try:
            return self._sock.recv(_READ_SIZE)
        except _WOULD_BLOCK:
            return None

    def wait(self, milliseconds: int) -> bool:
        """Whether something comes within that time."""
        if isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
            return True
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self._fd, select.POLLIN)
        return bool(self._poll.poll(milliseconds))

    def write(self, data: bytes) -> None:
        """Write as much as the client takes now; the rest waits for `flush`."""
        if not self._out:
            try:
                sent = self._sock.send(data[:_WRITE_SIZE])
            except _WOULD_BLOCK:
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
        self._out += data
        self.flush()

    def flush(self) -> None:
        """Write on with what waits."""
        try:
            while self._out:
                # OpenSSL wants a write that it could not finish repeated with at least the same bytes: hence a fixed
                # size here and in `write`, and no other hand at `_out`.
                del self._out[: self._sock.send(self._out[:_WRITE_SIZE])]
        except _WOULD_BLOCK:
            return

    def end_writing(self) -> None:
        """End our side of the connection."""
        self._say_goodbye()
        socket.socket.shutdown(self._sock, socket.SHUT_WR)

    def discard(self) -> int | None:
        """Throw away what came after `end_writing`, undeciphered.

        Returns:
            How many bytes that was; None at the end.
        """
        try:
            return len(socket.socket.recv(self._sock, _READ_SIZE)) or None
        except BlockingIOError:
            return 0

    def abort(self) -> None:
        """Cut the connection off, from any thread; whoever uses the transport will meet the end of it."""
        with contextlib.suppress(OSError):
            # Not SSLSocket.shutdown, which takes the encryption off a socket that another thread may be writing to.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket; never raises."""
        self._say_goodbye()
        with contextlib.suppress(OSError):
            self._sock.close()

    def _say_goodbye(self) -> None:
        """Send TLS's close_notify, so that the client can tell an end from a cut; it is only a courtesy."""
        if isinstance(self._sock, ssl.SSLSocket):
            with contextlib.suppress(OSError, ValueError):
                self._sock.unwrap()
