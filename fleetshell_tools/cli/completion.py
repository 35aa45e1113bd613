"""`completion`: what a shell may offer for the word at the cursor, read from the same declarations as the parsers.

The shells' functions call `fleetshell --complete WORD…`, the last word being the one at the cursor; each line of the answer is a
candidate, a tab and its description. The line `@files` stands for whatever file names the shell finds.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from fleetshell_tools.cli.command import Arg, Command, command

if TYPE_CHECKING:
    from fleetshell_tools.core.home import Home

FILES = "@files"

NAMES = {"mcp": ("mcps", ".conf"), "prompt": ("prompts", ".json")}
"""Where the names are that commands of a group take; of all others it is the servers' ids."""

NOT_FILES = ("approve", "session close")
"""Commands whose ids stand in no file of the home."""

GLOBAL = {"--home": "FleetShell's home", "--version": "show the version", "--help": "show the help"}

BASH = """\
# bash completion for fleetshell
_fleetshell() {
    local candidate description
    COMPREPLY=()
    while IFS=$'\\t' read -r candidate description; do
        if [[ $candidate == @files ]]; then
            compopt -o default 2>/dev/null
            COMPREPLY=()
            return
        fi
        COMPREPLY+=("$candidate")
    done < <(command fleetshell --complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F _fleetshell fleetshell
"""

ZSH = """\
#compdef fleetshell
_fleetshell() {
    local line
    local -a found
    for line in "${(@f)$(command fleetshell --complete "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        if [[ $line == @files ]]; then
            _files
            return
        fi
        [[ -n $line ]] && found+=("${line%%$'\\t'*}:${line#*$'\\t'}")
    done
    _describe -V fleetshell found
}
if [[ $funcstack[1] == _fleetshell ]]; then
    _fleetshell "$@"
else
    compdef _fleetshell fleetshell
fi
"""

FISH = """\
# fish completion for fleetshell
function __fleetshell_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    for line in (command fleetshell --complete $words[2..-1] "$current" 2>/dev/null)
        if test "$line" = @files
            __fish_complete_path "$current"
        else
            echo $line
        end
    end
end
complete -c fleetshell -f -a '(__fleetshell_complete)'
"""

SHELLS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


@command(
    "completion",
    Arg("shell", choices=tuple(SHELLS), help="the shell to complete in"),
    example='eval "$(fleetshell completion bash)"    # in ~/.bashrc; fish: fleetshell completion fish | source',
    own_home=False,
)
def completion(args: argparse.Namespace, home: Home) -> int:
    """Print the completion for a shell: commands, options, and the ids of your servers, external MCP servers and prompts."""
    print(SHELLS[args.shell], end="")
    return 0


def complete(words: Sequence[str]) -> int:
    """Print the candidates for the last word; returns the exit code."""
    current = words[-1] if words else ""
    for candidate, description in _candidates(list(words[:-1]), current):
        if candidate == FILES or candidate.startswith(current if current != "=" else ""):
            print(f"{candidate}\t{description.splitlines()[0] if description else ''}".rstrip("\t"))
    return 0


def _candidates(before: list[str], current: str) -> Iterator[tuple[str, str]]:
    from fleetshell_tools.cli import COMMANDS, declared

    home: str | None = None
    while before and before[0].startswith("-"):
        option = before.pop(0)
        if option == "--home":
            if not before:
                yield FILES, ""
                return
            home = before.pop(0)
    if not before:
        yield from GLOBAL.items() if current.startswith("-") else ((name, said) for name, (_, said) in COMMANDS.items())
        return
    name = before.pop(0)
    if name not in COMMANDS:
        return
    known = {found.name: found for found in declared(name)}
    if before and f"{name} {before[0]}" in known:
        yield from _of_command(known[f"{name} {before[0]}"], before[1:], current, home)
        return
    if not before:
        yield from (
            (full.partition(" ")[2], found.summary) for full, found in known.items() if full.startswith(f"{name} ")
        )
    if name in known:
        yield from _of_command(known[name], before, current, home)


def _of_command(chosen: Command, before: list[str], current: str, home: str | None) -> Iterator[tuple[str, str]]:
    """Values of the option before the cursor, or options, or values of the next positional argument."""
    options = {name: arg for arg in chosen.arguments for name in arg.names if name.startswith("-")}
    positional = [arg for arg in chosen.arguments if not arg.names[0].startswith("-")]
    waiting: Arg | None = None
    given: set[str] = set()
    count = 0
    for word in before:
        if word == "=":  # bash makes three words of `--option=value`
            continue
        if waiting is not None:
            waiting = None
        elif word in options:
            given.update(options[word].names)
            waiting = options[word] if _takes_value(options[word]) else None
        elif not word.startswith("-"):
            count += 1
    if waiting is not None:
        yield from _values(chosen, waiting, home)
        return
    if current.startswith("-"):
        for name, arg in options.items():
            if name not in given or arg.settings.get("action") == "append":
                yield name, str(arg.settings.get("help") or "")
        yield "--help", GLOBAL["--help"]
        return
    if positional and (count < len(positional) or positional[-1].settings.get("nargs") in ("*", "+")):
        yield from _values(chosen, positional[min(count, len(positional) - 1)], home)


def _takes_value(arg: Arg) -> bool:
    return arg.settings.get("action") in (None, "store", "append")


def _values(chosen: Command, arg: Arg, home: str | None) -> Iterator[tuple[str, str]]:
    choices = arg.settings.get("choices")
    metavar = str(arg.settings.get("metavar") or "")
    if choices:
        yield from ((str(choice), "") for choice in choices)
    elif metavar in ("FILE", "DIR", "PATH"):
        yield FILES, ""
    elif metavar in ("ID", "SERVER", "NAME") and chosen.name not in NOT_FILES:
        group = chosen.name.partition(" ")[0]
        if metavar == "NAME" and group not in NAMES:
            return
        folder, ending = NAMES.get(group, ("servers", ".conf"))
        from fleetshell_tools.core.home import Home

        try:
            names = sorted(os.listdir(Home.find(home).path / folder))
        except OSError:
            return
        yield from ((name[: -len(ending)], "") for name in names if name.endswith(ending) and not name.startswith("."))


COMMANDS = (completion,)
