"""An MCP server of bare JSON lines (2025-11-25) that misbehaves as its arguments say; it starts in no time.

Arguments: `noise` prints garbage first, `flood` prints only garbage, `errors` floods stderr, `silent` never answers, `exit` ends
at once, `stubborn` ignores SIGTERM and the end of its input, `fork` leaves children (one in a session of its own), `modern` speaks
only 2026-07-28, `picky` ends at unknown methods, `tools=FILE` lists the tools that this JSON file holds at the time.
Tools: echo, die, line (a line of so many bytes), pids (its own and its children's), ask_sampling, hang.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

OPTIONS = sys.argv[1:]
OBJECT = {"type": "object"}
TOOLS: list[dict[str, Any]] = [
    {"name": name, "description": f"The tool {name}.", "inputSchema": OBJECT}
    for name in ("echo", "die", "line", "pids", "ask_sampling", "hang")
]
children: list[int] = []
lock = threading.Lock()


def send(message: dict[str, Any]) -> None:
    with lock:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


def tools() -> list[Any]:
    for option in OPTIONS:
        if option.startswith("tools="):
            with open(option[6:]) as file:
                loaded: list[Any] = json.load(file)
                return loaded
    return TOOLS


def text(value: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": value}], "resultType": "complete"}


def call(name: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
    if name == "die":
        os._exit(3)
    if name == "line":
        with lock:
            sys.stdout.write("x" * int(arguments["bytes"]) + "\n")
            sys.stdout.flush()
        return text("printed")
    if name == "pids":
        return text(json.dumps([os.getpid(), *children]))
    if name == "ask_sampling":
        send({"id": "q", "method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1}})
        return text(sys.stdin.readline())
    if name == "hang":
        return None
    return text(json.dumps(arguments))


def answer(message: dict[str, Any]) -> None:
    method, params = message["method"], message.get("params", {})
    modern = "modern" in OPTIONS
    result: dict[str, Any] | None
    if method == "initialize" and not modern:
        about = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {"listChanged": True}}}
        result = {**about, "serverInfo": {"name": "raw", "version": "1"}}
    elif method == "server/discover" and modern:
        result = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, "resultType": "complete",
                  "ttlMs": 0, "cacheScope": "private"}  # fmt: skip
    elif method == "tools/list":
        result = {"tools": tools(), "resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
    elif method == "tools/call":
        result = call(params["name"], params.get("arguments") or {})
    elif method == "ping" and not modern:
        result = {}
    elif "picky" in OPTIONS:
        os._exit(4)
    else:
        error = {"code": -32022, "message": "old", "data": {"supported": ["2026-07-28"], "requested": "2025-11-25"}}
        send(
            {"id": message["id"], "error": error if method == "initialize" else {"code": -32601, "message": "unknown"}}
        )
        return
    if result is not None:
        send({"id": message["id"], "result": result})


def watch_tools() -> None:
    """Say so when the file of the tools changes."""
    path = next((option[6:] for option in OPTIONS if option.startswith("tools=")), None)
    if path is None:
        return
    before = os.stat(path).st_ino
    while True:
        time.sleep(0.02)
        if os.stat(path).st_ino != before:
            before = os.stat(path).st_ino
            send({"method": "notifications/tools/list_changed"})


def main() -> None:
    if "exit" in OPTIONS:
        sys.exit("there is nothing to do for me")
    if "stubborn" in OPTIONS:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "fork" in OPTIONS:
        for own in (False, True):
            children.append(subprocess.Popen(["sleep", "600"], start_new_session=own).pid)
    if "noise" in OPTIONS:
        print("Welcome to my server!\n{\x00}\n[1, 2]", flush=True)
    while "flood" in OPTIONS:
        print("spam " * 1000, flush=True)
    if "errors" in OPTIONS:
        threading.Thread(
            target=lambda: [sys.stderr.write("e" * 1000 + "\n") for _ in range(10**9)], daemon=True
        ).start()
    threading.Thread(target=watch_tools, daemon=True).start()
    for line in iter(sys.stdin.readline, ""):
        message = json.loads(line)
        if "id" in message and "method" in message and "silent" not in OPTIONS:
            answer(message)
    while "stubborn" in OPTIONS:
        time.sleep(1)
    os._exit(0)


main()
