"""Code of other interpreters (`python -c`, `perl -e`, `awk`): which shell commands it holds, found without running it.

Only its words and string literals are looked at. Where the code names something that runs commands, each literal is
followed as a command line; where it names something that deletes, each literal is judged as a path to delete.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fleetshell_tools.fleet.guard.lexer import unescape_ansi
from fleetshell_tools.fleet.guard.options import parse

_RUNS = frozenset(
    "system popen popen2 popen3 exec execl execle execlp execv execve execvp execSync execFile execFileSync spawn spawnl "
    "spawnlp spawnv spawnvp spawnSync subprocess call check_call check_output run Popen getoutput getstatusoutput "
    "shell_exec passthru proc_open pcntl_exec qx capture2 capture3 capture2e os_execute execute open getline".split()
)
_DELETES = frozenset(
    "rmtree remove unlink rmdir removedirs rm_rf rm_r rm remove_dir remove_entry remove_tree rmSync rmdirSync unlinkSync "
    "removeSync delete delete_all rmtree_safe unlink_recursive rename".split()
)
_WRITES = frozenset(
    ["open", "write_text", "write_bytes", "writeFileSync", "writeFile", "file_put_contents", "fopen", "sysopen"]
)
_LOOPS = frozenset(["while", "until", "for", "loop"])
_TOKEN = re.compile(
    r"""(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`)"""
    r"""|\b(?P<quote>q[qx]?)\s?(?P<quoted>\([^)]*\)?|\{[^}]*\}?|\[[^]]*\]?)"""
    r"""|(?P<word>[A-Za-z_]\w*)|(?P<other>[;()])""",
    re.DOTALL,
)


@dataclass(frozen=True)
class Interpreter:
    """Options of an interpreter: which take code, which take a value."""

    code: str
    short: str = ""
    first_operand: bool = False


INTERPRETERS: dict[str, Interpreter] = {
    "python": Interpreter("c", "cmWXQ"),
    "perl": Interpreter("eE", "eEIMmxCD"),
    "ruby": Interpreter("e", "eIrCEFKT"),
    "node": Interpreter("ep", "epr"),
    "php": Interpreter("rBRE", "rBREdcfzt"),
    "lua": Interpreter("e", "el"),
    "awk": Interpreter("", "vFfime", first_operand=True),
}
_ALIASES = {
    "nodejs": "node",
    "gawk": "awk",
    "mawk": "awk",
    "nawk": "awk",
    "pypy": "python",
    "bun": "node",
    "deno": "node",
}


@dataclass(frozen=True)
class Program:
    """What was found in code: lines to follow as shell code, paths that it deletes or writes, whether it forks in a loop."""

    commands: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    forks: bool = False


def interpreter_of(name: str) -> Interpreter | None:
    """The interpreter of a program's name; `python3.11` is `python`."""
    base = re.sub(r"[\d.]+\Z", "", name)
    return INTERPRETERS.get(_ALIASES.get(base, base))


def code_of(interpreter: Interpreter, arguments: Sequence[str], stdin: str) -> str:
    """The code on an interpreter's command line, or on its stdin where it would read that."""
    options = parse(arguments, short=interpreter.short, long=("eval", "print"), to_operand=True)
    if interpreter.first_operand:
        return "" if options.has("f", "file") else "".join(options.operands[:1])
    given = [value for name in (*interpreter.code, "eval", "print") if (value := options.value(name))]
    if given:
        return "\n".join(given)
    return stdin if options.operands[:1] in ([], ["-"]) and "m" not in options.values else ""


def inspect(code: str) -> Program:
    """Find what code would run, delete and write; linear in its length."""
    words: set[str] = set()
    groups: list[list[str]] = [[]]
    backquoted: list[str] = []
    for match in _TOKEN.finditer(code):
        literal = match["string"] or match["quoted"]
        if literal:
            text = unescape_ansi(literal[1:-1])
            groups[-1].append(text)
            if literal[0] == "`" or match["quote"] == "qx":
                backquoted.append(text)
        else:
            words.add(match["word"] or "")
            groups.append([])
    strings = [text for group in groups for text in group]
    # The words of an argument list stand next to each other: ["rm", "-rf", "/"].
    lists = [" ".join(group) for group in groups if len(group) > 1]
    paths = tuple(text for text in strings if text.startswith(("/", "~")))
    return Program(
        commands=(*strings, *lists) if words & _RUNS else tuple(backquoted),
        deleted=paths if words & _DELETES else (),
        written=paths if words & _WRITES else (),
        forks="fork" in words and bool(words & _LOOPS),
    )
