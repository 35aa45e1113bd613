"""The marketplace tools: first lines as documented, what installs at once, what waits for the operator, what is refused."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from support.packages import Shelf

from fleetshell_tools import marketplace
from fleetshell_tools.catalog import TOOLS
from fleetshell_tools.core.config import Config
from fleetshell_tools.core.context import NoUpstreams
from fleetshell_tools.core.errors import BadArgument, ConfigError, FleetShellError, NotFound, Refused
from fleetshell_tools.core.home import FOLDERS, Home
from fleetshell_tools.core.installing import MOST_WAITING, Marketplace
from fleetshell_tools.core.mcps import McpStore
from fleetshell_tools.core.storage import try_lock
from fleetshell_tools.core.tool import Tool
from fleetshell_tools.core.types import Cancellation

S = "@modelcontextprotocol/server-"
CONTRACT = {
    "browse_mcp_marketplace": (set(), {"search_query", "category"}, {"packages", "count"}),
    "install_mcp": (
        {"package_name"},
        {"auto_configure", "mcp_id", "env", "args"},
        {"mcp_id", "package_name", "version", "installed", "enabled", "tools"},
    ),
}
"""Required arguments, other arguments and the least of `structuredContent`, as documented."""

SECRETS = ("GITHUB_PERSONAL_ACCESS_TOKEN", "SLACK_BOT_TOKEN", "SLACK_TEAM_ID", "BRAVE_API_KEY", "DSN", "KUBECONFIG")


class Started:
    """In place of running upstreams: every server starts and lists two tools."""

    def describe(self, mcp_id: str | None = None, query: str = "") -> list[dict[str, Any]]:
        return [{"id": mcp_id, "tools": [{"name": "look"}, {"name": "say"}], "error": None}]


@dataclass
class Surroundings:
    """As much of a `Context` as these tools use."""

    home: Home
    shelf: Shelf
    marketplace: Marketplace
    upstreams: Any = field(default_factory=Started)
    config: Config = field(default_factory=Config)
    cancelled: Cancellation = field(default_factory=Cancellation)
    written: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def record(self, event: str, **fields: Any) -> None:
        self.written.append((event, fields))

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.written]

    def file(self, mcp_id: str) -> dict[str, Any]:
        loaded: dict[str, Any] = yaml.safe_load((self.home.path / "mcps" / f"{mcp_id}.conf").read_text())
        return loaded

    @property
    def tracking(self) -> dict[str, Any]:
        path = self.home.path / ".installed_mcps.json"
        loaded: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return loaded


@pytest.fixture
def ctx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Surroundings:
    for name in SECRETS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    home = Home(tmp_path / "home")
    for folder in ("", *FOLDERS):
        (home.path / folder).mkdir(0o700)
    shelf = Shelf()
    return Surroundings(home, shelf, Marketplace(home, shelf))


def call(tool: Tool, ctx: Any, **arguments: Any) -> Any:
    """Call a tool as the relay does, and check that what it returns conforms to its schema."""
    output = tool.function(ctx, **tool.arguments(arguments))
    structured = json.loads(json.dumps(output.structured(), allow_nan=False))
    Draft202012Validator(tool.definition()["outputSchema"]).validate(structured)
    return output


def install(ctx: Surroundings, package: str, **arguments: Any) -> Any:
    return call(marketplace.install_mcp, ctx, package_name=package, **arguments)


def browse(ctx: Surroundings, **arguments: Any) -> Any:
    return call(marketplace.browse_mcp_marketplace, ctx, **arguments)


def accept(ctx: Surroundings, mcp_id: str) -> Any:
    plan = ctx.marketplace.staged()[mcp_id]
    return ctx.marketplace.accept(plan, record=ctx.record, cancelled=ctx.cancelled)


@pytest.mark.parametrize("name", CONTRACT)
def test_the_tools_are_declared_as_documented(name: str) -> None:
    tool = next(tool for tool in TOOLS if tool.name == name)
    required, others, least = CONTRACT[name]
    schema = tool.definition()["inputSchema"]
    assert set(schema.get("required", ())) == required
    assert set(schema["properties"]) == required | others
    assert least <= set(tool.definition()["outputSchema"]["properties"])


# browsing


def test_everything_is_listed_as_documented(ctx: Surroundings) -> None:
    output = browse(ctx)
    lines = output.text().splitlines()
    assert lines[0] == f"{output.count} MCP servers available:"
    assert lines[1:3] == [
        "- Playwright - Browser automation and web scraping",
        "- GitHub - GitHub API integration",
    ]
    keys = {"package_name", "id", "name", "description", "category", "installed", "replaced_by", "requires"}
    assert all(keys <= set(package) for package in output.packages)
    github = next(package for package in output.packages if package["id"] == "github")
    assert github["requires"] == {"env": ["GITHUB_PERSONAL_ACCESS_TOKEN"]}
    assert github["replaced_by"] == "https://api.githubcopilot.com/mcp/"
    assert len(json.dumps(output.structured())) < ctx.config.security.max_output_bytes


def test_searching_finds_the_documented_two(ctx: Surroundings) -> None:
    lines = browse(ctx, search_query="browser").text().splitlines()
    assert lines == [
        "Found 2 matching MCPs:",
        "- Playwright: Browser automation and web scraping",
        "- Puppeteer: Advanced browser automation",
    ]


def test_a_search_without_result_says_how_to_see_all(ctx: Surroundings) -> None:
    output = browse(ctx, search_query="nosuchword")
    assert (output.count, output.text().splitlines()[0]) == (0, "Found 0 matching MCPs")
    assert "without arguments" in output.notice


def test_what_is_installed_is_marked_and_a_category_selects(ctx: Surroundings) -> None:
    install(ctx, f"{S}memory")
    output = browse(ctx, category="ai")
    assert {package["id"]: package["installed"] for package in output.packages} == {
        "memory": True,
        "sequential-thinking": False,
    }


# installing


def test_a_package_of_the_marketplace_is_installed_at_once_as_documented(ctx: Surroundings) -> None:
    output = install(ctx, f"{S}playwright", auto_configure=True)
    lines = output.text().splitlines()
    assert lines[0] == "Successfully installed Playwright MCP"
    assert lines[1] == f"- Package: {S}playwright"
    assert "- ID: playwright" in lines and "- Status: Enabled and ready to use" in lines
    assert (output.installed, output.enabled, output.tools) == (True, True, ["look", "say"])
    assert "was never published; @playwright/mcp" in output.notice
    file = ctx.file("playwright")
    assert Path(file["command"]) == ctx.home.path / "mcps/store/playwright/0.0.83/playwright-mcp"
    assert (file["enabled"], file["args"]) == (True, ["--headless", "--isolated"])
    assert ctx.shelf.installed == ["@playwright/mcp@0.0.83"]
    assert ctx.events == ["mcp_installing", "mcp_installed"]
    assert ctx.written[0][1]["command"] == "install @playwright/mcp@0.0.83 --headless --isolated"
    tracked = ctx.tracking["playwright"]
    assert (tracked["package_name"], tracked["mcp_id"]) == (f"{S}playwright", "playwright")
    assert tracked["installed_package"] == "@playwright/mcp" and tracked["installed_at"].endswith("Z")


def test_without_auto_configure_a_disabled_file_is_written_and_tracked(ctx: Surroundings) -> None:
    output = install(ctx, f"{S}github", auto_configure=False)
    assert output.text().splitlines()[0] == "Package installed. Manual configuration required in ~/.fleetshell/mcps/"
    assert (output.installed, output.enabled) == (True, False)
    assert ctx.file("github")["enabled"] is False
    assert ctx.tracking["github"]["package_name"] == f"{S}github"


@pytest.mark.parametrize(
    "name", ["playwright", "github", "postgres", "filesystem", "slack", "memory", "puppeteer", "brave-search"]
)
def test_each_documented_name_is_installed_or_says_by_what_it_is_replaced_and_why(ctx: Surroundings, name: str) -> None:
    output = install(ctx, S + name)
    assert output.installed and output.text().startswith("Successfully installed ")
    assert ctx.tracking[name]["package_name"] == S + name
    assert output.package == S + name or (f"{S}{name} " in output.notice and output.package in output.text())
    McpStore(ctx.home.path / "mcps").get(name)


def test_a_missing_secret_is_named_and_the_server_stays_disabled(ctx: Surroundings) -> None:
    output = install(ctx, f"{S}slack")
    assert (output.installed, output.enabled, output.tools) == (True, False, [])
    assert "SLACK_BOT_TOKEN" in output.status and "SLACK_TEAM_ID" in output.status
    assert "fleetshell mcp enable slack" in output.notice
    assert ctx.file("slack")["env"]["SLACK_BOT_TOKEN"] == "${env:SLACK_BOT_TOKEN}"


def test_a_secret_in_the_relays_environment_is_enough(ctx: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_PERSONAL_ACCESS_TOKEN", "ghp_secret")
    assert install(ctx, f"{S}github").enabled
    file = ctx.file("github")
    assert file["url"].startswith("https://")
    assert file["headers"] == {"Authorization": "Bearer ${env:GITHUB_PERSONAL_ACCESS_TOKEN}"}
    assert "ghp_secret" not in json.dumps(ctx.written)


def test_a_missing_browser_is_named_but_does_not_keep_it_from_being_enabled(ctx: Surroundings) -> None:
    del ctx.shelf.versions["google-chrome"]
    output = install(ctx, f"{S}playwright")
    assert output.enabled and output.status.startswith("Enabled and ready to use, except")
    assert "It needs Google Chrome, which is not on this machine" in output.status


@pytest.mark.parametrize(
    ("versions", "says"),
    [
        ({"node": "20.1.0"}, "Node.js 22.5 or newer, and this machine has 20.1.0"),
        ({}, "Node.js 22.5 or newer, which is not on this"),
    ],
)
def test_a_machine_that_lacks_something_is_told_before_anything_is_fetched(
    ctx: Surroundings, versions: dict[str, str], says: str
) -> None:
    ctx.shelf.versions = versions
    with pytest.raises(FleetShellError, match=says):
        install(ctx, f"{S}postgres")
    assert (ctx.shelf.calls, ctx.written, ctx.tracking) == ([], [], {})


def test_without_npm_it_says_so(ctx: Surroundings) -> None:
    ctx.shelf.lacks = "It needs Node.js with npm, and there is no npm here."
    with pytest.raises(FleetShellError, match="there is no npm here"):
        install(ctx, f"{S}memory")


def test_a_platform_for_which_it_was_not_built_is_named(ctx: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(FleetShellError, match="linux-x86_64, and this is linux-riscv64"):
        install(ctx, "kubernetes-mcp-server")


def test_what_a_server_keeps_gets_a_folder_of_its_own(ctx: Surroundings) -> None:
    install(ctx, f"{S}memory")
    kept = Path(ctx.file("memory")["env"]["MEMORY_FILE_PATH"])
    assert kept == ctx.home.path / "mcps/store/memory/data/memory.jsonl" and kept.parent.is_dir()
    kept.write_text("{}")
    assert ctx.marketplace.remove("memory") == kept.parent
    assert kept.exists() and not (ctx.home.path / "mcps/memory.conf").exists()
    assert ctx.tracking == {} and [
        path.name for path in (ctx.home.path / "mcps/store/memory").iterdir() if path.is_dir()
    ] == ["data"]


def test_a_failed_installation_leaves_nothing_and_is_recorded(ctx: Surroundings) -> None:
    ctx.shelf.failure = Refused("its hash differs")
    with pytest.raises(Refused):
        install(ctx, f"{S}memory")
    assert ctx.events == ["mcp_installing", "mcp_install_failed"]
    assert ctx.tracking == {} and not (ctx.home.path / "mcps/memory.conf").exists()
    assert not (ctx.home.path / "mcps/store/memory/2026.8.31").exists()
    ctx.shelf.failure = None
    assert install(ctx, f"{S}memory").enabled


def test_a_server_that_does_not_start_is_installed_and_says_why(ctx: Surroundings) -> None:
    ctx.upstreams = NoUpstreams()
    output = install(ctx, f"{S}memory")
    assert output.enabled and "need the Python package mcp" in output.status


def test_installing_twice_changes_nothing(ctx: Surroundings) -> None:
    install(ctx, f"{S}memory")
    McpStore(ctx.home.path / "mcps").set_value("memory", "enabled", False)
    output = install(ctx, f"{S}memory")
    assert ctx.shelf.installed == [f"{S}memory@2026.8.31"]
    assert (output.installed, output.enabled) == (True, False) and "disabled" in output.status


def test_a_second_copy_gets_another_id(ctx: Surroundings) -> None:
    install(ctx, f"{S}memory")
    output = install(ctx, f"{S}memory", mcp_id="memory-2")
    assert output.mcp_id == "memory-2" and set(ctx.tracking) == {"memory", "memory-2"}
    assert "/memory-2/data/" in ctx.file("memory-2")["env"]["MEMORY_FILE_PATH"]


def test_an_id_of_another_server_is_refused(ctx: Surroundings) -> None:
    McpStore(ctx.home.path / "mcps").write({"id": "memory", "command": "mine"})
    with pytest.raises(BadArgument, match="which the operator added"):
        install(ctx, f"{S}memory")
    install(ctx, "mcp-server-time")
    with pytest.raises(BadArgument, match='"time" is mcp-server-time already'):
        install(ctx, f"{S}memory", mcp_id="time")


@pytest.mark.parametrize("mcp_id", ["a.b", "a__b", "../x", "UPPER", "x" * 32, "-x"])
def test_an_impossible_id_is_refused(ctx: Surroundings, mcp_id: str) -> None:
    with pytest.raises(BadArgument, match="can't be an id"):
        install(ctx, f"{S}memory", mcp_id=mcp_id)


def test_an_update_replaces_the_version_before(ctx: Surroundings) -> None:
    install(ctx, f"{S}memory")
    tracking = ctx.tracking
    tracking["memory"]["version"] = "2025.1.1"
    (ctx.home.path / ".installed_mcps.json").write_text(json.dumps(tracking))
    old = ctx.home.path / "mcps/store/memory/2025.1.1"
    old.mkdir()
    install(ctx, f"{S}memory")
    assert ctx.tracking["memory"]["version"] == "2026.8.31" and not old.exists()


def test_two_installations_of_one_id_at_once_are_refused(ctx: Surroundings) -> None:
    folder = ctx.home.path / "mcps/store/memory"
    folder.mkdir(parents=True)
    held = try_lock(folder / ".lock")
    assert held is not None
    try:
        with pytest.raises(FleetShellError, match="being installed right now"):
            install(ctx, f"{S}memory")
    finally:
        os.close(held)


# staging


def test_arguments_of_a_model_wait_for_the_operator(ctx: Surroundings) -> None:
    output = install(ctx, f"{S}filesystem", args=["/srv/www"])
    assert (output.installed, output.enabled, output.staged) == (False, False, True)
    assert "fleetshell mcp accept filesystem" in output.status
    assert not (ctx.home.path / "mcps/filesystem.conf").exists() and ctx.shelf.calls == []
    assert ctx.events == ["mcp_staged"]
    done = accept(ctx, "filesystem")
    assert done.enabled and ctx.file("filesystem")["args"] == ["/srv/www"]
    assert ctx.marketplace.staged() == {}
    assert ctx.events == ["mcp_staged", "mcp_accepted", "mcp_installing", "mcp_installed"]


def test_variables_of_a_model_wait_too_and_their_values_are_in_no_record(ctx: Surroundings) -> None:
    output = install(ctx, f"{S}slack", env={"SLACK_BOT_TOKEN": "xoxb-very-secret", "SLACK_TEAM_ID": "T012345"})
    assert output.staged and "xoxb" not in output.text() + json.dumps(output.structured())
    accept(ctx, "slack")
    assert ctx.file("slack")["env"]["SLACK_BOT_TOKEN"] == "xoxb-very-secret" and ctx.file("slack")["enabled"]
    assert "xoxb" not in json.dumps(ctx.written) + json.dumps(ctx.tracking)


def test_a_token_for_a_remote_server_goes_into_its_header(ctx: Surroundings) -> None:
    install(ctx, f"{S}github", env={"GITHUB_PERSONAL_ACCESS_TOKEN": "ghp_x"})
    accept(ctx, "github")
    assert ctx.file("github")["headers"] == {"Authorization": "Bearer ghp_x"}
    with pytest.raises(BadArgument, match="takes no variable OTHER; it takes GITHUB_PERSONAL_ACCESS_TOKEN"):
        install(ctx, f"{S}github", mcp_id="two", env={"OTHER": "x"})


def test_a_package_that_is_not_in_the_marketplace_waits_with_its_lock(ctx: Surroundings) -> None:
    output = install(ctx, "@else/where-mcp@1.2.3")
    assert output.staged and ctx.shelf.calls == [("resolve", "@else/where-mcp@1.2.3")]
    assert "not in the marketplace" in output.notice
    plan = ctx.marketplace.staged()["where"]
    assert (plan.dependencies, plan.scripts, plan.integrity) == (7, ["esbuild"], "sha512-abc")
    accept(ctx, "where")
    assert ctx.shelf.locks == ["a lock"]
    assert ctx.tracking["where"]["package_name"] == "@else/where-mcp@1.2.3"


def test_what_changes_after_the_operator_looked_is_not_accepted(ctx: Surroundings) -> None:
    install(ctx, "evil@1.0.0", args=["fine"])
    seen = ctx.marketplace.staged()["evil"]
    install(ctx, "evil@1.0.0", args=["not fine"])
    with pytest.raises(Refused, match="has changed meanwhile"):
        ctx.marketplace.accept(seen, record=ctx.record, cancelled=ctx.cancelled)
    assert ctx.shelf.installed == []


def test_only_so_many_wait(ctx: Surroundings) -> None:
    for number in range(MOST_WAITING):
        install(ctx, f"p{number}@1.0.0")
    with pytest.raises(Refused, match="wait for the operator already"):
        install(ctx, "one-more@1.0.0")


def test_a_damaged_staged_file_is_named(ctx: Surroundings) -> None:
    install(ctx, "thing@1.0.0")
    path = ctx.home.path / "mcps/store/thing/staged.json"
    path.write_text("{}")
    with pytest.raises(ConfigError, match="staged.json is damaged"):
        ctx.marketplace.staged()


def test_a_damaged_tracking_file_is_named_and_kept(ctx: Surroundings) -> None:
    path = ctx.home.path / ".installed_mcps.json"
    path.write_text("[]")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=r"\.installed_mcps\.json is damaged"):
        install(ctx, f"{S}memory")
    assert path.read_text() == "[]"


REFUSED: list[tuple[str, dict[str, Any], type[FleetShellError], str]] = [
    ("unknown-mcp", {}, BadArgument, "not in the marketplace"),
    (f"{S}playwrigth", {}, BadArgument, 'Did you mean "@modelcontextprotocol/server-playwright"'),
    ("@playwright/mcp@latest", {}, BadArgument, "exact version"),
    ("git+https://example.com/x.git", {}, BadArgument, "repository"),
    (f"{S}filesystem", {"args": ["/"]}, Refused, "TOTP secret"),
    (f"{S}filesystem", {"args": ["{home}/mcps"]}, Refused, "TOTP secret"),
    (f"{S}memory", {"env": {"MEMORY_FILE_PATH": "{home}/config.yaml"}}, Refused, "TOTP secret"),
    (f"{S}memory", {"env": {"BAD NAME": "x"}}, ConfigError, "not the name of an environment variable"),
    (f"{S}memory", {"args": ["a\x01b"]}, ConfigError, "control character"),
    (f"{S}memory", {"args": ["x" * 40_000]}, BadArgument, "longer than"),
]


@pytest.mark.parametrize(("package", "arguments", "error", "says"), REFUSED)
def test_what_must_not_be_is_refused_and_leaves_no_trace(
    ctx: Surroundings, package: str, arguments: dict[str, Any], error: type[FleetShellError], says: str
) -> None:
    given = json.loads(json.dumps(arguments).replace("{home}", str(ctx.home.path)))
    with pytest.raises(error, match=says):
        install(ctx, package, **given)
    assert (ctx.shelf.calls, ctx.written, ctx.tracking, ctx.marketplace.staged()) == ([], [], {}, {})


def test_a_record_that_cannot_be_written_stops_the_installation(
    ctx: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(event: str, **fields: Any) -> None:
        raise FleetShellError("the audit log is full")

    monkeypatch.setattr(ctx, "record", full)
    with pytest.raises(FleetShellError, match="audit log is full"):
        install(ctx, f"{S}memory")
    assert ctx.shelf.calls == []


def test_nothing_waits_under_an_unknown_id(ctx: Surroundings) -> None:
    install(ctx, "thing@1.0.0")
    plan = ctx.marketplace.staged()["thing"]
    ctx.marketplace.remove("thing")
    with pytest.raises(NotFound):
        ctx.marketplace.accept(plan, record=ctx.record, cancelled=ctx.cancelled)
    with pytest.raises(NotFound):
        ctx.marketplace.remove("thing")
