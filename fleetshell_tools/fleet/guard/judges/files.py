"""Judges of class filesystem and access: what deletes, moves, empties or opens up what a host needs."""

from __future__ import annotations

from fleetshell_tools.fleet.guard.options import parse
from fleetshell_tools.fleet.guard.paths import (
    is_critical,
    is_critical_file,
    is_critical_folder,
    is_startup_file,
    is_system_folder,
)
from fleetshell_tools.fleet.guard.rules import RM, Command, Finding, judges
from fleetshell_tools.fleet.guard.search import Search

_HELP = ("help", "version")


@judges("rm", "unlink", "shred", "rmdir", "srm", "wipe")
def deletes(command: Command) -> Finding | None:
    options = parse(command.arguments, short="ns" if command.name == "shred" else "")
    if options.has(*_HELP) or command.name == "rmdir":
        return None
    if any(is_critical(target, command.folder) for target in options.operands):
        return Finding("filesystem", "delete-critical", "deletes what the host needs", command.argv, (RM,))
    return None


@judges("mv")
def moves(command: Command) -> Finding | None:
    options = parse(command.arguments, short="tS", long=("target-directory", "suffix"))
    sources = options.operands if options.has("t", "target-directory") else options.operands[:-1]
    if not options.has(*_HELP) and any(is_critical(source, command.folder) for source in sources):
        return Finding("filesystem", "move-critical", "moves away what the host needs", command.argv, (RM,))
    return None


@judges("truncate", "tee")
def empties(command: Command) -> Finding | None:
    options = parse(command.arguments, short="sr", long=("size", "reference"))
    if options.has("a", "append", *_HELP):
        return None
    return _overwrites(command, options.operands)


@judges(">", ">|", "&>", ">&", "<>")
def redirects(command: Command) -> Finding | None:
    """A redirection that empties its target; the program's name is the operator."""
    return _overwrites(command, list(command.arguments))


def _overwrites(command: Command, targets: list[str]) -> Finding | None:
    if any(is_critical_file(target, command.folder) for target in targets):
        return Finding("filesystem", "overwrite-critical", "overwrites a file that the host needs", command.argv, (RM,))
    return None


@judges("cat")
def brings(command: Command) -> Finding | None:
    """`cat > FILE` with content from outside the command, as `write_file` brings it; here the operator is an argument."""
    if command.arguments[:1] == (">",) and any(is_startup_file(name, command.folder) for name in command.arguments[1:]):
        return Finding(
            "startup", "write-startup", "is run or read at login, boot or a set time, or by every program", command.argv
        )
    return None


@judges("ln")
def links(command: Command) -> Finding | None:
    options = parse(command.arguments, short="tS", long=("target-directory", "suffix"))
    if options.has("f", "force") and any(is_critical_file(target, command.folder) for target in options.operands[1:]):
        return Finding("filesystem", "replace-critical", "replaces a file that the host needs", command.argv, (RM,))
    return None


@judges("rsync")
def mirrors(command: Command) -> Finding | None:
    options = parse(command.arguments, short="efMT", long=("rsh", "filter", "exclude", "include"))
    deleting = any(name.startswith("del") for name in options.values)
    if (
        deleting
        and not options.has("n", "dry-run")
        and is_critical_folder((options.operands or [""])[-1], command.folder)
    ):
        return Finding("filesystem", "mirror-critical", "deletes whatever the source has not", command.argv, (RM,))
    return None


@judges("find")
def finds(command: Command) -> Finding | None:
    """Only `-delete`; what `-exec` runs is followed with the paths that would be found."""
    search = Search.read(command.arguments)
    if "-delete" in search.expression and any(is_critical(path, command.folder) for path in search.found()):
        return Finding("filesystem", "find-delete", "deletes what the host needs", command.argv, (RM,))
    return None


@judges("chmod", "chown", "chgrp")
def opens_up(command: Command) -> Finding | None:
    options = parse(_without_modes(command.arguments), long=("reference", "from"))
    if not options.has("R", "recursive"):
        return None
    if any(is_system_folder(target, command.folder) for target in options.operands):
        return Finding(
            "access", "permissions-critical", "changes the owner or mode of all that the host needs", command.argv
        )
    return None


def _without_modes(arguments: tuple[str, ...]) -> list[str]:
    """A mode such as `-rwx` looks like options; it names no path and is of no interest."""
    return [argument for argument in arguments if not (argument[:1] == "-" and argument[1:2] in tuple("rwxst"))]
