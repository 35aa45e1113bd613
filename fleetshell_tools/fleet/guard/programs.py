"""Programs that need more than an option table to be followed: shells, `xargs`, `find`, builtins, interpreters."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fleetshell_tools.fleet.guard import commands_inside, containers
from fleetshell_tools.fleet.guard.interpreters import interpreter_of
from fleetshell_tools.fleet.guard.judges.startup import CRON_LINE, dubious
from fleetshell_tools.fleet.guard.languages import compiler, interpreter
from fleetshell_tools.fleet.guard.options import parse
from fleetshell_tools.fleet.guard.paths import resolve
from fleetshell_tools.fleet.guard.rules import Finding
from fleetshell_tools.fleet.guard.search import Search
from fleetshell_tools.fleet.guard.shell_builtins import BUILTINS
from fleetshell_tools.fleet.guard.symbols import STAR, UNKNOWN, is_known, plain
from fleetshell_tools.fleet.guard.written import content, write

if TYPE_CHECKING:
    from fleetshell_tools.fleet.guard.follow import Follower

Handler = Callable[["Follower", list[str], str], str]
"""Follows a program, given its words and stdin; returns what it would print."""

SHELLS = frozenset("sh bash dash ash ksh ksh93 mksh zsh fish rbash yash csh tcsh".split())


def handler(name: str) -> Handler | None:
    if name in SHELLS:
        return shell
    return _HANDLERS.get(name) or (interpreter if interpreter_of(name) else None)


def shell(follower: Follower, words: list[str], stdin: str) -> str:
    """`sh -c CODE`, `sh FILE`, or a shell that reads code from its stdin."""
    options = parse(
        [word for word in words[1:] if not re.fullmatch(r"\+[A-Za-z]+", word)],
        short="oO",
        long=("rcfile", "init-file"),
        to_operand=True,
    )
    operands = options.operands
    if options.has("help", "version"):
        return UNKNOWN
    if started := options.value("rcfile", "init-file"):
        follower.fed_code(stdin if started == "/dev/stdin" else content(follower, started), "", words)
    if "c" in options.values:
        if not operands:
            return ""
        return _with_arguments(
            follower,
            operands[1] if len(operands) > 1 else "sh",
            operands[2:],
            lambda: follower.fed_code(operands[0], stdin, words),
        )
    if "s" in options.values or not operands or operands[0] == "-":
        arguments = operands if "s" in options.values else operands[1:]
        return _with_arguments(follower, "sh", arguments, lambda: follower.fed_code(stdin, "", words))
    if operands[0] in ("/dev/stdin", "/proc/self/fd/0", "/dev/fd/0"):
        return follower.fed_code(stdin, "", words)
    code = content(follower, operands[0])
    return _with_arguments(follower, operands[0], operands[1:], lambda: follower.fed_code(code, stdin, words))


def script(follower: Follower, code: str, stdin: str, words: Sequence[str]) -> str:
    """Follow a file that is run as a program, with its arguments."""
    return _with_arguments(follower, words[0], list(words[1:]), lambda: follower.fed_code(code, stdin, words))


_PROGRAM_FILE = re.compile(r"(?:/usr)?(?:/local)?/s?bin/([\w.+-]+)")


def _copies(follower: Follower, words: list[str], stdin: str) -> str:
    """A copy of a program, or a link to it, is that program under another name; a copy of a file holds the same."""
    operands = parse(words[1:], short="tSmog", long=("target-directory", "suffix", "mode", "owner", "group")).operands
    if len(operands) == 2:
        source, target = operands
        files = follower.state.files
        path = resolve(source, follower.state.folder)
        if match := _PROGRAM_FILE.fullmatch(source if words[0] == "ln" else path):
            write(follower, target, f'{match[1]} "$@"\n')
        elif path in files:
            write(follower, target, files[path])
    return ""


def _with_arguments(follower: Follower, name: str, arguments: list[str], follow: Callable[[], str]) -> str:
    """Follow code with its own `$0`, `$1`, …"""
    state = follower.state
    outer = state.name, state.positional
    state.name, state.positional = name, tuple(arguments)
    try:
        return follow()
    finally:
        state.name, state.positional = outer


def _source(follower: Follower, words: list[str], stdin: str) -> str:
    operands = [word for word in words[1:] if word != "--"]
    code = stdin if operands[:1] == ["/dev/stdin"] else content(follower, "".join(operands[:1]))
    if not code.replace(UNKNOWN, "").strip():
        return follower.fed_code(code, stdin, words)
    return follower.code(code, stdin)


def _xargs(follower: Follower, words: list[str], stdin: str) -> str:
    options = parse(
        words[1:],
        short="aEILnPsd",
        to_operand=True,
        long=("arg-file", "delimiter", "max-args", "max-procs", "max-chars", "max-lines", "replace"),
    )
    template = options.operands or ["echo"]
    if file := options.value("a", "arg-file"):
        stdin = content(follower, file)
    items = stdin.replace("\\0", "\n").split()
    mark = options.value("I", "replace", "i")
    if mark is None:
        return follower.run([*template, *items], "")
    lines = [line for line in stdin.splitlines() if line.strip()]
    printed = [follower.run([word.replace(mark or "{}", line.strip()) for word in template], "") for line in lines]
    return "".join(printed)


def _parallel(follower: Follower, words: list[str], stdin: str) -> str:
    options = parse(
        words[1:],
        short="jNnIaSPLXd",
        long=("jobs", "arg-file", "sshlogin", "delay", "timeout", "joblog", "max-args"),
        to_operand=True,
    )
    template, items = options.operands, stdin.split()
    for mark in (":::", ":::+"):
        if mark in template:
            position = template.index(mark)
            template, items = (
                template[:position],
                [word for word in template[position + 1 :] if not word.startswith(":::")],
            )
    line = " ".join(template)
    for item in items or [UNKNOWN]:
        follower.fed_code(line.replace("{}", item) if "{}" in line else f"{line} {item}".strip(), "", words)
    return UNKNOWN


def _find(follower: Follower, words: list[str], stdin: str) -> str:
    """Follow `-exec` with the paths that would be found; print those."""
    search = Search.read(words[1:])
    found = search.found()
    for command in search.commands:
        for path in found:
            follower.run([word.replace("{}", path) for word in command], "")
    numbers = "1\n" if "/proc" in search.roots and "-printf" in words else ""
    return numbers + "".join(path + "\n" for path in found)


def _fd(follower: Follower, words: list[str], stdin: str) -> str:
    """`fd PATTERN FOLDER… -x COMMAND`"""
    at = next((at for at, word in enumerate(words) if word in ("-x", "-X", "--exec", "--exec-batch")), len(words))
    operands = parse(words[1:at], short="dteEScgj", long=("type", "extension", "exclude", "max-depth")).operands
    whole = not plain("".join(operands[:1])).strip(".*")
    found = [f"{root.rstrip('/')}/{STAR if whole else UNKNOWN}" for root in operands[1:] or ["."]]
    for path in found if words[at + 1 :] else ():
        command = [word.replace("{}", path) for word in words[at + 1 :]]
        follower.run(command if "{}" in words[at + 1 :] else [*command, path], "")
    return "".join(path + "\n" for path in found)


def _list(follower: Follower, words: list[str], stdin: str) -> str:
    """`ls` prints its operands where those are wildcards or with -d; of the working directory, some or all names."""
    options = parse(words[1:], short="IwT")
    if "l" in options.values:
        return UNKNOWN
    operands = options.operands
    if operands == ["/proc"]:
        return "1\n"
    if not operands or (
        len(operands) == 1 and resolve(operands[0], follower.state.folder) in (follower.state.folder, "/")
    ):
        return STAR + "\n"
    if "d" in options.values or any(STAR in operand for operand in operands):
        return "".join(operand + "\n" for operand in operands)
    # The names in one other folder: they are some names, to be joined to it or not.
    return STAR + "\n" if len(operands) == 1 else UNKNOWN


def _cat(follower: Follower, words: list[str], stdin: str) -> str:
    operands = [word for word in words[1:] if word == "-" or not word.startswith("-")] or ["-"]
    return "".join(stdin if word == "-" else content(follower, word) for word in operands)


def _tee(follower: Follower, words: list[str], stdin: str) -> str:
    for target in parse(words[1:]).operands:
        write(follower, target, stdin)
        follower.schedule(target, stdin)
    return stdin


def _download(follower: Follower, words: list[str], stdin: str) -> str:
    """What `curl -o FILE` and `wget -O FILE` write is unknown, and so is what they print."""
    options = parse(words[1:], short="oHXduAbeT" if words[0] == "curl" else "OoPUt")
    target = options.value("o", "output") if words[0] == "curl" else options.value("O", "output-document")
    if target and target != "-":
        write(follower, target, UNKNOWN)
    elif not target and (words[0] == "wget" or options.has("O", "remote-name", "remote-name-all")):
        for address in options.operands:
            write(follower, address.partition("?")[0].rstrip("/").rpartition("/")[2] or "index.html", UNKNOWN)
    return UNKNOWN


_FAN_OUT = {
    "ansible": "mauiefltMBPT",
    "pdsh": "wxlfutRg",
    "clush": "wxgXlftuo",
    "pssh": "hHlptoeOx",
    "parallel-ssh": "hHlptoeOx",
    "salt": "tLEGNCSIbo",
    "dsh": "mgfrw",
}


def _ansible(follower: Follower, words: list[str], stdin: str) -> str:
    """Programs that run one command on many hosts."""
    options = parse(
        words[1:], short=_FAN_OUT[words[0]], long=("module-name", "args", "user", "inventory", "hosts", "group")
    )
    if words[0] == "ansible" and options.has("check", "C", "list-hosts", "syntax-check"):
        return UNKNOWN
    if words[0] == "ansible":
        module = (options.value("m", "module-name") or "").rpartition(".")[2]
        code = module if module in ("reboot", "shutdown") else options.value("a", "args") or ""
    elif words[0] == "salt":
        verb = "".join(options.operands[1:2])
        stops = re.fullmatch(r"system\.(?:reboot|shutdown|poweroff|halt|init)", verb)
        code = verb.partition(".")[2] if stops else " ".join(options.operands[2:])
    else:
        code = " ".join(options.operands)
    if code:
        follower.fed_code(code, stdin, words)
    return UNKNOWN


def _mkfifo(follower: Follower, words: list[str], stdin: str) -> str:
    for path in parse(words[1:], short="mZ").operands:
        write(follower, path, UNKNOWN)
    return ""


def _whoami(follower: Follower, words: list[str], stdin: str) -> str:
    asks = words[0] != "id" or "n" in "".join(words[1:])
    return (follower.state.user or UNKNOWN) + "\n" if asks else UNKNOWN


def _connects(follower: Follower, words: list[str], stdin: str) -> str:
    """`nc -e sh` and `socat EXEC:sh` give a shell to whoever is at the other end."""
    options = parse(words[1:], short="ecpswqiXxgGoO", long=("exec", "sh-exec", "lua-exec"))
    runs = any(word.upper().startswith(("EXEC:", "SYSTEM:", "SHELL:")) for word in words[1:])
    if runs or (words[0] != "socat" and options.has("e", "c", "exec", "sh-exec", "lua-exec")):
        follower.refuse(words, "remote-shell", "gives a shell to another host")
    return UNKNOWN


def _crontab(follower: Follower, words: list[str], stdin: str) -> str:
    """`crontab -` and `crontab FILE` take lines whose sixth field and what follows is shell code."""
    options = parse(words[1:], short="u")
    if options.operands or (stdin and not options.has("l", "e", "r")):
        table = stdin if options.operands in ([], ["-"]) else content(follower, options.operands[0])
        for line in table.splitlines():
            if match := CRON_LINE.match(line):
                if dubious(match[1]) and is_known(match[1]):
                    follower.report(
                        Finding("startup", "schedule", "has cron run what anybody may have put there", tuple(words))
                    )
                follower.fed_code(match[1], "", words)
    return UNKNOWN + "\n"


_HANDLERS: dict[str, Handler] = {
    **BUILTINS,
    ".": _source,
    "source": _source,
    "xargs": _xargs,
    "parallel": _parallel,
    "find": _find,
    **dict.fromkeys(("fd", "fdfind"), _fd),
    **dict.fromkeys(("gcc", "cc", "clang", "tcc", "g++"), compiler),
    "ls": _list,
    "cat": _cat,
    "tee": _tee,
    "curl": _download,
    "wget": _download,
    "crontab": _crontab,
    **dict.fromkeys(_FAN_OUT, _ansible),
    "mkfifo": _mkfifo,
    "whoami": _whoami,
    "id": _whoami,
    "logname": _whoami,
    "nc": _connects,
    "ncat": _connects,
    "netcat": _connects,
    "nc.traditional": _connects,
    "socat": _connects,
    **dict.fromkeys(("vim", "vi", "ex", "nvim", "ed", "view"), commands_inside.edits),
    "sed": commands_inside.sed,
    "gsed": commands_inside.sed,
    **dict.fromkeys(("make", "gmake"), commands_inside.makes),
    **dict.fromkeys(("tmux", "screen"), commands_inside.sends_keys),
    **dict.fromkeys(("psql", "mysql", "mariadb", "sqlite3"), commands_inside.client),
    **dict.fromkeys(("cp", "ln", "install", "mv"), _copies),
    **dict.fromkeys(containers.PROGRAMS, containers.inside),
}
