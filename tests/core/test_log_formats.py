"""Lines of each format taken apart, lines joined to events, and that no line whatever is too much."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetshell_tools.core import log_levels
from fleetshell_tools.core.log_events import OPEN, events
from fleetshell_tools.core.log_formats import LONGEST_LINE, Entry, LineParser, lines_of
from fleetshell_tools.core.log_time import Clock, Stamps, iso

NOW = 1_750_000_000.0  # 2025-06-15T15:06:40Z
AT = "2025-03-14T07:38:28Z"


def parser() -> LineParser:
    return LineParser(Stamps(Clock(NOW)))


def parsed(line: str) -> Entry:
    return parser().parse(line)


def joined(text: str) -> list[tuple[str, str, str]]:
    """Level, program and message of each event."""
    reader = parser()
    found = events(reader.parse(line) for line in lines_of(text))
    return sorted((event.level, event.program, event.message) for event in found)


S = "Mar 14 07:38:28 web-1 "
R = "2025-03-14T07:38:28.123456+00:00 web-1 "


@pytest.mark.parametrize(
    ("line", "level", "program", "message"),
    [
        # syslog
        (S + "sshd[12]: error: maximum authentication attempts exceeded", "error", "sshd", "error: maximum authentication attempts exceeded"),
        (S + "sshd[12]: Failed password for root from 192.0.2.1 port 4 ssh2", "warning", "sshd", "Failed password for root from 192.0.2.1 port 4 ssh2"),
        (S + "kernel: [12.5] Out of memory: Killed process 3 (x)", "critical", "kernel", "[12.5] Out of memory: Killed process 3 (x)"),
        (S + "CRON[3]: (root) CMD (/usr/lib/error-report)", "info", "CRON", "(root) CMD (/usr/lib/error-report)"),
        (S + "CRON[3]: (CRON) error (grandchild #4 failed with exit status 1)", "error", "CRON", "(CRON) error (grandchild #4 failed with exit status 1)"),
        (S + "CRON[3]: (CRON) info (No MTA installed, discarding output)", "info", "CRON", "(CRON) info (No MTA installed, discarding output)"),
        (S + "systemd[1]: Started x.service - A demo that fails.", "info", "systemd", "Started x.service - A demo that fails."),
        (S + "systemd[1]: Failed to start x.service.", "error", "systemd", "Failed to start x.service."),
        (S + "daemon.warn dnsmasq[9]: low on addresses", "warning", "dnsmasq", "low on addresses"),
        (R + "app[7]: 0 errors, no warnings", "info", "app", "0 errors, no warnings"),
        (R + "app[7]: see /var/log/error.log and error-pages", "info", "app", "see /var/log/error.log and error-pages"),
        (R + "app: two lines#012#011here", "info", "app", "two lines\n\there"),
        ("<11>" + S + "app: hello", "error", "app", "hello"),
        ('<165>1 2025-03-14T07:38:28Z host app 12 ID47 [x@1 a="b\\"]"][y@1] \ufeffhello', "info", "app", "hello"),
        ("<34>1 2025-03-14T07:38:28.003Z host su - - - 'su root' failed", "critical", "su", "'su root' failed"),
        # Postfix
        (S + "postfix/smtp[1]: 4F: to=<a@b.org>, status=sent (250 error-free)", "info", "postfix/smtp", "4F: to=<a@b.org>, status=sent (250 error-free)"),
        (S + "postfix/smtp[1]: 4F: to=<a@b.org>, status=deferred (fatal)", "warning", "postfix/smtp", "4F: to=<a@b.org>, status=deferred (fatal)"),
        (S + "postfix/smtp[1]: 4F: to=<a@b.org>, status=bounced (x)", "error", "postfix/smtp", "4F: to=<a@b.org>, status=bounced (x)"),
        (S + "postfix/master[1]: fatal: open lock file", "critical", "postfix/master", "fatal: open lock file"),
        (S + "postfix/smtpd[1]: NOQUEUE: reject: RCPT from x", "warning", "postfix/smtpd", "NOQUEUE: reject: RCPT from x"),
        # web servers
        ('192.0.2.1 - - [14/Mar/2025:07:38:28 +0000] "GET /a?b=c HTTP/1.1" 404 12 "-" "x"', "warning", "", "GET /a?b=c 404"),
        ('v.example.org:80 ::1 - bob [14/Mar/2025:07:38:28 +0000] "POST /a HTTP/2.0" 503 -', "error", "", "POST /a 503"),
        ('192.0.2.1 - - [14/Mar/2025:07:38:28 +0000] "\\x16\\x03\\x01" 400 150 "-" "-"', "warning", "", "(no request) 400"),
        ('2025/03/14 07:38:28 [crit] 4#4: *7 open() "/x" failed, client: 192.0.2.1, server: y', "critical", "nginx", 'open() "/x" failed'),
        ("[Fri Mar 14 07:38:28.123456 2025] [proxy:error] [pid 5:tid 6] [client 192.0.2.1:99] AH01: no, referer: http://x/", "error", "proxy", "AH01: no"),
        ("[Fri Mar 14 07:38:28 2025] [notice] caught SIGTERM", "info", "", "caught SIGTERM"),
        # what has fields
        ('{"time": "2025-03-14T07:38:28Z", "level": "WARN", "logger": "a.b", "msg": "slow"}', "warning", "a.b", "slow"),
        ('{"time": 1741937908000, "level": 50, "name": "pino", "msg": "bad"}', "error", "pino", "bad"),
        ('{"ts": 1741937908.5, "msg": "handled", "status": 502}', "error", "", "handled"),
        ('{"log": "2025-03-14 07:38:00 ERROR no disk\\n", "stream": "stderr", "time": "2025-03-14T07:38:28.1Z"}', "error", "", "no disk"),
        ('ts=2025-03-14T07:38:28Z level=error caller=a.go:1 msg="it is \\"bad\\"" err=EOF', "error", "a.go:1", 'it is "bad": EOF'),
        # a time, a level, and what is around them
        ("2025-03-14 07:38:28,123 ERROR a.b: went wrong", "error", "a.b", "went wrong"),
        ("2025-03-14 07:38:28,123 - a.b - WARNING - Error: is a word here", "warning", "a.b", "Error: is a word here"),
        ("2025-03-14 07:38:28,123 ERROR [http-1] c.e.Shop - no: stock", "error", "c.e.Shop", "no: stock"),
        ("[2025-03-14T07:38:28,123][WARN ][o.e.Boot] [node-1] low disk", "warning", "o.e.Boot", "[node-1] low disk"),
        ("2025-03-14 07:38:28.123 UTC [99] FATAL:  the database system is shutting down", "critical", "", "the database system is shutting down"),
        ("2025-03-14T07:38:28.123456Z 0 [Warning] [MY-010068] [Server] CA certificate is self signed", "warning", "", "[Server] CA certificate is self signed"),
        ("2025-03-14 07:38:28 connection refused by peer", "warning", "", "connection refused by peer"),
        ("2025-03-14 07:38:28 nothing to say", "unknown", "", "nothing to say"),
        ("7:M 14 Mar 2025 07:38:28.123 # Can't save in background", "warning", "", "Can't save in background"),
        ("E0314 07:38:28.123456       1 reflector.go:138] failed to list", "error", "reflector.go", "failed to list"),
    ],
)  # fmt: skip
def test_a_line_is_taken_apart(line: str, level: str, program: str, message: str) -> None:
    entry = parsed(line)
    assert (entry.level, entry.program, entry.message) == (level, program, message)
    assert entry.seconds is not None and iso(entry.seconds) == AT and entry.headed


@pytest.mark.parametrize(
    ("line", "level", "message"),
    [
        ("WARNING:root:low", "warning", "low"),
        ("error: no such thing", "error", "error: no such thing"),
        ("plain words", "unknown", "plain words"),
        ("", "unknown", ""),
        ("{broken", "unknown", "{broken"),
        ("[1, 2]", "unknown", "[1, 2]"),
        ("java.lang.IllegalStateException: x", "error", "java.lang.IllegalStateException: x"),
    ],
)
def test_a_line_without_a_time_has_a_level_by_its_words(line: str, level: str, message: str) -> None:
    entry = parsed(line)
    assert (entry.seconds, entry.level, entry.message) == (None, level, message)


def test_journal_entries_have_the_level_of_their_priority_or_of_what_they_say() -> None:
    def entry(message: object, priority: str = "6", **more: str) -> Entry:
        fields = {"__REALTIME_TIMESTAMP": "1741937908000000", "PRIORITY": priority, "_PID": "7", "MESSAGE": message}
        return parsed(json.dumps({**fields, "SYSLOG_IDENTIFIER": "app", "_SYSTEMD_UNIT": "app.service", **more}))

    assert (entry("x", "3").level, entry("x", "5").level, entry("error: x", "7").level) == ("error", "info", "debug")
    assert (entry("ERROR no disk").level, entry("all errors were fixed").level) == ("error", "info")
    assert entry([104, 233, 106]).message == "h\ufffdj" and entry(None).message == ""
    found = entry("hello")
    assert (found.program, found.raw, found.seconds) == ("app", "app: hello", 1741937908.0)


def test_a_repeated_message_counts_as_often_as_it_came() -> None:
    entry = parsed(S + "sshd[1]: message repeated 3 times: [ Failed password for root]")
    assert (entry.message, entry.times) == ("Failed password for root", 3)


TRACEBACK = """Traceback (most recent call last):
  File "/srv/a.py", line 3, in load
    open(name)
FileNotFoundError: no such file: 'x'
"""
CHAINED = (
    TRACEBACK
    + "\nDuring handling of the above exception, another exception occurred:\n\n"
    + TRACEBACK.replace("FileNotFoundError: no", "app.Broken: no")
)
JAVA = """2025-03-14 07:38:28,123 ERROR [main] c.e.Shop - order 7 failed
java.lang.IllegalStateException: no place
\tat com.example.Shop.place(Shop.java:12)
\tat com.example.Shop.main(Shop.java:3)
Caused by: java.io.IOException: disk full
\tat com.example.Disk.write(Disk.java:9)
\t... 2 more
2025-03-14 07:38:29,123 INFO [main] c.e.Shop - bye
"""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (TRACEBACK * 2, [("error", "", "FileNotFoundError: no such file: 'x'")] * 2),
        (CHAINED, [("error", "", "app.Broken: no such file: 'x'")]),
        ("2025-03-14 07:38:28,123 ERROR a.b: x failed\n" + CHAINED, [("error", "a.b", "app.Broken: no such file: 'x'")]),
        (
            "2025-03-14 07:38:28,123 INFO a.b: hello\n" + TRACEBACK + "2025-03-14 07:38:28,123 INFO a.b: bye\n",
            [("error", "", "FileNotFoundError: no such file: 'x'"), ("info", "a.b", "bye"), ("info", "a.b", "hello")],
        ),
        (JAVA, [("error", "c.e.Shop", "java.lang.IllegalStateException: no place (caused by java.io.IOException: disk full)"), ("info", "c.e.Shop", "bye")]),
        ("panic: nil map\n\ngoroutine 1 [running]:\nmain.main()\n\t/app/x.go:3 +0x1d\nexit status 2\n", [("critical", "", "panic: nil map")]),
        ("TypeError: x is no function\n    at run (/app/a.js:1:2)\n    at /app/b.js:3:4\n", [("error", "", "TypeError: x is no function")]),
        (
            "2025/03/14 07:38:28 [error] 4#4: *7 a, client: 192.0.2.1\n" + TRACEBACK,
            [("error", "", "FileNotFoundError: no such file: 'x'"), ("error", "nginx", "a")],
        ),
        ("one\ntwo\n  indented\nthree\n", [("unknown", "", "one"), ("unknown", "", "three"), ("unknown", "", "two")]),
    ],
)  # fmt: skip
def test_a_traceback_is_one_event_keyed_by_what_was_raised(text: str, found: list[tuple[str, str, str]]) -> None:
    assert joined(text) == found


def test_in_syslog_the_lines_of_two_processes_may_be_interleaved() -> None:
    one, two = ([f"app[{pid}]: {line}" for line in TRACEBACK.splitlines()] for pid in (1, 2))
    mixed = [line for pair in zip(one, two, strict=True) for line in pair]
    found = joined("\n".join(S + line for line in [*mixed, "app[1]: ready"]))
    assert found == [("error", "app", "FileNotFoundError: no such file: 'x'")] * 2 + [("info", "app", "ready")]


def test_a_traceback_within_one_message_is_keyed_alike() -> None:
    expected = [("error", "app", "FileNotFoundError: no such file: 'x'")]
    assert joined(S + "app[1]: " + TRACEBACK.strip().replace("\n", "#012")) == expected
    line = json.dumps({"level": "error", "logger": "app", "msg": "x failed", "exc_info": TRACEBACK})
    assert joined(line) == expected


def test_the_sample_of_a_traceback_says_what_failed_and_where() -> None:
    reader = parser()
    (event,) = events(map(reader.parse, ("2025-03-14 07:38:28,123 ERROR a.b: x failed\n" + TRACEBACK).splitlines()))
    assert event.raw == "x failed | /srv/a.py:3 in load | FileNotFoundError: no such file: 'x'" and event.lines == 5


def test_the_names_of_levels_are_all_known() -> None:
    assert set(map(log_levels.priority, range(8))) | {"unknown"} == set(log_levels.LEVELS)
    assert [log_levels.number(value) for value in (3, 10, 20, 30, 40, 50, 60, 9, 99)] == [
        *("error", "debug", "debug", "info", "warning", "error", "critical"), None, None,
    ]  # fmt: skip


PIECES = st.sampled_from(
    [S, R, "<11>", '{"msg":', '"', "\\", "[", "]", "(", " ", "  ", ":", "ERROR", "level=", "Traceback (most recent call last):", "\tat a.b(", "=", "\u2028", "É", '{"a":{}}', "9" * 30, "Caused by: "]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(st.one_of(PIECES, st.text(max_size=20)), max_size=8).map("".join), max_size=30))
def test_no_line_is_too_much(lines: list[str]) -> None:
    reader = parser()
    found = list(events(reader.parse(line) for line in lines))
    assert sum(event.lines for event in found) == len(lines)
    assert all(event.level in log_levels.LEVELS for event in found)


@pytest.mark.parametrize(
    "piece", ['"', "a ", "[", "[a", '["', "\\", "a=", "x.", "(", ": ", "a.", "/", "0", "ab1", "::", "1:", "-", "{", "'"]
)
def test_long_lines_take_no_time_of_their_own(piece: str) -> None:
    for head in (
        "",
        S + "app: ",
        "<34>1 - - a b c [",
        '192.0.2.1 - - [14/Mar/2025:07:38:28 +0000] "',
        "level=x msg=",
        "2025-03-14 07:38:28 ERROR ",
    ):
        # Were it quadratic in any pattern, this would run for minutes.
        entry = parsed(head + piece * (1_000_000 // len(piece)))
        assert len(entry.raw) <= LONGEST_LINE


def test_no_more_events_are_open_than_allowed() -> None:
    reader = parser()
    read = 0

    def lines() -> list[Entry]:
        return [reader.parse(f"{S}app[{pid}]: hello") for pid in range(OPEN * 3)]

    for _ in events(iter(lines())):
        read += 1
    assert read == OPEN * 3
