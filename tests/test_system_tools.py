"""`get_system_info`, `get_disk_usage` and `get_process_list` on real hosts: a plain sshd and a Debian with systemd."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest
from support.fleets import TestFleet, fleet_on
from support.sshd import KeyPair, Sshd
from support.systemd_host import SystemdHost

from fleetshell_tools import system
from fleetshell_tools.core.config import Config
from fleetshell_tools.core.context import Context
from fleetshell_tools.core.errors import BadArgument, NotFound
from fleetshell_tools.core.tool import Tool
from fleetshell_tools.core.types import Auth

Call = Callable[..., tuple[dict[str, Any], str]]


@pytest.fixture
def fleet(tmp_path: Path, relay_key: KeyPair, sshd: Sshd) -> Iterator[TestFleet]:
    with fleet_on(tmp_path, relay_key) as found:
        found.add("web", sshd)
        yield found


def call(fleet: TestFleet, tool: Tool, config: Config | None = None, **arguments: Any) -> tuple[dict[str, Any], str]:
    """One call: `structuredContent`, checked against its schema, and the text."""
    ctx = Context(fleet.caller, "s", config or Config(), fleet.inventory, fleet.fleet, cast(Auth, None))
    output = tool.function(ctx, **tool.arguments({"server_id": "web", **arguments}))
    structured = json.loads(json.dumps(output.structured()))
    jsonschema.validate(structured, tool.definition()["outputSchema"])
    return structured, output.text()


def tokens(answer: tuple[dict[str, Any], str]) -> int:
    """What a model pays for the larger of the two forms."""
    return max(len(json.dumps(answer[0]).encode()), len(answer[1].encode())) // 4


def test_a_plain_host_tells_what_it_is(fleet: TestFleet) -> None:
    info, text = call(fleet, system.get_system_info)
    assert info["hostname"] == os.uname().nodename and info["architecture"] == os.uname().machine
    assert text.splitlines()[0] == f"web: {info['os']['name']}, up {system.duration(info['uptime_seconds'])}"
    for name in info["unknown"]:
        assert f"unknown: {name} (" in text
    assert tokens((info, text)) < 1500


def test_each_tool_is_one_round_trip_and_one_record(fleet: TestFleet) -> None:
    call(fleet, system.get_system_info)
    call(fleet, system.get_disk_usage, path="/etc")
    call(fleet, system.get_process_list, filter="a b")
    started = [record["command"] for record in fleet.records() if record["event"] == "started"]
    assert started == ["get_system_info", "get_disk_usage /etc", "get_process_list cpu 15 'a b'"]


def test_file_systems_of_a_plain_host(fleet: TestFleet) -> None:
    usage, text = call(fleet, system.get_disk_usage)
    assert "/" in [row["mount"] for row in usage["filesystems"]] and usage["largest"] is None
    assert text.startswith(f"web: {len(usage['filesystems'])} file system") and "Left out:" in text
    assert tokens((usage, text)) < 1500


def test_what_is_large_below_a_path_of_any_name(fleet: TestFleet, tmp_path: Path) -> None:
    folder = tmp_path / "-a 'b' $(c)\n\u00e9"
    (folder / "logs").mkdir(parents=True)
    for name in ("x.log", "y.log"):
        (folder / "logs" / name).write_bytes(b"x" * 2_000_000)
    usage, text = call(fleet, system.get_disk_usage, path=str(folder))
    assert len(usage["filesystems"]) == 1 and usage["path"] == str(folder)
    assert [Path(item["path"]).name for item in usage["largest"]] == ["logs", "x.log", "y.log"]
    assert "largest:\n" in text


def test_a_path_must_be_absolute_and_there(fleet: TestFleet) -> None:
    with pytest.raises(BadArgument, match="an absolute path"):
        call(fleet, system.get_disk_usage, path="etc")
    with pytest.raises(NotFound, match="/no/such: No such file|/no/such can't be looked at: No such file"):
        call(fleet, system.get_disk_usage, path="/no/such")


def test_processes_of_a_plain_host(fleet: TestFleet) -> None:
    with (
        subprocess.Popen(["sleep", "600", "--token", "Gu3hoo5x"], stderr=subprocess.DEVNULL) as other,
        subprocess.Popen(["sleep", "601.25"]) as sleeper,
    ):
        try:
            found, text = call(fleet, system.get_process_list, filter="^sleep 601\\.25$", sort_by="memory")
        finally:
            sleeper.kill()
            other.kill()
    (row,) = found["processes"]
    assert (row["pid"], row["command"], found["count"], found["shown"]) == (sleeper.pid, "sleep 601.25", 1, 1)
    assert row["cpu_percent"] == 0.0 and row["rss_bytes"] > 0 and row["memory_percent"] is not None
    assert text.startswith("web: 1 process") and "sleep 601.25" in text


def test_the_default_list_is_short(fleet: TestFleet) -> None:
    found, text = call(fleet, system.get_process_list)
    assert 0 < found["shown"] <= 15 and found["shown"] == len(found["processes"]) and found["count"] >= found["shown"]
    assert tokens((found, text)) < 2000
    assert not [row for row in found["processes"] if "fs-" in row["command"] and row["command"].startswith("sh -c")]


def test_a_bad_filter_names_itself(fleet: TestFleet) -> None:
    with pytest.raises(BadArgument, match=r"`filter` is \"\(\""):
        call(fleet, system.get_process_list, filter="(")


def test_a_long_list_is_cut_to_the_budget(fleet: TestFleet) -> None:
    small = replace(Config(), security=replace(Config().security, max_output_bytes=1024))
    found, _ = call(fleet, system.get_process_list, small, limit=200)
    assert found["truncated"] and 0 < found["shown"] < found["count"] and "fit into one result" in found["notice"]


def test_the_tools_only_read() -> None:
    for tool in (system.get_system_info, system.get_disk_usage, system.get_process_list):
        hints = tool.annotations
        assert (
            hints["readOnlyHint"]
            and not hints["destructiveHint"]
            and hints["idempotentHint"]
            and hints["openWorldHint"]
        )


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3600, "1 h"),
        (3720, "1 h 2 min"),
        (90_000, "1 d 1 h"),
        (3_542_400, "41 d"),
        (None, "for an unknown time"),
    ],
)
def test_durations_for_people(seconds: int | None, shown: str) -> None:
    assert system.duration(seconds) == shown


@pytest.fixture
def booted(short_tmp: Path, relay_key: KeyPair, systemd_host: SystemdHost) -> Iterator[TestFleet]:
    with fleet_on(short_tmp, relay_key) as found:
        for user in ("root", "admin", "plain"):
            found.add(user, **systemd_host.server(user))
        yield found


@pytest.mark.parametrize("user", ["root", "plain"])
def test_a_systemd_host_tells_its_failed_units(booted: TestFleet, user: str) -> None:
    info, text = call(booted, system.get_system_info, server_id=user)
    assert info["failed_units"] == ["demo-fail.service"] and "! 1 failed unit: demo-fail.service" in text
    assert info["hostname"] == "web-1" and info["os"]["id"] == "debian"
    assert info["virtualisation"]["container"] == "systemd-nspawn"
    assert info["time"]["source"] in ("timedatectl", None)
    assert tokens((info, text)) < 1500


def test_in_a_container_its_own_processes_are_seen(booted: TestFleet) -> None:
    found, text = call(booted, system.get_process_list, server_id="plain", limit=50)
    names = {row["command"].split()[0].rpartition("/")[2].strip(":") for row in found["processes"]}
    assert {"nginx", "init"} <= names or {"nginx", "systemd"} <= names
    assert "www-data" in {row["user"] for row in found["processes"]}
    assert "container" in found["notice"] and "container" in text
    assert all(row["elapsed_seconds"] < 100_000 for row in found["processes"])


def test_with_sudo_folders_of_root_are_measured(booted: TestFleet, systemd_host: SystemdHost) -> None:
    systemd_host.run("root", "mkdir -m 700 /root/deep && head -c 3000000 /dev/zero >/root/deep/file")
    try:
        with pytest.raises(NotFound, match="Permission denied"):
            call(booted, system.get_disk_usage, server_id="admin", path="/root/deep")
        booted.add("rooted", **systemd_host.server("admin"), sudo=True)
        usage, _ = call(booted, system.get_disk_usage, server_id="rooted", path="/root/deep")
        assert [(item["path"], item["type"]) for item in usage["largest"]] == [("/root/deep/file", "file")]
        assert usage["largest"][0]["size_bytes"] >= 3_000_000
    finally:
        systemd_host.run("root", "rm -r /root/deep")
