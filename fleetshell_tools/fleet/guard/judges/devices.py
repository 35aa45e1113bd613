"""Judges of class device and storage: what overwrites a disk, or takes a file system, volume or table from it."""

from __future__ import annotations

import re

from fleetshell_tools.fleet.guard.options import parse
from fleetshell_tools.fleet.guard.paths import is_critical_file, is_device, resolve
from fleetshell_tools.fleet.guard.rules import DD, EVERY, MKFS, RM, Command, Finding, judges
from fleetshell_tools.fleet.guard.symbols import MARKS

_OVERWRITES = "overwrites a device"


@judges("dd", "dcfldd", "dc3dd")
def copies_blocks(command: Command) -> Finding | None:
    settings = [argument.partition("=") for argument in command.arguments if "=" in argument]
    targets = [value for name, _, value in settings if name in ("of", "hof", "wipe", "hwipe")]
    if any(is_device(target, command.folder) for target in targets):
        return Finding("device", "dd-device", _OVERWRITES, command.argv, (DD,))
    if any(is_critical_file(target, command.folder) for target in targets):
        return Finding("filesystem", "overwrite-critical", "overwrites a file that the host needs", command.argv, (RM,))
    return None


@judges(">", ">>", ">|", "&>", "&>>", ">&", "<>", "tee")
def writes(command: Command) -> Finding | None:
    if any(is_device(target, command.folder) for target in command.arguments):
        return Finding("device", "write-device", _OVERWRITES, command.argv, (DD,))
    return None


@judges("cp", "install", "mv", "pv", "shred", "cpio", "badblocks", "scrub", "nwipe", "truncate", "wipe", "rsync")
def copies_over(command: Command) -> Finding | None:
    """`cp x /dev/sda` and programs that write to the device that they are given."""
    options = parse(command.arguments, short={"badblocks": "bcdeopt", "pv": "oNLBsDHSEwi"}.get(command.name, "tSns"))
    if options.has("help", "version"):
        return None
    targets = options.operands[-1:] if command.name in ("cp", "install", "mv", "rsync") else options.operands
    if command.name == "pv":
        targets = [options.value("o", "output") or ""]
    if command.name == "badblocks" and not options.has("w"):
        return None
    if any(is_device(target, command.folder) for target in targets):
        return Finding("device", "write-device", _OVERWRITES, command.argv, (DD,))
    return None


_OUTPUT = re.compile(r"(?:-o|-O|-out|--out|--output|--outfile|--output-document|--output-file)(?:=(.*))?")
_OTHERWISE = frozenset("grep egrep fgrep find test [ ssh scp sftp ls ps lsblk mount set shopt useradd usermod".split())
"""Programs whose option -o names no output."""


@judges(EVERY)
def puts_out(command: Command) -> Finding | None:
    """Any program that is told to write its output to a device, or over what the host needs."""
    if command.name in _OTHERWISE:
        return None
    for position, word in enumerate(command.arguments):
        match = _OUTPUT.fullmatch(word) if word.startswith("-") else None
        if match is None:
            continue
        target = match[1] if match[1] is not None else "".join(command.arguments[position + 1 : position + 2])
        if is_device(target, command.folder):
            return Finding("device", "write-device", _OVERWRITES, command.argv, (DD,))
        if is_critical_file(target, command.folder):
            return Finding(
                "filesystem", "overwrite-critical", "overwrites a file that the host needs", command.argv, (RM,)
            )
    return None


_IMAGERS = {
    "xfs_copy": -1,
    "split": -1,
    "ddrescue": 1,
    "dd_rescue": 1,
    "bmaptool": -1,
    "partclone.restore": -1,
    "partimage": 1,
    "ntfsclone": -1,
    "sg_format": -1,
    "sg_sanitize": -1,
    "sg_unmap": -1,
    "debugfs": -1,
    "e2image": 1,
    "qemu-img": -1,
    "qemu-nbd": -1,
    "virt-resize": -1,
    "fsarchiver": -1,
}


@judges(*_IMAGERS)
def restores_image(command: Command) -> Finding | None:
    """Programs whose destination is a certain operand, or the value of an option."""
    options = parse(command.arguments, short="sOob", long=("source", "output", "overwrite"))
    named = [options.value(name) or "" for name in ("o", "O", "output", "overwrite")]
    at = _IMAGERS[command.name]
    verbs = {"qemu-img": "convert", "fsarchiver": "restfs"}
    if (verb := verbs.get(command.name)) and verb not in options.operands:
        return None
    if command.name == "debugfs" and not options.has("w"):
        return None
    targets = [*named, *(options.operands[at : at + 1] if at > 0 else options.operands[-1:])]
    if any(target and is_device(target, command.folder) for target in targets):
        return Finding("device", "write-device", _OVERWRITES, command.argv, (DD,))
    return None


@judges("socat")
def connects(command: Command) -> Finding | None:
    for address in command.arguments:
        kind, _, rest = address.partition(":")
        if kind.upper() in ("OPEN", "FILE", "GOPEN", "CREATE") and is_device(rest.partition(",")[0], command.folder):
            source = command.arguments.index(address) == len(command.arguments) - 2 and {"-u"} & set(command.arguments)
            return None if source else Finding("device", "write-device", _OVERWRITES, command.argv, (DD,))
    return None


@judges("tar", "bsdtar")
def packs_over(command: Command) -> Finding | None:
    """`tar cf /dev/sda`: the first word may hold the options without a dash."""
    words = list(command.arguments)
    if words and not words[0].startswith("-"):
        words[0] = "-" + words[0]
    options = parse(words, short="fCTX", long=("file", "directory"))
    writing = options.has("c", "r", "u", "A", "create", "append", "update")
    if writing and is_device(options.value("f", "file") or "", command.folder):
        return Finding("device", "write-device", _OVERWRITES, command.argv, (DD,))
    return None


_DETACHING = re.compile(
    r"/sys/(?:block|class/block|bus/\w+/devices|class/scsi_device|devices)/.+/(?:delete|remove|unbind)"
)


@judges(">", ">>", ">|", "tee")
def detaches(command: Command) -> Finding | None:
    """The kernel takes a device away when something is written there."""
    if any(_DETACHING.fullmatch(resolve(target, command.folder)) for target in command.arguments):
        return Finding("device", "detach-device", "takes a device away from the running host", command.argv)
    return None


@judges("efibootmgr")
def forgets_boot(command: Command) -> Finding | None:
    """Boot entries of the firmware."""
    deleting = parse(command.arguments, short="bdpLlo").has("B", "delete-bootnum", "O", "delete-bootorder")
    return Finding("device", "delete-boot-entry", "deletes what the firmware boots", command.argv) if deleting else None


@judges("flashrom", "flashcp", "flash_erase", "nandwrite", "mtd_debug", "fwupdtool", "afuefi")
def flashes(command: Command) -> Finding | None:
    writing = {"-w", "--write", "-E", "--erase", "erase", "write", "install-blob"} & set(command.arguments)
    if writing or command.name in ("flashcp", "flash_erase", "nandwrite"):
        return Finding("device", "write-firmware", "overwrites firmware", command.argv)
    return None


@judges(
    "mkfs",
    "mke2fs",
    "mkswap",
    "mkdosfs",
    "mkntfs",
    "mkexfatfs",
    "mkreiserfs",
    "mkudffs",
    "newfs",
    "jfs_mkfs",
    "mkexfat",
    "mkf2fs",
    "wipefs",
)
def formats(command: Command) -> Finding | None:
    options = parse(command.arguments, short="tLUobiEmNOTImnp", long=("type", "label", "offset", "types", "backup"))
    if options.has("help", "version", "V") or (
        command.name == "wipefs" and not options.has("a", "all", "o", "offset", "f")
    ):
        return None
    if options.has("n", "no-act") and command.name in ("wipefs", "mke2fs"):
        return None
    # Where nothing is known of the operand, it is taken for a device: a file system is seldom made on anything else.
    if any(is_device(operand, command.folder) or not operand.strip(MARKS) for operand in options.operands):
        return Finding("storage", "make-file-system", "destroys the file system on a device", command.argv, (MKFS,))
    return None


# Program, words of which one must follow as an operand or option (none: always), whether a device must be named too.
_DESTROYING: dict[str, tuple[frozenset[str], bool]] = {
    "blkdiscard": (frozenset(), True),
    "sgdisk": (frozenset(["-o", "-Z", "-z", "--clear", "-n", "--new", "--zap", "--zap-all", "-d", "--delete"]), True),
    "parted": (frozenset(["mklabel", "mktable", "rm", "mkpart", "resizepart"]), True),
    "ceph-volume": (frozenset(["zap"]), False),
    "lvresize": (frozenset(["-f", "--force", "--yes", "-y"]), False),
    "targetcli": (frozenset(["clearconfig", "delete"]), False),
    "diskutil": (frozenset("eraseDisk eraseVolume partitionDisk zeroDisk secureErase reformat".split()), False),
    "multipath": (frozenset(["-F", "-W"]), False),
    "nvme": (frozenset(["format", "sanitize", "delete-ns"]), False),
    "hdparm": (
        frozenset(
            [
                "--security-erase",
                "--security-erase-enhanced",
                "--trim-sector-ranges",
                "--dco-restore",
                "--fwdownload",
                "--write-sector",
                "--make-bad-sector",
                "--security-set-pass",
            ]
        ),
        True,
    ),
    "cryptsetup": (
        frozenset(
            ["luksFormat", "luksErase", "erase", "reencrypt", "luksRemoveKey", "luksKillSlot", "luksHeaderRestore"]
        ),
        False,
    ),
    "pvcreate": (frozenset(), True),
    "pvremove": (frozenset(), True),
    "lvremove": (frozenset(), False),
    "lvreduce": (frozenset(), False),
    "lvconvert": (frozenset(["--merge", "--mergesnapshot"]), False),
    "vgremove": (frozenset(), False),
    "vgreduce": (frozenset(), False),
    "vgcreate": (frozenset(), True),
    "zpool": (frozenset(["destroy", "labelclear", "create", "remove", "detach"]), False),
    "zfs": (frozenset(["destroy", "rollback"]), False),
    "btrfs": (frozenset(["delete", "del", "remove", "rescue"]), False),
    "mdadm": (frozenset(["--zero-superblock", "--stop", "-S", "--create", "-C", "--fail", "-f"]), False),
    "dmsetup": (frozenset(["remove", "remove_all", "wipe_table", "clear"]), False),
    "xfs_repair": (frozenset(["-L"]), False),
    "vdo": (frozenset(["remove"]), False),
    "stratis": (frozenset(["destroy"]), False),
    "ceph": (
        frozenset(["purge", "destroy", "delete", "rm", "--yes-i-really-really-mean-it", "--yes-i-really-mean-it"]),
        False,
    ),
    "rbd": (frozenset(["rm", "purge", "remove"]), False),
    "rados": (frozenset(["rmpool", "purge"]), False),
    "gluster": (frozenset(["delete", "stop", "reset-brick"]), False),
    "drbdadm": (frozenset(["invalidate", "wipe-md", "create-md"]), False),
    "iscsiadm": (frozenset(["--logout", "-u", "delete"]), False),
    "storcli": (frozenset(["delete", "del", "init"]), False),
    "megacli": (frozenset(["-CfgClr", "-CfgLdDel", "-LDInit"]), False),
    "ssacli": (frozenset(["delete", "modify"]), False),
}


@judges(*_DESTROYING)
def destroys(command: Command) -> Finding | None:
    words, on_device = _DESTROYING[command.name]
    if {"--help", "--version", "-h", "-V", "--test", "--dry-run"} & set(command.arguments) or not command.arguments:
        return None
    if words and not words & set(command.arguments):
        return None
    snapshot = any("@" in word and "%" not in word for word in command.arguments) and not any(
        re.fullmatch(r"-[a-zA-Z]*[rR][a-zA-Z]*", word) for word in command.arguments
    )
    if command.name == "zfs" and "destroy" in command.arguments and snapshot:
        return None
    if command.name == "lvresize" and not re.search(
        r"(?:-L|--size|-l|--extents)[= ]?[^+\s=]", " ".join(command.arguments)
    ):
        return None
    if on_device and not any(is_device(argument, command.folder) for argument in command.arguments):
        return None
    return Finding("storage", "destroy-volume", "destroys a volume, pool or partition table", command.argv)


_LISTING = frozenset(
    [
        "-l",
        "--list",
        "-d",
        "--dump",
        "-s",
        "--show-size",
        "-V",
        "--verify",
        "-v",
        "--version",
        "-h",
        "--help",
        "-x",
        "-J",
    ]
)


@judges("fdisk", "sfdisk", "gdisk", "cfdisk", "cgdisk", "parted", "fixparts")
def partitions(command: Command) -> Finding | None:
    """Programs that read what to do with a partition table from stdin."""
    words = set(command.arguments)
    if words & _LISTING or words & {"--no-act", "-n", "print", "--backup"}:
        return None
    zeroes = words & {"-z", "--zero", "--delete", "--wipe=always"}
    if (command.stdin.strip() or zeroes) and any(is_device(word, command.folder) for word in words):
        return Finding("storage", "destroy-volume", "destroys a volume, pool or partition table", command.argv)
    return None


@judges("umount")
def unmounts(command: Command) -> Finding | None:
    options = parse(command.arguments, short="tO")
    operands = options.operands
    everything = options.has("a", "all") and not options.has("t", "types", "O")
    if everything or any(operand in ("/", "/usr", "/var", "/boot", "/home") for operand in operands):
        return Finding("storage", "unmount-critical", "takes a file system from under the running host", command.argv)
    return None
