"""`auth`: the QR code again, a trial of a code, MFA on and off, and lock-outs; also on a relay that runs."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pyotp
import pytest
import yaml
from support.homes import CONFIG, CliHome, home
from support.mcp_client import connected
from support.relay import RelayHome, RelayProcess, fleetshell
from support.screen import DARK_TERMINAL, scan, screenshot

from fleetshell_tools.core.errors import AuthenticationFailed, AuthenticationRequired
from fleetshell_tools.core.home import Home
from fleetshell_tools.core.types import Caller
from fleetshell_tools.relay.auth import FAILURES, Authenticator, AuthState

__all__ = ["home"]
Captured = pytest.CaptureFixture[str]
SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
URI = f"otpauth://totp/FleetShell:fleetshell-relay?secret={SECRET}&issuer=FleetShell"
NOW = 1_800_000_015.0
"""The middle of a time step."""


@pytest.fixture
def noon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stops the clock that codes are compared with."""
    monkeypatch.setattr(time, "time", lambda: NOW)


def mfa(home: CliHome) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((home.path / "config.yaml").read_text())["mfa"]
    return found


def rewrite(home: CliHome, old: str, new: str) -> str:
    """Change the configuration by hand; returns the new text."""
    text = CONFIG.replace(old, new)
    assert text != CONFIG
    (home.path / "config.yaml").write_text(text)
    return text


def lock_out(home: CliHome) -> None:
    """Give wrong codes until the key is locked out, as a client would."""
    config = Home(home.path).config()
    authenticator = Authenticator(config, AuthState(Home(home.path).auth_state))
    principal = authenticator.principal(f"Bearer {config.relay.http.auth.api_key}")
    assert principal
    for _ in range(FAILURES):
        with pytest.raises(AuthenticationFailed):
            authenticator.authenticate(Caller(principal), "session", wrong_code())


def wrong_code() -> str:
    """A code that matches in no step near now."""
    near = {str(pyotp.TOTP(SECRET).at(int(time.time()) + 30 * step)) for step in range(-3, 4)}
    return next(code for code in map("{:06}".format, range(100)) if code not in near)


# setup


def test_the_qr_code_is_shown_again_and_nothing_changes(home: CliHome, capsys: Captured) -> None:
    assert home.run("auth", "setup") == 0
    shown = capsys.readouterr().out
    lines = [line for line in shown.splitlines() if re.search("[ ▀▄█]{30,}", line)]
    assert scan(screenshot("\n".join(lines), DARK_TERMINAL)) == [URI.encode()]
    assert f"Manual entry key: {SECRET}\n" in shown and "Account name: fleetshell-relay\n" in shown
    assert (home.path / "config.yaml").read_text() == CONFIG and home.events() == []


def test_the_json_has_secret_uri_and_account(home: CliHome, capsys: Captured) -> None:
    assert home.run("auth", "setup", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"secret": SECRET, "uri": URI, "account": "fleetshell-relay"}


def test_a_secret_written_by_hand_is_shown_as_apps_want_it(home: CliHome, capsys: Captured) -> None:
    rewrite(home, f'"{SECRET}"', "jbsw y3dp ehpk 3pxp jbsw y3dp eh======")
    assert home.run("auth", "setup", "--json") == 0
    assert json.loads(capsys.readouterr().out)["secret"] == SECRET[:26]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (f'  totp_secret: "{SECRET}"\n', "  # no secret\n"),
        (f'mfa:\n  totp_secret: "{SECRET}"\n', "# no block\n"),
        (f'"{SECRET}"', '""'),
    ],
)
def test_a_secret_is_created_where_there_is_none(home: CliHome, old: str, new: str, capsys: Captured) -> None:
    text = rewrite(home, old, new)
    assert home.run("auth", "setup") == 0
    shown = capsys.readouterr().out
    secret = mfa(home)["totp_secret"]
    assert len(secret) == 32 and secret != SECRET
    assert "A new TOTP secret was created." in shown and f"Manual entry key: {secret}\n" in shown
    comments = {line for line in text.splitlines() if "#" in line}
    assert comments <= set((home.path / "config.yaml").read_text().splitlines())
    assert home.events() == ["totp_secret_created"] and secret not in str(home.audit())


def test_a_secret_too_long_for_a_qr_code_is_shown_as_text(home: CliHome, capsys: Captured) -> None:
    rewrite(home, SECRET, SECRET * 8)
    assert home.run("auth", "setup") == 0
    shown = capsys.readouterr().out
    assert "▀" not in shown and "QR code does not fit" in shown and f"secret={SECRET * 8}&" in shown


# status


def test_the_status_says_what_is_configured(home: CliHome, capsys: Captured) -> None:
    assert home.run("auth", "status") == 0
    assert capsys.readouterr().out.splitlines() == [
        "MFA: enabled", "TOTP secret: configured", "An authentication lasts 3600 seconds, for the session.", "Lock-out: none",
    ]  # fmt: skip
    rewrite(home, f'totp_secret: "{SECRET}"', "enabled: false")
    assert home.run("auth", "status") == 0
    shown = capsys.readouterr().out
    assert "MFA: DISABLED" in shown and "fleetshell auth enable" in shown and "fleetshell auth setup" in shown


def test_the_status_as_json(home: CliHome, capsys: Captured) -> None:
    assert home.run("auth", "status", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "enabled": True, "configured": True, "session_lifetime": 3600, "grant_scope": "session", "locked_out_until": None, "problem": None,
    }  # fmt: skip


def test_a_damaged_state_is_named_by_the_status_and_mended_by_unlock(home: CliHome, capsys: Captured) -> None:
    (home.path / "run" / "auth.json").write_text("{")
    (home.path / "run" / "auth.json").chmod(0o600)
    assert home.run("auth", "status") == 0
    assert "Lock-out: unknown." in capsys.readouterr().out
    assert home.run("auth", "unlock") == 0
    assert home.run("auth", "status", "--json") == 0
    assert json.loads(capsys.readouterr().out.partition("\n")[2])["problem"] is None


# test


@pytest.mark.parametrize(("step", "says"), [(-1, "previous step"), (0, "current step"), (1, "next step")])
def test_a_code_matches_within_one_step_and_is_not_used_up(
    home: CliHome, noon: None, step: int, says: str, capsys: Captured
) -> None:
    code = pyotp.TOTP(SECRET).at(int(NOW) + 30 * step)
    for shown in (code, f"{code[:3]} {code[3:]}"):
        assert home.run("auth", "test", shown) == 0
        assert says in capsys.readouterr().out
    assert not (home.path / "run" / "auth.json").exists() and home.events() == []


@pytest.mark.parametrize("step", [-2, 2])
def test_a_code_of_another_time_does_not_match_and_the_clock_is_shown(
    home: CliHome, noon: None, step: int, capsys: Captured
) -> None:
    assert home.run("auth", "test", pyotp.TOTP(SECRET).at(int(NOW) + 30 * step)) == 1
    assert "2027-01-15T08:00:15Z" in capsys.readouterr().err


def test_what_is_no_code_fails(home: CliHome, capsys: Captured) -> None:
    for code in ("12345", "1234567", "abcdef", "", "١٢٣٤٥٦"):
        assert home.run("auth", "test", code) == 1
        assert "six digits" in capsys.readouterr().err
    assert home.run("auth", "test") == 2


def test_without_a_usable_secret_there_is_nothing_to_test(home: CliHome, capsys: Captured) -> None:
    rewrite(home, f'"{SECRET}"', "ABC")
    for arguments in (["test", "123456"], ["setup"]):
        assert home.run("auth", *arguments) == 3
        assert "not base32" in capsys.readouterr().err
    rewrite(home, SECRET, "")
    assert home.run("auth", "test", "123456") == 3
    assert "fleetshell auth setup" in capsys.readouterr().err


# enable, disable


def test_mfa_is_switched_in_the_file_with_comments_kept_and_recorded(home: CliHome, capsys: Captured) -> None:
    text = rewrite(home, "mfa:\n", "mfa:  # mine\n")
    assert home.run("auth", "disable") == 0
    shown = capsys.readouterr()
    assert mfa(home)["enabled"] is False and "No relay is running" in shown.out and "the API key alone" in shown.err
    assert set(text.splitlines()) <= set((home.path / "config.yaml").read_text().splitlines())
    assert home.run("auth", "enable") == 0
    assert mfa(home)["enabled"] is True
    assert home.events() == ["auth_disabled", "auth_enabled"]
    assert home.audit()[0]["principal"].startswith("cli:")


def test_what_is_so_already_is_not_written_again(home: CliHome, capsys: Captured) -> None:
    assert home.run("auth", "enable") == 0
    assert "enabled already" in capsys.readouterr().out
    assert (home.path / "config.yaml").read_text() == CONFIG and home.events() == []


def test_mfa_without_a_secret_is_not_enabled(home: CliHome, capsys: Captured) -> None:
    text = rewrite(home, f'totp_secret: "{SECRET}"', "enabled: false")
    assert home.run("auth", "enable") == 3
    assert "fleetshell auth setup" in capsys.readouterr().err
    assert (home.path / "config.yaml").read_text() == text


def test_without_the_audit_log_mfa_stays_as_it_is(home: CliHome) -> None:
    (home.path / "logs" / "audit.log").mkdir()
    assert home.run("auth", "disable") == 1
    assert (home.path / "config.yaml").read_text() == CONFIG


# unlock


def test_a_lock_out_is_shown_and_lifted(home: CliHome, capsys: Captured) -> None:
    lock_out(home)
    assert home.run("auth", "status", "--json") == 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", json.loads(capsys.readouterr().out)["locked_out_until"])
    assert home.run("auth", "status") == 0
    assert "Lock-out: locked until" in capsys.readouterr().out
    assert home.run("auth", "unlock") == 0
    assert "No key is locked out now." in capsys.readouterr().out
    assert home.run("auth", "status") == 0
    assert "Lock-out: none" in capsys.readouterr().out
    assert home.events() == ["auth_unlocked"]


def test_a_lock_out_of_an_earlier_key_is_not_shown(home: CliHome, capsys: Captured) -> None:
    lock_out(home)
    rewrite(home, "0123456789abcdef0123456789abcdef", "another key, just as long as it")
    assert home.run("auth", "status", "--json") == 0
    assert json.loads(capsys.readouterr().out)["locked_out_until"] is None


# On a relay that runs


def test_a_running_relay_takes_over_every_change(tmp_path: Path) -> None:
    made = RelayHome(tmp_path / "home")
    fleetshell(made.path, "init", "--hostname", "localhost")
    relay = RelayProcess(made)
    try:
        with connected(relay) as client:
            assert locked(client.call("list_servers"))
            assert "The running relay has taken it over." in made.run("auth", "disable").stdout
            assert not locked(client.call("list_servers"))
            assert "The running relay has taken it over." in made.run("auth", "enable").stdout
            assert locked(client.call("list_servers"))
    finally:
        assert relay.stop() == 0


def test_a_refusal_of_the_running_relay_is_an_error(tmp_path: Path) -> None:
    made = RelayHome(tmp_path / "home")
    fleetshell(made.path, "init", "--hostname", "localhost")
    relay = RelayProcess(made)
    try:
        made.certificate.unlink()
        run = made.run("auth", "disable", check=False)
        assert run.returncode == 1
        assert "The change is saved, but the running relay has not taken it over: " in run.stderr
        assert made.config["mfa"]["enabled"] is False
    finally:
        assert relay.stop() == 0


def locked(answer: dict[str, Any]) -> bool:
    return bool(answer.get("error", {}).get("code") == AuthenticationRequired.rpc_code)
