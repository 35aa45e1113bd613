"""Programs that run what stands in an option or in a script of their own: `tar --to-command`, `make`, `sed`, editors."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fleetshell_tools.fleet.guard.interpreters import inspect
from fleetshell_tools.fleet.guard.options import parse
from fleetshell_tools.fleet.guard.paths import is_critical_file, resolve
from fleetshell_tools.fleet.guard.symbols import LOCAL, UNKNOWN, plain

if TYPE_CHECKING:
    from fleetshell_tools.fleet.guard.follow import Follower

OPTIONS: dict[str, str] = {
    "tar": r"--(?:to-command|checkpoint-action=exec|use-compress-program|rsh-command|info-script|new-volume-script)|-[IF]",
    "bsdtar": r"--use-compress-program",
    "rsync": r"-e|--rsh|--rsync-path",
    "scp": r"-S",
    "sftp": r"-S",
    "man": r"-P|--pager|-H",
    "zip": r"-TT|--unzip-command",
    "sort": r"--compress-program",
    "split": r"--filter",
    "gdb": r"-ex|--eval-command|-eval-command",
    "complete": r"-C",
    "compgen": r"-C",
    "mapfile": r"-C",
    "readarray": r"-C",
    "ip": r"",
    "nmap": r"--script",
    "wget": r"--use-askpass",
    "pip": r"--editor",
    "crash": r"-x",
    "less": r"\+!",
    "git": r"--upload-pack|--receive-pack|-u|--exec|-x",
    "borg": r"--rsh|--remote-path",
    "restic": r"--password-command",
    "sshfs": r"-o(?:ssh_command)?",
    "logrotate": r"-m|--mail",
    "lftp": r"-[ce]",
    "busctl": r"",
}
"""Options, by program, whose value is a command line."""

_SETTING = re.compile(
    r"core\.(?:pager|editor|sshcommand|fsmonitor|hookspath|gitproxy|askpass)|(?:alias|pager|filter)\..+|diff\.external|"
    r"sequence\.editor|gpg\.program|credential\.helper|(?:proxy|local|remote)command|knownhostscommand|"
    r"(?:apt|dpkg)::(?:pre-|post-|update::pre-|update::post-)?(?:invoke|install-pkgs)(?:-success)?(?:::)?",
    re.IGNORECASE,
)
_SETTERS = {"git": ("-c",), "ssh": ("-o",), "scp": ("-o",), "sftp": ("-o",), "apt": ("-o",), "apt-get": ("-o",)}
"""Programs with options `-c NAME=VALUE`, some names of which are commands."""


def follow_options(follower: Follower, words: list[str]) -> None:
    """Follow the command lines that stand in options of a program."""
    pattern = OPTIONS.get(words[0])
    setters = _SETTERS.get(words[0], ())
    if not pattern and not setters:
        return
    for position, word in enumerate(words[1:], 1):
        following = words[position + 1] if position + 1 < len(words) else ""
        if word.startswith(setters) and setters:
            name, *value_of = re.split(r"[=\s]+", plain(word[2:].lstrip() or following), maxsplit=1)
            value = "".join(value_of).strip("\"'").lstrip("!") if _SETTING.fullmatch(name) else ""
        else:
            match = re.fullmatch(f"({pattern})(?:=?(.*))", word, re.DOTALL) if pattern else None
            value = (match[2] or following) if match else ""
            if words[0] == "gdb" and match:
                value = _debugger_command(plain(value))
        if " " in value or value in _ALONE:
            follower.subshell(lambda value=value: follower.code(value))  # type: ignore[misc]


_ALONE = frozenset("reboot poweroff halt".split())


def _debugger_command(value: str) -> str:
    """`shell X`, `!X` and `call system("X")` of a debugger."""
    if match := re.match(r"\s*(?:shell\s+|!)(.*)", value, re.DOTALL):
        return match[1]
    return "\n".join(inspect(value).commands)


_SED_REPLACE = re.compile(r"s(.)((?:(?!\1)[^\\*.\[^$&])*)\1((?:(?!\1)[^\\&])*)\1(g?)")
_SED_PREFIX = re.compile(r"s(.)\^\1((?:(?!\1)[^\\&])*)\1g?")
_SED_RUNS = re.compile(
    r"(?:\d+|\$|/[^/]*/)?\s*s(.)(?:\\.|(?!\1)[^\\])*\1((?:\\.|(?!\1)[^\\])*)\1[gpiIm\d]*e\s*", re.DOTALL
)
_SED_WRITES = re.compile(r"(?:^|[;}\d/gp])\s*[wW]\s+(/\S+)")


def sed(follower: Follower, words: list[str], stdin: str) -> str:
    """The `e` command and flag of GNU sed run the shell, `w` writes; one plain replacement is computed."""
    options = parse(words[1:], short="efl", long=("expression", "file"))
    scripts = [
        options.value("e", "expression") or "",
        *([] if options.has("e", "expression") else options.operands[:1]),
    ]
    for script in map(plain, scripts):
        if match := re.match(r"(?:\d+|\$|/[^/]*/)?\s*e\s+(.+)", script):
            follower.fed_code(match[1], "", words)
        if match := _SED_RUNS.fullmatch(script):
            follower.fed_code(match[2].replace("\\", ""), "", words)
        for match in _SED_WRITES.finditer(script):
            follower.run(["tee", match[1]], UNKNOWN)
    if (before := _SED_PREFIX.fullmatch("".join(scripts))) and len(options.operands) < 2:
        return "".join(before[2] + line for line in stdin.splitlines(keepends=True))
    match = _SED_REPLACE.fullmatch("".join(scripts))
    if not match or len(options.operands) > 1:
        return LOCAL if LOCAL in stdin else UNKNOWN
    return "".join(line.replace(match[2], match[3], -1 if match[4] else 1) for line in stdin.splitlines(keepends=True))


def edits(follower: Follower, words: list[str], stdin: str) -> str:
    """Editors run the shell for `:!`; one that is told to write changes the file that it was given."""
    orders = [plain(word) for word in words[1:]] + plain(stdin).splitlines()
    for order in orders:
        if match := re.match(r"[+:\s%]*(?:silent\s*)?!(.+)", order, re.DOTALL):
            follower.fed_code(match[1], "", words)
    writes = any(re.fullmatch(r"\+?-?c?:?(?:%?wq?!?|x!?|ZZ)", order.strip()) for order in orders)
    if writes:
        for word in words[1:]:
            if is_critical_file(word, follower.state.folder):
                follower.run(["tee", word], UNKNOWN)
    return UNKNOWN


def makes(follower: Follower, words: list[str], stdin: str) -> str:
    """The recipes of a makefile that this command itself brings."""
    options = parse(words[1:], short="fCjIlo", long=("file", "makefile", "directory"))
    file = options.value("f", "file", "makefile")
    files = follower.state.files
    if file == "-":
        text = stdin
    elif file:
        text = files.get(resolve(file, follower.state.folder), "")
    else:
        text = files.get(resolve("Makefile", follower.state.folder), "")
    for line in text.splitlines():
        recipe = line.partition(";")[2] if not line.startswith("\t") and ":" in line else line
        if line.startswith("\t") or recipe:
            follower.fed_code(recipe.lstrip("\t@-+ ").replace("$$", "$"), "", words)
    return UNKNOWN


def sends_keys(follower: Follower, words: list[str], stdin: str) -> str:
    """`tmux new-session CODE`, `send-keys CODE Enter`, `screen -dm CODE`, `screen -X stuff CODE`."""
    options = parse(words[1:], short="tscnFxyLf" if words[0] == "tmux" else "SsthcepTX", to_operand=True)
    operands = options.operands
    if words[0] == "tmux" and operands:
        inner = parse(operands[1:], short="tscnFxye", to_operand=True).operands
        running = (
            "new-session",
            "new",
            "new-window",
            "neww",
            "split-window",
            "splitw",
            "send-keys",
            "send",
            "run-shell",
            "run",
        )
        operands = inner if operands[0] in (*running, "respawn-pane", "if-shell", "pipe-pane", "display-popup") else []
        operands = [word for word in operands if word not in ("Enter", "C-m", "ENTER", "KPEnter")]
    elif operands[:1] == ["stuff"]:
        operands = operands[1:]
    if len(operands) > 1 and not {"send-keys", "send", "stuff"} & set(words):
        return follower.run(operands, "")
    code = " ".join(operands).replace("\\n", "\n").replace("^M", "\n")
    if code:
        follower.fed_code(code, "", words)
    return UNKNOWN


_PROGRAM_OF_SQL = re.compile(r"\b(?:to|from)\s+program\s+'((?:[^']|'')*)'", re.IGNORECASE)
_SHELL_OF_SQL = re.compile(r"(?m)^[ \t]{0,9}(?:\\!|\.shell|\.system|system(?=\s)|!)[ \t]{0,9}(\S.*)")


def client(follower: Follower, words: list[str], stdin: str) -> str:
    """Database clients run the shell for `\\!`, and a server does for `COPY … TO PROGRAM`."""
    text = plain("\n".join([*words[1:], stdin]))
    for pattern in (_PROGRAM_OF_SQL, _SHELL_OF_SQL):
        for match in pattern.finditer(text):
            follower.fed_code(match[1].replace("''", "'"), "", words)
    return UNKNOWN
