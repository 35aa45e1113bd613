"""What a running call may do towards its client, over real connections."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
from support.gateway import Desk, McpClient, text
from support.http_client import PATIENCE, wait_until

from fleetshell_tools.core.errors import BadArgument, Cancelled, FleetShellError, TimedOut
from fleetshell_tools.relay.conversation import CallConversation
from fleetshell_tools.relay.exchange import Call, Outcome, RpcFailure
from fleetshell_tools.relay.progress import Reporter


@pytest.fixture(params=["2025-11-25", "2025-06-18", "modern"])
def client(request: pytest.FixtureRequest, relay: Desk) -> McpClient:
    return relay.modern() if request.param == "modern" else relay.legacy(request.param)


def messages(client: McpClient) -> list[dict[str, Any]]:
    """What comes on a stream until its end, without what has no content."""
    return [event.message for event in client.events() if event.data]


def said(message: dict[str, Any]) -> str:
    words: str = message["result"]["content"][0]["text"]
    return words


class Asking:
    """A tool that asks its client something, and says what came of it."""

    def __init__(self, seconds: float = PATIENCE) -> None:
        self.seconds = seconds
        self.error: FleetShellError | None = None
        self.over = threading.Event()

    def __call__(self, call: Call, conversation: CallConversation) -> Outcome:
        try:
            return text(str(conversation.request("elicitation/create", {"message": "?"}, self.seconds)["content"]))
        except FleetShellError as error:
            self.error = error
            return text("no answer")
        finally:
            self.over.set()


def ask(relay: Desk, client: McpClient, tool: Asking) -> dict[str, Any]:
    """Call the tool, and read what it asks."""
    relay.tools["ask"] = tool
    client.call("ask")
    assert client.head().fields["content-type"] == "text/event-stream"
    event = client.event()
    if event is not None and not event.data:
        event = client.event()
    assert event is not None
    assert (event.message["method"], event.message["params"]) == ("elicitation/create", {"message": "?"})
    return event.message


# ---- notifications


def test_a_notification_turns_the_answer_into_a_stream_that_ends_with_it(relay: Desk, client: McpClient) -> None:
    def tool(call: Call, conversation: CallConversation) -> Outcome:
        for level in ("info", "warning"):
            conversation.notify("notifications/message", {"level": level, "data": "x"})
        return text("done")

    relay.tools["talk"] = tool
    client.call("talk")
    assert client.head().status == 200
    first, second, answer = messages(client)
    assert first == {
        "jsonrpc": "2.0",
        "method": "notifications/message",
        "params": {"level": "info", "data": "x"},
    }
    assert second["params"]["level"] == "warning"
    assert (answer["id"], said(answer)) == (client.last_id, "done")


def test_nothing_follows_the_answer(relay: Desk, client: McpClient) -> None:
    with relay.held() as tool:
        client.call("held")
        report = Reporter(tool.conversation.notify, "token", lambda: relay.now)
        report(1, 2, "half")
        assert tool.conversation.answer(text("early"))
        relay.now += 10
        report(2, 2, "all")
        assert client.head().status == 200
        assert [message.get("method") for message in messages(client)] == ["notifications/progress", None]
        assert client.call("quick").json()["id"] == client.last_id


def test_notifications_of_many_threads_come_whole_and_before_the_answer(relay: Desk, client: McpClient) -> None:
    def tool(call: Call, conversation: CallConversation) -> Outcome:
        def talk(number: int) -> None:
            for _ in range(25):
                conversation.notify("notifications/message", {"data": str(number) * 300})

        threads = [threading.Thread(target=talk, args=[number]) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        return text("done")

    relay.tools["talk"] = tool
    client.call("talk")
    assert client.head().status == 200
    *talk, answer = messages(client)
    assert sorted(m["params"]["data"] for m in talk) == sorted(
        str(number) * 300 for number in range(4) for _ in range(25)
    )
    assert said(answer) == "done"


# ---- requests to the client


def test_a_legacy_client_can_be_asked_and_answers_by_another_post(relay: Desk) -> None:
    client = relay.legacy()
    question = ask(relay, client, Asking())
    beside = relay.beside(client)
    assert beside.post({"jsonrpc": "2.0", "id": question["id"], "result": {"content": "yes"}}) == 202
    assert said(messages(client)[-1]) == "yes"


def test_another_session_cannot_answer(relay: Desk) -> None:
    client, other, tool = relay.legacy(), relay.legacy(), Asking()
    question = ask(relay, client, tool)
    assert other.post({"jsonrpc": "2.0", "id": question["id"], "result": {"content": "forged"}}) == 202
    assert not tool.over.is_set()
    assert relay.beside(client).post({"jsonrpc": "2.0", "id": question["id"], "result": {"content": "mine"}}) == 202
    assert said(messages(client)[-1]) == "mine"


def test_an_error_of_the_client_is_raised_with_its_code(relay: Desk) -> None:
    client, tool = relay.legacy(), Asking()
    question = ask(relay, client, tool)
    error = {"code": -1, "message": "User refused", "data": {"why": "no"}}
    assert relay.beside(client).post({"jsonrpc": "2.0", "id": question["id"], "error": error}) == 202
    assert said(messages(client)[-1]) == "no answer"
    assert isinstance(tool.error, RpcFailure)
    assert (tool.error.code, tool.error.data) == (-1, {"why": "no"})


def test_a_client_that_does_not_answer_is_not_waited_for_longer_than_was_said(relay: Desk) -> None:
    client, tool = relay.legacy(), Asking(0.01)
    ask(relay, client, tool)
    assert said(messages(client)[-1]) == "no answer"
    assert isinstance(tool.error, TimedOut)
    assert "0.01 s" in tool.error.message


def test_a_cancelled_call_waits_for_no_answer(relay: Desk) -> None:
    client, tool = relay.legacy(), Asking()
    ask(relay, client, tool)
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": client.last_id}}
    assert relay.beside(client).post(cancel) == 202
    assert tool.over.wait(PATIENCE)
    assert isinstance(tool.error, Cancelled)
    assert messages(client)[-1]["error"]["code"] == -32800


def test_the_end_of_the_session_ends_the_waiting(relay: Desk) -> None:
    client, tool = relay.legacy(), Asking()
    ask(relay, client, tool)
    assert relay.beside(client).send("DELETE").wire.answer().status == 204
    assert tool.over.wait(PATIENCE)
    assert isinstance(tool.error, Cancelled)


def test_a_hang_up_ends_the_waiting_where_the_stream_cannot_be_resumed(relay: Desk) -> None:
    client, tool = relay.legacy("2025-06-18"), Asking()
    ask(relay, client, tool)
    client.hang_up()
    assert tool.over.wait(PATIENCE)
    assert isinstance(tool.error, TimedOut)
    assert "hung up" in tool.error.message


@pytest.mark.parametrize("modern", [True, False])
def test_who_has_no_stream_for_questions_cannot_be_asked(relay: Desk, modern: bool) -> None:
    client, tool = relay.modern() if modern else relay.legacy(), Asking()
    client.accept = client.accept if modern else "application/json"
    relay.tools["ask"] = tool
    assert said(client.call("ask").json()) == "no answer"
    assert isinstance(tool.error, BadArgument)


# ---- patience, and the hand-over


def test_a_call_is_told_once_when_its_client_will_not_wait_longer(relay: Desk, client: McpClient) -> None:
    told: list[str] = []
    with relay.held() as tool:
        client.call("held")
        tool.conversation.when_impatient(lambda: told.append("forgotten"))()
        tool.conversation.when_impatient(lambda: told.append(threading.current_thread().name))
        relay.now += 44.9
        assert client.head().status == 200
        assert told == []
        relay.now += 0.1
        wait_until(lambda: bool(told))
        relay.now += 100
        tool.release.set()
        assert said(messages(client)[-1]) == "done"
    assert told == ["overdue"]


def test_who_asks_after_patience_has_ended_is_told_soon(relay: Desk, client: McpClient) -> None:
    told = threading.Event()
    with relay.held() as tool:
        client.call("held")
        first = threading.Event()
        tool.conversation.when_impatient(first.set)
        relay.now += 45
        assert first.wait(PATIENCE)
        tool.conversation.when_impatient(told.set)
        assert told.wait(PATIENCE)


def test_a_callback_that_fails_is_logged_and_the_others_are_called(
    relay: Desk, client: McpClient, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("a bug")

    told = threading.Event()
    with relay.held() as tool, caplog.at_level(logging.ERROR):
        client.call("held")
        tool.conversation.when_impatient(fail)
        tool.conversation.when_impatient(told.set)
        relay.now += 45
        assert told.wait(PATIENCE)
    assert "could not be handed over" in caplog.text


@pytest.mark.parametrize("streams", [True, False])
def test_a_call_can_be_answered_while_it_goes_on_and_its_result_is_dropped(
    relay: Desk, client: McpClient, streams: bool
) -> None:
    client.accept = client.accept if streams else "application/json"
    with relay.held() as tool:
        client.call("held")
        conversation, handed = tool.conversation, []
        conversation.when_impatient(lambda: handed.append(conversation.answer(text("it goes on"))))
        relay.now += 45
        if streams:
            assert client.head().status == 200
            assert [said(message) for message in messages(client)] == ["it goes on"]
        else:
            assert said(client.json()) == "it goes on"
        wait_until(lambda: handed == [True])
        assert not conversation.answer(text("again"))
        assert said(client.call("quick").json()) == "quick"
        tool.release.set()
        assert tool.returned.wait(PATIENCE)
    assert said(client.call("quick").json()) == "quick"


def test_what_was_handed_over_can_no_longer_be_cancelled_by_its_request_id(relay: Desk) -> None:
    client = relay.legacy()
    with relay.held() as tool:
        client.call("held")
        assert tool.conversation.answer(text("it goes on"))
        assert said(client.json()) == "it goes on"
        assert not relay.session_of(client).in_flight
        cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": client.last_id}}
        assert client.post(cancel) == 202
        assert not tool.cancelled.is_set()


def test_of_many_answers_at_once_the_client_gets_one(relay: Desk, client: McpClient) -> None:
    """The call returns, is handed over and becomes a stream at the same moment, a hundred times."""
    for _ in range(100):
        with relay.held() as tool:
            client.call("held")
            conversation, barrier, handed = tool.conversation, threading.Barrier(4), []

            def at_once(act: Any, barrier: threading.Barrier = barrier) -> threading.Thread:
                def wait_and_act() -> None:
                    barrier.wait(PATIENCE)
                    act()

                thread = threading.Thread(target=wait_and_act)
                thread.start()
                return thread

            threads = [
                at_once(tool.release.set),
                at_once(lambda: handed.append(conversation.answer(text("early")))),  # noqa: B023
                at_once(lambda: conversation.notify("notifications/message", {})),  # noqa: B023
            ]
            barrier.wait(PATIENCE)
            head = client.head()
            if head.fields["content-type"] == "application/json":
                found = [client.wire.read_exactly(int(head.fields["content-length"])).decode()]
            else:
                found = [event.data for event in client.events() if '"result"' in event.data]
            for thread in threads:
                thread.join(PATIENCE)
        assert len(found) == 1
        assert ("early" in found[0]) == handed[0]
        assert ("done" in found[0]) != handed[0]


# ---- clients that can resume


def test_a_client_that_can_resume_hangs_up_without_consequence(relay: Desk) -> None:
    client, impatient = relay.legacy(), threading.Event()
    with relay.held() as tool:
        client.call("held")
        tool.conversation.when_impatient(impatient.set)
        relay.now += 1
        assert client.head().status == 200
        client.hang_up()
        wait_until(lambda: relay.http.has(connections=0))
        assert not tool.cancelled.is_set()
        assert not impatient.is_set()


@pytest.mark.parametrize("version", ["2025-06-18", "modern"])
def test_who_cannot_resume_is_not_sent_away(relay: Desk, version: str) -> None:
    client = relay.modern() if version == "modern" else relay.legacy(version)
    with relay.held() as tool:
        client.call("held")
        assert not tool.conversation.disconnect()
        tool.release.set()
        assert client.head().status == 200
        assert [said(message) for message in messages(client)] == ["done"]
