"""Command-line options as programs read them: clusters, attached values, abbreviated long names, `--`.

The rules are those of GNU getopt_long, which nearly every program that the guard knows uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Options:
    """What was read: options by name without dashes (a flag has the value ""), in order the operands."""

    values: dict[str, str] = field(default_factory=dict)
    operands: list[str] = field(default_factory=list)

    def has(self, *names: str) -> bool:
        """Was one of these given? A long name may be abbreviated."""
        return any(
            given == name or (len(given) > 1 and name.startswith(given)) for name in names for given in self.values
        )

    def value(self, *names: str) -> str | None:
        return next((self.values[given] for name in names for given in self.values if _abbreviates(given, name)), None)


def _abbreviates(given: str, name: str) -> bool:
    return given == name or (len(given) > 1 and name.startswith(given))


def parse(arguments: Sequence[str], *, short: str = "", long: Sequence[str] = (), to_operand: bool = False) -> Options:
    """Read arguments.

    Args:
        arguments: Without the program's own name.
        short: One-letter options that take a value.
        long: Long options (without dashes) that take a value in the next argument.
        to_operand: Stop at the first operand, as programs do whose operands are a command.
    """
    found = Options()
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            found.operands += rest
            break
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            if not equals and rest and any(_abbreviates(name, known) for known in long):
                value = rest.pop(0)
            found.values[name] = value
        elif argument.startswith("-") and len(argument) > 1:
            _read_cluster(argument[1:], short, rest, found)
        else:
            found.operands.append(argument)
            if to_operand:
                found.operands += rest
                break
    return found


def _read_cluster(letters: str, short: str, rest: list[str], found: Options) -> None:
    for position, letter in enumerate(letters):
        if letter not in short:
            found.values.setdefault(letter, "")
            continue
        attached = letters[position + 1 :]
        found.values[letter] = attached or (rest.pop(0) if rest else "")
        break
