"""The tools and the prompt that end with `input_required`: the client answers and calls again (revision 2026-07-28)."""

from __future__ import annotations

from typing import Any

from fleetshell_tools.relay.exchange import Outcome, Result

from .work import ROOTS, Tool, Work, elicit, said, sample, text

ASK_NAME = {"user_name": elicit("What is your name?", {"name": {"type": "string"}})}
CONFIRM = {"confirm": elicit("Please confirm", {"ok": {"type": "boolean"}})}
CAPITAL = {"capital_question": sample("What is the capital of France?")}
ASK_CONTEXT = {"user_context": elicit("What context should the prompt use?", {"context": {"type": "string"}})}


def _field(answer: object, name: str) -> str:
    """A text that the user typed into a form; "" where the answer holds none."""
    content = answer.get("content") if isinstance(answer, dict) else None
    value = content.get(name) if isinstance(content, dict) else None
    return value if isinstance(value, str) else ""


def _model_said(answer: object) -> str:
    """What the client's model answered; "" where it is no such answer."""
    return _field(answer, "text")


def _roots(answer: object) -> list[Any] | None:
    found = answer.get("roots") if isinstance(answer, dict) else None
    return found if isinstance(found, list) else None


def _elicitation(work: Work) -> Outcome:
    name = _field(work.inputs.get("user_name"), "name")
    return said(f"Hello, {name}!") if name else work.need(ASK_NAME)


def _sampling(work: Work) -> Outcome:
    answer = _model_said(work.inputs.get("capital_question"))
    return said(f"The model says: {answer}") if answer else work.need(CAPITAL)


def _list_roots(work: Work) -> Outcome:
    found = _roots(work.inputs.get("client_roots"))
    if found is None:
        return work.need({"client_roots": ROOTS})
    return said("Roots: " + ", ".join(str(root.get("uri")) for root in found if isinstance(root, dict)))


def _request_state(work: Work) -> Outcome:
    if work.state() and "confirm" in work.inputs:
        return said("state-ok")
    return work.need(CONFIRM, {"asked": "confirm"})


def _several(work: Work) -> Outcome:
    inputs = work.inputs
    name, greeting = _field(inputs.get("user_name"), "name"), _model_said(inputs.get("greeting"))
    found = _roots(inputs.get("client_roots"))
    if work.state() and name and greeting and found is not None:
        return said(f"{greeting}, {name}, with {len(found)} roots")
    requests = {**ASK_NAME, "greeting": sample("Generate a greeting", 50), "client_roots": ROOTS}
    return work.need(requests, {"asked": "all"})


def _multi_round(work: Work) -> Outcome:
    state, inputs = work.state(), work.inputs
    if state.get("step") == 2 and "step2" in inputs:
        return said(f"{state['name']} likes {_field(inputs['step2'], 'color')}.")
    if state.get("step") == 1 and "step1" in inputs:
        color = elicit("Step 2: What is your favorite color?", {"color": {"type": "string"}})
        return work.need({"step2": color}, {"step": 2, "name": _field(inputs["step1"], "name")})
    return work.need({"step1": elicit("Step 1: What is your name?", {"name": {"type": "string"}})}, {"step": 1})


def _capabilities(work: Work) -> Outcome:
    """Asks only for what the client has declared that it can do."""
    if work.inputs:
        return said("The client answered what it can.")
    can = work.call.peer.capabilities
    requests: dict[str, Any] = {}
    if "elicitation" in can:
        requests["elicit_input"] = elicit("Please type something", {"value": {"type": "string"}})
    if "sampling" in can:
        requests["sample_input"] = sample("Say something", 50)
    return work.need(requests, {"asked": sorted(requests)}) if requests else said("The client can't be asked.")


def prompt(work: Work) -> Outcome:
    """The prompt `test_input_required_result_prompt`."""
    context = _field(work.inputs.get("user_context"), "context")
    if not context:
        return work.need(ASK_CONTEXT)
    return Result({"messages": [{"role": "user", "content": text(f"Context: {context}")}]})


TOOLS = [
    Tool(f"test_input_required_result_{name}", description, run)
    for name, description, run in (
        ("elicitation", "Needs the user's name", _elicitation),
        ("sampling", "Needs an answer of the client's model", _sampling),
        ("list_roots", "Needs the client's roots", _list_roots),
        ("request_state", "Needs its state back", _request_state),
        ("multiple_inputs", "Needs three things at once", _several),
        ("multi_round", "Needs one thing after the other", _multi_round),
        ("tampered_state", "Needs its state back untouched", _request_state),
        ("capabilities", "Needs what the client can give", _capabilities),
    )
]
