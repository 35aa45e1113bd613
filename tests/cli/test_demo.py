"""The demo as a user runs it: what it shows, where it is refused, and that it leaves nothing, however it ends."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from support.relay import ROOT
from support.sshd import KeyPair, find_sshd

from fleetshell_tools.cli import demo_client, demo_servers
from fleetshell_tools.cli import main as fleetshell
from fleetshell_tools.cli.demo_servers import PROFILES, DemoServer, Isolation
from fleetshell_tools.core.errors import FleetShellError

STEPS = (
    "SSH servers are running",
    "fleetshell init",
    "fleetshell add-server",
    "listening on https://",
    "error -32001: Authentication required.",
    "Successfully authenticated.",
    "Found 3 servers",
    "exit code 0",
    "3 of 3 servers succeeded",
    "A shell session keeps its state",
    "Blocked",
    "audit verify",
    "The audit log is intact",
)
"""What is seen, in this order."""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


class Run:
    """A demo started as a process of its own, with a folder for its temporary files that must be empty afterwards.

    Args:
        prefix: A command that runs the demo's command (as another user, say).
        python: What runs it.
    """

    def __init__(
        self, scratch: Path, *arguments: str, prefix: Sequence[str] = (), python: str = sys.executable
    ) -> None:
        find_sshd()
        self.scratch = scratch
        scratch.mkdir(exist_ok=True)
        self._run_sshd = Path("/run/sshd").exists()
        environment = {name: value for name, value in os.environ.items() if name != "FLEETSHELL_HOME"}
        environment.update(
            TMPDIR=str(scratch), PYTHONDONTWRITEBYTECODE="1", PYTHONPATH=os.pathsep.join(filter(None, sys.path))
        )
        self.process = subprocess.Popen(
            [*prefix, python, str(ROOT / "fleetshell.py"), "demo", *arguments],
            env=environment, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.output = ""

    def read_until(self, words: str) -> None:
        """Read until a line of the output has these words."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.output += line
            if words in line:
                return
        pytest.fail(f"{words!r} never came: {self.output}{self.end()[1]}")

    def end(self, number: signal.Signals | None = None) -> tuple[int, str]:
        """Wait for the end (after a signal, if any), check that nothing is left; returns the exit code and stderr.

        Processes that are left fail the test by themselves (see `support.leaks`).
        """
        if number is not None:
            self.process.send_signal(number)
        output, errors = self.process.communicate(timeout=90)
        self.output += output or ""
        assert list(self.scratch.iterdir()) == []
        assert str(self.scratch) not in Path("/proc/mounts").read_text()
        assert Path("/run/sshd").exists() == self._run_sshd
        return self.process.returncode, errors


def assert_all_steps(output: str) -> None:
    position = 0
    for step in STEPS:
        position = output.find(step, position)
        assert position >= 0, f"{step!r} is missing, or in the wrong place: {output}"
    numbers = re.findall(r"^( \d|\d\d)\. ", output, re.MULTILINE)
    assert [int(number) for number in numbers] == list(range(1, len(numbers) + 1))
    assert f"Demo finished: {len(numbers)} steps, everything is cleaned up." in output


def test_the_demo_leads_from_a_refused_call_to_a_verified_audit_log_and_leaves_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path / "scratch")
    code, errors = run.end()
    assert (code, errors) == (0, "")
    assert_all_steps(run.output)
    assert "\x1b" not in run.output


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("FleetShell's demo", signal.SIGINT),
        ("add-server", signal.SIGINT),
        ("listening on", signal.SIGTERM),
        ("Successfully authenticated", signal.SIGINT),
        ("Successfully authenticated", signal.SIGHUP),
    ],
)
def test_an_interrupted_demo_leaves_nothing(tmp_path: Path, moment: str, number: signal.Signals) -> None:
    run = Run(tmp_path / "scratch")
    run.read_until(moment)
    code, errors = run.end(number)
    assert code == 130
    assert errors == "\nfleetshell: the demo was interrupted; everything is cleaned up.\n"
    assert "Demo finished" not in run.output


def test_a_demo_whose_reader_goes_away_leaves_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path / "scratch")
    run.read_until("add-server")
    assert run.process.stdout
    run.process.stdout.close()
    run.process.stdout = None
    assert run.end()[1] == ""


# Where the servers are this machine itself.


@pytest.fixture
def ordinary(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> tuple[list[str], str, Path]:
    """A prefix that makes a command run as an ordinary user with a shell, a Python and a scratch folder for that user."""
    if os.geteuid() != 0:
        return [], sys.executable, tmp_path / "scratch"
    for name in ("setpriv", "unshare", "mount"):
        if not shutil.which(name):
            pytest.skip(f"needs {name} to run as an ordinary user")
    # A user with a shell, whatever this machine's accounts are: an entry of its own in the namespace's passwd.
    uid = 64321
    passwd = tmp_path_factory.mktemp("account") / "passwd"
    passwd.write_text(Path("/etc/passwd").read_text() + f"demo-user:x:{uid}:{uid}::/tmp:/bin/sh\n")
    scratch = Path(
        subprocess.run(["mktemp", "-d", "/tmp/fsXXXXXX"], check=True, capture_output=True, text=True).stdout.strip()
    )
    os.chown(scratch, uid, uid)
    prefix = [
        *("unshare", "--mount", "sh", "-ec", 'mount --bind "$1" /etc/passwd; shift; exec "$@"', "sh", str(passwd)),
        *("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "env", "HOME=/tmp", "USER=demo-user"),
    ]
    wanted = f"import sys, mcp, pyotp, fleetshell_tools; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        tried = subprocess.run(
            [*prefix, python, "-c", wanted], capture_output=True, text=True, cwd="/",
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), *sys.path]))},
        )  # fmt: skip
        if tried.returncode == 0:
            return prefix, python, scratch
    scratch.rmdir()
    pytest.skip(f"an ordinary user cannot run this Python or read this checkout: {tried.stderr.strip()[-200:]}")


def test_an_ordinary_user_is_told_that_the_servers_are_this_machine(ordinary: tuple[list[str], str, Path]) -> None:
    prefix, python, scratch = ordinary
    run = Run(scratch, prefix=prefix, python=python)
    code, errors = run.end()
    scratch.rmdir()
    assert (code, errors) == (0, ""), run.output
    note, _, rest = run.output.partition(" 1. ")
    assert "NOTE: the three servers are this machine itself under the account" in note
    assert "only root" in note
    assert "What this forbids" in note
    assert_all_steps(" 1. " + rest)
    assert "rm -rf" not in rest


def test_an_ordinary_user_may_not_keep_it(ordinary: tuple[list[str], str, Path]) -> None:
    prefix, python, scratch = ordinary
    run = Run(scratch, "--keep", prefix=prefix, python=python)
    code, errors = run.end()
    scratch.rmdir()
    assert code == 2
    assert "--keep is refused: only root" in errors
    assert " 1. " not in run.output


@as_root
def test_root_without_the_right_to_make_namespaces_is_told_so(tmp_path: Path) -> None:
    prefix = ["setpriv", "--inh-caps=-all", "--bounding-set=-sys_admin"]
    run = Run(tmp_path / "scratch", prefix=prefix)
    assert run.end() == (0, "")
    note, _, rest = run.output.partition(" 1. ")
    assert "this system does not allow them systems of their own (unshare: " in " ".join(note.split())
    assert_all_steps(" 1. " + rest)
    run = Run(tmp_path / "scratch", "--keep", prefix=prefix)
    code, errors = run.end()
    assert code == 2
    assert "--keep is refused: this system" in errors


# Where each server is a system of its own.


@pytest.fixture
def isolated(tmp_path: Path, relay_key: KeyPair) -> Iterator[DemoServer]:
    """One isolated server, with a folder hidden from it, that the key of the tests may log in to."""
    (tmp_path / "hidden").mkdir()
    isolation = Isolation([tmp_path / "hidden"])
    if not isolation.possible:
        pytest.skip(isolation.refusal)
    server = demo_servers.start(PROFILES[0], tmp_path / "server", isolation, lambda: None)
    try:
        if not isolation.possible:
            pytest.skip(isolation.refusal)
        shutil.copyfile(relay_key.public, server.authorized_keys)
        yield server
    finally:
        server.stop()
        isolation.clean_up()


def on(server: DemoServer, key: KeyPair, command: str) -> subprocess.CompletedProcess[str]:
    options = [
        f"-o{option}" for option in ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR")
    ]
    return subprocess.run(
        ["ssh", "-F", "/dev/null", "-i", str(key.private), "-p", str(server.port), *options, f"{server.user}@127.0.0.1", command],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_an_isolated_server_has_its_own_name_and_log(isolated: DemoServer, relay_key: KeyPair) -> None:
    ran = on(isolated, relay_key, "uname -n; cat /etc/hostname; cat /var/log/shop.log")
    assert ran.stdout == f"demo-web-1\ndemo-web-1\n{PROFILES[0].log}"
    assert socket.gethostname() != "demo-web-1"


def test_files_changed_on_an_isolated_server_are_not_changed_here(isolated: DemoServer, relay_key: KeyPair) -> None:
    # Nothing here would do lasting harm if the isolation were broken.
    ran = on(
        isolated,
        relay_key,
        "touch /made-by-test /usr/made-by-test && rm /etc/os-release && ls /made-by-test /usr/made-by-test",
    )
    assert ran.stdout == "/made-by-test\n/usr/made-by-test\n"
    assert on(isolated, relay_key, "test -e /etc/os-release").returncode != 0
    assert Path("/etc/os-release").exists()
    assert not Path("/made-by-test").exists()
    assert not Path("/usr/made-by-test").exists()


def test_an_isolated_server_sees_neither_our_processes_nor_our_homes(isolated: DemoServer, relay_key: KeyPair) -> None:
    names = on(isolated, relay_key, "cat /proc/[0-9]*/comm").stdout.split()
    assert "sshd" in names
    assert Path("/proc/self/comm").read_text().strip() not in names
    folders = f"/root /home {isolated.folder.parent}"
    assert on(isolated, relay_key, f"for folder in {folders}; do ls -A $folder; done").stdout == ""
    assert on(isolated, relay_key, "cat /etc/shadow").stdout == "root:*:20000:0:99999:7:::\n"


@pytest.mark.parametrize(
    "attempt",
    [
        "mount -t tmpfs none /mnt",
        "umount /etc/ssh",
        "mknod /disk b 8 0",
        "hostname other",
        "cat /proc/sys/kernel/pid_max >/proc/sys/kernel/pid_max",
        'date -s "$(date)"',
        "touch /etc/ssh/sshd_config",
        "test -e /dev/mem || test -e /dev/sda || test -e /dev/vda || test -e /dev/kmsg",
    ],
)
def test_root_of_an_isolated_server_has_no_way_to_the_machine_below(
    isolated: DemoServer, relay_key: KeyPair, attempt: str
) -> None:
    assert on(isolated, relay_key, attempt).returncode != 0
    assert on(isolated, relay_key, "true").returncode == 0


def test_what_an_isolated_server_runs_ends_with_it(isolated: DemoServer, relay_key: KeyPair) -> None:
    # The leak check finds the process if it is still there.
    assert on(isolated, relay_key, "setsid sleep 1000 >/dev/null 2>&1 </dev/null & echo started").stdout == "started\n"
    isolated.stop()
    assert "demo-web-1" not in Path("/proc/mounts").read_text()


@as_root
def test_a_kept_demo_can_be_used_until_it_is_interrupted(tmp_path: Path) -> None:
    if not Isolation([]).possible:
        pytest.skip(Isolation([]).refusal)
    run = Run(tmp_path / "scratch", "--keep")
    run.read_until("until you press Ctrl-C")
    (folder,) = (tmp_path / "scratch").iterdir()
    found = re.search(r"listening on https://\S+:(\d+)/mcp", run.output)
    assert found
    port = int(found[1])
    assert re.search(rf"https://\S+:{port}/mcp", run.output.rpartition("connect-info")[2]), (
        "the client configuration names the address"
    )
    context = ssl.create_default_context(cafile=str(folder / "home" / "certs" / "cert.pem"))
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as encrypted,
    ):
        encrypted.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert encrypted.recv(4096).startswith(b"HTTP/1.1 200")
    assert run.end(signal.SIGINT) == (0, "")
    assert_all_steps(run.output)


# What is missing.


def test_without_the_mcp_package_a_sentence_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo_client, "find_spec", lambda name: None)
    assert fleetshell(["demo"]) == 1
    assert "pip install 'mcp" in capsys.readouterr().err


def test_without_openssh_a_sentence_names_the_packages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda *arguments, **settings: None)
    assert fleetshell(["demo"]) == 1
    assert "openssh-client openssh-server" in capsys.readouterr().err


def test_an_account_without_a_shell_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find_sshd()
    account = pwd.struct_passwd(("service", "x", 1, 1, "", "/", "/usr/sbin/nologin"))
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: account)
    with pytest.raises(FleetShellError, match=r"the account's shell is /usr/sbin/nologin"):
        demo_servers.start(PROFILES[0], tmp_path / "server", Isolation([]), lambda: None)


# The set-up that `make demo` and `make test` share.


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with an environment in place, whose Python only says what it is asked to do."""
    find_sshd()
    if not shutil.which("openssl"):
        pytest.skip("needs openssl")
    for name in (".ci/setup", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("pip", "python"):
        (tmp_path / ".venv" / "bin" / name).write_text('#!/bin/sh\necho "$0 $*"\n')
        (tmp_path / ".venv" / "bin" / name).chmod(0o755)
    return tmp_path


def set_up(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**{name: value for name, value in os.environ.items() if name not in ("CI", "PYTHON")}, **environment}
    return subprocess.run(
        [checkout / ".ci" / "setup", *arguments], env=variables, capture_output=True, text=True, timeout=60
    )


def test_the_set_up_installs_once_and_again_when_the_requirements_change(checkout: Path) -> None:
    ran = set_up(checkout, "run")
    assert ran.returncode == 0, ran.stderr
    assert "-m pip install --disable-pip-version-check -e .\n" in ran.stdout
    again = set_up(checkout, "run")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    with open(checkout / "pyproject.toml", "a") as file:
        file.write("# changed\n")
    assert "pip install" in set_up(checkout, "run").stdout


def test_a_set_up_that_failed_is_tried_again(checkout: Path) -> None:
    python = checkout / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\necho 3; test "$1" = -c\n')
    ran = set_up(checkout, "run")
    assert ran.returncode == 1
    assert "pip could not install the packages" in ran.stderr
    python.write_text('#!/bin/sh\necho "$*"\n')
    assert "pip install" in set_up(checkout, "run").stdout


@pytest.mark.parametrize("arguments", [[], ["all"]])
def test_the_set_up_says_how_it_is_used(checkout: Path, arguments: list[str]) -> None:
    ran = set_up(checkout, *arguments)
    assert (ran.returncode, ran.stderr) == (2, "usage: .ci/setup run|dev\n")


def test_the_set_up_names_a_python_that_is_none(checkout: Path) -> None:
    ran = set_up(checkout, "run", PYTHON="/bin/false")
    assert ran.returncode == 1
    assert "/bin/false (from PYTHON) is not a Python of version 3.10 or newer" in ran.stderr
