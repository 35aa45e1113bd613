"""`execute_command` with `true` against a real sshd, over MCP with everything on, beside `ssh` with and without a master."""

from __future__ import annotations

import contextlib
import resource
import statistics
import subprocess
from collections.abc import Iterator
from pathlib import Path

from support.processes import wait_until
from support.relay import RelayHome, RelayProcess
from support.sshd import Sshd

from bench.effort import Effort
from bench.load import Job, Report
from bench.peers import SERVERS, cpu_seconds, load, make_home, make_key, need, relay, seconds, sshd
from bench.table import Part, Row

WARM = Row("execute_command `true`, warm, MCP over TLS, p50", "ssh -S, p50", "ms", 0.45)
COLD = Row("execute_command `true`, warm, MCP over TLS, p50", "ssh, no master, p50", "ms")
CPU = Row("execute_command `true`, warm, CPU per command", "ssh -S", "ms", 0.1)
ROWS = (WARM, COLD, CPU)
COMMANDS_PER_LOGIN = 20
"""A login takes fifty times as long as a command, so there are fewer of them."""


def measure(folder: Path, effort: Effort) -> dict[Row, tuple[float, float]]:
    """Three rounds, each with a third of the commands in every way, so that all meet the same machine."""
    need("ssh")
    key = make_key(folder / "key")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(sshd(folder / "sshd", key))
        home = make_home(folder / "home", key, server.address, server.port, server.user)
        process = stack.enter_context(relay(home))
        client = ["ssh", *_options(folder, key.private, server), "-aTx"]
        socket = stack.enter_context(_master(folder, client, server))
        warm = [*client, "-S", str(socket), "-o", "ControlMaster=no", "-o", "ProxyCommand=false", "--", server.address, "true"]
        cold = [*client, "-S", "none", "--", server.address, "true"]
        _ours(home, process, 1)  # connects
        _ssh(warm, 1)
        ours, peers, logins = [], [], []
        our_cpu, their_cpu = 0.0, 0.0
        for _ in range(3):
            before = cpu_seconds(process.process.pid)
            report = _ours(home, process, max(effort.commands // 3, 1))
            our_cpu += (cpu_seconds(process.process.pid) - before) / report.sent
            ours += report.latencies
            before = _children()
            times = _ssh(warm, max(effort.commands // 3, 1))
            their_cpu += (_children() - before) / len(times)
            peers += times
            logins += _ssh(cold, max(effort.commands // COMMANDS_PER_LOGIN // 3, 1))
    ours_ms, warm_ms, cold_ms = (statistics.median(times) * 1000 for times in (ours, peers, logins))
    return {WARM: (ours_ms, warm_ms), COLD: (ours_ms, cold_ms), CPU: (our_cpu / 3 * 1000, their_cpu / 3 * 1000)}


def _ours(home: RelayHome, process: RelayProcess, count: int) -> Report:
    params = {"name": "execute_command", "arguments": {"server_id": SERVERS[0], "command": "true"}}
    return load(Job(process.port, "tools/call", params, str(home.certificate), home.api_key, seconds=20, most=count, warm_up=0))


def _ssh(command: list[str], count: int) -> list[float]:
    """The seconds that each of `count` runs took."""
    return [seconds(command) for _ in range(count)]


def _children() -> float:
    """CPU seconds of our children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _options(folder: Path, key: Path, server: Sshd) -> list[str]:
    known_hosts = folder / "known_hosts"
    known_hosts.write_text(server.host_key_line + "\n")
    settings = ["BatchMode=yes", f"UserKnownHostsFile={known_hosts}", "StrictHostKeyChecking=yes", "IdentitiesOnly=yes", "LogLevel=ERROR"]
    return ["-F", "/dev/null", "-i", str(key), "-p", str(server.port), "-l", server.user, *(f"-o{setting}" for setting in settings)]


@contextlib.contextmanager
def _master(folder: Path, client: list[str], server: Sshd) -> Iterator[Path]:
    """A control master in the foreground; gives its socket."""
    socket = folder / "master"
    command = [*client, "-MN", "-S", str(socket), "--", server.address]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: socket.exists() or process.poll() is not None, 20, "the control master listens")
            yield socket
        finally:
            process.terminate()


PART = Part("ssh", ROWS, measure)
