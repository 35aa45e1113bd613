"""Follows what code in other languages would run, delete and write, as `interpreters` has found it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from fleetshell_tools.fleet.guard.interpreters import code_of, file_of, inspect, interpreter_of
from fleetshell_tools.fleet.guard.paths import resolve
from fleetshell_tools.fleet.guard.rules import Finding
from fleetshell_tools.fleet.guard.symbols import STAR, UNKNOWN, plain
from fleetshell_tools.fleet.guard.written import content

if TYPE_CHECKING:
    from fleetshell_tools.fleet.guard.follow import Follower


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
        program = replace(program, commands=_tcl(plain(code)))
    if program.connects:
        follower.refuse(words, "remote-shell", "gives a shell to another host")
    if program.hidden:
        follower.refuse(words, "undecodable-code", "runs code that cannot be known before")
    if program.forks:
        follower.report(Finding("forkbomb", "fork-loop", "starts itself again and again", tuple(words)))
    if program.drops:
        follower.run(["psql", "-c", "; ".join(program.drops)], "")
    for command in program.commands:
        follower.subshell(lambda command=command: follower.code(command))  # type: ignore[misc]
    if program.ends_all:
        follower.run(["kill", "--", "-1"], "")
    if program.deleted:
        follower.run(["rm", "-rf", *_expanded(follower, program.deleted)], "")
    for name, mode, path in program.modes:
        follower.run([name, mode, path], "")
    if program.restarts:
        follower.run(["reboot"], "")
    for path in program.written:
        follower.run(["tee", path], "")
    if re.search(r"\b(?:kill|killpg)\s*\(?\s*(?:-?1\b(?=\s*,)|-1|9,\s*-?1|['\"]?KILL['\"]?,\s*-1)\b", plain(code)):
        follower.run(["kill", "--", "-1"], "")
    column = _COLUMN.fullmatch(code.strip()) if language and language.first_operand else None
    if column and stdin.strip() == STAR:
        return stdin
    if column and not [word for word in words[2:] if word != code and not word.startswith("-")]:
        return "".join(
            (line.split() or [""])[int(column[1]) - 1 : int(column[1])][0] + "\n"
            for line in stdin.splitlines()
            if len(line.split()) >= int(column[1])
        )
    return UNKNOWN


def _tcl(code: str) -> tuple[str, ...]:
    """The command lines in Tcl, where `file delete` is `rm`."""
    code = re.sub(r"\bfile\s+delete\s+(?:-force\s+)?(?:--\s+)?", "exec rm -rf ", code)
    return tuple(re.findall(r"\b(?:exec|spawn|system)\s+([^\n;\]]+)", code))


_COLUMN = re.compile(r"(?:NR\s?[>!=]=?\s?\d+\s?)?\{\s?print\s?\$([1-9])\s?;?\s?\}")


def _expanded(follower: Follower, paths: tuple[str, ...]) -> list[str]:
    """Paths in other languages are often expanded too (`glob`, `expanduser`)."""
    return [path.replace("*", STAR).replace("~", follower.state.home, 1) for path in paths]


def compiler(follower: Follower, words: list[str], stdin: str) -> str:
    """Code in C that this command itself brings: only whether it starts processes without end."""
    sources = [content(follower, word) for word in words[1:] if word.endswith((".c", ".cc", ".cpp"))]
    if inspect(plain("\n".join([stdin, *sources]))).forks:
        follower.report(Finding("forkbomb", "fork-loop", "starts itself again and again", tuple(words)))
    return UNKNOWN
