"""The prompts and resources that the conformance suites look for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fleetshell_tools.relay.exchange import Outcome, Result
from fleetshell_tools.relay.jsonrpc import INVALID_PARAMS, RpcError

from . import rounds
from .work import IMAGE, PNG, Work, embedded, text


@dataclass(frozen=True)
class Prompt:
    """A prompt of the registry; every one of its arguments is required."""

    name: str
    description: str
    run: Callable[[Work], Outcome]
    arguments: tuple[str, ...] = ()

    def definition(self) -> dict[str, Any]:
        described = [{"name": name, "description": f"The {name}", "required": True} for name in self.arguments]
        return {
            "name": self.name,
            "title": self.description,
            "description": self.description,
            **({"arguments": described} if described else {}),
        }


def _messages(*blocks: dict[str, Any]) -> Outcome:
    return Result({"messages": [{"role": "user", "content": block} for block in blocks]})


def _with_arguments(work: Work) -> Outcome:
    given = work.call.params.get("arguments") or {}
    if not {"arg1", "arg2"} <= given.keys():
        return RpcError(INVALID_PARAMS, "This prompt needs arg1 and arg2.")
    return _messages(text(f"Prompt with arguments: arg1='{given['arg1']}', arg2='{given['arg2']}'"))


def _with_resource(work: Work) -> Outcome:
    uri = str((work.call.params.get("arguments") or {}).get("resourceUri", ""))
    resource = embedded(uri, "text/plain", "Embedded resource content for testing.")
    return _messages(resource, text("Please process the embedded resource above."))


PROMPTS = [
    Prompt("test_simple_prompt", "One text", lambda work: _messages(text("This is a simple prompt for testing."))),
    Prompt("test_prompt_with_arguments", "A text with arguments", _with_arguments, ("arg1", "arg2")),
    Prompt("test_prompt_with_embedded_resource", "A resource", _with_resource, ("resourceUri",)),
    Prompt(
        "test_prompt_with_image", "An image", lambda work: _messages(IMAGE, text("Please analyze the image above."))
    ),
    Prompt("test_input_required_result_prompt", "Needs the user's input", rounds.prompt),
]

_CONTENTS: dict[str, dict[str, str]] = {
    "test://static-text": {"mimeType": "text/plain", "text": "This is the content of the static text resource."},
    "test://static-binary": {"mimeType": "image/png", "blob": PNG},
    "test://watched-resource": {"mimeType": "text/plain", "text": "This resource may be watched."},
}
RESOURCES = [
    {
        "uri": uri,
        "name": uri.partition("://")[2],
        "description": "A fixture that never changes",
        "mimeType": content["mimeType"],
    }
    for uri, content in _CONTENTS.items()
]
TEMPLATES = [
    {
        "uriTemplate": "test://template/{id}/data",
        "name": "template",
        "description": "A fixture for each id",
        "mimeType": "application/json",
    }
]
_FROM_TEMPLATE = re.compile(r"test://template/([^/]+)/data")


def read(uri: str) -> dict[str, str] | None:
    """The contents of a resource, or None where there is none of that name."""
    if uri in _CONTENTS:
        return {"uri": uri, **_CONTENTS[uri]}
    found = _FROM_TEMPLATE.fullmatch(uri)
    if not found:
        return None
    data = {"id": found[1], "templateTest": True, "data": f"Data for ID: {found[1]}"}
    return {"uri": uri, "mimeType": "application/json", "text": json.dumps(data)}
