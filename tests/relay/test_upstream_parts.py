"""Names, the budget of listed definitions, results made safe and short, the log: each on its own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fleetshell_tools.core.mcps import Mcp
from fleetshell_tools.relay import upstream_results
from fleetshell_tools.relay.upstream_log import UpstreamLog
from fleetshell_tools.relay.upstream_tools import UpstreamTool, examined, exposed, listed_name, usable


@pytest.mark.parametrize(
    ("mcp_id", "name", "listed"),
    [
        ("one", "echo", "one__echo"),
        ("one", "files.read", "one__files_read"),
        ("one", "ns:do it/ü", "one__ns_do_it__"),
        ("a" * 31, "echo", "a" * 31 + "__echo"),
    ],
)
def test_a_listed_name_has_only_characters_that_clients_take(mcp_id: str, name: str, listed: str) -> None:
    assert listed_name(mcp_id, name) == listed


def test_a_long_name_ends_in_a_hash_of_the_whole() -> None:
    names = [listed_name("one", "x" * 60 + end) for end in "abc"]
    assert len(set(names)) == 3 and all(
        re.fullmatch(r"one__x+_[0-9a-f]{8}", name) and len(name) == 47 for name in names
    )


def definition(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "description": "d", "inputSchema": {"type": "object"}, **more}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("no object", "is no object"),
        ({"inputSchema": {"type": "object"}}, "no name"),
        ({"name": "a"}, "no input schema"),
        (definition("a", inputSchema={"type": "string"}), "no input schema"),
        (definition("a", description=5), "no text"),
        (
            definition("a", outputSchema={"type": "object", "items": {"$dynamicRef": "file:///etc/passwd"}}),
            "another place",
        ),
        (definition("a", inputSchema=json.loads('{"type": "object", "not": ' * 30 + "{}" + "}" * 30)), "deeper than"),
    ],
)
def test_a_definition_that_cannot_be_used_is_refused(given: Any, says: str) -> None:
    found, refused = usable([given, definition("good")])
    assert [one["name"] for one in found] == ["good"] and says in refused[0]


def test_a_list_that_is_no_list_gives_no_tools() -> None:
    assert usable({"a": 1}) == ([], ["Its list of tools is no list."])


def test_two_tools_that_would_share_a_name_are_told_apart() -> None:
    tools, refused = examined("one", [definition("a.b"), definition("a_b")])
    assert [tool.name for tool in tools] == ["a.b"]
    assert refused == ["Its tool a_b is refused: with a.b it shares one__a_b."]


def test_a_definition_is_cleaned_and_header_annotations_are_taken_out() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string", "x-mcp-header": "Region", "description": "\x1b[1mx\u202e"}},
    }
    ((tool,), _) = examined(
        "one",
        [
            definition(
                "a",
                inputSchema=schema,
                description="\u200bhi\x07",
                _meta={"x": 1},
                annotations={"readOnlyHint": True, "evil": 1},
            )
        ],
    )
    assert tool.definition == {
        "name": "one__a",
        "description": "hi",
        "inputSchema": {"type": "object", "properties": {"a": {"type": "string", "description": "x"}}},
        "annotations": {"readOnlyHint": True},
    }


def made(mcp_id: str, sizes: list[int]) -> tuple[UpstreamTool, ...]:
    return tuple(
        UpstreamTool(f"t{n}", f"{mcp_id}__t{n}", {"name": f"{mcp_id}__t{n}"}, size) for n, size in enumerate(sizes)
    )


def server(mcp_id: str, sizes: list[int], expose: Any = None) -> tuple[Mcp, tuple[UpstreamTool, ...]]:
    return Mcp(id=mcp_id, command="x", expose=expose), made(mcp_id, sizes)


@pytest.mark.parametrize(
    ("servers", "listed"),
    [
        ([server("a", [50, 50])], ["a__t0", "a__t1"]),
        ([server("a", [50, 51])], []),
        ([server("a", [90]), server("b", [90]), server("c", [90])], ["a__t0", "b__t0"]),
        ([server("a", [90]), server("b", [90]), server("c", [20])], ["a__t0", "b__t0", "c__t0"]),
        ([server("a", [90, 90, 90], "all"), server("b", [10])], ["a__t0", "a__t1", "a__t2"]),
        ([server("a", [90]), server("z", [150, 9], ("t0",))], ["z__t0"]),
        ([server("a", [1], "none"), server("b", [1])], ["b__t0"]),
    ],
)
def test_servers_are_listed_whole_while_they_fit_the_budget(servers: list[Any], listed: list[str]) -> None:
    chosen, refused = exposed(servers, server_bytes=100, total_bytes=200)
    assert list(chosen) == listed and not refused


def test_of_two_servers_with_one_name_the_second_is_refused() -> None:
    one = Mcp(id="a", command="x"), (UpstreamTool("_b", "a___b", {}, 1),)
    two = Mcp(id="a_", command="x"), (UpstreamTool("b", "a___b", {}, 1),)
    chosen, refused = exposed([two, one], 100, 100)
    assert chosen["a___b"][0].id == "a" and refused == ["a_: the tool b is not listed: a has a___b too."]


BUDGET = 2000


def text_of(result: dict[str, Any]) -> str:
    return "\n".join(block["text"] for block in result["content"] if block["type"] == "text")


def test_texts_share_the_budget_and_say_what_is_missing() -> None:
    blocks = [{"type": "text", "text": "short"}, {"type": "text", "text": "x" * 100_000}]
    shown = upstream_results.bounded({"content": blocks}, BUDGET)
    assert shown["content"][0]["text"] == "short" and "of 100,000 bytes left out here" in text_of(shown)
    assert len(text_of(shown)) < BUDGET + 100


@pytest.mark.parametrize(
    "structured",
    [{"text": "x" * 100_000}, {"rows": [{"n": n} for n in range(10_000)]}, {"a": {"b": ["y" * 500] * 500}}],
)
def test_structured_results_keep_their_shape_when_they_are_shortened(structured: dict[str, Any]) -> None:
    shown = upstream_results.bounded({"content": [], "structuredContent": structured}, BUDGET)
    assert len(json.dumps(shown["structuredContent"], separators=(",", ":"))) <= BUDGET and not shown["isError"]
    assert list(shown["structuredContent"]) == list(structured) and shown["content"]


def test_a_structure_that_cannot_be_shortened_is_an_error_with_a_sentence() -> None:
    shown = upstream_results.bounded({"content": [], "structuredContent": {f"key{n}": n for n in range(1000)}}, BUDGET)
    assert shown["isError"] and "structuredContent" not in shown and "ask for less" in text_of(shown)


@pytest.mark.parametrize(
    ("block", "shown"),
    [
        ({"type": "text", "text": "a\x1b[31mb\u200b"}, {"type": "text", "text": "ab"}),
        ({"type": "image", "data": "%%", "mimeType": "image/png"}, {"type": "text", "text": "[image: not valid, left out]"}),
        ({"type": "audio", "data": "aGk=", "mimeType": "audio/wav"}, {"type": "audio", "data": "aGk=", "mimeType": "audio/wav"}),
        ({"type": "resource", "resource": {"uri": "a:b", "blob": "aGk=", "mimeType": "x/y"}},
         {"type": "resource", "resource": {"uri": "a:b", "mimeType": "x/y", "blob": "aGk="}}),
        ({"type": "resource_link", "uri": "a:b", "name": "n", "size": 3}, {"type": "resource_link", "name": "n", "uri": "a:b", "size": 3}),
        ({"type": "hologram"}, {"type": "text", "text": "[content of a kind that is not passed on: hologram]"}),
        ("nonsense", {"type": "text", "text": "[content of a kind that is not passed on: None]"}),
    ],
)  # fmt: skip
def test_each_kind_of_content(block: Any, shown: dict[str, Any]) -> None:
    assert upstream_results.bounded({"content": [block]}, BUDGET)["content"] == [shown]


def test_pictures_beyond_their_own_limit_are_named_and_left_out() -> None:
    picture = {"type": "image", "data": "AAAA" * 600_000, "mimeType": "image/png"}
    shown = upstream_results.bounded({"content": [picture, picture]}, BUDGET)["content"]
    assert [block["type"] for block in shown] == ["image", "text"] and "1,800,000 bytes" in shown[1]["text"]


def test_a_log_hides_secrets_in_whatever_pieces_they_come(tmp_path: Path) -> None:
    log = UpstreamLog(tmp_path / "log", ["hunter2", "hunter2-and-more"])
    for piece in (b"it is hun", b"ter2-and-more\nand hunter", b"2 alone"):
        log.feed(piece)
    log.event("with hunter2")
    log.close()
    first, second, third = (tmp_path / "log").read_text().splitlines()
    assert (first, second) == ("it is ***", "and *** alone") and third.endswith("with ***")
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600
