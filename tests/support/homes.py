"""A minimal home made without `init`, for tests of commands: quicker than the real one, and with a key that sshd lets in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fleetshell_tools.cli import main
from fleetshell_tools.core.home import FOLDERS
from support.sshd import KeyPair, Sshd

CONFIG = """\
relay:
  http:
    auth:
      api_key: "0123456789abcdef0123456789abcdef"
mfa:
  totp_secret: "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
ssh:
  connect_timeout: 5
"""


@dataclass
class CliHome:
    """A home, and the commands of the CLI on it, run in the test's own process."""

    path: Path

    def run(self, *arguments: str) -> int:
        """Run a command; returns its exit code."""
        try:
            return main(["--home", str(self.path), *arguments])
        except SystemExit as end:  # argparse ends so
            return int(end.code or 0)

    def file(self, server_id: str) -> Path:
        return self.path / "servers" / f"{server_id}.conf"

    def write(self, server_id: str, text: str) -> Path:
        """Write a server's file as it is."""
        path = self.file(server_id)
        path.write_text(text)
        path.chmod(0o600)
        return path

    def add(self, server_id: str, sshd: Sshd, *lines: str) -> Path:
        """Register a test's sshd without contacting it; `lines` go into its file."""
        first = [f"id: {server_id}", f"hostname: {sshd.address}", f"ssh_user: {sshd.user}", f"ssh_port: {sshd.port}"]
        return self.write(server_id, "\n".join([*first, *lines, ""]))

    def pins(self, server_id: str) -> list[str]:
        """The keys pinned for a server, as `ssh-ed25519 AAAA…`."""
        known = self.path / "known_hosts"
        lines = known.read_text().splitlines() if known.exists() else []
        return [line.partition(" ")[2] for line in lines if line.startswith(f"{server_id} ")]

    def audit(self) -> list[dict[str, Any]]:
        """Every record of the audit log."""
        log = self.path / "logs" / "audit.log"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def events(self) -> list[str]:
        return [record["event"] for record in self.audit()]


def make_cli_home(path: Path, key: KeyPair, config: str = CONFIG) -> CliHome:
    """Make a minimal home whose relay has the key `key`."""
    for folder in (path, *(path / name for name in FOLDERS)):
        folder.mkdir(mode=0o700)
    for name, data in (
        ("config.yaml", config.encode()),
        ("relay.key", key.private.read_bytes()),
        ("relay.pub", key.public.read_bytes()),
    ):
        (path / name).write_bytes(data)
        (path / name).chmod(0o600)
    return CliHome(path)


@pytest.fixture
def home(tmp_path: Path, relay_key: KeyPair) -> CliHome:
    """A home without servers; import it into a test module to use it."""
    return make_cli_home(tmp_path / "home", relay_key)
