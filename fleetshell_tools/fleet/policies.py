"""The policies that an act has to pass besides the guard's rules: the server's, and that of the person who asks."""

from __future__ import annotations

from dataclasses import replace

from fleetshell_tools.core.errors import FleetShellError
from fleetshell_tools.core.servers import Inventory, Server
from fleetshell_tools.core.types import Act, Caller, Verdict
from fleetshell_tools.fleet.guard import Guard


def judge(guard: Guard, caller: Caller, act: Act) -> Verdict:
    """The guard's verdict under the act's policy, then the person's; the first that refuses decides, so that the stricter one holds."""
    verdict = guard.judge(act)
    own = caller.principal.policy
    if not verdict.allowed or own == "normal":
        return verdict
    verdict = guard.judge(replace(act, policy=own, allowed=()))
    said = f"{verdict.reason} `{own}` is the policy of {caller.principal.name} on every server."
    return verdict if verdict.allowed else replace(verdict, reason=said)


def as_it_is_now(inventory: Inventory, server: Server) -> Server:
    """A server as its file says now: a shell session may be older than the policy."""
    try:
        return inventory.get(server.id)
    except FleetShellError:
        return server
