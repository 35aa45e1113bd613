"""Progress notifications: rising values, at most two a second."""

from __future__ import annotations

from typing import Any

from fleetshell_tools.relay.progress import Reporter


class Desk:
    def __init__(self) -> None:
        self.now = 100.0
        self.sent: list[dict[str, Any]] = []
        self.report = Reporter(self.notify, "token", lambda: self.now)

    def notify(self, method: str, params: dict[str, Any]) -> None:
        assert method == "notifications/progress"
        self.sent.append(params)

    def values(self) -> list[float]:
        return [params["progress"] for params in self.sent]


def test_a_report_becomes_a_notification_with_the_clients_token() -> None:
    desk = Desk()
    desk.report(1, 4, "web-1 is done")
    assert desk.sent == [{"progressToken": "token", "progress": 1, "total": 4, "message": "web-1 is done"}]


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
