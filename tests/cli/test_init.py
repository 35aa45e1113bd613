"""`init`: what a new home holds, what a second run keeps, and what it mends."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pty
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.certificates import put_signed_certificate
from support.homes import CliHome
from support.processes import wait_until
from support.relay import PROGRAM, RelayHome, RelayProcess, fleetshell
from support.screen import DARK_TERMINAL, LIGHT_TERMINAL, scan, screenshot

from fleetshell_tools.core import config as configuration
from fleetshell_tools.core.config import Config
from fleetshell_tools.core.home import FOLDERS, Home

Captured = pytest.CaptureFixture[str]
FILES = (
    "config.yaml",
    "relay.key",
    "relay.pub",
    "known_hosts",
    "certs/cert.pem",
    "certs/key.pem",
    "audit.key",
    ".installed_mcps.json",
)
QR_LINE = re.compile("[ ▀▄█]{30,}")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that `init` made, to be copied; its configuration names the folder `home`."""
    path = tmp_path_factory.mktemp("pristine") / "home"
    fleetshell(path, "init", "--hostname", "relay.example.com")
    text = (path / "config.yaml").read_text().replace(f"{path}/", "")
    (path / "config.yaml").write_text(text)
    return path


@pytest.fixture
def home(pristine: Path, tmp_path: Path) -> CliHome:
    shutil.copytree(pristine, tmp_path / "home")
    return CliHome(tmp_path / "home")


def contents(home: CliHome) -> dict[str, bytes]:
    return {name: (home.path / name).read_bytes() for name in FILES if (home.path / name).exists()}


def loaded(home: CliHome) -> Config:
    return Home(home.path).config()


def data(home: CliHome) -> dict[str, Any]:
    """The configuration as another YAML reader sees it."""
    read: dict[str, Any] = yaml.safe_load((home.path / "config.yaml").read_text())
    return read


def drawing(shown: str) -> str:
    """The QR code in what was printed."""
    return "\n".join(line for line in shown.splitlines() if QR_LINE.search(line))


def alternative_names(cert: Path) -> set[str]:
    """Every name and address of a certificate, as openssl prints them."""
    run = subprocess.run(
        ["openssl", "x509", "-in", str(cert), "-noout", "-ext", "subjectAltName"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {part.strip() for part in run.stdout.splitlines()[1].split(",")}


def on_terminal(home: Path, columns: int) -> str:
    """What `init` shows on a terminal with colours and this many columns."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), "NO_COLOR": ""}
    with subprocess.Popen(
        [*PROGRAM, "--home", str(home), "init"], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        seen = b""
        with open(ours, "rb", buffering=0) as terminal, contextlib.suppress(OSError):  # EIO: the program has ended
            while part := terminal.read(65536):
                seen += part
    assert process.returncode == 0
    return seen.decode().replace("\r\n", "\n")


# A new home


def test_a_new_home_holds_everything_and_nobody_else_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "home"
    run = subprocess.run(
        ["sh", "-c", 'umask 0; exec "$0" "$@"', *PROGRAM, "--home", str(path), "init"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stderr == ""
    for name in FOLDERS:
        assert (path / name).stat().st_mode & 0o7777 == 0o700, name
    assert path.stat().st_mode & 0o7777 == 0o700
    files = {str(file.relative_to(path)): file.stat().st_mode & 0o7777 for file in path.rglob("*") if file.is_file()}
    assert set(FILES) <= files.keys()
    assert set(files.values()) == {0o600}, files
    assert (path / "known_hosts").read_text() == ""
    assert json.loads((path / ".installed_mcps.json").read_text()) == {}
    assert not [name for name in files if name.endswith((".tmp", ".new"))]


def test_the_configuration_has_the_documented_keys_in_their_order_and_their_defaults(home: CliHome) -> None:
    found = data(home)
    assert list(found) == ["relay", "mfa", "security"]
    assert list(found["relay"]) == ["private_key", "public_key", "log_level", "log_file", "audit_log", "http"]
    assert list(found["relay"]["http"]) == ["host", "port", "use_tls", "cert_file", "key_file", "allowed_hosts", "auth"]
    assert list(found["mfa"]) == ["enabled", "totp_secret", "session_lifetime", "grant_scope", "locked_as"]
    assert list(found["security"]) == ["command_timeout", "max_timeout", "max_command_length", "dangerous_commands"]
    config, defaults = loaded(home), Config()
    assert config.security == defaults.security
    assert (config.relay.http.host, config.relay.http.port, config.relay.http.use_tls) == ("0.0.0.0", 8080, True)
    assert config.mfa.enabled and config.mfa.session_lifetime == 3600


def test_the_api_key_of_256_bits_stands_on_one_line_and_the_secret_has_160(home: CliHome) -> None:
    grep = subprocess.run(
        ["grep", "api_key", str(home.path / "config.yaml")], capture_output=True, text=True, check=True
    ).stdout
    assert grep.count("\n") == 1
    key = loaded(home).relay.http.auth.api_key
    assert key in grep
    assert len(base64.urlsafe_b64decode(key.removeprefix("fsk_") + "=")) == 32
    assert len(base64.b32decode(loaded(home).mfa.totp_secret)) == 20


def test_the_default_home_is_written_with_a_tilde(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "FLEETSHELL_HOME"}
    run = subprocess.run(
        [*PROGRAM, "init"], env={**environment, "HOME": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    config = yaml.safe_load((tmp_path / ".fleetshell" / "config.yaml").read_text())
    assert config["relay"]["private_key"] == "~/.fleetshell/relay.key"
    assert config["relay"]["http"]["cert_file"] == "~/.fleetshell/certs/cert.pem"
    assert "--home" not in run.stdout


def test_a_home_with_a_strange_name_works(tmp_path: Path) -> None:
    home = CliHome(tmp_path / "my home: #1 'é' %s {x}")
    assert home.run("init") == 0
    assert home.run("pubkey") == 0
    assert loaded(home).relay.private_key == str(home.path / "relay.key")


def test_the_printed_qr_code_holds_the_secret(tmp_path: Path) -> None:
    run = fleetshell(tmp_path / "home", "init")
    secret = RelayHome(tmp_path / "home").config["mfa"]["totp_secret"]
    assert "\x1b" not in run.stdout
    assert scan(screenshot(drawing(run.stdout), DARK_TERMINAL)) == [
        f"otpauth://totp/FleetShell:fleetshell-relay?secret={secret}&issuer=FleetShell".encode()
    ]
    assert f"Manual entry key: {secret}\n" in run.stdout
    assert "Account name: fleetshell-relay\n" in run.stdout
    assert "IMPORTANT" in run.stdout and "password manager" in run.stdout


def test_on_a_terminal_the_qr_code_is_coloured_and_scans_on_a_light_one_too(tmp_path: Path) -> None:
    seen = on_terminal(tmp_path / "home", 100)
    secret = RelayHome(tmp_path / "home").config["mfa"]["totp_secret"]
    (found,) = scan(screenshot(drawing(seen), LIGHT_TERMINAL))
    assert f"secret={secret}&" in found.decode()


def test_a_terminal_that_is_too_narrow_gets_the_key_and_the_uri_alone(tmp_path: Path) -> None:
    seen = on_terminal(tmp_path / "home", 40)
    secret = RelayHome(tmp_path / "home").config["mfa"]["totp_secret"]
    assert not drawing(seen)
    assert "QR code does not fit" in seen
    assert f"Manual entry key: {secret}" in seen and "otpauth://totp/" in seen


def test_the_next_steps_name_the_commands_and_the_line_for_the_servers(tmp_path: Path, capsys: Captured) -> None:
    home = CliHome(tmp_path / "home")
    assert home.run("init") == 0
    shown = capsys.readouterr().out
    line = (home.path / "relay.pub").read_text()
    assert re.fullmatch(r"ssh-ed25519 \S+ fleetshell-relay\n", line) and line in shown
    steps = [shown.index(f"fleetshell {name}") for name in ("pubkey", "add-server", "test", "serve", "connect-info")]
    assert steps == sorted(steps)
    assert f"--home {home.path}" in shown


def test_the_json_has_the_key_the_secret_and_what_was_created(tmp_path: Path, capsys: Captured) -> None:
    home = CliHome(tmp_path / "home")
    assert home.run("init", "--json") == 0
    first = json.loads(capsys.readouterr().out)
    assert set(first["created"]) == {*FILES, *(f"{name}/" for name in FOLDERS)} and first["kept"] == []
    assert first["totp"]["secret"] == loaded(home).mfa.totp_secret
    assert f"{first['public_key']}\n" == (home.path / "relay.pub").read_text()
    assert home.run("init", "--json") == 0
    second = json.loads(capsys.readouterr().out)
    assert set(second["kept"]) == set(first["created"]) and second["created"] == [] and second["totp"] is None


def test_making_a_home_is_recorded_without_secrets(home: CliHome) -> None:
    (record,) = home.audit()
    assert record["event"] == "initialized" and record["principal"].startswith("cli:")
    assert {"config.yaml", "relay.key"} <= set(record["created"])
    log = (home.path / "logs" / "audit.log").read_text()
    assert loaded(home).mfa.totp_secret not in log and loaded(home).relay.http.auth.api_key not in log


# The certificate


def test_the_certificate_is_a_leaf_for_servers_that_names_every_host(tmp_path: Path) -> None:
    fleetshell(
        tmp_path / "home",
        "init",
        "--hostname",
        "Relay.Example.com",
        "--hostname",
        "203.0.113.7",
        "--hostname",
        "2001:DB8::7",
    )
    cert = tmp_path / "home" / "certs" / "cert.pem"
    text = subprocess.run(
        ["openssl", "x509", "-in", str(cert), "-noout", "-text"], capture_output=True, text=True, check=True
    ).stdout
    assert "CA:FALSE" in text and "TLS Web Server Authentication" in text and "X509v3 Key Usage: critical" in text
    assert {
        "DNS:relay.example.com",
        "DNS:localhost",
        "IP Address:203.0.113.7",
        "IP Address:2001:DB8:0:0:0:0:0:7",
    } <= alternative_names(cert)
    assert {"IP Address:127.0.0.1", "IP Address:0:0:0:0:0:0:0:1"} <= alternative_names(cert)


@pytest.mark.parametrize("name", ["relay.example.com", "localhost", "127.0.0.1", "::1"])
def test_a_client_that_has_the_certificate_verifies_the_server(home: CliHome, name: str) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(home.path / "certs" / "cert.pem", home.path / "certs" / "key.pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            plain, _ = listener.accept()
            with server.wrap_socket(plain, server_side=True) as connection:
                connection.sendall(b"hello")

        thread = threading.Thread(target=greet)
        thread.start()
        client = ssl.create_default_context(cafile=str(home.path / "certs" / "cert.pem"))
        try:
            with (
                socket.create_connection(listener.getsockname()) as plain,
                client.wrap_socket(plain, server_hostname=name) as connection,
            ):
                assert connection.recv(5) == b"hello"
        finally:
            thread.join()


def test_a_host_name_that_is_none_is_refused_before_anything_is_made(tmp_path: Path, capsys: Captured) -> None:
    home = CliHome(tmp_path / "home")
    for name in ("two words", "a,DNS:evil", "a\nb", "", "fe80::1%eth0"):
        assert home.run("init", "--hostname", name) == 2
        assert "neither a host name nor an IP address" in capsys.readouterr().err
    assert not home.path.exists()


def test_a_new_host_name_on_an_old_home_names_the_option_that_adds_it(home: CliHome, capsys: Captured) -> None:
    before = contents(home)
    assert home.run("init", "--hostname", "relay.example.com", "--hostname", "other.example.com") == 0
    warning = capsys.readouterr().err
    assert "does not name other.example.com." in warning and "--renew-cert --hostname other.example.com" in warning
    assert contents(home) == before


def test_a_renewed_certificate_keeps_the_old_names_and_gets_the_new_ones(home: CliHome, capsys: Captured) -> None:
    before, names = contents(home), alternative_names(home.path / "certs" / "cert.pem")
    assert home.run("init", "--renew-cert", "--hostname", "other.example.com") == 0
    after = contents(home)
    assert {name for name in FILES if before[name] != after[name]} == {"certs/cert.pem", "certs/key.pem"}
    assert alternative_names(home.path / "certs" / "cert.pem") == names | {"DNS:other.example.com"}
    assert "renewed   certs/cert.pem (clients need a copy of the new one)" in capsys.readouterr().out
    assert home.audit()[-1]["renewed"] == ["certs/cert.pem", "certs/key.pem"]
    assert sorted(os.listdir(home.path / "certs")) == ["cert.pem", "key.pem"]


@pytest.mark.parametrize("left", ["cert.pem", "key.pem"])
def test_half_a_certificate_is_replaced_and_kept_aside(home: CliHome, left: str, capsys: Captured) -> None:
    certs = home.path / "certs"
    gone = "key.pem" if left == "cert.pem" else "cert.pem"
    (certs / gone).unlink()
    before = (certs / left).read_bytes()
    assert home.run("init") == 0
    assert f"{left} was there without the other" in capsys.readouterr().out
    assert (certs / left).read_bytes() != before
    (aside,) = certs.glob(f"{left}.*.bak")
    assert aside.read_bytes() == before and aside.stat().st_mode & 0o777 == 0o600
    assert "DNS:relay.example.com" in alternative_names(certs / "cert.pem") or left == "key.pem"
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certs / "cert.pem", certs / "key.pem")


def test_a_certificate_that_a_ca_signed_is_kept_aside_when_it_is_renewed(home: CliHome, tmp_path: Path) -> None:
    certs = home.path / "certs"
    put_signed_certificate(certs, tmp_path)
    before = {name: (certs / name).read_bytes() for name in ("cert.pem", "key.pem")}
    assert home.run("init") == 0
    assert {name: (certs / name).read_bytes() for name in before} == before
    assert home.run("init", "--renew-cert") == 0
    for name, content in before.items():
        (aside,) = certs.glob(f"{name}.*.bak")
        assert aside.read_bytes() == content


def test_a_pair_that_does_not_belong_together_is_kept_with_a_warning(
    home: CliHome, tmp_path: Path, capsys: Captured
) -> None:
    other = CliHome(tmp_path / "other")
    assert other.run("init") == 0
    shutil.copy(other.path / "certs" / "key.pem", home.path / "certs" / "key.pem")
    before = contents(home)
    assert home.run("init") == 0
    warning = capsys.readouterr().err
    assert "can't be used together" in warning and "--renew-cert" in warning
    assert contents(home) == before


def test_a_certificate_outside_the_home_is_never_made_or_replaced(
    home: CliHome, tmp_path: Path, capsys: Captured
) -> None:
    configuration.set_value(home.path / "config.yaml", "relay.http.cert_file", str(tmp_path / "site.pem"))
    assert home.run("init") == 3
    assert "`relay.http.cert_file`" in capsys.readouterr().err and not (tmp_path / "site.pem").exists()
    shutil.copy(home.path / "certs" / "cert.pem", tmp_path / "site.pem")
    before = (tmp_path / "site.pem").read_bytes()
    assert home.run("init") == 0
    assert home.run("init", "--renew-cert") == 3
    assert (tmp_path / "site.pem").read_bytes() == before


# Run again


def test_a_second_run_changes_nothing_and_says_so(home: CliHome, capsys: Captured) -> None:
    before, log = contents(home), home.audit()
    assert home.run("init") == 0
    shown = capsys.readouterr()
    assert contents(home) == before and home.audit() == log
    for name in FILES:
        assert f"  kept      {name}\n" in shown.out
    assert "created" not in shown.out and shown.err == ""
    assert "Manual entry key" not in shown.out and loaded(home).mfa.totp_secret not in shown.out
    assert "fleetshell auth setup" in shown.out


@pytest.mark.parametrize("name", ["relay.pub", "known_hosts", ".installed_mcps.json", "servers", "certs", "relay.key"])
def test_what_is_missing_is_created_and_the_rest_is_kept(home: CliHome, name: str, capsys: Captured) -> None:
    before = contents(home)
    gone = home.path / name
    if gone.is_dir():
        shutil.rmtree(gone)
    else:
        gone.unlink()
    assert home.run("init") == 0
    assert re.search(rf"created   ({name}|certs/)", capsys.readouterr().out)
    after = contents(home)
    assert after.keys() == before.keys() and (home.path / "servers").is_dir()
    changed = {"certs": {"certs/cert.pem", "certs/key.pem"}, "relay.key": {"relay.key", "relay.pub"}}.get(name, set())
    assert {file for file in FILES if after[file] != before[file]} == changed


def test_a_public_key_of_another_pair_is_replaced(home: CliHome, capsys: Captured) -> None:
    before = contents(home)
    (home.path / "relay.pub").write_text(
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDOS4RweMNstEZn8aVC9M7Q42m fleetshell-relay\n"
    )
    assert home.run("init") == 0
    assert "renewed   relay.pub (the old one did not belong to relay.key)" in capsys.readouterr().out
    assert contents(home) == before


def test_without_its_configuration_a_home_gets_a_new_key_and_secret_and_keeps_the_rest(
    home: CliHome, capsys: Captured
) -> None:
    before, old = contents(home), loaded(home)
    (home.path / "config.yaml").unlink()
    assert home.run("init") == 0
    new = loaded(home)
    assert new.relay.http.auth.api_key != old.relay.http.auth.api_key
    assert new.mfa.totp_secret != old.mfa.totp_secret
    assert {name for name in FILES if contents(home)[name] != before[name]} == {"config.yaml"}
    assert f"Manual entry key: {new.mfa.totp_secret}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("pattern", "added"),
    [
        (r" +api_key: .*\n", ["relay.http.auth.api_key"]),
        (r" +totp_secret: .*\n", ["mfa.totp_secret"]),
        (
            r"mfa:\n(  .*\n)*",
            ["mfa.totp_secret", "mfa.enabled", "mfa.session_lifetime", "mfa.grant_scope", "mfa.locked_as"],
        ),
    ],
)
def test_a_configuration_without_a_secret_gets_one_and_keeps_its_comments(
    home: CliHome, pattern: str, added: list[str], capsys: Captured
) -> None:
    path = home.path / "config.yaml"
    old = loaded(home)
    text, count = re.subn(pattern, "", path.read_text())
    assert count == 1
    text = f"# my own comment\n{text}"
    path.write_text(text)
    assert home.run("init") == 0
    shown = capsys.readouterr().out
    assert f"completed config.yaml (added {', '.join(added)})" in shown
    new = loaded(home)
    assert set(text.splitlines()) <= set(path.read_text().splitlines())
    assert (new.relay.http.auth.api_key != old.relay.http.auth.api_key) == ("relay.http.auth.api_key" in added)
    assert (new.mfa.totp_secret != old.mfa.totp_secret) == ("mfa.totp_secret" in added)
    assert (f"Manual entry key: {new.mfa.totp_secret}" in shown) == ("mfa.totp_secret" in added)
    assert new.mfa.enabled


def test_a_configuration_of_an_older_version_gets_what_is_new_and_keeps_what_the_user_wrote(
    home: CliHome, capsys: Captured
) -> None:
    path = home.path / "config.yaml"
    old = "# mine\nrelay:\n  http:\n    port: 9443  # behind the wall\n    auth: {api_key: fsk_an_older_key_of_mine}\n"
    old += "mfa:\n  totp_secret: JBSWY3DPEHPK3PXP\n  session_lifetime: 600\n"
    path.write_text(old)
    assert home.run("init") == 0
    shown = capsys.readouterr().out
    assert "completed config.yaml (added relay.private_key, relay.public_key," in shown and "mfa.grant_scope" in shown
    assert set(old.splitlines()) <= set(path.read_text().splitlines())
    config = loaded(home)
    assert (config.relay.http.port, config.mfa.session_lifetime, config.mfa.totp_secret) == (
        9443,
        600,
        "JBSWY3DPEHPK3PXP",
    )
    assert config.security == Config().security
    assert home.audit()[-1]["event"] == "initialized" and "mfa.grant_scope" in home.audit()[-1]["created"]
    before = path.read_bytes()
    assert home.run("init") == 0
    assert path.read_bytes() == before
    assert "kept      config.yaml" in capsys.readouterr().out


def test_force_makes_a_new_configuration_and_certificate_but_never_a_new_ssh_key(home: CliHome) -> None:
    first = contents(home)
    for _ in range(2):  # within one second, too, no old configuration is lost
        before = contents(home)
        assert home.run("init", "--force") == 0
        after = contents(home)
        assert {name for name in FILES if after[name] != before[name]} == {
            "config.yaml",
            "certs/cert.pem",
            "certs/key.pem",
        }
        kept = [aside.read_bytes() for aside in home.path.glob("config.yaml.*.bak")]
        assert before["config.yaml"] in kept
    assert first["config.yaml"] in kept and len(kept) == 2
    assert all(aside.stat().st_mode & 0o777 == 0o600 for aside in home.path.glob("config.yaml.*.bak"))


def test_a_broken_configuration_is_named_and_nothing_is_lost(home: CliHome, capsys: Captured) -> None:
    broken = (home.path / "config.yaml").read_text().replace("  port: 8080", "  prot: 8080")
    (home.path / "config.yaml").write_text(broken)
    (home.path / "relay.pub").unlink()
    before = contents(home)
    assert home.run("init") == 3
    line = broken.splitlines().index("    prot: 8080") + 1
    assert (
        f'config.yaml, line {line}: unknown key "prot" in relay.http. Did you mean "port"?' in capsys.readouterr().err
    )
    assert contents(home) == before
    assert home.run("init", "--force") == 0
    (aside,) = home.path.glob("config.yaml.*.bak")
    assert aside.read_text() == broken and loaded(home).relay.http.port == 8080


def test_a_lost_audit_key_is_not_replaced_while_the_log_has_records(home: CliHome, capsys: Captured) -> None:
    (home.path / "audit.key").unlink()
    assert home.run("init") == 1
    assert "Restore it from a backup" in capsys.readouterr().err
    assert not (home.path / "audit.key").exists()


# Places where no home can be


def test_a_place_where_no_home_can_be_made_is_named_in_one_sentence(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "file").write_text("mine")
    for path, says in (
        (tmp_path / "file", "is no folder"),
        (Path("/proc/fleetshell"), "/proc/fleetshell can't be written: "),
    ):
        assert CliHome(path).run("init") == 3
        said = capsys.readouterr().err
        assert said.startswith(f"fleetshell: {path} ") and says in said and said.count("\n") == 1
    assert (tmp_path / "file").read_text() == "mine"


def test_a_home_that_others_can_change_is_refused_with_the_mending_command(home: CliHome, capsys: Captured) -> None:
    home.path.chmod(0o770)
    assert home.run("init") == 3
    assert f"chmod 700 {home.path}" in capsys.readouterr().err
    home.path.chmod(0o755)
    assert home.run("init") == 0


def test_two_at_once_make_one_home(tmp_path: Path) -> None:
    runs = [
        subprocess.Popen(
            [*PROGRAM, "--home", str(tmp_path / "home"), "init", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    shown = [json.loads(run.communicate(timeout=60)[0]) for run in runs]
    home = CliHome(tmp_path / "home")
    assert sorted(report["totp"] is None for report in shown) == [False, True]
    assert {report["public_key"] for report in shown} == {(home.path / "relay.pub").read_text().strip()}
    assert loaded(home).mfa.totp_secret in {report["totp"]["secret"] for report in shown if report["totp"]}


def test_a_running_relay_serves_the_renewed_certificate_at_once(tmp_path: Path) -> None:
    home = RelayHome(tmp_path / "home")
    fleetshell(home.path, "init", "--hostname", "localhost")
    relay = RelayProcess(home)
    try:
        assert "The running relay has taken it over." in home.run("init", "--renew-cert").stdout
        assert ssl.get_server_certificate(("127.0.0.1", relay.port)).strip() == home.certificate.read_text().strip()
    finally:
        assert relay.stop() == 0


def test_a_reload_serves_the_certificate_that_another_program_has_put_in_place(tmp_path: Path) -> None:
    home = RelayHome(tmp_path / "home")
    fleetshell(home.path, "init", "--hostname", "localhost")
    relay = RelayProcess(home)
    try:
        put_signed_certificate(home.path / "certs", tmp_path)
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        with pytest.raises(ssl.SSLCertVerificationError), socket.create_connection(("127.0.0.1", relay.port)) as plain:
            context.wrap_socket(plain, server_hostname="relay.example.com")
        home.run("reload")
        with socket.create_connection(("127.0.0.1", relay.port)) as plain:
            with context.wrap_socket(plain, server_hostname="relay.example.com") as safe:
                ends = ssl.cert_time_to_seconds(str((safe.getpeercert() or {})["notAfter"]))
        status = json.loads(home.run("status", "--json").stdout)
        assert status["certificate_ends"] == time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ends))
        warning = re.compile(r"WARNING The certificate ends on \d{4}-\d\d-\d\d \((29|30) days left\)")
        wait_until(
            lambda: warning.search(relay.log.read_text()) is not None, 20, "the log warns of the certificate's end"
        )
        assert "days left" in home.run("status").stdout
        (home.path / "certs" / "cert.pem").write_text("nonsense")
        refused = home.run("reload", check=False)
        assert refused.returncode == 1 and "not a certificate" in refused.stderr
        with socket.create_connection(("127.0.0.1", relay.port)) as plain:
            context.wrap_socket(plain, server_hostname="relay.example.com").close()
    finally:
        assert relay.stop() == 0
