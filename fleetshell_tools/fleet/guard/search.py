"""The command line of `find`: where it starts, how it chooses, and what it would find."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fleetshell_tools.fleet.guard.symbols import STAR, UNKNOWN, plain

_GLOBAL = ("-H", "-L", "-P")
_CHOOSING = frozenset(
    "-name -iname -path -ipath -wholename -regex -iregex -mtime -mmin -atime -amin -ctime -cmin -newer -size -user -group "
    "-uid -gid -inum -links -lname -samefile -empty -nouser -nogroup".split()
)
_WITHOUT_VALUE = frozenset(["-empty", "-nouser", "-nogroup"])
_EXECUTING = frozenset(["-exec", "-execdir", "-ok", "-okdir"])
# Deeper than any critical path, so that what a narrow search finds is never taken for one.
_SOMEWHERE = "/".join([UNKNOWN] * 8)


@dataclass(frozen=True)
class Search:
    """A parsed `find`; `narrow` tells that it chooses by name, age, size or owner."""

    roots: tuple[str, ...]
    expression: tuple[str, ...]
    narrow: bool
    commands: tuple[tuple[str, ...], ...]

    @classmethod
    def read(cls, arguments: Sequence[str]) -> Search:
        rest = list(arguments)
        while rest and (rest[0] in _GLOBAL or rest[0].startswith("-O") or rest[0] == "-D"):
            del rest[: 2 if rest[0] == "-D" else 1]
        roots = []
        while rest and not rest[0].startswith("-") and rest[0] not in ("(", ")", "!", ","):
            roots.append(rest.pop(0))
        narrow = _is_narrow(rest) and not (_WHOLE & set(roots) and _by_ending(rest))
        return cls(tuple(roots) or (".",), tuple(rest), narrow, tuple(_commands(rest)))

    def found(self) -> list[str]:
        """The paths that it would hand on: everything in its roots, or something unknown in them."""
        named = _name(self.expression) if self.narrow else ""
        inside = _SOMEWHERE if self.narrow else STAR
        below = [f"/{named}"] if named and "/" in self.roots else []
        return [*(f"{root.rstrip('/')}/{inside}" for root in self.roots), *below]


def _name(expression: tuple[str, ...]) -> str:
    """The one name that it looks for, which may stand right below the root."""
    names = [expression[at + 1] for at, word in enumerate(expression[:-1]) if word in ("-name", "-iname")]
    negated = {"!", "-not"} & set(expression)
    return names[0] if len(names) == 1 and not negated and not set(plain(names[0])) & set("*?[/") else ""


_WHOLE = frozenset("/ /etc /usr /lib /lib64 /bin /sbin /boot /usr/lib /usr/bin /usr/sbin".split())
_LEFT_OVER = re.compile(r"\*(?:\.(?:py[co]|bak|orig|old|tmp|sw.|rpm\w+|dpkg-\w+|ucf-\w+|core|cache|save)|~)")
_ACTIONS = _EXECUTING | {"-delete"}
_OR = frozenset(["-o", "-or", ","])
_DEEPEST = 8
_NUMBERS = frozenset("-mtime -mmin -atime -amin -ctime -cmin -size".split())


def _is_narrow(expression: list[str]) -> bool:
    """Does every alternative that does something choose first?"""
    alternatives = _alternatives(expression)
    acting = [alternative for alternative in alternatives if _ACTIONS & set(alternative)]
    return all(_chooses(alternative) for alternative in acting or alternatives)


def _by_ending(expression: list[str]) -> bool:
    """Does it choose by nothing but the end of a name, `*.conf`, of which the system itself has many?"""
    chosen = [position for position, word in enumerate(expression) if word in _CHOOSING]
    return bool(chosen) and all(
        expression[position] in ("-name", "-iname")
        and not _LEFT_OVER.fullmatch(plain("".join(expression[position + 1 : position + 2])))
        and plain("".join(expression[position + 1 : position + 2])).startswith("*")
        for position in chosen
    )


def _alternatives(expression: list[str]) -> list[list[str]]:
    """The expression split at `-o`, but not inside parentheses or inside a command."""
    found: list[list[str]] = [[]]
    depth, command = 0, False
    for word in expression:
        command = (command or word in _EXECUTING) and word not in (";", "+")
        depth += 0 if command else {"(": 1, ")": -1}.get(word, 0)
        if word in _OR and depth <= 0 and not command:
            found.append([])
        else:
            found[-1].append(word)
    return found


def _chooses(expression: list[str], depth: int = 0) -> bool:
    position = 0
    if depth > _DEEPEST:
        return False
    while position < len(expression):
        word = expression[position]
        if word in _EXECUTING:
            return False
        negated = position > 0 and expression[position - 1] in ("!", "-not")
        if word == "(":
            end = _closing(expression, position)
            inside = _alternatives(expression[position + 1 : end])
            if not negated and all(_chooses(alternative, depth + 1) for alternative in inside):
                return True
            position = end
        elif word in _CHOOSING and not negated:
            value = expression[position + 1] if position + 1 < len(expression) else ""
            anything = word in _NUMBERS and value.strip("+ckMGwb") in ("0", "")
            if word in _WITHOUT_VALUE or (plain(value).strip("*?./") and not anything):
                return True
        position += 1
    return False


def _closing(expression: list[str], start: int) -> int:
    depth = 0
    for position in range(start, len(expression)):
        depth += {"(": 1, ")": -1}.get(expression[position], 0)
        if depth == 0:
            return position
    return len(expression)


def _commands(expression: list[str]) -> list[tuple[str, ...]]:
    commands = []
    position = 0
    while position < len(expression):
        if expression[position] in _EXECUTING:
            end = position + 1
            while end < len(expression) and expression[end] not in (";", "+"):
                end += 1
            commands.append(tuple(expression[position + 1 : end]))
            position = end
        position += 1
    return commands
