"""Writes what is made from the commands' declarations: docs/commands.md, the man page and the shells' completions.

`make docs` (or this file as a program) writes them; tests/cli/test_reference.py fails where one of them is out of date.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from fleetshell_tools.cli import COMMANDS, declared  # noqa: E402
from fleetshell_tools.cli.command import Arg, Command  # noqa: E402
from fleetshell_tools.cli.completion import BASH, FISH, ZSH  # noqa: E402
from fleetshell_tools.core.version import __version__  # noqa: E402

EXIT_CODES = (
    ("0", "Done."),
    ("1", "What was asked for failed: a test did not connect, a host could not be reached."),
    ("2", "The command line was used wrongly, or something is missing and there is no terminal to ask on."),
    ("3", "The configuration, a server's file or the home is invalid or missing."),
    ("4", "There is no such server, session, prompt or other named thing."),
    ("5", "Refused: by the guard, by authentication, or by a lock."),
    ("130", "Interrupted with Ctrl-C."),
)

OPTIONS = (
    ("--home DIR", "FleetShell's home; before the command (default: `$FLEETSHELL_HOME`, else `~/.fleetshell`)"),
    ("--version", "print the version"),
    ("--help", "list the commands; behind a command, tell more about it"),
)

ENVIRONMENT = (
    ("FLEETSHELL_HOME", "The home, where `--home` does not name another."),
    ("NO_COLOR", "Set to anything: no colour. Without a terminal there is none anyway."),
    ("VISUAL, EDITOR", "The editor of `edit` and `prompt edit`, with arguments if need be; else vi or nano."),
)

FILES = (
    ("config.yaml", "the configuration; it holds the API key and the TOTP secret"),
    ("relay.key, relay.pub", "the relay's SSH key pair"),
    ("known_hosts", "the pinned host keys"),
    ("servers/ID.conf", "one file a server"),
    ("mcps/ID.conf", "one file an external MCP server"),
    ("prompts/NAME.json", "one file a prompt"),
    ("logs/audit.log", "what was done"),
)


def commands() -> Iterator[Command]:
    """Every command, in the overview's order."""
    for name in COMMANDS:
        for command in declared(name):
            if command.name.partition(" ")[0] == name:
                yield command


def usage(command: Command) -> str:
    """The command with its arguments, those that may be left out in brackets."""
    return " ".join([f"fleetshell {command.name}", *map(_usage, command.arguments)])


def _usage(arg: Arg) -> str:
    text = _shown(arg).partition(", ")[0] if arg.names[0].startswith("-") else _value(arg)
    many = "…" if arg.settings.get("action") == "append" or arg.settings.get("nargs") in ("*", "+") else ""
    return f"{text}{many}" if _required(arg) else f"[{text}]{many}"


def _required(arg: Arg) -> bool:
    if arg.names[0].startswith("-"):
        return bool(arg.settings.get("required"))
    return arg.settings.get("nargs") not in ("?", "*")


def _value(arg: Arg) -> str:
    choices = arg.settings.get("choices")
    if "metavar" not in arg.settings and choices:
        return "|".join(map(str, choices))
    return str(arg.settings.get("metavar") or arg.names[-1].lstrip("-").upper())


def _shown(arg: Arg) -> str:
    if not arg.names[0].startswith("-"):
        return _value(arg)
    value = f" {_value(arg)}" if arg.settings.get("action") in (None, "store", "append") else ""
    return ", ".join(f"{name}{value}" for name in arg.names)


def _help(arg: Arg) -> str:
    return str(arg.settings.get("help") or "").replace("%%", "%")


def markdown() -> str:
    """docs/commands.md."""
    lines = [
        "# Commands",
        "",
        "`fleetshell [--home DIR] [--version] [--help] COMMAND`",
        "",
        "Made from the declarations of the commands by `make docs`; do not edit it by hand.",
        "",
        "| option | meaning |",
        "|---|---|",
        *(f"| `{name}` | {said} |" for name, said in OPTIONS),
        "",
        "Errors and warnings go to stderr, what was asked for to stdout; `--json` prints the latter for programs. Nothing asks where "
        "there is no terminal. As root on another user's home the CLI first becomes that user.",
        "",
        "## Exit codes",
        "",
        "| code | meaning |",
        "|---|---|",
        *(f"| {code} | {said} |" for code, said in EXIT_CODES),
        "",
        "## Environment",
        "",
        "| variable | meaning |",
        "|---|---|",
        *(f"| `{name}` | {said} |" for name, said in ENVIRONMENT),
    ]
    for command in commands():
        lines += ["", f"## `{command.name}`", "", command.summary, "", "```", usage(command), "```"]
        if command.arguments:
            lines += ["", "| argument | meaning |", "|---|---|"]
            lines += [f"| {_cell(f'`{_shown(arg)}`')} | {_cell(_help(arg))} |" for arg in command.arguments]
        lines += ["", "Example:", "", "```", command.example, "```"]
    return "\n".join([*lines, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def manual() -> str:
    """The man page, in man(7)'s macros."""
    lines = [
        f'.TH FLEETSHELL 1 "" "fleetshell {__version__}" "User Commands"',
        ".SH NAME",
        "fleetshell \\- an MCP relay that lets an AI assistant work on your servers over SSH",
        ".SH SYNOPSIS",
        ".B fleetshell",
        "[\\-\\-home DIR] [\\-\\-version] [\\-\\-help] COMMAND \\&...",
        ".SH DESCRIPTION",
        "FleetShell runs commands on a fleet of servers for an AI assistant that speaks the Model Context Protocol.",
        "An API key and a one\\-time code let the assistant in, a guard stands before every command, and an audit log records it.",
        ".SH OPTIONS",
    ]
    for name, said in OPTIONS:
        lines += [".TP", f".B {_roff(name)}", _roff(said)]
    lines.append(".SH COMMANDS")
    for command in commands():
        first, _, rest = command.summary.partition("\n\n")
        lines += [".SS " + _roff(command.name), _roff(usage(command)), ".PP", _roff(first)]
        lines += [".PP", _roff(rest)] if rest else []
        for arg in command.arguments:
            lines += [".TP", f".B {_roff(_shown(arg))}", _roff(_help(arg))]
        lines += [".PP", "Example:", ".PP", ".nf", ".RS", _roff(command.example), ".RE", ".fi"]
    for title, table in (("EXIT STATUS", EXIT_CODES), ("ENVIRONMENT", ENVIRONMENT)):
        lines.append(f".SH {title}")
        for name, said in table:
            lines += [".TP", f".B {_roff(name)}", _roff(said)]
    lines += [".SH FILES", "In ~/.fleetshell, unless another home is named:"]
    for name, said in FILES:
        lines += [".TP", f".I {_roff(name)}", _roff(said)]
    lines += [".SH SEE ALSO", ".BR ssh (1),", ".BR ssh_config (5),", ".BR ssh\\-keygen (1)"]
    return "\n".join([*lines, ""])


def _roff(text: str) -> str:
    """Text that man shows as it is: no escapes, no line that begins like a request, no hyphen that is broken or curled."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "").replace("…", "...")
    return "\n".join(f"\\&{line}" if line.startswith(".") else line for line in escaped.splitlines())


def documents() -> dict[str, str]:
    """Each file, by its path in the tree."""
    return {
        "docs/commands.md": markdown(),
        "share/man/man1/fleetshell.1": manual(),
        "share/bash-completion/completions/fleetshell": BASH,
        "share/zsh/site-functions/_fleetshell": ZSH,
        "share/fish/vendor_completions.d/fleetshell.fish": FISH,
    }


def main() -> None:
    """Write them all."""
    for name, text in documents().items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(f"wrote {name}")


if __name__ == "__main__":
    main()
