"""MCP over Streamable HTTP without I/O: a request goes in, an answer or something to be done comes out.

`Endpoint.receive` gives an `Answer`; or `Calls`, which the caller works on before it asks `Endpoint.finish` for the
answer; or `Listen` or `Subscription`, for an event stream that stays open. Nothing here reads a socket, starts a
thread or looks at a clock. `legacy` and `modern` answer for the two eras; this tells which of them a request belongs to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fleetshell_tools.core.text import one_line
from fleetshell_tools.core.types import Cancellation
from fleetshell_tools.relay import eras, jsonrpc
from fleetshell_tools.relay.eras import Era
from fleetshell_tools.relay.exchange import (
    EVENT_STREAM,
    JSON,
    Answer,
    Calls,
    HttpRequest,
    Listen,
    Offer,
    Outcome,
    Subscription,
    accepts,
    is_json,
)
from fleetshell_tools.relay.headers import VERSION_HEADER, ParameterHeader
from fleetshell_tools.relay.jsonrpc import INVALID_REQUEST, Message, Rejection, Request
from fleetshell_tools.relay.legacy import SESSION_HEADER, Legacy
from fleetshell_tools.relay.modern import Modern, ParameterHeaders
from fleetshell_tools.relay.replies import ACCEPTED, Replies, bug, event, refusal
from fleetshell_tools.relay.sessions import Sessions

__all__ = ["Endpoint", "event"]


def _no_headers(name: str) -> tuple[ParameterHeader, ...]:
    return ()


class Endpoint:
    """The protocol of `/mcp`, for any number of threads at once.

    Args:
        server_info: `name`, `title` and `version`, as `initialize` gives them.
        offer: What there is for clients.
        sessions: The sessions of legacy clients.
        modern: Serve 2026-07-28; without it such a client is told to go on with `initialize`.
        secure: The relay serves TLS, which decides about the cookie of modern clients.
        parameter_headers: The `x-mcp-header` annotations of a tool, as `headers.annotated` reads them.
    """

    def __init__(
        self,
        *,
        server_info: Mapping[str, Any],
        offer: Offer,
        sessions: Sessions,
        modern: bool = True,
        secure: bool = True,
        parameter_headers: ParameterHeaders = _no_headers,
    ) -> None:
        self._sessions = sessions
        self._serves_modern = modern
        self._replies = Replies(server_info, secure)
        self._legacy = Legacy(offer, sessions, self._replies)
        self._modern = Modern(offer, self._replies, parameter_headers, secure)

    def receive(self, request: HttpRequest) -> Answer | Calls | Listen | Subscription:
        """Take one HTTP request in. Whatever it has in it, this returns; a bug of ours is logged and answered as 500."""
        try:
            if request.method == "POST":
                return self._post(request)
            if request.method in ("GET", "DELETE"):
                return self._without_body(request)
            raise Rejection(
                INVALID_REQUEST,
                f"{one_line(request.method, 20)} is not a method of this endpoint; it has GET, POST and DELETE.",
                status=405,
                why="http_method",
                headers=(("Allow", "GET, POST, DELETE"),),
            )
        except Rejection as rejection:
            return refusal(rejection)
        except Exception:
            return refusal(bug("an HTTP request", status=500))

    def finish(self, calls: Calls, outcomes: Sequence[Outcome]) -> Answer:
        """The answer to `calls` once every one of `calls.calls` has its outcome, in the same order.

        Raises:
            ValueError: There are more or fewer outcomes than calls.
        """
        for call in calls.calls:
            if call.peer.session is not None:
                self._sessions.finish(call.peer.session, call.request_id)
            else:
                self._modern.in_flight.finish(call.peer.key_id, call.request_id, call.cancelled)
        if len(outcomes) != len(calls.calls):
            raise ValueError(f"{len(calls.calls)} calls have {len(outcomes)} outcomes")
        replies = [self._replies.reply(call, outcome) for call, outcome in zip(calls.calls, outcomes, strict=True)]
        if not calls.batch:
            return Answer(replies[0].status, replies[0].body, replies[0].headers)
        rest = iter(replies)
        return Answer(
            200, b"[%b]" % b",".join(part if isinstance(part, bytes) else next(rest).body for part in calls.parts)
        )

    def hang_up(self, listen: Listen | Subscription) -> None:
        """Note that a GET stream or a subscription has ended, from either side."""
        if isinstance(listen, Listen):
            self._sessions.close_stream(listen.session, listen.stream)
        else:
            self._modern.in_flight.finish(listen.peer.key_id, listen.request_id, listen.cancelled)
            self._modern.listeners.close(listen)

    def changed(self, kind: str) -> None:
        """Tell every client that listens that the list of `tools`, `prompts` or `resources` is another one now."""
        self._legacy.changed(kind)
        self._modern.listeners.changed(kind)

    def resource_updated(self, uri: str) -> None:
        """Tell every client that subscribed to a resource that it has changed."""
        self._legacy.resource_updated(uri)
        self._modern.listeners.updated(uri)

    def running(self) -> int:
        """How many calls of both eras are being worked on."""
        return len(self._calls())

    def cancel_all(self, why: str, of: Callable[[str], bool] = lambda key: True) -> None:
        """Cancel every call `of` those keys, in both eras; modern subscriptions end with it."""
        for cancellation in self._calls(of):
            cancellation.set(why)

    def _calls(self, of: Callable[[str], bool] = lambda key: True) -> list[Cancellation]:
        calls = self._modern.in_flight.all(of)
        for session in self._sessions.live():
            if of(session.key_id):
                calls += list(session.in_flight.values())
        return calls

    def stop(self) -> None:
        """End every subscription with the result that tells its client that this is on purpose; calls go on."""
        self._modern.listeners.stop()

    def _post(self, http: HttpRequest) -> Answer | Calls | Subscription:
        if not is_json(http.header("Content-Type")):
            raise Rejection(
                INVALID_REQUEST,
                f"The body must be JSON: send `Content-Type: {JSON}`.",
                status=415,
                why="content_type",
            )
        body = jsonrpc.parse(http.body)
        if isinstance(body, list):
            if self._era(http, None) is Era.MODERN:
                raise self._modern.batch()
            _require_json(http)
            return self._legacy.batch(http, body)
        message = jsonrpc.classify(body)
        try:
            if self._era(http, message) is Era.MODERN:
                return self._modern.single(http, message)
            # mcp-remote 0.15.1 passes on a modern host's cancellation without the version's header.
            unknown = http.header(VERSION_HEADER) is None and http.header(SESSION_HEADER) is None
            if unknown and self._modern.cancel(http.key_id, message):
                return ACCEPTED
            _require_json(http)
            return self._legacy.single(http, message)
        except Rejection as rejection:
            if isinstance(message, Request):
                rejection.request_id = message.id
            raise

    def _without_body(self, http: HttpRequest) -> Answer | Listen:
        if self._era(http, None) is Era.MODERN:
            version = http.header(VERSION_HEADER) or ""
            if version != eras.MODERN_VERSION:
                raise eras.unsupported(version, eras.VERSIONS)
            raise self._modern.no_method(http.method)
        return self._legacy.get(http) if http.method == "GET" else self._legacy.delete(http)

    def _era(self, http: HttpRequest, message: Message | None) -> Era:
        """Which era a request belongs to, where that one is served.

        Raises:
            Rejection: -32020, where header and message disagree about it; -32022, where it is switched off.
        """
        header = http.header(VERSION_HEADER)
        era = eras.route(header, message)
        if era is Era.MODERN and not self._serves_modern:
            raise eras.unsupported(header or "", eras.LEGACY_VERSIONS)
        return era


def _require_json(http: HttpRequest) -> None:
    if not accepts(http.header("Accept"), JSON):
        raise Rejection(
            INVALID_REQUEST,
            f"Answers are JSON: send `Accept: {JSON}, {EVENT_STREAM}`, or no Accept.",
            status=406,
            why="not_acceptable",
        )
