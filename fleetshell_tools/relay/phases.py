"""What a connection is about, what it asks of the server's loop, and what the loop is to do with it."""

from __future__ import annotations

import enum
import logging
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from fleetshell_tools.relay.application import Application, Limits

if TYPE_CHECKING:
    from fleetshell_tools.relay.connection import Connection


class Phase(enum.Enum):
    """What a connection is about."""

    RECEIVING = "receiving"
    HANDLING = "handling"
    STREAMING = "streaming"
    CLOSING = "closing"
    CLOSED = "closed"


class Next(enum.Enum):
    """What the loop is to do with a connection that it attended to."""

    WAIT = "wait"
    RUN = "run"
    CLOSE = "close"


class Loop(Protocol):
    """What a connection needs of its server; the methods are described there."""

    application: Application
    limits: Limits
    log: logging.Logger
    ssl_context: ssl.SSLContext | None
    stopping: bool

    def park(self, connection: Connection) -> None: ...
    def resume(self, connection: Connection) -> None: ...
    def nudge(self, connection: Connection) -> None: ...
    def retire(self, connection: Connection) -> None: ...
    def watch(self, connection: Connection) -> None: ...
    def admitted(self, connection: Connection) -> None: ...
    def linger(self, wait: Callable[[], bool]) -> bool: ...
    def lend(self, change: int) -> None: ...
    def call(self, callback: Callable[[], None]) -> None: ...
