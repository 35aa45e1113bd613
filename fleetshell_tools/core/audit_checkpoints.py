"""Signed checkpoints of the audit log: which record was the last at a moment, told to journald too.

Each is signed with `ssh-keygen -Y sign`, stands on a line of `audit.log.checkpoints` and names the hash of the line before, so one
signature vouches for all before it. They are of use against somebody who has the log's HMAC key or can write the head file, as far as the signing key, or what
journald was told, was out of their reach. Format of the signatures: OpenSSH's PROTOCOL.sshsig.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from fleetshell_tools.core.audit import AuditLog
from fleetshell_tools.core.audit_files import FIRST_PREV
from fleetshell_tools.core.errors import FleetShellError
from fleetshell_tools.core.storage import PRIVATE_FILE, check_secret, sync_folder

log = logging.getLogger("fleetshell")

EVERY_RECORDS = 1000
EVERY_SECONDS = 600.0
"""A checkpoint is signed once there are so many new records, or new ones for so long."""

NAMESPACE = "fleetshell-audit"
JOURNAL = "/run/systemd/journal/socket"
SECONDS = 30.0
"""How long ssh-keygen may take; it takes hundredths of a second."""

_LINE = re.compile(
    r'(\{"timestamp":"[0-9TZ:.-]+","seq":([0-9]{1,18}),"hash":"([0-9a-f]{64})","previous":"([0-9a-f]{64})"),"signature":"([^"]+)"\}'
)


@dataclass(frozen=True)
class Signed:
    """What checkpoints say: the hash of each signed record by its seq, and what is wrong with them."""

    hashes: Mapping[int, str] = field(default_factory=dict)
    problem: str = ""
    notes: tuple[str, ...] = ()


def path_of(audit_log: Path) -> Path:
    """Where the checkpoints of a log are."""
    return audit_log.with_name(f"{audit_log.name}.checkpoints")


class Checkpoints:
    """Signs where a log stands.

    Args:
        audit: The audit log.
        key: The private half of the signing pair; made at the first checkpoint.
        journal: The socket of journald; where there is none, it is told nothing.
    """

    def __init__(self, audit: AuditLog, key: Path, journal: str = JOURNAL) -> None:
        self._audit, self._key, self._journal = audit, key, journal
        self._path = path_of(audit.path)
        self._signed: int | None = None
        self._tried = time.monotonic()

    def look(self, *, now: bool = False) -> bool:
        """Sign where there are enough new records, or new ones for long enough, or `now`; returns whether it did.

        A failure is logged: the log itself goes on without its checkpoints.
        """
        try:
            if self._signed is None:
                lines = _lines(self._path)
                self._signed = int(lines[-1][2]) if lines else 0
            seq, digest = self._audit.position()
            new, waited = seq - self._signed, time.monotonic() - self._tried
            if new == 0 or not (now or new >= EVERY_RECORDS or waited >= EVERY_SECONDS):
                return False
            self._tried = time.monotonic()
            self._add(seq, digest)
            self._signed = seq
        except (FleetShellError, OSError) as error:
            log.warning("No checkpoint of the audit log was signed: %s", error)
            return False
        return True

    def _add(self, seq: int, digest: str) -> None:
        self._tell_journal(seq, digest)
        _ensure_pair(self._key)
        lines = _lines(self._path)
        previous = hashlib.sha256(lines[-1][0].encode()).hexdigest() if lines else FIRST_PREV
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")[:-6] + "Z"
        said = f'{{"timestamp":"{now}","seq":{seq},"hash":"{digest}","previous":"{previous}"'
        armored = _run(["-q", "-Y", "sign", "-f", str(self._key), "-n", NAMESPACE], said.encode())
        line = f'{said},"signature":{json.dumps(armored)}}}\n'.encode()
        fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE_FILE)
        try:
            end = os.fstat(fd).st_size
            if end and os.pread(fd, 1, end - 1) != b"\n":
                line = b"\n" + line  # a crash tore the line before
            if os.write(fd, line) < len(line):
                os.ftruncate(fd, end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(fd)
        finally:
            os.close(fd)

    def _tell_journal(self, seq: int, digest: str) -> None:
        """One datagram of journald's native protocol (systemd: JOURNAL_NATIVE_PROTOCOL): fields, a line each."""
        fields = {
            "MESSAGE": f"The audit log {self._audit.path} stands at record {seq}, hash {digest}.",
            "PRIORITY": "6",
            "SYSLOG_IDENTIFIER": NAMESPACE,
            "FLEETSHELL_AUDIT_LOG": str(self._audit.path),
            "FLEETSHELL_AUDIT_SEQ": str(seq),
            "FLEETSHELL_AUDIT_HASH": digest,
        }
        text = "".join(f"{name}={value}\n" for name, value in fields.items() if "\n" not in value)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            # A copy elsewhere is an extra: without journald, or where it is busy, the signature is still made.
            with contextlib.suppress(OSError):
                sock.sendto(text.encode("utf-8", "surrogateescape"), self._journal)


def checked(audit_log: Path, key: Path) -> Signed:
    """The checkpoints of the log, checked: each names the line before it, and the newest has a good signature."""
    lines, name = _lines(path_of(audit_log)), path_of(audit_log).name
    if not lines:
        return Signed()
    hashes = {int(line[2]): line[3] for line in lines}
    for before, line in zip([None, *lines], lines, strict=False):
        if line[4] != (hashlib.sha256(before[0].encode()).hexdigest() if before else FIRST_PREV):
            return Signed(
                hashes, f"{name} was changed: the checkpoint of record {line[2]} does not follow the one before it."
            )
    public = key.with_suffix(".pub")
    try:
        words = public.read_text().split()[:2]
    except OSError as error:
        return Signed(
            hashes, f"The checkpoints in {name} can't be checked: {public}: {error.strerror}. Restore it from a backup."
        )
    if shutil.which("ssh-keygen") is None:
        return Signed(hashes, notes=("The signature of the checkpoints was not checked: ssh-keygen is not installed.",))
    with tempfile.TemporaryDirectory() as folder:
        allowed, signature = Path(folder, "allowed"), Path(folder, "signature")
        allowed.write_text(f'{NAMESPACE} namespaces="{NAMESPACE}" {" ".join(words)}\n')
        signature.write_text(json.loads(f'"{lines[-1][5]}"'))
        options = ["-f", str(allowed), "-I", NAMESPACE, "-n", NAMESPACE, "-s", str(signature)]
        try:
            _run(["-Y", "verify", *options], lines[-1][1].encode())
        except FleetShellError as error:
            return Signed(
                hashes, f"The checkpoint of record {lines[-1][2]} in {name} is not signed by {public.name}: {error}"
            )
    return Signed(hashes)


def _lines(path: Path) -> list[re.Match[str]]:
    """Every whole checkpoint; what a crash tore is none."""
    try:
        text = path.read_text("ascii", "replace")
    except FileNotFoundError:
        return []
    return [found for line in text.split("\n") if (found := _LINE.fullmatch(line))]


def _ensure_pair(private: Path) -> None:
    """Make an ed25519 pair without passphrase unless there is one; a crash leaves no half of one."""
    if os.path.lexists(private):
        check_secret(private)
        return
    temporary = private.with_name(f".{private.name}.{secrets.token_hex(6)}.new")
    try:
        _run(["-q", "-t", "ed25519", "-N", "", "-C", NAMESPACE, "-f", str(temporary)], b"")
        os.chmod(f"{temporary}.pub", PRIVATE_FILE)
        os.replace(f"{temporary}.pub", private.with_suffix(".pub"))
        os.replace(temporary, private)
    finally:
        for left in (temporary, Path(f"{temporary}.pub")):
            left.unlink(missing_ok=True)
    sync_folder(private.parent)


def _run(arguments: list[str], given: bytes) -> str:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise FleetShellError(
            "ssh-keygen is not installed, so the audit log can't be signed. Install the OpenSSH client "
            "(Debian, Ubuntu: `apt install openssh-client`)."
        )
    try:
        done = subprocess.run([program, *arguments], input=given, capture_output=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise FleetShellError(f"ssh-keygen did not answer within {SECONDS:g} s.") from None
    if done.returncode != 0:
        raise FleetShellError(f"ssh-keygen: {(done.stderr or done.stdout).decode(errors='replace').strip()}.")
    return done.stdout.decode("ascii", "replace")
