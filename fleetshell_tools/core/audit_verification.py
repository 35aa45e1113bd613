"""Verifying the audit log over all of its files: what was changed after it was written, or does not fit what was signed."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from fleetshell_tools.core.audit import RECOVERED, ROTATED, load_key
from fleetshell_tools.core.audit_checkpoints import Signed, checked
from fleetshell_tools.core.audit_files import FIRST_PREV, RECORD, UNSIGNED_TAIL, oldest_first, parse_head

Bad = tuple[int, str]
"""The number of a bad line in its file, and a sentence about it."""


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes:
        file: The name of the file that `first_bad_line` counts in.
        notes: Recoveries and rotations that the log itself records, with their lines.
        signed_through: The last record that a checkpoint signs; 0 for none.
    """

    ok: bool
    records: int
    first_bad_line: int | None = None
    problem: str = ""
    notes: tuple[str, ...] = ()
    file: str = ""
    signed_through: int = 0


def verify(path: Path, key_path: Path, head_path: Path, signing_key: Path | None = None) -> Verification:
    """Check the whole chain, up to the first line that is edited, dropped, reordered, torn or cut off.

    Args:
        signing_key: The private half of the pair that checkpoints are signed with; None leaves them out.

    Raises:
        ConfigError: The key is missing, readable by others, or no key.
        OSError: A file can't be read.
    """
    signed = checked(path, signing_key) if signing_key is not None else Signed()
    with contextlib.ExitStack() as stack:
        head, files = _snapshot(path, head_path, stack)
        if not any(size for _, size in files) and (head is None or head[0] == 0) and not signed.hashes:
            return Verification(True, 0)
        key = load_key(key_path)
        chain = _Chain(path.name, key, head, signed.hashes, _removed(files, key))
        bad = chain.follow(files) or chain.end()
    notes, through = (*chain.notes, *signed.notes), max(signed.hashes, default=0)
    if bad is None:
        return Verification(not signed.problem, chain.records, None, signed.problem, notes, "", through)
    return Verification(False, chain.records, *bad, notes, chain.file or path.name, through)


def _snapshot(
    path: Path, head_path: Path, stack: contextlib.ExitStack
) -> tuple[tuple[int, str] | None, list[tuple[BinaryIO, int]]]:
    """What the head file says, and every file of the log with its size at that moment, the oldest first."""

    def opened() -> list[tuple[BinaryIO, int]]:
        files: list[tuple[BinaryIO, int]] = []
        for name in oldest_first(path):
            with contextlib.suppress(FileNotFoundError):
                file = stack.enter_context(open(name, "rb"))  # noqa: SIM115
                files.append((file, file.seek(0, 2)))
                file.seek(0)
        return files

    # Looked at first: a writer makes the head before the log, so a head that is missing after a log was seen is really gone.
    before = opened()
    try:
        with open(head_path, "rb") as file:
            # Under the lock, so that a line that is being written is not taken for a torn one, and no file is renamed.
            fcntl.flock(file, fcntl.LOCK_SH)
            return parse_head(file.read(256)), opened()
    except FileNotFoundError:
        return None, before


def _removed(files: list[tuple[BinaryIO, int]], key: bytes) -> set[int]:
    """The records before which rotations say, authentically, that they removed everything."""
    removed = set()
    for file, _ in files:
        for line in islice(file, 10):  # the record of a rotation begins its file, or follows a torn line and its seal
            record = _authentic(line.rstrip(b"\n"), key)
            if record.get("event") == ROTATED and record.get("removed_through"):
                removed.add(int(record["removed_through"]))
        file.seek(0)
    return removed


def _authentic(line: bytes, key: bytes) -> dict[str, Any]:
    """The record in `line` where its hash fits, else nothing."""
    found = RECORD.search(line)
    if not found or not hmac.compare_digest(_digest(line, key), found[3].decode("ascii")):
        return {}
    record: dict[str, Any] = json.loads(line)
    return record


def _digest(line: bytes, key: bytes) -> str:
    return hmac.digest(key, line[:-UNSIGNED_TAIL], "sha256").hex()


@dataclass
class _Chain:
    """The state of a check: what the next line must follow."""

    log: str
    key: bytes
    head: tuple[int, str] | None
    signed: Mapping[int, str]
    removed: set[int]
    file: str = ""
    line: int = 0
    records: int = 0
    seq: int | None = None
    prev: str = FIRST_PREV
    torn: list[bytes] = field(default_factory=list)
    torn_at: tuple[str, int] = ("", 0)
    notes: list[str] = field(default_factory=list)

    def follow(self, files: list[tuple[BinaryIO, int]]) -> Bad | None:
        for file, size in files:
            self.file, self.line = Path(file.name).name, 0
            for line in file:
                if size <= 0:  # what was appended since is newer than the head
                    break
                size -= len(line)
                if bad := self.add(line[:-1] if line.endswith(b"\n") else line):
                    return bad
        return None

    def add(self, line: bytes) -> Bad | None:
        """Check the next line."""
        self.line += 1
        found = RECORD.search(line)
        if not found:
            if not self.torn:
                self.torn_at = self.file, self.line
            self.torn.append(line)
            return None
        seq, prev, digest = int(found[1]), found[2].decode("ascii"), found[3].decode("ascii")
        authentic = hmac.compare_digest(_digest(line, self.key), digest)
        recovery = json.loads(line) if authentic and b'"event":"%b"' % RECOVERED.encode() in line else {}
        if bad := self._check_torn(recovery):
            return bad
        if not authentic:
            return self._bad("was edited: its hash does not fit its content.")
        if self.seq is None and seq - 1 in self.removed:
            self.seq, self.prev = seq - 1, prev
            self.notes.append(f"{self._where()}: records 1 to {seq - 1} were removed by rotation.")
        after = self.seq or 0
        if seq != after + 1:
            return self._bad(
                f"holds record {seq} where record {after + 1} belongs: lines were dropped or reordered, "
                "or an older part of the log was moved away."
            )
        if prev != self.prev:
            return self._bad("does not follow the line before it: lines were dropped or reordered.")
        if self.head is not None and self.head[0] == seq and self.head[1] != digest:
            return self._bad(f"holds another record {seq} than the head file names.")
        if self.signed.get(seq, digest) != digest:
            return self._bad(
                f"holds another record {seq} than was signed: the log was written anew from here or before."
            )
        self.seq, self.prev, self.records = seq, digest, self.records + 1
        if recovery.get("head_missing"):
            self.notes.append(
                f"{self._where()}: the head file was missing, so a cut just before it can't be ruled out."
            )
        return None

    def _where(self) -> str:
        return f"Line {self.line}" if self.file == self.log else f"Line {self.line} of {self.file}"

    def _bad(self, what: str) -> Bad:
        return self.line, f"{self._where()} {what}"

    def _check_torn(self, recovery: dict[str, Any]) -> Bad | None:
        described = recovery.get("torn_bytes"), recovery.get("torn_sha256")
        if not self.torn:
            if described == (None, None):
                return None
            return self._bad("describes a torn line before it, which was dropped.")
        raw, here = b"\n".join(self.torn), self._where()
        if described != (len(raw), hashlib.sha256(raw).hexdigest()):
            self.file, self.line = self.torn_at
            return self._bad("was edited: it is no whole record, and no recovery record after it describes it.")
        place = (self.file, self.line)
        self.file, self.line = self.torn_at
        self.notes.append(
            f"{self._where()}: torn by a crash ({len(raw)} bytes), sealed by {here[0].lower()}{here[1:]}."
        )
        self.file, self.line = place
        self.torn.clear()
        return None

    def end(self) -> Bad | None:
        """What only shows at the end."""
        last, after = self.seq or 0, self.line + 1
        if self.torn:
            self.file, self.line = self.torn_at
            return self._bad("is torn: it is no whole record. The next start of the relay seals what a crash tore.")
        if self.head is None:
            return (
                after,
                "The head file is missing or unreadable, so nothing shows whether the tail of the log was cut off.",
            )
        if self.head[0] > last:
            return after, (
                f"The tail was cut off: the head file says that record {self.head[0]} is the last, but the log "
                f"ends at record {last}, before line {after}."
            )
        if max(self.signed, default=0) > last:
            return after, (
                f"The tail was cut off: record {max(self.signed)} was signed, but the log ends at record {last}, before line {after}."
            )
        return None
