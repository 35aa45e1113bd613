"""Starting a shell session's shell: a place on the connection, the terminal, and the shell's first answer."""

from __future__ import annotations

import itertools
import threading
import time

from fleetshell_tools.core.errors import Cancelled, TimedOut, Unreachable
from fleetshell_tools.core.types import Cancellation
from fleetshell_tools.fleet import framing
from fleetshell_tools.fleet.connections import Connection, Connections
from fleetshell_tools.fleet.mux import MuxTransport, Terminal, wire
from fleetshell_tools.fleet.mux.session import Busy, Gone
from fleetshell_tools.fleet.mux.terminal import Refused
from fleetshell_tools.fleet.shell_session import ShellSession

BUSY_PAUSE = 0.005
"""Seconds until a master whose queue was full is tried again."""

TRIES = 20
LONGEST_PAUSE = 0.2
"""How often a session that the host refuses is asked for again, with rising pauses of so many seconds at most."""


def start(
    transport: MuxTransport, connections: Connections, session: ShellSession, folder: str | None, shell: str | None, rows: int, cols: int,
    deadline: float, cancelled: Cancellation,
) -> None:  # fmt: skip
    """Give an admitted session its shell.

    Args:
        folder, shell: Where it begins; another shell than the login shell.
        deadline: On `time.monotonic`.

    Raises:
        Unreachable, BadArgument, TimedOut, Cancelled: There is no shell; nothing is left but the session's record.
    """
    for tries in itertools.count(1):
        try:
            _start(transport, connections, session, folder, shell, rows, cols, deadline, cancelled)
            return
        except _NoRoom:
            session.release()
            pause = min(0.01 * tries, LONGEST_PAUSE)
            # A session that has just ended still counts on the host for a moment.
            if session.connection.slots.used or tries >= TRIES or time.monotonic() + pause >= deadline:
                raise Unreachable(
                    f"{session.server.id} opens no more sessions (MaxSessions). Close a shell session there, or try again.",
                    step="lost",
                ) from None
            cancelled.wait(pause)


class _NoRoom(Exception):
    """The host refuses one more session."""


def _start(
    transport: MuxTransport, connections: Connections, session: ShellSession, folder: str | None, shell: str | None, rows: int, cols: int,
    deadline: float, cancelled: Cancellation,
) -> None:  # fmt: skip
    """One try.

    Raises:
        _NoRoom: The host refused the session.
    """
    connection, name = session.connection, session.server.id
    _take_place(connection, name, deadline, cancelled)
    try:
        assert connection.probe is not None
        command = framing.launch(connection.probe, session.nonce, folder, shell)
        kind = (shell or (connection.probe.shell if connection.probe.posix else "sh")).rpartition("/")[2]
        session.terminal = _terminal(transport, connections, connection, command, rows, cols, deadline, cancelled)
        session.holds_place = True
    except BaseException:
        connection.slots.release()
        raise
    try:
        session.open(kind, deadline, cancelled)
    except Refused as error:
        if "refused" not in str(error):
            raise Unreachable(f"{name} opened no session for a shell: {error}.", step="lost") from None
        connection.slots.refused()
        raise _NoRoom from None
    except wire.ProtocolError as error:
        raise Unreachable(
            f"The ssh program on this machine can't share its terminal ({error}); shell sessions need OpenSSH 6.7 or newer.",
            step="lost",
        ) from None


def _take_place(connection: Connection, name: str, deadline: float, cancelled: Cancellation) -> None:
    """Wait for a place among the sessions of a connection."""
    admitted = threading.Event()
    take = admitted.set
    connection.slots.acquire(take)
    while not admitted.wait(max(min(0.1, deadline - time.monotonic()), 0)):
        late = time.monotonic() >= deadline
        if (late or cancelled.is_set()) and connection.slots.forget(take):
            if late:
                raise TimedOut(f"{name} was busy with other commands for the whole time; no shell was started there.")
            raise Cancelled(f"Cancelled while {name} was busy with other commands; no shell was started there.")


def _terminal(
    transport: MuxTransport, connections: Connections, connection: Connection, command: str, rows: int, cols: int, deadline: float,
    cancelled: Cancellation,
) -> Terminal:  # fmt: skip
    """Open the terminal; where the master has gone since it was last used, over a new one."""
    renewed = False
    while True:
        try:
            return transport.terminal(connection.name, command, rows=rows, cols=cols)
        except Gone:
            connections.lost(connection)
            if renewed:
                raise Unreachable(
                    f"{connection.identity.server_id} closed the connection. Try again.", step="lost"
                ) from None
            renewed = True
            connections.open(connection.identity, deadline, cancelled)
        except Busy:
            if time.monotonic() >= deadline:
                raise TimedOut(f"The connection to {connection.identity.server_id} had no time for a shell.") from None
            cancelled.wait(BUSY_PAUSE)
