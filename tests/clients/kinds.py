"""The clients that the relay is tested with: how each is started, and what it is known to do."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from conformance import programs

from clients.driver import Driver

LEGACY, MODERN = "2025-11-25", "2026-07-28"
AUTO_FLAGS = ("--protocol", "auto")
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Target:
    """A server to connect to; `certificate` is None without TLS."""

    url: str
    key: str
    certificate: Path | None = None


@dataclass(frozen=True)
class Kind:
    """One client in one configuration.

    Attributes:
        program: "python", "typescript-1", "typescript-2" or "mcp-remote", the last one with the Python SDK as its host.
        mode: How the client (of mcp-remote: its host) chooses the protocol version.
        version: What it (or the host) must come to.
        carrier: What brings the TOTP grant back in the modern era: "cookie", or "argument" and "meta" for clients without.
        recovers: After a restart of the relay it gets on by itself; the others fail once and must be started anew.
        flags: More arguments of mcp-remote.
    """

    program: str
    mode: str
    version: str
    carrier: str = "cookie"
    recovers: bool = False
    flags: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "-".join([self.program, self.mode, *(flag.lstrip("-") for flag in self.flags)])

    @property
    def modern(self) -> bool:
        """What the relay sees: mcp-remote may speak 2026-07-28 for a host that does not."""
        return self.version == MODERN or self.flags == AUTO_FLAGS

    def start(self, target: Target, folder: Path) -> Driver:
        """Start it in an empty folder; it is connected when this returns."""
        folder.mkdir(parents=True, exist_ok=True)
        certificate = str(target.certificate) if target.certificate else ""
        more = {"NODE_EXTRA_CA_CERTS": certificate} if certificate else {}
        environment = programs.environment(folder, more)
        headers = {"Authorization": f"Bearer {target.key}"}
        settings: dict[str, object] = {"mode": self.mode, "url": target.url, "headers": headers}
        if self.program.startswith("typescript"):
            settings |= {"sdk": self.program[-1], "modules": str(programs.MODULES)}
            command = [programs.node(), str(HERE / "drive.mjs")]
        elif self.program == "mcp-remote":
            proxy = [programs.node(), str(programs.MCP_REMOTE), target.url, "--header", "Authorization:${AUTH}"]
            allow = [] if certificate else ["--allow-http"]
            command = [sys.executable, str(HERE / "drive.py")]
            settings = {
                "mode": self.mode,
                "command": [*proxy, *allow, *self.flags],
                "environment": {**environment, "AUTH": f"Bearer {target.key}"},
            }
        else:
            command = [sys.executable, str(HERE / "drive.py")]
            settings["certificate"] = certificate
        return Driver(command, folder, {**environment, "CLIENT_SETTINGS": json.dumps(settings)})


KINDS = [
    Kind("python", "legacy", LEGACY),
    Kind("python", "auto", MODERN, recovers=True),
    Kind("python", MODERN, MODERN, recovers=True),
    Kind("typescript-1", "legacy", LEGACY),
    Kind("typescript-2", "legacy", LEGACY),
    Kind("typescript-2", "auto", MODERN, carrier="argument", recovers=True),
    Kind("typescript-2", MODERN, MODERN, carrier="meta", recovers=True),
    Kind("mcp-remote", "legacy", LEGACY, recovers=True),
    Kind("mcp-remote", "auto", MODERN, recovers=True),
    Kind("mcp-remote", "legacy", LEGACY, recovers=True, flags=AUTO_FLAGS),
    Kind("mcp-remote", "auto", MODERN, recovers=True, flags=AUTO_FLAGS),
]
