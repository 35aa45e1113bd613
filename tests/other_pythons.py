"""Runs a quick part of the tests that need no host on the other supported Pythons here; `make test` ends with it."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ((3, 10), (3, 11), (3, 12), (3, 13))
NEEDS = ("hypothesis", "jsonschema", "pytest", "pytest-timeout")
QUICK = (
    "tests/test_walls.py",
    "tests/core/test_schema_and_config.py",
    "tests/core/test_yamlfile.py",
    "tests/core/test_tool_declaration.py",
    "tests/core/test_storage.py",
    "tests/core/test_servers_store.py",
    "tests/core/test_log_time.py",
    "tests/core/test_rates.py",
    "tests/fleet/test_framing.py",
    "tests/relay/test_jsonrpc.py",
    "tests/relay/test_http1.py",
)
"""A part that is quick, for the time of the whole suite: the language itself, types at run time, YAML, files, texts, times and HTTP."""


def find(version: tuple[int, int]) -> str | None:
    """A Python of that version that works: from the path, or from pyenv."""
    name = f"python{version[0]}.{version[1]}"
    pyenv = sorted(Path.home().glob(f".pyenv/versions/{version[0]}.{version[1]}.*/bin/{name}"))
    for program in [shutil.which(name), *map(str, pyenv)]:
        if program:
            said = subprocess.run(
                [program, "-c", "import sys, venv, ensurepip; print(*sys.version_info[:2])"],
                capture_output=True,
                text=True,
            )
            if said.returncode == 0 and said.stdout.split() == [str(part) for part in version]:
                return program
    return None


def prepare(version: tuple[int, int], program: str) -> Path:
    """A virtual environment with FleetShell's dependencies, kept in .cache; returns its Python."""
    dependencies = re.findall(
        r'"([^"]+)"', re.findall(r"^dependencies = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[0]
    )
    wanted = [*dependencies, *NEEDS]
    folder = ROOT / ".cache" / "pythons" / f"{version[0]}.{version[1]}"
    stamp, state = folder / "made-of", hashlib.sha256(" ".join([program, *wanted]).encode()).hexdigest()
    python = folder / "bin" / "python"
    if not stamp.exists() or stamp.read_text() != state:
        subprocess.run([program, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "--disable-pip-version-check", "install", "-q", *wanted], check=True)
        stamp.write_text(state)
    return python


def main() -> int:
    running = []
    for version in VERSIONS:
        name = f"Python {version[0]}.{version[1]}"
        if version == sys.version_info[:2]:
            continue
        program = find(version)
        if program is None:
            print(f"== {name} is not on this machine: left out", flush=True)
            continue
        command = [str(prepare(version, program)), "-m", "pytest", "-p", "no:cacheprovider", *QUICK]
        running.append(
            (
                name,
                subprocess.Popen(
                    command,
                    cwd=ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                ),
            )
        )
    worst = 0
    for name, process in running:
        said, _ = process.communicate()
        summary = said.rstrip().rpartition("\n")[2]
        print(f"== tests that need no host, on {name}: {summary if process.returncode == 0 else said}", flush=True)
        worst = process.returncode or worst
    return worst


if __name__ == "__main__":
    sys.exit(main())
