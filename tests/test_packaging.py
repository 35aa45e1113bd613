"""The packages that a release publishes: they build from a copy of the tree, and the wheel runs where it is installed alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from support.relay import ROOT

pytest.importorskip("build", reason="needs the package build: run .ci/setup dev")
UNRELATED = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "node_modules")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, made by `python -m build`."""
    tree = tmp_path_factory.mktemp("tree") / "fleetshell"
    shutil.copytree(ROOT, tree, ignore=UNRELATED)
    shutil.copytree(ROOT / ".ci", tree / ".ci")
    command = [sys.executable, "-m", "build", "--no-isolation", str(tree)]
    ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=110)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert not re.search("deprecat", ran.stdout + ran.stderr, re.IGNORECASE), ran.stdout + ran.stderr
    return tree / "dist"


def test_the_wheel_holds_the_package_its_data_and_its_licence_and_nothing_else(packages: Path) -> None:
    (wheel,) = packages.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith("/METADATA"))
    code = {name for name in names if ".dist-info/" not in name and ".data/data/share/" not in name}
    assert any(name.endswith("share/man/man1/fleetshell.1") for name in names)
    wanted = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "fleetshell_tools").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert code == wanted | {"fleetshell.py"}
    assert any(name.endswith("/LICENSE") for name in names)
    required = re.findall(r"^Requires-Dist: ([A-Za-z]+)[^;\n]*$", metadata, re.MULTILINE)
    assert sorted(name.lower() for name in required) == ["mcp", "pyotp", "pyyaml"]


def test_the_source_package_holds_the_documents_and_the_tests(packages: Path) -> None:
    (sdist,) = packages.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", ".ci/setup", "tests/conftest.py"}
    wanted |= {f"docs/{path.name}" for path in (ROOT / "docs").iterdir()}
    assert wanted <= names
    assert not [name for name in names if name.endswith(".pyc")]


def test_the_wheel_runs_where_it_is_installed_alone(packages: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python"
    (wheel,) = packages.glob("*.whl")
    install = [
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--python",
        str(python),
        "install",
        "--no-index",
        "--no-deps",
        "-q",
    ]
    subprocess.run([sys.executable, *install, str(wheel)], check=True)
    # The dependencies are those of this test run; a path in a .pth file brings no editable installation with it.
    (folder,) = (environment / "lib").glob("python*/site-packages")
    (folder / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = _run(tmp_path, python, "-c", "import fleetshell_tools; print(fleetshell_tools.__file__)")
    assert where.startswith(str(folder))
    program = environment / "bin" / "fleetshell"
    assert _run(tmp_path, program, "--version").startswith("fleetshell ")
    assert "Manual entry key" in _run(tmp_path, program, "init")
    # The catalogue is a data file.
    assert "server-everything" in _run(tmp_path, program, "mcp", "list")


def _run(folder: Path, *command: str | Path) -> str:
    ran = subprocess.run(
        command, cwd=folder, env={**os.environ, "FLEETSHELL_HOME": str(folder / "home")}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout
