"""The era of 2026-07-28: every request stands alone and says itself which version, client and wishes it comes with.

The order of the checks is envelope, headers, version, method, parameters (specification: "Transports"), and what is
refused travels on the HTTP status that the revision's table has for the error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fleetshell_tools.core.text import one_line
from fleetshell_tools.relay import carriers, eras, headers, jsonrpc, params
from fleetshell_tools.relay.exchange import (
    EVENT_STREAM,
    JSON,
    Answer,
    Calls,
    HttpRequest,
    Offer,
    Peer,
    Subscription,
    accepts,
)
from fleetshell_tools.relay.headers import VERSION_HEADER, ParameterHeader
from fleetshell_tools.relay.in_flight import InFlight
from fleetshell_tools.relay.jsonrpc import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    MODERN_STATUS,
    Message,
    Notification,
    Rejection,
    Request,
)
from fleetshell_tools.relay.listeners import Listeners
from fleetshell_tools.relay.replies import ACCEPTED, TTL_MS, Replies, bug

CAPABILITIES_KEY = eras.META + "clientCapabilities"
CLIENT_KEY = eras.META + "clientInfo"
LOG_LEVEL_KEY = eras.META + "logLevel"

LISTEN = "subscriptions/listen"
REMOVED = frozenset({"initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"})
"""Methods of the older era; no offer can bring them back."""

ParameterHeaders = Callable[[str], tuple[ParameterHeader, ...]]


class Modern:
    """Answers requests that stand alone, for any number of threads at once.

    Args:
        parameter_headers: The `x-mcp-header` annotations of a tool.
        secure: The relay serves TLS.
    """

    def __init__(self, offer: Offer, replies: Replies, parameter_headers: ParameterHeaders, secure: bool) -> None:
        self._offer = offer
        self._replies = replies
        self._parameter_headers = parameter_headers
        self._secure = secure
        self.in_flight = InFlight()
        self.listeners = Listeners(replies)

    def single(self, http: HttpRequest, message: Message) -> Answer | Calls | Subscription:
        """Answer a POST of one message.

        Raises:
            Rejection: With the HTTP status of this era.
        """
        try:
            if isinstance(message, Request):
                return self._request(http, message)
            if isinstance(message, Notification):
                return self._note(http, message)
            raise Rejection(
                INVALID_REQUEST, "This protocol version has no requests by the server, so nothing waits for a response."
            )
        except Rejection as rejection:
            if rejection.status == 200:
                rejection.status = MODERN_STATUS.get(rejection.code, 200)
            raise

    def cancel(self, key_id: str, message: Message) -> bool:
        """Cancel the request that a notification says is cancelled; False where it says no such thing, or there is none."""
        if not isinstance(message, Notification) or message.method != "notifications/cancelled":
            return False
        request_id, why = params.cancelled_request(message)
        if request_id is None:
            return False
        try:
            return self.in_flight.cancel(key_id, request_id, why)
        except Exception:
            # There is no answer that could carry the error, so the log alone has it.
            bug("a cancellation")
            return False

    def batch(self) -> Rejection:
        """The answer to an array of messages."""
        return Rejection(
            INVALID_REQUEST,
            f"Protocol version {eras.MODERN_VERSION} has no batches; send each message in a POST of its own.",
            why="no_batches",
        )

    def no_method(self, method: str) -> Rejection:
        """The answer to GET and DELETE: there are no sessions and no streams beside requests."""
        return Rejection(
            INVALID_REQUEST,
            f"Protocol version {eras.MODERN_VERSION} has no {method} here; use POST.",
            status=405,
            why="http_method",
            headers=(("Allow", "POST"),),
        )

    def _request(self, http: HttpRequest, request: Request) -> Answer | Calls | Subscription:
        version = http.header(VERSION_HEADER) or ""
        # A revision that is not known here may have any envelope; what helps its client is what else there is.
        if version not in eras.VERSIONS and eras.version_in_meta(request) is None:
            raise eras.unsupported(version, eras.VERSIONS)
        meta = _envelope(request)
        headers.check(http, request, meta[eras.VERSION_KEY])
        if version != eras.MODERN_VERSION:
            raise eras.unsupported(version, eras.VERSIONS)
        _require_accept(http, EVENT_STREAM if request.method == LISTEN else JSON)
        try:
            return self._dispatch(http, request, meta)
        except Rejection:
            raise
        except Exception as error:
            raise bug(one_line(request.method, params.NAME_LENGTH)) from error

    def _dispatch(self, http: HttpRequest, request: Request, meta: Mapping[str, Any]) -> Answer | Calls | Subscription:
        method = request.method
        if method == LISTEN:
            return self._listen(request, self._peer(http, request, meta))
        if method == "server/discover":
            return Answer(200, self._discover(request))
        if method in params.LISTS:
            return Answer(200, self._list(request))
        if method in REMOVED or not (method == "tools/call" or self._offer.runs(method)):
            raise params.unknown_method(method)
        return self._call(http, request, self._peer(http, request, meta))

    def _note(self, http: HttpRequest, note: Notification) -> Answer:
        """Take a notification in: all are accepted, one does something."""
        version = http.header(VERSION_HEADER) or ""
        if version != eras.MODERN_VERSION:
            raise eras.unsupported(version, eras.VERSIONS)
        said = eras.version_in_meta(note)
        if said is not None and said != version:
            raise eras.mismatch(f"the {VERSION_HEADER} header says {version!r}", said)
        self.cancel(http.key_id, note)
        return ACCEPTED

    def _peer(self, http: HttpRequest, request: Request, meta: Mapping[str, Any]) -> Peer:
        client = meta.get(CLIENT_KEY, {})
        name, version = client.get("name"), client.get("version")
        level = meta.get(LOG_LEVEL_KEY)
        return Peer(
            http.key_id,
            eras.MODERN_VERSION,
            one_line(name, params.NAME_LENGTH) if isinstance(name, str) else "",
            one_line(version, params.NAME_LENGTH) if isinstance(version, str) else "",
            meta[CAPABILITIES_KEY],
            handles=carriers.handles(http, request.params, self._secure),
            log_level=level,
        )

    def _discover(self, request: Request) -> bytes:
        value: dict[str, Any] = {
            "supportedVersions": list(eras.VERSIONS),
            "capabilities": self._offer.capabilities(True),
        }
        if self._offer.instructions:
            value["instructions"] = self._offer.instructions
        result = self._replies.complete(value, TTL_MS[request.method])
        return jsonrpc.result_bytes(request.id, jsonrpc.encode(result))

    def _list(self, request: Request) -> bytes:
        listing = self._offer.listing(request.method, True)
        if listing is None:
            raise params.unknown_method(request.method)
        params.refuse_cursor(request)
        return self._replies.modern_listing(request.id, request.method, params.LISTS[request.method], listing)

    def _call(self, http: HttpRequest, request: Request, peer: Peer) -> Calls:
        checked = name, arguments, _ = params.check(request)
        if request.method == "tools/call":
            headers.check_parameters(http, arguments, self._parameter_headers(name))
        for key, kind in (("inputResponses", dict), ("requestState", str)):
            if not isinstance(request.params.get(key), (kind, type(None))):
                raise Rejection(INVALID_PARAMS, f"`{key}` must be {'an object' if kind is dict else 'a string'}.")
        return Calls([params.call(request, checked, peer, self.in_flight.begin(peer.key_id, request.id))])

    def _listen(self, request: Request, peer: Peer) -> Subscription:
        cancelled = self.in_flight.begin(peer.key_id, request.id)
        try:
            return self.listeners.open(request, peer, self._offer.capabilities(True), cancelled)
        except BaseException:
            self.in_flight.finish(peer.key_id, request.id, cancelled)
            raise


def _envelope(request: Request) -> Mapping[str, Any]:
    """What every request says of itself in `_meta`, with its shape checked.

    Raises:
        Rejection: -32602.
    """
    meta = request.params.get("_meta")
    if not isinstance(meta, dict):
        raise _incomplete(f"`params._meta` must be an object with {eras.VERSION_KEY} and {CAPABILITIES_KEY}")
    if not isinstance(meta.get(eras.VERSION_KEY), str):
        raise _incomplete(f"`_meta` needs {eras.VERSION_KEY}, a string")
    if not isinstance(meta.get(CAPABILITIES_KEY), dict):
        raise _incomplete(f"`_meta` needs {CAPABILITIES_KEY}, an object")
    if not isinstance(meta.get(CLIENT_KEY, {}), dict):
        raise _incomplete(f"{CLIENT_KEY} in `_meta` must be an object")
    if LOG_LEVEL_KEY in meta and meta[LOG_LEVEL_KEY] not in params.LOG_LEVELS:
        raise _incomplete(f"{LOG_LEVEL_KEY} in `_meta` must be one of {', '.join(params.LOG_LEVELS)}")
    return meta


def _incomplete(why: str) -> Rejection:
    return Rejection(INVALID_PARAMS, f"{why}.", why="bad_envelope")


def _require_accept(http: HttpRequest, media_type: str) -> None:
    if not accepts(http.header("Accept"), media_type):
        raise Rejection(
            INVALID_REQUEST,
            f"The answer is {media_type}: send `Accept: {JSON}, {EVENT_STREAM}`, or no Accept.",
            status=406,
            why="not_acceptable",
        )
