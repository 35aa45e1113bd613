"""What an external MCP server prints on stderr, in `logs/mcp-<id>.log`: bounded, rotated, without its secrets."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from fleetshell_tools.core import storage

MAX_BYTES = 1 << 20
"""Bytes after which a log becomes `mcp-<id>.log.1`, in the place of the one before."""
MAX_LINE = 8192
HIDDEN = b"***"


class UpstreamLog:
    """The log of one server; for one thread. Where it can't be written, lines are dropped: a full disk ends no server.

    Args:
        secrets: What is replaced by `***`.
    """

    def __init__(self, path: Path, secrets: Sequence[str] = ()) -> None:
        self._path = path
        # The longest first, so that a secret that holds another is hidden whole.
        self._secrets = sorted((secret.encode() for secret in secrets), key=len, reverse=True)
        self._rest = b""
        self._fd = -1
        self._size = 0

    def event(self, sentence: str) -> None:
        """Write a line of our own."""
        self.flush()
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._write(self._hide(f"--- {when} {sentence}".encode("utf-8", "replace")) + b"\n")

    def feed(self, data: bytes) -> None:
        """Take in what the server printed."""
        *lines, rest = (self._rest + data).split(b"\n")
        # A secret that is torn would not be seen: only whole lines are written, or very long ones in pieces.
        while len(rest) > MAX_LINE:
            lines.append(rest[:MAX_LINE])
            rest = rest[MAX_LINE:]
        self._rest = rest
        if lines:
            self._write(b"".join(self._hide(line) + b"\n" for line in lines))

    def flush(self) -> None:
        """Write what has no line end yet."""
        rest, self._rest = self._rest, b""
        if rest:
            self._write(self._hide(rest) + b"\n")

    def close(self) -> None:
        """Write the rest and close the file; a later line opens it again."""
        self.flush()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def hide(self, text: str) -> str:
        """Text without the secrets."""
        return self._hide(text.encode("utf-8", "replace")).decode("utf-8", "replace")

    def _hide(self, line: bytes) -> bytes:
        for secret in self._secrets:
            line = line.replace(secret, HIDDEN)
        return line

    def _write(self, data: bytes) -> None:
        try:
            if self._fd >= 0 and self._size + len(data) > MAX_BYTES:
                os.close(self._fd)
                self._fd = -1
                os.replace(self._path, self._path.with_name(self._path.name + ".1"))
            if self._fd < 0:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                self._fd = os.open(self._path, flags, storage.PRIVATE_FILE)
                self._size = os.fstat(self._fd).st_size
            self._size += os.write(self._fd, data)
        except OSError:
            return
