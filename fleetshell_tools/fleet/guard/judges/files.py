"""Judges of class filesystem: what deletes, moves, empties, covers or replaces what a host needs."""

from __future__ import annotations

import re

from fleetshell_tools.fleet.guard.options import parse
from fleetshell_tools.fleet.guard.paths import (
    is_critical,
    is_critical_file,
    is_critical_folder,
    is_startup_file,
    resolve,
)
from fleetshell_tools.fleet.guard.rules import RM, Command, Finding, judges
from fleetshell_tools.fleet.guard.search import Search
from fleetshell_tools.fleet.guard.symbols import STAR, has_wildcard, is_known

_HELP = ("help", "version")


@judges("rm", "unlink", "shred", "rmdir", "srm", "wipe")
def deletes(command: Command) -> Finding | None:
    options = parse(command.arguments, short="ns" if command.name == "shred" else "")
    if options.has(*_HELP) or command.name == "rmdir":
        return None
    booted = command.name == "shred" and any(
        _BOOTED.fullmatch(resolve(target, command.folder)) for target in options.operands
    )
    if booted or any(
        is_critical(target, command.folder) or _is_singular(target, command.folder) for target in options.operands
    ):
        return Finding("filesystem", "delete-critical", "deletes what the host needs", command.argv, (RM,))
    return None


_LOGIN_RULES = re.compile(
    r"/etc/network/interfaces|/etc/netplan/" + STAR + r".*|/etc/pam\.d/(?:sshd|login|sudo|su|system-auth|common-.*)"
)
_KERNEL = re.compile(r"/etc/ssh/ssh_host_.*|/boot/(?:vmlinuz|initr|System\.map|efi|grub).*|(?:/usr)?/lib/modules/.*")


def _is_singular(target: str, folder: str) -> bool:
    """A kernel, or its modules, of a release that cannot be known: the running one perhaps; all of the host keys; who may log in."""
    path = resolve(target, folder)
    if _LOGIN_RULES.fullmatch(path):
        return True
    return (not is_known(path) or has_wildcard(path)) and _KERNEL.fullmatch(path) is not None


@judges("mv", "rename", "prename", "zip")
def moves(command: Command) -> Finding | None:
    options = parse(command.arguments, short="tS", long=("target-directory", "suffix"))
    sources = options.operands if options.has("t", "target-directory") else options.operands[:-1]
    if command.name in ("rename", "prename"):
        sources = [] if options.has("n", "nono") else options.operands[1:]
    if command.name == "zip":
        sources = options.operands[1:] if options.has("m", "move") else []
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


_BOOTED = re.compile(r"/boot/(?:vmlinuz|initrd|initramfs|System\.map|grub2?/grub\.cfg|efi/EFI/).*")


def _overwrites(command: Command, targets: list[str]) -> Finding | None:
    if any(
        is_critical_file(target, command.folder) or _BOOTED.fullmatch(resolve(target, command.folder))
        for target in targets
    ):
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
    source, *targets = options.operands or [""]
    # `/usr/bin/python3` may well point to another python.
    targets = [target for target in targets if not target.rpartition("/")[2] or target.rpartition("/")[2] not in source]
    if options.has("f", "force") and any(is_critical_file(target, command.folder) for target in targets):
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


@judges("rclone")
def synchronises(command: Command) -> Finding | None:
    operands = parse(command.arguments, long=("config", "transfers", "exclude", "include", "bwlimit")).operands
    target = operands[-1] if len(operands) > 1 and operands[0] in ("sync", "move", "purge", "delete") else ""
    if target and ":" not in target and is_critical_folder(target, command.folder):
        return Finding("filesystem", "mirror-critical", "deletes whatever the source has not", command.argv, (RM,))
    return None


@judges("dd")
def fills(command: Command) -> Finding | None:
    """`dd` without a count goes on until the file system is full; in a folder for such things it is a measurement."""
    settings = dict(argument.partition("=")[::2] for argument in command.arguments if "=" in argument)
    endless = settings.get("if") in ("/dev/zero", "/dev/urandom", "/dev/random") and "count" not in settings
    if endless and re.fullmatch(r"/[^/]+", resolve(settings.get("of", ""), command.folder)):
        return Finding("filesystem", "fill-disk", "fills the file system", command.argv)
    return None


@judges("find")
def finds(command: Command) -> Finding | None:
    """Only `-delete`; what `-exec` runs is followed with the paths that would be found."""
    search = Search.read(command.arguments)
    if "-delete" in search.expression and any(is_critical(path, command.folder) for path in search.found()):
        return Finding("filesystem", "find-delete", "deletes what the host needs", command.argv, (RM,))
    return None


_RESTORED = re.compile(r"/etc/(?:fstab|crypttab|nsswitch\.conf|ssh/sshd_config|default/grub)|/boot/grub/grub\.cfg")
_NOTHING = re.compile(r"/dev/(?:null|zero|u?random)|.*(?:empty|blank).*")


@judges("cp", "install", "mv")
def replaces(command: Command) -> Finding | None:
    """A copy over a critical file; configuration that is put back from a backup is daily work."""
    options = parse(command.arguments, short="tSmog", long=("target-directory", "suffix", "mode", "owner", "group"))
    if options.has(*_HELP, "t", "target-directory", "d", "directory") or len(options.operands) < 2:
        return None
    *sources, target = options.operands
    path = resolve(target, command.folder)
    backup = any(resolve(source, command.folder).startswith((path + ".", path + "-")) for source in sources)
    nothing = any(_NOTHING.fullmatch(source) for source in sources)
    if nothing and target.endswith(STAR) and is_critical_folder(target, command.folder):
        return Finding("filesystem", "overwrite-critical", "empties all that the host needs", command.argv, (RM,))
    if is_critical_file(target, command.folder) and (nothing or not (backup or _RESTORED.fullmatch(path))):
        return None if path.endswith("authorized_keys") else _overwrites(command, [target])
    return None


@judges("tar", "bsdtar")
def archives_away(command: Command) -> Finding | None:
    """`tar --remove-files` deletes what it has packed; `--recursive-unlink` what stands where it unpacks."""
    options = parse(command.arguments, short="fCTX", long=("directory", "file", "exclude"))
    start = options.value("C", "directory") or "."
    folder = resolve(start, command.folder)
    removed = options.operands if options.has("remove-files") else [folder] if options.has("recursive-unlink") else []
    if any(is_critical(target, folder) for target in removed):
        return Finding("filesystem", "delete-critical", "deletes what the host needs", command.argv, (RM,))
    return None


@judges("mount")
def covers(command: Command) -> Finding | None:
    """An empty file system or another folder mounted over one that the host needs hides all that is in it."""
    options = parse(command.arguments, short="toLUO", long=("types", "options", "label", "uuid"))
    read_only = {"remount", "ro"} <= set((options.value("o", "options") or "").split(","))
    if read_only and options.operands[-1:] == ["/"]:
        return Finding("storage", "unmount-critical", "makes the root file system unwritable", command.argv)
    how = set((options.value("o", "options") or "").split(","))
    hiding = (
        options.value("t", "types") in ("tmpfs", "ramfs", "overlay") or how & {"bind", "rbind", "move"}
    ) or options.has("bind", "rbind", "B", "R", "move", "M")
    target = (options.operands or [""])[-1]
    path = resolve(target, command.folder)
    if (
        len(options.operands) > 1
        and hiding
        and not path.startswith(("/run", "/mnt", "/var/lib", "/srv", "/opt", "/proc", "/dev", "/sys"))
        and is_critical_folder(target, command.folder)
    ):
        return Finding("filesystem", "cover-critical", "hides what the host needs", command.argv)
    return None
