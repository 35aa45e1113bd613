"""Installs the peers that FleetShell is compared with: Python and npm packages under .cache/bench, pdsh and tmux as root."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench.table import Missing

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "bench"
PYTHON = CACHE / "venv" / "bin" / "python"
NODE_MODULES = CACHE / "npm" / "node_modules"
PYTHON_PACKAGES = {
    "asyncssh": "asyncssh",
    "paramiko": "paramiko",
    "pssh": "parallel-ssh",
    "pexpect": "pexpect",
    "ClusterShell": "clustershell",
    "ansible": "ansible-core",
}
"""Modules, and the packages that bring them."""

NPM_PACKAGES = ("ssh-mcp", "mcp-ssh-manager")
PROGRAMS = ("pdsh", "tmux")
"""Programs, named like the Debian packages that bring them."""

PROXIES = {"mcp-proxy": "mcp-proxy", "fastmcp": "fastmcp"}
"""Folders under .cache/bench, and the packages in the virtual environment of each: they want different versions of the SDK."""

HUB = "mcp-hub"
EVERYTHING = "@modelcontextprotocol/server-everything"

SECONDS = 300
"""How long one installer may take."""


def module_folder(module: str) -> Path | None:
    """Where a module of the bench's own environment is."""
    return next((CACHE / "venv" / "lib").glob(f"python*/site-packages/{module}"), None)


def python_with(module: str) -> str:
    """The Python that has a module of a peer.

    Raises:
        Missing: It was not installed.
    """
    if not PYTHON.exists() or module_folder(module) is None:
        raise Missing(f"needs the Python package {PYTHON_PACKAGES[module]} in .cache/bench/venv")
    return str(PYTHON)


def script(name: str, module: str) -> str:
    """A program that came with a Python package."""
    python_with(module)
    return str(PYTHON.parent / name)


def npm_package(name: str) -> Path:
    """The folder of an npm package."""
    folder = NODE_MODULES / name
    if not folder.is_dir():
        raise Missing(f"needs the npm package {name} in .cache/bench/npm")
    return folder


def proxy_program(name: str) -> str:
    """A program of one of `PROXIES`.

    Raises:
        Missing: It was not installed.
    """
    program = CACHE / name / "bin" / name
    if not program.exists():
        raise Missing(f"needs the Python package {PROXIES[name]} in .cache/bench/{name}")
    return str(program)


def install_proxies() -> None:
    """Install what is missing of the peers that stand before other MCP servers, and the server that they stand before."""
    for name, package in PROXIES.items():
        folder = CACHE / name
        if not (folder / "bin" / name).exists():
            _run([sys.executable, "-m", "venv", str(folder)])
            _run([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", package])
    for name in (HUB, EVERYTHING):
        if not (NODE_MODULES / name).is_dir() and shutil.which("npm"):
            NODE_MODULES.parent.mkdir(parents=True, exist_ok=True)
            _run(
                [
                    "npm",
                    "install",
                    "--ignore-scripts",
                    "--no-audit",
                    "--no-fund",
                    "--prefix",
                    str(NODE_MODULES.parent),
                    name,
                ]
            )


def install() -> None:
    """Install what is missing. Whatever can't be had is left out, and asked for again only when `tried` is removed."""
    tried = CACHE / "tried"
    before = set(tried.read_text().split()) if tried.exists() else set()
    asked = [
        *_python_packages(before),
        *_npm_packages(before),
        *_programs(before),
    ]
    if asked:
        CACHE.mkdir(parents=True, exist_ok=True)
        tried.write_text("".join(f"{name}\n" for name in sorted(before.union(asked))))


def _python_packages(before: set[str]) -> list[str]:
    wanted = [
        package
        for module, package in PYTHON_PACKAGES.items()
        if module_folder(module) is None and package not in before
    ]
    if not wanted:
        return []
    if not PYTHON.exists():
        _run([sys.executable, "-m", "venv", str(CACHE / "venv")])
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if not _run([*pip, *wanted]):
        for package in wanted:  # one that can't be had must not cost the others
            _run([*pip, package])
    return wanted


def _npm_packages(before: set[str]) -> list[str]:
    wanted = [name for name in NPM_PACKAGES if not (NODE_MODULES / name).is_dir() and name not in before]
    if not wanted or not shutil.which("npm"):
        return []
    folder = NODE_MODULES.parent
    folder.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        _run(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder), name])
    return wanted


def _programs(before: set[str]) -> list[str]:
    wanted = [name for name in PROGRAMS if not shutil.which(name) and name not in before]
    if not wanted or os.getuid() != 0 or not shutil.which("apt-get"):
        return []
    _run(["apt-get", "update", "-qq"])
    for name in wanted:
        _run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", name])
    return wanted


def _run(command: list[str]) -> bool:
    """Run an installer; its messages go to stderr, and a failure is no more than a message."""
    print(f"bench: {' '.join(command)}", file=sys.stderr)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, env=environment, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"bench: {command[0]} failed: {error}", file=sys.stderr)
        return False
    return done.returncode == 0


def versions() -> str:
    """What is installed, as `asyncssh 2.24.1, …`."""
    wanted = {package.replace("-", "_") for package in PYTHON_PACKAGES.values()}
    installed = (CACHE / "venv" / "lib").glob("python*/site-packages/*.dist-info")
    pairs = sorted(info.name.removesuffix(".dist-info").rsplit("-", 1) for info in installed)
    found = [f"{name.replace('_', '-')} {version}" for name, version in pairs if name.lower() in wanted]
    for name in NPM_PACKAGES:
        about = NODE_MODULES / name / "package.json"
        if about.exists():
            found.append(f"{name} {json.loads(about.read_text())['version']}")
    return ", ".join(found)
