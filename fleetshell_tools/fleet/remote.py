"""What is really sent to a host: the command behind a marker, and the scripts that probe a host and end a command.

A POSIX login shell gets `echo NONCE $$`, a newline and the command itself: no extra process, and because sshd makes
every command a session leader, `$$` is the id of its process group and session. Other shells get `exec sh -c '…'` with
the command as base64, since their quoting and `$$` differ.
"""

from __future__ import annotations

import base64
import re
import secrets
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass

from fleetshell_tools.core.errors import BadArgument

POSIX_SHELLS = frozenset(
    {"sh", "bash", "dash", "ash", "zsh", "ksh", "ksh93", "mksh", "lksh", "oksh", "yash", "busybox"}
)
OTHER_SHELLS = frozenset({"fish", "tcsh", "csh", "elvish", "nu", "xonsh", "pwsh"})
"""Shells that can at least run `exec sh -c '…'`, or that a probe shows can't."""

TICKS = 100
"""Clock ticks a second in what /proc tells, on every Linux (`USER_HZ`)."""

_TOLERANCE = 5 * TICKS
"""How far our idea of when a process started may be off, in clock ticks: no process id comes round in that time."""

LONGEST_ENCODED = 4000
"""Characters of text that go into a command line as base64; dropbear takes no line of more than 9,000."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Wire:
    """A command as it goes over the connection."""

    nonce: str
    command: str
    stdin: bytes


@dataclass(frozen=True)
class Probe:
    """What one short look at a host told.

    `boot` is the id of its current boot and `uptime` the seconds since then, when our own clock said `looked_at`; ""
    and 0 where the host has no such thing. Where it is only `assumed` nobody has looked yet on this connection: the shell
    is the one that was there last time, and the first command tells the rest. `leader` is False where the server gives a
    command no session of its own (dropbear): all of a connection are in one.
    """

    shell: str
    system: str = ""
    boot: str = ""
    uptime: float = 0.0
    looked_at: float = 0.0
    assumed: bool = False
    leader: bool = True

    @property
    def posix(self) -> bool:
        return self.shell in POSIX_SHELLS

    def ticks_now(self) -> str:
        """The host's clock ticks since its boot, as they must be now; "" where they are not known."""
        return str(int((self.uptime + clock() - self.looked_at) * TICKS)) if self.uptime else ""


def clock() -> float:
    """Seconds on a clock that nobody sets and that goes on in suspend, as the hosts' uptime does."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def announce(nonce: str) -> str:
    """Shell code that prints our marker: the nonce and the shell's process id, which is its group's and session's too."""
    return f"echo {nonce} $$"


def introduce(nonce: str) -> str:
    """As `announce`, for the first command on a connection: prints what the probe would, by what a shell has built in.

    fish and csh refuse the whole command here, so that nothing of it runs where the login shell has changed.
    """
    reads = "; ".join(f"IFS= read -r {name} <{path}" for name, path in _FACTS.items())
    names = " ".join(_FACTS)
    alone = 'case ${FS_STAT#*) ? * } in "" | "$$ "*) ;; *) exec false; esac'
    return (
        "true; test x$?a = x0a || exec false\n"  # `$?a` is one variable to csh, whose `exit` would not end it here
        f'{{ {reads}; }} 2>/dev/null; {alone}; echo {nonce} $$ "${{SHELL##*/}} $FS_OS $FS_BOOT ${{FS_UP%% *}}"; unset {names}'
    )


_FACTS = {
    "FS_OS": "/proc/sys/kernel/ostype",
    "FS_BOOT": "/proc/sys/kernel/random/boot_id",
    "FS_UP": "/proc/uptime",
    "FS_STAT": "/proc/self/stat",
}


def introduced(assumed: Probe, marker: str) -> Probe:
    """What the marker of `introduce` told; the words come from the host, and what is odd about them is left out."""
    words = marker.split()[1:]
    shell = words[0] if words and words[0] in POSIX_SHELLS else assumed.shell
    try:
        return Probe(shell, words[1], words[2], float(words[3]), clock())
    except (IndexError, ValueError):
        return Probe(shell)


def wrap(
    probe: Probe, command: str, *, stdin: bytes | None, environment: Mapping[str, str], folder: str | None
) -> Wire:
    """Make the wire form of a command.

    Environment values travel as one base64 line first on stdin: in the command they would show in the host's `ps`.

    Raises:
        BadArgument: A NUL, an impossible variable name, what no encoding can express.
    """
    for text in (command, folder or "", *environment.values()):
        check_text(text)
    if "\0" in command or "\0" in (folder or ""):
        raise BadArgument("The command holds a NUL character, which no shell can take.")
    nonce = f"fs-{secrets.token_hex(12)}"
    lines = [introduce(nonce) if probe.assumed else announce(nonce)]
    data = stdin or b""
    if environment:
        lines.append(
            'IFS= read -r FLEETSHELL_ENV && eval "$(printf %s "$FLEETSHELL_ENV" | base64 -d)"; unset FLEETSHELL_ENV'
        )
        data = base64.b64encode(exports(environment).encode()) + b"\n" + data
    if folder is not None:
        lines.append(f"CDPATH= cd -- {quote_folder(folder)} >/dev/null || {{ echo {nonce} cd; exit 1; }}")
    text = "\n".join([*lines, command])
    if not (probe.posix and probe.leader):
        if len(text) > LONGEST_ENCODED:
            data = base64.b64encode(text.encode()) + b"\n" + data
            text = _shell_free_by_stdin(new_session=not probe.leader)
        else:
            text = shell_free(text, new_session=not probe.leader)
    return Wire(nonce, text, data)


def wrap_raw(command: str, stdin: bytes | None, *, environment: Mapping[str, str], folder: str | None) -> Wire:
    """The wire form for a host without a POSIX shell (`raw: true`): the command as it is, and no marker.

    Raises:
        BadArgument: What needs a shell.
    """
    check_text(command)
    for given, name in ((environment, "environment"), (folder is not None, "working_directory")):
        if given:
            raise BadArgument(
                f"This server is `raw` (it has no POSIX shell), so `{name}` can't be used there; leave it out."
            )
    if "\0" in command:
        raise BadArgument("The command holds a NUL character, which can't be sent.")
    return Wire("", command, stdin or b"")


def check_text(text: str) -> None:
    """Refuse half a character, which JSON can carry but no command line.

    Raises:
        BadArgument: There is one.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadArgument(
            f"Character {error.start + 1} of {text[:40]!r} is half of a surrogate pair, which can't be sent."
        ) from None


def folder_failed(wire: Wire, stdout: bytes) -> bool:
    """Whether a command's output says that its working directory could not be entered."""
    return stdout == f"{wire.nonce} cd\n".encode()


def exports(environment: Mapping[str, str]) -> str:
    """Shell code that exports the variables.

    Raises:
        BadArgument: A name that is none.
    """
    parts = []
    for name, value in environment.items():
        if not _VARIABLE.fullmatch(name):
            raise BadArgument(f'"{name[:60]}" is no name for an environment variable (letters, digits, `_`).')
        if "\0" in value:
            raise BadArgument(f"The value of the environment variable {name} holds a NUL character.")
        parts.append(f"export {name}={shlex.quote(value)}")
    return "\n".join(parts)


def quote_folder(folder: str) -> str:
    """A working directory for the shell; a leading `~` stays the login user's home."""
    if folder == "~":
        return '"$HOME"'
    if folder.startswith("~/"):
        return '"$HOME"/' + shlex.quote(folder[2:])
    return shlex.quote(folder)


def shell_free(script: str, *, new_session: bool = False) -> str:
    """A POSIX script as one command line that every shell reads alike: no quote, newline or `!` inside the quotes."""
    encoded = base64.b64encode(script.encode()).decode()
    return f"exec {'setsid ' if new_session else ''}sh -c 'eval \"$(echo {encoded} | base64 -d)\"'"


def _shell_free_by_stdin(*, new_session: bool) -> str:
    """As `shell_free`, for a script that is the first line of stdin, encoded."""
    return f"exec {'setsid ' if new_session else ''}sh -c 'IFS= read -r FS; eval \"$(echo $FS | base64 -d)\"'"


def probe_script(nonce: str) -> str:
    """Prints `NONCE shell`, then system, boot id and uptime, a line each, in any shell and without a quote.

    `$SHELL` is set by sshd to the login shell.
    """
    return f"echo {nonce} $SHELL; cat /proc/sys/kernel/ostype /proc/sys/kernel/random/boot_id /proc/uptime /proc/self/stat; true"


def parse_probe(nonce: str, stdout: str) -> Probe | None:
    """The probe's answer, or None where the host did not run our line as a shell command."""
    match = re.search(rf"{nonce} /(?:\S*/)?([^\s/]+)\r?\n(.*)", stdout, re.DOTALL)
    if match is None:
        return None
    lines = match[2].split("\n")
    # cat's parent is the login shell (hence `true` behind it, or the shell would become cat), and its group should be that one's.
    cat = lines[3].rpartition(") ")[2].split() if len(lines) > 3 else []
    leader = len(cat) < 3 or cat[1] == cat[2]
    try:
        return Probe(match[1], lines[0], lines[1], float(lines[2].split()[0]), clock(), leader=leader)
    except (IndexError, ValueError):
        return Probe(match[1])  # no Linux: there is no telling one boot from another


def group_of(marker: str) -> int:
    """The remote process group from our marker's words."""
    return int(marker.split()[0])


_STOP = """
%s
members() {
  m=
  if [ -r /proc/self/stat ]; then
    for d in /proc/[0-9]*; do
      IFS= read -r s 2>/dev/null < $d/stat || continue
      s=${s##*) }
      set -- $s
      if [ "$1" != Z ] && [ "$1" != X ] && { [ "$3" = $g ] || [ "$4" = $g ]; }; then m="$m ${d#/proc/}"; fi
    done
  elif kill -0 -$g 2>/dev/null; then m=" $g"
  fi
  [ -n "$m" ]
}
send() {
  kill -$1 -$g 2>/dev/null
  members || return
  r=
  for p in $m; do kill -$1 $p 2>/dev/null || r="$r $p"; done
  [ -z "$r" ] || sudo -n kill -$1 $r 2>/dev/null
}
gone() { i=0; while members; do i=$((i+1)); [ $i -gt $1 ] && return 1; sleep 0.1 2>/dev/null || sleep 1; done; }
%s
gone 20 || { send KILL; gone 10; }
members && echo "left$m" || echo stopped
"""


_FIND = """
g=
for i in 1 2 3; do
  for d in /proc/[0-9]*; do
    IFS= read -r c 2>/dev/null < $d/cmdline
    case $c in *%(nonce)s*)
      IFS= read -r s 2>/dev/null < $d/stat || continue
      s=${s##*) }
      set -- $s
      g=$4
    esac
    c=
  done
  [ -n "$g" ] && break
  sleep 0.1 2>/dev/null || sleep 1
done
[ -n "$g" ] && [ "$g" -gt 1 ] || { echo unseen; exit; }
"""


def stop_unseen_script(nonce: str) -> str:
    """As `stop_script`, for a command whose marker never came (the login shell's start-up files may hang).

    Its shell shows the nonce on its command line, where ours has it encoded. Prints `unseen` where there is none.
    """
    return shell_free(_STOP % (_FIND % {"nonce": nonce}, "send TERM"))


def stop_script(group: int, *, hang_up: bool = False) -> str:
    """A script that ends a command's process group and session (TERM, two seconds, KILL), then looks in /proc.

    Prints `stopped`, or `left PID …`. `kill -TERM -GROUP` has no `--`: dash and busybox would refuse it.

    Args:
        group: The process group's id, which is also the session's.
        hang_up: Begin with HUP: an interactive shell pays no heed to TERM.
    """
    return shell_free(_STOP % (f"g={group}", "send HUP; send TERM" if hang_up else "send TERM"))


_RECOVER = """
IFS= read -r b </proc/sys/kernel/random/boot_id
IFS= read -r s </proc/%(group)d/stat || { echo gone; exit; }
set -- ${s##*) }
shift 19
[ "$b" = %(boot)s ] && [ "$1" -ge %(earliest)d ] && [ "$1" -le %(latest)d ] || { echo other; exit; }
"""


def recover_script(group: int, start: str, boot: str) -> str:
    """A script that ends a process group only if it is the one that was started: same boot, same start (proc(5), field 22).

    Prints `gone`, `other`, or what `stop_script` prints. Where the start is not known, nothing is ended.
    """
    ticks = int(start or "-1000000")
    check = _RECOVER % {
        "group": group,
        "boot": shlex.quote(boot),
        "earliest": ticks - _TOLERANCE,
        "latest": ticks + _TOLERANCE,
    }
    return shell_free(check + _STOP % (f"g={group}", "send HUP; send TERM"))


def parse_stop(stdout: str) -> tuple[str, str]:
    """`confirmed` or `unconfirmed`, and the process ids that are left."""
    words = stdout.split()
    if "stopped" in words:
        return "confirmed", ""
    return "unconfirmed", " ".join(words[words.index("left") + 1 :]) if "left" in words else ""
