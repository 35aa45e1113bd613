"""Judges of class device and storage: what overwrites a disk, or takes a file system, volume or table from it."""

from __future__ import annotations

from fleetshell_tools.fleet.guard.options import parse
from fleetshell_tools.fleet.guard.paths import is_device
from fleetshell_tools.fleet.guard.rules import DD, MKFS, Command, Finding, judges

_OVERWRITES = "overwrites a device"


@judges("dd", "dcfldd", "dc3dd")
def copies_blocks(command: Command) -> Finding | None:
    targets = [argument[3:] for argument in command.arguments if argument.startswith("of=")]
    if any(is_device(target, command.folder) for target in targets):
        return Finding("device", "dd-device", _OVERWRITES, command.argv, (DD,))
    return None


@judges(">", ">>", ">|", "&>", "&>>", ">&", "<>", "tee")
def writes(command: Command) -> Finding | None:
    if any(is_device(target, command.folder) for target in command.arguments):
        return Finding("device", "write-device", _OVERWRITES, command.argv, (DD,))
    return None


@judges("cp", "install", "mv", "pv", "shred", "badblocks", "scrub", "nwipe", "truncate")
def copies_over(command: Command) -> Finding | None:
    """`cp x /dev/sda` and programs that write to the device that they are given."""
    options = parse(command.arguments, short="tSns" if command.name != "badblocks" else "bcdeopt")
    if options.has("help", "version"):
        return None
    targets = options.operands[-1:] if command.name in ("cp", "install", "mv") else options.operands
    if command.name == "pv":
        targets = [options.values.get("o", "")]
    if command.name == "badblocks" and not options.has("w"):
        return None
    if any(is_device(target, command.folder) for target in targets):
        return Finding("device", "write-device", _OVERWRITES, command.argv, (DD,))
    return None


@judges("mkfs", "mke2fs", "mkswap", "mkdosfs", "mkntfs", "mkexfatfs", "mkreiserfs", "wipefs")
def formats(command: Command) -> Finding | None:
    options = parse(command.arguments, short="tLUobiEmNOTImnp", long=("type", "label", "offset", "types", "backup"))
    if options.has("help", "version", "V") or (
        command.name == "wipefs" and not options.has("a", "all", "o", "offset", "f")
    ):
        return None
    if options.has("n", "no-act") and command.name in ("wipefs", "mke2fs"):
        return None
    if any(is_device(operand, command.folder) for operand in options.operands):
        return Finding("storage", "make-file-system", "destroys the file system on a device", command.argv, (MKFS,))
    return None


# Program, words of which one must follow as an operand or option (none: always), whether a device must be named too.
_DESTROYING: dict[str, tuple[frozenset[str], bool]] = {
    "blkdiscard": (frozenset(), True),
    "sgdisk": (frozenset(["-o", "-Z", "-z", "--clear", "--zap", "--zap-all", "-d", "--delete"]), True),
    "parted": (frozenset(["mklabel", "mktable", "rm", "mkpart", "resizepart"]), True),
    "nvme": (frozenset(["format", "sanitize", "delete-ns"]), False),
    "hdparm": (frozenset(["--security-erase", "--security-erase-enhanced", "--trim-sector-ranges"]), True),
    "cryptsetup": (frozenset(["luksFormat", "luksErase", "erase", "reencrypt"]), False),
    "pvcreate": (frozenset(), True),
    "pvremove": (frozenset(), True),
    "lvremove": (frozenset(), False),
    "vgremove": (frozenset(), False),
    "zpool": (frozenset(["destroy", "labelclear"]), False),
    "zfs": (frozenset(["destroy"]), False),
    "mdadm": (frozenset(["--zero-superblock"]), False),
}


@judges(*_DESTROYING)
def destroys(command: Command) -> Finding | None:
    words, on_device = _DESTROYING[command.name]
    if {"--help", "--version", "-h", "-V", "--test", "--dry-run"} & set(command.arguments) or not command.arguments:
        return None
    if words and not words & set(command.arguments):
        return None
    if on_device and not any(is_device(argument, command.folder) for argument in command.arguments):
        return None
    return Finding("storage", "destroy-volume", "destroys a volume, pool or partition table", command.argv)


@judges("umount")
def unmounts(command: Command) -> Finding | None:
    operands = parse(command.arguments, short="tO").operands
    if any(operand in ("/", "/usr", "/var", "/boot", "/home") for operand in operands):
        return Finding("storage", "unmount-critical", "takes a file system from under the running host", command.argv)
    return None
