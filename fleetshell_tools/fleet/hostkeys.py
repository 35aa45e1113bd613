"""Host keys, pinned by server id in the relay's own `known_hosts`: fetching, showing, pinning and forgetting them."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from fleetshell_tools.core import storage
from fleetshell_tools.core.home import Home
from fleetshell_tools.fleet import diagnose
from fleetshell_tools.fleet.identity import Identity
from fleetshell_tools.fleet.keys import require
from fleetshell_tools.fleet.transport import environment


@dataclass(frozen=True)
class HostKey:
    """One line of known_hosts: key type and base64 blob."""

    kind: str
    blob: str

    @property
    def fingerprint(self) -> str:
        """As ssh shows it: `SHA256:… (ED25519)`."""
        digest = base64.b64encode(hashlib.sha256(base64.b64decode(self.blob)).digest()).decode().rstrip("=")
        name = self.kind.removeprefix("ssh-").removeprefix("ecdsa-sha2-").split("@")[0].upper()
        return f"SHA256:{digest} ({name})"


class HostKeys:
    """The pins of a home; changes are atomic and under a lock.

    Args:
        folder: ssh's working folder, where the sockets are.
    """

    def __init__(self, home: Home, folder: Path) -> None:
        self._home = home
        self._folder = folder
        self._path = home.known_hosts

    def pinned(self, server_id: str) -> list[HostKey]:
        """The keys that are pinned for an id."""
        return _parse(self._read(), server_id)

    def pin(self, server_id: str, keys: list[HostKey]) -> None:
        """Make `keys` the only ones pinned for an id."""
        with storage.locked(self._home.path / ".known_hosts.lock"):
            others = [line for line in self._read().splitlines() if line.split(" ")[0] != server_id]
            lines = [*others, *(f"{server_id} {key.kind} {key.blob}" for key in keys)]
            storage.write_atomic(self._path, "".join(f"{line}\n" for line in lines))

    def forget(self, server_id: str) -> None:
        """Remove an id's pins."""
        if self.pinned(server_id):
            self.pin(server_id, [])

    def fetch(self, identity: Identity) -> list[HostKey]:
        """Ask the server for its key, without logging in and without trusting it.

        ssh itself asks (through the jump server where there is one) and writes what it was shown to a throw-away file.

        Raises:
            Unreachable: No connection; the sentence says why.
        """
        with tempfile.TemporaryDirectory(prefix="hostkey-", dir=self._folder) as folder:
            config, shown = Path(folder, "config"), Path(folder, "shown")
            relative = os.path.relpath(shown, self._folder)
            text = identity.config.replace("\n  StrictHostKeyChecking yes\n", "\n  StrictHostKeyChecking accept-new\n")
            pins = next(line for line in text.splitlines() if line.startswith("  UserKnownHostsFile "))
            config.write_text(text.replace(pins, f"  UserKnownHostsFile {relative}"))
            command = [require("ssh"), "-F", str(config), "-aTxn", "-o", "PreferredAuthentications=none", "-o", "ControlPath=none",
                       "-o", "HashKnownHosts=no", "--", identity.server_id, "true"]  # fmt: skip
            try:
                run = subprocess.run(command, cwd=self._folder, stdin=subprocess.DEVNULL, capture_output=True,
                                     text=True, errors="replace", timeout=identity.connect_timeout + 5, env=environment())  # fmt: skip
            except subprocess.TimeoutExpired:
                raise diagnose.timed_out(identity) from None
            keys = _parse(shown.read_text() if shown.exists() else "", identity.server_id)
        if not keys:
            raise diagnose.explain(identity, run.stderr)
        return keys

    def _read(self) -> str:
        try:
            storage.check_private(self._path, folder=False)
            return self._path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""


def _parse(text: str, server_id: str) -> list[HostKey]:
    keys = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 3 and words[0] == server_id:
            keys.append(HostKey(words[1], words[2]))
    return keys
