"""Signed checkpoints: what they find that the head file can't, and what journald is told."""

from __future__ import annotations

import json
import logging
import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.audit_place import Place, fill

from fleetshell_tools.core import audit_checkpoints
from fleetshell_tools.core.audit_checkpoints import path_of
from fleetshell_tools.core.audit_files import format_head


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.close()


def sign(place: Place, *, times: int = 1) -> None:
    log = place.log()
    for _ in range(times):
        log.record("command")
        assert place.checkpoints(log).look(now=True)
    log.close()


def rewind(place: Place, keep: int) -> None:
    """What somebody does who can write every file, but has no key to sign with."""
    lines = place.lines()[:keep]
    place.path.write_bytes(b"".join(lines))
    place.head.write_bytes(format_head(keep, json.loads(lines[-1])["hash"]))


def test_a_log_that_fits_its_checkpoints_verifies_and_says_how_far_it_is_signed(place: Place) -> None:
    fill(place, 3)
    sign(place, times=3)
    fill(place, 2)
    found = place.verify()
    assert (found.ok, found.records, found.signed_through, found.notes) == (True, 8, 6, ())
    assert stat.S_IMODE(place.signing_key.stat().st_mode) == 0o600
    assert stat.S_IMODE(path_of(place.path).stat().st_mode) == 0o600


def test_a_tail_that_was_cut_off_together_with_the_head_file_shows(place: Place) -> None:
    fill(place, 5)
    sign(place)
    rewind(place, 4)
    found = place.verify()
    assert (found.ok, found.first_bad_line) == (False, 5) and "record 6 was signed" in found.problem


def test_a_log_that_was_written_anew_with_its_own_key_shows(place: Place) -> None:
    fill(place, 3)
    sign(place)
    place.path.unlink()
    place.head.unlink()
    fill(place, 6)
    found = place.verify()
    assert (found.ok, found.first_bad_line) == (False, 4) and "another record 4 than was signed" in found.problem


@pytest.mark.parametrize("line", [0, 1, 2])
def test_a_checkpoint_that_was_changed_shows(place: Place, line: int) -> None:
    sign(place, times=3)
    path = path_of(place.path)
    lines = path.read_text().splitlines(keepends=True)
    lines[line] = lines[line].replace('"seq":', '"seq":1')
    path.write_text("".join(lines))
    found = place.verify()
    assert not found.ok and ("audit.log.checkpoints" in found.problem or "was signed" in found.problem)


def test_a_checkpoint_that_was_removed_shows(place: Place) -> None:
    sign(place, times=3)
    path = path_of(place.path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[2])
    assert "record 3 does not follow the one before it" in place.verify().problem


def test_checkpoints_of_another_key_show(place: Place) -> None:
    sign(place)
    for name in (place.signing_key, place.signing_key.with_suffix(".pub")):
        name.unlink()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place.signing_key)], check=True)
    os.rename(f"{place.signing_key}.pub", place.signing_key.with_suffix(".pub"))
    found = place.verify()
    assert not found.ok and "is not signed by audit-signing.pub" in found.problem


def test_a_lost_public_key_is_asked_for(place: Place) -> None:
    sign(place)
    place.signing_key.with_suffix(".pub").unlink()
    assert "Restore it from a backup" in place.verify().problem


def test_without_ssh_keygen_the_signature_alone_is_left_out(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    sign(place)
    monkeypatch.setattr("shutil.which", lambda name: None)
    found = place.verify()
    assert found.ok and "ssh-keygen is not installed" in found.notes[0]
    rewind(place, 1)
    assert place.verify().ok


def test_a_torn_checkpoint_is_passed_over(place: Place) -> None:
    sign(place, times=2)
    path = path_of(place.path)
    path.write_bytes(path.read_bytes()[:-40])
    assert place.verify().signed_through == 1
    sign(place)
    found = place.verify()
    assert (found.ok, found.signed_through) == (True, 3)


def test_nothing_is_signed_where_there_is_nothing_new(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    log = place.log()
    checkpoints = place.checkpoints(log)
    assert not checkpoints.look(now=True)
    log.record("command")
    assert not checkpoints.look() and checkpoints.look(now=True) and not checkpoints.look(now=True)
    assert not place.checkpoints(log).look(now=True)
    log.record("command")
    assert not checkpoints.look()
    monkeypatch.setattr(audit_checkpoints, "EVERY_SECONDS", 0.0)
    assert checkpoints.look()
    monkeypatch.undo()
    monkeypatch.setattr(audit_checkpoints, "EVERY_RECORDS", 2)
    log.record("command")
    assert not checkpoints.look()
    log.record("command")
    assert checkpoints.look()


def test_a_failure_to_sign_is_logged_and_the_log_goes_on(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = place.log()
    log.record("command")
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr("shutil.which", lambda name: None)
        assert not place.checkpoints(log).look(now=True)
    assert "ssh-keygen is not installed" in caplog.text
    log.record("command", durable=True)
    assert place.checkpoints(log).look(now=True) and place.verify().ok


def test_journald_is_told_where_the_log_stands(place: Place) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        address = place.folder / "journal"
        journal.bind(str(address))
        journal.settimeout(30)
        log = place.log()
        log.record("command")
        assert place.checkpoints(log, address).look(now=True)
        fields = dict(line.split("=", 1) for line in journal.recv(65536).decode().splitlines())
    record = json.loads(place.lines()[0])
    assert (fields["FLEETSHELL_AUDIT_SEQ"], fields["FLEETSHELL_AUDIT_HASH"]) == ("1", record["hash"])
    assert fields["SYSLOG_IDENTIFIER"] == "fleetshell-audit" and record["hash"] in fields["MESSAGE"]
