"""Code of other interpreters (`python -c`, `perl -e`, `awk`): which shell commands it holds, found without running it.

Only its words and string literals are looked at. Where the code names something that runs commands, each literal is
followed as a command line; where it names something that deletes, each literal is judged as a path to delete.
"""

from __future__ import annotations

import base64
import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fleetshell_tools.fleet.guard.lexer import unescape_ansi
from fleetshell_tools.fleet.guard.options import parse
from fleetshell_tools.fleet.guard.symbols import from_outside

_RUNS = frozenset(
    "system popen popen2 popen3 exec execl execle execlp execv execve execvp execSync execFile execFileSync spawn spawnl "
    "spawnlp spawnv spawnvp spawnSync subprocess call check_call check_output run Popen getoutput getstatusoutput "
    "shell_exec passthru proc_open pcntl_exec qx capture2 capture3 capture2e os_execute execute getline Command "
    "cmd create_subprocess_shell create_subprocess_exec posix_spawn posix_spawnp".split()
)
_DELETES = frozenset(
    "rmtree remove unlink rmdir removedirs rm_rf rm_r rm remove_dir remove_entry remove_tree rmSync rmdirSync unlinkSync "
    "removeSync delete delete_all rmtree_safe unlink_recursive rename renameSync move moveSync mv emptyDirSync".split()
)
_WRITES = frozenset(
    "open write_text write_bytes writeFileSync writeFile createWriteStream writeTextFileSync writeTextFile file_put_contents fopen sysopen "
    "truncateSync binwrite truncate".split()
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
    r"""|<(?P<glob>/[^>\s]*)>|(?P<quote>\bq[qxw]?|%x)\s?(?P<quoted>\([^)]*\)?|\{[^}]*\}?|\[[^]]*\]?)"""
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
    "emacs": Interpreter("", ""),
    "julia": Interpreter("eE", "eELJ"),
    "guile": Interpreter("c", "cel"),
    "elixir": Interpreter("e", "er"),
    "jshell": Interpreter("", ""),
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
    """What was found in code: lines to follow as shell code, paths that it deletes or writes, modes that it sets.

    `forks` says that it forks in a loop, `hidden` that it runs code which it first decodes or fetches and which cannot be known,
    `connects` that it joins a shell to a network connection, `restarts` that it asks the kernel to restart.
    """

    commands: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    modes: tuple[tuple[str, str, str], ...] = ()
    drops: tuple[str, ...] = ()
    forks: bool = False
    hidden: bool = False
    connects: bool = False
    restarts: bool = False
    ends_all: bool = False


def interpreter_of(name: str) -> Interpreter | None:
    """The interpreter of a program's name; `python3.11` is `python`."""
    base = re.sub(r"[\d.]+\Z", "", name)
    return INTERPRETERS.get(_ALIASES.get(base, base))


def code_of(interpreter: Interpreter, arguments: Sequence[str], stdin: str) -> tuple[str, tuple[str, ...]]:
    """The code on an interpreter's command line, or on its stdin where it would read that; and the code's own arguments."""
    options = parse(arguments, short=interpreter.short, long=("eval", "print", "execute"), to_operand=True)
    operands = options.operands
    if interpreter.first_operand:
        return ("" if options.has("f", "file") else "".join(operands[:1])), ()
    if operands[:1] in (["eval"], ["-eval"]):
        return "\n".join(operands[1:]), ()
    given = [value for name in (*interpreter.code, "eval", "print", "execute") if (value := options.value(name))]
    if given:
        return "\n".join(given), tuple(operands)
    return (stdin if operands[:1] in ([], ["-"]) and "m" not in options.values else ""), tuple(operands[1:])


def file_of(interpreter: Interpreter, arguments: Sequence[str]) -> str:
    """The script that an interpreter would run; empty where it is given code otherwise."""
    options = parse(arguments, short=interpreter.short, long=("eval", "print", "execute"), to_operand=True)
    named = options.value("f", "file") if interpreter.first_operand else "".join(options.operands[:1])
    given = any(name in options.values for name in (*interpreter.code, "eval", "m")) and not interpreter.first_operand
    return "" if given else named or ""


_ASSIGNED = re.compile(
    r"""[$@]?\b([A-Za-z_]\w{0,30})\s{0,3}=\s{0,3}("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')(?!\s*[.+\w])"""
)
_INSERTED = re.compile(r"[$#]?\{\s?(\w{1,31})\s?\}|\$(\w{1,31})")
_JOINING = re.compile(r"\s*(?:\+|\.\.?)?\s*")


class _Reader:
    """Collects the words and literals of code; literals that the code joins are joined."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.words: set[str] = set()
        self.groups: list[list[str]] = [[]]
        self.backquoted: list[str] = []
        self.variables = {name: unescape_ansi(value[1:-1]) for name, value in _ASSIGNED.findall(code)}
        self._end = -1
        for match in _TOKEN.finditer(code):
            literal = match["string"] or match["quoted"] or (f"<{match['glob']}>" if match["glob"] else "")
            if literal:
                self._literal(match, self._filled(unescape_ansi(literal[1:-1])))
                if literal[0] == "`" or match["quote"] in ("qx", "%x"):
                    self.backquoted.append(self.groups[-1][-1])
            else:
                self._word(match)

    def _filled(self, text: str) -> str:
        """A literal with the variables in it replaced: `f"{x}"`, `"$x"`, `"#{x}"`."""
        if not self.variables:
            return text
        return _INSERTED.sub(lambda match: self.variables.get(match[1] or match[2], match[0])[:200], text)

    def _literal(self, match: re.Match[str], text: str) -> None:
        joins = self._end >= 0 and _JOINING.fullmatch(self.code, self._end, match.start())
        if joins and self.groups[-1]:
            text = (self.groups[-1][-1] + text)[-_LONGEST:]
        self.groups[-1].append(text)
        self._end = match.end()

    def _word(self, match: re.Match[str]) -> None:
        word = match["word"] or ""
        between = self.code[self._end : match.start()].rstrip("$") if self._end >= 0 else ""
        if word in self.variables and self.groups[-1] and between.strip() in ("+", ".", ".."):
            self.groups[-1].append((self.groups[-1][-1] + self.variables[word])[-_LONGEST:])
            self._end = match.end()
            return
        self.words.add(word)
        self.groups.append([self.variables[word]] if word in self.variables else [])
        self._end = match.end() if word in self.variables else -1


_LONGEST = 2000
_CHARACTER = re.compile(r"\b(?:chr|String\.fromCharCode)\((\d{1,3})\)")


def inspect(code: str, depth: int = 0, arguments: Sequence[str] = ()) -> Program:
    """Find what code would run, delete and write; linear in its length.

    Args:
        code: Of any language.
        depth: How many layers of encoding it came out of.
        arguments: What the code is given on its command line.
    """
    reader = _Reader(_CHARACTER.sub(lambda match: repr(chr(int(match[1]) % 128)), code))
    words, groups = reader.words, reader.groups
    strings = [text for group in groups for text in group]
    if words & _ARGUMENTS:
        strings += arguments
    # The words of an argument list stand next to each other: ["rm", "-rf", "/"].
    lists = [" ".join(group) for group in groups if len(group) > 1]
    lists_folder = bool(words & {"listdir", "glob", "iterdir", "scandir", "walk", "readdir", "entries", "children"})
    paths = tuple(
        text for text in strings if text.startswith(("/", "~")) or (lists_folder and text in (".", "*", "./*", "**"))
    )
    # What is called by a name in a text: `array_map("unlink", …)`, `getattr(os, "system")`.
    words |= {text for text in strings if text in _RUNS | _DELETES | _DECODES}
    if {"rot13", "rot_13"} & {*strings, *words}:
        strings += [codecs.encode(text, "rot13") for text in strings]
    if "[::-1]" in code or words & {"strrev", "reverse", "reversed"}:
        strings += [text[::-1] for text in strings]
    shells = any(_SHELL.match(text) for text in strings)
    opens = (
        words & {"O_WRONLY", "O_RDWR", "O_TRUNC"}
        or words & _WRITES - {"open", "fopen"}
        or any(_MODE.fullmatch(text) for text in strings)
    )
    writes = (words & _WRITES and opens) or (words & {"write", "truncate"} and words & {"File", "IO"})
    piped = _PIPED.search(code) is not None
    program = Program(
        commands=(*strings, *lists) if words & _RUNS or piped else (*reader.backquoted, *_opened(words, strings)),
        deleted=paths if words & _DELETES else (),
        written=paths if writes else tuple(_REDIRECTED.findall(code)),
        modes=tuple((name, mode, path) for path in paths for name, mode in _changes(words, code)),
        drops=(*(strings if words & _STATEMENTS else ()), *("drop database x" for _ in words & _DROPS)),
        forks=_forks(code, words, strings),
        hidden=bool(words & _EVALUATES and (words & _FETCHES or any(text.startswith("http") for text in strings))),
        connects=(shells and bool(words & _SOCKETS)) or ("getline" in words and "/inet/tcp" in code),
        restarts="SYS_reboot" in words
        or ("reboot" in words and bool(words & {"CDLL", "syscall", "ctypes", "ffi", "dlopen"})),
        ends_all="process_iter" in words and bool(words & {"kill", "terminate"}),
    )
    if words & _EVALUATES and depth < _DEEPEST:
        for text in strings:
            program = _both(program, inspect(text, depth + 1)) if len(text) > 5 else program
    # The mode of an old-fashioned `open` stands before the path: `">/dev/sda"`.
    modal = tuple(text.lstrip("+<> ") for text in strings if text.startswith((">", "+<", "+>")) and "/" in text)
    if modal and "open" in words:
        program = replace(program, written=(*program.written, *modal))
    return _decoded(program, words, strings, depth)


_STATEMENTS = frozenset("execute executescript executemany query raw prepare exec do executeUpdate".split())
_DROPS = frozenset(
    "flushall flushdb flushAll flushDb dropDatabase drop_database drop_collection drop_all dropCollection drop_table".split()
)


def _changes(words: set[str], code: str) -> list[tuple[str, str]]:
    """The modes and owners that code sets, as arguments of `chmod` and `chown`."""
    changes = [("chmod", _octal(code))] if words & {"chmod", "chmodSync", "lchmod"} else []
    return [*changes, ("chown", "nobody")] if words & {"chown", "chownSync", "lchown"} else changes


def _opened(words: set[str], strings: Sequence[str]) -> list[str]:
    """`open("|reboot")`: a pipe in place of a file."""
    return (
        [text.strip("| ") for text in strings if text.strip()[:1] == "|" or text.strip()[-1:] == "|"]
        if "open" in words
        else []
    )


_ARGUMENTS = frozenset("argv ARGV process args".split())
_PIPED = re.compile(r"\|\s?&?\s?[\"'](?:/usr)?(?:/bin/)?(?:ba|da|z|k)?sh[\"' ]")
_REDIRECTED = re.compile(r">\s?[\"'](/[^\"'\s]+)[\"']")
_ENDLESSLY = re.compile(
    r"\bwhile\s?\(?\s?(?:1|true|True|!0|:)\b|\bfor\s?\(\s?;\s?;\s?\)|\bloop\b|\buntil\s+false\b|iter\s?\(\s?int"
)
_WAITS = frozenset("sleep wait waitpid delay setTimeout input select join".split())


def _forks(code: str, words: set[str], strings: Sequence[str]) -> bool:
    """Does code start processes in a loop and wait for none?"""
    if words & {"fork", "pcntl_fork", "vfork"} and words & _LOOPS:
        return True
    starts = words & {"spawn", "Popen", "posix_spawn"} or (
        words & _RUNS and any(text.endswith("&") for text in strings)
    )
    return bool(starts and not words & _WAITS and _ENDLESSLY.search(code))


def _octal(code: str) -> str:
    match = re.search(r"\b0?o?([0-7]{3,4})\b", code)
    return match[1] if match else "777"


def _both(one: Program, other: Program) -> Program:
    return Program(
        commands=one.commands + other.commands,
        deleted=one.deleted + other.deleted,
        written=one.written + other.written,
        modes=one.modes + other.modes,
        drops=one.drops + other.drops,
        forks=one.forks or other.forks,
        hidden=one.hidden or other.hidden,
        connects=one.connects or other.connects,
        restarts=one.restarts or other.restarts,
        ends_all=one.ends_all or other.ends_all,
    )


def _decoded(program: Program, words: set[str], strings: Sequence[str], depth: int) -> Program:
    """Add what hidden code does: literals in base64 or hexadecimal that the code itself decodes and runs."""
    if not words & _DECODES or not words & (_RUNS | _EVALUATES):
        return program
    inner = [code for text in strings if depth < _DEEPEST and (code := _plain_code(text))]
    if not inner:
        return replace(program, hidden=program.hidden or bool(words & _EVALUATES))
    if words & _RUNS:
        program = replace(program, commands=(*program.commands, *inner))
    for code in inner:
        program = _both(program, inspect(code, depth + 1))
    return program


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
