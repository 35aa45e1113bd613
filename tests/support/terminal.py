"""A program on a real pseudo-terminal: a test reads what a person would see, and types."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any


class Terminal:
    """A program whose standard streams are one terminal; use it in a `with` statement.

    Args:
        environment: Added to the test's own.
        patience: Seconds that `expect` and `end` wait at most.
        controls: It is the program's controlling terminal, so that Ctrl-C is a signal.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: dict[str, str] | None = None,
        patience: float = 30,
        *,
        controls: bool = False,
    ) -> None:
        self.seen = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._read_to = 0
        self._patience = patience
        self._fd, other = pty.openpty()
        try:
            self.process = subprocess.Popen(
                list(command), stdin=other, stdout=other, stderr=other, start_new_session=True,
                env={**os.environ, "TERM": "dumb", **(environment or {})},
                preexec_fn=(lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)) if controls else None,
            )  # fmt: skip
        finally:
            os.close(other)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._fd)

    def expect(self, text: str) -> str:
        """Wait until `text` is shown, after what was expected before; returns what was shown up to its end."""
        deadline = time.monotonic() + self._patience
        while (at := self.seen.find(text, self._read_to)) < 0:
            if not self._read(deadline):
                raise AssertionError(f"{text!r} was never shown. Seen: {self.seen[self._read_to :]!r}")
        start, self._read_to = self._read_to, at + len(text)
        return self.seen[start : self._read_to]

    def type(self, line: str) -> None:
        """Type a line and Enter."""
        os.write(self._fd, f"{line}\n".encode())

    def keys(self, keys: str) -> None:
        """Press keys, without Enter."""
        os.write(self._fd, keys.encode())

    def settings(self) -> list[Any]:
        """How the terminal is set (termios(3))."""
        return termios.tcgetattr(self._fd)

    def answer(self, question: str, line: str) -> None:
        """Wait for a question, and answer it."""
        self.expect(question)
        self.expect(": ")
        self.type(line)

    def end(self) -> int:
        """Read on until the program ends; returns its exit code."""
        deadline = time.monotonic() + self._patience
        while self._read(deadline):
            pass
        return self.process.wait(self._patience)

    def _read(self, deadline: float) -> bool:
        """Read once; False at the end, or when time is up."""
        ready, _, _ = select.select([self._fd], [], [], max(deadline - time.monotonic(), 0))
        if not ready:
            return False
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # EIO: the program has closed its side
            return False
        self.seen += self._decoder.decode(data).replace("\r\n", "\n")
        return bool(data)
