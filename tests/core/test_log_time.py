"""Timestamps of log lines as UTC, and the argument `since`."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetshell_tools.core.errors import BadArgument
from fleetshell_tools.core.log_time import Clock, Since, Stamps, iso, parse_since

MOMENT = 1_705_314_600  # 2024-01-15T10:30:00Z
CLOCK = Clock(MOMENT + 30 * 86_400, 7200)
SAMPLES = Path(__file__).resolve().parents[1] / "data" / "logs"

LINES = [
    # Without a zone: the host's, two hours east of UTC.
    ("Jan 15 12:30:00 web postfix/smtpd[1]: connect", "syslog"),
    ("<13>Jan 15 12:30:00 web x: y", "syslog"),
    ("Jan 15 2024 12:30:00 switch %LINK-3", "syslog"),
    ("2024/01/15 12:30:00 [error] 1#1: *1 open() failed", "iso"),
    ("2024-01-15 12:30:00,123 INFO x", "iso"),
    ("INFO 2024-01-15 12:30:00,123 x", "iso"),
    ("[2024-01-15 12:30:00] production.ERROR: x", "iso"),
    ("2024-01-15 12:30:00 install nginx:amd64", "iso"),
    ("[Mon Jan 15 12:30:00.123456 2024] [core:error] [pid 1] x", "ctime"),
    ("Mon Jan 15 12:30:00 2024 : Info: x", "ctime"),
    ("1:M 15 Jan 2024 12:30:00.123 * Ready", "day-first"),
    ("15-Jan-2024 12:30:00.123 queries: info: x", "day-first"),
    ("I0115 12:30:00.123456       1 x.go:1] y", "klog"),
    # With one.
    ("2024-01-15T10:30:00.123456+00:00 web sshd[1]: x", "iso"),
    ("2024-01-15T05:30:00-0500 web x", "iso"),
    ("<34>1 2024-01-15T10:30:00.003Z web su - ID47 - x", "iso"),
    ("2024-01-15 10:30:00.123 UTC [123] LOG:  x", "iso"),
    ("2024-01-15 05:30:00 -0500 x", "iso"),
    ('time="2024-01-15T10:30:00Z" level=info msg=x', "iso"),
    ("level=info ts=2024-01-15T10:30:00Z caller=x", "logfmt"),
    ('1.2.3.4 - - [15/Jan/2024:11:30:00 +0100] "GET / HTTP/1.1" 200 1', "access"),
    ('2001:db8::1 - bob [15/Jan/2024:10:30:00 +0000] "GET /1705314601 HTTP/1.1" 200 1', "access"),
    ("1705314600 x", "epoch"),
    ("[1705314600] SERVICE ALERT: web", "epoch"),
    ("1705314600.123     55 10.0.0.1 TCP_MISS/200", "epoch"),
    ("1705314600123 x", "epoch"),
    ("type=SYSCALL msg=audit(1705314600.123:456): arch=c000003e", "audit"),
    ('{"level":"info","time":"2024-01-15T10:30:00Z","msg":"x"}', "json"),
    ('{"ts": 1705314600.5, "msg": "x"}', "json"),
    ('{"time":1705314600500}', "json"),
    ('{"log":"x\\n","stream":"stdout","time":"2024-01-15T10:30:00.123456789Z"}', "json"),
]  # fmt: skip


@pytest.mark.parametrize("line, name", LINES)
def test_each_format_is_read_as_utc(line: str, name: str) -> None:
    stamps = Stamps(CLOCK)
    assert stamps.of(line) == pytest.approx(MOMENT, abs=0.9999) and stamps.format == name


def test_formats_do_not_get_in_each_others_way() -> None:
    stamps = Stamps(CLOCK)
    for line, name in [*LINES, *reversed(LINES)]:
        assert stamps.of(line) == pytest.approx(MOMENT, abs=0.9999) and stamps.format == name


@pytest.mark.parametrize(
    "line",
    [
        "",
        '  File "x.py", line 1, in <module>',
        "[   12.345678] usb 1-1: new device",
        "Feb 30 10:00:00 web x",
        "2024-13-01T10:00:00Z x",
        "2024-01-15T25:00:00Z x",
        "4915112345678901 a number",
        "0000000001 x",
        "9999999999 in the far future",
        "user logged in at 2024-01-15T10:30:00Z",
        '{"time":"soon"}',
    ],
)
def test_what_is_no_time_is_none(line: str) -> None:
    assert Stamps(CLOCK).of(line) is None


@pytest.mark.parametrize(
    "now, line, wanted",
    [
        ("2024-01-01T00:10:00Z", "Dec 31 23:59:59 h x", "2023-12-31T23:59:59Z"),
        ("2024-01-01T00:10:00Z", "Jan  1 00:05:00 h x", "2024-01-01T00:05:00Z"),
        ("2023-12-31T23:59:00Z", "Jan  1 00:01:00 h x", "2024-01-01T00:01:00Z"),  # a clock that is ahead
        ("2023-06-01T00:00:00Z", "Feb 29 12:00:00 h x", "2020-02-29T12:00:00Z"),
        ("2024-06-01T00:00:00Z", "Jun  3 12:00:00 h x", "2023-06-03T12:00:00Z"),
    ],
)
def test_the_year_of_a_syslog_line_is_the_latest_without_a_future(now: str, line: str, wanted: str) -> None:
    found = Stamps(Clock(parse_since(now).seconds)).of(line)
    assert found is not None and iso(found) == wanted


@given(st.datetimes(datetime.datetime(1971, 1, 2), datetime.datetime(2038, 1, 1)), st.integers(-14 * 60, 14 * 60))
def test_a_time_with_a_zone_is_what_python_makes_of_it(moment: datetime.datetime, minutes: int) -> None:
    there = moment.replace(microsecond=0, tzinfo=datetime.timezone(datetime.timedelta(minutes=minutes)))
    assert Stamps(CLOCK).of(f"{there.isoformat()} x") == there.timestamp()
    assert parse_since(there.isoformat()) == Since("at", int(there.timestamp()))
    assert Stamps(Clock(0, minutes * 60)).of(there.strftime("%Y-%m-%d %H:%M:%S x")) == there.timestamp()


@given(st.text(max_size=80), st.sampled_from([line for line, _ in LINES]))
def test_no_line_does_harm(text: str, line: str) -> None:
    for hostile in (text, line + text, line[: len(text)] + text):
        Stamps(CLOCK).of(hostile)


@pytest.mark.parametrize(
    "name, share",
    [
        ("apache-access.log", 1), ("apache-error.log", 0.8), ("app.jsonl", 0.9), ("app.logfmt", 0.9), ("java.log", 0.2),
        ("nginx-access.log", 1), ("nginx-error.log", 1), ("postfix.log", 1), ("python-tracebacks.log", 0.1),
        ("syslog-rfc3339.log", 1), ("syslog-traditional.log", 1),
    ],
)  # fmt: skip
def test_logs_of_real_programs_are_dated_and_in_order(name: str, share: float) -> None:
    lines = (SAMPLES / name).read_text(errors="replace").splitlines()
    stamps = Stamps(Clock(parse_since("2025-03-20T00:00:00Z").seconds))
    times = [stamp for stamp in map(stamps.of, lines) if stamp is not None]
    assert len(times) >= share * len(lines)
    assert times[0] - 86_400 <= times[-1] and all(iso(stamp).startswith("2025-03") for stamp in times)


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("90m", Since("ago", 5400)),
        ("2h", Since("ago", 7200)),
        ("3d", Since("ago", 259_200)),
        ("1w", Since("ago", 604_800)),
        ("45s", Since("ago", 45)),
        ("1d12h", Since("ago", 129_600)),
        ("2024-01-15T10:30:00Z", Since("at", MOMENT)),
        ("2024-01-15T12:30+02:00", Since("at", MOMENT)),
        ("2024-01-15 10:30:00.999 +0000", Since("at", MOMENT)),
        ("2024-01-15T10:30:00", Since("local", MOMENT)),
        ("2024-01-15", Since("local", MOMENT - 37_800)),
        (None, Since()),
    ],
)
def test_since_is_a_moment_or_how_long_ago(text: str | None, wanted: Since) -> None:
    assert parse_since(text) == wanted


def test_since_is_told_by_the_hosts_clock() -> None:
    clock = Clock(MOMENT, 3600)
    assert parse_since("1h").moment(clock) == MOMENT - 3600
    assert parse_since("2024-01-15T11:30:00").moment(clock) == MOMENT
    assert parse_since("2024-01-15T10:30:00Z").moment(clock) == MOMENT
    assert parse_since(None).moment(clock) is None


@pytest.mark.parametrize(
    "text", ["", "yesterday", "90", "m", "-5m", "2024-13-01", "2024-01-15T99:00:00", "1h ago", "9" * 30 + "d", "$(id)"]
)
def test_what_is_no_since_is_refused_with_examples(text: str) -> None:
    with pytest.raises(BadArgument, match="90m"):
        parse_since(text)


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("1705314600 +0000\n", Clock(MOMENT)),
        ("1705314600 -0330", Clock(MOMENT, -12_600)),
        ("%s %z", None),
        ("", None),
    ],
)
def test_a_hosts_clock_is_read(text: str, wanted: Clock | None) -> None:
    assert Clock.read(text) == wanted
