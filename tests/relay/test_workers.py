"""The pool of threads behind the HTTP server."""

from __future__ import annotations

import logging
import math
import threading

import pytest
from support.http_client import PATIENCE, wait_until

from fleetshell_tools.relay.workers import WorkerPool

LOG = logging.getLogger("test.workers")


def fail() -> None:
    raise RuntimeError("a bug")


def test_an_idle_thread_is_used_again() -> None:
    pool = WorkerPool("w", 10, LOG)
    seen: list[int] = []
    for number in range(20):
        pool.submit(lambda: seen.append(threading.get_ident()))
        wait_until(lambda number=number: len(seen) == number + 1)  # type: ignore[misc]
    assert pool.size <= 2
    assert pool.stop(PATIENCE) == 0


def test_jobs_beyond_the_eager_threads_get_their_own_once_the_others_are_held() -> None:
    pool, release, running = WorkerPool("w", 30, LOG), threading.Event(), threading.Semaphore(0)

    def hold() -> None:
        running.release()
        release.wait(PATIENCE)

    for _ in range(20):
        pool.submit(hold)
    assert pool.size == WorkerPool.EAGER
    wait_until(lambda: pool.tend() == math.inf)
    assert all(running.acquire(timeout=PATIENCE) for _ in range(20))
    assert pool.size == 20
    release.set()
    assert pool.stop(PATIENCE) == 0


def test_there_are_never_more_threads_than_the_limit() -> None:
    pool, release, done = WorkerPool("w", 2, LOG), threading.Event(), threading.Semaphore(0)

    def hold() -> None:
        release.wait(PATIENCE)
        done.release()

    for _ in range(5):
        pool.submit(hold)
    assert pool.tend() == math.inf
    assert pool.size == 2
    release.set()
    assert all(done.acquire(timeout=PATIENCE) for _ in range(5))
    assert pool.stop(PATIENCE) == 0


def test_a_thread_survives_a_failing_job_and_the_failure_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    pool, done = WorkerPool("w", 1, LOG), threading.Event()
    pool.submit(fail)
    pool.submit(done.set)
    assert done.wait(PATIENCE)
    assert "RuntimeError: a bug" in caplog.text
    assert pool.stop(PATIENCE) == 0


def test_threads_without_work_end() -> None:
    pool, done = WorkerPool("w", 4, LOG, idle_seconds=0.01), threading.Event()
    pool.submit(done.set)
    assert done.wait(PATIENCE)
    wait_until(lambda: pool.size == 0)
    assert pool.stop(PATIENCE) == 0


def test_stopping_tells_how_many_are_still_at_work_and_takes_no_more_jobs() -> None:
    pool, release, started = WorkerPool("w", 4, LOG), threading.Event(), threading.Event()

    def hold() -> None:
        started.set()
        release.wait(PATIENCE)

    pool.submit(hold)
    assert started.wait(PATIENCE)
    assert pool.stop(0.0) == 1
    pool.submit(fail)
    assert pool.size == 1
    release.set()
    assert pool.stop(PATIENCE) == 0


def test_a_thread_that_is_lent_makes_room_for_another_one() -> None:
    pool = WorkerPool("w", 1, LOG)
    release, ran = threading.Event(), threading.Event()

    def hold() -> None:
        assert release.wait(PATIENCE)

    pool.submit(hold)
    pool.lend(1)
    pool.submit(ran.set)
    assert ran.wait(PATIENCE)
    pool.lend(-1)
    release.set()
    assert pool.stop(PATIENCE) == 0
