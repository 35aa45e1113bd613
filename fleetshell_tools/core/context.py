"""What a tool is given with each call: who calls, the roads to servers and stores, progress and cancellation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from fleetshell_tools.core.config import Config
from fleetshell_tools.core.errors import BadArgument, Refused
from fleetshell_tools.core.installing import Marketplace
from fleetshell_tools.core.jobs import NO_JOBS, Jobs
from fleetshell_tools.core.notes import NoteStore
from fleetshell_tools.core.prompts import PromptStore
from fleetshell_tools.core.servers import Inventory
from fleetshell_tools.core.types import (
    Ask,
    Auth,
    Caller,
    Cancellation,
    Fleet,
    NoReply,
    Progress,
    Reply,
)


def no_progress(done: float, total: float | None, message: str | None) -> None:
    """Progress that nobody asked for."""


class _Missing:
    """In place of a store that the application did not give: whoever uses it fails at once, and by name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        raise RuntimeError(f"this context was made without `{self._name}`, which is asked for `{attribute}`")


def _unrecorded(event: str, **fields: Any) -> None:
    raise RuntimeError(f"this context was made without `record`, which is to write {event}")


def cannot_ask(method: str, params: dict[str, Any]) -> dict[str, Any]:
    """Nobody can be asked.

    Raises:
        BadArgument: Always.
    """
    raise BadArgument("The client of this call can't be asked anything.")


class Upstreams(Protocol):
    """The external MCP servers that FleetShell aggregates."""

    def describe(self, mcp_id: str | None = None, query: str = "") -> list[dict[str, Any]]:
        """Every configured external server, or one, with its state and the tools whose name or description has `query`.

        With `mcp_id` a server whose tools are not known yet is started to list them.

        Raises:
            NotFound: There is no server of that id.
        """

    def call(
        self,
        caller: Caller,
        name: str,
        arguments: Mapping[str, Any],
        *,
        progress: Progress,
        cancelled: Cancellation,
        ask: Ask,
    ) -> dict[str, Any]:
        """Call a tool by `mcp_id.tool_name` or by its listed name, and wait for its end.

        Returns:
            `content`, `isError`, and `structuredContent` where there is one, made safe and short.

        Raises:
            NotFound, BadArgument, Refused, Unreachable, TimedOut, Cancelled, AuditUnavailable: There is no result.
        """

    def prompts(self) -> list[dict[str, Any]]:
        """The prompts of all servers that run, as `prompts/list` shows them: `<mcp_id>__<name>`."""

    def get_prompt(
        self,
        caller: Caller,
        name: str,
        arguments: Mapping[str, str],
        *,
        cancelled: Cancellation,
        ask: Ask,
    ) -> dict[str, Any]:
        """A prompt by its listed name, as `prompts/get` gives it.

        Raises:
            NotFound, BadArgument, Refused, Unreachable, TimedOut, Cancelled, AuditUnavailable: There is none.
        """


class NoUpstreams:
    """In place of the external MCP servers where there is nothing to reach them with."""

    WHY = "External MCP servers need the Python package mcp. Ask the operator to run `pip install 'mcp>=2.3,<3'` and restart the relay."

    def describe(self, mcp_id: str | None = None, query: str = "") -> list[dict[str, Any]]:
        """See `Upstreams`."""
        raise Refused(self.WHY)

    def call(self, *arguments: Any, **more: Any) -> dict[str, Any]:
        """See `Upstreams`."""
        raise Refused(self.WHY)

    def prompts(self) -> list[dict[str, Any]]:
        """See `Upstreams`."""
        return []

    def get_prompt(self, *arguments: Any, **more: Any) -> dict[str, Any]:
        """See `Upstreams`."""
        raise Refused(self.WHY)


@dataclass(frozen=True)
class Context:
    """One call's surroundings; a tool family reaches everything through it and nothing around it.

    `session_id` is the client's MCP session, which `authenticate` unlocks. `record(event, **fields)` writes one durable record of
    this call to the audit log before something that no server sees is changed, and raises where it can't. `reply` is how a call
    that takes long answers its client before its end, and goes on as one of the `jobs`. `ask` asks its client something.
    """

    caller: Caller
    session_id: str
    config: Config
    inventory: Inventory
    fleet: Fleet
    auth: Auth
    progress: Progress = no_progress
    cancelled: Cancellation = field(default_factory=Cancellation)
    record: Callable[..., object] = _unrecorded
    prompts: PromptStore = field(default_factory=lambda: cast(PromptStore, _Missing("prompts")))
    reply: Reply = field(default_factory=NoReply)
    jobs: Jobs = NO_JOBS
    upstreams: Upstreams = field(default_factory=NoUpstreams)
    ask: Ask = cannot_ask
    notes: NoteStore = field(default_factory=lambda: cast(NoteStore, _Missing("notes")))
    marketplace: Marketplace = field(default_factory=lambda: cast(Marketplace, _Missing("marketplace")))
