"""An MCP server on the SDK, of both eras: on stdio, or with `--http` on a port of loopback, which it prints."""

from __future__ import annotations

import asyncio
import os
import socket
import sys

import uvicorn
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.types import (
    AudioContent,
    CallToolResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    EmbeddedResource,
    ImageContent,
    InputRequiredResult,
    ResourceLink,
    TextContent,
    TextResourceContents,
)
from pydantic import BaseModel

server = MCPServer("sdk", version="1.0")


class Answer(BaseModel):
    colour: str


@server.tool()
def echo(message: str) -> str:
    """Say it again."""
    return message


@server.tool()
def add(a: int, b: int) -> dict[str, int]:
    """Add two numbers."""
    return {"sum": a + b}


@server.tool()
def fail() -> str:
    """Fail."""
    raise ValueError("no such thing")


@server.tool()
def variable(name: str) -> str:
    """A variable of the environment."""
    return os.environ.get(name, "(not set)")


@server.tool()
async def slow(seconds: float, context: Context) -> str:
    """Report progress, then answer; how it ended is in the file that SLOW_FILE names."""
    try:
        for step in range(10):
            await context.report_progress(step, 10, f"step {step}")
            await asyncio.sleep(seconds / 10)
    except BaseException as error:
        if "SLOW_FILE" in os.environ:
            with open(os.environ["SLOW_FILE"], "w") as file:
                file.write(type(error).__name__)
        raise
    return "done"


@server.tool()
async def ask(context: Context) -> CallToolResult | InputRequiredResult:
    """Ask the client for a colour, in the way of the era."""
    if (context.protocol_version or "") < "2026":
        answer = await context.elicit("Which colour?", Answer)
        return _said(f"{answer.action}: {answer.data.colour if answer.action == 'accept' else ''}")
    given = (context.input_responses or {}).get("colour")
    if isinstance(given, ElicitResult):
        return _said(f"{given.action}: {(given.content or {}).get('colour', '')}")
    schema = Answer.model_json_schema()
    form = ElicitRequestFormParams(message="Which colour?", requested_schema=schema)
    return InputRequiredResult(input_requests={"colour": ElicitRequest(params=form)}, request_state="asked")


def _said(text: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=text)])


@server.tool()
def everything() -> CallToolResult:
    """Content of every kind."""
    return CallToolResult(
        content=[
            TextContent(type="text", text="red \x1b[31malert\u200b"),
            ImageContent(type="image", data="aGVsbG8=", mime_type="image/png"),
            AudioContent(type="audio", data="aGVsbG8=", mime_type="audio/wav"),
            EmbeddedResource(type="resource", resource=TextResourceContents(uri="test://a", text="inside")),
            ResourceLink(type="resource_link", uri="test://b", name="b"),
        ]
    )


@server.tool()
def large(size: int) -> str:
    """So many letters."""
    return "a" * size


@server.tool()
async def grow(context: Context) -> str:
    """Have one tool more, and say so."""
    server.add_tool(lambda: "new", name="grown", description="It came later.")
    await context.notify_tools_changed()
    await context.session.send_tool_list_changed()  # the first is for subscribers of the modern era
    return "grown"


@server.tool()
def die() -> str:
    """End the process at once."""
    os._exit(7)


@server.prompt()
def greet(who: str) -> str:
    """Greet somebody."""
    return f"Hello, {who}!"


def main() -> None:
    if "--http" not in sys.argv:
        server.run()
        return
    sock = socket.create_server(("127.0.0.1", 0))
    print(sock.getsockname()[1], flush=True)
    config = uvicorn.Config(server.streamable_http_app(), log_level="error")
    asyncio.run(uvicorn.Server(config).serve(sockets=[sock]))


main()
