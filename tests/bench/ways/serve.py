"""The process around one way of running commands: it measures what it is asked for; requests and answers are lines of JSON."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Host:
    """One host; `host_key` is `ssh-ed25519 AAAA…`."""

    name: str
    address: str
    port: int
    host_key: str


@dataclass(frozen=True)
class Spec:
    """What a way has to know of the hosts.

    `config` is a configuration for ssh in which every host has a control path in `folder`, `cold_config` one without;
    `extra` is for one way alone.
    """

    hosts: tuple[Host, ...]
    user: str
    key: str
    known_hosts: str
    config: str
    cold_config: str
    folder: str
    extra: tuple[str, ...] = ()

    def as_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_json(text: str) -> Spec:
        data = json.loads(text)
        hosts = tuple(Host(**host) for host in data.pop("hosts"))
        return Spec(hosts=hosts, extra=tuple(data.pop("extra")), **data)


class Way(Protocol):
    """One way. Its constructor connects; its other methods, those that it has, are what can be asked for.

    `once` runs `true` on the first host, `everywhere` on all of them, `cold` on all of them without a connection from
    before. Each of them raises where the command did not run or did not succeed.
    """

    def __init__(self, spec: Spec) -> None: ...

    def rest(self) -> None:
        """After each request, and not measured: what tidying up there is."""

    def close(self) -> None:
        """End all connections."""


def serve(ways: Mapping[str, type[Way]]) -> None:
    """Be the way that the command line names until stdin ends."""
    # What a library or a program prints must not come between our answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    way = ways[sys.argv[1]](Spec.from_json(sys.stdin.readline()))
    try:
        print(json.dumps({"ready": True}), file=answers)
        for line in sys.stdin:
            print(json.dumps(_measure(way, **json.loads(line))), file=answers)
    finally:
        way.close()


def _measure(way: Way, do: str, count: int) -> dict[str, Any]:
    """The seconds that each of `count` runs took, and the CPU of this process and its children for all of them."""
    method, clock = getattr(way, do), time.perf_counter
    times = []
    before = _cpu()
    for _ in range(count):
        started = clock()
        method()
        times.append(clock() - started)
    cpu = _cpu() - before
    way.rest()
    return {"times": times, "cpu": cpu}


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)
