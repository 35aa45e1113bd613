"""Programs that need more than an option table to be followed: shells, `xargs`, `find`, builtins, interpreters."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fleetshell_tools.fleet.guard import commands_inside, containers
from fleetshell_tools.fleet.guard.interpreters import code_of, file_of, inspect, interpreter_of
from fleetshell_tools.fleet.guard.judges.startup import CRON_LINE, dubious
from fleetshell_tools.fleet.guard.options import parse
from fleetshell_tools.fleet.guard.paths import resolve
from fleetshell_tools.fleet.guard.producers import produce
from fleetshell_tools.fleet.guard.rules import Finding
from fleetshell_tools.fleet.guard.search import Search
from fleetshell_tools.fleet.guard.symbols import LOCAL, STAR, UNKNOWN, is_known, plain

if TYPE_CHECKING:
    from fleetshell_tools.fleet.guard.follow import Follower

Handler = Callable[["Follower", list[str], str], str]
"""Follows a program, given its words and stdin; returns what it would print."""

SHELLS = frozenset("sh bash dash ash ksh ksh93 mksh zsh fish rbash yash csh tcsh".split())


def handler(name: str) -> Handler | None:
    if name in SHELLS:
        return shell
    return _HANDLERS.get(name) or (interpreter if interpreter_of(name) else None)


def quoted(word: str) -> str:
    """A word as shell code that evaluates to it again, active wildcards included."""
    return word if plain(word) != word else shlex.quote(word)


def content(follower: Follower, path: str) -> str:
    """What a file holds: what this command wrote to it, else the mark for a file on the server."""
    if path in ("/dev/null", ""):
        return ""
    if path.startswith(("/dev/tcp/", "/dev/udp/")):
        return UNKNOWN
    name = resolve(path, follower.state.folder)
    # The number of a daemon that nobody logs in without stands for the first process, which nobody can do without either.
    return follower.state.files.get(name, "1\n" if _NEEDED_PID.fullmatch(name) else LOCAL)


_NEEDED_PID = re.compile(r"(?:/var)?/run/(?:sshd|dbus/pid|dbus)(?:\.pid)?")


def write(follower: Follower, path: str, text: str, *, append: bool = False) -> None:
    """Remember what a file holds from now on."""
    name = resolve(path, follower.state.folder)
    before = follower.state.files.get(name, "") if append else ""
    follower.state.files[name] = follower.budget.value(before + text)


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


def _cd(follower: Follower, words: list[str], stdin: str) -> str:
    operands = parse(words[1:]).operands
    state = follower.state
    before = state.folder
    if not operands and words[1:] != ["-"]:
        state.folder = state.home
    elif words[1:] == ["-"] or operands[0] == "-":
        state.folder = "".join(state.variables.get("OLDPWD", (UNKNOWN,)))
    else:
        state.folder = resolve(operands[0], state.folder) or UNKNOWN
    state.variables["OLDPWD"] = (before,)
    return ""


def _pwd(follower: Follower, words: list[str], stdin: str) -> str:
    return follower.state.folder + "\n"


def _alias(follower: Follower, words: list[str], stdin: str) -> str:
    for word in words[1:]:
        name, equals, value = word.partition("=")
        if equals:
            follower.state.aliases[name] = value
    return ""


def _hash(follower: Follower, words: list[str], stdin: str) -> str:
    if words[1:2] == ["-p"] and len(words) > 3:
        follower.state.aliases[words[3]] = quoted(words[2])
    return ""


def _set(follower: Follower, words: list[str], stdin: str) -> str:
    options = parse(words[1:], short="o", to_operand=True)
    if options.operands or "--" in words:
        follower.state.positional = tuple(options.operands)
    return ""


def _read(follower: Follower, words: list[str], stdin: str) -> str:
    """The first line goes to the variables, the last of which takes the rest."""
    names = parse(words[1:], short="adinNptu").operands or ["REPLY"]
    line = next(iter(stdin.splitlines()), UNKNOWN)
    pieces = line.split(None, len(names) - 1)
    for position, name in enumerate(names):
        follower.state.variables[name] = (pieces[position] if position < len(pieces) else "",)
    return ""


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
    if words[0] == "ansible":
        code = "reboot" if options.value("m", "module-name") == "reboot" else options.value("a", "args") or ""
    elif words[0] == "salt":
        verb = "".join(options.operands[1:2])
        stops = re.fullmatch(r"system\.(?:reboot|shutdown|poweroff|halt|init)", verb)
        code = verb.partition(".")[2] if stops else " ".join(options.operands[2:])
    else:
        code = " ".join(options.operands)
    if code:
        follower.fed_code(code, stdin, words)
    return UNKNOWN


def _mapfile(follower: Follower, words: list[str], stdin: str) -> str:
    names = parse(words[1:], short="dnOsuCc").operands or ["MAPFILE"]
    follower.state.variables[names[0]] = tuple(stdin.splitlines()) or (UNKNOWN,)
    return ""


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


def _printf_variable(follower: Follower, words: list[str], stdin: str) -> str:
    if words[1:2] == ["-v"] and len(words) > 3:
        follower.state.variables[words[2]] = (produce("printf", words[3:], stdin),)
        return ""
    return produce("printf", words[1:], stdin)


def _trap(follower: Follower, words: list[str], stdin: str) -> str:
    operands = parse(words[1:], to_operand=True).operands
    if len(operands) > 1 and operands[0] not in ("-", ""):
        follower.fed_code(operands[0], "", words)
    return ""


def _crontab(follower: Follower, words: list[str], stdin: str) -> str:
    """`crontab -` and `crontab FILE` take lines whose sixth field and what follows is shell code."""
    options = parse(words[1:], short="u")
    if options.operands:
        table = stdin if options.operands[0] == "-" else content(follower, options.operands[0])
        for line in table.splitlines():
            if match := CRON_LINE.match(line):
                if dubious(match[1]) and is_known(match[1]):
                    follower.report(
                        Finding("startup", "schedule", "has cron run what anybody may have put there", tuple(words))
                    )
                follower.fed_code(match[1], "", words)
    return UNKNOWN + "\n"


def interpreter(follower: Follower, words: list[str], stdin: str) -> str:
    """Follow the shell commands in another language's code, and judge what it deletes and writes."""
    language = interpreter_of(words[0])
    code, arguments = code_of(language, words[1:], stdin) if language else ("", ())
    if language and (file := file_of(language, words[1:])):
        code = follower.state.files.get(resolve(file, follower.state.folder), code)
    if code and not code.replace(UNKNOWN, "").strip():
        follower.refuse(words, "undecodable-code", "runs code that cannot be known before")
        return UNKNOWN
    program = inspect(plain(code), arguments=arguments)
    if words[0] in ("tclsh", "expect"):
        # Tcl needs no quotes: `exec rm -rf /etc`.
        program = replace(program, commands=tuple(re.findall(r"\b(?:exec|spawn|system)\s+([^\n;\]]+)", plain(code))))
    if program.connects:
        follower.refuse(words, "remote-shell", "gives a shell to another host")
    if program.hidden:
        follower.refuse(words, "undecodable-code", "runs code that cannot be known before")
    if program.forks:
        follower.report(Finding("forkbomb", "fork-loop", "starts itself again and again", tuple(words)))
    for command in program.commands:
        follower.subshell(lambda command=command: follower.code(command))  # type: ignore[misc]
    if program.deleted:
        follower.run(["rm", "-rf", *_expanded(follower, program.deleted)], "")
    for mode, path in program.modes:
        follower.run(["chmod", mode, path], "")
    if program.restarts:
        follower.run(["reboot"], "")
    for path in program.written:
        follower.run(["tee", path], "")
    if re.search(r"\b(?:kill|killpg)\s*\(?\s*(?:-?1\b(?=\s*,)|-1|9,\s*-?1|['\"]?KILL['\"]?,\s*-1)\b", plain(code)):
        follower.run(["kill", "--", "-1"], "")
    column = _COLUMN.fullmatch(code.strip()) if language and language.first_operand else None
    if column and not [word for word in words[2:] if word != code and not word.startswith("-")]:
        return "".join(
            (line.split() or [""])[int(column[1]) - 1 : int(column[1])][0] + "\n"
            for line in stdin.splitlines()
            if len(line.split()) >= int(column[1])
        )
    return UNKNOWN


_COLUMN = re.compile(r"(?:NR\s?[>!=]=?\s?\d+\s?)?\{\s?print\s?\$([1-9])\s?;?\s?\}")


def _expanded(follower: Follower, paths: tuple[str, ...]) -> list[str]:
    """Paths in other languages are often expanded too (`glob`, `expanduser`)."""
    return [path.replace("*", STAR).replace("~", follower.state.home, 1) for path in paths]


_HANDLERS: dict[str, Handler] = {
    ".": _source,
    "source": _source,
    "xargs": _xargs,
    "parallel": _parallel,
    "find": _find,
    "ls": _list,
    "cat": _cat,
    "tee": _tee,
    "curl": _download,
    "wget": _download,
    "cd": _cd,
    "pushd": _cd,
    "pwd": _pwd,
    "alias": _alias,
    "hash": _hash,
    "set": _set,
    "read": _read,
    "trap": _trap,
    "crontab": _crontab,
    **dict.fromkeys(_FAN_OUT, _ansible),
    "mapfile": _mapfile,
    "readarray": _mapfile,
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
    "printf": _printf_variable,
}
