"""`true` on 256 hosts at once, warm and cold, beside pdsh, clush, ansible, asyncssh and parallel-ssh; and what 256 connections cost."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from support.mcp_client import connected
from support.relay import RelayHome

from bench import setup
from bench.effort import Effort
from bench.loopback import Loopback, loopback, masters
from bench.peers import SERVERS, make_home, need, relay, resident_mebibytes
from bench.table import Missing, Part, Row, Values
from bench.worker import Worker, worker
from fleetshell_tools.core import yamlfile

WHAT = "`true` on all hosts, warm"
TARGETS = {"pdsh": 1 / 4, "clush": 1 / 4, "ansible": 1 / 20, "asyncssh": 1.0, "parallel-ssh": None}
WALLS = {peer: Row(WHAT, peer, "ms", target) for peer, target in TARGETS.items()}
CPUS = {
    "pdsh": Row(f"{WHAT}, client's CPU", "pdsh", "ms", 1 / 15),
    "asyncssh": Row(f"{WHAT}, client's CPU", "asyncssh", "ms"),
}
COLD = Row("`true` on all hosts, cold", "pdsh", "ms", 1.0)
COLD_CPU = Row("`true` on all hosts, cold, client's CPU", "pdsh", "ms")
MEMORY = Row("idle, connected to all hosts: the relay's RSS", "its control masters, USS", "MiB")
ROWS = (*WALLS.values(), *CPUS.values(), COLD, COLD_CPU, MEMORY)


def measure(folder: Path, effort: Effort) -> Values:
    """Rounds in turn; the slowest peer takes part in two of them only."""
    values: Values = {}
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(loopback(folder / "net", effort.daemons))
        effort.note(f"a fan-out goes to {len(net.spec.hosts)} hosts, which are {effort.daemons} SSH servers")
        with contextlib.ExitStack() as connections:
            connections.enter_context(masters(net.spec))
            ways, missing = _start(net, folder, connections)
            for number in range(effort.fan_outs + 1):
                for name, way in ways.items():
                    if name != "ansible" or number in (1, 2):
                        way.run("everywhere", keep=number > 0)
            for _ in range(max(effort.fan_outs // 2, 1)):
                for name in ("engine", "pdsh"):
                    if name in ways:
                        ways[name].run("cold")
        values[MEMORY] = _memory(net, folder, stack)
    ours = ways["engine"].samples
    for peer, row in WALLS.items():
        values[row] = missing.get(peer) or (
            ours["everywhere"].median * 1000,
            ways[peer].samples["everywhere"].median * 1000,
        )
    for peer, row in CPUS.items():
        values[row] = missing.get(peer) or (ours["everywhere"].cpu * 1000, ways[peer].samples["everywhere"].cpu * 1000)
    values[COLD] = missing.get("pdsh") or (ours["cold"].median * 1000, ways["pdsh"].samples["cold"].median * 1000)
    values[COLD_CPU] = missing.get("pdsh") or (ours["cold"].cpu * 1000, ways["pdsh"].samples["cold"].cpu * 1000)
    return values


def _start(net: Loopback, folder: Path, stack: contextlib.ExitStack) -> tuple[dict[str, Worker], dict[str, Missing]]:
    """Every way that can be had, connected to all hosts; and why the others can't."""
    ways = {"engine": stack.enter_context(worker("engine", "engine", net.spec, str(folder / "fleet")))}
    missing: dict[str, Missing] = {}
    for name in TARGETS:
        try:
            ways[name] = stack.enter_context(_peer(name, net))
        except Missing as why:
            missing[name] = why
    return ways, missing


def _peer(name: str, net: Loopback) -> contextlib.AbstractContextManager[Worker]:
    if name == "pdsh":
        need("pdsh")
        return worker("programs", name, net.spec)
    if name in ("clush", "ansible"):
        return worker("programs", name, net.spec, setup.script(name, {"clush": "ClusterShell"}.get(name, name)))
    return worker("libraries", name, net.spec, python=setup.python_with({"parallel-ssh": "pssh"}.get(name, name)))


def _memory(net: Loopback, folder: Path, stack: contextlib.ExitStack) -> tuple[float, float]:
    """Mebibytes of a relay that has run one command on every host, and of its masters."""
    home = make_home(folder / "home", net.key, "127.0.0.1", 22, net.spec.user)
    for name in SERVERS:
        (home.path / "servers" / f"{name}.conf").unlink()
    for host in net.spec.hosts:
        file = home.path / "servers" / f"{host.name}.conf"
        file.write_text(
            yamlfile.dump({"id": host.name, "hostname": host.address, "ssh_port": host.port, "ssh_user": net.spec.user})
        )
        file.chmod(0o600)
    (home.path / "known_hosts").write_text("".join(f"{host.name} {host.host_key}\n" for host in net.spec.hosts))
    process = stack.enter_context(relay(home))
    with connected(process, timeout=120) as client:
        said = client.text("multi_server_execute", command="true", server_ids=["*"], max_parallel=256)
    found = list(_masters(home))
    if len(found) != len(net.spec.hosts):
        raise RuntimeError(
            f"the relay has {len(found)} control masters, not {len(net.spec.hosts)}; it said: {said[:2000]}"
        )
    return resident_mebibytes(process.process.pid), sum(map(_unshared_mebibytes, found))


def _masters(home: RelayHome) -> Iterator[int]:
    """The process ids of a relay's control masters: they work in its folder `run`."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "comm").read_text() == "ssh\n" and (entry / "cwd").resolve() == home.path / "run":
                    yield int(entry.name)


def _unshared_mebibytes(pid: int) -> float:
    """USS: what would be free if the process ended (proc(5), /proc/pid/smaps_rollup)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:"))) / 1024


PART = Part("ssh-fanout", ROWS, measure)
