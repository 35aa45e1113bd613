"""Reading enough of a log: the program in real shells with GNU and busybox utilities, on real files, also large and packed ones."""

from __future__ import annotations

import gzip
import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from fleetshell_tools.core import log_sampling
from fleetshell_tools.core.log_analysis import Analysis, analyse
from fleetshell_tools.core.log_sampling import END, Reading, of_files, script
from fleetshell_tools.core.log_source import Source, seen
from fleetshell_tools.core.log_time import Clock, Since
from fleetshell_tools.core.scripts import Facts, Ran, facts_in, parts

HOSTS = ["dash", "bash", "busybox"]


def ran_in(host: str, folder: Path, path: Path | str, since: Since, lines: int | None) -> Ran:
    """Run the program as a host of that kind would."""
    words = shlex.split(script(Source(path=str(path)), since, lines).command("fs-n", None, sudo=False))[1:]
    shell, environment = [host], dict(os.environ)
    if host == "busybox":
        if shutil.which("busybox") is None:
            pytest.skip("busybox is not installed")
        tools = folder / "busybox"
        if not tools.exists():
            tools.mkdir()
            for name in subprocess.check_output(["busybox", "--list"], text=True).split():
                (tools / name).symlink_to(shutil.which("busybox") or "")
        shell, environment = [str(tools / "sh")], {**environment, "PATH": f"{tools}:{environment['PATH']}"}
    done = subprocess.run([*shell, *words[1:]], capture_output=True, check=True, env=environment)
    assert done.stderr == b"", done.stderr
    found = parts(done.stdout, "fs-n")
    facts = facts_in(found)
    assert facts is not None and facts["tools"] == ("busybox" if host == "busybox" else "gnu")
    return Ran(found, 0, "", True, facts)


def read(host: str, folder: Path, path: Path | str, ago: int | None = None, lines: int | None = None) -> Reading:
    since = Since() if ago is None else Since("ago", ago)
    ran = ran_in(host, folder, path, since, lines)
    return of_files(ran, seen(ran))


def stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(seconds))


def syslog(now: float, seconds: int, each: int, *, every: int = 10) -> bytes:
    """A log of the last `seconds`, `each` lines a second, one in `every` an error; some 100 bytes a line."""
    lines = []
    for second in range(seconds, 0, -1):
        head = f"{stamp(now - second)} web-1 app[7]: "
        for number in range(each):
            what = "error: cannot reach the database" if number % every == 0 else "request was served from the cache"
            lines.append(f"{head}{what}, number {second}-{number}")
    return "\n".join([*lines, ""]).encode()


def analysis(reading: Reading, now: float, ago: int | None = None, most: int | None = None) -> Analysis:
    return analyse(reading.pieces, Clock(now), "summary", None if ago is None else now - ago, most)


@pytest.mark.parametrize("host", HOSTS)
def test_a_small_file_is_read_whole(host: str, tmp_path: Path) -> None:
    (tmp_path / "a b.log").write_bytes(b"\x00one\ntwo\nthree" + b"\nfour" * 1000)
    reading = read(host, tmp_path, tmp_path / "a b.log")
    assert [piece.data for piece in reading.pieces] == [b"one\ntwo\nthree" + b"\nfour" * 1000]
    assert reading.whole and not reading.sampled and reading.over == ()


@pytest.mark.parametrize("host", HOSTS)
def test_without_since_the_newest_lines_are_read_of_rotated_files_too(host: str, tmp_path: Path) -> None:
    log, now = tmp_path / "a.log", time.time()
    log.write_bytes(b"5\n6\n")
    (tmp_path / "a.log.1").write_bytes(b"3\n4\n")
    (tmp_path / "a.log.2.gz").write_bytes(gzip.compress(b"0\n1\n2\n"))
    (tmp_path / "a.log.3.gz").write_bytes(gzip.compress(b"never\n"))
    for name, age in (("a.log.1", 100), ("a.log.2.gz", 200), ("a.log.3.gz", 300)):
        os.utime(tmp_path / name, (now - age,) * 2)
    reading = read(host, tmp_path, log, lines=6)
    assert analysis(reading, now, most=6).lines == 6
    # One more line than wanted, because the first one may be torn.
    assert b"".join(piece.data for piece in reading.pieces) == b"0\n1\n2\n3\n4\n5\n6\n"
    assert b"".join(piece.data for piece in read(host, tmp_path, log, lines=1).pieces) == b"5\n6\n"


@pytest.mark.parametrize("host", HOSTS)
def test_a_large_file_is_read_at_its_end_and_sampled_before_it(host: str, tmp_path: Path) -> None:
    log, now = tmp_path / "big.log", time.time()
    log.write_bytes(syslog(now, 4000, 40))
    size = log.stat().st_size
    assert size > 6 * END
    reading = read(host, tmp_path, log, ago=3600)
    assert reading.size == size and reading.read < END + 30 * log_sampling.BLOCK
    assert reading.sampled and not reading.whole
    found = analysis(reading, now, ago=3600)
    assert found.sampled and 0.8 < found.lines / (3600 * 40) < 1.2
    assert 0.8 < found.totals["error"] / (3600 * 4) < 1.2
    # What lies in the end is counted, not estimated.
    late = analysis(reading, now, ago=100)
    assert not late.sampled and 99 * 40 <= late.lines <= 101 * 40 and late.compared


@pytest.mark.parametrize("host", HOSTS)
def test_of_packed_files_runs_of_lines_are_kept(host: str, tmp_path: Path) -> None:
    log, now = tmp_path / "a.log", time.time()
    content = syslog(now, 8000, 30)
    half = content.index(b"\n", len(content) * 3 // 4) + 1
    log.write_bytes(content[half:])
    (tmp_path / "a.log.1.gz").write_bytes(gzip.compress(content[:half], 1))
    os.utime(tmp_path / "a.log.1.gz", (now - 2000,) * 2)
    reading = read(host, tmp_path, log, ago=7000)
    assert reading.sampled and reading.read < 4 * END
    assert 0.85 < analysis(reading, now, ago=7000).lines / (7000 * 30) < 1.15


@pytest.mark.parametrize("host", HOSTS)
def test_what_is_older_than_the_window_before_is_not_read(host: str, tmp_path: Path) -> None:
    log, now = tmp_path / "a.log", time.time()
    log.write_bytes(b"new\n")
    for name, age in (("a.log.1", 5000), ("a.log.2.gz", 7500)):
        (tmp_path / name).write_bytes(gzip.compress(b"old\n") if name.endswith("gz") else b"before\n")
        os.utime(tmp_path / name, (now - age,) * 2)
    reading = read(host, tmp_path, log, ago=3600)
    assert [piece.data for piece in reading.pieces] == [b"before\n", b"new\n"]


@pytest.mark.parametrize("host", HOSTS)
def test_too_much_is_left_out_and_named(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_sampling, "MOST", 100)
    monkeypatch.setattr(log_sampling, "PACKED", 10)
    log, now = tmp_path / "a.log", time.time()
    log.write_bytes(b"")
    (tmp_path / "a.log.1.gz").write_bytes(gzip.compress(b"packed\n"))
    (tmp_path / "a.log.2").write_bytes(b"x\n" * 100)
    (tmp_path / "a.log.3").write_bytes(b"y\n")
    for number, name in enumerate(("a.log.1.gz", "a.log.2", "a.log.3"), 1):
        os.utime(tmp_path / name, (now - number * 60,) * 2)
    reading = read(host, tmp_path, log, ago=3600)
    assert {Path(path).name for path in reading.over} == {"a.log.1.gz", "a.log.3"}
    assert not reading.whole


@pytest.mark.parametrize("path", ["-n", "$(touch x)", "a'b\"c", "new\nline.log", "Ünïcode", "[a"])
def test_a_path_is_data(path: str, tmp_path: Path) -> None:
    (tmp_path / path).write_bytes(b"line\n")
    reading = read("dash", tmp_path, tmp_path / path)
    assert [piece.data for piece in reading.pieces] == [b"line\n"]
    assert not (tmp_path / "x").exists() and not Path("x").exists()


def test_a_journal_that_gave_all_that_was_asked_for_may_hold_more() -> None:
    ran = Ran({"json": b"{}\n{}\n"}, 0, "", True, Facts({}))
    assert log_sampling.of_journal(ran, 3).whole and not log_sampling.of_journal(ran, 2).whole
