"""The tools that find servers, and what every tool of the catalog has to keep: names, schemas, size, conforming results."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from fleetshell_tools import authentication, commands, discovery, file_writing, files, log_analysis, services
from fleetshell_tools.catalog import TOOLS
from fleetshell_tools.core.config import Config, Defaults
from fleetshell_tools.core.errors import BadArgument, ConfigError, NotFound
from fleetshell_tools.core.notes import NoteStore
from fleetshell_tools.core.scripts import Facts
from fleetshell_tools.core.servers import Inventory, Server
from fleetshell_tools.core.tool import Output, Tool
from fleetshell_tools.core.types import Captured, Completed, ConnectionState, Grant, HostResult

CONTRACT = {
    "authenticate": ({"code"}, set[str](), {"authenticated", "expires_in"}),
    "list_servers": (set(), {"tag", "environment", "os", "reachable"}, {"servers", "count"}),
    "search_servers": (set(), {"query", "tags", "environment", "os", "reachable"}, {"servers", "count"}),
    "get_server_context": ({"server_id"}, set(), {"checks", "learned", "unverified_notes"}),
    "add_server_note": ({"server_id", "note"}, set(), {"server_id", "note", "author", "date"}),
    "run_troubleshooting": (
        {"server_id", "name"},
        {"timeout", "approval_id"},
        {"server_id", "name", "command", "exit_code", "stdout", "stderr", "success", "running", "job_id"},
    ),
    "execute_command": (
        {"server_id", "command"},
        {"timeout", "working_directory", "environment", "stdin"},
        {
            "server_id",
            "command",
            "exit_code",
            "stdout",
            "stderr",
            "success",
            "duration_ms",
            "timed_out",
            "truncated",
            "running",
            "job_id",
        },
    ),
    "multi_server_execute": (
        {"command"},
        {"server_ids", "tags", "environment", "timeout", "max_parallel", "stop_on_failure"},
        {"results", "groups", "succeeded", "failed"},
    ),
    "analyze_logs": (
        {"server_id"},
        {"log_path", "service", "analysis_type", "lines", "since"},
        {"totals", "groups"},
    ),
    "get_service_status": (
        {"server_id", "service_name"},
        set(),
        {
            "service",
            "exists",
            "active_state",
            "sub_state",
            "enabled",
            "main_pid",
            "memory_bytes",
            "since",
            "recent_log",
        },
    ),
    "restart_service": (
        {"server_id", "service_name"},
        {"approval_id"},
        {"before", "after", "success", "recent_log"},
    ),
    "list_services": ({"server_id"}, {"state", "pattern"}, {"services", "count"}),
    "read_file": (
        {"server_id", "path"},
        {"offset", "limit", "max_bytes"},
        {"path", "content", "size_bytes", "sha256", "truncated", "encoding"},
    ),
    "search_files": (
        {"server_id", "path", "pattern"},
        {"type", "max_depth", "max_results", "content"},
        {"matches", "count", "truncated"},
    ),
    "get_file_info": (
        {"server_id", "path"},
        set(),
        {"path", "exists", "type", "size_bytes", "mode", "owner", "group", "modified", "accessed", "target"},
    ),
    "write_file": (
        {"server_id", "path"},
        {"content", "mode", "old_text", "new_text", "expected_sha256", "make_parents", "approval_id"},
        {"path", "created", "size_bytes", "sha256", "backup"},
    ),
}
"""Required arguments, other arguments and the least of `structuredContent`, from section 6 of the contract."""


@dataclass
class KnownConnections:
    """In place of a fleet: these tools only look at what is known of a connection, and connecting to nothing keeps it as given here."""

    states: dict[str, ConnectionState] = field(default_factory=dict)
    pins: dict[str, list[str]] = field(default_factory=dict)
    learned: dict[str, Facts] = field(default_factory=dict)

    def connection_state(self, server: Server) -> ConnectionState:
        return self.states.get(server.id, ConnectionState("idle"))

    def fingerprints(self, server: Server) -> list[str]:
        return self.pins.get(server.id, [])

    def facts(self, server: Server) -> Facts | None:
        return self.learned.get(server.id)

    def last_seen(self, server: Server) -> float | None:
        return None


@dataclass
class Always:
    """In place of TOTP: an authentication that gives this grant to any code."""

    grant: Grant

    def authenticate(self, caller: Any, session_id: str, code: str) -> Grant:
        return self.grant


@dataclass
class Surroundings:
    """As much of a `Context` as these tools use; its inventory and its notes are real ones on real folders."""

    inventory: Inventory
    notes: NoteStore
    fleet: KnownConnections = field(default_factory=KnownConnections)
    auth: Any = None
    caller: Any = None
    session_id: str = "session"
    config: Config = field(default_factory=Config)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "servers"
    path.mkdir(0o700)
    return path


@pytest.fixture
def add(folder: Path) -> Callable[..., None]:
    def write(name: str, **keys: object) -> None:
        path = folder / f"{name}.conf"
        path.write_text(
            "".join(
                f"{key}: {value}\n" for key, value in {"id": name, "hostname": f"{name}.example.com", **keys}.items()
            )
        )
        path.chmod(0o600)

    return write


@pytest.fixture
def ctx(folder: Path) -> Any:
    return Surroundings(Inventory(folder), NoteStore(folder.parent / "notes"))


@pytest.fixture
def fleet(add: Callable[..., None], ctx: Any) -> Any:
    add(
        "db-1",
        tags="[db]",
        context="{environment: production, purpose: 'Orders, and invoices'}",
        services="{postgresql: {port: 5432}}",
    )
    add("web-1", tags="[web, eu]", context="{environment: production}", paths="{site: /srv/www}")
    add("web-2", tags="[web]", context="{environment: staging, notes: 'Runs Größe-Tests'}")
    return ctx


def call(tool: Tool, ctx: Any, **arguments: Any) -> Any:
    """Call a tool as the relay does, and check that what it returns conforms to its schema."""
    output = tool.function(ctx, **tool.arguments(arguments))
    conforms(tool, output)
    return output


def conforms(tool: Tool, output: Output) -> None:
    structured = json.loads(json.dumps(output.structured(), allow_nan=False))
    Draft202012Validator(tool.definition()["outputSchema"]).validate(structured)
    assert output.text().strip()


def first_line(output: Output) -> str:
    return output.text().split("\n")[0]


def ids(output: Any) -> list[str]:
    return [server["id"] for server in output.servers]


# list_servers and search_servers


def test_the_list_begins_with_how_many_were_found(fleet: Any, folder: Path) -> None:
    assert first_line(call(discovery.list_servers, fleet)) == "Found 3 servers"
    (folder / "web-1.conf").unlink()
    (folder / "web-2.conf").unlink()
    assert first_line(call(discovery.list_servers, fleet)) == "Found 1 server"


def test_each_server_stands_in_text_and_in_structured_content(fleet: Any) -> None:
    fleet.fleet.states["db-1"] = ConnectionState("connected")
    output = call(discovery.list_servers, fleet)
    assert output.text().split("\n")[1:] == [
        "- db-1 (db-1.example.com; production; db; connected): Orders, and invoices",
        "- web-1 (web-1.example.com; production; web, eu)",
        "- web-2 (web-2.example.com; staging; web)",
    ]
    assert output.structured()["servers"][0] == {
        "id": "db-1", "hostname": "db-1.example.com", "environment": "production", "tags": ["db"], "purpose": "Orders, and invoices",
        "connection": "connected", "os": None, "last_seen": None,
    }  # fmt: skip
    assert output.count == 3


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ({}, ["db-1", "web-1", "web-2"]),
        ({"tag": "web"}, ["web-1", "web-2"]),
        ({"tag": "WEB"}, ["web-1", "web-2"]),
        ({"environment": "production"}, ["db-1", "web-1"]),
        ({"tag": "web", "environment": "Production"}, ["web-1"]),
        ({"tag": "we"}, []),
        ({"environment": "prod"}, []),
    ],
)
def test_the_list_is_filtered_by_tag_and_environment(fleet: Any, arguments: dict[str, Any], wanted: list[str]) -> None:
    output = call(discovery.list_servers, fleet, **arguments)
    assert ids(output) == wanted
    assert first_line(output) == f"Found {len(wanted)} server{'s' * (len(wanted) != 1)}"


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ({}, ["db-1", "web-1", "web-2"]),
        ({"query": "web-2"}, ["web-2"]),
        ({"query": "db-1.EXAMPLE"}, ["db-1"]),
        ({"query": "invoices"}, ["db-1"]),
        ({"query": "postgresql"}, ["db-1"]),
        ({"query": "5432"}, ["db-1"]),
        ({"query": "/srv/www"}, ["web-1"]),
        ({"query": "größe"}, ["web-2"]),
        ({"query": "web production"}, ["web-1"]),
        ({"query": "web nothing"}, []),
        ({"query": "none"}, []),
        ({"query": "'"}, []),
        ({"query": "ssh_user"}, []),
        ({"tags": ["web", "eu"]}, ["web-1"]),
        ({"tags": '["web", "eu"]'}, ["web-1"]),
        ({"query": "web", "tags": ["web"], "environment": "staging"}, ["web-2"]),
    ],
)
def test_a_search_finds_servers_in_which_every_word_occurs(
    fleet: Any, arguments: dict[str, Any], wanted: list[str]
) -> None:
    assert ids(call(discovery.search_servers, fleet, **arguments)) == wanted


def test_a_disabled_server_is_shown_with_the_reason_where_nothing_was_filtered(
    fleet: Any, add: Callable[..., None]
) -> None:
    add("web-3", hostnam="x")
    output = call(discovery.list_servers, fleet)
    assert first_line(output) == "Found 3 servers"
    assert re.search(r'^- web-3 is disabled: .*web-3.conf, line 3: unknown key "hostnam"', output.text(), re.MULTILINE)
    assert [item["id"] for item in output.structured()["disabled"]] == ["web-3"]
    assert 'unknown key "hostnam"' in output.structured()["disabled"][0]["reason"]
    assert call(discovery.list_servers, fleet, tag="web").disabled == []


def test_without_any_server_the_next_step_is_named(ctx: Any) -> None:
    output = call(discovery.list_servers, ctx)
    assert (
        output.text()
        == "Found 0 servers\nNo server is registered yet. The operator adds one with `fleetshell add-server`."
    )
    assert output.structured()["notice"] in output.text()


def test_of_very_many_servers_the_first_are_shown_and_all_are_counted_and_named(
    ctx: Any, add: Callable[..., None]
) -> None:
    for number in range(205):
        add(f"s{number:03d}")
    output = call(discovery.list_servers, ctx)
    assert (output.count, first_line(output)) == (205, "Found 205 servers")
    shown = len(output.servers)
    assert ids(output) == [f"s{number:03d}" for number in range(shown)]
    assert f"Only the first {shown} are shown" in output.notice and f"s[{shown:03d}-204]" in output.notice
    size = max(len(output.text().encode()), len(json.dumps(output.structured()).encode()))
    assert 12_000 < size < ctx.config.security.max_output_bytes


def test_a_purpose_of_many_lines_takes_one_line_of_the_list(ctx: Any, add: Callable[..., None]) -> None:
    add("a", context='{purpose: "one\\ntwo\\e[31m' + "x" * 300 + '"}')
    assert len(call(discovery.list_servers, ctx).text().split("\n")) == 2
    assert "\x1b" not in call(discovery.list_servers, ctx).text()


# get_server_context


def test_the_context_is_the_files_content_with_pins_and_connection(ctx: Any, add: Callable[..., None]) -> None:
    add(
        "db-1", tags="[db]", ssh_user="ops", ssh_port=2222, ssh_options="{Compression: yes}",
        context="{purpose: Orders, environment: production, owner: {team: data}, services: {cron: {}}}",
        services="{postgresql: {port: 5432}}", paths="{data: /var/lib}", troubleshooting="{size: df -h}", monitoring="{key_metrics: [x]}",
    )  # fmt: skip
    ctx.fleet.states["db-1"] = ConnectionState("failed", last_error="no route", shell="")
    ctx.fleet.pins["db-1"] = ["SHA256:abc (ED25519)"]
    output = call(discovery.get_server_context, ctx, server_id="db-1")
    assert output.structured() == {
        "id": "db-1", "hostname": "db-1.example.com", "tags": ["db"],
        "context": {"purpose": "Orders", "environment": "production", "owner": {"team": "data"}},
        "services": {"cron": {}, "postgresql": {"port": 5432}}, "paths": {"data": "/var/lib"}, "troubleshooting": {"size": "df -h"},
        "monitoring": {"key_metrics": ["x"]}, "checks": ["size"], "ssh": {"user": "ops", "port": 2222, "jump": None, "options": {"Compression": "yes"}},
        "host_keys": ["SHA256:abc (ED25519)"], "connection": {"state": "failed", "shell": None, "last_error": "no route"},
        "learned": {"last_seen": None}, "unverified_notes": [], "notice": None,
    }  # fmt: skip
    for word in ("Orders", "5432", "df -h", "SHA256:abc (ED25519)", "no route", "2222"):
        assert word in output.text()


def test_the_context_of_an_unknown_or_disabled_server_is_an_error_that_helps(
    fleet: Any, add: Callable[..., None]
) -> None:
    with pytest.raises(NotFound, match='Did you mean "web-[12]"'):
        call(discovery.get_server_context, fleet, server_id="web1")
    add("bad", ssh_port="x")
    with pytest.raises(ConfigError, match="The server bad is disabled"):
        call(discovery.get_server_context, fleet, server_id="bad")


def test_a_jump_server_that_is_broken_does_not_hide_the_context(folder: Path, add: Callable[..., None]) -> None:
    ctx = Surroundings(Inventory(folder, Defaults(ssh_user="all", jump="bastion")), NoteStore(folder.parent / "notes"))
    add("web")
    output = call(discovery.get_server_context, ctx, server_id="web")
    assert output.ssh == {"user": "all", "port": 22, "jump": "bastion", "options": {}}


# authenticate


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (3600, "1 hour"),
        (7200, "2 hours"),
        (86400, "24 hours"),
        (5400, "90 minutes"),
        (60, "1 minute"),
        (90, "90 seconds"),
        (1, "1 second"),
    ],
)
def test_a_successful_authentication_says_how_long_it_lasts(ctx: Any, seconds: int, words: str) -> None:
    ctx.auth = Always(Grant(seconds))
    output = call(authentication.authenticate, ctx, code="123456")
    assert first_line(output) == f"Successfully authenticated. Session valid for {words}."
    assert output.structured() == {"authenticated": True, "expires_in": seconds, "notice": None}


def test_with_mfa_disabled_no_authentication_is_needed(ctx: Any) -> None:
    ctx.auth = Always(Grant(0, needed=False))
    output = call(authentication.authenticate, ctx, code="123456")
    assert output.text() == "No authentication is needed: MFA is disabled on this relay."
    assert output.structured()["notice"] == output.text()


# The commands' arguments; running them is tested on real servers.


def test_a_command_that_cannot_be_sent_is_refused_before_any_server_is_asked(fleet: Any) -> None:
    alone: list[dict[str, Any]] = [{"command": "  "}, {"command": "ls", "timeout": 3601}]
    for arguments in alone:
        with pytest.raises(BadArgument):
            call(commands.execute_command, fleet, server_id="web-1", **arguments)
    many: list[dict[str, Any]] = [
        {"command": "ls"},
        {"command": "ls", "tags": [], "server_ids": []},
        {"command": " ", "server_ids": ["*"]},
    ]
    for arguments in many:
        with pytest.raises(BadArgument):
            call(commands.multi_server_execute, fleet, **arguments)
    with pytest.raises(NotFound):
        call(commands.execute_command, fleet, server_id="nope", command="ls")


# Every tool

by_name = pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)


@by_name
def test_a_tools_name_is_one_that_every_client_takes(tool: Tool) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,47}", tool.name)
    assert [other.name for other in TOOLS].count(tool.name) == 1


@by_name
def test_a_tools_schemas_are_valid_and_closed(tool: Tool) -> None:
    definition = tool.definition()
    for name in ("inputSchema", "outputSchema"):
        Draft202012Validator.check_schema(definition[name])
        assert definition[name]["type"] == "object"
    assert definition["inputSchema"]["additionalProperties"] is False
    assert all(argument.get("description") for argument in definition["inputSchema"].get("properties", {}).values())
    assert "description" not in json.dumps(definition["outputSchema"]["properties"]).replace(
        '"description": {"type"', ""
    )


@by_name
def test_a_tool_says_what_it_does_and_all_it_may_do(tool: Tool) -> None:
    definition = tool.definition()
    assert definition["description"]
    assert definition["title"] == definition["annotations"]["title"] != ""
    hints = {name: value for name, value in definition["annotations"].items() if name != "title"}
    assert hints.keys() == {"readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"}
    assert all(isinstance(value, bool) for value in hints.values())
    assert not (hints["readOnlyHint"] and hints["destructiveHint"])


@by_name
def test_every_tool_but_authenticate_needs_a_grant(tool: Tool) -> None:
    assert tool.needs_grant == (tool.name != "authenticate")


@pytest.mark.parametrize("name", CONTRACT)
def test_a_tool_has_the_arguments_and_results_of_the_contract(name: str) -> None:
    (tool,) = [tool for tool in TOOLS if tool.name == name]
    required, optional, results = CONTRACT[name]
    schema = tool.definition()["inputSchema"]
    assert set(schema.get("required", [])) == required
    assert required | optional <= set(schema.get("properties", {}))
    assert results <= set(tool.definition()["outputSchema"]["properties"])


def samples(output: type[Output]) -> list[Output]:
    """Results that take each shape a tool's can have; a new result class has to be given its own here, or in its family's tests."""
    some = Captured(b"out\n", b"", 4)
    ok, killed = Completed(0, some, Captured(), 5), Completed(None, Captured(), some, 5, signal="KILL")
    everything: list[Output] = [
        authentication.Authenticated(True, 3600),
        authentication.Authenticated(True, None, "No authentication is needed."),
        discovery.ServerList([], 0, [{"id": "a", "reason": "b"}], None),
        discovery.ServerContext("a", "h", [], {}, {}, {}, {}, {}, [], {}, [], {}, {}, [], None),
        discovery.NoteAdded("a", "Boots slowly.", "owner", "2026-01-01T00:00:00Z", 1),
        commands.CommandResult("a", "ls", 0, "out", "", True, 3),
        commands.CommandResult("a", "ls", None, "", "err", False, 3, signal="KILL", truncated=True, notice="cut"),
        commands.CommandResult("a", "ls", None, "", "", None, 3, running=True, job_id="job_1"),
        commands.CheckResult("a", "ls", None, "", "", None, 3, running=True, job_id="job_1", name="list"),
        commands.fold(
            [HostResult("a", ok), HostResult("b", ok), HostResult("c", killed), HostResult("d", error="d is down")],
            1000,
        ),
        commands.fold([], 1000),
        log_analysis.LogAnalysis(
            "a",
            "/x",
            "errors",
            {},
            [],
            0,
            0,
            0,
            {"from": None, "to": None, "seconds": None, "compared_with": None},
            False,
            False,
            {},
            [],
        ),
        services.ServiceStatus("a", "x", False, "systemd", notice="Near names: y."),
        services.ServiceStatus(
            "a", "x", True, "systemd", "x.timer", timer={"next_run": None}, critical=True, recent_log=["l"]
        ),
        services.Restarted(
            "a", "x", "x.service", "sysv", {"main_pid": None}, {}, False, "failed", True, ["i"], ["l"], 3
        ),
        services.ServiceList("a", "openrc", [], 0, {}),
        files.FileContent("a", "/x", "", 9, None, True, "binary", None, None, None, None, None, None, None, "Binary."),
        files.FileContent("a", "/x", "l\r\n", None, "0" * 64, False, "utf-8", "crlf", 1, 1, 1, 2, 3, "/y"),
        files.FileMatches(
            "a", "/", [{"path": "/x", "size_bytes": 1, "modified": "t", "type": "file"}], 2, True, 1, "Cut."
        ),
        files.FileInfo(
            "a",
            "/x",
            False,
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            [],
            None,
            "/",
            "None.",
        ),
        files.FileInfo(
            "a",
            "/x",
            True,
            "file",
            1,
            "0644",
            "-rw-r--r--",
            "o",
            "g",
            "t",
            "t",
            "/y",
            "/y",
            2,
            True,
            ["immutable"],
            "s",
            None,
        ),
        file_writing.FileWritten("a", "/x", True, True, 1, "0" * 64, None, None, None, None, None, "0644", "o:g", None),
        file_writing.FileWritten(
            "a", "/x", False, True, 1, "0" * 64, "1" * 64, 2, "/x.b", 1, 2, None, None, "/y", "A link."
        ),
    ]
    return [sample for sample in everything if type(sample) is output]


@pytest.mark.parametrize("tool", [tool for tool in TOOLS if tool.name in CONTRACT], ids=lambda tool: tool.name)
def test_results_of_every_shape_conform_to_the_declared_schema(tool: Tool) -> None:
    found = samples(tool.output)
    assert found, f"no sample of {tool.output.__name__}"
    for output in found:
        conforms(tool, output)
