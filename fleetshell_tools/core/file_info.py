"""A file's metadata on a host: the program that asks for it, and what it printed as fields."""

from __future__ import annotations

import stat
from typing import Any

from fleetshell_tools.core.host_files import Found, iso, kind_of, path_text
from fleetshell_tools.core.scripts import Ran
from fleetshell_tools.core.text import clean, one_line

ENOUGH = '[ -e "$path" ] || [ -h "$path" ]'
"""The login sees it; if not, a folder above it may be closed to it."""

# A format of several lines, because names of users may hold spaces. The eleventh character of `ls -l` tells of an ACL (`+`) or a
# security context (`.`); busybox has neither.
CODE = r"""
state
[ "$kind" != missing ] || exit 0
if [ "$stat" = c ]; then
  part stat
  stat -c 'size=%s
mode=%f
links=%h
uid=%u
gid=%g
owner=%U
group=%G
accessed=%X
modified=%Y' "$path"
fi
part target
if [ -h "$path" ]; then readlink "$path" && printf .; fi
part more
if [ "$tools" = gnu ]; then
  echo "mark=$(ls -ld "$path" | head -n 1 | cut -c 11)"
  has lsattr && [ ! -h "$path" ] && echo "flags=$(lsattr -d "$path" 2>/dev/null | head -n 1 | cut -d ' ' -f 1)"
  if [ "$(ls -ld "$path" | head -n 1 | cut -c 11)" = . ]; then echo "context=$(stat -c %C "$path" 2>/dev/null)"; fi
fi
part acl
if has getfacl && [ ! -h "$path" ]; then getfacl -cp "$path" 2>/dev/null | head -c 2000; fi
"""

_FLAGS = {"i": "immutable", "a": "append_only"}
_ORDINARY = ("user::", "group::", "other::")


def fields(ran: Ran, at: Found) -> dict[str, Any]:
    """The fields of `get_file_info` but for server and path."""
    nothing: dict[str, Any] = {
        "exists": at.kind != "missing", "type": None, "size_bytes": None, "mode": None, "permissions": None, "owner": None, "group": None,
        "modified": None, "accessed": None, "target": None, "resolved": None, "hard_links": None, "acl": None, "attributes": [],
        "selinux": None, "nearest_parent": None, "notice": None,
    }  # fmt: skip
    if at.kind == "missing":
        near = clean(at.near)
        return {**nothing, "nearest_parent": near, "notice": f"Of its path, {one_line(near)} exists."}
    told, more = ran.fields("stat"), ran.fields("more")
    notices = []
    link = "link" in ran.parts
    result = {**nothing, "type": "link" if link else at.kind}
    if mode := _hex(told.get("mode")):
        result |= {
            "type": kind_of(mode), "mode": f"{stat.S_IMODE(mode):04o}", "permissions": stat.filemode(mode),
            "size_bytes": _number(told.get("size")), "hard_links": _number(told.get("links")),
            "owner": _name(told, "owner", "uid"), "group": _name(told, "group", "gid"),
            "modified": _time(told.get("modified")), "accessed": _time(told.get("accessed")),
        }  # fmt: skip
    else:
        notices.append(
            "This host's stat can't be used, so size, mode, owner and times are not known; try execute_command with ls -l."
        )
    if link:
        result["target"] = clean(path_text(ran.part("target")).removesuffix(".").removesuffix("\n"))
        result["resolved"] = clean(at.link) if at.link else None
        notices.append(
            "A symbolic link whose target does not exist."
            if at.kind == "broken_link"
            else f"A symbolic link to a {at.kind}; size, mode, owner and times are the link's own. Ask for `resolved` for its target's."
        )
    entries = [line for line in ran.lines("acl") if line and not line.startswith(_ORDINARY)]
    if "mark" in more or entries:
        result["acl"] = more.get("mark") == "+" or bool(entries)
    if result["acl"]:
        notices.append(f"ACL: {one_line(', '.join(entries), 1000)}." if entries else "It has an ACL; see getfacl.")
    result["attributes"] = [name for letter, name in _FLAGS.items() if letter in more.get("flags", "")]
    result["selinux"] = more.get("context") or None
    result["notice"] = " ".join(notices) or None
    return result


def _hex(text: str | None) -> int:
    try:
        return int(text or "", 16)
    except ValueError:
        return 0


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


def _time(text: str | None) -> str | None:
    try:
        return iso(int(text or ""))
    except ValueError:
        return None


def _name(told: dict[str, str], name: str, number: str) -> str | None:
    """A name, or the number where the host has no name for it."""
    shown = told.get(name, "")
    return shown if shown not in ("", "UNKNOWN") else told.get(number)
