"""Host keys, pinned by server id in the relay's own `known_hosts`: fetching, showing, pinning and forgetting them."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fleetshell_tools.core import storage
from fleetshell_tools.core.home import Home
from fleetshell_tools.core.types import Cancellation
from fleetshell_tools.fleet import diagnose
from fleetshell_tools.fleet.identity import Identity
from fleetshell_tools.fleet.keys import require
from fleetshell_tools.fleet.transport import environment

Listener = Callable[[str], None]


def _ignore(line: str) -> None:
    """For who does not want to hear ssh's messages."""


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
        on_first: Told of a server's first keys before they are pinned without anybody having looked at them.
    """

    def __init__(
        self, home: Home, folder: Path, on_first: Callable[[str, list[HostKey]], None] = lambda *_: None
    ) -> None:
        self._home = home
        self._on_first = on_first
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

    def pin_first(
        self,
        identity: Identity,
        on_line: Listener = _ignore,
        *,
        seconds: float | None = None,
        cancelled: Cancellation | None = None,
    ) -> None:
        """Pin the keys that a server shows now; only for an id that has none (contract, section 4).

        Args:
            seconds, cancelled: As for `fetch`.

        Raises:
            Unreachable: No connection; the sentence says why.
        """
        keys = self.fetch(identity, on_line, seconds=seconds, cancelled=cancelled)
        self._on_first(identity.server_id, keys)
        self.pin(identity.server_id, keys)

    def forget(self, server_id: str) -> None:
        """Remove an id's pins."""
        if self.pinned(server_id):
            self.pin(server_id, [])

    def fetch(
        self,
        identity: Identity,
        on_line: Listener = _ignore,
        *,
        seconds: float | None = None,
        cancelled: Cancellation | None = None,
    ) -> list[HostKey]:
        """Ask the server for its key, without logging in and without trusting it.

        ssh itself asks (through the jump server where there is one) and writes what it was shown to a throw-away file.

        Args:
            on_line: Hears ssh's messages, those of `-v` included, as they come.
            seconds, cancelled: When to give up, where that is sooner than the server's `connect_timeout`.

        Raises:
            Unreachable: No connection; the sentence says why.
        """
        with tempfile.TemporaryDirectory(prefix="hostkey-", dir=self._folder) as folder:
            shown = Path(folder, "shown")
            text = identity.config.replace("\n  StrictHostKeyChecking yes\n", "\n  StrictHostKeyChecking accept-new\n")
            pins = next(line for line in text.splitlines() if line.startswith("  UserKnownHostsFile "))
            text = text.replace(pins, f"  UserKnownHostsFile {os.path.relpath(shown, self._folder)}")
            _, said = self._greet(identity, Path(folder), text, on_line, seconds, cancelled or Cancellation())
            keys = _parse(shown.read_text() if shown.exists() else "", identity.server_id)
        if not keys:
            raise diagnose.explain(identity, said)
        return keys

    def verify(self, identity: Identity, on_line: Listener = _ignore) -> str:
        """Check that the server has the key that is pinned for it, without logging in.

        Args:
            on_line: As for `fetch`.

        Returns:
            The login methods that the server offers, as ssh names them: `publickey,password`.

        Raises:
            Unreachable: No connection, or another key; the sentence says why.
        """
        with tempfile.TemporaryDirectory(prefix="hostkey-", dir=self._folder) as folder:
            code, said = self._greet(identity, Path(folder), identity.config, on_line, None, Cancellation())
        refused = re.search(r"Permission denied \(([^)]*)\)", said)
        if refused is None and code != 0:
            raise diagnose.explain(identity, said)
        return refused[1] if refused else "none"

    def _greet(
        self,
        identity: Identity,
        folder: Path,
        settings: str,
        on_line: Listener,
        seconds: float | None,
        cancelled: Cancellation,
    ) -> tuple[int, str]:
        """Connect without a login; returns ssh's exit code and what it complained of."""
        config = folder / "config"
        config.write_text(settings)
        command = [require("ssh"), "-v", "-F", str(config), "-aTxn", "-o", "PreferredAuthentications=none", "-o", "ControlPath=none",
                   "-o", "HashKnownHosts=no", "--", identity.target, "true"]  # fmt: skip
        said: list[str] = []
        late = threading.Event()
        with subprocess.Popen(command, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                              text=True, errors="replace", env=environment()) as process:  # fmt: skip

            def give_up() -> None:
                late.set()
                process.kill()

            longest = identity.connect_timeout + 5.0
            alarm = threading.Timer(longest if seconds is None else max(min(longest, seconds), 0.05), give_up)
            alarm.start()
            forget = cancelled.on_set(give_up)
            try:
                assert process.stderr
                for line in process.stderr:
                    on_line(line)
                    if not line.startswith("debug"):
                        said.append(line)
            except BaseException:
                process.kill()
                raise
            finally:
                forget()
                alarm.cancel()
                alarm.join()
        if late.is_set():
            raise diagnose.timed_out(identity)
        return process.returncode, "".join(said)

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
