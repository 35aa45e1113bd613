"""Text from servers made safe and short: escapes stripped, encodings tolerated, long output cut in the middle.

What a server prints is data that a model and an operator read; terminal escapes, bidirectional marks and invisible
characters could make it look like something else (security.md: a hostile managed server).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from fleetshell_tools.core.types import Captured

_ESCAPES = re.compile(
    r"\x1b\][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)?"  # OSC: window titles, clipboard, links
    r"|\x1b[PX^_][^\x1b]{0,4096}(?:\x1b\\)?"  # DCS, SOS, PM, APC
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"  # CSI: colours, cursor
    r"|\x1b[ -/]*[0-~]?"  # two-character escapes
)
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
    "\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def clean(text: str) -> str:
    """Strip terminal escapes, control, bidirectional and zero-width characters; `\\r\\n` becomes `\\n`."""
    if text.isascii() and text.isprintable():
        return text
    text = text.replace("\r\n", "\n")
    if "\x1b" in text or "\x9b" in text:
        text = _ESCAPES.sub("", text)
    return _INVISIBLE.sub("", text).replace("\r", "\n")


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
    half = max(budget // 2, 1)
    if captured.complete:
        whole = captured.head + captured.tail
        head, tail = whole[:half], whole[-half:]
    else:
        head, tail = captured.head[:half], captured.tail[-half:]
    head, tail = _whole_characters(head, tail)
    cut = captured.total - len(head) - len(tail)
    return f"{decode(head)}\n[… {cut:,} of {captured.total:,} bytes left out here …]\n{decode(tail)}", True


def _whole_characters(head: bytes, tail: bytes) -> tuple[bytes, bytes]:
    """Move the cut so that no UTF-8 sequence is torn by us."""
    for back in range(1, min(4, len(head)) + 1):
        if head[-back] & 0xC0 != 0x80:
            if head[-back] >= 0xC0:
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
    for name in ids:
        match = re.fullmatch(r"(.*?)(\d+)(\D*)", name)
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
