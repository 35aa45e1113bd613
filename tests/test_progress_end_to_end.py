"""Progress on the wire: a client that asks for it gets an event stream, and the answer as its last event."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.mcp_client import Client, connected
from support.processes import wait_until
from support.relay import RelayProcess


def streamed(client: Client, tool: str, **arguments: Any) -> list[dict[str, Any]]:
    """Every message of the answer to a call that asked for progress."""
    call = {"name": tool, "arguments": arguments, "_meta": {"progressToken": "p1"}}
    reply = client.post({"jsonrpc": "2.0", "id": 77, "method": "tools/call", "params": call})
    assert reply.headers["content-type"].startswith("text/event-stream"), reply
    return [json.loads(line[6:]) for line in reply.body.decode().splitlines() if line.startswith("data: {")]


def test_a_long_command_reports_its_last_line_before_its_answer(client: Client) -> None:
    script = "for i in 1 2 3 4; do echo line $i; sleep 0.4; done"
    *reports, answer = streamed(client, "execute_command", server_id="web-1", command=script)
    assert answer["id"] == 77 and answer["result"]["structuredContent"]["exit_code"] == 0
    messages = [report["params"]["message"] for report in reports]
    assert messages and all(message.startswith("line ") for message in messages)
    values = [report["params"]["progress"] for report in reports]
    assert values == sorted(set(values)) and all(report["params"]["progressToken"] == "p1" for report in reports)


def test_a_fan_out_reports_servers_that_are_done(client: Client) -> None:
    *reports, answer = streamed(client, "multi_server_execute", command="true", server_ids=["*"])
    assert answer["result"]["structuredContent"]["succeeded"] == 3
    assert reports[0]["params"]["total"] == 3 and "is done" in reports[0]["params"]["message"]


def test_without_a_token_the_answer_is_plain_json(client: Client) -> None:
    assert client.call("execute_command", server_id="web-1", command="echo x")["structuredContent"]["stdout"] == "x\n"


def test_authenticate_is_always_answered_as_plain_json(client: Client) -> None:
    call = {"name": "authenticate", "arguments": {"code": "123456"}, "_meta": {"progressToken": 1}}
    reply = client.post({"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": call})
    assert reply.json["result"]["structuredContent"]["authenticated"]


def test_a_client_that_leaves_a_stream_does_not_end_its_command(
    open_relay: RelayProcess, client: Client, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    call = {
        "name": "execute_command",
        "arguments": {"server_id": "db-1", "command": f"touch '{mark}.1'; sleep 1; touch '{mark}.2'"},
    }
    with connected(open_relay, initialize=False) as other:
        body = json.dumps(
            {"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": {**call, "_meta": {"progressToken": 3}}}
        )
        headers = {
            "Authorization": f"Bearer {client.key}", "Content-Type": "application/json", "Accept": "application/json, text/event-stream",
            "Mcp-Session-Id": client.session,
        }  # fmt: skip
        other.connection.request("POST", "/mcp", body, headers)
        wait_until(Path(f"{mark}.1").exists, 20, "the command has started")
    wait_until(Path(f"{mark}.2").exists, 20, "the command has ended by itself")
    assert client.rpc("ping").status == 200
