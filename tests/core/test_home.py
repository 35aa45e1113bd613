"""The home folder: which one it is, where files lie, and which homes are refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fleetshell_tools.core.config import Config
from fleetshell_tools.core.errors import ConfigError
from fleetshell_tools.core.home import FOLDERS, Home

ROOT = Path(__file__).parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can do this")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    path = tmp_path / "home"
    path.mkdir(0o700)
    for folder in FOLDERS:
        (path / folder).mkdir(0o700)
    return Home(path)


def test_the_option_goes_before_the_environment_and_that_before_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/users/me")
    monkeypatch.setenv("FLEETSHELL_HOME", "/srv/fleet")
    assert Home.find("/opt/x").path == Path("/opt/x")
    assert Home.find(None).path == Path("/srv/fleet")
    monkeypatch.delenv("FLEETSHELL_HOME")
    assert Home.find(None).path == Path("/users/me/.fleetshell")
    monkeypatch.setenv("FLEETSHELL_HOME", "")
    assert Home.find(None).path == Path("/users/me/.fleetshell")


def test_a_relative_home_or_one_with_a_tilde_becomes_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/users/me")
    monkeypatch.chdir(tmp_path)
    assert Home.find("x/../y").path == tmp_path / "y"
    assert Home.find("~/other").path == Path("/users/me/other")


def test_files_lie_where_the_contract_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/users/me")
    home = Home.find(None)
    assert {str(path.relative_to(home.path)) for path in (home.config_file, home.known_hosts, home.servers, home.run, home.logs)} == {
        "config.yaml", "known_hosts", "servers", "run", "logs"
    }  # fmt: skip
    assert (home.audit_key.name, home.audit_head.relative_to(home.run)) == ("audit.key", Path("audit.head"))
    relay = Config().relay
    names = (
        relay.private_key,
        relay.public_key,
        relay.log_file,
        relay.audit_log,
        relay.http.cert_file,
        relay.http.key_file,
    )
    assert [str(home.file(name).relative_to(home.path)) for name in names] == [
        "relay.key", "relay.pub", "logs/relay.log", "logs/audit.log", "certs/cert.pem", "certs/key.pem"
    ]  # fmt: skip


def test_paths_are_written_with_a_tilde_in_the_default_home_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/users/me")
    assert Home(Path("/users/me/.fleetshell")).display("relay.key") == "~/.fleetshell/relay.key"
    assert Home(Path("/srv/fleet")).display("relay.key") == "/srv/fleet/relay.key"
    for home in (Home(Path("/users/me/.fleetshell")), Home(Path("/srv/fleet"))):
        assert home.file(home.display("relay.key")) == home.path / "relay.key"


def test_a_private_home_passes_and_gives_its_configuration(home: Home) -> None:
    home.check()
    home.config_file.touch(0o600)
    assert home.config() == Config()


def test_a_missing_home_names_init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLEETSHELL_HOME", raising=False)
    with pytest.raises(ConfigError, match=r"no FleetShell home at .*missing. Run `fleetshell init` .*--home"):
        Home(tmp_path / "missing").check()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="no FleetShell home at"):
        Home(tmp_path / "file").check()
    with pytest.raises(ConfigError, match="no FleetShell home at"):
        Home(tmp_path / "file" / "below").check()


@pytest.mark.parametrize("bits", [0o770, 0o702, 0o777])
def test_a_home_that_others_can_change_is_refused_with_the_command_that_mends_it(home: Home, bits: int) -> None:
    home.path.chmod(bits)
    with pytest.raises(ConfigError) as caught:
        home.check()
    assert f"mode {bits:04o}" in caught.value.message
    assert f"Run `chmod 700 {home.path}`" in caught.value.message
    home.path.chmod(0o700)
    home.check()


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_inside_that_others_can_change_or_that_is_a_link_is_refused(
    home: Home, folder: str, tmp_path: Path
) -> None:
    (home.path / folder).chmod(0o770)
    with pytest.raises(ConfigError, match=f"chmod 700 {home.path / folder}"):
        home.check()
    (home.path / folder).rmdir()
    home.check()  # `init` makes it again
    (home.path / folder).symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="symbolic link"):
        home.check()


@as_root
def test_another_users_home_names_sudo_and_the_user(home: Home) -> None:
    os.chown(home.path, 65534, -1)
    with pytest.raises(ConfigError, match="belongs to nobody; run `sudo -u nobody fleetshell …` instead"):
        home.check()
    os.chown(home.path, 54321, -1)
    with pytest.raises(ConfigError, match="belongs to uid 54321"):
        home.check()


@as_root
def test_a_foreign_folder_inside_is_refused(home: Home) -> None:
    os.chown(home.path / "servers", 65534, -1)
    with pytest.raises(ConfigError, match="servers belongs to uid 65534"):
        home.check()


@as_root
def test_a_home_in_a_folder_that_may_not_be_entered_is_refused_with_a_sentence(home: Home) -> None:
    code = """
import os, pathlib, sys
from fleetshell_tools.core.errors import ConfigError
from fleetshell_tools.core.home import Home
home = Home(pathlib.Path(sys.argv[1]))
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    home.check()
except ConfigError as error:
    print(error.message)
"""
    home.path.parent.chmod(0o700)
    done = subprocess.run(
        [sys.executable, "-c", code, str(home.path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "can't be looked into by nobody; run `sudo -u OWNER fleetshell" in done.stdout
