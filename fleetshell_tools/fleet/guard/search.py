"""The command line of `find`: where it starts, how it chooses, and what it would find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fleetshell_tools.fleet.guard.symbols import STAR, UNKNOWN, plain

_GLOBAL = ("-H", "-L", "-P")
_CHOOSING = frozenset(
    "-name -iname -path -ipath -wholename -regex -iregex -mtime -mmin -atime -amin -ctime -cmin -newer -size -user -group "
    "-uid -gid -perm -inum -links -lname -samefile -empty -nouser -nogroup".split()
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
        return cls(tuple(roots) or (".",), tuple(rest), _is_narrow(rest), tuple(_commands(rest)))

    def found(self) -> list[str]:
        """The paths that it would hand on: everything in its roots, or something unknown in them."""
        inside = _SOMEWHERE if self.narrow else STAR
        return [f"{root.rstrip('/')}/{inside}" for root in self.roots]


def _is_narrow(expression: list[str]) -> bool:
    for position, word in enumerate(expression):
        if word in _EXECUTING:
            return False
        negated = position > 0 and expression[position - 1] in ("!", "-not")
        if word not in _CHOOSING or negated:
            continue
        value = expression[position + 1] if position + 1 < len(expression) else ""
        if word in _WITHOUT_VALUE or plain(value).strip("*?./"):
            return True
    return False


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
