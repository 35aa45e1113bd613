"""What systemd says of units, taken apart: properties, times, states, the verdict on a restart, near names."""

from __future__ import annotations

from typing import Any

import pytest

from fleetshell_tools.core.errors import BadArgument
from fleetshell_tools.core.systemd import (
    Unit,
    blocks,
    carrier,
    has_name,
    has_state,
    moment,
    near,
    rank,
    span,
    template_glob,
    unit_name,
    verdict,
)

SHOWN = """MainPID=0
Result=exit-code
NRestarts=0
ExecMainCode=1
ExecMainStatus=3
MemoryCurrent=[not set]
Id=demo-fail.service
Names=demo-fail.service
Description=Key = value, and more
LoadState=loaded
ActiveState=failed
SubState=failed
UnitFileState=enabled
ActiveEnterTimestamp=Sun 2026-11-22 19:19:53 UTC
InactiveEnterTimestamp=Sun 2026-11-22 19:20:01 UTC

Id=nginx.service
LoadState=loaded
ActiveState=active
SubState=running
MainPID=39
MemoryCurrent=2043904
ActiveEnterTimestamp=Sun 2026-11-22 19:19:53 UTC
InactiveEnterTimestamp=
"""


def unit(**properties: str) -> Unit:
    return Unit({"Id": "x.service", "LoadState": "loaded", "Type": "simple", "Job": "", **properties})


def test_properties_of_several_units_are_told_apart() -> None:
    failed, running = (Unit(block) for block in blocks(SHOWN))
    assert (failed.name, failed.state, failed.failure, failed.main_pid) == (
        "demo-fail.service",
        "failed (failed)",
        "exit code 3",
        None,
    )
    assert (failed.enabled, failed.memory_bytes, failed.restarts) == (True, None, 0)
    assert (failed["Description"], failed.since) == ("Key = value, and more", "2026-11-22T19:20:01Z")
    assert (running.main_pid, running.memory_bytes, running.since) == (39, 2043904, "2026-11-22T19:19:53Z")
    assert (running.restarts, running.enabled, running.failure) == (None, None, None)
    assert blocks("") == blocks("\n\n") == []


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Sun 2026-11-22 19:19:53 UTC", "2026-11-22T19:19:53Z"),
        ("Sun 2026-11-22 19:19:53.123456 UTC", "2026-11-22T19:19:53Z"),
        ("@1795375193", "2026-11-22T19:19:53Z"),
        ("", None),
        ("n/a", None),
        ("Sun 2026-11-22 19:19:53 CET", None),
        ("@99999999999999999999", None),
    ],
)
def test_a_point_in_time_is_read_in_utc_or_not_at_all(text: str, wanted: str | None) -> None:
    assert moment(text) == wanted


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2d 4h 15min 47.260192s", 2 * 86400 + 4 * 3600 + 15 * 60 + 47.260192),
        ("1w 500ms", 604_800.5),
        ("1month 1y", 2_629_800 + 31_557_600),
        ("0", None),
        ("infinity", None),
        ("", None),
        ("5 parsecs", None),
    ],
)
def test_a_time_span_is_read_in_seconds(text: str, seconds: float | None) -> None:
    assert span(text) == (None if seconds is None else pytest.approx(seconds))


def test_a_timers_next_run_is_a_time_of_the_calendar_or_counts_from_the_boot() -> None:
    calendar = unit(NextElapseUSecRealtime="Mon 2026-11-23 03:30:00 UTC", NextElapseUSecMonotonic="0")
    assert calendar.next_run(1.0, 1.0) == "2026-11-23T03:30:00Z"
    since_boot = unit(NextElapseUSecRealtime="", NextElapseUSecMonotonic="2h")
    assert since_boot.next_run(1_795_375_193, 3600) == "2026-11-22T20:19:53Z"
    assert since_boot.next_run(None, None) is None
    assert unit(NextElapseUSecMonotonic="infinity").next_run(1.0, 1.0) is None


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("nginx", "nginx.service"),
        ("nginx.service", "nginx.service"),
        ("backup.timer", "backup.timer"),
        ("getty@tty1", "getty@tty1.service"),
        ("php8.2-fpm", "php8.2-fpm.service"),
        ("service", "service.service"),
        ("dev-disk-by\\x2duuid-1.swap", "dev-disk-by\\x2duuid-1.swap"),
    ],
)
def test_a_name_without_a_type_is_a_services(name: str, wanted: str) -> None:
    assert unit_name(name) == wanted


@pytest.mark.parametrize("name", ["", " ", "a b", "a;id", "$(id)", "a/b", "a\nb", "*", "ü", "x" * 256])
def test_what_no_unit_can_be_called_is_refused(name: str) -> None:
    with pytest.raises(BadArgument, match="no name of a service"):
        unit_name(name)


def test_only_a_template_has_a_pattern_of_instances() -> None:
    assert template_glob("getty@.service") == "getty@*.service"
    assert template_glob("getty@tty1.service") == template_glob("nginx.service") == ""


@pytest.mark.parametrize(
    ("properties", "exists"),
    [
        ({"LoadState": "not-found", "ActiveState": "inactive"}, False),
        ({"LoadState": "not-found", "ActiveState": "active"}, True),
        ({"LoadState": "loaded", "ActiveState": "inactive"}, True),
        ({"LoadState": "masked", "ActiveState": "inactive"}, True),
    ],
)
def test_a_unit_that_does_not_exist_is_told_apart_from_an_inactive_one(
    properties: dict[str, str], exists: bool
) -> None:
    assert unit(**properties).exists is exists


@pytest.mark.parametrize(
    ("properties", "wanted"),
    [
        ({"Result": "success", "ExecMainCode": "1", "ExecMainStatus": "0"}, None),
        ({"Result": "exit-code", "ExecMainCode": "1", "ExecMainStatus": "203"}, "exit code 203"),
        ({"Result": "signal", "ExecMainCode": "2", "ExecMainStatus": "9"}, "signal 9"),
        ({"Result": "core-dump", "ExecMainCode": "3", "ExecMainStatus": "11"}, "core dump, signal 11"),
        ({"Result": "oom-kill", "ExecMainCode": "2", "ExecMainStatus": "9"}, "oom-kill"),
        ({"Result": "timeout"}, "timeout"),
        ({"Result": "success", "LoadState": "bad-setting", "LoadError": "no ExecStart"}, "no ExecStart"),
    ],
)
def test_a_failure_is_named(properties: dict[str, str], wanted: str | None) -> None:
    assert unit(**properties).failure == wanted


@pytest.mark.parametrize("value", ["[not set]", "", "18446744073709551615", "-1", "x"])
def test_memory_that_is_not_accounted_for_is_unknown_and_not_zero(value: str) -> None:
    assert unit(MemoryCurrent=value).memory_bytes is None


def test_what_a_host_prints_cannot_hold_escapes() -> None:
    assert unit(Description="a\x1b[31mb\u202e")["Description"] == "ab"


BEFORE = {"ActiveState": "active", "SubState": "running", "MainPID": "5"}
FAILED = {"Result": "exit-code", "ExecMainCode": "1", "ExecMainStatus": "3"}


@pytest.mark.parametrize(
    ("after", "success", "words"),
    [
        ({**BEFORE, "MainPID": "6"}, True, "active (running)"),
        ({**BEFORE, "MainPID": "6", "NRestarts": "1"}, True, "not at its first start"),
        ({**BEFORE, "MainPID": "6", "NRestarts": "3"}, False, "again and again"),
        ({"ActiveState": "activating", "SubState": "auto-restart", **FAILED}, False, "again and again (exit code 3)"),
        (BEFORE, False, "same process"),
        ({**BEFORE, "Job": "77"}, False, "still active (running) after 30 s"),
        ({"ActiveState": "activating", "SubState": "start"}, False, "still activating (start) after 30 s"),
        ({"ActiveState": "failed", "SubState": "failed", **FAILED}, False, "failed (failed), exit code 3"),
        ({"ActiveState": "inactive", "SubState": "dead"}, False, "ended right after its start"),
        ({"ActiveState": "inactive", "SubState": "dead", "Type": "oneshot"}, True, "to its end"),
        ({"ActiveState": "inactive", "SubState": "dead", "Type": "oneshot", **FAILED}, False, "exit code 3"),
        ({}, False, "not known"),
    ],
)
def test_the_verdict_on_a_restart(after: dict[str, str], success: bool, words: str) -> None:
    worked, said = verdict(unit(**BEFORE), unit(**after), 30)
    assert worked is success and words in said


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["ssh.service", "sshd.service"], "logins"),
        (["ssh@1.service"], "logins"),
        (["NetworkManager.service"], "network"),
        (["wg-quick@wg0.service"], "network"),
        (["nginx.service"], None),
        (["sshguard.service"], None),
        (["network-online.target"], None),
    ],
)
def test_what_carries_our_connection_is_known(names: list[str], words: str | None) -> None:
    said = carrier(names)
    assert said is None if words is None else said and words in said


def test_a_list_is_filtered_by_every_name_and_every_kind_of_state() -> None:
    ssh = unit(Id="ssh.service", Names="sshd.service ssh.service", ActiveState="active", SubState="running")
    patterns = ["ssh", "ssh*", "sshd.service", "*.service", "ss?", None]
    assert all(has_name(ssh, pattern) for pattern in patterns)
    assert not any(has_name(ssh, pattern) for pattern in ("sh", "SSH", "*.timer", ""))
    assert all(has_state(ssh, state) for state in ("active", "running", "loaded", "all", None))
    assert not any(has_state(ssh, state) for state in ("inactive", "failed"))
    assert not has_state(unit(ActiveState="inactive"), None)


def test_failed_units_come_first_and_inactive_ones_last() -> None:
    states = [
        ("inactive", "dead"),
        ("active", "exited"),
        ("active", "running"),
        ("", ""),
        ("activating", "start"),
        ("failed", "failed"),
    ]
    units = [unit(Id=f"{sub}.service", ActiveState=active, SubState=sub) for active, sub in states]
    assert [one.name.removesuffix(".service") for one in sorted(units, key=rank)] == [
        "failed", "start", "", "running", "exited", "dead",
    ]  # fmt: skip


NAMES = [
    "nginx.service",
    "postgresql@14-main.service",
    "postgresql.service",
    "apache2.service",
    "ssh.service",
    "mysqld.service",
]


@pytest.mark.parametrize(
    ("wanted", "first"),
    [
        ("ngnix.service", "nginx.service"),
        ("postgres.service", "postgresql@14-main.service"),
        ("apache.service", "apache2.service"),
        ("mysql.service", "mysqld.service"),
        ("zzz.service", None),
    ],
)
def test_near_names_are_found(wanted: str, first: str | None) -> None:
    assert next(iter(near(wanted, NAMES)), None) == first


def test_near_names_are_few() -> None:
    many: list[Any] = [f"web-{number}.service" for number in range(100)]
    assert len(near("web.service", many)) == 5
