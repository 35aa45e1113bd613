"""`search_logs` and `tail_logs` on real files of a real host: rotation, globs, hostile names, limits and honest counts."""

from __future__ import annotations

import gzip
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest
from support.fleets import TestFleet, fleet_on
from support.sshd import KeyPair, Sshd
from support.systemd_host import SystemdHost

from fleetshell_tools import logs
from fleetshell_tools.core import log_search, log_tail
from fleetshell_tools.core.config import Config
from fleetshell_tools.core.context import Context
from fleetshell_tools.core.errors import BadArgument, NotFound
from fleetshell_tools.core.log_time import iso
from fleetshell_tools.core.tool import Tool
from fleetshell_tools.core.types import Auth, Caller, Principal


@dataclass
class Host:
    """A server whose logs stand in `folder`, and the tools."""

    fleet: TestFleet
    folder: Path

    def call(self, tool: Tool, **arguments: Any) -> dict[str, Any]:
        context = Context(
            Caller(Principal("testkey"), tool=tool.name), "s", Config(), self.fleet.inventory, self.fleet.fleet, cast(Auth, None)
        )  # fmt: skip
        output = tool.function(context, **tool.arguments({"server_id": "web", **arguments}))
        structured = output.structured()
        jsonschema.validate(structured, tool.definition()["outputSchema"])
        assert output.text() and len(str(structured)) < 20_000
        return structured

    def search(self, pattern: str, log_path: Path | str | None = None, **more: Any) -> dict[str, Any]:
        path = {} if log_path is None else {"log_path": str(log_path)}
        return self.call(logs.search_logs, pattern=pattern, **path, **more)

    def tail(self, log_path: Path | str | None = None, **more: Any) -> dict[str, Any]:
        path = {} if log_path is None else {"log_path": str(log_path)}
        return self.call(logs.tail_logs, **path, **more)

    def log(self, name: str, content: str | bytes, *, age: float = 0) -> Path:
        """A file in the folder, last written `age` seconds ago."""
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        if age:
            os.utime(path, (time.time() - age,) * 2)
        return path


@pytest.fixture
def host(tmp_path: Path, relay_key: KeyPair, sshd: Sshd) -> Iterator[Host]:
    folder = tmp_path / "logs"
    folder.mkdir()
    with fleet_on(tmp_path, relay_key) as fleet:
        services = {"mail": {"log_path": str(folder / "mail.log")}, "cache": {"description": "no log"}}
        fleet.add("web", sshd, services=services)
        yield Host(fleet, folder)


def test_the_tools_have_the_arguments_and_results_of_the_contract() -> None:
    search, tail = logs.search_logs.definition(), logs.tail_logs.definition()
    assert set(search["inputSchema"]["properties"]) == {
        "server_id", "pattern", "log_path", "service", "max_results", "context_lines", "ignore_case", "since"
    }  # fmt: skip
    assert set(search["inputSchema"]["required"]) == {"server_id", "pattern"}
    assert {"matches", "count", "truncated"} <= set(search["outputSchema"]["properties"])
    assert set(tail["inputSchema"]["properties"]) == {"server_id", "log_path", "service", "lines", "cursor"}
    assert {"lines", "source", "cursor"} <= set(tail["outputSchema"]["properties"])


def lines_of(found: dict[str, Any]) -> list[str]:
    return [match["line"] for match in found["matches"]]


def test_matches_come_with_their_line_numbers_and_the_source(host: Host) -> None:
    path = host.log("a.log", "one\ntwo error\nthree\nfour error\n")
    found = host.search("err.r", path)
    assert found["matches"] == [{"line_number": 2, "line": "two error"}, {"line_number": 4, "line": "four error"}]
    assert (found["count"], found["count_is_exact"], found["truncated"], found["source"]) == (2, True, False, str(path))


def test_no_match_is_an_answer_and_no_failure(host: Host) -> None:
    found = host.search("nothing", host.log("a.log", "one\n"))
    assert (found["matches"], found["count"], found["count_is_exact"]) == ([], 0, True)


def test_a_service_of_the_context_is_its_log_file(host: Host) -> None:
    host.log("mail.log", "queued\n")
    assert host.search("queued", service="mail")["source"] == str(host.folder / "mail.log")
    assert host.tail(service="mail")["lines"] == ["queued"]


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({}, "mail, cache"),
        ({"log_path": "/x", "service": "mail"}, "not both"),
        ({"service": "no such/thing"}, "neither a service"),
        ({"service": "-rf"}, "neither a service"),
        ({"log_path": "/x", "since": "yesterday"}, "90m"),
        ({"log_path": "/x", "pattern": r"id \d+"}, r"\[0-9\]"),
        ({"log_path": "/x", "pattern": "(?i)x"}, "ignore_case"),
        ({"log_path": "/x", "pattern": "a\nb"}, "newline"),
        ({"log_path": "/etc/hostname", "pattern": "a("}, "Unmatched"),
        ({"log_path": "/etc/hostname", "pattern": "[a"}, "grep refuses"),
        ({"log_path": "/etc"}, "a folder"),
        ({"log_path": "/dev/null"}, "no regular file"),
    ],
)
def test_a_bad_argument_is_explained(host: Host, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(BadArgument, match=said):
        host.call(logs.search_logs, **{"pattern": "x", **arguments})


def test_a_missing_file_is_named_with_the_logs_that_are_known(host: Host) -> None:
    with pytest.raises(NotFound, match=r"no file /nowhere/x on web.*mail\.log"):
        host.search("x", "/nowhere/x")
    with pytest.raises(NotFound, match=r"No file matches /nowhere/\*"):
        host.search("x", "/nowhere/*")
    with pytest.raises(NotFound, match="no file"):
        host.tail("/nowhere/x")


def test_of_many_matches_the_newest_are_shown_and_all_are_counted(host: Host) -> None:
    path = host.log("a.log", "".join(f"line {number}\n" for number in range(5000)))
    found = host.search("line", path, max_results=3)
    assert lines_of(found) == ["line 4997", "line 4998", "line 4999"]
    assert (found["count"], found["count_is_exact"], found["truncated"]) == (5000, True, True)


def test_an_answer_stays_within_its_budget(host: Host) -> None:
    path = host.log("a.log", "".join(f"{number} {'é' * 200}\n" for number in range(500)))
    found = host.search("é", path, max_results=1000)
    assert found["count"] == 500 and 20 < len(found["matches"]) < 60 and found["truncated"]
    assert "fit into one answer" in found["notice"]
    tail = host.tail(path, lines=1000)
    assert 20 < len(tail["lines"]) < 60 and tail["truncated"] and tail["lines"][-1].startswith("499 ")


def test_lines_around_a_match_belong_to_it(host: Host) -> None:
    path = host.log("a.log", "".join(f"{n}{' hit' if n in (3, 5, 12) else ''}\n" for n in range(1, 16)))
    found = host.search("hit", path, context_lines=2)
    assert found["matches"] == [
        {"line_number": 3, "line": "3 hit", "before": ["1", "2"], "after": ["4"]},
        {"line_number": 5, "line": "5 hit", "before": [], "after": ["6", "7"]},
        {"line_number": 12, "line": "12 hit", "before": ["10", "11"], "after": ["13", "14"]},
    ]
    assert found["count"] == 3


def test_case_counts_unless_it_is_to_be_ignored_also_beyond_ascii(host: Host) -> None:
    path = host.log("a.log", "Übel\nübel\n")
    assert host.search("übel", path)["count"] == 1
    assert host.search("übel", path, ignore_case=True)["count"] == 2
    assert host.search("^.bel", path)["count"] == 0  # a pattern of ASCII alone sees bytes


def test_a_glob_searches_every_file_and_names_each(host: Host) -> None:
    host.log("a 1.log", "hit a\n", age=100)
    host.log("b.log", "hit b\nhit c\n")
    host.log("c.txt", "hit d\n")
    found = host.search("hit", f"{host.folder}/*.log")
    assert [(match["file"].rsplit("/", 1)[1], match["line"]) for match in found["matches"]] == [
        ("a 1.log", "hit a"), ("b.log", "hit b"), ("b.log", "hit c"),
    ]  # fmt: skip
    assert [item["count"] for item in found["files"]] == [1, 2]


def test_of_very_many_files_the_number_left_out_is_said(host: Host) -> None:
    for number in range(103):
        host.log(f"{number}.log", "hit\n")
    found = host.search("hit", f"{host.folder}/*.log")
    assert (found["count"], found["count_is_exact"], len(found["files"])) == (100, False, 20)
    assert "3 more files match" in found["notice"]


HOSTILE = [
    "-rf",
    "--help",
    "$(touch x)",
    "`id`",
    "a b  c",
    "line\nbreak",
    "*",
    "[a",
    "a'b\"c",
    "é\\n",
    "~",
    ";true",
    "\t",
    "%s",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_name_is_a_name_whatever_it_looks_like(host: Host, name: str) -> None:
    path = host.log(name, f"hit {name!r}\n")
    host.log("other", "hit other\n")
    assert lines_of(host.search("hit", path)) == [f"hit {name!r}"]
    tail = host.tail(path)
    assert tail["lines"] == [f"hit {name!r}"]
    with path.open("a") as file:
        file.write("more\n")
    assert host.tail(path, cursor=tail["cursor"])["lines"] == ["more"]
    assert sorted(entry.name for entry in host.folder.iterdir()) == sorted([name, "other"])


@pytest.mark.parametrize(
    "pattern", ["-v", "-e x", "--", "$(id)", "'", '"', "`", "%s", "é", ";", "&& id", "-f/etc/passwd"]
)
def test_a_pattern_is_a_pattern_whatever_it_looks_like(host: Host, pattern: str) -> None:
    path = host.log("a.log", f"before\n{pattern}\nafter\n")
    assert lines_of(host.search(re.escape(pattern) if pattern == "$(id)" else pattern, path)) == [pattern]


def test_since_leaves_out_what_is_older_and_reads_the_rotated_files_that_are_not(host: Host) -> None:
    now = time.time()

    def line(age: float, text: str) -> str:
        return f"{iso(now - age)} app: {text}\n"

    path = host.log("a.log", line(7000, "hit 4") + line(3000, "hit 5") + "  hit with no time\n" + line(60, "hit 6"))
    host.log("a.log.1", line(11_000, "hit 2") + line(9000, "hit 3"), age=8000)
    (host.folder / "a.log.2.gz").write_bytes(gzip.compress((line(200_000, "hit 0") + line(13_000, "hit 1")).encode()))
    os.utime(host.folder / "a.log.2.gz", (now - 12_000,) * 2)
    host.log("a.log.3", line(300_000, "hit x"), age=250_000)
    assert host.search("hit", path)["count"] == 4
    found = host.search("hit", path, since="3h")
    assert [line.split("hit ")[1] for line in lines_of(found)] == ["3", "4", "5", "with no time", "6"]
    assert (found["count"], found["count_is_exact"]) == (5, True)
    assert "were left out" in found["notice"]
    found = host.search("hit", path, since="1d")
    assert [line.split("hit ")[1] for line in lines_of(found)] == ["1", "2", "3", "4", "5", "with no time", "6"]
    found = host.search("hit", path, since=iso(now - 3600))
    assert [line.split("hit ")[1] for line in lines_of(found)] == ["5", "with no time", "6"]
    found = host.search("hit", f"{host.folder}/a.log*", max_results=2)
    assert (found["count"], lines_of(found)[0].strip()) == (9, "hit with no time")


def test_since_without_times_in_the_lines_says_so(host: Host) -> None:
    found = host.search("hit", host.log("a.log", "hit 1\nhit 2\n"), since="1h")
    assert found["count"] == 2 and "bear no time" in found["notice"]


def test_with_since_a_count_that_was_not_finished_is_said_to_be_a_least(host: Host) -> None:
    now = time.time()
    path = host.log("a.log", "".join(f"{iso(now - 5000 + n / 2)} hit\n" for n in range(10_000)))
    found = host.search("hit", path, since="2h", max_results=2)
    assert not found["count_is_exact"] and 2000 <= found["count"] < 10_000
    found = host.search("hit", path, since="25m", max_results=2)
    assert found["count_is_exact"] and 2900 < found["count"] < 3100


def test_binary_files_are_named_and_stray_nuls_are_not_binary(host: Host) -> None:
    host.log("wtmp.log", b"hit\0\1" * 2000)
    host.log("crash.log", b"\0" * 9000 + b"hit in the middle\n" + b"x" * 5000 + b"\n")
    found = host.search("hit", f"{host.folder}/*.log")
    assert lines_of(found) == ["hit in the middle"]
    assert [item["reason"] for item in found["skipped"]] == ["binary, no text"]


def test_long_lines_are_cut_and_the_cut_is_counted(host: Host) -> None:
    path = host.log("a.log", "hit" + "x" * 10_000 + "\n")
    assert lines_of(host.search("hit", path))[0].endswith("x… [9,003 more bytes]")
    assert host.tail(path)["lines"][0].endswith("x… [9,003 more bytes]")


def test_of_a_file_beyond_the_limit_the_end_is_searched_and_that_is_said(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_search, "BYTES", 1 << 20)
    path = host.log("a.log", f"hit old\n{'x' * 99 + chr(10)}" + ("y" * 99 + "\n") * 12_000 + "hit new\n")
    host.log("b.log", "hit b\n", age=1000)
    found = host.search("hit", f"{host.folder}/*.log")
    assert found["matches"] == [{"file": str(path), "line": "hit new"}]
    assert not found["count_is_exact"] and "only the last 1 MiB" in found["notice"]
    assert found["skipped"][0]["path"].endswith("b.log") and "not reached" in found["skipped"][0]["reason"]


def test_a_search_that_takes_too_long_is_ended_and_that_is_said(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_search, "SECONDS", 1)
    path = host.log("a.log", "hit\n" + ("ab" * 2000 + "dc\n") * 2000)
    found = host.search(r"hit|^(.*)(.*)\2\1(a|d)d*c$", path)
    assert not found["count_is_exact"] and "ended after 1 s" in found["notice"]


# --- tail_logs


def test_the_last_lines_and_then_only_what_came_after(host: Host) -> None:
    path = host.log("a.log", "".join(f"{number}\n" for number in range(100)))
    first = host.tail(path, lines=2)
    assert (first["lines"], first["source"], first["truncated"]) == (["98", "99"], str(path), False)
    again = host.tail(path, cursor=first["cursor"])
    assert again["lines"] == [] and again["cursor"] == first["cursor"]
    with path.open("a") as file:
        file.write("new 1\nnew 2\nnew 3\nhalf")
    part = host.tail(path, lines=2, cursor=first["cursor"])
    assert (part["lines"], part["more"]) == (["new 1", "new 2"], True)
    rest = host.tail(path, lines=2, cursor=part["cursor"])
    assert (rest["lines"], rest["partial"], rest["more"]) == (["new 3"], "half", False)
    with path.open("a") as file:
        file.write(" whole\n")
    assert host.tail(path, cursor=rest["cursor"])["lines"] == ["half whole"]


def rotate_by_rename(path: Path) -> None:
    path.rename(f"{path}.1")


def rotate_by_copy(path: Path) -> None:
    Path(f"{path}.1").write_bytes(path.read_bytes())
    os.truncate(path, 0)


def rotate_and_pack(path: Path) -> None:
    Path(f"{path}.1.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()


def rotate_by_date(path: Path) -> None:
    path.rename(f"{path}-20240115")


@pytest.mark.parametrize("rotate", [rotate_by_rename, rotate_by_copy, rotate_and_pack, rotate_by_date])
@pytest.mark.parametrize("before", ["", "old 1\nold 2\n"])
def test_nothing_is_lost_or_repeated_when_a_file_is_rotated(
    host: Host, rotate: Callable[[Path], None], before: str
) -> None:
    path = host.log("a.log", before + "seen\n")
    cursor = host.tail(path)["cursor"]
    with path.open("a") as file:
        file.write("late 1\nlate 2\n")
    rotate(path)
    with path.open("a") as file:
        file.write("new 1\nnew 2\n")
    found = host.tail(path, cursor=cursor)
    assert found["lines"] == ["late 1", "late 2", "new 1", "new 2"] and "rotated" in found["notice"]
    again = host.tail(path, cursor=found["cursor"])
    assert again["lines"] == [] and again["notice"] is None
    one_by_one = []
    for _ in range(4):
        found = host.tail(path, cursor=cursor, lines=1)
        one_by_one += found["lines"]
        cursor = found["cursor"]
    assert one_by_one == ["late 1", "late 2", "new 1", "new 2"]


def test_a_writer_that_goes_on_in_the_renamed_file_is_followed_until_the_new_one_has_lines(host: Host) -> None:
    path = host.log("a.log", "seen\n")
    cursor = host.tail(path)["cursor"]
    with path.open("a", buffering=1) as writer:
        rotate_by_rename(path)
        writer.write("late 1\n")
        found = host.tail(path, cursor=cursor)
        assert found["lines"] == ["late 1"]
        path.touch()
        writer.write("late 2\n")
        found = host.tail(path, cursor=found["cursor"])
        assert found["lines"] == ["late 2"]
        writer.write("late 3\n")
    path.write_text("new\n")
    assert host.tail(path, cursor=found["cursor"])["lines"] == ["late 3", "new"]


def test_a_file_whose_former_content_is_gone_is_said_to_be_another(host: Host) -> None:
    path = host.log("a.log", "one\ntwo\n")
    cursor = host.tail(path)["cursor"]
    path.write_text("three\n" * 5)
    found = host.tail(path, cursor=cursor)
    assert found["lines"] == ["three"] * 5 and "may be missing" in found["notice"]


def test_a_cursor_of_another_source_or_a_broken_one_is_refused(host: Host) -> None:
    cursor = host.tail(host.log("a.log", "x\n"))["cursor"]
    for arguments in ({"log_path": str(host.log("b.log", "y\n"))}, {"service": "mail"}, {"service": "cron.service"}):
        with pytest.raises(BadArgument, match="another server or source"):
            host.call(logs.tail_logs, cursor=cursor, **arguments)
    for broken in ("x", cursor[:-12], cursor + ".1"):
        with pytest.raises(BadArgument, match="is none of tail_logs"):
            host.tail(host.folder / "a.log", cursor=broken)


def test_the_tail_of_a_glob_is_that_of_the_file_written_last(host: Host) -> None:
    host.log("b.log", "old\n", age=1000)
    newest = host.log("a.log", "new\n", age=10)
    found = host.tail(f"{host.folder}/*.log")
    assert (found["lines"], found["source"]) == (["new"], str(newest))
    assert host.tail(found["source"], cursor=found["cursor"])["lines"] == []


def test_much_that_came_is_read_in_turns(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_tail, "WINDOW", 4096)
    path = host.log("a.log", "begin\n")
    cursor = host.tail(path)["cursor"]
    wanted = [f"{number} {'x' * (number % 90)}" for number in range(600)]
    with path.open("a") as file:
        file.write("\n".join(wanted) + "\n")
    got: list[str] = []
    for _ in range(100):
        found = host.tail(path, cursor=cursor, lines=1000)
        got, cursor = got + found["lines"], found["cursor"]
        if not found["more"]:
            break
    assert got == wanted


def test_lines_beyond_what_one_call_reads_are_whole_or_left_out(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_tail, "WINDOW", 1000)
    path = host.log("a.log", "".join(f"{number:99}\n" for number in range(50)) + "half")
    found = host.tail(path, lines=5)
    assert [int(line) for line in found["lines"]] == [45, 46, 47, 48, 49] and not found["truncated"]
    found = host.tail(path, lines=20)
    assert [int(line) for line in found["lines"]] == list(range(41, 50)) and found["truncated"]


def test_an_empty_file_has_no_lines_and_a_cursor(host: Host) -> None:
    path = host.log("a.log", "")
    found = host.tail(path)
    assert found["lines"] == [] and found["cursor"]
    path.write_text("first\n")
    assert host.tail(path, cursor=found["cursor"])["lines"] == ["first"]


# --- a host with systemd


@pytest.fixture
def booted(short_tmp: Path, relay_key: KeyPair, systemd_host: SystemdHost) -> Iterator[Host]:
    """`web` is logged in to as `plain`, who may read nothing; `root` and `admin` (with sudo) may."""
    with fleet_on(short_tmp, relay_key) as fleet:
        fleet.add("web", **systemd_host.server("plain"))
        fleet.add("root", **systemd_host.server("root"))
        fleet.add("admin", **systemd_host.server("admin"), sudo=True)
        fleet.add("refused", **systemd_host.server("plain"), sudo=True)
        yield Host(fleet, short_tmp)


@pytest.mark.parametrize("server", ["root", "admin"])
def test_a_service_without_a_log_file_is_its_journal(booted: Host, server: str) -> None:
    found = booted.search("request [0-9]+ served", service="demo-ok", server_id=server, max_results=5)
    assert found["source"] == "journal of demo-ok" and found["count"] >= 45 and found["count_is_exact"]
    assert len(found["matches"]) == 5 and found["truncated"]
    assert all(re.fullmatch(r"20.*Z", match["timestamp"]) for match in found["matches"])
    numbers = [int(match["line"].split()[2]) for match in found["matches"]]
    assert numbers == sorted(numbers) and numbers[0] > 50


def test_the_journal_is_searched_alike_by_journalctl_and_by_grep(booted: Host) -> None:
    plain = booted.search("cannot read", service="demo-fail.service", server_id="root")
    around = booted.search("cannot read", service="demo-fail.service", server_id="root", context_lines=1)
    assert plain["count"] == around["count"] == 1
    # Whether systemd's own line about the start comes before it or after it is chance.
    assert around["matches"][0]["before"] or around["matches"][0]["after"]
    for name in ("line", "timestamp"):
        assert plain["matches"][0][name] == around["matches"][0][name]


def test_the_journal_can_be_asked_by_case_and_since(booted: Host, systemd_host: SystemdHost) -> None:
    systemd_host.run("root", "systemd-run --wait -q --unit=log-case sh -c 'echo Some Words; echo -- -x $; sleep 0.2'")
    search = {"service": "log-case", "server_id": "root"}
    assert booted.search("^some words", **search)["count"] == 0
    assert booted.search("^some words", ignore_case=True, **search)["count"] == 1
    assert booted.search("^Some", since="1h", **search)["count"] == 1
    assert booted.search("^Some", since="2100-01-01T00:00:00Z", **search)["count"] == 0
    for pattern in ("^-- -x", "-- -x [$]$", "--output=cat|-x .$"):
        assert booted.search(pattern, **search)["count"] == 1
    with pytest.raises(BadArgument, match="Unmatched"):
        booted.search("a(", **search)


def test_the_journal_is_followed_by_a_cursor(booted: Host, systemd_host: SystemdHost) -> None:
    def say(word: str) -> None:
        systemd_host.run(
            "root", f"systemd-run --wait -q --unit=log-tail sh -c 'echo {word} 1; echo {word} 2; sleep 0.2'"
        )

    say("first")
    source = {"service": "log-tail.service", "server_id": "root"}
    first = booted.tail(**source)
    assert any(line.endswith("first 2") for line in first["lines"])
    assert booted.tail(cursor=first["cursor"], **source)["lines"] == []
    say("then")
    got: list[str] = []
    cursor = first["cursor"]
    for _ in range(50):
        found = booted.tail(cursor=cursor, lines=1, **source)
        got, cursor = got + found["lines"], found["cursor"]
        if not found["more"]:
            break
    whole = booted.tail(cursor=first["cursor"], **source)["lines"]
    assert got == whole and [line.rsplit(": ", 1)[1] for line in whole if ": then" in line] == ["then 1", "then 2"]


def test_a_unit_that_is_not_there_is_told_from_one_that_said_nothing(booted: Host) -> None:
    with pytest.raises(NotFound, match="no-such-unit"):
        booted.tail(service="no-such-unit", server_id="root")
    with pytest.raises(NotFound, match="no-such-unit"):
        booted.search("x", service="no-such-unit", server_id="root")
    assert booted.tail(service="systemd-halt.service", server_id="root")["lines"] == []


def test_a_login_that_may_not_read_is_told_what_would_help(booted: Host) -> None:
    with pytest.raises(
        BadArgument, match=r"plain may not read it .www-data:adm, mode 640.*the group adm or set `sudo: true`"
    ):
        booted.search("GET", "/var/log/nginx/access.log")
    with pytest.raises(BadArgument, match="NOPASSWD: /usr/bin/tail"):
        booted.tail("/var/log/nginx/access.log", server_id="refused")
    assert "systemd-journal" in booted.tail(service="nginx")["notice"]


def test_with_sudo_what_the_login_may_not_read_is_read(booted: Host) -> None:
    found = booted.search("GET /item", "/var/log/nginx/access.log", server_id="admin", since="1h")
    assert found["count"] == 15 and len(found["files"]) == 3
    tail = booted.tail("/var/log/nginx/access.log", server_id="admin", lines=2)
    assert len(tail["lines"]) == 2
    assert booted.tail("/var/log/nginx/access.log", server_id="admin", cursor=tail["cursor"])["lines"] == []


def test_a_folder_that_only_root_may_look_into_hides_nothing_from_sudo(booted: Host, systemd_host: SystemdHost) -> None:
    systemd_host.run(
        "root",
        "mkdir -p -m 700 '/var/log/hid den'; cd '/var/log/hid den'; echo hit 1 >'a *.log.1'; echo hit 2 >'a *.log'; echo hit 3 >b.log",
    )
    for path, wanted in (("a *.log", ["hit 2"]), ("*.log", ["hit 2", "hit 3"]), ("b.log", ["hit 3"])):
        assert sorted(lines_of(booted.search("hit", f"/var/log/hid den/{path}", server_id="admin"))) == wanted
    assert booted.search("hit", "/var/log/hid den/a *.log", server_id="admin", since="1h")["count"] == 2
    assert booted.tail("/var/log/hid den/b.log", server_id="admin")["lines"] == ["hit 3"]
    with pytest.raises(BadArgument, match="plain may not search its folder; the operator can set `sudo: true`"):
        booted.search("hit", "/var/log/hid den/b.log")
    with pytest.raises(BadArgument, match="NOPASSWD: /usr/bin/tail"):
        booted.search("hit", "/var/log/hid den/*.log", server_id="refused")
