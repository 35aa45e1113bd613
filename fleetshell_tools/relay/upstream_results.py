"""Results of external tools made safe and short: clean texts within the budget, known kinds of content, schemas kept."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from fleetshell_tools.core.text import clean, one_line, render, share
from fleetshell_tools.core.types import Captured

MAX_BINARY = 4 << 20
"""Bytes of base64 in one result (images, audio, embedded files) that are passed on."""
MAX_BLOCKS = 200
_SHORTEST = 32
_ANNOTATIONS = ("audience", "priority", "lastModified")


def bounded(result: Mapping[str, Any], budget: int) -> dict[str, Any]:
    """A result of `tools/call` as a client gets it.

    Args:
        result: As the server sent it.
        budget: Bytes for its texts; `structuredContent` may have as many.

    Returns:
        `content`, `isError`, and `structuredContent` where there is one that fits.
    """
    is_error = result.get("isError") is True
    content = _content(result.get("content"), budget)
    bounded_result: dict[str, Any] = {"content": content, "isError": is_error}
    structured = result.get("structuredContent")
    if isinstance(structured, dict):
        shortened = shorten(structured, budget)
        if shortened is None:
            # A client that was told the output's schema wants structuredContent with every success.
            bounded_result["isError"] = True
            text = f"The structured result is larger than {budget:,} bytes and can't be shortened; ask for less."
            content.insert(0, {"type": "text", "text": text})
        else:
            bounded_result["structuredContent"] = shortened
            if not content:
                text = json.dumps(shortened, ensure_ascii=False)
                content.append({"type": "text", "text": text})
    return bounded_result


def bounded_prompt(result: Mapping[str, Any], budget: int) -> dict[str, Any]:
    """A result of `prompts/get` as a client gets it."""
    messages = [message for message in result.get("messages") or () if isinstance(message, dict)][:MAX_BLOCKS]
    blocks = _content([message.get("content") for message in messages], budget)
    shown: dict[str, Any] = {
        "messages": [
            {"role": "assistant" if message.get("role") == "assistant" else "user", "content": block}
            for message, block in zip(messages, blocks, strict=True)
        ]
    }
    if isinstance(result.get("description"), str):
        shown["description"] = one_line(result["description"], 500)
    return shown


def shorten(value: Any, budget: int) -> Any:
    """JSON with its texts and lists shortened until it takes at most `budget` bytes, its structure kept.

    Returns:
        The value, or None where its keys alone take more.
    """
    value = _clean(value)
    longest, items = budget, 1024
    while _size(value) > budget:
        value = _cut(value, longest, items)
        if longest == _SHORTEST and items == 1:
            return value if _size(value) <= budget else None
        longest, items = max(longest // 2, _SHORTEST), max(items // 2, 1)
    return value


def _size(value: Any) -> int:
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return {clean(key): _clean(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_clean(part) for part in value]
    return clean(value) if isinstance(value, str) else value


def _cut(value: Any, longest: int, items: int) -> Any:
    if isinstance(value, dict):
        return {key: _cut(part, longest, items) for key, part in value.items()}
    if isinstance(value, list):
        return [_cut(part, longest, items) for part in value[:items]]
    if isinstance(value, str) and len(value) > longest + 100:
        return _text(value, longest)
    return value


def _text(text: str, budget: int) -> str:
    raw = text.encode("utf-8", "replace")
    return render(Captured(raw, b"", len(raw)), budget)[0]


def _content(blocks: Any, budget: int) -> list[dict[str, Any]]:
    """Content blocks of known kinds, the texts among them sharing the budget."""
    if not isinstance(blocks, list):
        return []
    shown = []
    binary = MAX_BINARY
    for block in blocks[:MAX_BLOCKS]:
        made = _block(block if isinstance(block, dict) else {}, binary)
        data = made.get("data") or made.get("resource", {}).get("blob") or ""
        binary -= len(data)
        shown.append(made)
    holders = [block["resource"] if block["type"] == "resource" else block for block in shown]
    texts = [holder for holder in holders if "text" in holder]
    shares = share(budget, [len(holder["text"].encode("utf-8", "replace")) for holder in texts])
    for holder, part in zip(texts, shares, strict=True):
        holder["text"] = _text(holder["text"], part)
    if len(blocks) > MAX_BLOCKS:
        shown.append({"type": "text", "text": f"[… {len(blocks) - MAX_BLOCKS:,} more parts left out here …]"})
    return shown


def _block(block: dict[str, Any], binary: int) -> dict[str, Any]:
    kind = block.get("type")
    made: dict[str, Any] | None = None
    if kind == "text" and isinstance(block.get("text"), str):
        made = {"type": "text", "text": clean(block["text"])}
    elif kind in ("image", "audio"):
        made = _binary(kind, block, binary)
    elif kind == "resource" and isinstance(block.get("resource"), dict):
        made = _resource(block["resource"], binary)
    elif kind == "resource_link" and isinstance(block.get("uri"), str):
        made = {"type": "resource_link", "name": one_line(str(block.get("name") or block["uri"]))}
        for key in ("uri", "title", "description", "mimeType"):
            if isinstance(block.get(key), str):
                made[key] = one_line(block[key], 2000)
        if isinstance(block.get("size"), int):
            made["size"] = block["size"]
    if made is None:
        return {"type": "text", "text": f"[content of a kind that is not passed on: {one_line(str(kind), 60)}]"}
    annotations = block.get("annotations")
    if isinstance(annotations, dict):
        made["annotations"] = {key: _clean(annotations[key]) for key in _ANNOTATIONS if key in annotations}
    return made


def _binary(kind: str, block: dict[str, Any], left: int) -> dict[str, Any]:
    data, media_type = block.get("data"), block.get("mimeType")
    if not isinstance(data, str) or not isinstance(media_type, str) or not _is_base64(data):
        return {"type": "text", "text": f"[{kind}: not valid, left out]"}
    if len(data) > left:
        return {"type": "text", "text": f"[{kind} of {len(data) * 3 // 4:,} bytes left out: too large]"}
    return {"type": kind, "data": data, "mimeType": one_line(media_type, 100)}


def _resource(resource: dict[str, Any], left: int) -> dict[str, Any] | None:
    made: dict[str, Any] = {"uri": one_line(str(resource.get("uri") or ""), 2000)}
    if isinstance(resource.get("mimeType"), str):
        made["mimeType"] = one_line(resource["mimeType"], 100)
    if isinstance(resource.get("text"), str):
        made["text"] = clean(resource["text"])
    elif isinstance(resource.get("blob"), str) and _is_base64(resource["blob"]):
        if len(resource["blob"]) > left:
            return {"type": "text", "text": f"[{made['uri']} left out: {len(resource['blob']) * 3 // 4:,} bytes]"}
        made["blob"] = resource["blob"]
    else:
        return None
    return {"type": "resource", "resource": made}


def _is_base64(data: str) -> bool:
    try:
        base64.b64decode(data, validate=True)
    except ValueError:
        return False
    return True
