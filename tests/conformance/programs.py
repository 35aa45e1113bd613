"""Programs of others that the relay is tested with: the conformance suites, the Inspector, clients, and a Node.js for them.

`package.json` beside this file names them and their versions; `python tests/conformance/programs.py` installs them.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parents[1] / ".cache" / "conformance"
MODULES = FOLDER / "node_modules"
SUITE = MODULES / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
SUITE_STABLE = MODULES / "@modelcontextprotocol" / "conformance-stable" / "dist" / "index.js"
INSPECTOR = MODULES / "@modelcontextprotocol" / "inspector" / "clients" / "launcher" / "build" / "index.js"
MCP_REMOTE = MODULES / "mcp-remote" / "dist" / "proxy.js"

_WANTED = HERE / "package.json"
_INSTALLED = FOLDER / "installed.json"
_ARCHITECTURES = {"x86_64": "x64", "aarch64": "arm64"}


class NotInstallable(Exception):
    """The programs can't be installed; the sentence says why and what to do."""


def installed() -> bool:
    """Whether the wanted versions are there."""
    return _INSTALLED.exists() and _INSTALLED.read_text() == _WANTED.read_text()


def install() -> None:
    """Install what is missing; returns at once where nothing is.

    Raises:
        NotInstallable: npm is missing, or failed.
    """
    if installed():
        return
    if not shutil.which("npm"):
        raise NotInstallable("The conformance suites need npm: install the packages nodejs and npm and run this again.")
    print(f"setup: installing the conformance suites and the clients into {FOLDER}", flush=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "package.json").write_text(_WANTED.read_text())
    # No script of a package runs: nothing here needs one.
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
    run = subprocess.run(command, cwd=FOLDER, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if run.returncode != 0:
        raise NotInstallable(f"npm could not install the conformance suites: {run.stderr.strip()[-600:]}")
    _INSTALLED.write_text(_WANTED.read_text())


def need() -> None:
    """Skip the test where the programs are not there; on a CI machine they are installed, and must be installable."""
    if installed():
        return
    if os.environ.get("CI") != "true":
        pytest.skip("the conformance suites are not installed: `make conformance` installs and runs them")
    try:
        install()
    except NotInstallable as why:
        pytest.fail(str(why))


def node() -> str:
    """The Node.js to run them with: the suites need a newer one than many systems have."""
    packaged = MODULES / f"node-linux-{_ARCHITECTURES.get(platform.machine(), '')}" / "bin" / "node"
    return str(packaged) if packaged.exists() else "node"


def environment(folder: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a program that may leave files in its home, which is `folder`, and nowhere else."""
    return {**os.environ, "HOME": str(folder), "NO_COLOR": "1", **(more or {})}


if __name__ == "__main__":
    try:
        install()
    except NotInstallable as why:
        sys.exit(f"setup: {why}")
