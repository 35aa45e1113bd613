"""What the relay offers besides tools: prompts, resources and completion, and what is locked of them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fleetshell_tools import discovery, offer
from fleetshell_tools.core.config import Config
from fleetshell_tools.core.context import NoUpstreams
from fleetshell_tools.core.errors import BadArgument, ConfigError, NotFound
from fleetshell_tools.core.notes import NoteStore
from fleetshell_tools.core.prompts import Editor, PromptStore
from fleetshell_tools.core.servers import Inventory, Server
from fleetshell_tools.core.types import Caller, ConnectionState, Principal, ShellInfo


@dataclass
class Shells:
    """Shell sessions in memory, by the key that owns them."""

    owned: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def active(self, caller: Caller) -> list[ShellInfo]:
        return [
            ShellInfo(session, server, "bash", "/", False, 0, 0, 0, 0)
            for session, server in self.owned.get(caller.principal.key_id, [])
        ]


@dataclass
class Connections:
    """In place of a fleet: what is known of its connections and shells."""

    shells: Shells = field(default_factory=Shells)

    def connection_state(self, server: Server) -> ConnectionState:
        return ConnectionState("idle")

    def fingerprints(self, server: Server) -> list[str]:
        return ["SHA256:abc (ED25519)"]

    def facts(self, server: Server) -> None:
        return None

    def last_seen(self, server: Server) -> None:
        return None


@dataclass
class Surroundings:
    """As much of a `Context` as these methods use; the stores are real."""

    prompts: PromptStore
    inventory: Inventory
    notes: NoteStore
    fleet: Connections = field(default_factory=Connections)
    caller: Caller = field(default_factory=lambda: Caller(Principal("mine")))
    config: Config = field(default_factory=Config)
    upstreams: Any = field(default_factory=NoUpstreams)


@pytest.fixture
def ctx(tmp_path: Path) -> Any:
    for name in ("servers", "prompts"):
        (tmp_path / name).mkdir(0o700)
    made = Surroundings(
        PromptStore(tmp_path / "prompts"), Inventory(tmp_path / "servers"), NoteStore(tmp_path / "notes")
    )
    server(
        made,
        "db-1",
        "tags: [db]",
        "services: {postgresql: {port: 5432}}",
        "context: {environment: production, purpose: Orders  and   more}",
    )
    server(made, "web-1", "tags: [web]", "services: {nginx: {}, php-fpm: {}}")
    save(made, "check", "Check the {server} for {service}: '{{.Names}}' ${HOME}")
    save(made, "plain", "Nothing but {{text}}")
    return made


def server(ctx: Any, name: str, *lines: str) -> None:
    path = ctx.inventory.path(name)
    path.write_text("\n".join([f"id: {name}", f"hostname: {name}.example.com", *lines, ""]))
    path.chmod(0o600)


def save(ctx: Any, name: str, content: str, author: str = "operator") -> None:
    ctx.prompts.save(name, f"About {name}", content, by=Editor(author, lambda event, **fields: None))


def listed(ctx: Any, method: str, *, locked: bool = True) -> list[dict[str, Any]]:
    found = offer.listing(method, ctx.prompts, ctx.inventory, locked=locked)
    assert found is not None
    return found


# Lists


def test_prompts_are_listed_with_their_arguments(ctx: Any) -> None:
    ctx.prompts.path("check").write_text(json.dumps({
        "content": "{server} {days}", "description": "A\x1b[1m\nB", "title": "Check it", "arguments": [{"name": "days", "description": "How many"}],
    }))  # fmt: skip
    save(ctx, "by-model", "x", "model")
    assert listed(ctx, "prompts/list") == [
        {"name": "by-model", "description": "About by-model (written by a model)", "arguments": []},
        {"name": "check", "title": "Check it", "description": "A B",
         "arguments": [{"name": "server", "required": True}, {"name": "days", "description": "How many", "required": True}]},
        {"name": "plain", "description": "About plain", "arguments": []},
    ]  # fmt: skip


def test_a_damaged_prompt_or_server_does_not_hide_the_others(ctx: Any) -> None:
    ctx.prompts.path("check").write_text("{")
    server(ctx, "web-1", "nonsense: 1")
    assert [prompt["name"] for prompt in listed(ctx, "prompts/list")] == ["plain"]
    assert [resource["name"] for resource in listed(ctx, "resources/list", locked=False)] == ["db-1"]


def test_no_list_tells_a_servers_name_or_a_prompts_text_while_a_code_is_needed(ctx: Any) -> None:
    told = json.dumps([listed(ctx, method) for method in sorted(offer.LISTS)])
    assert listed(ctx, "resources/list") == []
    for secret in ("db-1", "web-1", "postgresql", "Orders", "Nothing but"):
        assert secret not in told


def test_without_a_second_factor_the_servers_are_resources(ctx: Any) -> None:
    assert listed(ctx, "resources/list", locked=False) == [
        {"uri": "fleetshell://servers/db-1", "name": "db-1", "description": "Orders and more", "mimeType": "application/json"},
        {"uri": "fleetshell://servers/web-1", "name": "web-1", "mimeType": "application/json"},
    ]  # fmt: skip


def test_there_is_one_resource_template(ctx: Any) -> None:
    (template,) = listed(ctx, "resources/templates/list")
    assert template["uriTemplate"] == "fleetshell://servers/{id}" and template["mimeType"] == "application/json"
    assert template["name"] and template["description"]


def test_another_method_is_no_list(ctx: Any) -> None:
    assert offer.listing("tools/list", ctx.prompts, ctx.inventory, locked=True) is None
    assert not offer.LISTS & offer.NEEDS_GRANT


# prompts/get


def test_a_prompt_is_one_message_of_the_user(ctx: Any) -> None:
    got = offer.answer(ctx, "prompts/get", {"name": "check", "arguments": {"server": "db-1", "service": "{server}"}})
    assert got == {
        "description": "About check",
        "messages": [{"role": "user", "content": {"type": "text", "text": "Check the db-1 for {server}: '{{.Names}}' ${HOME}"}}],
    }  # fmt: skip


@pytest.mark.parametrize("more", [{}, {"arguments": {}}, {"arguments": None}])
def test_a_prompt_without_arguments_is_given_byte_for_byte(ctx: Any, more: dict[str, Any]) -> None:
    got = offer.answer(ctx, "prompts/get", {"name": "plain", **more})
    assert got["messages"][0]["content"]["text"] == "Nothing but {{text}}"


@pytest.mark.parametrize(("params", "error", "says"), [
    ({}, BadArgument, "`name` is missing"),
    ({"name": 5}, BadArgument, "`name` is no text"),
    ({"name": "../x"}, BadArgument, "letters, digits"),
    ({"name": "plan"}, NotFound, 'Did you mean "plain"'),
    ({"name": "check"}, BadArgument, "needs a value for `server`, `service`"),
    ({"name": "check", "arguments": {"server": "db-1"}}, BadArgument, "needs a value for `service`"),
    ({"name": "check", "arguments": {"server": "db-1", "service": "x", "z": "y"}}, BadArgument, 'no argument "z"'),
    ({"name": "check", "arguments": {"server": "db-2", "service": "x"}}, NotFound, 'Did you mean "db-1"'),
    ({"name": "check", "arguments": {"server": 5}}, BadArgument, "text values"),
    ({"name": "check", "arguments": ["server"]}, BadArgument, "text values"),
])  # fmt: skip
def test_a_bad_request_for_a_prompt_says_what_is_wrong(
    ctx: Any, params: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error) as refused:
        offer.answer(ctx, "prompts/get", params)
    assert says in str(refused.value)


# resources/read


def test_a_server_is_read_as_get_server_context_gives_it(ctx: Any) -> None:
    (content,) = offer.answer(ctx, "resources/read", {"uri": "fleetshell://servers/db-1"})["contents"]
    assert (content["uri"], content["mimeType"]) == ("fleetshell://servers/db-1", "application/json")
    tool: Any = discovery.get_server_context
    assert json.loads(content["text"]) == tool.function(ctx, "db-1").structured()
    escaped = offer.answer(ctx, "resources/read", {"uri": "fleetshell://servers/db%2D1"})["contents"][0]
    assert escaped["text"] == content["text"]


@pytest.mark.parametrize(("uri", "error"), [
    (None, BadArgument),
    (7, BadArgument),
    ("fleetshell://servers/nope", NotFound),
    ("fleetshell://servers/", NotFound),
    ("fleetshell://servers/..%2Fconfig", NotFound),
    ("fleetshell://servers/db-1/x", NotFound),
    ("fleetshell://servers/db-1?x", NotFound),
    ("fleetshell://servers/%FF", NotFound),
    ("fleetshell://servers/{id}", NotFound),
    ("file:///etc/passwd", NotFound),
    ("x" * 100_000, NotFound),
    ("fleetshell://servers/broken", ConfigError),
])  # fmt: skip
def test_what_is_no_resource_is_an_error(ctx: Any, uri: Any, error: type[Exception]) -> None:
    server(ctx, "broken", "nonsense: 1")
    with pytest.raises(error) as refused:
        offer.answer(ctx, "resources/read", {"uri": uri})
    assert len(str(refused.value)) < 600


# completion/complete


def complete(ctx: Any, name: str, value: str, reference: dict[str, Any] | None = None, **chosen: str) -> list[str]:
    params: dict[str, Any] = {
        "ref": reference or {"type": "ref/prompt", "name": "all"},
        "argument": {"name": name, "value": value},
    }
    if chosen:
        params["context"] = {"arguments": chosen}
    completion = offer.answer(ctx, "completion/complete", params)["completion"]
    assert completion["total"] == len(completion["values"]) and completion["hasMore"] is False
    values: list[str] = completion["values"]
    return values


TEMPLATE = {"type": "ref/resource", "uri": "fleetshell://servers/{id}"}


def test_values_come_from_the_inventory_and_the_callers_sessions(ctx: Any) -> None:
    save(ctx, "all", "{server} {server_id} {session_id} {service} {service_name} {environment} {tag} {days}")
    ctx.fleet.shells.owned = {"mine": [("sess_1", "db-1"), ("sess_2", "web-1")], "other": [("sess_3", "db-1")]}
    assert complete(ctx, "server", "") == complete(ctx, "server_id", "") == ["db-1", "web-1"]
    assert complete(ctx, "session_id", "sess") == ["sess_1", "sess_2"]
    assert complete(ctx, "session_id", "", server="web-1") == ["sess_2"]
    assert complete(ctx, "service", "") == ["nginx", "php-fpm", "postgresql"]
    assert complete(ctx, "service_name", "", server_id="web-1") == ["nginx", "php-fpm"]
    assert complete(ctx, "service", "", server="unknown") == []
    assert complete(ctx, "environment", "p") == ["production"]
    assert complete(ctx, "tag", "") == ["db", "web"]
    assert complete(ctx, "days", "1") == []
    assert complete(ctx, "id", "WEB", TEMPLATE) == ["web-1"]


def test_what_begins_with_the_typed_text_stands_first(ctx: Any) -> None:
    for name in ("b-web", "webmail", "a-web"):
        server(ctx, name)
    assert complete(ctx, "id", "web", TEMPLATE) == ["web-1", "webmail", "a-web", "b-web"]


def test_at_most_a_hundred_values_are_given_and_all_are_counted(ctx: Any) -> None:
    for number in range(120):
        server(ctx, f"s-{number:03}")
    params = {"ref": TEMPLATE, "argument": {"name": "id", "value": "s-"}}
    completion = offer.answer(ctx, "completion/complete", params)["completion"]
    assert (len(completion["values"]), completion["total"], completion["hasMore"]) == (100, 120, True)


GOOD = {"ref": {"type": "ref/prompt", "name": "check"}, "argument": {"name": "server", "value": ""}}


@pytest.mark.parametrize(("change", "error", "says"), [
    ({"ref": None}, BadArgument, "`ref` is missing"),
    ({"ref": "check"}, BadArgument, "`ref` is no object"),
    ({"ref": {"type": "ref/tool"}}, BadArgument, "`ref.type`"),
    ({"ref": {"type": "ref/prompt"}}, BadArgument, "`name` is missing"),
    ({"ref": {"type": "ref/prompt", "name": "nope"}}, NotFound, "no prompt"),
    ({"ref": {"type": "ref/resource", "uri": "file:///{path}"}}, BadArgument, "fleetshell://servers/{id}"),
    ({"argument": {"name": "days", "value": ""}}, BadArgument, "Known: server, service"),
    ({"argument": {"name": "server"}}, BadArgument, "`value` is missing"),
    ({"argument": []}, BadArgument, "`argument` is no object"),
    ({"context": 5}, BadArgument, "`context` is no object"),
    ({"context": {"arguments": {"server": 5}}}, BadArgument, "text values"),
])  # fmt: skip
def test_a_bad_completion_request_says_what_is_wrong(
    ctx: Any, change: dict[str, Any], error: type[Exception], says: str
) -> None:
    assert offer.answer(ctx, "completion/complete", GOOD)["completion"]["total"] == 2
    with pytest.raises(error) as refused:
        offer.answer(ctx, "completion/complete", {**GOOD, **change})
    assert says in str(refused.value)
