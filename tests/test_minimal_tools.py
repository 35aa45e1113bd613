"""Every tool that looks at a host, on one that has nothing but dropbear and busybox."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from support.fleets import TestFleet, fleet_on
from support.minimal import MinimalHost
from support.script_hosts import call
from support.sshd import KeyPair

from fleetshell_tools import file_writing, files, log_analysis, logs, services, system
from fleetshell_tools.core.config import Config
from fleetshell_tools.core.context import Context
from fleetshell_tools.core.errors import FleetShellError
from fleetshell_tools.core.tool import Tool
from fleetshell_tools.core.types import Auth, Caller, Principal

LOG = "".join(
    f"2026-03-14T10:{n // 60:02}:{n % 60:02}Z web app[7]: {'error' if n % 5 == 0 else 'info'}: item {n}\n"
    for n in range(300)
)


@pytest.fixture
def host(relay_key: KeyPair, short_tmp: Path) -> Iterator[MinimalHost]:
    made = MinimalHost(short_tmp, relay_key)
    (made.root / "var/log/app.log").write_text(LOG)
    yield made
    made.stop()


@pytest.fixture
def fleet(tmp_path: Path, relay_key: KeyPair, host: MinimalHost) -> Iterator[TestFleet]:
    with fleet_on(tmp_path, relay_key) as made:
        made.add("web", hostname=host.address, ssh_port=host.port, ssh_user=host.user)
        yield made


def asked(fleet: TestFleet, tool: Tool, **arguments: Any) -> dict[str, Any]:
    caller = Caller(Principal("testkey"), tool=tool.name)
    return call(Context(caller, "s", Config(), fleet.inventory, fleet.fleet, cast(Auth, None)), tool, **arguments)


def test_the_system_its_disks_and_its_processes_are_told(fleet: TestFleet) -> None:
    for _ in range(2):  # the second program finds the facts of the first
        info = asked(fleet, system.get_system_info)
        assert info["memory"]["total_bytes"] > 1 << 20 and info["uptime_seconds"] > 0
    assert asked(fleet, system.get_disk_usage, path="/var")["largest"]
    processes = asked(fleet, system.get_process_list)
    assert any("dropbear" in process["command"] for process in processes["processes"])


def test_logs_are_searched_followed_and_analysed(fleet: TestFleet) -> None:
    found = asked(fleet, logs.search_logs, log_path="/var/log/app.log", pattern="error: item 2[0-9]+$")
    assert found["count"] == 22 and found["matches"][-1]["line"].endswith("item 295")
    tail = asked(fleet, logs.tail_logs, log_path="/var/log/app.log", lines=2)
    assert [line[-3:] for line in tail["lines"]] == ["298", "299"], tail
    assert asked(fleet, logs.tail_logs, log_path="/var/log/app.log", cursor=tail["cursor"])["lines"] == []
    groups = asked(fleet, log_analysis.analyze_logs, log_path="/var/log/app.log")
    assert groups["totals"] == {"error": 60, "info": 240}


def test_files_are_read_found_and_written(fleet: TestFleet, host: MinimalHost) -> None:
    written = asked(fleet, file_writing.write_file, path="/tmp/it's a $note", content="one\ntwo\n")
    assert written["created"] and (host.root / "tmp/it's a $note").read_text() == "one\ntwo\n"
    assert asked(fleet, files.read_file, path="/tmp/it's a $note", offset=2)["content"] == "two\n"
    found = asked(fleet, files.search_files, path="/tmp", pattern="*note", content="^two")
    assert [match["path"] for match in found["matches"]] == ["/tmp/it's a $note"]
    assert asked(fleet, files.get_file_info, path="/tmp/it's a $note")["size_bytes"] == 8
    assert not asked(fleet, files.get_file_info, path="/tmp/none")["exists"]


def test_without_any_service_manager_a_sentence_says_what_was_looked_for(fleet: TestFleet) -> None:
    with pytest.raises(FleetShellError, match="systemd"):
        asked(fleet, services.list_services)
