"""The requests that the relay sends to a legacy client, such as an elicitation, and the answers they wait for."""

from __future__ import annotations

import secrets
import threading
from typing import Any

from fleetshell_tools.relay.jsonrpc import INTERNAL_ERROR, INVALID_REQUEST, Response, RpcError

REASON = "client_error"


class Question:
    """One request that was sent; a context manager, which forgets it at the end. For any thread.

    Attributes:
        id: The request's id, to be sent.
    """

    def __init__(self, questions: Questions, request_id: str) -> None:
        self.id = request_id
        self._questions = questions
        self._over = threading.Event()
        self._answer: dict[str, Any] | RpcError | None = None

    def __enter__(self) -> Question:
        return self

    def __exit__(self, *exception: object) -> None:
        self._questions.forget(self)

    def wait(self, seconds: float) -> dict[str, Any] | RpcError | None:
        """The client's answer: a result, or its error; None where none came in time, or `interrupt` was called."""
        self._over.wait(seconds)
        return self._answer

    def interrupt(self) -> None:
        """Let `wait` return at once; for `Cancellation.on_set`."""
        self._over.set()

    def resolve(self, answer: dict[str, Any] | RpcError) -> None:
        """Give the answer; `Questions.resolve` does it, once."""
        self._answer = answer
        self._over.set()


class Questions:
    """The requests of one session that wait for an answer; a response of another session cannot reach them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, Question] = {}
        self._closed = False

    def expect(self, request_id: str | None = None) -> Question:
        """Note a request before it is sent.

        Args:
            request_id: Its id; by default a new one that nobody can guess, as every id should be: whoever knows the
                id of a request can answer it within its session.
        """
        question = Question(self, request_id or secrets.token_urlsafe(16))
        with self._lock:
            if self._closed:
                question.interrupt()
            else:
                self._waiting[question.id] = question
        return question

    def forget(self, question: Question) -> None:
        """Wait for it no longer: what the client answers from now on is ignored."""
        with self._lock:
            if self._waiting.get(question.id) is question:
                del self._waiting[question.id]

    def resolve(self, response: Response) -> bool:
        """Take in a response of this session's client; returns False where nothing waits for it."""
        if not isinstance(response.id, str):
            return False
        with self._lock:
            question = self._waiting.pop(response.id, None)
        if question is None:
            return False
        question.resolve(_read(response))
        return True

    def close(self) -> None:
        """The session has ended: nothing is waited for any longer."""
        with self._lock:
            self._closed = True
            waiting = list(self._waiting.values())
            self._waiting.clear()
        for question in waiting:
            question.interrupt()


def _read(response: Response) -> dict[str, Any] | RpcError:
    """A response with its shape checked: clients send what they like."""
    if response.error is None:
        if isinstance(response.result, dict):
            return response.result
        return RpcError(INVALID_REQUEST, "The client's result is not an object.", {"reason": REASON})
    error = response.error if isinstance(response.error, dict) else {}
    code, message, data = error.get("code"), error.get("message"), error.get("data")
    return RpcError(
        code if isinstance(code, int) and not isinstance(code, bool) else INTERNAL_ERROR,
        message if isinstance(message, str) else "The client answered with an error that says nothing.",
        data if isinstance(data, dict) else {"reason": REASON},
    )
