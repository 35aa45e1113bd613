"""Programs of ours run on this machine in a shell of choice, without ssh; and results made of recorded bytes."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from fleetshell_tools.core.scripts import Facts, Ran, Script, facts_in, parts
from fleetshell_tools.core.text import decode

SHELLS = {"dash": ("dash",), "bash": ("bash",), "busybox": ("busybox", "sh")}
"""Debian's busybox shell uses its own utilities, as on a host that has nothing else."""


def run_local(
    shell: str, script: Script, *, before: Sequence[str] = (), first_in_path: Path | None = None, sudo: bool = False
) -> Ran:
    """Run a program in a shell of `SHELLS`.

    Args:
        before: Words before the shell: `unshare --mount`, ….
        first_in_path: A folder with utilities that hide the machine's own.
    """
    words = SHELLS[shell]
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    arguments = shlex.split(script.command("fs-nonce", None, sudo=sudo))[2:]
    environment = dict(os.environ)
    if first_in_path is not None:
        environment["PATH"] = f"{first_in_path}:{environment['PATH']}"
    done = subprocess.run([*before, *words, *arguments], stdin=subprocess.DEVNULL, capture_output=True, env=environment)
    found = parts(done.stdout, "fs-nonce")
    return Ran(found, done.returncode, decode(done.stderr), True, facts_in(found) or Facts({}))


def recorded(found: Mapping[str, str | bytes], facts: Mapping[str, str] | None = None, stderr: str = "") -> Ran:
    """What a program would have printed on another system."""
    raw = {name: part.encode() if isinstance(part, str) else part for name, part in found.items()}
    return Ran(raw, 0, stderr, True, Facts(dict(facts or {})))
