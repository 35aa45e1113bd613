"""Tests of the JSON-RPC layer: what is read, what is refused, and that refusing is never slow."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetshell_tools.relay import jsonrpc
from fleetshell_tools.relay.jsonrpc import Notification, Rejection, Request, Response, classify, parse


def deep(levels: int, opening: str = "[", closing: str = "]") -> bytes:
    return (opening * levels + closing * levels).encode()


UNREADABLE = {
    "nothing": (b"", "Expecting value"),
    "blanks": (b" \n", "Expecting value"),
    "two values": (b"{} {}", "Extra data"),
    "text behind": (b"{}x", "Extra data"),
    "cut short": (b'{"a":', "Expecting value"),
    "unquoted key": (b"{a:1}", "property name"),
    "trailing comma": (b"[1,]", ""),
    "single quotes": (b"{'a':1}", "property name"),
    "comment": (b"{}//", "Extra data"),
    "byte order mark": (b"\xef\xbb\xbf{}", "Expecting value (character 0)"),
    "UTF-16": ('{"a":1}'.encode("utf-16"), "not UTF-8"),
    "latin-1": ('{"a":"é"}'.encode("latin-1"), "not UTF-8 (byte 6)"),
    "overlong UTF-8": (b'"\xc0\xaf"', "not UTF-8"),
    "surrogate in UTF-8": (b'"\xed\xa0\x80"', "not UTF-8"),
    "lone surrogate escape": (rb'{"a":["\ud800"]}', "half a character"),
    "lone surrogate in a key": (rb'{"\uDFFF":1}', "half a character"),
    "raw control character": (b'"a\nb"', "control character"),
    "NaN": (b"[NaN]", "NaN"),
    "Infinity": (b"Infinity", "Infinity"),
    "minus Infinity": (b"[-Infinity]", "-Infinity"),
    "a float beyond all floats": (b"[1e999]", "too large"),
    "too many digits": (b"1" * 1001, "1,000 digits"),
    "too many digits behind a minus": (b"-" + b"1" * 1001, "1,000 digits"),
    "more digits than int() takes": (b'{"id":' + b"9" * 5000 + b"}", "1,000 digits"),
    "leading zero": (b"01", "Extra data"),
    "a key twice": (b'{"a":1,"b":2,"a":3}', 'the key "a" stands twice'),
    "a key twice, once escaped": (rb'{"a":1,"\u0061":3}', 'the key "a" stands twice'),
    "a key twice far inside": (b'{"x":[{"y":{"b":1,"b":1}}]}', 'the key "b" stands twice'),
    "65 arrays": (deep(65), "64 levels"),
    "65 objects": (deep(65, '{"a":', "}").replace(b":}", b":1}"), "64 levels"),
    "65 levels after a string of quotes": (b'["\\"\\\\",' + deep(64) + b"]", "64 levels"),
    "brackets without end": (b"[" * 100_000, "do not balance"),
    "objects without end": (b'{"a":' * 100_000, "do not balance"),
    "mixed brackets": (b"[" * 70 + b"}" * 70, "64 levels"),
}


@pytest.mark.parametrize(("body", "says"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_body_that_is_not_strict_json_is_a_parse_error_with_a_reason(body: bytes, says: str) -> None:
    with pytest.raises(Rejection) as caught:
        parse(body)
    assert (caught.value.code, caught.value.status, caught.value.request_id) == (-32700, 400, None)
    assert says in caught.value.message


READABLE = {
    "64 arrays": deep(64),
    "64 objects": b'{"a":' * 63 + b"{}" + b"}" * 63,
    "many brackets, few levels": b"[" + b"[]," * 500 + b"[]]",
    "brackets in strings": json.dumps(["[" * 500, "{" * 500, '"[[', "\\", '\\"[' * 100]).encode(),
    "a thousand digits": b"1" * 1000,
    "a thousand digits behind a minus": b"-" + b"1" * 1000,
    "whole surrogate pair": rb'"\ud83d\ude00"',
    "an escaped backslash before u": rb'"\\ud800"',
    "characters as they are": '{"ü":"日本 😀"}'.encode(),
    "blanks around": b" \r\n\t[1] \n",
    "same key in two objects": b'[{"a":1},{"a":1}]',
}


@pytest.mark.parametrize("body", READABLE.values(), ids=READABLE.keys())
def test_strict_json_is_read_as_any_parser_reads_it(body: bytes) -> None:
    assert parse(body) == json.loads(body)


HOSTILE = {
    "open arrays": b"[" * (4 << 20),
    "flat arrays": b"[" + b"[]," * (1 << 20) + b"[]]",
    "64 levels over and over": b"[" + (deep(63) + b",") * 30_000 + b"0]",
    "a string of quotes without end": b'"' + b'\\"' * (2 << 20),
    "backslashes and brackets": b"[" * 65 + b"\\" * (4 << 20),
    "digits": b"1" * (4 << 20),
    "long numbers": b"[" + b",".join([b"1" * 1000] * 4000) + b"]",
    "keys, one of them twice": b"{" + b",".join(b'"%d":0' % number for number in range(300_000)) + b',"299999":0}',
    "surrogates": b'"' + rb"\ud800" * (4 << 17) + b'"',
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_no_body_of_four_megabytes_takes_long(body: bytes) -> None:
    started = time.process_time()
    try:
        parse(body)
    except Rejection as rejection:
        assert rejection.code == jsonrpc.PARSE_ERROR
    # Processor time of this process, and ten times what the slowest takes: it fails where something is quadratic.
    assert time.process_time() - started < 6


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)


@settings(deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), nested, max_leaves=40))
def test_what_encode_writes_parse_reads_back(value: Any) -> None:
    assert parse(jsonrpc.encode(value)) == json.loads(json.dumps(value))


@settings(deadline=None)
@given(st.binary(max_size=60) | st.text(alphabet='[]{}":,\\u d8001e-.nafulstr', max_size=60).map(str.encode))
def test_parse_reads_nothing_that_the_standard_parser_refuses(body: bytes) -> None:
    try:
        value = parse(body)
    except Rejection:
        return
    assert value == json.loads(body.decode())


def test_encode_writes_one_line_that_every_peer_can_read() -> None:
    assert jsonrpc.encode({"a": "ü\n\ud800"}) == '{"a":"ü\\n?"}'.encode()
    with pytest.raises(ValueError, match="JSON"):
        jsonrpc.encode(float("nan"))


MESSAGES = {
    "request": ({"id": 1, "method": "m"}, Request(1, "m", {})),
    "request with a text id": ({"id": "a", "method": "m", "params": {"x": 1}}, Request("a", "m", {"x": 1})),
    "request with an empty id": ({"id": "", "method": "m"}, Request("", "m", {})),
    "request with id 0": ({"id": 0, "method": "m"}, Request(0, "m", {})),
    "request with a huge id": ({"id": 10**900, "method": "m"}, Request(10**900, "m", {})),
    "notification": ({"method": "n", "params": {}}, Notification("n", {})),
    "result": ({"id": 7, "result": None}, Response(7, None, None)),
    "error": ({"id": "x", "error": {"code": 1}}, Response("x", None, {"code": 1})),
    "error without an id": ({"id": None, "error": {}}, Response(None, None, {})),
    "unknown members": ({"id": 1, "method": "m", "trace": 5}, Request(1, "m", {})),
}


@pytest.mark.parametrize(("members", "expected"), MESSAGES.values(), ids=MESSAGES.keys())
def test_a_message_is_a_request_a_notification_or_a_response(members: dict[str, Any], expected: object) -> None:
    assert classify({"jsonrpc": "2.0", **members}) == expected


NO_MESSAGES: dict[str, tuple[Any, Any]] = {
    "number": (1, None),
    "text": ("initialize", None),
    "null": (None, None),
    "boolean": (True, None),
    "array": ([], None),
    "empty object": ({}, None),
    "no version": ({"id": 3, "method": "m"}, 3),
    "other version": ({"jsonrpc": "1.0", "id": 3, "method": "m"}, 3),
    "version as a number": ({"jsonrpc": 2.0, "id": 3, "method": "m"}, 3),
    "id null": ({"jsonrpc": "2.0", "id": None, "method": "m"}, None),
    "id boolean": ({"jsonrpc": "2.0", "id": True, "method": "m"}, None),
    "id fraction": ({"jsonrpc": "2.0", "id": 1.0, "method": "m"}, None),
    "id array": ({"jsonrpc": "2.0", "id": [1], "method": "m"}, None),
    "method number": ({"jsonrpc": "2.0", "id": 3, "method": 5}, 3),
    "method null": ({"jsonrpc": "2.0", "id": 3, "method": None}, 3),
    "params array": ({"jsonrpc": "2.0", "id": 3, "method": "m", "params": [1]}, 3),
    "params null": ({"jsonrpc": "2.0", "id": 3, "method": "m", "params": None}, 3),
    "params of a notification": ({"jsonrpc": "2.0", "method": "m", "params": "x"}, None),
    "neither method nor result": ({"jsonrpc": "2.0", "id": 3}, 3),
    "result and error": ({"jsonrpc": "2.0", "id": 3, "result": 1, "error": {}}, 3),
    "result without an id": ({"jsonrpc": "2.0", "result": 1}, None),
    "result with id null": ({"jsonrpc": "2.0", "id": None, "result": 1}, None),
    "error with a boolean id": ({"jsonrpc": "2.0", "id": False, "error": {}}, None),
}


@pytest.mark.parametrize(("value", "request_id"), NO_MESSAGES.values(), ids=NO_MESSAGES.keys())
def test_anything_else_is_an_invalid_request_with_its_id_where_that_can_be_read(value: Any, request_id: Any) -> None:
    with pytest.raises(Rejection) as caught:
        classify(value)
    assert (caught.value.code, caught.value.status, caught.value.request_id) == (-32600, 400, request_id)
    assert caught.value.message.endswith(".")
