"""How the demo tells what it does: numbered steps, what was sent, and a short form of what came back."""

from __future__ import annotations

import textwrap

from fleetshell_tools.cli import output
from fleetshell_tools.core.errors import FleetShellError
from fleetshell_tools.core.text import clean

_LINES = 9
_COLUMNS = 110


class Story:
    """Prints the steps and counts them; each line is out at once, so that waiting shows where."""

    def __init__(self) -> None:
        self.steps = 0

    def step(self, title: str) -> None:
        """Begin the next step."""
        self.steps += 1
        print(output.paint(f"\n{self.steps:>2}. {title}", "bold"), flush=True)

    def say(self, text: str) -> None:
        """A remark, wrapped."""
        print(
            textwrap.fill(text, _COLUMNS, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False),
            flush=True,
        )

    def sent(self, what: str) -> None:
        """What is run or called."""
        print(f"    {output.paint('→ ' + what, 'yellow')}", flush=True)

    def reply(self, text: str, lines: int = _LINES) -> None:
        """What came back, wrapped and cut to `lines` lines."""
        said = [part for line in clean(text).strip("\n").splitlines() for part in textwrap.wrap(line, _COLUMNS) or [""]]
        for line in said[:lines]:
            print(f"    │ {line}".rstrip())
        if len(said) > lines:
            print(output.paint(f"    │ … {len(said) - lines} more line{'s' if len(said) > lines + 1 else ''}", "dim"))
        print(end="", flush=True)


def expect(condition: object, what: str, seen: str = "") -> None:
    """End the demo where FleetShell does not do what the demo is there to show.

    Raises:
        FleetShellError: `condition` is false.
    """
    if not condition:
        raise FleetShellError(f"The demo failed: it expected that {what}. Please report this as a bug.", seen=seen)
