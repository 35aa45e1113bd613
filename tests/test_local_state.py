"""The home on disk: planted links, loose modes and foreign owners are refused, each with the command that mends it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.mcp_client import connected
from support.relay import PROGRAM, RelayHome, RelayProcess, fleetshell, make_home
from support.sshd import KeyPair

from fleetshell_tools.core.errors import ConfigError
from fleetshell_tools.core.home import Home

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
FILES = (
    "config.yaml", "relay.key", "certs/key.pem", "audit.key", "known_hosts", "run/auth.json", "run/audit.head", "logs/audit.log",
    "logs/relay.log", "run/relay.lock",
)  # fmt: skip
"""What a relay reads or writes before its first client; whoever may plant one of them could read or steer it."""


def serves(home: RelayHome) -> bool:
    """Whether a relay starts, answers a client, and stops."""
    process = RelayProcess(home)
    with connected(process):
        pass
    return process.stop() == 0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, relay_key: KeyPair) -> RelayHome:
    """A home whose relay has run, so that all files are there."""
    home = make_home(tmp_path_factory.mktemp("state") / "home", relay_key.private)
    assert serves(home)
    (home.path / "serve.log").unlink()
    for name, text in (("run/auth.json", "{}"), ("known_hosts", "")):
        if not (home.path / name).exists():
            (home.path / name).write_text(text)
            (home.path / name).chmod(0o600)
    return home


@pytest.fixture
def home(made: RelayHome, tmp_path: Path) -> RelayHome:
    path = tmp_path / "home"
    shutil.copytree(made.path, path, symlinks=True)
    text = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(text.replace(str(made.path), str(path)))
    return RelayHome(path)


def refused_by_serve(home: RelayHome) -> str:
    """What `serve` says; it must not start."""
    command = [*PROGRAM, "--home", str(home.path), "serve", "--host", "127.0.0.1", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=20)
    assert done.returncode in (1, 3) and "Traceback" not in done.stderr, done.stderr
    return done.stderr


def refusal(home: RelayHome) -> str:
    """What `serve` would say, without a process for it."""
    with pytest.raises(ConfigError) as caught:
        look(home)
    return caught.value.message


def look(home: RelayHome) -> None:
    """What `serve` does before anything else."""
    place = Home(home.path)
    place.check_files(place.config())


def test_the_copy_of_a_good_home_serves(home: RelayHome) -> None:
    assert serves(home)


@pytest.mark.parametrize("name", FILES)
def test_a_link_in_the_place_of_a_file_is_refused_wherever_it_points(
    home: RelayHome, name: str, tmp_path: Path
) -> None:
    path, elsewhere = home.path / name, tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    said = refusal(home)
    assert str(path) in said and "symbolic link" in said, said


@pytest.mark.parametrize(
    "name", ["config.yaml", "relay.key", "certs/key.pem", "audit.key", "run/auth.json", "logs/audit.log"]
)
def test_a_file_that_others_can_change_is_refused_with_the_command_that_mends_it(home: RelayHome, name: str) -> None:
    path = home.path / name
    path.chmod(0o666)
    said = refusal(home)
    assert f"chmod 600 {path}" in said, said
    path.chmod(0o600)
    look(home)


@pytest.mark.parametrize("name", ["config.yaml", "relay.key", "certs/key.pem", "audit.key"])
def test_a_secret_that_others_can_read_is_refused_with_the_command_that_mends_it(home: RelayHome, name: str) -> None:
    (home.path / name).chmod(0o644)
    assert f"chmod 600 {home.path / name}" in refusal(home)


@as_root
@pytest.mark.parametrize("name", ["config.yaml", "relay.key", "audit.key", "run", "servers", "logs/audit.log"])
def test_what_another_user_owns_is_refused(home: RelayHome, name: str) -> None:
    os.chown(home.path / name, 65534, 65534)
    said = refusal(home)
    assert str(home.path / name) in said and "65534" in said, said


def test_serve_itself_refuses_and_writes_nothing(home: RelayHome, tmp_path: Path) -> None:
    log, elsewhere = home.path / "logs" / "relay.log", tmp_path / "elsewhere"
    elsewhere.write_text("mine\n")
    log.unlink()
    log.symlink_to(elsewhere)
    assert str(log) in refused_by_serve(home)
    assert elsewhere.read_text() == "mine\n"


def test_files_elsewhere_are_the_operators_business(home: RelayHome, tmp_path: Path) -> None:
    real, link = tmp_path / "real.pem", tmp_path / "link.pem"
    real.write_bytes(home.certificate.read_bytes())
    link.symlink_to(real)
    config = home.path / "config.yaml"
    config.write_text(config.read_text().replace(str(home.certificate), str(link)))
    assert str(link) in config.read_text()
    look(home)


def test_there_is_one_relay_of_a_home(home: RelayHome) -> None:
    first = RelayProcess(home)
    try:
        with connected(first):
            pass
        said = refused_by_serve(home)
        assert "A relay is already running" in said and "fleetshell status" in said
    finally:
        assert first.stop() == 0


def test_everything_that_is_made_is_private_whatever_the_umask_is(tmp_path: Path) -> None:
    home = tmp_path / "home"
    fleetshell(home, "init", "--hostname", "localhost", preexec_fn=lambda: os.umask(0))
    fleetshell(home, "auth", "add-user", "anna", preexec_fn=lambda: os.umask(0))
    fleetshell(home, "prompt", "save", "p", "--description", "d", "--content", "c", preexec_fn=lambda: os.umask(0))
    public = {"relay.pub", "cert.pem"}
    for folder, folders, files in os.walk(home):
        for name in folders:
            assert os.stat(os.path.join(folder, name)).st_mode & 0o777 == 0o700, os.path.join(folder, name)
        for name in files:
            mode = os.lstat(os.path.join(folder, name)).st_mode & 0o777
            assert mode == 0o600 or (name in public and not mode & 0o022), (folder, name, oct(mode))


BAD_YAML: tuple[tuple[str, Callable[[str], str], str], ...] = (
    ("an alias", lambda text: text + "defaults: &a {ssh_user: root}\nssh: *a\n", "alias"),
    ("256 KiB", lambda text: text + "#" * 262_144, "256 KiB"),
    ("depth", lambda text: text + "security: " + "[" * 200 + "]" * 200 + "\n", "deep"),
    ("two keys", lambda text: text + "mfa: {enabled: false}\n", "mfa"),
    ("a tag", lambda text: text + "defaults: !!python/object/apply:os.system [id]\n", "tag"),
)


@pytest.mark.parametrize(("spoil", "says"), [entry[1:] for entry in BAD_YAML], ids=[entry[0] for entry in BAD_YAML])
def test_a_configuration_that_could_hurt_is_refused_by_file_and_line(
    home: RelayHome, spoil: Callable[[str], str], says: str
) -> None:
    path = home.path / "config.yaml"
    path.write_text(spoil(path.read_text()))
    said = refusal(home)
    assert "config.yaml" in said and says in said, said
