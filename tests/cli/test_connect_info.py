"""`connect-info`: configurations that can be pasted as they are, for each client and system."""

from __future__ import annotations

import getpass
import json
import shlex
import socket
from pathlib import Path
from typing import Any

import pytest
from support.certificates import put_signed_certificate
from support.homes import CONFIG, CliHome, make_cli_home
from support.sshd import KeyPair

from fleetshell_tools.core import config as configuration
from fleetshell_tools.offline import create_certificate

Captured = pytest.CaptureFixture[str]
API_KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def home(tmp_path: Path, relay_key: KeyPair) -> CliHome:
    """A home with a self-signed certificate for relay.example.com."""
    home = make_cli_home(tmp_path / "home", relay_key)
    make_certificate(home, "relay.example.com", "203.0.113.7")
    return home


def make_certificate(home: CliHome, *names: str) -> None:
    create_certificate(home.path / "certs" / "cert.pem", home.path / "certs" / "key.pem", list(names))


def entry(home: CliHome, capsys: Captured, *arguments: str) -> dict[str, Any]:
    assert home.run("connect-info", "--json", *arguments) == 0
    settings = json.loads(capsys.readouterr().out)
    assert list(settings) == ["mcpServers"] and list(settings["mcpServers"]) == ["fleetshell"]
    found: dict[str, Any] = settings["mcpServers"]["fleetshell"]
    return found


@pytest.mark.parametrize(
    ("system", "certificate"),
    [
        ("linux", "/home/YOU/fleetshell-cert.pem"),
        ("macos", "/Users/YOU/fleetshell-cert.pem"),
        ("windows", "C:\\Users\\YOU\\fleetshell-cert.pem"),
    ],
)
def test_claude_desktop_gets_mcp_remote_with_the_url_the_key_and_the_certificate(
    home: CliHome, system: str, certificate: str, capsys: Captured
) -> None:
    found = entry(home, capsys, "--os", system)
    assert found == {
        "command": "npx",
        "args": ["-y", "mcp-remote@0.15.1", "https://relay.example.com:8080/mcp", "--header", "Authorization:${AUTH}"],
        "env": {"AUTH": f"Bearer {API_KEY}", "NODE_EXTRA_CA_CERTS": certificate},
    }
    assert not any(" " in argument for argument in found["args"])


@pytest.mark.parametrize(
    ("system", "file"),
    [
        ("linux", "~/.config/Claude/claude_desktop_config.json"),
        ("macos", "~/Library/Application Support/Claude/claude_desktop_config.json"),
        ("windows", r"%APPDATA%\Claude\claude_desktop_config.json"),
    ],
)
def test_the_text_says_where_the_file_is_and_holds_the_same_configuration(
    home: CliHome, system: str, file: str, capsys: Captured
) -> None:
    expected = entry(home, capsys, "--os", system)
    assert home.run("connect-info", "--os", system) == 0
    shown = capsys.readouterr()
    assert file in shown.out
    start = shown.out.index("\n{\n") + 1
    pasted, _ = json.JSONDecoder().raw_decode(shown.out[start:])
    assert pasted["mcpServers"]["fleetshell"] == expected
    assert f"scp {getpass.getuser()}@relay.example.com:{home.path}/certs/cert.pem " in shown.out
    assert "in place of YOU" in shown.out
    assert "holds the API key" in shown.err


def test_the_place_of_the_certificate_can_be_given(home: CliHome, capsys: Captured) -> None:
    assert (
        entry(home, capsys, "--cert", "/opt/my certs/relay.pem")["env"]["NODE_EXTRA_CA_CERTS"]
        == "/opt/my certs/relay.pem"
    )
    assert home.run("connect-info", "--cert", "/opt/my certs/relay.pem") == 0
    shown = capsys.readouterr().out
    assert '/certs/cert.pem "/opt/my certs/relay.pem"\n' in shown and "YOU" not in shown


def test_claude_code_gets_a_command_that_a_shell_reads_back(home: CliHome, capsys: Captured) -> None:
    assert home.run("connect-info", "--client", "claude-code", "--os", "macos") == 0
    shown = capsys.readouterr().out
    (line,) = [line.strip() for line in shown.splitlines() if "claude mcp add" in line]
    assert shlex.split(line) == [
        "claude", "mcp", "add", "--transport", "http", "fleetshell", "https://relay.example.com:8080/mcp",
        "--header", f"Authorization: Bearer {API_KEY}",
    ]  # fmt: skip
    assert "\n   export NODE_EXTRA_CA_CERTS=~/fleetshell-cert.pem\n" in shown
    assert entry(home, capsys, "--client", "claude-code") == {
        "type": "http", "url": "https://relay.example.com:8080/mcp", "headers": {"Authorization": f"Bearer {API_KEY}"},
    }  # fmt: skip


def test_claude_code_on_windows_sets_the_variable_in_its_way(home: CliHome, capsys: Captured) -> None:
    assert home.run("connect-info", "--client", "claude-code", "--os", "windows") == 0
    assert "setx NODE_EXTRA_CA_CERTS C:\\Users\\YOU\\fleetshell-cert.pem" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "host"),
    [("203.0.113.7", "203.0.113.7"), ("Relay.Example.com", "relay.example.com"), ("::1", "[::1]"), ("[::1]", "[::1]")],
)
def test_a_host_of_the_certificate_can_be_chosen(home: CliHome, asked: str, host: str, capsys: Captured) -> None:
    assert home.run("connect-info", "--json", "--host", asked) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["mcpServers"]["fleetshell"]["args"][2] == f"https://{host}:8080/mcp"
    assert "does not name" not in shown.err


def test_a_host_that_the_certificate_does_not_name_is_warned_of(home: CliHome, capsys: Captured) -> None:
    assert home.run("connect-info", "--json", "--host", "other.example.com") == 0
    assert "fleetshell init --renew-cert --hostname other.example.com" in capsys.readouterr().err
    assert home.run("connect-info", "--host", "a/b") == 2


def test_an_address_that_was_asked_for_comes_before_the_machines_own_short_name(
    home: CliHome, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "box")
    monkeypatch.setattr(socket, "getfqdn", lambda: "box")
    make_certificate(home, "203.0.113.7")
    assert entry(home, capsys)["args"][2] == "https://203.0.113.7:8080/mcp"
    make_certificate(home)
    assert entry(home, capsys)["args"][2] == "https://box:8080/mcp"


def test_with_a_certificate_of_a_ca_nothing_is_copied(home: CliHome, tmp_path: Path, capsys: Captured) -> None:
    put_signed_certificate(home.path / "certs", tmp_path)
    found = entry(home, capsys)
    assert found["args"][2] == "https://relay.example.com:8080/mcp" and list(found["env"]) == ["AUTH"]
    for client in ("claude-desktop", "claude-code"):
        assert home.run("connect-info", "--client", client) == 0
        shown = capsys.readouterr().out
        assert "scp" not in shown and "signed by a CA" in shown and "YOU" not in shown
    assert home.run("connect-info", "--host", "relay.example.org") == 0
    assert "does not name" not in capsys.readouterr().err


def test_without_tls_the_url_is_http_and_mcp_remote_is_told_to_accept_it(home: CliHome, capsys: Captured) -> None:
    configuration.set_value(home.path / "config.yaml", "relay.http.use_tls", False)
    configuration.set_value(home.path / "config.yaml", "relay.http.port", 8081)
    local = entry(home, capsys)
    assert local["args"] == [
        "-y",
        "mcp-remote@0.15.1",
        "http://localhost:8081/mcp",
        "--header",
        "Authorization:${AUTH}",
    ]
    assert list(local["env"]) == ["AUTH"]
    assert entry(home, capsys, "--host", "10.0.0.1")["args"][2:4] == ["http://10.0.0.1:8081/mcp", "--allow-http"]
    assert home.run("connect-info") == 0
    shown = capsys.readouterr()
    assert "in clear" in shown.err and "scp" not in shown.out


def test_without_a_key_or_a_certificate_the_mending_command_is_named(home: CliHome, capsys: Captured) -> None:
    (home.path / "certs" / "cert.pem").unlink()
    assert home.run("connect-info") == 3
    assert "fleetshell init" in capsys.readouterr().err
    (home.path / "config.yaml").write_text(CONFIG.replace(API_KEY, ""))
    assert home.run("connect-info") == 3
    assert "relay.http.auth.api_key" in capsys.readouterr().err
