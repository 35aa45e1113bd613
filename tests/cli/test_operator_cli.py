"""`lock`, `unlock`, `auth revoke`, `rotate-key`, `reset`, `approvals`, `approve`: without a relay, and where things are broken."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from support.homes import CONFIG, CliHome, home

from fleetshell_tools.cli.approvals import exact, shown
from fleetshell_tools.core.emergency import Emergency
from fleetshell_tools.core.home import Home

__all__ = ["home"]
Captured = pytest.CaptureFixture[str]
KEY = "0123456789abcdef0123456789abcdef"


def keys(home: CliHome) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((home.path / "config.yaml").read_text())["relay"]["http"]["auth"]
    return found


@pytest.mark.parametrize(
    "command", [("approvals",), ("approve", "apr_1"), ("auth", "revoke"), ("auth", "revoke", "--all")]
)
def test_without_a_relay_there_is_nothing_to_ask(home: CliHome, command: tuple[str, ...], capsys: Captured) -> None:
    assert home.run(*command) == 1
    assert "No relay is running" in capsys.readouterr().err


def test_the_lock_holds_without_a_relay_and_is_recorded(home: CliHome, capsys: Captured) -> None:
    assert home.run("lock") == 0 and home.run("lock") == 0
    assert "the lock holds when one starts" in capsys.readouterr().out
    assert Emergency(Home(home.path).emergency).engaged
    assert home.run("unlock") == 2, "nobody is there to type a code"
    assert Emergency(Home(home.path).emergency).engaged
    assert home.events() == ["locked", "locked"]


def test_neither_a_broken_configuration_nor_a_broken_record_keeps_the_operator_from_locking(
    home: CliHome, capsys: Captured
) -> None:
    (home.path / "config.yaml").write_text("nonsense: [")
    assert home.run("lock") == 0
    assert "could not be recorded" in capsys.readouterr().err
    assert Emergency(Home(home.path).emergency).engaged


def test_unlocking_with_a_wrong_code_leaves_the_lock_and_is_recorded(
    home: CliHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert home.run("lock") == 0
    monkeypatch.setattr("fleetshell_tools.cli.emergency.ask_code", lambda home, purpose: "12345")
    assert home.run("unlock") == 5
    assert Emergency(Home(home.path).emergency).engaged
    assert home.events() == ["locked", "unlock_failed"]


def test_a_rotation_changes_three_keys_at_once_and_keeps_comments(home: CliHome, capsys: Captured) -> None:
    (home.path / "config.yaml").write_text(CONFIG.replace("mfa:\n", "mfa:  # mine\n"))
    assert home.run("auth", "rotate-key", "--json") == 0
    found, shown_ = keys(home), json.loads(capsys.readouterr().out)
    assert found["previous_api_key"] == KEY and found["previous_until"] == shown_["old_key_until"]
    assert found["api_key"].startswith("fsk_") and found["api_key"] in str(shown_)
    assert "# mine" in (home.path / "config.yaml").read_text()
    assert home.run("auth", "rotate-key", "--keep", "0") == 0
    assert KEY not in str(keys(home)) and keys(home)["previous_api_key"] == ""
    assert home.events() == ["api_key_rotated"] * 2 and KEY not in str(home.audit())


@pytest.mark.parametrize("hours", ["-1", "x", "1.5", "2161", "١"])
def test_an_impossible_time_is_refused(home: CliHome, hours: str) -> None:
    assert home.run("auth", "rotate-key", f"--keep={hours}") == 2
    assert (home.path / "config.yaml").read_text() == CONFIG


def test_without_the_audit_log_no_key_and_no_secret_is_changed(home: CliHome) -> None:
    (home.path / "logs" / "audit.log").mkdir()
    assert home.run("auth", "rotate-key") == 1 and home.run("auth", "reset", "--yes") == 1
    assert (home.path / "config.yaml").read_text() == CONFIG


def test_a_reset_makes_a_new_secret_and_lifts_a_lock_out(home: CliHome, capsys: Captured) -> None:
    assert home.run("auth", "reset") == 2
    assert (home.path / "config.yaml").read_text() == CONFIG
    assert home.run("auth", "reset", "--yes", "--json") == 0
    secret = json.loads(capsys.readouterr().out)["secret"]
    assert len(secret) == 32 and f'"{secret}"' in (home.path / "config.yaml").read_text()
    assert home.events() == ["totp_secret_replaced"] and secret not in str(home.audit())


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ('previous_api_key: "short"', "previous_api_key"),
        ('previous_until: "2024-13-01T00:00:00Z"', "previous_until"),
        ('previous_until: "tomorrow"', "previous_until"),
    ],
)
def test_an_impossible_previous_key_is_named(home: CliHome, line: str, names: str, capsys: Captured) -> None:
    (home.path / "config.yaml").write_text(CONFIG.replace("      api_key", f"      {line}\n      api_key"))
    assert home.run("auth", "status") == 3
    assert names in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("rm -rf /srv", "rm -rf /srv"),
        ("a\nb", "a\nb"),
        ("\x1b[2Kls", "\\u{1b}[2Kls"),
        ("rm\u202e x", "rm\\u{202e} x"),
        ("a\u200bb\r\t", "a\\u{200b}b\\u{d}\\u{9}"),
        ("grüße", "grüße"),
    ],
)
def test_what_a_terminal_would_hide_is_written_out_for_the_operator(text: str, seen: str) -> None:
    assert exact(text) == seen


def test_the_operator_sees_who_where_what_and_that_something_is_left_out() -> None:
    entry = {
        "id": "apr_1", "approved": False, "age_seconds": 5, "ends_in": 595, "principal": "k1", "name": "owner", "client": "c\nx", "session": "s",
        "tool": "execute_in_session", "server_ids": ["web-1", "web-2"], "command": "bash\nexit", "class": "power", "rule": "reboot",
        "resolved": ["reboot", "-f"], "working_directory": "/srv\n", "environment": {"A": "1\n2"}, "environment_whole": False,
        "shell_session": "sess_1", "typed": True, "stdin": "reboot", "stdin_bytes": 7,
    }  # fmt: skip
    text = shown(entry)
    for part in (
        "owner (key k1, c\\nx), with execute_in_session", "web-1, web-2 (2)", "power: reboot", "would run: reboot -f", "sess_1, typed into",
        "folder:    /srv\\n", "A=1\\n2", "there is more", "    | bash\n    | exit", "7 bytes, of which only the beginning is shown", "    | reboot",
    ):  # fmt: skip
        assert part in text, part
