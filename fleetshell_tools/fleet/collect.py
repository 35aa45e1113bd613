"""Collecting a command's output in bounded memory: the first and the last bytes are kept, all are counted."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

from fleetshell_tools.core.text import decode, one_line
from fleetshell_tools.core.types import Captured, Progress


class HeadTail:
    """Keeps at most `limit` bytes from the start and `limit` from the end of what it is fed.

    One thread feeds it; any thread may ask at any time what was captured.

    Args:
        limit: Bytes to keep on either side.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._head = bytearray()
        self._tail = bytearray()
        self._lock = threading.Lock()
        self.total = 0

    def feed(self, data: bytes | memoryview) -> None:
        with self._lock:
            self.total += len(data)
            room = self._limit - len(self._head)
            if room > 0:
                self._head += data[:room]
                data = data[room:]
            if len(data) >= self._limit:
                self._tail[:] = data[-self._limit :]
            elif data:
                self._tail += data
                if len(self._tail) > 2 * self._limit:
                    del self._tail[: -self._limit]

    def captured(self) -> Captured:
        with self._lock:
            return Captured(bytes(self._head), bytes(self._tail[-self._limit :]), self.total)


class Marked:
    """Finds our marker line `NONCE WORDS` at the start of a command's stdout and passes on what follows it.

    What comes before the marker was printed by the login shell's start-up files and is dropped. The words come from the
    host, which may be hostile: what does not begin with a process group is no marker.

    Args:
        nonce: The marker's first word, unguessable and new for each command; "" where no marker will come.
        sink: Takes the command's own output.
        on_marker: Told of the words, once they have come.
    """

    SEARCH_LIMIT = 256 * 1024
    WORDS_LIMIT = 1000

    def __init__(
        self, nonce: str, sink: Callable[[bytes], None], on_marker: Callable[[str], None] = lambda words: None
    ) -> None:
        self._nonce = nonce.encode() + b" "
        self._sink = sink
        self._on_marker = on_marker
        self._waiting: bytearray | None = bytearray() if nonce else None
        self.words = ""

    @property
    def found(self) -> bool:
        return bool(self.words)

    def feed(self, data: bytes) -> None:
        if self._waiting is None:
            self._sink(data)
            return
        self._waiting += data
        start = self._waiting.find(self._nonce)
        end = self._waiting.find(b"\n", start) if start >= 0 else -1
        if end >= 0:
            words = self._waiting[start + len(self._nonce) : end][: self.WORDS_LIMIT].decode("ascii", "replace").strip()
            if not _GROUP.match(words):
                self.finish()
                return
            self.words = words
            self._on_marker(words)
            rest, self._waiting = bytes(self._waiting[end + 1 :]), None
            if rest:
                self._sink(rest)
        elif len(self._waiting) > self.SEARCH_LIMIT:
            self.finish()

    def finish(self) -> None:
        """No marker came: what was held back is output after all."""
        if self._waiting:
            self._sink(bytes(self._waiting))
        self._waiting = None


_GROUP = re.compile(r"(?!1\b)[1-9][0-9]{0,9}(?: |$)")
"""A process group that may be ended: 0 and 1 would be the shell's own and every process there is."""


def last_line(progress: Progress) -> Callable[[bytes], None]:
    """Report the last line of output as progress; the count is in bytes."""
    total = 0

    def report(data: bytes) -> None:
        nonlocal total
        total += len(data)
        lines = data.strip().rsplit(b"\n", 1)
        progress(float(total), None, one_line(decode(lines[-1][-200:])))

    return report
