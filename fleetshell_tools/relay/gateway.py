"""What answers HTTP requests: the Host, Origin and key checks, `/healthz`, and `/mcp` handed to the protocol."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

from fleetshell_tools.core.types import Principal, Progress
from fleetshell_tools.relay import http1
from fleetshell_tools.relay.exchange import EVENT_STREAM, Answer, Calls, HttpRequest, Listen, Outcome, ToolCall
from fleetshell_tools.relay.httpd import EventStream, Hangup, Request, RequestHead, Response, Sink
from fleetshell_tools.relay.progress import Reporter
from fleetshell_tools.relay.protocol import Endpoint, event

PATH = "/mcp"
HEALTH = "/healthz"
STREAMED_CALLS = 128
"""Calls at once whose clients asked for progress; more wait."""

_HEALTHY = Response(200, b'{"status":"ok"}')
_UNAUTHORIZED = Response(
    401,
    b'{"error":"unauthorized: send the header Authorization: Bearer <API key> with the key from the relay\'s config.yaml"}',
    headers=(("WWW-Authenticate", "Bearer"),),
)
_NOT_FOUND = Response(404, b'{"error":"not found; the MCP endpoint is /mcp"}')


@dataclass(frozen=True)
class Admitted:
    """What the checks before the body found out; `principal` is None for what needs no key."""

    principal: Principal | None


class HostNames:
    """The names under which the relay may be addressed: a browser that was tricked by DNS uses another one.

    Args:
        names: The certificate's names and `relay.http.allowed_hosts`; IP literals and `localhost` always pass.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {name.lower().rstrip(".") for name in names} | {"localhost"}

    def allow(self, host: str) -> bool:
        """Whether a host, as it stands in a Host header or an origin, without its port, is one of ours."""
        name = host.lower().rstrip(".")
        try:
            ipaddress.ip_address(name.strip("[]"))
            return True
        except ValueError:
            return name in self._names or any(
                known.startswith("*.") and name.partition(".")[2] == known[2:] for known in self._names
            )

    def allow_header(self, value: str) -> bool:
        """Whether a Host header is fine."""
        host = value.rpartition("]")[0] + "]" if value.startswith("[") else value.partition(":")[0]
        return self.allow(host)

    def allow_origin(self, origin: str) -> bool:
        """Whether an Origin header is fine; `null` and what is no http origin are not."""
        try:
            parts = urlsplit(origin)
            return parts.scheme in ("http", "https") and parts.hostname is not None and self.allow(parts.hostname)
        except ValueError:
            return False


class Gateway:
    """The relay's `Application` for the HTTP server.

    Args:
        endpoint: The protocol.
        principal: Who sent an Authorization header, or None.
        call: Runs one tool; the progress is what it may report, None where the client did not ask.
        hosts: The names that the relay answers to.
        log: Where failures go.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        principal: Callable[[str | None], Principal | None],
        call: Callable[[Principal, ToolCall, Progress | None], Outcome],
        hosts: HostNames,
        log: logging.Logger,
    ) -> None:
        self._endpoint = endpoint
        self._principal = principal
        self._call = call
        self.hosts = hosts
        self._pool = ThreadPoolExecutor(STREAMED_CALLS, thread_name_prefix="call")
        self._log = log

    def close(self) -> None:
        """End the threads; for after the HTTP server's end."""
        self._pool.shutdown(cancel_futures=True)

    def precheck(self, head: RequestHead) -> Response | object:
        """Refuse before the body is read: a foreign Host or Origin, an unknown path, a missing or wrong key."""
        host = head.headers.get("Host")
        if host is not None and not self.hosts.allow_header(host):
            return http1.error(
                403, f"the Host {host[:100]!r} is not served here; the operator can add it to relay.http.allowed_hosts"
            )
        origin = head.headers.get("Origin")
        if origin is not None and not self.hosts.allow_origin(origin):
            return http1.error(
                403,
                f"the Origin {origin[:100]!r} may not use this relay; the operator can add its host to relay.http.allowed_hosts",
            )
        if head.path == HEALTH:
            return Admitted(None) if head.method in ("GET", "HEAD") else http1.error(405, "GET only")
        if head.path.rstrip("/") != PATH:
            return _NOT_FOUND
        principal = self._principal(head.headers.get("Authorization"))
        return Admitted(principal) if principal else _UNAUTHORIZED

    def handle(self, request: Request, admitted: object, hangup: Hangup) -> Response | EventStream:
        """Answer an admitted request."""
        assert isinstance(admitted, Admitted)
        if admitted.principal is None:
            return _HEALTHY
        work = self._endpoint.receive(
            HttpRequest(request.method, request.headers, request.body, admitted.principal.key_id)
        )
        if isinstance(work, Listen):
            return EventStream(work.stream.attach, partial(self._endpoint.hang_up, work), standing=True)
        if isinstance(work, Calls):
            principal = admitted.principal
            if _wants_stream(work, request):
                return EventStream(partial(self._run_streamed, principal, work), lambda: None)
            work = self._endpoint.finish(work, [self._call(principal, call, None) for call in work.calls])
        return _response(work)

    def _run_streamed(self, principal: Principal, calls: Calls, sink: Sink) -> None:
        """Run a call apart from the connection's worker, so that pings go out meanwhile; then end the stream.

        A client that hangs up does not cancel ("Transports": a disconnect is no cancellation): the call goes on.
        """
        (call,) = calls.calls
        assert call.progress_token is not None
        reporter = Reporter(lambda message: sink.send(event(message)), call.progress_token)

        def run() -> None:
            try:
                outcome = self._call(principal, call, reporter)
                reporter.finish()
                sink.send(event(self._endpoint.finish(calls, [outcome]).body))
            except Exception:
                self._log.exception("A call whose answer is a stream could not be answered.")
            finally:
                sink.close()

        self._pool.submit(run)


def _wants_stream(calls: Calls, request: Request) -> bool:
    """Whether the answer is a stream: a single call that asked for progress, by a client that takes event streams.

    `authenticate` is always answered as plain JSON: by the time of its result an event stream's head has gone.
    """
    return (
        not calls.batch
        and calls.calls[0].progress_token is not None
        and calls.calls[0].name != "authenticate"
        and EVENT_STREAM in (request.headers.get("Accept") or "")
    )


def _response(answer: Answer) -> Response:
    return Response(answer.status, answer.body, answer.content_type, answer.headers)
