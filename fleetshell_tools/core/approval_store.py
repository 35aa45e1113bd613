"""Approvals: calls that were blocked and that the operator may let through, each once and exactly as it was asked for.

They live in memory alone: a restart forgets them, as it forgets grants.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from fleetshell_tools.core.errors import NotFound
from fleetshell_tools.core.types import Act, Caller, Verdict

LIFETIME = 600.0
"""Seconds that a question waits for the operator, and that an approval waits for its call."""

MOST = 64
MOST_OF_ONE = 32
"""Questions and approvals that are kept, in all and of one API key; the oldest question goes first."""

SHOWN_STDIN = 20_000
SHOWN_VALUE = 1_000
SHOWN_VARIABLES = 100
"""Bytes of standard input, characters of an environment variable, and how many of these are kept for the operator to see."""


@dataclass(frozen=True)
class Request:
    """A call that needs the operator, with everything that makes it this call and no other.

    Args:
        server_ids: Every server of the call.
        act: What is to be done there.
        verdict: Why it was blocked.
        state: What the act depends on besides: where the ids lead, or what a shell session knows.
        shell_session: The session it was meant for.
        typed: It is to be typed into a program there, and may be a password.
    """

    server_ids: tuple[str, ...]
    act: Act
    verdict: Verdict
    state: tuple[str, ...] = ()
    shell_session: str = ""
    typed: bool = False

    def fingerprint(self, caller: Caller) -> str:
        """A digest that any difference in who, with what tool, where and what changes."""
        act = self.act
        parts = [
            caller.principal.key_id, caller.tool, sorted(self.server_ids), self.shell_session, self.typed, self.state, act.command,
            None if act.stdin is None else hashlib.sha256(act.stdin).hexdigest(), sorted(act.environment.items()),
            act.working_directory, act.login_user,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def facts(self) -> dict[str, Any]:
        """What the operator is shown of it."""
        act, verdict = self.act, self.verdict
        facts: dict[str, Any] = {
            "server_ids": list(self.server_ids), "command": act.command, "class": verdict.kind, "rule": verdict.rule,
            "resolved": list(verdict.argv), "working_directory": act.working_directory,
            "environment": {name: act.environment[name][:SHOWN_VALUE] for name in sorted(act.environment)[:SHOWN_VARIABLES]},
            "environment_whole": len(act.environment) <= SHOWN_VARIABLES and all(len(value) <= SHOWN_VALUE for value in act.environment.values()),
            "shell_session": self.shell_session or None, "typed": self.typed, "stdin": None, "stdin_bytes": len(act.stdin or b""),
        }  # fmt: skip
        if act.stdin is not None:
            facts["stdin"] = act.stdin[:SHOWN_STDIN].decode("utf-8", "replace")
            facts["stdin_sha256"] = hashlib.sha256(act.stdin).hexdigest()
        return facts


@dataclass
class _Entry:
    id: str
    caller: Caller
    facts: dict[str, Any]
    fingerprint: str
    asked: float
    ends: float
    approved: bool = False


class ApprovalStore:
    """Questions to the operator and approvals of one relay, for any thread.

    Args:
        now: Seconds on a monotonic clock.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}  # in the order in which they were asked for

    def decide(
        self,
        caller: Caller,
        verdict: Verdict,
        approval_id: str | None,
        request: Callable[[], Request],
        *,
        spare: bool = False,
    ) -> Verdict:
        """What an approval makes of a verdict: allowed with `approval`, or blocked with what the operator can do.

        An approval that lets a call through is used up by that. One that was not given for exactly this call is refused,
        also where the call would need none (unless it is `spare`: then it is left unused).

        Args:
            approval_id: What the caller gave.
            request: Makes the whole of the call; only asked where it is needed.
        """
        if verdict.allowed and (spare or not approval_id):
            return verdict
        if not approval_id and not verdict.approvable:
            return verdict
        if not verdict.allowed and not verdict.approvable:
            return replace(verdict, reason=f"{verdict.reason} An approval can't let this through.")
        wanted = request()
        fingerprint = wanted.fingerprint(caller)
        with self._lock:
            self._trim()
            given = self._entries.get(approval_id) if approval_id else None
            if given is not None and given.fingerprint == fingerprint and given.approved:
                del self._entries[given.id]
                return replace(verdict, allowed=True, approval=given.id)
            if verdict.allowed:
                return Verdict(False, "approval", "not-valid", f"{_NOT_VALID} This call needs none: leave it out.")
            entry = self._asked(caller, wanted, fingerprint)
        if entry.approved:
            step = f'The operator has approved this very call: repeat it with approval_id "{entry.id}".'
        else:
            step = (
                f"The operator can let this one call through: ask them to run `fleetshell approve {entry.id}` on the relay "
                f'within {int(LIFETIME // 60)} minutes, then repeat exactly the same call with approval_id "{entry.id}".'
            )
        if approval_id == entry.id:
            first = "The operator has not approved this call yet. "
        else:
            first = f"{_NOT_VALID} " if approval_id else ""
        return replace(verdict, reason=f"{first}{verdict.reason} {step}", approval=entry.id)

    def listed(self) -> list[dict[str, Any]]:
        """Every question and every approval that was not used yet, the oldest first."""
        with self._lock:
            self._trim()
            return [self._facts(entry) for entry in self._entries.values()]

    def get(self, approval_id: str) -> dict[str, Any]:
        """One question, with everything that the operator should see.

        Raises:
            NotFound: It is unknown, used, or too old.
        """
        with self._lock:
            return self._facts(self._find(approval_id))

    def approve(self, approval_id: str) -> None:
        """Let that call through, once, within `LIFETIME` seconds from now.

        Raises:
            NotFound: It is unknown, used, or too old.
        """
        with self._lock:
            entry = self._find(approval_id)
            entry.approved, entry.ends = True, self._now() + LIFETIME

    def waiting(self) -> int:
        """How many questions wait for the operator."""
        return sum(not entry["approved"] for entry in self.listed())

    def clear(self, of: Callable[[str], bool] = lambda owner: True) -> None:
        """Forget every question and every approval `of` those owners."""
        with self._lock:
            self._entries = {
                key: entry for key, entry in self._entries.items() if not of(entry.caller.principal.key_id)
            }

    def _find(self, approval_id: str) -> _Entry:
        self._trim()
        entry = self._entries.get(approval_id)
        if entry is None:
            raise NotFound(
                f'There is no call "{approval_id[:40]}" to approve: it was used, or is older than {int(LIFETIME // 60)} minutes. '
                f"`fleetshell approvals` lists what waits."
            )
        return entry

    def _asked(self, caller: Caller, wanted: Request, fingerprint: str) -> _Entry:
        """The entry of a call: that of an earlier time it was asked for, or a new one."""
        now = self._now()
        for entry in self._entries.values():
            if entry.fingerprint == fingerprint:
                if not entry.approved:
                    entry.ends = now + LIFETIME
                return entry
        owner = caller.principal.key_id
        mine = [entry for entry in self._entries.values() if entry.caller.principal.key_id == owner]
        for candidates, most in ((mine, MOST_OF_ONE), (list(self._entries.values()), MOST)):
            if len(candidates) >= most:
                # What the operator has approved already goes last.
                del self._entries[min(candidates, key=lambda entry: (entry.approved, entry.asked)).id]
                break
        entry = _Entry(f"apr_{secrets.token_hex(5)}", caller, wanted.facts(), fingerprint, now, now + LIFETIME)
        self._entries[entry.id] = entry
        return entry

    def _trim(self) -> None:
        now = self._now()
        for entry in [entry for entry in self._entries.values() if entry.ends <= now]:
            del self._entries[entry.id]

    def _facts(self, entry: _Entry) -> dict[str, Any]:
        caller, now = entry.caller, self._now()
        return {
            "id": entry.id, "approved": entry.approved, "age_seconds": int(now - entry.asked), "ends_in": int(entry.ends - now),
            "principal": caller.principal.key_id, "name": caller.principal.name, "client": caller.client, "session": caller.session,
            "tool": caller.tool, **entry.facts,
        }  # fmt: skip


_NOT_VALID = "The approval_id given is not one for this call: it was used, has expired, or was given for another call."
