"""What no command may touch on the relay's own machine: FleetShell's home, which holds the SSH key and the TOTP secret."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from fleetshell_tools.fleet.guard.paths import resolve
from fleetshell_tools.fleet.guard.symbols import has_wildcard, is_known, matches, shown

_BELOW = frozenset(
    "tar cp rsync scp zip 7z cpio pax find fd grep egrep fgrep zgrep rg ag ack mv rm ln chmod chown chgrp shred install git "
    "bsdtar ar dar borg restic rclone mount".split()
)
"""Programs that work on all that lies below a folder."""

EFFECT = "touches FleetShell's own home, which holds the relay's keys"


def names(text: str, private: str) -> bool:
    """Whether a text names the folder as it stands, be it in a language that is not followed."""
    return private in text or f"/{PurePosixPath(private).name}" in text


def may_reach(path: str, private: str) -> bool:
    """Whether what a program of ours is given could be a path, or a glob, that is, holds or lies in the folder `private`.

    Relative paths are taken from the login's home, and links of this machine are followed.
    """
    if "/" not in path and not path.startswith((".", "~")):
        return False
    start = re.split(r"[*?\[]", os.path.join(os.path.expanduser("~"), os.path.expanduser(path)))[0]
    whole = start == os.path.join(os.path.expanduser("~"), os.path.expanduser(path))
    for place in {os.path.normpath(start), os.path.realpath(start)}:
        inside = f"{place}/".startswith(f"{private}/")
        holds = f"{private}/".startswith(f"{place.rstrip('/')}/" if whole else place)
        if inside or holds:
            return True
    return False


def touches(words: Sequence[str], folder: str, private: str) -> bool:
    """Whether a command, as it would run in `folder`, reads or changes something in the folder `private`.

    Args:
        words: The evaluated words, or a redirection's operator and target.
    """
    below = shown(words[0]).rpartition("/")[2] in _BELOW if words else False
    for word in words[1:]:
        for candidate in {word, word.partition("=")[2], word.partition(":")[2]} - {""}:
            if _reaches(resolve(candidate, folder), private, below):
                return True
    # Without a path (`grep -r PATTERN`, `find -name N`) these work on the folder that they are in.
    paths = [word for word in words[1:] if not word.startswith("-")]
    implied = len(paths) <= 1 or (len(words) > 1 and words[1].startswith("-") and words[0] == "find")
    return below and implied and _reaches(resolve(".", folder), private, below)


def _reaches(path: str, private: str, below: bool) -> bool:
    if not path:
        return False
    parts, wanted = [part for part in path.split("/") if part], private.strip("/").split("/")
    for part, name in zip(parts, wanted, strict=False):
        plain = is_known(part) and not has_wildcard(part)
        if part != name if plain else not matches(part, name):
            return False
    return below or len(parts) >= len(wanted)
