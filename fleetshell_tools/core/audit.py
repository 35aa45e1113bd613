"""The audit log: every act is one line of JSON in a keyed hash chain, written so that a crash or a full disk shows.

`audit_verification` verifies it, `audit_reading` shows it, `audit_files` knows the older files that it was rotated into. The chain
is only as secret as its key: who holds the key can forge a log, and who can write the head file can cut the tail
back to any older record (`audit_checkpoints` is against that).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fleetshell_tools.core import audit_files
from fleetshell_tools.core.audit_files import FIRST_PREV, Tail, format_head, parse_head
from fleetshell_tools.core.audit_redaction import COMMAND_HMAC, command_hmac, redact
from fleetshell_tools.core.errors import AuditUnavailable, ConfigError
from fleetshell_tools.core.storage import (
    PRIVATE_FILE,
    check_private,
    check_secret,
    make_folder,
    sync_folder,
    write_atomic,
)

RESERVE_BYTES = 1024 * 1024
RECOVERED = "recovered"
ROTATED = "rotated"

_ALWAYS_PRESENT: dict[str, Any] = dict.fromkeys(
    ("server_id", "command", "exit_code", "success", "duration_ms", "tool", "principal", "client", "session", "verdict")
)
_OURS = frozenset({"timestamp", "seq", "prev", "hash"})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, allow_nan=False, default=str)


def create_key(key_path: Path) -> None:
    """Create the key that signs the records (32 random bytes in hex, mode 0600) unless it exists.

    Raises:
        OSError: The folder is missing or not writable.
    """
    temporary = key_path.with_name(f".{key_path.name}.{secrets.token_hex(6)}.new")
    write_atomic(temporary, secrets.token_hex(32) + "\n")
    try:
        # A link, unlike a rename, never replaces a key that another process has just created and signed with.
        with contextlib.suppress(FileExistsError):
            os.link(temporary, key_path)
    finally:
        os.unlink(temporary)
    sync_folder(key_path.parent)


def load_key(key_path: Path) -> bytes:
    if not os.path.lexists(key_path):
        raise ConfigError(
            f"The key of the audit log, {key_path}, is missing, so its records can be neither checked nor "
            "continued. Restore it from a backup; without one, move the log and its older files away to begin a new one."
        )
    check_secret(key_path)
    text = key_path.read_text("ascii", "replace").strip()
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise ConfigError(f"{key_path} is not a key of 64 hexadecimal digits; restore it from a backup.")
    return bytes.fromhex(text)


class AuditLog:
    """Appends records; threads may share one, and processes may each have one on the same files.

    Opens at the first record, and must not be carried over a fork after that (the lock would be shared).

    Args:
        path: The log.
        key_path: The key; created where neither it nor a record exists.
        head_path: Holds (seq, hash) of the last record, and is the lock between processes.
        reserve_path: A file of 1 MiB on the log's file system, given up when it is full, so that outcomes of what
            already runs can still be written; None for none.
        max_bytes: A log of this size is rotated; 0 for never. It may be changed later, as may `keep`.
        keep: How many older files stay; 0 for all.

    Attributes:
        observer: Hears of every record once it is written: its event, its `seq` and the caller's fields.
    """

    def __init__(
        self, path: Path, key_path: Path, head_path: Path, reserve_path: Path | None = None, *, max_bytes: int = 0, keep: int = 0
    ) -> None:  # fmt: skip
        self.path, self.key_path, self.head_path, self.reserve_path = path, key_path, head_path, reserve_path
        self.max_bytes, self.keep = max_bytes, keep
        self.observer: Callable[[str, int, dict[str, Any]], None] | None = None
        self._lock = threading.Lock()
        self._key = b""
        self._fd: int | None = None
        self._head_fd: int | None = None
        self._file_id = (0, 0)
        self._size: int | None = None  # of the log after our last write; None: look again
        self._seq = 0
        self._prev = FIRST_PREV
        self._separator = b""
        self._recovery: dict[str, Any] = {}  # fields of a recovery record that is due before the next one
        self._rotation: dict[str, Any] = {}  # fields of the record that begins a new file, where that is due
        self._commit = threading.Condition()
        self._committing = False
        self._appended = self._committed = 0
        self._commit_failed = -1  # the last append that an fsync failed for

    def record(self, event: str, *, durable: bool = False, **fields: Any) -> int:
        """Append one record and return its `seq`.

        Args:
            event: What happened.
            durable: Return only once the record is on disk; refused while the reserve can't be held.
            fields: The fields that every record has (null where not given), and others, which follow them.

        Raises:
            AuditUnavailable: The record can't be written, or can't be made durable; the sentence says what to do.
            ValueError: A field's name is one that this log sets, or a value is not finite.
        """
        if taken := _OURS & fields.keys():
            raise ValueError(f"the audit log itself sets {', '.join(sorted(taken))}")
        shown, command = redact(fields)
        with self._telling(), self._lock:
            with self._head():
                seq = self._append(event, shown, command, durable)
                ticket = self._appended
        if durable:
            with self._telling():
                self._commit_through(ticket)
        if self.observer is not None:
            self.observer(event, seq, fields)
        return seq

    def seal(self) -> None:
        """Write what is due before any new record: that a crash tore the last one, or that the file before was full.

        Raises:
            AuditUnavailable: It can't be written.
        """
        if not os.path.lexists(self.path) and not audit_files.numbers(self.path):
            return
        with self._telling():
            with self._lock, self._head():
                self._catch_up()
                self._write_due(durable=False)
            self.sync()

    def position(self) -> tuple[int, str]:
        """`seq` and `hash` of the last record, with everything up to it on disk; (0, zeros) before the first.

        Raises:
            AuditUnavailable: It can't be read or made durable.
        """
        with self._telling():
            with self._lock, self._head():
                assert self._head_fd is not None
                found = parse_head(os.pread(self._head_fd, 256, 0))
            self.sync()
        return found or (0, FIRST_PREV)

    def sync(self) -> None:
        """Return only once everything that was recorded is on disk.

        Raises:
            AuditUnavailable: It can't be made durable.
        """
        with self._lock:
            ticket = self._appended
        with self._telling():
            self._commit_through(ticket)

    def close(self) -> None:
        """Make everything durable and close the files; a later record opens them again.

        Raises:
            AuditUnavailable: The last records could not be made durable.
        """
        with self._telling(), self._lock:
            try:
                self._close_log()
            finally:
                if self._head_fd is not None:
                    os.close(self._head_fd)
                    self._head_fd = None

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Errors become the one sentence that callers are told."""
        try:
            yield
        except OSError as error:
            raise self._unavailable(error) from error
        except ConfigError as error:
            raise AuditUnavailable(error.message) from error

    @contextlib.contextmanager
    def _head(self) -> Iterator[None]:
        """Hold the head file's lock against other processes."""
        try:
            self._take_head()
            yield
        finally:
            if self._head_fd is not None:
                fcntl.flock(self._head_fd, fcntl.LOCK_UN)

    def _take_head(self) -> None:
        while True:
            if self._head_fd is None:
                make_folder(self.head_path.parent)
                self._head_fd = os.open(
                    self.head_path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE_FILE
                )
                self._size = None
            fcntl.flock(self._head_fd, fcntl.LOCK_EX)
            if os.fstat(self._head_fd).st_nlink:
                return
            # Somebody removed the file: our lock would exclude nobody who opens the new one.
            fd, self._head_fd = self._head_fd, None
            os.close(fd)

    def _append(self, event: str, fields: dict[str, Any], command: str | None, durable: bool) -> int:
        if durable and self.reserve_path is not None:
            self._hold_reserve(self.reserve_path)
        self._catch_up()
        # Only an intent pays for a rotation: an outcome must not fail because a file can't be renamed.
        if durable and 0 < self.max_bytes <= (self._size or 0) and not self._recovery and not self._rotation:
            self._close_log()
            audit_files.shift(self.path)
            self._catch_up()
        self._write_due(durable)
        if command is not None:
            fields[COMMAND_HMAC] = command_hmac(self._key, command)
        self._write_record(event, fields, durable)
        return self._seq

    def _write_due(self, durable: bool) -> None:
        if self._recovery:
            self._write_record(RECOVERED, self._recovery, durable)
            self._recovery = {}
        if self._rotation:
            excess = [number for number in audit_files.numbers(self.path) if number > self.keep > 0]
            if excess:
                newest = Tail.at(audit_files.numbered(self.path, excess[0]))
                self._rotation.update(removed_files=len(excess), removed_through=newest.seq)
            self._write_record(ROTATED, self._rotation, durable)
            self._rotation = {}
            if excess and self._fd is not None:
                os.fsync(self._fd)  # first the word that they are gone: files that are missed without it look stolen
                for number in reversed(excess):
                    os.unlink(audit_files.numbered(self.path, number))

    def _catch_up(self) -> None:
        """Open the log, or learn what others did to it since our last record."""
        try:
            info = os.stat(self.path, follow_symlinks=False)
            file_id = (info.st_dev, info.st_ino)
            if file_id == self._file_id and info.st_size == self._size:
                return
        except FileNotFoundError:
            file_id = (0, 0)
        if file_id != self._file_id:
            self._close_log()
        fd = self._open_log() if self._fd is None else self._fd
        assert self._head_fd is not None
        tail, head = Tail.of(fd), parse_head(os.pread(self._head_fd, 256, 0))
        self._size, self._separator = None, b"" if tail.newline else b"\n"
        self._recovery, self._rotation, size = {}, {}, tail.end
        if not tail.seq and (older := audit_files.numbers(self.path)):
            tail = Tail.at(audit_files.numbered(self.path, older[0])).then(tail.torn)
            self._rotation.update(previous_bytes=tail.end, previous_seq=tail.seq, previous_hash=tail.digest)
        if not self._key:
            if not tail.end and not os.path.lexists(self.key_path):
                create_key(self.key_path)
            self._key = load_key(self.key_path)
        self._seq, self._prev = tail.seq, tail.digest
        if tail.torn is not None:
            self._recovery.update(torn_bytes=len(tail.torn), torn_sha256=hashlib.sha256(tail.torn).hexdigest())
        if head is None:
            if tail.end:
                self._recovery["head_missing"] = True
            os.ftruncate(self._head_fd, 0)
            self._write_head()  # at once, so that the file has its block before the disk fills
        elif head[0] > tail.seq:
            self._recovery.update(lost_from=tail.seq + 1, lost_through=head[0])
            self._seq, self._prev = head
        self._size = size

    def _open_log(self) -> int:
        created = make_folder(self.path.parent) or not os.path.lexists(self.path)
        if not created:
            check_private(self.path, folder=False)
            if not stat.S_ISREG(os.lstat(self.path).st_mode):
                raise ConfigError(
                    f"{self.path} is not a regular file, so no audit log can be kept in it. "
                    "Move it away, or set another `audit_log`."
                )
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self.path, flags, PRIVATE_FILE)
        info = os.fstat(self._fd)
        self._file_id = (info.st_dev, info.st_ino)
        if created:
            sync_folder(self.path.parent)
        return self._fd

    def _close_log(self) -> None:
        fd, self._fd, self._size, self._file_id = self._fd, None, None, (0, 0)
        if fd is None:
            return
        try:
            # Whoever still waits for a record in this file would otherwise be told by an fsync of its successor.
            os.fsync(fd)
        except OSError:
            self._commit_failed = self._appended
            raise
        finally:
            os.close(fd)

    def _write_record(self, event: str, fields: dict[str, Any], durable: bool) -> None:
        assert self._size is not None
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")[:-6] + "Z"
        record = {
            "timestamp": now,
            "event": event,
            **_ALWAYS_PRESENT,
            **fields,
            "seq": self._seq + 1,
            "prev": self._prev,
        }
        body = _ENCODER.encode(record)[:-1].encode("ascii")
        digest = hmac.digest(self._key, body, "sha256").hex()
        line = b'%b%b,"hash":"%b"}\n' % (self._separator, body, digest.encode("ascii"))
        start, self._size = self._size, None
        try:
            self._write(line, start)
        except OSError as error:
            if durable or error.errno not in _FULL or not self._release_reserve():
                raise
            self._write(line, start)
        self._seq, self._prev, self._separator = self._seq + 1, digest, b""
        self._appended += 1
        self._write_head()
        self._size = start + len(line)

    def _write(self, line: bytes, start: int) -> None:
        """Append `line` by one write; what a full disk took of it is taken back."""
        assert self._fd is not None
        written = 0
        try:
            while written < len(line):  # a second turn only asks the kernel why the first was short
                written += os.write(self._fd, line[written:])
        except OSError:
            if written:
                os.ftruncate(self._fd, start)
            raise

    def _write_head(self) -> None:
        assert self._head_fd is not None
        os.pwrite(self._head_fd, format_head(self._seq, self._prev), 0)

    def _hold_reserve(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path, follow_symlinks=False).st_size >= RESERVE_BYTES:
                return
        make_folder(path.parent)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE_FILE)
        try:
            os.posix_fallocate(fd, 0, RESERVE_BYTES)
        except OSError as error:
            os.unlink(path)
            raise AuditUnavailable(
                f"The audit log {self.path} has no reserve for its last words: {path} ({RESERVE_BYTES // 1024} KiB) can't be "
                f"allocated ({error.strerror}), so nothing new may run. Free space on the file system of {path.parent} "
                f"(`df -h {path.parent}` shows it), then try again."
            ) from error
        finally:
            os.close(fd)

    def _release_reserve(self) -> bool:
        if self.reserve_path is None:
            return False
        try:
            os.unlink(self.reserve_path)
        except FileNotFoundError:
            return False
        return True

    def _commit_through(self, ticket: int) -> None:
        """Wait until the append number `ticket` is on disk; one thread's fsync serves all that wait (group commit)."""
        with self._commit:
            while self._committing and ticket > max(self._committed, self._commit_failed):
                self._commit.wait()
            # After a failed fsync Linux drops the dirty pages and the next one succeeds: nobody may be told by that one.
            if ticket <= self._commit_failed:
                raise OSError(errno.EIO, "an earlier fsync failed")
            if ticket <= self._committed:
                return
            self._committing = True
        target, done = ticket, False
        try:
            with self._lock:
                target = self._appended
                fd = None if self._fd is None else os.dup(self._fd)  # the log may be reopened meanwhile
            if fd is not None:
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
            done = True
        finally:
            with self._commit:
                self._committing = False
                if done:
                    self._committed = target
                else:
                    self._commit_failed = target
                self._commit.notify_all()

    def _unavailable(self, error: OSError) -> AuditUnavailable:
        folder = self.path.parent
        if error.errno in _FULL:
            advice = f"Free space on the file system of {folder} (`df -h {folder}` shows it), then try again."
        elif error.errno == errno.EFBIG:
            advice = "Raise the limit of the file size (`ulimit -f`, `LimitFSIZE=`), or move the log away."
        else:
            advice = (
                f"Check the file system, the owner and the mode of {folder} and of {error.filename or self.head_path}."
            )
        return AuditUnavailable(
            f"The audit log {self.path} can't be written ({error.strerror or error}), so nothing may run. " + advice
        )
