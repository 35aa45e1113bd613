"""`list_external_mcps` and `call_external_tool`: arguments, results, what is passed on, and the budget of a listing."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from fleetshell_tools.core.config import Config, Security
from fleetshell_tools.core.context import NoUpstreams, cannot_ask, no_progress
from fleetshell_tools.core.errors import BadArgument, Refused
from fleetshell_tools.core.tool import Tool
from fleetshell_tools.core.types import Caller, Cancellation, Principal
from fleetshell_tools.external import call_external_tool, list_external_mcps


class Recorded:
    """Upstreams that answer as they are told."""

    def __init__(self, entries: list[dict[str, Any]] | None = None, result: dict[str, Any] | None = None) -> None:
        self.entries, self.result = entries or [], result or {}
        self.asked: list[Any] = []

    def describe(self, mcp_id: str | None = None, query: str = "") -> list[dict[str, Any]]:
        self.asked.append((mcp_id, query))
        return self.entries

    def call(self, caller: Caller, name: str, arguments: dict[str, Any], **more: Any) -> dict[str, Any]:
        self.asked.append((caller.tool, name, arguments, sorted(more)))
        return self.result


@dataclass
class Surroundings:
    """As much of a `Context` as these tools use."""

    upstreams: Any
    config: Config = field(default_factory=Config)
    caller: Caller = field(default_factory=lambda: Caller(Principal("key"), tool="call_external_tool"))
    progress: Any = no_progress
    cancelled: Cancellation = field(default_factory=Cancellation)
    ask: Any = cannot_ask


def entry(mcp_id: str, tools: int = 1, **more: Any) -> dict[str, Any]:
    listed = [{"name": f"tool{number}", "description": "d" * 200, "listed": True} for number in range(tools)]
    return {"id": mcp_id, "name": mcp_id.title(), "description": "", "enabled": True, "status": "ready", "tools": listed,
            "tool_count": tools, "error": None, "quarantined": [], "problems": [], **more}  # fmt: skip


def run(tool: Tool, ctx: Surroundings, **arguments: Any) -> Any:
    """Call a tool as the relay does, and check its result against its schema."""
    output = tool.function(ctx, **tool.arguments(arguments))
    Draft202012Validator(tool.definition()["outputSchema"]).validate(json.loads(json.dumps(output.structured())))
    return output


@pytest.mark.parametrize(
    ("tool", "required", "all_arguments"),
    [
        (list_external_mcps, [], {"mcp_id", "query"}),
        (call_external_tool, ["tool_name"], {"tool_name", "arguments"}),
    ],
)
def test_a_tool_has_the_documented_arguments(tool: Tool, required: list[str], all_arguments: set[str]) -> None:
    schema = tool.definition()["inputSchema"]
    assert schema.get("required", []) == required and set(schema["properties"]) == all_arguments


def test_the_listing_shows_state_tools_and_what_is_wrong() -> None:
    broken = entry(
        "broken", 0, status="failed", error="It failed 5 times.", quarantined=[{"name": "x", "difference": []}]
    )
    output = run(list_external_mcps, Surroundings(Recorded([entry("good"), broken])))
    assert output.count == 2
    assert {"id", "name", "enabled", "status", "tools", "error"} <= set(output.mcps[0])
    text = output.text()
    assert text.startswith("Found 2 external MCP servers\n- good (ready)") and "good.tool0" in text
    assert "error: It failed 5 times." in text and "held back, since it changed: x" in text


def test_a_query_is_passed_on_and_servers_without_a_match_are_left_out() -> None:
    upstreams = Recorded([entry("one"), entry("two", 0)])
    output = run(list_external_mcps, Surroundings(upstreams), query="click")
    assert upstreams.asked == [(None, "click")] and [one["id"] for one in output.mcps] == ["one"]


def test_a_long_listing_keeps_within_the_budget_and_says_so() -> None:
    ctx = Surroundings(
        Recorded([entry(f"mcp{number}", 100) for number in range(5)]), Config(security=Security(max_output_bytes=4096))
    )
    output = run(list_external_mcps, ctx)
    assert len(json.dumps(output.structured()).encode()) < 5000
    assert output.count == 5 and all(one["tool_count"] == 100 for one in output.mcps) and "mcp_id" in output.text()


def test_a_call_is_passed_on_with_all_that_belongs_to_it() -> None:
    content = [{"type": "text", "text": "seen"}, {"type": "image", "data": "aGk=", "mimeType": "image/png"}]
    upstreams = Recorded(result={"content": content, "isError": False, "structuredContent": {"a": 1}})
    output = run(call_external_tool, Surroundings(upstreams), tool_name="one.look", arguments='{"at": "x"}')
    assert upstreams.asked == [("call_external_tool", "one.look", {"at": "x"}, ["ask", "cancelled", "progress"])]
    assert output.content == content and output.structured() == {"a": 1} and not output.is_error


def test_a_result_without_structure_is_shown_in_both_ways() -> None:
    upstreams = Recorded(result={"content": [{"type": "text", "text": "no such page"}], "isError": True})
    output = run(call_external_tool, Surroundings(upstreams), tool_name="one.look")
    assert output.is_error and output.structured() == {"text": "no such page"} == {"text": output.text()}


def test_a_name_without_its_server_is_refused() -> None:
    with pytest.raises(BadArgument, match="mcp_id.tool_name"):
        run(call_external_tool, Surroundings(Recorded()), tool_name="look")


@pytest.mark.parametrize("tool", [list_external_mcps, call_external_tool])
def test_without_the_sdk_both_say_how_to_get_it(tool: Tool) -> None:
    arguments = {"tool_name": "one.look"} if tool is call_external_tool else {}
    with pytest.raises(Refused, match="pip install"):
        run(tool, Surroundings(NoUpstreams()), **arguments)
