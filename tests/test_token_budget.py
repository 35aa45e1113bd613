"""What a model pays before it has asked anything: the size of `tools/list`, in both eras."""

from __future__ import annotations

import json

import pytest
from bench.tokens_part import CALLS, LIST_LIMIT, tokens

from fleetshell_tools.app import tool_list
from fleetshell_tools.catalog import TOOLS


@pytest.mark.parametrize("modern", [False, True], ids=["legacy", "modern"])
def test_our_own_tools_stay_below_ten_thousand_tokens(modern: bool) -> None:
    listed = tool_list(modern=modern)
    sizes = sorted(((tokens(definition), definition["name"]) for definition in json.loads(listed)), reverse=True)
    print("\n".join(f"{size:6.0f} {name}" for size, name in sizes[:10]))
    assert tokens(listed) < LIST_LIMIT


def test_the_benchmark_has_a_standard_call_of_each_tool() -> None:
    assert {name for name, _ in CALLS} == {tool.name for tool in TOOLS}


def test_a_token_is_four_bytes_of_what_is_sent() -> None:
    assert (tokens("Größe"), tokens(b"12345678"), tokens({"a": ["é", 1]})) == (7 / 4, 2, 14 / 4)
