"""Throw-away accounts with other login shells, on an sshd with an /etc/passwd of its own: the machine's stays untouched."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from support import processes
from support.processes import Process
from support.sshd import KeyPair, Sshd

FIRST_ID = 64100
"""The first user id: above what Debian gives away, below its reserved ones."""

SHELLS: dict[str, str] = {
    "bash": "bash", "dash": "dash", "ash": "busybox", "sh": "busybox", "zsh": "zsh", "fish": "fish", "tcsh": "tcsh",
    "nologin": "nologin", "false": "false",
}  # fmt: skip
"""Each login shell, and the program behind it: busybox is what its link is named."""

STUBBORN = """\
#!/bin/sh
trap '' TERM
echo begun
$0-child & $0-child
"""
"""A program that ignores TERM, and so does its child; sudo takes the tests' mark from them, so their name must tell."""

_SYSTEM = (os.environ.get("PATH", ""), "/usr/sbin", "/usr/bin", "/sbin", "/bin")

_ENTER = """
etc=$1 sh=$2
shift 2
for file in "$etc"/*; do mount --bind "$file" "/etc/${file##*/}"; done
[ -z "$sh" ] || mount --bind "$sh" "$(readlink -f /bin/sh)"
exec "$@"
"""


@functools.cache
def why_no_namespaces(*kinds: str) -> str:
    """Why this machine gives us no namespaces of these kinds (options of unshare), or ""."""
    if os.getuid() != 0:
        return "needs root"
    if not shutil.which("unshare"):
        return "needs unshare (package util-linux)"
    # In a mount namespace of its own whatever else is asked for: the machine's own /mnt is not ours.
    command = ["unshare", "--mount", *kinds, "mount", "-t", "tmpfs", "none", "/mnt"]
    tried = subprocess.run(command, capture_output=True, text=True)
    return f"this machine permits no namespaces: {tried.stderr.strip()}" if tried.returncode else ""


def need_namespaces(*kinds: str) -> None:
    """Skip the test where there are none."""
    why = why_no_namespaces(*kinds)
    if why:
        pytest.skip(why)


@dataclass
class Accounts:
    """An sshd that runs as root and knows an account for each login shell that is installed.

    Attributes:
        names: The login user by the name of its shell.
        folder: Everybody may enter it; `stubborn` in it is a program that ignores TERM.
        homes: Where their homes are, by the same name; others may enter them.
    """

    folder: Path
    sshd: Sshd
    names: dict[str, str]
    homes: dict[str, Path]

    def need(self, shell: str) -> str:
        """The login user with that shell; skips the test where it is not installed."""
        if shell not in self.names:
            pytest.skip(f"{SHELLS[shell]} is not installed on this machine")
        return self.names[shell]

    def need_sudo(self) -> None:
        """Skip the test where there is no sudo."""
        if not shutil.which("sudo") or not Path("/etc/sudoers").exists():
            pytest.skip("sudo is not installed on this machine")

    def stubborn(self) -> list[Process]:
        """What runs of `stubborn`."""
        name = str(self.folder / "stubborn")
        found = [process for pid in sorted(processes.pids()) if (process := processes.inspect(pid))]
        return [process for process in found if name in process.command and process.state != "Z"]


def make_accounts(folder: Path, key: KeyPair, *, sh: str = "") -> Accounts:
    """Start the sshd; skips the test where there is no root or no mount namespace.

    Args:
        folder: Everybody may enter it and those above it; empty.
        key: Lets in everybody.
        sh: The program that /bin/sh shall be there, where it is not the one that it is here.
    """
    need_namespaces("--mount")
    etc, homes, shells = (folder / name for name in ("etc", "home", "shells"))
    for made in (etc, homes, shells):
        made.mkdir(mode=0o755)
    keys = folder / "authorized_keys"
    keys.write_bytes(key.public.read_bytes())
    keys.chmod(0o644)
    stubborn, child = folder / "stubborn", folder / "stubborn-child"
    stubborn.write_text(STUBBORN)
    child.write_text("#!/bin/sh\nread forever <>$0-fifo\n")
    os.mkfifo(folder / "stubborn-child-fifo")
    for program in (stubborn, child):
        program.chmod(0o755)
    names, passwd, shadow, group = {}, [], [], []
    found = {name: path for name, program in SHELLS.items() if (path := _find(name, program, shells))}
    for number, (name, shell) in enumerate(found.items(), FIRST_ID):
        home = homes / name
        home.mkdir(mode=0o755)
        (home / ".zshrc").touch()  # without one zsh asks its newcomers questions
        os.chown(home, number, number)
        names[name] = f"fs-{name}"
        passwd.append(f"fs-{name}:x:{number}:{number}::{home}:{shell}\n")
        shadow.append(f"fs-{name}:*:19000:0:99999:7:::\n")
        group.append(f"fs-{name}:x:{number}:\n")
    extra = {
        "passwd": passwd,
        "shadow": shadow,
        "group": group,
        "shells": [f"{shell}\n" for shell in found.values()],
        "sudoers": ["fs-bash ALL=(ALL) NOPASSWD: ALL\n", f"fs-dash ALL=(ALL) NOPASSWD: {stubborn}\n"],
    }
    for file, lines in extra.items():
        _private(etc, file, lines)
    settings = [f"AuthorizedKeysFile {keys}", "SetEnv FLEETSHELL_TEST_REMOTE=accounts"]  # and so no HOME but their own
    wrapper = ["unshare", "--mount", "sh", "-euc", _ENTER, "sh", str(etc), sh]
    sshd = Sshd(folder / "sshd", key.public, extra=settings, shared=True, wrapper=wrapper)
    return Accounts(folder, sshd, names, {name: homes / name for name in names})


def _find(name: str, program: str, shells: Path) -> str:
    """The path of a login shell; busybox gets a link of the shell's name."""
    path = shutil.which(program, path=os.pathsep.join(_SYSTEM))
    if path and program != name:
        (shells / name).symlink_to(path)
        return str(shells / name)
    return path or ""


def _private(etc: Path, name: str, lines: list[str]) -> None:
    """A copy of a file of /etc with more lines, to be mounted over it."""
    original = Path("/etc", name)
    if original.exists():
        copy = etc / name
        text = original.read_text()
        copy.write_text(text + "".join(lines))
        status = original.stat()
        os.chown(copy, status.st_uid, status.st_gid)
        copy.chmod(status.st_mode & 0o7777)
