"""A server with the fixtures of the conformance suites behind the relay's own gateway, protocol and transport.

For tests alone: plain HTTP on loopback, no second factor, and an API key only where one is given. By hand:
`python -m tests.conformance.registry --port 9100` in the project's folder.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from fleetshell_tools.core.errors import FleetShellError
from fleetshell_tools.core.types import Principal
from fleetshell_tools.relay.exchange import Call, Conversation, Outcome, Result, ToolResult
from fleetshell_tools.relay.gateway import Gateway, HostNames
from fleetshell_tools.relay.headers import ParameterHeader, annotated
from fleetshell_tools.relay.httpd import HttpServer
from fleetshell_tools.relay.jsonrpc import INVALID_PARAMS, RESOURCE_NOT_FOUND, RpcError
from fleetshell_tools.relay.protocol import Endpoint
from fleetshell_tools.relay.sessions import Sessions

from . import content, rounds, tools
from .work import Refused, States, Work, text

log = logging.getLogger(__name__)

OWNER = Principal("conformance")
LISTS = {
    "tools/list": [tool.definition() for tool in (*tools.TOOLS, *rounds.TOOLS)],
    "prompts/list": [prompt.definition() for prompt in content.PROMPTS],
    "resources/list": content.RESOURCES,
    "resources/templates/list": content.TEMPLATES,
}


class Registry:
    """What the suites look for, as the `Offer` and the `Runner` of the relay's gateway."""

    instructions = "Fixtures of the MCP conformance suites; they do nothing."

    def __init__(self) -> None:
        self.endpoint: Endpoint | None = None
        self._states = States()
        self._tools = {tool.name: tool for tool in (*tools.TOOLS, *rounds.TOOLS)}
        self._prompts = {prompt.name: prompt for prompt in content.PROMPTS}
        self._methods = {
            "tools/call": self._call_tool,
            "prompts/get": self._get_prompt,
            "resources/read": self._read,
            "completion/complete": self._complete,
        }

    def capabilities(self, modern: bool) -> Mapping[str, Any]:
        return {
            "tools": {"listChanged": True},
            "prompts": {"listChanged": True},
            "resources": {"listChanged": True, "subscribe": True},
            "completions": {},
            **({} if modern else {"logging": {}}),
        }

    def listing(self, method: str, modern: bool) -> bytes | None:
        return json.dumps(LISTS[method]).encode() if method in LISTS else None

    def runs(self, method: str) -> bool:
        return method in self._methods

    def parameter_headers(self, name: str) -> tuple[ParameterHeader, ...]:
        """What of a tool's arguments its caller repeats in headers."""
        tool = self._tools.get(name)
        return annotated(tool.schema) if tool else ()

    def is_quick(self, call: Call) -> bool:
        return False

    def run(self, principal: Principal, call: Call, conversation: Conversation) -> Outcome:
        work = Work(principal, call, conversation, self._states, self._changed)
        try:
            return self._methods[call.method](work)
        except Refused as refusal:
            return refusal.error
        except FleetShellError as error:
            return ToolResult([text(error.message)], is_error=True)
        except Exception as error:
            log.exception("%s of %r failed.", call.method, call.name)
            return ToolResult([text(f"A fault of the fixture: {error}")], is_error=True)

    def _changed(self, kind: str) -> None:
        assert self.endpoint
        self.endpoint.changed(kind)

    def _call_tool(self, work: Work) -> Outcome:
        tool = self._tools.get(work.call.name)
        if tool is None:
            return RpcError(INVALID_PARAMS, f"There is no tool {work.call.name!r}.")
        missing = [name for name in tool.schema.get("required", []) if name not in work.arguments]
        if missing:
            return ToolResult([text(f"Missing: {', '.join(missing)}.")], is_error=True)
        return tool.run(work)

    def _get_prompt(self, work: Work) -> Outcome:
        prompt = self._prompts.get(work.call.name)
        return prompt.run(work) if prompt else RpcError(INVALID_PARAMS, f"There is no prompt {work.call.name!r}.")

    def _read(self, work: Work) -> Outcome:
        uri = work.call.name
        found = content.read(uri)
        if found is None:
            return RpcError(RESOURCE_NOT_FOUND, f"There is no resource {uri!r}.", {"uri": uri})
        return Result({"contents": [found]}, cacheable=True)

    def _complete(self, work: Work) -> Outcome:
        typed = str((work.call.params.get("argument") or {}).get("value", ""))
        values = [word for word in ("paris", "park", "party", "test") if word.startswith(typed)]
        return Result({"completion": {"values": values, "total": len(values), "hasMore": False}})


@contextlib.contextmanager
def serving(key: str = "", port: int = 0, *, modern: bool = True) -> Iterator[str]:
    """Serve the registry in threads of this process; gives its URL.

    Args:
        key: The API key that clients must send; "" lets everybody in.
        port: 0 takes a free one.
        modern: Serve the revision 2026-07-28 too.
    """
    registry = Registry()
    endpoint = Endpoint(
        server_info={"name": "fleetshell-conformance", "title": "Conformance fixtures", "version": "1"},
        offer=registry,
        sessions=Sessions(now=time.monotonic),
        modern=modern,
        secure=False,
        parameter_headers=registry.parameter_headers,
    )
    registry.endpoint = endpoint

    def principal(header: str | None) -> Principal | None:
        known = not key or secrets.compare_digest((header or "").encode(), f"Bearer {key}".encode())
        return OWNER if known else None

    gateway = Gateway(endpoint, principal, registry, HostNames([]), log)
    server = HttpServer(("127.0.0.1", port), gateway, ssl_context=None, log=log)
    thread = threading.Thread(target=server.serve_forever, name="conformance")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}/mcp"
    finally:
        server.shutdown(1.0)
        thread.join()
        gateway.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the fixtures of the MCP conformance suites on loopback.")
    parser.add_argument("--port", type=int, default=9100)
    parser.add_argument("--key", default="", help="the API key that clients must send; without it everybody may")
    arguments = parser.parse_args()
    logging.basicConfig()
    with serving(arguments.key, arguments.port) as url:
        print(f"{url} (Ctrl-C ends it)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
