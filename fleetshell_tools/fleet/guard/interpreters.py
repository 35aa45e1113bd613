"""Code of other interpreters (`python -c`, `perl -e`, `awk`): which shell commands it holds, found without running it.

Only its words and string literals are looked at. Where the code names something that runs commands, each literal is
followed as a command line; where it names something that deletes, each literal is judged as a path to delete.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fleetshell_tools.fleet.guard.lexer import unescape_ansi
from fleetshell_tools.fleet.guard.options import parse
from fleetshell_tools.fleet.guard.symbols import from_outside

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
_DECODES = frozenset(
    "b64decode decodebytes base64 urlsafe_b64decode decode64 decode_base64 base64_decode atob unhexlify fromhex pack unpack decompress "
    "gzinflate gzuncompress str_rot13 inflate unhex hex2bin a85decode b85decode b32decode strict_decode64 urlsafe_decode64 loads".split()
)
_EVALUATES = frozenset(
    "exec eval compile execfile instance_eval class_eval Function assert create_function marshal".split()
)
_FETCHES = frozenset(
    "urlopen requests urllib recv fsockopen LWP httpx Net open_uri https fetch curl_exec urlretrieve".split()
)
_SOCKETS = frozenset(
    "socket Socket fsockopen TCPSocket TCPServer create_connection IO pfsockopen createConnection net".split()
)
_SHELL = re.compile(r"(?:/usr)?(?:/bin/)?(?:ba|da|z|k)?sh(?:\s+-i.*)?\Z")
_DEEPEST = 3
_MODE = re.compile(r"[rbt]*[wax][btwx+]*|r[bt]?\+[bt]?|\+?>{1,2}(?::\w+)?.*|\+<")
_LOOPS = frozenset(["while", "until", "for", "loop"])
_TOKEN = re.compile(
    r"""(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`)"""
    r"""|<(?P<glob>/[^>\s]*)>|\b(?P<quote>q[qx]?)\s?(?P<quoted>\([^)]*\)?|\{[^}]*\}?|\[[^]]*\]?)"""
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
    "tclsh": Interpreter("", ""),
    "expect": Interpreter("c", "cf"),
    "osascript": Interpreter("e", "e"),
    "Rscript": Interpreter("e", "e"),
    "groovy": Interpreter("e", "e"),
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
    """What was found in code: lines to follow as shell code, paths that it deletes or writes.

    `forks` says that it forks in a loop, `hidden` that it runs code which it first decodes or fetches and which cannot be known,
    `connects` that it joins a shell to a network connection.
    """

    commands: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    forks: bool = False
    hidden: bool = False
    connects: bool = False


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


def inspect(code: str, depth: int = 0) -> Program:
    """Find what code would run, delete and write; linear in its length."""
    words: set[str] = set()
    groups: list[list[str]] = [[]]
    backquoted: list[str] = []
    for match in _TOKEN.finditer(code):
        literal = match["string"] or match["quoted"] or (f"<{match['glob']}>" if match["glob"] else "")
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
    # What is called by a name in a text: `array_map("unlink", …)`, `getattr(os, "system")`.
    words |= {text for text in strings if text in _RUNS | _DELETES}
    shells = any(_SHELL.match(text) for text in strings)
    opens = words & _WRITES - {"open", "fopen"} or any(_MODE.fullmatch(text) for text in strings)
    return _decoded(
        Program(
            commands=(*strings, *lists) if words & _RUNS else tuple(backquoted),
            deleted=paths if words & _DELETES else (),
            written=paths if words & _WRITES and opens else (),
            forks="fork" in words and bool(words & _LOOPS),
            hidden=bool(words & _EVALUATES and words & _FETCHES),
            connects=shells and bool(words & _SOCKETS),
        ),
        words,
        strings,
        depth,
    )


def _decoded(program: Program, words: set[str], strings: Sequence[str], depth: int) -> Program:
    """Add what hidden code does: literals in base64 or hexadecimal that the code itself decodes and runs."""
    if not words & _DECODES or not words & (_RUNS | _EVALUATES):
        return program
    inner = [code for text in strings if depth < _DEEPEST and (code := _plain_code(text))]
    if not inner:
        return replace(program, hidden=program.hidden or bool(words & _EVALUATES))
    found = [inspect(code, depth + 1) for code in inner]
    return Program(
        commands=(
            *program.commands,
            *(code for code in inner if words & _RUNS),
            *(line for one in found for line in one.commands),
        ),
        deleted=(*program.deleted, *(path for one in found for path in one.deleted)),
        written=(*program.written, *(path for one in found for path in one.written)),
        forks=program.forks or any(one.forks for one in found),
        hidden=program.hidden or any(one.hidden for one in found),
        connects=program.connects or any(one.connects for one in found),
    )


def _plain_code(text: str) -> str:
    """A literal decoded from base64 or hexadecimal; empty where it is neither."""
    compact = "".join(text.split())
    for decode in (bytes.fromhex, _base64):
        try:
            code = decode(compact).decode()
        except ValueError:
            continue
        if (len(code) > 2 and code.isprintable()) or "\n" in code:
            return from_outside(code)
    return ""


def _base64(text: str) -> bytes:
    if len(text) < 8:
        raise ValueError("too short to be code")
    return base64.b64decode(text, validate=True)
