"""Servers from npm and the Python registry as they are: what they offer passes through; one comes back after a crash under load."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from support.processes import wait_until
from support.real_upstreams import npm_server, time_server
from support.upstream_home import SOON, Aggregator, aggregator, background

from fleetshell_tools.core.errors import Unreachable

__all__ = ["aggregator"]


def start(aggregator: Aggregator, mcp_id: str, command: list[str], *arguments: str, **values: Any) -> None:
    """Add a server, and wait until it runs."""
    program, *rest = command
    aggregator.write(mcp_id, command=program, args=[*rest, *arguments], auto_start=True, expose="all", **values)
    aggregator.until(mcp_id, "ready")


@pytest.fixture
def everything(aggregator: Aggregator) -> Aggregator:
    start(aggregator, "all", npm_server("everything"))
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


def test_the_filesystem_server_reads_in_its_folder_alone(aggregator: Aggregator, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "note.txt").write_text("Grüße")
    (tmp_path / "secret.txt").write_text("no")
    start(aggregator, "files", npm_server("filesystem"), str(folder))
    assert aggregator.text("files__read_text_file", arguments={"path": str(folder / "note.txt")}) == "Grüße"
    outside = aggregator.call("files__read_text_file", arguments={"path": str(tmp_path / "secret.txt")})
    assert outside["isError"] and "outside allowed directories" in outside["content"][0]["text"]


def test_the_memory_server_keeps_its_file_through_a_crash(aggregator: Aggregator, tmp_path: Path) -> None:
    kept = tmp_path / "memory.jsonl"
    start(aggregator, "memory", npm_server("memory"), env={"MEMORY_FILE_PATH": str(kept)})
    ada = {"name": "Ada", "entityType": "person", "observations": ["wrote a program"]}
    aggregator.call("memory__create_entities", arguments={"entities": [ada]})
    os.kill(aggregator.state("memory")["pid"], signal.SIGKILL)
    wait_until(lambda: aggregator.state("memory")["restarts"] == 1, SOON, "it was started again")
    graph = aggregator.call("memory__read_graph")["structuredContent"]
    assert [entity["name"] for entity in graph["entities"]] == ["Ada"] and "Ada" in kept.read_text()


def test_the_time_server_of_another_sdk_is_spoken_to(aggregator: Aggregator) -> None:
    start(aggregator, "time", time_server())
    arguments = {"source_timezone": "Europe/Berlin", "time": "12:00", "target_timezone": "Asia/Tokyo"}
    answer = json.loads(aggregator.text("time__convert_time", arguments=arguments))
    assert answer["target"]["timezone"] == "Asia/Tokyo"
    wrong = aggregator.call("time__get_current_time", arguments={"timezone": "Nowhere/Else"})
    assert wrong["isError"]


def test_four_servers_run_side_by_side_and_one_that_ends_harms_no_other(aggregator: Aggregator, tmp_path: Path) -> None:
    start(aggregator, "all", npm_server("everything"))
    start(aggregator, "files", npm_server("filesystem"), str(tmp_path))
    start(aggregator, "memory", npm_server("memory"), env={"MEMORY_FILE_PATH": str(tmp_path / "kept")})
    aggregator.raw("bad", "exit", auto_start=True)
    wait_until(lambda: bool(aggregator.state("bad")["error"]), SOON, "the bad one failed")
    assert aggregator.text("all.echo", arguments={"message": "hi"}) == "Echo: hi"
    assert str(tmp_path) in aggregator.text("files.list_allowed_directories")
    assert aggregator.call("memory.read_graph")["structuredContent"] == {"entities": [], "relations": []}
    assert len({aggregator.state(mcp_id)["pid"] for mcp_id in ("all", "files", "memory")}) == 3
