"""The main job, end to end: a real relay over TLS, driven by the SDK's client and by the real mcp-remote."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from support.mcp_client import connected
from support.relay import ROOT, RelayHome, RelayProcess, make_home
from support.sshd import KeyPair, Sshd

MCP_REMOTE = "mcp-remote@0.15.1"


@pytest.fixture
def fresh(tmp_path: Path, relay_key: KeyPair, sshd: Sshd) -> Iterator[RelayProcess]:
    """A relay of this test's own: its TOTP code has not been used yet."""
    home = make_home(tmp_path / "home", relay_key.private)
    home.add("web-1", sshd, "--tags", "web,test", "--env", "staging", "--purpose", "First web server")
    home.add("web-2", sshd, "--tags", "web", "--env", "production")
    process = RelayProcess(home)
    yield process
    assert process.stop() == 0


def test_the_sdks_client_goes_from_locked_to_a_command_on_two_servers(fresh: RelayProcess) -> None:
    async def drive() -> None:
        context = ssl.create_default_context(cafile=str(fresh.home.certificate))
        headers = {"Authorization": f"Bearer {fresh.home.api_key}"}
        async with httpx2.AsyncClient(headers=headers, verify=context) as http:
            async with Client(streamable_http_client(fresh.url, http_client=http)) as client:
                tools = {tool.name: tool for tool in (await client.list_tools()).tools}
                assert {"authenticate", "list_servers", "execute_command", "multi_server_execute"} <= tools.keys()
                with pytest.raises(MCPError) as locked:
                    await client.call_tool("list_servers", {})
                assert locked.value.error.code == -32001
                assert locked.value.error.data == {"reason": "totp_required"}
                said = await client.call_tool("authenticate", {"code": fresh.home.code()})
                assert _text(said) == "Successfully authenticated. Session valid for 1 hour."
                assert _text(await client.call_tool("list_servers", {})).splitlines()[0] == "Found 2 servers"
                one = await client.call_tool("execute_command", {"server_id": "web-1", "command": "echo hello; exit 3"})
                assert not one.is_error and one.structured_content
                assert (one.structured_content["stdout"], one.structured_content["exit_code"]) == ("hello\n", 3)
                many = await client.call_tool("multi_server_execute", {"command": "echo same", "tags": ["web"]})
                assert many.structured_content
                assert [group["server_ids"] for group in many.structured_content["groups"]] == [["web-1", "web-2"]]

    anyio.run(drive)
    done = [
        (record["event"], record["server_id"], record["exit_code"])
        for record in fresh.home.audit()
        if record["session"]
    ]
    assert done[0] == ("authenticated", None, None)
    assert sorted(event for event in done[1:] if event[0] == "finished") == [
        ("finished", "web-1", 0), ("finished", "web-1", 3), ("finished", "web-2", 0)
    ]  # fmt: skip
    assert fresh.home.run("audit", "verify").stdout.startswith("The audit log is intact")


def _text(result: Any) -> str:
    return str(result.content[0].text)


class DesktopHost:
    """Speaks JSON-RPC over stdio to mcp-remote, as a desktop application does, with the configuration of connect-info."""

    def __init__(self, home: RelayHome, relay: RelayProcess, folder: Path) -> None:
        shown = json.loads(home.run("connect-info", "--json", "--host", "127.0.0.1").stdout)["mcpServers"]["fleetshell"]
        port = home.config["relay"]["http"]["port"]
        arguments = [word.replace(f":{port}/", f":{relay.port}/") for word in shown["args"]]
        environment = {**os.environ, **shown["env"], "NODE_EXTRA_CA_CERTS": str(home.certificate), "HOME": str(folder)}
        assert shown["args"][:2] == ["-y", MCP_REMOTE]
        with open(folder / "mcp-remote.log", "wb") as log:
            self.process = subprocess.Popen(
                [shown["command"], *arguments], cwd=_installed(), env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=log, start_new_session=True,
            )  # fmt: skip
        self._buffer = b""
        self._next = 0

    def request(self, method: str, params: dict[str, Any], seconds: float = 60) -> dict[str, Any]:
        self._next += 1
        self.send({"jsonrpc": "2.0", "id": self._next, "method": method, "params": params})
        return self._answer(self._next, time.monotonic() + seconds)

    def send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def _answer(self, number: int, deadline: float) -> dict[str, Any]:
        assert self.process.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while True:
                while b"\n" in self._buffer:
                    line, _, self._buffer = self._buffer.partition(b"\n")
                    message: dict[str, Any] = json.loads(line)
                    if message.get("id") == number and "method" not in message:
                        return message
                assert selector.select(deadline - time.monotonic()), "mcp-remote did not answer in time"
                data = os.read(self.process.stdout.fileno(), 65536)
                assert data, "mcp-remote has ended"
                self._buffer += data

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        return self.request("tools/call", {"name": tool, "arguments": arguments})

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.process.stdout.close()


def _installed() -> Path:
    """A folder in which npx finds the pinned mcp-remote without asking the network again."""
    if not shutil.which("npx"):
        pytest.skip("needs Node.js for the real mcp-remote: install the packages nodejs and npm")
    folder = ROOT / ".cache" / "mcp-remote"
    if not (folder / "node_modules" / "mcp-remote" / "package.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"private": true}')
        run = subprocess.run(
            ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", MCP_REMOTE],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        if run.returncode != 0:
            pytest.skip(f"mcp-remote can't be installed from npm here: {run.stderr.strip()[-300:]}")
    return folder


@pytest.mark.timeout(240)
def test_a_desktop_host_works_through_the_real_mcp_remote_as_connect_info_configures_it(
    fresh: RelayProcess, tmp_path: Path
) -> None:
    host = DesktopHost(fresh.home, fresh, tmp_path)
    try:
        client = {"name": "claude-ai", "version": "0.1.0"}
        hello = host.request(
            "initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client}, seconds=150
        )
        assert hello["result"]["serverInfo"]["name"] == "fleetshell"
        host.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        locked = host.call("list_servers")
        assert locked["error"]["code"] == -32001
        assert (
            locked["error"]["message"]
            == "Authentication required. Please authenticate with a TOTP code using the authenticate tool."
        )
        assert locked["error"]["data"] == {"reason": "totp_required"}
        unlocked = host.call("authenticate", code=fresh.home.code())
        assert unlocked["result"]["content"][0]["text"] == "Successfully authenticated. Session valid for 1 hour."
        assert host.call("list_servers")["result"]["structuredContent"]["count"] == 2
        for name in ("web-1", "web-2"):
            done = host.call("execute_command", server_id=name, command="echo $((6 * 7))")["result"]
            assert (done["structuredContent"]["stdout"], done["isError"]) == ("42\n", False)
    finally:
        host.close()


def test_another_session_of_the_same_key_stays_locked(fresh: RelayProcess) -> None:
    with connected(fresh) as first, connected(fresh) as second:
        code = fresh.home.code()
        assert first.call("authenticate", code=code)["structuredContent"] == {
            "authenticated": True,
            "expires_in": 3600,
            "notice": None,
        }
        assert first.text("list_servers").startswith("Found 2 servers")
        assert second.call("list_servers")["error"]["data"] == {"reason": "totp_required"}
        refused = second.call("authenticate", code=code)
        assert refused["isError"] and refused["content"][0]["text"].startswith(
            "This code was already used; the next one starts in "
        )
        assert second.call("list_servers")["error"]["code"] == -32001


def test_a_restart_locks_every_session_again(fresh: RelayProcess) -> None:
    with connected(fresh) as client:
        client.text("authenticate", code=fresh.home.code())
    assert fresh.stop() == 0
    again = RelayProcess(fresh.home, "--port", str(fresh.port))
    try:
        with connected(again) as client:
            assert client.call("list_servers")["error"]["data"] == {"reason": "totp_required"}
    finally:
        again.stop()
