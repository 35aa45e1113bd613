"""Text from servers made safe and short: escapes stripped, encodings tolerated, long output cut in the middle.

What a server prints is data that a model and an operator read; terminal escapes, bidirectional marks and invisible
characters could make it look like something else.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from fleetshell_tools.core.types import Captured

_ESCAPES = re.compile(
    r"(?:\x1b\]|\x9d)[^\x07\x1b\x9c]{0,4096}(?:\x07|\x1b\\|\x9c)?"  # OSC: window titles, clipboard, links
    r"|(?:\x1b[PX^_]|[\x90\x98\x9e\x9f])[^\x1b\x9c]{0,4096}(?:\x1b\\|\x9c)?"  # DCS, SOS, PM, APC
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"  # CSI: colours, cursor
    r"|\x1b[ -/]*[0-~]?"  # two-character escapes
)
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufff9-\ufffb"  # controls, separators, halves of characters
    # Default_Ignorable_Code_Point (Unicode, DerivedCoreProperties.txt): text can be hidden in them
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def clean(text: str) -> str:
    """Strip terminal escapes, control, bidirectional and zero-width characters.

    `\\r\\n` becomes `\\n`, and so does a lone `\\r`: what a terminal would overwrite is shown.
    """
    if text.isascii() and text.isprintable():
        return text
    text = _INVISIBLE.sub("", _ESCAPES.sub("", text))
    return text.replace("\r\n", "\n").replace("\r", "\n")


def clean_all(value: Any) -> Any:
    """A copy of plain data (maps, lists, texts) in which every text is clean, keys included."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean_all(key): clean_all(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean_all(item) for item in value]
    return value


def one_line(text: str, limit: int = 200) -> str:
    """Text that is safe inside one line of a log or a table."""
    flat = " ".join(clean(text).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def decode(raw: bytes) -> str:
    """Bytes of a command's output as clean text; what is not UTF-8 becomes U+FFFD."""
    return clean(raw.decode("utf-8", errors="replace"))


def render(captured: Captured, budget: int) -> tuple[str, bool]:
    """The captured output as text of about `budget` bytes: head and tail, and between them how much is missing.

    Returns:
        The text, and whether something was cut.
    """
    if captured.complete and captured.total <= budget:
        return decode(captured.head + captured.tail), False
    half = budget // 2
    whole = captured.head + captured.tail
    head = (whole if captured.complete else captured.head)[:half]
    tail = whole[max(len(whole) - half, 0 if captured.complete else len(captured.head)) :]
    head, tail = _whole_characters(head, tail)
    cut = captured.total - len(head) - len(tail)
    return f"{decode(head)}\n[… {cut:,} of {captured.total:,} bytes left out here …]\n{decode(tail)}", True


def room(budget: int) -> int:
    """What of a result's budget its output may take: the rest of it, and what is said of a cut, need some too."""
    return max(budget - 1100, budget // 2)


def encoded_size(text: str) -> int:
    """Bytes that a text takes in JSON, where a line's end is two."""
    return len(json.dumps(text, ensure_ascii=False).encode("utf-8", "replace")) - 2


def _whole_characters(head: bytes, tail: bytes) -> tuple[bytes, bytes]:
    """Move the cut so that no UTF-8 sequence is torn by us."""
    for back in range(1, min(4, len(head)) + 1):
        lead = head[-back]
        if lead & 0xC0 != 0x80:
            length = 4 if lead >= 0xF0 else 3 if lead >= 0xE0 else 2 if lead >= 0xC0 else 1
            if back < length:
                head = head[:-back]
            break
    skip = 0
    while skip < min(3, len(tail)) and tail[skip] & 0xC0 == 0x80:
        skip += 1
    return head, tail[skip:]


def share(budget: int, sizes: Sequence[int]) -> list[int]:
    """Divide `budget` among outputs of the given sizes: small ones whole, what they leave goes to the large ones."""
    shares = [0] * len(sizes)
    left, waiting = budget, sorted(range(len(sizes)), key=lambda index: sizes[index])
    while waiting:
        index = waiting.pop(0)
        shares[index] = min(sizes[index], left // (len(waiting) + 1))
        left -= shares[index]
    return shares


def width(text: str) -> int:
    """How many columns a terminal needs for `text`."""
    return sum(0 if unicodedata.combining(ch) else 2 if unicodedata.east_asian_width(ch) in "WF" else 1 for ch in text)


def compress_ids(ids: Sequence[str]) -> str:
    """Server ids as ranges where they only differ by a number: `web-[01-39], db-1`."""
    groups: dict[tuple[str, str, int], list[int]] = {}
    order: list[tuple[str, str, int] | str] = []
    for name in dict.fromkeys(ids):
        match = re.fullmatch(r"(.*?)([0-9]+)([^0-9]*)", name)
        if match is None:
            order.append(name)
            continue
        key = (match[1], match[3], len(match[2]))
        if key not in groups:
            groups[key] = []
            order.append(key)
        groups[key].append(int(match[2]))
    return ", ".join(part if isinstance(part, str) else _ranges(part, sorted(groups[part])) for part in order)


def _ranges(key: tuple[str, str, int], numbers: list[int]) -> str:
    prefix, suffix, digits = key
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    words = [f"{a:0{digits}d}" if a == b else f"{a:0{digits}d}-{b:0{digits}d}" for a, b in spans]
    if len(numbers) == 1:
        return f"{prefix}{words[0]}{suffix}"
    return f"{prefix}[{','.join(words)}]{suffix}"
