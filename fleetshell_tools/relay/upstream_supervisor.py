"""One external MCP server's life: started when wanted, watched, restarted with growing pauses, stopped when idle."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from fleetshell_tools.core.config import External
from fleetshell_tools.core.errors import BadArgument, ConfigError, FleetShellError, Refused, Unreachable
from fleetshell_tools.core.home import Home
from fleetshell_tools.core.mcp_pins import Pins
from fleetshell_tools.core.mcps import Mcp, resolved
from fleetshell_tools.relay import upstream, upstream_tools
from fleetshell_tools.relay.upstream import Asking, Connection, Hooks
from fleetshell_tools.relay.upstream_children import Notes
from fleetshell_tools.relay.upstream_direct import ServerError
from fleetshell_tools.relay.upstream_log import UpstreamLog
from fleetshell_tools.relay.upstream_prompts import UpstreamPrompt, usable_prompts
from fleetshell_tools.relay.upstream_tools import UpstreamTool

FAILURES = 5
"""Failures in a row after which a server is left alone."""
LONGEST_PAUSE = 60.0
"""The longest pause between two starts, in seconds; and how long a server is left alone after too many failures."""
STABLE_SECONDS = 30.0
"""How long a server must have lived for its earlier failures to be forgotten."""
PING_SECONDS = 30.0
"""How often a server without work is asked for a sign of life; two that stay out end it."""
LOOK_SECONDS = 5.0
"""How often to look whether something is due."""
HURRY_SECONDS = 0.2
"""How long a server that is to stop may finish what it is asked for at the moment."""
LIST_SECONDS = 1.0
"""The shortest time between two listings: some servers announce changes without end."""


@dataclass(frozen=True)
class Surroundings:
    """What all supervisors share; `published(kind)` is called in the event loop when a server's list has changed."""

    home: Home
    notes: Notes
    pins: Pins
    log: logging.Logger
    settings: Callable[[], External]
    published: Callable[[str], None]


@dataclass(frozen=True)
class Known:
    """What is known of a server's tools and prompts: replaced as a whole, so that any thread may read it.

    Attributes:
        quarantined: The differences of the tools that changed since they were accepted, by name.
        problems: A sentence for each tool or prompt that is refused.
    """

    tools: tuple[UpstreamTool, ...] = ()
    quarantined: dict[str, list[str]] | None = None
    problems: tuple[str, ...] = ()
    prompts: tuple[UpstreamPrompt, ...] = ()
    listed: bool = False


@dataclass(eq=False)
class Active:
    """A call that a server is working on; `owner` tells clients apart, `asking` reaches the call's own."""

    owner: tuple[str, str]
    asking: Asking


class Supervisor:
    """The one task that starts and stops a server, and what others ask of it. For the event loop's thread but where said.

    Attributes:
        status: `stopped`, `starting`, `ready`, `waiting` (before another start) or `failed` (left alone); for any thread.
        error: How it failed last; for any thread, as are `known`, `restarts` and `version`.
    """

    def __init__(self, mcp: Mcp, around: Surroundings) -> None:
        self.mcp = mcp
        self.status = "stopped"
        self.error = ""
        self.restarts = -1
        self.version = ""
        self.known = Known()
        self.pins_stamp: tuple[int, ...] = ()
        self.calls: list[Active] = []
        self._around = around
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = None
        self._definitions: list[dict[str, Any]] = []
        self._waiters: list[asyncio.Future[Connection]] = []
        self._changed: set[str] = set()
        self._poke = asyncio.Event()
        self._stopping = False
        self._wanted = mcp.auto_start
        self._mode = "auto" if mcp.url else "legacy"
        self._failures = 0
        self._retry_at = 0.0
        self._used = 0.0
        self._log = UpstreamLog(around.home.logs / f"mcp-{mcp.id}.log")
        self._remember()
        self._task = self._loop.create_task(self._run())

    @property
    def pid(self) -> int | None:
        """The program's process id while it runs; for any thread."""
        connection = self._connection
        return connection.pid if connection is not None else None

    async def connection(self) -> Connection:
        """The live connection, started where there is none.

        Raises:
            Unreachable: It could not be started, or is left alone after too many failures.
        """
        self._used = self._loop.time()
        if self._connection is not None and not self._connection.ended.is_set():
            return self._connection
        if self._stopping:
            raise Unreachable(f"{self.mcp.id} is being stopped.", step="start")
        if self.status == "failed" and self._loop.time() < self._retry_at:
            raise Unreachable(self._left_alone(), step="start")
        self._wanted = True
        waiter: asyncio.Future[Connection] = self._loop.create_future()
        self._waiters.append(waiter)
        self._poke.set()
        try:
            return await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    @contextlib.asynccontextmanager
    async def working(self, active: Active) -> AsyncIterator[None]:
        """Count a call for as long as it lasts.

        Raises:
            Refused: There are too many.
        """
        limit = self._around.settings().max_parallel
        if len(self.calls) >= limit:
            raise Refused(f"{self.mcp.id} works on {limit} calls already (external.max_parallel); call again later.")
        self.calls.append(active)
        try:
            yield
        finally:
            self.calls.remove(active)
            self._used = self._loop.time()

    def reconsider(self) -> None:
        """The pins have changed: the operator accepted something."""
        if self._connection is not None:
            self._changed.add("pins")
            self._poke.set()
        else:
            self._remember()
            self._around.published("tools")

    async def stop(self) -> None:
        """End the server and the task; calls in flight fail."""
        self._stopping = True
        self._poke.set()
        await asyncio.wait({self._task}, timeout=0 if self.status == "starting" else HURRY_SECONDS)
        # What it waits for may never come; the stopping of a program goes on all the same, and is waited for.
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.status = "stopped"
        self._tell_waiters(Unreachable(f"{self.mcp.id} is being stopped.", step="start"))
        self._log.close()

    # The task

    async def _run(self) -> None:
        while not self._stopping:
            self._poke.clear()
            if not self._wanted:
                await self._poke.wait()
                continue
            began = self._loop.time()
            try:
                await self._live()
            except FleetShellError as error:
                why = error.message
            except Exception as error:
                self._around.log.exception("The external MCP server %s failed.", self.mcp.id)
                why = f"internal error ({type(error).__name__}), see the relay's log"
            else:
                self._wanted = self._wanted and bool(self._waiters)
                self.status = "stopped"
                continue
            finally:
                was_ready, self._connection = self._connection is not None, None
            if self._stopping:
                break
            await self._failed(self._log.hide(why), was_ready, self._loop.time() - began)

    async def _failed(self, why: str, was_ready: bool, lived: float) -> None:
        """Note a failure, and pause before the next start."""
        self._failures = 1 if was_ready and lived >= STABLE_SECONDS else self._failures + 1
        self.error = why
        self._log.event(f"failed: {why}")
        self._around.log.warning(
            "The external MCP server %s failed (%d in a row): %s", self.mcp.id, self._failures, why
        )
        if not was_ready:
            self._tell_waiters(Unreachable(why, step="start"))
        if self._failures >= FAILURES:
            self._retry_at = self._loop.time() + LONGEST_PAUSE
            self._wanted, self.status = False, "failed"
            self._tell_waiters(Unreachable(self._left_alone(), step="start"))
            return
        self.status = "waiting"
        # The first failure of a server that worked is often its only one: it is back at once.
        pause = 0.0 if was_ready and self._failures == 1 else min(2.0 ** (self._failures - 1), LONGEST_PAUSE)
        until = self._loop.time() + pause
        while not self._stopping and self._loop.time() < until:
            self._poke.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._poke.wait(), until - self._loop.time())
        if not self.mcp.auto_start and not self._waiters:
            self._wanted, self.status = False, "stopped"

    def _left_alone(self) -> str:
        return (
            f"{self.mcp.id} failed {self._failures} times in a row and is left alone for {LONGEST_PAUSE:g} s, then the next use "
            f"tries again. The last time: {self.error} `fleetshell mcp logs {self.mcp.id}` shows what it printed."
        )

    async def _live(self) -> None:
        """One start: returns when it is to be stopped, raises where it failed."""
        self.status = "starting"
        values, secrets = resolved(self.mcp, self._around.home.path)
        self._log.close()
        self._log = UpstreamLog(self._around.home.logs / f"mcp-{self.mcp.id}.log", secrets)
        hooks = Hooks(self._list_changed, self._asked)
        try:
            async with self._connected(self._mode, values, hooks) as connection:
                await self._serve(connection)
        except upstream.NoHandshake:
            if self._mode != "legacy" or self._stopping:
                raise
            # A server of the modern era alone: it is probed from now on.
            async with self._connected("auto", values, hooks) as connection:
                self._mode = "auto"
                await self._serve(connection)

    def _connected(
        self, mode: str, values: dict[str, str], hooks: Hooks
    ) -> contextlib.AbstractAsyncContextManager[Connection]:
        return upstream.connect(self.mcp, values, mode, self._log, self._around.notes, hooks)

    async def _serve(self, connection: Connection) -> None:
        ended = self._loop.create_task(self._poke_at(connection.ended))
        try:
            await self._list(connection, {"tools", "prompts"})
            self.version, self.status, self._connection = connection.version, "ready", connection
            self.restarts += 1
            self._used = self._loop.time()
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(connection)
            self._waiters.clear()
            await self._watch(connection)
        except ServerError as error:
            raise Unreachable(
                f"{self.mcp.id} answered with error {error.code}: {error.message}.", step="start"
            ) from None
        finally:
            ended.cancel()

    async def _watch(self, connection: Connection) -> None:
        """Look after a server that works, until it is to stop."""
        listed = heard = self._loop.time()
        misses = 0
        while True:
            now = self._loop.time()
            if connection.ended.is_set():
                raise Unreachable(f"{self.mcp.id} ended: {connection.why}.", step="lost")
            if self._stopping or (not self.calls and not self.mcp.auto_start and self._idle(now)):
                return
            if self._changed and now >= listed + LIST_SECONDS:
                changed, self._changed = self._changed, set()
                listed = now
                with contextlib.suppress(ServerError, Unreachable):
                    await self._list(connection, changed)
                continue
            if not self.calls and now >= heard + PING_SECONDS:
                try:
                    await connection.ping()
                    misses = 0
                except ServerError as error:
                    misses = misses + 1 if error.timed_out else 0  # an error is a sign of life, too
                except Unreachable:
                    continue
                if misses > 1:
                    raise Unreachable(f"{self.mcp.id} does not answer any more.", step="lost")
                heard = self._loop.time()
            self._poke.clear()
            pause = listed + LIST_SECONDS - now if self._changed else LOOK_SECONDS
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._poke.wait(), max(pause, 0.01))

    def _idle(self, now: float) -> bool:
        return now - self._used > self._around.settings().idle_seconds

    async def _poke_at(self, event: asyncio.Event) -> None:
        await event.wait()
        self._poke.set()

    def _tell_waiters(self, error: FleetShellError) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(error)
        self._waiters.clear()

    # Lists

    def _list_changed(self, kind: str) -> None:
        self._changed.add(kind)
        self._poke.set()

    async def _list(self, connection: Connection, kinds: set[str]) -> None:
        """Read the lists again, compare the tools with their pins, and publish what changed."""
        before = self.known
        prompts, problems = before.prompts, list(before.problems)
        if "tools" in kinds:
            self._definitions, refused = upstream_tools.usable(await connection.list("tools"))
            problems = refused
        if "prompts" in kinds:
            prompts, more = usable_prompts(self.mcp.id, await connection.list("prompts"))
            problems += more
        try:
            quarantined = await asyncio.to_thread(self._around.pins.check, self.mcp.id, self._definitions)
        except OSError as error:
            raise ConfigError(
                f"The tools of {self.mcp.id} can't be pinned: {error.strerror}. Free space, then try again."
            ) from None
        self.pins_stamp = self._around.pins.stamp(self.mcp.id)
        accepted = [definition for definition in self._definitions if definition["name"] not in quarantined]
        tools, refused = upstream_tools.examined(self.mcp.id, accepted)
        self.known = Known(tuple(tools), quarantined, tuple(dict.fromkeys([*problems, *refused])), prompts, True)
        for sentence in set(self.known.problems) - set(before.problems):
            self._around.log.warning("The external MCP server %s: %s", self.mcp.id, sentence)
        for name in quarantined.keys() - (before.quarantined or {}).keys():
            self._around.log.warning(
                "The external MCP server %s changed its tool %r, which is held back: `fleetshell mcp accept %s`",
                self.mcp.id, name, self.mcp.id,
            )  # fmt: skip
        if before.tools != self.known.tools:
            self._around.published("tools")
        if before.prompts != prompts:
            self._around.published("prompts")

    def _remember(self) -> None:
        """Know the tools of the last listing, so that they are listed before the server is started."""
        try:
            definitions, quarantined = self._around.pins.remembered(self.mcp.id)
        except (FleetShellError, OSError) as error:
            self.error = error.message if isinstance(error, FleetShellError) else str(error.strerror)
            return
        self.pins_stamp = self._around.pins.stamp(self.mcp.id)
        definitions, problems = upstream_tools.usable([one for one in definitions if one["name"] not in quarantined])
        tools, refused = upstream_tools.examined(self.mcp.id, definitions)
        self.known = Known(tuple(tools), quarantined, (*problems, *refused), listed=bool(self.pins_stamp))

    # Questions

    async def _asked(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """A legacy server asks; it does not say for which call, so there must be no doubt whose client is meant."""
        if not self.calls:
            raise BadArgument("There is no call whose client could be asked.")
        if len({active.owner for active in self.calls}) > 1:
            raise Refused("Several clients are calling this server, and it can't be told which of them is asked.")
        return await self.calls[-1].asking(method, params)
