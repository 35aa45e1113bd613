"""Hostile requests, the part of MCP: eras that contradict each other, repeated headers, sessions, and forged handles."""

from __future__ import annotations

from typing import Any

from fleetshell_tools.relay.eras import MODERN_VERSION, VERSION_KEY
from fleetshell_tools.relay.modern import CAPABILITIES_KEY, CLIENT_KEY, LOG_LEVEL_KEY
from support.hostile import LATEST, Row, get, mark, modern, raw_modern, request, rpc
from support.hostile_http import denied

VERSION = "MCP-Protocol-Version"
SESSION = "Mcp-Session-Id"
NOBODY = "A" * 43
CALL: dict[str, Any] = {"name": "list_servers", "arguments": {}}


def _mismatch(name: str, sent: bytes) -> Row:
    return Row(name, 400, sent, -32020, "header_mismatch")


def _unknown(name: str, sent: bytes) -> Row:
    return Row(name, 400, sent, -32022, "unsupported_version")


def _said(version: Any, header: Any, method: str = "ping") -> bytes:
    return request(rpc(method, {"_meta": {VERSION_KEY: version}}), {VERSION: header})


ROUTING = [
    Row("no version header in a session", 200, request(None, {VERSION: None})),
    Row("another legacy version than agreed on", 200, request(None, {VERSION: "2024-11-05"})),
    Row("a legacy version in both places", 200, _said("2024-11-05", LATEST)),
    Row("a version that is a number, under a legacy header", 200, _said(20260728, LATEST)),
    Row("a version with blanks around it", 200, modern(fields={VERSION: f" \t{MODERN_VERSION} \t"})),
    Row("a session beside a modern request", 200, modern(fields={SESSION: mark("SESSION")})),
    Row("a session there is not beside a modern request", 200, modern(fields={SESSION: "x", "Last-Event-ID": "x"})),
    _mismatch("a legacy header over a modern envelope", _said(MODERN_VERSION, LATEST)),
    _mismatch("a modern envelope without a header", _said(MODERN_VERSION, None)),
    _mismatch("a legacy envelope without a header", _said(LATEST, None)),
    _mismatch("an envelope of the wrong type without a header", _said(["x"], None)),
    _mismatch("a modern header over a legacy envelope", modern(meta={VERSION_KEY: LATEST})),
    _mismatch("an empty header over a modern envelope", modern(fields={VERSION: ""})),
    _mismatch("two equal version headers", modern(fields={VERSION: [MODERN_VERSION, MODERN_VERSION]})),
    _mismatch("two version headers of two eras", modern(fields={VERSION: [MODERN_VERSION, LATEST]})),
    _mismatch("two versions in one header", modern(fields={VERSION: f"{MODERN_VERSION}, {LATEST}"})),
    _mismatch("a version of the future over a modern envelope", modern(fields={VERSION: "2099-01-01"})),
    _unknown("a version of the future", request(None, {VERSION: "2099-01-01"})),
    _unknown("a version of the future in both places", modern(meta={VERSION_KEY: "2099-01-01"}, fields={VERSION: "2099-01-01"})),
    _unknown("an empty version header", request(None, {VERSION: ""})),
    _unknown("two legacy version headers", request(None, {VERSION: [LATEST, LATEST]})),
    _unknown("a version in capitals", request(None, {VERSION: "DRAFT"})),
    _unknown("a version of 20,000 characters", request(None, {VERSION: "1" * 20_000})),
    _unknown("a version in Latin-1", request(None, {VERSION: b"2025-11-2\xb5"})),
    _unknown("a notification of the future", request(rpc("notifications/x", id=None), {VERSION: "2099-01-01"})),
    _unknown("GET of the future", get({VERSION: "2099-01-01"})),
    _unknown("DELETE of the future", get({VERSION: "2099-01-01"}, method="DELETE")),
    Row("GET in the modern era", 405, get({VERSION: MODERN_VERSION}), -32600, "http_method"),
    Row("DELETE in the modern era", 405, get({VERSION: MODERN_VERSION}, method="DELETE"), -32600, "http_method"),
    Row("a modern method in a session", 200, request(rpc("server/discover")), -32601, "method_not_found"),
    Row("a subscription in a session", 200, request(rpc("subscriptions/listen", {"notifications": {}})), -32601, "method_not_found"),
    *(Row(f"{method} in the modern era", 404, modern(method), -32601, "method_not_found")
      for method in ["initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe", "tasks/get", ""]),
    Row("a modern response", 400, raw_modern({"jsonrpc": "2.0", "id": 1, "result": {}}), -32600, "invalid_request"),
    Row("a modern notification", 202, raw_modern(rpc("notifications/none", id=None))),
    _mismatch("a modern notification of another version", raw_modern(rpc("notifications/x", {"_meta": {VERSION_KEY: "x"}}, id=None))),
    Row("a modern cancellation of what is not there", 202, raw_modern(rpc("notifications/cancelled", {"requestId": 1}, id=None))),
]  # fmt: skip


def _envelope(name: str, sent: bytes) -> Row:
    return Row(name, 400, sent, -32602, "bad_envelope")


def _bare(params: Any) -> bytes:
    return raw_modern(rpc("server/discover", params), Mcp_Method="server/discover")


ENVELOPES = [
    _envelope("no params", _bare(None)),
    _envelope("no _meta", _bare({})),
    _envelope("an envelope: a _meta that is an array", _bare({"_meta": []})),
    _envelope("an envelope: a _meta that is a text", _bare({"_meta": MODERN_VERSION})),
    _envelope("no version in _meta", modern(meta={VERSION_KEY: None})),
    _envelope("an envelope: a version that is a number", modern(meta={VERSION_KEY: 20260728})),
    _envelope("an envelope: a version that is an array", modern(meta={VERSION_KEY: [MODERN_VERSION]})),
    _envelope("no capabilities", modern(meta={CAPABILITIES_KEY: None})),
    _envelope("capabilities that are an array", modern(meta={CAPABILITIES_KEY: []})),
    _envelope("a client that is a text", modern(meta={CLIENT_KEY: "claude"})),
    _envelope("a log level there is not", modern(meta={LOG_LEVEL_KEY: "loud"})),
    _envelope("a log level that is an object", modern(meta={LOG_LEVEL_KEY: {}})),
    Row("a client whose name is an array", 200, modern(meta={CLIENT_KEY: {"name": [], "version": {}}})),
    _mismatch("no Mcp-Method", modern(fields={"Mcp-Method": None})),
    _mismatch("an empty Mcp-Method", modern(fields={"Mcp-Method": ""})),
    _mismatch("another Mcp-Method", modern(fields={"Mcp-Method": "tools/list"})),
    _mismatch("Mcp-Method in capitals", modern(fields={"Mcp-Method": "Server/Discover"})),
    _mismatch("two equal Mcp-Methods", modern(fields={"Mcp-Method": ["server/discover"] * 2})),
    _mismatch("two different Mcp-Methods", modern(fields={"Mcp-Method": ["server/discover", "tools/call"]})),
    _mismatch("an encoded Mcp-Method", modern(fields={"Mcp-Method": "=?base64?c2VydmVyL2Rpc2NvdmVy?="})),
]  # fmt: skip


def _named(
    value: str | bytes | list[str] | None, params: dict[str, Any] | None = None, method: str = "tools/call"
) -> bytes:
    return modern(method, params or CALL, {"Mcp-Name": value})


# The payload is the base64 of `list_servers`.
NAMES = [
    _mismatch("no Mcp-Name", _named(None)),
    _mismatch("an empty Mcp-Name", _named("")),
    _mismatch("another Mcp-Name", _named("execute_command")),
    _mismatch("Mcp-Name in capitals", _named("LIST_SERVERS")),
    _mismatch("two equal Mcp-Names", _named(["list_servers", "list_servers"])),
    _mismatch("two different Mcp-Names", _named(["list_servers", "execute_command"])),
    _mismatch("an Mcp-Name in quotes", _named('"list_servers"')),
    _mismatch("a percent-encoded Mcp-Name", _named("list%5Fservers")),
    _mismatch("no Mcp-Name for a prompt", _named(None, {"name": "x"}, "prompts/get")),
    _mismatch("another Mcp-Name for a resource", _named("fleetshell://servers/b", {"uri": "fleetshell://servers/a"}, "resources/read")),
    _mismatch("an Mcp-Name in raw UTF-8", _named("ä".encode(), {"name": "ä"})),
    *(_mismatch(f"the Mcp-Name {value}", _named(value)) for value in [
        "=?base64??=", "=?base64?!!!?=", "=?base64?bGlzdF9zZXJ2ZXJz=?=", "=?base64?bGlzdF9zZXJ2ZXJ?=", "=?base64?bGlzdF9zZXJ2ZXJz",
        "=?BASE64?bGlzdF9zZXJ2ZXJz?=", "=?base64?bGlzdF9z ZXJ2ZXJz?=", "=?base64?gICA?=", "=?utf-8?B?bGlzdF9zZXJ2ZXJz?=",
        "=?base64?PT9iYXNlNjQ/YkdsemRGOXpaWEoyWlhKego/PQ==?=", "=?base64?" + "A" * 20_000 + "?=",
    ]),
    _mismatch("a payload with bits behind its end", _named("=?base64?YR==?=", {"name": "a"})),
    Row("the name in base64", 200, _named("=?base64?bGlzdF9zZXJ2ZXJz?="), -32001, "totp_required"),
    Row("an Mcp-Name where none belongs", 200, modern(fields={"Mcp-Name": ["x", "y"]})),
]  # fmt: skip


def _media(name: str, status: int, reason: str | None, fields: Any, sent: Any = request) -> Row:
    code = None if reason is None else -32600
    return Row(name, status, sent(None, fields) if sent is request else sent(fields=fields), code, reason)


MEDIA = [
    *(_media(f"the Content-Type {value!r}", 415, "content_type", {"Content-Type": value})
      for value in [None, "", "text/plain", "application/jsonx", "application/x-www-form-urlencoded", "application/*",
                    "multipart/form-data; boundary=x", "text/plain; application/json", "application/json-rpc", "a" * 20_000]),
    *(_media(f"the Content-Type {value!r}", 200, None, {"Content-Type": value})
      for value in ["APPLICATION/JSON", "application/json ;charset=utf-8", "application/json; charset=utf-16"]),
    *(_media(f"the Accept {value!r}", 406, "not_acceptable", {"Accept": value})
      for value in ["text/html", "application/json;q=0", "*/*;q=0.000", "image/*, text/*", ";;;,,,", "application"]),
    *(_media(f"the Accept {value!r}", 200, None, {"Accept": value})
      for value in [None, "", "*/*", "application/*", "APPLICATION/JSON", "text/html;q=0, */*;q=0.1", ["text/html", "*/*"]]),
    _media("a modern request without a Content-Type", 415, "content_type", {"Content-Type": None}, modern),
    _media("a modern request that accepts no JSON", 406, "not_acceptable", {"Accept": "text/html"}, modern),
    Row("a subscription without event streams", 406, modern("subscriptions/listen", {"notifications": {}}, {"Accept": "application/json"}), -32600, "not_acceptable"),
    Row("a subscription without a wish", 400, modern("subscriptions/listen"), -32602, "invalid_params"),
    Row("a subscription that wishes a number", 400, modern("subscriptions/listen", {"notifications": {"toolsListChanged": 1}}), -32602, "invalid_params"),
    Row("a subscription to 257 resources", 400, modern("subscriptions/listen", {"notifications": {"resourceSubscriptions": ["x"] * 257}}), -32602, "too_many_subscriptions"),
    Row("a subscription to a number", 400, modern("subscriptions/listen", {"notifications": {"resourceSubscriptions": [1]}}), -32602, "invalid_params"),
    Row("GET that accepts no event streams", 406, get({"Accept": "application/json"}), -32600, "not_acceptable"),
    Row("answers to questions nobody asked", 400, modern("tools/call", {**CALL, "inputResponses": []}), -32602, "invalid_params"),
    Row("a state that is a number", 400, modern("tools/call", {**CALL, "requestState": 1}), -32602, "invalid_params"),
    Row("a forged state", 200, modern("tools/call", {**CALL, "requestState": "x" * 1000, "inputResponses": {}}), -32001, "totp_required"),
]  # fmt: skip


def _session(name: str, value: Any, status: int = 404) -> list[Row]:
    """A session header with each of the three methods."""
    code, reason = (-32001, "session_not_found") if status == 404 else (-32600, "session_missing")
    return [
        Row(f"{name}, POST", status, request(None, {SESSION: value}), code, reason),
        Row(f"{name}, GET", status, get({SESSION: value}), code, reason),
        Row(f"{name}, DELETE", status, get({SESSION: value}, method="DELETE"), code, reason),
    ]


def _resume(name: str, value: str | bytes, session: str = "SESSION") -> Row:
    return Row(name, 400, get({SESSION: mark(session), "Last-Event-ID": value}), -32600, "unknown_event_id")


SESSIONS = [
    *_session("no session", None, 400),
    *_session("an empty session", "", 400),
    *_session("a session there is not", NOBODY),
    *_session("an ended session", mark("ENDED")),
    *_session("a session of another key", mark("FOREIGN")),
    *_session("two sessions", [mark("SESSION"), mark("SESSION")]),
    *_session("a session and something else", f"{mark('SESSION')}, {NOBODY}"),
    *_session("a session in quotes", f'"{mark("SESSION")}"'),
    *_session("a session of 20,000 characters", "a" * 20_000),
    *_session("a session in Latin-1", b"\xe4\xf6\xfc"),
    *_session("a session that is a path", "../../etc/passwd"),
    *_session("a session that is the handle", mark("HANDLE")),
    _resume("an event id out of thin air", "x"),
    _resume("an event id that is a number", "1"),
    _resume("an event id with many separators", "-_.:/" * 100),
    _resume("an event id of 20,000 characters", "9" * 20_000),
    _resume("an event id in Latin-1", b"\xff\xfe"),
    _resume("an event id that is a path", "../../../etc/passwd"),
    _resume("an event id in a session that cannot resume", "1-1", "BATCH"),
    Row("an event id without a session", 400, get({SESSION: None, "Last-Event-ID": "1"}), -32600, "session_missing"),
    Row("an event id in a session of another key", 404, get({SESSION: mark("FOREIGN"), "Last-Event-ID": "1"}), -32001, "session_not_found"),
]  # fmt: skip


def _carriers(handle: Any) -> dict[str, bytes]:
    """A call with a handle in each of the three places that can carry one."""
    return {
        "the cookie": modern("tools/call", CALL, {"Cookie": f"a=b; __Host-fleetshell={handle}; c=d"}),
        "_meta": modern("tools/call", CALL, meta={"dev.fleetshell/session": handle}),
        "the argument": modern("tools/call", {**CALL, "arguments": {"fleetshell_session": handle}}),
    }


def _forged(name: str, handle: Any) -> list[Row]:
    return [Row(f"{name} in {where}", 200, sent, -32001, "totp_required") for where, sent in _carriers(handle).items()]


def _cookie(name: str, value: str | list[str], opens: bool = False) -> Row:
    sent = modern("tools/call", CALL, {"Cookie": value})
    return Row(name, 200, sent) if opens else Row(name, 200, sent, -32001, "totp_required")


GOOD = f"__Host-fleetshell={mark('HANDLE')}"

HANDLES = [
    *(Row(f"the right handle in {where}", 200, sent) for where, sent in _carriers(mark("HANDLE")).items()),
    *_forged("no handle", ""),
    *_forged("a handle there is not", NOBODY),
    *_forged("a handle of another key", mark("FOREIGN_HANDLE")),
    *_forged("a handle that is the session", mark("SESSION")),
    *_forged("a handle that is the key", mark("KEY_HANDLE")),
    *_forged("a handle with one character more", mark("HANDLE") + "A"),
    *_forged("a handle of 201 characters", "a" * 201),
    *_forged("a handle of 20,000 characters", "a" * 20_000),
    *_forged("a handle of 19 characters", "a" * 19),
    *_forged("a handle with a slash", f"../{mark('HANDLE')}"),
    *_forged("a handle that is a number", 10**40),
    *(Row(f"a handle that is {value!r} in {where}", 200, sent, -32001, "totp_required")
      for value in (True, [mark("HANDLE")], {"a": mark("HANDLE")}) for where, sent in _carriers(value).items() if where != "the cookie"),
    _cookie("the cookie of a relay without TLS", f"fleetshell={mark('HANDLE')}"),
    _cookie("the cookie in lower case", f"__host-fleetshell={mark('HANDLE')}"),
    _cookie("the cookie in quotes", f'__Host-fleetshell="{mark("HANDLE")}"'),
    _cookie("the cookie with a comma", f"a=b, {GOOD}"),
    _cookie("the cookie behind two others of its name", f"__Host-fleetshell={NOBODY}; __Host-fleetshell={NOBODY[1:]}; {GOOD}"),
    _cookie("the cookie behind a malformed one", f"; ;=;__Host-fleetshell; __Host-fleetshell=; {GOOD}", True),
    _cookie("the cookie in a second field", ["a=b", GOOD], True),
    _cookie("10,000 other cookies", "; ".join(["a=b"] * 5000)),
    Row("a handle in a session", 200, request(rpc("tools/call", CALL), {"Cookie": GOOD}), -32001, "totp_required"),
    Row("a handle in the _meta of a session", 200, request(rpc("tools/call", {**CALL, "_meta": {"dev.fleetshell/session": mark("HANDLE")}})), -32001, "totp_required"),
    denied("a handle and no key", modern("tools/call", CALL, {"Cookie": GOOD, "Authorization": None})),
    denied("a handle for a key", modern("tools/call", CALL, {"Authorization": f"Bearer {mark('HANDLE')}"})),
    denied("a handle of another key and that key", modern("tools/call", CALL, {"Cookie": f"__Host-fleetshell={mark('FOREIGN_HANDLE')}", "Authorization": f"Bearer {mark('OLD_KEY')}"})),
]  # fmt: skip

MCP = [*ROUTING, *ENVELOPES, *NAMES, *MEDIA, *SESSIONS, *HANDLES]
