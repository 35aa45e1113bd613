"""Calls past the SDK, line by line: answers of every shape, progress, cancellation, and what is left to the SDK."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from fleetshell_tools.core.errors import Unreachable
from fleetshell_tools.relay.upstream_direct import FIRST_ID, Direct, ServerError

ID = str(FIRST_ID)


class Wire:
    """What was written, and a call under way."""

    def __init__(self) -> None:
        self.written: list[dict[str, Any]] = []
        self.progress: list[tuple[float, float | None, str | None]] = []
        self.broken = False
        self.direct = Direct(self.post, self.write)

    def post(self, line: bytes) -> None:
        if self.broken:
            raise ConnectionResetError
        self.written.append(json.loads(line))

    async def write(self, line: bytes) -> None:
        self.post(line)

    async def report(self, done: float, total: float | None, message: str | None) -> None:
        self.progress.append((done, total, message))

    async def begin(self) -> asyncio.Task[dict[str, Any]]:
        call = asyncio.ensure_future(self.direct.call("look", {"at": "ü\ud800"}, self.report))
        await asyncio.sleep(0)
        return call


def with_a_call(work: Callable[[Wire, asyncio.Task[dict[str, Any]]], Any]) -> Any:
    """Begin a call, and do something with it."""

    async def run() -> Any:
        wire = Wire()
        return await work(wire, await wire.begin())

    return asyncio.run(run())


def test_a_call_is_one_line_and_its_result_is_as_the_server_wrote_it() -> None:
    async def work(wire: Wire, call: asyncio.Task[dict[str, Any]]) -> None:
        params = {"name": "look", "arguments": {"at": "ü?"}, "_meta": {"progressToken": FIRST_ID}}
        assert wire.written == [{"jsonrpc": "2.0", "id": FIRST_ID, "method": "tools/call", "params": params}]
        assert wire.direct.take(b'{"result":{"content":[],"more":{"id":7}},"jsonrpc":"2.0","id": %b}' % ID.encode())
        assert await call == {"content": [], "more": {"id": 7}}

    with_a_call(work)


@pytest.mark.parametrize(
    ("answer", "code", "says"),
    [
        ('"error":{"code":-32602,"message":"no such\\u0007 tool"}', -32602, "no such tool"),
        ('"result":[1]', -32603, "not valid MCP"),
        ('"result":null', -32603, "not valid MCP"),
        ('"error":"bad"', -32603, "not valid MCP"),
        ('"error":{"code":"x"}', -32603, "not valid MCP"),
    ],
)
def test_an_error_and_an_answer_that_is_none_are_errors_of_the_server(answer: str, code: int, says: str) -> None:
    async def work(wire: Wire, call: asyncio.Task[dict[str, Any]]) -> None:
        assert wire.direct.take(f'{{"id":{ID},{answer}}}'.encode())
        with pytest.raises(ServerError) as caught:
            await call
        assert caught.value.code == code and says in caught.value.message

    with_a_call(work)


@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc":"2.0","id":3,"result":{}}',
        b'{"jsonrpc":"2.0","id":3,"result":{"id":%b}}' % ID.encode(),
        b'{"jsonrpc":"2.0","id":%b,"method":"elicitation/create","params":{}}' % ID.encode(),
        b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":3,"progress":1,"id":%b}}' % ID.encode(),
        b'{"id":%b,"result":{"a":NaN}}' % ID.encode(),
        b'{"id":%b,"result":{"a":"\xff"}}' % ID.encode(),
        b'[{"id":%b,"result":{}}]' % ID.encode(),
        b'{"id":%b,"result":' % ID.encode() + b"[" * 100_000,
        b"",
    ],
    ids=range(9),
)  # fmt: skip
def test_everything_else_is_left_to_the_sdk(line: bytes) -> None:
    async def work(wire: Wire, call: asyncio.Task[dict[str, Any]]) -> None:
        assert not wire.direct.take(line)
        assert wire.direct.take(f'{{"id":{ID},"result":{{}}}}'.encode()) and await call == {}

    with_a_call(work)


def test_progress_comes_before_the_result_and_not_after_it() -> None:
    def progress(**params: Any) -> bytes:
        about = {"progressToken": FIRST_ID, **params}
        return json.dumps({"method": "notifications/progress", "params": about}).encode()

    async def work(wire: Wire, call: asyncio.Task[dict[str, Any]]) -> None:
        for params in (
            {"progress": 1, "total": 2, "message": "x"},
            {"progress": True},
            {"progress": 2.5, "total": "y", "message": 1},
        ):
            assert wire.direct.take(progress(**params))
        assert wire.direct.take(f'{{"id":{ID},"result":{{}}}}'.encode())
        await call
        assert wire.direct.take(progress(progress=3))
        await asyncio.sleep(0)
        assert wire.progress == [(1, 2, "x"), (2.5, None, None)]

    with_a_call(work)


def test_half_a_character_does_not_reach_what_writes_the_answer() -> None:
    async def work(wire: Wire, call: asyncio.Task[dict[str, Any]]) -> None:
        assert wire.direct.take(b'{"id":%b,"result":{"a":"\\ud83d\\ude00 \\ud800"}}' % ID.encode())
        assert (await call)["a"] == "\U0001f600 ?"

    with_a_call(work)


@pytest.mark.parametrize("broken", [False, True])
def test_a_cancelled_call_is_cancelled_at_the_server_and_a_late_answer_goes_nowhere(broken: bool) -> None:
    async def work(wire: Wire, call: asyncio.Task[dict[str, Any]]) -> None:
        wire.broken = broken
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()
        if not broken:
            assert wire.written[1]["method"] == "notifications/cancelled"
            assert wire.written[1]["params"]["requestId"] == FIRST_ID
        assert wire.direct.take(f'{{"id":{ID},"result":{{}}}}'.encode())

    with_a_call(work)


def test_an_end_fails_the_calls_that_wait_and_all_that_follow() -> None:
    async def work(wire: Wire, call: asyncio.Task[dict[str, Any]]) -> None:
        wire.direct.close("its program ended (exit code 3)")
        for failing in (call, await wire.begin()):
            with pytest.raises(Unreachable, match="exit code 3") as caught:
                await failing
            assert caught.value.step == "lost"
        assert len(wire.written) == 1

    with_a_call(work)
