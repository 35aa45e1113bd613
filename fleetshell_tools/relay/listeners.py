"""The modern era's subscriptions: event streams on which clients are told what they asked to be told, and nothing else.

Every message names its subscription, and the first says what of the wish is honoured (specification: "Subscriptions").
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from fleetshell_tools.core.types import Cancellation
from fleetshell_tools.relay import eras, jsonrpc, params
from fleetshell_tools.relay.exchange import Peer, Subscription
from fleetshell_tools.relay.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS, Rejection, Request
from fleetshell_tools.relay.replies import Replies, event, notification
from fleetshell_tools.relay.sessions import Stream

SUBSCRIPTION_KEY = eras.META + "subscriptionId"
PER_KEY = 64
KINDS = ("tools", "prompts", "resources")
URIS = "resourceSubscriptions"


def flag(kind: str) -> str:
    """The member that asks for changes of one kind of list."""
    return f"{kind}ListChanged"


class Listeners:
    """Every open subscription, for any thread."""

    def __init__(self, replies: Replies) -> None:
        self._replies = replies
        self._lock = threading.Lock()
        self._open: dict[Subscription, None] = {}
        self._stopped = False

    def open(
        self, request: Request, peer: Peer, capabilities: Mapping[str, Any], cancelled: Cancellation
    ) -> Subscription:
        """Open a subscription; its acknowledgement waits in its stream. `close` must follow.

        Args:
            capabilities: The server's own: what it does not have is not honoured.
            cancelled: Ends the subscription.

        Raises:
            Rejection: -32602, where the wish is malformed; HTTP 429, where the key has too many subscriptions.
        """
        kinds, uris = _honoured(_wish(request), capabilities)
        subscription = Subscription(request.id, peer, Stream(), kinds, frozenset(uris), cancelled)
        honoured: dict[str, Any] = {flag(kind): True for kind in KINDS if kind in kinds}
        if uris:
            honoured[URIS] = uris
        with self._lock:
            if sum(other.peer.key_id == peer.key_id for other in self._open) >= PER_KEY:
                raise Rejection(
                    INTERNAL_ERROR,
                    f"All {PER_KEY} subscriptions of this API key are in use; close one, and try again.",
                    status=429,
                    why="too_many_subscriptions",
                )
            self._send(subscription, "notifications/subscriptions/acknowledged", {"notifications": honoured})
            self._open[subscription] = None
            stopped = self._stopped
        if stopped:
            self.end(subscription)
        cancelled.on_set(lambda: self.end(subscription))
        return subscription

    def close(self, subscription: Subscription) -> None:
        """Forget a subscription whose client has gone."""
        with self._lock:
            self._open.pop(subscription, None)
        subscription.stream.close()

    def end(self, subscription: Subscription) -> None:
        """End a subscription with its result, which tells the client that this was on purpose."""
        with self._lock:
            if subscription not in self._open:
                return
            del self._open[subscription]
        result = self._replies.complete({}, meta={SUBSCRIPTION_KEY: subscription.request_id})
        subscription.stream.send(event(jsonrpc.result_bytes(subscription.request_id, jsonrpc.encode(result))))
        subscription.stream.close()

    def stop(self) -> None:
        """End every subscription, and from now on every new one."""
        with self._lock:
            self._stopped = True
            subscriptions = list(self._open)
        for subscription in subscriptions:
            self.end(subscription)

    def changed(self, kind: str) -> None:
        """Tell who asked for it that the list of `tools`, `prompts` or `resources` is another one now."""
        for subscription in self._snapshot():
            if kind in subscription.kinds:
                self._send(subscription, f"notifications/{kind}/list_changed", {})

    def updated(self, uri: str) -> None:
        """Tell who asked for it that a resource has changed."""
        for subscription in self._snapshot():
            if uri in subscription.uris:
                self._send(subscription, "notifications/resources/updated", {"uri": uri})

    def _snapshot(self) -> list[Subscription]:
        with self._lock:
            return list(self._open)

    @staticmethod
    def _send(subscription: Subscription, method: str, content: dict[str, Any]) -> None:
        meta = {"_meta": {SUBSCRIPTION_KEY: subscription.request_id}}
        subscription.stream.send(event(notification(method, {**content, **meta})))


def _wish(request: Request) -> dict[str, Any]:
    """What a client wants to be told, with its shape checked."""
    wish: dict[str, Any] = params.require(request, "notifications", dict, "an object")
    for kind in KINDS:
        if not isinstance(wish.get(flag(kind)), (bool, type(None))):
            raise Rejection(INVALID_PARAMS, f"`notifications.{flag(kind)}` must be true or false.")
    uris = wish.get(URIS)
    if not isinstance(uris, (list, type(None))):
        raise Rejection(INVALID_PARAMS, f"`notifications.{URIS}` must be an array of URIs.")
    if len(uris or ()) > params.MOST_URIS:
        raise params.too_many_uris()
    for uri in uris or ():
        params.uri(uri)
    return wish


def _honoured(wish: Mapping[str, Any], capabilities: Mapping[str, Any]) -> tuple[frozenset[str], list[str]]:
    """The kinds and the resources of a wish that this server tells about."""

    def has(kind: str, feature: str) -> bool:
        capability = capabilities.get(kind)
        return isinstance(capability, Mapping) and capability.get(feature) is True

    kinds = frozenset(kind for kind in KINDS if wish.get(flag(kind)) and has(kind, "listChanged"))
    return kinds, list(dict.fromkeys(wish.get(URIS) or ())) if has("resources", "subscribe") else []
