"""The reference server from npm, as it is: what it offers passes through, and it comes back after a crash under load."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from support.processes import wait_until
from support.upstream_home import SOON, Aggregator, aggregator, background

from fleetshell_tools.core.errors import Unreachable

__all__ = ["aggregator"]
PROGRAM = (
    Path(__file__).parents[2] / ".cache/upstreams/node_modules/@modelcontextprotocol/server-everything/dist/index.js"
)


@pytest.fixture
def everything(aggregator: Aggregator) -> Aggregator:
    if not PROGRAM.exists() or not shutil.which("node"):
        pytest.skip("needs `npm i --prefix .cache/upstreams @modelcontextprotocol/server-everything`")
    aggregator.write("all", command="node", args=[str(PROGRAM)], auto_start=True, expose="all")
    aggregator.until("all", "ready")
    return aggregator


def test_what_it_offers_passes_through(everything: Aggregator) -> None:
    assert everything.upstreams.lists("all__get-sum") and len(everything.upstreams.prompts()) >= 4
    weather = everything.call("all.get-structured-content", arguments={"location": "Chicago"})
    assert set(weather["structuredContent"]) == {"temperature", "conditions", "humidity"}
    assert "image" in [block["type"] for block in everything.call("all.get-tiny-image")["content"]]
    steps: list[Any] = []
    arguments = {"duration": 0.2, "steps": 2}
    everything.call(
        "all.trigger-long-running-operation", arguments=arguments, progress=lambda *step: steps.append(step)
    )
    assert [step[:2] for step in steps] == [(1.0, 2.0), (2.0, 2.0)]
    answer = everything.call("all.trigger-elicitation-request", ask=lambda method, params: {"action": "decline"})
    assert "declined" in answer["content"][0]["text"]


def test_it_crashes_under_fifty_calls_and_is_back(everything: Aggregator) -> None:
    arguments = {"duration": 600, "steps": 1}
    calls = [
        background(lambda: everything.call("all.trigger-long-running-operation", arguments=arguments))
        for _ in range(50)
    ]
    wait_until(lambda: len(everything.records) >= 50, SOON, "all calls are on their way")
    os.kill(everything.state("all")["pid"], signal.SIGKILL)
    for thread, outcome in calls:
        thread.join(SOON)
        assert isinstance(outcome[0], Unreachable), outcome
    assert everything.text("all.echo", arguments={"message": "hi"}) == "Echo: hi"
