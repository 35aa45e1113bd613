"""Where log lines come from: which source is meant, which files are found in every shell, and why some can't be read."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.local_scripts import SHELLS, recorded, run_local

from fleetshell_tools.core import log_search, log_source, log_tail
from fleetshell_tools.core.errors import BadArgument, NotFound
from fleetshell_tools.core.log_journal import entries
from fleetshell_tools.core.log_search import Query
from fleetshell_tools.core.log_source import Seen, Source, resolve
from fleetshell_tools.core.log_tail import Place
from fleetshell_tools.core.log_time import Clock, Stamps
from fleetshell_tools.core.scripts import Facts, Ran
from fleetshell_tools.core.servers import Server

SERVER = Server(id="web", hostname="h", services={"mail": {"log_path": "/var/log/mail.log"}, "cache": {"port": 1}})
ADMIN = Facts({"user": "admin"})


def search(
    shell: str,
    pattern: str,
    path: str,
    since: tuple[str, int] = ("ever", 0),
    *,
    ignore_case: bool = False,
    context: int = 0,
) -> Ran:
    return run_local(shell, Query(pattern, ignore_case, context).script(path, since, journal=False))


def found_in(ran: Ran, query: Query) -> list[str]:
    usable = [file for file in log_source.seen(ran) if file.state == "ok"]
    stamps = Stamps(Clock.read(ran.text("clock")) or Clock(0))
    found = list(log_search.in_files(ran, usable, query, stamps, None))
    assert all(item.exact for item in found)
    return sorted(match.line for item in found for match in item.matches)


@pytest.mark.parametrize(
    "log_path, service, wanted",
    [
        ("/a", None, Source(path="/a")),
        (None, "mail", Source(path="/var/log/mail.log", service="mail")),
        (None, "cache", Source(unit="cache", service="cache")),
        (None, "getty@tty1.service", Source(unit="getty@tty1.service", service="getty@tty1.service")),
        ("/a", "", Source(path="/a")),
    ],
)
def test_a_service_is_its_log_file_or_else_a_unit(log_path: str | None, service: str | None, wanted: Source) -> None:
    assert resolve(SERVER, log_path, service) == wanted


@pytest.mark.parametrize("service", ["a b", "-u", "$(x)", "a/b", "x" * 300, "*", "a\nb"])
def test_what_is_no_name_of_a_unit_reaches_no_host(service: str) -> None:
    with pytest.raises(BadArgument, match="neither"):
        resolve(SERVER, None, service)


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_finds_rotated_and_packed_files_and_globs(shell: str, tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("hit 1\nmiss\n")
    (tmp_path / "a.log.1").write_text("hit 2\n")
    (tmp_path / "a.log.2.gz").write_bytes(gzip.compress(b"hit 3\n"))
    (tmp_path / "a.log-20240115").write_text("hit 4\n")
    (tmp_path / "a.log.old").write_text("hit 5\n")
    (tmp_path / "a.log.3").write_text("hit 6\n")
    os.utime(tmp_path / "a.log.3", (1000, 1000))
    path, query = str(tmp_path / "a.log"), Query("hit")
    assert found_in(search(shell, "hit", path), query) == ["hit 1"]
    rotated = search(shell, "hit", path, ("ago", 3600))
    assert found_in(rotated, query) == ["hit 1", "hit 2", "hit 3", "hit 4"]
    assert [file.path for file in log_source.seen(rotated) if file.state == "older"] == [f"{path}.3"]
    assert found_in(search(shell, "hit", f"{tmp_path}/a*"), query) == [f"hit {number}" for number in range(1, 7)]
    assert found_in(search(shell, "HIT", f"{tmp_path}/a.lo[g]", ignore_case=True, context=3), query) == ["hit 1"]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_moment_without_zone_is_the_hosts_time(shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for zone, offset in (("XYZ-05:45", 20_700), ("ABC+09:08", -32_880), ("UTC", 0)):
        monkeypatch.setenv("TZ", zone)
        (tmp_path / "a.log").write_text("hit\n")
        for mtime, state in ((1_000_000_000 - offset - 1, "older"), (1_000_000_000 - offset, "ok")):
            os.utime(tmp_path / "a.log", (mtime, mtime))
            ran = search(shell, "hit", str(tmp_path / "a.log"), ("local", 1_000_000_000))
            clock = Clock.read(ran.text("clock"))
            assert clock is not None and clock.offset == offset
            assert [file.state for file in log_source.seen(ran)] == [state]


@pytest.mark.parametrize("shell", SHELLS)
def test_what_is_no_text_file_is_told_apart(shell: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "binary").write_bytes(b"\0hit")
    (tmp_path / "dangling").symlink_to("nowhere")
    states = {}
    for name in ("folder", "pipe", "binary", "dangling", "absent", "folder/absent/absent"):
        states[name] = log_source.seen(search(shell, "hit", f"{tmp_path}/{name}"))[0].state
    assert states == {
        "folder": "folder", "pipe": "special", "binary": "binary", "dangling": "missing", "absent": "missing",
        "folder/absent/absent": "missing",
    }  # fmt: skip


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_without_stat_sizes_are_counted_and_times_unknown(shell: str, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "stat").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bin" / "stat").chmod(0o755)
    path = tmp_path / "a.log"
    path.write_text("hit\nmiss\n")
    ran = run_local(shell, Query("hit").script(str(path), ("ago", 60), journal=False), first_in_path=tmp_path / "bin")
    assert log_source.seen(ran) == [Seen(1, "ok", str(path), None, 9, None, "?", "?")]
    assert found_in(ran, Query("hit")) == ["hit"]
    script = log_tail.file_script(str(path), 1, None)
    place = log_tail.end_of_file(run_local(shell, script, first_in_path=tmp_path / "bin"), 1, 999).place
    assert place is not None
    with path.open("a") as file:
        file.write("more\n")
    script = log_tail.file_script(str(path), 1, place)
    assert log_tail.after(run_local(shell, script, first_in_path=tmp_path / "bin"), place, 1, 999).lines == ["more"]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("pattern", ["a(", "[a", "a{2,1}"])
def test_every_grep_explains_a_bad_pattern(shell: str, pattern: str) -> None:
    error = log_search.bad_pattern(search(shell, pattern, "/etc/hostname"), pattern)
    assert error is not None and "grep refuses the pattern" in error.message


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=30).filter(
    lambda name: name not in (".", "..") and len(name.encode()) < 200
)


@settings(max_examples=25, deadline=None)
@given(name=NAMES, text=st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=20))
def test_names_and_patterns_are_data_in_every_shell(name: str, text: str) -> None:
    """A pattern of one text, as a bracket for each character, finds that text and nothing else."""
    pattern = "".join(f"[{char}]" if char not in "^\\[" else f"\\{char}" for char in text)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_text(f"{text}\n#\n", encoding="utf-8")
        Path(folder, "other").write_text("other\n") if name != "other" else None
        for shell in SHELLS:
            if shell == "busybox" and not text.isascii():
                continue  # Debian's busybox knows no UTF-8 in brackets
            ran = search(shell, pattern, str(path))
            assert "bad" not in ran.parts and len(log_source.seen(ran)) == 1
            raw = ran.part("hits1").split(b"\n")
            assert raw[0] == b"1" and any(record.endswith(b":1:" + text.encode()) for record in raw), (shell, raw)
            tail = run_local(shell, log_tail.file_script(str(path), 5, None))
            assert log_tail.end_of_file(tail, 5, 9999).lines[-1] == "#"
            assert log_tail.path_of(tail) == str(path)
        assert {entry.name for entry in Path(folder).iterdir()} == {name, "other"}


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_follows_a_file_over_its_rotation(shell: str, tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("seen\n")
    place = log_tail.end_of_file(run_local(shell, log_tail.file_script(str(path), 9, None)), 9, 9999).place
    assert place is not None
    with path.open("a") as file:
        file.write("late\n")
    path.rename(f"{path}.1")
    path.write_text("new\nhalf")
    tail = log_tail.after(run_local(shell, log_tail.file_script(str(path), 9, place)), place, 9, 9999)
    assert (tail.lines, tail.partial, tail.more) == (["late", "new"], "half", 0)
    assert tail.place is not None and tail.place.offset == 4
    Path(f"{path}.1").unlink()
    path.write_text("another\n")
    tail = log_tail.after(run_local(shell, log_tail.file_script(str(path), 9, tail.place)), tail.place, 9, 9999)
    assert tail.lines == ["another"] and "may be missing" in tail.notices[0]


def test_a_second_rotation_in_between_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("seen\n")
    place = log_tail.end_of_file(run_local("dash", log_tail.file_script(str(path), 9, None)), 9, 9999).place
    assert place is not None
    path.rename(f"{path}.2")
    Path(f"{path}.1").write_text("between\n")
    path.write_text("new\n")
    os.utime(f"{path}.2", (1000, 1000))
    tail = log_tail.after(run_local("dash", log_tail.file_script(str(path), 9, place)), place, 9, 9999)
    assert tail.lines == ["new"] and f"read {path}.1 too" in " ".join(tail.notices)


@pytest.mark.parametrize(
    "file, said",
    [
        (Seen(1, "unreadable", "/l", 1, 1, 1, "root:adm", "640"), "admin may not read it (root:adm, mode 640); the operator can add admin to the group adm or set `sudo: true` in the server's file"),
        (Seen(1, "unreadable", "/l", 1, 1, 1, "root:root", "600"), "admin may not read it (root:root, mode 600); the operator can set `sudo: true` in the server's file"),
        (Seen(1, "hidden", "/l"), "admin may not search its folder; the operator can set `sudo: true` in the server's file"),
    ],
)  # fmt: skip
def test_what_would_help_is_said_of_an_unreadable_file(file: Seen, said: str) -> None:
    assert file.why(SERVER, ADMIN) == said


def test_stats_that_a_host_makes_up_do_no_harm() -> None:
    ran = recorded({"files": b"1\tok\tx y\t/a\x00" + b"2\tok\t1 2 3 a:b 644\t/b\tc\x00junk\x00x\tok\t\t/c\x00"})
    assert log_source.seen(ran) == [Seen(1, "ok", "/a"), Seen(2, "ok", "/b c", 1, 2, 3, "a:b", "644")]


def test_nothing_to_read_is_a_sentence_with_the_line_for_sudoers() -> None:
    ran = recorded({}, {"user": "admin"}, "sudo: a password is required\n")
    files = [Seen(1, "unreadable", "/l", 1, 1, 1, "root:adm", "640")]
    error = log_source.nothing_to_read(Source(path="/l"), SERVER, files, ran)
    assert isinstance(error, BadArgument) and "NOPASSWD: /usr/bin/tail" in error.message
    missing = log_source.nothing_to_read(Source(path="/l"), SERVER, [Seen(1, "missing", "/l")], ran)
    assert isinstance(missing, NotFound)


# --- what programs print, taken apart


def hits(*lines: str, start: int = 1, count: int = 1, end: str = "end 0") -> Ran:
    body = "".join(f"{len(line.encode())}:{line}\n" for line in (*lines, end) if line)
    return recorded({"hits1": f"{start}\n{count}\n{body}"})


def test_a_search_that_was_cut_on_the_way_is_not_exact() -> None:
    (found,) = log_search.in_files(hits("1:a", end=""), [Seen(1, "ok", "/a")], Query("a"), Stamps(Clock(0)), None)
    assert not found.exact and [match.line for match in found.matches] == ["a"]


def test_a_search_that_the_time_limit_ended_says_so() -> None:
    for status in (124, 137, 143):
        (found,) = log_search.in_files(
            hits("1:a", end=f"end {status}"), [Seen(1, "ok", "/a")], Query("a"), Stamps(Clock(0)), None
        )
        assert found.ended_early


def test_context_that_looks_like_a_match_is_context() -> None:
    ran = hits("1-12:34 x", "2:hit", "--", "9:7-x", count=2)
    (found,) = log_search.in_files(ran, [Seen(1, "ok", "/a")], Query("a", context=1), Stamps(Clock(0)), None)
    assert [(match.line, match.before) for match in found.matches] == [("hit", ["12:34 x"]), ("7-x", [])]


def test_entries_of_the_journal_in_all_their_forms() -> None:
    raw = b"\n".join(
        [
            b'{"__CURSOR":"s=1;i=2","__REALTIME_TIMESTAMP":"1705314600000001","PRIORITY":"3","SYSLOG_IDENTIFIER":"nginx","_PID":"7","MESSAGE":"two\\nlines\\n"}',
            b'{"__CURSOR":"s=2","__REALTIME_TIMESTAMP":"1705314601000000","MESSAGE":[104,195,169],"_COMM":["a","b"]}',
            b'{"__CURSOR":"s=3","__REALTIME_TIMESTAMP":"1705314602000000","MESSAGE":null,"PRIORITY":"9"}',
            b'{"__REALTIME_TIMESTAMP":"x"}',
            b"{broken",
            b"-- No entries --",
        ]
    )
    found = entries(raw)
    assert [(entry.cursor, entry.priority, entry.line) for entry in found] == [
        ("s=1;i=2", 3, "nginx[7]: two\nlines"), ("s=2", None, "a: hé"), ("s=3", None, "[a message of more than 4,096 bytes]"),
    ]  # fmt: skip
    assert found[0].dated == "2024-01-15T10:30:00Z nginx[7]: two\nlines"


def test_a_cursor_comes_back_as_the_place_it_was_made_of() -> None:
    for place, source in (
        (Place(2**63, 10**12, 256, "4294967295"), Source(path="/var/log/é\n")),
        (Place(journal="s=0ad9;i=1f;b=00;m=1;t=6;x=9"), Source(unit="cron.service")),
    ):
        cursor = place.cursor("web", source)
        assert log_tail.read_cursor(cursor, "web", source) == place
        for other in (("web-2", source), ("web", Source(path="/b")), ("web", Source(unit="b"))):
            with pytest.raises(BadArgument, match="another server or source"):
                log_tail.read_cursor(cursor, *other)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40), st.sampled_from(["", "f.00000000.", "j.00000000."]))
def test_no_cursor_of_another_kind_does_harm(text: str, begin: str) -> None:
    with pytest.raises(BadArgument):
        log_tail.read_cursor(begin + text, "web", Source(path="/a"))


def test_a_service_whose_entry_names_its_unit_is_that_units_journal() -> None:
    server = Server(id="a", hostname="h", services={"web": {"unit": "nginx"}})
    assert resolve(server, None, "web").unit == "nginx"


@pytest.mark.skipif(not shutil.which("busybox"), reason="busybox is not installed")
def test_the_end_of_a_file_beyond_two_gibibytes_is_read_by_busybox_too(tmp_path: Path) -> None:
    path, size = tmp_path / "big.log", (2 << 30) + 70_000
    with path.open("wb") as file:
        file.seek(size)
        file.write(b"the last line\n")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("tail", "dd"):
        (programs / name).symlink_to(str(shutil.which("busybox")))
    text = f'tools=busybox reader=\n{log_source.ACCESS}\nfrom "$1" "$2"'
    done = subprocess.run(
        ["/bin/sh", "-c", text, "sh", str(path), str(size + 1)],
        capture_output=True,
        check=True,
        env={"PATH": str(programs)},
    )
    assert done.stdout == b"the last line\n"
