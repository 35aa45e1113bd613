"""How a subcommand is declared: a function, with its arguments and an example beside it."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fleetshell_tools.core.home import Home

Function = Callable[[argparse.Namespace, "Home"], int]


class Arg:
    """One argument, as `argparse.ArgumentParser.add_argument` takes it."""

    def __init__(self, *names: str, **settings: Any) -> None:
        self.names = names
        self.settings = settings


JSON = Arg("--json", action="store_true", help="print JSON")


@dataclass(frozen=True)
class Command:
    """A subcommand: `function` does it and returns the exit code."""

    name: str
    function: Function
    arguments: tuple[Arg, ...] = ()
    example: str = ""
    summary: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "summary", inspect.cleandoc(self.function.__doc__ or ""))

    def parser(
        self, prog: str, kind: type[argparse.ArgumentParser] = argparse.ArgumentParser
    ) -> argparse.ArgumentParser:
        """The parser of this command alone."""
        parser = kind(
            prog=f"{prog} {self.name}",
            description=self.summary,
            epilog=f"example:\n  {self.example}" if self.example else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        for argument in self.arguments:
            parser.add_argument(*argument.names, **argument.settings)
        return parser


def command(name: str, *arguments: Arg, example: str = "") -> Callable[[Function], Command]:
    """Declare a function as the subcommand `name`; its docstring is the description.

    Args:
        arguments: What it takes.
        example: A command line that works, for `--help`.
    """
    return lambda function: Command(name, function, arguments, example)
