"""An `SshFleet` in the test's own process, on a minimal home and real sshds."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleetshell_tools.core.approval_store import ApprovalStore
from fleetshell_tools.core.audit import AuditLog
from fleetshell_tools.core.config import Config
from fleetshell_tools.core.home import FOLDERS, Home
from fleetshell_tools.core.servers import Inventory, write
from fleetshell_tools.core.types import Act, Caller, Cancellation, Completed, Principal
from fleetshell_tools.fleet.fleet import SshFleet
from fleetshell_tools.fleet.started import Left, read
from support.sshd import KeyPair, Sshd


def nothing(done: float, total: float | None, message: str | None) -> None:
    """Progress that the test does not look at."""


@dataclass
class TestFleet:
    """A fleet with helpers; `__test__` keeps pytest from collecting it."""

    __test__ = False
    home: Home
    inventory: Inventory
    fleet: SshFleet
    audit: AuditLog
    approvals: ApprovalStore
    caller: Caller = Caller(Principal("testkey"), tool="execute_command")

    def add(self, server_id: str, sshd: Sshd | None = None, **more: Any) -> None:
        """Register a server; `more` goes into its file."""
        data: dict[str, Any] = {"id": server_id}
        if sshd is not None:
            data.update(hostname=sshd.address, ssh_port=sshd.port, ssh_user=sshd.user)
        write(self.inventory.path(server_id), {**data, **more})

    def run(
        self, server_id: str, command: str, *, timeout: float = 20, cancelled: Cancellation | None = None, **act: Any
    ) -> Completed:
        return self.fleet.run(
            self.caller, self.inventory.get(server_id), Act(command, **act), timeout=timeout,
            cancelled=cancelled or Cancellation(), progress=nothing,
        )  # fmt: skip

    def out(self, server_id: str, command: str, **more: Any) -> str:
        """A command's stdout, which is short."""
        return self.run(server_id, command, **more).stdout.head.decode()

    def noted(self) -> list[Left]:
        """What is noted on disk as running."""
        return read(self.home.run / "started.jsonl")

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.home.logs / "audit.log").read_text().splitlines()]


@contextlib.contextmanager
def fleet_on(folder: Path, key: KeyPair, config: Config | None = None) -> Iterator[TestFleet]:
    """A fleet with an empty inventory in `folder`, closed at the end."""
    home = Home(folder / "home")
    for folder in (home.path, *(home.path / name for name in FOLDERS)):
        folder.mkdir(mode=0o700, exist_ok=True)
    (home.path / "relay.key").write_bytes(key.private.read_bytes())
    (home.path / "relay.key").chmod(0o600)
    config = config or Config()
    inventory = Inventory(home.servers, config.defaults)
    audit = AuditLog(home.logs / "audit.log", home.audit_key, home.audit_head)
    approvals = ApprovalStore()
    fleet = SshFleet(home, home.run, config, inventory, audit, approvals)
    try:
        yield TestFleet(home, inventory, fleet, audit, approvals)
    finally:
        fleet.close()
        audit.close()
