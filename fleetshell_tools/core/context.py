"""What a tool is given with each call: who calls, the roads to servers and stores, progress and cancellation."""

from __future__ import annotations

from dataclasses import dataclass, field

from fleetshell_tools.core.config import Config
from fleetshell_tools.core.servers import Inventory
from fleetshell_tools.core.types import Auth, Caller, Cancellation, Fleet, Progress


def no_progress(done: float, total: float | None, message: str | None) -> None:
    """Progress that nobody asked for."""


@dataclass(frozen=True)
class Context:
    """One call's surroundings; a tool family reaches everything through it and nothing around it.

    `session_id` is the client's MCP session, which `authenticate` unlocks.
    """

    caller: Caller
    session_id: str
    config: Config
    inventory: Inventory
    fleet: Fleet
    auth: Auth
    progress: Progress = no_progress
    cancelled: Cancellation = field(default_factory=Cancellation)
