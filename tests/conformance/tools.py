"""The tools that the conformance suites look for, in both protocol eras."""

from __future__ import annotations

import json
from typing import Any

from fleetshell_tools.relay.conversation import CallConversation
from fleetshell_tools.relay.exchange import Outcome, ToolResult
from fleetshell_tools.relay.jsonrpc import MISSING_CAPABILITY, RpcError

from .work import AUDIO, IMAGE, Tool, Work, elicit, embedded, said, sample, text


def _content(*blocks: dict[str, Any]) -> ToolResult:
    return ToolResult(list(blocks))


def _error(work: Work) -> Outcome:
    return ToolResult([text("This tool intentionally returns an error for testing")], is_error=True)


def _logging(work: Work) -> Outcome:
    work.log("Tool execution started")
    work.pause()
    work.log("Tool processing data")
    work.pause()
    work.log("Tool execution completed")
    return said("All three messages were logged.")


def _progress(work: Work) -> Outcome:
    work.progress(0, 100)
    work.pause()
    work.progress(50, 100)
    work.pause()
    work.progress(100, 100)
    return said("The work is done.")


def _reconnection(work: Work) -> Outcome:
    """Sends the client away in the middle; it gets the answer by `Last-Event-ID`, where its version has that."""
    if isinstance(work.conversation, CallConversation):
        work.conversation.disconnect()
    work.pause()
    return said("Reconnection test completed successfully.")


def _sampling(work: Work) -> Outcome:
    answer = work.ask(sample(str(work.arguments["prompt"])))
    return said(f"LLM response: {(answer.get('content') or {}).get('text', '')}")


def _elicitation(work: Work) -> Outcome:
    fields = {
        "username": {"type": "string", "description": "User's response"},
        "email": {"type": "string", "description": "User's email address"},
    }
    answer = work.ask(elicit(str(work.arguments["message"]), fields))
    return said(f"User response: {_chosen(answer)}")


def _defaults(work: Work) -> Outcome:
    states = ["active", "inactive", "pending"]
    fields = {
        "name": {"type": "string", "description": "Who", "default": "John Doe"},
        "age": {"type": "integer", "description": "How old", "default": 30},
        "score": {"type": "number", "description": "How good", "default": 95.5},
        "status": {"type": "string", "description": "How it stands", "enum": states, "default": "active"},
        "verified": {"type": "boolean", "description": "Whether it was checked", "default": True},
    }
    return said(f"Elicitation completed: {_chosen(work.ask(elicit('Please fill in', fields, [])))}")


def _enums(work: Work) -> Outcome:
    options = ["option1", "option2", "option3"]
    titles = ["First", "Second", "Third"]

    def titled(noun: str) -> list[dict[str, str]]:
        return [{"const": f"value{number}", "title": f"{word} {noun}"} for number, word in enumerate(titles, 1)]

    fields: dict[str, dict[str, Any]] = {
        "untitledSingle": {"type": "string", "enum": options},
        "titledSingle": {"type": "string", "oneOf": titled("Option")},
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": options}},
        "titledMulti": {"type": "array", "items": {"anyOf": titled("Choice")}},
    }
    return said(f"Elicitation completed: {_chosen(work.ask(elicit('Please choose', fields, [])))}")


def _chosen(answer: dict[str, Any]) -> str:
    return f"action={answer.get('action')}, content={json.dumps(answer.get('content') or {})}"


def _missing_capability(work: Work) -> Outcome:
    if "sampling" not in work.call.peer.capabilities:
        return RpcError(MISSING_CAPABILITY, "This tool needs sampling.", {"requiredCapabilities": {"sampling": {}}})
    return said("The client can sample.")


def _streaming(work: Work) -> Outcome:
    token = work.call.progress_token
    progress = {"progressToken": "none" if token is None else token, "progress": 50, "total": 100}
    work.conversation.notify("notifications/progress", progress)
    return said("Streaming complete")


def _logs_if_asked(work: Work) -> Outcome:
    work.log("A client that did not set a log level must not see this.")
    return said("Logging evaluated")


def _tools_changed(work: Work) -> Outcome:
    work.changed("tools")
    return said("The list of tools is announced as changed.")


def _prompts_changed(work: Work) -> Outcome:
    work.changed("prompts")
    return said("The list of prompts is announced as changed.")


def _arguments(name: str) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": "string", "description": "The words"}}, "required": [name]}


SCHEMA_2020_12: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}

WITH_HEADERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "region": {"type": "string", "description": "Where", "x-mcp-header": "Region"},
        "query": {"type": "string", "description": "What"},
    },
    "required": ["region"],
}

MIXED = embedded("test://mixed-content-resource", "application/json", json.dumps({"test": "data", "value": 123}))
RESOURCE = embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")

TOOLS = [
    Tool("test_simple_text", "Answers text", lambda work: said("This is a simple text response for testing.")),
    Tool("test_image_content", "Answers an image", lambda work: _content(IMAGE)),
    Tool("test_audio_content", "Answers sound", lambda work: _content(AUDIO)),
    Tool("test_embedded_resource", "Answers a resource", lambda work: _content(RESOURCE)),
    Tool(
        "test_multiple_content_types",
        "Answers text, an image and a resource",
        lambda work: _content(text("Multiple content types test:"), IMAGE, MIXED),
    ),
    Tool("test_tool_with_logging", "Logs three times", _logging),
    Tool("test_tool_with_progress", "Reports progress three times", _progress),
    Tool("test_error_handling", "Fails", _error),
    Tool("test_reconnection", "Sends its client away and answers later", _reconnection),
    Tool("test_sampling", "Asks the client's model", _sampling, _arguments("prompt")),
    Tool("test_elicitation", "Asks the user", _elicitation, _arguments("message")),
    Tool("test_elicitation_sep1034_defaults", "Asks the user, with defaults of each type", _defaults),
    Tool("test_elicitation_sep1330_enums", "Asks the user to choose, in each way to say so", _enums),
    Tool(
        "json_schema_2020_12_tool",
        "Tool with JSON Schema 2020-12 features",
        lambda work: said(f"Called with {json.dumps(work.arguments)}"),
        SCHEMA_2020_12,
    ),
    Tool("test_missing_capability", "Needs a client that can sample", _missing_capability),
    Tool("test_streaming_elicitation", "Answers on an event stream", _streaming),
    Tool("test_logging_tool", "Logs for clients that want it", _logs_if_asked),
    Tool("test_trigger_tool_change", "Announces changed tools", _tools_changed),
    Tool("test_trigger_prompt_change", "Announces changed prompts", _prompts_changed),
    Tool("test_custom_header", "Has an argument that a header repeats", lambda work: said("ok"), WITH_HEADERS),
]
