"""`read_file`, `search_files` and `get_file_info`: on a real server, and in every shell with GNU and busybox utilities."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fleets import TestFleet, fleet_on
from support.script_hosts import KINDS, NOBODY, ScriptHost, call, script_host
from support.sshd import KeyPair, Sshd

from fleetshell_tools import files
from fleetshell_tools.core.config import Config
from fleetshell_tools.core.context import Context
from fleetshell_tools.core.errors import BadArgument, FleetShellError, NotFound
from fleetshell_tools.core.text import clean
from fleetshell_tools.core.types import Auth, Caller, Principal

HOSTILE = [
    "-rf", "--help", " ", "a b", "$(touch x)", "`id`", "a'b\"c", "line\nbreak", "ends\n", "\\", "!", "%s%n", "*", "[a]", "~", "#x", "é€",
    "tab\there", "a;b|c&d", "=", "{}", "\x1b[31m", "\x1e",
]  # fmt: skip
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=40).filter(
    lambda name: name not in (".", "..") and len(name.encode()) < 200
)


@pytest.fixture(params=KINDS)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> ScriptHost:
    return script_host(request.param, tmp_path)


@pytest.fixture
def web(tmp_path: Path, relay_key: KeyPair, sshd: Sshd) -> Iterator[TestFleet]:
    with fleet_on(tmp_path, relay_key) as fleet:
        fleet.add("web", sshd)
        yield fleet


@pytest.fixture
def stranger() -> Iterator[ScriptHost]:
    """A host whose login may not do everything: nobody, where the tests run as root."""
    folder = Path(tempfile.mkdtemp(prefix="fs", dir="/tmp"))
    folder.chmod(0o755)
    yield script_host("dash", folder, user=NOBODY if os.getuid() == 0 else None)
    for path in folder.rglob("*"):
        if path.is_dir():
            path.chmod(0o700)
    shutil.rmtree(folder)


def context(fleet: TestFleet, tool: str) -> Context:
    return Context(
        Caller(Principal("testkey"), tool=tool), "s", Config(), fleet.inventory, fleet.fleet, cast(Auth, None)
    )


def test_a_file_is_read_whole_with_its_size_and_digest(web: TestFleet, tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("one\ntwo\nthree")
    read = call(context(web, "read_file"), files.read_file, path=str(path))
    assert (read["content"], read["size_bytes"], read["truncated"], read["encoding"]) == (
        "one\ntwo\nthree",
        13,
        False,
        "utf-8",
    )
    assert read["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (read["first_line"], read["last_line"], read["total_lines"], read["notice"]) == (1, 3, 3, None)
    assert {record["command"] for record in web.records() if record["event"] == "started"} == {
        f"read_file {path} lines 1"
    }


def test_find_and_look_on_a_real_server(web: TestFleet, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "a.conf").write_text("listen 80\n")
    (tmp_path / "etc" / "b.conf").write_text("listen 443\n")
    found = call(
        context(web, "search_files"), files.search_files, path=str(tmp_path / "etc"), pattern="*.conf", content="80$"
    )
    assert [match["path"] for match in found["matches"]] == [str(tmp_path / "etc" / "a.conf")] and found["count"] == 1
    info = call(context(web, "get_file_info"), files.get_file_info, path=str(tmp_path / "etc"))
    assert (info["exists"], info["type"]) == (True, "directory")


@pytest.mark.parametrize(
    ("arguments", "content", "first", "last", "following"),
    [
        ({"offset": 3, "limit": 2}, "3\n4\n", 3, 4, 5),
        ({"offset": 9}, "9\n10\n", 9, 10, None),
        ({"offset": -2}, "9\n10\n", 9, 10, None),
        ({"offset": -3, "limit": 1}, "8\n", 8, 8, 9),
        ({"offset": -99}, "".join(f"{n}\n" for n in range(1, 11)), 1, 10, None),
        ({"offset": 11}, "", None, None, None),
        ({"offset": 0, "limit": 1}, "1\n", 1, 1, 2),
        ({"max_bytes": 16}, "1\n2\n3\n4\n5\n6\n7\n8\n", 1, 8, 9),
    ],
)  # fmt: skip
def test_lines_are_counted_from_one_and_negative_ones_from_the_end(
    host: ScriptHost,
    arguments: dict[str, int],
    content: str,
    first: int | None,
    last: int | None,
    following: int | None,
) -> None:
    (host.home / "ten").write_text("".join(f"{number}\n" for number in range(1, 11)))
    read = host.call(files.read_file, path="ten", **arguments)
    assert (read["content"], read["first_line"], read["last_line"], read["next_offset"]) == (
        content,
        first,
        last,
        following,
    )
    assert read["total_lines"] == 10 and read["truncated"] == (content.count("\n") < 10)
    if following:
        assert f"offset {following}" in read["notice"]
    if first is None:
        assert "has no line 11: it has 10" in read["notice"]


def test_bytes_are_read_on_to_the_end_without_tearing_characters(host: ScriptHost) -> None:
    whole = "".join(f"{number}€" for number in range(3000))
    (host.home / "long").write_text(whole)
    first = host.call(files.read_file, path="long", max_bytes=5000)
    assert first["truncated"] and f"byte_offset {first['next_byte']}" in first["notice"]
    read, at = first["content"], first["next_byte"]
    while at is not None:
        part = host.call(files.read_file, path="long", byte_offset=at, max_bytes=7000)
        read, at = read + part["content"], part["next_byte"]
    assert read == whole


def test_a_huge_file_is_read_by_window_and_not_hashed(host: ScriptHost) -> None:
    path = host.home / "huge"
    with path.open("wb") as file:
        file.write(b"first\n")
        file.truncate(3 << 30)
        file.seek(0, os.SEEK_END)
        file.write(b"\nlast but one\nlast\n")
    read = host.call(files.read_file, path="huge", byte_offset=(3 << 30) + 1)
    assert read["content"] == "last but one\nlast\n" and read["size_bytes"] == (3 << 30) + 19
    assert read["sha256"] is None and "larger than 64 MiB" in read["notice"] and read["total_lines"] is None
    assert host.call(files.read_file, path="huge", offset=-2)["content"] == "last but one\nlast\n"


def test_a_default_answer_stays_small(host: ScriptHost) -> None:
    (host.home / "log").write_text("".join(f"{number} {'x' * 200}\n" for number in range(5000)))
    read = host.call(files.read_file, path="log")
    assert (
        read["truncated"] and 11_000 < len(read["content"]) <= 12_000 and read["next_offset"] == read["last_line"] + 1
    )
    (host.home / "short").write_text("x\n" * 5000)
    assert host.call(files.read_file, path="short")["last_line"] == 300


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_read_by_lines_and_by_bytes(host: ScriptHost, codec: str) -> None:
    text = "".join(f"line {number} \u0a0a ä\r\n" for number in range(1, 201))
    (host.home / "wide").write_bytes(text.encode(codec))
    read = host.call(files.read_file, path="wide", offset=10, limit=2)
    assert read["content"] == "line 10 \u0a0a ä\r\nline 11 \u0a0a ä\r\n" and read["encoding"].startswith("utf-16")
    assert (read["first_line"], read["next_offset"], read["total_lines"], read["newline"]) == (10, 12, 200, "crlf")
    assert host.call(files.read_file, path="wide", offset=-1)["content"] == "line 200 \u0a0a ä\r\n"
    part, content = host.call(files.read_file, path="wide", byte_offset=0, max_bytes=999), ""
    while part["next_byte"] is not None:
        content += part["content"]
        part = host.call(files.read_file, path="wide", byte_offset=part["next_byte"], max_bytes=999)
    assert content + part["content"] == text


def test_other_encodings_and_line_ends_are_said(host: ScriptHost) -> None:
    (host.home / "latin").write_bytes("größe\r\n".encode("latin-1"))
    read = host.call(files.read_file, path="latin")
    assert (read["content"], read["encoding"], read["newline"]) == ("größe\r\n", "iso-8859-1", "crlf")
    assert "CRLF" in read["notice"]
    (host.home / "odd").write_bytes(b"\x1b[2Jhidden\xe2\x80\xae text\xff" + "ä".encode() * 5 + b"\n")
    read = host.call(files.read_file, path="odd")
    assert read["content"] == "hidden text\ufffdäääää\n" and "not shown as they are" in read["notice"]


def test_a_binary_file_is_described_and_not_dumped(host: ScriptHost) -> None:
    data = gzip.compress(b"secret\n" * 100)
    (host.home / "x.gz").write_bytes(data)
    read = host.call(files.read_file, path="x.gz")
    assert (read["content"], read["encoding"], read["size_bytes"]) == ("", "binary", len(data))
    assert "gzip" in read["notice"] and "zcat" in read["notice"] and "1f 8b" in read["notice"]
    assert read["sha256"] == hashlib.sha256(data).hexdigest()


def test_what_the_kernel_makes_up_has_no_size(host: ScriptHost) -> None:
    read = host.call(files.read_file, path="/proc/version")
    assert read["content"].startswith("Linux") and read["size_bytes"] is None and "no size" in read["notice"]


def test_an_empty_file_is_empty(host: ScriptHost) -> None:
    (host.home / "empty").touch()
    read = host.call(files.read_file, path="empty")
    assert (read["content"], read["size_bytes"], read["total_lines"], read["truncated"]) == ("", 0, 0, False)


def test_a_link_is_followed_and_said(host: ScriptHost) -> None:
    (host.home / "real").write_text("x\n")
    (host.home / "link").symlink_to("real")
    read = host.call(files.read_file, path="~/link")
    assert (
        read["content"] == "x\n" and read["target"] == str((host.home / "real").resolve()) and "link" in read["notice"]
    )
    (host.home / "broken").symlink_to("nowhere")
    with pytest.raises(NotFound, match=r"symbolic link whose target .*nowhere does not exist"):
        host.call(files.read_file, path="broken")


def test_what_is_no_file_is_told_and_never_opened(host: ScriptHost) -> None:
    os.mkfifo(host.home / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        where = os.open(host.home, os.O_RDONLY)
        listening.bind(f"/proc/self/fd/{where}/sock")
        os.close(where)
    for path, what in (("pipe", "named pipe"), ("sock", "a socket"), ("/dev/null", "character device")):
        with pytest.raises(BadArgument, match=what):
            host.call(files.read_file, path=path)
    with pytest.raises(BadArgument, match="is a directory, not a file. List it with search_files"):
        host.call(files.read_file, path="/etc")
    with pytest.raises(NotFound, match=r"There is no /etc/no/such on web\. /etc exists\."):
        host.call(files.read_file, path="/etc/no/such")
    with pytest.raises(BadArgument, match="`path` is empty"):
        host.call(files.read_file, path="")


def test_permission_denied_says_what_would_help(stranger: ScriptHost) -> None:
    closed = stranger.home / "closed"
    closed.mkdir()
    (closed / "x").write_text("x")
    secret = stranger.home / "secret"
    secret.write_text("x")
    secret.chmod(0)
    closed.chmod(0)
    with pytest.raises(FleetShellError, match="permission denied for .*; it may not be read. .*`sudo: true`"):
        stranger.call(files.read_file, path="secret")
    for tool in (files.read_file, files.get_file_info):
        with pytest.raises(FleetShellError, match=r"the folder .*/closed can't be entered"):
            stranger.call(tool, path=str(closed / "x"))
    found = stranger.call(files.search_files, path=str(stranger.home), pattern="*")
    assert found["unreadable"] == 1 and "could not be read" in found["notice"] and found["count"] == 2


def sudo_stub(host: ScriptHost, text: str) -> None:
    """A `sudo` of this host alone."""
    folder = host.home.parent / "sudo"
    folder.mkdir()
    (folder / "sudo").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "sudo").chmod(0o755)
    host.path, host.sudo = f"{folder}:{host.path}", True


@pytest.mark.skipif(os.getuid() != 0, reason="root never needs sudo, so another login must be taken, which takes root")
def test_a_refusal_of_sudo_names_the_line_that_would_allow_it(stranger: ScriptHost) -> None:
    sudo_stub(stranger, "echo 'sudo: a password is required' >&2; exit 1")
    secret = stranger.home / "secret"
    secret.write_text("x")
    secret.chmod(0)
    with pytest.raises(FleetShellError, match=r"sudo refused on this host .*nobody ALL=\(root\) NOPASSWD: /bin/sh"):
        stranger.call(files.read_file, path="secret")
    (stranger.home / "open").write_text("y")
    assert stranger.call(files.read_file, path="open")["content"] == "y"
    assert stranger.call(files.search_files, path=".", pattern="open")["count"] == 1


@pytest.mark.skipif(os.getuid() != 0, reason="root never needs sudo, so another login must be taken, which takes root")
def test_root_reads_through_sudo_what_the_login_may_not(stranger: ScriptHost) -> None:
    sudo_stub(stranger, f'echo asked >>"{stranger.home}/asked"; shift 2; chmod 644 "{stranger.home}/secret"; exec "$@"')
    stranger.home.chmod(0o777)
    secret = stranger.home / "secret"
    secret.write_text("x $(id)\n")
    os.chown(secret, NOBODY, NOBODY)
    secret.chmod(0)
    assert stranger.call(files.read_file, path="~/secret")["content"] == "x $(id)\n"
    asked = (stranger.home / "asked").read_text()
    assert stranger.call(files.read_file, path="secret")["content"] == "x $(id)\n"
    assert len((stranger.home / "asked").read_text()) == len(asked) + len(
        "asked\n"
    )  # by the facts alone: `sudo -n true`


def test_files_are_found_by_name_type_depth_and_content(host: ScriptHost) -> None:
    for name in ("a.conf", "b.txt", "sub/c.conf", "sub/deep/d.conf", ".hidden.conf"):
        path = host.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"name={name}\nport = 80\n")
    (host.home / "dir.conf").mkdir()
    (host.home / "link.conf").symlink_to("a.conf")

    def paths(pattern: str, **arguments: Any) -> list[str]:
        found = host.call(files.search_files, path=str(host.home), pattern=pattern, **arguments)
        assert found["count"] == len(found["matches"]) and not found["truncated"]
        return [match["path"].removeprefix(f"{host.home}/") for match in found["matches"]]

    every = [".hidden.conf", "a.conf", "dir.conf", "link.conf", "sub/c.conf", "sub/deep/d.conf"]
    assert paths("*.conf") == paths("**/*.conf") == every
    assert paths("*.conf", type="file") == [".hidden.conf", "a.conf", "sub/c.conf", "sub/deep/d.conf"]
    assert paths("*.conf", type="directory") == ["dir.conf"]
    assert paths("*.conf", max_depth=1) == [".hidden.conf", "a.conf", "dir.conf", "link.conf"]
    assert paths("deep/*.conf") == ["sub/deep/d.conf"]
    assert paths("?.conf", max_depth=2) == ["a.conf", "sub/c.conf"]
    assert paths("*", content="^name=(a|sub/c)") == ["a.conf", "sub/c.conf"]
    assert paths("*", content="-v") == [] == paths("*", content="$(id)")


def test_a_match_says_size_time_and_type(host: ScriptHost) -> None:
    (host.home / "x").write_text("12345")
    os.utime(host.home / "x", (0, 86_400))
    for more in ({}, {"content": "3"}):
        found = host.call(files.search_files, path=".", pattern="x", **more)
        assert found["matches"] == [
            {"path": "./x", "size_bytes": 5, "modified": "1970-01-02T00:00:00Z", "type": "file"}
        ]


def test_more_matches_than_are_shown_are_counted(host: ScriptHost) -> None:
    for number in range(30):
        (host.home / f"f{number:02}").touch()
    found = host.call(files.search_files, path=".", pattern="f*", max_results=4)
    assert found["count"] == 30 and found["truncated"] and "4 of 30" in found["notice"]
    assert [match["path"] for match in found["matches"]] == ["./f00", "./f01", "./f02", "./f03"]


@pytest.mark.parametrize("flavour", ["GNU", "other"])
def test_a_search_that_takes_too_long_shows_what_it_had_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flavour: str
) -> None:
    monkeypatch.setattr(files, "_SEARCH_SECONDS", 1)
    host = script_host("dash", tmp_path)
    programs = {
        "find": "[ \"$1\" = --version ] && exit\nprintf '5 86400 f ./x\\0'; exec sleep 1000",
        "ls": f"echo {flavour}",
    }
    folder = tmp_path / "slow"
    folder.mkdir()
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    host.path = f"{folder}:{host.path}"
    found = host.call(files.search_files, path=".", pattern="*")
    assert [match["path"] for match in found["matches"]] == ["./x"] and found["truncated"]
    assert "ended after 1 s" in found["notice"]


def test_nothing_found_is_no_failure_and_a_bad_expression_is_explained(host: ScriptHost) -> None:
    found = host.call(files.search_files, path=".", pattern="nginx")
    assert found["count"] == 0 and "*nginx*" in found["notice"]
    with pytest.raises(BadArgument, match="no extended regular expression"):
        host.call(files.search_files, path=".", pattern="*", content="(x")
    with pytest.raises(BadArgument, match="is a file, not a directory"):
        host.call(files.search_files, path="/etc/passwd", pattern="*")
    with pytest.raises(BadArgument, match="`pattern` is empty"):
        host.call(files.search_files, path="/", pattern="**/")
    with pytest.raises(BadArgument, match="leave one of them out"):
        host.call(files.search_files, path="/", pattern="*", type="directory", content="x")


def test_what_the_kernel_makes_up_is_not_searched(host: ScriptHost) -> None:
    found = host.call(files.search_files, path="/", pattern="proc", max_depth=1)
    assert found["count"] == 0 and not {"/proc", "/sys", "/dev"} & set(found["notice"].replace(",", "").split())
    deep = host.call(files.search_files, path="/", pattern="cmdline", max_depth=2, cross_file_systems=True)
    assert not [match for match in deep["matches"] if match["path"].startswith(("/proc", "/sys", "/dev"))]
    assert host.call(files.search_files, path="/proc/self", pattern="cmdline", max_depth=1)["count"] == 1


def test_names_that_are_no_text_are_told_apart(host: ScriptHost) -> None:
    for name in (b"bad\xff", b"line\nbreak"):
        (host.home / os.fsdecode(name)).write_text("x\n")
    for more in ({}, {"content": "x"}):
        found = host.call(files.search_files, path=".", pattern="*", **more)
        assert [match["path"] for match in found["matches"]] == ["./bad\\xff", "./line\nbreak"]
        assert "2 names hold" in found["notice"] and all(match["size_bytes"] == 2 for match in found["matches"])


def test_metadata_is_told_in_full(host: ScriptHost) -> None:
    path = host.home / "x"
    path.write_text("12345")
    path.chmod(0o4750)
    os.link(path, host.home / "y")
    os.utime(path, (0, 86_400))
    info = host.call(files.get_file_info, path="x")
    assert (info["type"], info["size_bytes"], info["mode"], info["permissions"]) == ("file", 5, "4750", "-rwsr-x---")
    assert (info["accessed"], info["modified"]) == ("1970-01-01T00:00:00Z", "1970-01-02T00:00:00Z")
    assert (info["owner"], info["hard_links"], info["target"]) == (path.owner(), 2, None)
    assert (info["group"], info["acl"]) == (path.group(), None if "busybox" in host.shell[0] else False)


def test_a_links_metadata_is_its_own_and_names_its_target(host: ScriptHost) -> None:
    (host.home / "x").write_text("12345")
    (host.home / "link").symlink_to("x")
    (host.home / "broken").symlink_to("line\n")
    info = host.call(files.get_file_info, path="link")
    assert (info["type"], info["target"], info["resolved"]) == ("link", "x", str((host.home / "x").resolve()))
    info = host.call(files.get_file_info, path="broken")
    assert (info["exists"], info["type"], info["target"]) == (True, "link", "line\n") and "does not exist" in info[
        "notice"
    ]


def test_what_does_not_exist_is_no_error(host: ScriptHost) -> None:
    info = host.call(files.get_file_info, path="/etc/no/such/")
    assert (info["exists"], info["type"], info["nearest_parent"]) == (False, None, "/etc")
    assert host.call(files.get_file_info, path="none")["nearest_parent"] == "."


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_reach_the_programs_unchanged(host: ScriptHost, name: str) -> None:
    _check_name(host, name)


@settings(max_examples=8, deadline=None)
@given(name=names, kind=st.sampled_from(KINDS))
def test_any_name_reaches_the_programs_unchanged(name: str, kind: str) -> None:
    with tempfile.TemporaryDirectory(prefix="fs") as folder:
        _check_name(script_host(kind, Path(folder)), name)


def _check_name(host: ScriptHost, name: str) -> None:
    path = host.home / name
    path.mkdir()
    (path / name).write_text(f"inside {len(name)}\n")
    given_path = name if not name.startswith("~") else f"./{name}"
    assert host.call(files.read_file, path=f"{given_path}/{name}")["content"] == f"inside {len(name)}\n"
    assert host.call(files.get_file_info, path=f"{path}/{name}")["type"] == "file"
    escaped = "".join(f"\\{ch}" if ch in "\\*?[" else ch for ch in name)
    for more in ({}, {"content": "inside"}):
        found = host.call(files.search_files, path=str(path), pattern=escaped, type="file", **more)
        assert [match["path"] for match in found["matches"]] == [clean(f"{path}/{name}")]
    assert list(host.home.iterdir()) == [path]
