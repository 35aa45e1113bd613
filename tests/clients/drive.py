"""The Python SDK's client, driven over stdin and stdout as lines of JSON; see `driver.py` for what is said.

CLIENT_SETTINGS in the environment holds as JSON: `mode`, and either `url`, `headers` and `certificate`, or the `command` and `environment` of a program
that speaks MCP over stdio, such as mcp-remote.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
from contextlib import AsyncExitStack
from typing import Any

import anyio
import httpx2
from anyio.abc import TaskGroup
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.session import ClientRequestContext, IncomingMessage
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import ElicitRequestFormParams, ElicitRequestParams, ElicitResult, ToolListChangedNotification


def say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


async def heard(message: IncomingMessage) -> None:
    if isinstance(getattr(message, "root", message), ToolListChangedNotification):
        say({"event": "changed"})


async def typed(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
    """What the user types into a form: their name, everywhere."""
    assert isinstance(params, ElicitRequestFormParams)
    return ElicitResult(action="accept", content=dict.fromkeys(params.requested_schema["properties"], "Ann"))


class Driven:
    """A connected client that does as it is told."""

    def __init__(self, client: Client, group: TaskGroup, stack: AsyncExitStack) -> None:
        self._client = client
        self._group = group
        self._stack = stack
        self._running: dict[int, anyio.CancelScope] = {}

    async def obey(self, order: dict[str, Any]) -> None:
        number = order["id"]
        try:
            say({"id": number, "result": await getattr(self, order["do"])(order)})
        except MCPError as error:
            wrong = error.error
            say({"id": number, "error": {"code": wrong.code, "message": wrong.message, "data": wrong.data}})
        except Exception as error:
            say({"id": number, "error": {"code": None, "message": f"{type(error).__name__}: {error}", "data": None}})

    async def list(self, order: dict[str, Any]) -> dict[str, Any]:
        return {"tools": [tool.name for tool in (await self._client.list_tools()).tools]}

    async def prompts(self, order: dict[str, Any]) -> dict[str, Any]:
        return {"prompts": [prompt.name for prompt in (await self._client.list_prompts()).prompts]}

    async def prompt(self, order: dict[str, Any]) -> dict[str, Any]:
        result = await self._client.get_prompt(order["name"], order["arguments"])
        return result.model_dump(mode="json", by_alias=True)

    async def call(self, order: dict[str, Any]) -> dict[str, Any]:
        async def report(progress: float, total: float | None, message: str | None) -> None:
            say({"event": "progress", "id": order["id"], "message": message})

        with anyio.CancelScope() as scope:
            self._running[order["id"]] = scope
            result = await self._client.call_tool(
                order["name"],
                order["arguments"],
                progress_callback=report if order.get("progress") else None,
                meta=order.get("meta"),
            )
            return result.model_dump(mode="json", by_alias=True)
        raise RuntimeError("cancelled")

    async def cancel(self, order: dict[str, Any]) -> dict[str, Any]:
        self._running[order["call"]].cancel()
        return {}

    async def listen(self, order: dict[str, Any]) -> dict[str, Any]:
        subscription = await self._stack.enter_async_context(self._client.listen(tools_list_changed=True))

        async def follow() -> None:
            async for _ in subscription:
                say({"event": "changed"})

        self._group.start_soon(follow)
        return {}


async def main(settings: dict[str, Any]) -> None:
    async with AsyncExitStack() as stack:
        if "command" in settings:
            program, *arguments = settings["command"]
            parameters = StdioServerParameters(command=program, args=arguments, env=settings["environment"])
            transport: Any = stdio_client(parameters)
        else:
            context = ssl.create_default_context(cafile=settings["certificate"]) if settings["certificate"] else True
            http = httpx2.AsyncClient(headers=settings["headers"], verify=context, timeout=60)
            transport = streamable_http_client(settings["url"], http_client=await stack.enter_async_context(http))
        client = Client(
            transport,
            mode=settings["mode"],
            message_handler=heard,
            elicitation_callback=typed,
            read_timeout_seconds=60,
        )
        try:
            await stack.enter_async_context(client)
        except Exception as error:
            say({"event": "failed", "message": repr(error)})
            return
        say({"event": "connected", "version": client.protocol_version})
        async with AsyncExitStack() as inner, anyio.create_task_group() as group:
            driven = Driven(client, group, inner)
            while line := await anyio.to_thread.run_sync(sys.stdin.readline):
                group.start_soon(driven.obey, json.loads(line))
            group.cancel_scope.cancel()


if __name__ == "__main__":
    anyio.run(main, json.loads(os.environ["CLIENT_SETTINGS"]))
