"""Shell sessions: `create_shell_session`, `execute_in_session`, `close_shell_session`, `list_active_sessions`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated, Any

from fleetshell_tools.core import text
from fleetshell_tools.core.context import Context
from fleetshell_tools.core.errors import BadArgument
from fleetshell_tools.core.tool import Output, Range, tool
from fleetshell_tools.core.types import ShellInfo, ShellOutput

LONGEST = 604_800
INTERRUPT_SECONDS = 5
"""How long a command gets to end after Ctrl-C, where the call does not say."""


@dataclass(frozen=True)
class SessionCreated(Output):
    session_id: str
    server_id: str
    shell: str
    cwd: str
    expires_in: int

    def text(self) -> str:
        return (
            f"Created session '{self.session_id}' on {self.server_id}\n"
            f"shell: {self.shell}, working directory: {text.one_line(self.cwd)}; it ends after {self.expires_in} s without a command"
        )


@dataclass(frozen=True)
class SessionOutput(Output):
    session_id: str
    server_id: str
    output: str
    exit_code: int | None
    cwd: str
    running: bool
    ended: bool
    truncated: bool
    duration_ms: int
    notice: str | None = None

    def text(self) -> str:
        state = (
            "still running"
            if self.running
            else f"exit code {self.exit_code}"
            if self.exit_code is not None
            else "ended by a signal"
        )
        head = f"{self.server_id} ({self.session_id}): {state} ({self.duration_ms} ms), working directory: {text.one_line(self.cwd)}"
        return "\n".join([head, self.output.rstrip("\n") or "(no output)", *([self.notice] if self.notice else [])])


@dataclass(frozen=True)
class SessionClosed(Output):
    session_id: str
    closed: bool

    def text(self) -> str:
        return "Session closed successfully"


@dataclass(frozen=True)
class SessionList(Output):
    sessions: list[dict[str, Any]]
    count: int

    def text(self) -> str:
        lines = [f"{self.count} active {'session' if self.count == 1 else 'sessions'}"]
        for session in self.sessions:
            running = ", a command is running" if session["running"] else ""
            lines.append(
                f"- {session['session_id']} on {session['server_id']}: in {text.one_line(session['cwd'])}{running}, "
                f"idle for {session['idle_seconds']} s, ends in {session['expires_in']} s"
            )
        return "\n".join(lines)


@tool(title="Open a shell session")
def create_shell_session(
    ctx: Context,
    server_id: Annotated[str, "From list_servers"],
    working_directory: Annotated[str | None, "Folder to begin in"] = None,
    rows: Annotated[int, "The terminal's height", Range(1, 500)] = 24,
    cols: Annotated[int, "The terminal's width", Range(1, 1000)] = 80,
) -> SessionCreated:
    """Start a shell on a server that keeps its state (working directory, variables, functions) between commands.

    Use execute_command for single commands. The shell reads no start-up files of its own.
    """
    server = ctx.inventory.get(server_id)
    info = ctx.fleet.shells.create(
        ctx.caller,
        server,
        folder=working_directory,
        rows=rows,
        cols=cols,
        timeout=ctx.config.security.command_timeout,
        cancelled=ctx.cancelled,
    )
    return SessionCreated(info.session_id, info.server_id, info.shell, text.clean(info.cwd), info.expires_in)


@tool(title="Run a command in a shell session", destructive=True)
def execute_in_session(
    ctx: Context,
    session_id: Annotated[str, "From create_shell_session"],
    command: Annotated[str | None, "A shell command; with is_input the text to type; not with interrupt"] = None,
    timeout: Annotated[
        int | None, "Seconds to wait for its end; default 60. It runs on after that", Range(1, LONGEST)
    ] = None,
    is_input: Annotated[
        bool, "Type `command` into the program that is running (an answer, a password); empty only waits"
    ] = False,
    interrupt: Annotated[bool, "Send Ctrl-C to the program that is running"] = False,
    approval_id: Annotated[str | None, "From the operator, where one was asked for"] = None,
) -> SessionOutput:
    """Run a command in a shell session. What has not ended in time stays `running`: wait or answer with is_input, or interrupt."""
    longest = ctx.config.security.max_timeout
    if timeout is not None and timeout > longest:
        raise BadArgument(
            f"The argument `timeout` is {timeout}; this relay allows at most {longest} s (security.max_timeout)."
        )
    shells, seconds = ctx.fleet.shells, timeout or ctx.config.security.command_timeout
    if interrupt:
        if command or is_input:
            raise BadArgument(
                "With `interrupt` there is no `command` and no `is_input`: first interrupt, then run the next command."
            )
        done = shells.interrupt(
            ctx.caller, session_id, timeout=timeout or INTERRUPT_SECONDS, cancelled=ctx.cancelled, progress=ctx.progress
        )
    elif is_input:
        done = shells.answer(
            ctx.caller, session_id, command or "", timeout=seconds, cancelled=ctx.cancelled, progress=ctx.progress,
            approval_id=approval_id,
        )  # fmt: skip
    elif command is None or not command.strip():
        raise BadArgument(
            "The argument `command` is missing or empty; give the shell command to run (only `interrupt` needs none)."
        )
    else:
        done = shells.execute(
            ctx.caller, session_id, command, timeout=seconds, cancelled=ctx.cancelled, progress=ctx.progress,
            approval_id=approval_id,
        )  # fmt: skip
    return _result(session_id, done, ctx.config.security.max_output_bytes)


@tool(title="Close a shell session", destructive=True, idempotent=True)
def close_shell_session(ctx: Context, session_id: Annotated[str, "From create_shell_session"]) -> SessionClosed:
    """End a shell session and everything that runs in it."""
    ctx.fleet.shells.close(ctx.caller, session_id)
    return SessionClosed(session_id, True)


@tool(title="List shell sessions", read_only=True)
def list_active_sessions(ctx: Context) -> SessionList:
    """List your shell sessions: where they are, what they do, and when they end."""
    sessions = [_listed(info) for info in ctx.fleet.shells.active(ctx.caller)]
    return SessionList(sessions, len(sessions))


def _result(session_id: str, done: ShellOutput, budget: int) -> SessionOutput:
    output, cut = text.render(done.output, budget)
    notices = [done.notice] if done.notice else []
    if cut:
        notices.append(
            "Only the start and the end of the output are shown; ask for a part with head, tail, grep or sed."
        )
    return SessionOutput(
        session_id=session_id, server_id=done.server_id, output=output, exit_code=done.exit_code, cwd=text.clean(done.cwd), running=done.running,
        ended=done.ended, truncated=cut, duration_ms=done.duration_ms, notice=" ".join(notices) or None,
    )  # fmt: skip


def _listed(info: ShellInfo) -> dict[str, Any]:
    return {
        "session_id": info.session_id, "server_id": info.server_id, "shell": info.shell, "created_at": _utc(info.created_at),
        "last_used_at": _utc(info.last_used_at), "idle_seconds": info.idle_seconds, "expires_in": info.expires_in, "cwd": text.clean(info.cwd),
        "running": info.running,
    }  # fmt: skip


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
