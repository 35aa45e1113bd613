"""A small file system of its own that a test can fill or make read-only; only for root."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import pytest


class SmallDisk:
    """A tmpfs, mounted at `folder`.

    Args:
        folder: Created.
        kibibytes: Its size.
    """

    def __init__(self, folder: Path, kibibytes: int) -> None:
        if os.geteuid() != 0:
            pytest.skip("mounting a small tmpfs needs root")
        folder.mkdir()
        self.folder = folder
        self._ballast = folder / "ballast"
        options = f"size={kibibytes}k,mode=700"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")

    def fill(self) -> None:
        """Take all the room there is."""
        with open(self._ballast, "ab", buffering=0) as file, contextlib.suppress(OSError):
            for size in (65536, 4096, 1):
                with contextlib.suppress(OSError):
                    while file.write(b"x" * size):
                        pass

    def make_room(self) -> None:
        """Give it back."""
        self._ballast.unlink()

    def read_only(self, yes: bool) -> None:
        subprocess.run(["mount", "-o", f"remount,{'ro' if yes else 'rw'}", str(self.folder)], check=True)

    def stop(self) -> None:
        subprocess.run(["umount", str(self.folder)], check=True)
