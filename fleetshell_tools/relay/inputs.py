"""What a modern server may ask of its client in the middle of a call, and what the client must have declared for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

METHODS = ("tools/call", "prompts/get", "resources/read")
"""The requests that may be answered by `input_required`."""


def missing_capabilities(requests: Mapping[str, Any], capabilities: Mapping[str, Any]) -> dict[str, Any]:
    """What the client would have to declare besides, in the shape of `ClientCapabilities`; empty where nothing is missing.

    Args:
        requests: Key to `{"method", "params"}`, as `InputRequired` has them.

    Raises:
        ValueError: One that no client can be asked.
    """
    missing: dict[str, Any] = {}
    for request in requests.values():
        name, feature = _needs(request)
        declared = capabilities.get(name)
        if not isinstance(declared, dict):
            missing.setdefault(name, {})
        if feature and not (isinstance(declared, dict) and feature in declared):
            missing.setdefault(name, {})[feature] = {}
        # `elicitation: {}` is older than the two modes and means forms; with `url` alone there are none.
        if name == "elicitation" and not feature and isinstance(declared, dict) and declared and "form" not in declared:
            missing.setdefault(name, {})["form"] = {}
    return missing


def _needs(request: Any) -> tuple[str, str]:
    """The capability that a request needs, and the feature of it, or ""."""
    method = request.get("method") if isinstance(request, dict) else None
    params = request.get("params", {}) if isinstance(request, dict) else {}
    if method == "elicitation/create":
        return "elicitation", "url" if params.get("mode") == "url" else ""
    if method == "sampling/createMessage":
        return "sampling", "tools" if params.get("tools") or params.get("toolChoice") else ""
    if method == "roots/list":
        return "roots", ""
    raise ValueError(f"no client can be asked for {str(method)[:80]!r}")
