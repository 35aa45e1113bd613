"""How often clients may call: a bucket of permits per API key and per client, filled again as time passes."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from fleetshell_tools.core import config
from fleetshell_tools.core.errors import RateLimited
from fleetshell_tools.core.types import Caller

MOST = 10_000
"""Buckets that are kept; clients of the modern era can make up as many sessions as they like."""

NEWS = 60.0
"""Seconds after which being refused is news again."""


@dataclass
class _Bucket:
    permits: float
    looked: float
    told: float = -math.inf


class Rates:
    """Counts calls in memory, for any thread.

    A bucket holds a minute's permits, so that a burst is let through that the minute would allow anyway.

    Args:
        limits: The limits as they are configured now.
        now: Seconds on a monotonic clock.
    """

    def __init__(self, limits: Callable[[], config.Limits], now: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._now = now
        self._lock = threading.Lock()
        self._buckets: dict[tuple[str, ...], _Bucket] = {}

    def call(self, caller: Caller) -> None:
        """Count a call.

        Raises:
            RateLimited: It is one too many; the sentence says how long to wait.
        """
        limits, key = self._limits(), caller.principal.key_id
        self._take(
            [
                (("calls", key), limits.calls_per_minute, "limits.calls_per_minute", "calls of this API key"),
                (
                    ("session", key, caller.session),
                    limits.session_calls_per_minute,
                    "limits.session_calls_per_minute",
                    "calls of this client",
                ),
            ]
        )

    def authentication(self, caller: Caller) -> None:
        """Count a code that is about to be looked at.

        Raises:
            RateLimited: It is one too many; the sentence says how long to wait.
        """
        most = self._limits().authentications_per_minute
        key = caller.principal.key_id
        self._take([(("codes", key), most, "limits.authentications_per_minute", "codes of this API key")])

    def expire(self) -> None:
        """Forget the buckets that are full."""
        with self._lock:
            self._trim(self._now())

    def _take(self, wanted: list[tuple[tuple[str, ...], int, str, str]]) -> None:
        with self._lock:
            now = self._now()
            if len(self._buckets) >= MOST:
                self._trim(now)
            buckets = [
                (self._bucket(key, most, now), most, setting, what) for key, most, setting, what in wanted if most
            ]
            for bucket, most, setting, what in buckets:
                if bucket.permits < 1:
                    first, wait = now - bucket.told >= NEWS, math.ceil((1 - bucket.permits) * 60 / most)
                    bucket.told = now if first else bucket.told
                    raise RateLimited(
                        f"Too many {what}: at most {most:,} in a minute are allowed ({setting}). Wait {wait} s, then try again.",
                        first=first,
                    )
            for bucket, *_ in buckets:
                bucket.permits -= 1

    def _bucket(self, key: tuple[str, ...], most: int, now: float) -> _Bucket:
        bucket = self._buckets.setdefault(key, _Bucket(float(most), now))
        bucket.permits = min(most, bucket.permits + (now - bucket.looked) * most / 60)
        bucket.looked = now
        return bucket

    def _trim(self, now: float) -> None:
        """Forget what has not been used for a minute, and so is full; if that is too little, what was used least lately."""
        self._buckets = {key: bucket for key, bucket in self._buckets.items() if now - bucket.looked < 60}
        if len(self._buckets) >= MOST:
            lately = sorted(self._buckets.items(), key=lambda item: item[1].looked)
            self._buckets = dict(lately[len(lately) // 2 :])
