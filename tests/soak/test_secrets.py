"""A full day of a relay in a minute, and then a search for its secrets in all that it left: logs, answers, files, process table."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support import processes
from support.mcp_client import Client, connected
from support.relay import PROGRAM, RelayHome, RelayProcess, make_home
from support.sshd import KeyPair, Sshd
from support.terminal import Terminal

from soak.amounts import said
from soak.watching import Table

VALUES = {
    "an environment value": "s3cret-environment-value",
    "standard input": "s3cret-standard-input",
    "what was typed into a program": "s3cret-typed-password",
    "a written file's content": "s3cret-file-content",
    "an environment value of a refused call": "s3cret-refused-value",
    "an environment value of a failed call": "s3cret-failed-value",
    "standard input of an approved call": "s3cret-approved-input",
}


class Day:
    """A relay's home, and everything that it said to anybody."""

    def __init__(self, home: RelayHome) -> None:
        self.home = home
        self.told: list[str] = []
        self.codes: list[str] = []
        self._steps = iter((-1, 0, 1))

    def run(self, *arguments: str) -> None:
        """Run a command of the operator, which may fail."""
        run = self.home.run(*arguments, check=False)
        self.told += [run.stdout, run.stderr]

    def code(self) -> str:
        self.codes.append(self.home.code(next(self._steps)))
        return self.codes[-1]

    def call(self, client: Client, tool: str, **arguments: object) -> dict[str, object]:
        answer = client.call(tool, **arguments)
        self.told.append(json.dumps(answer))
        return answer


def work(day: Day, relay: RelayProcess, folder: Path, sshd: Sshd) -> None:
    """Use what takes secrets, in ways that work and in ways that fail."""
    home, secret = day.home, VALUES
    with connected(relay) as client, connected(relay, initialize=False) as stranger:
        stranger.key = "not-the-key"
        day.told.append(repr(stranger.rpc("ping")))
        for code in ("000000", day.code()):
            day.call(client, "authenticate", code=code)
        day.call(client, "authenticate", code=day.codes[-1])
        run = {"server_id": "web-1", "environment": {"TOKEN": secret["an environment value"]}}
        fed = {**run, "stdin": secret["standard input"]}
        day.call(client, "execute_command", command='cat >/dev/null; test -n "$TOKEN"; sleep 0.2', **fed)
        day.call(client, "multi_server_execute", server_ids=["web-1", "db-1", "gone"], command="true", environment=run["environment"])  # fmt: skip
        refused = {"TOKEN": secret["an environment value of a refused call"]}
        day.call(client, "execute_command", server_id="web-1", command="rm -rf /", environment=refused)
        day.call(
            client, "execute_command", server_id="web-1", command="true", environment={**refused, "LD_PRELOAD": "x"}
        )
        failed = {"TOKEN": secret["an environment value of a failed call"]}
        for server, command in (
            ("gone", "true"),
            ("web-1", "sleep 100"),
            ("web-1", "exit 255"),
            ("web-1", "kill -9 $$"),
        ):
            day.call(client, "execute_command", server_id=server, command=command, environment=failed, timeout=1)
        day.call(
            client,
            "write_file",
            server_id="web-1",
            path=f"{folder}/written",
            content=secret["a written file's content"],
            mode="create",
        )
        day.call(
            client,
            "write_file",
            server_id="web-1",
            path="/etc/cron.d/x",
            content=secret["a written file's content"],
            mode="create",
        )
        session = json.dumps(day.call(client, "create_shell_session", server_id="web-1"))
        shell = json.loads(session)["structuredContent"]["session_id"]
        day.call(
            client, "execute_in_session", session_id=shell, command="stty -echo; read -r word; stty echo", timeout=1
        )
        day.call(
            client,
            "execute_in_session",
            session_id=shell,
            command=secret["what was typed into a program"],
            is_input=True,
        )
        drop = {
            "server_id": "web-1",
            "command": "cat >/dev/null; mysql -e 'DROP DATABASE shop'",
            "stdin": secret["standard input of an approved call"],
        }
        day.call(client, "execute_command", **drop)
        waiting = json.loads(home.run("approvals", "--json").stdout)
        (entry,) = [entry for entry in waiting if entry["tool"] == "execute_command"]
        with Terminal([*PROGRAM, "--home", str(home.path), "approve", entry["id"]]) as screen:
            screen.answer("TOTP code", day.code())
            assert screen.end() == 0
        day.call(client, "execute_command", **drop, approval_id=entry["id"])
        for tool in ("list_servers", "list_active_sessions", "list_prompts"):
            day.call(client, tool)
        day.call(client, "close_shell_session", session_id=shell)
    for command in ("list", "status", "status --json", "approvals", "session list", "reload", "auth status", "audit -n 1000", "audit verify",
                    "test web-1", "test gone", "guard check -- rm -rf /", "auth unlock", "list --nonsense", "nonsense"):  # fmt: skip
        day.run(*command.split())
    config = home.path / "config.yaml"
    good = config.read_text()
    config.write_text(good.replace("mfa:", "mfa:\n  nonsense: 1"))
    day.run("reload")
    config.write_text(good.replace("totp_secret: ", "totp_secret: 1"))
    day.run("serve", "--port", "0")
    config.write_text(good)


def holds(content: bytes, secret: str) -> bool:
    """Whether a secret is in there; six digits are not meant where they are part of a longer number or a digest."""
    return (
        re.search(rb"(?<![0-9A-Za-z])" + re.escape(secret.encode()) + rb"(?![0-9A-Za-z])", content) is not None
        if len(secret) == 6
        else secret.encode() in content
    )


@pytest.mark.timeout(240)
def test_no_secret_is_left_anywhere_after_a_full_run(
    tmp_path: Path, relay_key: KeyPair, sshd_factory: Callable[..., Sshd]
) -> None:
    home, sshd = make_home(tmp_path / "home", relay_key.private), sshd_factory()
    text = (home.path / "config.yaml").read_text()
    (home.path / "config.yaml").write_text(
        text.replace("security:\n", "security:\n  guard: {database: approvable}\n", 1)
    )
    for name in ("web-1", "db-1"):
        home.add(name, sshd)
    home.run("add-server", "--id", "gone", "--hostname", "127.0.0.1", "--port", "1", "--user", "x", "--no-verify")
    day = Day(home)
    # On the host itself an environment value is in an environment: there it belongs.
    table = Table({sshd.mark})
    with table.watching():
        relay = RelayProcess(home)
        try:
            work(day, relay, tmp_path, sshd)
            limits = [Path(f"/proc/{process.pid}/limits").read_text() for process in processes.alive(processes.RUN_MARK)
                      if process.pid == relay.process.pid or "ssh" in process.name]  # fmt: skip
        finally:
            assert relay.stop() == 0
    assert len(limits) >= 2 and all("Max core file size        0                    0" in text for text in limits)
    mfa, http = home.config["mfa"], home.config["relay"]["http"]["auth"]
    secrets = {
        **VALUES,
        "the API key": str(http["api_key"]),
        "the TOTP secret": str(mfa["totp_secret"]),
        "the private key": (home.path / "relay.key").read_text().splitlines()[2],
        "the audit log's key": (home.path / "audit.key").read_text().strip(),
        **{f"code {number}": code for number, code in enumerate(day.codes)},
    }
    places = [
        *((f"the answer {told[:60]!r}", told.encode()) for told in day.told),
        *((f"the arguments {line!r}", line) for line in table.arguments),
        *((f"the environment of {line[:200]!r}", line) for line in table.environments),
        *((str(path), path.read_bytes()) for path in home.path.rglob("*") if path.is_file()),
    ]
    own = {
        "the API key": "config.yaml",
        "the TOTP secret": "config.yaml",
        "the private key": "relay.key",
        "the audit log's key": "audit.key",
    }
    left = [
        f"{what} is in {place}"
        for what, secret in secrets.items()
        for place, content in places
        if holds(content, secret) and Path(place).name != own.get(what)
    ]
    assert left == []
    assert len(day.codes) == 2 and (tmp_path / "written").read_text() == VALUES["a written file's content"]
    # What is no secret is found where it belongs, so the search does search.
    seen = {place.split()[0] for place, content in places if holds(content, "DROP DATABASE shop")}
    assert "the" in seen and str(home.path / "logs" / "audit.log") in seen
    assert any(holds(content, "serve") for place, content in places if place.startswith("the arguments"))
    assert table.samples > 20 and len(table.arguments) > 10
    said(
        f"{len(secrets)} secrets looked for in {len(places)} places, in {table.samples} looks at the process table: none"
    )
