"""Progress notifications: rising values, at most two a second, none after the answer."""

from __future__ import annotations

import json
from typing import Any

from fleetshell_tools.relay.progress import Reporter


class Desk:
    def __init__(self) -> None:
        self.now = 100.0
        self.sent: list[dict[str, Any]] = []
        self.report = Reporter(lambda message: self.sent.append(json.loads(message)), "token", lambda: self.now)

    def values(self) -> list[float]:
        return [message["params"]["progress"] for message in self.sent]


def test_a_report_becomes_a_notification_with_the_clients_token() -> None:
    desk = Desk()
    desk.report(1, 4, "web-1 is done")
    assert desk.sent == [
        {
            "jsonrpc": "2.0",
            "method": "notifications/progress",
            "params": {"progressToken": "token", "progress": 1, "total": 4, "message": "web-1 is done"},
        }
    ]


def test_at_most_two_notifications_a_second_are_sent() -> None:
    desk = Desk()
    for step in range(100):
        desk.report(step, None, None)
        desk.now += 0.125
    assert len(desk.sent) == 25


def test_values_that_do_not_rise_are_left_out() -> None:
    desk = Desk()
    for value in (3, 3, 2, 5):
        desk.report(value, 5, None)
        desk.now += 1
    assert desk.values() == [3, 5]


def test_nothing_follows_the_answer() -> None:
    desk = Desk()
    desk.report(1, 2, None)
    desk.report.finish()
    desk.now += 10
    desk.report(2, 2, None)
    assert desk.values() == [1]
