"""The command line: finds the subcommand, imports its module alone, and turns errors into sentences and exit codes.

`COMMANDS` says where each command is declared, so that `fleetshell list` does not pay for the relay.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from fleetshell_tools.core.errors import FleetShellError, UsageError
from fleetshell_tools.core.version import __version__

if TYPE_CHECKING:
    from fleetshell_tools.cli.command import Command
    from fleetshell_tools.core.home import Home

COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("setup", "create the home: keys, certificate, configuration, TOTP secret"),
    "serve": ("serve", "run the relay in the foreground"),
    "status": ("serve", "is the relay up, and what does it do"),
    "reload": ("serve", "make the running relay read its configuration again"),
    "add-server": ("add_server", "register a server and pin its host key"),
    "list": ("servers", "list the registered servers"),
    "test": ("test_server", "test the connection to a server, step by step"),
    "edit": ("servers", "edit a server's file; checked before it replaces the old one"),
    "remove": ("servers", "remove a server, its pinned host key and its notes"),
    "trust": ("servers", "pin the new host key of a rebuilt server"),
    "import": ("importing", "register the servers of ~/.ssh/config or of an Ansible inventory"),
    "pubkey": ("servers", "print the line for authorized_keys, or put it on servers"),
    "key": ("key_rotation", "key rotate: replace the relay's SSH key on every server"),
    "auth": (
        "auth auth_keys people",
        "keys, codes, people: setup, status, test, enable, disable, unlock, revoke, rotate-key, reset, add-user, list, remove",
    ),
    "lock": ("emergency", "emergency stop: end everything, and refuse every tool"),
    "unlock": ("emergency", "let tools work again after lock"),
    "approvals": ("approvals", "list the blocked calls that wait for you"),
    "approve": ("approvals", "let one of them through, once"),
    "prompt": ("prompts", "saved prompts: save, list, show, edit, delete, history, diff, rollback"),
    "notes": ("notes", "what models noted about servers: list, delete"),
    "mcp": ("mcp", "external MCP servers: add, list, test, enable, disable, remove, accept, logs"),
    "session": ("sessions", "the running relay's shell sessions: list, close"),
    "audit": ("audit", "read or verify the audit log"),
    "guard": ("guard", "what would the guard say: guard check COMMAND"),
    "connect-info": ("connect", "print the configuration for a client"),
    "bundle": ("bundle", "write FleetShell into one file that runs elsewhere"),
    "service": ("service", "print a systemd unit, or lines of sudoers for the servers"),
    "deploy": ("deploy", "install FleetShell on a host through your own ssh"),
    "completion": ("completion", "print the completion for bash, zsh or fish"),
    "demo": ("demo", "try everything with throw-away servers on this machine"),
}
"""Each command's module (or modules) in this package, and a line for the overview."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that is not UTF-8 gets question marks, not a traceback
    try:
        return _run(arguments)
    except FleetShellError as error:
        sys.stdout.flush()
        print(f"fleetshell: {error.message}", file=sys.stderr)
        if error.seen:
            print(error.seen, file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            # Whoever read our output (`head`, say) has gone; nothing more can be said to them.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        where = f"{error.filename}: " if error.filename else ""
        print(f"fleetshell: {where}{error.strerror or error}. Nothing more was changed.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nfleetshell: interrupted.", file=sys.stderr)
        return 130


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ["--complete"]:
        from fleetshell_tools.cli.completion import complete

        return complete(arguments[1:])
    parser = overview()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    chosen, prog, rest = find(options.command, options.rest)
    namespace = chosen.parse(prog, rest)
    from fleetshell_tools.core.home import Home

    home = Home.find(options.home)
    if chosen.own_home:
        _become_owner(home)
    return chosen.function(namespace, home)


def overview() -> argparse.ArgumentParser:
    """The parser of everything before the subcommand."""
    listing = "\n".join(f"  {name:<14}{summary}" for name, (_, summary) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="fleetshell",
        usage="fleetshell [--home DIR] [--version] [--help] COMMAND …",
        description="An MCP relay that lets an AI assistant work on your servers over SSH.",
        epilog=f"commands:\n{listing}\n\n`fleetshell COMMAND --help` tells more about each.\n\n"
        "exit codes: 0 done; 1 it failed; 2 usage; 3 configuration; 4 not found; 5 refused",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--home", metavar="DIR", help="FleetShell's home (default: $FLEETSHELL_HOME, else ~/.fleetshell)"
    )
    parser.add_argument("--version", action="version", version=f"fleetshell {__version__}")
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def declared(name: str) -> list[Command]:
    """What the modules declare where the command `name` is; imports them."""
    modules = [import_module(f"fleetshell_tools.cli.{module}") for module in COMMANDS[name][0].split()]
    return [command for module in modules for command in module.COMMANDS]


def find(name: str, rest: list[str]) -> tuple[Command, str, list[str]]:
    """The command for a word, the program name its help shows, and the arguments that are left for it.

    Raises:
        UsageError: There is no such command, or a group's subcommand is missing.
    """
    if name not in COMMANDS:
        from fleetshell_tools.core.words import nearest

        raise UsageError(f'There is no command "{name}".{nearest(name, COMMANDS)} `fleetshell --help` lists all.')
    commands = {command.name: command for command in declared(name)}
    if name in commands and not (rest and f"{name} {rest[0]}" in commands):
        return commands[name], "fleetshell", rest
    members = [known.partition(" ")[2] for known in commands if known.startswith(f"{name} ")]
    if rest and rest[0] in members:
        return commands[f"{name} {rest[0]}"], "fleetshell", rest[1:]
    asked = (
        f'"{rest[0]}" is none of its subcommands'
        if rest and rest[0] not in ("-h", "--help")
        else "say which subcommand"
    )
    listing = "\n".join(
        f"  {name} {member:<12}{commands[f'{name} {member}'].summary.splitlines()[0]}" for member in members
    )
    if rest and rest[0] in ("-h", "--help"):
        print(f"usage: fleetshell {name} SUBCOMMAND …\n\n{COMMANDS[name][1]}\n\nsubcommands:\n{listing}")
        raise SystemExit(0)
    raise UsageError(f"fleetshell {name}: {asked}:\n{listing}")


def _become_owner(home: Home) -> None:
    """As root on another user's home, become that user first, so that no file there ever belongs to root."""
    try:
        owner = os.stat(home.path)
    except OSError:
        return  # the command itself says what is wrong with the home
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    import pwd

    from fleetshell_tools.core import installation

    try:
        user = pwd.getpwuid(owner.st_uid)
    except KeyError:
        raise FleetShellError(
            f"{home.path} belongs to uid {owner.st_uid}, which is no user here. Run `chown -R USER {home.path}`."
        ) from None
    here = installation.evidence()  # the folder above it may be one that only root can look into
    os.initgroups(user.pw_name, user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    if not (os.access(here, os.R_OK) and os.access(os.__file__, os.R_OK)):
        raise FleetShellError(f"{home.path} belongs to {user.pw_name}, who can't read this installation of FleetShell ({here}). "
                              f"Install it where {user.pw_name} can.")  # fmt: skip
    os.environ.update(HOME=user.pw_dir, USER=user.pw_name, LOGNAME=user.pw_name)
