"""External servers that behave: both eras and transports, everything that passes through, and what changes while they run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.processes import wait_until
from support.upstream_home import SERVERS, SOON, Aggregator, aggregator, background

from fleetshell_tools.core.errors import BadArgument, Cancelled, NotFound, Refused, TimedOut, Unreachable
from fleetshell_tools.core.types import Caller, Cancellation, Principal

__all__ = ["aggregator"]
CALLER = Caller(Principal("key"), "client", "s", "prompts/get")


@pytest.fixture
def endpoint() -> Iterator[str]:
    """The SDK's server over streamable HTTP."""
    process = subprocess.Popen([sys.executable, str(SERVERS / "sdk.py"), "--http"], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    yield f"http://127.0.0.1:{process.stdout.readline().strip()}/mcp"
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_tool_is_called_by_both_of_its_names_and_starts_its_server(aggregator: Aggregator) -> None:
    aggregator.raw()
    assert aggregator.state("raw")["status"] == "stopped"
    assert json.loads(aggregator.text("raw.echo", arguments={"a": 1})) == {"a": 1}
    assert json.loads(aggregator.text("raw__echo", arguments={"b": "ü"})) == {"b": "ü"}
    assert aggregator.state("raw")["status"] == "ready"


def test_every_era_and_transport_is_negotiated_on_its_own(aggregator: Aggregator, endpoint: str) -> None:
    aggregator.raw("old", "picky")
    aggregator.raw("new", "modern")
    aggregator.write("far", url=endpoint)
    versions = {}
    for mcp_id in ("old", "new", "far"):
        arguments = {"message": "hi"}
        assert "hi" in aggregator.text(f"{mcp_id}.echo", arguments=arguments)
        versions[mcp_id] = aggregator.state(mcp_id)["protocol_version"]
    assert versions == {"old": "2025-11-25", "new": "2026-07-28", "far": "2026-07-28"}


def _into(steps: list[Any]) -> Any:
    return lambda *step: steps.append(step)


def test_everything_passes_through(aggregator: Aggregator, endpoint: str) -> None:
    aggregator.sdk("near", env={"SLOW_FILE": str(aggregator.path / "slow")})
    aggregator.write("far", url=endpoint)
    for mcp_id in ("near", "far"):
        assert aggregator.call(f"{mcp_id}.add", arguments={"a": 1, "b": 2})["structuredContent"] == {"sum": 3}
        failed = aggregator.call(f"{mcp_id}.fail")
        assert failed["isError"] and "fail" in failed["content"][0]["text"]
        blocks = aggregator.call(f"{mcp_id}.everything")["content"]
        assert [block["type"] for block in blocks] == ["text", "image", "audio", "resource", "resource_link"]
        assert blocks[0]["text"] == "red alert"
        assert blocks[1] == {"type": "image", "data": "aGVsbG8=", "mimeType": "image/png"}
        assert blocks[3]["resource"]["text"] == "inside"

        steps: list[tuple[float, float | None, str | None]] = []
        done = aggregator.text(f"{mcp_id}.slow", arguments={"seconds": 0.2}, progress=_into(steps))
        assert done == "done" and (9.0, 10.0, "step 9") in steps

        questions: list[tuple[str, dict[str, Any]]] = []

        def ask(method: str, params: dict[str, Any], questions: list[Any] = questions) -> dict[str, Any]:
            questions.append((method, params))
            return {"action": "accept", "content": {"colour": "blue"}}

        assert aggregator.text(f"{mcp_id}.ask", ask=ask) == "accept: blue"
        assert [(method, params["message"]) for method, params in questions] == [
            ("elicitation/create", "Which colour?")
        ]


def test_a_cancelled_call_is_cancelled_at_the_server(aggregator: Aggregator) -> None:
    note = aggregator.path / "slow"
    aggregator.sdk(env={"SLOW_FILE": str(note)})
    cancelled = Cancellation()
    with pytest.raises(Cancelled, match="cancelled by the client"):
        aggregator.call(
            "sdk.slow", arguments={"seconds": 600}, cancelled=cancelled, progress=lambda *step: cancelled.set()
        )
    wait_until(note.exists, SOON, "the server noticed")
    assert aggregator.text("sdk.echo", arguments={"message": "still there"}) == "still there"


def test_a_call_that_takes_too_long_is_given_up(aggregator: Aggregator) -> None:
    aggregator.raw(timeout=1)
    with pytest.raises(TimedOut, match="did not answer within 1 s"):
        aggregator.call("raw.hang")
    assert aggregator.text("raw.echo") == "{}"


def test_a_client_that_cannot_be_asked_leaves_the_question_unanswered(aggregator: Aggregator) -> None:
    aggregator.sdk()
    result = aggregator.call("sdk.ask")
    assert result["isError"] and "can't be asked" in result["content"][0]["text"]


def test_with_calls_of_several_clients_no_client_is_asked(aggregator: Aggregator) -> None:
    aggregator.sdk()
    reached = threading.Event()
    stop = Cancellation()
    thread, outcome = background(
        lambda: aggregator.call(
            "sdk.slow", "other", arguments={"seconds": 600}, cancelled=stop, progress=lambda *step: reached.set()
        )
    )
    assert reached.wait(SOON)
    result = aggregator.call("sdk.ask", ask=lambda method, params: {"action": "accept", "content": {"colour": "red"}})
    stop.set()
    thread.join()
    assert result["isError"] and "Several clients" in result["content"][0]["text"]
    assert isinstance(outcome[0], Cancelled)


def test_sampling_is_refused(aggregator: Aggregator) -> None:
    aggregator.raw()
    assert json.loads(aggregator.text("raw.ask_sampling"))["error"]["message"]


@pytest.mark.parametrize("transport", ["stdio", "http"])
def test_a_new_tool_is_listed_and_told(aggregator: Aggregator, endpoint: str, transport: str) -> None:
    if transport == "stdio":
        aggregator.sdk(expose="all", auto_start=True)
    else:
        aggregator.write("sdk", url=endpoint, expose="all", auto_start=True)
    aggregator.until("sdk", "ready")
    before = aggregator.upstreams.generation()
    assert not aggregator.upstreams.lists("sdk__grown")
    aggregator.call("sdk.grow")
    wait_until(lambda: aggregator.upstreams.lists("sdk__grown"), SOON, "the new tool is listed")
    assert aggregator.upstreams.generation() > before and "tools" in aggregator.changed
    assert aggregator.text("sdk__grown") == "new"


def test_prompts_are_listed_and_rendered(aggregator: Aggregator) -> None:
    aggregator.sdk(auto_start=True)
    aggregator.until("sdk", "ready")
    (prompt,) = aggregator.upstreams.prompts()
    assert prompt["name"] == "sdk__greet" and prompt["arguments"] == [{"name": "who", "required": True}]
    rendered = aggregator.upstreams.get_prompt(CALLER, "sdk__greet", {"who": "Ada"})
    assert rendered["messages"] == [{"role": "user", "content": {"type": "text", "text": "Hello, Ada!"}}]
    with pytest.raises(BadArgument):
        aggregator.upstreams.get_prompt(CALLER, "sdk__greet", {})
    with pytest.raises(NotFound, match="Did you mean"):
        aggregator.upstreams.get_prompt(CALLER, "sdk__greeet", {})
    assert [(event, fields["command"]) for event, fields in aggregator.records[:2]] == [
        ("external_prompt", "sdk.greet"),
        ("external_prompt_ended", "sdk.greet"),
    ]


def test_large_arguments_and_results_pass_within_the_budget(aggregator: Aggregator) -> None:
    aggregator.sdk()
    result = aggregator.call("sdk.echo", arguments={"message": "ä" * 1_500_000})
    assert "3,000,0" in result["content"][0]["text"]
    assert len(json.dumps(result, ensure_ascii=False).encode()) < 3 * aggregator.config.security.max_output_bytes


def test_calls_overlap(aggregator: Aggregator) -> None:
    aggregator.sdk()
    barrier = threading.Barrier(8)
    entered = [threading.Event() for _ in range(8)]

    def one(index: int) -> str:
        def step(*progress: Any) -> None:
            if not entered[index].is_set():
                entered[index].set()
                barrier.wait(SOON)  # passes only if all eight run at the same time

        return aggregator.text("sdk.slow", arguments={"seconds": 0.5}, progress=step)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(8))) == ["done"] * 8


def test_files_are_followed_while_it_runs(aggregator: Aggregator) -> None:
    assert aggregator.upstreams.describe() == []
    aggregator.raw("one", auto_start=True)
    first = aggregator.until("one", "ready")["pid"]
    aggregator.raw("one", "noise", auto_start=True)
    wait_until(lambda: aggregator.state("one").get("pid") not in (first, None), SOON, "it runs with its new arguments")
    aggregator.raw("one", enabled=False)
    assert aggregator.state("one")["status"] == "disabled"
    with pytest.raises(Refused, match="mcp enable one"):
        aggregator.call("one.echo")
    aggregator.file("one").unlink()
    assert aggregator.upstreams.describe() == []
    with pytest.raises(NotFound, match="fleetshell mcp add"):
        aggregator.call("one.echo")


def test_a_bad_file_disables_that_server_alone(aggregator: Aggregator) -> None:
    aggregator.raw("good")
    aggregator.write("bad", command="x", url="https://example.com/mcp")
    assert aggregator.text("good.echo") == "{}"
    state = aggregator.state("bad")
    assert state["status"] == "invalid" and "one of the two" in state["error"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("raw.ecko", 'Did you mean "echo"'),
        ("row.echo", 'Did you mean "raw"'),
        ("raw.", "mcp_id.tool_name"),
        ("echo", "mcp_id.tool_name"),
    ],
)
def test_an_unknown_name_is_answered_with_a_near_one(aggregator: Aggregator, name: str, says: str) -> None:
    aggregator.raw()
    aggregator.text("raw.echo")
    with pytest.raises(NotFound, match=says):
        aggregator.call(name)


def test_the_audit_log_gets_an_intent_and_an_outcome_without_the_arguments(aggregator: Aggregator) -> None:
    aggregator.raw()
    aggregator.text("raw.echo", arguments={"password": "hunter2"})
    (intent, first), (outcome, second) = aggregator.records
    assert (intent, outcome) == ("external_call", "external_call_ended")
    assert first["durable"] and first["command"] == second["command"] == "raw.echo"
    assert second["success"] and len(first["arguments_sha256"]) == 64
    assert "hunter2" not in repr(aggregator.records)


def test_too_many_calls_at_once_are_refused(aggregator: Aggregator) -> None:
    aggregator.settings(max_parallel=1)
    aggregator.sdk()
    reached, stop = threading.Event(), Cancellation()
    thread, _ = background(
        lambda: aggregator.call(
            "sdk.slow", arguments={"seconds": 600}, cancelled=stop, progress=lambda *step: reached.set()
        )
    )
    assert reached.wait(SOON)
    with pytest.raises(Refused, match="max_parallel"):
        aggregator.call("sdk.echo", arguments={"message": "x"})
    stop.set()
    thread.join()


def test_the_environment_is_an_allow_list_and_the_files_own(
    aggregator: Aggregator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/tmp/agent")
    monkeypatch.setenv("TOKEN_OF_OURS", "ours-and-secret")
    (aggregator.path / "mcps" / "secret").write_text("from-a-file\n")
    aggregator.sdk(env={"A": "${env:TOKEN_OF_OURS}!", "B": "${file:mcps/secret}"})
    found = {
        name: aggregator.text("sdk.variable", arguments={"name": name})
        for name in ("SSH_AUTH_SOCK", "A", "B", "TOKEN_OF_OURS")
    }
    assert found == {
        "SSH_AUTH_SOCK": "(not set)",
        "A": "ours-and-secret!",
        "B": "from-a-file",
        "TOKEN_OF_OURS": "(not set)",
    }


def test_a_variable_that_is_not_set_is_named(aggregator: Aggregator) -> None:
    aggregator.raw(env={"A": "${env:NO_SUCH_VARIABLE}"})
    with pytest.raises(Unreachable, match="NO_SUCH_VARIABLE"):
        aggregator.call("raw.echo")


def test_without_the_sdk_it_says_how_to_get_it(aggregator: Aggregator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleetshell_tools.relay.upstream.available", lambda: False)
    aggregator.raw()
    with pytest.raises(Refused, match="pip install"):
        aggregator.call("raw.echo")
    state = aggregator.state("raw")
    assert state["status"] == "unavailable" and "pip install" in state["error"]
    assert aggregator.upstreams.tool_definitions() == []


def test_a_header_goes_with_every_request(aggregator: Aggregator, endpoint: str) -> None:
    aggregator.write("far", url=endpoint, headers={"Authorization": "Bearer ${env:HOME}"})
    assert aggregator.text("far.echo", arguments={"message": "x"}) == "x"


def test_an_endpoint_that_is_down_says_so_and_is_used_again_once_it_is_up(aggregator: Aggregator) -> None:
    aggregator.write("far", url="http://127.0.0.1:9/mcp")
    with pytest.raises(Unreachable, match="far can't be used"):
        aggregator.call("far.echo")
    assert aggregator.state("far")["error"]


def test_nothing_runs_after_it_was_closed(aggregator: Aggregator) -> None:
    aggregator.raw(auto_start=True)
    pid = aggregator.until("raw", "ready")["pid"]
    aggregator.upstreams.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(Refused, match="stopped"):
        aggregator.call("raw.echo")
