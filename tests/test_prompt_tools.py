"""The prompt tools: arguments, results and first lines as documented, what a model may change, and that it is recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from fleetshell_tools import prompts
from fleetshell_tools.catalog import TOOLS
from fleetshell_tools.core.config import Config, Security
from fleetshell_tools.core.context import Context
from fleetshell_tools.core.errors import BadArgument, FleetShellError, NotFound
from fleetshell_tools.core.prompts import Editor, PromptStore
from fleetshell_tools.core.servers import Inventory
from fleetshell_tools.core.tool import Tool

THE_PROMPT = {"name", "description", "content", "created_at", "updated_at"}
CONTRACT = {
    "save_prompt": ({"name", "description", "content"}, set(), THE_PROMPT | {"created"}),
    "read_prompt": ({"name"}, {"arguments"}, THE_PROMPT),
    "list_prompts": (set(), set(), {"prompts", "count"}),
    "edit_prompt": ({"name"}, {"description", "content"}, THE_PROMPT),
    "delete_prompt": ({"name"}, set(), {"name", "deleted"}),
}
"""Required arguments, other arguments and the least of `structuredContent`, as documented."""


@dataclass
class Surroundings:
    """As much of a `Context` as these tools use; the stores are real."""

    prompts: PromptStore
    inventory: Inventory
    config: Config = field(default_factory=Config)
    written: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def record(self, event: str, **fields: Any) -> None:
        self.written.append((event, fields))


@pytest.fixture
def ctx(tmp_path: Path) -> Any:
    (tmp_path / "servers").mkdir(0o700)
    server = tmp_path / "servers" / "db-prod-01.conf"
    server.write_text("id: db-prod-01\nhostname: db.example.com\n")
    server.chmod(0o600)
    return Surroundings(PromptStore(tmp_path / "prompts"), Inventory(tmp_path / "servers"))


def call(tool: Tool, ctx: Any, **arguments: Any) -> Any:
    """Call a tool as the relay does, and check that what it returns conforms to its schema."""
    output = tool.function(ctx, **tool.arguments(arguments))
    structured = json.loads(json.dumps(output.structured(), allow_nan=False))
    Draft202012Validator(tool.definition()["outputSchema"]).validate(structured)
    return output


def save(
    ctx: Any, name: str = "db-health", description: str = "Database health check", content: str = "Check it"
) -> Any:
    return call(prompts.save_prompt, ctx, name=name, description=description, content=content)


def first_line(output: Any) -> str:
    return str(output.text()).split("\n")[0]


@pytest.mark.parametrize("name", CONTRACT)
def test_a_tool_has_the_documented_arguments_and_results(name: str) -> None:
    (tool,) = [tool for tool in TOOLS if tool.name == name]
    required, optional, results = CONTRACT[name]
    schema = tool.definition()["inputSchema"]
    assert set(schema.get("required", [])) == required
    assert required | optional <= set(schema.get("properties", {}))
    assert results <= set(tool.definition()["outputSchema"]["properties"])


def test_saving_says_so_and_returns_the_prompt(ctx: Any) -> None:
    output = save(ctx)
    assert first_line(output) == "Prompt 'db-health' saved successfully"
    assert output.created and output.author == "model" and output.content == "Check it"
    again = save(ctx, content="Check {server}")
    assert first_line(again) == "Prompt 'db-health' saved successfully"
    assert (again.created, again.created_at, again.arguments, again.revision) == (
        False,
        output.created_at,
        ["server"],
        2,
    )


def test_every_change_is_recorded_and_reading_is_not(ctx: Any) -> None:
    save(ctx)
    call(prompts.edit_prompt, ctx, name="db-health", content="the secret")
    call(prompts.read_prompt, ctx, name="db-health")
    call(prompts.list_prompts, ctx)
    call(prompts.delete_prompt, ctx, name="db-health")
    assert [event for event, _ in ctx.written] == ["prompt_saved", "prompt_edited", "prompt_deleted"]
    assert all(fields["prompt"] == "db-health" for _, fields in ctx.written)
    assert "secret" not in repr(ctx.written)


@pytest.mark.parametrize("given", [{}, {"arguments": {}}, {"arguments": None}, {"arguments": "{}"}])
def test_without_arguments_a_prompt_is_read_byte_for_byte(ctx: Any, given: dict[str, Any]) -> None:
    content = "On {server}: docker ps --format '{{.Names}}' \x1b[31m{{x}} ${HOME}\r\n\n"
    save(ctx, content=content)
    output = call(prompts.read_prompt, ctx, name="db-health", **given)
    assert output.content == content and output.text().endswith(content)
    assert output.arguments == ["server"]


def test_with_arguments_a_prompt_is_rendered_and_its_server_must_exist(ctx: Any) -> None:
    save(ctx, content="On {server}: '{{.Names}}' {{x}}")
    output = call(prompts.read_prompt, ctx, name="db-health", arguments={"server": "db-prod-01"})
    assert output.content == "On db-prod-01: '{{.Names}}' {x}"
    with pytest.raises(NotFound, match='Did you mean "db-prod-01"'):
        call(prompts.read_prompt, ctx, name="db-health", arguments={"server": "db-prod-1"})
    with pytest.raises(BadArgument, match="needs a value for `server`"):
        save(ctx, content="{server} {days}") and call(
            prompts.read_prompt, ctx, name="db-health", arguments={"days": "1"}
        )
    with pytest.raises(BadArgument, match='no argument "x"'):
        call(prompts.read_prompt, ctx, name="db-health", arguments={"x": "1"})


def test_a_prompt_that_a_model_wrote_says_so_and_the_operators_does_not(ctx: Any) -> None:
    save(ctx)
    assert prompts.BY_A_MODEL in call(prompts.read_prompt, ctx, name="db-health").text()
    ctx.prompts.edit("db-health", content="mine", by=Editor("operator", ctx.record))
    assert call(prompts.read_prompt, ctx, name="db-health").notice is None


def test_the_list_is_the_documented_one(ctx: Any) -> None:
    assert first_line(call(prompts.list_prompts, ctx)) == "Found 0 prompts"
    for name, description in [
        ("log-scanner", "Analyze server logs for errors"),
        ("db-health", "Database health check"),
    ]:
        save(ctx, name, description)
    output = call(prompts.list_prompts, ctx)
    assert output.text() == (
        "Found 2 prompts:\n- db-health: Database health check\n- log-scanner: Analyze server logs for errors"
    )
    assert output.count == 2 and set(output.prompts[0]) == {
        "name",
        "description",
        "created_at",
        "updated_at",
        "arguments",
    }
    save(ctx, "log-scanner", content="{server}")
    assert call(prompts.list_prompts, ctx).prompts[1]["arguments"] == ["server"]
    call(prompts.delete_prompt, ctx, name="db-health")
    assert first_line(call(prompts.list_prompts, ctx)) == "Found 1 prompt:"


def test_a_damaged_prompt_is_listed_with_the_reason(ctx: Any) -> None:
    save(ctx)
    ctx.prompts.path("db-health").write_text("{")
    output = call(prompts.list_prompts, ctx)
    assert output.count == 0 and output.disabled[0]["name"] == "db-health"
    assert "- db-health is disabled:" in output.text() and "line 1" in output.text()
    with pytest.raises(FleetShellError, match="line 1"):
        call(prompts.read_prompt, ctx, name="db-health")


def test_a_long_list_is_cut_to_the_budget_and_all_are_counted(ctx: Any) -> None:
    ctx.config = Config(security=Security(max_output_bytes=2048))
    for number in range(20):
        save(ctx, f"p{number:02}", "x" * 300)
    output = call(prompts.list_prompts, ctx)
    assert output.count == 20 and 0 < len(output.prompts) < 20
    assert len(json.dumps(output.prompts)) < 2048 and f"first {len(output.prompts)} are shown" in output.text()


def test_a_description_by_hand_takes_one_clean_line_of_the_list(ctx: Any) -> None:
    save(ctx)
    path = ctx.prompts.path("db-health")
    path.write_text(json.dumps({"description": "a\x1b[31m\nb\u202e", "content": "c"}))
    assert call(prompts.list_prompts, ctx).text() == "Found 1 prompt:\n- db-health: a b"


def test_an_edit_changes_what_is_given_and_needs_something(ctx: Any) -> None:
    save(ctx)
    output = call(prompts.edit_prompt, ctx, name="db-health", description="New")
    assert first_line(output) == "Prompt 'db-health' updated successfully"
    assert (output.description, output.content, output.revision) == ("New", "Check it", 2)
    with pytest.raises(BadArgument, match="nothing to change"):
        call(prompts.edit_prompt, ctx, name="db-health")
    with pytest.raises(FleetShellError, match="at revision 2, not 1"):
        call(prompts.edit_prompt, ctx, name="db-health", content="x", expected_revision=1)


def test_a_deleted_prompt_is_gone_for_the_model(ctx: Any) -> None:
    save(ctx)
    output = call(prompts.delete_prompt, ctx, name="db-health")
    assert first_line(output) == "Prompt 'db-health' deleted successfully" and output.deleted
    for again in (prompts.read_prompt, prompts.delete_prompt):
        with pytest.raises(NotFound):
            call(again, ctx, name="db-health")


@pytest.mark.parametrize("name", ["a/b", "../config", "a\0", "", "a b", "x" * 65, "größe", 5, None])
@pytest.mark.parametrize(
    "tool",
    [prompts.save_prompt, prompts.read_prompt, prompts.edit_prompt, prompts.delete_prompt],
    ids=lambda tool: tool.name,
)
def test_a_bad_name_is_a_bad_argument(ctx: Any, tool: Tool, name: Any) -> None:
    more = {"description": "d", "content": "c"} if tool is prompts.save_prompt else {}
    with pytest.raises(BadArgument, match="`name`"):
        call(tool, ctx, name=name, **more)
    assert ctx.written == []


@pytest.mark.parametrize(("more", "says"), [
    ({"description": ""}, "can't be empty"),
    ({"content": "x" * 1_000_000}, "1,000,000 bytes"),
    ({"content": "a\0"}, "NUL"),
    ({"content": "\ud800"}, "half of a character"),
    ({"content": ["list"]}, "`content`"),
])  # fmt: skip
def test_a_bad_text_is_a_bad_argument(ctx: Any, more: dict[str, Any], says: str) -> None:
    with pytest.raises(BadArgument) as refused:
        call(prompts.save_prompt, ctx, **{"name": "a", "description": "d", "content": "c", **more})
    assert says in refused.value.message and len(refused.value.message) < 400


def test_a_context_without_prompts_or_a_record_fails_by_name() -> None:
    nothing: Any = None
    bare = Context(nothing, "", nothing, nothing, nothing, nothing)
    uses: list[tuple[Callable[[], object], str]] = [
        (lambda: bare.prompts.get("a"), "`prompts`"), (lambda: bare.record("x"), "`record`"),
    ]  # fmt: skip
    for use, name in uses:
        with pytest.raises(RuntimeError, match=name):
            use()
