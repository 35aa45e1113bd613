"""One prompt as its file holds it: what may stand there, and what makes the file a damaged one."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fleetshell_tools.core import placeholders
from fleetshell_tools.core.errors import BadArgument, ConfigError
from fleetshell_tools.core.text import one_line

NAME = r"[A-Za-z0-9_-]{1,64}"
NAME_MEANS = "letters, digits, `-` and `_`, at most 64"
LONGEST_CONTENT = 65_536
"""Bytes of a prompt's text, as UTF-8."""
LONGEST_DESCRIPTION = 500
"""Characters."""
LARGEST_FILE = 1_048_576

_TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z"
_OWN_KEYS = frozenset({"name", "description", "content", "created_at", "updated_at", "revision", "author"})


@dataclass(frozen=True)
class Prompt:
    """A saved prompt. Times are UTC; `author` is `model`, `operator`, or empty where a file was written by hand.

    `extra` holds the file's other keys, which are kept: `title`, `tags`, and `arguments` with a description of each.
    """

    name: str
    description: str
    content: str
    created_at: str
    updated_at: str
    revision: int = 1
    author: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def arguments(self) -> list[str]:
        """The names of its placeholders."""
        return placeholders.arguments(self.content)

    @property
    def title(self) -> str:
        title = self.extra.get("title")
        return title if isinstance(title, str) else ""

    def argument_description(self, name: str) -> str:
        """What the file says of an argument, or nothing."""
        described = self.extra.get("arguments")
        for item in described if isinstance(described, list) else []:
            if isinstance(item, dict) and item.get("name") == name and isinstance(item.get("description"), str):
                return str(item["description"])
        return ""

    def same_text(self, other: Prompt) -> bool:
        return (self.description, self.content) == (other.description, other.content)

    def to_json(self) -> str:
        """The text of its file."""
        own = {
            key: getattr(self, key)
            for key in ("name", "description", "content", "created_at", "updated_at", "revision")
        }
        author = {"author": self.author} if self.author else {}
        return json.dumps({**own, **author, **self.extra}, indent=2, ensure_ascii=False) + "\n"


def check_name(name: str) -> str:
    """Refuse what can't be a prompt's name.

    Raises:
        BadArgument: With what is allowed.
    """
    if not re.fullmatch(NAME, name):
        shown = name if len(name) <= 80 else name[:79] + "…"
        raise BadArgument(f"{json.dumps(shown)} can't be a prompt's name; allowed: {NAME_MEANS}.")
    return name


def check_description(text: str) -> str:
    """Refuse what can't be a prompt's description.

    Raises:
        BadArgument: With what is allowed.
    """
    _check_text("description", text)
    if len(text) > LONGEST_DESCRIPTION or text.splitlines() != [text]:
        raise BadArgument(
            f"The description must be one line of at most {LONGEST_DESCRIPTION} characters; the rest belongs into the content."
        )
    return text


def check_content(text: str) -> str:
    """Refuse what can't be a prompt's content.

    Raises:
        BadArgument: With what is allowed.
    """
    size = _check_text("content", text)
    if size > LONGEST_CONTENT:
        raise BadArgument(
            f"The content has {size:,} bytes; allowed: at most {LONGEST_CONTENT:,}. Split it into several prompts."
        )
    return text


def _check_text(what: str, text: str) -> int:
    """The size in bytes of a text that can be saved."""
    if not text.strip():
        raise BadArgument(f"The {what} of a prompt can't be empty.")
    if "\0" in text:
        raise BadArgument(f"The {what} holds a NUL character (at {text.index(chr(0))}); remove it.")
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise BadArgument(f"The {what} holds half of a character (at {error.start}); it is no valid text.") from None


def parse(raw: bytes, name: str, path: Path, changed: float = 0) -> Prompt:
    """Check the bytes of a prompt's file; times that it leaves out are when the file was `changed` (seconds since the epoch).

    Raises:
        ConfigError: What is wrong, with the file and, where it is no JSON, the line.
    """
    try:
        data = json.loads(raw.decode())
        json.dumps(data, indent=2, ensure_ascii=False).encode()  # what can't be written again can't be kept
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}, line {error.lineno}: this is no JSON ({error.msg}).") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{path} is no JSON in UTF-8.") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold a JSON object.")
    when = utc(changed)
    defaults = {"name": name, "description": "", "content": None, "created_at": when, "updated_at": when, "author": ""}
    found: dict[str, str] = {}
    for key, default in defaults.items():
        value = data.get(key, default)
        if not isinstance(value, str) or "\0" in value:
            raise ConfigError(
                f"{path}: `{key}` {'is missing' if value is None else 'must be text without NUL characters'}."
            )
        found[key] = value
    if found["name"] != name:
        raise ConfigError(
            f"{path}: the name is `{one_line(found['name'], 80)}`, but the file is named {name}.json; make both the same."
        )
    for key in ("created_at", "updated_at"):
        if not re.fullmatch(_TIME, found[key]):
            raise ConfigError(
                f"{path}: `{key}` is `{one_line(found[key], 80)}`; allowed: a UTC time such as 2024-01-15T10:30:00Z."
            )
    if len(found["content"].encode()) > LONGEST_CONTENT or len(found["description"]) > LONGEST_DESCRIPTION:
        raise ConfigError(
            f"{path}: at most {LONGEST_CONTENT:,} bytes of content and {LONGEST_DESCRIPTION} characters of description are allowed."
        )
    revision = data.get("revision", 1)
    if not isinstance(revision, int) or isinstance(revision, bool) or not 1 <= revision < 10**9:
        raise ConfigError(f"{path}: `revision` must be a whole number from 1.")
    return Prompt(**found, revision=revision, extra={key: value for key, value in data.items() if key not in _OWN_KEYS})


def utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
