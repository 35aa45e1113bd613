"""The types that rooms hand to each other, and the protocols through which a tool family reaches them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from fleetshell_tools.core.scripts import Facts, Ran, Script
    from fleetshell_tools.core.servers import Server
    from fleetshell_tools.core.tool import Output

Progress = Callable[[float, "float | None", "str | None"], None]
"""Reports progress to the client: how far, of how much (or None), and a line for a person."""


EVERY_SERVER = "*"


@dataclass(frozen=True)
class Principal:
    """Who holds the API key of a request: `key_id` is a short digest that is safe to log.

    They may use `servers` (ids, or `*`) and those that have one of `tags`; `policy` is what holds there besides the server's.
    """

    key_id: str
    name: str = "owner"
    servers: tuple[str, ...] = (EVERY_SERVER,)
    tags: tuple[str, ...] = ()
    policy: str = "normal"

    def may_use(self, server_id: str, tags: Sequence[str]) -> bool:
        """Whether a server that has these tags is there for them."""
        if EVERY_SERVER in self.servers or server_id in self.servers:
            return True
        return not {tag.lower() for tag in self.tags}.isdisjoint(tag.lower() for tag in tags)


@dataclass(frozen=True)
class Caller:
    """On whose behalf something is done, as the audit log records it.

    `session` is a digest of the client's session id, never the id itself.
    """

    principal: Principal
    client: str = ""
    session: str = ""
    tool: str = ""


class Cancellation:
    """A flag that one thread sets and others poll, wait for, or are called back by; cheap to make, since each call has one."""

    def __init__(self) -> None:
        self._set = False
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []
        self.why = ""

    def set(self, why: str = "cancelled by the client") -> None:
        """Cancel; the first reason given stays."""
        with self._lock:
            if self._set:
                return
            self.why = why
            self._set = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def is_set(self) -> bool:
        return self._set

    def wait(self, seconds: float) -> bool:
        """Wait until it is set, or so many seconds have passed; returns whether it is set."""
        if not self._set:
            event = threading.Event()
            forget = self.on_set(event.set)
            event.wait(seconds)
            forget()
        return self._set

    def on_set(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` once when cancelled (at once if it already is); returns a function that forgets it."""
        with self._lock:
            if not self._set:
                self._callbacks.append(callback)

                def forget() -> None:
                    with self._lock:
                        if callback in self._callbacks:
                            self._callbacks.remove(callback)

                return forget
        callback()
        return lambda: None


@dataclass(frozen=True)
class Act:
    """What is to be done on a server: the whole of it, because the guard judges the act and not the text alone.

    `label` is what the audit log shows in place of the command, where that is a program of ours; `private` is a folder that
    it may not touch; `policy` is the server's (`normal`, `read_only` or `allow_list`), `allowed` the beginnings of command
    lines of an `allow_list`.
    """

    command: str
    stdin: bytes | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    working_directory: str | None = None
    login_user: str | None = None
    label: str = ""
    private: str = ""
    policy: str = "normal"
    allowed: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        return self.label or self.command


@dataclass(frozen=True)
class Verdict:
    """What the guard says of an act; `argv` is the part of the command that it resolved to judge it.

    `approval` is the id of the approval that lets it through, or under which the operator was asked for one.
    """

    allowed: bool
    kind: str = ""
    rule: str = ""
    reason: str = ""
    argv: tuple[str, ...] = ()
    approvable: bool = False
    approval: str = ""

    @property
    def word(self) -> str:
        """How the audit log says it: `allowed`, `blocked:CLASS:RULE` or `approved:CLASS:RULE`."""
        if self.allowed and not self.approval:
            return "allowed"
        return ":".join(filter(None, ("approved" if self.allowed else "blocked", self.kind, self.rule)))


ALLOWED = Verdict(allowed=True)


@dataclass(frozen=True)
class Captured:
    """What arrived on one stream: the first and the last bytes that were kept, and how many came in all."""

    head: bytes = b""
    tail: bytes = b""
    total: int = 0

    @property
    def complete(self) -> bool:
        return len(self.head) + len(self.tail) == self.total


@dataclass(frozen=True)
class Completed:
    """How a command on a server ended.

    `exit_code` is None where the command did not end by itself or ended by a signal (`signal` names it);
    `stopped` is "", "confirmed" or "unconfirmed": whether its process group is known to have ended.
    """

    exit_code: int | None
    stdout: Captured
    stderr: Captured
    duration_ms: int
    signal: str | None = None
    timed_out: bool = False
    cancelled: bool = False
    stopped: str = ""
    why: str = ""


@dataclass(frozen=True)
class HostResult:
    """One server's part of a call.

    `error` is set where it failed; `completed` then holds what had been seen, if anything. While it is `running` (or waits
    for its turn) `completed` holds the output so far.
    """

    server_id: str
    completed: Completed | None = None
    error: str | None = None
    duration_ms: int = 0
    running: bool = False


Snapshot = Callable[[], "list[HostResult]"]
"""The state of every server of a call now, in the order of its servers; for any thread, during the call and after it."""


class Reply(Protocol):
    """What a long call may do about its client, who will not wait for ever."""

    def when_impatient(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have `callback` called once, in another thread, when the client will not wait longer.

        Returns:
            Forgets the callback.
        """

    def answer(self, output: Output) -> bool:
        """Answer the client now, while the call goes on; False where it has been answered already."""


class NoReply:
    """A client with all the patience there is."""

    def when_impatient(self, callback: Callable[[], None]) -> Callable[[], None]:
        return lambda: None

    def answer(self, output: Output) -> bool:
        return False


@dataclass(frozen=True)
class ConnectionState:
    """What is known of the connection to a server: `connected`, `connecting`, `idle` (none) or `failed`."""

    state: str
    since: float | None = None
    last_error: str = ""
    shell: str = ""


@dataclass(frozen=True)
class ShellInfo:
    """A live shell session. `created_at` and `last_used_at` are seconds since the epoch."""

    session_id: str
    server_id: str
    shell: str
    cwd: str
    running: bool
    created_at: float
    last_used_at: float
    idle_seconds: int
    expires_in: int


@dataclass(frozen=True)
class ShellOutput:
    """What came of one call to a shell session.

    `exit_code` is None while a command runs, and where a signal ended the shell; `ended` says that the shell is gone.
    """

    server_id: str
    output: Captured
    exit_code: int | None
    cwd: str
    running: bool
    ended: bool
    duration_ms: int
    notice: str = ""


class ShellSessions(Protocol):
    """Shells that keep their state between calls; each belongs to the principal that created it.

    A session that is unknown, another's or ended raises NotFound, always with the same sentence.
    """

    def create(
        self,
        caller: Caller,
        server: Server,
        *,
        folder: str | None,
        rows: int,
        cols: int,
        timeout: float,
        cancelled: Cancellation,
    ) -> ShellInfo:
        """Start a shell on a server.

        Raises:
            Unreachable, Refused, AuditUnavailable: There is no session; it would be one too many.
        """

    def execute(
        self,
        caller: Caller,
        session_id: str,
        command: str,
        *,
        timeout: float,
        cancelled: Cancellation,
        progress: Progress,
        approval_id: str | None = None,
    ) -> ShellOutput:
        """Run a command; where it has not ended at its time limit it goes on, and the session is `running`.

        Raises:
            Blocked, BadArgument: Nothing was typed: the guard refused it, or an earlier command is still running.
            Cancelled: The call was cancelled, and the command got Ctrl-C.
            Unreachable: The connection was lost.
        """

    def answer(
        self, caller: Caller, session_id: str, text: str, *, timeout: float, cancelled: Cancellation, progress: Progress,
        approval_id: str | None = None,
    ) -> ShellOutput:  # fmt: skip
        """Type into the command that is running, and wait for its end; with empty text only wait."""

    def interrupt(
        self, caller: Caller, session_id: str, *, timeout: float, cancelled: Cancellation, progress: Progress
    ) -> ShellOutput:
        """Send Ctrl-C to the command that is running, and wait for its end."""

    def close(self, caller: Caller, session_id: str) -> None:
        """End the shell and all that runs in it."""

    def active(self, caller: Caller) -> list[ShellInfo]:
        """The caller's sessions, the oldest first."""


class Fleet(Protocol):
    """The one road to a server: guard, audit, connection, run."""

    @property
    def shells(self) -> ShellSessions:
        """Shells that keep their state between commands."""

    def run(
        self,
        caller: Caller,
        server: Server,
        act: Act,
        *,
        timeout: float,
        cancelled: Cancellation,
        progress: Progress,
        watch: Callable[[Snapshot], None] | None = None,
        on_output: Callable[[], None] | None = None,
        keep: int | None = None,
        approval_id: str | None = None,
    ) -> Completed:
        """Run one command and wait for its end.

        Args:
            watch: Called once, before anything runs, with a way to look at the command while it runs.
            on_output: Called whenever there is more output, in the thread that collects it: it must not take long.
            keep: Bytes of output to keep per stream, half of them at either end; never less than one call may show.
            approval_id: An approval of the operator for exactly this act, which is used up.

        Raises:
            Blocked, Unreachable, AuditUnavailable: Nothing ran, or the connection was lost.
        """

    def run_many(
        self,
        caller: Caller,
        servers: Sequence[Server],
        act: Act,
        *,
        timeout: float,
        max_parallel: int,
        stop_on_failure: bool,
        cancelled: Cancellation,
        progress: Progress,
        watch: Callable[[Snapshot], None] | None = None,
        on_output: Callable[[], None] | None = None,
        keep: int | None = None,
        approval_id: str | None = None,
    ) -> list[HostResult]:
        """Run one command on many servers at once; the results keep the order of `servers`. See `run`.

        Raises:
            Blocked: The act needs an approval on one of them; it has been run on none.
        """

    def run_script(
        self,
        caller: Caller,
        server: Server,
        script: Script,
        *,
        timeout: float,
        cancelled: Cancellation,
        keep: int = 1 << 20,
        approval_id: str | None = None,
    ) -> Ran:
        """Run a program of ours and wait for its end.

        Args:
            approval_id: An approval of the operator for exactly this; it is left unused where none is needed.
            keep: Bytes of output to keep; beyond it the middle is lost, and the result is not `complete`.

        Raises:
            TimedOut, Cancelled: It was ended.
            Blocked, Unreachable, AuditUnavailable, BadArgument: Nothing ran, or the connection was lost.
        """

    def facts(self, server: Server) -> Facts | None:
        """What was learned of a host when it was last looked at, without connecting; None where it never was."""

    def last_seen(self, server: Server) -> float | None:
        """When a host last answered, in seconds since the epoch."""

    def connection_state(self, server: Server) -> ConnectionState:
        """What is known now, without connecting."""

    def fingerprints(self, server: Server) -> list[str]:
        """The pinned host keys as `SHA256:… (ED25519)`, empty where none is pinned."""


@dataclass(frozen=True)
class Grant:
    """A successful authentication: how many seconds it lasts; `needed` is False where MFA is disabled."""

    expires_in: int
    needed: bool = True


class Auth(Protocol):
    """TOTP authentication of a caller's session."""

    def authenticate(self, caller: Caller, session_id: str, code: str) -> Grant:
        """Check a code and unlock the session.

        Raises:
            AuthenticationFailed: Wrong, already used, or locked out; the sentence says which.
        """


Ask = Callable[[str, dict[str, Any]], dict[str, Any]]
"""Asks the client of a call something, such as `elicitation/create`, and waits for its answer; raises FleetShellError."""
