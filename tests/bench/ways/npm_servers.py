"""Ways that are MCP servers from npm, asked over stdio: ssh-mcp and mcp-ssh-manager.

The client is as lean as the load generator for our own server: a line of JSON there, a line of JSON back.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from bench.ways.serve import Spec, serve


class StdioServer:
    """A server, with one session; `extra` of the spec is its script and a folder to be its home."""

    tool: str
    arguments: dict[str, Any]

    def __init__(self, spec: Spec) -> None:
        script, folder = spec.extra
        home = Path(folder)
        home.mkdir()
        base = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        environment = {**base, "HOME": folder, **self.configure(spec, home)}
        self._process = subprocess.Popen(
            ["node", script], cwd=home, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=(home / "stderr").open("wb"),
        )  # fmt: skip
        self._id = 0
        about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
        self._ask("initialize", about)
        self._send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def configure(self, spec: Spec, home: Path) -> dict[str, str]:
        """Tell the server of the first host; returns what goes into its environment."""
        raise NotImplementedError

    def once(self) -> None:
        result = self._ask("tools/call", {"name": self.tool, "arguments": self.arguments})
        if result.get("isError") or not self.succeeded(result["content"][0]["text"]):
            raise RuntimeError(f"`true` did not succeed: {result}")

    def succeeded(self, text: str) -> bool:
        raise NotImplementedError

    def rest(self) -> None:
        pass

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        self._process.stdin.flush()

    def _ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self._id += 1
        self._send({"jsonrpc": "2.0", "id": self._id, "method": method, "params": params})
        assert self._process.stdout
        for line in self._process.stdout:
            message = json.loads(line)
            if message.get("id") == self._id:
                if "result" not in message:
                    break
                result: dict[str, Any] = message["result"]
                return result
        raise RuntimeError(f"{method} was not answered: {line!r}")


class SshMcp(StdioServer):
    """ssh-mcp: a TOML file that nobody else may read; the profile needs no approval for what it runs."""

    tool = "run-command"
    arguments = {"command": "true", "profile": "h000"}  # noqa: RUF012

    def configure(self, spec: Spec, home: Path) -> dict[str, str]:
        host = spec.hosts[0]
        digest = hashlib.sha256(base64.b64decode(host.host_key.split()[1])).digest()
        values = {
            "name": host.name,
            "host": host.address,
            "port": host.port,
            "user": spec.user,
            "auth": "key",
            "keyRef": spec.key,
            "trustedHostKey": "SHA256:" + base64.b64encode(digest).decode().rstrip("="),
            "group": "dev",
            "role": "admin",
            "approvalPolicy": "auto",
        }
        lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
        file = home / ".config" / "ssh-mcp" / "config.toml"
        file.parent.mkdir(parents=True)
        file.parent.chmod(0o700)
        file.write_text(f'[defaults]\ndefaultProfile = "{host.name}"\n\n[[profiles]]\n{lines}')
        file.chmod(0o600)
        return {}

    def succeeded(self, text: str) -> bool:
        return text == ""


class McpSshManager(StdioServer):
    """mcp-ssh-manager: settings in environment variables; the host key is in its home's known_hosts."""

    tool = "ssh_execute"
    arguments = {"command": "true", "server": "h000"}  # noqa: RUF012

    def configure(self, spec: Spec, home: Path) -> dict[str, str]:
        host = spec.hosts[0]
        (home / ".ssh").mkdir(mode=0o700)
        (home / ".ssh" / "known_hosts").write_text(f"[{host.address}]:{host.port} {host.host_key}\n")
        values = {"HOST": host.address, "PORT": str(host.port), "USER": spec.user, "KEYPATH": spec.key}
        settings = {f"SSH_SERVER_{host.name.upper()}_{name}": value for name, value in values.items()}
        return {**settings, "SSH_LOG_FILE": str(home / "log")}

    def succeeded(self, text: str) -> bool:
        return json.loads(text)["success"] is True


if __name__ == "__main__":
    serve({"ssh-mcp": SshMcp, "mcp-ssh-manager": McpSshManager})
