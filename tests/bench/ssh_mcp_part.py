"""`execute_command` with `true` on a warm connection, over MCP with everything on, beside two MCP servers from npm and `ssh -S`."""

from __future__ import annotations

import contextlib
from pathlib import Path

from support.relay import RelayHome, RelayProcess

from bench import setup
from bench.effort import Effort
from bench.load import Job, Report
from bench.loopback import loopback, masters
from bench.peers import SERVERS, cpu_seconds, load, make_home, relay
from bench.table import Missing, Part, Row, Values
from bench.worker import Samples, Worker, worker

WHAT = "execute_command `true`, warm, over TLS"
NPM = {
    "ssh-mcp": Row(f"{WHAT}, p50", "ssh-mcp over stdio, p50", "ms", 1 / 8),
    "mcp-ssh-manager": Row(f"{WHAT}, p50", "mcp-ssh-manager over stdio, p50", "ms", 1 / 8),
}
SCRIPTS = {"ssh-mcp": "build/index.js", "mcp-ssh-manager": "src/index.js"}
WARM = Row(f"{WHAT}, p50", "ssh -S, p50", "ms")
COLD = Row(f"{WHAT}, p50", "ssh, no master, p50", "ms")
CPU = Row(f"{WHAT}, relay's CPU", "ssh -S", "ms")
ROWS = (*NPM.values(), WARM, COLD, CPU)
ROUNDS = 6
PER_SLOW = {"ssh-mcp": 10, "mcp-ssh-manager": 10, "login": 20}
"""What takes so many times as long as a command of ours is run less often by as much."""


def measure(folder: Path, effort: Effort) -> Values:
    """Rounds in turn, so that all meet the same machine."""
    values: Values = {}
    ours = Samples()
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(loopback(folder / "net", 1))
        stack.enter_context(masters(net.spec))
        host = net.spec.hosts[0]
        home = make_home(folder / "home", net.key, host.address, host.port, net.spec.user)
        process = stack.enter_context(relay(home))
        ssh = stack.enter_context(worker("programs", "ssh", net.spec))
        npm: dict[str, Worker] = {}
        for name, row in NPM.items():
            try:
                script = setup.npm_package(name) / SCRIPTS[name]
                npm[name] = stack.enter_context(worker("npm_servers", name, net.spec, str(script), str(folder / name)))
            except Missing as why:
                values[row] = why
        count = max(effort.commands // ROUNDS, 1)
        _ours(home, process, count)
        for way in (*npm.values(), ssh):
            way.run("once", 2, keep=False)
        for _ in range(min(ROUNDS, effort.commands)):
            before = cpu_seconds(process.process.pid)
            report = _ours(home, process, count)
            ours.cpus.append((cpu_seconds(process.process.pid) - before) / report.sent)
            ours.times += report.latencies
            ssh.run("once", count)
            ssh.run("login", max(count // PER_SLOW["login"], 1))
            for name, way in npm.items():
                way.run("once", max(count // PER_SLOW[name], 1))
    for name, way in npm.items():
        values[NPM[name]] = ours.median * 1000, way.samples["once"].median * 1000
    values[WARM] = ours.median * 1000, ssh.samples["once"].median * 1000
    values[COLD] = ours.median * 1000, ssh.samples["login"].median * 1000
    values[CPU] = ours.cpu * 1000, ssh.samples["once"].cpu * 1000
    return values


def _ours(home: RelayHome, process: RelayProcess, count: int) -> Report:
    params = {"name": "execute_command", "arguments": {"server_id": SERVERS[0], "command": "true"}}
    return load(
        Job(process.port, "tools/call", params, str(home.certificate), home.api_key, seconds=20, most=count, warm_up=0)
    )


PART = Part("ssh-mcp", ROWS, measure)
