"""What the fuzzer feeds, and what must hold for any input: of the relay's seven parsers of what others wrote."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator
from pathlib import Path

from support.hostile_http import HTTP
from support.hostile_json import JSON
from support.hostile_mcp import MCP
from support.protocol_client import Client, Wire, modern_headers

from fleetshell_tools.core import prompt_file, schema, servers, yamlfile
from fleetshell_tools.core.config import Config
from fleetshell_tools.core.errors import ConfigError
from fleetshell_tools.core.text import clean, decode
from fleetshell_tools.core.types import Act, Captured
from fleetshell_tools.fleet import framing
from fleetshell_tools.fleet.framing import Framing
from fleetshell_tools.fleet.guard import DEFAULT_ENTRIES, Guard
from fleetshell_tools.fleet.mux import wire
from fleetshell_tools.relay.exchange import Answer, Calls, HttpRequest, Listen, Subscription, ToolResult
from fleetshell_tools.relay.http1 import Malformed, Reader, Response, encode
from soak.fuzzing import Target

DATA = Path(__file__).resolve().parents[1] / "data"
REFUSALS = {400, 411, 413, 417, 431, 501, 505}
STATUSES = {200, 202, 204, 400, 404, 405, 406, 409, 415, 429}
REQUESTS = [row.sent for row in (*HTTP, *JSON, *MCP) if len(row.sent) < 3000]
BODIES = [body for body in (sent.partition(b"\r\n\r\n")[2] for sent in REQUESTS) if body]
CORPUS = [json.loads(line) for line in (DATA / "guard" / "development.jsonl").read_text().splitlines()]


def pieces(data: bytes) -> Iterator[bytes]:
    """An input cut where its own content says, so that the same input is always cut alike."""
    at = 0
    while at < len(data):
        length = 1 + (data[at] * 7 + at) % 97
        yield data[at : at + length]
        at += length


def _requests(parts: Iterator[bytes]) -> tuple[list[Hashable], str]:
    reader = Reader("peer", 32768, 50)
    seen: list[Hashable] = []
    why = ""
    head = None
    try:
        for part in parts:
            reader.feed(part)
            while head or (head := reader.head()):
                if (head.content_length or 0) > LONGEST_BODY:
                    raise Malformed(413, "too long")
                body = reader.body(head.content_length or 0)
                if body is None:
                    break
                seen.append((head.method, len(body)))
                head = None
    except Malformed as fault:
        assert fault.status in REFUSALS
        assert encode(Response(fault.status, fault.why.encode())).startswith(b"HTTP/1.1 ")
        seen.append("refused")
        why = fault.why
    return seen, why


LONGEST_BODY = 4096


def http(data: bytes) -> Hashable:
    """Any bytes are requests, or refused, and alike however they are cut."""
    whole, why = _requests(iter([data]))
    # Which of several faults is seen first may depend on how much has come; that there is one may not.
    assert _requests(pieces(data))[0] == whole
    return min(len(whole), 4), why[:20]


def protocol(data: bytes) -> Hashable:
    """Any body gets a valid answer, and none of our own errors; its first byte chooses the era."""
    client = Client()
    headers: dict[str, str | list[str] | None] = {}
    if data[:1] == b" ":
        headers = dict(modern_headers("tools/call", {"name": "execute_command"}))
    else:
        client.start()
    received = client.endpoint.receive(_request(client, data, headers))
    if isinstance(received, (Listen, Subscription)):
        received.stream.attach(Wire())
        client.endpoint.hang_up(received)
        return "stream"
    if isinstance(received, Calls):
        results = [ToolResult([{"type": "text", "text": "up"}])] * len(received.calls)
        received = client.endpoint.finish(received, results)
    assert isinstance(received, Answer) and received.status in STATUSES
    assert b'"code":-32603' not in received.body
    answer = json.loads(received.body) if received.body else None
    code = answer.get("error", {}).get("code") if isinstance(answer, dict) else None
    reason = answer["error"]["data"]["reason"] if code is not None and isinstance(answer, dict) else None
    assert all(not session.busy for session in client.sessions.live())
    return received.status, code, reason


def _request(client: Client, body: bytes, headers: dict[str, str | list[str] | None]) -> HttpRequest:
    from email.message import Message

    message = Message()
    every = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    for name, value in {**every, "Mcp-Session-Id": client.session_id, **headers}.items():
        if isinstance(value, str):
            message[name] = value
    return HttpRequest("POST", message, body, client.key)


GUARD = Guard(DEFAULT_ENTRIES)


def guard(data: bytes) -> Hashable:
    """Any command gets a verdict that the guard stands by."""
    verdict = GUARD.judge(Act(data.decode(errors="surrogateescape").replace("\udc00", "")))
    assert verdict.rule != "internal-error"
    assert verdict.allowed or (verdict.kind and verdict.reason)
    return verdict.allowed, verdict.rule


def _events(parts: Iterator[bytes]) -> list[Hashable]:
    reader = wire.Reader()
    events: list[Hashable] = []
    try:
        for part in parts:
            events += reader.feed(part)
        events += reader.feed(b"")  # an error behind events is told at the next look
    except wire.ProtocolError:
        return [*events, "refused"]
    return list(events)


def mux(data: bytes) -> Hashable:
    """Any bytes from a control master are events or a protocol error, and alike however they are cut."""
    whole = _events(iter([data]))
    assert _events(pieces(data)) == whole
    return tuple(type(event).__name__ for event in whole)[:4], len(whole)


def yaml_files(data: bytes) -> Hashable:
    """Any text is a document that can be written and read again, or is refused with its line; so for each kind of file."""
    text = data.decode(errors="replace")
    try:
        document = yamlfile.parse(text, "a.yaml")
    except ConfigError as error:
        assert error.message.startswith("a.yaml")
        return error.message.rpartition(":")[2][:30]
    if isinstance(document.data, dict):
        assert yamlfile.parse(yamlfile.dump(document.data), "b.yaml").data == document.data
    said = []
    for build in (lambda: schema.build(Config, document.data, document), lambda: servers.parse(text, "a.yaml")):
        try:
            build()
            said.append("")
        except ConfigError as error:
            assert "a.yaml" in error.message
            said.append(error.message.rpartition(" ")[2][:20])
    try:
        prompt_file.parse(data, "p", Path("p.json"))
    except ConfigError as error:
        said.append(error.message[-20:])
    return tuple(said)


NONCE, PROMPT = "0123456789abcdef01234567", "feedfeedfeedfeed"
SPOKEN = f"\x1e{NONCE}+\x1fout\x1e{NONCE}=3z;/a;b\n\x1f{NONCE}\x1e\x1e{PROMPT}\x1f".encode()


def _framed(parts: Iterator[bytes], nonce: str) -> tuple[list[framing.Mark], bytes]:
    text = bytearray()
    stream = Framing(PROMPT, text.extend)
    stream.expect(nonce)
    marks = [mark for part in parts for mark in stream.feed(part)]
    stream.finish()
    return marks, bytes(text)


def session_output(data: bytes) -> Hashable:
    """Any output is framed alike however it is cut, is never taken for another command's end, and is shown without escapes."""
    marks, text = _framed(iter([data]), NONCE)
    assert _framed(pieces(data), NONCE) == (marks, text)
    # Whoever prints marks does not know the next command's word: nothing may end that one.
    other, _ = _framed(iter([data]), "f" * 24)
    assert f"\x1e{'f' * 24}".encode() in data or all(isinstance(mark, framing.Prompted) for mark in other)
    tidy = framing.tidy(Captured(text, b"", len(text)), [NONCE], farewell=len(data) % 2 == 0)
    shown = clean(decode(tidy.head))
    assert not any((char < " " and char not in "\n\t") or "\x7f" <= char <= "\x9f" for char in shown)
    return tuple(type(mark).__name__ for mark in marks)[:5], len(text) == len(data)


CONFIG = b"""relay:
  http:
    port: 8443
    allowed_hosts: [a.example, "b"]
mfa:
  enabled: true
security:
  dangerous_commands: ['re:x+', reboot]
"""
SERVER = b"""id: web-1
hostname: "web-1.example.com"
ssh_user: ops
tags: [web, 'production']
context:
  purpose: >
    Serves
  services: {nginx: {port: 443}}
"""
PROMPT_FILE = (
    b'{"name": "p", "description": "d", "content": "Look at {{server}}", "created_at": "2024-01-15T10:30:00Z"}'
)

TARGETS = [
    Target("http", REQUESTS, [b"\r\n", b"\n", b": ", b" ", b"\0", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n",
           b"Host: a\r\n", b"HTTP/1.0", b"\r\n\r\n", b"\xff", b"Expect: 100-continue\r\n", b"+", b"0x"], http, 0.30),
    Target("protocol", BODIES, [b"{", b"}", b"[", b"]", b'"', b"\\", b",", b":", b'"id":', b"null", b"1e999", b"\\ud800", b'"method":', b"NaN",
           b'"params":{}', b"tools/call", b'"_meta":{', b"9" * 30, b"\xed\xa0\x80"], protocol, 0.15),
    Target("guard", [str(row["command"]).encode() for row in CORPUS], [b"'", b'"', b"`", b"$(", b"${", b"$((", b")", b"}", b"{a,b}", b"\\", b"\n",
           b";", b"&", b"|", b"<<E\n", b"<(", b"$'\\x", b"*", b"[", b"case x in", b"for i in", b"do", b"done", b"[[", b"=(", b"~", b"/", b"rm -rf ",
           b"sh -c ", b"eval ", b"xargs "], guard, 0.08),
    Target("mux", [bytes.fromhex(path.read_text()) for path in sorted((DATA / "mux").glob("*.hex"))] + [wire.hello()],
           [b"\0\0\0\x08", b"\0\0\0\4", b"\x80\0\0\4", b"\x80\0\0\6", b"\x80\0\0\3", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\4\0\0"], mux, 0.22),
    Target("files", [CONFIG, SERVER, PROMPT_FILE, b"a: |\n  b\n"], [b": ", b"- ", b"\n", b"\n  ", b"&a ", b"*a", b"!!python/object ", b"<<: ", b"{", b"[", b"'", b'"',
           b"|\n", b"? ", b"#", b"%YAML 1.1\n", b"---\n", b"...\n", b"\t", b"~", b"0x1F", b"1e9", b"\xe2\x80\xa8", b"\\u0000", b"null"], yaml_files, 0.05),
    Target("session", [SPOKEN, SPOKEN * 3, b"\x1b[31mred\x1b[0m\r\n", b"10%\r20%\r\nexit\n"], [b"\x1e", b"\x1f", NONCE.encode(), PROMPT.encode(), b"+", b"=", b"0;/\x1f",
           b"\x1b[", b"\x1b]0;", b"\x07", b"\r", b"\n", b"\x9b", b"\xc2\x9b", b"exit\n", b'\nUse "exit" to leave shell.\n'], session_output, 0.20),
]  # fmt: skip
