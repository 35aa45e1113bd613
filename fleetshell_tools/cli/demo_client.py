"""The demo's MCP client: the official SDK over TLS, from the first refused call to a command on all servers."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleetshell_tools.cli.demo_story import Story, expect
from fleetshell_tools.core.errors import FleetShellError

if TYPE_CHECKING:
    from mcp import Client

AUTHENTICATION_REQUIRED = -32001


@dataclass(frozen=True)
class Access:
    """All that a client needs: the address, the certificate to trust, the API key, and the user who reads out TOTP codes."""

    url: str
    certificate: Path
    api_key: str
    code: Callable[[], str]


@dataclass(frozen=True)
class Plan:
    """What is shown; the commands depend on whether the servers are systems of their own."""

    servers: Sequence[str]
    command: str
    dangerous: str


def require_sdk() -> None:
    """Raises FleetShellError where the `mcp` package is missing; says how to get it."""
    if find_spec("mcp") is None:
        raise FleetShellError(
            "The demo drives the relay with the `mcp` package, which this Python does not have. Install it with `pip install 'mcp>=2.3,<3'`."
        )


def drive(
    access: Access, plan: Plan, story: Story, stoppable: Callable[[Callable[[], None]], AbstractContextManager[None]]
) -> None:
    """Go through every step with a client.

    Args:
        stoppable: A context in which the function that it is given may be called to break off.

    Raises:
        FleetShellError: The relay did not do what the demo is there to show.
    """

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()

        def stop() -> None:
            # A signal handler calls this: only the thread-safe call wakes the loop.
            loop.call_soon_threadsafe(task.cancel)

        with stoppable(stop):
            await _drive(access, plan, story)

    try:
        asyncio.run(main())
    except FleetShellError:
        raise
    except Exception as error:
        raise _innermost(error) from error


def _innermost(error: BaseException) -> FleetShellError:
    """The SDK's task groups wrap what happens inside them; a group has `exceptions` (the class itself is new in 3.11)."""
    while getattr(error, "exceptions", None):
        error = error.exceptions[0]  # type: ignore[attr-defined]
    return (
        error
        if isinstance(error, FleetShellError)
        else FleetShellError(f"The demo's MCP client failed: {type(error).__name__}: {error}")
    )


async def _drive(access: Access, plan: Plan, story: Story) -> None:
    import httpx2
    from mcp import Client
    from mcp.client.streamable_http import streamable_http_client

    context = ssl.create_default_context(cafile=str(access.certificate))
    http = httpx2.AsyncClient(
        headers={"Authorization": f"Bearer {access.api_key}"}, verify=context, timeout=30, trust_env=False
    )
    async with http, Client(streamable_http_client(access.url, http_client=http)) as client:
        await _authenticate(client, access, story)
        await _work(client, plan, story)


async def _authenticate(client: Client, access: Access, story: Story) -> None:
    from mcp import MCPError

    story.step("An MCP client connects over TLS; without a TOTP code it can do nothing")
    tools = (await client.list_tools()).tools
    story.say(f"It trusts this relay's certificate alone, sends the API key, and is offered {len(tools)} tools.")
    story.sent("list_servers")
    try:
        answer = await client.call_tool("list_servers", {})
    except MCPError as error:
        story.reply(f"error {error.code}: {error.message}")
        expect(error.code == AUTHENTICATION_REQUIRED, f"a locked call is answered with error {AUTHENTICATION_REQUIRED}")
    else:
        expect(False, "a call before authentication is refused", _text(answer))

    story.step("The user reads a code from the authenticator app, the model passes it on")
    story.say("Here the demo computes the code, as the app would, from the secret that `init` made.")
    await _call(client, story, "authenticate", {"code": access.code()})


async def _work(client: Client, plan: Plan, story: Story) -> None:
    story.step("The model looks around")
    listed = await _call(client, story, "list_servers", {})
    found = {server["id"] for server in listed["servers"]}
    expect(found == set(plan.servers), f"the servers {', '.join(plan.servers)} are listed", str(found))

    story.step("A command on one server")
    ran = await _call(client, story, "execute_command", {"server_id": plan.servers[0], "command": plan.command})
    expect(ran["exit_code"] == 0, "the command ends with exit code 0")

    story.step("A command on all three servers at once; equal answers are folded into one")
    many = await _call(
        client, story, "multi_server_execute", {"command": "head -n 1 /etc/os-release", "server_ids": ["*"]}
    )
    expect(many["succeeded"] == len(plan.servers), "the command succeeds on every server")

    story.step("A shell session keeps its state between commands")
    await _session(client, story, plan.servers[0])

    story.step("The guard stops what would destroy a server, before it gets there")
    refused = await _call(
        client, story, "execute_command", {"server_id": plan.servers[0], "command": plan.dangerous}, fails=True
    )
    expect(refused is None, "the guard blocks a dangerous command")


async def _session(client: Client, story: Story, server: str) -> None:
    """A session's working directory and variables outlive the command that set them."""
    story.sent(f"create_shell_session {{server_id: {server!r}}}")
    answer = await client.call_tool("create_shell_session", {"server_id": server})
    story.reply(_text(answer))
    if answer.is_error and "terminal" in _text(answer):
        story.say(
            "This account can't give its SSH servers terminals, so the session is left out here; servers of their own can."
        )
        return
    expect(not answer.is_error and answer.structured_content, "create_shell_session succeeds", _text(answer))
    session = {"session_id": (answer.structured_content or {})["session_id"]}
    await _call(client, story, "execute_in_session", {**session, "command": "cd /var/log && X=5"})
    kept = await _call(client, story, "execute_in_session", {**session, "command": "pwd; echo $X"})
    expect(kept["output"] == "/var/log\n5\n", "the session keeps its folder and its variables", kept["output"])
    await _call(client, story, "close_shell_session", session)


async def _call(client: Client, story: Story, tool: str, arguments: dict[str, Any], *, fails: bool = False) -> Any:
    """Call a tool and show it; returns the structured result, None where the tool failed as `fails` says it should."""
    shown = ", ".join(f"{name}: {value!r}" for name, value in arguments.items())
    story.sent(f"{tool} {{{shown}}}" if shown else tool)
    answer = await client.call_tool(tool, arguments)
    text = _text(answer)
    story.reply(text)
    expect(bool(answer.is_error) == fails, f"{tool} {'is refused' if fails else 'succeeds'}", text)
    return answer.structured_content


def _text(answer: Any) -> str:
    return "\n".join(item.text for item in answer.content if item.type == "text")
