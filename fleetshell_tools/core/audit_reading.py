"""Reading the audit log: `verify` finds what was changed after it was written, `read` and `follow` show records."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from fleetshell_tools.core.audit import (
    FIRST_PREV,
    RECORD,
    UNSIGNED_TAIL,
    lines_backwards,
    load_key,
    parse_head,
)


@dataclass(frozen=True)
class Verification:
    """What `verify` found; `notes` are recoveries that the log itself records, with their lines."""

    ok: bool
    records: int
    first_bad_line: int | None = None
    problem: str = ""
    notes: tuple[str, ...] = ()


def verify(path: Path, key_path: Path, head_path: Path) -> Verification:
    """Check the whole chain, up to the first line that is edited, dropped, reordered, torn or cut off.

    Raises:
        ConfigError: The key is missing, readable by others, or no key.
        OSError: A file can't be read.
    """
    head, size = _snapshot(path, head_path)
    if not size and (head is None or head[0] == 0):
        return Verification(True, 0)
    chain = _Chain(load_key(key_path), head)
    if size:
        with open(path, "rb") as log:
            for line in log:
                if found := chain.add(line[:-1] if line.endswith(b"\n") else line):
                    return chain.result(found)
                size -= len(line)
                if size <= 0:  # what was appended since is newer than the head
                    break
    return chain.result(chain.end())


def _snapshot(path: Path, head_path: Path) -> tuple[tuple[int, str] | None, int]:
    """What the head file says, and the size of the log at that moment."""
    # Looked at first: a writer makes the head before the log, so a head that is missing after a log was seen is really gone.
    size = _size(path)
    try:
        with open(head_path, "rb") as file:
            # Under the lock, so that a line that is being written is not taken for a torn one.
            fcntl.flock(file, fcntl.LOCK_SH)
            return parse_head(file.read(256)), _size(path)
    except FileNotFoundError:
        return None, size


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


@dataclass
class _Chain:
    """The state of a check: what the next line must follow."""

    key: bytes
    head: tuple[int, str] | None
    line: int = 0
    records: int = 0
    seq: int = 0
    prev: str = FIRST_PREV
    torn: list[bytes] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def result(self, found: tuple[int, str] | None) -> Verification:
        line, problem = found or (None, "")
        return Verification(not problem, self.records, line, problem, tuple(self.notes))

    def add(self, line: bytes) -> tuple[int, str] | None:
        """Check the next line; returns the number of a bad line and a sentence about it, or None."""
        self.line += 1
        found = RECORD.search(line)
        if not found:
            self.torn.append(line)
            return None
        seq, prev, digest = int(found[1]), found[2].decode("ascii"), found[3].decode("ascii")
        signed = hmac.digest(self.key, line[:-UNSIGNED_TAIL], "sha256").hex()
        authentic = hmac.compare_digest(signed, digest)
        recovery = json.loads(line) if authentic and b'"event":"recovered"' in line else {}
        if problem := self._check_torn(recovery):
            return problem
        if not authentic:
            return self.line, f"Line {self.line} was edited: its hash does not fit its content."
        if seq != self.seq + 1:
            return self.line, (
                f"Line {self.line} holds record {seq} where record {self.seq + 1} belongs: lines were dropped "
                "or reordered, or an older part of the log was moved away."
            )
        if prev != self.prev:
            return self.line, f"Line {self.line} does not follow the line before it: lines were dropped or reordered."
        if self.head is not None and self.head[0] == seq and self.head[1] != digest:
            return self.line, f"Line {self.line} holds another record {seq} than the head file names."
        self.seq, self.prev, self.records = seq, digest, self.records + 1
        if recovery.get("head_missing"):
            self.notes.append(
                f"Line {self.line}: the head file was missing, so a cut just before it can't be ruled out."
            )
        return None

    def _check_torn(self, recovery: dict[str, Any]) -> tuple[int, str] | None:
        described = recovery.get("torn_bytes"), recovery.get("torn_sha256")
        if not self.torn:
            if described == (None, None):
                return None
            return self.line, f"Line {self.line} describes a torn line before it, which was dropped."
        raw, first = b"\n".join(self.torn), self.line - len(self.torn)
        if described != (len(raw), hashlib.sha256(raw).hexdigest()):
            return (
                first,
                f"Line {first} was edited: it is no whole record, and no recovery record after it describes it.",
            )
        self.notes.append(f"Line {first}: torn by a crash ({len(raw)} bytes), sealed by line {self.line}.")
        self.torn.clear()
        return None

    def end(self) -> tuple[int, str] | None:
        after = self.line + 1
        if self.torn:
            first = after - len(self.torn)
            return (
                first,
                f"Line {first} is torn: it is no whole record. The next start of the relay seals what a crash tore.",
            )
        if self.head is None:
            return (
                after,
                "The head file is missing or unreadable, so nothing shows whether the tail of the log was cut off.",
            )
        if self.head[0] > self.seq:
            return after, (
                f"The tail was cut off: the head file says that record {self.head[0]} is the last, but the log "
                f"ends at record {self.seq}, before line {after}."
            )
        return None


def read(
    path: Path, *, last: int | None = None, server: str | None = None, failed: bool = False
) -> Iterator[dict[str, Any]]:
    """The newest `last` records (None: all), the oldest of them first; lines that are no records are left out.

    Args:
        server: Only this server's.
        failed: Only those whose `success` is false.

    Raises:
        OSError: The log can't be read; a missing one is empty.
    """
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        if last is None:
            yield from _wanted(file, server, failed)
        else:
            yield from _newest(file, os.fstat(file.fileno()).st_size, last, server, failed)


def follow(
    path: Path,
    *,
    stop: threading.Event,
    last: int = 0,
    server: str | None = None,
    failed: bool = False,
    poll_seconds: float = 0.2,
) -> Iterator[dict[str, Any]]:
    """The newest `last` records at the call, then each one appended since, until `stop` is set; none is left out between.

    A log that is moved away is read to its end, then the new one from its beginning.
    """
    file, position = _opened(path), 0
    if file is not None:
        end = os.fstat(file.fileno()).st_size
        start, line = next(lines_backwards(file.fileno(), end), (0, b""))
        position = start if start + len(line) == end else end  # a line without its newline is still to come
    return _follow(file, position, path, stop, last, server, failed, poll_seconds)


def _follow(
    file: BinaryIO | None,
    position: int,
    path: Path,
    stop: threading.Event,
    last: int,
    server: str | None,
    failed: bool,
    poll: float,
) -> Iterator[dict[str, Any]]:
    try:
        if file is not None:
            yield from _newest(file, position, last, server, failed)
        while not stop.is_set():
            successor = _successor(file, path)
            if file is not None:
                if os.fstat(file.fileno()).st_size < position:
                    position = 0
                file.seek(position)
                whole = [line for line in file if line.endswith(b"\n")]
                position += sum(map(len, whole))
                yield from _wanted(whole, server, failed)
            if successor is None:
                stop.wait(poll)
            else:
                if file is not None:
                    file.close()
                file, position = successor, 0
    finally:
        if file is not None:
            file.close()


def _opened(path: Path) -> BinaryIO | None:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        return None


def _successor(file: BinaryIO | None, path: Path) -> BinaryIO | None:
    """Another file than `file` that now stands at `path`."""
    found = _opened(path)
    if found is None or file is None or not os.path.samestat(os.fstat(found.fileno()), os.fstat(file.fileno())):
        return found
    found.close()
    return None


def _wanted(lines: Iterable[bytes], server: str | None, failed: bool) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue  # torn by a crash, or edited: `verify` is what names it
        if not isinstance(record, dict) or (failed and record.get("success") is not False):
            continue
        if server is None or record.get("server_id") == server:
            yield record


def _newest(file: BinaryIO, end: int, last: int, server: str | None, failed: bool) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if last > 0:
        for record in _wanted((line for _, line in lines_backwards(file.fileno(), end)), server, failed):
            found.append(record)
            if len(found) == last:
                break
    return found[::-1]
