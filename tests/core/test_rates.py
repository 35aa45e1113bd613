"""Rate limits: per key and per client, filled again with time, without harm for others."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from fleetshell_tools.core import rates
from fleetshell_tools.core.config import Limits
from fleetshell_tools.core.errors import RateLimited
from fleetshell_tools.core.rates import Rates
from fleetshell_tools.core.types import Caller, Principal


@dataclass
class Clock:
    now: float = 0.0


def caller(session: str = "s", key: str = "k") -> Caller:
    return Caller(Principal(key), session=session)


def test_a_client_gets_its_minute_at_once_and_then_waits_as_long_as_it_is_told() -> None:
    clock = Clock()
    counted = Rates(lambda: Limits(session_calls_per_minute=30), lambda: clock.now)
    for _ in range(30):
        counted.call(caller())
    with pytest.raises(RateLimited, match=r"session_calls_per_minute\). Wait 2 s"):
        counted.call(caller())
    clock.now += 1.9
    with pytest.raises(RateLimited, match="Wait 1 s"):
        counted.call(caller())
    clock.now += 0.2
    counted.call(caller())
    with pytest.raises(RateLimited):
        counted.call(caller())


def test_clients_of_one_key_share_its_limit_and_another_key_has_its_own() -> None:
    clock = Clock()
    counted = Rates(lambda: Limits(calls_per_minute=10, session_calls_per_minute=6), lambda: clock.now)
    for number in range(10):
        counted.call(caller(f"s{number % 2}"))
    with pytest.raises(RateLimited, match="limits.calls_per_minute"):
        counted.call(caller("s3"))
    counted.call(caller("s3", "another"))


def test_a_refused_call_costs_neither_limit_anything() -> None:
    clock = Clock()
    counted = Rates(lambda: Limits(calls_per_minute=10, session_calls_per_minute=2), lambda: clock.now)
    for _ in range(2):
        counted.call(caller())
    for _ in range(50):
        with pytest.raises(RateLimited):
            counted.call(caller())
    for number in range(8):
        counted.call(caller(f"other{number}"))


def test_codes_are_counted_apart() -> None:
    clock = Clock()
    counted = Rates(lambda: Limits(calls_per_minute=1, authentications_per_minute=2), lambda: clock.now)
    counted.call(caller())
    counted.authentication(caller("a"))
    counted.authentication(caller("b"))
    with pytest.raises(RateLimited, match=r"authentications_per_minute\). Wait 30 s"):
        counted.authentication(caller("c"))


def test_zero_means_without_a_limit_and_a_lowered_limit_holds_at_once() -> None:
    clock, limits = Clock(), [Limits(calls_per_minute=0, session_calls_per_minute=0)]
    counted = Rates(lambda: limits[0], lambda: clock.now)
    for _ in range(1000):
        counted.call(caller())
    limits[0] = Limits(session_calls_per_minute=100)
    counted.call(caller())
    limits[0] = Limits(session_calls_per_minute=1)
    counted.call(caller())
    with pytest.raises(RateLimited):
        counted.call(caller())


def test_being_refused_is_news_once_a_minute() -> None:
    clock = Clock()
    counted = Rates(lambda: Limits(session_calls_per_minute=1), lambda: clock.now)
    counted.call(caller())
    news = []
    for _ in range(4):
        clock.now += 20
        with pytest.raises(RateLimited) as refused:
            counted.call(caller())
            counted.call(caller())
        news.append(refused.value.first)
    assert news == [True, False, False, True]


def test_made_up_sessions_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "MOST", 100)
    clock = Clock()
    counted = Rates(lambda: Limits(calls_per_minute=0), lambda: clock.now)
    for number in range(1000):
        counted.call(caller(f"s{number}"))
    assert len(counted._buckets) <= 101
    clock.now += 61
    counted.expire()
    assert not counted._buckets
