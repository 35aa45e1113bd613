"""`serve --read-only`: what reads works, and what can change something is refused with a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.mcp_client import Client, connected
from support.relay import RelayProcess, make_home
from support.sshd import KeyPair, Sshd

from fleetshell_tools import catalog
from fleetshell_tools.core import read_only
from fleetshell_tools.core.types import Act

CHANGES = {
    "write_file": {"server_id": "web-1", "path": "/tmp/x", "content": "x"},
    "restart_service": {"server_id": "web-1", "service_name": "nginx"},
    "create_shell_session": {"server_id": "web-1"},
    "save_prompt": {"name": "x", "description": "x", "content": "x"},
    "add_server_note": {"server_id": "web-1", "note": "x"},
}


@pytest.fixture(scope="module")
def reader(relay_key: KeyPair, sshd: Sshd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    home = make_home(tmp_path_factory.mktemp("reader") / "home", relay_key.private)
    home.run("auth", "disable")
    home.add("web-1", sshd)
    relay = RelayProcess(home, "--read-only", shared=True)
    yield relay
    relay.stop()


@pytest.fixture
def client(reader: RelayProcess) -> Iterator[Client]:
    with connected(reader) as made:
        yield made


def test_tools_that_change_something_are_neither_listed_nor_run(client: Client) -> None:
    listed = {tool["name"] for tool in client.rpc("tools/list").json["result"]["tools"]}
    assert listed == {tool.name for tool in catalog.TOOLS if read_only.permits(tool)}
    assert not listed & CHANGES.keys()
    for name, arguments in CHANGES.items():
        answer = client.call(name, **arguments)
        assert answer["isError"] and f"{name} was refused: the operator has started this relay with --read-only" in str(
            answer["content"]
        )


def test_tools_that_read_work(client: Client, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("hello\n")
    assert client.call("list_servers")["structuredContent"]["count"] == 1
    read = client.call("read_file", server_id="web-1", path=str(tmp_path / "file"))
    assert read["structuredContent"]["content"] == "hello\n"
    assert client.call("get_system_info", server_id="web-1")["structuredContent"]["kernel"]


@pytest.mark.parametrize("tool", ["execute_command", "multi_server_execute"])
def test_a_command_that_writes_is_blocked(client: Client, tmp_path: Path, tool: str) -> None:
    target = {"server_id": "web-1"} if tool == "execute_command" else {"server_ids": ["web-1"]}
    for command in (f"touch {tmp_path}/made", f"echo x >{tmp_path}/made", f"sh -c 'touch {tmp_path}/made'"):
        client.call(tool, command=command, **target)
        assert not (tmp_path / "made").exists(), command


@pytest.mark.skipif("policy" not in Act.__dataclass_fields__, reason="needs a guard that knows policies")
def test_a_command_that_reads_runs(client: Client) -> None:
    done = client.call("execute_command", server_id="web-1", command="uname -s | head -n 1")
    assert done["structuredContent"]["stdout"] == "Linux\n"


def test_the_status_says_that_it_only_reads(reader: RelayProcess) -> None:
    assert "It only reads" in reader.home.run("status").stdout
    assert "It only reads" in reader.log.read_text()
