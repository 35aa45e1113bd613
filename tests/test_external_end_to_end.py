"""External MCP servers through a real relay and the SDK's client, in both eras: what is listed, what passes, what is left."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clients.driver import Driver
from clients.kinds import Kind, Target
from support import relay as relay_support
from support.mcp_client import Client, connected
from support.modern_client import ModernClient, modern
from support.processes import wait_until
from support.relay import ROOT, RelayHome, RelayProcess, make_home
from support.upstream_home import SERVERS, SOON

LEGACY, MODERN = Kind("python", "legacy", "2025-11-25"), Kind("python", "auto", "2026-07-28")
BOTH = pytest.mark.parametrize("kind", [LEGACY, MODERN], ids=str)


def add(home: RelayHome, mcp_id: str, *options: str, server: str = "raw.py") -> None:
    """Add one of the test servers, as an operator does."""
    # -S makes Python start in half the time.
    quick = ["-a", "-S", "-a", "-E"] if server == "raw.py" else []
    arguments = [word for option in options if not option.startswith("--env=") for word in ("-a", option)]
    environment = [option for option in options if option.startswith("--env=")]
    home.run("mcp", "add", mcp_id, sys.executable, *quick, "-a", str(SERVERS / server), *arguments, *environment)


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def target(relay: RelayProcess) -> Target:
    return Target(relay.url, relay.home.api_key, relay.home.certificate)


@pytest.fixture(scope="module")
def slow_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tool `slow` of the server `sdk` writes how it ended."""
    return tmp_path_factory.mktemp("slow") / "ended"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """The SDK's server over streamable HTTP, with which the relay speaks 2026-07-28."""
    process = subprocess.Popen([sys.executable, str(SERVERS / "sdk.py"), "--http"], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    yield f"http://127.0.0.1:{process.stdout.readline().strip()}/mcp"
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture(scope="module")
def open_relay(tmp_path_factory: pytest.TempPathFactory, slow_file: Path, endpoint: str) -> Iterator[RelayProcess]:
    """A relay without MFA; it has the SDK's server as `sdk` over stdio, as `far` over HTTP, and a prompt of its own."""
    home = make_home(tmp_path_factory.mktemp("external") / "home")
    home.run("auth", "disable")
    home.run("prompt", "save", "sdk__greet-me", "--description", "Our own", "--content", "Ours.")
    add(home, "sdk", f"--env=SLOW_FILE={slow_file}", server="sdk.py")
    home.run("mcp", "add", "far", "--url", endpoint)
    process = RelayProcess(home, shared=True)
    with connected(process) as client:
        wait_until(lambda: {"sdk__greet", "far__greet"} <= set(prompts(client)), SOON, "both servers are listed")
    yield process
    process.stop()


@pytest.fixture(params=[LEGACY, MODERN], ids=str)
def driver(request: pytest.FixtureRequest, open_relay: RelayProcess, tmp_path: Path) -> Iterator[Driver]:
    """The SDK's client, connected in either era."""
    with request.param.start(target(open_relay), tmp_path / "client") as made:
        yield made


def prompts(client: Client) -> list[str]:
    return [prompt["name"] for prompt in client.rpc("prompts/list").json["result"]["prompts"]]


@BOTH
def test_an_added_server_is_told_listed_and_called_without_a_restart(
    open_relay: RelayProcess, tmp_path: Path, kind: Kind
) -> None:
    with kind.start(target(open_relay), tmp_path / "client") as driver:
        if kind is MODERN:
            driver.answer(driver.order("listen"))
        add(open_relay.home, "late")
        driver.event("changed")
        wait_until(lambda: "late__echo" in driver.tools(), SOON, "its tools are listed")
        assert driver.call("late__echo", {"a": 1}).text == '{"a": 1}'
        assert driver.call("call_external_tool", {"tool_name": "late.echo", "arguments": {"a": 2}}).text == '{"a": 2}'
        open_relay.home.run("mcp", "disable", "late")
        wait_until(lambda: "late__echo" not in driver.tools(), SOON, "its tools are gone")
        said = driver.call("call_external_tool", {"tool_name": "late.echo"})
        assert said.result["isError"] and "fleetshell mcp enable late" in said.text
    open_relay.home.run("mcp", "remove", "late")


def test_every_kind_of_result_passes(driver: Driver) -> None:
    content = driver.call("sdk__everything", {}).result["content"]
    assert [block["type"] for block in content] == ["text", "image", "audio", "resource", "resource_link"]
    assert content[0]["text"] == "red alert" and content[1]["data"] == "aGVsbG8="
    assert driver.call("sdk__add", {"a": 2, "b": 3}).structured == {"sum": 5}
    failed = driver.call("sdk__fail", {}).result
    assert failed["isError"] and "Error executing tool fail" in failed["content"][0]["text"]
    wrong = driver.call("sdk__add", {"a": "x"}).result
    assert wrong["isError"]


def test_progress_passes_and_a_cancelled_call_is_cancelled_at_the_server(driver: Driver, slow_file: Path) -> None:
    slow_file.unlink(missing_ok=True)
    number = driver.begin("sdk__slow", {"seconds": 600}, progress=True)
    assert driver.event("progress")["message"].startswith("step ")
    driver.answer(driver.order("cancel", call=number))
    wait_until(slow_file.exists, SOON, "the server's tool was cancelled")
    assert slow_file.read_text() == "CancelledError"


@pytest.mark.parametrize("mcp_id", ["sdk", "far"])
def test_a_question_of_either_era_reaches_the_user_of_either_era(driver: Driver, mcp_id: str) -> None:
    assert driver.call(f"{mcp_id}__ask", {}).text == "accept: Ann"
    assert driver.call("call_external_tool", {"tool_name": f"{mcp_id}.ask"}).text == "accept: Ann"


def test_a_client_that_declares_no_elicitation_is_not_asked(open_relay: RelayProcess) -> None:
    with connected(open_relay) as client:
        result = client.call("sdk__ask")
    assert result["isError"] and "does not declare the capability elicitation" in result["content"][0]["text"]


def test_prompts_of_a_server_are_listed_given_and_completed_beside_our_own(
    driver: Driver, open_relay: RelayProcess
) -> None:
    listed = driver.answer(driver.order("prompts")).result["prompts"]
    assert listed == ["sdk__greet-me", "far__greet", "sdk__greet"]
    given = driver.answer(driver.order("prompt", name="sdk__greet", arguments={"who": "Ada"})).result
    assert given["messages"][0]["content"]["text"] == "Hello, Ada!"
    own = driver.answer(driver.order("prompt", name="sdk__greet-me", arguments={})).result
    assert own["messages"][0]["content"]["text"] == "Ours."
    missing = driver.answer(driver.order("prompt", name="sdk__greet", arguments={})).error
    assert missing and missing["code"] == -32602 and "sdk answered with error" in missing["message"]
    with connected(open_relay) as client:
        reference = {"type": "ref/prompt", "name": "sdk__greet"}
        done = client.rpc("completion/complete", ref=reference, argument={"name": "who", "value": "A"}).json["result"]
        assert done["completion"] == {"values": [], "total": 0, "hasMore": False}
        unknown = client.rpc("completion/complete", ref=reference, argument={"name": "whom", "value": "A"}).json
        assert "Known: who" in unknown["error"]["message"]


def test_a_prompt_of_our_own_stands_before_a_servers_of_the_same_name(open_relay: RelayProcess) -> None:
    open_relay.home.run("prompt", "save", "far__greet", "--description", "Our own", "--content", "Ours.")
    try:
        with connected(open_relay) as client:
            assert prompts(client).count("far__greet") == 1
            given = client.rpc("prompts/get", name="far__greet").json["result"]
            assert given["messages"][0]["content"]["text"] == "Ours."
    finally:
        open_relay.home.run("prompt", "delete", "far__greet", "--yes")


def test_resources_are_our_own_alone(open_relay: RelayProcess) -> None:
    with connected(open_relay) as client:
        assert client.rpc("resources/list").json["result"]["resources"] == []
        (template,) = client.rpc("resources/templates/list").json["result"]["resourceTemplates"]
    assert template["uriTemplate"] == "fleetshell://servers/{id}"


@pytest.fixture
def home(tmp_path: Path) -> RelayHome:
    return make_home(tmp_path / "home")


def test_an_external_server_is_locked_as_everything_is(home: RelayHome) -> None:
    add(home, "sdk", server="sdk.py")
    relay = RelayProcess(home)
    try:
        with connected(relay) as client:
            wait_until(lambda: "sdk__greet" in prompts(client), SOON, "it is listed")
            for name, arguments in (
                ("sdk__echo", {"message": "x"}),
                ("call_external_tool", {"tool_name": "sdk.echo", "arguments": {"message": "x"}}),
                ("list_external_mcps", {}),
            ):
                assert client.call(name, **arguments)["error"]["data"]["reason"] == "totp_required"
            get = {"name": "sdk__greet", "arguments": {"who": "Ada"}}
            assert client.rpc("prompts/get", **get).json["error"]["data"]["reason"] == "totp_required"
            client.text("authenticate", code=home.code())
            assert client.text("sdk__echo", message="x") == "x"
            assert "result" in client.rpc("prompts/get", **get).json
    finally:
        relay.stop()
    called = [record for record in home.audit() if record["event"].startswith("external_")]
    assert [record["event"] for record in called] == [
        "external_call", "external_call_ended", "external_prompt", "external_prompt_ended",
    ]  # fmt: skip
    assert all("Ada" not in json.dumps(record) for record in called)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_relays_servers(home: RelayHome, number: signal.Signals) -> None:
    home.run("auth", "disable")
    add(home, "raw", "fork")
    relay = RelayProcess(home)
    with connected(relay) as client:
        pids = json.loads(client.text("call_external_tool", tool_name="raw.pids"))
        client.session = ""  # nobody will be there to be told
        assert len(pids) == 3 and all(alive(pid) for pid in pids)
        relay.stop(number)
    if number == signal.SIGTERM:
        assert [pid for pid in pids if alive(pid)] == []
        return
    wait_until(lambda: not any(alive(pid) for pid in pids[:2]), SOON, "the server and its group have ended")
    home.run("mcp", "remove", "raw")
    after = RelayProcess(home)  # ends the child that had a session of its own
    try:
        wait_until(lambda: not any(alive(pid) for pid in pids), SOON, "what was left has ended")
    finally:
        after.stop()


def test_a_package_of_the_marketplace_is_installed_and_its_tools_work_at_once(home: RelayHome) -> None:
    home.run("auth", "disable")
    relay = RelayProcess(home)
    try:
        with connected(relay, timeout=120) as client:
            result = client.call("install_mcp", package_name="@modelcontextprotocol/server-memory")
            text = result["content"][0]["text"]
            if result["isError"] and ("can't be reached" in text or "Node.js" in text):
                pytest.skip(text)
            assert len(result["structuredContent"]["tools"]) == 9, text
            graph = client.call("call_external_tool", tool_name="memory.read_graph")["structuredContent"]
            assert graph == {"entities": [], "relations": []}
            near = client.call("install_mcp", package_name="@modelcontextprotocol/server-memroy")
            assert (
                near["isError"] and 'Did you mean "@modelcontextprotocol/server-memory"' in near["content"][0]["text"]
            )
    finally:
        relay.stop()


@pytest.fixture
def without_the_sdk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program runs with the standard library, PyYAML and pyotp, and nothing else."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for name in ("yaml", "pyotp"):
        origin = sys.modules.get(name) or __import__(name)
        assert origin.__file__
        (packages / name).symlink_to(Path(origin.__file__).parent)
    monkeypatch.setenv("PYTHONPATH", str(packages))
    monkeypatch.setattr(relay_support, "PROGRAM", [sys.executable, "-S", str(ROOT / "fleetshell.py")])


@pytest.mark.usefixtures("without_the_sdk")
def test_without_the_sdk_all_else_works_and_these_parts_say_how_to_get_it(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    home.run("auth", "disable")
    home.run("prompt", "save", "look", "--description", "Look", "--content", "Look.")
    add(home, "raw")
    said = home.run("mcp", "test", "raw", check=False)
    assert said.returncode != 0 and "pip install 'mcp>=2.3,<3'" in said.stdout
    assert "raw" in home.run("mcp", "list").stdout
    relay = RelayProcess(home)
    try:
        with connected(relay) as client:
            names = [tool["name"] for tool in client.rpc("tools/list").json["result"]["tools"]]
            assert "raw__echo" not in names and "call_external_tool" in names
            assert "Found 0 servers" in client.text("list_servers") and prompts(client) == ["look"]
            assert "result" in client.rpc("prompts/get", name="look").json
            (state,) = client.call("list_external_mcps")["structuredContent"]["mcps"]
            assert state["status"] == "unavailable" and "pip install 'mcp>=2.3,<3'" in state["error"]
            called = client.call("call_external_tool", tool_name="raw.echo")
            assert called["isError"] and "pip install 'mcp>=2.3,<3'" in called["content"][0]["text"]
            assert client.call("browse_mcp_marketplace")["structuredContent"]["count"] > 10
    finally:
        relay.stop()


def asked(client: ModernClient, **more: Any) -> dict[str, Any]:
    """The answer to a call of the tool that asks; an error under that name."""
    reply = client.rpc("tools/call", name="sdk__ask", arguments={}, **more).json
    found: dict[str, Any] = reply.get("result") or {"error": reply["error"]}
    return found


ANSWER = {"question": {"action": "accept", "content": {"colour": "red"}}}


@pytest.fixture
def asking(open_relay: RelayProcess) -> Iterator[ModernClient]:
    """A modern client that can be asked."""
    with modern(open_relay) as client:
        client.meta["io.modelcontextprotocol/clientCapabilities"] = {"elicitation": {}}
        yield client


def test_a_state_is_good_for_one_answer_to_the_same_call_by_the_same_caller(
    asking: ModernClient, open_relay: RelayProcess
) -> None:
    first = asked(asking)
    assert first["resultType"] == "input_required"
    assert first["inputRequests"]["question"]["params"]["message"] == "Which colour?"
    state = first["requestState"]
    for wrong, reason in (
        ({"requestState": state[:-1] + "~", "inputResponses": ANSWER}, "unknown_request_state"),
        ({"requestState": "", "inputResponses": ANSWER}, "unknown_request_state"),
        ({"requestState": state, "inputResponses": {}}, "no_answer"),
        ({"requestState": state, "inputResponses": {"question": "red"}}, "no_answer"),
        ({"requestState": state, "inputResponses": ANSWER, "name": "far__ask"}, "unknown_request_state"),
        ({"requestState": state, "inputResponses": ANSWER, "arguments": {"x": 1}}, "unknown_request_state"),
    ):
        request = {"name": "sdk__ask", "arguments": {}, **wrong}
        error = asking.rpc("tools/call", **request).json["error"]
        assert (error["code"], error["data"]["reason"]) == (-32602, reason), wrong
    done = asked(asking, requestState=state, inputResponses=ANSWER)
    assert done["content"][0]["text"] == "accept: red"
    assert asked(asking, requestState=state, inputResponses=ANSWER)["error"]["code"] == -32602


def test_a_modern_client_is_asked_only_what_it_declared(open_relay: RelayProcess) -> None:
    with modern(open_relay) as client:
        result = asked(client)
    assert result["isError"] and "does not declare the capability elicitation" in result["content"][0]["text"]


def test_a_relay_with_a_call_that_waits_for_its_client_stops_at_once(home: RelayHome) -> None:
    home.run("auth", "disable")
    add(home, "sdk", server="sdk.py")
    relay = RelayProcess(home)
    with modern(relay) as client:
        client.meta["io.modelcontextprotocol/clientCapabilities"] = {"elicitation": {}}
        client.call("list_external_mcps", mcp_id="sdk")
        assert asked(client)["resultType"] == "input_required"
    assert relay.stop() == 0
    (ended,) = [record for record in home.audit() if record["event"] == "external_call_ended"]
    assert ended["reason"] == "cancelled" and "Traceback" not in relay.log.read_text()
