"""External MCP servers as they are published: fetched once from npm and the Python registry, then kept in .cache/upstreams."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "upstreams"
SCOPE = "@modelcontextprotocol/server-"
NPM = ("everything", "filesystem", "memory")
TIME = CACHE / "venv" / "bin" / "mcp-server-time"
FETCH_SECONDS = 120
"""How long fetching may take, once."""


def npm_server(name: str) -> list[str]:
    """The command of one of `NPM`; skips the test where it can't be had."""
    if shutil.which("node") is None:
        pytest.skip("needs Node.js")
    script = CACHE / "node_modules" / f"{SCOPE}{name}" / "dist" / "index.js"
    _fetched(script, ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(CACHE),
                      *(f"{SCOPE}{one}" for one in NPM)])  # fmt: skip
    return ["node", str(script)]


def time_server() -> list[str]:
    """The command of mcp-server-time, in a virtual environment of its own: it wants another version of the SDK than we."""
    _fetched(TIME.parent / "python", [sys.executable, "-m", "venv", str(CACHE / "venv")])
    _fetched(TIME, [str(TIME.parent / "python"), "-m", "pip", "install", "--quiet", "mcp-server-time"])
    return [str(TIME), "--local-timezone", "Europe/Berlin"]


def _fetched(there: Path, command: list[str]) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "lock", "w") as lock:  # several processes run the suite
        fcntl.flock(lock, fcntl.LOCK_EX)
        if there.exists():
            return
        if shutil.which(command[0]) is None:
            pytest.skip(f"needs {command[0]}")
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=FETCH_SECONDS, env=os.environ
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            pytest.skip(f"{' '.join(command[:3])} took longer than {FETCH_SECONDS} s")
    if not there.exists():
        pytest.skip(f"{' '.join(command[:3])} failed: {done.stderr[-300:]}")
