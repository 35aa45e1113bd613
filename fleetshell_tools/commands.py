"""Running commands: `execute_command` on one server, `multi_server_execute` on many."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fleetshell_tools.core import text
from fleetshell_tools.core.context import Context
from fleetshell_tools.core.errors import BadArgument, Cancelled, FleetShellError, TimedOut
from fleetshell_tools.core.tool import Output, Range, tool
from fleetshell_tools.core.types import Act, Captured, Completed, HostResult

LONGEST = 604_800


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
        head = f"{self.server_id}: {_ending(self.exit_code, self.signal)} ({self.duration_ms} ms)"
        return "\n".join([head, *_streams(self.stdout, self.stderr), *([self.notice] if self.notice else [])])


@dataclass(frozen=True)
class FanOutResult(Output):
    results: list[dict[str, Any]]
    groups: list[dict[str, Any]]
    succeeded: int
    failed: int
    truncated: bool
    notice: str | None = None

    def text(self) -> str:
        by_id = {result["server_id"]: result for result in self.results}
        lines = [
            f"{self.succeeded} of {len(self.results)} servers succeeded"
            + (f", {self.failed} failed" if self.failed else "")
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
            lines.append(f"== {names}: {_ending(shown['exit_code'], shown.get('signal'))}")
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


def _raise_if_ended_by_us(server_id: str, done: Completed, timeout: int, budget: int) -> None:
    """A command that we had to end is a failure of the tool, shown with what was seen of it."""
    if not done.why:
        return
    stopped = f"its process group on the host was ended (stopped: {done.stopped})."
    if done.stopped == "unconfirmed":
        left = done.why.partition("(")[2].rstrip(")")
        stopped = f"its process group could not be confirmed to have ended (stopped: unconfirmed{'; ' + left if left else ''}): look on the host."
    seen = "\n".join(_streams(text.render(done.stdout, budget // 2)[0], text.render(done.stderr, budget // 2)[0]))
    if done.timed_out:
        raise TimedOut(
            f"The command on {server_id} did not end within {timeout} s; {stopped} Give a larger `timeout`, or run it in the background.",
            seen=seen,
        )
    if done.cancelled:
        raise Cancelled(f"The command on {server_id} was cancelled; {stopped}", seen=seen)
    total = done.stdout.total + done.stderr.total
    raise FleetShellError(
        f"The command on {server_id} had printed {total:,} bytes and was ended: {stopped} Ask for less output.",
        seen=seen,
    )


def _texts(budget: int, captured: list[Captured]) -> tuple[list[str], bool]:
    """Several outputs as texts that share one budget."""
    shares = text.share(budget, [item.total for item in captured])
    rendered = [text.render(item, share) for item, share in zip(captured, shares, strict=True)]
    return [item for item, _ in rendered], any(cut for _, cut in rendered)


@tool(title="Run a command on a server", destructive=True)
def execute_command(
    ctx: Context,
    server_id: Annotated[str, "The server's id, from list_servers"],
    command: Annotated[str, "A shell command line, run by the login user's shell"],
    timeout: Annotated[int | None, "Seconds after which it is ended; default 60", Range(1, LONGEST)] = None,
    working_directory: Annotated[str | None, "Folder to run it in"] = None,
    environment: Annotated[
        dict[str, str] | None, "Environment variables; values do not show in the host's process list"
    ] = None,
    stdin: Annotated[str | None, "Text for its standard input"] = None,
) -> CommandResult:
    """Run a shell command on one server and return its output. A non-zero exit code is a result, not an error."""
    server = ctx.inventory.get(server_id)
    seconds = _timeout(ctx, timeout)
    act = _act(command, working_directory, environment, stdin)
    done = ctx.fleet.run(ctx.caller, server, act, timeout=seconds, cancelled=ctx.cancelled, progress=ctx.progress)
    budget = ctx.config.security.max_output_bytes
    _raise_if_ended_by_us(server.id, done, seconds, budget)
    (stdout, stderr), cut = _texts(budget, [done.stdout, done.stderr])
    return CommandResult(
        server_id=server.id, command=command, exit_code=done.exit_code, stdout=stdout, stderr=stderr,
        success=done.exit_code == 0, duration_ms=done.duration_ms, signal=done.signal, truncated=cut,
        notice="Only the start and the end of the output are shown; ask for a part with head, tail, grep or sed." if cut else None,
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
) -> FanOutResult:
    """Run the same command on several servers at once. Servers with the same outcome are folded into groups."""
    servers = ctx.inventory.select(server_ids or [], tags or [], environment)
    seconds = _timeout(ctx, timeout)
    act = _act(command, None, None, None)
    outcomes = ctx.fleet.run_many(
        ctx.caller, servers, act, timeout=seconds, max_parallel=min(max_parallel or ctx.config.ssh.max_parallel, 256),
        stop_on_failure=stop_on_failure, cancelled=ctx.cancelled, progress=ctx.progress,
    )  # fmt: skip
    return fold([_settled(outcome, seconds) for outcome in outcomes], ctx.config.security.max_output_bytes)


def _settled(outcome: HostResult, timeout: int) -> HostResult:
    """An outcome that we brought about ourselves becomes an error, as in `execute_command`."""
    if outcome.completed is None:
        return outcome
    try:
        _raise_if_ended_by_us(outcome.server_id, outcome.completed, timeout, 1000)
    except FleetShellError as error:
        return replace(outcome, error=error.message)
    return outcome


def fold(outcomes: list[HostResult], budget: int) -> FanOutResult:
    """Fold identical outcomes into groups, in the order of their first server, and share the output budget among them."""
    groups: dict[Any, list[HostResult]] = {}
    for outcome in outcomes:
        groups.setdefault(_key(outcome), []).append(outcome)
    firsts = [members[0].completed or Completed(None, Captured(), Captured(), 0) for members in groups.values()]
    texts, cut = _texts(budget, [stream for first in firsts for stream in (first.stdout, first.stderr)])
    by_server: dict[str, dict[str, Any]] = {}
    shown_groups = []
    for number, members in enumerate(groups.values()):
        streams: dict[str, str | None] = {"stdout": texts[2 * number], "stderr": texts[2 * number + 1]}
        done, alone = members[0].completed, len(members) == 1
        name = f"g{number + 1}"
        common = {
            "exit_code": done.exit_code if done else None,
            "signal": done.signal if done else None,
            "error": members[0].error,
        }
        nothing: dict[str, str | None] = {"stdout": None, "stderr": None}
        shown_groups.append(
            {"group": name, "server_ids": [m.server_id for m in members], **common, **(nothing if alone else streams)}
        )
        for member in members:
            by_server[member.server_id] = {
                "server_id": member.server_id, **common, "error": member.error, **(streams if alone else nothing), "success": _succeeded(member),
                "duration_ms": member.duration_ms, "group": name,
            }  # fmt: skip
    succeeded = sum(_succeeded(outcome) for outcome in outcomes)
    return FanOutResult(
        results=[by_server[outcome.server_id] for outcome in outcomes], groups=shown_groups, succeeded=succeeded,
        failed=len(outcomes) - succeeded, truncated=cut,
        notice="Output was cut to its start and end; narrow the command or the servers to see all of it." if cut else None,
    )  # fmt: skip


def _succeeded(outcome: HostResult) -> bool:
    return outcome.error is None and outcome.completed is not None and outcome.completed.exit_code == 0


def _key(outcome: HostResult) -> Any:
    """What makes two outcomes the same; an error's sentence names its server, so the name is taken out."""
    done = outcome.completed
    name = rf"(?<![A-Za-z0-9_.-]){re.escape(outcome.server_id)}(?!\.?[A-Za-z0-9_-])"
    error = re.sub(name, "\0", outcome.error) if outcome.error else None
    return (error, done.exit_code, done.signal, done.stdout, done.stderr) if done else (error,)
