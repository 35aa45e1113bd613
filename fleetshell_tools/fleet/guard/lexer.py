"""A lexer for shell text that keeps how each part of a word was quoted.

It follows bash (POSIX.1-2017, Shell Command Language 2.2 and 2.3, and bash's additions), and it is lenient: what bash
would refuse as a syntax error is read as far as it goes, because the lines before it would have run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from fleetshell_tools.fleet.guard.budget import Budget
from fleetshell_tools.fleet.guard.symbols import from_outside


@dataclass(frozen=True)
class Literal:
    """Characters as they stand; unquoted ones may still be wildcards, braces or a tilde."""

    text: str
    quoted: bool


@dataclass(frozen=True)
class Parameter:
    """`$name`, `${name}`, `${name[index]}`, `${name operator argument}`; `prefix` is `!`, `#` or empty."""

    name: str
    quoted: bool
    prefix: str = ""
    index: str = ""
    operator: str = ""
    argument: Word | None = None


@dataclass(frozen=True)
class Substitution:
    """`$(…)` and backquotes (kind `$`), `<(…)` and `>(…)`, as the tokens inside."""

    kind: str
    tokens: list[Token]
    quoted: bool


@dataclass(frozen=True)
class Arithmetic:
    """`$((…))` or the command `((…))`: only the expansions inside matter to us."""

    inside: Word
    quoted: bool
    is_command: bool = False


@dataclass(frozen=True)
class Array:
    """The parenthesised values of an array assignment."""

    words: list[Word]
    quoted: bool = False


Part = Literal | Parameter | Substitution | Arithmetic | Array


@dataclass(frozen=True)
class Word:
    """One word, made of adjacent parts."""

    parts: tuple[Part, ...]

    @property
    def plain(self) -> str:
        """The text of a word that is wholly unquoted and literal (a reserved word can only be that), else empty."""
        if len(self.parts) == 1 and isinstance(self.parts[0], Literal) and not self.parts[0].quoted:
            return self.parts[0].text
        return ""


@dataclass
class Redirection:
    """A redirection; of a here-document, `target` is the body (filled in when its lines are reached)."""

    operator: str
    descriptor: str
    target: Word


@dataclass(frozen=True)
class Operator:
    """A control operator or a newline."""

    text: str


Token = Word | Redirection | Operator


class Mode(Enum):
    """Where text is read: each place has its own special characters."""

    WORD = re.compile(r"[^ \t\n'\"\\$`|&;<>()]+")
    DOUBLE = re.compile(r"[^\"\\$`]+")
    HEREDOC = re.compile(r"[^\\$`]+")
    BRACE = re.compile(r"[^'\"\\$`}]+")
    BRACE_IN_DOUBLE = re.compile(r"[^\"\\$`}]+")
    ARITHMETIC = re.compile(r"[^'\"\\$`()]+")


_BLANK = re.compile(r"(?:[ \t]|\\\n)+")
_OPERATOR = re.compile(r";;&|;;|;&|&&|\|\||\|&|[|&;()]")
_REDIRECTION = re.compile(r"(\d{1,9}|\{[A-Za-z_]\w{0,99}\})?(&>>|&>|<<<|<<-|<<|<>|<&|>&|>>|>\||<|>)")
_NAME = re.compile(r"[A-Za-z_]\w*|[0-9@*#?$!-]")
_PARAMETER = re.compile(
    r"\{([!#]?)([A-Za-z_]\w*|[0-9]+|[@*#?$!-])(?:\[([^\]\n]{0,99})\])?(:[-=?+]|##|%%|//|/[#%]|\^\^|,,|[-=?+#%/^,:@])?"
)
_ASSIGNMENT_TO_ARRAY = re.compile(r"[A-Za-z_]\w*\+?=\Z")
_ANSI_ESCAPE = re.compile(
    r"\\(?:x([0-9A-Fa-f]{1,2})|u([0-9A-Fa-f]{1,4})|U([0-9A-Fa-f]{1,8})|([0-7]{1,3})|c(.)|(.))", re.DOTALL
)
_ANSI_SIMPLE = {"a": "\a", "b": "\b", "e": "\x1b", "E": "\x1b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_ANSI_STRING = re.compile(r"((?:[^'\\]|\\.)*)'?", re.DOTALL)
_BACKQUOTED = re.compile(r"((?:[^`\\]|\\.)*)`?", re.DOTALL)
_BEFORE_COMMAND = frozenset(["if", "then", "elif", "else", "while", "until", "do", "{", "!", "time", "coproc"])


def unescape_ansi(text: str) -> str:
    """Decode the backslash escapes of `$'…'` (POSIX.1-2024, 2.2.4); a NUL vanishes."""

    def decode(match: re.Match[str]) -> str:
        if hexadecimal := match[1] or match[2] or match[3]:
            return character(int(hexadecimal, 16))
        if match[4]:
            return character(int(match[4], 8) & 0xFF)
        if match[5]:
            return character(ord(match[5].upper()) & 0x1F)
        return _ANSI_SIMPLE.get(match[6], match[6] if match[6] in "\\'\"?" else "\\" + match[6])

    def character(code: int) -> str:
        if code == 0:
            return ""
        return from_outside(chr(code)) if code < 0x110000 and not 0xD800 <= code < 0xE000 else "\ufffd"

    return _ANSI_ESCAPE.sub(decode, text)


def lex(text: str, budget: Budget) -> list[Token]:
    """Read a whole text.

    Raises:
        BudgetExceeded: The text nests too deeply or is too long.
    """
    return _Lexer(text, budget).tokens(nested=False)


class _Lexer:
    """A position in a text; substitutions are read by recursion over the same text, so that each character counts once."""

    def __init__(self, text: str, budget: Budget) -> None:
        self.text = text
        self.at = 0
        self.budget = budget
        self.pending: list[tuple[Redirection, bool]] = []

    def tokens(self, *, nested: bool) -> list[Token]:
        """Read tokens to the end, or to the parenthesis that closes this substitution."""
        found: list[Token] = []
        open_groups = cases = 0
        at_command = True
        with self.budget:
            while self._skip_blanks():
                self.budget.spend()
                token = self._arithmetic_command(at_command, found) or self._redirection()
                if token:
                    found.append(token)
                elif operator := self._operator():
                    if operator == "(":
                        open_groups += 1
                    elif operator == ")":
                        # In a case clause the parenthesis after a pattern closes nothing.
                        if open_groups == 0 and cases == 0 and nested:
                            return found
                        open_groups = max(open_groups - 1, 0)
                    found.append(Operator(operator))
                    at_command = True
                else:
                    word = self.word()
                    found.append(word)
                    if at_command and word.plain == "case":
                        cases += 1
                    elif at_command and word.plain == "esac":
                        cases = max(cases - 1, 0)
                    at_command = at_command and word.plain in _BEFORE_COMMAND
        self._read_here_documents()
        return found

    def word(self) -> Word:
        """Read one word, which may be empty where an operator stands."""
        return Word(tuple(self._parts(Mode.WORD)))

    def _skip_blanks(self) -> bool:
        """Skip blanks, continuations and a comment; returns whether text is left."""
        if match := _BLANK.match(self.text, self.at):
            self.at = match.end()
        if self.text.startswith("#", self.at):
            end = self.text.find("\n", self.at)
            self.at = end if end >= 0 else len(self.text)
        return self.at < len(self.text)

    def _operator(self) -> str:
        if self.text[self.at] == "\n":
            self.at += 1
            self._read_here_documents()
            return "\n"
        match = _OPERATOR.match(self.text, self.at)
        if match is None:
            return ""
        self.at = match.end()
        return match[0]

    def _redirection(self) -> Redirection | None:
        match = _REDIRECTION.match(self.text, self.at)
        if match is None or (match[2] in "<>" and not match[1] and self.text.startswith("(", match.end())):
            return None
        self.at = match.end()
        if blank := _BLANK.match(self.text, self.at):
            self.at = blank.end()
        redirection = Redirection(match[2], match[1] or "", self.word())
        if match[2] in ("<<", "<<-"):
            self.pending.append(
                (redirection, any(not isinstance(p, Literal) or p.quoted for p in redirection.target.parts))
            )
        return redirection

    def _read_here_documents(self) -> None:
        for redirection, quoted in self.pending:
            delimiter = "".join(part.text for part in redirection.target.parts if isinstance(part, Literal))
            lines: list[str] = []
            while self.at < len(self.text):
                end = self.text.find("\n", self.at)
                end = end if end >= 0 else len(self.text)
                line = self.text[self.at : end]
                self.at = min(end + 1, len(self.text))
                self.budget.spend()
                if redirection.operator == "<<-":
                    line = line.lstrip("\t")
                if line == delimiter:
                    break
                lines.append(line + "\n")
            body = "".join(lines)
            if quoted:
                redirection.target = Word((Literal(body, quoted=True),))
            else:
                redirection.target = Word(tuple(_Lexer(body, self.budget)._parts(Mode.HEREDOC)))
        self.pending.clear()

    def _parts(self, mode: Mode) -> list[Part]:
        """Read the parts of a word up to the character that ends it in this mode (which is left unread)."""
        parts: list[Part] = []
        text, quoted = self.text, mode in (Mode.DOUBLE, Mode.HEREDOC, Mode.BRACE_IN_DOUBLE)
        while self.at < len(text):
            self.budget.spend()
            if match := mode.value.match(text, self.at):
                self.budget.spend(len(match[0]) // 16)
                self.at = match.end()
                parts.append(Literal(match[0], quoted))
                continue
            char = text[self.at]
            if char == "\\":
                parts.extend(self._backslash(quoted))
            elif char == "$":
                parts.append(self._dollar(quoted))
            elif char == "`":
                parts.append(self._backquotes(quoted))
            elif char == "'" and not quoted:
                end = text.find("'", self.at + 1)
                end = end if end >= 0 else len(text)
                parts.append(Literal(text[self.at + 1 : end], quoted=True))
                self.at = end + 1
            elif char == '"' and mode is not Mode.DOUBLE and mode is not Mode.HEREDOC:
                parts.extend(self._double_quotes())
            elif mode is Mode.WORD and (part := self._parenthesised(parts)):
                parts.append(part)
            else:
                break
        return parts

    def _double_quotes(self) -> list[Part]:
        self.at += 1
        parts = self._parts(Mode.DOUBLE)
        self.at += 1
        return parts or [Literal("", quoted=True)]

    def _backslash(self, quoted: bool) -> list[Part]:
        following = self.text[self.at + 1 : self.at + 2]
        self.at += 2
        if following == "\n":
            return []
        if quoted and following not in ("$", "`", '"', "\\"):
            return [Literal("\\" + following, quoted=True)]
        return [Literal(following or "\\", quoted=True)]

    def _parenthesised(self, before: list[Part]) -> Part | None:
        """Read what a parenthesis means inside a word: process substitution, array values, an extended pattern."""
        opening = self.text[self.at : self.at + 2]
        if opening in ("<(", ">("):
            self.at += 2
            return Substitution(opening[0], self.tokens(nested=True), quoted=False)
        last = before[-1] if before else None
        if opening[:1] != "(" or not isinstance(last, Literal) or last.quoted:
            return None
        if len(before) == 1 and _ASSIGNMENT_TO_ARRAY.match(last.text):
            self.at += 1
            return Array([token for token in self.tokens(nested=True) if isinstance(token, Word)])
        if last.text[-1] in "?*+@" or (last.text[-1] == "!" and len(last.text) > 1):
            self.at += 1
            self.tokens(nested=True)
            return Literal("*", quoted=False)
        return None

    def _dollar(self, quoted: bool) -> Part:
        following = self.text[self.at + 1 : self.at + 3]
        if following == "((" and (arithmetic := self._arithmetic(self.at + 3, quoted, is_command=False)):
            return arithmetic
        if following[:1] == "(":
            self.at += 2
            return Substitution("$", self.tokens(nested=True), quoted)
        if following[:1] == "{":
            return self._braced_parameter(quoted)
        if following[:1] == "'" and not quoted:
            match = _ANSI_STRING.match(self.text, self.at + 2)
            assert match is not None
            self.at = match.end()
            return Literal(unescape_ansi(match[1]), quoted=True)
        self.at += 1
        if following[:1] == '"' and not quoted:
            return Literal("", quoted=True)
        if match := _NAME.match(self.text, self.at):
            self.at = match.end()
            return Parameter(match[0], quoted)
        return Literal("$", quoted=True)

    def _braced_parameter(self, quoted: bool) -> Part:
        match = _PARAMETER.match(self.text, self.at + 1)
        if match is None:
            self.at += 2
            return Literal("${", quoted=True)
        self.at = match.end()
        with self.budget:
            argument = Word(tuple(self._parts(Mode.BRACE_IN_DOUBLE if quoted else Mode.BRACE)))
        if self.text.startswith("}", self.at):
            self.at += 1
        return Parameter(match[2], quoted, match[1], match[3] or "", match[4] or "", argument)

    def _backquotes(self, quoted: bool) -> Part:
        match = _BACKQUOTED.match(self.text, self.at + 1)
        assert match is not None
        self.at = match.end()
        inside = re.sub(r'\\([\\`$"])' if quoted else r"\\([\\`$])", r"\1", match[1])
        return Substitution("$", _Lexer(inside, self.budget).tokens(nested=False), quoted)

    def _arithmetic_command(self, at_command: bool, before: list[Token]) -> Word | None:
        after_for = bool(before) and isinstance(before[-1], Word) and before[-1].plain == "for"
        if not (at_command or after_for) or not self.text.startswith("((", self.at):
            return None
        arithmetic = self._arithmetic(self.at + 2, quoted=False, is_command=True)
        return Word((arithmetic,)) if arithmetic else None

    def _arithmetic(self, start: int, quoted: bool, *, is_command: bool) -> Arithmetic | None:
        """Read an arithmetic expression; None, with nothing read, where `((` turns out to open two subshells."""
        before, self.at = self.at, start
        inside: list[Part] = []
        depth = 0
        with self.budget:
            while self.at < len(self.text):
                self.budget.spend()
                inside += self._parts(Mode.ARITHMETIC)
                char = self.text[self.at : self.at + 1]
                if char == ")" and depth == 0:
                    if self.text.startswith("))", self.at):
                        self.at += 2
                        return Arithmetic(Word(tuple(inside)), quoted, is_command)
                    break
                depth += {"(": 1, ")": -1}.get(char, 0)
                self.at += 1
        self.at = before
        return None
