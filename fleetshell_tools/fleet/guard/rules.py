"""What judges are given and what they answer, and the register in which they stand by the program's name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fleetshell_tools.fleet.guard.symbols import matches, shown

CLASSES = (
    "filesystem",
    "device",
    "massdelete",
    "access",
    "power",
    "startup",
    "process",
    "forkbomb",
    "database",
    "container",
    "storage",
    "interpreter",
    "obfuscation",
)

RM, DD, MKFS, SHUTDOWN, REBOOT = DEFAULT_ENTRIES = ("rm -rf /", "dd if=", "mkfs", "shutdown", "reboot")


@dataclass(frozen=True)
class Command:
    """A simple command as it would run.

    Args:
        argv: Its evaluated words; the program's name first, without its folder.
        folder: The working directory, absolute; it starts with the unknown mark where it is not known.
        stdin: What it would read, as far as it is known; of a redirection, what it would write.
        user: The login user, where that is known.
    """

    argv: tuple[str, ...]
    folder: str
    stdin: str = ""
    user: str = ""

    @property
    def name(self) -> str:
        return self.argv[0]

    @property
    def arguments(self) -> tuple[str, ...]:
        return self.argv[1:]


@dataclass(frozen=True)
class Finding:
    """A rule that a command breaks.

    Args:
        kind: One of CLASSES.
        rule: The rule's name.
        effect: Completes the sentence "… would run X, which …".
        argv: What would run.
        entries: The default entries of `dangerous_commands` that switch the rule on; without any it is always on.
    """

    kind: str
    rule: str
    effect: str
    argv: tuple[str, ...]
    entries: tuple[str, ...] = ()

    @property
    def resolved(self) -> str:
        return " ".join(shown(word) for word in self.argv)


EVERY = "*"
"""The name under which judges of every program stand."""

Judge = Callable[[Command], "Finding | None"]
_SHELLS = ("bash", "dash", "sh", "zsh", "ksh", "env", "sudo", "python3", "perl")
_JUDGES: dict[str, list[Judge]] = {}


def judges(*names: str) -> Callable[[Judge], Judge]:
    """Register a judge for the programs of these names."""

    def register(judge: Judge) -> Judge:
        for name in names:
            _JUDGES.setdefault(name, []).append(judge)
        return judge

    return register


def judge(command: Command) -> list[Finding]:
    """What the judges of the command's program say; `mkfs.ext4` is judged as `mkfs` too."""
    found = [*_JUDGES.get("mkfs" if command.name.startswith("mkfs.") else command.name, ()), *_JUDGES[EVERY]]
    return [finding for one in found if (finding := one(command)) is not None]


def judged_names(pattern: str) -> list[str]:
    """The judged programs that a name with wildcards may stand for, and the shells."""
    return [name for name in (*_SHELLS, *_JUDGES) if name != EVERY and matches(pattern, name)]
