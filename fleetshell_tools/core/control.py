"""The control socket: how a command of the CLI asks the running relay something, one JSON line each way."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fleetshell_tools.core.errors import FleetShellError

Handler = Callable[[dict[str, Any]], dict[str, Any]]
MAX_LINE = 1 << 20
SECONDS = 30.0


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """The socket's path by way of its open folder: a Unix socket's path ends at 108 bytes, a home may lie deeper."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}" if os.path.isdir("/proc/self/fd") else str(path)
    finally:
        os.close(folder)


class ControlServer:
    """Answers the owner of the home and root; runs in a thread of its own until `close`.

    Args:
        path: The socket, made 0600; one that an earlier relay left is replaced.
        handler: Answers a request; a FleetShellError it raises becomes `{"error": …}`.
    """

    def __init__(self, path: Path, handler: Handler) -> None:
        self._path = path
        self._handler = handler
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            with _short(path) as name:
                self._socket.bind(name)
        finally:
            os.umask(mask)
        self._socket.listen(16)
        self._closing = False
        self._thread = threading.Thread(target=self._accept, name="control")
        self._thread.start()

    def close(self) -> None:
        self._closing = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()
        self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while not self._closing:
            try:
                client, _ = self._socket.accept()
            except OSError:
                if self._closing:
                    return
                raise
            with client, contextlib.suppress(OSError):
                client.settimeout(SECONDS)
                self._answer(client)

    def _answer(self, client: socket.socket) -> None:
        uid = _peer_uid(client)
        if uid not in (0, os.geteuid()):
            _send(client, {"error": f"uid {uid} may not control this relay; use its owner or root."})
            return
        line = _receive(client)
        try:
            request = json.loads(line)
            _send(client, self._handler(request))
        except FleetShellError as error:
            _send(client, {"error": error.message})
        except (ValueError, KeyError, TypeError):
            _send(client, {"error": "the request is not one that this relay knows; are both of the same version?"})


def ask(path: Path, request: dict[str, Any]) -> dict[str, Any] | None:
    """Ask the running relay; None where none is running.

    Raises:
        FleetShellError: The relay answered with an error, or not at all.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(SECONDS)
            with _short(path) as name:
                client.connect(name)
            _send(client, request)
            line = _receive(client)
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except OSError as error:
        raise FleetShellError(f"The running relay did not answer on {path}: {error.strerror or error}.") from None
    answer: dict[str, Any] = json.loads(line or b'{"error": "the relay closed the connection"}')
    if "error" in answer:
        raise FleetShellError(str(answer["error"]))
    return answer


def _peer_uid(client: socket.socket) -> int:
    if hasattr(socket, "SO_PEERCRED"):
        raw = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", raw)[1])
    return os.geteuid()  # elsewhere the socket's mode alone protects it


def _send(client: socket.socket, data: dict[str, Any]) -> None:
    client.sendall(json.dumps(data).encode() + b"\n")


def _receive(client: socket.socket) -> bytes:
    data = bytearray()
    while not data.endswith(b"\n") and len(data) < MAX_LINE:
        part = client.recv(65536)
        if not part:
            break
        data += part
    return bytes(data)
