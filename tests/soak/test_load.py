"""Hundreds of clients over TLS for minutes: no error, nothing that grows, and nobody waits long."""

from __future__ import annotations

import contextlib
import itertools
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from bench.load import Job, Wire
from support.mcp_client import connected
from support.relay import RelayHome, RelayProcess, make_home
from support.sshd import KeyPair, Sshd

from soak.amounts import LONG, amount, said
from soak.paced import Course, drive

CLIENTS = amount("CLIENTS", 60, 500)
ACTIVE = amount("ACTIVE", 10, 50)
SECONDS = amount("SECONDS", 4, 600)
ROUND = 1.0 if SECONDS < 60 else 2.0
PAUSE = 0.25
"""Seconds between the answer to an active client and its next call."""


@pytest.fixture
def busy(tmp_path: Path, relay_key: KeyPair, sshd: Sshd) -> Iterator[RelayProcess]:
    """A relay with room for the crowd, with MFA: one code unlocks the key's clients."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = CLIENTS + 300
    if soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            pytest.skip(f"the hard limit of open files is {hard}; this needs {needed}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    home = make_home(tmp_path / "home", relay_key.private)
    home.add("web-1", sshd)
    change(home)
    process = RelayProcess(home)
    try:
        yield process
    finally:
        process.stop()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def change(home: RelayHome) -> None:
    config = home.config
    config["mfa"]["grant_scope"] = "key"
    config["protocol"] = {"sessions_per_key": CLIENTS + 50}
    config["limits"] = {"calls_per_minute": 0, "session_calls_per_minute": 0}
    (home.path / "config.yaml").write_text(yaml.safe_dump(config))


def wires(relay: RelayProcess, tool: str, arguments: dict[str, str], count: int, ids: Iterator[int]) -> list[Wire]:
    certificate = str(relay.home.certificate)
    job = Job(relay.port, "tools/call", {"name": tool, "arguments": arguments}, certificate, relay.home.api_key)
    return [Wire(job, ids) for _ in range(count)]


@pytest.mark.timeout(SECONDS * 2 + 300)
def test_a_crowd_of_clients_meets_no_error_and_nothing_grows(busy: RelayProcess) -> None:
    pid, course, ids = busy.process.pid, Course(), iter(range(10_000_000, 100_000_000))
    with connected(busy) as first:
        assert not first.call("authenticate", code=busy.home.code()).get("isError")
    with contextlib.ExitStack() as sockets:
        crowd = wires(busy, "list_servers", {}, CLIENTS, ids)
        workers = wires(busy, "execute_command", {"server_id": "web-1", "command": "echo up"}, 2, ids)
        for wire in (*crowd, *workers):
            sockets.callback(wire.sock.close)
        idle = Course(latencies=drive(crowd[:1], min(SECONDS / 4, 5), 0.01))
        # Each round has other active clients, so that every session is used again and again.
        turns = itertools.cycle(range(CLIENTS))
        for _ in range(round(SECONDS / ROUND)):
            active = [crowd[next(turns)] for _ in range(min(ACTIVE, CLIENTS))]
            course.latencies += drive(active, ROUND / 2, PAUSE)
            drive([*active, *workers], ROUND / 2, PAUSE)
            course.sample(pid)
        for wire in (*crowd, *workers):
            wire.close()
    with connected(busy) as late:
        assert late.rpc("ping").status == 200
    p50, p99 = idle.percentile(0.5), course.percentile(0.99)
    slopes = {what: course.slope(what) for what in ("kibibytes", "threads", "files")}
    said(
        f"{CLIENTS} clients, {ACTIVE} active, {SECONDS} s: {len(course.latencies)} calls of list_servers without an error"
    )
    said(
        f"idle p50 {p50 * 1000:.2f} ms; under load p50 {course.percentile(0.5) * 1000:.2f} ms, p99 {p99 * 1000:.2f} ms"
    )
    said("growth in a minute: " + ", ".join(f"{value:+.2f} {what}" for what, value in slopes.items()))
    middle, last = course.samples[len(course.samples) // 2], course.samples[-1]
    said(f"at half time {middle}, at the end {last}")
    assert last.files <= middle.files + 8
    assert last.threads <= middle.threads + 8
    assert last.kibibytes <= middle.kibibytes * 1.1 + 4096
    assert busy.home.run("audit", "verify").returncode == 0
    assert " ERROR " not in busy.log.read_text()
    if LONG:
        assert p99 < 10 * p50
