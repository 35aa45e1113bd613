"""Why an address can't be listened on, in words that say what to do."""

from __future__ import annotations

import errno
import socket


def why_not_listening(address: tuple[str, int], error: OSError | OverflowError) -> str:
    """A sentence for the operator about what binding to `address` (host and port) met with."""
    host, port = address
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if isinstance(error, OverflowError):
        return f"Cannot listen on {where}: a port is a number from 0 to 65535. Choose another one with --port."
    if error.errno == errno.EADDRINUSE:
        return (
            f"Cannot listen on {where}: another process uses this port. Choose another one with --port, "
            f"or find the process with `ss -ltnp 'sport = :{port}'`."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"Cannot listen on {where}: ports below 1024 need a privilege that this user lacks. "
            "Choose a higher one with --port."
        )
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return (
            f"Cannot listen on {where}: this machine has no such address. Choose one of its own with --host; "
            "127.0.0.1 serves this machine alone, 0.0.0.0 every network it is in."
        )
    return f"Cannot listen on {where}: {error.strerror or error}. Choose another address with --host or --port."
