"""Following execution: finds every simple command that a script would run, and hands it to the judges.

Nothing is run. Conditions are not decided: every branch is followed, in order, with the assignments seen so far.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Sequence

from fleetshell_tools.fleet.guard import programs
from fleetshell_tools.fleet.guard.budget import Budget
from fleetshell_tools.fleet.guard.evaluate import Evaluator, State
from fleetshell_tools.fleet.guard.lexer import Redirection, Token, lex
from fleetshell_tools.fleet.guard.parser import (
    Assignment,
    Block,
    Command,
    Function,
    Loop,
    Pipeline,
    Simple,
    While,
    Words,
    as_assignment,
    parse,
)
from fleetshell_tools.fleet.guard.paths import is_critical, is_device, resolve
from fleetshell_tools.fleet.guard.producers import produce
from fleetshell_tools.fleet.guard.rules import Command as Resolved
from fleetshell_tools.fleet.guard.rules import Finding, judge, judged_names
from fleetshell_tools.fleet.guard.symbols import UNKNOWN, empty_unset, has_wildcard, is_known, plain
from fleetshell_tools.fleet.guard.wrappers import unwrap

_DECLARING = frozenset(["export", "declare", "typeset", "local", "readonly"])
_MANY_NUMBERS = 16
_MOST_ALIKE = 6


class Follower:
    """Walks through a script.

    Args:
        state: The shell's state at the start.
        budget: Ends the walk when it runs out.
        report: Called with each rule that a command breaks.
        inspect: Called with the words of each command (every wrapper, then what it wraps), for the operator's own entries.
    """

    def __init__(
        self, state: State, budget: Budget, report: Callable[[Finding], None], inspect: Callable[[Sequence[str]], None]
    ) -> None:
        self.state = state
        self.budget = budget
        self.report = report
        self.inspect = inspect
        self.fed = 0
        self._background = 0
        self._calls: dict[str, list[int]] = {}
        self._devices = 0
        self._patterns: dict[str, list[str]] = {}

    def code(self, text: str, stdin: str = "") -> str:
        """Follow shell code in the current shell; returns what it would print."""
        script = parse(lex(plain(text), self.budget), self.budget)
        return self.command(script, stdin)

    def fed_code(self, text: str, stdin: str, argv: Sequence[str]) -> str:
        """Follow code that reached a shell as data; data that cannot be known is refused."""
        if UNKNOWN in text and not text.replace(UNKNOWN, "").strip():
            self.refuse(argv, "undecodable-code", "runs code that cannot be known before")
            return UNKNOWN
        self.fed += 1
        try:
            return self.subshell(lambda: self.code(text, stdin))
        finally:
            self.fed -= 1

    def refuse(self, argv: Sequence[str], rule: str, effect: str) -> None:
        self.report(Finding("obfuscation", rule, effect, tuple(argv)))

    def subshell(self, follow: Callable[[], str]) -> str:
        """Follow something whose assignments do not last."""
        outer = self.state
        self.budget.spend(1 + len(outer.variables) // 8)
        self.state = outer.copy()
        try:
            with self.budget:
                return follow()
        finally:
            self.state = outer

    def command(self, node: Command, stdin: str) -> str:
        """Follow any command; returns what it would print."""
        self.budget.spend()
        with self.budget:
            if isinstance(node, Simple):
                return self._simple(node, stdin)
            if isinstance(node, Pipeline):
                return self._pipeline(node, stdin)
            if isinstance(node, Words):
                for word in node.words:
                    self._evaluator().text(word)
                return ""
            if isinstance(node, Function):
                self.state.functions[node.name] = node.body
                return ""
            return self._compound(node, stdin)

    def _compound(self, node: Block | Loop | While, stdin: str) -> str:
        stdin = self._input(node.redirections, stdin)
        if isinstance(node, Block):
            printed = self.subshell(lambda: self._block(node, stdin)) if node.subshell else self._block(node, stdin)
        elif isinstance(node, While):
            # A loop that reads takes a line at a time; one round with each is what it amounts to.
            rounds = stdin.splitlines(keepends=True) or [""]
            printed = "".join([self._block(node.body, line) for line in rounds])
        else:
            printed = self._loop(node, stdin)
        return self._output(node.redirections, self.budget.value(printed))

    def _block(self, block: Block, stdin: str) -> str:
        return self.budget.value("".join([self.command(command, stdin) for command in block.commands]))

    def _loop(self, node: Loop, stdin: str) -> str:
        if node.words is None:
            values = list(self.state.positional)
        else:
            values = [field for word in node.words for field in self._evaluator().fields(word)]
        numbers = [value for value in values if value.isdigit()]
        if len(numbers) > _MANY_NUMBERS:
            values = [value for value in values if not value.isdigit()] + numbers[:_MANY_NUMBERS]
        printed = []
        for value in values or [UNKNOWN]:
            self.state.variables[node.name] = (value,)
            printed.append(self._block(node.body, stdin))
        return "".join(printed)

    def _pipeline(self, node: Pipeline, stdin: str) -> str:
        self._background += 1
        try:
            for command in node.commands:
                stdin = self.subshell(lambda command=command, data=stdin: self.command(command, data))  # type: ignore[misc]
        finally:
            self._background -= 1
        return stdin

    def _evaluator(self) -> Evaluator:
        return Evaluator(self.state, self._substitute, self.budget)

    def _substitute(self, kind: str, tokens: list[Token]) -> str:
        """Follow a substitution; of a process substitution the result is a file that holds the output."""
        script = parse(tokens, self.budget)
        printed = self.subshell(lambda: self.command(script, UNKNOWN if kind == ">" else ""))
        if kind == "$":
            return printed
        self._devices += 1
        path = f"/dev/fd/{62 + self._devices}"
        self.state.files[path] = printed
        return path

    def _simple(self, node: Simple, stdin: str) -> str:
        if not node.words:
            for assignment in node.assignments:
                self._assign(assignment)
            self._input(node.redirections, stdin)
            return self._output(node.redirections, "")
        if node.words[0].plain in _DECLARING:
            return self._declare(node)
        argv = [field for word in node.words for field in self._evaluator().fields(word)]
        outer = dict(self.state.variables) if node.assignments else None
        for assignment in node.assignments:
            self._assign(assignment)
        stdin = self._input(node.redirections, stdin)
        printed = self.run(argv, stdin)
        if outer is not None:
            self.state.variables = outer
        if argv == ["cat"] and not self._background:
            self._from_outside(node.redirections)
        return self._output(node.redirections, printed)

    def _from_outside(self, redirections: list[Redirection]) -> None:
        """Judge `cat > FILE` that takes the content from the act's own stdin: that is how `write_file` is put."""
        if any(redirection.operator.startswith("<") for redirection in redirections):
            return
        for redirection in redirections:
            self._judge(["cat", ">", *self._evaluator().fields(redirection.target)[:1]], "")

    def _declare(self, node: Simple) -> str:
        for word in node.words[1:]:
            if assignment := as_assignment(word):
                self._assign(assignment)
            else:
                self._evaluator().fields(word)
        return self._output(node.redirections, "")

    def _assign(self, assignment: Assignment) -> None:
        evaluator = self._evaluator()
        if assignment.values is None:
            values: tuple[str, ...] = (evaluator.text(assignment.value),)
        else:
            values = tuple(field for word in assignment.values for field in evaluator.fields(word))
        before = self.state.variables.get(assignment.name, ()) if assignment.append else ()
        if before and assignment.values is None:
            values = (*before[:-1], self.budget.value(before[-1] + values[0]))
        else:
            values = (*before, *values)
        self.state.variables[assignment.name] = values

    def _input(self, redirections: list[Redirection], stdin: str) -> str:
        """What stdin becomes; the targets of output are evaluated and judged by `_output`."""
        for redirection in redirections:
            if redirection.operator in ("<<", "<<-"):
                stdin = self._evaluator().text(redirection.target)
            elif redirection.operator == "<<<":
                stdin = self._evaluator().text(redirection.target) + "\n"
            elif redirection.operator == "<":
                target = self._evaluator().text(redirection.target)
                self.inspect([redirection.operator, target])
                stdin = programs.content(self, target)
        return stdin

    def _output(self, redirections: list[Redirection], printed: str) -> str:
        """Judge where output goes, and remember what is written; returns what still goes on to stdout."""
        for redirection in redirections:
            operator = redirection.operator
            if operator.startswith("<") and operator != "<>":
                continue
            target = "".join(self._evaluator().fields(redirection.target)[:1])
            if operator in (">&", "<&") and (target.isdigit() or target == "-"):
                continue
            self._judge([operator, target], "")
            if redirection.descriptor in ("", "1"):
                programs.write(self, target, printed, append=operator.endswith(">>"))
                printed = ""
        return printed

    def run(self, argv: Sequence[str], stdin: str) -> str:
        """Follow one command of evaluated words, through functions, aliases and wrappers; returns what it would print."""
        self.budget.spend(1 + len(argv) // 8)
        words = list(argv)
        while words and not empty_unset(words[0]):
            del words[0]
        if len(words) < len(argv) and argv[0]:
            self._unresolved(argv)
        if not words:
            return ""
        with self.budget:
            return self._run(words, stdin)

    def _run(self, words: list[str], stdin: str) -> str:
        name = words[0]
        if name in self.state.functions:
            return self._call(name, words[1:], stdin)
        if name in self.state.aliases:
            return self._alias(name, words[1:], stdin)
        path = resolve(name, self.state.folder) if "/" in name else ""
        if path in self.state.files:
            return self.fed_code(self.state.files[path], stdin, words)
        words[0] = posixpath.basename(name)
        if has_wildcard(words[0]) and (names := self._alike(words[0])):
            for candidate in names:
                self._run([candidate, *words[1:]], stdin)
            return UNKNOWN
        if not is_known(words[0]):
            self._unresolved(words)
            words[0] = empty_unset(words[0])
            if not is_known(words[0]):
                return UNKNOWN
        self._judge(words, stdin)
        return self._inside(words, stdin)

    def _alias(self, name: str, arguments: list[str], stdin: str) -> str:
        """Follow an alias, which is not expanded again inside itself."""
        self.budget.spend(4)
        text = self.state.aliases.pop(name)
        try:
            return self.code(f"{text} {' '.join(map(programs.quoted, arguments))}", stdin)
        finally:
            self.state.aliases[name] = text

    def _alike(self, pattern: str) -> list[str]:
        """The programs of interest that a name with wildcards may stand for."""
        if pattern not in self._patterns:
            self.budget.spend(60)
            self._patterns[pattern] = judged_names(pattern)[:_MOST_ALIKE]
        return self._patterns[pattern]

    def _inside(self, words: list[str], stdin: str) -> str:
        """Follow what a program would run, where it is one that runs something."""
        inner = unwrap(words)
        if inner is None:
            handler = programs.handler(words[0])
            return handler(self, words, stdin) if handler else produce(words[0], words[1:], stdin)
        if inner.code is not None:
            return (
                self.fed_code(inner.code, stdin, words) if words[0] != "eval" else self._eval(inner.code, stdin, words)
            )
        if inner.reads_stdin:
            return self.fed_code(stdin, "", words)
        return self.run(inner.argv, stdin)

    def _eval(self, code: str, stdin: str, words: list[str]) -> str:
        """`eval` runs in the current shell, so its assignments last."""
        if UNKNOWN in code and not code.replace(UNKNOWN, "").strip():
            return self.fed_code(code, stdin, words)
        return self.code(code, stdin)

    def _judge(self, words: list[str], stdin: str) -> None:
        self.inspect(words)
        for finding in judge(Resolved(tuple(words), self.state.folder, stdin)):
            self.report(finding)

    def _call(self, name: str, arguments: list[str], stdin: str) -> str:
        """Follow a function; one that starts itself twice, or in the background, is a fork bomb."""
        if name in self._calls:
            started = self._calls[name]
            started[0] += 1
            if started[0] > 1 or self._background > started[1]:
                self.report(
                    Finding("forkbomb", "self-starting", "starts itself again and again", (name, "()", "{ … }"))
                )
            return ""
        self._calls[name] = [0, self._background]
        outer, self.state.positional = self.state.positional, tuple(arguments)
        try:
            return self.command(self.state.functions[name], stdin)
        finally:
            del self._calls[name]
            self.state.positional = outer

    def _unresolved(self, words: Sequence[str]) -> None:
        """A program that cannot be known is refused where its arguments look like those of a destructive one."""
        arguments = [empty_unset(word) for word in words[1:]]
        folder = self.state.folder
        recursive = any(
            word.startswith("-") and not word.startswith("--") and set(word) & set("rRf") for word in arguments
        )
        if recursive and any(is_critical(word, folder) for word in arguments if word and not word.startswith("-")):
            self.refuse(words, "unresolved-command", "may delete what the host needs")
        elif any(word.startswith("of=") and is_device(word[3:], folder) for word in arguments):
            self.refuse(words, "unresolved-command", "may overwrite a device")
        elif self.fed and words[0] == UNKNOWN:
            self.refuse(words, "undecodable-code", "runs code that cannot be known before")
