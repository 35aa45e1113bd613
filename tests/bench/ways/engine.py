"""Our own way: `SshFleet` with guard and audit on, in this process."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path

from support.fleets import fleet_on, nothing
from support.sshd import KeyPair

from bench.ways.serve import Spec, serve
from fleetshell_tools.core.config import Config
from fleetshell_tools.core.types import Act, Cancellation
from fleetshell_tools.fleet.fleet import SshFleet

TRUE = Act("true")
SECONDS = 120.0


@dataclass
class Engine:
    """A fleet that stays connected, and for each cold start one that does not."""

    spec: Spec
    colds: list[SshFleet] = field(default_factory=list)

    def __post_init__(self) -> None:
        private, folder = Path(self.spec.key), Path(self.spec.extra[0])
        folder.mkdir()
        self._context = fleet_on(folder, KeyPair(private, private.with_name(f"{private.name}.pub")))
        self._bed = self._context.__enter__()
        for host in self.spec.hosts:
            self._bed.add(host.name, hostname=host.address, ssh_port=host.port, ssh_user=self.spec.user)
        # Without this each first connection would be two, the first of them to see the key.
        self._bed.home.known_hosts.write_text("".join(f"{host.name} {host.host_key}\n" for host in self.spec.hosts))
        self._servers = [self._bed.inventory.get(host.name) for host in self.spec.hosts]
        self._numbers = itertools.count(10_000_000)
        self._session = ""
        self.everywhere()

    def once(self) -> None:
        done = self._bed.fleet.run(
            self._bed.caller, self._servers[0], TRUE, timeout=SECONDS, cancelled=Cancellation(), progress=nothing
        )
        if done.exit_code != 0:
            raise RuntimeError(f"`true` ended with {done}")

    def echo(self) -> None:
        """In a shell session that is kept."""
        shells, caller = self._bed.fleet.shells, self._bed.caller
        if not self._session:
            created = shells.create(caller, self._servers[0], timeout=SECONDS, cancelled=Cancellation())
            self._session = created.session_id
        wanted = f"x{next(self._numbers)}"
        done = shells.execute(
            caller, self._session, f"echo {wanted}", timeout=SECONDS, cancelled=Cancellation(), progress=nothing
        )
        if done.exit_code != 0 or done.output.head.strip() != wanted.encode():
            raise RuntimeError(f"{wanted} did not come: {done}")

    def everywhere(self) -> None:
        self._on_all(self._bed.fleet)

    def cold(self) -> None:
        home = self._bed.home
        folder = home.run / f"cold{len(list(home.run.glob('cold*')))}"
        folder.mkdir(mode=0o700)
        self.colds.append(SshFleet(home, folder, Config(), self._bed.inventory, self._bed.audit))
        self._on_all(self.colds[-1])

    def rest(self) -> None:
        while self.colds:
            self.colds.pop().close()

    def close(self) -> None:
        self._context.__exit__(None, None, None)

    def _on_all(self, fleet: SshFleet) -> None:
        results = fleet.run_many(
            self._bed.caller, self._servers, TRUE, timeout=SECONDS, max_parallel=256, stop_on_failure=False,
            cancelled=Cancellation(), progress=nothing,
        )  # fmt: skip
        failed = [result for result in results if result.completed is None or result.completed.exit_code != 0]
        if failed:
            raise RuntimeError(f"{len(failed)} of {len(results)} failed, the first of them: {failed[0]}")


if __name__ == "__main__":
    serve({"engine": Engine})
