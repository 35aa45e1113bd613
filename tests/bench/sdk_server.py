"""The peer: the Python SDK's own high-level server over streamable HTTP, with stateful sessions, under uvicorn.

It has the tools of FleetShell (names, descriptions and argument types come from its `tools/list`), and each of them gives
the answer that FleetShell gave, as JSON on stdin: {"tools": […], "answer": {…}}. It is spared what FleetShell does besides:
no key, no grant, no TLS, no log of accesses. Its tools are coroutines, which costs it less than a thread for each call.
It prints its port. As the SDK does by default it answers with a stream of events; with `--json` with plain JSON, as FleetShell does.
"""

from __future__ import annotations

import inspect
import json
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import uvicorn
from mcp.server import MCPServer
from mcp_types import CallToolResult, ToolAnnotations
from pydantic import Field, create_model

TYPES: dict[str, Any] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "array": list[Any],
    "object": dict[str, Any],
}


def _type(schema: dict[str, Any]) -> Any:
    kind = schema.get("type")
    if isinstance(kind, list):
        return TYPES[kind[0]] | None
    return TYPES[kind] if kind else Any


def _function(definition: dict[str, Any], answer: CallToolResult) -> Callable[..., Awaitable[CallToolResult]]:
    """A tool function whose signature says what the definition says; results are checked, as the SDK does by itself."""

    async def tool(**arguments: Any) -> CallToolResult:
        return answer

    schema, output = definition["inputSchema"], definition["outputSchema"]
    parameters = []
    for name, about in schema.get("properties", {}).items():
        needed = name in schema.get("required", ())
        hint = _type(about) if needed else _type(about) | None
        parameters.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=Annotated[hint, Field(description=about.get("description"))],
                default=inspect.Parameter.empty if needed else about.get("default"),
            )
        )
    fields: dict[str, Any] = {name: (_type(about), ...) for name, about in output["properties"].items()}
    result = Annotated[CallToolResult, create_model(f"{definition['name']}_result", **fields)]
    tool.__name__ = definition["name"]
    vars(tool)["__signature__"] = inspect.Signature(parameters, return_annotation=result)
    return tool


def main() -> None:
    told = json.load(sys.stdin)
    answer = CallToolResult(content=told["answer"]["content"], structured_content=told["answer"]["structuredContent"])
    server = MCPServer("bench", version="1", log_level="WARNING")
    for definition in told["tools"]:
        server.add_tool(
            _function(definition, answer),
            title=definition["title"],
            description=definition["description"],
            annotations=ToolAnnotations.model_validate(definition["annotations"]),
        )
    # With the protocol left at 0, as `create_server` does, asyncio would not switch Nagle's algorithm off for the accepted
    # sockets, and each answer would stall for 40 ms; a server that uvicorn binds by itself has no such handicap.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(
        server.streamable_http_app(json_response="--json" in sys.argv), log_level="warning", access_log=False
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
