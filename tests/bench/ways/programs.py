"""Ways that are programs: `ssh -S`, pdsh, clush and ansible, all of them over the control masters that are there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from bench.ways.serve import Spec, serve

FORKS = 32
"""How many hosts pdsh and clush work on at once: pdsh's default, and faster for both on two cores than 64 or 256."""

ANSIBLE_FORKS = 64


class Program:
    """Runs programs to their ends; whatever is printed on stderr is a failure."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        # PYTHONPATH leads to our tests: nothing that clush or ansible should find.
        self.environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.environment.update(HOME=spec.folder, LC_ALL="C.UTF-8")
        self.addresses = [host.address for host in spec.hosts]

    def run(self, command: list[str], **environment: str) -> None:
        done = subprocess.run(
            command, env={**self.environment, **environment}, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if done.returncode != 0 or done.stderr:
            raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr[-2000:]}{done.stdout[-2000:]}")

    def rest(self) -> None:
        pass

    def close(self) -> None:
        pass


class OpenSsh(Program):
    """`ssh -S`, with the options of our own fallback; and `ssh` without a master."""

    def once(self) -> None:
        socket = str(Path(self.spec.folder, self.addresses[0]))
        options = ["-F", "/dev/null", "-S", socket, "-o", "ControlMaster=no", "-o", "ProxyCommand=false"]
        self.run(["ssh", *options, "-aTx", "--", "host", "true"])

    def login(self) -> None:
        self.run(["ssh", "-F", self.spec.cold_config, "-aTx", "--", self.addresses[0], "true"])


class Pdsh(Program):
    def everywhere(self) -> None:
        self._pdsh(self.spec.config)

    def cold(self) -> None:
        self._pdsh(self.spec.cold_config)

    def _pdsh(self, config: str) -> None:
        command = ["pdsh", "-R", "ssh", "-f", str(FORKS), "-w", ",".join(self.addresses), "true"]
        self.run(command, PDSH_SSH_ARGS_APPEND=f"-F {config}")


class Clush(Program):
    def everywhere(self) -> None:
        options = ["-q", "-S", "-f", str(FORKS), "-o", f"-F {self.spec.config}", "-w", ",".join(self.addresses)]
        self.run([self.spec.extra[0], *options, "true"])


class Ansible(Program):
    def everywhere(self) -> None:
        inventory = Path(self.spec.folder, "inventory")
        if not inventory.exists():
            inventory.write_text("".join(f"{address}\n" for address in self.addresses))
        self.run(
            [self.spec.extra[0], "all", "-i", str(inventory), "-m", "raw", "-a", "true", "-f", str(ANSIBLE_FORKS)],
            # Named here too, or ansible would add a control path, and so masters, of its own.
            ANSIBLE_SSH_ARGS=f"-F {self.spec.config} -o ControlMaster=auto -o ControlPersist=600 -o ControlPath={self.spec.folder}/%h",
        )


if __name__ == "__main__":
    serve({"ssh": OpenSsh, "pdsh": Pdsh, "clush": Clush, "ansible": Ansible})
