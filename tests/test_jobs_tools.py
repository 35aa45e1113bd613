"""Long commands on real servers with a client that loses patience: hand-over, `get_job`, `cancel_job`, and output that was cut."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest
from support.fleets import TestFleet, fleet_on
from support.processes import wait_until
from support.sshd import KeyPair, Sshd

from fleetshell_tools import commands, jobs
from fleetshell_tools.core.config import Config
from fleetshell_tools.core.config import Jobs as Limits
from fleetshell_tools.core.context import Context
from fleetshell_tools.core.errors import BadArgument, Cancelled, FleetShellError, NotFound, TimedOut
from fleetshell_tools.core.jobs import Jobs
from fleetshell_tools.core.tool import Output, Tool
from fleetshell_tools.core.types import Auth, Caller, Cancellation, Captured, Principal


@dataclass
class Client:
    """A client whose patience ends when the test says so."""

    answers: list[dict[str, Any]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    callback: Callable[[], None] | None = None

    def when_impatient(self, callback: Callable[[], None]) -> Callable[[], None]:
        self.callback = callback
        return lambda: setattr(self, "callback", None)

    def answer(self, output: Output) -> bool:
        self.answers.append(output.structured())
        self.texts.append(output.text())
        return True

    def lose_patience(self) -> dict[str, Any]:
        assert self.callback is not None
        self.callback()
        return self.answers[-1]


@dataclass
class Started:
    """A call in a thread of its own: what it returns, or raises."""

    client: Client
    context: Context
    outcome: list[Output | FleetShellError] = field(default_factory=list)
    printed: threading.Event = field(default_factory=threading.Event)


class Bench:
    """The tools of one relay, over a real fleet; calls that were started are ended and joined by `close`."""

    def __init__(self, fleet: TestFleet, folder: Path, config: Config) -> None:
        self.fleet, self.config = fleet, config
        self.pipe = folder / "go"
        os.mkfifo(self.pipe)
        self.jobs = Jobs(lambda: config.jobs, fleet.audit.record)
        self._threads: list[threading.Thread] = []

    def close(self) -> None:
        self.jobs.close()
        for thread in self._threads:
            thread.join()

    def context(self, tool: Tool, key: str = "testkey", **more: Any) -> Context:
        caller = Caller(Principal(key), "test 1", "digest", tool.name)
        return Context(
            caller, "s", self.config, self.fleet.inventory, self.fleet.fleet, cast(Auth, None), jobs=self.jobs, **more
        )

    def call(self, tool: Tool, key: str = "testkey", **arguments: Any) -> dict[str, Any]:
        output = tool.function(self.context(tool, key), **tool.arguments(arguments))
        structured = output.structured()
        jsonschema.validate(structured, tool.definition()["outputSchema"])
        assert output.text()
        return structured

    def start(self, tool: Tool, **arguments: Any) -> Started:
        """Begin a call, and return once its command runs and has printed (or, on several servers, has ended on one)."""
        client, printed = Client(), threading.Event()
        context = self.context(tool, reply=client, progress=lambda *_: printed.set())
        started = Started(client, context, printed=printed)

        def run() -> None:
            try:
                started.outcome.append(tool.function(context, **tool.arguments(arguments)))
            except FleetShellError as error:
                started.outcome.append(error)

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()
        assert printed.wait(30)
        return started

    def go(self) -> None:
        """Let the command that reads from the pipe go on."""
        self.pipe.write_text("go\n")

    def jobs_records(self) -> list[dict[str, Any]]:
        return [record for record in self.fleet.records() if record["event"].startswith("job_")]


@pytest.fixture
def make_bench(tmp_path: Path, relay_key: KeyPair, sshd: Sshd) -> Iterator[Callable[..., Bench]]:
    with fleet_on(tmp_path, relay_key) as fleet:
        made: list[Bench] = []

        def make(**limits: int) -> Bench:
            for name in ("web-1", "web-2"):
                fleet.add(name, sshd)
            made.append(Bench(fleet, tmp_path, Config(jobs=Limits(**limits))))
            return made[0]

        yield make
        for bench in made:
            bench.close()


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()


def test_a_command_that_outlives_the_clients_patience_goes_on_and_is_read_to_its_end(bench: Bench) -> None:
    started = bench.start(
        commands.execute_command, server_id="web-1", command=f"echo begun; read x < '{bench.pipe}'; echo $x; exit 3"
    )
    handed = started.client.lose_patience()
    assert {name: handed[name] for name in ("stdout", "running", "exit_code", "success", "timed_out")} == {
        "stdout": "begun\n", "running": True, "exit_code": None, "success": None, "timed_out": False,
    }  # fmt: skip
    job_id = handed["job_id"]
    assert job_id in handed["notice"] and "get_job" in handed["notice"] and "offset 6" in handed["notice"]
    assert started.client.texts[0].splitlines()[0].startswith(f"web-1: still running as {job_id} (")

    now = bench.call(jobs.get_job, job_id=job_id)
    assert (now["running"], now["output"], now["next_offset"], now["truncated"]) == (True, "begun\n", 6, False)
    bench.go()
    rest = bench.call(jobs.get_job, job_id=job_id, offset=6, wait=30)
    assert (rest["output"], rest["offset"], rest["next_offset"]) == ("go\n", 6, 9)
    done = bench.call(jobs.get_job, job_id=job_id, offset=9, wait=30)
    expected = {
        "running": False, "exit_code": 3, "success": False, "signal": None, "output": "", "next_offset": 9, "total_bytes": 9,
        "server_id": "web-1", "stream": "stdout", "tool": "execute_command", "error": None, "notice": None,
    }  # fmt: skip
    assert {name: done[name] for name in expected} == expected
    begun, ended = bench.jobs_records()
    assert (begun["event"], ended["event"]) == ("job_started", "job_ended")
    assert begun["job_id"] == ended["job_id"] == job_id and ended["exit_code"] == 3 and ended["server_id"] == "web-1"


def test_a_wait_returns_when_there_is_new_output_and_when_there_is_none_in_time(bench: Bench) -> None:
    second = bench.pipe.with_name("second")
    os.mkfifo(second)
    started = bench.start(
        commands.execute_command, server_id="web-1",
        # A pipe for each: the second reader would else find the first writer still there, and its end.
        command=f"echo begun; read x < '{bench.pipe}'; echo first; read x < '{second}'",
    )  # fmt: skip
    job_id = started.client.lose_patience()["job_id"]
    nothing_new = bench.call(jobs.get_job, job_id=job_id, offset=6, wait=1)
    assert (nothing_new["output"], nothing_new["running"], nothing_new["next_offset"]) == ("", True, 6)
    answers: list[dict[str, Any]] = []
    waiter = threading.Thread(target=lambda: answers.append(bench.call(jobs.get_job, job_id=job_id, offset=6, wait=50)))
    waiter.start()
    bench.go()
    waiter.join()
    assert (answers[0]["output"], answers[0]["running"]) == ("first\n", True)
    second.write_text("go\n")


def test_a_cancelled_wait_leaves_the_job_alone(bench: Bench) -> None:
    started = bench.start(commands.execute_command, server_id="web-1", command=f"echo begun; read x < '{bench.pipe}'")
    job_id = started.client.lose_patience()["job_id"]
    cancelled = Cancellation()
    cancelled.set()
    with pytest.raises(Cancelled, match="goes on"):
        jobs.get_job.function(bench.context(jobs.get_job, cancelled=cancelled), job_id=job_id, wait=50, offset=6)
    assert bench.call(jobs.get_job, job_id=job_id)["running"]
    bench.go()


def test_cancelling_a_job_ends_its_processes_and_keeps_what_it_printed(bench: Bench, sshd: Sshd) -> None:
    started = bench.start(commands.execute_command, server_id="web-1", command="echo begun; sleep 1000")
    job_id = started.client.lose_patience()["job_id"]
    ended = bench.call(jobs.cancel_job, job_id=job_id)
    assert (ended["stopped"], ended["running"], ended["servers"][0]["stopped"]) == ("confirmed", False, "confirmed")
    assert not [process for process in sshd.remote_processes() if process.name == "sleep"]
    left = bench.call(jobs.get_job, job_id=job_id)
    assert (left["output"], left["exit_code"], left["success"]) == ("begun\n", None, False)
    assert "was cancelled" in left["error"]
    assert bench.call(jobs.cancel_job, job_id=job_id)["stopped"] == "already_ended"
    assert bench.jobs_records()[-1]["reason"] == "cancelled by cancel_job"


def test_a_job_ends_at_its_own_time_limit(bench: Bench) -> None:
    started = bench.start(commands.execute_command, server_id="web-1", command="echo begun; sleep 1000", timeout=2)
    job_id = started.client.lose_patience()["job_id"]
    done = bench.call(jobs.get_job, job_id=job_id, offset=6, wait=50)
    assert not done["running"] and done["success"] is False and "did not end within 2 s" in done["error"]
    assert isinstance(started.outcome[0], TimedOut)


def test_a_fan_out_is_handed_over_with_the_servers_that_are_done(bench: Bench) -> None:
    marker = bench.pipe.with_name("first")
    # Only the first that comes to it waits for the pipe.
    command = f"if mkdir '{marker}' 2>/dev/null; then echo slow; read x < '{bench.pipe}'; echo $x; else echo fast; fi"
    started = bench.start(commands.multi_server_execute, command=command, server_ids=["*"])
    handed = started.client.lose_patience()
    assert (handed["running"], handed["succeeded"], handed["failed"], handed["unfinished"]) == (True, 1, 0, 1)
    assert handed["success"] is None and "exit_code" not in handed
    by_state = {result["running"]: result for result in handed["results"]}
    assert (by_state[False]["stdout"], by_state[False]["exit_code"], by_state[False]["success"]) == ("fast\n", 0, True)
    assert (by_state[True]["exit_code"], by_state[True]["success"]) == (None, None)
    assert started.client.texts[0].splitlines()[0] == "1 of 2 servers succeeded, 1 still running"
    slow, job_id = by_state[True]["server_id"], handed["job_id"]

    one = bench.call(jobs.get_job, job_id=job_id, server_id=slow, wait=30)
    assert (one["output"], one["running"], one["server_id"]) == ("slow\n", True, slow)
    bench.go()
    whole = bench.call(jobs.get_job, job_id=job_id, wait=50)
    assert not whole["running"] and whole["success"] is True and whole["stream"] is None
    assert "== web-" in whole["output"] and "slow\ngo" in whole["output"] and "fast" in whole["output"]
    assert [(server["running"], server["exit_code"]) for server in whole["servers"]] == [(False, 0)] * 2
    assert bench.jobs_records()[-1]["servers"] == ["web-1", "web-2"]
    with pytest.raises(BadArgument, match="does not run on 'web-3'"):
        bench.call(jobs.get_job, job_id=job_id, server_id="web-3")


def test_cancelling_a_fan_out_ends_it_on_every_server(bench: Bench, sshd: Sshd) -> None:
    marker = bench.pipe.with_name("first")
    command = f"mkdir '{marker}' 2>/dev/null && exit; sleep 1000"
    started = bench.start(commands.multi_server_execute, command=command, server_ids=["*"])
    job_id = started.client.lose_patience()["job_id"]
    ended = bench.call(jobs.cancel_job, job_id=job_id)
    assert ended["stopped"] == "confirmed" and not ended["running"]
    assert not [process for process in sshd.remote_processes() if process.name == "sleep"]


def test_the_rest_of_a_cut_result_is_read_to_the_last_byte(bench: Bench) -> None:
    # Characters of three bytes, so that most offsets lie within one.
    done = bench.call(commands.execute_command, server_id="web-1", command="seq -f '%.0f€' 20000; echo end >&2")
    job_id, whole = done["job_id"], "".join(f"{number}€\n" for number in range(1, 20001))
    assert (
        done["truncated"] and done["exit_code"] == 0 and f'job_id "{job_id}", stream "stdout", offset' in done["notice"]
    )
    offset = int(done["notice"].partition("offset ")[2].rstrip("."))
    first = bench.call(jobs.get_job, job_id=job_id, offset=offset)
    assert whole.encode()[: first["offset"]].decode() == done["stdout"].partition("\n[… ")[0]
    read, offset = "", 0
    while offset < len(whole.encode()):
        part = bench.call(jobs.get_job, job_id=job_id, offset=offset, max_bytes=5003)
        assert part["offset"] == offset < part["next_offset"]
        read, offset = read + part["output"], part["next_offset"]
    assert read == whole and not part["truncated"]
    assert bench.call(jobs.get_job, job_id=job_id, stream="stderr")["output"] == "end\n"
    assert not bench.jobs_records()


def test_what_was_not_kept_is_said_with_both_counts_and_reading_goes_on_at_the_tail(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench(output_bytes=40_000)
    done = bench.call(commands.execute_command, server_id="web-1", command="seq 100000")
    offset, parts = 0, list[dict[str, Any]]()
    while offset < 588_895:
        parts.append(bench.call(jobs.get_job, job_id=done["job_id"], offset=offset))
        offset = parts[-1]["next_offset"]
    (gap,) = [part for part in parts if "not kept" in (part["notice"] or "")]
    assert "548,895 of 588,895 bytes were not kept" in gap["notice"] and f"byte {gap['offset']}" in gap["notice"]
    assert gap["offset"] == 588_895 - 20_000 and gap["truncated"]
    whole = "".join(f"{number}\n" for number in range(1, 100_001))
    assert "".join(part["output"] for part in parts) == whole[:20_000] + whole[-20_000:]


def test_the_output_of_a_command_that_was_ended_can_be_read_on_too(bench: Bench) -> None:
    with pytest.raises(TimedOut) as caught:
        bench.call(commands.execute_command, server_id="web-1", command="seq 20000; sleep 1000", timeout=2)
    job_id = caught.value.seen.partition('job_id "')[2].partition('"')[0]
    last = bench.call(jobs.get_job, job_id=job_id, offset=108_888)
    assert last["output"] == "20000\n" and last["success"] is False


def test_a_cut_fan_out_names_the_job_that_holds_every_servers_output(bench: Bench) -> None:
    done = bench.call(commands.multi_server_execute, command="seq 20000", server_ids=["*"])
    assert done["truncated"] and done["job_id"] in done["notice"] and not done["running"]
    part = bench.call(jobs.get_job, job_id=done["job_id"], server_id="web-2", offset=108_888)
    assert (part["output"], part["running"]) == ("20000\n", False)


def test_a_result_that_is_shown_whole_is_not_kept(bench: Bench) -> None:
    assert bench.call(commands.execute_command, server_id="web-1", command="echo x")["job_id"] is None
    assert bench.call(jobs.get_job) == {**bench.call(jobs.get_job), "jobs": [], "count": 0, "job_id": None}


def test_jobs_belong_to_their_principal(bench: Bench) -> None:
    job_id = bench.call(commands.execute_command, server_id="web-1", command="seq 20000")["job_id"]
    (listed,) = bench.call(jobs.get_job)["jobs"]
    assert (listed["job_id"], listed["command"], listed["server_ids"], listed["exit_code"]) == (
        job_id,
        "seq 20000",
        ["web-1"],
        0,
    )
    assert bench.call(jobs.get_job, key="other")["count"] == 0
    for tool in (jobs.get_job, jobs.cancel_job):
        with pytest.raises(NotFound, match="There is no job"):
            bench.call(tool, key="other", job_id=job_id)


def test_where_no_more_jobs_may_run_the_client_gets_the_result_itself(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(running=0)
    started = bench.start(commands.execute_command, server_id="web-1", command=f"echo begun; read x < '{bench.pipe}'")
    assert started.client.callback is not None
    started.client.callback()
    assert not started.client.answers
    bench.go()
    wait_until(lambda: started.outcome, 20, "the call has ended")
    assert isinstance(started.outcome[0], commands.CommandResult) and started.outcome[0].exit_code == 0


def test_what_a_model_reads_of_a_job(bench: Bench) -> None:
    started = bench.start(
        commands.execute_command, server_id="web-1", command=f"echo begun; echo no >&2; read x < '{bench.pipe}'"
    )
    job_id = started.client.lose_patience()["job_id"]

    def lines(**arguments: Any) -> list[str]:
        return jobs.get_job.function(bench.context(jobs.get_job), **arguments).text().splitlines()

    wait_until(lambda: bench.call(jobs.get_job, job_id=job_id)["servers"][0]["stderr_bytes"], 20, "stderr has come")
    head, where, output, notice = lines(job_id=job_id)
    assert head.startswith(f"{job_id} on web-1: still running (") and where == "[stdout, bytes 0 to 6 of 6]"
    assert output == "begun" and "offset 6" in notice and "stderr has 3 bytes." in notice
    listed = lines()
    assert listed[0] == "1 job" and listed[1].startswith(f"- {job_id}: still running (")
    bench.go()
    bench.call(jobs.get_job, job_id=job_id, offset=6, wait=50)
    assert lines(job_id=job_id)[0].startswith(f"{job_id} on web-1: exit code 0 (")


def whole(raw: bytes) -> Captured:
    return Captured(raw, b"", len(raw))


@pytest.mark.parametrize(
    ("captured", "offset", "limit", "ended", "expected"),
    [
        (whole(b""), 0, 16, True, (0, b"", 0, 0)),
        (whole(b"abc"), 9, 16, True, (3, b"", 3, 0)),
        (whole("ab€".encode()), 3, 16, True, (2, "€".encode(), 5, 0)),
        (whole("ab€".encode()[:-1]), 0, 16, False, (0, b"ab", 2, 0)),
        (whole("ab€".encode()[:-1]), 0, 16, True, (0, "ab€".encode()[:-1], 4, 0)),
        (whole(b"0123456789abcde\xe2\x82\xac"), 0, 16, True, (0, b"0123456789abcde", 15, 0)),
        (whole(b"0123456789\n12345678"), 0, 16, True, (0, b"0123456789\n", 11, 0)),
        (whole(b"\x80" * 20), 16, 16, True, (16, b"\x80" * 4, 20, 0)),
        (Captured(b"head\xe2", b"\xactail", 100), 0, 16, True, (0, b"head", 4, 0)),
        (Captured(b"head\xe2", b"\xactail", 100), 4, 16, True, (96, b"tail", 100, 92)),
        (Captured(b"head", b"tail", 100), 50, 16, True, (96, b"tail", 100, 92)),
        (Captured(b"head", b"tail", 100), 100, 16, True, (100, b"", 100, 0)),
    ],
)  # fmt: skip
def test_a_part_is_read_in_whole_characters(
    captured: Captured, offset: int, limit: int, ended: bool, expected: tuple[int, bytes, int, int]
) -> None:
    part = jobs.read(captured, offset, limit, ended=ended)
    assert (part.start, part.data, part.next_offset, part.missing) == expected
