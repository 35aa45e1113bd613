"""The ten-minute path of the README, from an empty folder: every console block is run, and its output must be the real one."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import anyio
import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from support.relay import PROGRAM, ROOT, RelayHome, RelayProcess
from support.sshd import Sshd


def console(text: str) -> Iterator[tuple[str, str]]:
    """Each command (`$ …`) or tool call (`→ …`) of the console blocks, with the output shown for it."""
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield from re.findall(r"^((?:\$|→) .*)\n((?:(?!\$ |→ ).*\n)*)", block, re.MULTILINE)


def same(shown: str, printed: str) -> bool:
    """Whether a shown output is the printed one; `…` stands for any text, alone in a line for any lines."""
    pattern = ""
    for line in shown.rstrip("\n").splitlines():
        if line == "…":
            pattern += r"(?:.*\n)*?"
        else:
            # Columns are as wide as the longest value, so spaces count as one.
            pattern += r"[ ]*".join(".*?".join(map(re.escape, word.split("…"))) for word in line.split(" ")) + r"[ ]*\n"
    return re.fullmatch(pattern, printed.rstrip("\n") + "\n") is not None


def test_a_shown_output_must_be_the_printed_one() -> None:
    assert same("a … c\n…\nend\n", "a b c\n1\n2\nend\n")
    assert not same("a … c\nend\n", "a b c\n1\nend\n")
    assert not same("The login works.", "The login fails.")


def test_the_readmes_ten_minutes_give_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "you"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("FLEETSHELL_HOME", raising=False)
    home = RelayHome(folder / ".fleetshell")
    authorized = tmp_path / "authorized_keys"
    authorized.touch(0o600)
    sshd = Sshd(tmp_path / "sshd", authorized)
    text = (ROOT / "README.md").read_text()
    start, end = text.index("### Ten minutes"), text.index("## TOTP two-factor")
    text = text[start:end].replace("web-1.example.com", sshd.address).replace("as admin", f"as {sshd.user}")
    text = text.replace("/home/you", str(folder)).replace("--user admin", f"--port {sshd.port} --user {sshd.user}")
    relay: RelayProcess | None = None
    calls: list[tuple[str, str]] = []
    done = []
    with contextlib.ExitStack() as cleaning:
        cleaning.callback(sshd.stop)
        for line, shown in console(text):
            words = shlex.split(line[2:]) if line.startswith("$") else [line]
            done.append(words[1] if line.startswith("$") else words[0].split()[1])
            if line.startswith("→"):
                calls.append((line[2:], shown))
                continue
            if calls and relay:
                answers = anyio.run(_drive, relay, [call for call, _ in calls])
                for (call, expected), said in zip(calls, answers, strict=True):
                    assert same(expected, said), f"{call}\nthe README shows\n{expected}\nbut the tool says\n{said}"
                calls = []
            assert words[0] == "fleetshell"
            if words[1] == "serve":
                relay = RelayProcess(home)
                cleaning.callback(relay.stop)
                printed = relay.log.read_text()
            else:
                ran = subprocess.run(
                    [*PROGRAM, *words[1:]], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
                )  # fmt: skip
                assert ran.returncode == 0, ran.stderr
                printed = ran.stdout
            if words[1] == "pubkey":
                authorized.write_text(printed)
            assert same(shown, printed), f"{line}\nthe README shows\n{shown}\nbut it prints\n{printed}"
    steps = (
        "init pubkey add-server test serve connect-info list_servers authenticate list_servers execute_command audit"
    )
    assert done == steps.split()


async def _drive(relay: RelayProcess, calls: list[str]) -> list[str]:
    """Make the README's calls with the SDK's client; returns what each was answered."""
    context = ssl.create_default_context(cafile=str(relay.home.certificate))
    headers = {"Authorization": f"Bearer {relay.home.api_key}"}
    answers = []
    async with httpx2.AsyncClient(headers=headers, verify=context) as http:
        async with Client(streamable_http_client(relay.url, http_client=http)) as client:
            for call in calls:
                name, _, rest = call.partition(" ")
                arguments = json.loads(rest)
                if "code" in arguments:
                    arguments["code"] = relay.home.code()
                try:
                    answers.append(str((await client.call_tool(name, arguments)).content[0].text))  # type: ignore[union-attr]
                except MCPError as error:
                    answers.append(error.error.message)
    return answers
