"""The parser: from tokens to the structure of a script, as far as it decides what would be executed.

Conditions are not judged, so `&&`, `||`, `;` and the branches of an `if` all become one list of commands that may run.
The grammar is POSIX.1-2017, Shell Command Language 2.10, read leniently: what does not fit is skipped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from fleetshell_tools.fleet.guard.budget import Budget
from fleetshell_tools.fleet.guard.lexer import Arithmetic, Array, Literal, Operator, Redirection, Token, Word


@dataclass(frozen=True)
class Assignment:
    """`name=value`; `values` is set for an array."""

    name: str
    value: Word
    append: bool = False
    values: tuple[Word, ...] | None = None


@dataclass
class Simple:
    """A simple command."""

    assignments: list[Assignment] = field(default_factory=list)
    words: list[Word] = field(default_factory=list)
    redirections: list[Redirection] = field(default_factory=list)


@dataclass
class Pipeline:
    """Commands joined by pipes (more than one), or one that runs in the background."""

    commands: list[Command]
    background: bool = False


@dataclass
class Block:
    """Commands one after the other; a subshell keeps its assignments for itself."""

    commands: list[Command] = field(default_factory=list)
    redirections: list[Redirection] = field(default_factory=list)
    subshell: bool = False


@dataclass
class Loop:
    """`for` and `select`."""

    name: str
    words: list[Word] | None
    body: Block
    redirections: list[Redirection] = field(default_factory=list)


@dataclass
class While:
    """`while` and `until`: the condition and the body in one block."""

    body: Block
    redirections: list[Redirection] = field(default_factory=list)


@dataclass
class Function:
    """A function definition."""

    name: str
    body: Command


@dataclass
class Words:
    """`[[ … ]]`, `(( … ))` and the words of `case`: only the substitutions inside run."""

    words: list[Word]


Command = Simple | Pipeline | Block | Loop | While | Function | Words

_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(\[[^\]]*\])?(\+)?=(.*)", re.DOTALL)
_STRAY = frozenset(["then", "else", "elif", "fi", "do", "done", "esac", "}", "in"])
_SKIPPED = frozenset(["!", "time", "coproc"])
_COMPOUND = frozenset(["{", "if", "while", "until", "for", "select", "case", "[["])
_NOTHING: frozenset[str] = frozenset()


def parse(tokens: list[Token], budget: Budget) -> Block:
    """Read all tokens of a script or of a substitution.

    Raises:
        BudgetExceeded: It nests too deeply.
    """
    parser = _Parser(tokens, budget)
    script = parser.block(_NOTHING)
    while not parser.at_end():
        parser.at += 1
        script.commands += parser.block(_NOTHING).commands
    return script


def as_assignment(word: Word) -> Assignment | None:
    """The assignment that a word makes at the start of a command or after `export`, if it is one."""
    first = word.parts[0] if word.parts else None
    if not isinstance(first, Literal) or first.quoted or not (match := _ASSIGNMENT.match(first.text)):
        return None
    rest = word.parts[1:]
    if rest and isinstance(rest[0], Array):
        return Assignment(match[1], Word(()), bool(match[3]), tuple(rest[0].words))
    value = Word((Literal(match[4], quoted=False), *rest))
    return Assignment(match[1], value, bool(match[3]))


class _Parser:
    def __init__(self, tokens: list[Token], budget: Budget) -> None:
        self.tokens = tokens
        self.at = 0
        self.budget = budget

    def at_end(self) -> bool:
        return self.at >= len(self.tokens)

    def block(self, ends: frozenset[str]) -> Block:
        """Read commands up to a reserved word in `ends` at command position, to `)` or to `;;` (all left unread)."""
        found = Block()
        with self.budget:
            while not self.at_end():
                operator, word = self._operator(), self._reserved()
                if operator in (")", ";;", ";&", ";;&") or word in ends:
                    break
                if operator not in ("", "(") or word in _STRAY:
                    self.at += 1
                else:
                    found.commands.append(self._pipeline())
        return found

    def _operator(self) -> str:
        token = None if self.at_end() else self.tokens[self.at]
        return token.text if isinstance(token, Operator) else ""

    def _reserved(self) -> str:
        token = None if self.at_end() else self.tokens[self.at]
        return token.plain if isinstance(token, Word) else ""

    def _skip(self, *texts: str) -> None:
        while not self.at_end() and (self._operator() or self._reserved()) in texts:
            self.at += 1

    def _pipeline(self) -> Command:
        commands = [self._command()]
        while self._operator() in ("|", "|&"):
            self.at += 1
            self._skip("\n")
            commands.append(self._command())
        background = self._operator() == "&"
        return commands[0] if len(commands) == 1 and not background else Pipeline(commands, background)

    def _command(self) -> Command:
        self.budget.spend()
        while (word := self._reserved()) in _SKIPPED:
            self.at += 1
            self._skip_after(word)
        word = self._reserved()
        if self._operator() == "(":
            self.at += 1
            body = self.block(_NOTHING)
            self._skip(")")
            body.subshell = True
            return self._redirected(body)
        if word == "{":
            self.at += 1
            return self._redirected(self._until("}"))
        if word == "if":
            self.at += 1
            return self._redirected(self._until("fi", between=("then", "elif", "else")))
        if word in ("while", "until"):
            self.at += 1
            return self._redirected(While(self._until("done", between=("do",))))
        if word in ("for", "select"):
            return self._redirected(self._loop())
        if word == "case":
            return self._redirected(self._case())
        if word == "[[":
            return self._test()
        if word == "function":
            return self._function()
        return self._simple()

    def _skip_after(self, word: str) -> None:
        """Skip the option of `time`, and the name that `coproc` may give to a compound command."""
        if word == "time":
            self._skip("-p", "--")
        elif word == "coproc" and self._reserved() not in _COMPOUND:
            self.at += 1
            if self._reserved() not in _COMPOUND and self._operator() != "(":
                self.at -= 1

    def _until(self, end: str, between: tuple[str, ...] = ()) -> Block:
        """Read blocks separated by the words in `between`, and the word that ends them."""
        whole = Block()
        ends = frozenset((end, *between))
        while not self.at_end():
            whole.commands += self.block(ends).commands
            word = self._reserved()
            if word not in ends:
                break
            self.at += 1
            if word == end:
                break
        return whole

    def _redirected(self, command: Block | Loop | While) -> Command:
        while not self.at_end() and isinstance(token := self.tokens[self.at], Redirection):
            command.redirections.append(token)
            self.at += 1
        return command

    def _loop(self) -> Loop:
        self.at += 1
        name, words = "", None
        if not self.at_end() and isinstance(token := self.tokens[self.at], Word):
            self.at += 1
            if token.plain:
                name = token.plain
            else:
                words = [token]
        self._skip("\n")
        if self._reserved() == "in":
            self.at += 1
            words = self._words()
        self._skip(";", "\n")
        brace = self._reserved() == "{"
        self._skip("do", "{")
        return Loop(name, words, self._until("}" if brace else "done"))

    def _words(self) -> list[Word]:
        words = []
        while not self.at_end() and isinstance(token := self.tokens[self.at], Word):
            words.append(token)
            self.at += 1
        return words

    def _case(self) -> Block:
        """Every clause may run; the patterns and the subject are only words."""
        self.at += 1
        whole = Block()
        subject = []
        while not self.at_end() and self._reserved() != "in" and self._operator() != ";":
            if isinstance(token := self.tokens[self.at], Word):
                subject.append(token)
            self.at += 1
        self.at += 1
        while True:
            self._skip("\n", ";;", ";&", ";;&", ";")
            if self.at_end() or self._reserved() == "esac":
                break
            self._skip("(")
            subject += self._words()
            while self._operator() == "|":
                self.at += 1
                subject += self._words()
            if self._operator() != ")":
                break
            self.at += 1
            whole.commands += self.block(frozenset(["esac"])).commands
            if self._operator() not in (";;", ";&", ";;&", "\n"):
                break
        self._skip("esac")
        whole.commands.insert(0, Words(subject))
        return whole

    def _test(self) -> Words:
        words = []
        while not self.at_end() and self._reserved() != "]]":
            token = self.tokens[self.at]
            if isinstance(token, Word):
                words.append(token)
            elif isinstance(token, Redirection):
                words.append(token.target)
            elif token.text in (";", "\n"):
                break
            self.at += 1
        self._skip("]]")
        return Words(words)

    def _function(self) -> Command:
        self.at += 1
        name = self._reserved()
        self.at += 1
        self._skip("(", ")", "\n")
        return Function(name, self._command())

    def _simple(self) -> Command:
        simple = Simple()
        while not self.at_end():
            token = self.tokens[self.at]
            if isinstance(token, Redirection):
                simple.redirections.append(token)
            elif isinstance(token, Word):
                assignment = None if simple.words else as_assignment(token)
                if assignment:
                    simple.assignments.append(assignment)
                else:
                    simple.words.append(token)
            elif token.text == "(" and len(simple.words) == 1 and simple.words[0].plain and not simple.redirections:
                return self._short_function(simple.words[0].plain)
            else:
                break
            self.at += 1
        if len(simple.words) == 1 and _is_arithmetic(simple.words[0]):
            return Words(simple.words)
        if not (simple.words or simple.assignments or simple.redirections):
            self.at += 1
        return simple

    def _short_function(self, name: str) -> Command:
        self.at += 1
        if self._operator() != ")":
            return Simple(words=[Word((Literal(name, quoted=False),))])
        self.at += 1
        self._skip("\n")
        return Function(name, self._command())


def _is_arithmetic(word: Word) -> bool:
    return len(word.parts) == 1 and isinstance(word.parts[0], Arithmetic) and word.parts[0].is_command
