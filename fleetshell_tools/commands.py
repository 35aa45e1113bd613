"""Running commands: `execute_command` on one server, `multi_server_execute` on many, `run_troubleshooting` by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, TypeVar

from fleetshell_tools.core import text
from fleetshell_tools.core.context import Context
from fleetshell_tools.core.errors import BadArgument, Cancelled, FleetShellError, NotFound, TimedOut
from fleetshell_tools.core.jobs import Call, Job, Work, succeeded
from fleetshell_tools.core.server_context import named_checks
from fleetshell_tools.core.servers import Server
from fleetshell_tools.core.tool import Output, Range, tool
from fleetshell_tools.core.types import Act, Captured, Completed, HostResult, Progress
from fleetshell_tools.core.words import nearest

LONGEST = 604_800
APPROVAL = "From the operator, where one was asked for"


@dataclass(frozen=True)
class CommandResult(Output):
    server_id: str
    command: str
    exit_code: int | None
    stdout: str
    stderr: str
    success: bool | None
    duration_ms: int
    signal: str | None = None
    timed_out: bool = False
    truncated: bool = False
    running: bool = False
    job_id: str | None = None
    notice: str | None = None

    def text(self) -> str:
        state = f"still running as {self.job_id}" if self.running else _ending(self.exit_code, self.signal)
        head = f"{self.of}: {state} ({self.duration_ms} ms)"
        return "\n".join([head, *_streams(self.stdout, self.stderr), *([self.notice] if self.notice else [])])

    @property
    def of(self) -> str:
        """What the first line speaks of."""
        return self.server_id


@dataclass(frozen=True)
class CheckResult(CommandResult):
    name: str = field(kw_only=True)

    @property
    def of(self) -> str:
        return f"{text.one_line(self.name, 80)} on {self.server_id}"


Shaped = TypeVar("Shaped", bound=CommandResult)


@dataclass(frozen=True)
class FanOutResult(Output):
    results: list[dict[str, Any]]
    groups: list[dict[str, Any]]
    succeeded: int
    failed: int
    truncated: bool
    success: bool | None = None
    running: bool = False
    unfinished: int = 0
    job_id: str | None = None
    notice: str | None = None

    def text(self) -> str:
        by_id = {result["server_id"]: result for result in self.results}
        lines = [
            f"{self.succeeded} of {len(self.results)} servers succeeded"
            + (f", {self.failed} failed" if self.failed else "")
            + (f", {self.unfinished} still running" if self.unfinished else "")
        ]
        for group in self.groups:
            ids = group["server_ids"]
            shown = group if len(ids) > 1 else by_id[ids[0]]
            names = text.compress_ids(ids) + (f" ({len(ids)} servers)" if len(ids) > 1 else "")
            if shown.get("error"):
                lines.append(f"== {names}: failed: {shown['error']}")
                if shown["stdout"] or shown["stderr"]:
                    lines += ["Output until then:", *_streams(shown["stdout"] or "", shown["stderr"] or "")]
                continue
            state = "still running" if shown["running"] else _ending(shown["exit_code"], shown.get("signal"))
            lines.append(f"== {names}: {state}")
            lines += _streams(shown["stdout"] or "", shown["stderr"] or "")
        return "\n".join([*lines, *([self.notice] if self.notice else [])])


def _ending(exit_code: int | None, signal: str | None) -> str:
    return f"exit code {exit_code}" if exit_code is not None else f"ended by signal {signal or 'unknown'}"


def _streams(stdout: str, stderr: str) -> list[str]:
    lines = [stdout.rstrip("\n")] if stdout.strip() else []
    if stderr.strip():
        lines += ["[stderr]", stderr.rstrip("\n")]
    return lines or ["(no output)"]


def _timeout(ctx: Context, given: int | None) -> int:
    longest = ctx.config.security.max_timeout
    if given is not None and given > longest:
        raise BadArgument(
            f"The argument `timeout` is {given}; this relay allows at most {longest} s (security.max_timeout)."
        )
    return given or ctx.config.security.command_timeout


def _act(command: str, working_directory: str | None, environment: dict[str, str] | None, stdin: str | None) -> Act:
    if not command.strip():
        raise BadArgument("The argument `command` is empty; give the shell command to run.")
    return Act(command, stdin.encode() if stdin is not None else None, dict(environment or {}), working_directory)


def _ended_by_us(server_id: str, done: Completed, timeout: int, seen: str = "") -> FleetShellError | None:
    """A command that we had to end is a failure of the tool, shown with what was seen of it."""
    if not done.why:
        return None
    stopped = f"its process group on the host was ended (stopped: {done.stopped})."
    if done.stopped == "unconfirmed":
        left = done.why.partition("(")[2].rstrip(")")
        stopped = f"its process group could not be confirmed to have ended (stopped: unconfirmed{'; ' + left if left else ''}): look on the host."
    if done.timed_out:
        return TimedOut(
            f"The command on {server_id} did not end within {timeout} s; {stopped} Give a larger `timeout`, or run it in the background.",
            seen=seen,
        )
    if done.cancelled:
        return Cancelled(f"The command on {server_id} was cancelled; {stopped}", seen=seen)
    total = done.stdout.total + done.stderr.total
    return FleetShellError(
        f"The command on {server_id} had printed {total:,} bytes and was ended: {stopped} Ask for less output.",
        seen=seen,
    )


@dataclass(frozen=True)
class _Shown:
    """An output as text; where it was `cut`, it can be read on at the byte `offset`."""

    text: str
    cut: bool
    offset: int


def _texts(budget: int, captured: list[Captured]) -> list[_Shown]:
    """Several outputs as texts that share one budget, which counts them as the JSON that a client gets."""
    room = text.room(budget)
    shown = _rendered(room, captured)
    size = sum(text.encoded_size(item.text) for item in shown)
    return shown if size <= room else _rendered(room * room // size, captured)


def _rendered(budget: int, captured: list[Captured]) -> list[_Shown]:
    shares = text.share(budget, [item.total for item in captured])
    rendered = [(item, share, *text.render(item, share)) for item, share in zip(captured, shares, strict=True)]
    return [_Shown(shown, cut, share // 2 if cut else item.total) for item, share, shown, cut in rendered]


def _cut_notice(job: Job | None, out: _Shown, err: _Shown) -> str:
    """What to say of output of one server of which only a part is shown."""
    cut = {name: shown.offset for name, shown in (("stdout", out), ("stderr", err)) if shown.cut}
    if job is None:
        return "Only the start and the end of the output are shown; ask for a part with head, tail, grep or sed."
    where = " or ".join(f'stream "{name}", offset {offset}' for name, offset in cut.items())
    return f'Only the start and the end of {" and ".join(cut)} are shown. Read on with get_job: job_id "{job.job_id}", {where}.'


@tool(title="Run a command on a server", destructive=True)
def execute_command(
    ctx: Context,
    server_id: Annotated[str, "From list_servers"],
    command: Annotated[str, "A shell command line, run by the login user's shell"],
    timeout: Annotated[int | None, "Seconds after which it is ended; default 60", Range(1, LONGEST)] = None,
    working_directory: Annotated[str | None, "Folder to run it in"] = None,
    environment: Annotated[
        dict[str, str] | None, "Environment variables; values do not show in the host's process list"
    ] = None,
    stdin: Annotated[str | None, "Text for its standard input"] = None,
    approval_id: Annotated[str | None, APPROVAL] = None,
) -> CommandResult:
    """Run a shell command on one server and return its output. A non-zero exit code is a result, not an error.

    One that takes long is answered with its output so far and goes on as a job: see get_job.
    """
    server = ctx.inventory.get(server_id)
    return _on_one(
        ctx, server, _act(command, working_directory, environment, stdin), timeout, approval_id, lambda result: result
    )


def _on_one(
    ctx: Context,
    server: Server,
    act: Act,
    timeout: int | None,
    approval_id: str | None,
    shape: Callable[[CommandResult], Shaped],
) -> Shaped:
    """Run a command on one server; the answer is the result in the `shape` of the tool, also before the end."""
    seconds = _timeout(ctx, timeout)
    budget = ctx.config.security.max_output_bytes
    work = _work(ctx, act.command, [server.id], seconds)
    with Call(ctx.jobs, work, ctx.reply, lambda job: shape(_command_so_far(seconds, budget, job))) as call:
        done = ctx.fleet.run(
            ctx.caller, server, act, timeout=seconds, cancelled=ctx.cancelled, progress=ctx.progress, watch=call.watch,
            on_output=call.heard, keep=ctx.config.jobs.output_bytes, approval_id=approval_id,
        )  # fmt: skip
    out, err = _texts(budget, [done.stdout, done.stderr])
    cut = out.cut or err.cut
    job = call.keep() if cut else None
    notice = _cut_notice(job, out, err) if cut else None
    if error := _ended_by_us(
        server.id, done, seconds, "\n".join([*_streams(out.text, err.text), *([notice] if job and notice else [])])
    ):
        raise error
    return shape(CommandResult(
        server_id=server.id, command=act.command, exit_code=done.exit_code, stdout=out.text, stderr=err.text,
        success=done.exit_code == 0, duration_ms=done.duration_ms, signal=done.signal, truncated=cut,
        job_id=job.job_id if job else None, notice=notice,
    ))  # fmt: skip


@tool(title="Run a named check", destructive=True)
def run_troubleshooting(
    ctx: Context,
    server_id: Annotated[str, "From list_servers"],
    name: Annotated[str, "One of its `checks`, from get_server_context"],
    timeout: Annotated[int | None, "Seconds after which it is ended; default 60", Range(1, LONGEST)] = None,
    approval_id: Annotated[str | None, APPROVAL] = None,
) -> CheckResult:
    """Run a command that the operator has named in the server's file, as execute_command would."""
    server = ctx.inventory.get(server_id)
    checks = named_checks(server)
    if name not in checks:
        raise NotFound(_no_check(server, name, checks))

    def shape(result: CommandResult) -> CheckResult:
        return CheckResult(name=name, **vars(result))

    return _on_one(ctx, server, Act(checks[name]), timeout, approval_id, shape)


def _no_check(server: Server, name: str, checks: dict[str, str]) -> str:
    """Why there is no such check, and what there is."""
    if name in server.section("troubleshooting"):
        return f"`troubleshooting.{name}` of {server.id} is no command. The operator can mend it: `fleetshell edit {server.id}`."
    if not checks:
        return f"{server.id} has no named checks. The operator adds them under `troubleshooting`: `fleetshell edit {server.id}`."
    known = text.one_line(", ".join(checks), 500)
    return f'{server.id} has no check "{text.one_line(name, 80)}".{nearest(name, checks)} Its checks: {known}.'


def _command_so_far(timeout: int, budget: int, job: Job) -> CommandResult:
    """What a client is told who will not wait for the end of a command."""
    (host,) = job.results()
    done = host.completed or Completed(None, Captured(), Captured(), 0)
    out, err = _texts(budget, [done.stdout, done.stderr])
    cut = out.cut or err.cut
    notice = (
        f'It goes on, for at most {timeout} s in all. Follow it with get_job (job_id "{job.job_id}", offset {out.offset}, wait 45); '
        f"end it with cancel_job."
    )
    return CommandResult(
        server_id=host.server_id, command=job.work.command, exit_code=None, stdout=out.text, stderr=err.text, success=None,
        duration_ms=job.duration_ms, truncated=cut, running=True, job_id=job.job_id,
        notice=f"{_cut_notice(job, out, err)} {notice}" if cut else notice,
    )  # fmt: skip


def _work(ctx: Context, command: str, server_ids: list[str], timeout: int) -> Work:
    budget = ctx.config.security.max_output_bytes
    return Work(
        ctx.caller, command, tuple(server_ids), ctx.cancelled, lambda host: _settled(host, timeout),
        lambda hosts: fold(hosts, budget).text(),
    )  # fmt: skip


@tool(title="Run a command on many servers", destructive=True)
def multi_server_execute(
    ctx: Context,
    command: Annotated[str, "A shell command line"],
    server_ids: Annotated[list[str] | None, 'Ids; ["*"] means all servers'] = None,
    tags: Annotated[list[str] | None, "Also servers that have every one of these tags"] = None,
    environment: Annotated[str | None, "… and this environment"] = None,
    timeout: Annotated[int | None, "Seconds for each server; default 60", Range(1, LONGEST)] = None,
    max_parallel: Annotated[int | None, "Servers at once", Range(1, 1024)] = None,
    stop_on_failure: Annotated[bool, "Start no further servers once one has failed"] = False,
    approval_id: Annotated[str | None, APPROVAL] = None,
) -> FanOutResult:
    """Run the same command on several servers at once. Servers with the same outcome are folded into groups.

    What takes long is answered with the servers that are done and goes on as a job: see get_job.
    """
    servers = ctx.inventory.select(server_ids or [], tags or [], environment)
    seconds = _timeout(ctx, timeout)
    act = _act(command, None, None, None)
    budget = ctx.config.security.max_output_bytes
    work = _work(ctx, command, [server.id for server in servers], seconds)
    with Call(ctx.jobs, work, ctx.reply, partial(_fan_out_so_far, seconds, budget)) as call:
        ctx.fleet.run_many(
            ctx.caller, servers, act, timeout=seconds, max_parallel=min(max_parallel or ctx.config.ssh.max_parallel, 256),
            stop_on_failure=stop_on_failure, cancelled=ctx.cancelled, progress=_heard(ctx.progress, call), watch=call.watch,
            on_output=call.heard, keep=max(ctx.config.jobs.output_bytes // max(len(servers), 1), budget), approval_id=approval_id,
        )  # fmt: skip
    result = fold(call.results, budget)
    job = call.keep() if result.truncated else None
    return replace(result, job_id=job.job_id, notice=_fan_out_cut_notice(job)) if job else result


def _heard(progress: Progress, call: Call) -> Progress:
    """Progress that also wakes those who wait for a server's end."""

    def report(done: float, total: float | None, message: str | None) -> None:
        progress(done, total, message)
        call.heard()

    return report


def _fan_out_so_far(timeout: int, budget: int, job: Job) -> FanOutResult:
    """What a client is told who will not wait for the end of a fan-out."""
    result = fold(job.results(), budget)
    notice = (
        f'It goes on, for at most {timeout} s on each server. Wait for its end with get_job (job_id "{job.job_id}", wait 45), or '
        f"follow one server (server_id); end it with cancel_job."
    )
    return replace(
        result, running=True, success=None, job_id=job.job_id,
        notice=f"{_fan_out_cut_notice(job)} {notice}" if result.truncated else notice,
    )  # fmt: skip


def _fan_out_cut_notice(job: Job) -> str:
    return (
        f'Output was cut to its start and end. Read all of a server\'s with get_job: job_id "{job.job_id}", its server_id, '
        f"and a stream, from offset 0 on."
    )


def _settled(outcome: HostResult, timeout: int) -> HostResult:
    """An outcome that we brought about ourselves becomes an error, as in `execute_command`."""
    error = outcome.completed and _ended_by_us(outcome.server_id, outcome.completed, timeout)
    return replace(outcome, error=error.message) if error else outcome


def fold(outcomes: list[HostResult], budget: int) -> FanOutResult:
    """Fold identical outcomes into groups, in the order of their first server, and share the output budget among them."""
    groups: dict[Any, list[HostResult]] = {}
    for outcome in outcomes:
        groups.setdefault(_key(outcome), []).append(outcome)
    firsts = [members[0].completed or Completed(None, Captured(), Captured(), 0) for members in groups.values()]
    texts = _texts(budget, [stream for first in firsts for stream in (first.stdout, first.stderr)])
    cut = any(shown.cut for shown in texts)
    by_server: dict[str, dict[str, Any]] = {}
    shown_groups = []
    for number, members in enumerate(groups.values()):
        streams: dict[str, str | None] = {"stdout": texts[2 * number].text, "stderr": texts[2 * number + 1].text}
        done, alone = members[0].completed, len(members) == 1
        name = f"g{number + 1}"
        common = {
            "exit_code": done.exit_code if done else None,
            "signal": done.signal if done else None,
            "error": members[0].error,
            "running": members[0].running,
        }
        nothing: dict[str, str | None] = {"stdout": None, "stderr": None}
        shown_groups.append(
            {"group": name, "server_ids": [m.server_id for m in members], **common, **(nothing if alone else streams)}
        )
        for member in members:
            by_server[member.server_id] = {
                "server_id": member.server_id, **common, "error": member.error, **(streams if alone else nothing), "success": None if member.running else succeeded(member),
                "duration_ms": member.duration_ms, "group": name,
            }  # fmt: skip
    well, unfinished = sum(map(succeeded, outcomes)), sum(outcome.running for outcome in outcomes)
    return FanOutResult(
        results=[by_server[outcome.server_id] for outcome in outcomes], groups=shown_groups, succeeded=well,
        failed=len(outcomes) - well - unfinished, truncated=cut, success=None if unfinished else well == len(outcomes),
        running=unfinished > 0, unfinished=unfinished,
        notice="Output was cut to its start and end; narrow the command or the servers to see all of it." if cut else None,
    )  # fmt: skip


def _key(outcome: HostResult) -> Any:
    """What makes two outcomes the same; an error's sentence names its server, so the name is taken out."""
    done = outcome.completed
    name = rf"(?<![A-Za-z0-9_.-]){re.escape(outcome.server_id)}(?!\.?[A-Za-z0-9_-])"
    error = re.sub(name, "\0", outcome.error) if outcome.error else None
    return (error, outcome.running, done.exit_code, done.signal, done.stdout, done.stderr) if done else (error,)
