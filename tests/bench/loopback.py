"""Many hosts on one machine: SSH servers on 127.10.x.y, and what each way to reach them has to know."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes import wait_until
from support.sshd import KeyPair, Sshd, make_key

from bench.peers import need
from bench.table import Missing
from bench.ways.serve import Host, Spec

SETTINGS = (
    # One answer for all clients: what is compared is how they run commands, not which algorithms they prefer.
    "KexAlgorithms curve25519-sha256,curve25519-sha256@libssh.org",
    "Ciphers aes128-ctr",
    "MACs hmac-sha2-256",
    "MaxStartups 1000:30:2000",
)
MASTERS_AT_ONCE = 16


@dataclasses.dataclass(frozen=True)
class Loopback:
    """The running servers; `spec` says how to reach them."""

    servers: list[Sshd]
    key: KeyPair
    spec: Spec


@contextlib.contextmanager
def loopback(folder: Path, daemons: int) -> Iterator[Loopback]:
    """Start `daemons` SSH servers with as many addresses each, and make the key that they let in."""
    need("ssh", "ssh-keygen")
    folder.mkdir()
    key = make_key(folder / "key")
    servers: list[Sshd] = []
    with contextlib.ExitStack() as stack:
        for number in range(daemons):
            addresses = [f"127.10.{number}.{last}" for last in range(1, daemons + 1)]
            try:
                server = Sshd(
                    folder / f"sshd{number}", key.public, addresses=addresses, max_sessions=100, extra=SETTINGS
                )
            except pytest.skip.Exception as why:
                raise Missing(str(why)) from None
            stack.callback(server.stop)
            servers.append(server)
        yield Loopback(servers, key, _spec(folder, key, servers))


@contextlib.contextmanager
def masters(spec: Spec) -> Iterator[None]:
    """A control master to every host, at the socket that ssh's configuration names."""
    with contextlib.ExitStack() as stack:
        hosts = list(spec.hosts)
        while hosts:
            batch, hosts = hosts[:MASTERS_AT_ONCE], hosts[MASTERS_AT_ONCE:]
            for host in batch:
                command = ["ssh", "-F", spec.config, "-aTxMN", "--", host.address]
                process = stack.enter_context(subprocess.Popen(command, stdin=subprocess.DEVNULL))
                stack.callback(process.terminate)
            for host in batch:
                wait_until(Path(spec.folder, host.address).exists, 60, f"the control master of {host.address} listens")
        yield


def _spec(folder: Path, key: KeyPair, servers: list[Sshd]) -> Spec:
    known_hosts = folder / "known_hosts"
    known_hosts.write_text("".join(f"{server.host_key_line}\n" for server in servers))
    hosts = [
        Host(f"h{number:03}", address, server.port, server.host_key)
        for number, (server, address) in enumerate(
            (server, address) for server in servers for address in server.addresses
        )
    ]
    common = [
        f"User {servers[0].user}",
        f"IdentityFile {key.private}",
        f"UserKnownHostsFile {known_hosts}",
        "GlobalKnownHostsFile /dev/null",
        "IdentitiesOnly yes",
        "StrictHostKeyChecking yes",
        "BatchMode yes",
        "LogLevel ERROR",
    ]
    # Patterns, one for each daemon: every ssh that is started reads this file.
    ports = [f"Host {server.address.rpartition('.')[0]}.*\n  Port {server.port}\n" for server in servers]
    for name, more in (("config", [f"ControlPath {folder}/%h"]), ("cold", ["ControlPath none"])):
        settings = "".join(f"  {line}\n" for line in [*common, *more])
        (folder / name).write_text(f"{''.join(ports)}Host *\n{settings}")
    return Spec(
        hosts=tuple(hosts),
        user=servers[0].user,
        key=str(key.private),
        known_hosts=str(known_hosts),
        config=str(folder / "config"),
        cold_config=str(folder / "cold"),
        folder=str(folder),
    )
