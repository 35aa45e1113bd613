"""The control socket: how a command of the CLI asks the running relay something, one JSON line each way."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fleetshell_tools.core.errors import AuthenticationFailed, ConfigError, FleetShellError, NotFound

Handler = Callable[[dict[str, Any]], dict[str, Any]]
MAX_LINE = 1 << 20
MAX_ANSWER = 64 << 20
ANSWER_SECONDS = 30.0
"""How long a command waits for the relay."""
REQUEST_SECONDS = 5.0
"""How long the relay waits for a request: while it does, no other is answered, and `close` has to wait too."""
log = logging.getLogger("fleetshell")


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
        handler: Answers a request; a FleetShellError it raises becomes `{"error": …}`; KeyError means
            a request that it does not know.
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
                log.exception("The control socket could not accept a connection; it is tried again.")
                time.sleep(0.2)
                continue
            with client:
                client.settimeout(REQUEST_SECONDS)
                try:
                    self._answer(client)
                except OSError as error:
                    log.debug("A client of the control socket went away: %s", error)

    def _answer(self, client: socket.socket) -> None:
        uid = _peer_uid(client)
        if uid not in (0, os.geteuid()):
            _send(client, {"error": f"uid {uid} may not control this relay; use its owner or root."})
            return
        _send(client, self._reply(_receive(client)))

    def _reply(self, line: bytes) -> dict[str, Any]:
        unknown = {"error": "the request is not one that this relay knows; are both of the same version?"}
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return unknown
        if not isinstance(request, dict):
            return unknown
        try:
            return self._handler(request)
        except FleetShellError as error:
            return {"error": error.message, "reason": error.reason}
        except KeyError:
            return unknown
        except Exception:
            log.exception("A request on the control socket failed.")
            return {"error": "internal error, see the relay's log"}


def ask(path: Path, request: dict[str, Any]) -> dict[str, Any] | None:
    """Ask the running relay; None where none is running.

    Raises:
        FleetShellError: The relay answered with an error, or not at all.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            # With a time-out of Python's own, connect fails at once where too many wait to be accepted (unix(7), EAGAIN).
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(ANSWER_SECONDS), 0))
            with _short(path) as name:
                client.connect(name)
            client.settimeout(ANSWER_SECONDS)
            with contextlib.suppress(BrokenPipeError):  # refused before it was read; the answer says why
                _send(client, request)
            line = _receive(client, MAX_ANSWER)
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except OSError as error:
        raise FleetShellError(f"The running relay did not answer on {path}: {error.strerror or error}.") from None
    try:
        answer = json.loads(line or b'{"error": "the relay closed the connection"}')
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise FleetShellError(f"The running relay's answer on {path} can't be read; are both of the same version?")
    if "error" in answer:
        kinds = {kind.reason: kind for kind in (AuthenticationFailed, ConfigError, NotFound)}
        raise kinds.get(str(answer.get("reason")), FleetShellError)(str(answer["error"]))
    return answer


def _peer_uid(client: socket.socket) -> int:
    if hasattr(socket, "SO_PEERCRED"):
        raw = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", raw)[1])
    return os.geteuid()  # elsewhere the socket's mode alone protects it


def _send(client: socket.socket, data: dict[str, Any]) -> None:
    client.sendall(json.dumps(data).encode() + b"\n")


def _receive(client: socket.socket, most: int = MAX_LINE) -> bytes:
    data = bytearray()
    while not data.endswith(b"\n") and len(data) < most:
        part = client.recv(65536)
        if not part:
            break
        data += part
    return bytes(data)
