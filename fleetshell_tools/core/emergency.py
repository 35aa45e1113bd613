"""The emergency stop: a file in `run/` that says that no tool may do anything, whatever else is restarted."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path

from fleetshell_tools.core import storage
from fleetshell_tools.core.errors import Locked


class Emergency:
    """Whether everything is stopped; the file alone says so, so that it holds for every process and after a restart."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def engaged(self) -> bool:
        try:
            os.lstat(self._path)
        except FileNotFoundError:
            return False
        except OSError:
            return True  # where that can't be known, nothing may run
        return True

    def engage(self, by: str) -> None:
        """Stop everything that begins from now on; the first one to do so is remembered."""
        if not self.engaged:
            since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            try:
                storage.write_atomic(self._path, json.dumps({"since": since, "by": by}) + "\n")
            except OSError:
                # That the file is there is what counts, and an empty one may be made where a disk is full.
                self._path.touch(storage.PRIVATE_FILE)

    def lift(self) -> None:
        """Let tools work again."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        storage.sync_folder(self._path.parent)

    def since(self) -> str:
        """` since …`, or nothing where the file does not say."""
        try:
            return f" since {json.loads(self._path.read_text())['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def check(self) -> None:
        """Let a call begin.

        Raises:
            Locked: Everything is stopped.
        """
        if self.engaged:
            raise Locked(
                f"The operator has locked this relay{self.since()}: no tool works, authenticate included. Don't try again; "
                f"tell the user. The operator unlocks it with `fleetshell unlock`."
            )
