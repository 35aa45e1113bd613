"""The files of external MCP servers: what is accepted, what is refused with its line, secrets, changes and pins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fleetshell_tools.core import mcps
from fleetshell_tools.core.errors import BadArgument, ConfigError, FleetShellError, NotFound
from fleetshell_tools.core.mcp_pins import Pins, difference, digest
from fleetshell_tools.core.mcps import McpStore, parse, resolved

DOCUMENTED = """\
id: playwright
name: Playwright Browser Automation
command: npx
args: ["-y", "@playwright/mcp"]
env: {DISPLAY: ":0"}
enabled: true
auto_start: true
description: "Browser automation tools for web scraping and testing"
tags: [browser, automation]
"""


@pytest.fixture
def store(tmp_path: Path) -> McpStore:
    (tmp_path / "mcps").mkdir(0o700)
    return McpStore(tmp_path / "mcps")


def test_the_documented_file_is_read() -> None:
    mcp = parse(DOCUMENTED, "playwright.conf", "playwright")
    assert (mcp.title, mcp.command, mcp.args, mcp.env) == (
        "Playwright Browser Automation",
        "npx",
        ("-y", "@playwright/mcp"),
        {"DISPLAY": ":0"},
    )
    assert mcp.enabled and mcp.auto_start and mcp.tags == ("browser", "automation") and mcp.expose is None


@pytest.mark.parametrize(
    "lines",
    [
        "command: x\nexpose: all",
        "command: x\nexpose: [a, b]",
        "url: https://example.com/mcp\nheaders: {Authorization: 'Bearer ${env:TOKEN}'}",
        "url: http://localhost:3000/mcp",
        "url: http://[::1]/mcp",
        "command: x\nenv: {A: '${file:~/token}', B: '${HOME}', C: 1, D: true}",
    ],
)
def test_what_may_stand_in_a_file(lines: str) -> None:
    assert parse(f"id: a\n{lines}\n", "a.conf", "a").id == "a"


@pytest.mark.parametrize(
    ("lines", "line", "says"),
    [
        ("name: x", 1, "either `command`"),
        ("command: x\nurl: https://e.com", 1, "one of the two"),
        ("command: x\ncomand: y", 3, 'Did you mean "command"'),
        ("command: x\nexpose: some", 3, "all, none, or a list"),
        ("command: x\nheaders: {A: b}", 3, "means nothing with `command`"),
        ("url: https://e.com\nargs: [a]", 3, "means nothing with `url`"),
        ("url: http://example.com/mcp", 2, "in clear"),
        ("url: ftp://example.com", 2, "https://host/path"),
        ("url: 'https://user:hunter2@example.com'", 2, "put credentials into"),
        ("url: https://169.254.169.254/latest", 2, "link-local"),
        ("url: 'https://[::ffff:169.254.169.254]/'", 2, "link-local"),
        ("command: x\nenv: {'A B': c}", 3, "environment variable"),
        ("command: x\nenv:\n  A: '${env:}'", 4, "names nothing"),
        ("url: https://e.com\nheaders: {Mcp-Session-Id: x}", 3, "MCP itself uses"),
        ("command: x\ntimeout: 0", 3, "from 1 to 86400"),
        ("command: x\nenv: [hunter2]", 3, "must be a map"),
    ],
)
def test_a_fault_is_named_with_its_line(lines: str, line: int, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(f"id: a\n{lines}\n", "a.conf", "a")
    assert f"line {line}:" in error.value.message and says in error.value.message
    assert "hunter2" not in error.value.message


@pytest.mark.parametrize("mcp_id", ["a.b", "a__b", "A", "", "-a", "a" * 32, "ü", "a/b", "../a"])
def test_an_id_that_could_mislead_is_refused(store: McpStore, mcp_id: str) -> None:
    with pytest.raises(BadArgument, match="can't be an id"):
        store.write({"id": mcp_id, "command": "x"})
    with pytest.raises(FleetShellError):
        parse(f"id: {json.dumps(mcp_id)}\ncommand: x\n", "x.conf")
    with pytest.raises(NotFound):
        store.get(mcp_id)


def test_files_are_written_changed_and_removed(store: McpStore) -> None:
    before = store.generation()
    store.write({"id": "one", "command": "npx", "args": ["-y", "a,b"], "env": {"K": "a,b=c"}})
    assert store.path("one").stat().st_mode & 0o777 == 0o600
    assert store.get("one").args == ("-y", "a,b") and store.generation() != before
    with pytest.raises(BadArgument, match="already"):
        store.write({"id": "one", "command": "other"})
    store.path("one").write_text("# mine\n" + store.path("one").read_text())
    assert not store.set_value("one", "enabled", False).enabled
    assert not store.get("one").enabled and store.path("one").read_text().startswith("# mine\n")
    store.write({"id": "one", "command": "other"}, replace=True)
    assert store.get("one").command == "other"
    store.remove("one")
    for method in (store.get, store.remove):
        with pytest.raises(NotFound, match="fleetshell mcp add"):
            method("one")


def test_a_bad_file_disables_that_server_alone(store: McpStore) -> None:
    store.write({"id": "good", "command": "x"})
    for name, text in (("bad", "id: bad\n"), ("other", "id: another\ncommand: x\n"), ("A.B", "id: a\ncommand: x\n")):
        store.path(name).write_text(text)
        store.path(name).chmod(0o600)
    good, problems = store.listing()
    assert [mcp.id for mcp in good] == ["good"] and sorted(problems) == ["A.B", "bad", "other"]
    with pytest.raises(ConfigError, match="disabled because"):
        store.get("bad")
    with pytest.raises(NotFound, match='Did you mean "good"'):
        store.get("goood")


def test_a_file_that_others_can_change_is_refused(store: McpStore) -> None:
    store.write({"id": "one", "command": "x"})
    store.path("one").chmod(0o622)
    with pytest.raises(ConfigError, match="chmod 600"):
        store.get("one")


def values(tmp_path: Path, **env: str) -> Any:
    return resolved(mcps.Mcp(id="a", command="x", env=env), tmp_path)


def test_references_are_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "t0ken-of-mine")
    (tmp_path / "mcps").mkdir()
    (tmp_path / "mcps" / "key").write_text("f1le-of-mine\n")
    found, secrets = values(tmp_path, A="x ${env:TOKEN}", B="${file:mcps/key}", C="${HOME} $x", D="1")
    assert found == {"A": "x t0ken-of-mine", "B": "f1le-of-mine", "C": "${HOME} $x", "D": "1"}
    assert {"x t0ken-of-mine", "f1le-of-mine"} <= set(secrets)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("${env:NO_SUCH_ONE}", "environment variable NO_SUCH_ONE"),
        ("${file:/no/such/file}", "No such file"),
        ("${file:relay.key}", "FleetShell's own"),
        ("${file:mcps/../config.yaml}", "FleetShell's own"),
        ("${file:mcps/link}", "FleetShell's own"),
        ("${file:/dev/zero}", "larger than"),
    ],
)
def test_a_reference_that_cannot_be_followed_is_named(tmp_path: Path, value: str, says: str) -> None:
    (tmp_path / "mcps").mkdir()
    (tmp_path / "relay.key").write_text("key")
    (tmp_path / "mcps" / "link").symlink_to(tmp_path / "relay.key")
    with pytest.raises(ConfigError, match=says):
        values(tmp_path, A=value)


TOOL = {"name": "a", "description": "It is a.", "inputSchema": {"type": "object", "properties": {}}}


@pytest.mark.parametrize(
    "change",
    [
        {"description": "It is b."},
        {"inputSchema": {"type": "object"}},
        {"annotations": {"readOnlyHint": True}},
        {"outputSchema": {"type": "object"}},
        {"title": "A"},
    ],
)
def test_every_part_that_a_model_sees_is_pinned(tmp_path: Path, change: dict[str, Any]) -> None:
    pins = Pins(tmp_path / ".pins")
    assert pins.check("one", [TOOL]) == {}
    assert pins.check("one", [{**TOOL, "_meta": {"x": 1}, "icons": []}]) == {}
    assert list(pins.check("one", [{**TOOL, **change}])) == ["a"]
    assert pins.pending("one")["a"] == difference(TOOL, {**TOOL, **change})


def test_the_order_of_keys_does_not_matter() -> None:
    assert digest(TOOL) == digest(dict(reversed(TOOL.items())))


def test_accepting_pins_the_new_definition(tmp_path: Path) -> None:
    pins, changed = Pins(tmp_path / ".pins"), {**TOOL, "description": "new"}
    pins.check("one", [TOOL])
    stamp = pins.stamp("one")
    pins.check("one", [changed])
    with pytest.raises(NotFound, match="Waiting to be accepted: a"):
        pins.accept("one", ["b"])
    assert pins.accept("one") == ["a"] and pins.stamp("one") != stamp
    assert pins.check("one", [changed]) == {} and pins.accept("one") == []
    assert list(pins.check("one", [TOOL])) == ["a"]
    pins.forget("one")
    assert pins.check("one", [changed]) == {}


def test_the_accepted_tools_are_remembered(tmp_path: Path) -> None:
    pins = Pins(tmp_path / ".pins")
    pins.check("one", [TOOL, {**TOOL, "name": "b"}])
    pins.check("one", [{**TOOL, "name": "b", "description": "new"}])
    tools, held = pins.remembered("one")
    assert [tool["name"] for tool in tools] == ["b"] and list(held) == ["b"]
    assert pins.remembered("two") == ([], {})


def test_damaged_pins_are_not_trusted(tmp_path: Path) -> None:
    pins = Pins(tmp_path / ".pins")
    pins.check("one", [TOOL])
    (tmp_path / ".pins" / "one.json").write_text('{"tools": []')
    with pytest.raises(ConfigError, match="damaged"):
        pins.check("one", [TOOL])


def test_a_difference_is_short_and_safe_to_print() -> None:
    lines = difference(TOOL, {**TOOL, "description": "\x1b[2J" + "x\n" * 1000})
    assert len(lines) == 61 and "more lines" in lines[-1] and "\x1b" not in "".join(lines)
