"""Calls of the modern era that ask their client: each waits, parked, until its client calls again with the answer.

A server of the legacy era asks while it works, and a client of 2026-07-28 can't be asked then: its call is answered by
`input_required`, and it repeats the call with `inputResponses` and the `requestState` it was given (MCP 2026-07-28, "Multi
round-trip requests"). Meanwhile the call itself goes on in the thread that began it. A state is random and means nothing
elsewhere, is good for one answer, and only for the same caller and the same arguments.
"""

from __future__ import annotations

import hashlib
import json
import queue
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fleetshell_tools.core.context import no_progress
from fleetshell_tools.core.errors import BadArgument, Cancelled, Refused
from fleetshell_tools.core.types import Progress
from fleetshell_tools.relay.exchange import Call, Conversation, InputRequired, Outcome
from fleetshell_tools.relay.inputs import missing_capabilities
from fleetshell_tools.relay.jsonrpc import INVALID_PARAMS, RpcError
from fleetshell_tools.relay.progress import Reporter

MOST = 64
"""Calls that may be parked at once."""
MOST_OF_A_KEY = 16
QUESTION = "question"
"""The key of the one question of an `input_required`."""
_OVER = (
    "The call that asked is over, or its state was used or made up. Call again without requestState and inputResponses."
)


def refuse_what_was_not_declared(call: Call, method: str, params: dict[str, Any]) -> None:
    """Refuse a question for which this client has not declared the capability.

    Raises:
        BadArgument: It has not, or no client can be asked that.
    """
    try:
        missing = missing_capabilities({QUESTION: {"method": method, "params": params}}, call.peer.capabilities)
    except ValueError as error:
        raise BadArgument(f"FleetShell does not pass this on: {error}.") from None
    if missing:
        raise BadArgument(f"The client can't be asked: it does not declare the capability {', '.join(missing)}.")


@dataclass(eq=False)
class Rounds:
    """One call from its first request to its result, over all the requests by which its client answers questions.

    `progress` goes to the request that is waited for at the moment.

    Attributes:
        place: What holds the grant of the client; to be set before it is asked.
        seconds: How long the client has for an answer.
    """

    parked: Parked
    call: Call
    conversation: Conversation
    seconds: float
    place: str = ""
    _asked: bool = False
    _reporter: Progress = no_progress
    _answers: queue.SimpleQueue[dict[str, Any] | None] = field(default_factory=queue.SimpleQueue)
    _outcomes: queue.SimpleQueue[Outcome] = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        self._heed(self.call, self.conversation)

    @property
    def owner(self) -> tuple[str, str, str]:
        """Who may answer, and by what request: the API key, the grant, and a digest of what was called."""
        called = json.dumps([self.call.method, self.call.name, self.call.arguments], sort_keys=True, default=str)
        return self.call.peer.key_id, self.place, hashlib.sha256(called.encode()).hexdigest()

    def progress(self, done: float, total: float | None, message: str | None) -> None:
        """A `core.types.Progress`."""
        self._reporter(done, total, message)

    def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Answer the client's request by a question, and wait for the request that brings the answer.

        Raises:
            BadArgument, Refused: This client can't be asked; too many calls are parked.
            Cancelled: There was no answer in time, or the relay is stopping; the call is cancelled then.
        """
        refuse_what_was_not_declared(self.call, method, params)
        state = self.parked.add(self)
        question = InputRequired({QUESTION: {"method": method, "params": params}}, state)
        cancelled = self.call.cancelled
        forget = cancelled.on_set(lambda: self._answers.put(None))
        try:
            if self._asked:
                self._reporter = no_progress
                self._outcomes.put(question)
            elif not self.conversation.answer(question):
                raise BadArgument("This client can't be asked any more: it has its answer, or has hung up.")
            self._asked = True
            try:
                answer = self._answers.get(timeout=self.seconds)
            except queue.Empty:
                if self.parked.remove(state):
                    cancelled.set(f"given up, since its client did not answer {method} within {self.seconds:g} s")
                answer = self._answers.get()  # it came in the last moment, or the cancellation put it there
        finally:
            forget()
            self.parked.remove(state)
        if answer is None:
            raise Cancelled(f"The client was asked by {method}, but meanwhile the call was {cancelled.why}.")
        return answer

    def end(self, outcome: Outcome) -> Outcome:
        """The call is over: its outcome goes to the request that is waited for."""
        if self._asked:
            self._outcomes.put(outcome)
        return outcome

    def go_on(self, other: Rounds, answer: dict[str, Any]) -> Outcome:
        """Give the client's answer, which came with the request of `other`, and wait for what that request is answered."""
        call = other.call
        self._heed(call, other.conversation)
        forget = call.cancelled.on_set(lambda: self.call.cancelled.set(call.cancelled.why))
        try:
            self._answers.put(answer)
            return self._outcomes.get()
        finally:
            forget()

    def _heed(self, call: Call, conversation: Conversation) -> None:
        token = call.progress_token
        self._reporter = no_progress if token is None else Reporter(conversation.notify, token)


class Parked:
    """The calls that wait for an answer. For any thread.

    Args:
        seconds: How long a client has for its answer.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._waiting: dict[str, Rounds] = {}
        self._closed = ""

    def begin(self, call: Call, conversation: Conversation) -> Rounds:
        """A call that may come to ask its client; `Rounds.end` must follow."""
        return Rounds(self, call, conversation, self._seconds)

    def go_on(self, call: Call, rounds: Rounds) -> Outcome:
        """Work on a request with a `requestState`: go on with the call that it belongs to, until that asks again or ends."""
        answers = call.params.get("inputResponses")
        answer = answers.get(QUESTION) if isinstance(answers, Mapping) else None
        if not isinstance(answer, dict):
            return _invalid(f"`inputResponses` must have an answer to `{QUESTION}`, an object.", "no_answer")
        state, owner = str(call.params.get("requestState")), rounds.owner
        with self._lock:
            found = self._waiting.get(state)
            if found is not None and found.owner == owner:
                del self._waiting[state]
        # Whoever may not answer is not told that there is such a call.
        if found is None or found.owner != owner:
            return _invalid(_OVER, "unknown_request_state")
        return found.go_on(rounds, answer)

    def add(self, rounds: Rounds) -> str:
        """Note a call that waits for an answer; returns the state that finds it.

        Raises:
            Refused, Cancelled: Too many wait already; the relay is stopping.
        """
        state = secrets.token_urlsafe(32)
        with self._lock:
            if self._closed:
                raise Cancelled(f"The client can't be asked: {self._closed}.")
            of_the_key = sum(other.owner[0] == rounds.owner[0] for other in self._waiting.values())
            if len(self._waiting) >= MOST or of_the_key >= MOST_OF_A_KEY:
                raise Refused("The client can't be asked: too many calls wait for an answer already.")
            self._waiting[state] = rounds
        return state

    def remove(self, state: str) -> bool:
        """Wait for it no longer; False where it is not waited for."""
        with self._lock:
            return self._waiting.pop(state, None) is not None

    def cancel_all(self, why: str) -> None:
        """Cancel every call that is parked."""
        with self._lock:
            waiting, self._waiting = list(self._waiting.values()), {}
        for rounds in waiting:
            rounds.call.cancelled.set(why)

    def close(self, why: str) -> None:
        """Cancel them, and park none from now on."""
        with self._lock:
            self._closed = why
        self.cancel_all(why)


def _invalid(sentence: str, why: str) -> RpcError:
    return RpcError(INVALID_PARAMS, sentence, {"reason": why})
