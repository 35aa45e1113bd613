"""Marks inside evaluated text for what is not known and for active wildcards.

An evaluated word is an ordinary string in which a few characters that no command can hold stand for something else.
So every string function works on it, and a quoted `*` stays different from an unquoted one.
"""

from __future__ import annotations

import functools

UNKNOWN = "\0"
"""Text that cannot be known: the output of a program that we do not model, random numbers, downloads."""
UNSET = "\1"
"""A variable that nothing here assigns: empty in a fresh shell, but a session may have set it."""
LOCAL = "\2"
"""The content of a file on the server that this command did not write."""
STAR, QUESTION, BRACKET = "\ue000", "\ue001", "\ue002"

MARKS = UNKNOWN + UNSET + LOCAL
_ACTIVE = str.maketrans("*?[", STAR + QUESTION + BRACKET)
_PLAIN = str.maketrans(STAR + QUESTION + BRACKET, "*?[")
_FOREIGN = str.maketrans(dict.fromkeys(MARKS + STAR + QUESTION + BRACKET, "\ufffd"))
_SHOWN = str.maketrans({UNKNOWN: "…", LOCAL: "…", UNSET: None, STAR: "*", QUESTION: "?", BRACKET: "["})
_WITHOUT_UNSET = str.maketrans({UNSET: None})


def from_outside(text: str) -> str:
    """Text as it was given to us, with any character that we use as a mark replaced."""
    return text.translate(_FOREIGN)


def activate(text: str) -> str:
    """Make the wildcards of an unquoted text active."""
    return text.translate(_ACTIVE)


def plain(text: str) -> str:
    """Make active wildcards ordinary characters again, as in an assignment or in code."""
    return text.translate(_PLAIN)


def shown(text: str) -> str:
    """Evaluated text as a person should read it."""
    return text.translate(_SHOWN)


def empty_unset(text: str) -> str:
    """Text as it is where no session has set the variables in it."""
    return text.translate(_WITHOUT_UNSET)


def is_known(text: str) -> bool:
    return not any(mark in text for mark in MARKS)


def has_wildcard(text: str) -> bool:
    return STAR in text or QUESTION in text or BRACKET in text


def matches(pattern: str, name: str) -> bool:
    """Does a pattern with active wildcards (and unknown parts, which match anything) match the whole of `name`?

    Greedy with one point to return to, so that the work is at most `len(pattern) * len(name)`; a pattern with more
    ordinary characters than `name` has is refused first.
    """
    if not has_wildcard(pattern) and UNKNOWN not in pattern and LOCAL not in pattern:
        return pattern == name
    atoms, ordinary = _atoms(pattern)
    if ordinary > len(name):
        return False
    at = position = 0
    star, star_position = -1, 0
    while position < len(name):
        if at < len(atoms) and atoms[at] == STAR:
            star, star_position = at, position
            at += 1
        elif at < len(atoms) and _matches_one(atoms[at], name[position]):
            at += 1
            position += 1
        elif star >= 0:
            star_position += 1
            at, position = star + 1, star_position
        else:
            return False
    return all(atom == STAR for atom in atoms[at:])


@functools.lru_cache(maxsize=64)
def _atoms(pattern: str) -> tuple[tuple[str, ...], int]:
    """Split a pattern into single characters, one STAR for each run of stars, and whole bracket expressions; count all but stars."""
    atoms: list[str] = []
    position = 0
    last = pattern.rfind("]")
    while position < len(pattern):
        char = pattern[position]
        if char in (STAR, UNKNOWN, LOCAL):
            if not atoms or atoms[-1] != STAR:
                atoms.append(STAR)
        elif char == BRACKET and position + 2 <= last and (end := pattern.find("]", position + 2)) > 0:
            atoms.append(pattern[position : end + 1])
            position = end
        elif char != UNSET:
            atoms.append(char)
        position += 1
    return tuple(atoms), sum(atom != STAR for atom in atoms)


def _matches_one(atom: str, char: str) -> bool:
    if atom == QUESTION:
        return True
    if len(atom) == 1:
        return atom == char
    body = plain(atom[1:-1])
    negated = body[:1] in ("!", "^")
    body = body[1:] if negated else body
    if body.startswith("[:"):
        return True
    inside = any(low <= char <= high for low, high in _ranges(body))
    return inside != negated


def _ranges(body: str) -> list[tuple[str, str]]:
    ranges = []
    position = 0
    while position < len(body):
        if position + 2 < len(body) and body[position + 1] == "-":
            ranges.append((body[position], body[position + 2]))
            position += 3
        else:
            ranges.append((body[position], body[position]))
            position += 1
    return ranges
