"""What an approval of an act is bound to: the servers as they are registered now, and what a shell session knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from fleetshell_tools.core.approval_store import ApprovalStore, Request
from fleetshell_tools.core.servers import Inventory, Server
from fleetshell_tools.core.types import Act, Caller, Verdict


class Approving:
    """Asks the store about acts of a fleet.

    Args:
        inventory: The servers as they are configured now.
    """

    def __init__(self, store: ApprovalStore, inventory: Callable[[], Inventory]) -> None:
        self._store = store
        self._inventory = inventory

    def decide(
        self,
        caller: Caller,
        servers: Sequence[Server],
        act: Act,
        verdict: Verdict,
        approval_id: str | None,
        *,
        session: str = "",
        typed: bool = False,
        state: tuple[str, ...] = (),
        spare: bool = False,
    ) -> Verdict:
        """The verdict on an act, with the approval that was given for it; see `ApprovalStore.decide`.

        Args:
            session: The shell session it is for.
            typed: It is to be typed into a program there.
            state: What it depends on besides: what the session knows, or a script's data.
            spare: An approval that is not needed is left unused, and no error.
        """

        def request() -> Request:
            where = tuple(sorted(self._where(server) for server in servers))
            return Request(tuple(server.id for server in servers), act, verdict, (*where, *state), session, typed)

        return self._store.decide(caller, verdict, approval_id, request, spare=spare)

    def decide_all(
        self, caller: Caller, servers: Sequence[Server], act: Act, verdicts: list[Verdict], approval_id: str | None
    ) -> list[Verdict]:
        """The verdicts on one act on several servers, with one approval for all of them."""
        needs = [verdict for verdict in verdicts if not verdict.allowed and verdict.approvable]
        if not needs and not approval_id:
            return verdicts
        free = [verdict for verdict in verdicts if verdict.allowed]
        first = next(iter(needs or free or verdicts))
        decided = self.decide(caller, servers, act, first, approval_id)

        def after(verdict: Verdict) -> Verdict:
            if not needs:
                return decided if verdict.allowed else verdict
            if verdict.allowed or not verdict.approvable:
                return verdict
            return replace(verdict, allowed=decided.allowed, approval=decided.approval, reason=decided.reason)

        return [after(verdict) for verdict in verdicts]

    def _where(self, server: Server) -> str:
        """Where an id leads: a file that is edited after the operator has looked must not lead elsewhere."""
        inventory = self._inventory()
        login = (inventory.user(server), server.hostname, inventory.port(server), inventory.jump_id(server))
        return repr((server.id, *login, server.connection, server.use_ssh_config, sorted(server.ssh_options.items())))
