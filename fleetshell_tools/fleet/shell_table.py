"""Which shell sessions there are, whose they are, how many there may be, and which have been idle for too long."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable

from fleetshell_tools.core.config import Config
from fleetshell_tools.core.errors import FleetShellError, NotFound, Refused
from fleetshell_tools.core.servers import Server
from fleetshell_tools.core.text import one_line
from fleetshell_tools.core.types import Caller
from fleetshell_tools.fleet.connections import Connection
from fleetshell_tools.fleet.shell_session import ShellSession

KEPT_FREE = 2
"""Places on a connection that sessions leave to other commands."""


class ShellTable:
    """The live sessions, for threads at once.

    Args:
        config: The configuration of the moment.
        now: A clock in seconds, for idle times.
    """

    def __init__(self, config: Callable[[], Config], now: Callable[[], float]) -> None:
        self._config = config
        self.now = now
        self._sessions: dict[str, ShellSession] = {}
        self._lock = threading.Lock()
        self._closed = False

    def close(self) -> None:
        """Admit no more."""
        with self._lock:
            self._closed = True

    def __contains__(self, session: ShellSession) -> bool:
        return session.id in self._sessions

    def ready(self) -> list[ShellSession]:
        """The sessions whose shell has started, the oldest first."""
        with self._lock:
            return [session for session in self._sessions.values() if session.ready]

    def admit(self, caller: Caller, server: Server, connection: Connection) -> ShellSession:
        """Take a place among the sessions.

        Raises:
            Refused: It would be one too many.
        """
        limits = self._config().sessions
        with self._lock:
            if self._closed:
                raise FleetShellError("The relay is stopping; nothing new is started.")
            here = sum(session.connection is connection for session in self._sessions.values())
            most = min(limits.per_server, max(connection.slots.limit - KEPT_FREE, 1))
            if here >= most or len(self._sessions) >= limits.total:
                where, count, key = (
                    (server.id, here, "per_server") if here >= most else ("this relay", len(self._sessions), "total")
                )
                raise Refused(
                    f"There are already {count} shell sessions on {where}, the most that are allowed (sessions.{key}; on a server "
                    f"ssh.sessions_per_server less {KEPT_FREE}, too). Close one with close_shell_session."
                )
            keep = self._config().security.max_output_bytes
            session = ShellSession(
                f"sess_{secrets.token_hex(6)}", caller.principal.key_id, server, connection, keep, lambda: self.now()
            )
            self._sessions[session.id] = session
        return session

    def find(self, caller: Caller, session_id: str) -> ShellSession:
        """A caller's session.

        Raises:
            NotFound: There is none, or it is another's: both are said alike.
        """
        with self._lock:
            session = self._sessions.get(session_id)
        if session is None or not session.ready or session.owner != caller.principal.key_id or self.is_idle(session):
            raise unknown(session_id)
        return session

    def any(self, session_id: str) -> ShellSession:
        """A session, whoever's it is.

        Raises:
            NotFound: There is none.
        """
        with self._lock:
            session = self._sessions.get(session_id)
        if session is None or not session.ready:
            raise unknown(session_id)
        return session

    def remove(self, session: ShellSession) -> bool:
        """Take a session out; False where another call was quicker."""
        with self._lock:
            if self._sessions.pop(session.id, None) is None:
                return False
        session.release()
        return True

    def is_idle(self, session: ShellSession) -> bool:
        """Whether nobody has used it for too long."""
        return not session.lock.locked() and self.now() - session.used >= self._config().sessions.idle_seconds


def unknown(session_id: str) -> NotFound:
    """The one answer to a session that is not there for the caller."""
    return NotFound(
        f'There is no shell session "{one_line(session_id, 60)}". It may have ended, or been idle for too long: list_active_sessions '
        f"shows yours, create_shell_session makes one."
    )
