"""Errors that carry a sentence for a person or a model, with their exit code and their JSON-RPC code.

Everything that is not a `FleetShellError` is a bug: it is logged with a traceback and an id.
"""

from __future__ import annotations

from typing import ClassVar


class FleetShellError(Exception):
    """Something that a user, an operator or a model did or met; the message says what to do next.

    Args:
        message: What was wrong, with the offending value, and what to do next.
        seen: What a command had printed before it failed, shown to the model after the message.
    """

    exit_code: ClassVar[int] = 1
    reason: ClassVar[str] = "failed"

    def __init__(self, message: str, *, seen: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.seen = seen


class UsageError(FleetShellError):
    """The command line was used wrongly."""

    exit_code = 2
    reason = "usage"


class BadArgument(FleetShellError):
    """A tool's argument is missing, has the wrong type or an impossible value."""

    exit_code = 2
    reason = "bad_argument"


class ConfigError(FleetShellError):
    """The configuration, or the home as a whole, is invalid or missing."""

    exit_code = 3
    reason = "configuration"


class NotFound(FleetShellError):
    """A server, a session, a prompt or another named thing does not exist."""

    exit_code = 4
    reason = "not_found"


class Refused(FleetShellError):
    """FleetShell will not do this: authentication, the guard, a policy or a lock."""

    exit_code = 5
    reason = "refused"


class Blocked(Refused):
    """The guard refused a command."""

    reason = "blocked"


class Locked(Refused):
    """The operator has stopped everything (`fleetshell lock`)."""

    reason = "locked"


class RateLimited(Refused):
    """Too many calls in a short time.

    Args:
        first: Nobody was refused for this a moment ago, so it is news.
    """

    reason = "rate_limited"

    def __init__(self, message: str, *, first: bool = True) -> None:
        super().__init__(message)
        self.first = first


class AuthenticationFailed(Refused):
    """A TOTP code was wrong, already used, or came during a lock-out."""

    reason = "authentication_failed"


class AuthenticationRequired(Refused):
    """A tool was called before `authenticate`; answered as JSON-RPC error -32001.

    Args:
        why: `totp_required` or `session_expired`, sent as `error.data.reason`.
    """

    MESSAGE: ClassVar[str] = (
        "Authentication required. Please authenticate with a TOTP code using the authenticate tool."
    )
    reason = "totp_required"
    rpc_code: ClassVar[int] = -32001

    def __init__(self, why: str = "totp_required") -> None:
        super().__init__(self.MESSAGE)
        self.why = why


class Unreachable(FleetShellError):
    """No connection to a server.

    Args:
        step: Which step failed: `resolve`, `connect`, `host_key`, `login`, `shell` or `lost`.
    """

    reason = "unreachable"

    def __init__(self, message: str, *, step: str, seen: str = "") -> None:
        super().__init__(message, seen=seen)
        self.step = step


class TimedOut(FleetShellError):
    """A command did not end within its time limit."""

    reason = "timed_out"


class Cancelled(FleetShellError):
    """The client cancelled the call."""

    reason = "cancelled"


class AuditUnavailable(FleetShellError):
    """The audit log can't be written, so nothing may run."""

    reason = "audit_unavailable"
