"""A real `fleetshell serve` for tests: a home made by the real commands, and the relay as a process of its own."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyotp
import yaml

from support import leaks, processes
from support.sshd import Sshd

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, str(ROOT / "fleetshell.py")]
SERVES = re.compile(r"serves (https?)://\S+:(\d+)/mcp")


def fleetshell(home: Path, *arguments: str, check: bool = True, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run a command of the CLI; with `check` a failure fails the test and shows what was printed."""
    run = subprocess.run(
        [*PROGRAM, "--home", str(home), *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        **settings,
    )
    if check and run.returncode != 0:
        raise AssertionError(
            f"fleetshell {' '.join(arguments)} ended with {run.returncode}:\n{run.stdout}\n{run.stderr}"
        )
    return run


@dataclass
class RelayHome:
    """A home that `init` made; secrets are read from its configuration."""

    path: Path

    @property
    def config(self) -> dict[str, Any]:
        loaded: dict[str, Any] = yaml.safe_load((self.path / "config.yaml").read_text())
        return loaded

    @property
    def api_key(self) -> str:
        return str(self.config["relay"]["http"]["auth"]["api_key"])

    @property
    def certificate(self) -> Path:
        return self.path / "certs" / "cert.pem"

    def code(self, steps: int = 0) -> str:
        """The TOTP code of now, or of that many steps later."""
        totp = pyotp.TOTP(self.config["mfa"]["totp_secret"])
        return totp.at(int(time.time()) + steps * 30)

    def add(self, server_id: str, sshd: Sshd, *arguments: str) -> None:
        """Register a test's sshd, reached at its first address."""
        fleetshell(
            self.path, "add-server", "--id", server_id, "--hostname", sshd.address, "--port", str(sshd.port), "--user", sshd.user, *arguments
        )  # fmt: skip

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return fleetshell(self.path, *arguments, check=check)

    def audit(self) -> list[dict[str, Any]]:
        """Every record of the audit log."""
        return [json.loads(line) for line in (self.path / "logs" / "audit.log").read_text().splitlines()]


def make_home(path: Path, key: Path | None = None) -> RelayHome:
    """Make a home with the real `init`; with `key` it gets that SSH key, which a test's sshd already lets in."""
    fleetshell(path, "init", "--hostname", "localhost")
    if key is not None:
        for name, source in (("relay.key", key), ("relay.pub", key.with_name(f"{key.name}.pub"))):
            (path / name).write_bytes(source.read_bytes())
            (path / name).chmod(0o600)
    return RelayHome(path)


class RelayProcess:
    """`fleetshell serve` on a free port of 127.0.0.1, as a process of its own; it has started when this returns.

    Args:
        shared: It outlives single tests.
        program: What starts it, in place of this tree's program on that home.
    """

    def __init__(
        self, home: RelayHome, *arguments: str, shared: bool = False, program: list[str] | None = None
    ) -> None:
        self.home = home
        self.log = home.path / "serve.log"
        program = program or [*PROGRAM, "--home", str(home.path)]
        command = [*program, "serve", "--host", "127.0.0.1", *arguments]
        if "--port" not in arguments:
            command += ["--port", "0"]
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        if shared:
            mark = processes.new_mark()
            processes.set_mark(self.process.pid, mark)
            leaks.know(mark)
        processes.wait_until(
            lambda: self.process.poll() is not None or self._announcement() is not None, 30, "the relay has started"
        )
        found = self._announcement()
        assert found, f"the relay did not start: {self.log.read_text()}"
        self.scheme, self.port = found[1], int(found[2])

    def _announcement(self) -> re.Match[str] | None:
        return SERVES.search(self.log.read_bytes()[self._log_start :].decode())

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/mcp"

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End the relay; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(30)
