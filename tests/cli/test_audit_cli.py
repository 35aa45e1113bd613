"""`audit` and `audit verify`: filters, rotated files, exit codes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.homes import CliHome, home

from fleetshell_tools.core.home import Home
from fleetshell_tools.offline import open_audit

__all__ = ["home"]
Captured = pytest.CaptureFixture[str]


def act(home: CliHome, count: int = 12) -> None:
    """Records of some commands, in several files."""
    found = Home(home.path)
    audit = open_audit(found, found.config())
    audit.max_bytes = 2000
    for number in range(count):
        server, who = f"web-{number % 2}", "alice" if number % 3 else "bob"
        audit.record("started", durable=True, server_id=server, principal=who, command=f"echo {number}")
        audit.record(
            "finished",
            server_id=server,
            principal="0a1b2c",
            name=who,
            command=f"echo {number}",
            success=number % 4 != 0,
        )
    audit.close()


def shown(home: CliHome, capsys: Captured, *arguments: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert home.run("audit", "--json", *arguments) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_filters_pick_over_all_files(home: CliHome, capsys: Captured) -> None:
    act(home)
    assert (home.path / "logs" / "audit.log.2").exists()
    assert len(shown(home, capsys)) == 20 and len(shown(home, capsys, "-n", "3")) == 3
    assert {r["command"] for r in shown(home, capsys, "--failed")} == {"echo 0", "echo 4", "echo 8"}
    assert {r["server_id"] for r in shown(home, capsys, "--server", "web-1")} == {"web-1"}
    for event in ("started", "finished"):  # by the key's id in the one, by the person's name in the other
        bobs = shown(home, capsys, "--principal", "bob", "--event", event)
        assert [r["command"] for r in bobs] == ["echo 0", "echo 3", "echo 6", "echo 9"]
    everything = shown(home, capsys, "--since", "1h")
    assert [r["seq"] for r in everything] == list(range(1, len(everything) + 1)) and len(everything) > 24
    assert shown(home, capsys, "--since", "2999-01-01T00:00:00Z") == []
    assert len(shown(home, capsys, "--since", "1h", "-n", "2")) == 2


def test_a_time_that_is_none_is_a_usage_error(home: CliHome, capsys: Captured) -> None:
    assert home.run("audit", "--since", "yesterday") == 2
    assert "--since is 'yesterday'" in capsys.readouterr().err


def test_verify_names_file_and_line_and_fails(home: CliHome, capsys: Captured) -> None:
    act(home)
    assert home.run("audit", "verify") == 0
    assert "The audit log is intact" in capsys.readouterr().out
    rotated = home.path / "logs" / "audit.log.1"
    rotated.write_text(rotated.read_text().replace("echo", "ecno"))
    assert home.run("audit", "verify", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["file"]) == (False, "audit.log.1") and found["first_bad_line"] == 2
    assert home.run("audit", "verify") == 1
    assert "NOT intact: Line 2 of audit.log.1 was edited" in capsys.readouterr().out
