"""Ways that keep a shell open on the first host: tmux and pxssh. `echo` types a command and waits for what it prints."""

from __future__ import annotations

import importlib
import itertools
import os
import subprocess
import time
from typing import Any

from bench.ways.serve import Spec, serve

PATIENCE = 20.0


class Tmux:
    """`send-keys`, then `capture-pane` until the output is there; the pane runs `ssh` over the control master."""

    def __init__(self, spec: Spec) -> None:
        self._environment = {**os.environ, "TMUX_TMPDIR": spec.folder, "TERM": "xterm", "LC_ALL": "C.UTF-8"}
        self._numbers = itertools.count(10_000_000)
        ssh = f"exec ssh -F {spec.config} -tt {spec.hosts[0].address}"
        self._tmux("-f", "/dev/null", "new-session", "-d", "-s", "bench", "-x", "80", "-y", "24", ssh)
        self.echo()

    def echo(self) -> None:
        wanted = f"x{next(self._numbers)}"
        self._tmux("send-keys", "-t", "bench", f"echo {wanted}", "Enter")
        deadline = time.monotonic() + PATIENCE
        # The line that we typed shows it too, behind a prompt.
        while wanted not in self._tmux("capture-pane", "-p", "-t", "bench").splitlines():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{wanted} did not come")

    def rest(self) -> None:
        pass

    def close(self) -> None:
        self._tmux("kill-server")

    def _tmux(self, *arguments: str) -> str:
        run = subprocess.run(
            ["tmux", "-L", "bench", *arguments], env=self._environment, check=True, stdin=subprocess.DEVNULL,
            capture_output=True, text=True,
        )  # fmt: skip
        return run.stdout


class Pxssh:
    """pexpect's pxssh over the control master, without its delay before it sends."""

    def __init__(self, spec: Spec) -> None:
        module: Any = importlib.import_module("pexpect.pxssh")
        self._shell = module.pxssh(timeout=PATIENCE, encoding="utf-8")
        self._shell.login(spec.hosts[0].address, spec.user, ssh_config=spec.config)
        self._shell.delaybeforesend = None
        self._numbers = itertools.count(10_000_000)
        self.echo()

    def echo(self) -> None:
        wanted = f"x{next(self._numbers)}"
        self._shell.sendline(f"echo {wanted}")
        # Behind the line that we typed comes the output, among escape sequences.
        if not self._shell.prompt() or wanted not in self._shell.before.partition("\n")[2]:
            raise RuntimeError(f"{wanted} did not come: {self._shell.before!r}")

    def rest(self) -> None:
        pass

    def close(self) -> None:
        self._shell.close(force=True)


if __name__ == "__main__":
    serve({"tmux": Tmux, "pxssh": Pxssh})
