"""Brace expansion (`{a,b}`, `{1..5}`) of a word, before anything else is expanded, as in bash."""

from __future__ import annotations

import itertools
import re

from fleetshell_tools.fleet.guard.budget import Budget
from fleetshell_tools.fleet.guard.lexer import Literal, Part

_RANGE = re.compile(r"(-?\d{1,9}|[A-Za-z])\.\.(-?\d{1,9}|[A-Za-z])(?:\.\.(-?\d{1,9}))?")
_MOST_NUMBERS = 64

Item = str | Part
"""One unquoted character, or a part that braces do not look into."""


def expand_braces(parts: tuple[Part, ...], budget: Budget) -> list[tuple[Part, ...]]:
    """All words that the braces of one word make, in order; the word alone where it has none.

    Raises:
        BudgetExceeded: They are too many.
    """
    if not any(isinstance(part, Literal) and not part.quoted and "{" in part.text for part in parts):
        return [parts]
    items: list[Item] = []
    for part in parts:
        items.extend(part.text if isinstance(part, Literal) and not part.quoted else [part])
    budget.spend(len(items))
    pairs = _pairs(items)
    return [_joined(word) for word in _expand(items, 0, len(items), pairs, budget)]


def _pairs(items: list[Item]) -> dict[int, list[int]]:
    """For each opening brace that expands: its own position, those of its commas, and that of the closing brace."""
    open_braces: list[list[int]] = []
    found: dict[int, list[int]] = {}
    for position, item in enumerate(items):
        if item == "{":
            open_braces.append([position])
        elif item == "," and open_braces:
            open_braces[-1].append(position)
        elif item == "}" and open_braces:
            marks = [*open_braces.pop(), position]
            if len(marks) > 2 or (position - marks[0] < 40 and _RANGE.fullmatch(_text(items[marks[0] + 1 : position]))):
                found[marks[0]] = marks
    return found


def _expand(items: list[Item], start: int, end: int, pairs: dict[int, list[int]], budget: Budget) -> list[list[Item]]:
    words: list[list[Item]] = [[]]
    position = start
    with budget:
        while position < end:
            marks = pairs.get(position)
            if marks is None:
                budget.spend(1 + len(words) // 4)
                for word in words:
                    word.append(items[position])
                position += 1
                continue
            choices: list[list[Item]] = []
            if len(marks) > 2:
                for before, after in itertools.pairwise(marks):
                    choices += _expand(items, before + 1, after, pairs, budget)
            else:
                choices = [list(text) for text in _range(_text(items[marks[0] + 1 : marks[1]]))]
            budget.spend(len(words) * sum(1 + len(choice) // 4 for choice in choices))
            words = [word + choice for word in words for choice in choices]
            position = marks[-1] + 1
    return words


def _range(text: str) -> list[str]:
    """The members of a range; of a long range of numbers only the first and the last, as no number is dangerous."""
    match = _RANGE.fullmatch(text)
    if match is None or match[1].lstrip("-").isdigit() != match[2].lstrip("-").isdigit():
        return [text]
    if not match[1].lstrip("-").isdigit():
        low, high = ord(match[1]), ord(match[2])
        return [chr(code) for code in (range(low, high + 1) if low <= high else range(low, high - 1, -1))]
    low, high, step = int(match[1]), int(match[2]), abs(int(match[3] or 1)) or 1
    numbers = range(low, high + 1, step) if low <= high else range(low, high - 1, -step)
    width = max(len(match[1]), len(match[2])) if match[1].startswith("0") or match[2].startswith("0") else 0
    chosen = numbers if len(numbers) <= _MOST_NUMBERS else [*numbers[: _MOST_NUMBERS - 1], numbers[-1]]
    return [f"{number:0{width}d}" for number in chosen]


def _text(items: list[Item]) -> str:
    return "".join(item if isinstance(item, str) else "\0" for item in items)


def _joined(items: list[Item]) -> tuple[Part, ...]:
    parts: list[Part] = []
    text = ""
    for item in items:
        if isinstance(item, str):
            text += item
            continue
        if text:
            parts.append(Literal(text, quoted=False))
            text = ""
        parts.append(item)
    if text or not parts:
        parts.append(Literal(text, quoted=False))
    return tuple(parts)
