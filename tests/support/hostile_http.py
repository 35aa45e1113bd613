"""Hostile requests, the part of HTTP: framing, request lines, header fields, hosts, origins, keys, paths, methods."""

from __future__ import annotations

from support.hostile import Row, bare, get, malformed, mark, request, rpc

PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
HOST = b"Host: localhost"
CHUNKS = b"28\r\n" + PING + b"\r\n0\r\n\r\n"


def _length(value: str | list[str]) -> bytes:
    return request(PING, {"Content-Length": value})


def _coding(
    *values: bytes, name: bytes = b"Transfer-Encoding", length: str | None = None, body: bytes = CHUNKS
) -> bytes:
    return request(body, {"Content-Length": length}, lines=tuple(name + b": " + value for value in values))


def _line(line: bytes) -> bytes:
    return bare(line, HOST)


def _field(*lines: bytes) -> bytes:
    return request(lines=lines)


FRAMING = [
    malformed("length and chunked", 400, _coding(b"chunked", length="4")),
    malformed("chunked and length 0", 400, _coding(b"chunked", length="0")),
    malformed("chunked alone", 411, _coding(b"chunked")),
    malformed("chunked in capitals", 411, _coding(b"CHUNKED")),
    malformed("chunked with an extension", 411, _coding(b"chunked", body=b"28;a=b\r\n" + PING + b"\r\n0\r\n\r\n")),
    malformed("chunked with a trailer", 411, _coding(b"chunked", body=CHUNKS[:-2] + b"X: y\r\n\r\n")),
    malformed("chunk of a negative size", 411, _coding(b"chunked", body=b"-1\r\n\r\n")),
    malformed("chunk of a huge size", 411, _coding(b"chunked", body=b"f" * 17 + b"\r\n")),
    malformed("chunked twice", 501, _coding(b"chunked", b"chunked")),
    malformed("chunked, identity in one field", 501, _coding(b"chunked, identity")),
    malformed("identity", 501, _coding(b"identity")),
    malformed("gzip, chunked", 501, _coding(b"gzip, chunked")),
    malformed("xchunked", 501, _coding(b"xchunked")),
    malformed("chunked in quotes", 501, _coding(b'"chunked"')),
    malformed("chunked with a parameter", 501, _coding(b"chunked;q=1")),
    malformed("chunked behind a vertical tab", 400, _coding(b"\x0bchunked")),
    malformed("an empty coding with a length", 400, _coding(b"", length="40", body=PING)),
    malformed("a coding with a blank before its colon", 400, _coding(b"chunked", name=b"Transfer-Encoding ")),
    malformed("a coding on a GET", 411, get({"Transfer-Encoding": "chunked"}) + CHUNKS),
    malformed("chunked over HTTP/1.0", 400, _coding(b"chunked").replace(b"HTTP/1.1", b"HTTP/1.0")),
    malformed("no length", 411, request(PING, {"Content-Length": None})),
    malformed("two equal lengths", 400, _length(["40", "40"])),
    malformed("two different lengths", 400, _length(["40", "4"])),
    malformed("a list of lengths", 400, _length("40, 40")),
    malformed("a signed length", 400, _length("+40")),
    malformed("a negative length", 400, _length("-1")),
    malformed("minus zero", 400, _length("-0")),
    malformed("an underscore in the length", 400, _length("4_0")),
    malformed("a blank in the length", 400, _length("4 0")),
    malformed("a hexadecimal length", 400, _length("0x28")),
    malformed("an octal length", 400, _length("0o50")),
    malformed("a length with a fraction", 400, _length("40.0")),
    malformed("a length with an exponent", 400, _length("4e1")),
    malformed("an empty length", 400, _length("")),
    malformed("a length in Arabic digits", 400, _length("٤٠")),
    malformed("a length in superscript", 400, request(PING, {"Content-Length": b"4\xb2"})),
    malformed("a length of 5,000 digits", 400, _length("9" * 5000)),
    malformed("a length over 64 bits", 400, _length("18446744073709551656")),
    malformed("a length of 10^18 - 1", 413, _length("9" * 18)),
    malformed("one byte over 4 MiB", 413, _length(str((4 << 20) + 1))),
    malformed("a length with a blank before its colon", 400, _field(b"Content-Length : 4")),
    malformed("a length with a tab before its colon", 400, _field(b"Content-Length\t: 4")),
    Row("a length with leading zeros", 200, _length("0000000040")),
    Row("a length in blanks and tabs", 200, _length(" \t 40 \t ")),
]

LINES = [
    malformed("HTTP/0.9", 505, b"GET /mcp\r\n"),
    malformed("HTTP/0.9 with fields", 505, _line(b"POST /mcp")),
    malformed("HTTP/1.2 as a fraction", 400, _line(b"GET /mcp HTTP/1.10")),
    malformed("HTTP/2 by name", 505, _line(b"GET /mcp HTTP/2.0")),
    malformed("the preface of HTTP/2", 505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"),
    malformed("HTTP/3", 505, _line(b"GET /mcp HTTP/3.0")),
    malformed("another protocol", 400, _line(b"GET /mcp HTTPS/1.1")),
    malformed("a version in lower case", 400, _line(b"GET /mcp http/1.1")),
    malformed("RTSP", 400, _line(b"OPTIONS * RTSP/1.0")),
    malformed("SSH", 400, b"SSH-2.0-OpenSSH_9.2\r\n"),
    malformed("an absolute target of ours", 400, _line(b"POST https://localhost/mcp HTTP/1.1")),
    malformed("an absolute foreign target", 400, _line(b"GET http://169.254.169.254/latest/meta-data HTTP/1.1")),
    malformed("an authority as the target", 400, _line(b"CONNECT evil.example:443 HTTP/1.1")),
    malformed("an asterisk for POST", 400, _line(b"POST * HTTP/1.1")),
    malformed("a relative target", 400, _line(b"GET mcp HTTP/1.1")),
    malformed("a backslash as the target", 400, _line(b"GET \\mcp HTTP/1.1")),
    malformed("no target", 400, _line(b"GET  HTTP/1.1")),
    malformed("two blanks", 400, _line(b"GET  /mcp HTTP/1.1")),
    malformed("a tab for a blank", 400, _line(b"GET\t/mcp HTTP/1.1")),
    malformed("a blank in the target", 400, _line(b"GET /mcp /x HTTP/1.1")),
    malformed("a blank before the method", 400, _line(b" GET /mcp HTTP/1.1")),
    malformed("a blank behind the version", 400, _line(b"GET /mcp HTTP/1.1 ")),
    malformed("a NUL in the target", 400, _line(b"GET /mcp\0 HTTP/1.1")),
    malformed("UTF-8 in the target", 400, _line("GET /mcp/ä HTTP/1.1".encode())),
    malformed("a method with a bracket", 400, _line(b"G(T /mcp HTTP/1.1")),
    malformed("a NUL in the method", 400, _line(b"GE\0 /mcp HTTP/1.1")),
    malformed("LF alone", 400, b"GET /mcp HTTP/1.1\nHost: localhost\n\n"),
    malformed("LF alone among the fields", 400, bare(b"GET /mcp HTTP/1.1", b"A: b\nTransfer-Encoding: chunked", HOST)),
    malformed("CR alone among the fields", 400, bare(b"GET /mcp HTTP/1.1", b"A: b\rC: d", HOST)),
    malformed("two empty lines first", 400, b"\r\n\r\n" + request()),
    malformed("a head of 33 KiB", 431, _field(b"A: " + b"a" * (33 << 10))),
    malformed("a target of 40,000 characters", 431, _line(b"GET /" + b"a" * 40_000 + b" HTTP/1.1")),
    malformed("101 fields", 431, _field(*[b"A: b"] * 101)),
    Row("one empty line first", 200, b"\r\n" + request()),
    Row("HTTP/1.0", 200, request(version="HTTP/1.0"), closes=True),
    Row("HTTP/1.0 without a Host", 400, request(None, {"Host": None}, version="HTTP/1.0"), closes=True),
    Row("HTTP/1.0 with keep-alive", 200, request(None, {"Connection": "keep-alive"}, version="HTTP/1.0"), closes=True),
    Row("HTTP/1.9", 200, request(version="HTTP/1.9")),
    Row("close among other options", 200, request(None, {"Connection": "upgrade,\tClose"}), closes=True),
    Row("an upgrade to HTTP/2", 200, request(None, {"Connection": "Upgrade", "Upgrade": "h2c", "HTTP2-Settings": "AAMA"})),
    Row("an upgrade to WebSocket", 400, get({"Connection": "Upgrade", "Upgrade": "websocket", "Mcp-Session-Id": None}), -32600, "session_missing"),
]  # fmt: skip

FIELDS = [
    malformed("a folded field", 400, _field(b"A: b", b" c")),
    malformed("a field folded by a tab", 400, _field(b"A: b", b"\tc")),
    malformed("a fold of the first field", 400, bare(b"GET /mcp HTTP/1.1", b" Host: localhost")),
    malformed("a NUL in a value", 400, _field(b"A: b\0c")),
    malformed("an escape in a value", 400, _field(b"A: \x1b]0;evil\x07")),
    malformed("DEL in a value", 400, _field(b"A: \x7f")),
    malformed("a blank in a name", 400, _field(b"A b: c")),
    malformed("a blank before the colon", 400, _field(b"A : b")),
    malformed("a name that is a colon", 400, _field(b":: b")),
    malformed("an empty name", 400, _field(b": b")),
    malformed("no colon", 400, _field(b"Transfer-Encoding chunked")),
    malformed("UTF-8 in a name", 400, _field("Ä: b".encode())),
    malformed("a name in quotes", 400, _field(b'"A": b')),
    malformed("no Host", 400, request(None, {"Host": None})),
    malformed("two Hosts", 400, request(None, {"Host": ["localhost", "localhost"]})),
    malformed("ours and a foreign Host", 400, request(None, {"Host": ["localhost", "evil.example"]})),
    malformed("two names in one Host", 400, request(None, {"Host": "localhost, evil.example"})),
    malformed("a user in the Host", 400, request(None, {"Host": "localhost@evil.example"})),
    malformed("a path in the Host", 400, request(None, {"Host": "localhost/mcp"})),
    malformed("a port of letters", 400, request(None, {"Host": "localhost:https"})),
    malformed("a bracket that stays open", 400, request(None, {"Host": "[::1"})),
    malformed("a foreign name in brackets", 400, request(None, {"Host": "[evil.example]"})),
    malformed("Latin-1 in the Host", 400, request(None, {"Host": b"localh\xf6st"})),
    malformed("an expectation of miracles", 417, request(None, {"Expect": "miracles"})),
    malformed("two Authorizations, the first good", 400, request(None, {"Authorization": [f"Bearer {mark('KEY')}", "Bearer x"]})),
    malformed("two Authorizations, the last good", 400, request(None, {"Authorization": ["Bearer x", f"Bearer {mark('KEY')}"]})),
    malformed("two Origins, the first ours", 400, request(None, {"Origin": ["https://localhost", "https://evil.example"]})),
    malformed("two Content-Types, the first JSON", 400, request(None, {"Content-Type": ["application/json; a=b", "text/plain"]})),
    Row("an empty value", 200, _field(b"X-Empty:")),
    Row("Latin-1 in a value", 200, _field(b"X-Name: \xe4\xff")),
    Row("50 kinds of forwarding", 200, _field(b"X-Forwarded-Host: evil.example", b"X-Original-URL: /admin", b"X-HTTP-Method-Override: DELETE")),
]  # fmt: skip


def _host(value: str, status: int = 403) -> Row:
    return Row(f"the Host {value!r}", status, request(None, {"Host": value}))


def _origin(value: str, status: int = 403) -> Row:
    return Row(f"the Origin {value!r}", status, request(None, {"Origin": value}))


def denied(name: str, sent: bytes, closes: bool = False) -> Row:
    """A request without a valid key."""
    return Row(name, 401, sent, -32600, "unauthorized", closes)


def _key(name: str, value: str | bytes | None) -> Row:
    return denied(name, request(None, {"Authorization": value}))


ADMISSION = [
    *map(_host, ["evil.example", "localhost.evil.example", "evil-localhost", "127.0.0.1.nip.io", "2130706433", "0x7f.1", ""]),
    *map(_host, ["7f000001.c0a80001.rbndr.us", "%6cocalhost", "[dead:beef]", "a" * 5000, ":8080"]),
    *(_host(value, 200) for value in ["LOCALHOST:1", "localhost.", "127.0.0.1:8080", "[::1]:8080", "169.254.169.254"]),
    *map(_origin, ["null", "", "https://evil.example", "http://localhost.evil.example", "https://localhost@evil.example"]),
    *map(_origin, ["file:///etc/passwd", "chrome-extension://abcdef", "localhost", "//localhost", "http://[::1", "*"]),
    *map(_origin, ["https://localhost, https://evil.example", "http://127.0.0.1.nip.io", "javascript:alert(1)//localhost"]),
    *(_origin(value, 200) for value in ["https://localhost:8080", "http://127.0.0.1", "https://[::1]"]),
    _key("no key", None),
    _key("an empty key", ""),
    _key("a scheme and no key", "Bearer"),
    _key("the key without a scheme", mark("KEY")),
    _key("the key with another scheme", f"Basic {mark('KEY')}"),
    _key("the key in quotes", f'Bearer "{mark("KEY")}"'),
    _key("the key and something else", f"Bearer {mark('KEY')}, Bearer x"),
    _key("the key that was withdrawn", f"Bearer {mark('OLD_KEY')}"),
    _key("a key that is the empty one's digest", "Bearer e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    _key("a key in Latin-1", b"Bearer \xe4\xff\xfe"),
    _key("a key of 30,000 characters", f"Bearer {'a' * 30_000}"),
    Row("the key and a tab", 200, request(None, {"Authorization": f"bearer \t{mark('KEY')}"})),
    denied("the key in the query alone", request(None, {"Authorization": None}, target=f"/mcp?key={mark('KEY')}")),
    denied("a wrong key and a small body", request(b"x" * 60_000, {"Authorization": "Bearer x"})),
    denied("a wrong key and a large body", request(b"x" * 70_000, {"Authorization": "Bearer x"}), closes=True),
    denied("a wrong key and an endless body", request(None, {"Authorization": "Bearer x", "Content-Length": "9" * 18}), closes=True),
    denied("a wrong key that waits for 100", request(None, {"Authorization": "Bearer x", "Expect": "100-continue"}), closes=True),
    malformed("an endless body that waits for 100", 413, request(None, {"Content-Length": "9" * 18, "Expect": "100-continue"})),
    Row("a foreign Host and a wrong key", 403, request(None, {"Host": "evil.example", "Authorization": None})),
    Row("the head alone of a foreign page's preflight", 403, get({"Origin": "https://evil.example", "Authorization": None}, method="OPTIONS")),
]  # fmt: skip


def _path(target: str, status: int = 404) -> Row:
    return Row(f"the path {target[:40]}", status, request(target=target))


PATHS = [
    *map(_path, ["/", "//mcp", "/MCP", "/Mcp", "/%2fmcp", "/%6dcp", "/mcp%00", "/mcp%2f", "/mcp;a=b", "/mcp.json", "/mcp#a"]),
    *map(_path, ["/mcp/..", "/mcp/../mcp", "/./mcp", "/../../etc/passwd", "/mcp/%2e%2e/healthz", "/mcp\\", "/mcp/x", "/mcpx"]),
    *map(_path, ["/sse", "/messages", "/register", "/authorize", "/token", "/admin", "/.env", "/.git/config", "/a" * 10_000]),
    *map(_path, ["/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp"]),
    *map(_path, ["/.well-known/oauth-authorization-server/mcp", "/mcp/.well-known/openid-configuration", "/healthz/"]),
    *(_path(target, 200) for target in ["/mcp/", "/mcp?", "/mcp?a=/../../x&%00", "/mcp//"]),
    Row("a healthz that is posted", 405, request(target="/healthz")),
    Row("discovery without a key", 404, get({"Authorization": None}, target="/.well-known/openid-configuration/mcp")),
    Row("registration without a key", 404, request({"redirect_uris": []}, {"Authorization": None}, target="/register")),
]  # fmt: skip


def _method(method: str, body: bool = True) -> Row:
    sent = request(rpc(), method=method) if body else get(method=method)
    name = f"the method {method[:20]} with a body" if body else f"the method {method}"
    return Row(name, 405, sent, None if method == "HEAD" else -32600, "http_method")


METHODS = [
    *map(_method, ["PUT", "PATCH", "TRACE", "PROPFIND", "post", "Post", "POSTS", "M-SEARCH", "QUERY", "X" * 1000]),
    *(_method(method, False) for method in ["OPTIONS", "HEAD", "TRACE", "get", "delete", "BREW"]),
    malformed("PUT without a length", 411, get(method="PUT")),
    malformed("PATCH without a length", 411, get(method="PATCH")),
    Row("an asterisk for OPTIONS", 404, get(method="OPTIONS", target="*")),
    Row("GET with a body", 400, request(PING, {"Mcp-Session-Id": None}, method="GET"), -32600, "session_missing"),
]

HTTP = [*FRAMING, *LINES, *FIELDS, *ADMISSION, *PATHS, *METHODS]
