"""Looking at a host: `get_system_info`, `get_disk_usage` and `get_process_list`, one round trip each."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fleetshell_tools.core import disks, hostinfo, processes
from fleetshell_tools.core.context import Context
from fleetshell_tools.core.disks import size
from fleetshell_tools.core.scripts import Ran, Script
from fleetshell_tools.core.text import one_line
from fleetshell_tools.core.tool import Output, Pattern, Range, tool

ServerId = Annotated[str, "From list_servers"]


@dataclass(frozen=True)
class SystemInfo(Output):
    server_id: str
    hostname: str | None
    os: dict[str, Any]
    kernel: str | None
    architecture: str | None
    virtualisation: dict[str, Any]
    cpu: dict[str, Any]
    memory: dict[str, Any]
    uptime_seconds: int | None
    boot_time: str | None
    time: dict[str, Any]
    reboot: dict[str, Any]
    failed_units: list[str] | None
    logged_in: int | None
    addresses: list[dict[str, str]] | None
    updates: dict[str, Any] | None
    warnings: list[str]
    unknown: dict[str, str]

    def text(self) -> str:
        cpu, memory, clock = self.cpu, self.memory, self.time
        kinds = [
            self.virtualisation[key]
            for key in ("machine", "container")
            if self.virtualisation[key] not in (None, "none")
        ]
        load = " ".join(f"{value:g}" for value in cpu["load"]) if cpu["load"] else "unknown"
        swap = (
            f"; swap {size(memory['swap_free_bytes'])} of {size(memory['swap_total_bytes'])} free"
            if memory["swap_total_bytes"]
            else ""
        )
        limits = [
            f"{cpu['limit']:g} CPUs" if "limit" in cpu else "",
            size(memory["limit_bytes"]) if "limit_bytes" in memory else "",
        ]
        offset = (
            ""
            if clock["offset_seconds"] is None
            else f", {clock['offset_seconds']:+g} s (± {clock['offset_accuracy']:g}) from the relay's"
        )
        kept = {True: "synchronised", False: "not synchronised", None: "synchronisation unknown"}[clock["synchronised"]]
        lines = [
            f"{self.server_id}: {self.os['name'] or 'unknown system'}, up {duration(self.uptime_seconds)}",
            *(f"! {warning}" for warning in self.warnings),
            f"host {self.hostname or '?'}, {self.kernel or '?'} {self.architecture or '?'}{' on ' + ', '.join(kinds) if kinds else ''}",
            f"load {load} on {cpu['count'] or '?'} CPUs ({cpu['model'] or 'model unknown'})",
            f"memory {size(memory['available_bytes'])} of {size(memory['total_bytes'])} available{swap}",
            *([f"limits of its control group: {', '.join(filter(None, limits))}"] if any(limits) else []),
            f"time {clock['utc'] or 'unknown'} (zone {clock['zone'] or '?'}), {kept}{offset}",
        ]
        if self.boot_time:
            lines.append(f"started {self.boot_time}; reboot pending: {_yes(self.reboot['required'])}")
        lines.append(
            f"failed units: {'unknown' if self.failed_units is None else len(self.failed_units)}; logged in: {'unknown' if self.logged_in is None else self.logged_in}"
        )
        if self.addresses:
            lines.append(
                "addresses " + ", ".join(f"{item['address']} ({item['interface']})" for item in self.addresses)
            )
        if self.updates:
            lines.append(
                f"updates pending: {self.updates['pending']} ({'?' if self.updates['security'] is None else self.updates['security']} security)"
            )
        lines += [f"unknown: {name} ({why})" for name, why in self.unknown.items()]
        return "\n".join(lines)


@dataclass(frozen=True)
class DiskUsage(Output):
    server_id: str
    filesystems: list[dict[str, Any]]
    warnings: list[str]
    path: str | None = None
    largest: list[dict[str, Any]] | None = None
    partial: bool = False
    truncated: bool = False
    notice: str | None = None

    def text(self) -> str:
        if self.path:
            head = f"{self.server_id}: {one_line(self.path)}" + (", incomplete" if self.partial else "")
        else:
            head = f"{self.server_id}: {len(self.filesystems)} file system{'s' * (len(self.filesystems) != 1)}"
        lines = [head, *(f"! {warning}" for warning in self.warnings)]
        for row in self.filesystems:
            used = "?" if row["used_percent"] is None else f"{row['used_percent']:g} %"
            inodes = "?" if row["inodes_used_percent"] is None else f"{row['inodes_used_percent']:g} %"
            lines.append(
                f"{one_line(row['mount'])}: {used} of {size(row['size_bytes'])} used, {size(row['available_bytes'])} free, "
                f"inodes {inodes} ({one_line(row['filesystem'])}, {row['type'] or 'type unknown'})"
            )
        if self.largest:
            lines += ["largest:", *(f"{size(item['size_bytes']):>9} {_name(item)}" for item in self.largest)]
        return "\n".join([*lines, *([self.notice] if self.notice else [])])


@dataclass(frozen=True)
class ProcessList(Output):
    server_id: str
    processes: list[dict[str, Any]]
    count: int
    shown: int
    sort_by: str
    truncated: bool = False
    notice: str | None = None

    def text(self) -> str:
        noun = "process" if self.count == 1 else "processes"
        lines = [
            f"{self.server_id}: {self.count} {noun}, {self.shown} shown, by {self.sort_by}; CPU% of one CPU over half a second"
        ]
        if self.processes:
            lines.append("PID PPID USER STATE CPU% MEM% RSS ELAPSED CPUTIME THREADS COMMAND")
        for row in self.processes:
            rss = "-" if row["rss_bytes"] is None else size(row["rss_bytes"]).replace(" ", "")
            cells = [
                row["pid"], row["ppid"], row["user"], row["state"], row["cpu_percent"], row["memory_percent"], rss,
                duration(row["elapsed_seconds"]).replace(" ", ""), f"{row['cpu_seconds']:g}s", row["threads"], row["command"],
            ]  # fmt: skip
            lines.append(" ".join("-" if cell is None else str(cell) for cell in cells))
        return "\n".join([*lines, *([self.notice] if self.notice else [])])


def _yes(value: bool | None) -> str:
    return {True: "yes", False: "no", None: "unknown"}[value]


def _name(item: dict[str, Any]) -> str:
    return one_line(item["path"], 500) + ("/" if item["type"] == "folder" else "")


def duration(seconds: int | None) -> str:
    """Seconds for people, in the two largest units: `41 d 3 h`."""
    if seconds is None:
        return "for an unknown time"
    units = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
    at = next((index for index, (_, length) in enumerate(units) if seconds >= length), len(units) - 1)
    words = [f"{seconds // units[at][1]} {units[at][0]}"]
    if at + 1 < len(units) - 1 and (rest := seconds % units[at][1] // units[at + 1][1]):
        words.append(f"{rest} {units[at + 1][0]}")
    return " ".join(words)


def _fitting(rows: Sequence[dict[str, Any]], budget: int) -> list[dict[str, Any]]:
    """The first rows, as many as fit into the budget of one result."""
    fitting: list[dict[str, Any]] = []
    for row in rows:
        budget -= len(json.dumps(row, ensure_ascii=False).encode()) + 2
        if budget < 0:
            break
        fitting.append(row)
    return fitting


def _run(ctx: Context, server_id: str, script: Script, seconds: int) -> Ran:
    server = ctx.inventory.get(server_id)
    return ctx.fleet.run_script(ctx.caller, server, script, timeout=seconds, cancelled=ctx.cancelled)


@tool(title="Show system info", read_only=True)
def get_system_info(ctx: Context, server_id: ServerId) -> SystemInfo:
    """Show a server's system, kernel, CPUs, load, memory, uptime, clock, pending reboot, failed units and addresses."""
    began = time.time()
    ran = _run(ctx, server_id, hostinfo.SCRIPT, 45)
    host = hostinfo.parse(ran, began, time.time())
    return SystemInfo(server_id=server_id, **host.values, warnings=host.warnings, unknown=host.unknown)


@tool(title="Show disk usage", read_only=True)
def get_disk_usage(
    ctx: Context,
    server_id: ServerId,
    path: Annotated[
        str | None,
        "Show its file system and what is large below",
        Pattern(r"/[\s\S]*", "an absolute path"),
    ] = None,
) -> DiskUsage:
    """Show file systems with space and inodes used, or the largest folders and files below a path."""
    ran = _run(ctx, server_id, disks.script(path or ""), 60)
    usage = disks.parse(ran, path or "")
    budget = ctx.config.security.max_output_bytes
    rows = _fitting(usage.filesystems, budget)
    largest = None if usage.largest is None else _fitting(usage.largest, budget // 2)
    notices = list(usage.notices)
    cut = len(rows) < len(usage.filesystems)
    if cut:
        notices.append(f"{len(usage.filesystems) - len(rows)} less full file systems are not shown.")
    return DiskUsage(server_id, rows, usage.warnings, path, largest, usage.partial, cut, " ".join(notices) or None)


@tool(title="List processes", read_only=True)
def get_process_list(
    ctx: Context,
    server_id: ServerId,
    sort_by: Annotated[Literal["cpu", "memory", "time"], "What comes first; time is CPU time"] = "cpu",
    limit: Annotated[int, "How many to show", Range(1, 200)] = 15,
    filter: Annotated[str | None, "Extended regular expression on the command line"] = None,
) -> ProcessList:
    """List processes by CPU (measured over half a second), memory or CPU time; secrets in command lines are masked."""
    ran = _run(ctx, server_id, processes.script(sort_by, limit, filter or ""), 45)
    table = processes.parse(ran, filter or "")
    rows = _fitting(table.processes, ctx.config.security.max_output_bytes)
    notices = list(table.notices)
    if len(rows) < len(table.processes):
        notices.append(
            f"Only {len(rows)} of {len(table.processes)} fit into one result; use `filter` or a smaller `limit`."
        )
    return ProcessList(
        server_id, rows, table.count, len(rows), sort_by, len(rows) < len(table.processes), " ".join(notices) or None
    )
