"""How a subcommand is declared: a function, with its arguments and an example beside it."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from fleetshell_tools.core.home import Home

Function = Callable[[argparse.Namespace, "Home"], int]


class Arg:
    """One argument, as `argparse.ArgumentParser.add_argument` takes it."""

    def __init__(self, *names: str, **settings: Any) -> None:
        self.names = names
        self.settings = settings

    @property
    def called(self) -> str:
        """What argparse calls it in messages."""
        if self.names[0].startswith("-"):
            return "/".join(self.names)
        return str(self.settings.get("metavar") or self.names[0])


class _Missing(Exception):
    """Required arguments were not given; `names` as argparse calls them."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(names)
        self.names = names


class Parser(argparse.ArgumentParser):
    """Tells of missing arguments where somebody can be asked for them."""

    def error(self, message: str) -> NoReturn:
        what, colon, names = message.partition("the following arguments are required: ")
        if colon and not what:
            from fleetshell_tools.cli import output

            if output.interactive():
                raise _Missing(names.split(", "))
        super().error(message)


JSON = Arg("--json", action="store_true", help="print JSON")


@dataclass(frozen=True)
class Command:
    """A subcommand: `function` does it and returns the exit code; one without `own_home` leaves the home alone, so root stays root."""

    name: str
    function: Function
    arguments: tuple[Arg, ...] = ()
    example: str = ""
    own_home: bool = True
    summary: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "summary", inspect.cleandoc(self.function.__doc__ or ""))

    def parser(self, prog: str, kind: type[Parser] = Parser) -> Parser:
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

    def parse(self, prog: str, words: list[str]) -> argparse.Namespace:
        """Parse the command's arguments; on a terminal those that are missing are asked for, else they are an error."""
        parser = self.parser(prog)
        try:
            return parser.parse_args(words)
        except _Missing as missing:
            names = missing.names
        answers = [word for arg in self.arguments if arg.called in names for word in _asked(arg)]
        return parser.parse_args([*words, *answers])


def _asked(arg: Arg) -> list[str]:
    """Ask for a required argument; returns it as words of a command line."""
    from fleetshell_tools.cli import output

    question = f"{arg.called.lstrip('-')} ({arg.settings.get('help') or ''})"
    while True:
        answer = output.ask(question)
        if arg.names[0].startswith("-"):
            if answer:
                return [f"{arg.names[0]}={answer}"]
        elif answer and not answer.startswith("-"):
            return answer.split() if arg.settings.get("nargs") == "+" else [answer]


def command(name: str, *arguments: Arg, example: str = "", own_home: bool = True) -> Callable[[Function], Command]:
    """Declare a function as the subcommand `name`; its docstring is the description.

    Args:
        arguments: What it takes.
        example: A command line that works, for `--help`.
        own_home: Whether it works on files of the home, and so as the home's owner.
    """
    return lambda function: Command(name, function, arguments, example, own_home)
