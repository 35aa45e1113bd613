"""What a record may not hold: the secrets in its texts are masked before it is written."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from typing import Any

from fleetshell_tools.core.masking import is_suspect, mask_arguments, mask_whole

COMMAND_HMAC = "command_hmac"
"""The field that stands beside a masked command: equal commands have equal values, and nobody without the key can guess one."""


def redact(fields: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """The fields of a record with what looks like a secret replaced by `***`, and the full command where that was changed."""
    if not is_suspect(_text(fields.values())):
        return dict(fields), None
    shown = {name: _masked(value) for name, value in fields.items()}
    command = fields.get("command")
    return shown, command if isinstance(command, str) and shown["command"] != command else None


def command_hmac(key: bytes, command: str) -> str:
    """HMAC-SHA256 of a full command, in hex; the prefix keeps it apart from the hashes of records under the same key."""
    return hmac.digest(key, b"command\0" + command.encode("utf-8", "surrogatepass"), "sha256").hex()


def _text(values: Iterable[Any]) -> str:
    """Everything in the values that is text, for one quick look."""
    return " ".join(value if isinstance(value, str) else _text(value) if isinstance(value, list | tuple)
                    else _text(value.values()) if isinstance(value, dict) else "" for value in values)  # fmt: skip


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return mask_whole(value)
    if isinstance(value, list | tuple):
        if value and all(isinstance(item, str) for item in value):
            return mask_arguments(value, whole=True) if is_suspect(" ".join(value)) else list(value)
        return [_masked(item) for item in value]
    if isinstance(value, dict):
        return {name: _masked(item) for name, item in value.items()}
    return value
