"""A call through FleetShell to an external MCP server, beside other programs that stand before such servers."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.mcp_client import Client, connected
from support.processes import wait_until
from support.relay import RelayHome, RelayProcess

from bench import setup
from bench.effort import Effort
from bench.load import Job, Report
from bench.peers import HERE, cpu_seconds, load, make_home, make_key, need, relay, resident_mebibytes
from bench.table import Missing, Part, Row, Values
from fleetshell_tools.core import yamlfile

CONNECTIONS = 16
WHAT = "echo of server-everything"
PEERS = ("mcp-proxy", "FastMCP proxy", "mcp-hub")
ALONE = {name: Row(f"{WHAT}, 1 connection, p50", f"{name}, p50", "ms", 1) for name in PEERS}
BUSY = {name: Row(f"{WHAT}, {CONNECTIONS} connections", name, "/s", 1.5, at_least=True) for name in PEERS}
COSTS = {name: Row(f"{WHAT}, CPU of the program before it", name, "ms") for name in PEERS}
LARGE = {name: Row("get-sum with 3 MB of arguments", name, "ms") for name in PEERS}
MEMORY = {name: Row("resident memory of the program before it", name, "MiB") for name in PEERS}
CPU = Row(f"{WHAT}, relay's CPU", "limit", "ms", 1)
CRASH = Row("server killed until it answers again", "limit", "ms", 1)
WARM = Row("server stopped until it answers", "limit", "ms", 1)
LEFT = Row("servers that end after SIGKILL of the relay", "servers that ran", "", 1, at_least=True)
LIMITS = {CPU: 1.3, CRASH: 1000.0, WARM: 400.0}
ROWS = (*ALONE.values(), *BUSY.values(), *COSTS.values(), *LARGE.values(), *MEMORY.values(), CPU, CRASH, WARM, LEFT)
STARTS = 5
"""Servers that are started, killed and started again, each once: only after a first failure there is no pause."""


@dataclass
class Front:
    """A program before the server: how its tool is called there, and what its rounds gave."""

    pid: int
    port: int
    params: Callable[[str, dict[str, Any]], dict[str, Any]]
    certificate: str = ""
    key: str = ""
    sse: bool = False
    alone: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)

    def load(self, tool: str, arguments: dict[str, Any], connections: int, seconds: float, most: int, warm_up: float) -> Report:  # fmt: skip
        return load(
            Job(
                self.port, "tools/call", self.params(tool, arguments), self.certificate, self.key, connections, seconds, most,
                warm_up, self.sse,
            )
        )  # fmt: skip

    def round(self, effort: Effort) -> None:
        """Throughput and CPU at sixteen connections, then latency at one."""
        echo = {"message": "hello"}
        before = cpu_seconds(self.pid)
        report = self.load("echo", echo, CONNECTIONS, effort.seconds, 100_000, effort.warm_up)
        self.costs.append((cpu_seconds(self.pid) - before) / report.sent)
        self.rates.append(report.rate)
        self.alone += self.load("echo", echo, 1, effort.seconds, 5000, effort.warm_up).latencies

    def large(self) -> float:
        """How long one call with three megabytes of arguments takes, in milliseconds."""
        arguments = {"a": 1, "b": 2, "padding": "x" * 3_000_000}
        started = time.perf_counter()
        once(self, "get-sum", arguments)
        return (time.perf_counter() - started) * 1000


def once(front: Front, tool: str, arguments: dict[str, Any]) -> None:
    """One call, whose request may be longer than a socket takes at once.

    Raises:
        Missing: It fails, as it does with some at this size.
    """
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    if front.key:
        headers["Authorization"] = f"Bearer {front.key}"
    connection: http.client.HTTPConnection
    if front.certificate:
        context = ssl.create_default_context(cafile=front.certificate)
        connection = http.client.HTTPSConnection("localhost", front.port, context=context, timeout=30)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", front.port, timeout=30)
    with contextlib.closing(connection):
        # One call says the same of mcp-hub over its REST interface, which takes as much as its other one.
        path = "/api/servers/tools" if front.sse else "/mcp"
        body: dict[str, Any] = {"server_name": "all", "tool": tool, "arguments": arguments}
        if not front.sse:
            hello = {
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "clientInfo": {"name": "bench", "version": "1"},
            }
            first = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
            connection.request("POST", path, json.dumps(first), headers)
            answer = connection.getresponse()
            answer.read()
            headers["Mcp-Session-Id"] = answer.headers["Mcp-Session-Id"]
            note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
            connection.request("POST", path, json.dumps(note), headers)
            connection.getresponse().read()
            body = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": front.params(tool, arguments)}
        connection.request("POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        said = answer.read().decode()
    if answer.status != 200 or '"result":' not in said.replace('": ', '":') or '"isError":true' in said:
        raise Missing(f"3 MB fail with HTTP {answer.status}")


def measure(folder: Path, effort: Effort) -> Values:
    """All programs side by side, each before a server of its own, round by round; then what only we promise."""
    need("node", module="mcp")
    script = str(setup.npm_package(setup.EVERYTHING) / "dist" / "index.js")
    values: Values = {}
    home = make_home(folder / "home", make_key(folder / "key"), "127.0.0.1", 22, "nobody")
    with open(home.path / "config.yaml", "a") as config:
        config.write("limits: {calls_per_minute: 0, session_calls_per_minute: 0}\n")
    for number in range(STARTS + 1):
        add(home, f"all{number}", script, auto_start=number == 0)
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(relay(home))
        ours = Front(
            process.process.pid, process.port, lambda tool, arguments: {"name": f"all0__{tool}", "arguments": arguments},
            str(home.certificate), home.api_key,
        )  # fmt: skip
        client = stack.enter_context(connected(process))
        wait_until(lambda: state(client, "all0")["status"] == "ready", 30, "the server runs")
        fronts: dict[str, Front] = {}
        for name, start in (("mcp-proxy", mcp_proxy), ("FastMCP proxy", fastmcp_proxy), ("mcp-hub", mcp_hub)):
            try:
                fronts[name] = stack.enter_context(start(script, folder))
            except Missing as why:
                values.update({rows[name]: why for rows in (ALONE, BUSY, COSTS, LARGE, MEMORY)})
        for _ in range(effort.rounds):
            for front in (ours, *fronts.values()):
                front.round(effort)
        large = min(ours.large() for _ in range(3))
        for name, front in fronts.items():
            values[ALONE[name]] = statistics.median(ours.alone) * 1000, statistics.median(front.alone) * 1000
            values[BUSY[name]] = statistics.median(ours.rates), statistics.median(front.rates)
            values[COSTS[name]] = statistics.median(ours.costs) * 1000, statistics.median(front.costs) * 1000
            values[MEMORY[name]] = resident_mebibytes(ours.pid), resident_mebibytes(front.pid)
            try:
                values[LARGE[name]] = large, min(front.large() for _ in range(3))
            except (Missing, OSError) as why:
                values[LARGE[name]] = Missing(f"{name}: {why}")
        ours_values = {
            CPU: statistics.median(ours.costs) * 1000,
            WARM: statistics.median(first_answer(client, f"all{number}") for number in range(1, STARTS + 1)) * 1000,
            CRASH: statistics.median(after_a_crash(client, home, f"all{number}") for number in range(1, STARTS + 1))
            * 1000,
        }
        values.update({row: (value, LIMITS[row]) for row, value in ours_values.items()})
        values[LEFT] = ended_with(process, home)
        client.session = ""  # the relay that knew it has been killed
    return values


def add(home: RelayHome, mcp_id: str, script: str, *, auto_start: bool) -> None:
    """A server's file, as `mcp add` would write it."""
    file = home.path / "mcps" / f"{mcp_id}.conf"
    server = {"id": mcp_id, "command": "node", "args": [script], "auto_start": auto_start, "expose": "all"}
    file.write_text(yamlfile.dump(server))
    file.chmod(0o600)


def state(client: Client, mcp_id: str) -> dict[str, Any]:
    found = client.call("list_external_mcps", query="echo")["structuredContent"]["mcps"]
    return next((one for one in found if one["id"] == mcp_id), {"status": "unknown"})


def first_answer(client: Client, mcp_id: str) -> float:
    """How long the first call to a server that does not run takes, in seconds."""
    started = time.perf_counter()
    client.text("call_external_tool", tool_name=f"{mcp_id}.echo", arguments={"message": "x"})
    return time.perf_counter() - started


def running(home: RelayHome) -> dict[str, int]:
    """The process ids of the relay's servers."""
    return {group["mcp_id"]: group["pid"] for group in json.loads((home.path / "run" / "mcps.json").read_text())}


def after_a_crash(client: Client, home: RelayHome, mcp_id: str) -> float:
    """How long a server that was killed does not answer, in seconds."""
    os.kill(running(home)[mcp_id], signal.SIGKILL)
    started = time.perf_counter()
    call = {"tool_name": f"{mcp_id}.echo", "arguments": {"message": "x"}}
    while client.call("call_external_tool", **call)["isError"]:
        if time.perf_counter() - started > 30:
            raise RuntimeError(f"{mcp_id} does not come back")
    return time.perf_counter() - started


def ended_with(process: RelayProcess, home: RelayHome) -> tuple[float, float]:
    """How many servers have ended five seconds after their relay was killed, and how many there were."""
    pids = list(running(home).values())
    relay_pid = process.process.pid
    children = [
        int(pid)
        for file in Path(f"/proc/{relay_pid}/task").glob("*/children")  # proc(5)
        for pid in file.read_text().split()
    ]
    process.stop(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    # Whoever ended them gives them some time before it ends itself.
    wait_until(lambda: not any(alive(pid) for pid in children if pid not in left), 20, "the relay's keeper has ended")
    return float(len(pids) - len(left)), float(len(pids))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def mcp_tool(tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The parameters of `tools/call` where names are as they were."""
    return {"name": tool, "arguments": arguments}


@contextlib.contextmanager
def listening(command: Callable[[int], list[str]], ready: Callable[[int], bool], **front: Any) -> Iterator[Front]:
    """A program on a free port, and its end with all its children."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    process = subprocess.Popen(
        command(port), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )  # fmt: skip
    try:
        wait_until(lambda: process.poll() is not None or ready(port), 60, f"{command(port)[0]} listens")
        if process.poll() is not None:
            raise Missing(f"{command(port)[0]} ended with exit code {process.returncode}")
        yield Front(process.pid, port, **front)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def mcp_proxy(script: str, folder: Path) -> contextlib.AbstractContextManager[Front]:
    program = setup.proxy_program("mcp-proxy")
    options = ["--pass-environment", "--log-level", "ERROR", "node", script]
    return listening(lambda port: [program, "--port", str(port), *options], open_port, params=mcp_tool)


def fastmcp_proxy(script: str, folder: Path) -> contextlib.AbstractContextManager[Front]:
    python = str(Path(setup.proxy_program("fastmcp")).with_name("python"))
    started = [python, str(HERE / "fastmcp_proxy.py")]
    return listening(lambda port: [*started, str(port), script], open_port, params=mcp_tool)


def mcp_hub(script: str, folder: Path) -> contextlib.AbstractContextManager[Front]:
    """It speaks MCP to its clients over the transport of 2024-11-05 alone, HTTP+SSE."""
    program = setup.npm_package(setup.HUB) / "dist" / "cli.js"
    config = folder / "hub.json"
    config.write_text(json.dumps({"mcpServers": {"all": {"command": "node", "args": [script]}}}))

    def command(port: int) -> list[str]:
        return ["node", str(program), "--port", str(port), "--config", str(config)]

    def params(tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return {"name": f"all__{tool}", "arguments": arguments}

    def ready(port: int) -> bool:
        try:
            once(Front(0, port, params, sse=True), "echo", {"message": "x"})
        except (Missing, OSError):
            return False
        return True

    return listening(command, ready, params=params, sse=True)


def open_port(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


PART = Part("upstream", ROWS, measure)
