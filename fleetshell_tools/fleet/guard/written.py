"""What the files hold that a command itself writes, so that it can be followed when it runs them."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from fleetshell_tools.fleet.guard.paths import resolve
from fleetshell_tools.fleet.guard.symbols import LOCAL, UNKNOWN, plain

if TYPE_CHECKING:
    from fleetshell_tools.fleet.guard.follow import Follower


def content(follower: Follower, path: str) -> str:
    """What a file holds: what this command wrote to it, else the mark for a file on the server."""
    if path in ("/dev/null", ""):
        return ""
    if path.startswith(("/dev/tcp/", "/dev/udp/")):
        return UNKNOWN
    name = resolve(path, follower.state.folder)
    if name in ("/proc/mounts", "/proc/self/mounts", "/etc/mtab"):
        return "/dev/sda1 / ext4 rw 0 0\n"
    # The number of a daemon that nobody logs in without stands for the first process, which nobody can do without either.
    return follower.state.files.get(name, "1\n" if _NEEDED_PID.fullmatch(name) else LOCAL)


_NEEDED_PID = re.compile(r"(?:/var)?/run/(?:sshd|dbus/pid|dbus)(?:\.pid)?")


def write(follower: Follower, path: str, text: str, *, append: bool = False) -> None:
    """Remember what a file holds from now on."""
    name = resolve(path, follower.state.folder)
    before = follower.state.files.get(name, "") if append else ""
    follower.state.files[name] = follower.budget.value(before + text)


def quoted(word: str) -> str:
    """A word as shell code that evaluates to it again, active wildcards included."""
    return word if plain(word) != word else shlex.quote(word)
