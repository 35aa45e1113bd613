"""`pubkey --install` and `key rotate` on real servers: each result, what is resumed, and an interruption anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.homes import CliHome, home
from support.own_ssh import OwnSsh, own_ssh
from support.relay import PROGRAM
from support.sshd import KeyPair, Sshd, make_key
from support.terminal import Terminal

from fleetshell_tools.cli import key_rotation
from fleetshell_tools.core import storage

__all__ = ["home", "own_ssh"]
Captured = pytest.CaptureFixture[str]
Account = tuple[Sshd, Path]


@pytest.fixture
def account(sshd_factory: Callable[..., Sshd], tmp_path: Path) -> Callable[..., Account]:
    """Makes a server whose login has the authorized_keys of its own home, and that file with these lines in it."""

    def make(*lines: str) -> Account:
        sshd = sshd_factory()
        keys = sshd.folder / "home" / ".ssh" / "authorized_keys"
        keys.parent.mkdir(mode=0o700)
        keys.write_text("".join(f"{line}\n" for line in lines))
        sshd.stop()
        again = sshd_factory(extra=[f"AuthorizedKeysFile {keys}", f"SetEnv HOME={keys.parents[1]}"], port=sshd.port)
        return again, keys

    return make


def line(key: KeyPair) -> str:
    return key.public.read_text().strip()


def blob(text: str) -> str:
    return text.split()[1]


def current(home: CliHome) -> str:
    return (home.path / "relay.pub").read_text().strip()


@pytest.fixture
def my_key(tmp_path: Path) -> KeyPair:
    """The key of the person who has access to the servers already."""
    return make_key(tmp_path / "my_key")


# pubkey --install


def test_the_key_is_put_where_it_is_missing_and_each_server_has_its_result(
    home: CliHome,
    own_ssh: OwnSsh,
    my_key: KeyPair,
    relay_key: KeyPair,
    account: Callable[..., Account],
    capsys: Captured,
) -> None:
    own_ssh.log_in_with(my_key)
    fresh, fresh_keys = account(line(my_key))
    known, known_keys = account(line(my_key), line(relay_key))
    down, _ = account(line(my_key))
    down.stop()
    for name, sshd in (("fresh", fresh), ("known", known), ("down", down)):
        home.add(name, sshd)
    home.add("special", fresh, f"identity_file: {my_key.private}")
    fresh_keys.write_text(line(my_key))  # no line end: what is added must not run into it
    assert home.run("pubkey", "--install", "--all", "--json") == 1
    result = {put["id"]: put for put in json.loads(capsys.readouterr().out)}
    assert {name: put["state"] for name, put in result.items()} == {
        "fresh": "added", "known": "there", "down": "failed", "special": "skipped",
    }  # fmt: skip
    assert "refused" in result["down"]["reason"] and "key of its own" in result["special"]["reason"]
    assert [blob(text) for text in fresh_keys.read_text().splitlines()] == [blob(line(my_key)), blob(line(relay_key))]
    assert len(known_keys.read_text().splitlines()) == 2
    assert [(record["event"], record["server_id"]) for record in home.audit()] == [("key_installed", "fresh")]
    assert home.run("test", "fresh") == 0
    down.start()
    capsys.readouterr()
    assert home.run("pubkey", "--install", "down", "fresh") == 0
    shown = capsys.readouterr().out
    assert "down: the key was added" in shown and "fresh: it had the key already" in shown


def test_a_server_that_does_not_let_you_in_is_named_without_a_question(
    home: CliHome, own_ssh: OwnSsh, account: Callable[..., Account], capsys: Captured
) -> None:
    home.add("web-1", account()[0])
    assert home.run("pubkey", "--install", "web-1") == 1
    shown = capsys.readouterr().out
    assert "web-1: failed" in shown and "Permission denied" in shown and "Run the same command again" in shown


def test_the_key_travels_through_the_jump_server(
    home: CliHome, own_ssh: OwnSsh, my_key: KeyPair, relay_key: KeyPair, account: Callable[..., Account]
) -> None:
    own_ssh.config.write_text(own_ssh.config.read_text() + f"  IdentityFile {my_key.private}\n")
    outer, _ = account(line(my_key), line(relay_key))
    inner, keys = account(line(my_key))
    home.add("bastion", outer)
    home.add("inner", inner, "jump: bastion")
    assert home.run("pubkey", "--install", "inner") == 0
    assert blob(line(relay_key)) in keys.read_text()
    assert home.run("test", "inner") == 0


def test_on_a_terminal_your_ssh_may_ask_what_it_has_to(
    home: CliHome, own_ssh: OwnSsh, my_key: KeyPair, relay_key: KeyPair, account: Callable[..., Account], tmp_path: Path
) -> None:
    known = tmp_path / "known_hosts"
    own_ssh.config.write_text(
        f"Host *\n  UserKnownHostsFile {known}\n  IdentitiesOnly yes\n  IdentityFile {my_key.private}\n"
    )
    sshd, keys = account(line(my_key))
    home.add("web-1", sshd)
    with Terminal([*PROGRAM, "--home", str(home.path), "pubkey", "--install", "--all"], controls=True) as terminal:
        terminal.expect("web-1: your ssh asks")
        terminal.expect("Are you sure you want to continue connecting")
        terminal.type("yes")
        terminal.expect("web-1: the key was added")
        assert terminal.end() == 0
    assert blob(line(relay_key)) in keys.read_text() and known.exists()


@pytest.mark.parametrize(
    "arguments",
    [["web-1"], ["--all"], ["--json"], ["--install"], ["--install", "--all", "web-1"]],
    ids=lambda words: " ".join(words),
)
def test_a_mistake_in_the_arguments_is_exit_code_2(home: CliHome, arguments: list[str], capsys: Captured) -> None:
    assert home.run("pubkey", *arguments) == 2
    assert "fleetshell pubkey --install" in capsys.readouterr().err


def test_adding_a_server_on_a_terminal_offers_to_put_the_key_there_and_tries_again(
    home: CliHome, own_ssh: OwnSsh, my_key: KeyPair, relay_key: KeyPair, account: Callable[..., Account]
) -> None:
    own_ssh.log_in_with(my_key)
    sshd, keys = account(line(my_key))
    given = ["--id", "web-1", "--hostname", sshd.address, "--port", str(sshd.port), "--user", sshd.user]
    given += ["--tags", "", "--env", "", "--purpose", ""]
    with Terminal([*PROGRAM, "--home", str(home.path), "add-server", *given]) as terminal:
        terminal.answer("Is that its key?", "y")
        terminal.expect("refused the login")
        terminal.answer("Put the key there now", "y")
        terminal.expect("web-1: the key was added")
        terminal.expect("The login works.")
        assert terminal.end() == 0
    assert blob(line(relay_key)) in keys.read_text()


# key rotate


def test_the_key_is_replaced_on_every_server_with_its_options_kept(
    home: CliHome, relay_key: KeyPair, my_key: KeyPair, account: Callable[..., Account], capsys: Captured
) -> None:
    first, first_keys = account(f'from="127.0.0.1",no-pty {line(relay_key)}', line(my_key))
    second, second_keys = account(line(relay_key))
    home.add("one", first)
    home.add("two", second)
    old = blob(line(relay_key))
    assert home.run("key", "rotate") == 0
    new = current(home)
    assert blob(new) != old and capsys.readouterr().out.endswith(f"{new}\n")
    assert first_keys.read_text().splitlines()[0] == line(my_key)
    assert first_keys.read_text().splitlines()[1].startswith(f'from="127.0.0.1",no-pty ssh-ed25519 {blob(new)}')
    assert blob(new) in second_keys.read_text() and old not in first_keys.read_text() + second_keys.read_text()
    assert home.run("test", "--all") == 0
    assert sorted(path.name for path in home.path.iterdir() if "key" in path.name) == [
        ".key-rotation.lock",
        "audit.key",
        "relay.key",
    ]
    assert (home.path / "relay.key").stat().st_mode & 0o777 == 0o600
    assert [event for event in home.events() if event.startswith("key_")] == ["key_rotation", "key_switched"]


def test_a_server_that_is_down_holds_the_switch_up_until_it_is_back(
    home: CliHome, relay_key: KeyPair, account: Callable[..., Account], capsys: Captured
) -> None:
    up, up_keys = account(line(relay_key))
    down, down_keys = account(line(relay_key))
    home.add("up", up)
    home.add("down", down)
    down.stop()
    old = current(home)
    assert home.run("key", "rotate") == 1
    shown = capsys.readouterr().out
    assert "up has the new key" in shown and "refuses connections" in shown and "1 left" in shown
    assert current(home) == old
    assert home.run("test", "up") == 0
    assert len(up_keys.read_text().splitlines()) == 2
    down.start()
    capsys.readouterr()
    assert home.run("key", "rotate", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["done"], result["public_key"]) == (True, current(home))
    for keys in (up_keys, down_keys):
        assert [blob(text) for text in keys.read_text().splitlines()] == [blob(current(home))]
    assert home.run("test", "--all") == 0


def test_a_server_that_goes_down_after_the_switch_keeps_the_old_key_until_the_next_run(
    home: CliHome,
    relay_key: KeyPair,
    account: Callable[..., Account],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    sshd, keys = account(line(relay_key))
    home.add("web-1", sshd)
    switch = key_rotation._Rotation._switch

    def then_down(rotation: Any, state: Any) -> None:
        switch(rotation, state)
        sshd.stop()

    monkeypatch.setattr(key_rotation._Rotation, "_switch", then_down)
    old = current(home)
    assert home.run("key", "rotate") == 1
    assert current(home) != old and "still accept the old one" in capsys.readouterr().out
    sshd.start()
    assert home.run("key", "rotate") == 0
    assert [blob(text) for text in keys.read_text().splitlines()] == [blob(current(home))]


def test_a_server_that_never_comes_back_can_be_left_out(
    home: CliHome, relay_key: KeyPair, account: Callable[..., Account]
) -> None:
    up, _ = account(line(relay_key))
    gone, gone_keys = account(line(relay_key))
    home.add("up", up)
    home.add("gone", gone)
    gone.stop()
    assert home.run("key", "rotate") == 1
    assert home.run("key", "rotate", "--without", "gone") == 0
    assert [blob(text) for text in gone_keys.read_text().splitlines()] == [blob(line(relay_key))]
    assert home.run("key", "rotate", "--without", "none-such") == 4


def test_a_disabled_file_holds_the_switch_up(
    home: CliHome, relay_key: KeyPair, account: Callable[..., Account], capsys: Captured
) -> None:
    home.add("web-1", account(line(relay_key))[0])
    home.write("broken", "id: broken\n")
    old = current(home)
    assert home.run("key", "rotate") == 1
    assert "broken: its file is invalid" in capsys.readouterr().out
    assert current(home) == old


def test_a_server_whose_keys_are_elsewhere_is_said_before_anything_is_switched(
    home: CliHome, sshd: Sshd, capsys: Captured
) -> None:
    home.add("web-1", sshd)
    old = current(home)
    assert home.run("key", "rotate") == 1
    assert "takes it from elsewhere" in capsys.readouterr().out
    assert current(home) == old


class Killed(BaseException):
    """As if the process ended here."""


def test_wherever_it_is_interrupted_the_relay_gets_in_and_the_next_run_ends_it(
    home: CliHome, relay_key: KeyPair, account: Callable[..., Account], monkeypatch: pytest.MonkeyPatch
) -> None:
    sshd, keys = account(line(relay_key))
    home.add("web-1", sshd)
    write = storage.write_atomic
    interruptions = 0
    for at in range(1, 20):
        seen = 0

        def dying(path: Path, *args: Any, at: int = at, **more: Any) -> None:
            nonlocal seen
            ours = path.name.startswith(("relay", "key-rotation"))
            seen += ours
            if ours and seen == at:
                raise Killed
            write(path, *args, **more)

        before = current(home)
        monkeypatch.setattr(storage, "write_atomic", dying)
        try:
            home.run("key", "rotate")
        except Killed:
            interruptions += 1
        else:
            monkeypatch.setattr(storage, "write_atomic", write)
            break
        monkeypatch.setattr(storage, "write_atomic", write)
        assert home.run("test", "web-1") == 0, f"after {at} writes the relay did not get in"
        assert home.run("key", "rotate") == 0
        assert current(home) != before
        assert [blob(text) for text in keys.read_text().splitlines()] == [blob(current(home))]
    assert interruptions >= 6


def test_two_rotations_do_not_run_at_once(home: CliHome, capsys: Captured) -> None:
    with storage.locked(home.path / ".key-rotation.lock"):
        assert home.run("key", "rotate") == 1
    assert "Another `fleetshell key rotate`" in capsys.readouterr().err


def test_another_key_in_its_place_is_not_taken_for_the_old_one(
    home: CliHome, relay_key: KeyPair, account: Callable[..., Account], tmp_path: Path, capsys: Captured
) -> None:
    sshd, _ = account(line(relay_key))
    home.add("web-1", sshd)
    sshd.stop()
    assert home.run("key", "rotate") == 1
    other = make_key(tmp_path / "other").private.read_bytes()
    (home.path / "relay.key").write_bytes(other)
    assert home.run("key", "rotate") == 3
    assert "is not the key with which the rotation" in capsys.readouterr().err
    assert (home.path / "relay.key").read_bytes() == other


def test_on_a_terminal_rotating_asks_first(home: CliHome) -> None:
    with Terminal([*PROGRAM, "--home", str(home.path), "key", "rotate"]) as terminal:
        terminal.answer("Replace the relay's key on 0 servers?", "n")
        assert terminal.end() == 1
    assert not (home.path / "relay-next.key").exists()
