"""A folder with this Python and OpenSSH's client alone, which programs take for the whole machine; only for root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from support.accounts import need_namespaces
from support.minimal import libraries

_ENTER = """
root=$1 stdlib=$2 packages=$3
shift 3
mount --bind "$stdlib" "$root$stdlib"
[ ! -d "$root$packages" ] || mount -t tmpfs none "$root$packages"
mount -t proc none "$root/proc"
mount --rbind /dev "$root/dev"
exec chroot "$root" "$@"
"""
_FILES = {
    "etc/passwd": "root:x:0:0::/root:/none\n",
    "etc/group": "root:x:0:\n",
    "etc/hosts": "127.0.0.1 localhost\n",
}
_FOLDERS = ("etc", "proc", "dev", "root", "tmp", "usr/bin")
_PROGRAMS = ("ssh", "ssh-keygen", "ssh-keyscan")


class BareRoot:
    """Such a folder; nothing runs there until it is asked for.

    Args:
        folder: A folder of its own; created.
    """

    def __init__(self, folder: Path) -> None:
        need_namespaces("--mount")
        self.root = folder
        self._stdlib = sysconfig.get_path("stdlib")
        self._python = os.path.realpath(sys.executable)
        for made in (*_FOLDERS, self._stdlib.lstrip("/")):
            (folder / made).mkdir(parents=True, exist_ok=True)
        (folder / "tmp").chmod(0o1777)
        for name, text in _FILES.items():
            (folder / name).write_text(text)
        for program in _PROGRAMS:
            found = shutil.which(program)
            if found is None:
                pytest.skip(f"needs {program} (package openssh-client)")
            self._copy(found, f"/usr/bin/{program}")
        self._copy(self._python, self._python)
        for module in Path(self._stdlib, "lib-dynload").glob("*.so"):
            self._copy_libraries(str(module))

    def command(self, *arguments: str) -> list[str]:
        """What runs Python with these arguments in there: an argument is a path in the folder."""
        packages = f"{self._stdlib}/site-packages"
        return [
            *("env", "-i", "HOME=/root", "LC_ALL=C.UTF-8", f"PATH={os.defpath}:/usr/sbin:/sbin"),
            *("unshare", "--mount"),
            *("sh", "-euc", _ENTER, "sh", str(self.root), self._stdlib, packages),
            *(self._python, *arguments),
        ]

    def run(self, *arguments: str) -> str:
        """Run Python in there; returns what it printed."""
        run = subprocess.run(self.command(*arguments), capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert run.returncode == 0, f"{arguments} ended with {run.returncode}: {run.stdout}{run.stderr}"
        return run.stdout

    def _copy(self, source: str, target: str) -> None:
        path = self.root / target.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, path)
        self._copy_libraries(source)

    def _copy_libraries(self, program: str) -> None:
        for library in libraries(program):
            target = self.root / library.lstrip("/")
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(library, target)
