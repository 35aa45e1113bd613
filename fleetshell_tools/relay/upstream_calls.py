"""One call to an external server, from the side of the thread that waits for it: progress, questions, time limit."""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any

from fleetshell_tools.core.context import no_progress
from fleetshell_tools.core.errors import Cancelled, FleetShellError, Refused, TimedOut, Unreachable
from fleetshell_tools.core.mcps import Mcp
from fleetshell_tools.core.text import one_line
from fleetshell_tools.core.types import Ask, Caller, Cancellation, Progress
from fleetshell_tools.relay.upstream import MAX_ROUNDS
from fleetshell_tools.relay.upstream_supervisor import Active

_WAITING = 64
"""Progress that waits to be passed on; more is dropped."""


class Client:
    """A call's way back to its client: coroutines leave here what the calling thread then does, since it may block."""

    def __init__(self, caller: Caller | None, progress: Progress, ask: Ask) -> None:
        self.progress = progress
        self.inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.asked_seconds = 0.0
        self.active = Active((caller.principal.key_id, caller.session) if caller else ("", ""), self.asking)
        self._ask = ask
        self._questions = 0

    async def report(self, done: float, total: float | None, message: str | None) -> None:
        """Progress of the server."""
        if self.progress is not no_progress and self.inbox.qsize() < _WAITING:
            text = one_line(message) if message else None
            self.inbox.put(lambda: self.progress(done, total, text))

    async def asking(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Ask the client, and wait.

        Raises:
            FleetShellError: It can't be asked, does not want to, or was asked too often.
        """
        self._questions += 1
        if self._questions > MAX_ROUNDS:
            raise Refused(f"A server may ask its client {MAX_ROUNDS} times in a call.")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[dict[str, Any]] = loop.create_future()

        def settle(result: dict[str, Any] | None, error: FleetShellError | None) -> None:
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result or {})

        def put_the_question() -> None:
            began = time.monotonic()
            try:
                result, error = self._ask(method, params), None
            except FleetShellError as failure:
                result, error = {}, failure
            # A person's time to answer is not the server's.
            self.asked_seconds += time.monotonic() - began
            loop.call_soon_threadsafe(settle, result, error)

        self.inbox.put(put_the_question)
        return await answer


def wait_for(
    submit: Callable[[], Future[dict[str, Any]]], client: Client, mcp: Mcp, cancelled: Cancellation
) -> dict[str, Any]:
    """Submit a call and wait for its end, doing meanwhile what is left in the client's inbox.

    Raises:
        ServerError: The server answered with an error.
        FleetShellError: There is no result; a call that was given up is cancelled at the server, too.
    """
    future = submit()
    future.add_done_callback(lambda done: client.inbox.put(None))
    forget = cancelled.on_set(lambda: client.inbox.put(None))
    began = time.monotonic()
    try:
        while not future.done() and not cancelled.is_set():
            left = began + mcp.timeout + client.asked_seconds - time.monotonic()
            try:
                todo = client.inbox.get(timeout=max(left, 0.0))
            except queue.Empty:
                raise TimedOut(
                    f"{mcp.id} did not answer within {mcp.timeout} s, and was told to stop. `timeout` in mcps/{mcp.id}.conf "
                    "allows more."
                ) from None
            if todo is not None:
                todo()
        if not future.done():
            raise Cancelled(f"The call to {mcp.id} was {cancelled.why or 'cancelled'}; the server was told to stop.")
        return future.result()
    except Unreachable as error:
        if error.step != "lost":
            raise
        raise Unreachable(
            f"{mcp.id} failed while it worked on this call: {error.message}. The call is not repeated, since it may have had "
            f"effects; the server is started again. `fleetshell mcp logs {mcp.id}` shows what it printed.",
            step="lost",
        ) from None
    except CancelledError:
        raise Unreachable(f"{mcp.id} was stopped while it worked on this call.", step="lost") from None
    finally:
        forget()
        if not future.done():
            future.cancel()
