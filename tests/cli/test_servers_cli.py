"""`list`, `test`, `edit`, `remove`, `trust` and `pubkey`, as a person and as a script uses them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.homes import CliHome, home
from support.relay import PROGRAM, ROOT
from support.sshd import KeyPair, Sshd, make_key
from support.terminal import Terminal

__all__ = ["home"]
MakeSshd = Callable[..., Sshd]
Captured = pytest.CaptureFixture[str]

MAIL = "id: mail-prod-01\nhostname: mail.example.com\nssh_user: root\ntags: [production, mail, postfix]\ncontext: {environment: production, purpose: Mail}\n"
DB = "id: db-prod-01\nhostname: db.example.com\ntags: [database]\ncontext: {environment: production}\n"


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes `$EDITOR` a shell script that gets the file as its first argument."""
    monkeypatch.delenv("VISUAL", raising=False)

    def make(script: str) -> Path:
        path = tmp_path / "the editor"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o700)
        monkeypatch.setenv("EDITOR", f"'{path}'")
        return path

    return make


def on_terminal(home: CliHome, *arguments: str) -> Terminal:
    return Terminal([*PROGRAM, "--home", str(home.path), *arguments])


# list


def test_the_list_is_the_documented_table(home: CliHome, capsys: Captured) -> None:
    home.write("mail-prod-01", MAIL)
    home.write("db-prod-01", DB)
    assert home.run("list") == 0
    assert capsys.readouterr().out == (
        "ID            Hostname          Environment  Tags\n"
        "────────────────────────────────────────────────────────────────────────\n"
        "db-prod-01    db.example.com    production   database\n"
        "mail-prod-01  mail.example.com  production   production, mail, postfix\n"
    ).replace("─" * 72, "─" * (12 + 2 + 16 + 2 + 11 + 2 + 25))  # fmt: skip


def test_a_server_with_a_bad_file_is_listed_with_the_reason(home: CliHome, capsys: Captured) -> None:
    home.write("mail-prod-01", MAIL)
    home.write("broken", "id: broken\nhostname: h\nssh_prot: 22\n")
    assert home.run("list") == 0
    table, _, rest = capsys.readouterr().out.partition("\nDisabled")
    assert "mail-prod-01" in table and "broken" not in table
    assert "broken: " in rest and 'line 3: unknown key "ssh_prot". Did you mean "ssh_port"?' in rest


def test_an_empty_list_names_the_next_command(home: CliHome, capsys: Captured) -> None:
    assert home.run("list") == 0
    assert "fleetshell add-server" in capsys.readouterr().out


def test_the_list_as_json_has_what_a_script_needs(home: CliHome, capsys: Captured) -> None:
    home.write("mail-prod-01", MAIL)
    home.write("broken", "- x\n")
    assert home.run("list", "--json") == 0
    mail, broken = json.loads(capsys.readouterr().out)
    assert mail == {
        "id": "mail-prod-01", "hostname": "mail.example.com", "environment": "production", "tags": ["production", "mail", "postfix"],
        "purpose": "Mail", "ssh_user": "root", "ssh_port": 22,
    }  # fmt: skip
    assert (broken["id"], broken["disabled"]) == ("broken", True)
    assert "line 1" in broken["reason"]


def test_listing_loads_neither_the_relay_nor_the_fleet(home: CliHome) -> None:
    code = f"import sys; from fleetshell_tools.cli import main; main(['--home', {str(home.path)!r}, 'list']); print(*sys.modules, file=sys.stderr)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    loaded = {".".join(name.split(".")[:2]) for name in run.stderr.split()}
    assert "fleetshell_tools.cli" in loaded
    heavy = {
        "fleetshell_tools.app",
        "fleetshell_tools.offline",
        "fleetshell_tools.fleet",
        "fleetshell_tools.relay",
        "ssl",
        "http",
        "asyncio",
        "subprocess",
        "tempfile",
    }
    assert not loaded & heavy


# test


def test_a_server_that_works_shows_every_step(home: CliHome, sshd: Sshd, capsys: Captured) -> None:
    home.add("web-1", sshd)
    assert home.run("test", "web-1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:12] for line in lines[1:]] == [
        "  ✓ resolve ",
        "  ✓ connect ",
        "  ✓ host key",
        "  ✓ login   ",
        "  ✓ command ",
    ]
    assert all(" ms" in line for line in lines[1:])
    assert home.events() == ["host_key_pinned", *(("started", "finished") * 2)]
    assert " is root" in lines[-1] or "sudo" in lines[-1]
    assert home.audit()[1]["principal"].startswith("cli:")


def test_a_failed_step_says_why_and_what_was_not_tried(
    home: CliHome, sshd_factory: MakeSshd, tmp_path: Path, capsys: Captured
) -> None:
    home.add("web-1", sshd_factory(authorized_keys=make_key(tmp_path / "other").public))
    assert home.run("test", "web-1", "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["id"], report["ok"]) == ("web-1", False)
    assert [(step["name"], step["ok"]) for step in report["steps"]] == [
        ("resolve", True), ("connect", True), ("host_key", True), ("login", False), ("command", None),
    ]  # fmt: skip
    assert "fleetshell pubkey" in report["steps"][3]["detail"]


def test_all_servers_are_tested_and_one_failure_is_enough_for_exit_code_1(
    home: CliHome, sshd: Sshd, sshd_factory: MakeSshd, capsys: Captured
) -> None:
    home.add("good", sshd)
    down = sshd_factory()
    home.add("down", down)
    down.stop()
    home.write("broken", "id: other\nhostname: h\n")
    home.add("stranded", sshd, "jump: nowhere")
    assert home.run("test", "--all") == 1
    out = capsys.readouterr().out
    assert "✗ connect" in out and f"port {down.port}" in out
    assert "broken (disabled)" in out
    assert "stranded jumps through nowhere" in out
    assert out.endswith("1 of 4 servers passed.\n")
    for name in ("down", "broken", "stranded"):
        home.file(name).unlink()
    assert home.run("test", "--all") == 0


@pytest.mark.parametrize(("arguments", "code", "said"), [
    (["web-2"], 4, 'There is no server "web-2". Did you mean "web-1"?'),
    (["broken"], 3, "disabled because its file is invalid"),
    ([], 2, "fleetshell test --all"),
    (["web-1", "--all"], 2, "fleetshell test --all"),
])  # fmt: skip
def test_what_can_not_be_tested_has_its_own_exit_code(
    home: CliHome, capsys: Captured, arguments: list[str], code: int, said: str
) -> None:
    home.write("web-1", "id: web-1\nhostname: h\n")
    home.write("broken", "id: other\nhostname: h\n")
    assert home.run("test", *arguments) == code
    assert said in capsys.readouterr().err


def test_a_command_leaves_no_folder_of_its_own(home: CliHome, sshd: Sshd) -> None:
    home.add("web-1", sshd)
    home.run("test", "web-1")
    assert not list((home.path / "run").glob("cli-*"))


# edit


def test_an_edited_file_replaces_the_old_one_and_is_private(
    home: CliHome, editor: Callable[[str], Path], capsys: Captured
) -> None:
    path = home.write("mail-prod-01", MAIL)
    editor('stat -c %a "$1" > "$0.mode"; echo "connect_timeout: 7" >> "$1"')
    assert home.run("edit", "mail-prod-01") == 0
    assert path.read_text() == MAIL + "connect_timeout: 7\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert (path.parents[2] / "the editor.mode").read_text() == "600\n"
    assert "Saved" in capsys.readouterr().out
    assert [record["server_id"] for record in home.audit() if record["event"] == "server_edited"] == ["mail-prod-01"]
    assert not list(home.path.glob(".edit-*"))


def test_the_editor_may_have_arguments_and_visual_comes_first(
    home: CliHome, editor: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = home.write("mail-prod-01", MAIL)
    script = editor('echo "$1: $2" >> "$3"')
    monkeypatch.setenv("VISUAL", f"'{script}' connect_timeout 9")
    monkeypatch.setenv("EDITOR", "false")
    assert home.run("edit", "mail-prod-01") == 0
    assert path.read_text().endswith("connect_timeout: 9\n")


def test_an_invalid_text_is_kept_aside_and_the_old_file_stays(
    home: CliHome, editor: Callable[[str], Path], capsys: Captured
) -> None:
    path = home.write("mail-prod-01", MAIL)
    editor('echo "ssh_port: many" >> "$1"')
    assert home.run("edit", "mail-prod-01") == 3
    assert path.read_text() == MAIL
    aside = path.with_name("mail-prod-01.conf.rejected")
    assert aside.read_text() == MAIL + "ssh_port: many\n"
    assert aside.stat().st_mode & 0o777 == 0o600
    said = capsys.readouterr().err
    assert "ssh_port must be a whole number" in said and str(aside) in said
    assert home.run("list", "--json") == 0
    assert [item["id"] for item in json.loads(capsys.readouterr().out)] == ["mail-prod-01"]


def test_text_that_is_not_utf_8_is_kept_byte_for_byte(home: CliHome, editor: Callable[[str], Path]) -> None:
    path = home.write("mail-prod-01", MAIL)
    editor(r'''printf '# \377\n' >> "$1"''')
    assert home.run("edit", "mail-prod-01") == 3
    assert path.with_name("mail-prod-01.conf.rejected").read_bytes() == MAIL.encode() + b"# \xff\n"


def test_an_unchanged_file_is_not_touched(home: CliHome, editor: Callable[[str], Path], capsys: Captured) -> None:
    path = home.write("mail-prod-01", MAIL)
    before = path.stat()
    editor("true")
    assert home.run("edit", "mail-prod-01") == 0
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert "Nothing was changed." in capsys.readouterr().out
    assert home.events() == []


def test_a_file_that_was_changed_meanwhile_is_not_overwritten(
    home: CliHome, editor: Callable[[str], Path], capsys: Captured
) -> None:
    path = home.write("mail-prod-01", MAIL)
    editor(f'echo "# mine" >> "$1"; echo "# theirs" >> {path}')
    assert home.run("edit", "mail-prod-01") == 1
    assert path.read_text() == MAIL + "# theirs\n"
    assert path.with_name("mail-prod-01.conf.rejected").read_text() == MAIL + "# mine\n"
    assert "changed by somebody else" in capsys.readouterr().err


def test_a_file_that_was_removed_meanwhile_does_not_come_back(home: CliHome, editor: Callable[[str], Path]) -> None:
    path = home.write("mail-prod-01", MAIL)
    editor(f'echo "# mine" >> "$1"; rm {path}')
    assert home.run("edit", "mail-prod-01") == 1
    assert not path.exists()
    assert path.with_name("mail-prod-01.conf.rejected").read_text() == MAIL + "# mine\n"


def test_a_disabled_server_can_be_mended(home: CliHome, editor: Callable[[str], Path]) -> None:
    path = home.write("mail-prod-01", "id: mail-prod-01\nhostnam: h\n")
    editor('sed -i s/hostnam:/hostname:/ "$1"')
    assert home.run("edit", "mail-prod-01") == 0
    assert path.read_text() == "id: mail-prod-01\nhostname: h\n"


def test_an_editor_that_fails_changes_nothing(home: CliHome, editor: Callable[[str], Path], capsys: Captured) -> None:
    path = home.write("mail-prod-01", MAIL)
    editor('echo "# x" >> "$1"; exit 3')
    assert home.run("edit", "mail-prod-01") == 1
    assert path.read_text() == MAIL
    assert "ended with status 3" in capsys.readouterr().err
    assert not list(home.path.glob(".edit-*"))


def test_what_an_editor_saved_before_it_crashed_is_kept(
    home: CliHome, editor: Callable[[str], Path], capsys: Captured
) -> None:
    path = home.write("db-prod-01", DB)
    editor('echo "# much work" >>"$1"; kill -9 $$')
    assert home.run("edit", "db-prod-01") == 1
    aside = path.with_name("db-prod-01.conf.rejected")
    assert str(aside) in capsys.readouterr().err
    assert aside.read_text() == DB + "# much work\n" and path.read_text() == DB


@pytest.mark.parametrize(
    ("value", "said"),
    [("no-such-editor -x", "no-such-editor, which is not installed"), ("'vi", "can't be read as a command")],
)
def test_a_wrong_editor_variable_is_named(
    home: CliHome, monkeypatch: pytest.MonkeyPatch, capsys: Captured, value: str, said: str
) -> None:
    home.write("mail-prod-01", MAIL)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", value)
    assert home.run("edit", "mail-prod-01") == 1
    assert "$EDITOR" in (err := capsys.readouterr().err) and said in err


def test_a_jump_server_that_does_not_exist_is_warned_of(
    home: CliHome, editor: Callable[[str], Path], capsys: Captured
) -> None:
    home.write("mail-prod-01", MAIL)
    editor('echo "jump: bastion" >> "$1"')
    assert home.run("edit", "mail-prod-01") == 0
    assert 'There is no server "bastion"' in capsys.readouterr().err


def test_on_a_terminal_an_invalid_text_can_be_edited_again(home: CliHome, editor: Callable[[str], Path]) -> None:
    path = home.write("mail-prod-01", MAIL)
    editor('if grep -q many "$1"; then sed -i s/many/2222/ "$1"; else echo "ssh_port: many" >> "$1"; fi')
    with on_terminal(home, "edit", "mail-prod-01") as terminal:
        terminal.expect("ssh_port must be a whole number")
        terminal.answer("keep it aside?", "what")
        terminal.answer("keep it aside?", "e")
        assert terminal.end() == 0
    assert path.read_text() == MAIL + "ssh_port: 2222\n"


@pytest.mark.parametrize(
    ("answer", "code", "kept"),
    [("d", 1, False), ("k", 3, True), ("\x04", 3, True)],
    ids=["discard", "keep", "end of input"],
)
def test_on_a_terminal_an_invalid_text_can_be_given_up(
    home: CliHome, editor: Callable[[str], Path], answer: str, code: int, kept: bool
) -> None:
    path = home.write("mail-prod-01", MAIL)
    editor('echo "ssh_port: many" >> "$1"')
    with on_terminal(home, "edit", "mail-prod-01") as terminal:
        terminal.answer("keep it aside?", answer)
        assert terminal.end() == code
    assert path.read_text() == MAIL
    assert path.with_name("mail-prod-01.conf.rejected").exists() == kept


# remove


def test_removing_takes_the_file_and_the_pin_of_this_server_alone(home: CliHome, sshd: Sshd, capsys: Captured) -> None:
    for name in ("web-1", "web-2"):
        home.add(name, sshd)
    home.run("test", "--all")
    assert home.pins("web-1") == home.pins("web-2") == [sshd.host_key]
    assert home.run("remove", "web-1") == 0
    assert not home.file("web-1").exists()
    assert (home.pins("web-1"), home.pins("web-2")) == ([], [sshd.host_key])
    assert [record["server_id"] for record in home.audit() if record["event"] == "server_removed"] == ["web-1"]


def test_a_server_that_others_jump_through_is_not_removed(home: CliHome, sshd: Sshd, capsys: Captured) -> None:
    home.add("bastion", sshd)
    home.add("web-1", sshd, "jump: bastion")
    assert home.run("remove", "bastion", "--yes") == 1
    assert home.file("bastion").exists()
    assert "web-1 can only be reached through bastion" in capsys.readouterr().err


@pytest.mark.parametrize("answer", ["n", ""])
def test_on_a_terminal_removing_asks_first(home: CliHome, answer: str) -> None:
    path = home.write("mail-prod-01", MAIL)
    with on_terminal(home, "remove", "mail-prod-01") as terminal:
        terminal.answer("Remove mail-prod-01", answer)
        assert terminal.end() == 1
    assert path.exists()
    with on_terminal(home, "remove", "mail-prod-01") as terminal:
        terminal.answer("Remove mail-prod-01", "y")
        assert terminal.end() == 0
    assert not path.exists()


def test_a_disabled_server_can_be_removed(home: CliHome) -> None:
    path = home.write("broken", "- x\n")
    assert home.run("remove", "broken") == 0
    assert not path.exists()


@pytest.mark.parametrize("command", ["edit", "remove", "trust"])
@pytest.mark.parametrize("name", ["mail-prod-02", "../config.yaml"])
def test_an_unknown_server_is_exit_code_4(
    home: CliHome, editor: Callable[[str], Path], capsys: Captured, command: str, name: str
) -> None:
    editor("touch $0.ran")
    home.write("mail-prod-01", MAIL)
    assert home.run(command, name) == 4
    assert "mail-prod-01" in capsys.readouterr().err
    assert not list(home.path.parent.glob("*.ran"))


# trust


def test_a_rebuilt_server_is_refused_until_its_new_key_is_trusted(
    home: CliHome, sshd_factory: MakeSshd, capsys: Captured
) -> None:
    sshd = sshd_factory()
    home.add("web-1", sshd)
    assert home.run("test", "web-1") == 0
    old = sshd.host_key
    sshd.change_host_key()
    assert home.run("test", "web-1") == 1
    assert "fleetshell trust web-1" in capsys.readouterr().out
    assert home.pins("web-1") == [old]

    assert home.run("trust", "web-1") == 2
    shown = capsys.readouterr()
    assert "--yes" in shown.err
    assert [line[:15] for line in shown.out.splitlines()] == ["pinned: SHA256:", "now:    SHA256:"]
    assert home.pins("web-1") == [old]

    assert home.run("trust", "web-1", "--yes") == 0
    assert home.pins("web-1") == [sshd.host_key]
    record = home.audit()[-1]
    assert (record["event"], record["server_id"]) == ("host_key_trusted", "web-1")
    assert f"pinned: {record['old'][0]}\nnow:    {record['new'][0]}\n" in shown.out
    assert home.run("test", "web-1") == 0


def test_trusting_an_unchanged_key_changes_nothing(home: CliHome, sshd: Sshd, capsys: Captured) -> None:
    home.add("web-1", sshd)
    home.run("test", "web-1")
    before = (home.path / "known_hosts").read_bytes()
    assert home.run("trust", "web-1") == 0
    assert "Nothing was changed" in capsys.readouterr().out
    assert (home.path / "known_hosts").read_bytes() == before
    assert "host_key_trusted" not in home.events()


@pytest.mark.parametrize(("answer", "code"), [("n", 1), ("y", 0)])
def test_on_a_terminal_trusting_asks_first(home: CliHome, sshd: Sshd, answer: str, code: int) -> None:
    home.add("web-1", sshd)
    with on_terminal(home, "trust", "web-1") as terminal:
        terminal.expect("pinned: none")
        terminal.answer("Is that the key of web-1?", answer)
        assert terminal.end() == code
    assert home.pins("web-1") == [sshd.host_key] * (code == 0)


def test_a_server_that_does_not_answer_can_not_be_trusted(
    home: CliHome, sshd_factory: MakeSshd, capsys: Captured
) -> None:
    sshd = sshd_factory()
    home.add("web-1", sshd)
    sshd.stop()
    assert home.run("trust", "web-1", "--yes") == 1
    assert "refuses connections" in capsys.readouterr().err


def test_trusting_goes_through_the_jump_server(home: CliHome, sshd: Sshd, sshd_factory: MakeSshd) -> None:
    inner = sshd_factory()
    home.add("bastion", sshd)
    home.add("web-1", inner, "jump: bastion")
    assert home.run("trust", "web-1", "--yes") == 0
    assert home.pins("web-1") == [inner.host_key]
    assert "Accepted publickey" not in inner.log()


# pubkey


def test_the_public_key_is_one_line_and_nothing_else(home: CliHome, relay_key: KeyPair, capsys: Captured) -> None:
    assert home.run("pubkey") == 0
    shown = capsys.readouterr()
    assert shown.out == f"{' '.join(relay_key.public.read_text().split()[:2])} fleetshell-relay\n"
    assert shown.err == ""


def test_a_missing_key_names_init(home: CliHome, capsys: Captured) -> None:
    os.unlink(home.path / "relay.key")
    assert home.run("pubkey") == 3
    assert "fleetshell init" in capsys.readouterr().err
