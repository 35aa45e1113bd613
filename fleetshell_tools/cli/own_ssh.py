"""Putting the relay's public key on servers through the user's own ssh: their keys, agent, configuration and passwords."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from fleetshell_tools.cli import output
from fleetshell_tools.core.errors import FleetShellError
from fleetshell_tools.core.servers import Inventory, Server
from fleetshell_tools.core.text import one_line

AT_ONCE = 16
SECONDS = 60
"""How long one host may take where nobody is asked anything."""

_PUT = (
    'umask 077; cd; f=.ssh/authorized_keys; mkdir -p .ssh; touch "$f"; '
    'if grep -qF "$2" "$f"; then echo fleetshell:there; exit 0; fi; '
    '[ -z "$(tail -c 1 "$f")" ] || echo >>"$f"; '
    'printf "%s\\n" "$1" >>"$f"; '
    "! command -v restorecon >/dev/null || restorecon -F .ssh .ssh/authorized_keys 2>/dev/null || :; "
    "echo fleetshell:added"
)
"""Adds the line `$1` where no line holds the key `$2`; it stands in one line, because login shells such as csh want that."""


@dataclass(frozen=True)
class Put:
    """How it went on one server: `added`, `there` (it had the key already), `failed` or `skipped`, and why."""

    server_id: str
    state: str
    reason: str = ""

    @property
    def asks(self) -> bool:
        """Whether a person could help it: a password, a passphrase, an unknown host key."""
        return self.state == "failed" and ("Permission denied" in self.reason or "Host key verification" in self.reason
                                           or "Too many authentication failures" in self.reason)  # fmt: skip

    @property
    def sentence(self) -> str:
        said = {"added": "the key was added", "there": "it had the key already"}.get(self.state, self.state)
        return f"{said}: {self.reason}" if self.reason else said


def put(inventory: Inventory, chosen: Sequence[Server], line: str) -> Iterator[Put]:
    """Put the key on servers, several at once; yields each result as it comes.

    What needs a password is tried again at the end on the terminal, one after the other, where there is one. A second run finds what the
    first one did.

    Args:
        line: The line for `authorized_keys`.

    Raises:
        FleetShellError: ssh is not installed.
    """
    program = shutil.which("ssh")
    if program is None:
        raise FleetShellError("ssh is not installed. Install it (Debian, Ubuntu: `apt install openssh-client`).")
    again: list[Server] = []
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="install") as pool:
        try:
            futures = {pool.submit(_one, program, inventory, server, line, False): server for server in chosen}
            for future in as_completed(futures):
                done = future.result()
                if done.asks and output.interactive():
                    again.append(futures[future])
                else:
                    yield done
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    for server in again:
        print(f"{server.id}: your ssh asks", flush=True)
        yield _one(program, inventory, server, line, True)


def _one(program: str, inventory: Inventory, server: Server, line: str, asking: bool) -> Put:
    why = why_not(server)
    if why:
        return Put(server.id, "skipped", why)
    try:
        command = [program, *_way(inventory, server), "sh -c " + shlex.join([_PUT, "sh", line, line.split()[1]])]
    except FleetShellError as error:
        return Put(server.id, "failed", error.message)
    quiet = [] if asking else ["-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]
    try:
        run = subprocess.run(
            [*command[:1], *quiet, *command[1:]],
            stdout=subprocess.PIPE,
            stderr=None if asking else subprocess.PIPE,
            stdin=None if asking else subprocess.DEVNULL,
            timeout=None if asking else SECONDS,
        )
    except subprocess.TimeoutExpired:
        return Put(server.id, "failed", f"no answer within {SECONDS} s")
    said = run.stdout.decode("utf-8", "replace")
    for state in ("added", "there"):
        if f"fleetshell:{state}" in said:
            return Put(server.id, state)
    if asking:
        return Put(server.id, "failed", "what ssh said stands above")
    errors = [one for one in run.stderr.decode("utf-8", "replace").splitlines() if one.strip()]
    return Put(server.id, "failed", one_line(" ".join(errors[-2:]), 300) or f"ssh ended with {run.returncode}")


def why_not(server: Server) -> str:
    """Why the relay's key is not for this server; "" where it is."""
    if server.connection == "local":
        return "it is this machine, reached without ssh"
    if server.identity_file:
        return f"it has a key of its own ({server.identity_file})"
    return "it is `raw`: put the line of `fleetshell pubkey` there by its own means" if server.raw else ""


def _way(inventory: Inventory, server: Server) -> list[str]:
    """ssh's arguments up to the destination."""
    words = []
    hop = inventory.jump(server)
    hops: list[str] = []
    while hop is not None:
        hops.insert(0, _hop(inventory, hop))
        hop = inventory.jump(hop)
    if hops:
        words += ["-J", ",".join(hops)]
    user = inventory.user(server)
    if user:
        words += ["-l", user]
    if server.ssh_port or not server.use_ssh_config:
        words += ["-p", str(inventory.port(server))]
    return [*words, "--", server.use_ssh_config or server.hostname.strip("[]")]


def _hop(inventory: Inventory, server: Server) -> str:
    if server.use_ssh_config:
        return server.use_ssh_config
    user = inventory.user(server)
    name = server.hostname.strip("[]")
    return f"{user + '@' if user else ''}{f'[{name}]' if ':' in name else name}:{inventory.port(server)}"
