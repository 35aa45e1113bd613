"""The ssh of whoever runs a command, with a configuration that a test has written in place of `~/.ssh/config`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from support.sshd import KeyPair

QUIET = "Host *\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n  IdentitiesOnly yes\n"


class OwnSsh:
    """An `ssh` in front of the real one that reads `config`; FleetShell's own calls name a configuration and are not touched."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.config = folder / "config"
        self.config.write_text(QUIET)
        self.path = f"{folder}:{os.environ['PATH']}"
        program = folder / "ssh"
        program.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {self.config} "$@"\n')
        program.chmod(0o755)

    def log_in_with(self, key: KeyPair) -> None:
        self.config.write_text(f"{QUIET}  IdentityFile {key.private}\n")


@pytest.fixture
def own_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OwnSsh:
    """In front of PATH while the test runs; without a key."""
    made = OwnSsh(tmp_path / "own-ssh")
    monkeypatch.setenv("PATH", made.path)
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return made
