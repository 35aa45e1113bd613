"""The thread that watches calls which take long."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator

import pytest
from support.http_client import PATIENCE, wait_until

from fleetshell_tools.relay import overdue
from fleetshell_tools.relay.overdue import Overdue

LOG = logging.getLogger("test.overdue")


class Item:
    """Is due at some moments, one after the other, and notes when it was looked at."""

    def __init__(self, *moments: float) -> None:
        self._moments = list(moments)
        self.due = self._moments.pop(0)
        self.looks: list[float] = []
        self.looked = threading.Event()

    def look(self, now: float) -> None:
        self.looks.append(now)
        self.due = self._moments.pop(0) if self._moments else math.inf
        self.looked.set()


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def idle(clock: Clock) -> Iterator[Overdue]:
    """One whose thread never looks by itself."""
    made = Overdue(LOG, clock, look_every=1e6)
    yield made
    made.close()


@pytest.fixture
def busy(clock: Clock) -> Iterator[Overdue]:
    """One whose thread looks all the time."""
    made = Overdue(LOG, clock, look_every=0.001)
    yield made
    made.close()


def threads() -> int:
    return sum(thread.name == "overdue" for thread in threading.enumerate())


def test_an_item_is_looked_at_once_for_each_moment_at_which_it_is_due(idle: Overdue, clock: Clock) -> None:
    item = Item(101, 145)
    idle.add(item)
    for now in (100.0, 100.9, 101.0, 101.25, 144.9, 150.0, 1000.0):
        clock.now = now
        idle.look()
    assert item.looks == [101.0, 150.0]


def test_a_removed_item_is_left_alone_and_removing_it_again_is_harmless(idle: Overdue, clock: Clock) -> None:
    item = Item(100)
    idle.add(item)
    idle.remove(item)
    idle.remove(item)
    assert idle.look() == 0
    assert item.looks == []


def test_an_item_that_fails_is_dropped_and_logged_and_the_others_are_seen_to(
    idle: Overdue, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Item):
        def look(self, now: float) -> None:
            raise RuntimeError("a bug")

    item = Item(100)
    idle.add(Failing(100))
    idle.add(item)
    assert idle.look() == 2
    assert idle.look() == 1
    assert item.looks == [100.0]
    assert caplog.text.count("could not be looked after") == 1


def test_nothing_is_started_before_there_is_something_to_watch_and_it_is_one_thread(busy: Overdue) -> None:
    assert threads() == 0
    items = [Item(0) for _ in range(20)]
    for item in items:
        busy.add(item)
    assert all(item.looked.wait(PATIENCE) for item in items)
    assert threads() == 1
    busy.close()
    assert threads() == 0


def test_after_its_end_nothing_is_watched(busy: Overdue) -> None:
    busy.close()
    busy.add(Item(0))
    assert threads() == 0


def test_without_calls_it_falls_asleep_and_the_next_one_wakes_it(
    busy: Overdue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overdue, "SLEEP_AFTER", 0.0)
    for _ in range(20):
        item = Item(0)
        busy.add(item)
        assert item.looked.wait(PATIENCE)
        busy.remove(item)
        wait_until(lambda: busy._asleep)


def test_an_item_that_comes_while_it_falls_asleep_is_seen(busy: Overdue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overdue, "SLEEP_AFTER", 0.0)
    for _ in range(500):
        item = Item(0)
        busy.add(item)
        assert item.looked.wait(PATIENCE)
        busy.remove(item)
