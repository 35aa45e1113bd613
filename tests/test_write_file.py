"""`write_file`: on a real server with guard and audit log, and in every shell with GNU and busybox utilities."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
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

from fleetshell_tools import file_writing
from fleetshell_tools.core.config import Config
from fleetshell_tools.core.context import Context
from fleetshell_tools.core.errors import BadArgument, Blocked, FleetShellError, NotFound, Refused
from fleetshell_tools.core.types import Auth, Caller, Principal
from fleetshell_tools.file_writing import write_file

HOSTILE = [
    "-rf",
    " ",
    "a b",
    "$(touch x)",
    "`id`",
    "a'b\"c",
    "line\nbreak",
    "ends\n",
    "\\",
    "%s%n",
    "*",
    "~",
    "é€",
    "\x1e",
    "a;b|c",
]
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=40).filter(
    lambda name: name not in (".", "..") and len(name.encode()) < 200
)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=200)


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


def on_web(fleet: TestFleet, **arguments: Any) -> dict[str, Any]:
    context = Context(
        Caller(Principal("testkey"), tool="write_file"), "s", Config(), fleet.inventory, fleet.fleet, cast(Auth, None)
    )
    return call(context, write_file, **arguments)


def digest(data: bytes | str) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_created_on_a_real_server_and_the_content_is_never_logged(web: TestFleet, tmp_path: Path) -> None:
    path, content = tmp_path / "new", "a line with hunter2\n" * 20_000
    written = on_web(web, path=str(path), content=content)
    assert path.read_text() == content
    assert (written["created"], written["changed"], written["backup"], written["sha256_before"]) == (
        True,
        True,
        None,
        None,
    )
    assert (written["size_bytes"], written["sha256"]) == (400_000, digest(content))
    shown = {record["command"] for record in web.records() if record["event"] in ("started", "finished")}
    assert shown == {f"write_file {path} create size=400000 sha256={digest(content)}"}
    assert "hunter2" not in (web.home.logs / "audit.log").read_text()


def test_the_guard_judges_the_path_before_anything_is_sent(web: TestFleet) -> None:
    for path in ("/etc/cron.d/x", "/etc/passwd", "/etc/systemd/system/x.service", "~/.bashrc"):
        with pytest.raises(Blocked, match="`cat > "):
            on_web(web, path=path, content="x", mode="replace")
    assert {record["event"] for record in web.records()} == {"blocked"}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a home folder that is nobody's")
def test_an_approval_lets_exactly_one_write_through(web: TestFleet) -> None:
    with tempfile.TemporaryDirectory(dir="/home", prefix="fleetshell-test-") as folder:
        path = f"{folder}/.bashrc"

        def write(**more: Any) -> dict[str, Any]:
            return on_web(web, path=path, content="one\n", **more)

        with pytest.raises(Blocked, match="fleetshell approve apr_"):
            write()
        (asked,) = web.approvals.listed()
        assert (asked["command"], asked["stdin"]) == (f"cat > {path}", "one\n")
        with pytest.raises(Blocked, match="not approved this call yet"):
            write(approval_id=asked["id"])
        web.approvals.approve(asked["id"])
        for changed in ({"content": "two\n"}, {"mode": "replace"}, {"path": f"{folder}/.profile"}):
            with pytest.raises(Blocked, match="not one for this call"):
                on_web(web, **{"path": path, "content": "one\n", "approval_id": asked["id"], **changed})
        assert write(approval_id=asked["id"])["created"]
        with pytest.raises(Blocked, match="not one for this call"):
            write(approval_id=asked["id"])


def test_the_guard_judges_where_a_link_leads(web: TestFleet, tmp_path: Path) -> None:
    (tmp_path / "file").symlink_to("/etc/cron.d/fleetshell-test")
    (tmp_path / "folder").symlink_to("/etc/cron.d")
    for path in (tmp_path / "file", tmp_path / "folder" / "fleetshell-test"):
        with pytest.raises(Blocked, match="cat > /etc/cron.d/fleetshell-test"):
            on_web(web, path=str(path), content="x")
    assert not Path("/etc/cron.d/fleetshell-test").exists()


def test_create_refuses_what_exists_and_replace_makes_what_does_not(host: ScriptHost) -> None:
    path = host.home / "x"
    assert host.call(write_file, path=str(path), content="1\n", mode="replace")["created"]
    with pytest.raises(Refused, match='exists already. Give mode "replace"'):
        host.call(write_file, path=str(path), content="2\n")
    assert path.read_text() == "1\n" and names_in(host.home) == ["x"]


def test_replace_keeps_mode_owner_and_a_backup(host: ScriptHost) -> None:
    path = host.home / "x"
    path.write_text("1\n2\n3\n")
    path.chmod(0o4640)
    if os.getuid() == 0:
        os.chown(path, NOBODY, NOBODY)
        path.chmod(0o4640)
    before = path.stat()
    written = host.call(write_file, path=str(path), content="1\nzwei\n3\nvier\n", mode="replace")
    after, backup = path.stat(), Path(written["backup"])
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert path.read_text() == "1\nzwei\n3\nvier\n" and backup.read_text() == "1\n2\n3\n"
    assert backup.stat().st_ino == before.st_ino and after.st_nlink == 1
    assert re.fullmatch(r"x\.fleetshell-\d{14}", backup.name) and names_in(host.home) == ["x", backup.name]
    assert (written["sha256_before"], written["size_before"]) == (digest("1\n2\n3\n"), 6)
    assert (written["lines_added"], written["lines_removed"], written["mode"]) == (2, 1, "4640")


def test_backups_of_one_second_do_not_overwrite_each_other(host: ScriptHost) -> None:
    path = host.home / "x"
    path.write_text("0")
    backups = {host.call(write_file, path=str(path), content=str(n), mode="replace")["backup"] for n in range(1, 5)}
    assert len(backups) == 4 and sorted(Path(backup).read_text() for backup in backups) == ["0", "1", "2", "3"]


def test_the_same_content_is_not_written_again(host: ScriptHost) -> None:
    path = host.home / "x"
    path.write_text("same\n")
    before = path.stat()
    written = host.call(write_file, path=str(path), content="same\n", mode="replace")
    assert (written["changed"], written["backup"]) == (False, None)
    assert path.stat().st_ino == before.st_ino and names_in(host.home) == ["x"]


def test_an_update_in_between_is_not_lost(host: ScriptHost) -> None:
    path = host.home / "x"
    path.write_text("theirs\n")
    with pytest.raises(Refused, match=f"its sha256 is {digest('theirs' + chr(10))}"):
        host.call(write_file, path=str(path), content="mine\n", mode="replace", expected_sha256=digest("old\n"))
    assert path.read_text() == "theirs\n" and names_in(host.home) == ["x"]
    right = digest("theirs\n").upper()
    host.call(write_file, path=str(path), content="mine\n", mode="replace", expected_sha256=right)
    assert path.read_text() == "mine\n"
    with pytest.raises(Refused, match="does not exist"):
        host.call(write_file, path=str(host.home / "y"), content="", mode="replace", expected_sha256=right)


def test_a_unique_string_is_replaced(host: ScriptHost) -> None:
    path = host.home / "x"
    path.write_text("listen 80;\nserver_name $a 'b';\n")
    written = host.call(write_file, path=str(path), mode="edit", old_text="$a 'b'", new_text="\\1 &")
    assert path.read_text() == "listen 80;\nserver_name \\1 &;\n" and written["sha256"] == digest(path.read_bytes())
    assert (written["lines_added"], written["lines_removed"]) == (1, 1) and written["backup"]


@pytest.mark.parametrize(
    ("content", "old", "sentence"),
    [
        ("a b a\n", "a", "stands 2 times in"),
        ("aaa\n", "aa", "stands 2 times in"),
        ("b\n", "a", "does not stand in"),
        ("\x7fELF\0\1", "E", "binary file"),
    ],
)  # fmt: skip
def test_a_string_that_is_not_unique_changes_nothing(host: ScriptHost, content: str, old: str, sentence: str) -> None:
    (host.home / "x").write_text(content)
    with pytest.raises(BadArgument, match=sentence):
        host.call(write_file, path="x", mode="edit", old_text=old, new_text="c")
    assert (host.home / "x").read_text() == content and names_in(host.home) == ["x"]


@pytest.mark.parametrize(
    ("before", "old", "new", "after"),
    [
        (b"a\r\nb\r\nc\r\n", "a\nb", "x\ny", b"x\r\ny\r\nc\r\n"),
        (b"a\r\nb\r\n", "a\r\nb", "x\nb", b"x\nb\r\n"),
        ("größe\n".encode("latin-1"), "größe", "Übergröße", "Übergröße\n".encode("latin-1")),
        ("\ufeffgrün\r\n".encode("utf-16"), "grün", "rot\nblau", "\ufeffrot\r\nblau\r\n".encode("utf-16")),
        ("\ufeffx\n".encode(), "x", "ü", "\ufeffü\n".encode()),
    ],
)  # fmt: skip
def test_edit_keeps_encoding_and_line_ends(host: ScriptHost, before: bytes, old: str, new: str, after: bytes) -> None:
    (host.home / "x").write_bytes(before)
    host.call(write_file, path="x", mode="edit", old_text=old, new_text=new)
    assert (host.home / "x").read_bytes() == after


def test_what_the_encoding_can_not_hold_is_refused(host: ScriptHost) -> None:
    (host.home / "x").write_bytes("größe\n".encode("latin-1"))
    with pytest.raises(BadArgument, match=r"Character 1 of `new_text` \('€'\) can't be written as iso-8859-1"):
        host.call(write_file, path="x", mode="edit", old_text="größe", new_text="€")


def test_edit_refuses_a_file_that_was_not_expected_or_is_too_large(host: ScriptHost) -> None:
    (host.home / "x").write_text("a\n")
    with pytest.raises(Refused, match="not what was expected"):
        host.call(write_file, path="x", mode="edit", old_text="a", new_text="b", expected_sha256="0" * 64)
    (host.home / "big").write_bytes(b"a\n" * (file_writing.EDITED // 2 + 1))
    with pytest.raises(BadArgument, match="edit takes at most"):
        host.call(write_file, path="big", mode="edit", old_text="a", new_text="b")
    with pytest.raises(NotFound, match="There is no none"):
        host.call(write_file, path="none", mode="edit", old_text="a", new_text="b")


def test_a_link_is_written_through_and_said(host: ScriptHost) -> None:
    (host.home / "real").write_text("1\n")
    (host.home / "link").symlink_to("real")
    real = str((host.home / "real").resolve())
    written = host.call(write_file, path=str(host.home / "link"), content="2\n", mode="replace")
    assert (host.home / "link").is_symlink() and (host.home / "real").read_text() == "2\n"
    assert (
        written["target"] == real and real in written["notice"] and written["backup"].startswith(f"{real}.fleetshell-")
    )
    assert [script.judged for script in host.scripts] == [f"cat > {host.home}/link", f"cat > {real}"]
    (host.home / "new").symlink_to("made")
    assert host.call(write_file, path=str(host.home / "new"), content="3\n")["created"]
    assert (host.home / "made").read_text() == "3\n"
    (host.home / "loop").symlink_to("loop")
    with pytest.raises(NotFound, match="leads nowhere"):
        host.call(write_file, path=str(host.home / "loop"), content="x")


def test_a_path_in_the_logins_home_is_judged_as_what_it_is(host: ScriptHost) -> None:
    for path in ("a", "~/b", "./c"):
        written = host.call(write_file, path=path, content="x\n")
        assert written["target"] == f"{host.home.resolve()}/{path[-1]}"
        assert host.scripts[-1].judged == f"cat > {written['target']}"
    assert names_in(host.home) == ["a", "b", "c"]


def test_missing_folders_are_made_only_where_that_is_asked_for(host: ScriptHost) -> None:
    path = host.home / "a" / "b c" / "x"
    with pytest.raises(NotFound, match="Give make_parents true"):
        host.call(write_file, path=str(path), content="x\n")
    assert names_in(host.home) == []
    host.call(write_file, path=str(path), content="x\n", make_parents=True)
    assert path.read_text() == "x\n"
    with pytest.raises(BadArgument, match="is no folder"):
        host.call(write_file, path=f"{path}/y", content="x\n", make_parents=True)
    with pytest.raises(BadArgument, match=r"holds `.`, `..` or `//`"):
        host.call(write_file, path=f"{host.home}/none/../../x", content="x\n", make_parents=True)


def test_a_new_files_mode_is_the_logins_or_the_one_given(host: ScriptHost) -> None:
    host.call(write_file, path="plain", content="x\n")
    assert host.call(write_file, path="private", content="x\n", file_mode="0600")["mode"] == "0600"
    modes = {name: (host.home / name).stat().st_mode & 0o7777 for name in ("plain", "private")}
    assert modes == {"plain": 0o644, "private": 0o600}
    kept = host.call(write_file, path="private", content="y\n", mode="replace", file_mode="0644")
    assert kept["mode"] == "0600" and "mode was kept" in kept["notice"]


def test_what_is_no_file_is_never_written(host: ScriptHost) -> None:
    os.mkfifo(host.home / "pipe")
    (host.home / "folder").mkdir()
    for path, sentence in (
        ("pipe", "named pipe"),
        ("folder", "is a directory"),
        ("/dev/null", "character device"),
        ("folder/", "a folder"),
    ):
        with pytest.raises(BadArgument, match=sentence):
            host.call(write_file, path=path, content="x", mode="replace")
    assert names_in(host.home) == ["folder", "pipe"]


def test_other_names_of_a_file_are_said_to_keep_the_old_content(host: ScriptHost) -> None:
    (host.home / "x").write_text("1\n")
    os.link(host.home / "x", host.home / "y")
    written = host.call(write_file, path="x", content="2\n", mode="replace")
    assert "2 hard links" in written["notice"] and (host.home / "y").read_text() == "1\n"


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"content": "x", "mode": "edit", "old_text": "a", "new_text": "b"},
        {"mode": "edit", "old_text": "", "new_text": "b"},
        {"mode": "edit", "old_text": "a"},
        {"content": "x", "old_text": "a"},
    ],
)
def test_arguments_that_do_not_go_together_are_refused(tmp_path: Path, arguments: dict[str, str]) -> None:
    host = script_host("dash", tmp_path)
    with pytest.raises(BadArgument, match=r"Mode (edit|create) takes"):
        host.call(write_file, path="x", **arguments)
    assert not host.scripts


def test_content_that_did_not_arrive_whole_is_not_put_in_place(
    host: ScriptHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    (host.home / "x").write_text("old\n")
    run = host.run_script

    def torn(caller: object, server: object, script: Any, **more: Any) -> Any:
        return run(caller, server, type(script)(script.name, script.text, script.data, script.stdin[:10]), **more)

    monkeypatch.setattr(host, "run_script", torn)
    with pytest.raises(FleetShellError, match="did not arrive whole"):
        host.call(write_file, path="x", content="0123456789 new\n", mode="replace")
    assert (host.home / "x").read_text() == "old\n" and names_in(host.home) == ["x"]


def test_permission_denied_leaves_all_as_it_was_and_says_what_would_help(stranger: ScriptHost) -> None:
    (stranger.home / "x").write_text("old\n")
    stranger.home.chmod(0o555)
    for path, mode in (("x", "replace"), ("y", "create")):
        with pytest.raises(FleetShellError, match="no file can be made in its folder .*`sudo: true`"):
            stranger.call(write_file, path=str(stranger.home / path), content="new\n", mode=mode)
    assert names_in(stranger.home) == ["x"] and (stranger.home / "x").read_text() == "old\n"


@pytest.mark.skipif(os.getuid() != 0, reason="a file of another owner takes root to make")
def test_a_file_whose_owner_can_not_be_kept_is_not_replaced(stranger: ScriptHost) -> None:
    stranger.home.chmod(0o777)
    (stranger.home / "x").write_text("old\n")
    with pytest.raises(FleetShellError, match="the owner and mode that it has can't be kept"):
        stranger.call(write_file, path="x", content="new\n", mode="replace")
    assert names_in(stranger.home) == ["x"] and (stranger.home / "x").read_text() == "old\n"


@pytest.mark.skipif(os.getuid() != 0, reason="a file of another owner takes root to make")
def test_sudo_is_used_only_where_the_login_alone_would_not_do(stranger: ScriptHost) -> None:
    tools = stranger.home.parent / "sudo"
    tools.mkdir()
    (tools / "sudo").write_text(f'#!/bin/sh\necho "$4" >>"{tools}/asked"\nshift 2\nexec "$@"\n')
    (tools / "sudo").chmod(0o755)
    (tools / "asked").touch()
    (tools / "asked").chmod(0o666)
    stranger.path, stranger.sudo = f"{tools}:{stranger.path}", True
    stranger.home.chmod(0o777)
    stranger.call(write_file, path="own", content="x\n")
    stranger.call(write_file, path="deep/own", content="x\n", make_parents=True)
    assert (stranger.home / "deep" / "own").owner() == "nobody" and (tools / "asked").read_text().split() == []
    (stranger.home / "root").write_text("1\n")
    with pytest.raises(FleetShellError, match="Not even root may"):  # this sudo gives no rights
        stranger.call(write_file, path="root", content="2\n", mode="replace")
    assert "-c" in (tools / "asked").read_text().split()


def test_a_full_disk_leaves_the_file_as_it_was(stranger: ScriptHost) -> None:
    (stranger.home / "x").write_text("old\n")
    stranger.home.chmod(0o777)
    limited = stranger.home.parent / "limited"
    limited.write_text('#!/bin/sh\nulimit -f 8\ntrap "" XFSZ\nexec dash "$@"\n')
    limited.chmod(0o755)
    stranger.shell = (str(limited),)
    with pytest.raises(FleetShellError, match="can't be written .*The file is as it was"):
        stranger.call(write_file, path=str(stranger.home / "y"), content="x" * 100_000)
    assert names_in(stranger.home) == ["x"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_written_as_they_are(host: ScriptHost, name: str) -> None:
    _check(host, name, "$(id) 'x' \"y\"\n")


@settings(max_examples=10, deadline=None)
@given(name=names, content=texts, kind=st.sampled_from(KINDS))
def test_any_name_and_content_is_written_as_it_is(name: str, content: str, kind: str) -> None:
    with tempfile.TemporaryDirectory(prefix="fs") as folder:
        _check(script_host(kind, Path(folder)), name, content)


def _check(host: ScriptHost, name: str, content: str) -> None:
    folder = host.home.resolve() / name
    path = folder / name
    created = host.call(write_file, path=str(path), content=content, make_parents=True)
    assert path.read_bytes() == content.encode() and created["created"] and created["sha256"] == digest(content)
    edited = host.call(write_file, path=str(path), content=content + "more\n", mode="replace")
    assert path.read_bytes() == content.encode() + b"more\n" and edited["changed"]
    assert edited["lines_added"] == 1 or not content.endswith("\n")
    (backup,) = [found for found in folder.iterdir() if found != path]
    assert backup.read_bytes() == content.encode() and names_in(host.home) == [name]
    assert all("more" not in word for script in host.scripts for word in (script.label, *script.data[1:]))
