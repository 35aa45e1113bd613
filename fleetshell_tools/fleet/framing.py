"""How commands are told apart on a shell session's terminal: the lines that are typed, and the marks in what comes back.

Each command is typed as one line `print START; eval COMMAND; print END status folder`, so that a comment, an open quote
or `&` in it ends with it. The marks hold a nonce and control bytes that stand nowhere in the text that is typed, so an
echo of it never looks like a mark. The prompt is a mark too: where it comes before END, the shell has dropped the rest
of our line (after Ctrl-C, or an error that interactive shells return to the prompt for), and is asked for its status.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from fleetshell_tools.core.errors import BadArgument
from fleetshell_tools.core.types import Captured
from fleetshell_tools.fleet import remote
from fleetshell_tools.fleet.remote import Probe

LONGEST_LINE = 3500
"""Bytes: a terminal in canonical mode cuts a line at 4,096, our own words around a command included."""

LONGEST_FOLDER = 16 * 1024

_OPTIONS = {"bash": "--norc --noprofile --noediting -i", "zsh": "-f -i +Z"}
"""Start-up files and line editors would print between our marks; what the login shell itself exports is kept."""

_END = r"""printf '\036%s=%s%s;%s\037%s\036' {nonce} "$__fs_x" "${{ZSH_VERSION:+z}}" "${{PWD-}}" {nonce} >/dev/tty"""

# busybox ash takes the end of a background job, which interrupts its reading, for the end of input: hence ignoreeof.
_PREPARE = (
    r"""{{ __fs_x={status}; unset HISTFILE; PROMPT_COMMAND=; unset PS1; PS2=; __fs() {{ return "$1"; }}; """
    r"""__fs_p=$(printf '\036%s\037' {prompt}); PS1=$__fs_p; """
    r"""[ -z "${{BASH_VERSION-}}" ] || set +o emacs +o vi +o history +H; """
    r"""[ -z "${{ZSH_VERSION-}}" ] || {{ typeset -g +x PS1; unsetopt zle prompt_sp prompt_cr; setopt interactive_comments; }}; """
    r"""[ -n "${{BASH_VERSION-}}${{ZSH_VERSION-}}" ] || set -o ignoreeof; """
    r"""stty sane -echo -opost -ixon </dev/tty || :; """ + _END + "; }} 2>/dev/null"
)

# bash no longer knows `{` at the start of the line after an `eval` with an open quote: hence the empty line.
# The status of the command before is restored for `$?`, but not under `set -e`, which would end the shell there.
_RUN = (
    "\n"
    r"""{{ \{verb} printf '\036%s+\037' {nonce} >/dev/tty; case $- in *e*) ;; *) __fs "$__fs_x" ;; esac; }} 2>/dev/null; """
    r"""\{verb} eval {body}; """
    r"""{{ __fs_x=$?; PS1=$__fs_p PS2= PROMPT_COMMAND=; \{verb} """ + _END + "; }} 2>/dev/null"
)

_EXEC_SHELL = re.compile(r"(?:^|[\s;&|(])exec\s+(?:-\S+\s+)*(?:\S*/)?(?:ba|da|a|z|k|mk)?sh(?:\s+-[-\w]+)*\s*;?\s*$")


def launch(probe: Probe, nonce: str, folder: str | None, shell: str | None = None) -> str:
    """The remote command of a session: the user's login shell, reading from the terminal, without start-up files.

    Args:
        folder: Where it begins.
        shell: Another shell than the login shell.
    """
    name = (shell or (probe.shell if probe.posix else "sh")).rpartition("/")[2]
    program = shlex.quote(shell) if shell else '"${SHELL:-/bin/sh}"' if probe.posix else "sh"
    lines = [f"[ -t 0 ] || {{ echo {nonce} notty; exit 1; }}", remote.announce(nonce)]
    if folder is not None:
        lines.append(f"CDPATH= cd -- {remote.quote_folder(folder)} >/dev/null || {{ echo {nonce} cd; exit 1; }}")
    lines.append(
        f"unset HISTFILE ENV PROMPT_COMMAND; TERM=dumb PAGER=cat GIT_PAGER=cat SYSTEMD_PAGER=cat PS1='{ready(nonce)}'"
    )
    lines.append("export TERM PAGER GIT_PAGER SYSTEMD_PAGER PS1")
    lines.append(f"exec {program} {_OPTIONS.get(name, '-i')}")
    script = "\n".join(lines)
    return script if probe.posix else remote.shell_free(script)


def ready(nonce: str) -> str:
    """The first prompt: what is typed before an interactive shell has set the terminal up may be flushed."""
    return f"{nonce}-ready"


def prepare(nonce: str, prompt: str, status: int | None = None) -> bytes:
    """The line that makes a shell ours, and a terminal sane again; it prints END with the status of what was before.

    Args:
        status: That status, where it is known.
    """
    return _PREPARE.format(nonce=nonce, prompt=prompt, status="$?" if status is None else status).encode() + b"\n"


def typed(command: str, nonce: str, *, zsh: bool) -> bytes:
    """The lines that run a command.

    Text that a terminal would act on, cut or turn into something else travels as octal escapes of `printf`, which every
    shell has built in; a long one in pieces.
    """
    verb = "builtin" if zsh else "command"  # `command` keeps an error of `eval` from ending the line in dash
    if command.isascii() and command.isprintable() and len(command) < LONGEST_LINE // 4:
        return _RUN.format(verb=verb, nonce=nonce, body="'" + command.replace("'", "'\\''") + "'").encode() + b"\n"
    escaped = "".join(_ESCAPED[byte] for byte in command.encode())
    pieces = [escaped[at : at + LONGEST_LINE] for at in range(0, len(escaped), LONGEST_LINE)]
    name = f"fs{nonce}"
    lines = [f"{name}=${{{name}-}}'{piece}'" for piece in pieces]
    lines.append(_RUN.format(verb=verb, nonce=nonce, body=f'"$(\\{verb} printf "${name}")"') + f"; unset {name}")
    return "\n".join(lines).encode() + b"\n"


_ESCAPED = [chr(byte) if 0x20 <= byte < 0x7F and byte not in b"'" else f"\\{byte:03o}" for byte in range(256)]
_ESCAPED[ord("\\")] = r"\\"
_ESCAPED[ord("%")] = "%%"


def keys(text: str) -> bytes:
    """What is typed for an answer to a program: a line ends with Enter; after a control character (Ctrl-D, say) nothing is added.

    Raises:
        BadArgument: A line is longer than a terminal takes.
    """
    if text and ord(text[-1]) >= 0x20:
        text += "\n"
    data = text.encode(errors="replace")
    if max(map(len, data.split(b"\n"))) > LONGEST_LINE:
        raise BadArgument(
            f"A line of input has more than {LONGEST_LINE:,} bytes, which a terminal would cut. Write it to a file, or send shorter lines."
        )
    return data


def replaces_the_shell(command: str) -> bool:
    """Whether a command ends in `exec SHELL`: the new shell knows nothing of our line, and has to be made ours."""
    return _EXEC_SHELL.search(command) is not None


@dataclass(frozen=True)
class Began:
    """START: the command runs from here."""


@dataclass(frozen=True)
class Finished:
    """END: how the command ended, the working folder, and whether the shell is zsh."""

    status: int
    folder: bytes
    zsh: bool


@dataclass(frozen=True)
class Prompted:
    """The shell waits for a line."""


Mark = Began | Finished | Prompted


class Framing:
    """Takes the marks out of what the terminal prints; all else goes to `sink`.

    Args:
        prompt: The word in the prompt.
        sink: Takes the output.
    """

    def __init__(self, prompt: str, sink: Callable[[bytes], None]) -> None:
        self.sink = sink
        self._prompt = b"\x1e" + prompt.encode() + b"\x1f"
        self._nonce = b""
        self._held = b""

    def expect(self, nonce: str) -> None:
        """From now on the marks of this command count."""
        self._nonce = nonce.encode()

    def feed(self, data: bytes) -> Iterator[Mark]:
        """Take bytes in and give the marks among them, each before the text behind it goes to `sink`.

        A mark that is not complete yet is held back.
        """
        text, position = self._held + data, 0
        self._held = b""
        while True:
            at = text.find(b"\x1e", position)
            if at < 0:
                self._pass(text[position:])
                return
            self._pass(text[position:at])
            length, mark = self._read(text, at)
            if length < 0:
                self._held = text[at:]
                return
            if mark is None:
                self._pass(text[at : at + 1])
            else:
                yield mark
            position = at + length

    def finish(self) -> None:
        """Nothing more comes: what was held back is output after all."""
        held, self._held = self._held, b""
        self._pass(held)

    def _pass(self, data: bytes) -> None:
        if data:
            self.sink(data)

    def _read(self, text: bytes, at: int) -> tuple[int, Mark | None]:
        """The length of the mark at `at` and the mark; -1 where it is incomplete, no mark where it is something else."""
        start, end = b"\x1e" + self._nonce + b"+\x1f", b"\x1e" + self._nonce + b"="
        if text.startswith(self._prompt, at):
            return len(self._prompt), Prompted()
        if self._nonce and text.startswith(start, at):
            return len(start), Began()
        if self._nonce and text.startswith(end, at):
            close = b"\x1f" + self._nonce + b"\x1e"
            to = text.find(close, at)
            if to >= 0:
                status, _, folder = text[at + len(end) : to].partition(b";")
                if re.fullmatch(rb"[0-9]{1,10}z?", status):
                    return to + len(close) - at, Finished(int(status.rstrip(b"z")), folder, status.endswith(b"z"))
                return 1, None
            return (-1, None) if len(text) - at <= LONGEST_FOLDER else (1, None)
        rest = text[at : at + 200]
        if len(rest) < 200 and any(mark.startswith(rest) for mark in (self._prompt, start, end)):
            return -1, None
        return 1, None


_IGNORED_EOF = b'\nUse "exit" to leave shell.\n'
_FAREWELL = re.compile(rb"(?:^|(?<=\n))exit\n\Z")
_LINE_ENDS = re.compile(rb"\r+\n")
_OVERWRITTEN = re.compile(rb"[^\r\n]*\r(?=[^\r\n])")


def _without(data: bytes, traces: list[bytes]) -> bytes:
    """Text without the lines that hold one of the traces."""
    lines = data.split(b"\n")
    kept = [line for line in lines if not any(trace in line for trace in traces)]
    if kept and lines[-1] is not kept[-1]:
        kept.append(b"")  # the last line went: what stands before it keeps its end
    return b"\n".join(kept)


def tidy(captured: Captured, nonces: Collection[str], *, farewell: bool = False) -> Captured:
    """Output as a person at the terminal would see it: without echoes and traces of our own lines, progress bars as they ended.

    Args:
        nonces: Lines with one of these are ours.
        farewell: The shell has ended, and said `exit` last, as an interactive bash does.
    """
    traces = [nonce.encode() for nonce in nonces]

    def tidied(data: bytes) -> bytes:
        # Each command has a nonce of its own, and compiling a pattern for it would cost more than all else here.
        if any(trace in data for trace in traces):
            data = _without(data, traces)
        data = _LINE_ENDS.sub(b"\n", data)
        return _OVERWRITTEN.sub(b"", data.replace(_IGNORED_EOF, b""))

    head, tail = (captured.head + captured.tail, b"") if captured.complete else (captured.head, captured.tail)
    new_head, new_tail = tidied(head), tidied(tail)
    if farewell:
        new_head, new_tail = (new_head, _FAREWELL.sub(b"", new_tail)) if tail else (_FAREWELL.sub(b"", new_head), b"")
    removed = len(head) + len(tail) - len(new_head) - len(new_tail)
    return Captured(new_head, new_tail, captured.total - removed)
