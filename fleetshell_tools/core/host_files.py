"""Files on hosts, for programs of ours: what stands at a path, as root where the login may not, and why it can't be had.

A program here is a `CODE` that runs in the login's shell, or in root's where the server's file says `sudo: true` and the login
alone would not do. It is given `$path` (never with a leading `-`), `part`, `has` and the functions below, and its own data as `$1`, ….
"""

from __future__ import annotations

import stat
import time
from dataclasses import dataclass

from fleetshell_tools.core.errors import BadArgument, FleetShellError, NotFound
from fleetshell_tools.core.scripts import Ran, Script, sudo_refusal
from fleetshell_tools.core.servers import Server
from fleetshell_tools.core.text import one_line

_OUTER = r"""
code=$1 path=$2
shift 2
case $path in "~") path=$HOME ;; "~/"*) path=$HOME/${path#??} ;; /* | . | ./* | .. | ../*) ;; *) path=./$path ;; esac
set -- "$stat" "$sha256" "$tools" "$path" "$@"
if [ -n "$sudo" ] && ! {
%s
}; then
  if why=$(root sh -c : 2>&1 </dev/null); then root sh -c "$code" "$0" "$@"; exit; fi
  part sudo
  printf '%%s\n' "$why"
fi
eval "$code"
"""

# `state` tells what is at the path and, where nothing is, the nearest folder that is there.
_INNER = r"""
stat=$1 sha256=$2 tools=$3 path=$4
shift 4
LC_ALL=C; export LC_ALL
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin
part() { printf '\036%s %s\n' "$0" "$1"; }
has() { command -v "$1" >/dev/null 2>&1; }
digest() {
  case $sha256 in
    sha256sum) sha256sum ;;
    shasum) shasum -a 256 ;;
    openssl) openssl dgst -sha256 -r ;;
  esac
}
size() { if [ "$stat" = c ]; then stat -L -c %s "$1"; else wc -c <"$1"; fi; }
real() { readlink -f "$1" && printf .; }
kind() {
  if [ -f "$1" ]; then kind=file
  elif [ -d "$1" ]; then kind=directory
  elif [ -p "$1" ]; then kind=fifo
  elif [ -S "$1" ]; then kind=socket
  elif [ -b "$1" ]; then kind=block_device
  elif [ -c "$1" ]; then kind=character_device
  elif [ -h "$1" ]; then kind=broken_link
  else kind=missing
  fi
}
nearest() {
  near=$1
  while [ ! -e "$near" ]; do
    case $near in / | .) break ;; esac
    near=${near%"${near##*[!/]}"}
    case $near in */*) near=${near%/*} ;; *) near=. ;; esac
    [ -n "$near" ] || near=/
  done
}
state() {
  kind "$path"
  part state
  echo "kind=$kind"
  echo "login=$(id -un 2>/dev/null)"
  nearest "$path"
  if [ -d "$near" ] && [ ! -x "$near" ]; then echo barred=1; fi
  if [ -e "$path" ] && [ ! -r "$path" ]; then echo unreadable=1; fi
  if [ -h "$path" ]; then part link; real "$path"; fi
  part near
  printf '%s' "$near"
}
"""

READABLE = '[ -r "$path" ]'
"""As condition of `on_host`: the login may read what is at the path."""


def on_host(name: str, code: str, path: str, *data: str, enough: str, shown: str | None = None) -> Script:
    """A program about the file at `path`, which may be relative to the login's home or begin with `~/`.

    Args:
        name: The tool's name.
        code: Shell text; a constant.
        data: `$1`, `$2`, ….
        enough: A condition in shell, on `$path`: no root is needed.
        shown: What the audit log shows, in place of the path and the data.

    Raises:
        BadArgument: The path is empty.
    """
    if not path:
        raise BadArgument("The argument `path` is empty; give the path of a file on the server.")
    label = " ".join(one_line(item, 200) for item in (path, *data)) if shown is None else shown
    return Script(name, _OUTER % enough, (_INNER + code, path, *data), shown=label)


@dataclass(frozen=True)
class Found:
    """What stands at a path.

    Attributes:
        kind: file, directory, fifo, socket, block_device, character_device, broken_link or missing; links are followed.
        link: Where a link leads in the end, or None where it is none.
        near: The path itself, or the nearest folder above it that is there.
        barred: That folder can't be entered, so that nothing is known of the path.
        unreadable: It is there, and can't be read.
        login: As whom it was looked at.
    """

    kind: str
    link: str | None
    near: str
    barred: bool
    unreadable: bool
    login: str


def found(ran: Ran) -> Found:
    """What `state` told.

    Raises:
        FleetShellError: It told nothing.
    """
    fields = ran.fields("state")
    if "kind" not in fields:
        why = one_line(ran.stderr, 300) or f"exit code {ran.exit_code}"
        raise FleetShellError(f"The host could not look at the file ({why}). Look with execute_command.")
    link = path_text(ran.part("link")).removesuffix(".").removesuffix("\n") if "link" in ran.parts else None
    return Found(
        fields["kind"], link, path_text(ran.part("near")), "barred" in fields, "unreadable" in fields, fields.get("login", ""),
    )  # fmt: skip


def path_text(raw: bytes) -> str:
    """A path from a host for people: `\\xNN` for what is not UTF-8; it is not cleaned yet."""
    return raw.decode("utf-8", "backslashreplace")


_SPECIAL = {
    "fifo": "a named pipe (FIFO)",
    "socket": "a socket",
    "block_device": "a block device",
    "character_device": "a character device",
}


def unfit(
    server: Server, path: str, at: Found, ran: Ran, wanted: str, *, unreadable: bool = True
) -> FleetShellError | None:
    """Why there is no `wanted` ("file" or "directory") to be read at the path, and what to do next; None where there is one."""
    name = one_line(path, 300)
    if at.kind == "missing":
        if at.barred:
            return denied(server, name, ran, at.login, f"the folder {one_line(at.near, 200)} can't be entered")
        there = "" if at.near.rstrip("/") == "" or at.near == "." else f" {one_line(at.near, 200)} exists."
        return NotFound(f"There is no {name} on {server.id}.{there} Find it with search_files.")
    if at.kind == "broken_link":
        return NotFound(
            f"{name} on {server.id} is a symbolic link whose target {one_line(at.link or '', 200)} does not exist."
        )
    if at.kind in _SPECIAL:
        return BadArgument(
            f"{name} on {server.id} is {_SPECIAL[at.kind]}, which FleetShell does not open: give a regular file."
        )
    if at.kind != wanted:
        hint = (
            "List it with search_files (pattern *, max_depth 1)."
            if at.kind == "directory"
            else "Read it with read_file."
        )
        return BadArgument(f"{name} on {server.id} is a {at.kind}, not a {wanted}. {hint}")
    if at.unreadable and unreadable:
        return denied(server, name, ran, at.login, "it may not be read")
    return None


def denied(server: Server, name: str, ran: Ran, login: str, why: str) -> FleetShellError:
    """Permission denied, with what would help."""
    refused = sudo_refusal(ran.text("sudo"), "/bin/sh", ran.facts)
    if refused:
        remedy = refused
    elif "sudo" in ran.parts:
        remedy = f"sudo did not work there: {one_line(ran.text('sudo'), 200)}"
    elif server.sudo:
        remedy = "Not even root may; look at mount options and security modules."
    else:
        remedy = (
            f"Let the operator set `sudo: true` in the server's file (sudo without a password is needed), or give {login or 'the login'} "
            f"the right to it, by group or ACL."
        )
    return FleetShellError(f"{name} on {server.id}: permission denied for {login or 'the login user'}; {why}. {remedy}")


_KINDS = {
    stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link", stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket",
    stat.S_IFBLK: "block_device", stat.S_IFCHR: "character_device",
}  # fmt: skip


def kind_of(mode: int) -> str:
    """The type of a file from its mode, as stat(2) gives it."""
    return _KINDS.get(stat.S_IFMT(mode), "other")


def iso(seconds: float) -> str:
    """Seconds since the epoch as UTC; a time that no calendar has is shown as the number."""
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return str(int(seconds))
