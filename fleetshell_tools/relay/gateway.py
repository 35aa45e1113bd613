"""What answers HTTP requests: the Host, Origin and key checks, `/healthz`, and `/mcp` handed to the protocol."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from urllib.parse import urlsplit

from fleetshell_tools.core.types import Principal
from fleetshell_tools.relay import http1, jsonrpc
from fleetshell_tools.relay.application import Public
from fleetshell_tools.relay.conversation import BatchConversation, CallConversation, Terms
from fleetshell_tools.relay.exchange import (
    EVENT_STREAM,
    Answer,
    Call,
    Calls,
    Conversation,
    HttpRequest,
    Listen,
    Outcome,
    Runner,
)
from fleetshell_tools.relay.httpd import EventStream, Pending, Request, RequestHead, Response
from fleetshell_tools.relay.jsonrpc import INTERNAL_ERROR, INVALID_REQUEST, RpcError
from fleetshell_tools.relay.overdue import LOOK_EVERY, Overdue
from fleetshell_tools.relay.protocol import Endpoint
from fleetshell_tools.relay.replay import RESUMABLE, Reader, Replays

PATH = "/mcp"
HEALTH = "/healthz"
PATIENCE = 45.0
QUIET = 1.0
AUTHENTICATE = "authenticate"

_HEALTHY = Response(200, b'{"status":"ok"}')
_UNAUTHORIZED = Response(
    401,
    # As a JSON-RPC message, because a client of the SDK shows its sentence and nothing of any other body.
    b'{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Unauthorized: send the header Authorization: Bearer <API key>'
    b' with the key from the relay\'s config.yaml.","data":{"reason":"unauthorized"}}}',
    headers=(("WWW-Authenticate", "Bearer"),),
)
_NOT_FOUND = Response(404, b'{"error":"not found; the MCP endpoint is /mcp"}')


_IN_BATCH = _AT_ONCE = BatchConversation()


@dataclass(frozen=True)
class Admitted:
    """What the checks before the body found out, and what they looked at, so that the next request needs none.

    Args:
        principal: Whose key it is.
        looked_at: What the checks depend on, but for the key.
        authorization: The header that has shown the key.
    """

    principal: Principal
    looked_at: tuple[object, ...]
    authorization: bytes


class HostNames:
    """The names under which the relay may be addressed: a browser that was tricked by DNS uses another one.

    Args:
        names: The certificate's names and `relay.http.allowed_hosts`; IP literals and `localhost` always pass.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {name.lower().rstrip(".") for name in names} | {"localhost"}
        self.allow_header = lru_cache(maxsize=256)(self._allow_header)

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

    def _allow_header(self, value: str) -> bool:
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
        runner: Works on calls.
        hosts: The names that the relay answers to.
        log: Where failures go.
        patience: After how many seconds a call is told that its client will not wait any longer.
        quiet: After how many seconds an answer becomes an event stream, whose pings show that we are here.
        clock: Seconds, monotonic.
        look_every: Seconds between two looks at the running calls.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        principal: Callable[[str | None], Principal | None],
        runner: Runner,
        hosts: HostNames,
        log: logging.Logger,
        patience: float = PATIENCE,
        quiet: float = QUIET,
        clock: Callable[[], float] = time.monotonic,
        look_every: float = LOOK_EVERY,
    ) -> None:
        self._endpoint = endpoint
        self._principal = principal
        self._runner = runner
        self._hosts = hosts
        self._log = log
        self._settings = object()
        self._turn = threading.Lock()
        self._clock = clock
        self._overdue = Overdue(log, clock, look_every)
        self._replays = Replays(self._overdue)
        self._terms = Terms(quiet, patience, self._replays, log)

    @property
    def hosts(self) -> HostNames:
        """The names that the relay answers to; to be set, also to the same ones, whenever keys or names have changed."""
        return self._hosts

    @hosts.setter
    def hosts(self, hosts: HostNames) -> None:
        self._hosts = hosts
        self._settings = object()  # which no connection was admitted under

    def close(self) -> None:
        """End the thread that watches the calls; for after the HTTP server's end."""
        self._overdue.close()

    def precheck(self, head: RequestHead, before: object, /) -> Response | object:
        """Refuse before the body is read: a foreign Host or Origin, an unknown path, a missing or wrong key."""
        host, origin = head.headers.get("host"), head.headers.get("origin")
        authorization = head.headers.get("authorization") or ""
        looked_at = (self._settings, head.path, host, origin)
        if (
            isinstance(before, Admitted)
            and before.looked_at == looked_at
            # A proxy may send the requests of several clients on one connection.
            and hmac.compare_digest(before.authorization, authorization.encode("latin-1", "replace"))
        ):
            return before
        if host is None and head.path != HEALTH:  # HTTP/1.0 allows that, and with it a name nobody has checked
            return http1.error(400, "the Host header is missing")
        if host is not None and not self.hosts.allow_header(host):
            return http1.error(
                403, f"the Host {host[:100]!r} is not served here; the operator can add it to relay.http.allowed_hosts"
            )
        if origin is not None and not self.hosts.allow_origin(origin):
            return http1.error(
                403,
                f"the Origin {origin[:100]!r} may not use this relay; the operator can add its host to relay.http.allowed_hosts",
            )
        if head.path == HEALTH:
            return Public() if head.method in ("GET", "HEAD") else http1.error(405, "GET only")
        if head.path.rstrip("/") != PATH:
            return _NOT_FOUND
        principal = self._principal(authorization)
        return (
            Admitted(principal, looked_at, authorization.encode("latin-1", "replace")) if principal else _UNAUTHORIZED
        )

    def handle(self, request: Request, admitted: object, pending: Pending, /) -> Response | EventStream | None:
        """Answer an admitted request; None where it was answered while it was worked on."""
        if isinstance(admitted, Public):
            return _HEALTHY
        assert isinstance(admitted, Admitted)
        http = HttpRequest(request.method, request.headers, request.body, admitted.principal.key_id)
        if request.method == "GET":
            self._replays.give_way(http)
        # One worker at a time: threads that wrest the interpreter's lock from each other at every system call take more than
        # twice the time for what waits for nothing.
        with self._turn:
            work = self._endpoint.receive(http)
            if isinstance(work, Calls) and not work.batch and self._runner.is_quick(work.calls[0]):
                outcome = self._outcome(admitted.principal, work.calls[0], _AT_ONCE)
                return _response(self._endpoint.finish(work, [outcome]))
        if isinstance(work, Calls):
            return self._run(admitted.principal, work, request, pending)
        if isinstance(work, Answer):
            return _response(work)
        if isinstance(work, Listen):
            return self._listen(work)
        return EventStream(work.stream.attach, partial(self._endpoint.hang_up, work), standing=True)

    def _run(self, principal: Principal, calls: Calls, request: Request, pending: Pending) -> Response | None:
        """Work on the calls of a POST, in the thread of its connection's worker."""
        if calls.batch:
            outcomes = [self._outcome(principal, call, _IN_BATCH) for call in calls.calls]
            return _response(self._endpoint.finish(calls, outcomes))
        call = calls.calls[0]
        conversation = CallConversation(
            call,
            pending,
            lambda outcome: self._endpoint.finish(calls, [outcome]),
            self._terms,
            # By the time of the result of `authenticate`, which may set a cookie, an event stream's head has gone.
            # That a client takes everything (`*/*`) does not mean that it understands event streams.
            streams=call.name != AUTHENTICATE and EVENT_STREAM in (request.headers.get("accept") or "").lower(),
            now=self._clock(),
        )
        self._overdue.add(conversation)
        try:
            outcome = self._outcome(principal, call, conversation)
        finally:
            self._overdue.remove(conversation)
        return conversation.end(outcome)

    def _outcome(self, principal: Principal, call: Call, conversation: Conversation) -> Outcome:
        try:
            return self._runner.run(principal, call, conversation)
        except Exception:
            # It promises not to; but a call that is never finished would keep its session and its id for good.
            self._log.exception("%s could not be worked on", call.method)
            return RpcError(INTERNAL_ERROR, "internal error, see the log")

    def _listen(self, listen: Listen) -> Response | EventStream:
        """Open a session's GET stream, or go on with a stream that its client has lost."""
        hang_up = partial(self._endpoint.hang_up, listen)
        if listen.last_event_id is not None:
            found = self._replays.find(listen.session, listen.last_event_id)
            if found is None:
                hang_up()
                return _UNKNOWN_EVENT
            reader = Reader(*found, hang_up)
        elif listen.session.version != RESUMABLE:
            return EventStream(listen.stream.attach, hang_up, standing=True)
        else:
            recording = self._replays.open(listen.session, standing=True)
            recording.on_forgotten = hang_up
            # Once its reader is lost, what is sent to it is kept for a while, unless the stream itself has ended.
            reader = Reader(recording, None, lambda: hang_up() if recording.ended else None)
            listen.stream.attach(recording)
        return EventStream(reader.open, reader.close, standing=reader.recording.standing)


def _response(answer: Answer) -> Response:
    return Response(answer.status, answer.body, answer.content_type, answer.headers)


# Not 404, which would tell the client that its session has ended, and not a new stream, on which it would wait in vain.
_UNKNOWN_EVENT = Response(
    400,
    jsonrpc.error_bytes(
        None,
        RpcError(
            INVALID_REQUEST,
            "There is nothing to resume: this Last-Event-ID is unknown in this session, or too old. Call again, or send "
            "GET without it for a new stream.",
            {"reason": "unknown_event_id"},
        ),
    ),
)
