"""Writing files so that nothing is lost: atomic replacement, private modes, locks between processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from fleetshell_tools.core.errors import ConfigError

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700

ABANDONED = 60.0
"""Seconds after which a temporary file belongs to nobody: writing one takes milliseconds."""

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.(?:tmp|new)")


def write_atomic(path: Path, data: str | bytes, mode: int = PRIVATE_FILE, *, durable: bool = True) -> None:
    """Replace `path` by `data` so that a crash leaves the old or the new content, never a part.

    A temporary file in the same folder is written, fsynced and renamed, and the folder is fsynced.

    Args:
        durable: False for what need not outlive a crash of the machine: nothing is fsynced.

    Raises:
        OSError: The disk is full, the folder is missing or not writable; the old file is untouched.
    """
    raw = data.encode() if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(raw)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a write that fails does not know what it was writing
        raise
    if durable:
        sync_folder(path.parent)


def sweep(folder: Path) -> int:
    """Remove the temporary files of writers that were killed; they may hold secrets. Returns how many there were."""
    removed = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                ours = _TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
                if ours and abs(time.time() - entry.stat(follow_symlinks=False).st_mtime) > ABANDONED:
                    os.unlink(entry.path)
                    removed += 1
    return removed


def sync_folder(folder: Path) -> None:
    """Make a rename or an unlink in `folder` durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(path: Path) -> bool:
    """Create a private folder (and its parents); returns whether it was created now."""
    if path.is_dir():
        return False
    make_folder(path.parent)
    path.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    return True


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the lock file `path` (created if missing) against other processes and threads."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def try_lock(path: Path) -> int | None:
    """Take the lock file `path` for as long as the returned descriptor stays open; None where another holds it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    return fd


def check_private(path: Path, *, folder: bool) -> None:
    """Refuse a file or folder of the home that another user owns or can change, or that is a link or a device.

    Raises:
        ConfigError: With the command that mends it.
    """
    info = os.lstat(path)
    if stat.S_ISLNK(info.st_mode):
        raise ConfigError(
            f"{path} is a symbolic link; FleetShell does not follow links in its home: replace it by a real "
            f"{'folder' if folder else 'file'}."
        )
    if not (stat.S_ISDIR if folder else stat.S_ISREG)(info.st_mode):
        raise ConfigError(f"{path} is no {'folder' if folder else 'file'}. Run `mv {path} {path}.old`.")
    if info.st_uid != os.geteuid():
        raise ConfigError(
            f"{path} belongs to uid {info.st_uid}, but FleetShell runs as uid {os.geteuid()}. "
            f"Run `chown -R $(id -un) {path}`, or run FleetShell as its owner."
        )
    if info.st_mode & 0o022:
        raise ConfigError(
            f"{path} can be changed by other users (mode {info.st_mode & 0o7777:04o}). "
            f"Run `chmod {'700' if folder else '600'} {path}`."
        )


def check_secret(path: Path) -> None:
    """Refuse a file with a secret in it that other users can read.

    Raises:
        ConfigError: With the command that mends it.
    """
    check_private(path, folder=False)
    mode = os.lstat(path).st_mode
    if mode & 0o077:
        raise ConfigError(f"{path} can be read by other users (mode {mode & 0o7777:04o}). Run `chmod 600 {path}`.")
