"""`tools/call` to a legacy server over stdio without the SDK in between, which takes longer for a call than most servers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fleetshell_tools.core.errors import Unreachable
from fleetshell_tools.core.text import one_line

FIRST_ID = 1_000_000_000
"""Our ids begin here, those of the SDK at 0; servers that keep an id in 32 bits can take ours, too."""
REQUEST_TIMEOUT = -32001
INTERNAL_ERROR = -32603

_OURS = re.compile(rb'"(?:id|progressToken)"\s*:\s*[12]\d{9}\b')
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")

Report = Callable[[float, "float | None", "str | None"], Awaitable[None]]


class ServerError(Exception):
    """The server answered a request with a JSON-RPC error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = one_line(message, 2000)

    @property
    def timed_out(self) -> bool:
        return self.code == REQUEST_TIMEOUT


class Direct:
    """The calls of one connection. All of it is for the event loop's thread.

    Args:
        post: Writes a line to the server without waiting; raises ConnectionError where it has ended.
        write: The same, but waits while the server does not read.
    """

    def __init__(self, post: Callable[[bytes], None], write: Callable[[bytes], Awaitable[None]]) -> None:
        self._post = post
        self._write = write
        self._ids = itertools.count(FIRST_ID)
        self._waiting: dict[int, tuple[asyncio.Future[dict[str, Any]], Report | None]] = {}
        self._reports: set[asyncio.Future[None]] = set()
        self._over = ""

    async def call(self, name: str, arguments: Mapping[str, Any], report: Report | None) -> dict[str, Any]:
        """The result as the server wrote it; a call that is cancelled is cancelled at the server.

        Raises:
            ServerError: It answered with an error, or with no result.
            Unreachable: It has ended.
        """
        number = next(self._ids)
        params: dict[str, Any] = {"name": name, "arguments": dict(arguments)}
        if report is not None:
            params["_meta"] = {"progressToken": number}
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer, report
        try:
            if self._over:
                raise Unreachable(self._over, step="lost")
            await self._write(_line({"id": number, "method": "tools/call", "params": params}))
            return await answer
        except ConnectionError:
            raise Unreachable(self._over or "its program ended", step="lost") from None
        except asyncio.CancelledError:
            about = {"requestId": number, "reason": "The client gave the call up."}
            with contextlib.suppress(ConnectionError):  # an end tells the server as well
                self._post(_line({"method": "notifications/cancelled", "params": about}))
            raise
        finally:
            del self._waiting[number]

    def take(self, line: bytes) -> bool:
        """Take in a line of the server; False where it belongs to the SDK, or is nothing at all."""
        if _OURS.search(line) is None:
            return False
        try:
            message = json.loads(line.decode(), parse_constant=_no_constant)
            if _HALF.search(line):  # half a character can't be written out again
                message = json.loads(json.dumps(message, ensure_ascii=False).encode("utf-8", "replace"))
        except (ValueError, RecursionError):
            return False
        if not isinstance(message, dict):
            return False
        if message.get("method") == "notifications/progress":
            return self._progress(message.get("params"))
        number = message.get("id")
        if not isinstance(number, int) or number < FIRST_ID or "method" in message:
            return False
        answer, _ = self._waiting.get(number, (None, None))
        if answer is not None and not answer.done():
            self._settle(answer, message)
        return True

    def close(self, why: str) -> None:
        """The server has ended: fail the calls that it was working on."""
        self._over = why
        for answer, _ in self._waiting.values():
            if not answer.done():
                answer.set_exception(Unreachable(why, step="lost"))

    @staticmethod
    def _settle(answer: asyncio.Future[dict[str, Any]], message: dict[str, Any]) -> None:
        result, error = message.get("result"), message.get("error")
        if isinstance(result, dict):
            answer.set_result(result)
        elif isinstance(error, dict) and isinstance(error.get("code"), int):
            answer.set_exception(ServerError(error["code"], str(error.get("message", ""))))
        else:
            answer.set_exception(ServerError(INTERNAL_ERROR, "its answer to tools/call is not valid MCP"))

    def _progress(self, params: Any) -> bool:
        token = params.get("progressToken") if isinstance(params, dict) else None
        if not isinstance(token, int) or token < FIRST_ID:
            return False
        _, report = self._waiting.get(token, (None, None))
        done, total, text = (params.get(key) for key in ("progress", "total", "message"))
        if report is not None and _is_number(done):
            reported = asyncio.ensure_future(
                report(done, total if _is_number(total) else None, text if isinstance(text, str) else None)
            )
            self._reports.add(reported)
            reported.add_done_callback(self._reports.discard)
        return True


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **message}, ensure_ascii=False, separators=(",", ":")).encode(
        "utf-8", "replace"
    )
