"""Tests of the requests that the relay sends: whose answer counts, and how waiting for it ends."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from support.protocol_client import Client, code, rpc

from fleetshell_tools.core.types import Cancellation
from fleetshell_tools.relay.exchange import Answer
from fleetshell_tools.relay.jsonrpc import Response, RpcError
from fleetshell_tools.relay.questions import Questions

ACCEPTED = Answer(202, b"", (), "")
CLIENT_ERROR = {"reason": "client_error"}


def response(request_id: Any, **members: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, **(members or {"result": {"action": "accept"}})}


def test_a_posted_response_is_the_answer_to_the_request_of_its_id() -> None:
    client = Client()
    with client.start().expect() as question, client.sessions.live()[0].expect() as other:
        assert client.post(response(question.id)) == ACCEPTED
        assert question.wait(0) == {"action": "accept"}
        assert other.wait(0) is None


def test_ids_cannot_be_guessed() -> None:
    ids = {Questions().expect().id for _ in range(100)}
    assert len(ids) == 100
    assert all(len(request_id) >= 22 for request_id in ids)


def test_a_response_in_a_batch_counts_too() -> None:
    client = Client()
    with client.start("2025-03-26").expect() as question:
        assert client.post([response(question.id), rpc("notifications/initialized")]) == ACCEPTED
        assert question.wait(0) == {"action": "accept"}


def test_a_response_of_another_session_or_key_reaches_nobody() -> None:
    client = Client()
    with client.start().expect() as question:
        mine = client.session_id
        client.start()
        assert client.post(response(question.id)) == ACCEPTED
        client.key, client.session_id = "mallory", mine
        assert code(client.post(response(question.id)), 404) == -32001
        assert question.wait(0) is None


ANSWERS: list[tuple[dict[str, Any], object]] = [
    ({"result": {}}, {}),
    ({"result": None}, RpcError(-32600, "The client's result is not an object.", CLIENT_ERROR)),
    ({"result": [1]}, RpcError(-32600, "The client's result is not an object.", CLIENT_ERROR)),
    ({"error": {"code": -1, "message": "User said no", "data": {"a": 1}}}, RpcError(-1, "User said no", {"a": 1})),
    ({"error": {"code": -1, "message": "no", "data": "x"}}, RpcError(-1, "no", CLIENT_ERROR)),
    ({"error": {"code": True}}, RpcError(-32603, "The client answered with an error that says nothing.", CLIENT_ERROR)),
    ({"error": "no"}, RpcError(-32603, "The client answered with an error that says nothing.", CLIENT_ERROR)),
]


@pytest.mark.parametrize(("members", "answer"), ANSWERS)
def test_an_answer_of_any_shape_is_a_result_or_an_error(members: dict[str, Any], answer: object) -> None:
    client = Client()
    with client.start().expect() as question:
        client.post(response(question.id, **members))
        assert question.wait(0) == answer


def test_only_the_first_answer_counts_and_none_that_is_not_waited_for() -> None:
    questions = Questions()
    with questions.expect("a") as question:
        assert not questions.resolve(Response("b", {}))
        assert not questions.resolve(Response(1, {}))
        assert not questions.resolve(Response(None, {}))
        assert questions.resolve(Response("a", {"n": 1}))
        assert not questions.resolve(Response("a", {"n": 2}))
        assert question.wait(0) == {"n": 1}
    with questions.expect("a"):
        pass
    assert not questions.resolve(Response("a", {}))


def test_waiting_ends_when_the_answer_comes_from_another_thread() -> None:
    questions = Questions()
    question = questions.expect()
    thread = threading.Thread(target=questions.resolve, args=(Response(question.id, {"n": 1}),))
    thread.start()
    assert question.wait(30) == {"n": 1}
    thread.join()


def test_waiting_ends_when_the_call_is_cancelled_or_the_session_ends() -> None:
    client, cancelled = Client(), Cancellation()
    session = client.start()
    first, second = session.expect(), session.expect()
    cancelled.on_set(first.interrupt)
    cancelled.set()
    assert first.wait(30) is None
    client.send("DELETE", b"")
    assert second.wait(30) is None
    assert session.expect().wait(30) is None
