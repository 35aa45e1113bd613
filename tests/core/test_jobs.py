"""Jobs: who may see them, how many there may be, how long they are kept, and how a call becomes one."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from support.processes import wait_until

from fleetshell_tools.core.config import Jobs as Limits
from fleetshell_tools.core.errors import AuditUnavailable, NotFound
from fleetshell_tools.core.jobs import NO_JOBS, Call, Job, Jobs, Work
from fleetshell_tools.core.tool import Output
from fleetshell_tools.core.types import Caller, Cancellation, Captured, Completed, HostResult, Principal

ANN, BEN = Caller(Principal("ann"), "client 1", "digest", "execute_command"), Caller(Principal("ben"))


def host(output: bytes = b"", exit_code: int | None = 0, **more: Any) -> HostResult:
    return HostResult("web", Completed(exit_code, Captured(output, b"", len(output)), Captured(), 5), **more)


def work(caller: Caller = ANN, servers: tuple[str, ...] = ("web",)) -> Work:
    return Work(
        caller, "make", servers, Cancellation(), lambda result: result, lambda results: f"{len(results)} servers"
    )


@dataclass
class Clock:
    seconds: float = 1000.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Bench:
    """Jobs with a clock that the test turns, and what they recorded."""

    limits: Limits = field(default_factory=Limits)
    clock: Clock = field(default_factory=Clock)
    records: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.jobs = Jobs(lambda: self.limits, lambda event, **more: self.records.append((event, more)), self.clock)

    def start(self, caller: Caller = ANN) -> Job:
        job = self.jobs.start(work(caller), self.clock(), lambda: [host(running=True)])
        assert job is not None
        return job

    def ended(self, output: bytes = b"", caller: Caller = ANN) -> Job:
        job = self.start(caller)
        self.jobs.end(job, [host(output)])
        return job

    def ids(self, caller: Caller = ANN) -> list[str]:
        return [job.job_id for job in self.jobs.of(caller)]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_an_id_can_neither_be_guessed_nor_needs_quoting(bench: Bench) -> None:
    ids = {bench.start().job_id for _ in range(10)}
    assert len(ids) == 10 and all(re.fullmatch(r"job_[A-Za-z0-9_-]{12}", job_id) for job_id in ids)


def test_another_principals_job_is_answered_as_an_unknown_one(bench: Bench) -> None:
    job = bench.start()
    said = []
    for caller, job_id in ((BEN, job.job_id), (ANN, "job_" + "x" * len(job.job_id[4:]))):
        with pytest.raises(NotFound) as caught:
            bench.jobs.get(caller, job_id)
        said.append(caught.value.message.replace(job_id, "ID"))
    assert said[0] == said[1]
    assert bench.jobs.get(ANN, job.job_id) is job and bench.jobs.of(BEN) == []


def test_a_running_job_shows_its_servers_as_they_stand_and_an_ended_one_as_they_ended(bench: Bench) -> None:
    output = [b"a"]
    job = bench.jobs.start(work(), bench.clock(), lambda: [host(output[0], None, running=True)])
    assert job is not None and job.running
    output[0] = b"ab"
    bench.clock.seconds += 3
    assert [result.completed.stdout.head for result in job.results() if result.completed] == [b"ab"]
    assert job.duration_ms == 3000
    bench.jobs.end(job, [host(b"abc")])
    bench.clock.seconds += 3
    assert not job.running and job.results() == [host(b"abc")] and job.duration_ms == 3000


def test_no_more_jobs_of_one_principal_run_than_are_allowed() -> None:
    bench = Bench(Limits(running=2))
    first = bench.start()
    bench.start()
    assert bench.jobs.start(work(), 0, list) is None
    bench.start(BEN)
    bench.jobs.end(first, [host()])
    assert bench.start().running and bench.jobs.running() == 3


def test_beyond_the_number_that_is_kept_the_one_that_ended_first_goes_and_a_running_one_never() -> None:
    bench = Bench(Limits(running=2, kept=3))
    running = bench.start()
    other = bench.ended(caller=BEN)
    one, two, three = bench.ended(), bench.ended(), bench.ended()
    assert bench.ids() == [running.job_id, two.job_id, three.job_id]
    fourth = bench.start()
    assert set(bench.ids()) == {running.job_id, three.job_id, fourth.job_id} and bench.ids(BEN) == [other.job_id]
    with pytest.raises(NotFound, match="no longer kept"):
        bench.jobs.get(ANN, one.job_id)


def test_beyond_the_memory_the_oldest_output_of_all_goes_first() -> None:
    bench = Bench(Limits(memory_bytes=100))
    old, other, new = bench.ended(b"x" * 40), bench.ended(b"x" * 60, BEN), bench.ended(b"x" * 40)
    assert (bench.ids(), bench.ids(BEN)) == ([new.job_id], [other.job_id])
    assert old.job_id not in bench.ids()
    assert bench.jobs.keep(work(), 0, [host(b"x" * 101)]) is None and bench.ids(BEN) == []


def test_what_has_ended_is_forgotten_after_its_time_and_what_runs_is_not() -> None:
    bench = Bench(Limits(keep_seconds=60))
    running, ended = bench.start(), bench.ended()
    bench.clock.seconds += 59
    assert bench.jobs.get(ANN, ended.job_id) is ended
    bench.clock.seconds += 1
    with pytest.raises(NotFound):
        bench.jobs.get(ANN, ended.job_id)
    assert bench.ids() == [running.job_id]


def test_a_jobs_start_and_its_end_are_recorded_and_a_kept_result_is_not(bench: Bench) -> None:
    job = bench.start()
    job.work.cancelled.set("cancelled by cancel_job")
    bench.clock.seconds += 2
    bench.jobs.end(job, [host(b"", None, error="It was cancelled.")])
    bench.jobs.keep(work(), 0, [host(b"x")])
    fields = {
        "server_id": "web", "command": "make", "tool": "execute_command", "principal": "ann", "name": "owner", "client": "client 1",
        "session": "digest", "job_id": job.job_id,
    }  # fmt: skip
    ended = {"success": False, "duration_ms": 2000, "exit_code": None, "reason": "cancelled by cancel_job"}
    assert bench.records == [("job_started", fields), ("job_ended", {**fields, **ended})]


def test_a_fan_outs_records_name_its_servers(bench: Bench) -> None:
    job = bench.jobs.start(work(servers=("a", "b")), 0, list)
    assert job is not None and bench.records[0][1]["servers"] == ["a", "b"] and "server_id" not in bench.records[0][1]


def test_closing_cancels_what_runs_and_lets_nothing_more_start(bench: Bench) -> None:
    job, done = bench.start(), bench.ended()
    bench.jobs.close()
    assert job.work.cancelled.is_set() and job.work.cancelled.why == "the relay is stopping"
    assert not done.work.cancelled.is_set()
    assert bench.jobs.start(work(), 0, list) is None


@dataclass
class Client:
    """A client whose patience ends when the test says so."""

    answers: list[Output] = field(default_factory=list)
    callback: Callable[[], None] | None = None

    def when_impatient(self, callback: Callable[[], None]) -> Callable[[], None]:
        self.callback = callback
        return lambda: setattr(self, "callback", None)

    def answer(self, output: Output) -> bool:
        self.answers.append(output)
        return True

    def lose_patience(self) -> None:
        assert self.callback is not None
        self.callback()


def test_a_client_that_waits_for_the_end_makes_no_job(bench: Bench) -> None:
    client, given = Client(), work()
    with Call(bench.jobs, given, client, lambda job: Output()) as call:
        call.watch(lambda: [host(b"x")])
        assert client.callback is not None
    assert client.callback is None and not client.answers and not bench.records
    assert call.results == [host(b"x")]


def test_a_call_whose_client_was_answered_goes_on_as_a_job_and_ends_with_the_outcome(bench: Bench) -> None:
    client, now = Client(), [host(b"so", None, running=True)]
    with Call(bench.jobs, work(), client, lambda job: Output()) as call:
        call.watch(lambda: list(now))
        client.lose_patience()
        (job,) = bench.jobs.of(ANN)
        assert job.running and len(client.answers) == 1
        now[0] = host(b"so far")
    assert not job.running and job.results() == [host(b"so far")] and call.keep() is job
    assert [event for event, _ in bench.records] == ["job_started", "job_ended"]


def test_an_error_ends_the_job_and_what_was_left_in_the_middle_is_a_fault(bench: Bench) -> None:
    client = Client()
    with pytest.raises(ZeroDivisionError), Call(bench.jobs, work(), client, lambda job: Output()) as call:
        call.watch(lambda: [host(b"half", None, running=True)])
        client.lose_patience()
        raise ZeroDivisionError
    (job,) = bench.jobs.of(ANN)
    (result,) = job.results()
    assert not job.running and not result.running and "internal error" in str(result.error)


@pytest.mark.parametrize("when", ["over", "cancelled", "full", "unrecorded"])
def test_where_a_call_can_be_no_job_its_client_waits_on(when: str) -> None:
    bench, client, given = Bench(Limits(running=0 if when == "full" else 16)), Client(), work()

    def refuse(event: str, **fields: Any) -> None:
        raise AuditUnavailable("The disk is full.")

    jobs = Jobs(lambda: bench.limits, refuse) if when == "unrecorded" else bench.jobs
    with Call(jobs, given, client, lambda job: Output()) as call:
        call.watch(lambda: [host()])
        late = client.callback
        if when == "cancelled":
            given.cancelled.set()
        if when != "over":
            client.lose_patience()
    if when == "over":
        assert late is not None
        late()
    assert not client.answers and jobs.of(ANN) == [] and jobs.running() == 0


def test_one_who_waits_is_woken_by_output_and_by_the_end(bench: Bench) -> None:
    output, seen = [b""], []
    job = bench.jobs.start(work(), 0, lambda: [host(output[0], None, running=True)])
    assert job is not None
    looked = threading.Event()

    def ready() -> bool:
        looked.set()
        return bool(output[0])

    def wait() -> None:
        job.wait(ready, 60, Cancellation())
        seen.append(output[0])
        job.wait(lambda: False, 60, Cancellation())
        seen.append(b"ended")

    waiter = threading.Thread(target=wait)
    waiter.start()
    assert looked.wait(20)
    output[0] = b"news"
    job.wake()
    wait_until(lambda: seen == [b"news"], 20, "the one who waits has the news")
    bench.jobs.end(job, [host(b"news")])
    waiter.join(20)
    assert seen == [b"news", b"ended"]


def test_a_wait_ends_with_its_own_cancellation_and_the_job_goes_on(bench: Bench) -> None:
    job, cancelled, looked = bench.start(), Cancellation(), threading.Event()

    def ready() -> bool:
        looked.set()
        return False

    waiter = threading.Thread(target=lambda: job.wait(ready, 60, cancelled))
    waiter.start()
    assert looked.wait(20)
    cancelled.set()
    waiter.join(20)
    assert not waiter.is_alive() and job.running


def test_without_a_place_for_jobs_nothing_is_kept() -> None:
    assert NO_JOBS.keep(work(), 0, [host(b"x")]) is None and NO_JOBS.start(work(), 0, list) is None
