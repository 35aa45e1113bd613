"""The relay's protocol passes the official conformance suites and the Inspector's strict reading."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.relay import RelayProcess, make_home

from fleetshell_tools.cli.connect import MCP_REMOTE

from . import programs, suite
from .registry import serving

KEY = "conformance-key"
ERAS = ("legacy", "auto", "modern")
WITHOUT_FIXTURES = {
    "2025-11-25": "server-initialize ping server-session-lifecycle tools-list prompts-list resources-list",
    "2026-07-28": "caching tools-list prompts-list resources-list sep-2164-resource-not-found "
    "input-required-result-unsupported-methods",
}
"""Scenarios of each revision that a server can pass as it is."""

pytestmark = pytest.mark.timeout(150)


@pytest.fixture(scope="module", autouse=True)
def the_programs() -> None:
    programs.need()


@pytest.mark.parametrize("key", ["", KEY], ids=["open", "with_a_key"])
@pytest.mark.parametrize("revision", ["2025-11-25", "2026-07-28"])
def test_every_scenario_that_a_revision_requires_passes(revision: str, key: str, tmp_path: Path) -> None:
    with serving(key) as url:
        report = suite.run(programs.SUITE, url, tmp_path, "--requirements", revision, key=key)
    faults = report.faults(suite.required_by(revision))
    assert not faults, "\n".join(faults)
    assert report.returncode == 0, report.output


def test_every_scenario_of_the_stable_suite_passes(tmp_path: Path) -> None:
    with serving() as url:
        report = suite.run(programs.SUITE_STABLE, url, tmp_path, "--suite", "all")
    assert len(report.scenarios) >= 30, report.output
    faults = report.faults(set(report.scenarios))
    assert not faults, "\n".join(faults)
    assert report.returncode == 0, report.output


@pytest.fixture
def open_relay(tmp_path: Path) -> Iterator[RelayProcess]:
    """A relay without a second factor, which the suite does not have."""
    home = make_home(tmp_path / "home")
    home.run("auth", "disable")
    relay = RelayProcess(home)
    yield relay
    assert relay.stop() == 0


@pytest.mark.parametrize("revision", WITHOUT_FIXTURES)
def test_the_relay_itself_passes_what_needs_no_fixtures(
    revision: str, open_relay: RelayProcess, tmp_path: Path
) -> None:
    home = open_relay.home
    for scenario in WITHOUT_FIXTURES[revision].split():
        folder = tmp_path / scenario
        folder.mkdir()
        report = suite.run(
            *(programs.SUITE, open_relay.url, folder, "--scenario", scenario, "--spec-version", revision),
            key=home.api_key,
            certificate=home.certificate,
        )
        assert not report.faults({scenario}), "\n".join(report.faults({scenario}))


def test_the_suite_is_told_that_a_wrong_key_is_refused(tmp_path: Path) -> None:
    with serving(KEY) as url:
        report = suite.run(programs.SUITE, url, tmp_path, "--scenario", "ping", key="another")
    assert report.returncode != 0
    assert report.faults({"ping"})


def test_the_mcp_remote_that_is_tested_is_the_one_that_connect_info_names() -> None:
    wanted = json.loads((programs.HERE / "package.json").read_text())["dependencies"]["mcp-remote"]
    assert f"mcp-remote@{wanted}" == MCP_REMOTE


@pytest.fixture
def fixtures() -> Iterator[str]:
    with serving(KEY) as url:
        yield url


@pytest.mark.parametrize("era", ERAS)
def test_the_inspector_finds_nothing_wrong_with_the_fixtures(era: str, fixtures: str, tmp_path: Path) -> None:
    tools = inspect(fixtures, KEY, era, tmp_path)
    assert "test_simple_text" in {tool["name"] for tool in tools}


@pytest.mark.parametrize("era", ERAS)
def test_the_inspector_finds_nothing_wrong_with_the_relays_tools(era: str, relay: RelayProcess, tmp_path: Path) -> None:
    certificate = {"NODE_EXTRA_CA_CERTS": str(relay.home.certificate)}
    tools = inspect(relay.url, relay.home.api_key, era, tmp_path, certificate)
    assert {"authenticate", "list_servers", "execute_command"} <= {tool["name"] for tool in tools}


def inspect(url: str, key: str, era: str, folder: Path, more: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """The tools that the Inspector lists; it fails where it judges one of their schemas to be faulty."""
    command = [
        *(programs.node(), str(programs.INSPECTOR), "--cli", "--server-url", url, "--transport", "http"),
        *("--protocol-era", era, "--method", "tools/list", "--strict", "--format", "json"),
        *("--header", f"Authorization: Bearer {key}"),
    ]
    run = subprocess.run(
        command,
        cwd=folder,
        env=programs.environment(folder, more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, f"the Inspector ended with {run.returncode}:\n{run.stdout[-2000:]}\n{run.stderr}"
    tools: list[dict[str, Any]] = json.loads(run.stdout)["result"]["tools"]
    return tools
