"""Programs of ours for hosts: constant shell text, data as positional parameters, and what they print taken apart.

A program runs in `sh` (POSIX; dash, bash, busybox ash), whatever the login shell is. Nothing is ever written into its text:
paths, patterns and names reach it as `$1`, `$2`, …, so they need no quoting of their own. What it may use:

- `part NAME` begins a part of the output; `Ran.part(NAME)` gives its bytes;
- `root COMMAND…` runs a command by `sudo -n` where the server's file says `sudo: true` and the login is not root;
- `has COMMAND` tells whether a command is there;
- the facts of the host as variables, see `FACTS`. They are found out once a connection, in the same round trip.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from fleetshell_tools.core.text import decode, one_line
from fleetshell_tools.core.types import ALLOWED, Verdict

FACTS = {
    "user": "the login user's name",
    "uid": "and number",
    "kernel": "`uname -s`",
    "release": "`uname -r`",
    "machine": "`uname -m`",
    "host": "what the host calls itself",
    "os_id": "ID of os-release",
    "os_version": "VERSION_ID of os-release",
    "os_name": "PRETTY_NAME of os-release",
    "systemd": "1 where systemd is the init",
    "journal": "1 where there is a journal to read",
    "tools": "gnu, busybox or other: the flavour of the file utilities",
    "stat": "c where `stat -c` works, f where `stat -f %z` does",
    "timeout": "1 where `timeout` is there",
    "setsid": "1 where `setsid` is there",
    "sha256": "sha256sum, shasum, openssl or empty",
    "sudo_state": "root, yes (without a password), password, or none",
}
"""The shell variables that a program finds, each empty where it is not so."""

_PRELUDE = r"""
LC_ALL=C; export LC_ALL
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin
part() { printf '\036%s %s\n' "$0" "$1"; }
has() { command -v "$1" >/dev/null 2>&1; }
root() { if [ -n "$sudo" ]; then sudo -n -- "$@"; else "$@"; fi; }
"""

_DETECT = r"""
user=$(id -un 2>/dev/null) uid=$(id -u 2>/dev/null)
IFS=' ' read -r kernel host release machine <<END
$(uname -snrm 2>/dev/null)
END
os_id= os_version= os_name=
while IFS='=' read -r k v; do
  v=${v#[\"\']} v=${v%[\"\']}
  case $k in ID) os_id=$v ;; VERSION_ID) os_version=$v ;; PRETTY_NAME) os_name=$v ;; esac
done 2>/dev/null </etc/os-release
systemd= journal= tools=other stat= timeout= setsid= sha256=
if [ -d /run/systemd/system ] && has systemctl; then systemd=1; fi
if has journalctl && { [ -d /run/log/journal ] || [ -d /var/log/journal ]; }; then journal=1; fi
case $(ls --version 2>&1) in *GNU*) tools=gnu ;; *usy[Bb]ox*) tools=busybox ;; esac
if [ -n "$(stat -c %s / 2>/dev/null)" ]; then stat=c; elif [ -n "$(stat -f %z / 2>/dev/null)" ]; then stat=f; fi
if has timeout; then timeout=1; fi
if has setsid; then setsid=1; fi
for s in sha256sum shasum openssl; do if has $s; then sha256=$s; break; fi; done
if [ "$uid" = 0 ]; then sudo_state=root
elif ! has sudo; then sudo_state=none
elif sudo -n true 2>/dev/null; then sudo_state=yes
else sudo_state=password; fi
part facts
"""
_DETECT += "".join(f"printf '%s=%s\\n' {name} \"${name}\"\n" for name in FACTS)

_LONGEST_FACT = 200


@dataclass(frozen=True)
class Script:
    """A program of ours and its data.

    Attributes:
        name: What the audit log calls it: the tool's name.
        text: Shell text; a constant.
        data: `$1`, `$2`, …; no NUL.
        stdin: What it reads from its standard input.
        judged: A command line that does what this does to the data, for the guard; "" where it only reads.
        shown: What stands behind the name in the audit log, in place of `data`.
        policy: What the operator's policy says of it, besides the guard.
    """

    name: str
    text: str
    data: tuple[str, ...] = ()
    stdin: bytes | None = field(default=None, repr=False)
    judged: str = ""
    shown: str | None = None
    policy: Verdict = ALLOWED

    @property
    def label(self) -> str:
        """What it is called in the audit log and in messages."""
        return one_line(f"{self.name} {shlex.join(self.data) if self.shown is None else self.shown}", 500)

    def command(self, nonce: str, facts: Facts | None, *, sudo: bool) -> str:
        """The command line that runs it.

        Args:
            nonce: Marks the beginning of parts; unguessable and new.
            facts: What is known of the host; None where that has to be found out on the way.
            sudo: Whether `root` asks sudo; it does not where the login is root.
        """
        asked = '[ "$uid" != 0 ] && sudo=1 || sudo=\n' if sudo else "sudo=\n"
        known = _DETECT if facts is None else facts.assignments()
        text = f"{_PRELUDE}{known}{asked}{self.text}"
        return "exec " + shlex.join(["sh", "-c", text, nonce, *self.data])


@dataclass(frozen=True)
class Facts:
    """What was found out about a host; the values come from it, so they are data and may be lies."""

    values: Mapping[str, str]

    def __getitem__(self, name: str) -> str:
        return self.values.get(name, "")

    def assignments(self) -> str:
        """Shell text that sets the variables."""
        return "".join(f"{name}={shlex.quote(self[name])}\n" for name in FACTS)


@dataclass(frozen=True)
class Ran:
    """How a program of ours ended, and what it printed.

    Attributes:
        parts: What followed each `part NAME`, up to the next one.
        complete: Whether all of the output was kept.
        facts: What is known of the host now.
    """

    parts: Mapping[str, bytes]
    exit_code: int | None
    stderr: str
    complete: bool
    facts: Facts
    duration_ms: int = 0

    def part(self, name: str) -> bytes:
        """The bytes of a part; none where there was no such part."""
        return self.parts.get(name, b"")

    def text(self, name: str) -> str:
        """A part as clean text."""
        return decode(self.part(name))

    def lines(self, name: str) -> list[str]:
        """The lines of a part as clean text."""
        return self.text(name).splitlines()

    def fields(self, name: str) -> dict[str, str]:
        """A part that consists of `key=value` lines; what is none is left out."""
        pairs = (line.partition("=") for line in self.lines(name))
        return {key: value for key, mark, value in pairs if mark}


def parts(output: bytes, nonce: str) -> dict[str, bytes]:
    """Take a program's output apart at its `part` lines; of two parts with one name the bytes are joined."""
    found: dict[str, bytes] = {}
    for piece in output.split(f"\x1e{nonce} ".encode())[1:]:
        name, _, content = piece.partition(b"\n")
        key = name.decode("ascii", "replace")
        found[key] = found.get(key, b"") + content
    return found


def facts_in(found: Mapping[str, bytes]) -> Facts | None:
    """The facts that a program printed on its way, or None where it printed none."""
    if "facts" not in found:
        return None
    values = {}
    for line in decode(found["facts"]).splitlines():
        name, _, value = line.partition("=")
        if name in FACTS:
            values[name] = value[:_LONGEST_FACT]
    return Facts(values)


_SUDO = re.compile(r"^sudo: (.*)$", re.MULTILINE)


def sudo_refusal(stderr: str, command: str, facts: Facts) -> str:
    """Why sudo refused, with the line of sudoers that would allow a command; "" where it did not.

    Args:
        command: What `root` was to run, as sudoers would name it: `/usr/bin/systemctl restart nginx.service`.
    """
    said = _SUDO.search(stderr)
    if said is None:
        return ""
    user = facts["user"] or "the login user"
    return (
        f"sudo refused on this host ({one_line(said[1], 120)}). The operator can allow it with a line in sudoers (visudo): "
        f"{user} ALL=(root) NOPASSWD: {command}"
    )
