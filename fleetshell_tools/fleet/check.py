"""The connection test: each step to a server with its time, and the step that failed with its reason."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from fleetshell_tools.core.errors import FleetShellError, Unreachable
from fleetshell_tools.core.scripts import Script
from fleetshell_tools.core.servers import Server
from fleetshell_tools.core.text import decode, one_line
from fleetshell_tools.core.types import Act, Caller, Cancellation, Completed
from fleetshell_tools.fleet.fleet import SshFleet
from fleetshell_tools.fleet.hostkeys import HostKey
from fleetshell_tools.fleet.identity import Identity

STEPS = ("resolve", "connect", "host_key", "login", "command")
"""The way to a server, in order; the names are those of `core.errors.Unreachable`."""

_LATER = {"shell": "command", "lost": "command"}
_CONNECTING = re.compile(r"debug1: Connecting to \S+ \[(?P<address>[^\]]+)\] port")
_CONNECTED = "debug1: Connection established"


@dataclass(frozen=True)
class Step:
    """One step: `ok` is None where it was not tried, `ms` is None where its time is not known by itself."""

    name: str
    ok: bool | None
    ms: int | None = None
    detail: str = ""


def check(fleet: SshFleet, server: Server, deadline: float, caller: Caller, cancelled: Cancellation) -> list[Step]:
    """Try the whole way to a server; all of `STEPS`, in order.

    A host key that is met for the first time is pinned, as any first command would do.

    Args:
        deadline: On `time.monotonic`.
        caller: On whose behalf, for the audit record of the command.

    Raises:
        ConfigError: There is nothing to test: the key is missing, or a jump server can't be used.
    """
    identity = fleet.identity(server)
    timeline = _Timeline()
    try:
        if identity.jump:
            _through(fleet, identity.jump, deadline, cancelled, timeline)
        methods = _meet(fleet, identity, deadline, cancelled, timeline.listen)
        timeline.passed("host_key", ", ".join(fleet.fingerprints(server)))
        fleet.connections.open(identity, deadline, cancelled)
        timeline.passed(
            "login",
            "; ".join([f"as {server.ssh_user}"] * bool(server.ssh_user) + [f"it offers: {methods}"] * bool(methods)),
        )
        left = max(deadline - time.monotonic(), 1)
        done = fleet.run(caller, server, Act("true"), timeout=left, cancelled=cancelled, progress=lambda *_: None)
        if done.exit_code != 0:
            raise Unreachable(f"{server.id} can be reached, but {_why_not(done)}.", step="command")
        timeline.passed("command", "" if server.raw else _rights(fleet, server, deadline, caller, cancelled))
    except FleetShellError as error:
        timeline.failed(error)
    return timeline.steps


def _rights(fleet: SshFleet, server: Server, deadline: float, caller: Caller, cancelled: Cancellation) -> str:
    """Whom the login is there, and whether it may do what needs root."""
    left = max(deadline - time.monotonic(), 1)
    facts = fleet.run_script(caller, server, Script("test", "part end"), timeout=left, cancelled=cancelled).facts
    says = {
        "root": "is root",
        "yes": "may use sudo without a password",
        "password": "would have to give sudo a password, which FleetShell never does: NOPASSWD lines in sudoers let its tools work",
        "none": "has no sudo",
    }
    return f"{facts['user']} {says.get(facts['sudo_state'], 'logs in')}"


def changed_keys(fleet: SshFleet, server: Server, deadline: float, cancelled: Cancellation) -> list[HostKey]:
    """The host keys that a server shows now where they are not what is pinned for it; empty where a pin still holds.

    Args:
        deadline: On `time.monotonic`.

    Raises:
        Unreachable: No connection, to it or to its jump server.
    """
    identity = fleet.identity(server)
    if identity.jump:
        fleet.connections.open(identity.jump, deadline, cancelled)
    with fleet.connections.admitted(identity, deadline, cancelled):
        if fleet.host_keys.pinned(server.id):
            try:
                fleet.host_keys.verify(identity)
                return []
            except Unreachable as error:
                if error.step != "host_key":
                    raise
        return fleet.host_keys.fetch(identity)


def _meet(
    fleet: SshFleet, identity: Identity, deadline: float, cancelled: Cancellation, on_line: Callable[[str], None]
) -> str:
    """Check the pinned key, or pin the first; returns the login methods on offer where it came to that."""
    with fleet.connections.admitted(identity, deadline, cancelled):
        if fleet.host_keys.pinned(identity.server_id):
            return fleet.host_keys.verify(identity, on_line)
        fleet.host_keys.pin_first(identity, on_line)
        return ""


def _through(fleet: SshFleet, jump: Identity, deadline: float, cancelled: Cancellation, timeline: _Timeline) -> None:
    """Make the way to the jump server, which is all that we can see of the way to what lies behind it."""
    first = jump
    while first.jump:
        first = first.jump
    try:
        _meet(
            fleet,
            first,
            deadline,
            cancelled,
            lambda line: timeline.listen(line, only_resolve=f", through {jump.server_id}"),
        )
        fleet.connections.open(jump, deadline, cancelled)
    except Unreachable as error:
        step = "resolve" if error.step == "resolve" else "connect"
        raise Unreachable(f"The jump server stands in the way: {error.message}", step=step) from error
    timeline.passed("connect", f"through {jump.server_id}")


def _why_not(done: Completed) -> str:
    if done.timed_out:
        return "the command `true` did not end in time"
    said = one_line(decode(done.stderr.head or done.stdout.head))
    return f"the command `true` ended with exit code {done.exit_code}" + (f": {said}" if said else "")


class _Timeline:
    """Collects steps as they pass; each lasts from the end of the one before it."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._since = time.monotonic()

    def listen(self, line: str, only_resolve: str = "") -> None:
        """Hear in ssh's messages (`-v`) that a name was resolved, and that a connection was made."""
        found = _CONNECTING.match(line)
        if found:
            self.passed("resolve", found["address"] + only_resolve)
        elif line.startswith(_CONNECTED) and not only_resolve:
            self.passed("connect")

    def passed(self, name: str, detail: str = "") -> None:
        """A step went well, and so did any before it that was not heard of; said twice (several addresses) it counts once."""
        at = STEPS.index(name)
        if at < len(self.steps):
            return
        self.steps += [Step(missed, True) for missed in STEPS[len(self.steps) : at]]
        self.steps.append(Step(name, True, self._lap(), detail))

    def failed(self, error: FleetShellError) -> None:
        """The step that the error names failed, else the current one: ssh may tell only later why a step before did."""
        step = error.step if isinstance(error, Unreachable) else ""
        name = _LATER.get(step, step)
        at = STEPS.index(name) if name in STEPS else min(len(self.steps), len(STEPS) - 1)
        if at > len(self.steps):
            self.passed(STEPS[at - 1])
        del self.steps[at:]
        self.steps.append(Step(STEPS[at], False, self._lap(), error.message))
        self.steps += [Step(later, None) for later in STEPS[at + 1 :]]

    def _lap(self) -> int:
        now = time.monotonic()
        since, self._since = self._since, now
        return round((now - since) * 1000)
