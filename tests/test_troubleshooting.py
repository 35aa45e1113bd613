"""`run_troubleshooting` on a real server: the operator's commands by name, with all that a command has."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from jsonschema import Draft202012Validator
from support.fleets import TestFleet, fleet_on
from support.sshd import KeyPair, Sshd

from fleetshell_tools import commands, discovery, jobs
from fleetshell_tools.core.config import Config
from fleetshell_tools.core.context import Context
from fleetshell_tools.core.errors import BadArgument, Blocked, FleetShellError, NotFound, TimedOut
from fleetshell_tools.core.jobs import Jobs
from fleetshell_tools.core.notes import NoteStore
from fleetshell_tools.core.tool import Output, Tool
from fleetshell_tools.core.types import Auth, Caller, Principal

CHECKS: dict[str, Any] = {
    "who": 'echo "I\'m $(id -un)"; echo more >&2; exit 3',
    "two lines": "x=1\necho $x",
    "mapped": {"command": "echo mapped", "description": "With words"},
    "wipe": "rm -rf /",
    "slow": "exec sleep 300",
    "number": 5,
    "list": ["echo", "a"],
    "words": {"description": "no command"},
    "empty": " ",
}


@dataclass
class Client:
    """A client whose patience ends when the test says so."""

    answers: list[Output] = field(default_factory=list)
    callback: Callable[[], None] | None = None

    def when_impatient(self, callback: Callable[[], None]) -> Callable[[], None]:
        self.callback = callback
        return lambda: None

    def answer(self, output: Output) -> bool:
        self.answers.append(output)
        return True


@dataclass
class Place:
    fleet: TestFleet
    jobs: Jobs

    def context(self, tool: Tool, **more: Any) -> Context:
        return Context(
            Caller(Principal("testkey"), tool=tool.name), "s", Config(), self.fleet.inventory, self.fleet.fleet,
            cast(Auth, None), jobs=self.jobs, notes=NoteStore(self.fleet.home.notes), **more,
        )  # fmt: skip

    def run(self, name: str, **more: Any) -> Output:
        return self.call(commands.run_troubleshooting, server_id="web", name=name, **more)

    def call(self, tool: Tool, **arguments: Any) -> Output:
        output = tool.function(self.context(tool), **tool.arguments(arguments))
        conforms(tool, output)
        return output


def conforms(tool: Tool, output: Output) -> None:
    structured = json.loads(json.dumps(output.structured(), allow_nan=False))
    Draft202012Validator(tool.definition()["outputSchema"]).validate(structured)


@pytest.fixture
def place(tmp_path: Path, relay_key: KeyPair, sshd: Sshd) -> Iterator[Place]:
    with fleet_on(tmp_path, relay_key) as fleet:
        fleet.add("web", sshd, troubleshooting=CHECKS)
        fleet.add("bare", sshd)
        fleet.add("inner", sshd, context={"troubleshooting": {"inside": "echo inside"}})
        made = Place(fleet, Jobs(lambda: Config().jobs, fleet.audit.record))
        yield made
        made.jobs.close()


def test_a_check_is_run_by_its_name_and_its_outcome_is_a_result(place: Place, sshd: Sshd) -> None:
    output = place.run("who")
    found = output.structured()
    assert (found["name"], found["command"], found["server_id"]) == ("who", CHECKS["who"], "web")
    assert (found["stdout"], found["stderr"]) == (f"I'm {sshd.user}\n", "more\n")
    assert (found["exit_code"], found["success"], found["running"]) == (3, False, False)
    assert output.text().splitlines()[0] == f"who on web: exit code 3 ({found['duration_ms']} ms)"


@pytest.mark.parametrize(
    ("server_id", "name", "out"),
    [("web", "two lines", "1\n"), ("web", "mapped", "mapped\n"), ("inner", "inside", "inside\n")],
)
def test_every_way_to_write_a_check_works(place: Place, server_id: str, name: str, out: str) -> None:
    found = place.call(commands.run_troubleshooting, server_id=server_id, name=name).structured()
    assert (found["stdout"], found["success"]) == (out, True)


def test_the_context_names_the_checks_that_can_be_run(place: Place) -> None:
    found = place.call(discovery.get_server_context, server_id="web").structured()
    assert found["checks"] == ["who", "two lines", "mapped", "wipe", "slow"]
    assert found["troubleshooting"]["who"] == CHECKS["who"]
    assert place.call(discovery.get_server_context, server_id="bare").structured()["checks"] == []


@pytest.mark.parametrize(
    ("server_id", "name", "says"),
    [
        ("web", "whoo", 'web has no check "whoo". Did you mean "who"? Its checks: who, two lines, mapped, wipe, slow.'),
        ("web", "who; id", "has no check"),
        ("web", "number", "`troubleshooting.number` of web is no command"),
        ("web", "list", "is no command"),
        ("web", "words", "is no command"),
        ("web", "empty", "is no command"),
        ("bare", "who", "bare has no named checks. The operator adds them under `troubleshooting`"),
        ("wed", "who", 'Did you mean "web"'),
    ],
)
def test_what_is_no_check_is_refused_with_what_there_is(place: Place, server_id: str, name: str, says: str) -> None:
    with pytest.raises(NotFound) as refused:
        place.call(commands.run_troubleshooting, server_id=server_id, name=name)
    assert says in refused.value.message
    assert not (place.fleet.home.logs / "audit.log").exists()


def test_a_check_goes_by_the_guard_and_the_audit_log_like_any_command(place: Place) -> None:
    with pytest.raises(Blocked):
        place.run("wipe")
    with pytest.raises(Blocked, match="An approval can't let this through"):
        place.run("wipe", approval_id="appr_1")
    place.run("who")
    records = place.fleet.records()
    records = [record for record in records if record["event"] != "host_key_pinned"]
    assert [record["event"] for record in records] == ["blocked", "blocked", "started", "finished"]
    assert {record["tool"] for record in records} == {"run_troubleshooting"}
    assert [record["command"] for record in records if record["event"] == "started"] == [CHECKS["who"]]


def test_a_check_that_does_not_end_is_ended(place: Place) -> None:
    with pytest.raises(TimedOut, match="did not end within 1 s"):
        place.run("slow", timeout=1)
    with pytest.raises(BadArgument, match="allows at most"):
        place.run("slow", timeout=604_800)


def test_a_check_that_takes_long_goes_on_as_a_job(place: Place, tmp_path: Path) -> None:
    pipe = tmp_path / "go"
    os.mkfifo(pipe)
    place.fleet.add("long", **_reached(place, "web"), troubleshooting={"wait": f"echo begun; cat {pipe}"})
    client, printed = Client(), threading.Event()
    tool = commands.run_troubleshooting
    context = place.context(tool, reply=client, progress=lambda *_: printed.set())
    ended: list[Output | FleetShellError] = []

    def run() -> None:
        try:
            ended.append(tool.function(context, server_id="long", name="wait"))
        except FleetShellError as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert printed.wait(30) and client.callback
        client.callback()
        (early,) = client.answers
        conforms(tool, early)
        found = early.structured()
        assert (found["name"], found["stdout"], found["running"], found["success"]) == ("wait", "begun\n", True, None)
        assert early.text().startswith(f"wait on long: still running as {found['job_id']}")
    finally:
        pipe.write_text("gone\n")
        thread.join()
    job = place.call(jobs.get_job, job_id=found["job_id"]).structured()
    assert job["running"] is False and "begun\ngone\n" in json.dumps(job).replace("\\n", "\n")


def _reached(place: Place, server_id: str) -> dict[str, Any]:
    server = place.fleet.inventory.get(server_id)
    return {"hostname": server.hostname, "ssh_port": server.ssh_port, "ssh_user": server.ssh_user}
