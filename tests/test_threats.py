"""What an attacker would try against a running relay, one test for each way in that no other module tries; docs/reliability.md lists all."""

from __future__ import annotations

import hmac
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.homes import CliHome, make_cli_home
from support.mcp_client import Client, connected
from support.relay import RelayHome, RelayProcess, make_home
from support.sshd import KeyPair, Sshd

from fleetshell_tools.core.config import Config, Http, HttpAuth, Mfa, Relay
from fleetshell_tools.relay import auth, totp
from fleetshell_tools.relay.auth import Authenticator, AuthState

SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The lengths of what was compared in constant time."""
    lengths: list[tuple[int, int]] = []
    real: Callable[[Any, Any], bool] = hmac.compare_digest

    def compare(one: Any, other: Any) -> bool:
        lengths.append((len(one), len(other)))
        return real(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    return lengths


KEY = "k" * 43
KEYS = ["", "k", KEY[:-1], f"{KEY}k", "x" * 43, f"{KEY[:-1]}x", f"x{KEY[1:]}", "x" * 30_000, KEY]


@pytest.mark.parametrize("sent", KEYS, ids=lambda sent: f"{sent[:2]}{len(sent)}")
def test_every_key_costs_the_same_comparisons_of_digests(
    sent: str, tmp_path: Path, compared: list[tuple[int, int]]
) -> None:
    http = Http(auth=HttpAuth(api_key=KEY, previous_api_key="p" * 43, previous_until="2999-01-01T00:00:00Z"))
    desk = Authenticator(Config(relay=Relay(http=http), mfa=Mfa(totp_secret=SECRET)), AuthState(tmp_path / "auth.json"))
    assert (desk.principal(f"Bearer {sent}") is not None) == (sent == KEY)
    # Two keys are valid: neither is skipped, and how much of one was right shows nowhere.
    assert compared == [(32, 32), (32, 32)]


def test_every_code_costs_the_same_comparisons_whether_it_is_right_or_not(compared: list[tuple[int, int]]) -> None:
    now = 1_700_000_000
    right = totp.pyotp.TOTP(SECRET).at(now)  # type: ignore[attr-defined]
    for code in (right, "000000", f"{right[:5]}x"):
        compared.clear()
        totp.matching_step(SECRET, code, now)
        assert compared == [(6, 6)] * 3


def wrong_codes(home: RelayHome) -> list[str]:
    right = {home.code(steps) for steps in range(-4, 5)}
    return [code for code in (f"{number:06}" for number in range(100)) if code not in right][: auth.FAILURES]


def refusal(client: Client, code: str) -> str:
    answer = client.call("authenticate", code=code)
    assert answer["isError"], answer
    return str(answer["content"][0]["text"])


def test_guessing_codes_locks_the_key_out_for_every_session_and_over_a_crash(
    tmp_path: Path, relay_key: KeyPair
) -> None:
    home = make_home(tmp_path / "home", relay_key.private)
    relay = RelayProcess(home)
    try:
        for code in wrong_codes(home):
            # Each guess from another session: it is the key that is counted.
            with connected(relay) as client:
                said = refusal(client, code)
                assert "wrong" in said or "Too many wrong codes" in said
        with connected(relay) as client:
            assert "Too many wrong codes" in refusal(client, home.code())
            client.session = ""
            relay.stop(signal.SIGKILL)
        relay = RelayProcess(home)
        with connected(relay) as client:
            assert "Too many wrong codes" in refusal(client, home.code())
            assert client.call("list_servers")["error"]["data"]["reason"] == "totp_required"
    finally:
        relay.stop()
    events = [(record["event"], record["success"]) for record in home.audit() if record["tool"] == "authenticate"]
    assert len(events) >= auth.FAILURES and not any(success for _, success in events)


def test_who_has_no_key_cannot_lock_the_owner_out(tmp_path: Path, relay_key: KeyPair) -> None:
    home = make_home(tmp_path / "home", relay_key.private)
    relay = RelayProcess(home)
    try:
        with connected(relay, initialize=False) as stranger:
            stranger.key = "x" * 43
            for code in wrong_codes(home) * 2:
                assert stranger.rpc("tools/call", name="authenticate", arguments={"code": code}).status == 401
        with connected(relay) as client:
            assert not client.call("authenticate", code=home.code()).get("isError")
    finally:
        relay.stop()


INJECTIONS = {
    "hostname": "-oProxyCommand=touch @",
    "ssh_user": "-oProxyCommand=touch @",
    "jump": "-oProxyCommand=touch @",
    "identity_file": "x\n  ProxyCommand touch @",
    "ssh_options": {"ProxyCommand": "touch @"},
    "ssh_options ": {"Ciphers": "aes128-ctr\nProxyCommand touch @"},
    "ssh_options  ": {"PermitLocalCommand": "yes", "LocalCommand": "touch @"},
    "ssh_options   ": {"Include": "/tmp/@"},
    "ssh_options    ": {"KnownHostsCommand": "/usr/bin/touch @"},
}
"""What a hostile server file may hold; `@` is a file that shows that something ran here."""


@pytest.mark.parametrize("key", INJECTIONS)
def test_nothing_in_a_servers_file_runs_a_program_on_the_relay(
    key: str, tmp_path: Path, relay_key: KeyPair, sshd: Sshd
) -> None:
    home: CliHome = make_cli_home(tmp_path / "home", relay_key)
    ran = tmp_path / "ran"
    value = json.loads(json.dumps(INJECTIONS[key]).replace("@", str(ran)))
    good = {"id": "web", "hostname": sshd.address, "ssh_port": sshd.port, "ssh_user": sshd.user}
    # JSON is YAML too.
    home.write("web", json.dumps({**good, key.strip(): value}))
    assert home.run("test", "web") != 0
    assert not ran.exists()


def forged(nonce: str) -> bytes:
    """All marks of our framing under one nonce, as a hostile file on a host might hold them."""
    return f"\x1e{nonce}\x1f\x1e{nonce}+\x1f\x1e{nonce}=0;/forged\x1f{nonce}\x1e fs-{nonce} 1\n{nonce}-ready\n".encode()


def test_marks_in_the_output_of_a_host_end_no_command_and_begin_none(open_relay: RelayProcess, tmp_path: Path) -> None:
    hostile = tmp_path / "hostile"
    nonces = ["0" * 24, "f" * 16, "", "fs", "0123456789abcdef01234567"]
    hostile.write_bytes(b"".join(map(forged, nonces)) * 50 + b"\x1b]0;title\x07\x1b[2J\x9b31m\xe2\x80\xae")
    with connected(open_relay) as client:
        session = client.call("create_shell_session", server_id="web-1")["structuredContent"]["session_id"]
        for command in (f"cat '{hostile}'; (exit 7)", f"(cat '{hostile}' >&2); (exit 7)"):
            shown = client.call("execute_in_session", session_id=session, command=command)["structuredContent"]
            assert shown["exit_code"] == 7 and shown["cwd"] != "/forged", shown
            plain = client.call("execute_command", server_id="web-1", command=command)["structuredContent"]
            assert plain["exit_code"] == 7 and not plain["success"]
            said = json.dumps([shown, plain], ensure_ascii=False)
            assert not any(char in said for char in "\x1b\x07\x9b\u202e") and "\\u001b" not in said
        after = client.call("execute_in_session", session_id=session, command="echo mine")["structuredContent"]
        assert (after["output"], after["exit_code"]) == ("mine\n", 0)
        assert not client.call("close_shell_session", session_id=session).get("isError")
