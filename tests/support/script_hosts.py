"""Tools whose programs run in a shell here, without a connection: each shell, GNU or busybox utilities, another user."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import jsonschema
import pytest

from fleetshell_tools.core.config import Config
from fleetshell_tools.core.context import Context
from fleetshell_tools.core.scripts import Ran, Script, facts_in, parts
from fleetshell_tools.core.tool import Tool
from fleetshell_tools.core.types import Cancellation

NOBODY = 65534


def call(context: Context, tool: Tool, **arguments: Any) -> dict[str, Any]:
    """Call a tool as a client would; its result, which conforms to the schema."""
    output = tool.function(context, **tool.arguments({"server_id": "web", **arguments}))
    structured = output.structured()
    jsonschema.validate(structured, tool.definition()["outputSchema"])
    assert output.text()
    return structured


@dataclass
class ScriptHost:
    """Runs programs as a host's login would; stands in for the fleet.

    Args:
        shell: What runs the whole program.
        path: PATH of the login.
        home: Where it begins.
        user: A number; the login, where the tests run as root.
        sudo: The server's file says `sudo: true`.
    """

    shell: tuple[str, ...]
    path: str
    home: Path
    user: int | None = None
    sudo: bool = False
    scripts: list[Script] = field(default_factory=list)

    def run_script(
        self,
        caller: object,
        server: object,
        script: Script,
        *,
        timeout: float,
        cancelled: Cancellation,
        keep: int = 1 << 20,
        approval_id: str | None = None,
    ) -> Ran:
        self.scripts.append(script)
        words = shlex.split(script.command("fs-n", None, sudo=self.sudo))
        as_user: dict[str, Any] = (
            {} if self.user is None else {"user": self.user, "group": self.user, "extra_groups": []}
        )
        done = subprocess.run(
            [*self.shell, *words[2:]], input=script.stdin or b"", capture_output=True, timeout=timeout, cwd=self.home, umask=0o022,
            env={**os.environ, "PATH": self.path, "HOME": str(self.home)}, **as_user,
        )  # fmt: skip
        found = parts(done.stdout, "fs-n")
        facts = facts_in(found)
        assert facts is not None
        return Ran(found, done.returncode, done.stderr.decode("utf-8", "replace"), True, facts)

    def context(self) -> Context:
        server = SimpleNamespace(id="web", sudo=self.sudo)
        inventory = SimpleNamespace(get=lambda server_id: server)
        return Context(cast(Any, None), "s", Config(), cast(Any, inventory), cast(Any, self), cast(Any, None))

    def call(self, tool: Tool, **arguments: Any) -> dict[str, Any]:
        return call(self.context(), tool, **arguments)


KINDS = ("dash", "bash", "busybox")


def script_host(kind: str, folder: Path, **more: Any) -> ScriptHost:
    """A host whose `sh` is dash or bash, with GNU utilities, or one that has busybox's own alone before these.

    Args:
        folder: Empty; the home and busybox's utilities go there.
    """
    program = shutil.which(kind)
    if program is None:
        pytest.skip(f"{kind} is not installed")
    home = folder / "home"
    home.mkdir()
    if kind != "busybox":
        return ScriptHost((program,), os.environ["PATH"], home, **more)
    tools = folder / "tools"
    tools.mkdir()
    subprocess.run([program, "--install", "-s", str(tools)], check=True)
    return ScriptHost((program, "sh"), f"{tools}:{os.environ['PATH']}", home, **more)


HostMaker = Callable[..., ScriptHost]
