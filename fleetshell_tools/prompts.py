"""The prompt database: `save_prompt`, `read_prompt`, `list_prompts`, `edit_prompt` and `delete_prompt`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

from fleetshell_tools.core.context import Context
from fleetshell_tools.core.errors import BadArgument
from fleetshell_tools.core.prompt_file import NAME, NAME_MEANS, Prompt
from fleetshell_tools.core.prompts import Editor, rendered
from fleetshell_tools.core.text import one_line
from fleetshell_tools.core.tool import Output, Pattern, Range, tool

NAMED = Pattern(NAME, NAME_MEANS)
BY_A_MODEL = "A model wrote this prompt, not the operator."


@dataclass(frozen=True)
class PromptShown(Output):
    name: str
    description: str
    content: str
    arguments: list[str]
    created_at: str
    updated_at: str
    revision: int
    author: str | None
    notice: str | None

    def text(self) -> str:
        head = [f"Prompt '{self.name}': {one_line(self.description, 500)}"]
        if self.arguments:
            head.append(f"arguments: {', '.join(self.arguments)}")
        if self.notice:
            head.append(self.notice)
        return "\n".join([*head, "", self.content])


@dataclass(frozen=True)
class PromptSaved(Output):
    name: str
    description: str
    content: str
    arguments: list[str]
    created_at: str
    updated_at: str
    revision: int
    author: str | None
    created: bool

    def text(self) -> str:
        return f"Prompt '{self.name}' saved successfully\n{_state(self.revision, self.arguments)}"


@dataclass(frozen=True)
class PromptEdited(Output):
    name: str
    description: str
    content: str
    arguments: list[str]
    created_at: str
    updated_at: str
    revision: int
    author: str | None

    def text(self) -> str:
        return f"Prompt '{self.name}' updated successfully\n{_state(self.revision, self.arguments)}"


@dataclass(frozen=True)
class PromptList(Output):
    prompts: list[dict[str, Any]]
    count: int
    disabled: list[dict[str, str]]
    notice: str | None = None

    def text(self) -> str:
        colon = ":" if self.prompts else ""
        lines = [f"Found {self.count} prompt{'s' if self.count != 1 else ''}{colon}"]
        for prompt in self.prompts:
            lines.append(f"- {prompt['name']}: {prompt['description']}")
            if prompt["arguments"]:
                lines.append(f"  arguments: {', '.join(prompt['arguments'])}")
        lines += [f"- {item['name']} is disabled: {item['reason']}" for item in self.disabled]
        return "\n".join([*lines, *([self.notice] if self.notice else [])])


@dataclass(frozen=True)
class PromptDeleted(Output):
    name: str
    deleted: bool

    def text(self) -> str:
        return f"Prompt '{self.name}' deleted successfully"


def _state(revision: int, arguments: list[str]) -> str:
    return f"revision {revision}; arguments: {', '.join(arguments) or 'none'}"


def _fields(prompt: Prompt) -> dict[str, Any]:
    return {
        "name": prompt.name, "description": prompt.description, "content": prompt.content, "arguments": prompt.arguments,
        "created_at": prompt.created_at, "updated_at": prompt.updated_at, "revision": prompt.revision, "author": prompt.author or None,
    }  # fmt: skip


def _editor(ctx: Context) -> Editor:
    return Editor("model", ctx.record)


@tool(title="Save a prompt", idempotent=True, open_world=False)
def save_prompt(
    ctx: Context,
    name: Annotated[str, "The prompt's name, such as db-health", NAMED],
    description: Annotated[str, "One line: what it is for"],
    content: Annotated[str, "The text; `{name}` stands for an argument, `{{name}}` for a literal {name}"],
) -> PromptSaved:
    """Save a prompt for later, or give an existing one a new text. The text before is kept as a revision."""
    prompt, created = ctx.prompts.save(name, description, content, by=_editor(ctx))
    return PromptSaved(**_fields(prompt), created=created)


@tool(title="Read a prompt", read_only=True, open_world=False)
def read_prompt(
    ctx: Context,
    name: Annotated[str, "The prompt's name, from list_prompts", NAMED],
    arguments: Annotated[
        dict[str, str] | None, "Values for its placeholders; without them the text comes as saved"
    ] = None,
) -> PromptShown:
    """Read a saved prompt, with its placeholders filled where arguments are given."""
    prompt = ctx.prompts.get(name)
    fields = _fields(prompt)
    if arguments:
        fields["content"] = rendered(prompt, arguments, ctx.inventory)
    return PromptShown(**fields, notice=BY_A_MODEL if prompt.author == "model" else None)


@tool(title="List prompts", read_only=True, open_world=False)
def list_prompts(ctx: Context) -> PromptList:
    """List the saved prompts with their descriptions and arguments."""
    prompts, problems = ctx.prompts.all()
    shown: list[dict[str, Any]] = []
    left = ctx.config.security.max_output_bytes
    for prompt in prompts:
        entry = {
            "name": prompt.name, "description": one_line(prompt.description), "created_at": prompt.created_at,
            "updated_at": prompt.updated_at, "arguments": prompt.arguments,
        }  # fmt: skip
        left -= len(json.dumps(entry).encode())
        if left < 0:
            break
        shown.append(entry)
    notice = None
    if len(shown) < len(prompts):
        notice = f"Only the first {len(shown)} are shown; read_prompt reads every one by its name, `fleetshell prompt list` shows all."
    elif not prompts and not problems:
        notice = "No prompt is saved yet; save_prompt saves one."
    disabled = [{"name": one_line(key, 80), "reason": one_line(why, 500)} for key, why in problems.items()]
    return PromptList(shown, len(prompts), disabled, notice)


@tool(title="Edit a prompt", idempotent=True, open_world=False)
def edit_prompt(
    ctx: Context,
    name: Annotated[str, "The prompt's name, from list_prompts", NAMED],
    description: Annotated[str | None, "The new description; left out, it stays"] = None,
    content: Annotated[str | None, "The whole new text; left out, it stays"] = None,
    expected_revision: Annotated[int | None, "Refuse if it has another revision by now", Range(1, 10**9)] = None,
) -> PromptEdited:
    """Change a prompt's description or text. The text before is kept as a revision."""
    if description is None and content is None:
        raise BadArgument("There is nothing to change: give a new `description`, a new `content`, or both.")
    prompt = ctx.prompts.edit(name, description, content, by=_editor(ctx), expected_revision=expected_revision)
    return PromptEdited(**_fields(prompt))


@tool(title="Delete a prompt", destructive=True, open_world=False)
def delete_prompt(ctx: Context, name: Annotated[str, "The prompt's name, from list_prompts", NAMED]) -> PromptDeleted:
    """Delete a prompt. The operator can bring it back with `fleetshell prompt rollback`."""
    ctx.prompts.delete(name, by=_editor(ctx))
    return PromptDeleted(name, True)
