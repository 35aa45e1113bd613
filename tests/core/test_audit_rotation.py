"""Rotation of the audit log: one chain over all files, whatever is killed, filled, removed or moved on the way."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest
from support.audit_place import ROOT, Mount, Place, fill, occupy, small_disks, writer

from fleetshell_tools.core import audit_files
from fleetshell_tools.core.audit_reading import Wanted, follow, read, stamp
from fleetshell_tools.core.errors import AuditUnavailable

ROUNDS = 200 if os.environ.get("FLEETSHELL_SOAK") else 20


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.close()


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    with small_disks(tmp_path / "small") as mount:
        yield mount


def rotated(place: Place, count: int, *, keep: int = 0, max_bytes: int = 2000) -> None:
    """`count` intents in files of some 2000 bytes, which hold five records each."""
    log = place.log(max_bytes=max_bytes, keep=keep)
    for number in range(count):
        log.record("started", durable=True, server_id=f"web-{number % 2}", number=number)
    log.close()


def seqs(place: Place) -> list[int]:
    return [record["seq"] for record in read(place.path)]


def test_a_full_file_is_set_aside_and_the_next_one_names_its_last_record(place: Place) -> None:
    rotated(place, 20)
    assert audit_files.numbers(place.path) == [1, 2, 3, 4]
    for number in range(4):
        first, before = json.loads(place.lines(number)[0]), json.loads(place.lines(number + 1)[-1])
        assert first["event"] == "rotated" and first["prev"] == first["previous_hash"] == before["hash"]
        assert first["previous_seq"] == before["seq"] == first["seq"] - 1
        assert first["previous_bytes"] == place.older(number + 1).stat().st_size >= 2000
    found = place.verify()
    assert found.ok and found.records == 24 and not found.notes
    assert seqs(place) == list(range(1, 25))
    assert {file.stat().st_mode & 0o777 for file in place.folder.iterdir()} == {0o600}


def test_only_a_record_that_permits_an_act_rotates(place: Place) -> None:
    log = place.log(max_bytes=1000, keep=3)
    for _ in range(20):
        log.record("finished")
    assert not audit_files.numbers(place.path)
    log.record("started", durable=True)
    assert audit_files.numbers(place.path) == [1]


def test_the_oldest_files_go_and_the_log_says_so(place: Place) -> None:
    rotated(place, 40, keep=3)
    assert audit_files.numbers(place.path) == [1, 2, 3]
    found = place.verify()
    first = json.loads(place.lines(3)[0])["seq"]
    assert found.ok and found.notes == (f"Line 1 of audit.log.3: records 1 to {first - 1} were removed by rotation.",)
    assert json.loads(place.lines()[0])["removed_through"] == first - 1
    assert found.records == len(seqs(place)) == 50 - first


def test_fewer_kept_files_remove_more_of_them(place: Place) -> None:
    rotated(place, 20)
    rotated(place, 4, keep=2)
    assert audit_files.numbers(place.path) == [1, 2] and place.verify().ok


def test_older_files_that_somebody_else_removed_are_missed(place: Place) -> None:
    rotated(place, 40, keep=3)
    place.older(3).unlink()
    found = place.verify()
    assert (found.ok, found.file, found.first_bad_line) == (False, "audit.log.2", 1)
    assert "an older part of the log was moved away" in found.problem


def edit(lines: list[bytes]) -> None:
    lines[1] = lines[1].replace(b"started", b"startxd")


def drop(lines: list[bytes]) -> None:
    del lines[1]


def reorder(lines: list[bytes]) -> None:
    lines[1], lines[2] = lines[2], lines[1]


def cut(lines: list[bytes]) -> None:
    del lines[2:]


@pytest.mark.parametrize(
    ("change", "file", "bad"),
    [
        (edit, "audit.log.2", 2),
        (drop, "audit.log.2", 2),
        (reorder, "audit.log.2", 2),
        (cut, "audit.log.1", 1),  # what was cut off at the end of one file is missed at the beginning of the next
    ],
)
def test_the_first_bad_line_is_named_with_its_file(
    place: Place, change: Callable[[list[bytes]], None], file: str, bad: int
) -> None:
    rotated(place, 20)
    lines = place.lines(2)
    change(lines)
    place.older(2).write_bytes(b"".join(lines))
    found = place.verify()
    assert (found.ok, found.file, found.first_bad_line) == (False, file, bad)
    assert found.problem.startswith(f"Line {bad} of {file} ")


def test_a_missing_file_in_the_middle_is_named_where_it_is_missed(place: Place) -> None:
    rotated(place, 20)
    place.older(3).unlink()
    found = place.verify()
    assert (found.ok, found.file, found.first_bad_line) == (False, "audit.log.2", 1)


def test_the_log_that_vanishes_after_a_rotation_is_missed(place: Place) -> None:
    rotated(place, 6)
    place.path.unlink()
    assert "The tail was cut off" in place.verify().problem
    fill(place, 1)
    assert not place.verify().ok


@pytest.mark.parametrize("stop", range(1, 9))
def test_a_crash_at_any_step_of_a_rotation_loses_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    rotated(place, 17, keep=3)
    before, steps = seqs(place), 0

    class Crash(BaseException):
        pass

    def counted(function: Callable[..., object]) -> Callable[..., object]:
        def step(*arguments: object) -> object:
            nonlocal steps
            steps += 1
            if steps == stop:
                raise Crash
            return function(*arguments)

        return step

    log = place.log(max_bytes=1000, keep=3)
    log.record("finished")
    with monkeypatch.context() as patch:
        for name in ("rename", "unlink", "fsync"):
            patch.setattr(os, name, counted(getattr(os, name)))
        try:
            for _ in range(5):
                log.record("started", durable=True)
        except Crash:
            place.logs.remove(log)  # a dead process flushes and closes nothing else
            for fd in (log._fd, log._head_fd):
                if fd is not None:
                    os.close(fd)
        assert steps >= stop
    assert place.verify().ok, place.verify().problem
    assert set(before) <= {*seqs(place), *range(1, seqs(place)[0])}
    rotated(place, 12, keep=3)
    found = place.verify()
    assert found.ok and audit_files.numbers(place.path) == [1, 2, 3], found.problem
    assert seqs(place) == list(range(seqs(place)[0], seqs(place)[-1] + 1))


def test_killed_writers_lose_no_intent_and_break_no_chain_while_files_rotate(place: Place) -> None:
    body = (
        "import os, threading\ndef work():\n  while True:\n    log.record('finished', command='y' * 900)\n"
        "    os.write(1, b'%d\\n' % log.record('started', durable=True))\n"
        "for _ in range(3): threading.Thread(target=work, daemon=True).start()\nthreading.Event().wait()"
    )
    argv = writer(place, body, "max_bytes=4000, keep=0")
    promised: set[int] = set()
    for number in range(ROUNDS):
        with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                for _ in range(1 + number % 20 * 3):
                    promised.add(int(process.stdout.readline()))
            finally:
                process.send_signal(signal.SIGKILL)
            promised.update(int(line) for line in process.stdout if line.endswith("\n"))
        place.log().seal()
        found = place.verify()
        assert found.ok, found.problem
    assert promised <= {record["seq"] for record in read(place.path, wanted=Wanted(event="started"))}
    assert len(promised) >= ROUNDS and len(audit_files.numbers(place.path)) >= ROUNDS


def test_processes_that_rotate_at_the_same_time_share_one_chain(place: Place) -> None:
    body = "for n in range(60): log.record('started', durable=True, command=str(n)); log.record('finished')"
    argv = writer(place, body, "max_bytes=3000, keep=0")
    running = [subprocess.Popen(argv, cwd=ROOT) for _ in range(4)]
    assert [process.wait() for process in running] == [0] * 4
    found = place.verify()
    assert found.ok and found.records == 480 + len(audit_files.numbers(place.path)), found.problem


def test_threads_that_rotate_at_the_same_time_share_one_chain(place: Place) -> None:
    log = place.log(max_bytes=3000, keep=0)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: log.record("started", durable=True, number=number), range(200)))
    assert place.verify().ok and {r.get("number") for r in read(place.path)} >= set(range(200))


def test_a_rotation_that_is_refused_keeps_the_intent_from_running_but_no_outcome(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = place.log(max_bytes=1000, keep=3)
    for _ in range(4):
        log.record("finished")

    def refuse(old: Path, new: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(old))

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        with pytest.raises(AuditUnavailable):
            log.record("started", durable=True)
        log.record("finished")
    log.record("started", durable=True)
    assert place.verify().ok and audit_files.numbers(place.path) == [1]


def test_a_disk_that_is_full_at_the_rotation_refuses_intents_and_still_takes_outcomes(mount: Mount) -> None:
    place = mount(2048)
    log = place.log(reserve=True, max_bytes=4000, keep=5)
    while place.path.stat().st_size < 4000 if place.path.exists() else True:
        log.record("started", durable=True)
    ballast = place.folder / "ballast"
    occupy(ballast)
    for _ in range(2):
        with pytest.raises(AuditUnavailable, match="Free space on the file system"):
            log.record("started", command="x" * 5000, durable=True)
    log.record("finished", command="x" * 5000)
    ballast.unlink()
    log.record("started", durable=True)
    found = place.verify()
    assert found.ok and not found.notes and audit_files.numbers(place.path)[0] == 1, found.problem


@pytest.mark.parametrize("torn", [b'{"timestamp":"20', b'{"timestamp":"20\n'])
def test_a_torn_tail_is_sealed_in_the_next_file_where_its_own_was_moved(place: Place, torn: bytes) -> None:
    fill(place, 3)
    with place.path.open("ab") as file:
        file.write(torn)
    os.rename(place.path, place.older(1))
    fill(place, 1)
    found = place.verify()
    assert found.ok, found.problem
    assert found.notes == ("Line 4 of audit.log.1: torn by a crash (16 bytes), sealed by line 1.",)


@pytest.mark.parametrize("old", [b"", b"torn", b"torn\n"])
@pytest.mark.parametrize("new", [b'{"timestamp":"20', b"a\nb\n", b"\0" * 5000])
def test_the_first_record_of_a_new_file_may_be_torn_too(place: Place, old: bytes, new: bytes) -> None:
    fill(place, 3)
    with place.path.open("ab") as file:
        file.write(old)
    os.rename(place.path, place.older(1))
    place.path.write_bytes(new)
    place.path.chmod(0o600)
    fill(place, 1)
    found = place.verify()
    assert found.ok and found.records == 6, found.problem
    assert [record["event"] for record in read(place.path)][3:] == ["recovered", "rotated", "command"]


def test_a_start_seals_a_torn_tail_and_makes_no_log_where_there_is_none(place: Place) -> None:
    place.log().seal()
    assert not list(place.folder.iterdir())
    fill(place, 2)
    with place.path.open("ab") as file:
        file.write(b"torn")
    place.log().seal()
    assert [record["event"] for record in read(place.path)] == ["command", "command", "recovered"]
    place.log().seal()
    assert place.verify().ok and len(place.lines()) == 4


def test_reading_goes_back_over_the_files(place: Place) -> None:
    rotated(place, 20)
    assert [record["seq"] for record in read(place.path, last=7)] == list(range(18, 25))
    newest = read(place.path, last=9, wanted=Wanted(server="web-1"))
    assert [record["number"] for record in newest] == list(range(3, 20, 2))
    assert len(list(read(place.path, wanted=Wanted(event="rotated")))) == 4


def test_reading_since_a_moment_passes_over_files_that_ended_before(place: Place) -> None:
    rotated(place, 20)
    newest = datetime.fromisoformat(json.loads(place.lines(2)[-1])["timestamp"].replace("Z", "+00:00")).timestamp()
    with place.older(2).open("rb") as file:
        assert Wanted(since=newest).reaches(file) and not Wanted(since=newest + 1).reaches(file)
    assert [record["seq"] for record in read(place.path, wanted=Wanted(since=0))] == list(range(1, 25))
    assert not list(read(place.path, wanted=Wanted(since=newest + 3600)))


@pytest.mark.parametrize(
    ("moment", "text"), [(1.5, "1970-01-01T00:00:01.500Z"), (1_705_314_600, "2024-01-15T10:30:00.000Z")]
)
def test_a_moment_is_written_as_records_write_theirs(moment: float, text: str) -> None:
    assert stamp(moment) == text


def test_following_goes_through_every_rotation_between_two_looks(place: Place) -> None:
    log, stop = place.log(max_bytes=2000, keep=0), threading.Event()
    log.record("started", durable=True)
    records = follow(place.path, stop=stop, last=1, poll_seconds=0.005)
    assert next(records)["seq"] == 1
    for _ in range(30):
        log.record("started", durable=True)
    assert len(audit_files.numbers(place.path)) >= 3
    last = seqs(place)[-1]
    assert [next(records)["seq"] for _ in range(2, last + 1)] == list(range(2, last + 1))
    stop.set()
    assert next(records, None) is None


def test_following_begins_in_a_rotated_file_where_there_is_no_newer_one(place: Place) -> None:
    fill(place, 2)
    os.rename(place.path, place.older(1))
    stop = threading.Event()
    records = follow(place.path, stop=stop, last=5, poll_seconds=0.005)
    assert [next(records)["seq"] for _ in range(2)] == [1, 2]
    fill(place, 1)
    assert [next(records)["event"] for _ in range(2)] == ["rotated", "command"]
    stop.set()
    assert next(records, None) is None


def test_a_verification_is_not_confused_by_rotations_meanwhile(place: Place) -> None:
    body = "while True: log.record('started', command='x' * 500, durable=True)"
    argv, found = writer(place, body, "max_bytes=5000, keep=5"), [place.verify()]
    with subprocess.Popen(argv, cwd=ROOT) as process:
        try:
            while len(found) < 30 or not found[-1].notes:
                found.append(place.verify())
                assert process.poll() is None
        finally:
            process.kill()
    assert all(result.ok for result in found), [result.problem for result in found if not result.ok]
