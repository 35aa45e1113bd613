"""Static evaluation of words: what a word would become, from the assignments that this command itself makes.

Order as in bash (POSIX.1-2017, Shell Command Language 2.6): braces, tilde, parameters and substitutions, field splitting.
Wildcards stay in the fields as active marks, because the judges match them against critical names.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from fleetshell_tools.fleet.guard.braces import expand_braces
from fleetshell_tools.fleet.guard.budget import Budget
from fleetshell_tools.fleet.guard.lexer import Arithmetic, Literal, Parameter, Part, Substitution, Token, Word
from fleetshell_tools.fleet.guard.parser import Command
from fleetshell_tools.fleet.guard.symbols import UNKNOWN, UNSET, activate, empty_unset, is_known, matches, plain

_USUAL = frozenset(
    "EDITOR HOSTNAME LANG LOGNAME MAIL OLDPWD PPID SSH_CLIENT SSH_CONNECTION TERM TMPDIR UID EUID USER BASHPID "
    "RANDOM SECONDS SRANDOM EPOCHSECONDS BASH_VERSION HOSTTYPE OSTYPE LINENO XDG_RUNTIME_DIR SUDO_USER".split()
)
_USERS = ("USER", "LOGNAME")
_UNKNOWABLE = frozenset("#?$!-")
_USUAL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_BLANKS = " \t\n"


@dataclass
class State:
    """What a shell knows while it runs: variables (all are arrays, most of one value), functions, folder, files written.

    `references` are the names that `declare -n` made, `descriptors` the files that `exec` opened.
    """

    home: str
    folder: str
    variables: dict[str, tuple[str, ...]] = field(default_factory=dict)
    functions: dict[str, Command] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    positional: tuple[str, ...] = ()
    name: str = "sh"
    user: str = ""
    references: dict[str, str] = field(default_factory=dict)
    descriptors: dict[str, str] = field(default_factory=dict)

    def copy(self) -> State:
        """The state of a subshell; files are shared with it."""
        return replace(
            self,
            variables=dict(self.variables),
            functions=dict(self.functions),
            aliases=dict(self.aliases),
            references=dict(self.references),
            descriptors=dict(self.descriptors),
        )

    def named(self, name: str) -> str:
        """The variable that a name stands for: `declare -n` makes names of other names."""
        for _ in range(5):
            name = self.references.get(name, name)
        return name

    def lookup(self, name: str) -> tuple[str, ...] | None:
        """The values of a variable or a special parameter; None where nothing sets it."""
        if name in ("@", "*"):
            return self.positional
        if name.isdigit():
            return (self.name,) if name == "0" else self.positional[int(name) - 1 : int(name)] or ("",)
        name = self.named(name)
        if name in self.variables:
            return self.variables[name]
        if name in _USERS and self.user:
            return (self.user,)
        if name in _UNKNOWABLE or name in _USUAL:
            return (UNKNOWN,)
        known = {
            "HOME": self.home,
            "PWD": self.folder,
            "PATH": _USUAL_PATH,
            "IFS": _BLANKS,
            "BASH": "/bin/bash",
            "SHELL": "/bin/bash",
        }
        return (known[name],) if name in known else None


class Evaluator:
    """Turns words into fields.

    Args:
        state: Variables and the rest; assignments by `${x:=y}` change it.
        run: Follows the commands of a substitution in a subshell and returns what they would print.
        budget: Counts every word and the size of every value.
    """

    def __init__(self, state: State, run: Callable[[str, list[Token]], str], budget: Budget) -> None:
        self.state = state
        self.run = run
        self.budget = budget

    def fields(self, word: Word) -> list[str]:
        """The fields that a word becomes as an operand; unquoted wildcards are active marks in them."""
        found: list[str] = []
        for parts in expand_braces(word.parts, self.budget):
            found += self._split(_with_tilde(parts, self.state.home))
        return found

    def text(self, word: Word) -> str:
        """The one text that a word becomes in an assignment, a redirection or a here-document."""
        pieces: list[str] = []
        for part in _with_tilde(word.parts, self.state.home):
            pieces.append(" ".join(self._values(part)))
        return self.budget.value(plain("".join(pieces)))

    def _split(self, parts: tuple[Part, ...]) -> list[str]:
        """Join parts to fields: quoted `$@` makes several, unquoted expansions are split at IFS."""
        fields: list[list[str]] = []
        is_open = False
        for part in parts:
            values = self._values(part)
            opens = closes = False
            if isinstance(part, Literal):
                pieces = [values[0] if part.quoted else activate(values[0])]
            elif part.quoted:
                pieces = list(values)
            else:
                pieces, opens, closes = self._unquoted(values)
            is_open = is_open and not opens
            for number, piece in enumerate(pieces):
                self.budget.value(piece)
                if number or not is_open:
                    fields.append([])
                fields[-1].append(piece)
                is_open = True
            is_open = is_open and not closes
        return [self.budget.value("".join(field)) for field in fields]

    def _unquoted(self, values: tuple[str, ...]) -> tuple[list[str], bool, bool]:
        """Split unquoted values; also whether the first starts, and the last ends, with a separator."""
        separators = "".join(self.state.lookup("IFS") or _BLANKS)
        text = (separators[:1] or " ").join(values)
        if not separators:
            return [activate(value) for value in values], False, False
        pattern = "[" + re.escape(separators) + "]+"
        pieces = [activate(piece) for piece in re.split(pattern, text) if piece]
        return pieces, text[:1] != "" and text[0] in separators, text[:1] != "" and text[-1] in separators

    def _values(self, part: Part) -> tuple[str, ...]:
        self.budget.spend()
        if isinstance(part, Literal):
            return (part.text,)
        if isinstance(part, Parameter):
            return self._parameter(part)
        if isinstance(part, Substitution):
            return (self.budget.value(self.run(part.kind, part.tokens).rstrip("\n")),)
        if isinstance(part, Arithmetic):
            self.text(part.inside)
            return (UNKNOWN,)
        return tuple(value for word in part.words for value in self.fields(word))

    def _parameter(self, part: Parameter) -> tuple[str, ...]:
        name = part.name
        if part.prefix == "!":
            target = self.state.lookup(name)
            name = target[0] if target and re.fullmatch(r"[A-Za-z_]\w*", target[0]) else name
        values = self.state.lookup(name)
        if values and part.index.isdigit():
            values = values[int(part.index) : int(part.index) + 1]
        elif values and part.index not in ("@", "*") and name not in ("@", "*"):
            values = values[:1]
        if part.prefix == "#":
            return (UNKNOWN if values is None or not is_known("".join(values)) else str(len("".join(values))),)
        if part.operator and part.operator[-1] in "-=?+":
            return self._conditional(part, values)
        if values is None:
            if part.argument:
                self.text(part.argument)
            return (UNSET,)
        if not part.operator or part.argument is None:
            return tuple(values)
        argument = self.text(part.argument)
        return tuple(self.budget.value(_transform(value, part.operator, argument)) for value in values)

    def _conditional(self, part: Parameter, values: tuple[str, ...] | None) -> tuple[str, ...]:
        """`${x:-y}`, `${x:=y}`, `${x:?y}`, `${x:+y}` and their forms without a colon."""
        missing = values is None or (part.operator[0] == ":" and not empty_unset("".join(values)))
        action = part.operator[-1]
        argument = self.text(part.argument) if part.argument and missing != (action == "+") else ""
        if action == "+":
            return ("",) if missing else (argument,)
        if not missing:
            return values or ()
        if action == "?":
            return (UNKNOWN,)
        if action == "=":
            self.state.variables[part.name] = (argument,)
        return (argument,)


def _with_tilde(parts: tuple[Part, ...], home: str) -> tuple[Part, ...]:
    """Replace a leading unquoted `~` or `~name`."""
    first = parts[0] if parts else None
    if not isinstance(first, Literal) or first.quoted or not first.text.startswith("~"):
        return parts
    user, slash, rest = first.text[1:].partition("/")
    if user in ("+", "-") or (not slash and len(parts) > 1):
        return parts
    folder = home if not user else "/root" if user == "root" else f"/home/{user}"
    return (Literal(folder, quoted=True), Literal(slash + rest, quoted=False), *parts[1:])


def _transform(value: str, operator: str, argument: str) -> str:
    """Apply `#`, `##`, `%`, `%%`, `/`, `//`, case and substring operators; what is not known stays unknown."""
    if operator == "@":
        return {"L": value.lower(), "U": value.upper()}.get(argument, value)
    if operator in ("^", "^^", ",", ",,"):
        cased = value.upper() if operator[0] == "^" else value.lower()
        return cased if len(operator) == 2 else cased[:1] + value[1:]
    if operator == ":":
        return _substring(value, argument)
    if not is_known(value) or not is_known(argument):
        return UNKNOWN
    if operator in ("#", "##", "%", "%%"):
        return _without_affix(value, operator, activate(argument))
    pattern, _, replacement = argument.partition("/")
    if not pattern or any(char in pattern for char in "*?[\\") or operator in ("/#", "/%"):
        return UNKNOWN
    return value.replace(pattern, replacement, 1 if operator == "/" else -1)


def _without_affix(value: str, operator: str, pattern: str) -> str:
    if len(value) > 200:
        return UNKNOWN
    cuts = range(len(value) + 1)
    if operator in ("##", "%"):
        cuts = cuts[::-1]
    for cut in cuts:
        affix, rest = (value[:cut], value[cut:]) if operator[0] == "#" else (value[cut:], value[:cut])
        if matches(pattern, affix):
            return rest
    return value


def _substring(value: str, argument: str) -> str:
    match = re.fullmatch(r"\s*\(?(-?\d{1,6})\)?\s*(?::\s*(-?\d{1,6}))?\s*", argument)
    if match is None:
        return UNKNOWN
    start = int(match[1])
    if not is_known(value) and (start < 0 or match[2] is None or not is_known(value[: start + abs(int(match[2]))])):
        return UNKNOWN
    start = start if start >= 0 else max(len(value) + start, 0)
    if match[2] is None:
        return value[start:]
    length = int(match[2])
    return value[start : start + length] if length >= 0 else value[start:length]
