"""Hostile requests, the part of JSON-RPC: bodies that are no JSON, or two things at once, and messages of the wrong shape."""

from __future__ import annotations

import json
from typing import Any

from support.hostile import LATEST, Row, mark, modern, raw_modern, request, rpc

PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'


def unreadable(name: str, body: bytes) -> Row:
    """A body that is no JSON text that two parsers would read alike."""
    return Row(name, 400, request(body), -32700, "parse_error")


def _with(params: bytes) -> bytes:
    return PING[:-1] + b',"params":{"a":' + params + b"}}"


BODIES = [
    unreadable("an empty body", b""),
    unreadable("blanks", b" \r\n\t " * 100),
    unreadable("nothing but a brace", b"{"),
    unreadable("a body that ends early", PING[:-1]),
    unreadable("a body that ends in a string", PING[:20]),
    unreadable("a body that ends in an escape", _with(b'"\\u00')[:-2]),
    unreadable("garbage behind the message", PING + b"x"),
    unreadable("a NUL behind the message", PING + b"\0"),
    unreadable("two messages", PING + PING),
    unreadable("two messages on two lines", PING + b"\n" + PING),
    unreadable("a comma too many", _with(b"1,")),
    unreadable("a comment", PING + b"// x"),
    unreadable("quotes of another language", PING.replace(b'"', b"'")),
    unreadable("a key without quotes", PING.replace(b'"id"', b"id")),
    unreadable("NaN", _with(b"NaN")),
    unreadable("Infinity", _with(b"Infinity")),
    unreadable("minus Infinity", _with(b"-Infinity")),
    unreadable("a number over the range", _with(b"1e400")),
    unreadable("a number with a leading zero", _with(b"01")),
    unreadable("a number with a plus", _with(b"+1")),
    unreadable("an integer of 5,000 digits", _with(b"9" * 5000)),
    unreadable("an id of 1,001 digits", PING.replace(b"1", b"1" * 1001)),
    unreadable("a negative integer of 5,000 digits", _with(b"-" + b"9" * 5000)),
    unreadable("a key that stands twice", PING[:-1] + b',"method":"tools/call"}'),
    unreadable("two ids", PING[:-1] + b',"id":2}'),
    unreadable("a key that stands twice inside", _with(b'{"x":1,"x":2}')),
    unreadable("a key that stands twice by an escape", PING[:-1] + b',"\\u006dethod":"tools/call"}'),
    unreadable("a lone high surrogate", _with(b'"\\ud800"')),
    unreadable("a lone low surrogate", _with(b'"\\udc00x"')),
    unreadable("surrogates in the wrong order", _with(b'"\\udc00\\ud800"')),
    unreadable("a lone surrogate in a key", _with(b'{"\\ud800":1}')),
    unreadable("a surrogate in UTF-8", _with(b'"\xed\xa0\x80"')),
    unreadable("a byte order mark", b"\xef\xbb\xbf" + PING),
    unreadable("UTF-16", PING.decode().encode("utf-16")),
    unreadable("UTF-16 without a mark", PING.decode().encode("utf-16-be")),
    unreadable("UTF-32", PING.decode().encode("utf-32")),
    unreadable("Latin-1", _with('"ä"'.encode("latin-1"))),
    unreadable("an overlong slash", _with(b'"\xc0\xaf"')),
    unreadable("UTF-8 cut in the middle", _with(b'"\xf0\x9f\x98"')),
    unreadable("a code point over the last", _with(b'"\xf4\x90\x80\x80"')),
    unreadable("a tab in a string", _with(b'"\t"')),
    unreadable("a NUL in a string", _with(b'"\0"')),
    unreadable("an escape that there is not", _with(b'"\\x41"')),
    unreadable("63 arrays in params, which makes 65 levels", _with(b"[" * 63 + b"]" * 63)),
    unreadable("1,000 levels", _with(b"[" * 1000 + b"]" * 1000)),
    unreadable("100,000 levels", _with(b"[" * 100_000 + b"]" * 100_000)),
    unreadable("100,000 levels of objects", _with(b'{"a":' * 100_000 + b"1" + b"}" * 100_000)),
    unreadable("100,000 brackets that stay open", b"[" * 100_000),
    unreadable("4 MiB of brackets", b"[" * (4 << 20)),
    unreadable("4 MiB of quotes", b'"' * (4 << 20)),
    unreadable("4 MiB of backslashes", b'"' + b"\\" * ((4 << 20) - 1)),
    unreadable("a form", b"jsonrpc=2.0&id=1&method=ping"),
    unreadable("XML", b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>'),
    Row("62 arrays in params, which makes 64 levels", 200, request(_with(b"[" * 62 + b"]" * 62))),
    Row("a million brackets in a string", 200, request(_with(b'"' + b"[{" * 500_000 + b'"'))),
    Row("an integer of 1,000 digits", 200, request(_with(b"9" * 1000))),
    Row("a number under the range", 200, request(_with(b"1e-400"))),
    Row("a pair of surrogates", 200, request(_with(b'"\\ud83d\\ude00"'))),
    Row("4 MiB of blanks and a message", 200, request(b" " * ((4 << 20) - len(PING)) + PING)),
    Row("an array of a million zeros", 200, request(_with(b"[" + b"0," * 1_000_000 + b"0]"))),
    Row("keys that JavaScript fears", 200, request(_with(b'{"__proto__":{"x":1},"constructor":{"prototype":1}}'))),
]


def invalid(name: str, body: Any, status: int = 400, code: int = -32600, reason: str = "invalid_request") -> Row:
    """A JSON value that is no message."""
    return Row(name, status, request(body), code, reason)


MESSAGES = [
    *(invalid(f"a body of {json.dumps(value)}", value) for value in [1, "ping", True, 1.5]),
    Row("a body of null", 400, request(b"null"), -32600, "invalid_request"),
    invalid("an empty object", {}),
    invalid("no version", rpc(jsonrpc=None)),
    invalid("version 1.0", rpc(jsonrpc="1.0")),
    invalid("a version that is a number", rpc(jsonrpc=2.0)),
    invalid("a version that is an array", rpc(jsonrpc=["2.0"])),
    *(invalid(f"the method {json.dumps(value)}", rpc(value)) for value in [1, True, ["ping"], {"ping": 1}, 1.5]),
    Row("the method null", 400, request(b'{"jsonrpc":"2.0","id":1,"method":null}'), -32600, "invalid_request"),
    invalid("no method", rpc(method=None)),
    *(invalid(f"the id {json.dumps(value)}", rpc(id=value)) for value in [1.5, 1.0, 1e300, True, False, [1], {"a": 1}]),
    Row("the id null", 400, request(b'{"jsonrpc":"2.0","id":null,"method":"ping"}'), -32600, "invalid_request"),
    *(invalid(f"the params {json.dumps(value)}", rpc("ping", value)) for value in [1, "a", True, [], [1], 0.5]),
    Row("the params null", 400, request(PING[:-1] + b',"params":null}'), -32600, "invalid_request"),
    invalid("a result and a method", rpc(result={}, params=1)),
    invalid("a result and an error", rpc(None, result={}, error={})),
    invalid("a response without an id", {"jsonrpc": "2.0", "result": {}}),
    invalid("a response whose id is a fraction", {"jsonrpc": "2.0", "id": 1.5, "result": {}}),
    Row("a response nobody asked for", 202, request({"jsonrpc": "2.0", "id": 7, "result": {"code": "123456"}})),
    Row("an error nobody asked for", 202, request({"jsonrpc": "2.0", "id": "x", "error": {"code": 1, "message": "x"}})),
    Row("an error about no request", 202, request(b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"x"}}')),
    Row("an error that is a string", 202, request({"jsonrpc": "2.0", "id": "x", "error": "x"})),
    Row("a notification there is not", 202, request(rpc("notifications/none", id=None))),
    Row("a request without an id", 202, request(rpc("tools/call", {"name": "execute_command"}, id=None))),
    *(Row(f"the cancellation of {json.dumps(value)}", 202, request(rpc("notifications/cancelled", {"requestId": value}, id=None)))
      for value in [1, "x", 1.5, True, [], {"a": 1}]),
    Row("a cancellation for no request", 202, request(rpc("notifications/cancelled", {"reason": "x" * 100_000}, id=None))),
    invalid("a method there is not", rpc("tools/calls"), 200, -32601, "method_not_found"),
    invalid("a method in capitals", rpc("PING"), 200, -32601, "method_not_found"),
    invalid("a method with a NUL", rpc("ping\0"), 200, -32601, "method_not_found"),
    invalid("an empty method", rpc(""), 200, -32601, "method_not_found"),
    invalid("a method of 100,000 characters", rpc("x" * 100_000), 200, -32601, "method_not_found"),
    invalid("a method of escapes", rpc("\x1b[2J\u202e\u2028"), 200, -32601, "method_not_found"),
    invalid("a method of the inside", rpc("__init__"), 200, -32601, "method_not_found"),
    invalid("subscribing where nothing can be", rpc("resources/subscribe", {"uri": []}), 200, -32601, "method_not_found"),
    invalid("a log level of the wrong type", rpc("logging/setLevel", {"level": []}), 200, -32601, "method_not_found"),
    invalid("a cursor", rpc("tools/list", {"cursor": "../../x"}), 200, -32602, "invalid_cursor"),
    invalid("a cursor that is an array", rpc("tools/list", {"cursor": []}), 200, -32602, "invalid_cursor"),
]  # fmt: skip


def _call(name: str, params: Any, reason: str = "invalid_params") -> list[Row]:
    """The same wrong parameters in both eras."""
    fields = {"Mcp-Name": params["name"] if isinstance(params.get("name"), str) else None}
    meta = params.get("_meta")
    both = [Row(name, 200, request(rpc("tools/call", params)), -32602, reason)]
    if meta is None or isinstance(meta, dict):
        both.append(Row(f"{name}, modern", 400, modern("tools/call", params, fields, meta), -32602, reason))
    return both


LIST = {"name": "list_servers"}

CALLS = [
    *_call("a call without a name", {}),
    *_call("a call of a number", {"name": 5}),
    *_call("a call of an array", {"name": ["list_servers"]}),
    *_call("arguments that are an array", {**LIST, "arguments": [1]}),
    *_call("arguments that are a text", {**LIST, "arguments": "{}"}),
    *_call("arguments that are false", {**LIST, "arguments": False}),
    *_call("a _meta that is an array", {**LIST, "_meta": []}),
    *_call("a _meta that is a text", {**LIST, "_meta": "x"}),
    *_call("a progress token that is a fraction", {**LIST, "_meta": {"progressToken": 1.5}}),
    *_call("a progress token that is true", {**LIST, "_meta": {"progressToken": True}}),
    *_call("a progress token that is an object", {**LIST, "_meta": {"progressToken": {}}}),
    *_call("a tool there is not", {"name": "execute_commands"}, "unknown_tool"),
    *_call("a tool of the inside", {"name": "__class__"}, "unknown_tool"),
    *_call("a tool with a name of 5,000 characters", {"name": "x" * 5000}, "unknown_tool"),
    Row("a tool whose name is half a surrogate pair", 400, request(rpc("tools/call", {"name": "\ud800"})), -32700, "parse_error"),
    Row("a locked tool", 200, request(rpc("tools/call", LIST)), -32001, "totp_required"),
    Row("a locked tool with null for arguments", 200, request(rpc("tools/call", {**LIST, "arguments": None})), -32001, "totp_required"),
    Row("a locked prompt", 200, request(rpc("prompts/get", {"name": "x"})), -32001, "totp_required"),
    Row("a locked resource", 200, request(rpc("resources/read", {"uri": "fleetshell://servers/../../config.yaml"})), -32001, "totp_required"),
    Row("a resource without a uri", 200, request(rpc("resources/read", {})), -32602, "invalid_params"),
    Row("a resource whose uri is an array", 200, request(rpc("resources/read", {"uri": []})), -32602, "invalid_params"),
    Row("a prompt whose name is a number", 200, request(rpc("prompts/get", {"name": 1})), -32602, "invalid_params"),
]  # fmt: skip


def batch(entries: Any, **fields: str | None) -> bytes:
    """An array in the session that negotiated 2025-03-26."""
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return request(entries, {"Mcp-Session-Id": mark("BATCH"), "MCP-Protocol-Version": None, **named})


HELLO = rpc(
    "initialize", {"protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
)
PINGS = [rpc(id=number) for number in range(51)]

BATCHES = [
    Row("an empty batch", 400, batch([]), -32600, "invalid_request"),
    Row("a batch of 51", 400, batch(PINGS), -32600, "invalid_request"),
    Row("a batch of a million", 400, batch(b"[" + b"0," * 999_999 + b"0]"), -32600, "invalid_request"),
    Row("a batch with initialize", 400, batch([rpc(), HELLO]), -32600, "invalid_request"),
    Row("a batch without a session", 400, batch([rpc()], Mcp_Session_Id=None), -32600, "session_missing"),
    Row("a batch in a session there is not", 404, batch([rpc()], Mcp_Session_Id="x"), -32001, "session_not_found"),
    Row("a batch in a session without batches", 400, request([rpc()]), -32600, "no_batches"),
    Row("a batch whose header alone has batches", 400, request([rpc()], {"MCP-Protocol-Version": "2025-03-26"}), -32600, "no_batches"),
    Row("a batch in the modern era", 400, raw_modern([rpc()]), -32600, "no_batches"),
    Row("an empty batch in the modern era", 400, raw_modern([]), -32600, "no_batches"),
    Row("a batch in an era there is not", 400, request([rpc()], {"MCP-Protocol-Version": "2099-01-01"}), -32600, "no_batches"),
    Row("a batch of 50", 200, batch(PINGS[:50])),
    Row("a batch of what is no message", 200, batch([1, None, [], "x", [[]], {}])),
    Row("a batch of notifications", 202, batch([rpc("notifications/none", id=None)] * 50)),
    Row("a batch of responses", 202, batch([{"jsonrpc": "2.0", "id": 1, "result": {}}] * 2)),
    Row("a batch of one id", 200, batch([rpc("tools/call", LIST)] * 50)),
    Row("a batch in a batch", 200, batch([[rpc()]])),
    Row("a batch that accepts no JSON", 406, batch([rpc()], Accept="text/html"), -32600, "not_acceptable"),
]  # fmt: skip


def hello(name: str, status: int = 200, code: int | None = -32602, reason: str | None = "invalid_params", *, fields: Any = None, id: Any = 1, **changes: Any) -> Row:  # fmt: skip
    """An `initialize` whose parameters are changed."""
    params = {key: value for key, value in {**HELLO["params"], **changes}.items() if value is not None}
    headers = {"Mcp-Session-Id": None, "MCP-Protocol-Version": None, **(fields or {})}
    return Row(name, status, request(rpc("initialize", params, id=id), headers), code, reason)


HELLOS = [
    hello("initialize without a version", protocolVersion=None),
    hello("initialize with a version that is a number", protocolVersion=20251125),
    hello("initialize without capabilities", capabilities=None),
    hello("initialize with capabilities that are an array", capabilities=[]),
    hello("initialize with capabilities of 17 KiB", capabilities={"experimental": {"x": {"y": "z" * (17 << 10)}}}),
    hello("initialize with a million capabilities", capabilities={"experimental": {"x": {"y": [[]] * 1_000_000}}}),
    hello("initialize without a client", clientInfo=None),
    hello("initialize with a client without a name", clientInfo={"version": "1"}),
    hello("initialize with a client whose version is a number", clientInfo={"name": "x", "version": 1}),
    hello("initialize as a notification", 400, -32600, "session_missing", id=None),
    hello("initialize in a session there is not", 200, None, None, fields={"Mcp-Session-Id": "x"}),
    hello("initialize of a version there is not", 200, None, None, protocolVersion="9999-99-99"),
    hello("initialize of the empty version", 200, None, None, protocolVersion=""),
    hello("initialize by a client of escapes", 200, None, None, clientInfo={"name": "\x1b]0;x\x07\n" * 1000, "version": "\u202e"}),
    hello("initialize under an older header", 200, None, None, fields={"MCP-Protocol-Version": "2024-11-05"}),
    hello("initialize under the modern header", 400, -32602, "bad_envelope", fields={"MCP-Protocol-Version": "2026-07-28"}),
    hello("initialize under a header there is not", 400, -32022, "unsupported_version", fields={"MCP-Protocol-Version": "2099-01-01"}),
    hello("initialize under two headers", 400, -32022, "unsupported_version", fields={"MCP-Protocol-Version": [LATEST, LATEST]}),
]  # fmt: skip

JSON = [*BODIES, *MESSAGES, *CALLS, *BATCHES, *HELLOS]
