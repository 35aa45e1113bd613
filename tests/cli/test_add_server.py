"""`add-server`: by options, by questions on a terminal, and what it does with hosts that can't be used yet."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from support.homes import CONFIG, CliHome, home, make_cli_home
from support.relay import PROGRAM
from support.sshd import KeyPair, Sshd, make_key
from support.terminal import Terminal

__all__ = ["home"]
MakeSshd = Callable[..., Sshd]
Captured = pytest.CaptureFixture[str]


def reaching(sshd: Sshd, server_id: str = "web-1") -> list[str]:
    return ["--id", server_id, "--hostname", sshd.address, "--port", str(sshd.port), "--user", sshd.user]


def on_terminal(home: CliHome, *arguments: str) -> Terminal:
    return Terminal([*PROGRAM, "--home", str(home.path), "add-server", *arguments])


def test_every_option_lands_under_its_key_in_the_documented_order(home: CliHome, relay_key: KeyPair) -> None:
    home.write("bastion", "id: bastion\nhostname: h\n")
    assert home.run(
        "add-server", "--no-verify", "--id", "mail-prod-01", "--hostname", "mail.example.com", "--user", "root", "--port", "22",
        "--tags", "production, mail,,mail,postfix", "--env", "production", "--purpose", 'Primary: mail "server" # 1, no',
        "--jump", "bastion", "--key", str(relay_key.private), "--options", "Ciphers=aes128-ctr", "--options", "Compression=yes",
    ) == 0  # fmt: skip
    text = home.file("mail-prod-01").read_text()
    data = yaml.safe_load(text)
    assert data == {
        "id": "mail-prod-01", "hostname": "mail.example.com", "ssh_user": "root", "ssh_port": 22,
        "tags": ["production", "mail", "postfix"],
        "context": {"purpose": 'Primary: mail "server" # 1, no', "environment": "production"},
        "jump": "bastion", "identity_file": str(relay_key.private), "ssh_options": {"Ciphers": "aes128-ctr", "Compression": "yes"},
    }  # fmt: skip
    assert list(data) == [
        "id",
        "hostname",
        "ssh_user",
        "ssh_port",
        "tags",
        "context",
        "jump",
        "identity_file",
        "ssh_options",
    ]
    assert home.file("mail-prod-01").stat().st_mode & 0o777 == 0o600


def test_an_answering_server_is_pinned_and_logged_into(home: CliHome, sshd: Sshd, capsys: Captured) -> None:
    assert home.run("add-server", *reaching(sshd)) == 0
    shown = capsys.readouterr()
    assert home.pins("web-1") == [sshd.host_key]
    assert "SHA256:" in shown.out and "(ED25519)" in shown.out
    assert "trusted on first use" in shown.out
    assert "The login works." in shown.out
    assert shown.err == ""
    assert [(record["event"], record["server_id"]) for record in home.audit()] == [
        ("server_added", "web-1"), ("started", "web-1"), ("finished", "web-1"),
    ]  # fmt: skip
    assert home.audit()[0]["principal"] == f"cli:{getpass.getuser()}"


def test_what_is_not_given_stays_out_of_the_file(home: CliHome) -> None:
    assert (
        home.run(
            "add-server", "--no-verify", "--id", "web-1", "--hostname", "h", "--tags", "", "--env", "", "--purpose", " "
        )
        == 0
    )
    assert yaml.safe_load(home.file("web-1").read_text()) == {"id": "web-1", "hostname": "h"}


def test_without_verification_nothing_is_contacted_or_pinned(home: CliHome, sshd_factory: MakeSshd) -> None:
    sshd = sshd_factory()
    before = sshd.log()
    assert home.run("add-server", "--no-verify", *reaching(sshd)) == 0
    assert home.pins("web-1") == []
    assert sshd.log() == before


def test_an_unreachable_host_is_added_with_a_warning(home: CliHome, sshd_factory: MakeSshd, capsys: Captured) -> None:
    sshd = sshd_factory()
    sshd.stop()
    assert home.run("add-server", *reaching(sshd)) == 0
    shown = capsys.readouterr()
    assert f"refuses connections on port {sshd.port}" in shown.err and "warning" in shown.err
    assert "fleetshell test web-1" in shown.err
    assert home.file("web-1").exists()
    assert home.pins("web-1") == []
    sshd.start()
    assert home.run("test", "web-1") == 0
    assert home.pins("web-1") == [sshd.host_key]


def test_a_refused_login_says_which_line_to_install(
    home: CliHome, sshd_factory: MakeSshd, tmp_path: Path, capsys: Captured
) -> None:
    sshd = sshd_factory(authorized_keys=make_key(tmp_path / "other").public)
    assert home.run("add-server", *reaching(sshd)) == 0
    err = capsys.readouterr().err
    assert "refused the login" in err
    home.run("pubkey")
    assert capsys.readouterr().out in err
    assert home.pins("web-1") == [sshd.host_key]


def test_a_server_behind_a_jump_server_is_met_through_it(
    home: CliHome, sshd: Sshd, sshd_factory: MakeSshd, capsys: Captured
) -> None:
    inner = sshd_factory()
    home.add("bastion", sshd)
    assert home.run("add-server", *reaching(inner), "--jump", "bastion") == 0
    assert "The login works." in capsys.readouterr().out
    assert home.pins("web-1") == [inner.host_key]
    assert home.pins("bastion") == [sshd.host_key]


def test_a_pin_that_was_left_under_the_id_is_not_replaced(
    home: CliHome, sshd: Sshd, sshd_factory: MakeSshd, capsys: Captured
) -> None:
    home.run("add-server", *reaching(sshd))
    home.file("web-1").unlink()
    other = sshd_factory()
    capsys.readouterr()
    assert home.run("add-server", *reaching(other)) == 0
    assert "fleetshell trust web-1" in capsys.readouterr().err
    assert home.pins("web-1") == [sshd.host_key]
    home.file("web-1").unlink()
    assert home.run("add-server", *reaching(sshd)) == 0
    assert "(already pinned)" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["id: web-1\nhostname: h\n", "- broken\n"], ids=["good", "broken"])
def test_an_existing_id_is_refused_and_names_edit(home: CliHome, sshd: Sshd, capsys: Captured, text: str) -> None:
    home.write("web-1", text)
    assert home.run("add-server", *reaching(sshd)) == 1
    assert "fleetshell edit web-1" in capsys.readouterr().err
    assert home.file("web-1").read_text() == text
    assert home.pins("web-1") == []


@pytest.mark.parametrize(("arguments", "said"), [
    (["--id", "../x"], '--id: id is "../x"'),
    (["--id", "-x"], "expected one argument"),
    (["--id=-x"], '--id: id is "-x"'),
    (["--id", "x" * 65], "--id: "),
    (["--hostname=-oProxyCommand=id"], '--hostname: hostname is "-oProxyCommand=id"'),
    (["--hostname", "a b"], '--hostname: hostname is "a b"'),
    (["--hostname", "root@h"], '--hostname: hostname is "root@h"'),
    (["--hostname", ""], "--hostname: "),
    (["--user=-l"], '--user: ssh_user is "-l"'),
    (["--user", "a b"], '--user: ssh_user is "a b"'),
    (["--port", "0"], "--port: ssh_port is 0; allowed: from 1 to 65535"),
    (["--port", "65536"], "--port: ssh_port is 65536"),
    (["--port", "ssh"], "--port: ssh_port must be a whole number"),
    (["--port", "²"], "--port: ssh_port must be a whole number"),
    (["--tags", "x" * 65], "--tags: "),
    (["--jump", "a b"], '--jump: jump is "a b"'),
    (["--key", "/nonexistent/key"], "--key: there is no file /nonexistent/key"),
    (["--options", "Ciphers"], '--options: "Ciphers" is not of the form'),
    (["--options", "ProxyCommand=id"], "--options: the ssh option ProxyCommand is set by FleetShell itself"),
    (["--options", "hostname=other"], "use the key `hostname`"),
    (["--options", "Ciphers=a\nProxyCommand id"], "--options: the value of the ssh option Ciphers holds a control character"),
    (["--env", "a\udcff"], "--env: that is not UTF-8"),
])  # fmt: skip
def test_an_impossible_value_is_refused_by_name(
    home: CliHome, capsys: Captured, arguments: list[str], said: str
) -> None:
    assert home.run("add-server", "--no-verify", "--id", "web-1", "--hostname", "h", *arguments) == 2
    assert said in capsys.readouterr().err
    assert list((home.path / "servers").iterdir()) == []


@pytest.mark.parametrize("name", ["b", "a", "web-1"])
def test_a_jump_server_that_can_not_be_used_is_refused(home: CliHome, capsys: Captured, name: str) -> None:
    home.write("a", "id: a\nhostname: h\njump: web-1\n")
    assert home.run("add-server", "--no-verify", "--id", "web-1", "--hostname", "h", "--jump", name) != 0
    assert name in capsys.readouterr().err
    assert not home.file("web-1").exists()


@pytest.mark.parametrize(("arguments", "missing"), [
    ([], "--id and --hostname must be given"),
    (["--id", "web-1"], "--hostname must be given"),
    (["--hostname", "h"], "--id must be given"),
])  # fmt: skip
def test_without_a_terminal_what_is_missing_is_named(
    home: CliHome, capsys: Captured, arguments: list[str], missing: str
) -> None:
    assert home.run("add-server", "--no-verify", *arguments) == 2
    assert missing in capsys.readouterr().err


def test_a_log_that_can_not_be_written_adds_nothing(home: CliHome, sshd: Sshd, capsys: Captured) -> None:
    (home.path / "audit.key").write_text("damaged\n")
    (home.path / "audit.key").chmod(0o600)
    assert home.run("add-server", *reaching(sshd)) == 1
    assert "audit.key" in capsys.readouterr().err
    assert not home.file("web-1").exists()
    assert home.pins("web-1") == []


# On a terminal


def test_on_a_terminal_everything_is_asked_for_and_explained(home: CliHome, sshd: Sshd) -> None:
    home.write("taken", "id: taken\nhostname: h\n")
    with on_terminal(home) as terminal:
        terminal.answer("Id", "no good")
        terminal.expect('id is "no good"')
        terminal.answer("Id", "taken")
        terminal.expect("There is already a server taken")
        terminal.answer("Id", "web-1")
        terminal.answer("Host name", "")
        terminal.answer("Host name", sshd.address)
        terminal.answer("Login user", sshd.user)
        terminal.answer("SSH port [22]", "70000")
        terminal.expect("allowed: from 1 to 65535")
        terminal.answer("SSH port", str(sshd.port))
        terminal.answer("Tags", "web, nginx")
        terminal.answer("Environment", "production")
        terminal.answer("Purpose", "Größter Webserver")
        terminal.expect("SHA256:")
        terminal.answer("Is that its key?", "")
        terminal.expect("The login works.")
        assert terminal.end() == 0
    assert yaml.safe_load(home.file("web-1").read_text()) == {
        "id": "web-1", "hostname": sshd.address, "ssh_user": sshd.user, "ssh_port": sshd.port, "tags": ["web", "nginx"],
        "context": {"purpose": "Größter Webserver", "environment": "production"},
    }  # fmt: skip
    assert home.pins("web-1") == [sshd.host_key]


def test_on_a_terminal_only_what_is_missing_is_asked_for(home: CliHome) -> None:
    with on_terminal(
        home, "--no-verify", "--id", "web-1", "--user", "root", "--tags", "a", "--env", "e", "--purpose", "p"
    ) as terminal:
        terminal.answer("Host name", "web.example.com")
        terminal.answer("SSH port", "")
        assert terminal.end() == 0
    assert "Login user" not in terminal.seen
    assert yaml.safe_load(home.file("web-1").read_text())["ssh_port"] == 22


def test_a_default_of_the_configuration_is_offered_and_stays_out_of_the_file(
    tmp_path: Path, relay_key: KeyPair
) -> None:
    home = make_cli_home(tmp_path / "home", relay_key, f"{CONFIG}defaults: {{ssh_user: deploy, ssh_port: 2200}}\n")
    with on_terminal(
        home, "--no-verify", "--id", "web-1", "--hostname", "h", "--tags", "", "--purpose", ""
    ) as terminal:
        terminal.answer("Login user [deploy]", "")
        terminal.answer("SSH port [2200]", "")
        terminal.answer("Environment", "deploy")
        assert terminal.end() == 0
    assert yaml.safe_load(home.file("web-1").read_text()) == {
        "id": "web-1",
        "hostname": "h",
        "context": {"environment": "deploy"},
    }


def test_a_host_key_that_is_turned_down_adds_nothing(home: CliHome, sshd: Sshd) -> None:
    with on_terminal(home, *reaching(sshd), "--tags", "", "--env", "", "--purpose", "") as terminal:
        terminal.answer("Is that its key?", "n")
        assert terminal.end() == 1
    assert not home.file("web-1").exists()
    assert home.pins("web-1") == []


def test_the_end_of_input_adds_nothing(home: CliHome) -> None:
    with on_terminal(home) as terminal:
        terminal.answer("Id", "web-1")
        terminal.answer("Host name", "\x04")
        assert terminal.end() == 2
    assert "nothing was changed" in terminal.seen
    assert list((home.path / "servers").iterdir()) == []
