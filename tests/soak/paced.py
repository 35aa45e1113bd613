"""Many clients that each call at their own pace, as people and agents do, and what the relay uses meanwhile."""

from __future__ import annotations

import heapq
import os
import re
import select
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.load import SILENCE, Wire


@dataclass(frozen=True)
class Usage:
    """What a process has now."""

    at: float
    kibibytes: int
    threads: int
    files: int

    @classmethod
    def of(cls, pid: int) -> Usage:
        status = Path(f"/proc/{pid}/status").read_text()
        numbers = {name: int(value) for name, value in re.findall(r"^(Threads|VmRSS):\s+(\d+)", status, re.MULTILINE)}
        return cls(time.monotonic(), numbers["VmRSS"], numbers["Threads"], len(os.listdir(f"/proc/{pid}/fd")))


@dataclass
class Course:
    """What was measured on the way."""

    samples: list[Usage] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)

    def sample(self, pid: int) -> None:
        self.samples.append(Usage.of(pid))

    def slope(self, what: str) -> float:
        """Growth of one of `Usage`'s numbers in a minute, over the second half: at first caches and pools fill."""
        half = self.samples[len(self.samples) // 2 :]
        times = [sample.at / 60 for sample in half]
        values = [float(getattr(sample, what)) for sample in half]
        middle_time, middle = sum(times) / len(half), sum(values) / len(half)
        spread = sum((at - middle_time) ** 2 for at in times)
        if not spread:
            return 0.0
        products = ((at - middle_time) * (value - middle) for at, value in zip(times, values, strict=True))
        return sum(products) / spread

    def percentile(self, share: float) -> float:
        """A latency in seconds."""
        ordered = sorted(self.latencies)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def drive(wires: Sequence[Wire], seconds: float, pause: float) -> list[float]:
    """Let each wire send, wait for its answer, pause, and send again, until the time is over and every answer is here.

    Returns:
        The latency of each request in seconds, in no order.

    Raises:
        RuntimeError: An answer was not what was asked for, or did not come.
    """
    by_fd = {wire.fd: wire for wire in wires}
    clock = time.perf_counter
    latencies: list[float] = []
    end = clock() + seconds
    # Spread over the first pause: a crowd in lockstep would measure its own queue.
    turns = [(clock() + pause * number / len(wires), number) for number in range(len(wires))]
    numbers = {wire.fd: number for number, wire in enumerate(wires)}
    pending = 0
    with select.epoll() as poll:
        for wire in wires:
            poll.register(wire.fd, select.EPOLLIN)
        while True:
            while turns and turns[0][0] <= clock():
                _, number = heapq.heappop(turns)
                if clock() < end:
                    wires[number].send()
                    pending += 1
            if not turns and not pending:
                return latencies
            wait = max(turns[0][0] - clock(), 0) if turns else SILENCE
            events = poll.poll(min(wait, SILENCE))
            if not events and not turns:
                raise RuntimeError(f"no answer for {SILENCE:g} s")
            for fd, _ in events:
                if by_fd[fd].receive():
                    latencies.append(clock() - by_fd[fd].sent_at)
                    pending -= 1
                    heapq.heappush(turns, (clock() + pause, numbers[fd]))
