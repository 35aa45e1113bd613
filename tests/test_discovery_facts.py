"""What was learned of hosts, in the lists and in a server's context: systems, when they answered, and filters on both."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
from jsonschema import Draft202012Validator
from support.fleets import TestFleet, fleet_on
from support.sshd import KeyPair, Sshd

from fleetshell_tools import discovery, system
from fleetshell_tools.core.config import Config
from fleetshell_tools.core.context import Context
from fleetshell_tools.core.errors import FleetShellError
from fleetshell_tools.core.notes import NoteStore
from fleetshell_tools.core.tool import Output, Tool
from fleetshell_tools.core.types import Auth

NOW = int(time.time())


def facts(os_id: str, os_version: str = "", os_name: str = "", kernel: str = "Linux", **more: str) -> dict[str, str]:
    return {"os_id": os_id, "os_version": os_version, "os_name": os_name, "kernel": kernel, **more}


LEARNED: dict[str, dict[str, Any]] = {
    "deb-1": {"seen": NOW - 60, "facts": facts("debian", "12", "Debian GNU/Linux 12 (bookworm)", systemd="1", sudo_state="none")},
    "deb-2": {"seen": NOW - 7200, "facts": facts("debian", "13", "Debian GNU/Linux 13 (trixie)")},
    "rhel-1": {"seen": NOW - 3000, "facts": facts("rhel", "9.4", "Red Hat Enterprise Linux 9.4 (Plow)")},
    "bsd-1": {"seen": NOW - 7200, "facts": facts("", "", "", "FreeBSD")},
    "raw-1": {"seen": NOW - 10, "facts": None},
}  # fmt: skip
"""Server to what its file in `run/facts` says; `new-1` has none."""


@dataclass
class Place:
    fleet: TestFleet
    ctx: Context

    def call(self, tool: Tool, **arguments: Any) -> Output:
        output = tool.function(self.ctx, **tool.arguments(arguments))
        structured = json.loads(json.dumps(output.structured(), allow_nan=False))
        Draft202012Validator(tool.definition()["outputSchema"]).validate(structured)
        return output

    def entries(self, tool: Tool = discovery.list_servers, **arguments: Any) -> dict[str, dict[str, Any]]:
        return {entry["id"]: entry for entry in self.call(tool, **arguments).structured()["servers"]}

    def learned(self, server_id: str, text: str) -> Path:
        path = self.fleet.home.run / "facts" / f"{server_id}.json"
        path.write_text(text)
        path.chmod(0o600)
        return path


@pytest.fixture
def place(tmp_path: Path, relay_key: KeyPair) -> Iterator[Place]:
    """A fleet that was started anew: what it knows, it has from the files of the one before."""
    with fleet_on(tmp_path, relay_key) as fleet:
        ctx = Context(
            fleet.caller, "s", Config(), fleet.inventory, fleet.fleet, cast(Auth, None),
            notes=NoteStore(fleet.home.notes),
        )  # fmt: skip
        made = Place(fleet, ctx)
        (fleet.home.run / "facts").mkdir(0o700)
        for server_id, document in LEARNED.items():
            made.learned(server_id, json.dumps(document))
        for server_id in (*LEARNED, "new-1"):
            fleet.add(server_id, hostname=f"{server_id}.example.com", tags=[server_id[:3]])
        yield made


def utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def test_each_server_comes_with_its_system_and_when_it_answered(place: Place) -> None:
    found = {key: (entry["os"], entry["last_seen"]) for key, entry in place.entries().items()}
    assert found == {
        "bsd-1": ("FreeBSD", utc(NOW - 7200)), "deb-1": ("debian 12", utc(NOW - 60)), "deb-2": ("debian 13", utc(NOW - 7200)),
        "new-1": (None, None), "raw-1": (None, utc(NOW - 10)), "rhel-1": ("rhel 9.4", utc(NOW - 3000)),
    }  # fmt: skip
    text = place.call(discovery.list_servers).text()
    assert f"- deb-1 (deb-1.example.com; deb; debian 12; seen {utc(NOW - 60)})" in text
    assert "- new-1 (new-1.example.com; new)\n" in text


@pytest.mark.parametrize("tool", [discovery.list_servers, discovery.search_servers], ids=lambda tool: tool.name)
@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ({"os": "debian"}, ["deb-1", "deb-2"]),
        ({"os": "DEBIAN 12"}, ["deb-1"]),
        ({"os": "Red Hat"}, ["rhel-1"]),
        ({"os": "bookworm"}, ["deb-1"]),
        ({"os": "freebsd"}, ["bsd-1"]),
        ({"os": "windows"}, []),
        ({"os": ".*"}, []),
        ({"os": " "}, ["bsd-1", "deb-1", "deb-2", "new-1", "raw-1", "rhel-1"]),
        ({"reachable": True}, ["deb-1", "raw-1", "rhel-1"]),
        ({"reachable": False}, ["bsd-1", "deb-2", "new-1"]),
        ({"os": "debian", "reachable": True}, ["deb-1"]),
        ({"os": "debian", "reachable": False}, ["deb-2"]),
    ],
)
def test_the_lists_are_filtered_by_what_was_learned(
    place: Place, tool: Tool, arguments: dict[str, Any], wanted: list[str]
) -> None:
    assert list(place.entries(tool, **arguments)) == wanted


def test_the_filters_hold_together_with_the_others(place: Place) -> None:
    assert list(place.entries(tag="rhe", os="linux")) == ["rhel-1"]
    assert list(place.entries(tag="rhe", os="debian")) == []
    assert list(place.entries(discovery.search_servers, query="example.com", tags=["deb"], reachable=True)) == ["deb-1"]


def test_servers_that_nothing_is_known_of_are_named_and_not_just_left_out(place: Place) -> None:
    output = place.call(discovery.list_servers, os="debian")
    notice = "Left out, because their system is not known yet (get_system_info tells): new-1, raw-1"
    assert output.structured()["notice"] == notice
    assert output.text().endswith(notice)
    assert place.call(discovery.list_servers, tag="deb", os="debian").structured()["notice"] is None


def test_a_filter_on_what_was_learned_shows_no_disabled_server(place: Place) -> None:
    place.fleet.inventory.path("bad").write_text("- x\n")
    place.fleet.inventory.path("bad").chmod(0o600)
    assert [item["id"] for item in place.call(discovery.list_servers).structured()["disabled"]] == ["bad"]
    for arguments in ({"os": "debian"}, {"reachable": False}):
        assert place.call(discovery.list_servers, **arguments).structured()["disabled"] == []


def test_the_files_are_read_once(place: Place) -> None:
    before = place.entries()
    for path in (place.fleet.home.run / "facts").iterdir():
        path.unlink()
    assert place.entries() == before


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"seen": "x", "facts": null}', '{"facts": {}}', '{"seen": 1}']
)
def test_a_damaged_file_is_as_if_nothing_was_known(place: Place, text: str) -> None:
    place.learned("new-1", text)
    assert place.entries()["new-1"]["os"] is None


def test_a_file_that_others_can_change_is_not_believed(place: Place) -> None:
    place.learned("deb-1", json.dumps(LEARNED["deb-2"])).chmod(0o666)
    assert place.entries()["deb-1"]["os"] is None


def test_the_context_has_what_helps_to_choose_commands(place: Place) -> None:
    learned = place.call(discovery.get_server_context, server_id="deb-1").structured()["learned"]
    assert learned == {
        "last_seen": utc(NOW - 60), "os_id": "debian", "os_version": "12", "os_name": "Debian GNU/Linux 12 (bookworm)",
        "kernel": "Linux", "sudo_state": "none", "systemd": True, "journal": False,
    }  # fmt: skip
    for server_id, seen in (("raw-1", utc(NOW - 10)), ("new-1", None)):
        learned = place.call(discovery.get_server_context, server_id=server_id).structured()["learned"]
        assert learned == {"last_seen": seen}


def test_a_host_that_lies_about_its_system_stays_one_short_line(place: Place) -> None:
    lie = facts("a\nb\x1b[31m", "c" * 200, "- evil (x)\n" * 30)
    place.learned("new-1", json.dumps({"seen": NOW, "facts": lie}))
    entry = place.entries()["new-1"]
    assert entry["os"].startswith("a b ccc") and len(entry["os"]) == 40
    learned = place.call(discovery.get_server_context, server_id="new-1").structured()["learned"]
    assert all(len(value) <= 200 and "\n" not in value for value in learned.values() if isinstance(value, str))


def test_a_host_is_known_once_a_tool_has_looked_at_it(place: Place, sshd: Sshd) -> None:
    place.fleet.add("web", sshd)
    assert "web" in place.entries(reachable=False)
    system.get_system_info.function(place.ctx, server_id="web")
    entry = place.entries(reachable=True)["web"]
    assert entry["connection"] == "connected" and entry["last_seen"] >= utc(NOW)
    learned = place.call(discovery.get_server_context, server_id="web").structured()["learned"]
    assert (learned["kernel"], learned["machine"]) == (os.uname().sysname, os.uname().machine)
    assert "web" in place.entries(os=entry["os"])


def test_a_host_that_has_failed_since_is_not_reachable(place: Place, sshd_factory: Any) -> None:
    server = sshd_factory()
    place.fleet.add("web", server)
    place.fleet.out("web", "true")
    assert "web" in place.entries(reachable=True)
    server.kill()
    for _ in range(2):  # the first finds the connection lost, the second that there is no other
        with pytest.raises(FleetShellError):
            place.fleet.out("web", "true", timeout=5)
    assert place.entries()["web"]["connection"] == "failed"
    assert "web" in place.entries(reachable=False) and "web" not in place.entries(reachable=True)


def test_a_list_of_very_many_servers_keeps_within_the_budget(place: Place) -> None:
    for number in range(300):
        place.fleet.add(f"s-{number:03d}", hostname="h", context={"purpose": "x" * 5000}, tags=["many"])
    config = Config()
    for budget in (4_096, config.security.max_output_bytes):
        place.ctx = replace(
            place.ctx, config=replace(config, security=replace(config.security, max_output_bytes=budget))
        )
        output = place.call(discovery.list_servers, tag="many", os="")
        assert output.structured()["count"] == 300
        assert max(len(output.text().encode()), len(json.dumps(output.structured()).encode())) <= budget
        shown = len(output.structured()["servers"])
        assert f"s-[{shown:03d}-299]" in output.structured()["notice"]
