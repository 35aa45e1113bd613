"""Jobs: `get_job` reads what a long command prints, and the rest of cut output, by offset; `cancel_job` ends one."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fleetshell_tools.core import text
from fleetshell_tools.core.context import Context
from fleetshell_tools.core.errors import BadArgument, Cancelled
from fleetshell_tools.core.jobs import Job, succeeded
from fleetshell_tools.core.tool import Output, Pattern, Range, tool
from fleetshell_tools.core.types import Captured, HostResult

END_SECONDS = 15
"""How long `cancel_job` waits for the end: as long as the fleet takes to end a process group where it has to log in for it."""

JOB_ID = Pattern(r"job_[A-Za-z0-9_-]{1,36}", "a job's id, job_…")


@dataclass(frozen=True)
class JobView(Output):
    """A job and a part of its output, or (with `job_id` null) the list of all jobs."""

    job_id: str | None
    tool: str | None
    command: str | None
    running: bool | None
    exit_code: int | None
    signal: str | None
    success: bool | None
    duration_ms: int | None
    server_id: str | None
    stream: str | None
    offset: int | None
    output: str | None
    next_offset: int | None
    total_bytes: int | None
    truncated: bool
    error: str | None
    servers: list[dict[str, Any]]
    jobs: list[dict[str, Any]]
    count: int
    notice: str | None = None

    def text(self) -> str:
        notice = [self.notice] if self.notice else []
        if self.job_id is None:
            lines = [f"{self.count} {'job' if self.count == 1 else 'jobs'}"]
            for job in self.jobs:
                state = "still running" if job["running"] else _ending(job["exit_code"], None, job["success"])
                lines.append(
                    f"- {job['job_id']}: {state} ({job['duration_ms']} ms), {job['tool']} on "
                    f"{text.compress_ids(job['server_ids'])}: {text.one_line(job['command'], 120)}"
                )
            return "\n".join([*lines, *notice])
        state = "still running" if self.running else _ending(self.exit_code, self.signal, self.success)
        on = f" on {self.server_id}" if self.server_id else ""
        lines = [f"{self.job_id}{on}: {state} ({self.duration_ms} ms)"]
        if self.error:
            lines.append(self.error)
        if self.stream:
            lines.append(f"[{self.stream}, bytes {self.offset} to {self.next_offset} of {self.total_bytes}]")
        if self.output:
            lines.append(self.output.rstrip("\n"))
        return "\n".join([*lines, *notice])


@dataclass(frozen=True)
class JobCancelled(Output):
    job_id: str
    running: bool
    stopped: str
    servers: list[dict[str, Any]]
    notice: str | None = None

    def text(self) -> str:
        if self.stopped == "already_ended":
            return f"{self.job_id} had ended already"
        return "\n".join([f"{self.job_id}: stopped: {self.stopped}", *([self.notice] if self.notice else [])])


def _ending(exit_code: int | None, signal: str | None, success: bool | None) -> str:
    if exit_code is not None:
        return f"exit code {exit_code}"
    return f"ended by signal {signal}" if signal else "succeeded" if success else "failed"


@tool(title="Read a job", read_only=True, open_world=False)
def get_job(
    ctx: Context,
    job_id: Annotated[str | None, "From the result of the call; left out: lists your jobs", JOB_ID] = None,
    server_id: Annotated[
        str | None, "Which server's output, of several; left out: all servers', folded and cut"
    ] = None,
    stream: Annotated[Literal["stdout", "stderr"], "Which output"] = "stdout",
    offset: Annotated[int, "Byte to read from: next_offset of the last call", Range(0, 10**12)] = 0,
    max_bytes: Annotated[
        int | None, "Most bytes to read; default as much as one result holds", Range(16, 1_000_000)
    ] = None,
    wait: Annotated[int, "Seconds to wait for output past the offset, or the end", Range(0, 50)] = 0,
) -> JobView:
    """Read a command that went on as a job, or the rest of a result that was cut: its state, and its output from an offset on."""
    if job_id is None:
        return _listed(ctx.jobs.of(ctx.caller))
    job = ctx.jobs.get(ctx.caller, job_id)
    ids = job.work.server_ids
    if server_id is not None and server_id not in ids:
        raise BadArgument(f"{job_id} does not run on {server_id!r}; its servers: {text.compress_ids(ids)}.")
    number = ids.index(server_id) if server_id is not None else 0 if len(ids) == 1 else None

    def ready() -> bool:
        if number is None:
            return False
        host = job.results()[number]
        # A job of one server is waited for to its own end, which comes a moment after that of its server.
        return (len(ids) > 1 and not host.running) or _stream(host, stream).total > offset

    if wait:
        job.wait(ready, wait, ctx.cancelled)
        if ctx.cancelled.is_set():
            raise Cancelled(f"The wait was cancelled; {job_id} goes on, and is read with get_job.")
    # Whether it runs is looked at before its results: one that ends in between is then told as running, never the reverse.
    running, hosts = job.running, job.results()
    if number is None:
        return _overview(job, running, hosts)
    budget = ctx.config.security.max_output_bytes
    most, room = min(max_bytes or budget, budget), text.room(budget)
    part = _part(job, running, hosts[number], stream, offset, most)
    size = text.encoded_size(part.output or "")
    return part if size <= room else _part(job, running, hosts[number], stream, offset, max(most * room // size, 16))


@tool(title="End a job", destructive=True, idempotent=True)
def cancel_job(ctx: Context, job_id: Annotated[str, "From the result of the call", JOB_ID]) -> JobCancelled:
    """End a running job, with all that it started on its servers. What it has printed stays readable with get_job."""
    job = ctx.jobs.get(ctx.caller, job_id)
    if not job.running:
        return JobCancelled(job_id, False, "already_ended", _servers(job.results()))
    job.work.cancelled.set("cancelled by cancel_job")
    job.wait(lambda: False, END_SECONDS, ctx.cancelled)
    running, hosts = job.running, job.results()
    stops = {host.completed.stopped for host in hosts if host.completed}
    sure = not running and "unconfirmed" not in stops
    notice = None
    if running:
        notice = "It has not ended yet; look again with get_job."
    elif not sure:
        notice = "Something of it may still run: look on the servers whose `stopped` is unconfirmed."
    return JobCancelled(job_id, running, "confirmed" if sure else "unconfirmed", _servers(hosts), notice)


def _listed(jobs: list[Job]) -> JobView:
    items = []
    for job in jobs:
        running, hosts = job.running, job.results()
        items.append(
            {
                "job_id": job.job_id, "tool": job.work.caller.tool, "command": job.work.command, "server_ids": list(job.work.server_ids),
                "running": running, "exit_code": _exit_code(running, hosts), "success": _success(running, hosts),
                "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(job.started_at)), "duration_ms": job.duration_ms,
            }
        )  # fmt: skip
    return JobView(
        job_id=None, tool=None, command=None, running=None, exit_code=None, signal=None, success=None, duration_ms=None,
        server_id=None, stream=None, offset=None, output=None, next_offset=None, total_bytes=None, truncated=False, error=None,
        servers=[], jobs=items, count=len(items),
    )  # fmt: skip


def _overview(job: Job, running: bool, hosts: list[HostResult]) -> JobView:
    """Several servers at once: their outcomes folded, as the call itself would have shown them."""
    return JobView(
        job_id=job.job_id, tool=job.work.caller.tool, command=job.work.command, running=running, exit_code=None, signal=None,
        success=_success(running, hosts), duration_ms=job.duration_ms, server_id=None, stream=None, offset=None,
        output=job.work.show(hosts), next_offset=None, total_bytes=sum(_stream(host, "stdout").total + _stream(host, "stderr").total for host in hosts),
        truncated=True, error=None, servers=_servers(hosts), jobs=[], count=1,
        notice="Give server_id and stream to read one server's output whole, by offset.",
    )  # fmt: skip


def _part(job: Job, running: bool, host: HostResult, stream: str, offset: int, limit: int) -> JobView:
    captured, done = _stream(host, stream), host.completed
    part = read(captured, offset, limit, ended=not host.running)
    notices = []
    if part.missing:
        notices.append(
            f"{part.missing:,} of {captured.total:,} bytes were not kept: only the start and the end of long output are. "
            f"This continues at byte {part.start}."
        )
    if part.next_offset < captured.total and (part.data or not host.running):
        notices.append(f"There is more: get_job with offset {part.next_offset}.")
    elif host.running:
        notices.append(f"Still running: get_job with offset {part.next_offset} and wait 45 shows what comes.")
    other = "stderr" if stream == "stdout" else "stdout"
    if beside := _stream(host, other).total:
        notices.append(f"{other} has {beside:,} bytes.")
    return JobView(
        job_id=job.job_id, tool=job.work.caller.tool, command=job.work.command, running=running,
        exit_code=None if host.running or done is None else done.exit_code, signal=done.signal if done else None,
        success=None if host.running else succeeded(host), duration_ms=host.duration_ms if not host.running else job.duration_ms,
        server_id=host.server_id, stream=stream, offset=part.start, output=text.decode(part.data), next_offset=part.next_offset,
        total_bytes=captured.total, truncated=part.next_offset < captured.total or part.missing > 0, error=host.error,
        servers=_servers([host]), jobs=[], count=1, notice=" ".join(notices) or None,
    )  # fmt: skip


def _servers(hosts: list[HostResult]) -> list[dict[str, Any]]:
    return [
        {
            "server_id": host.server_id, "running": host.running,
            "exit_code": host.completed.exit_code if host.completed and not host.running else None,
            "signal": host.completed.signal if host.completed else None, "success": None if host.running else succeeded(host),
            "stopped": host.completed.stopped if host.completed else "", "duration_ms": host.duration_ms, "error": host.error,
            "stdout_bytes": _stream(host, "stdout").total, "stderr_bytes": _stream(host, "stderr").total,
        }
        for host in hosts
    ]  # fmt: skip


def _stream(host: HostResult, name: str) -> Captured:
    if host.completed is None:
        return Captured()
    return host.completed.stdout if name == "stdout" else host.completed.stderr


def _success(running: bool, hosts: list[HostResult]) -> bool | None:
    return None if running else all(map(succeeded, hosts))


def _exit_code(running: bool, hosts: list[HostResult]) -> int | None:
    return hosts[0].completed.exit_code if len(hosts) == 1 and not running and hosts[0].completed else None


@dataclass(frozen=True)
class Part:
    """Bytes of an output from `start` on; `missing` of them before it were asked for, or skipped, but not kept."""

    start: int
    data: bytes
    next_offset: int
    missing: int


def read(captured: Captured, offset: int, limit: int, *, ended: bool) -> Part:
    """At most `limit` bytes (16 or more) from `offset` on, in whole characters and, where possible, whole lines.

    What begins inside a character begins with that character. What is asked for between head and tail, where nothing was
    kept, begins at the tail.

    Args:
        ended: No more will come, so that a character which is torn at the end stays so.
    """
    pieces = [(0, captured.head + captured.tail)]
    if not captured.complete:
        torn = 0
        while torn < min(3, len(captured.tail)) and captured.tail[torn] & 0xC0 == 0x80:
            torn += 1
        head = captured.head[: len(captured.head) - _torn(captured.head)]
        pieces = [(0, head), (captured.total - len(captured.tail) + torn, captured.tail[torn:])]
    offset = min(offset, captured.total)
    begin, piece = next((entry for entry in pieces if offset < entry[0] + len(entry[1])), pieces[-1])
    missing = 0
    if offset < begin:
        missing = begin - len(pieces[0][1])
        offset = begin
    start = offset - begin
    start -= _torn(piece[:start]) if start < len(piece) else 0
    data = piece[start : start + limit]
    if start + len(data) < len(piece):
        line = data.rfind(b"\n", len(data) // 2)
        data = data[: line + 1] if line >= 0 else data[: len(data) - _torn(data)]
    elif not ended and begin + len(piece) == captured.total:
        data = data[: len(data) - _torn(data)]
    return Part(begin + start, data, begin + start + len(data), missing)


def _torn(data: bytes) -> int:
    """How many bytes at the end begin a UTF-8 character that is not whole."""
    for back in range(1, min(3, len(data)) + 1):
        lead = data[-back]
        if lead & 0xC0 != 0x80:
            length = 4 if lead >= 0xF0 else 3 if lead >= 0xE0 else 2 if lead >= 0xC0 else 1
            return back if back < length else 0
    return 0
