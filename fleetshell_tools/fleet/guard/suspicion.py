"""What is refused for its shape: programs that cannot be known, shells joined to a network, output without end."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

from fleetshell_tools.fleet.guard.paths import is_critical, is_device
from fleetshell_tools.fleet.guard.rules import Finding
from fleetshell_tools.fleet.guard.symbols import UNKNOWN, empty_unset

_ENDLESS = ("yes", "cat", "tr", "base64")
_SOURCES = frozenset(["/dev/zero", "/dev/urandom", "/dev/random"])


def unresolved(words: Sequence[str], folder: str, fed: int) -> tuple[str, str] | None:
    """Rule and effect for a program that cannot be known, where its arguments look like those of a destructive one."""
    arguments = [empty_unset(word) for word in words[1:]]
    recursive = any(word.startswith("-") and not word.startswith("--") and set(word) & set("rRf") for word in arguments)
    if recursive and any(is_critical(word, folder) for word in arguments if word and not word.startswith("-")):
        return "unresolved-command", "may delete what the host needs"
    if any(word.startswith("of=") and is_device(word[3:], folder) for word in arguments):
        return "unresolved-command", "may overwrite a device"
    if fed and words[0] == UNKNOWN:
        return "undecodable-code", "runs code that cannot be known before"
    return None


def joined(argv: Sequence[str], targets: Sequence[str], shells: frozenset[str]) -> Finding | None:
    """A shell whose input or output is a network connection, or a program that fills a disk without end.

    Args:
        argv: The command.
        targets: Where its redirections go to and come from.
        shells: The names of shells.
    """
    name = posixpath.basename(argv[0]) if argv else ""
    if name in shells and any(target.startswith(("/dev/tcp/", "/dev/udp/")) for target in targets):
        return Finding("obfuscation", "remote-shell", "gives a shell to another host", (*argv, *targets))
    endless = name == "yes" or (name in _ENDLESS and _SOURCES & {*argv, *targets})
    kept = [target for target in targets if target.startswith("/") and not target.startswith("/dev/")]
    if endless and kept:
        return Finding("filesystem", "fill-disk", "fills the file system", (*argv, ">", *kept))
    return None
