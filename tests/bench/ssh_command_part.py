"""`true` on one warm connection: our engine in process, with guard and audit on, beside `ssh -S`, asyncssh and paramiko."""

from __future__ import annotations

import contextlib
from pathlib import Path

from bench import setup
from bench.effort import Effort
from bench.loopback import loopback, masters
from bench.table import Missing, Part, Row, Values
from bench.worker import worker

WHAT = "`true`, warm, in process"
SSH_P50 = Row(f"{WHAT}, p50", "ssh -S, p50", "ms", 0.45)
SSH_CPU = Row(f"{WHAT}, client's CPU", "ssh -S", "ms", 0.1)
ASYNCSSH_P50 = Row(f"{WHAT}, p50", "asyncssh, p50", "ms", 0.9)
ASYNCSSH_CPU = Row(f"{WHAT}, client's CPU", "asyncssh", "ms")
PARAMIKO_P99 = Row(f"{WHAT}, p99", "paramiko, p99", "ms", 0.5)
PARAMIKO_P50 = Row(f"{WHAT}, p50", "paramiko, p50", "ms")
ROWS = (SSH_P50, SSH_CPU, ASYNCSSH_P50, ASYNCSSH_CPU, PARAMIKO_P99, PARAMIKO_P50)
ROUNDS = 20


def measure(folder: Path, effort: Effort) -> Values:
    """Short rounds in turn, so that noise meets all of them."""
    missing: dict[str, Missing] = {}
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(loopback(folder / "net", 1))
        stack.enter_context(masters(net.spec))
        ways = {
            "engine": stack.enter_context(worker("engine", "engine", net.spec, str(folder / "fleet"))),
            "ssh": stack.enter_context(worker("programs", "ssh", net.spec)),
        }
        for name in ("asyncssh", "paramiko"):
            try:
                ways[name] = stack.enter_context(worker("libraries", name, net.spec, python=setup.python_with(name)))
            except Missing as why:
                missing[name] = why
        count = max(effort.commands // ROUNDS, 1)
        for way in ways.values():
            way.run("once", count, keep=False)
        for _ in range(min(ROUNDS, effort.commands)):
            for way in ways.values():
                way.run("once", count)
    ours = ways["engine"].samples["once"]

    def values(name: str, share: float | None) -> tuple[float, float] | Missing:
        if name in missing:
            return missing[name]
        pair = (ours, ways[name].samples["once"])
        first, second = (way.cpu if share is None else way.percentile(share) for way in pair)
        return first * 1000, second * 1000

    return {
        SSH_P50: values("ssh", 0.5),
        SSH_CPU: values("ssh", None),
        ASYNCSSH_P50: values("asyncssh", 0.5),
        ASYNCSSH_CPU: values("asyncssh", None),
        PARAMIKO_P99: values("paramiko", 0.99),
        PARAMIKO_P50: values("paramiko", 0.5),
    }


PART = Part("ssh-command", ROWS, measure)
