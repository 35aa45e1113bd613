"""The process table: read by every shell from made-up and real /proc folders, and taken apart."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.local_scripts import SHELLS, recorded, run_local

from fleetshell_tools.core import processes
from fleetshell_tools.core.errors import BadArgument, FleetShellError

every_shell = pytest.mark.parametrize("shell", SHELLS)
KERNEL_THREAD = 0x00200000


@dataclass
class FakeProc:
    """A folder that looks like /proc."""

    path: Path

    def add(
        self, pid: int, name: str, *arguments: str, rss: int = 100, ticks: int = 5, ppid: int = 1, flags: int = 0,
        uid: int = 0, title: bytes | None = None,
    ) -> None:  # fmt: skip
        folder = self.path / str(pid)
        folder.mkdir()
        numbers = f"S {ppid} 1 1 0 -1 {flags} 0 0 0 0 {ticks} 0 0 0 20 0 2 0 1000 1 {rss} " + "0 " * 29
        (folder / "stat").write_bytes(f"{pid} ({name}) {numbers.strip()}\n".encode())
        (folder / "status").write_text(f"Name:\tx\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nVmRSS:\t{rss * 4} kB\n")
        (folder / "cmdline").write_bytes(
            "".join(f"{word}\0" for word in arguments).encode() if title is None else title
        )

    def table(self, shell: str, pattern: str = "", limit: int = 50, by: str = "memory") -> processes.Table:
        ran = run_local(shell, processes.script(by, limit, pattern, str(self.path)))
        assert ran.stderr == ""
        return processes.parse(ran, pattern)

    def found(self, shell: str, pattern: str) -> list[int]:
        return sorted(row["pid"] for row in self.table(shell, pattern).processes)


@pytest.fixture
def fake(tmp_path: Path) -> FakeProc:
    folder = tmp_path / "proc"
    folder.mkdir()
    (folder / "uptime").write_text("500.25 900.00\n")
    (folder / "meminfo").write_text("MemTotal: 40000 kB\n")
    (folder / "mounts").write_text("proc /proc proc rw 0 0\n")
    return FakeProc(folder)


@every_shell
def test_all_of_a_process_is_shown(shell: str, fake: FakeProc) -> None:
    fake.add(1, "init", "/sbin/init", rss=1000, ticks=250)
    fake.add(20, "nginx", title=b"nginx: worker process\0\0\0", ppid=1, uid=2_000_000_001)
    fake.add(2, "kthreadd", flags=KERNEL_THREAD, ppid=0)
    table = fake.table(shell)
    assert table.processes[0] == {
        "pid": 1, "ppid": 1, "user": "root", "state": "S", "cpu_percent": None, "memory_percent": 10.0,
        "rss_bytes": 4_096_000, "elapsed_seconds": 490, "cpu_seconds": 2.5, "threads": 2, "command": "/sbin/init",
    }  # fmt: skip
    assert [(row["user"], row["command"]) for row in table.processes[1:]] == [("2000000001", "nginx: worker process")]
    assert table.count == 2 and table.notices == [
        "1 kernel threads are left out; a filter such as `kworker` shows them."
    ]


HOSTILE = ["a b", "x) R 1 (y", "new\nline", "\n1 (init) S 0", ") S 1 1 1", "= 7 8", "$(id)", "`", "%s"]


@every_shell
def test_a_name_can_hide_no_process_and_make_none_up(shell: str, fake: FakeProc) -> None:
    for pid, name in enumerate(HOSTILE, 10):
        fake.add(pid, name, ppid=pid + 1000, rss=pid)
    rows = fake.table(shell).processes
    assert [(row["pid"], row["ppid"]) for row in reversed(rows)] == [(10 + at, 1010 + at) for at in range(len(HOSTILE))]
    shown = {row["pid"]: row["command"] for row in rows}
    assert shown[10] == "[a b]" and shown[11] == "[x) R 1 (y]" and shown[12] == "[new?line]"


@every_shell
@pytest.mark.parametrize(
    ("pattern", "pids"),
    [
        ("java -jar", [10]),
        ("^java.*shop\\.jar$", [10]),
        ("nginx|java", [10, 11]),
        ("nginx: w{1}orker", [11]),
        ("kworker", [12]),
        ("^\\[kworker/0:1]$", [12]),
        ("-jar", [10]),
        ("no such", []),
        ("a'b\"c", [13]),
        ("two lines", [14]),
        ("mark=", [15]),
        ("4", [16]),
    ],
)
def test_a_filter_is_an_extended_regular_expression_on_the_command_line(
    shell: str, pattern: str, pids: list[int], fake: FakeProc
) -> None:
    fake.add(10, "java", "java", "-jar", "shop.jar")
    fake.add(11, "nginx", title=b"nginx: worker process")
    fake.add(12, "kworker/0:1", flags=KERNEL_THREAD)
    fake.add(13, "quote", "a'b\"c")
    fake.add(14, "lines", "two\nlines")
    fake.add(15, "forged", "x", "mark=fs-nonc", "mark=\n")
    fake.add(16, "last", "44")
    assert fake.found(shell, pattern) == pids
    assert fake.table(shell, pattern).count == len(pids)


@every_shell
def test_a_bad_filter_is_explained(shell: str, fake: FakeProc) -> None:
    fake.add(1, "init")
    with pytest.raises(BadArgument, match=r'`filter` is "a\(b", no extended regular expression \(.*'):
        fake.table(shell, "a(b")


@every_shell
def test_a_process_that_ends_in_the_middle_is_left_out(shell: str, fake: FakeProc) -> None:
    fake.add(1, "init")
    fake.add(7, "gone", rss=999)
    for name in ("status", "cmdline"):
        (fake.path / "7" / name).unlink()
    (fake.path / "8").mkdir()
    assert [row["pid"] for row in fake.table(shell).processes] == [1]
    assert fake.found(shell, "gone") == []


@every_shell
@pytest.mark.parametrize(("by", "first"), [("memory", 13), ("time", 12)])
def test_the_first_ones_are_shown_and_all_are_counted(shell: str, by: str, first: int, fake: FakeProc) -> None:
    for pid in range(10, 30):
        fake.add(pid, "x", rss=1_000_000 if pid == 13 else pid, ticks=99_999 if pid == 12 else pid)
    table = fake.table(shell, by=by, limit=3)
    assert (len(table.processes), table.count, table.processes[0]["pid"]) == (3, 20, first)


def test_the_number_of_programs_that_are_started_does_not_grow_with_the_processes(
    fake: FakeProc, tmp_path: Path
) -> None:
    for pid in range(10, 1510):
        fake.add(pid, "x", "sleep", str(pid))
    tools, log = tmp_path / "bin", tmp_path / "calls"
    tools.mkdir()
    for name in ("cat", "sed", "tr", "awk", "grep", "head", "env"):
        real = shutil.which(name)
        (tools / name).write_text(f'#!/bin/sh\necho {name} >>{shlex.quote(str(log))}\nexec {real} "$@"\n')
        (tools / name).chmod(0o755)
    ran = run_local("dash", processes.script("cpu", 5, "sleep", str(fake.path)), first_in_path=tools)
    assert processes.parse(ran, "sleep").count == 1500
    assert len(log.read_text().splitlines()) < 60


def test_long_command_lines_keep_their_begin_and_their_end(fake: FakeProc) -> None:
    fake.add(1, "java", "java", "-cp", "/lib/x.jar:" * 200, "com.example.Main")
    fake.add(2, "sh", "sh", "-c", "mysqldump -pGu3hoo5x\n\x1b[31mred\u202e")
    first, second = (row["command"] for row in fake.table("dash").processes)
    assert len(first) == processes.COMMAND and first.startswith("java -cp /lib") and first.endswith("com.example.Main")
    assert second == "sh -c mysqldump -p*** red"


def test_start_times_are_compared_with_the_programs_own_and_not_with_the_uptime() -> None:
    """In a container the uptime may be the container's and start times still the host's."""
    stat = "77 (sh) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 900000 1 1 " + "0 " * 29
    row = "u 5 5 10 S 1 1 400000 100 0 0.50 x"
    found = {"host": "ticks=100\npage=4096", "self": stat, "uptime": "60.00 1.00", "rows": row, "s10": "Uid:\t0\n"}
    (process,) = processes.parse(recorded(found), "").processes
    assert process["elapsed_seconds"] == 5000 and process["rss_bytes"] == 409_600 and process["user"] == "0"


def test_without_proc_the_answer_says_what_to_do(tmp_path: Path) -> None:
    ran = run_local("dash", processes.script("cpu", 5, "", str(tmp_path)))
    with pytest.raises(FleetShellError, match="no /proc.*ps -axo"):
        processes.parse(ran, "")


@pytest.fixture
def busy() -> Iterator[subprocess.Popen[bytes]]:
    """A process that computes without end, and has a password among its arguments."""
    code = "print('ready', flush=True)\nwhile True: pass"
    with subprocess.Popen(
        [sys.executable, "-c", code, "two words", "--password", "Gu3hoo5x"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline()
        yield process
        process.kill()


@every_shell
def test_a_real_process_is_measured_and_ours_are_not_shown(shell: str, busy: subprocess.Popen[bytes]) -> None:
    def rows(pattern: str, limit: int) -> list[dict[str, Any]]:
        return processes.parse(run_local(shell, processes.script("cpu", limit, pattern)), pattern).processes

    (row,) = [row for row in rows("two words", 50) if row["pid"] == busy.pid]
    assert (
        row["cpu_percent"] > 0 and row["cpu_seconds"] >= 0 and row["rss_bytes"] > 1 << 20 and row["ppid"] == os.getpid()
    )
    assert row["command"].endswith("two words --password ***")
    assert row["elapsed_seconds"] < 100 and row["state"] == "R"
    assert not [row for row in rows("fs-nonce", 200) if row["ppid"] != 0]
    assert busy.pid in [row["pid"] for row in rows("", 200)]


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="mounting /proc needs root")


@needs_root
@every_shell
def test_hidden_processes_are_said_to_be_hidden(shell: str) -> None:
    script = 'mount -t proc -o hidepid=2 proc /proc && exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"'
    before = ["unshare", "--mount", "sh", "-c", script, "sh"]
    table = processes.parse(run_local(shell, processes.script("cpu", 5, ""), before=before), "")
    assert table.count == 0 and "hidepid" in table.notices[0] and len(table.notices) == 1
    table = processes.parse(
        run_local(
            shell,
            processes.script("cpu", 5, ""),
            before=[*before[:4], 'mount -t proc -o hidepid=2 proc /proc; exec "$@"', "sh"],
        ),
        "",
    )
    assert table.count > 1 and not any("hidepid" in notice for notice in table.notices)


@needs_root
@every_shell
def test_in_a_container_the_answer_says_so(shell: str) -> None:
    before = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", '"$@" & wait', "sh"]
    table = processes.parse(run_local(shell, processes.script("cpu", 5, ""), before=before), "")
    assert [row["pid"] for row in table.processes] == [1] and "container" in table.notices[0], table


@needs_root
def test_sudo_reads_the_table_where_processes_are_hidden(tmp_path: Path) -> None:
    """A `sudo` that runs what it is given, in a user's place: what is tested is that all of the program runs by it."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "sudo").write_text('#!/bin/sh\n[ "$1 $2" = "-n --" ] || exit 1\nshift 2\nexec "$@"\n')
    (tools / "id").write_text("#!/bin/sh\n[ $1 = -u ] && echo 1000 || echo admin\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    before = ["unshare", "--mount", "sh", "-c", 'mount -t proc -o hidepid=2 proc /proc; exec "$@"', "sh"]
    for sudo in (True, False):
        ran = run_local("dash", processes.script("cpu", 5, "sh|python"), before=before, first_in_path=tools, sudo=sudo)
        table = processes.parse(ran, "sh|python")
        assert ran.facts["uid"] == "1000" and table.count > 0
        assert any("hidepid" in notice for notice in table.notices) is not sudo
