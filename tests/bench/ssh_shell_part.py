"""`echo` in a shell session that is kept, beside tmux, pxssh and our own command without a session."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from bench import setup
from bench.effort import Effort
from bench.loopback import loopback, masters
from bench.peers import need
from bench.table import Missing, Part, Row, Values
from bench.worker import Worker, worker

WHAT = "`echo` in a shell session, p50"
TMUX = Row(WHAT, "tmux, p50", "ms", 1 / 8)
PXSSH = Row(WHAT, "pxssh without its delay, p50", "ms", 0.7)
ONE_SHOT = Row(WHAT, "our own command, p50", "ms", 1 / 5)
ROWS = (TMUX, PXSSH, ONE_SHOT)
ROUNDS = 10


def measure(folder: Path, effort: Effort) -> Values:
    """Short rounds in turn."""
    values: Values = {}
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(loopback(folder / "net", 1))
        stack.enter_context(masters(net.spec))
        engine = stack.enter_context(worker("engine", "engine", net.spec, str(folder / "fleet")))
        peers: dict[Row, Worker] = {}
        for row, name in ((TMUX, "tmux"), (PXSSH, "pxssh")):
            try:
                if row is TMUX:
                    need("tmux")
                python = sys.executable if row is TMUX else setup.python_with("pexpect")
                peers[row] = stack.enter_context(worker("shells", name, net.spec, python=python))
            except Missing as why:
                values[row] = why
        count = max(effort.commands // ROUNDS, 1)
        for number in range(min(ROUNDS, effort.commands) + 1):
            for way, do in ((engine, "echo"), (engine, "once"), *((way, "echo") for way in peers.values())):
                way.run(do, count, keep=number > 0)
    ours = engine.samples["echo"].median * 1000
    values[ONE_SHOT] = ours, engine.samples["once"].median * 1000
    return {**values, **{row: (ours, way.samples["echo"].median * 1000) for row, way in peers.items()}}


PART = Part("ssh-shell", ROWS, measure)
