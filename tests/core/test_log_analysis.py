"""A log as a whole: exact groups of real programs' logs, windows and rates, samples, and bounds on whatever comes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetshell_tools.core import log_analysis, log_levels
from fleetshell_tools.core.log_analysis import SHOWN, Analysis, Piece, analyse, span
from fleetshell_tools.core.log_time import Clock

DATA = Path(__file__).parents[1] / "data" / "logs"
NOW = 1_750_000_000.0


def of(data: bytes | str, kind: str = "summary", **more: Any) -> Analysis:
    raw = data if isinstance(data, bytes) else data.encode()
    return analyse([Piece(raw)], Clock(NOW), kind, **more)


def groups(found: Analysis) -> list[tuple[int, str, str]]:
    return [(group["count"], group["level"], group["template"]) for group in found.groups]


def stamp(ago: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(NOW - ago))


def log(*parts: tuple[range, str]) -> str:
    """Lines of syslog so many seconds ago, each with its message."""
    return "".join(f"{stamp(ago)} web app: {message}\n" for moments, message in parts for ago in moments)


REAL: dict[str, tuple[dict[str, int], list[tuple[int, str, str]]]] = {
    "nginx-access.log": (
        {"error": 116, "warning": 102, "info": 121},
        [
            (40, "error", "GET /app/orders/<n> 502"),
            (32, "error", "POST /login 503"),
            (28, "error", "POST /app/checkout/<n> 500"),
            (11, "error", "GET /app/cut/<n> 502"),
            (5, "error", "GET /app/slow/<n> 504"),
        ],
    ),
    "nginx-error.log": (
        {"error": 248},
        [
            (108, "error", "nginx: open() <str> failed (<n>: No such file or directory)"),
            (53, "error", "nginx: limiting requests, excess: <n> by zone <str>"),
            (40, "error", "nginx: connect() failed (<n>: Connection refused) while connecting to upstream"),
            (18, "error", "nginx: access forbidden by rule"),
            (13, "error", "nginx: upstream prematurely closed connection while reading response header from upstream"),
            (11, "error", "nginx: upstream timed out (<n>: Connection timed out) while reading response header from upstream"),
            (5, "error", "nginx: client intended to send too large body: <n> bytes"),
        ],
    ),
    "apache-access.log": (
        {"error": 84, "warning": 167, "info": 149},
        [(33, "error", "POST /app/checkout/<n> 500"), (15, "error", "POST /app/checkout/<n> 501"), (11, "error", "GET /app/orders/<n> 501")],
    ),
    "apache-error.log": (
        {"error": 250, "warning": 16, "info": 6},
        [
            (50, "error", "authz_core: AH01630: client denied by server configuration: <path>"),
            (42, "error", "proxy_http: AH01114: HTTP: failed to make connection to backend: <ip>"),
        ],
    ),
    "python-tracebacks.log": (
        {"error": 49, "warning": 17, "info": 49, "debug": 12},
        [
            (22, "error", "shop.web: POST <path> <n>"),
            (7, "error", "shop.payment: FileNotFoundError: [Errno <n>] No such file or directory: <str>"),
            (7, "error", "shop.payment: ValueError: invalid literal for int() with base <n>: <str>"),
            (6, "error", "shop.payment: PaymentError: payment provider <str> refused order <n>: amount <n>"),
            (4, "error", "shop.web: BrokenPipeError: [Errno <n>] Broken pipe"),
            (2, "error", "shop.payment: OutOfStock: item <n> is out of stock"),
            (1, "error", "shop.web: no price for item <n>: KeyError(<str>)"),
        ],
    ),
    "app.jsonl": (
        {"error": 121, "warning": 32, "info": 120, "debug": 27},
        [
            (55, "error", "POST /app/checkout/<n> 500"),
            (17, "error", "shop.payment: ValueError: invalid literal for int() with base <n>: <str>"),
            (16, "error", "shop.payment: FileNotFoundError: [Errno <n>] No such file or directory: <str>"),
            (12, "error", "shop.payment: PaymentError: payment provider <str> refused order <n>: amount <n>"),
            (10, "error", "shop.payment: OutOfStock: item <n> is out of stock"),
            (10, "error", "shop.web: BrokenPipeError: [Errno <n>] Broken pipe"),
            (1, "error", "shop.web: no price for item <n>: KeyError(<str>)"),
        ],
    ),
    "app.logfmt": (
        {"error": 121, "warning": 32, "info": 120, "debug": 27},
        [(55, "error", "POST /app/checkout/<n> 500"), (17, "error", "app.py:76: checkout of order <n> failed: ValueError: invalid literal for int() with base <n>: <str>")],
    ),
    "java.log": (
        {"error": 17, "warning": 12, "info": 53, "debug": 11},
        [
            (5, "error", "c.e.shop.OrderService: java.lang.IllegalStateException: could not place order <n> (caused by java.sql.SQLTransientConnectionException: HikariPool-<n> - Connect…"),
        ],
    ),
    "postfix.log": (
        {"error": 1, "warning": 75, "info": 189},
        [
            (1, "error", "postfix/smtp: <hex>: to=<email>, relay=reject.example.org[<ip>]:<n>, dsn=<n>, status=bounced (host reject.example.org[<ip>] said: <n> <n> Error: command failed…"),
        ],
    ),
    "journal.json": (
        {"error": 24, "warning": 44, "info": 120, "debug": 12},
        [
            (6, "error", "backup: rsync: [sender] read errors mapping <str>: Input/output error (<n>)"),
            (6, "error", "kernel: [<n>] Out of memory: Killed process <n> (python3) total-vm:<n>, anon-rss:<n>"),
            (6, "error", "systemd: Failed to start cron.service - Regular background program processing daemon."),
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_the_errors_of_real_programs_are_grouped(name: str) -> None:
    totals, expected = REAL[name]
    found = of((DATA / name).read_bytes(), "errors")
    assert found.totals == totals
    assert groups(found)[: len(expected)] == expected
    assert sum(count for count, _, _ in groups(found)) + found.others == totals["error"]


def test_syslog_says_the_same_in_both_of_its_formats() -> None:
    old, new = (of((DATA / f"syslog-{name}.log").read_bytes()) for name in ("traditional", "rfc3339"))
    assert old.totals == new.totals == {"critical": 20, "error": 40, "warning": 36, "info": 254}
    assert groups(old) == groups(new)


def test_types_choose_levels_and_totals_stay() -> None:
    text = log((range(9, 6, -1), "error: a"), (range(6, 4, -1), "warning: b"), (range(4, 3, -1), "c"))
    for kind, expected in (("errors", {"error"}), ("warnings", {"warning"}), ("summary", {"error", "warning", "info"})):
        found = of(text, kind)
        assert {group["level"] for group in found.groups} == expected
        assert found.totals == {"error": 3, "warning": 2, "info": 1}


def test_a_summary_shows_the_bad_ones_first_but_not_alone() -> None:
    words = [
        "alpha",
        "beta",
        "gamma",
        "delta",
        "epsilon",
        "zeta",
        "eta",
        "theta",
        "iota",
        "kappa",
        "lambda",
        "mu",
        "nu",
        "xi",
    ]
    text = log(
        *((range(50), f"error: {word} {word[::-1]}") for word in words),
        (range(9), "warning: hot"),
        (range(90), "served"),
    )
    found = of(text)
    levels = [group["level"] for group in found.groups]
    assert len(levels) == SHOWN and levels == sorted(levels, key=["error", "warning", "info"].index)
    assert set(levels) == {"error", "warning", "info"}
    assert found.kinds == 16 and found.others == 50 * (14 - levels.count("error"))


def test_with_since_the_window_before_is_what_rates_are_compared_with() -> None:
    text = log(
        (range(3 * 3600, 3600, -60), "error: a"), (range(3600, 0, -10), "error: a"), (range(100, 0, -10), "error: b")
    )
    found = of(text, start=NOW - 3600)
    assert [(group["count"], group["before"], group["rate_change"]) for group in found.groups] == [
        (360, 60, 6.0),
        (10, 0, None),
    ]
    assert found.compared == "the 60 min before" and found.lines == 370
    assert found.first == NOW - 3600 and found.last == NOW - 10 and found.reaches == NOW - 3 * 3600


def test_a_log_that_does_not_reach_back_far_enough_is_compared_with_nothing() -> None:
    found = of(log((range(3700, 0, -10), "error: a")), start=NOW - 3600)
    assert found.compared == "" and found.groups[0]["before"] is None and found.groups[0]["rate_change"] is None


def test_without_since_the_newer_half_of_the_time_is_compared_with_the_older() -> None:
    found = of(log((range(1000, 500, -50), "error: a"), (range(500, -1, -10), "error: a")))
    (group,) = found.groups
    assert (group["count"], group["before"], group["rate_change"]) == (61, 10, 5.1)
    assert found.compared == "the older half of the time"


def test_only_the_newest_lines_count_where_that_is_asked_for() -> None:
    found = of(log((range(100, 0, -1), "error: a")), most=7)
    assert (found.lines, found.cut, found.totals) == (7, True, {"error": 7})
    assert not of("x\n", most=1).cut


def test_no_more_lines_are_looked_at_than_a_few_seconds_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_analysis, "LINES", 50)
    found = of("error: x\n" * 80)
    assert (found.lines, found.cut) == (50, True)


def test_pieces_count_by_their_weight_and_without_their_torn_lines() -> None:
    torn = Piece(b"rn line of an error\nerror: a\nerror: a\nerror: to", 10.0, torn_start=True, torn_end=True)
    found = analyse([torn, Piece(b"error: a\nerror: b\n")], Clock(NOW))
    assert found.sampled and found.totals == {"error": 22} and found.lines == 22
    assert groups(found) == [(21, "error", "error: a"), (1, "error", "error: b")]


def test_a_sample_outside_the_window_makes_no_estimate_of_it() -> None:
    old, new = log((range(9000, 8000, -10), "a")).encode(), log((range(100, 0, -10), "a")).encode()
    found = analyse([Piece(old, 10.0), Piece(new)], Clock(NOW), start=NOW - 3600)
    assert not found.sampled and found.totals == {"info": 10}


def test_events_have_the_time_of_the_line_before_where_they_have_none() -> None:
    text = log((range(7300, 7299, -1), "old")) + "Traceback (most recent call last):\n  x\nValueError: 3\n"
    assert of(text, start=NOW - 60).totals == {}
    assert of("error: undated\n" + text, start=NOW - 60).totals == {"error": 1}
    assert of("error: undated\n", start=NOW - 60).undated


def test_first_last_and_sample_of_a_group() -> None:
    found = of(log((range(30, 0, -10), "error: a")))
    assert found.groups == [
        {
            "template": "app: error: a", "level": "error", "count": 3, "first_seen": "2025-06-15T15:06:10Z",
            "last_seen": "2025-06-15T15:06:30Z", "sample": f"{stamp(10)} web app: error: a", "before": 1, "rate_change": 2.0,
        }
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (119, "119 s"),
        (3000, "50 min"),
        (9000, "2 h 30 min"),
        (7200, "2 h"),
        (273600, "3 d 4 h"),
        (172800, "2 d"),
    ],
)
def test_spans_are_told_in_one_or_two_units(seconds: float, text: str) -> None:
    assert span(seconds) == text


LINES = [line for name in REAL for line in (DATA / name).read_bytes().splitlines()[:40]]
ANY_LINE = st.one_of(st.sampled_from(LINES), st.binary(max_size=60))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(ANY_LINE, max_size=20).map(b"\n".join), st.floats(1, 1000), st.booleans(), st.booleans()),
        max_size=4,
    ),
    st.sampled_from(["errors", "warnings", "summary"]),
    st.one_of(st.none(), st.floats(NOW - 1e8, NOW)),
    st.one_of(st.none(), st.integers(1, 30)),
)
def test_whatever_comes_is_counted_and_the_answer_stays_small(
    pieces: list[tuple[bytes, float, bool, bool]], kind: str, start: float | None, most: int | None
) -> None:
    found = analyse([Piece(*piece) for piece in pieces], Clock(NOW), kind, start, most)
    assert set(found.totals) <= set(log_levels.LEVELS) and len(found.groups) <= SHOWN
    assert len(json.dumps(found.groups)) < 12_000
    wanted = {"errors": ("critical", "error"), "warnings": ("warning",)}.get(kind, log_levels.LEVELS)
    total = sum(count for level, count in found.totals.items() if level in wanted)
    # Each group is rounded by itself.
    assert (
        abs(sum(group["count"] for group in found.groups) + found.others - total)
        <= len(found.groups) + len(wanted) + found.kinds
    )
