"""Reading the audit log over all of its files: `read` and `follow` show the records that somebody wants."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO

from fleetshell_tools.core.audit_files import lines_backwards, numbered, numbers

Record = dict[str, Any]


@dataclass(frozen=True)
class Wanted:
    """Which records to show; None and False leave all.

    Attributes:
        failed: Only those whose `success` is false.
        principal: Only of this one: a key's id, or a person's name.
        since: Only from then on, in Unix seconds.
    """

    server: str | None = None
    failed: bool = False
    principal: str | None = None
    event: str | None = None
    since: float | None = None

    def of(self, lines: Iterable[bytes]) -> Iterator[Record]:
        """The wanted ones among these lines; those that are no records are left out."""
        begin = "" if self.since is None else stamp(self.since)
        exact = {"server_id": self.server, "event": self.event}
        exact = {name: value for name, value in exact.items() if value is not None}
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                continue  # torn by a crash, or edited: `verify` is what names it
            if not isinstance(record, dict) or (self.failed and record.get("success") is not False):
                continue
            if self.principal not in (None, record.get("principal"), record.get("name")):
                continue
            if (
                all(record.get(name) == value for name, value in exact.items())
                and str(record.get("timestamp") or "") >= begin
            ):
                yield record

    def reaches(self, file: BinaryIO) -> bool:
        """Whether a file's newest record is new enough, so that there may be wanted ones in it."""
        lines = (line for _, line in lines_backwards(file.fileno(), os.fstat(file.fileno()).st_size))
        newest = next(EVERYTHING.of(lines), {})
        return self.since is None or not newest or str(newest.get("timestamp") or "") >= stamp(self.since)


EVERYTHING = Wanted()


def stamp(moment: float) -> str:
    """A moment as records write it, so that text compares as time does."""
    return datetime.fromtimestamp(moment, timezone.utc).isoformat(timespec="milliseconds")[:-6] + "Z"


def read(path: Path, *, last: int | None = None, wanted: Wanted = EVERYTHING) -> Iterator[Record]:
    """The newest `last` of the wanted records (None: all of them), the oldest of them first.

    Raises:
        OSError: A file can't be read; a missing log is empty.
    """
    with contextlib.ExitStack() as stack:
        files = list(itertools.takewhile(wanted.reaches, [stack.enter_context(file) for file in _files(path)]))
        if last is not None:
            yield from _newest([(file, os.fstat(file.fileno()).st_size) for file in files], last, wanted)
        else:
            for file in reversed(files):
                yield from wanted.of(file)


def follow(
    path: Path, *, stop: threading.Event, last: int = 0, wanted: Wanted = EVERYTHING, poll_seconds: float = 0.2
) -> Iterator[Record]:  # fmt: skip
    """The newest `last` records at the call, then each one appended since, until `stop` is set; none is left out between.

    A log that is rotated, or moved away, is read to its end, then what came after it from its beginning.
    """
    files = _files(path)
    ends = []
    for file in files:
        end = os.fstat(file.fileno()).st_size
        start, line = next(lines_backwards(file.fileno(), end), (0, b""))
        ends.append(start if start + len(line) == end else end)  # a line without its newline is still to come
    return _follow(files, ends, path, stop, last, wanted, poll_seconds)


def _follow(
    files: list[BinaryIO], ends: list[int], path: Path, stop: threading.Event, last: int, wanted: Wanted, poll: float
) -> Iterator[Record]:
    file, position = (files[0], ends[0]) if files else (None, 0)
    try:
        yield from _newest(list(zip(files, ends, strict=True)), last, wanted)
        for older in files[1:]:
            older.close()
        while not stop.is_set():
            newer = _newer(file, path)
            if file is not None:
                if os.fstat(file.fileno()).st_size < position:
                    position = 0
                file.seek(position)
                whole = [line for line in file if line.endswith(b"\n")]
                position += sum(map(len, whole))
                yield from wanted.of(whole)
            if not newer:
                stop.wait(poll)
                continue
            if file is not None:
                file.close()
            file, position, files = newer[0], 0, newer
            for another in newer[1:]:  # it is found again once the one before it was read
                another.close()
    finally:
        for opened in [*files, *([file] if file else [])]:
            opened.close()


def _files(path: Path) -> list[BinaryIO]:
    """The files of the log, the newest first, each of them once, whatever is renamed meanwhile."""
    files: list[BinaryIO] = []
    seen = set()
    # Rotation moves files to higher numbers: looking upwards, one is met twice at worst, and never missed.
    for name in [path, *(numbered(path, number) for number in range(1, max(numbers(path), default=0) + 2))]:
        with contextlib.suppress(FileNotFoundError):
            file = open(name, "rb")  # noqa: SIM115
            info = os.fstat(file.fileno())
            if (info.st_dev, info.st_ino) in seen:
                file.close()
                continue
            seen.add((info.st_dev, info.st_ino))
            files.append(file)
    return files


def _newer(file: BinaryIO | None, path: Path) -> list[BinaryIO]:
    """What was begun after `file`, opened, the oldest first; where it is not among the log's files any more, the log alone."""
    if file is not None:
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                return []
    files = _files(path)
    known = [
        file is not None and os.path.samestat(os.fstat(other.fileno()), os.fstat(file.fileno())) for other in files
    ]
    # Without our file among them, which of them were read before can't be told: the log itself surely was not.
    count = known.index(True) if True in known else len(files) if file is None else 0
    found, rest = files[:count], files[count:]
    for other in rest:
        other.close()
    if file is not None and True not in known:
        with contextlib.suppress(FileNotFoundError):
            found.append(open(path, "rb"))  # noqa: SIM115
    return found[::-1]


def _newest(files: list[tuple[BinaryIO, int]], last: int, wanted: Wanted) -> list[Record]:
    """The newest `last` records, oldest first, of files that are given newest first, each with where to end."""
    found: list[Record] = []
    for file, end in files if last > 0 else ():
        for record in wanted.of(line for _, line in lines_backwards(file.fileno(), end)):
            found.append(record)
            if len(found) == last:
                return found[::-1]
    return found[::-1]
