"""Tests of the audit log: its chain against edits, crashes, full disks and many writers at once."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.audit_place import ROOT, Mount, Place, fill, occupy, small_disks, writer

from fleetshell_tools.core import audit, audit_verification
from fleetshell_tools.core.audit import AuditLog, create_key
from fleetshell_tools.core.audit_reading import Wanted, follow, read
from fleetshell_tools.core.audit_verification import Verification
from fleetshell_tools.core.errors import AuditUnavailable, ConfigError

KEYS = [
    "timestamp",
    "event",
    "server_id",
    "command",
    "exit_code",
    "success",
    "duration_ms",
    "tool",
    "principal",
    "client",
    "session",
    "verdict",
]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.close()


def test_a_log_that_nobody_touched_verifies(place: Place) -> None:
    fill(place, 20)
    assert place.verify() == Verification(ok=True, records=20)


def test_a_home_without_any_record_verifies(place: Place) -> None:
    assert place.verify() == Verification(ok=True, records=0)


def test_every_field_of_the_contract_is_there_in_order_and_the_chain_comes_last(place: Place) -> None:
    log = place.log()
    assert log.record("command", verdict="allowed", zebra=1, server_id="web-1", argument_digest="ab") == 1
    record = json.loads(place.path.read_bytes())
    assert list(record) == [*KEYS, "zebra", "argument_digest", "seq", "prev", "hash"]
    assert record["server_id"] == "web-1" and record["verdict"] == "allowed" and record["exit_code"] is None
    assert len(record["timestamp"]) == len("2024-01-15T10:30:00.123Z") and record["timestamp"].endswith("Z")


def test_all_files_are_private(place: Place) -> None:
    place.log(reserve=True).record("command", durable=True)
    assert {file.name: file.stat().st_mode & 0o777 for file in place.folder.iterdir()} == dict.fromkeys(
        ("audit.log", "audit.key", "audit.head", "audit.reserve"), 0o600
    )


def test_a_command_cannot_forge_a_line_or_move_a_cursor(place: Place) -> None:
    hostile = 'x\n{"event":"fake"}\r\x1b[2J\x00\x7f\u2028\u0085\u202e","hash":"' + "0" * 64 + '"}\n\ud800'
    place.log().record("command", command=hostile)
    raw = place.path.read_bytes()
    assert all(0x20 <= byte < 0x7F for byte in raw[:-1]) and raw.endswith(b"\n")
    assert place.records()[0]["command"] == hostile and place.verify().ok


def test_a_caller_cannot_set_the_fields_of_the_chain(place: Place) -> None:
    with pytest.raises(ValueError, match="hash, seq"):
        place.log().record("command", seq=7, hash="x")


def test_a_value_that_json_does_not_know_is_recorded_as_text(place: Place) -> None:
    place.log().record("write", target=Path("/etc/motd"))
    assert place.records()[0]["target"] == "/etc/motd"


@pytest.mark.parametrize("line", [1, 5, 10])
def test_an_edited_line_is_named(place: Place, line: int) -> None:
    fill(place, 10)
    lines = place.lines()
    lines[line - 1] = lines[line - 1].replace(b"echo", b"ecno")
    place.path.write_bytes(b"".join(lines))
    found = place.verify()
    assert (found.ok, found.first_bad_line) == (False, line) and f"Line {line} was edited" in found.problem


@pytest.mark.parametrize("line", [1, 5, 9])
def test_a_dropped_line_is_named_where_it_is_missed(place: Place, line: int) -> None:
    fill(place, 10)
    lines = place.lines()
    del lines[line - 1]
    place.path.write_bytes(b"".join(lines))
    found = place.verify()
    assert (found.ok, found.first_bad_line) == (False, line) and "dropped" in found.problem


def test_reordered_lines_are_named(place: Place) -> None:
    fill(place, 10)
    lines = place.lines()
    lines[3], lines[4] = lines[4], lines[3]
    place.path.write_bytes(b"".join(lines))
    found = place.verify()
    assert (found.ok, found.first_bad_line) == (False, 4) and "reordered" in found.problem


def test_a_line_of_another_log_under_the_same_key_does_not_fit(place: Place, tmp_path: Path) -> None:
    other = Place(tmp_path / "other")
    other.folder.mkdir()
    create_key(place.key)
    other.key.write_bytes(place.key.read_bytes())
    other.key.chmod(0o600)
    fill(place, 3)
    other.log().record("start")
    fill(other, 2)
    other.close()
    lines = place.lines()
    lines[1] = other.lines()[1]
    place.path.write_bytes(b"".join(lines))
    assert place.verify().first_bad_line == 2


@pytest.mark.parametrize("kept", [0, 1, 9])
def test_a_cut_tail_is_named(place: Place, kept: int) -> None:
    fill(place, 10)
    place.path.write_bytes(b"".join(place.lines()[:kept]))
    found = place.verify()
    assert (found.ok, found.first_bad_line) == (False, kept + 1)
    assert "record 10 is the last" in found.problem and f"record {kept}" in found.problem


def test_a_cut_tail_still_shows_after_the_log_was_continued(place: Place) -> None:
    fill(place, 10)
    place.path.write_bytes(b"".join(place.lines()[:7]))
    assert place.log().record("command") == 12
    recovery = place.records()[7]
    assert (recovery["event"], recovery["lost_from"], recovery["lost_through"], recovery["seq"]) == (
        "recovered",
        8,
        10,
        11,
    )
    assert place.verify().first_bad_line == 8


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_byte_is_found_in_its_line(place: Place, data: st.DataObject) -> None:
    if not place.path.exists():
        fill(place, 6)
        (place.folder / "original").write_bytes(place.path.read_bytes())
    raw = bytearray((place.folder / "original").read_bytes())
    where = data.draw(st.integers(0, len(raw) - 1))
    raw[where] = data.draw(st.integers(0, 255).filter(lambda byte: byte != raw[where]))
    place.path.write_bytes(raw)
    found = place.verify()
    assert not found.ok and found.first_bad_line == bytes(raw[:where]).count(b"\n") + 1


def test_a_missing_head_file_shows_and_the_next_record_says_so(place: Place) -> None:
    fill(place, 3)
    place.head.unlink()
    assert "head file is missing" in place.verify().problem
    fill(place, 1)
    found = place.verify()
    assert found.ok and found.records == 5 and "head file was missing" in found.notes[0]


def test_a_vanished_log_is_continued_by_a_record_that_says_so(place: Place) -> None:
    log = place.log()
    for _ in range(4):
        log.record("command")
    place.path.unlink()
    assert log.record("command") == 6
    first, second = place.records()
    assert (first["event"], first["seq"], first["lost_from"], first["lost_through"]) == ("recovered", 5, 1, 4)
    assert second["seq"] == 6
    found = place.verify()
    assert (found.ok, found.first_bad_line) == (False, 1) and "moved away" in found.problem


def test_a_log_that_was_moved_away_verifies_when_it_is_put_back_in_front(place: Place) -> None:
    log = place.log()
    log.record("command")
    old = place.folder / "audit.old"
    os.rename(place.path, old)
    log.record("command")
    place.path.write_bytes(old.read_bytes() + place.path.read_bytes())
    assert place.verify() == Verification(ok=True, records=3)


def test_a_head_file_that_was_removed_is_noticed_by_a_running_writer(place: Place) -> None:
    log = place.log()
    log.record("command")
    place.head.unlink()
    log.record("command")
    assert [record["event"] for record in place.records()] == ["command", "recovered", "command"]
    assert place.verify().ok


def test_a_damaged_head_file_is_rewritten_whole(place: Place) -> None:
    fill(place, 2)
    place.head.write_text("x" * 200)
    fill(place, 1)
    assert place.verify().ok


def test_a_crash_between_the_record_and_the_head_is_no_loss(place: Place) -> None:
    fill(place, 3)
    before = place.head.read_bytes()
    fill(place, 1)
    place.head.write_bytes(before)
    assert place.verify().ok
    fill(place, 1)
    assert place.verify() == Verification(ok=True, records=5)


@pytest.mark.parametrize(
    "torn", [b'{"timestamp":"20', b'{"timestamp":"20\n', b"\n", b"\x00" * 70_000, b'{"a":1}\n', b"a\nb\n\nc"]
)
def test_a_torn_tail_is_sealed_and_accepted_only_as_it_was(place: Place, torn: bytes) -> None:
    fill(place, 3)
    with place.path.open("ab") as file:
        file.write(torn)
    assert "Line 4 is torn" in place.verify().problem and place.verify().first_bad_line == 4
    fill(place, 1)
    found = place.verify()
    assert found.ok and found.records == 5 and "Line 4: torn by a crash" in found.notes[0]
    start = sum(map(len, place.lines()[:3]))
    raw = bytearray(place.path.read_bytes())
    raw[start] = ord("x")
    place.path.write_bytes(raw)
    found = place.verify()
    assert not found.ok and found.first_bad_line == 4


def test_a_tail_is_sealed_once(place: Place) -> None:
    fill(place, 1)
    with place.path.open("ab") as file:
        file.write(b"torn")
    fill(place, 3)
    assert [record["event"] for record in place.records()] == ["command", "recovered", *["command"] * 3]
    assert place.verify().ok


def test_a_head_file_that_names_another_record_shows(place: Place) -> None:
    fill(place, 3)
    hash_of_the_second = json.loads(place.lines()[1])["hash"].encode()
    place.head.write_bytes(place.head.read_bytes()[:-67] + hash_of_the_second + b'"}\n')
    found = place.verify()
    assert (found.ok, found.first_bad_line) == (False, 3) and "head file names" in found.problem


def test_a_torn_line_that_is_removed_after_it_was_sealed_is_missed(place: Place) -> None:
    fill(place, 2)
    with place.path.open("ab") as file:
        file.write(b"torn")
    fill(place, 1)
    place.path.write_bytes(b"".join(line for line in place.lines() if line != b"torn\n"))
    assert place.verify().first_bad_line == 3


def test_a_crash_while_sealing_is_sealed_too(place: Place) -> None:
    fill(place, 2)
    with place.path.open("ab") as file:
        file.write(b'torn\n{"timestamp":"2')
    fill(place, 1)
    assert place.verify().ok and place.verify().records == 4


def test_a_record_that_lacks_only_its_newline_is_kept(place: Place) -> None:
    fill(place, 2)
    place.path.write_bytes(place.path.read_bytes()[:-1])
    fill(place, 1)
    assert place.verify() == Verification(ok=True, records=3)


def test_a_record_of_another_log_object_is_continued(place: Place) -> None:
    one, two = place.log(), place.log()
    assert [one.record("a"), two.record("b"), two.record("c"), one.record("d"), two.record("e")] == [1, 2, 3, 4, 5]
    assert place.verify().ok


def test_the_last_record_is_found_behind_a_line_longer_than_a_block(place: Place) -> None:
    place.log().record("command", command="x" * 3_000_000)
    assert place.log().record("command") == 2 and place.verify().ok


def test_eight_threads_share_one_chain(place: Place) -> None:
    log = place.log()

    def work(thread: int) -> list[int]:
        return [log.record("command", command=f"{thread}.{n}", durable=n % 50 == 0) for n in range(200)]

    with ThreadPoolExecutor(8) as pool:
        seqs = [seq for result in pool.map(work, range(8)) for seq in result]
    assert sorted(seqs) == list(range(1, 1601))
    assert place.verify() == Verification(ok=True, records=1600)


def test_four_processes_share_one_chain(place: Place) -> None:
    argv = writer(place, "for n in range(200): log.record('command', command=str(n), durable=n % 50 == 0)")
    running = [subprocess.Popen(argv, cwd=ROOT) for _ in range(4)]
    assert [process.wait() for process in running] == [0, 0, 0, 0]
    assert place.verify() == Verification(ok=True, records=800)


def test_a_killed_writer_loses_no_record_whose_durable_call_returned(place: Place) -> None:
    body = (
        "import os, threading\ndef work():\n  while True:\n    log.record('outcome', command='y' * 9000)\n"
        "    os.write(1, b'%d\\n' % log.record('intent', durable=True))\n"
        "for _ in range(3): threading.Thread(target=work, daemon=True).start()\nthreading.Event().wait()"
    )
    promised: set[int] = set()
    for number in range(20):
        with subprocess.Popen(writer(place, body), cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                for _ in range(1 + number * 3):
                    promised.add(int(process.stdout.readline()))
            finally:
                process.send_signal(signal.SIGKILL)
            promised.update(int(line) for line in process.stdout if line.endswith("\n"))
    fill(place, 1)
    found = place.verify()
    assert found.ok, found.problem
    intents = {record["seq"] for record in place.records() if record["event"] == "intent"}
    assert promised <= intents and len(promised) >= 20


def test_durable_records_of_many_threads_share_an_fsync(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    log, real, count = place.log(), os.fsync, 0
    log.record("start", durable=True)
    first_runs, go_on = threading.Event(), threading.Event()

    def fsync(fd: int) -> None:
        nonlocal count
        count += 1
        if count == 1:
            first_runs.set()
            assert go_on.wait(30)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with ThreadPoolExecutor(21) as pool:
        leader = pool.submit(log.record, "intent", durable=True)
        assert first_runs.wait(30)
        others = [pool.submit(log.record, "intent", durable=True) for _ in range(20)]
        while sum(1 for _ in read(place.path)) < 22:  # all are appended while the first fsync is held up
            threading.Event().wait(0.001)
        assert not leader.done() and not any(other.done() for other in others)
        go_on.set()
        assert sorted(f.result() for f in [leader, *others]) == list(range(2, 23))
    assert count == 2


def test_nobody_is_told_that_a_record_is_on_disk_after_its_fsync_failed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, real = place.log(), os.fsync
    log.record("start", durable=True)
    first_runs, go_on, failures = threading.Event(), threading.Event(), [2, 1]

    def fsync(fd: int) -> None:
        first_runs.set()
        assert go_on.wait(30)
        if failures:
            failures.pop()
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with ThreadPoolExecutor(9) as pool:
        leader = pool.submit(log.record, "intent", durable=True)
        assert first_runs.wait(30)
        others = [pool.submit(log.record, "intent", durable=True) for _ in range(8)]
        while sum(1 for _ in read(place.path)) < 10:
            threading.Event().wait(0.001)
        go_on.set()
        for future in [leader, *others]:
            assert isinstance(future.exception(30), AuditUnavailable)
    assert log.record("intent", durable=True) == 11 and place.verify().ok


def test_a_plain_record_costs_no_fsync(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    log = place.log()
    log.record("start", durable=True)
    monkeypatch.setattr(os, "fsync", lambda fd: pytest.fail("fsync"))
    log.record("outcome")


def test_a_size_limit_refuses_then_the_log_goes_on(place: Place) -> None:
    body = """
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
seq = 0
try:
    while True: seq = log.record('command', command='x' * 1000, durable=True)
except AuditUnavailable as error:
    print(error)
try: log.record('outcome', command='x' * 1000)
except AuditUnavailable: print('refused', seq, (home / 'audit.log').stat().st_size <= 50_000)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
print(log.record('command') - seq)
"""
    done = subprocess.run(writer(place, body), cwd=ROOT, capture_output=True, text=True, check=True)
    sentence, refused, step = done.stdout.splitlines()
    assert str(place.path) in sentence and "ulimit -f" in sentence
    assert refused.startswith("refused") and refused.endswith("True") and step == "1"
    found = place.verify()
    assert found.ok and not found.notes, "what was written in part was taken back"
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    with small_disks(tmp_path / "small") as mount:
        yield mount


def test_a_full_disk_refuses_every_record_and_recovers_when_there_is_space(mount: Mount) -> None:
    place = mount(64)
    log = place.log()
    log.record("start", durable=True)
    ballast = place.folder / "ballast"
    occupy(ballast, leave=8192)
    with pytest.raises(AuditUnavailable, match="Free space on the file system of") as caught:
        for _ in range(100):
            log.record("intent", command="x" * 500, durable=True)
    assert str(place.path) in str(caught.value)
    with pytest.raises(AuditUnavailable):
        log.record("outcome", command="x" * 5000)
    ballast.unlink()
    log.record("intent", durable=True)
    log.close()
    found = place.verify()
    assert found.ok and not found.notes and found.records == len(place.lines())


def test_on_a_full_disk_the_reserve_holds_the_outcomes_but_no_new_intent(mount: Mount) -> None:
    place = mount(2048)
    log = place.log(reserve=True)
    log.record("intent", durable=True)
    assert place.reserve.stat().st_size == audit.RESERVE_BYTES
    ballast = place.folder / "ballast"
    occupy(ballast)
    with pytest.raises(AuditUnavailable):
        log.record("intent", command="x" * 5000, durable=True)
    assert place.reserve.exists(), "an intent may not use the reserve"
    for _ in range(50):
        log.record("outcome", command="x" * 5000)
    assert not place.reserve.exists()
    with pytest.raises(AuditUnavailable, match=r"audit\.reserve.*can't be allocated.*Free space"):
        log.record("intent", durable=True)
    ballast.unlink()
    log.record("intent", durable=True)
    assert place.reserve.stat().st_size == audit.RESERVE_BYTES
    assert place.verify() == Verification(ok=True, records=52)


def test_a_torn_tail_is_sealed_even_where_the_first_tries_met_a_full_disk(mount: Mount) -> None:
    place = mount(64)
    fill(place, 2)
    ballast = place.folder / "ballast"
    with place.path.open("ab") as file:
        file.write(b"torn" * 1000)
    occupy(ballast)
    log = place.log()
    for _ in range(2):
        with pytest.raises(AuditUnavailable):
            log.record("outcome", command="x" * 5000)
            log.record("outcome", command="x" * 5000)
    ballast.unlink()
    log.record("outcome")
    assert place.verify().ok


@pytest.mark.parametrize("name", ["audit.log", "audit.head", "audit.key", "audit.reserve"])
def test_a_planted_link_is_not_followed(place: Place, name: str) -> None:
    target = place.folder / "target"
    target.write_text("precious")
    (place.folder / name).symlink_to(target)
    with pytest.raises(AuditUnavailable):
        place.log(reserve=True).record("intent", durable=True)
    assert target.read_text() == "precious"


def test_a_device_is_no_audit_log(place: Place) -> None:
    if os.geteuid() != 0:
        pytest.skip("/dev/full belongs to root, so another user is refused before")
    log = AuditLog(Path("/dev/full"), place.key, place.head)
    place.logs.append(log)
    with pytest.raises(AuditUnavailable):
        log.record("intent", durable=True)


def test_a_lost_key_is_not_replaced_under_the_records_that_it_signed(place: Place) -> None:
    fill(place, 2)
    place.key.unlink()
    with pytest.raises(AuditUnavailable, match=r"audit\.key, is missing.*Restore it"):
        place.log().record("command")
    with pytest.raises(ConfigError):
        place.verify()
    assert not place.key.exists()


def test_an_existing_key_is_kept(place: Place) -> None:
    create_key(place.key)
    before = place.key.read_bytes()
    create_key(place.key)
    assert place.key.read_bytes() == before and len(bytes.fromhex(before.decode())) == 32
    assert [file.name for file in place.folder.iterdir()] == ["audit.key"]


def test_reading_gives_the_newest_records_oldest_first_and_filters(place: Place) -> None:
    log = place.log()
    for number in range(300):
        log.record("command", server_id=f"web-{number % 3}", success=number % 10 != 0, command="c" * 200, number=number)
    with place.path.open("ab") as file:
        file.write(b'{"torn')
    assert [record["number"] for record in read(place.path, last=3)] == [297, 298, 299]
    assert [record["number"] for record in read(place.path, last=2, wanted=Wanted(server="web-0"))] == [294, 297]
    assert [record["number"] for record in read(place.path, last=2, wanted=Wanted(server="web-0", failed=True))] == [
        240,
        270,
    ]
    assert [record["number"] for record in read(place.path, wanted=Wanted(failed=True))] == list(range(0, 300, 10))
    assert len(list(read(place.path, last=1000))) == 300 and not list(read(place.path, last=0))


def test_a_missing_log_reads_as_empty(place: Place) -> None:
    assert not list(read(place.path)) and not list(read(place.path, last=5))


def test_the_end_of_a_big_log_is_read_without_its_beginning(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    log = place.log()
    for _ in range(1000):
        log.record("command", command="x" * 1000)
    real, total = os.pread, 0

    def pread(fd: int, size: int, offset: int) -> bytes:
        nonlocal total
        total += size
        return real(fd, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    assert [record["seq"] for record in read(place.path, last=5)] == [996, 997, 998, 999, 1000]
    assert total < place.path.stat().st_size / 20


def test_following_misses_nothing_while_records_come_and_the_log_is_moved(place: Place) -> None:
    fill(place, 5)
    stop, log = threading.Event(), place.log()
    records = follow(place.path, stop=stop, last=2, poll_seconds=0.005)
    log.record("command", number=6)
    seen = [next(records)["seq"] for _ in range(3)]
    assert seen == [4, 5, 6]
    log.record("command", number=7)
    os.rename(place.path, place.folder / "audit.old")
    log.record("command", number=8)
    assert [(record["event"], record["seq"]) for record in (next(records), next(records), next(records))] == [
        ("command", 7),
        ("recovered", 8),
        ("command", 9),
    ]
    stop.set()
    assert next(records, None) is None


def test_following_waits_for_a_log_that_is_not_there_yet(place: Place) -> None:
    stop = threading.Event()
    records = follow(place.path, stop=stop, poll_seconds=0.005, wanted=Wanted(server="web-1"))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(next, records)
        fill(place, 1)
        assert first.result(30)["command"] == "echo 0"
    stop.set()
    assert next(records, None) is None


def test_following_shows_a_record_only_when_it_is_whole(place: Place) -> None:
    fill(place, 2)
    whole = place.path.read_bytes()
    start = whole.index(b"\n") + 1
    place.path.write_bytes(whole[: start + 10])
    stop = threading.Event()
    records = follow(place.path, stop=stop, last=5, poll_seconds=0.005)
    assert next(records)["seq"] == 1
    with place.path.open("ab") as file:
        file.write(whole[start + 10 :])
    assert next(records)["seq"] == 2
    stop.set()
    assert next(records, None) is None


def test_a_log_that_begins_during_a_verification_is_not_taken_for_one_without_its_head(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Path] = []

    def slow_open(path: Path, mode: str) -> IO[bytes]:
        if not looked and path == place.head:
            looked.append(path)
            fill(place, 3)
            raise FileNotFoundError(path)
        return path.open(mode)

    monkeypatch.setattr(audit_verification, "open", slow_open, raising=False)
    assert place.verify().ok and looked == [place.head]


def test_a_verification_of_a_log_that_is_being_written_is_not_confused(place: Place) -> None:
    argv, found = writer(place, "while True: log.record('command', command='x' * 500)"), [place.verify()]
    with subprocess.Popen(argv, cwd=ROOT) as process:
        try:
            while len(found) < 8 or found[-1].records < 2000:
                found.append(place.verify())
                assert process.poll() is None
        finally:
            process.kill()
    assert all(result.ok for result in found), found
