"""Approved acts on real servers: run once, exactly as approved, on one server, on many and in a shell session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fleets import TestFleet, fleet_on, nothing
from support.sshd import KeyPair, Sshd

from fleetshell_tools.core.config import Config, Security
from fleetshell_tools.core.errors import Blocked
from fleetshell_tools.core.servers import write
from fleetshell_tools.core.types import Act, Cancellation, HostResult

DROP = "mysql -e 'DROP DATABASE shop'"
"""Blocked, and approvable here; it harms nothing, because there is no such program."""


@pytest.fixture
def fleet(short_tmp: Path, relay_key: KeyPair, sshd: Sshd) -> Iterator[TestFleet]:
    config = Config(security=Security(guard={"database": "approvable"}))
    with fleet_on(short_tmp, relay_key, config) as made:
        for name in ("web-1", "web-2"):
            made.add(name, sshd)
        yield made


def blocked(fleet: TestFleet, *servers: str, act: Act, approval_id: str | None = None) -> str:
    """Have an act blocked; returns the id under which the operator was asked, or the sentence where that was not done."""
    with pytest.raises(Blocked) as refused:
        run(fleet, *servers, act=act, approval_id=approval_id)
    waiting = [entry["id"] for entry in fleet.approvals.listed() if entry["id"] in refused.value.message]
    return waiting[-1] if waiting else refused.value.message


def run(fleet: TestFleet, *servers: str, act: Act, approval_id: str | None = None) -> list[HostResult]:
    if len(servers) == 1:
        done = fleet.fleet.run(
            fleet.caller, fleet.inventory.get(servers[0]), act, timeout=20, cancelled=Cancellation(), progress=nothing,
            approval_id=approval_id,
        )  # fmt: skip
        return [HostResult(servers[0], done)]
    return fleet.fleet.run_many(
        fleet.caller, [fleet.inventory.get(name) for name in servers], act, timeout=20, max_parallel=8, stop_on_failure=False,
        cancelled=Cancellation(), progress=nothing, approval_id=approval_id,
    )  # fmt: skip


def events(fleet: TestFleet) -> list[tuple[str, str, str]]:
    return [
        (record["event"], record["verdict"], record.get("approval", ""))
        for record in fleet.records()
        if record["command"]
    ]


@pytest.mark.parametrize("servers", [("web-1",), ("web-1", "web-2")])
def test_an_approved_act_runs_once_on_every_server_and_each_record_says_so(
    fleet: TestFleet, tmp_path: Path, servers: tuple[str, ...]
) -> None:
    log = tmp_path / "ran"
    act = Act(f"echo ran >> {log}; {DROP}")
    asked = blocked(fleet, *servers, act=act)
    assert not log.exists()
    fleet.approvals.approve(asked)
    results = run(fleet, *servers, act=act, approval_id=asked)
    assert [result.completed.exit_code if result.completed else None for result in results] == [127] * len(servers)
    again = blocked(fleet, *servers, act=act, approval_id=asked)
    assert log.read_text() == "ran\n" * len(servers) and again != asked
    assert [item for item in events(fleet) if item[0] == "started"] == [
        ("started", "approved:database:drop", asked)
    ] * len(servers)
    assert {item[1:] for item in events(fleet) if item[0] == "finished"} == {("approved:database:drop", asked)}


@pytest.mark.parametrize(
    "other",
    [
        Act(f"{DROP} "),
        Act(DROP, stdin=b"x"),
        Act(DROP, environment={"A": "1"}),
        Act(DROP, working_directory="/tmp"),
        Act("true"),
    ],
)
def test_another_act_is_refused_under_the_approval_and_nothing_runs(fleet: TestFleet, other: Act) -> None:
    asked = blocked(fleet, "web-1", act=Act(DROP))
    fleet.approvals.approve(asked)
    assert blocked(fleet, "web-1", act=other, approval_id=asked) != asked
    assert {event for event, _, _ in events(fleet)} == {"blocked"}
    assert run(fleet, "web-1", act=Act(DROP), approval_id=asked)


def test_an_approval_for_one_server_is_none_for_another_or_for_several(fleet: TestFleet) -> None:
    asked = blocked(fleet, "web-1", act=Act(DROP))
    fleet.approvals.approve(asked)
    assert blocked(fleet, "web-2", act=Act(DROP), approval_id=asked) != asked
    assert blocked(fleet, "web-1", "web-2", act=Act(DROP), approval_id=asked) != asked


def test_an_id_that_leads_elsewhere_after_the_approval_is_refused(fleet: TestFleet, sshd: Sshd) -> None:
    asked = blocked(fleet, "web-1", act=Act(DROP))
    fleet.approvals.approve(asked)
    data: dict[str, Any] = {"id": "web-1", "hostname": "localhost", "ssh_port": sshd.port, "ssh_user": sshd.user}
    write(fleet.inventory.path("web-1"), data)
    assert blocked(fleet, "web-1", act=Act(DROP), approval_id=asked) != asked


def test_a_class_that_is_never_let_through_asks_nobody_whatever_id_is_given(fleet: TestFleet) -> None:
    asked = blocked(fleet, "web-1", act=Act(DROP))
    fleet.approvals.approve(asked)
    for given in (None, asked):
        assert "approve apr_" not in blocked(fleet, "web-1", act=Act("rm -rf /"), approval_id=given)
    assert len(fleet.approvals.listed()) == 1


def test_a_shell_session_runs_an_approved_command_once(fleet: TestFleet) -> None:
    shells = fleet.fleet.shells
    session = shells.create(fleet.caller, fleet.inventory.get("web-1"), timeout=20, cancelled=Cancellation()).session_id

    def execute(command: str, approval_id: str | None = None) -> int | None:
        return shells.execute(
            fleet.caller,
            session,
            command,
            timeout=20,
            cancelled=Cancellation(),
            progress=nothing,
            approval_id=approval_id,
        ).exit_code

    with pytest.raises(Blocked):
        execute(DROP)
    (entry,) = fleet.approvals.listed()
    assert (entry["shell_session"], entry["command"], entry["typed"]) == (session, DROP, False)
    fleet.approvals.approve(entry["id"])
    for between in ("cd /", "alias now=later"):  # what the session knows is a part of the act
        assert execute(between) == 0
        with pytest.raises(Blocked, match="not one for this call"):
            execute(DROP, entry["id"])
    with pytest.raises(Blocked):
        execute(DROP)
    newest = fleet.approvals.listed()[-1]["id"]
    fleet.approvals.approve(newest)
    assert execute(DROP, newest) == 127
    with pytest.raises(Blocked):
        execute(DROP, newest)
    shells.close(fleet.caller, session)
    (ran,) = [
        record for record in fleet.records() if record["event"] == "session_command" and record["command"] == DROP
    ]
    assert (ran["verdict"], ran["approval"]) == ("approved:database:drop", newest)


def test_what_is_typed_into_a_program_needs_an_approval_of_its_own_and_is_not_logged(fleet: TestFleet) -> None:
    shells, more = fleet.fleet.shells, {"timeout": 0.5, "cancelled": Cancellation(), "progress": nothing}
    session = shells.create(fleet.caller, fleet.inventory.get("web-1"), timeout=20, cancelled=Cancellation()).session_id
    assert shells.execute(fleet.caller, session, "cat", **more).running  # type: ignore[arg-type]
    with pytest.raises(Blocked):
        shells.answer(fleet.caller, session, DROP, **more)  # type: ignore[arg-type]
    (entry,) = fleet.approvals.listed()
    assert entry["typed"] and entry["command"] == DROP
    fleet.approvals.approve(entry["id"])
    said = shells.answer(fleet.caller, session, DROP, **more, approval_id=entry["id"])  # type: ignore[arg-type]
    assert DROP in (said.output.head + said.output.tail).decode()
    with pytest.raises(Blocked):
        shells.answer(fleet.caller, session, DROP, **more, approval_id=entry["id"])  # type: ignore[arg-type]
    shells.close(fleet.caller, session)
    assert "DROP DATABASE" not in str(fleet.records())
