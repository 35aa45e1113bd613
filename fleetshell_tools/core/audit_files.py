"""The files of an audit log: the one that is written, the older ones beside it, and how one of them ends.

Rotation only renames: `audit.log` becomes `audit.log.1`, that one `audit.log.2`, and so on. A crash between two renames leaves a
gap among the numbers, which the next rotation fills, so no name is ever taken from a file that is still needed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from fleetshell_tools.core.storage import sync_folder

FIRST_PREV = "0" * 64
RECORD = re.compile(rb',"seq":([0-9]{1,18}),"prev":"([0-9a-f]{64})","hash":"([0-9a-f]{64})"\}\Z')
UNSIGNED_TAIL = len(',"hash":"') + 64 + len('"}')
_HEAD = re.compile(rb'\{"seq": *([0-9]{1,18}),"hash":"([0-9a-f]{64})"\}\n')


def numbers(path: Path) -> list[int]:
    """The numbers of the older files of the log `path`, the newest file's (the lowest) first."""
    start = f"{path.name}."
    try:
        names = os.listdir(path.parent)
    except FileNotFoundError:
        return []
    rest = (name[len(start) :] for name in names if name.startswith(start))
    return sorted(int(number) for number in rest if re.fullmatch("[1-9][0-9]{0,8}", number))


def numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def oldest_first(path: Path) -> list[Path]:
    """Every file of the log, `path` itself the last; it need not exist."""
    return [*(numbered(path, number) for number in reversed(numbers(path))), path]


def shift(path: Path) -> None:
    """Rename `path` to `path.1`, after every older file that stands in the way; durable.

    Raises:
        OSError: The folder can't be changed. Whatever was renamed by then stays in order.
    """
    taken = set(numbers(path))
    gap = next(number for number in range(1, len(taken) + 2) if number not in taken)
    for number in range(gap, 1, -1):
        os.rename(numbered(path, number - 1), numbered(path, number))
    os.rename(path, numbered(path, 1))
    sync_folder(path.parent)


@dataclass(frozen=True)
class Tail:
    """How a file ends: its size, the last whole record, the bytes after that one (None where there are none)."""

    end: int = 0
    seq: int = 0
    digest: str = FIRST_PREV
    torn: bytes | None = None
    newline: bool = True

    @classmethod
    def of(cls, fd: int) -> Tail:
        end = os.fstat(fd).st_size
        newline = not end or os.pread(fd, 1, end - 1) == b"\n"
        seq, digest, rest = 0, FIRST_PREV, 0
        for start, line in lines_backwards(fd, end):
            if found := RECORD.search(line):
                seq, digest, rest = int(found[1]), found[3].decode("ascii"), start + len(line) + 1
                break
        torn = os.pread(fd, end - rest, rest) if rest < end else None
        return cls(end, seq, digest, torn[:-1] if torn and newline else torn, newline)

    @classmethod
    def at(cls, path: Path) -> Tail:
        """Of the file at `path`; an empty one where there is none."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return cls()
        try:
            return cls.of(fd)
        finally:
            os.close(fd)

    def then(self, torn: bytes | None) -> Tail:
        """This tail where nothing but `torn` follows it, in the next file."""
        pieces = [piece for piece in (self.torn, torn) if piece is not None]
        return replace(self, torn=b"\n".join(pieces) if pieces else None)


def format_head(seq: int, digest: str) -> bytes:
    """The head file's content; always of the same length, so that it is overwritten in place."""
    return b'{"seq":%18d,"hash":"%b"}\n' % (seq, digest.encode("ascii"))


def parse_head(raw: bytes) -> tuple[int, str] | None:
    found = _HEAD.fullmatch(raw)
    return (int(found[1]), found[2].decode("ascii")) if found else None


def lines_backwards(fd: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Every line before `end` with its offset, the last one first."""
    rest, position, step = b"", end, 8192
    while position > 0:
        size = min(step, position)
        position -= size
        block = os.pread(fd, size, position) + rest
        lines = block.split(b"\n")
        start = position + len(block) + 1
        for line in reversed(lines[1:]):
            start -= len(line) + 1
            if start < end:
                yield start, line
        rest = lines[0]
        step = max(min(step * 2, 1 << 20), len(rest))  # a line longer than a block would else be copied at every block
    if end:
        yield 0, rest
