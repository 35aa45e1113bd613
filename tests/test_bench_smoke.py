"""The benchmark, run with tiny counts: it measures all that it promises, and takes no failure for a fast answer."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bench import (
    guard_part,
    mcp_part,
    peers,
    ssh_command_part,
    ssh_fanout_part,
    ssh_mcp_part,
    ssh_shell_part,
    startup_part,
    tokens_part,
    upstream_part,
)
from bench.__main__ import measured
from bench.effort import Effort, quick
from bench.load import Job
from bench.table import Line, Missing, Part, Row, Values, render
from support.relay import RelayProcess
from support.sshd import KeyPair

PROGRAM = Path(__file__).resolve().parent / "bench" / "__main__.py"
FASTER = Row("calls", "them", "/s", 6, at_least=True)
LEANER = Row("memory", "them", "MiB", 0.5)


def bench(part: Part, file: Path, **settings: Any) -> tuple[str, list[dict[str, Any]]]:
    """Run one part as a user would; gives what was printed, and the rows of the JSON file."""
    command = [sys.executable, str(PROGRAM), "--quick", "--only", part.name, "--json", str(file)]
    run = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, **settings)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout, json.loads(file.read_text())["rows"]


SSH_PARTS = [ssh_command_part.PART, ssh_mcp_part.PART, ssh_fanout_part.PART, ssh_shell_part.PART, tokens_part.PART]
PARTS = [mcp_part.PART, startup_part.PART, guard_part.PART, upstream_part.PART, *SSH_PARTS]
WHOLE = [mcp_part.PART, startup_part.PART]
"""Those whose peers are there without an installation."""


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_every_row_of_the_benchmark_is_printed_with_its_values_or_the_peer_that_is_missing(
    part: Part, tmp_path: Path
) -> None:
    if part not in SSH_PARTS and not all(map(importlib.util.find_spec, ("mcp", "uvicorn"))):
        pytest.skip("needs the Python SDK and uvicorn, which FleetShell is compared with")
    if part in SSH_PARTS and not (
        shutil.which("ssh") and shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    ):
        pytest.skip("needs ssh and sshd")
    printed, rows = bench(part, tmp_path / "bench.json")
    assert [(row["what"], row["peer"]) for row in rows] == [(row.what, row.peer) for row in part.rows]
    for row in rows:
        # Peers are installed by a full run alone, so a test must do without them; nothing else may be missing.
        assert row["problem"].startswith("skipped: ") or (
            row["problem"] == "" and row["ours"] > 0 and row["theirs"] > 0
        )
    if part in WHOLE:
        assert all(row["problem"] == "" for row in rows)
    table = printed.splitlines()
    for promised in part.rows:
        assert any(line.startswith(promised.what) and promised.peer in line for line in table), printed
    assert "Python 3." in table[-1]


def test_what_needs_no_peer_that_must_be_installed_is_always_measured(tmp_path: Path) -> None:
    if not (shutil.which("ssh") and shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")):
        pytest.skip("needs ssh and sshd")
    _, rows = bench(ssh_command_part.PART, tmp_path / "bench.json")
    assert [row["peer"] for row in rows if row["peer"].startswith("ssh -S") and row["ours"]] == [
        "ssh -S, p50",
        "ssh -S",
    ]


def test_without_a_peer_its_rows_say_why_they_were_skipped(tmp_path: Path) -> None:
    printed, rows = bench(ssh_command_part.PART, tmp_path / "bench.json", env={"PATH": str(tmp_path)})
    assert {row["problem"] for row in rows} == {"skipped: needs the program ssh"}
    assert printed.count("skipped: needs the program ssh") == len(ssh_command_part.ROWS)


def test_a_part_that_breaks_fails_its_rows_and_says_why_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    def breaks(folder: Path, effort: Effort) -> Values:
        raise OSError("no space left")

    lines = measured(Part("broken", (FASTER, LEANER), breaks), quick())
    assert [line.problem for line in lines] == ["FAILED: OSError"] * 2
    assert "no space left" in capsys.readouterr().err


def test_one_missing_peer_skips_its_own_row_alone() -> None:
    def measure(folder: Path, effort: Effort) -> Values:
        return {FASTER: Missing("needs the program them"), LEANER: (1.0, 4.0)}

    lines = measured(Part("half", (FASTER, LEANER), measure), quick())
    assert [(line.problem, line.met) for line in lines] == [("skipped: needs the program them", None), ("", True)]


def test_the_load_generator_does_not_count_errors_as_answers(relay_key: KeyPair, short_tmp: Path) -> None:
    home = peers.make_home(short_tmp / "home", relay_key, "127.0.0.1", 22, "nobody")
    locked = RelayProcess(home, "--no-tls")
    try:
        with pytest.raises(RuntimeError, match="does not do what it was asked.*totp_required"):
            peers.load(
                Job(locked.port, "tools/call", {"name": "list_servers", "arguments": {}}, key=home.api_key, seconds=0.1)
            )
    finally:
        assert locked.stop() == 0


@pytest.mark.parametrize(
    ("row", "ours", "theirs", "met"),
    [(FASTER, 600, 100, True), (FASTER, 599, 100, False), (LEANER, 35, 70, True), (LEANER, 36, 70, False)],
)
def test_a_target_is_met_from_its_limit_on(row: Row, ours: float, theirs: float, met: bool) -> None:
    line = Line(row, ours, theirs)
    assert line.met is met
    assert render([line]).split()[-1] == ("yes" if met else "NO")
