"""`auth add-user`, `auth list`, `auth remove`: what is printed once, what is kept, and what is recorded."""

from __future__ import annotations

import json
import re

import pyotp
import pytest
from support.homes import CliHome, home
from support.relay import fleetshell

from fleetshell_tools.core.people import digest

__all__ = ["home"]
Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def plain_http(home: CliHome) -> None:
    """A home without a certificate, which these commands have no use for."""
    path = home.path / "config.yaml"
    path.write_text(path.read_text().replace("  http:\n", "  http:\n    use_tls: false\n"))
    home.write("web-1", "id: web-1\nhostname: localhost\n")


def test_a_new_person_gets_a_key_a_code_and_a_client_configuration_once(home: CliHome, capsys: Captured) -> None:
    before = (home.path / "config.yaml").read_text()
    assert home.run("auth", "add-user", "anna", "--servers", "web-1", "--tags", "eu,us", "--policy", "read_only") == 0
    shown = capsys.readouterr()
    assert "anna may use web-1 and servers tagged eu or us, to read only." in shown.out
    assert "Account name: fleetshell-anna" in shown.out and "shown this once" in shown.err
    key = re.search(r"Bearer ([\w-]{40,})", shown.out)
    secret = re.search(r"Manual entry key: ([A-Z2-7]{32})\n", shown.out)
    assert key and secret and pyotp.TOTP(secret[1]).now()
    path = home.path / "users" / "anna.conf"
    kept = path.read_text()
    assert key[1] not in kept and digest(key[1]) in kept and secret[1] in kept
    assert path.stat().st_mode & 0o777 == 0o600
    assert (home.path / "config.yaml").read_text() == before, "a team leaves the owner's file alone"
    [record] = [record for record in home.audit() if record["event"] == "user_added"]
    assert (record["user"], record["servers"], record["tags"], record["policy"]) == (
        "anna",
        ["web-1"],
        ["eu", "us"],
        "read_only",
    )
    assert key[1] not in str(home.audit()) and secret[1] not in str(home.audit())
    assert home.run("auth", "list") == 0 and home.run("connect-info") == 0
    later = capsys.readouterr().out
    assert key[1] not in later and secret[1] not in later


def test_the_json_has_all_that_the_person_needs(home: CliHome, capsys: Captured) -> None:
    assert home.run("auth", "add-user", "bert", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["servers"] == ["*"] and facts["tags"] == [] and facts["policy"] == "normal"
    assert facts["account"] == "fleetshell-bert" and "fleetshell-bert" in facts["uri"]
    assert facts["mcpServers"]["fleetshell"]["env"]["AUTH"] == f"Bearer {facts['api_key']}"


def test_a_configuration_for_another_client_can_be_asked_for(home: CliHome, capsys: Captured) -> None:
    assert home.run("auth", "add-user", "bert", "--client", "claude-code", "--os", "macos") == 0
    assert "claude mcp add --transport http fleetshell" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("owner",), 2, "no name for a person"),
        (("a b",), 2, "no name for a person"),
        (("../x",), 2, "no name for a person"),
        (("bert", "--servers", "web-2"), 4, 'Did you mean "web-1"'),
        (("bert", "--servers", ","), 2, "at least one"),
        (("bert", "--policy", "readonly"), 2, "read_only"),
    ],
)
def test_an_impossible_person_is_refused_and_nothing_is_written(
    home: CliHome, arguments: tuple[str, ...], code: int, says: str, capsys: Captured
) -> None:
    assert home.run("auth", "add-user", *arguments) == code
    assert says in capsys.readouterr().err
    assert not (home.path / "users").exists() and "user_added" not in home.events()


def test_the_same_name_is_not_given_twice(home: CliHome, capsys: Captured) -> None:
    assert home.run("auth", "add-user", "anna") == 0
    kept = (home.path / "users" / "anna.conf").read_text()
    assert home.run("auth", "add-user", "anna") == 3
    assert "`fleetshell auth remove anna`" in capsys.readouterr().err
    assert (home.path / "users" / "anna.conf").read_text() == kept and home.events().count("user_added") == 1


def test_without_the_audit_log_nobody_is_added_or_removed(home: CliHome) -> None:
    assert home.run("auth", "add-user", "anna") == 0
    log = home.path / "logs" / "audit.log"
    log.rename(log.with_suffix(".away"))
    log.mkdir()
    assert home.run("auth", "add-user", "bert") != 0 and home.run("auth", "remove", "anna") != 0
    assert [path.name for path in (home.path / "users").glob("*.conf")] == ["anna.conf"]


def test_the_list_has_everybody_and_says_who_is_shut_out(home: CliHome, capsys: Captured) -> None:
    home.run("auth", "add-user", "anna", "--tags", "eu")
    home.run("auth", "add-user", "bert")
    (home.path / "users" / "bert.conf").chmod(0o644)
    capsys.readouterr()
    assert home.run("auth", "list") == 0
    shown = capsys.readouterr().out
    assert re.search(r"^owner .*\*", shown, re.MULTILINE) and re.search(r"^anna .*eu", shown, re.MULTILINE)
    assert "bert is shut out: " in shown and "chmod 600" in shown
    assert home.run("auth", "list", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in found["people"]] == ["owner", "anna"] and list(found["problems"]) == ["bert"]


def test_who_is_removed_is_recorded_and_the_owner_can_not_be(home: CliHome, capsys: Captured) -> None:
    home.run("auth", "add-user", "anna")
    assert home.run("auth", "remove", "anna") == 0
    assert "anna has no access any more." in capsys.readouterr().out
    assert home.events()[-1] == "user_removed" and not list((home.path / "users").glob("*.conf"))
    assert home.run("auth", "remove", "anna") == 4 and "no person" in capsys.readouterr().err
    assert home.run("auth", "remove", "owner") == 1 and "rotate-key" in capsys.readouterr().err
    assert home.events().count("user_removed") == 1


def test_the_help_shows_what_add_user_takes(home: CliHome) -> None:
    shown = fleetshell(home.path, "auth", "add-user", "--help").stdout
    assert "--servers A,B" in shown and "--policy" in shown
