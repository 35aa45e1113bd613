"""The end of a connection, such that its last answer arrives."""

from __future__ import annotations

from fleetshell_tools.relay.transport import Transport


class Farewell:
    """Ends our side of a connection and throws away what comes until the client ends its own (RFC 9112 section 9.6).

    Closing a socket with unread bytes would make the kernel send a reset, which may destroy the answer on its way.

    Args:
        patience: The most bytes that are thrown away.
    """

    def __init__(self, transport: Transport, patience: int) -> None:
        self._transport = transport
        self._left = patience
        self.begun = False

    def begin(self) -> None:
        """End our side, once everything is written."""
        self.begun = True
        self._transport.end_writing()

    def hear(self) -> bool:
        """Throw away what has come; False if the client has ended its side, or will not stop sending."""
        discarded = self._transport.discard()
        self._left -= discarded or 0
        return discarded is not None and self._left >= 0
