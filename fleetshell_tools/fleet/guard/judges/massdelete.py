"""Judges of class massdelete: what deletes or empties a whole tree of people's data, or all of its backups."""

from __future__ import annotations

import re

from fleetshell_tools.fleet.guard.judges.words import Row, by_words, table
from fleetshell_tools.fleet.guard.options import parse
from fleetshell_tools.fleet.guard.paths import is_critical_folder, is_data_tree, is_system_folder, resolve
from fleetshell_tools.fleet.guard.rules import RM, Command, Finding, judges
from fleetshell_tools.fleet.guard.search import Search
from fleetshell_tools.fleet.guard.symbols import LOCAL, QUESTION, STAR

_EFFECT = "deletes or empties a whole tree of data"
_BACKUPS = ("massdelete", "delete-backups", "deletes backups or stored files as a whole")
_EMPTY = re.compile(r"empty|blank|nothing|void|null", re.IGNORECASE)


def _finding(command: Command) -> Finding:
    return Finding("massdelete", "delete-tree", _EFFECT, command.argv, (RM,))


@judges("rm", "shred", "truncate", "unlink", "srm", "wipe", ">", ">|", "&>")
def deletes_tree(command: Command) -> Finding | None:
    options = parse(command.arguments, short="nsr" if command.name in ("shred", "truncate") else "")
    if options.has("help", "version"):
        return None
    recursive = command.name in ("rm", "srm", "wipe") and options.has("r", "R", "recursive")
    for target in options.operands:
        everything = target.rstrip("/").endswith((STAR, QUESTION))
        if (recursive or everything) and is_data_tree(target, command.folder):
            return _finding(command)
        if everything and command.name not in ("rm", "unlink") and is_critical_folder(target, command.folder):
            return _finding(command)
    if recursive and LOCAL in options.operands:
        return Finding("massdelete", "delete-list", "deletes whatever a file lists, unseen", command.argv, (RM,))
    return None


@judges("find")
def finds(command: Command) -> Finding | None:
    search = Search.read(command.arguments)
    if "-delete" in search.expression and any(is_data_tree(path, command.folder) for path in search.found()):
        return _finding(command)
    return None


@judges("rsync")
def mirrors_nothing(command: Command) -> Finding | None:
    options = parse(command.arguments, short="efMT", long=("rsh", "filter", "exclude", "include"))
    deleting = any(name.startswith("del") for name in options.values) and not options.has("n", "dry-run")
    if not deleting or len(options.operands) < 2 or not _EMPTY.search(options.operands[0]):
        return None
    return _finding(command) if is_data_tree(options.operands[-1].rstrip("/") + "/" + STAR, command.folder) else None


@judges("git")
def cleans(command: Command) -> Finding | None:
    """`git clean -fdx` where the repository is the whole file system."""
    words, folder = list(command.arguments), command.folder
    while words[:1] in (["-C"], ["-c"]) and len(words) > 1:
        folder = resolve(words[1], folder) if words[0] == "-C" else folder
        del words[:2]
    if words[:1] != ["clean"]:
        return None
    options = parse(words[1:], short="e", long=("exclude",))
    if not options.has("f", "force") or options.has("n", "dry-run"):
        return None
    targets = options.operands or ["."]
    return _finding(command) if any(is_system_folder(target, folder) for target in targets) else None


_ROWS: tuple[Row, ...] = (
    ("borg", _BACKUPS, ("delete --force|-f", "prune --keep-last=0", "prune --keep-last 0")),
    ("restic", _BACKUPS, ("forget --prune 0|--keep-last=0|--unsafe-allow-remove-all", "key remove")),
    ("rclone", _BACKUPS, ("purge|delete|cleanup", "sync --delete-before /tmp/empty|empty")),
    ("duplicity", _BACKUPS, ("remove-all-but-n-full 0", "remove-older-than 0s|0D|now")),
    ("velero", _BACKUPS, ("delete --all",)),
    ("pgbackrest", _BACKUPS, ("stanza-delete",)),
    ("tmutil", _BACKUPS, ("delete",)),
    ("snapper timeshift", _BACKUPS, ("delete|--delete-all",)),
    ("vssadmin", _BACKUPS, ("delete shadows",)),
)
_RULES = table(_ROWS)


@judges(*_RULES)
def deletes_backups(command: Command) -> Finding | None:
    return by_words(command, _RULES)


@judges("borg")
def deletes_repository(command: Command) -> Finding | None:
    """`borg delete REPOSITORY`; with `::ARCHIVE`, or a choice of archives, it is housekeeping."""
    options = parse(command.arguments, short="aPp", long=("glob-archives", "prefix", "match-archives"))
    chosen = options.has("a", "P", "glob-archives", "prefix", "match-archives", "n", "dry-run", "first", "last")
    names = options.operands[1:] if options.operands[:1] == ["delete"] else []
    if names and not chosen and len(names) == 1 and "::" not in names[0]:
        return Finding(*_BACKUPS, command.argv)
    return None
