"""Declaring a tool: the schemas made from a signature, and the checks of a call's arguments."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from fleetshell_tools.core.errors import BadArgument
from fleetshell_tools.core.tool import Output, Pattern, Range, Tool, tool


@dataclass(frozen=True)
class Result(Output):
    name: str
    count: int
    share: float
    done: bool
    note: str | None
    items: list[dict[str, Any]]
    inner: dict[str, Any]
    anything: Any
    pair: tuple[str, ...] = ()

    def text(self) -> str:
        return self.name


@tool(title="Try everything", destructive=True)
def example(
    ctx: Any,
    name: Annotated[str, "A name"],
    count: Annotated[int, "How many", Range(1, 10)] = 3,
    share: Annotated[float, Range(0, 1)] = 0.5,
    unit: Annotated[str | None, "A unit", Pattern(r"[a-z]+|\*", "small letters or *")] = None,
    kind: Annotated[Literal["file", "directory", "any"], "Which"] = "any",
    dry: bool = False,
    ids: Annotated[list[str] | None, "Ids"] = None,
    numbers: list[int] | None = None,
    environment: dict[str, str] | None = None,
    arguments: dict[str, Any] | None = None,
) -> Result:
    """Try everything.

    In a second paragraph.
    """
    raise NotImplementedError


@tool(title="Nothing to say", read_only=True, open_world=False)
def bare(ctx: Any) -> Result:
    """Takes nothing."""
    raise NotImplementedError


def test_the_signature_is_the_input_schema() -> None:
    schema = example.definition()["inputSchema"]
    Draft202012Validator.check_schema(schema)
    assert schema == {
        "type": "object",
        "properties": {
            "name": {"type": "string", "description": "A name"},
            "count": {"type": "integer", "minimum": 1, "maximum": 10, "default": 3, "description": "How many"},
            "share": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.5},
            "unit": {"type": "string", "pattern": r"^(?:[a-z]+|\*)$", "description": "A unit"},
            "kind": {"type": "string", "enum": ["file", "directory", "any"], "default": "any", "description": "Which"},
            "dry": {"type": "boolean", "default": False},
            "ids": {"type": "array", "items": {"type": "string"}, "description": "Ids"},
            "numbers": {"type": "array", "items": {"type": "integer"}},
            "environment": {"type": "object", "additionalProperties": {"type": "string"}},
            "arguments": {"type": "object"},
        },
        "required": ["name"],
        "additionalProperties": False,
    }


def test_a_tool_without_arguments_has_an_empty_schema() -> None:
    assert bare.definition()["inputSchema"] == {"type": "object", "additionalProperties": False}
    assert bare.arguments({}) == {}


def test_the_dataclass_is_the_output_schema_one_level_deep() -> None:
    schema = example.definition()["outputSchema"]
    Draft202012Validator.check_schema(schema)
    assert schema["properties"] == {
        "name": {"type": "string"}, "count": {"type": "integer"}, "share": {"type": "number"}, "done": {"type": "boolean"},
        "note": {"type": ["string", "null"]}, "items": {"type": "array"}, "inner": {"type": "object"}, "anything": {}, "pair": {"type": "array"},
    }  # fmt: skip
    assert "required" not in schema


def test_structured_content_is_plain_json_that_conforms() -> None:
    result = Result("n", 1, 0.5, True, None, [{"a": (1, 2)}], {"b": {"name": "x"}}, None, ("p", "q"))
    structured = json.loads(json.dumps(result.structured()))
    assert structured["items"] == [{"a": [1, 2]}] and structured["pair"] == ["p", "q"]
    assert structured["inner"] == {"b": {"name": "x"}}
    Draft202012Validator(example.definition()["outputSchema"]).validate(structured)


def test_name_title_and_description_come_from_the_function() -> None:
    definition = example.definition()
    assert (definition["name"], definition["title"]) == ("example", "Try everything")
    assert definition["description"] == "Try everything.\n\nIn a second paragraph."


@pytest.mark.parametrize(
    ("declared", "hints"),
    [
        (example, {"readOnlyHint": False, "destructiveHint": True, "idempotentHint": False, "openWorldHint": True}),
        (bare, {"readOnlyHint": True, "destructiveHint": False, "idempotentHint": True, "openWorldHint": False}),
    ],
)
def test_all_four_annotations_and_the_title_are_there(declared: Tool, hints: dict[str, bool]) -> None:
    assert declared.definition()["annotations"] == {"title": declared.title, **hints}


# A call's arguments


def given_(**arguments: Any) -> dict[str, Any]:
    return example.arguments({"name": "n", **arguments})


def refused(**arguments: Any) -> str:
    with pytest.raises(BadArgument) as caught:
        given_(**arguments)
    caught.value.message.encode()
    return caught.value.message


def test_what_is_left_out_or_null_is_not_passed() -> None:
    assert given_() == {"name": "n"}
    assert given_(count=None, ids=None) == {"name": "n"}


def test_a_missing_argument_is_named_with_what_is_allowed() -> None:
    for call in ({}, {"name": None}):
        with pytest.raises(BadArgument, match=r"^example needs the argument `name` \(text"):
            example.arguments(call)


def test_an_unknown_argument_names_the_nearest_and_all() -> None:
    message = refused(cuont=1)
    assert message.startswith(
        'example has no argument "cuont". Did you mean "count"? Its arguments: name, count, share,'
    )
    with pytest.raises(BadArgument, match='bare has no argument "x". Its arguments: none.'):
        bare.arguments({"x": 1})


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        ({"name": 7}, "`name` is 7; allowed: text"),
        ({"name": ["a"]}, '`name` is ["a"]; allowed: text'),
        ({"name": True}, "`name` is true; allowed: text"),
        ({"count": 0}, "`count` is 0; allowed: a whole number from 1 to 10."),
        ({"count": 11}, "`count` is 11; allowed: a whole number from 1 to 10."),
        ({"count": "3"}, '`count` is "3"; allowed: a whole number from 1 to 10.'),
        ({"count": 2.5}, "`count` is 2.5; allowed: a whole number from 1 to 10."),
        ({"count": True}, "`count` is true; allowed: a whole number from 1 to 10."),
        ({"count": 1e400}, "`count` is Infinity; allowed: a whole number from 1 to 10."),
        ({"share": 1.5}, "`share` is 1.5; allowed: a number from 0 to 1."),
        ({"share": float("nan")}, "`share` is NaN; allowed: a number from 0 to 1."),
        ({"share": False}, "`share` is false; allowed: a number from 0 to 1."),
        ({"unit": "A"}, '`unit` is "A"; allowed: small letters or *.'),
        ({"unit": "a\n"}, '`unit` is "a\\n"; allowed: small letters or *.'),
        ({"unit": "a*"}, '`unit` is "a*"; allowed: small letters or *.'),
        ({"kind": "socket"}, '`kind` is "socket"; allowed: one of file, directory, any.'),
        ({"kind": ["file"]}, '`kind` is ["file"]; allowed: one of file, directory, any.'),
        ({"dry": 1}, "`dry` is 1; allowed: true or false."),
        ({"dry": "true"}, '`dry` is "true"; allowed: true or false.'),
        ({"ids": "web-1"}, '`ids` is "web-1"; allowed: a list of texts'),
        ({"ids": ["a", 1]}, '`ids` is ["a", 1]; allowed: a list of texts'),
        ({"ids": {"a": "b"}}, '`ids` is {"a": "…"}; allowed: a list of texts'),
        ({"ids": '{"a": "b"}'}, "allowed: a list of texts"),
        ({"numbers": ["a"]}, '`numbers` is ["a"]; allowed: a list of whole numbers.'),
        ({"environment": {"A": 1}}, '`environment` is {"A": 1}; allowed: an object with text values'),
        (
            {"environment": {"A": 1, "B": "secret"}},
            '`environment` is {"A": 1, "B": "…"}; allowed: an object with text values',
        ),
        ({"environment": ["A=1"]}, "allowed: an object with text values"),
        ({"environment": "[1]"}, "allowed: an object with text values"),
        ({"arguments": "no JSON {"}, '`arguments` is "no JSON {"; allowed: an object.'),
        ({"arguments": '{"a": NaN}'}, "allowed: an object."),
    ],
)
def test_a_wrong_value_is_refused_with_argument_value_and_what_is_allowed(
    arguments: dict[str, Any], allowed: str
) -> None:
    message = refused(**arguments)
    assert allowed in message
    assert message.startswith(f"The argument `{next(iter(arguments))}` is ")


def test_a_long_value_is_cut_in_the_message() -> None:
    assert len(refused(unit="A" * 100_000)) < 200


@pytest.mark.parametrize(
    "arguments",
    [{"name": "a\0b"}, {"ids": ["a", "b\0"]}, {"ids": '["a\\u0000"]'}, {"environment": {"A": "x\0"}}, {"environment": {"A\0": "x"}}, {"unit": "a\0"}]
)  # fmt: skip
def test_a_nul_character_is_refused_wherever_it_stands(arguments: dict[str, Any]) -> None:
    message = refused(**arguments)
    assert "\0" not in message
    if "unit" not in arguments:
        assert "NUL" in message


def test_lists_and_objects_that_arrive_as_json_text_are_decoded() -> None:
    got = given_(
        ids='["a", "b"]', numbers="[1, 2]", environment='{"A": "x"}', arguments=' {"a": {"b": [1, null, true]}} '
    )
    assert got == {
        "name": "n",
        "ids": ["a", "b"],
        "numbers": [1, 2],
        "environment": {"A": "x"},
        "arguments": {"a": {"b": [1, None, True]}},
    }
    assert given_(ids="[]", arguments="{}") == {"name": "n", "ids": [], "arguments": {}}


@pytest.mark.parametrize("text", ['["a"]', '{"a": 1}', "7", "true", "null", '"x"'])
def test_text_stays_text_even_if_it_is_json(text: str) -> None:
    assert example.arguments({"name": text}) == {"name": text}


def test_a_whole_number_may_arrive_as_a_float_and_the_limits_are_included() -> None:
    got = given_(count=10.0, share=1)
    assert got == {"name": "n", "count": 10, "share": 1}
    assert type(got["count"]) is int
    assert given_(count=1, share=0)["count"] == 1
    assert given_(unit="*") == {"name": "n", "unit": "*"}


@pytest.mark.parametrize("name", ["ids", "numbers", "environment", "arguments"])
@pytest.mark.parametrize("opening", ["[", '{"a":', "[[{" * 10 + "["])
@pytest.mark.parametrize("depth", [100, 950, 5_000, 1_000_000])
def test_deeply_nested_json_text_is_refused_or_taken_but_never_a_crash(name: str, opening: str, depth: int) -> None:
    text = opening * depth
    assert refused(**{name: text}).startswith(f"The argument `{name}` is ")
    closed = "[" * depth + "]" * depth
    assert refused(**{name: closed}).startswith(f"The argument `{name}` is ")
    inside = '{"a": ' + closed + "}"
    try:
        assert given_(arguments=inside)["arguments"].keys() == {"a"}
    except BadArgument as error:
        assert "`arguments`" in error.message


def test_a_number_of_many_digits_in_json_text_is_refused() -> None:
    assert "allowed: a list of whole numbers" in refused(numbers=f"[{'9' * 10_000}]")


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(
            ["name", "count", "share", "unit", "kind", "dry", "ids", "numbers", "environment", "arguments"]
        ),
        JSON,
    )
)
def test_any_arguments_are_taken_as_the_schema_says_or_refused_with_a_sentence(arguments: dict[str, Any]) -> None:
    try:
        taken = example.arguments(arguments)
    except BadArgument as error:
        assert error.message.endswith(".")
        return
    Draft202012Validator(example.definition()["inputSchema"]).validate(taken)
