"""Builtins that change what a shell knows: `cd`, `alias`, `set`, `read`, `trap` and the like."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fleetshell_tools.fleet.guard.options import parse
from fleetshell_tools.fleet.guard.paths import resolve
from fleetshell_tools.fleet.guard.producers import produce
from fleetshell_tools.fleet.guard.symbols import UNKNOWN
from fleetshell_tools.fleet.guard.written import quoted

if TYPE_CHECKING:
    from fleetshell_tools.fleet.guard.follow import Follower


def _cd(follower: Follower, words: list[str], stdin: str) -> str:
    operands = parse(words[1:]).operands
    state = follower.state
    before = state.folder
    if not operands and words[1:] != ["-"]:
        state.folder = state.home
    elif words[1:] == ["-"] or operands[0] == "-":
        state.folder = "".join(state.variables.get("OLDPWD", (UNKNOWN,)))
    else:
        state.folder = resolve(operands[0], state.folder) or UNKNOWN
    state.variables["OLDPWD"] = (before,)
    return ""


def _pwd(follower: Follower, words: list[str], stdin: str) -> str:
    return follower.state.folder + "\n"


def _alias(follower: Follower, words: list[str], stdin: str) -> str:
    for word in words[1:]:
        name, equals, value = word.partition("=")
        if equals:
            follower.state.aliases[name] = value
    return ""


def _hash(follower: Follower, words: list[str], stdin: str) -> str:
    if words[1:2] == ["-p"] and len(words) > 3:
        follower.state.aliases[words[3]] = quoted(words[2])
    return ""


def _set(follower: Follower, words: list[str], stdin: str) -> str:
    options = parse(words[1:], short="o", to_operand=True)
    if options.operands or "--" in words:
        follower.state.positional = tuple(options.operands)
    return ""


def _read(follower: Follower, words: list[str], stdin: str) -> str:
    """The first line goes to the variables, the last of which takes the rest."""
    names = parse(words[1:], short="adinNptu").operands or ["REPLY"]
    line = next(iter(stdin.splitlines()), UNKNOWN)
    separators = "".join(follower.state.variables.get("IFS", ()))
    pieces = line.split(separators[0] if separators.strip() else None, len(names) - 1)
    for position, name in enumerate(names):
        follower.state.variables[name] = (pieces[position] if position < len(pieces) else "",)
    return ""


def _mapfile(follower: Follower, words: list[str], stdin: str) -> str:
    names = parse(words[1:], short="dnOsuCc").operands or ["MAPFILE"]
    follower.state.variables[names[0]] = tuple(stdin.splitlines()) or (UNKNOWN,)
    return ""


def _printf_variable(follower: Follower, words: list[str], stdin: str) -> str:
    if words[1:2] == ["-v"] and len(words) > 3:
        follower.state.variables[words[2]] = (produce("printf", words[3:], stdin),)
        return ""
    return produce("printf", words[1:], stdin)


def _trap(follower: Follower, words: list[str], stdin: str) -> str:
    operands = parse(words[1:], to_operand=True).operands
    if len(operands) > 1 and operands[0] not in ("-", ""):
        follower.fed_code(operands[0], "", words)
    return ""


BUILTINS: dict[str, Callable[[Follower, list[str], str], str]] = {
    "cd": _cd,
    "pushd": _cd,
    "pwd": _pwd,
    "alias": _alias,
    "hash": _hash,
    "set": _set,
    "read": _read,
    "trap": _trap,
    "mapfile": _mapfile,
    "readarray": _mapfile,
    "printf": _printf_variable,
}
