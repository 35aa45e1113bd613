"""`tools/list` and `tools/call` over HTTP: throughput, latency, CPU and memory beside the Python SDK's own server."""

from __future__ import annotations

import contextlib
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.effort import Effort
from bench.load import Job, Report
from bench.peers import cpu_seconds, load, make_home, make_key, relay, resident_mebibytes, sdk_server
from bench.table import Part, Row, Values

CONNECTIONS = 8
LIST = "tools/list"
CALL = "tools/call"
PARAMS: dict[str, dict[str, Any]] = {LIST: {}, CALL: {"name": "list_servers", "arguments": {}}}
SDK = "Python SDK"
RATES = {
    CALL: Row("tools/call, 8 connections", SDK, "/s", 6, at_least=True),
    LIST: Row("tools/list, 8 connections", SDK, "/s", 20, at_least=True),
}
JSON_RATES = {
    CALL: Row("tools/call, 8 connections", f"{SDK}, json_response", "/s"),
    LIST: Row("tools/list, 8 connections", f"{SDK}, json_response", "/s"),
}
TLS_RATES = {
    CALL: Row("tools/call, 8 connections, ours over TLS", SDK, "/s"),
    LIST: Row("tools/list, 8 connections, ours over TLS", SDK, "/s"),
}
COSTS = {
    CALL: Row("tools/call, server's CPU per request", SDK, "µs"),
    LIST: Row("tools/list, server's CPU per request", SDK, "µs"),
}
MEDIANS = {
    CALL: Row("tools/call, 1 connection, p50", f"{SDK}, p50", "ms"),
    LIST: Row("tools/list, 1 connection, p50", f"{SDK}, p50", "ms"),
}
TAILS = {
    CALL: Row("tools/call, 1 connection, p99", f"{SDK}, p50", "ms", 1),
    LIST: Row("tools/list, 1 connection, p99", f"{SDK}, p50", "ms", 1),
}
MEMORY = Row("resident memory after the run", SDK, "MiB", 0.5)
ROWS = (
    *RATES.values(),
    *JSON_RATES.values(),
    *TLS_RATES.values(),
    *COSTS.values(),
    *MEDIANS.values(),
    *TAILS.values(),
    MEMORY,
)


@dataclass
class Server:
    """A server under load, and what its rounds gave."""

    pid: int
    port: int
    certificate: str = ""
    key: str = ""
    busy: dict[str, list[Report]] = field(default_factory=dict)
    alone: dict[str, list[Report]] = field(default_factory=dict)
    costs: dict[str, list[float]] = field(default_factory=dict)

    def round(self, method: str, effort: Effort) -> None:
        """Throughput at eight connections, then latency at one."""

        def job(connections: int, most: int) -> Job:
            return Job(
                self.port,
                method,
                PARAMS[method],
                self.certificate,
                self.key,
                connections,
                effort.seconds,
                most,
                effort.warm_up,
            )

        before = cpu_seconds(self.pid)
        report = load(job(CONNECTIONS, 200_000))
        self.costs.setdefault(method, []).append((cpu_seconds(self.pid) - before) / report.sent)
        self.busy.setdefault(method, []).append(report)
        self.alone.setdefault(method, []).append(load(job(1, 20_000)))

    def rate(self, method: str) -> float:
        return statistics.median(report.rate for report in self.busy[method])

    def cost(self, method: str) -> float:
        """Microseconds of CPU a request."""
        return statistics.median(self.costs[method]) * 1e6

    def milliseconds(self, method: str, share: float) -> float:
        """A percentile of the latencies of all rounds."""
        latencies = sorted(latency for report in self.alone[method] for latency in report.latencies)
        return latencies[min(int(len(latencies) * share), len(latencies) - 1)] * 1000

    @property
    def generator_cpu(self) -> float:
        return max(report.cpu for reports in self.busy.values() for report in reports)


def measure(folder: Path, effort: Effort) -> Values:
    """Run the servers side by side and load one after the other, round by round, so that all meet the same machine."""
    key = make_key(folder / "key")
    # Nothing is run on a server here, so nothing needs to listen there.
    homes = [make_home(folder / name, key, "127.0.0.1", 22, "nobody") for name in ("plain", "tls")]
    with contextlib.ExitStack() as stack:
        plain, secure = (
            stack.enter_context(relay(home, *extra)) for home, extra in zip(homes, (["--no-tls"], []), strict=True)
        )
        sdk = Server(*stack.enter_context(sdk_server(plain)))
        sdk_json = Server(*stack.enter_context(sdk_server(plain, "--json")))
        ours = Server(plain.process.pid, plain.port, key=homes[0].api_key)
        ours_tls = Server(secure.process.pid, secure.port, str(homes[1].certificate), homes[1].api_key)
        for _ in range(effort.rounds):
            for method in (CALL, LIST):
                for server in (ours, sdk, sdk_json, ours_tls):
                    server.round(method, effort)
        values: Values = {MEMORY: (resident_mebibytes(ours.pid), resident_mebibytes(sdk.pid))}
    for method in (CALL, LIST):
        sizes = [len(server.busy[method][0].answer) for server in (ours, sdk)]
        effort.note(f"{method} answers have {sizes[0]:,} bytes from FleetShell and {sizes[1]:,} from the SDK")
        values[RATES[method]] = ours.rate(method), sdk.rate(method)
        values[JSON_RATES[method]] = ours.rate(method), sdk_json.rate(method)
        values[TLS_RATES[method]] = ours_tls.rate(method), sdk.rate(method)
        values[COSTS[method]] = ours.cost(method), sdk.cost(method)
        values[MEDIANS[method]] = ours.milliseconds(method, 0.5), sdk.milliseconds(method, 0.5)
        values[TAILS[method]] = ours.milliseconds(method, 0.99), sdk.milliseconds(method, 0.5)
    effort.note(f"the load generator took at most {max(ours.generator_cpu, ours_tls.generator_cpu):.0%} of a core")
    return values


PART = Part("mcp", ROWS, measure)
