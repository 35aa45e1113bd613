"""A fleet of 256 hosts: cold and warm, with hosts that hang, cancelled in the middle, and without a trace afterwards."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.fleets import TestFleet, fleet_on
from support.leaks import nothing_left_behind
from support.processes import wait_until
from support.sshd import KeyPair, Sshd

from fleetshell_tools.commands import fold
from fleetshell_tools.core.config import Config, Ssh
from fleetshell_tools.core.types import Act, Cancellation, HostResult

DAEMONS = 16
ADDRESSES = 16
HOSTS = DAEMONS * ADDRESSES
MAX_STARTING = 24

QUICK = {"KexAlgorithms": "curve25519-sha256"}
"""The key exchange that costs least: 256 of the usual one take two processors half a minute."""


@dataclass
class Seen:
    """What the progress of one fan-out has shown: who was done in which order, our threads, and ssh programs logging in."""

    order: list[str] = field(default_factory=list)
    threads: set[threading.Thread] = field(default_factory=set)
    logins: list[int] = field(default_factory=list)
    on_done: Callable[[int], None] = lambda count: None

    def __call__(self, done: float, total: float | None, message: str | None) -> None:
        assert message and message.endswith(" is done")
        self.order.append(message.removesuffix(" is done"))
        assert done == len(self.order)
        self.threads.update(threading.enumerate())
        if len(self.order) % 8 == 1:
            self.logins.append(_children("ssh"))
        self.on_done(len(self.order))


@dataclass
class Big:
    """The fleet, once it has been reached."""

    fleet: TestFleet
    daemons: list[Sshd]
    names: list[str]
    first: list[HostResult] = field(default_factory=list)
    seen_first: Seen = field(default_factory=Seen)

    def run(
        self, command: str, seen: Seen, *, names: list[str] | None = None, timeout: float = 100, parallel: int = 256,
        stop_on_failure: bool = False, cancelled: Cancellation | None = None,
    ) -> list[HostResult]:  # fmt: skip
        servers = [self.fleet.inventory.get(name) for name in names or self.names]
        return self.fleet.fleet.run_many(
            self.fleet.caller, servers, Act(command), timeout=timeout, max_parallel=parallel,
            stop_on_failure=stop_on_failure, cancelled=cancelled or Cancellation(), progress=seen,
        )  # fmt: skip

    def processes(self) -> list[str]:
        """What runs on any of the hosts."""
        return [str(process) for daemon in self.daemons for process in daemon.remote_processes()]


@pytest.fixture(scope="module")
def big(relay_key: KeyPair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Big]:
    """The whole fleet, cold at first: connected to by one fan-out."""
    config = Config(ssh=Ssh(max_starting=MAX_STARTING, connect_timeout=60))
    with nothing_left_behind("the fleet of 256"), contextlib.ExitStack() as stack:
        daemons, names = [], []
        fleet = stack.enter_context(fleet_on(tmp_path_factory.mktemp("big"), relay_key, config))
        for number in range(DAEMONS):
            addresses = [f"127.10.{number}.{host}" for host in range(1, ADDRESSES + 1)]
            folder = tmp_path_factory.mktemp("sshd")
            sshd = Sshd(folder, relay_key.public, addresses=addresses, extra=["MaxStartups 100"], shared=True)
            stack.callback(sshd.stop)
            daemons.append(sshd)
            for address in addresses:
                names.append(f"h-{address.replace('.', '-')}")
                fleet.add(names[-1], sshd, hostname=address, ssh_options=QUICK)
        made = Big(fleet, daemons, names)
        made.first = made.run("echo cold", made.seen_first)
        yield made
        fleet.fleet.close()


def outputs(results: list[HostResult]) -> Counter[str]:
    return Counter(
        result.completed.stdout.head.decode() + result.completed.why if result.completed else str(result.error)
        for result in results
    )


def test_a_cold_fan_out_reaches_every_host_and_starts_no_more_connections_at_once_than_allowed(big: Big) -> None:
    assert outputs(big.first) == {"cold\n": HOSTS}
    assert [result.server_id for result in big.first] == big.names
    assert sorted(big.seen_first.order) == sorted(big.names)
    assert 1 < max(big.seen_first.logins) <= MAX_STARTING


def test_a_warm_fan_out_logs_in_nowhere_and_needs_no_thread(big: Big) -> None:
    before, seen = set(threading.enumerate()), Seen()
    assert outputs(big.run("echo warm", seen)) == {"warm\n": HOSTS}
    assert seen.threads <= before
    assert max(seen.logins) == 0
    # What connected is one pool, of as many threads as may connect at once.
    assert len(seen.threads) <= MAX_STARTING + 2


def test_the_same_outcome_of_all_is_told_once_and_another_apart(big: Big) -> None:
    odd = big.names[100]
    address = odd.removeprefix("h-").replace("-", ".")
    command = f'case "$SSH_CONNECTION" in *" {address} "*) echo odd; exit 3;; esac; echo same'
    folded = fold(big.run(command, Seen()), 16384)
    shown = [(len(group["server_ids"]), group["exit_code"]) for group in folded.groups]
    assert shown == [(HOSTS - 1, 0), (1, 3)]
    assert folded.groups[0]["stdout"] == "same\n"
    assert (folded.succeeded, folded.failed, folded.truncated) == (HOSTS - 1, 1, False)
    assert [(result["server_id"], result["stdout"]) for result in folded.results if not result["success"]] == [
        (odd, "odd\n")
    ]


def test_hosts_that_never_answer_hold_no_other_back(big: Big, relay_key: KeyPair) -> None:
    silent, dead = socket.socket(), socket.socket()
    with contextlib.ExitStack() as stack:
        for listener, backlog in ((silent, 16), (dead, 0)):
            stack.enter_context(listener)
            listener.bind(("127.10.200.1", 0))
            listener.listen(backlog)
        # A full queue of connections drops what else comes, as a host that is down does.
        for _ in range(2):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(dead.getsockname())
        for name, listener in (("silent", silent), ("dead", dead)):
            big.fleet.add(name, hostname="127.10.200.1", ssh_port=listener.getsockname()[1], ssh_user="root")
        names = ["silent", *big.names[:128], "dead", *big.names[128:]]
        # Only when all others are done do the two get their time limit: it's the call's cancellation here.
        cancelled = Cancellation()
        seen = Seen(on_done=lambda count: cancelled.set() if count == HOSTS else None)
        results = big.run("echo up", seen, names=names, parallel=HOSTS + 2, cancelled=cancelled)
    assert seen.order[HOSTS:] in (["silent", "dead"], ["dead", "silent"])
    errors = {result.server_id: result.error for result in results if result.error}
    assert errors == {name: f"Cancelled while connecting to {name}." for name in ("silent", "dead")}
    assert outputs(results)["up\n"] == HOSTS


def test_hosts_that_never_answer_are_errors_at_their_time_limit(big: Big) -> None:
    with socket.socket() as silent:
        silent.bind(("127.10.200.2", 0))
        silent.listen(16)
        port = silent.getsockname()[1]
        big.fleet.add("mute", hostname="127.10.200.2", ssh_port=port, ssh_user="root", connect_timeout=1)
        results = big.run("echo up", Seen(), names=["mute", *big.names])
    assert results[0].error and "did not answer within 1 s" in results[0].error
    assert outputs(results[1:]) == {"up\n": HOSTS}


def test_a_cancellation_in_the_middle_ends_all_that_runs_and_starts_no_more(big: Big, tmp_path: Path) -> None:
    parallel = 40
    cancelled, marks = Cancellation(), tmp_path / "marks"
    marks.mkdir()

    def cancel_soon() -> None:
        wait_until(lambda: len(os.listdir(marks)) == parallel, 60, "forty commands run")
        cancelled.set()

    helper = threading.Thread(target=cancel_soon)
    helper.start()
    results = big.run(f": > {marks}/$$; sleep 1000; :", Seen(), parallel=parallel, cancelled=cancelled)
    helper.join()
    assert outputs(results) == {"cancelled": parallel, "Not started: the call was cancelled.": HOSTS - parallel}
    assert [result.completed.stopped for result in results if result.completed] == ["confirmed"] * parallel
    assert big.processes() == [] and big.fleet.noted() == []


def test_a_failure_starts_no_further_hosts_where_that_is_asked_for(big: Big) -> None:
    results = big.run("exit 1", Seen(), parallel=8, stop_on_failure=True)
    ran = [result for result in results if result.completed]
    assert 1 <= len(ran) <= 8
    assert outputs(results) == {"": len(ran), "Not started: another server failed (stop_on_failure).": HOSTS - len(ran)}
    assert [result.server_id for result in ran] == big.names[: len(ran)]
    assert outputs(big.run("echo on", Seen())) == {"on\n": HOSTS}


def test_closing_ends_every_connection(big: Big) -> None:
    assert len(_masters(big)) == HOSTS
    big.fleet.fleet.close()
    wait_until(lambda: not _masters(big), 20, "every master has ended")
    assert not [name for name in os.listdir(big.fleet.home.run) if name.startswith("m")]


def _masters(big: Big) -> list[str]:
    return [path.name for path in big.fleet.home.run.iterdir() if path.is_socket()]


def _children(name: str) -> int:
    """How many children of this process have that name: an ssh is one until it is logged in and goes into the background."""
    count, mine = 0, f") S {os.getpid()} "
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            text = Path("/proc", pid, "stat").read_text(errors="replace")
            count += f" ({name}) " in text and (mine in text or mine.replace("S", "R") in text)
    return count
