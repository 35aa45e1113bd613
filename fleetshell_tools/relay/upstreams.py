"""The external MCP servers as one: which there are, what clients see of them, and calling their tools.

For the application:

    upstreams = Upstreams(home, config, log, audit.record, on_changed)   # on_changed("tools" | "prompts"), from a thread of ours
    upstreams.start()                  # ends what a killed relay left, starts the servers with `auto_start`; returns at once
    upstreams.tool_definitions()       # to be added to `tools/list`; the same list object until it changes
    upstreams.generation("tools")      # looks at the files too: call it every few seconds; `prompts` as well
    upstreams.lists(name)              # whether a tool's name is one of them
    upstreams.call(caller, name, arguments, progress=…, cancelled=…, ask=…)   # a result of `tools/call`
    upstreams.prompts(); upstreams.get_prompt(caller, name, arguments)        # `prompts/list`, `prompts/get`
    upstreams.describe(mcp_id, query)  # for list_external_mcps, `mcp list` and `status`
    upstreams.reconfigure(config); upstreams.close()

Everything is for any thread. One thread of ours runs an event loop with a supervisor for each enabled server; a calling
thread waits for its call, and meanwhile passes on its progress and its questions.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from fleetshell_tools.core.config import Config
from fleetshell_tools.core.context import NoUpstreams, cannot_ask, no_progress
from fleetshell_tools.core.errors import BadArgument, FleetShellError, NotFound, Refused
from fleetshell_tools.core.home import Home
from fleetshell_tools.core.mcp_pins import Pins
from fleetshell_tools.core.mcps import Mcp, McpStore
from fleetshell_tools.core.types import Ask, Caller, Cancellation, Progress
from fleetshell_tools.core.words import nearest
from fleetshell_tools.relay import upstream, upstream_children, upstream_results, upstream_tools
from fleetshell_tools.relay.upstream_calls import Client, wait_for
from fleetshell_tools.relay.upstream_description import described
from fleetshell_tools.relay.upstream_direct import ServerError
from fleetshell_tools.relay.upstream_prompts import UpstreamPrompt
from fleetshell_tools.relay.upstream_supervisor import Known, Supervisor, Surroundings
from fleetshell_tools.relay.upstream_tools import UpstreamTool

T = TypeVar("T")
CLOSE_SECONDS = 10.0
"""How long `close` waits: a server that ignores everything takes 2 s, 2 s more after SIGTERM, and 2 s after SIGKILL."""


class Upstreams:
    """See the module.

    Args:
        audit_record: `AuditLog.record`.
        on_changed: Called after a list that clients know has changed, with `tools` or `prompts`.
    """

    def __init__(
        self,
        home: Home,
        config: Config,
        log: logging.Logger,
        audit_record: Callable[..., object],
        on_changed: Callable[[str], None] = lambda kind: None,
    ) -> None:
        self.config = config
        self.store = McpStore(home.path / "mcps")
        self.pins = Pins(home.path / "mcps" / ".pins")
        self._log = log
        self._record = audit_record
        self._on_changed = on_changed
        # Never the same: who refreshes waits for the event loop, which itself rebuilds.
        self._refreshing = threading.Lock()
        self._rebuilding = threading.Lock()
        self._supervisors: dict[str, Supervisor] = {}
        self._generations = {"tools": 0, "prompts": 0}
        self._definitions: list[dict[str, Any]] = []
        self._exposed: dict[str, tuple[Mcp, UpstreamTool]] = {}
        self._prompts: dict[str, tuple[str, UpstreamPrompt]] = {}
        self._clashes: list[str] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._notes = upstream_children.Notes(home.run / "mcps.json")
        self._around = Surroundings(home, self._notes, self.pins, log, lambda: self.config.external, self._published)

    # Its life

    def start(self) -> None:
        """Begin; without the SDK only what was left behind is ended."""
        left = self._notes.left()
        if not upstream.available():
            for sentence in upstream_children.sweep(self._notes, left):
                self._log.warning("%s", sentence)
            return
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="external MCP servers", daemon=True)
        self._thread.start()
        if left:
            self._submit(asyncio.to_thread(self._sweep, left))
        self.refresh()

    def close(self) -> None:
        """Stop every server and wait for it; a second time does nothing."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        with self._refreshing:
            self._loop = self._thread = None
            supervisors, self._supervisors = list(self._supervisors.values()), {}
        ending = asyncio.run_coroutine_threadsafe(_end(supervisors), loop)
        try:
            ending.result(CLOSE_SECONDS)
        except Exception:
            self._log.exception("Some external MCP servers were not stopped in time.")
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        self._notes.close()

    def reconfigure(self, config: Config) -> None:
        """Take a new configuration: the budget and limits."""
        self.config = config
        self._rebuild()

    def refresh(self) -> None:
        """Look at the files again: start, stop and replace servers, and take in what the operator accepted."""
        loop = self._loop
        if loop is None or threading.current_thread() is self._thread:
            return
        with self._refreshing:
            good, _ = self.store.listing()
            wanted = {mcp.id: mcp for mcp in good if mcp.enabled}
            gone = [one for one in self._supervisors.values() if wanted.get(one.mcp.id) != one.mcp]
            new = [mcp for mcp in wanted.values() if getattr(self._supervisors.get(mcp.id), "mcp", None) != mcp]
            same = [one for one in self._supervisors.values() if one not in gone]
            if gone or new:
                self._submit(self._exchange(gone, new)).result()
        for supervisor in same:
            if self.pins.stamp(supervisor.mcp.id) != supervisor.pins_stamp:
                supervisor.pins_stamp = self.pins.stamp(supervisor.mcp.id)
                loop.call_soon_threadsafe(supervisor.reconsider)
        if gone or new:
            self._rebuild()

    # What there is

    def tool_definitions(self) -> list[dict[str, Any]]:
        """The tools that are listed directly, as `tools/list` shows them, by name."""
        return self._definitions

    def generation(self, kind: str = "tools") -> int:
        """A number that is another one after `tools` or `prompts` have changed; looks at the files."""
        self.refresh()
        return self._generations[kind]

    def lists(self, name: str) -> bool:
        """Whether a tool of that name is listed directly."""
        return name in self._exposed

    def prompts(self) -> list[dict[str, Any]]:
        """The prompts of all servers that run, as `prompts/list` shows them."""
        return [prompt.definition for _, prompt in self._prompts.values()]

    def describe(self, mcp_id: str | None = None, query: str = "") -> list[dict[str, Any]]:
        """See `core.context.Upstreams`."""
        self.refresh()
        good, bad = self.store.listing()
        if mcp_id is not None:
            self.store.get(mcp_id) if mcp_id not in bad else None
            good = [mcp for mcp in good if mcp.id == mcp_id]
            bad = {name: why for name, why in bad.items() if name == mcp_id}
            supervisor = self._supervisors.get(mcp_id)
            if supervisor is not None and not supervisor.known.listed:
                self._list_now(supervisor)
        entries = [described(mcp, self._supervisors.get(mcp.id), self._exposed, self._clashes, query) for mcp in good]
        for entry in entries:
            if not upstream.available():
                entry.update(status="unavailable", error=NoUpstreams.WHY)
        for name, why in bad.items():
            entries.append({"id": name, "name": name, "enabled": False, "status": "invalid", "tools": [], "error": why})
        return sorted(entries, key=lambda entry: str(entry["id"]))

    # Calling

    def call(
        self,
        caller: Caller,
        name: str,
        arguments: Mapping[str, Any],
        *,
        progress: Progress = no_progress,
        cancelled: Cancellation | None = None,
        ask: Ask = cannot_ask,
    ) -> dict[str, Any]:
        """See `core.context.Upstreams`."""
        supervisor, tool = self._found(name)
        mcp = supervisor.mcp
        self._check(supervisor, tool, before=True)
        client = Client(caller, progress, ask)
        with self._recorded("external_call", caller, f"{mcp.id}.{tool}", arguments) as failed:
            try:
                result = wait_for(
                    lambda: self._submit(self._work(supervisor, tool, arguments, client)),
                    client, mcp, cancelled or Cancellation(),
                )  # fmt: skip
            except ServerError as error:
                # The model reads it as what the tool said: it may have given wrong arguments.
                text = f"{mcp.id} answered with error {error.code}: {error.message}"
                result = {"content": [{"type": "text", "text": text}], "isError": True}
            shown = upstream_results.bounded(result, self.config.security.max_output_bytes)
            if shown["isError"]:
                failed.append("the tool failed")
            return shown

    def get_prompt(
        self,
        caller: Caller,
        name: str,
        arguments: Mapping[str, str],
        *,
        cancelled: Cancellation | None = None,
        ask: Ask = cannot_ask,
    ) -> dict[str, Any]:
        """See `core.context.Upstreams`."""
        found = self._prompts.get(name)
        supervisor = self._supervisors.get(found[0]) if found else None
        if found is None or supervisor is None:
            raise NotFound(f"There is no prompt {name[:80]!r}.{nearest(name, self._prompts)}")
        client, mcp, prompt = Client(caller, no_progress, ask), supervisor.mcp, found[1].name
        with self._recorded("external_prompt", caller, f"{mcp.id}.{prompt}", arguments):
            try:
                result = wait_for(
                    lambda: self._submit(_prompt(supervisor, prompt, arguments, client)),
                    client, mcp, cancelled or Cancellation(),
                )  # fmt: skip
            except ServerError as error:
                raise BadArgument(f"{mcp.id} answered with error {error.code}: {error.message}") from None
        return upstream_results.bounded_prompt(result, self.config.security.max_output_bytes)

    @contextlib.contextmanager
    def _recorded(self, event: str, caller: Caller, name: str, arguments: Mapping[str, Any]) -> Iterator[list[str]]:
        """Record an intent before the block and its outcome after it; why it failed where nothing was raised goes into the list."""
        fields = {
            "tool": caller.tool, "principal": caller.principal.key_id, "client": caller.client, "session": caller.session,
            "command": name, "arguments_sha256": _digest(arguments),
        }  # fmt: skip
        self._record(event, durable=True, verdict="allowed", **fields)
        began = time.monotonic()
        why: str | None = "internal error"
        failed: list[str] = []
        try:
            yield failed
            why = failed[0] if failed else None
        except FleetShellError as error:
            why = error.reason
            raise
        finally:
            took = round((time.monotonic() - began) * 1000)
            self._record(f"{event}_ended", success=why is None, duration_ms=took, reason=why, **fields)

    def _found(self, name: str) -> tuple[Supervisor, str]:
        """The server and the tool that a name means."""
        if name in self._exposed:
            mcp, tool = self._exposed[name]
            mcp_id, tool_name = mcp.id, tool.name
        elif "." in name:
            mcp_id, _, tool_name = name.partition(".")
        else:
            mcp_id, _, listed = name.partition("__")
            supervisor = self._supervisors.get(mcp_id)
            known = supervisor.known if supervisor else Known()
            tool_name = next((tool.name for tool in known.tools if tool.listed == name), listed)
        if not tool_name:
            raise NotFound(
                f"{name[:80]!r} names no external tool; write it as mcp_id.tool_name, such as playwright.browser_click."
            )
        mcp = self.store.get(mcp_id)
        if not mcp.enabled:
            raise Refused(
                f"The external MCP server {mcp_id} is disabled. The operator enables it: `fleetshell mcp enable {mcp_id}`."
            )
        if self._loop is None:
            raise Refused(NoUpstreams.WHY if not upstream.available() else "The external MCP servers are stopped.")
        supervisor = self._supervisors.get(mcp_id)
        if supervisor is None or supervisor.mcp != mcp:
            self.refresh()
            supervisor = self._supervisors.get(mcp_id)
        if supervisor is None:
            raise Refused(f"The external MCP server {mcp_id} has just been removed.")
        return supervisor, tool_name

    def _check(self, supervisor: Supervisor, name: str, *, before: bool = False) -> None:
        """Refuse a tool that is held back or unknown; `before` the server runs, it may have others than are known."""
        mcp_id, known = supervisor.mcp.id, supervisor.known
        if name in (known.quarantined or {}):
            raise Refused(
                f"The tool {name} of {mcp_id} has changed since it was accepted, so it is held back. The operator sees the "
                f"difference and accepts it with `fleetshell mcp accept {mcp_id}`."
            )
        names = [tool.name for tool in known.tools]
        if name not in names and not (before and supervisor.status != "ready"):
            some = ", ".join(names[:10]) or "none"
            raise NotFound(
                f"{mcp_id} has no tool {name[:80]!r}.{nearest(name, names)} Its tools: {some}"
                f"{f', and more; see list_external_mcps with mcp_id {mcp_id}' if len(names) > 10 else ''}."
            )

    async def _work(
        self, supervisor: Supervisor, tool: str, arguments: Mapping[str, Any], client: Client
    ) -> dict[str, Any]:
        async with supervisor.working(client.active):
            connection = await supervisor.connection()
            self._check(supervisor, tool)
            progress = client.report if client.progress is not no_progress else None
            return await connection.call(tool, arguments, progress, client.asking)

    def _list_now(self, supervisor: Supervisor) -> None:
        """Start a server so that its tools are known; where that fails, its state says so."""
        client = Client(None, no_progress, cannot_ask)
        try:
            wait_for(lambda: self._submit(_started(supervisor)), client, supervisor.mcp, Cancellation())
        except FleetShellError as error:
            self._log.info("%s could not be listed: %s", supervisor.mcp.id, error.message)

    # In the event loop

    def _submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        loop = self._loop
        if loop is None:
            work.close()
            raise Refused("The external MCP servers are stopped.")
        return asyncio.run_coroutine_threadsafe(work, loop)

    async def _exchange(self, gone: Sequence[Supervisor], new: Sequence[Mcp]) -> None:
        for supervisor in gone:
            del self._supervisors[supervisor.mcp.id]
            _keep(asyncio.create_task(supervisor.stop()))
        for mcp in new:
            self._supervisors[mcp.id] = Supervisor(mcp, self._around)

    def _sweep(self, left: list[upstream_children.Group]) -> None:
        for sentence in upstream_children.sweep(self._notes, left):
            self._log.warning("%s", sentence)

    def _published(self, kind: str) -> None:
        self._rebuild()

    def _rebuild(self) -> None:
        """Choose anew what is listed, and tell if it changed."""
        settings = self.config.external
        with self._rebuilding:
            supervisors = sorted(self._supervisors.values(), key=lambda one: one.mcp.id)
            servers = [(one.mcp, one.known.tools) for one in supervisors]
            exposed, clashes = upstream_tools.exposed(servers, settings.server_bytes, settings.total_bytes)
            prompts: dict[str, tuple[str, UpstreamPrompt]] = {}
            for supervisor in supervisors:
                for prompt in supervisor.known.prompts:
                    prompts.setdefault(prompt.listed, (supervisor.mcp.id, prompt))
            for sentence in set(clashes) - set(self._clashes):
                self._log.warning("%s", sentence)
            definitions = [tool.definition for _, tool in exposed.values()]
            changed = [kind for kind, differs in
                       (("tools", definitions != self._definitions), ("prompts", prompts != self._prompts)) if differs]  # fmt: skip
            self._exposed, self._clashes, self._prompts = exposed, clashes, dict(sorted(prompts.items()))
            if "tools" in changed:
                self._definitions = definitions
            for kind in changed:
                self._generations[kind] += 1
        for kind in changed:
            self._on_changed(kind)


_ending: set[asyncio.Task[None]] = set()
"""Tasks that nobody waits for: the loop alone would let them be collected."""


def _keep(task: asyncio.Task[None]) -> None:
    _ending.add(task)
    task.add_done_callback(_ending.discard)


async def _end(supervisors: Sequence[Supervisor]) -> None:
    loop = asyncio.get_running_loop()
    mine = [task for task in _ending if task.get_loop() is loop]
    await asyncio.gather(*(supervisor.stop() for supervisor in supervisors), *mine, return_exceptions=True)
    rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()


async def _started(supervisor: Supervisor) -> dict[str, Any]:
    await supervisor.connection()
    return {}


async def _prompt(supervisor: Supervisor, name: str, arguments: Mapping[str, str], client: Client) -> dict[str, Any]:
    async with supervisor.working(client.active):
        connection = await supervisor.connection()
        return await connection.get_prompt(name, arguments, client.asking)


def _digest(arguments: Mapping[str, Any]) -> str:
    text = json.dumps(arguments, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
