"""The hosts of an ssh configuration: the aliases that its files name, and what ssh itself makes of each (`ssh -G`)."""

from __future__ import annotations

import glob
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from fleetshell_tools.core.errors import ConfigError, FleetShellError

TAKEN = {
    "addressfamily": "AddressFamily",
    "bindaddress": "BindAddress",
    "ciphers": "Ciphers",
    "compression": "Compression",
    "hostkeyalgorithms": "HostKeyAlgorithms",
    "ipqos": "IPQoS",
    "kexalgorithms": "KexAlgorithms",
    "macs": "MACs",
    "pubkeyacceptedalgorithms": "PubkeyAcceptedAlgorithms",
    "rekeylimit": "RekeyLimit",
    "requiredrsasize": "RequiredRSASize",
}
"""What is taken into `ssh_options` where it differs from ssh's default: what a connection may depend on."""

_DEEPEST = 16
"""ssh's own limit on files that include files (readconf.c, READCONF_MAX_DEPTH)."""


def aliases(path: Path) -> tuple[list[str], list[str]]:
    """The host names after `Host` without patterns, in order, and the patterns; files that are included count too.

    Raises:
        ConfigError: The file can't be read.
    """
    names: dict[str, None] = {}
    patterns: dict[str, None] = {}
    for words in _lines(path, 0):
        if words[0].lower() == "host":
            for word in words[1:]:
                (patterns if set(word) & set("*?!") else names)[word] = None
    return list(names), list(patterns)


def _lines(path: Path, depth: int) -> Iterator[list[str]]:
    try:
        text = path.read_text(errors="surrogateescape")
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}.") from None
    for line in text.splitlines():
        words = _words(line)
        if not words:
            continue
        if words[0].lower() == "include" and depth < _DEEPEST:
            for pattern in words[1:]:
                full = os.path.join(os.path.expanduser("~/.ssh"), os.path.expanduser(pattern))
                for name in sorted(glob.glob(full)):
                    yield from _lines(Path(name), depth + 1)
        yield words


def _words(line: str) -> list[str]:
    """A line's keyword and arguments; `Keyword=value` is the same as `Keyword value`."""
    try:
        return shlex.split(re.sub(r"^(\s*\w+)\s*=\s*", r"\1 ", line), comments=True)
    except ValueError:
        return []  # ssh will tell what is wrong with it


def resolved(path: Path | None, alias: str) -> dict[str, str]:
    """What ssh would use for an alias: lower-case names of options, of those that stand there twice the first.

    Args:
        path: The configuration; None is none at all, which gives ssh's defaults.

    Raises:
        FleetShellError: ssh is missing, or refuses the configuration.
    """
    program = shutil.which("ssh")
    if program is None:
        raise FleetShellError("ssh is not installed. Install it (Debian, Ubuntu: `apt install openssh-client`).")
    run = subprocess.run(
        [program, "-F", str(path or "/dev/null"), "-G", "--", alias],
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
    )
    if run.returncode != 0:
        raise FleetShellError(f"ssh refuses it: {run.stderr.strip() or f'exit code {run.returncode}'}")
    found: dict[str, str] = {}
    for line in run.stdout.splitlines():
        key, _, value = line.partition(" ")
        found.setdefault(key, value)
    return found


def options(settings: dict[str, str], defaults: dict[str, str]) -> dict[str, str]:
    """What of an alias' settings goes into `ssh_options`."""
    return {
        name: settings[key]
        for key, name in TAKEN.items()
        if key in settings and settings[key] != defaults.get(key) and settings[key] != "none"
    }
