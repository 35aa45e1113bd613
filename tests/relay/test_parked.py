"""Parked calls on their own: expiry, limits, several rounds, cancellation from either request, and whose answer counts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from support.processes import wait_until

from fleetshell_tools.core.errors import BadArgument, Cancelled, FleetShellError, Refused
from fleetshell_tools.core.types import Cancellation
from fleetshell_tools.relay import parked as module
from fleetshell_tools.relay.exchange import Call, InputRequired, Outcome, Peer, Result
from fleetshell_tools.relay.jsonrpc import RpcError
from fleetshell_tools.relay.parked import Parked, Rounds

FORM = {"message": "Which?", "requestedSchema": {"type": "object", "properties": {}}}
RESPONSES = {"question": {"action": "accept"}}


@dataclass
class Said:
    """A `Conversation` that keeps what it is told."""

    answers: list[Outcome] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)
    open: bool = True

    def answer(self, outcome: Outcome) -> bool:
        self.answers.append(outcome)
        return self.open

    def notify(self, method: str, params: dict[str, Any]) -> None:
        self.notes.append(params)

    def request(self, method: str, params: dict[str, Any], seconds: float) -> dict[str, Any]:
        raise AssertionError("a modern client is never sent a request")

    def when_impatient(self, callback: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


def a_call(key: str = "k", capabilities: dict[str, Any] | None = None, token: str | None = None, **params: Any) -> Call:
    declared = {"elicitation": {}} if capabilities is None else capabilities
    peer = Peer(key, "2026-07-28", capabilities=declared)
    return Call(1, peer, "tools/call", params, Cancellation(), "a__b", {"x": 1}, token)


def start(parked: Parked, questions: int = 1, conversation: Said | None = None, **call: Any) -> tuple[Rounds, Said, threading.Thread]:  # fmt: skip
    """A call that asks so often, then ends with what it was answered, or why it was not."""
    said = conversation or Said()
    rounds = parked.begin(a_call(**call), said)

    def work() -> None:
        found: list[Any] = []
        for _ in range(questions):
            try:
                found.append(rounds.ask("elicitation/create", FORM))
            except FleetShellError as error:
                found.append(type(error))
            rounds.progress(len(found), None, None)
        rounds.end(Result({"found": found}))

    thread = threading.Thread(target=work)
    thread.start()
    wait_until(lambda: bool(said.answers) or not thread.is_alive(), 10, "it has asked, or could not")
    return rounds, said, thread


def state_of(outcome: Outcome) -> str:
    assert isinstance(outcome, InputRequired) and outcome.state
    return outcome.state


def repeated(parked: Parked, state: str, conversation: Said | None = None, **call: Any) -> Outcome:
    again = a_call(requestState=state, inputResponses=RESPONSES, **call)
    rounds = parked.begin(again, conversation or Said())
    return rounds.end(parked.go_on(again, rounds))


def test_each_question_is_a_round_and_progress_follows_the_request_that_is_waited_for() -> None:
    parked, last = Parked(30), Said()
    _, said, thread = start(parked, 2, token="first")
    second = repeated(parked, state_of(said.answers[0]), token="second")
    assert state_of(second) != state_of(said.answers[0])
    done = repeated(parked, state_of(second), last, token="third")
    thread.join()
    assert isinstance(done, Result) and done.value == {"found": [{"action": "accept"}] * 2}
    assert said.notes == [] and last.notes == [{"progressToken": "third", "progress": 2}]


@pytest.mark.parametrize("other", [{"key": "other"}, {"capabilities": {}}], ids=["key", "capabilities"])
def test_only_its_caller_can_answer(other: dict[str, Any]) -> None:
    parked = Parked(30)
    _, said, thread = start(parked)
    state = state_of(said.answers[0])
    answer = repeated(parked, state, **other)
    if "key" in other:
        assert isinstance(answer, RpcError) and answer.data == {"reason": "unknown_request_state"}
        answer = repeated(parked, state)
    thread.join()
    assert isinstance(answer, Result)


def test_a_call_whose_client_does_not_answer_is_cancelled() -> None:
    parked = Parked(0.05)
    rounds, said, thread = start(parked)
    thread.join()
    assert (
        rounds.call.cancelled.is_set()
        and "did not answer elicitation/create within 0.05 s" in rounds.call.cancelled.why
    )
    late = repeated(parked, state_of(said.answers[0]))
    assert isinstance(late, RpcError) and late.code == -32602


def test_cancelling_the_request_that_is_waited_for_cancels_the_call() -> None:
    parked = Parked(30)
    rounds, said, thread = start(parked, 2)
    again = a_call(requestState=state_of(said.answers[0]), inputResponses=RESPONSES)
    other = parked.begin(again, Said())
    again.cancelled.set("cancelled by the client")
    outcome = parked.go_on(again, other)
    thread.join()
    assert rounds.call.cancelled.why == "cancelled by the client" and isinstance(outcome, (Result, InputRequired))


@pytest.mark.parametrize("end", [Parked.cancel_all, Parked.close])
def test_whatever_is_parked_can_be_ended_and_after_closing_nothing_is_parked(end: Callable[..., None]) -> None:
    parked = Parked(30)
    rounds, _, thread = start(parked)
    end(parked, "the relay is stopping")
    thread.join()
    assert rounds.call.cancelled.why == "the relay is stopping"
    if end is Parked.close:
        with pytest.raises(Cancelled, match="the relay is stopping"):
            parked.begin(a_call(), Said()).ask("elicitation/create", FORM)


@pytest.mark.parametrize(("limit", "key"), [("MOST_OF_A_KEY", "k"), ("MOST", "other")])
def test_only_so_many_are_parked(monkeypatch: pytest.MonkeyPatch, limit: str, key: str) -> None:
    monkeypatch.setattr(module, limit, 1)
    parked = Parked(30)
    _, _, thread = start(parked)
    with pytest.raises(Refused, match="too many calls"):
        parked.begin(a_call(key), Said()).ask("elicitation/create", FORM)
    parked.close("over")
    thread.join()


@pytest.mark.parametrize(
    ("method", "params", "capabilities", "says"),
    [
        ("elicitation/create", FORM, {}, "capability elicitation"),
        ("elicitation/create", {**FORM, "mode": "url"}, {"elicitation": {"form": {}}}, "capability elicitation"),
        ("elicitation/create", FORM, {"elicitation": {"url": {}}}, "capability elicitation"),
        ("made/up", {}, {}, "made/up"),
    ],
)
def test_what_the_client_did_not_declare_is_not_asked(
    method: str, params: dict[str, Any], capabilities: dict[str, Any], says: str
) -> None:
    said = Said()
    with pytest.raises(BadArgument, match=says):
        Parked(30).begin(a_call(capabilities=capabilities), said).ask(method, params)
    assert said.answers == []


def test_a_client_that_has_gone_cannot_be_asked() -> None:
    parked = Parked(30)
    with pytest.raises(BadArgument, match="hung up"):
        parked.begin(a_call(), Said(open=False)).ask("elicitation/create", FORM)
    assert not parked._waiting
