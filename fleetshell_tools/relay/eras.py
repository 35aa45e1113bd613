"""The protocol revisions: which are served, which one a request belongs to, and what an older one cannot carry.

There are two eras. In the legacy one a client says `initialize`, gets a session and keeps the version agreed on
there; since 2026-07-28 every request names its version itself, in a header and in `params._meta`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any

from fleetshell_tools.relay.jsonrpc import (
    HEADER_MISMATCH,
    UNSUPPORTED_VERSION,
    Message,
    Notification,
    Rejection,
    Request,
)

LEGACY_VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
"""What `initialize` can agree on, the latest first. Versions are dates, so they compare as strings."""

LATEST_LEGACY = LEGACY_VERSIONS[0]
BATCH_VERSION = "2025-03-26"
"""The one revision in which a body may be an array of messages."""

MODERN_VERSION = "2026-07-28"
VERSIONS = (MODERN_VERSION, *LEGACY_VERSIONS)
"""Everything that is served while the modern era is switched on, the latest first."""

REQUESTED_LENGTH = 100
META = "io.modelcontextprotocol/"
VERSION_KEY = META + "protocolVersion"


class Era(enum.Enum):
    """Which set of rules a request is to be answered by."""

    LEGACY = "legacy"
    MODERN = "modern"


def route(header: str | None, message: Message | None) -> Era:
    """Tell the era of one HTTP request from its `MCP-Protocol-Version` header and its message.

    `Mcp-Method` and `Mcp-Name` say nothing about the era: a proxy sends them with legacy requests too.

    Args:
        header: The header's value, "" where it is there but empty, None where it is missing.
        message: The message of a POST, or None for a batch, GET and DELETE.

    Raises:
        Rejection: -32020, where the message's version needs a header that says the same.
    """
    meta = version_in_meta(message)
    if header is None:
        if isinstance(message, Request) and message.method == "initialize":
            return Era.LEGACY
        if meta is not None:
            raise mismatch("the MCP-Protocol-Version header is missing", meta)
        return Era.LEGACY
    if header in LEGACY_VERSIONS:
        if meta == MODERN_VERSION:
            raise mismatch(f"the MCP-Protocol-Version header says {header!r}", meta)
        return Era.LEGACY
    return Era.MODERN


def unsupported(requested: str, supported: Sequence[str]) -> Rejection:
    """The answer to a version that is not served: a client of both eras goes on with `initialize` after it."""
    return Rejection(
        UNSUPPORTED_VERSION,
        f"Protocol version {requested[:40]!r} is not supported here; use one of {', '.join(supported)}.",
        data={"supported": list(supported), "requested": requested[:REQUESTED_LENGTH]},
    )


def negotiate(requested: str) -> str:
    """The version that `initialize` answers with: the client's where it is served, else the latest."""
    return requested if requested in LEGACY_VERSIONS else LATEST_LEGACY


def content_for(version: str, content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A tool's content with the parts as text that came to MCP after `version`: `resource_link` and `audio`."""
    if version >= "2025-06-18":
        return content
    return [_as_text(part) if _is_too_new(part, version) else part for part in content]


def _is_too_new(part: Mapping[str, Any], version: str) -> bool:
    kind = part.get("type")
    return kind == "resource_link" or (kind == "audio" and version < "2025-03-26")


def _as_text(part: Mapping[str, Any]) -> dict[str, Any]:
    if part["type"] == "audio":
        text = f"[audio, {part.get('mimeType', 'of unknown type')}: this client's protocol version cannot carry it]"
    else:
        name = part.get("title") or part.get("name") or "resource"
        description = part.get("description")
        text = f"{name}: {part.get('uri', '')}" + (f" ({description})" if description else "")
    return {"type": "text", "text": text}


def version_in_meta(message: Message | None) -> object:
    """What a message names as its protocol version, of any type; None where it names none."""
    if not isinstance(message, (Request, Notification)):
        return None
    meta = message.params.get("_meta")
    return meta.get(VERSION_KEY) if isinstance(meta, dict) else None


def mismatch(header: str, meta: object) -> Rejection:
    """The answer to a message whose version is not that of its header."""
    return Rejection(
        HEADER_MISMATCH,
        f"`_meta` names protocol version {str(meta)[:40]!r}, but {header}; send the same version in both.",
    )
