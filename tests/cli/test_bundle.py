"""`bundle`: one file that is the same each time, runs on every Python that it should, and needs nothing else on its host."""

from __future__ import annotations

import ast
import glob
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.bare_root import BareRoot
from support.mcp_client import connected
from support.relay import PROGRAM, SERVES, RelayHome, RelayProcess
from support.sshd import KeyPair, Sshd

from fleetshell_tools.cli.bundle import MAIN

VERSIONS = ("2.7", "3.6", "3.9", "3.10", "3.11", "3.12", "3.13")


WATCH_COMPILING = """
import builtins, sys
real = compile
def seen(source, name, *more, **named):
    assert "fleetshell" not in str(name), name
    return real(source, name, *more, **named)
builtins.compile = seen
import fleetshell
assert fleetshell.main(["--home", "/nonexistent", "guard", "check", "ls"]) == 0
print(sys.modules["yaml"].__file__.rpartition("/")[0].rpartition("/")[2] + sys.modules["yaml"].__file__[-4:])
"""


def find_python(version: str) -> str:
    """A Python of a version; skips the test where this machine has none."""
    places = [f"{folder}/bin" for folder in glob.glob(os.path.expanduser(f"~/.pyenv/versions/{version}.*"))]
    found = shutil.which(f"python{version}", path=os.pathsep.join([*places, *os.get_exec_path()]))
    if found is None or subprocess.run([found, "-c", ""], capture_output=True).returncode:
        pytest.skip(f"this machine has no Python {version}")
    return found


@pytest.fixture(scope="module")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "fleetshell.pyz"
    subprocess.run([*PROGRAM, "bundle", str(path)], check=True, capture_output=True)
    return path


def alone(path: Path, *arguments: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    """Run a single file by a Python that sees no installed packages, in a folder that has nothing of ours."""
    return subprocess.run(
        [python, "-S", str(path), *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=path.parent
    )


def test_the_same_input_makes_the_same_bytes_whatever_else_differs(pyz: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONOPTIMIZE": "2"}
    subprocess.run([*PROGRAM, "bundle", "x.pyz"], check=True, capture_output=True, cwd=tmp_path, env=environment)
    assert (tmp_path / "x.pyz").read_bytes() == pyz.read_bytes()
    assert pyz.stat().st_mode & 0o777 == 0o755


def test_a_bundle_bundles_itself(pyz: Path, tmp_path: Path) -> None:
    assert alone(pyz, "bundle", str(tmp_path)).returncode == 0
    assert (tmp_path / "fleetshell.pyz").read_bytes() == pyz.read_bytes()


def test_it_holds_its_licences_and_nothing_made_for_one_machine(pyz: Path) -> None:
    with zipfile.ZipFile(pyz) as archive:
        names = archive.namelist()
        assert archive.testzip() is None
    assert {f"licences/{name}.txt" for name in ("fleetshell", "pyotp", "PyYAML")} <= set(names)
    assert not [name for name in names if name.endswith((".so", ".pyd")) or "__pycache__" in name]


@pytest.mark.parametrize("arguments", [("--help",), ("guard", "check", "ls"), ("serve", "--help"), ("--version",)])
def test_commands_start_without_any_installed_package(pyz: Path, arguments: tuple[str, ...]) -> None:
    run = alone(pyz, "--home", "/nonexistent", *arguments)
    assert (run.returncode, run.stderr) == (0, "")


def test_the_python_that_wrote_it_compiles_nothing_at_the_start(pyz: Path, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-S", "-c", WATCH_COMPILING],
        env={"PYTHONPATH": str(pyz)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stderr, run.stdout) == (0, "", "allow\nyaml.pyc\n")


@pytest.mark.parametrize("version", VERSIONS)
def test_every_python_runs_it_or_says_in_a_sentence_which_it_needs(pyz: Path, version: str) -> None:
    run = alone(pyz, "--version", python=find_python(version))
    if tuple(map(int, version.split("."))) < (3, 10):
        assert (run.returncode, run.stdout, run.stderr.count("\n")) == (1, "", 1)
        assert run.stderr.startswith(f"FleetShell needs Python 3.10 or newer, and this is Python {version} (")
    else:
        assert (run.returncode, run.stderr) == (0, "")
        assert run.stdout.startswith("fleetshell ")


def test_what_starts_first_can_be_read_by_old_pythons() -> None:
    ast.parse(MAIN, feature_version=(3, 4))
    assert "f'" not in MAIN and 'f"' not in MAIN


@pytest.fixture
def bare(pyz: Path, relay_key: KeyPair, tmp_path: Path) -> Iterator[BareRoot]:
    root = BareRoot(tmp_path / "root")
    shutil.copy(pyz, root.root / "fleetshell.pyz")
    yield root


def test_init_add_server_serve_and_a_command_on_a_host_of_python_and_openssh_alone(
    bare: BareRoot, sshd: Sshd, relay_key: KeyPair
) -> None:
    assert not (bare.root / "bin" / "sh").exists()
    shown = bare.run("/fleetshell.pyz", "init", "--hostname", "localhost")
    assert "/root/.fleetshell" in shown and "Manual entry key" in shown
    home = bare.root / "root" / ".fleetshell"
    for name, source in (("relay.key", relay_key.private), ("relay.pub", relay_key.public)):
        (home / name).write_bytes(source.read_bytes())
    bare.run(
        *("/fleetshell.pyz", "add-server", "--id", "web-1", "--hostname", sshd.address, "--port", str(sshd.port)),
        *("--user", sshd.user),
    )
    assert "web-1" in bare.run("/fleetshell.pyz", "list")
    assert "✓ command" in bare.run("/fleetshell.pyz", "test", "web-1")
    relay = RelayProcess(RelayHome(home), program=bare.command("/fleetshell.pyz"))
    try:
        with connected(relay) as client:
            client.call("authenticate", code=RelayHome(home).code())
            assert (
                client.call("execute_command", server_id="web-1", command="echo $((6*7))")["structuredContent"][
                    "stdout"
                ]
                == "42\n"
            )
        assert '"running": true' in bare.run("/fleetshell.pyz", "status", "--json")
    finally:
        relay.stop()
    assert SERVES.search(relay.log.read_text())
