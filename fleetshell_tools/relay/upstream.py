"""The client side of MCP for one external server, on the SDK: the relay's only module that imports `mcp`, `httpx2`.

It loads them when the first server is started, which takes a second. Each server is negotiated on its own: a program is
greeted in the legacy way first, since some end at an unknown method, and only after a failure probed; an HTTP endpoint is
probed. A connection is entered and left by one task of the event loop; calls come from tasks of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlsplit

from fleetshell_tools.core.errors import FleetShellError, Refused, Unreachable
from fleetshell_tools.core.mcps import Mcp, address_problem
from fleetshell_tools.core.text import one_line
from fleetshell_tools.core.version import __version__
from fleetshell_tools.relay.upstream_children import Notes
from fleetshell_tools.relay.upstream_direct import REQUEST_TIMEOUT, Direct, ServerError
from fleetshell_tools.relay.upstream_log import UpstreamLog
from fleetshell_tools.relay.upstream_process import MAX_LINE, Child
from fleetshell_tools.relay.upstream_tools import MAX_TOOLS

START_SECONDS = 60.0
"""How long a server may take to answer `initialize` or to list its tools; a first `npx` downloads."""
PING_TIMEOUT = 10.0
"""How long a server may take for a sign of life."""
MAX_NOISE = 1 << 20
"""Bytes on stdout between two messages that are no message, after which a server is given up."""
MAX_ROUNDS = 10
"""Questions in a row that a server may have for the client of one call."""
MAX_PAGES = 64
CONNECTION_CLOSED = -32000
_WAITING, _NO_LIMIT = 1000, 1e8

Asking = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""Asks the client of a call; raises FleetShellError."""


class NoHandshake(Unreachable):
    """The server answered `initialize` with an error, or ended: perhaps it wants another greeting."""


@dataclass(frozen=True)
class Hooks:
    """What a connection tells its owner, in the event loop: a list (`tools`, `prompts`) changed; a legacy server asks."""

    changed: Callable[[str], None]
    asked: Asking


def available() -> bool:
    """Whether the SDK is installed, in a version that this module speaks to."""
    try:
        return (
            importlib.util.find_spec("mcp.client.client") is not None and importlib.util.find_spec("httpx2") is not None
        )
    except ImportError:
        return False


class _Raw:
    """In place of a model of a result: the result as it came, of which a model that knows less would lose something."""

    @staticmethod
    def model_validate(raw: dict[str, Any], *, by_name: bool | None = None) -> dict[str, Any]:
        return raw


@functools.lru_cache(1)
def _sdk() -> Any:
    import httpx2
    import mcp.types as types
    from mcp.client import Client
    from mcp.client.streamable_http import streamable_http_client
    from mcp.shared.exceptions import MCPError
    from mcp.shared.message import SessionMessage

    return SimpleNamespace(
        httpx2=httpx2,
        types=types,
        Client=Client,
        http=streamable_http_client,
        MCPError=MCPError,
        SessionMessage=SessionMessage,
    )


class Connection:
    """A live connection. All of it is for the event loop's thread.

    Attributes:
        version: The protocol version that was agreed on.
        ended: Set once it is of no use any more; `why` then says how it ended.
    """

    def __init__(self, client: Any, pipe: _Pipe | None) -> None:
        child = pipe.child if pipe is not None else None
        self.version: str = client.protocol_version
        self.modern = client.session.discover_result is not None
        self.ended = child.ended if child is not None else asyncio.Event()
        self._client = client
        self._child = child
        self._direct = pipe.direct if pipe is not None and not self.modern else None
        self._lost = ""

    @property
    def why(self) -> str:
        return self._child.why if self._child is not None else self._lost

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None else None

    def offers(self, kind: str) -> bool:
        """Whether the server declared `tools` or `prompts`."""
        return getattr(self._client.server_capabilities, kind, None) is not None

    async def list(self, kind: str) -> list[Any]:
        """All of `tools` or `prompts`, as the server wrote them; a few more than may be used."""
        if not self.offers(kind):
            return []
        types = _sdk().types
        request = types.ListToolsRequest if kind == "tools" else types.ListPromptsRequest
        found: list[Any] = []
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            page = await self._send(request(params=types.PaginatedRequestParams(cursor=cursor)), START_SECONDS)
            found += page[kind]  # a list: the SDK has seen to that
            cursor = page.get("nextCursor")
            if not cursor or len(found) > MAX_TOOLS:
                break
        if kind == "tools" and self.modern and self._child is None and "x-mcp-header" in repr(found):
            # Only the SDK's own listing teaches it which arguments to repeat in headers.
            await self._client.list_tools(cache_mode="bypass")
        return found

    async def call(
        self,
        name: str,
        arguments: Mapping[str, Any],
        progress: Callable[[float, float | None, str | None], Awaitable[None]] | None,
        asking: Asking,
    ) -> dict[str, Any]:
        """`tools/call`; a modern server's questions are answered by `asking` in between."""
        if self._direct is not None:
            return await self._direct.call(name, arguments, progress)
        types = _sdk().types

        def request(**more: Any) -> Any:
            return types.CallToolRequest(
                params=types.CallToolRequestParams(name=name, arguments=dict(arguments), **more)
            )

        return await self._rounds(request, asking, progress)

    async def get_prompt(self, name: str, arguments: Mapping[str, str], asking: Asking) -> dict[str, Any]:
        """`prompts/get`."""
        types = _sdk().types

        def request(**more: Any) -> Any:
            return types.GetPromptRequest(
                params=types.GetPromptRequestParams(name=name, arguments=dict(arguments), **more)
            )

        return await self._rounds(request, asking, None)

    async def ping(self) -> None:
        """Ask for a sign of life, with what the era has for it."""
        if not self.modern:
            await self._send(_sdk().types.PingRequest(), PING_TIMEOUT)
        else:
            await self._send(_sdk().types.ListToolsRequest(params=_sdk().types.PaginatedRequestParams()), PING_TIMEOUT)

    async def changes(self, changed: Callable[[str], None]) -> None:
        """Report a modern server's changes of its lists, for as long as the connection lives."""
        while self.modern:
            with contextlib.suppress(Exception):  # whatever ends a subscription, it is opened anew
                async with self._client.listen(tools_list_changed=True, prompts_list_changed=True) as subscription:
                    async for event in subscription:
                        changed("prompts" if "Prompt" in type(event).__name__ else "tools")
            await asyncio.sleep(5)
            # What changed meanwhile was not told.
            changed("tools")
            changed("prompts")

    async def _rounds(self, request: Callable[..., Any], asking: Asking, progress: Any) -> dict[str, Any]:
        more: dict[str, Any] = {}
        for _ in range(MAX_ROUNDS):
            result = await self._send(request(**more), _NO_LIMIT, progress)
            if result.get("resultType") != "input_required":
                return result
            answers = {}
            for key, asked in (result.get("inputRequests") or {}).items():
                method = asked.get("method") if isinstance(asked, dict) else None
                if method != "elicitation/create":
                    raise Refused(f"It asked for {one_line(str(method), 60)}, which FleetShell does not pass on.")
                answer = await asking(method, asked.get("params") or {})
                answers[key] = _sdk().types.ElicitResult.model_validate(answer)
            more = {"input_responses": answers, "request_state": result.get("requestState")}
        raise Refused(f"It asked more than {MAX_ROUNDS} times for input.")

    async def _send(self, request: Any, seconds: float, progress: Any = None) -> dict[str, Any]:
        """Send a request, and give the result as it came.

        Raises:
            ServerError, Unreachable: The server answered with an error; the connection is lost.
        """
        sdk = _sdk()
        try:
            result = await self._client.session.send_request(request, _Raw, seconds, progress_callback=progress)
        except sdk.MCPError as error:
            code, message = error.error.code, one_line(error.error.message, 300)
            if self._child is None and (code == CONNECTION_CLOSED or message == "Session terminated"):
                self._lose(message)
            if self.ended.is_set():
                raise Unreachable(self.why, step="lost") from None
            raise ServerError(code, error.error.message) from None
        except (OSError, sdk.httpx2.HTTPError) as error:
            self._lose(_words(error))
            raise Unreachable(self.why, step="lost") from None
        except ValueError:  # what pydantic raises, whose own words would show the answer
            raise ServerError(-32603, f"its answer to {request.method} is not valid MCP") from None
        return cast(dict[str, Any], result)

    def _lose(self, why: str) -> None:
        self._lost = self._lost or f"its connection was lost ({why})"
        self.ended.set()


@contextlib.asynccontextmanager
async def connect(
    mcp: Mcp, values: Mapping[str, str], mode: str, log: UpstreamLog, notes: Notes, hooks: Hooks
) -> AsyncIterator[Connection]:
    """Start a server's program, or reach its endpoint, and agree on a protocol version; all of it ends with the block.

    Args:
        values: The environment or the headers, resolved.
        mode: `legacy` or `auto`.

    Raises:
        FleetShellError: It can't be started or reached, or does not speak MCP; the sentence says which.
    """
    sdk = _sdk()
    pipe = _Pipe(mcp, log, notes) if mcp.command else None
    transport = pipe.run(values) if pipe is not None else _http(mcp, values)

    async def received(message: Any) -> None:
        kind = type(message).__name__
        if kind in ("ToolListChangedNotification", "PromptListChangedNotification"):
            hooks.changed("prompts" if kind.startswith("Prompt") else "tools")

    async def elicited(context: Any, params: Any) -> Any:
        try:
            asked = params.model_dump(by_alias=True, mode="json", exclude_none=True)
            return sdk.types.ElicitResult.model_validate(await hooks.asked("elicitation/create", asked))
        except FleetShellError as error:
            return sdk.types.ErrorData(code=sdk.types.INVALID_REQUEST, message=error.message)
        except ValueError:
            return sdk.types.ErrorData(code=sdk.types.INVALID_REQUEST, message="The client's answer is not valid.")

    client = sdk.Client(
        transport, mode=mode, message_handler=received, elicitation_callback=elicited, cache=None,
        client_info=sdk.types.Implementation(name="fleetshell", version=__version__), read_timeout_seconds=START_SECONDS,
    )  # fmt: skip
    child = pipe.child if pipe is not None else None
    entered = False
    try:
        async with client:
            entered = True
            connection = Connection(client, pipe)
            changes = asyncio.get_running_loop().create_task(connection.changes(hooks.changed))
            try:
                yield connection
            finally:
                changes.cancel()
                await asyncio.gather(changes, return_exceptions=True)
    except Exception as error:
        # anyio wraps what ends a connection into groups, however little there is to group.
        leaf = _leaf(error)
        if isinstance(leaf, FleetShellError):
            raise leaf from None
        if entered and not isinstance(leaf, sdk.MCPError | OSError | sdk.httpx2.HTTPError):
            raise
        timed_out = isinstance(leaf, sdk.MCPError) and leaf.error.code == REQUEST_TIMEOUT
        kind = Unreachable if timed_out or entered else NoHandshake
        raise kind(f"{mcp.id} can't be used: {_reason(leaf, child)}.", step="start") from error


def _reason(error: BaseException, child: Child | None) -> str:
    sdk = _sdk()
    if child is not None and child.why:
        return f"{child.why} before it answered"
    if isinstance(error, sdk.MCPError):
        code, message = error.error.code, one_line(error.error.message, 300)
        if code == REQUEST_TIMEOUT:
            return f"it did not answer initialize within {START_SECONDS:g} s"
        return f"it refused the connection with error {code}: {message}"
    return _words(error)


def _words(error: BaseException) -> str:
    """An error of the network in a few words; an address or a header, which may be secret, is not among them."""
    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, OSError) and cause.strerror):
        cause = cause.__cause__ or cause.__context__
    return one_line(str(cause.strerror), 200) if isinstance(cause, OSError) else type(error).__name__


def _leaf(error: BaseException) -> BaseException:
    """The first error that is no group; a sentence of our own wins."""
    inner = getattr(error, "exceptions", None)
    if not inner:
        return error
    leaves = [_leaf(part) for part in inner]
    return next((leaf for leaf in leaves if isinstance(leaf, FleetShellError)), leaves[0])


class _Pipe:
    """The stdio transport as the SDK wants it: a stream of messages to read, which ends with the program, and one to write."""

    def __init__(self, mcp: Mcp, log: UpstreamLog, notes: Notes) -> None:
        self.child = Child(mcp.id, log, notes, self.take)
        self.direct = Direct(self.child.post, self.child.write)
        self._mcp = mcp
        self._log = log
        self._messages: asyncio.Queue[Any] = asyncio.Queue()
        self._noise = 0
        self._paused = False

    @contextlib.asynccontextmanager
    async def run(self, values: Mapping[str, str]) -> AsyncIterator[tuple[_Pipe, _Pipe]]:
        watch = asyncio.get_running_loop().create_task(self._end())
        try:
            await self.child.start(self._mcp.command or "", self._mcp.args, values)
            yield self, self
        finally:
            watch.cancel()
            self.direct.close(self.child.why or "it was stopped")
            # Native cancellation must not leave a process: the stopping goes on by itself, and is waited for.
            stopping = asyncio.ensure_future(self.child.stop())
            while not stopping.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.shield(stopping)

    def take(self, line: bytes) -> None:
        """Take in a line of stdout."""
        if self.direct.take(line):
            self._noise = 0
            return
        sdk = _sdk()
        try:
            message = sdk.types.jsonrpc_message_adapter.validate_json(line, by_name=False)
        except ValueError:
            if self._noise == 0:
                self._log.event(
                    f"printed on stdout what is no MCP message: {one_line(line[:400].decode('utf-8', 'replace'))}"
                )
            self._noise += len(line) + 1
            if self._noise > MAX_NOISE:
                self.child.fail("it prints something else than MCP messages on stdout")
            return
        self._noise = 0
        self._messages.put_nowait(sdk.SessionMessage(message))
        if self._messages.qsize() > _WAITING and not self._paused:
            self._paused = True
            self.child.pause(True)

    async def _end(self) -> None:
        await self.child.ended.wait()
        self.direct.close(self.child.why or "it was stopped")
        self._messages.put_nowait(None)

    # As a stream to read

    def __aiter__(self) -> _Pipe:
        return self

    async def __anext__(self) -> Any:
        message = await self._messages.get()
        if self._paused and self._messages.qsize() < _WAITING // 2:
            self._paused = False
            self.child.pause(False)
        if message is None:
            raise StopAsyncIteration
        return message

    async def receive(self) -> Any:
        return await self.__anext__()

    # As a stream to write

    async def send(self, item: Any) -> None:
        line = item.message.model_dump_json(by_alias=True, exclude_unset=True)
        # A write to a program that has ended says nothing new: its end is told by the stream that is read.
        with contextlib.suppress(ConnectionError):
            await self.child.write(line.encode())

    async def aclose(self) -> None:
        pass  # the program's pipes end with `run`

    async def __aenter__(self) -> _Pipe:
        return self

    async def __aexit__(self, *exception: object) -> None:
        return None


@contextlib.asynccontextmanager
async def _http(mcp: Mcp, headers: Mapping[str, str]) -> AsyncIterator[Any]:
    """The streamable HTTP transport; the SDK follows no redirect to another origin."""
    sdk = _sdk()
    url = mcp.url or ""
    await _check_addresses(mcp, url)

    async def too_large(response: Any) -> None:
        length = response.headers.get("content-length", "")
        if length.isdigit() and int(length) > MAX_LINE:
            raise Unreachable(f"{mcp.id} sent a message of more than {MAX_LINE >> 20} MiB.", step="lost")

    timeout = sdk.httpx2.Timeout(30.0, read=None)
    async with (
        sdk.httpx2.AsyncClient(headers=dict(headers), timeout=timeout, event_hooks={"response": [too_large]}) as client,
        sdk.http(url, http_client=client, max_sse_event_size=MAX_LINE) as streams,
    ):
        yield streams


async def _check_addresses(mcp: Mcp, url: str) -> None:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unreachable(
            f"{mcp.id}: the name {parts.hostname} of its url is not known ({error.strerror}).", step="resolve"
        ) from None
    for *_, address in found:
        problem = address_problem(str(address[0]))
        if problem:
            raise Refused(f"{mcp.id}: {parts.hostname} is {problem}")
