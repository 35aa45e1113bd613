"""The mux protocol's messages without I/O: what we send to a control master, and what it answers.

Source: OpenSSH, PROTOCOL.mux (protocol version 4), and `mux.c` where the two differ: flags are 32 bits wide.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

VERSION = 4
MAX_PACKET = 256 * 1024

HELLO = 0x00000001
NEW_SESSION = 0x10000002
ALIVE_CHECK = 0x10000004
TERMINATE = 0x10000005
OK = 0x80000001
PERMISSION_DENIED = 0x80000002
FAILURE = 0x80000003
EXIT_MESSAGE = 0x80000004
ALIVE = 0x80000005
SESSION_OPENED = 0x80000006
TTY_ALLOC_FAIL = 0x80000008

NO_ESCAPE = 0xFFFFFFFF


class ProtocolError(Exception):
    """The socket does not speak the protocol version that we know; the caller falls back to `ssh -S`."""


@dataclass(frozen=True)
class Opened:
    """The host has opened our session."""

    session: int


@dataclass(frozen=True)
class Failed:
    """The master (or the host behind it) refused; `why` is its sentence."""

    why: str


@dataclass(frozen=True)
class Exited:
    """The command has ended with this status."""

    status: int


@dataclass(frozen=True)
class Alive:
    """The master is there; `pid` is its process."""

    pid: int


Event = Opened | Failed | Exited | Alive


def _packet(kind: int, *parts: int | bytes) -> bytes:
    body = b"".join(
        struct.pack(">I", part) if isinstance(part, int) else struct.pack(">I", len(part)) + part
        for part in (kind, *parts)
    )
    return struct.pack(">I", len(body)) + body


def hello() -> bytes:
    """Both sides' first message."""
    return _packet(HELLO, VERSION)


def new_session(
    request: int, command: bytes, *, tty: bool = False, term: bytes = b"", environment: tuple[bytes, ...] = ()
) -> bytes:
    """Ask for a session that runs `command`; stdin, stdout and stderr follow as descriptors, each behind one byte."""
    return _packet(NEW_SESSION, request, b"", int(tty), 0, 0, 0, NO_ESCAPE, term, command, *environment)


def alive_check(request: int) -> bytes:
    return _packet(ALIVE_CHECK, request)


def terminate(request: int) -> bytes:
    return _packet(TERMINATE, request)


class Reader:
    """Cuts the bytes that arrive into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._greeted = False
        self._broken: ProtocolError | None = None

    def feed(self, data: bytes) -> list[Event]:
        """Take bytes in; returns the events that are complete.

        Raises:
            ProtocolError: Another version, or no mux protocol at all. What came before it is returned first, and the
                next call raises: that a session was opened must not get lost.
        """
        self._buffer += data
        events: list[Event] = []
        while self._broken is None and len(self._buffer) >= 4:
            length = int.from_bytes(self._buffer[:4], "big")
            if 4 <= length <= MAX_PACKET and len(self._buffer) < 4 + length:
                break
            try:
                event = self._packet(length)
            except ProtocolError as error:
                self._broken = error
                break
            if event is not None:
                events.append(event)
        if self._broken and not events:
            raise self._broken
        return events

    def _packet(self, length: int) -> Event | None:
        if not 4 <= length <= MAX_PACKET:
            raise ProtocolError(f"a packet of {length} bytes")
        body = bytes(self._buffer[4 : 4 + length])
        del self._buffer[: 4 + length]
        return self._message(body)

    def _message(self, body: bytes) -> Event | None:
        fields = _Fields(body)
        kind = fields.number()
        if not self._greeted:
            if kind != HELLO or fields.number() != VERSION:
                raise ProtocolError("the master speaks another version of the mux protocol")
            self._greeted = True
            return None
        if kind == SESSION_OPENED:
            fields.number()
            return Opened(fields.number())
        if kind in (FAILURE, PERMISSION_DENIED):
            fields.number()
            return Failed(fields.text())
        if kind == EXIT_MESSAGE:
            fields.number()
            return Exited(fields.number())
        if kind == ALIVE:
            fields.number()
            return Alive(fields.number())
        if kind in (OK, TTY_ALLOC_FAIL):
            return None
        raise ProtocolError(f"the unknown message {kind:#010x}")


class _Fields:
    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def number(self) -> int:
        if self._at + 4 > len(self._body):
            raise ProtocolError("a message that is too short")
        (value,) = struct.unpack_from(">I", self._body, self._at)
        self._at += 4
        return int(value)

    def text(self) -> str:
        length = self.number()
        raw = self._body[self._at : self._at + length]
        if len(raw) != length:
            raise ProtocolError("a message that is too short")
        self._at += length
        return raw.decode("utf-8", "replace")
