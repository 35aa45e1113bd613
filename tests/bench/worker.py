"""Our side of a way (see `ways`): starts its process, asks, and keeps what was measured."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.ways.serve import Spec

TESTS = Path(__file__).resolve().parent.parent

ENDING_SECONDS = 60


@dataclass
class Samples:
    """The seconds of each run, and the CPU seconds of all."""

    times: list[float] = field(default_factory=list)
    cpus: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.times)

    @property
    def cpu(self) -> float:
        """CPU seconds a run: the median over what was asked for."""
        return statistics.median(self.cpus)

    def percentile(self, share: float) -> float:
        ordered = sorted(self.times)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


@dataclass
class Worker:
    """A process that is one way of running commands."""

    name: str
    process: subprocess.Popen[str]
    samples: dict[str, Samples] = field(default_factory=dict)

    def run(self, do: str, count: int = 1, *, keep: bool = True) -> None:
        """Do it `count` times in a row; what was measured goes to `samples`, unless it is a warm-up."""
        answer = self._ask({"do": do, "count": count})
        if keep:
            samples = self.samples.setdefault(do, Samples())
            samples.times += answer["times"]
            samples.cpus.append(answer["cpu"] / count)

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with {self.process.wait()}; its own message is above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.hear()


@contextlib.contextmanager
def worker(module: str, way: str, spec: Spec, *extra: str, python: str = sys.executable) -> Iterator[Worker]:
    """Start a way, connected and warmed up; `extra` goes into its `Spec`."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    command = [python, "-m", f"bench.ways.{module}", way]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin
        try:
            process.stdin.write(dataclasses.replace(spec, extra=extra).as_json() + "\n")
            process.stdin.flush()
            found = Worker(way, process)
            found.hear()
            yield found
        finally:
            # The end of its stdin tells it to end its connections, and only it knows them all.
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            try:
                process.wait(ENDING_SECONDS)
            finally:
                process.kill()
