"""Following execution: finds every simple command that a script would run, and hands it to the judges.

Nothing is run. Conditions are not decided: every branch is followed, in order, with the assignments seen so far.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Sequence

from fleetshell_tools.fleet.guard import commands_inside, programs, suspicion, written
from fleetshell_tools.fleet.guard.bombs import bombs, endless_input, endless_loop
from fleetshell_tools.fleet.guard.budget import Budget
from fleetshell_tools.fleet.guard.environment import RUN_BY_OTHERS, dubious_assignment
from fleetshell_tools.fleet.guard.evaluate import Evaluator, State
from fleetshell_tools.fleet.guard.judges import startup
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
from fleetshell_tools.fleet.guard.paths import is_startup_file, resolve
from fleetshell_tools.fleet.guard.producers import produce
from fleetshell_tools.fleet.guard.rules import Command as Resolved
from fleetshell_tools.fleet.guard.rules import Finding, judge, judged_names
from fleetshell_tools.fleet.guard.symbols import BRACKET, UNKNOWN, empty_unset, has_wildcard, is_known, plain, shown
from fleetshell_tools.fleet.guard.wrappers import unwrap

_DECLARING = frozenset(["export", "declare", "typeset", "local", "readonly"])
_ASSIGNING = ("env", "sudo", "systemd-run")
_SERVICE_SCRIPTS = ("/etc/init.d/", "/etc/rc.d/")
_LOST_IN_CONTAINERS = frozenset(["filesystem", "massdelete", "database", "device", "storage", "forkbomb", "container"])
_GIVEN = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_MANY_NUMBERS = 16
_INDEX = re.compile(rf"\A[\[{BRACKET}][^\]]*\]=")
_MOST_ALIKE = 6


class Follower:
    """Walks through a script.

    Args:
        state: The shell's state at the start.
        budget: Ends the walk when it runs out.
        report: Called with each rule that a command breaks.
        inspect: Called with the words of each command (every wrapper, then what it wraps), for the operator's own entries.
        vet: Called with a command's name as it is written and its words; returns whether what it runs inside is vetted with it.
    """

    def __init__(
        self,
        state: State,
        budget: Budget,
        report: Callable[[Finding], None],
        inspect: Callable[[Sequence[str]], None],
        vet: Callable[[str, Sequence[str]], bool] = lambda name, words: False,
    ) -> None:
        self.state = state
        self.budget = budget
        self.report = report
        self.inspect = inspect
        self.vet = vet
        self.fed = 0
        self.contained = 0
        self._vetted = 0
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
        self._report(Finding("obfuscation", rule, effect, tuple(argv)))

    def _report(self, finding: Finding) -> None:
        """Report, unless it happens in a container, where only the loss of data matters."""
        if not self.contained or finding.kind in _LOST_IN_CONTAINERS:
            self.report(finding)

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
                if node.name == "command_not_found_handle":
                    self.command(node.body, "")
                return ""
            return self._compound(node, stdin)

    def _compound(self, node: Block | Loop | While, stdin: str) -> str:
        stdin = self._input(node.redirections, stdin)
        if isinstance(node, Block):
            printed = self.subshell(lambda: self._block(node, stdin)) if node.subshell else self._block(node, stdin)
        elif isinstance(node, While):
            if bombs(node):
                self.report(Finding("forkbomb", "fork-loop", "starts processes without end", ("while", "true")))
            # A loop that reads takes a line at a time; one round with each is what it amounts to.
            rounds = stdin.splitlines(keepends=True) or [""]
            printed = "".join([self._block(node.body, line) for line in rounds])
        else:
            if endless_loop(node):
                self.report(Finding("forkbomb", "fork-loop", "starts processes without end", ("for", "((;;))")))
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
            if endless_input(node.commands):
                self.report(Finding("forkbomb", "fork-loop", "starts processes without end", ("yes", "|", "while")))
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
        if argv == ["exec"]:
            return self._open(node.redirections, stdin)
        self._check_lines(argv, node.redirections)
        printed = self.run(argv, stdin)
        for assignment in node.assignments if outer is not None else ():
            name = self.state.named(assignment.name)
            self.state.variables.pop(name, None)
            if outer and name in outer:
                self.state.variables[name] = outer[name]
        brought = argv == ["cat"] and not self._background and self._from_outside(node.redirections)
        return self._output(node.redirections, printed, follow=not brought)

    def _from_outside(self, redirections: list[Redirection]) -> bool:
        """Judge `cat > FILE` that takes the content from the act's own stdin, as `write_file` is put; returns whether it is that."""
        if any(redirection.operator.startswith("<") for redirection in redirections):
            return False
        for redirection in redirections:
            self._judge(["cat", ">", *self._evaluator().fields(redirection.target)[:1]], "")
        return True

    def _check_lines(self, argv: list[str], redirections: list[Redirection]) -> None:
        outputs = [redirection for redirection in redirections if not redirection.operator.startswith("<<")]
        if outputs and argv:
            targets = [shown(self._evaluator().text(redirection.target)) for redirection in outputs]
            if finding := suspicion.joined(argv, targets, programs.SHELLS):
                self._report(finding)

    def _open(self, redirections: list[Redirection], stdin: str) -> str:
        """`exec 3> FILE`: what later commands read from and write to the descriptor is that of the file."""
        for redirection in redirections:
            target = self._evaluator().text(redirection.target)
            if redirection.operator in ("<<<", "<<", "<<-"):
                path = f"/dev/fd/{redirection.descriptor or 0}"
                self.state.files[path] = target
                self.state.descriptors[redirection.descriptor or "0"] = path
            elif redirection.operator not in ("<&", ">&"):
                self.state.descriptors[redirection.descriptor or "01"[redirection.operator[0] == ">"]] = target
                self.state.files.setdefault(f"/dev/fd/{redirection.descriptor}", written.content(self, target))
        return self._output(redirections, "")

    def _declare(self, node: Simple) -> str:
        reference = any(re.fullmatch(r"-[A-Za-z]*n[A-Za-z]*", word.plain) for word in node.words[1:])
        for word in node.words[1:]:
            if (assignment := as_assignment(word)) and reference:
                self.state.references[assignment.name] = self._evaluator().text(assignment.value)
            elif assignment:
                self._assign(assignment)
            else:
                self._evaluator().fields(word)
        return self._output(node.redirections, "")

    def _assign(self, assignment: Assignment) -> None:
        evaluator = self._evaluator()
        if assignment.values is None:
            values: tuple[str, ...] = (evaluator.text(assignment.value),)
        else:
            # An element may carry its index: `a=([0]=x)`.
            values = tuple(
                _INDEX.sub("", field, count=1) for word in assignment.values for field in evaluator.fields(word)
            )
        name = self.state.named(assignment.name)
        before = self.state.variables.get(name, ()) if assignment.append else ()
        if before and assignment.values is None:
            values = (*before[:-1], self.budget.value(before[-1] + values[0]))
        else:
            values = (*before, *values)
        self.state.variables[name] = values
        self.check_assignment(name, values[0] if values else "")

    def check_assignment(self, name: str, value: str) -> None:
        """Refuse what has other code run than the command seems to; follow values that are commands."""
        if dubious_assignment(name, value):
            self.refuse([f"{name}={value}"], "environment", "changes what commands run")
        elif name in RUN_BY_OTHERS and (" " in value or name == "PROMPT_COMMAND") and is_known(value):
            self.subshell(lambda: self.code(value))

    def _input(self, redirections: list[Redirection], stdin: str) -> str:
        """What stdin becomes; the targets of output are evaluated and judged by `_output`."""
        for redirection in redirections:
            if redirection.operator in ("<<", "<<-", "<<<"):
                text = self._evaluator().text(redirection.target) + "\n" * (redirection.operator == "<<<")
                if redirection.descriptor in ("", "0"):
                    stdin = text
                else:
                    self.state.files[f"/dev/fd/{redirection.descriptor}"] = text
            elif redirection.operator == "<":
                target = self._evaluator().text(redirection.target)
                self.inspect([redirection.operator, target])
                stdin = written.content(self, target)
            elif redirection.operator == "<&":
                target = self._evaluator().text(redirection.target)
                stdin = (
                    written.content(self, self.state.descriptors[target]) if target in self.state.descriptors else stdin
                )
        return stdin

    def _output(self, redirections: list[Redirection], printed: str, *, follow: bool = True) -> str:
        """Judge where output goes, and remember what is written; returns what still goes on to stdout."""
        for redirection in redirections:
            operator = redirection.operator
            if operator.startswith("<") and operator != "<>":
                continue
            target = "".join(self._evaluator().fields(redirection.target)[:1])
            if operator in (">&", "<&") and (target.isdigit() or target == "-"):
                if operator == ">&" and target in self.state.descriptors and redirection.descriptor in ("", "1"):
                    written.write(self, self.state.descriptors[target], printed, append=True)
                    printed = ""
                continue
            self._judge([operator, target], printed)
            if follow:
                self.schedule(target, printed)
            if redirection.descriptor in ("", "1"):
                written.write(self, target, printed, append=operator.endswith(">>"))
                printed = ""
        return printed

    def schedule(self, target: str, content: str) -> None:
        """Follow what a file of cron, a unit or a login shell would run, where its content stands in the command."""
        path = resolve(target, self.state.folder)
        if path and content and is_startup_file(target, self.state.folder):
            for code in startup.commands_in(path, content):
                self.subshell(lambda code=code: self.code(code))  # type: ignore[misc]

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
        if self._vetted or not self.vet(name, words):
            return self._known(words, path, stdin)
        self._vetted += 1
        try:
            return self._known(words, path, stdin)
        finally:
            self._vetted -= 1

    def _known(self, words: list[str], path: str, stdin: str) -> str:
        """Follow a program, be it one that this command itself has written."""
        if path in self.state.files:
            return programs.script(self, self.state.files[path], stdin, words)
        words[0] = posixpath.basename(words[0])
        if path.startswith(_SERVICE_SCRIPTS):
            words.insert(0, "service")
        if has_wildcard(words[0]) and (names := self._alike(words[0])):
            for candidate in names:
                self.budget.spend(4)
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
            return self.code(f"{text} {' '.join(map(written.quoted, arguments))}", stdin)
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
        given = [_GIVEN.match(word) for word in words[1:]] if words[0] in _ASSIGNING else []
        for match in filter(None, given):
            self.check_assignment(match[1], match[2])
            self.state.variables.setdefault(match[1], (match[2],))
        commands_inside.follow_options(self, words)
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
        for finding in judge(Resolved(tuple(words), self.state.folder, stdin, self.state.user)):
            self._report(finding)

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
        if refused := suspicion.unresolved(words, self.state.folder, self.fed):
            self.refuse(words, *refused)
