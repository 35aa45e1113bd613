"""The engine under fan-out and limits: many hosts without many threads, learned MaxSessions, a frozen or foreign master."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fleets import TestFleet, fleet_on, nothing
from support.processes import wait_until
from support.sshd import KeyPair, Sshd

from fleetshell_tools.core.config import Config, Ssh
from fleetshell_tools.core.types import Act, Cancellation
from fleetshell_tools.fleet.mux import MuxTransport, wire
from fleetshell_tools.fleet.transport import Limits


@pytest.fixture
def fleet(tmp_path: Path, relay_key: KeyPair) -> Iterator[TestFleet]:
    with fleet_on(tmp_path, relay_key) as made:
        yield made


def fan_out(
    fleet: TestFleet, command: str, *, timeout: float = 60, parallel: int = 256, cancelled: Cancellation | None = None
) -> list[str]:
    """What each server answered, or why not."""
    results = fleet.fleet.run_many(
        fleet.caller, fleet.inventory.all(), Act(command), timeout=timeout, max_parallel=parallel, stop_on_failure=False,
        cancelled=cancelled or Cancellation(), progress=nothing,
    )  # fmt: skip
    return [
        result.completed.stdout.head.decode() + result.completed.why if result.completed else str(result.error)
        for result in results
    ]


def test_a_warm_fan_out_to_sixty_four_addresses_needs_no_thread_of_its_own(
    fleet: TestFleet, sshd_factory: Callable[..., Sshd]
) -> None:
    for daemon in range(4):
        server = sshd_factory(addresses=[f"127.10.{daemon}.{host}" for host in range(1, 17)], extra=["MaxStartups 100"])
        for address in server.addresses:
            fleet.add(f"h-{daemon}-{address.rpartition('.')[2]}", server, hostname=address)
    assert fan_out(fleet, "echo up") == ["up\n"] * 64
    most = threading.active_count()
    answers: list[str] = []
    runner = threading.Thread(target=lambda: answers.extend(fan_out(fleet, "sleep 0.3; echo up")))
    runner.start()
    while runner.is_alive():
        assert threading.active_count() <= most + 1
        runner.join(0.02)
    assert answers == ["up\n"] * 64


def test_more_commands_than_the_host_allows_sessions_all_succeed_and_the_limit_is_learned(
    tmp_path: Path, relay_key: KeyPair, sshd_factory: Callable[..., Sshd]
) -> None:
    with fleet_on(tmp_path, relay_key, Config(ssh=Ssh(sessions_per_server=8))) as fleet:
        fleet.add("narrow", sshd_factory(max_sessions=2))
        server = fleet.inventory.get("narrow")
        results = fleet.fleet.run_many(
            fleet.caller, [server] * 12, Act("sleep 0.1; echo in"), timeout=60, max_parallel=12, stop_on_failure=False,
            cancelled=Cancellation(), progress=nothing,
        )  # fmt: skip
        assert [result.completed.stdout.head for result in results if result.completed] == [b"in\n"] * 12
        # On a busy machine we may hear of a session's end after the host has let the next one in: then it is one more.
        assert fleet.fleet.connections.of(fleet.fleet.identity(server)).slots.limit in (2, 3)


def test_a_cancelled_fan_out_ends_what_runs_and_starts_no_more(fleet: TestFleet, sshd: Sshd, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        fleet.add(name, sshd)
    cancelled = Cancellation()

    def cancel_soon() -> None:
        wait_until((tmp_path / "mark").exists, 20, "the first command runs")
        cancelled.set()

    helper = threading.Thread(target=cancel_soon)
    helper.start()
    answers = fan_out(fleet, f"touch '{tmp_path}/mark'; sleep 1000", parallel=1, cancelled=cancelled)
    helper.join()
    assert answers == ["cancelled", *["Not started: the call was cancelled."] * 2]


def test_a_fan_out_at_its_time_limit_gives_what_there_is(fleet: TestFleet, sshd: Sshd) -> None:
    for name in ("a", "b"):
        fleet.add(name, sshd)
    assert fan_out(fleet, "echo partial; sleep 1000", timeout=2) == ["partial\ntimeout"] * 2


def test_the_connection_that_was_idle_longest_is_closed_at_the_cap(
    tmp_path: Path, relay_key: KeyPair, sshd: Sshd
) -> None:
    with fleet_on(tmp_path, relay_key, Config(ssh=Ssh(max_connections=2))) as fleet:
        for name in ("a", "b", "c"):
            fleet.add(name, sshd)
            assert fleet.out(name, "echo x") == "x\n"
        states = [fleet.fleet.connection_state(fleet.inventory.get(name)).state for name in ("a", "b", "c")]
        assert states == ["idle", "connected", "connected"]
        assert fleet.out("a", "echo again") == "again\n"


def test_an_idle_connection_ends_by_itself_and_the_next_command_makes_a_new_one(
    tmp_path: Path, relay_key: KeyPair, sshd: Sshd
) -> None:
    with fleet_on(tmp_path, relay_key, Config(ssh=Ssh(idle_seconds=1))) as fleet:
        fleet.add("a", sshd)
        fleet.run("a", "true")
        wait_until(lambda: not list(fleet.home.run.glob("m?????????????????????")), 15, "the master has ended")
        assert fleet.out("a", "echo again") == "again\n"


def test_progress_is_the_commands_own_output_and_never_our_marker(fleet: TestFleet, sshd: Sshd) -> None:
    fleet.add("a", sshd)
    seen: list[str | None] = []
    fleet.fleet.run(
        fleet.caller, fleet.inventory.get("a"), Act("sleep 0.2; echo own"), timeout=20, cancelled=Cancellation(),
        progress=lambda done, total, message: seen.append(message),
    )  # fmt: skip
    assert seen == ["own"]


def speak(path: Path, answer: bytes) -> threading.Thread:
    """A stand-in for a master, because no real one speaks another version or falls silent: answers once, then closes."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        with listener:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)
                while connection.recv(65536):
                    pass

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_a_master_of_another_version_is_noticed_before_anything_runs(short_tmp: Path) -> None:
    thread = speak(
        short_tmp / "m", (12).to_bytes(4, "big") + (1).to_bytes(4, "big") + (99).to_bytes(4, "big") + bytes(4)
    )
    transport = MuxTransport(short_tmp)
    ended = transport.run(
        "m",
        "true",
        nonce="N",
        stdin=b"",
        limits=Limits(100, 1000),
        deadline=time.monotonic() + 20,
        cancelled=Cancellation(),
    )
    transport.close()
    thread.join()
    # The fall-back, `ssh -S`, was asked in its place and found nobody, since the stand-in is gone.
    assert (ended.why, ended.marker) == ("no_master", "")


def test_a_master_that_says_nothing_is_given_up_at_the_deadline(short_tmp: Path) -> None:
    thread = speak(short_tmp / "m", b"")
    transport = MuxTransport(short_tmp)
    ended = transport.run(
        "m",
        "true",
        nonce="N",
        stdin=b"",
        limits=Limits(100, 1000),
        deadline=time.monotonic() + 0.3,
        cancelled=Cancellation(),
    )
    transport.close()
    thread.join()
    assert ended.why == "timeout"


HELLO = (8).to_bytes(4, "big") + wire.HELLO.to_bytes(4, "big") + (4).to_bytes(4, "big")


def message(kind: int, *numbers: int) -> bytes:
    body = kind.to_bytes(4, "big") + b"".join(number.to_bytes(4, "big") for number in numbers)
    return len(body).to_bytes(4, "big") + body


STREAM = HELLO + message(wire.SESSION_OPENED, 1, 7) + message(wire.EXIT_MESSAGE, 7, 3) + message(wire.ALIVE, 2, 4711)


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_messages_are_read_whole_however_they_are_cut(cuts: list[int]) -> None:
    reader, events, edges = wire.Reader(), [], [0, *sorted(cuts), len(STREAM)]
    for start, end in itertools.pairwise(edges):
        events += reader.feed(STREAM[start:end])
    assert events == [wire.Opened(7), wire.Exited(3), wire.Alive(4711)]


@given(st.binary(max_size=200))
def test_garbage_from_a_socket_is_a_protocol_error_and_nothing_else(data: bytes) -> None:
    try:
        wire.Reader().feed(data)
        wire.Reader().feed(HELLO + data)
    except wire.ProtocolError:
        return
