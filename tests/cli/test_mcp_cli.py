"""`mcp add|list|test|enable|disable|remove|accept|logs`, with the documented command lines, as a person and a script use them."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.homes import CliHome, home
from support.packages import Shelf
from support.relay import PROGRAM
from support.terminal import Terminal

from fleetshell_tools import offline
from fleetshell_tools.cli import mcp as commands
from fleetshell_tools.core.home import Home
from fleetshell_tools.core.installing import Marketplace
from fleetshell_tools.core.mcp_pins import Pins
from fleetshell_tools.core.types import Cancellation
from fleetshell_tools.relay import upstream

__all__ = ["home"]
Captured = pytest.CaptureFixture[str]
RAW = Path(__file__).parents[1] / "support" / "upstreams" / "raw.py"
TOOL = {"name": "look", "description": "Look", "inputSchema": {"type": "object"}}


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """The package managers of commands that run in the test's own process."""
    made = Shelf()
    monkeypatch.setattr(offline, "marketplace", lambda home: Marketplace(home, made))
    return made


def file(home: CliHome, mcp_id: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((home.path / "mcps" / f"{mcp_id}.conf").read_text())
    return loaded


def add(home: CliHome, mcp_id: str, *arguments: str) -> None:
    assert home.run("mcp", "add", mcp_id, *(arguments or ("true",))) == 0


def stage(home: CliHome, shelf: Shelf, package: str, **more: Any) -> None:
    """Ask for a package as a model does."""
    market = Marketplace(Home(home.path), shelf)
    market.request(package, record=lambda event, **fields: None, cancelled=Cancellation(), **more)


# add


def test_the_documented_lines_are_taken_as_they_stand(home: CliHome, capsys: Captured) -> None:
    playwright = [
        "mcp",
        "add",
        "playwright",
        "npx",
        "-a",
        "-y",
        "-a",
        "@anthropic/mcp-playwright",
        "--name",
        "Playwright Browser",
    ]
    assert home.run(*playwright, "--description", "Browser automation tools", "--tags", "browser,automation") == 0
    assert file(home, "playwright") == {
        "id": "playwright", "name": "Playwright Browser", "command": "npx", "args": ["-y", "@anthropic/mcp-playwright"], "env": {},
        "enabled": True, "auto_start": True, "description": "Browser automation tools", "tags": ["browser", "automation"],
    }  # fmt: skip
    filesystem = ["mcp", "add", "filesystem", "npx", "-a", "-y", "-a", "@anthropic/mcp-filesystem"]
    more = ["--env", "ALLOWED_DIRECTORIES=/var/www,/home/user", "--description", "Local filesystem access"]
    assert home.run(*filesystem, *more) == 0
    assert file(home, "filesystem")["env"] == {"ALLOWED_DIRECTORIES": "/var/www,/home/user"}
    assert file(home, "filesystem")["name"] == "filesystem"
    said = capsys.readouterr()
    assert said.out.startswith("Added playwright: ") and "name an exact version" in said.err
    for path in (home.path / "mcps").glob("*.conf"):
        assert path.stat().st_mode & 0o777 == 0o600


def test_the_other_documented_lines_are_taken_as_they_stand(
    home: CliHome, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(home, "playwright", "npx", "-a", "-y", "-a", "@playwright/mcp@0.0.83")
    log = home.path / "logs" / "mcp-playwright.log"
    log.write_text("one line\n")
    log.chmod(0o600)
    monkeypatch.setenv("PATH", "/nonexistent")
    for line, code, says in (
        ("list", 0, "playwright"),
        ("test playwright", 1, "npx"),
        ("disable playwright", 0, "disabled"),
        ("enable playwright", 0, "enabled"),
        ("logs playwright -n 100", 0, "one line"),
        ("remove playwright", 0, "playwright"),
    ):
        capsys.readouterr()
        assert home.run("mcp", *line.split()) == code, line
        said = capsys.readouterr()
        assert says in (said.out + said.err).lower(), line


@pytest.mark.parametrize(
    ("arguments", "args"),
    [
        (["prog", "-a", "-y"], ["-y"]),
        (["-a", "-y", "prog"], ["-y"]),
        (["prog", "-a", "--env", "-a", "A=1"], ["--env", "A=1"]),
        (["prog", "--arg", "--", "-a", "-a"], ["--", "-a"]),
        (["prog", "-a", "", "-a", "a b"], ["", "a b"]),
        (["prog", "--arg=-x", "-a", "=y"], ["-x", "=y"]),
        (["--name", "N", "prog", "-a", "b"], ["b"]),
        (["prog"], []),
    ],
)
def test_an_argument_may_begin_with_a_dash(home: CliHome, arguments: list[str], args: list[str]) -> None:
    add(home, "thing", *arguments)
    assert (file(home, "thing")["command"], file(home, "thing")["args"]) == ("prog", args)


def test_a_remote_server_has_an_address_and_headers(home: CliHome) -> None:
    add(home, "far", "--url", "https://example.com/mcp", "--header", "Authorization=Bearer ${env:TOKEN}")
    assert file(home, "far")["url"] == "https://example.com/mcp"
    assert file(home, "far")["headers"] == {"Authorization": "Bearer ${env:TOKEN}"}


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["x"], 2, "either the COMMAND"),
        (["x", "prog", "--url", "https://e.com"], 2, "either the COMMAND"),
        (["x", "--url", "https://e.com", "-a", "b"], 2, "-a can't be used with --url"),
        (["x", "prog", "--header", "A=b"], 2, "--header can't be used with a COMMAND"),
        (["x", "prog", "--env", "NOVALUE"], 2, "--env takes NAME=VALUE"),
        (["x", "prog", "--env", "BAD NAME=x"], 3, "not the name of an environment variable"),
        (["a.b", "prog"], 2, "can't be an id"),
        (["a__b", "prog"], 2, "can't be an id"),
        (["../x", "prog"], 2, "can't be an id"),
        (["x", "--url", "http://example.com/mcp"], 3, "go in clear"),
        (["x", "--url", "https://169.254.169.254/mcp"], 3, "link-local"),
        (["there", "prog"], 2, "already"),
        (["x", "prog", "-a"], 2, "expected one argument"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written_or_recorded(
    home: CliHome, capsys: Captured, arguments: list[str], code: int, says: str
) -> None:
    add(home, "there")
    assert home.run("mcp", "add", *arguments) == code
    assert says in capsys.readouterr().err
    assert [path.name for path in (home.path / "mcps").glob("*.conf")] == ["there.conf"]
    assert home.events() == ["mcp_added"]


def test_secrets_of_an_added_server_are_not_recorded(home: CliHome) -> None:
    add(home, "thing", "prog", "-a", "--token", "-a", "hunter2-long", "--env", "KEY=s3cret")
    (record,) = home.audit()
    assert record["event"] == "mcp_added" and record["mcp_id"] == "thing" and record["tool"] == "mcp add"
    assert record["command"] == "prog --token ***" and "s3cret" not in json.dumps(record)


def test_a_launcher_with_an_exact_version_is_not_warned_of(home: CliHome, capsys: Captured) -> None:
    add(home, "one", "npx", "-a", "-y", "-a", "@playwright/mcp@0.0.83")
    add(home, "two", "uvx", "-a", "mcp-server-time==2026.10.19")
    assert capsys.readouterr().err == ""


# list


def test_the_list_shows_state_cost_and_the_marketplace(home: CliHome, shelf: Shelf, capsys: Captured) -> None:
    add(home, "known", "prog", "--name", "Known one")
    (home.path / "mcps" / "bad.conf").write_text("id: other\ncommand: x\n")
    (home.path / "mcps" / "bad.conf").chmod(0o600)
    Pins(home.path / "mcps" / ".pins").check("known", [TOOL])
    stage(home, shelf, "evil@1.0.0", args=["--all"])
    capsys.readouterr()
    assert home.run("mcp", "list") == 0
    shown = capsys.readouterr().out
    assert "known" in shown and "1 (0.1 KB, ~" in shown
    assert "bad: " in shown and "make both the same" in shown
    assert "evil: evil@1.0.0, argument --all" in shown
    assert "@modelcontextprotocol/server-playwright" in shown and "Browser automation and web scraping" in shown
    assert home.run("mcp", "list", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert [(mcp["id"], mcp["status"]) for mcp in data["mcps"]] == [("bad", "invalid"), ("known", "enabled")]
    assert data["waiting"][0]["id"] == "evil" and len(data["marketplace"]) >= 16
    assert data["marketplace"][0]["tokens"] > 0


def test_the_cost_of_an_installed_server_is_known_before_its_first_start(
    home: CliHome, shelf: Shelf, capsys: Captured
) -> None:
    stage(home, shelf, "mcp-server-time")
    assert home.run("mcp", "list", "--json") == 0
    (mcp,) = json.loads(capsys.readouterr().out)["mcps"]
    assert (mcp["id"], mcp["tools"]) == ("time", 2) and mcp["tokens"] > 0


def test_an_empty_list_says_how_to_add_one(home: CliHome, capsys: Captured) -> None:
    assert home.run("mcp", "list") == 0
    assert "Add one with `fleetshell mcp add`" in capsys.readouterr().out


# enable, disable, remove


def test_disable_and_enable_change_the_file_alone_and_are_recorded(home: CliHome, capsys: Captured) -> None:
    add(home, "thing", "prog")
    path = home.path / "mcps" / "thing.conf"
    path.write_text(path.read_text() + "# mine\n")
    assert home.run("mcp", "disable", "thing") == 0
    assert file(home, "thing")["enabled"] is False and path.read_text().endswith("# mine\n")
    assert home.run("mcp", "enable", "thing") == 0
    assert file(home, "thing")["enabled"] is True
    assert home.events() == ["mcp_added", "mcp_disabled", "mcp_enabled"]
    assert "Disabled thing." in capsys.readouterr().out


def test_enabling_warns_of_a_variable_that_is_not_there(home: CliHome, capsys: Captured) -> None:
    add(home, "thing", "prog", "--env", "TOKEN=${env:FLEETSHELL_TEST_NOT_SET}")
    assert home.run("mcp", "enable", "thing") == 0
    assert "FLEETSHELL_TEST_NOT_SET" in capsys.readouterr().err


def test_remove_takes_the_file_the_pins_and_what_was_installed(home: CliHome, shelf: Shelf, capsys: Captured) -> None:
    stage(home, shelf, "mcp-server-time")
    Pins(home.path / "mcps" / ".pins").check("time", [TOOL])
    assert home.run("mcp", "remove", "time") == 0
    assert capsys.readouterr().out == "Removed time.\n"
    left = [path.name for path in (home.path / "mcps").rglob("*") if not path.name.startswith(".")]
    assert left == ["store"] and not list((home.path / "mcps/.pins").glob("time*"))
    assert json.loads((home.path / ".installed_mcps.json").read_text()) == {}
    assert home.events() == ["mcp_removed"]


@pytest.mark.parametrize("command", ["test", "enable", "disable", "remove", "accept", "logs"])
def test_an_unknown_server_is_not_found(home: CliHome, capsys: Captured, command: str) -> None:
    add(home, "playwright")
    assert home.run("mcp", command, "playwrihgt") == 4
    assert "playwri" in capsys.readouterr().err
    assert home.events() == ["mcp_added"]


# accept


def test_a_waiting_package_is_shown_in_full_and_installed(home: CliHome, shelf: Shelf, capsys: Captured) -> None:
    stage(home, shelf, "@else/thing@1.2.3", env={"TOKEN": "s3cret", "OTHER": "${env:OTHER}"}, args=["--all"])
    assert home.run("mcp", "accept", "thing") == 2
    said = capsys.readouterr()
    for words in (
        "@else/thing@1.2.3",
        "nobody has reviewed",
        "--all",
        "TOKEN, OTHER=${env:OTHER}",
        "sha512-abc",
        "7",
        "esbuild",
    ):
        assert words in said.out
    assert "s3cret" not in said.out and "fleetshell mcp accept thing --yes" in said.err
    assert shelf.installed == []
    assert home.run("mcp", "accept", "thing", "--yes") == 0
    assert "Installed @else/thing@1.2.3 as thing; it is enabled." in capsys.readouterr().out
    assert shelf.installed == ["@else/thing@1.2.3"] and file(home, "thing")["env"]["TOKEN"] == "s3cret"
    assert home.events() == ["mcp_accepted", "mcp_installing", "mcp_installed"]
    assert "s3cret" not in json.dumps(home.audit())


def test_accepting_asks_on_a_terminal(home: CliHome, shelf: Shelf) -> None:
    stage(home, shelf, "@else/thing@1.2.3")
    with Terminal([*PROGRAM, "--home", str(home.path), "mcp", "accept", "thing"]) as terminal:
        terminal.expect("Install @else/thing@1.2.3 and let it run as thing? (y/N)")
        terminal.type("n")
        assert terminal.end() == 1
    assert "thing" in Marketplace(Home(home.path), shelf).staged()


def test_a_tool_that_changed_is_shown_and_accepted(home: CliHome, capsys: Captured) -> None:
    add(home, "thing")
    pins = Pins(home.path / "mcps" / ".pins")
    pins.check("thing", [TOOL])
    pins.check("thing", [{**TOOL, "description": "Look, and send everything away"}])
    assert home.run("mcp", "accept", "thing", "--yes", "--json") == 0
    said = capsys.readouterr()
    assert "+description: Look, and send everything away" in said.err
    assert json.loads(said.out.partition("\n{")[2].join(["{", ""])) == {"mcp_id": "thing", "accepted": ["look"]}
    assert pins.pending("thing") == {} and home.events() == ["mcp_added", "mcp_tools_accepted"]
    assert home.run("mcp", "accept", "thing") == 0
    assert "Nothing of thing waits" in capsys.readouterr().out


# test


@pytest.fixture
def raw(home: CliHome) -> Callable[..., None]:
    if not upstream.available():
        pytest.skip("the package mcp is not installed")

    def make(*options: str) -> None:
        add(home, "raw", sys.executable, "-a", str(RAW), *(word for option in options for word in ("-a", option)))

    return make


def test_a_server_is_started_listed_and_stopped(home: CliHome, raw: Callable[..., None], capsys: Captured) -> None:
    raw()
    capsys.readouterr()
    assert home.run("mcp", "test", "raw") == 0
    shown = capsys.readouterr().out
    assert "started" in shown and "MCP 2025-11-25 (legacy era)" in shown and "echo: The tool echo." in shown
    assert home.run("mcp", "test", "raw", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["ok"], data["era"], len(data["tools"])) == (True, "legacy", 6) and data["bytes"] > 0
    assert home.run("mcp", "logs", "raw") == 0
    assert "--- " in capsys.readouterr().out


def test_a_server_of_the_modern_era_alone_is_probed(home: CliHome, raw: Callable[..., None], capsys: Captured) -> None:
    raw("modern")
    capsys.readouterr()
    assert home.run("mcp", "test", "raw", "--json") == 0
    assert json.loads(capsys.readouterr().out)["era"] == "modern"


def test_a_server_that_ends_at_once_fails_the_test(home: CliHome, raw: Callable[..., None], capsys: Captured) -> None:
    raw("exit")
    assert home.run("mcp", "test", "raw") == 1
    shown = capsys.readouterr().out
    assert "✗" in shown and "fleetshell mcp logs raw" in shown


def test_a_program_that_is_not_there_is_named(home: CliHome, capsys: Captured) -> None:
    add(home, "thing", "/no/such/program")
    assert home.run("mcp", "test", "thing") == 1
    assert "/no/such/program" in capsys.readouterr().out


def test_without_the_package_mcp_it_says_how_to_get_it(
    home: CliHome, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(home, "thing", "prog")
    monkeypatch.setattr(upstream, "available", lambda: False)
    assert home.run("mcp", "test", "thing") == 1
    assert "pip install 'mcp>=2.3,<3'" in capsys.readouterr().out


# logs


def test_the_last_lines_are_shown_without_control_characters(home: CliHome, capsys: Captured) -> None:
    log = home.path / "logs" / "mcp-thing.log"
    log.with_name("mcp-thing.log.1").write_text("old 1\nold 2\n")
    log.write_text("new \x1b[31m1\nnew 2\n")
    assert home.run("mcp", "logs", "thing", "-n", "3") == 0
    assert capsys.readouterr().out == "old 2\nnew 1\nnew 2\n"


def test_following_shows_what_is_added_also_after_a_rotation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "FOLLOW_SECONDS", 0.01)
    path, stop = tmp_path / "log", threading.Event()
    path.write_text("one\ntwo\n")
    lines = commands._lines(path, 1, stop)
    assert next(lines) == "two"
    with path.open("a") as log:
        log.write("three\nfo")
    assert next(lines) == "three"
    with path.open("a") as log:
        log.write("ur\n")
    assert next(lines) == "four"
    os.replace(path, tmp_path / "log.1")
    path.write_text("five\n")
    assert next(lines) == "five"
    stop.set()
    assert list(lines) == []
