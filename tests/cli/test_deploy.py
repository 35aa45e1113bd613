"""`deploy` through the user's own ssh: to a login without a service manager, and to a host with systemd."""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.mcp_client import connected
from support.relay import PROGRAM, RelayHome, RelayProcess
from support.sshd import KeyPair, Sshd, free_port
from support.systemd_host import CannotRun, SystemdHost


class OwnSsh:
    """Your own ssh, with a configuration that a test has written."""

    def __init__(self, folder: Path, key: KeyPair) -> None:
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        self._config = folder / "config"
        self._key = key
        real = shutil.which("ssh")
        program = folder / "bin" / "ssh"
        program.write_text(f'#!/bin/sh\nexec {real} -F {self._config} "$@"\n')
        program.chmod(0o755)

    def knows(self, alias: str, address: str, port: int, user: str) -> None:
        lines = [
            f"Host {alias}",
            f"HostName {address}",
            f"Port {port}",
            f"User {user}",
            f"IdentityFile {self._key.private}",
        ]
        lines += ["StrictHostKeyChecking no", "UserKnownHostsFile /dev/null", "LogLevel ERROR", "IdentitiesOnly yes"]
        self._config.write_text("\n".join([*lines, ""]))

    def deploy(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        return subprocess.run(
            [*PROGRAM, "--home", str(self.folder / "none"), "deploy", *arguments],
            capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=self.folder, env={**os.environ, "PATH": path},
        )  # fmt: skip


@pytest.fixture
def own_ssh(short_tmp: Path, relay_key: KeyPair) -> OwnSsh:
    return OwnSsh(short_tmp / "own", relay_key)


def test_a_login_without_systemd_gets_the_file_a_home_and_the_clients_settings(
    own_ssh: OwnSsh, sshd_factory: Callable[..., Sshd]
) -> None:
    sshd = sshd_factory()
    own_ssh.knows("far", sshd.address, sshd.port, sshd.user)
    run = own_ssh.deploy("far", "--hostname", "localhost", "--client", "claude-code")
    assert run.returncode == 0, run.stdout + run.stderr
    home = RelayHome(sshd.folder / "home" / ".fleetshell")
    assert "Manual entry key" in run.stdout
    assert f"Bearer {home.api_key}" in run.stdout and "claude mcp add" in run.stdout
    assert "nothing has been started" in run.stdout
    assert (own_ssh.folder / "fleetshell-localhost.pem").read_bytes() == home.certificate.read_bytes()
    program = sshd.folder / "home" / ".local" / "bin" / "fleetshell"
    assert sorted(path.name for path in program.parent.iterdir()) == ["fleetshell"]
    relay = RelayProcess(home, program=["env", f"HOME={home.path.parent}", str(program)])
    try:
        with connected(relay) as client:
            assert client.call("list_servers")["error"]["code"] == -32001
    finally:
        assert relay.stop() == 0


def test_deploying_again_is_an_upgrade_that_keeps_the_home(own_ssh: OwnSsh, sshd_factory: Callable[..., Sshd]) -> None:
    sshd = sshd_factory()
    own_ssh.knows("far", sshd.address, sshd.port, sshd.user)
    assert own_ssh.deploy("far").returncode == 0
    home = RelayHome(sshd.folder / "home" / ".fleetshell")
    before = (home.api_key, home.certificate.read_bytes())
    (sshd.folder / "home" / ".local" / "bin" / "fleetshell").write_text("an older one")
    again = own_ssh.deploy("far")
    assert again.returncode == 0, again.stderr
    assert "Manual entry key" not in again.stdout
    assert (home.api_key, home.certificate.read_bytes()) == before
    shown = subprocess.run(
        [sshd.folder / "home" / ".local" / "bin" / "fleetshell", "--version"], capture_output=True, text=True
    )
    assert shown.stdout.startswith("fleetshell ")


@pytest.mark.parametrize("destination", ["-oProxyCommand=x", "a b", "x;y", "", "user@-host", "$(x)"])
def test_what_is_no_destination_never_reaches_ssh(own_ssh: OwnSsh, destination: str) -> None:
    (own_ssh.folder / "bin" / "ssh").write_text("#!/bin/sh\ntouch started\n")
    assert own_ssh.deploy("--", destination).returncode == 2
    assert not (own_ssh.folder / "started").exists()


def test_a_host_that_ssh_cannot_reach_is_a_sentence(own_ssh: OwnSsh) -> None:
    own_ssh.knows("far", "127.0.0.1", 1, "nobody")
    run = own_ssh.deploy("far")
    assert run.returncode == 1
    assert "Connection refused" in run.stderr and "ssh could not reach far" in run.stderr


@pytest.mark.parametrize(
    ("program", "named"), [("python3", "Python 3.10 or newer"), ("ssh-keygen", "has no OpenSSH client")]
)
def test_what_the_host_lacks_is_named_before_anything_is_copied(
    own_ssh: OwnSsh, sshd_factory: Callable[..., Sshd], tmp_path: Path, program: str, named: str
) -> None:
    """The host's PATH has everything of /usr/bin but one program."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("sh", "id", "ssh", "ssh-keygen", "python3"):
        found = os.path.realpath(sys.executable) if name == "python3" else shutil.which(name)
        if found and name != program:
            (programs / name).symlink_to(found)
    home = tmp_path / "far-home"
    home.mkdir()
    sshd = sshd_factory(extra=[f"SetEnv PATH={programs} HOME={home}"])
    own_ssh.knows("far", sshd.address, sshd.port, sshd.user)
    run = own_ssh.deploy("far")
    assert (run.returncode, named in run.stderr) == (1, True), run.stderr
    assert not list(home.iterdir())


@pytest.fixture(scope="module")
def host(relay_key: KeyPair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemdHost]:
    try:
        made = SystemdHost(tmp_path_factory.mktemp("deploy") / "host", relay_key)
    except CannotRun as error:
        pytest.skip(str(error))
    yield made
    made.stop()


def prepare(host: SystemdHost, user: str) -> int:
    """Give a user's home a port that is free on this machine, whose network the host shares; returns it."""
    port = free_port([host.address])
    config = f"relay: {{http: {{port: {port}}}}}"
    host.run("root", f"su {user} -c 'umask 077; mkdir ~/.fleetshell; echo \"{config}\" >~/.fleetshell/config.yaml'")
    return port


def test_a_login_without_sudo_gets_a_service_of_its_own(own_ssh: OwnSsh, host: SystemdHost) -> None:
    host.run("root", "loginctl enable-linger plain")
    port = prepare(host, "plain")
    own_ssh.knows("far", host.address, host.port, "plain")
    run = own_ssh.deploy("far", "--hostname", "localhost")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "enable-linger" in run.stdout
    assert host.run("plain", "systemctl --user is-active fleetshell") == "active\n"
    assert f":{port}/mcp" in host.run("plain", "~/.local/bin/fleetshell status")
    host.run("root", "loginctl disable-linger plain; systemctl stop user@$(id -u plain)")


def test_a_host_with_systemd_gets_a_service_by_sudo_and_the_certificate_is_the_one_that_it_shows(
    own_ssh: OwnSsh, host: SystemdHost
) -> None:
    host.run("root", "useradd --create-home --shell /bin/bash fleetshell")
    port = prepare(host, "fleetshell")
    own_ssh.knows("far", host.address, host.port, "admin")
    run = own_ssh.deploy("far", "--hostname", "localhost")
    assert run.returncode == 0, run.stdout + run.stderr
    assert host.run("root", "systemctl is-active fleetshell; systemctl is-enabled fleetshell") == "active\nenabled\n"
    assert host.run("admin", "ls -A ~/.local/bin") == ""
    context = ssl.create_default_context(cafile=str(own_ssh.folder / "fleetshell-localhost.pem"))
    with socket.create_connection((host.address, port)) as plain:
        with context.wrap_socket(plain, server_hostname="localhost") as safe:
            assert safe.version() == "TLSv1.3"
    key = re.search(r"Bearer (fsk_\S+?)\"", run.stdout)
    assert key and key[1] in host.run("root", "cat /home/fleetshell/.fleetshell/config.yaml")
