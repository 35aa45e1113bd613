"""The guard: says of an act, before it runs, whether it would harm the host.

It interprets shell text instead of searching it: lex, evaluate, follow, judge. It prevents
accidents and obvious harm and is no security boundary.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from fleetshell_tools.core.errors import ConfigError
from fleetshell_tools.core.text import one_line
from fleetshell_tools.core.types import ALLOWED, Act, Verdict
from fleetshell_tools.fleet.guard import judges, policy, private
from fleetshell_tools.fleet.guard.budget import MAX_VALUE, Budget, BudgetExceeded
from fleetshell_tools.fleet.guard.environment import refused_variable
from fleetshell_tools.fleet.guard.evaluate import State
from fleetshell_tools.fleet.guard.follow import Follower
from fleetshell_tools.fleet.guard.judges.firewall import keeps_ssh_open
from fleetshell_tools.fleet.guard.lexer import Word, lex
from fleetshell_tools.fleet.guard.paths import resolve
from fleetshell_tools.fleet.guard.rules import CLASSES, DEFAULT_ENTRIES, Finding
from fleetshell_tools.fleet.guard.symbols import UNKNOWN, from_outside, shown

__all__ = ["CLASSES", "DEFAULT_ENTRIES", "Guard", "judges"]

log = logging.getLogger(__name__)

SETTINGS = ("never", "approvable", "allow")
STEPS_PER_CHARACTER = 2
"""Of work allowed; honest commands need less than a tenth of it."""
REMEMBERED = 256
MEMORABLE = 2000
"""How many verdicts are remembered, and for commands of at most how many characters: a fan-out asks for each server."""

_REMEDY = "the operator can change `dangerous_commands` or `security.guard` in config.yaml"
_APPROVE = "the operator can approve it once, or can change `dangerous_commands` or `security.guard` in config.yaml"
_POLICY = "the operator can change `policy` or `allowed_commands` in the server's file, or run it on the server"


class Guard:
    """Judges acts under one configuration.

    Args:
        dangerous_commands: The configuration's list: default entries, `re:` patterns, and argv prefixes.
        classes: `security.guard`: a class to `never`, `approvable` or `allow`.
        max_command_length: Characters; the work allowed for one act is proportional to it.

    Raises:
        ConfigError: A pattern, a class or a setting is invalid.
    """

    def __init__(
        self,
        dangerous_commands: Sequence[str],
        classes: Mapping[str, str] = MappingProxyType({}),
        max_command_length: int = 5000,
    ) -> None:
        self._settings = {kind: "approvable" if kind in ("power", "startup") else "never" for kind in CLASSES}
        for kind, setting in classes.items():
            if kind not in CLASSES:
                raise ConfigError(f"`security.guard` has the unknown class `{kind}`; use one of {', '.join(CLASSES)}.")
            if setting not in SETTINGS:
                raise ConfigError(f"`security.guard.{kind}` is `{setting}`; use one of {', '.join(SETTINGS)}.")
            self._settings[kind] = setting
        self._entries = frozenset(dangerous_commands) & frozenset(DEFAULT_ENTRIES)
        self._patterns = [_compiled(entry) for entry in dangerous_commands if entry.startswith("re:")]
        own = [entry for entry in dangerous_commands if entry not in DEFAULT_ENTRIES and not entry.startswith("re:")]
        self._prefixes = [prefix for entry in own if (prefix := _words(entry))]
        self._length = max(max_command_length, 1000)
        self._memory: dict[object, Verdict] = {}

    def judge(self, act: Act) -> Verdict:
        """Say whether an act may run.

        Never raises: what cannot be judged, for whatever reason, is refused as class obfuscation.
        """
        if act.stdin or act.environment or len(act.command) > MEMORABLE:
            return self.judge_counted(act)[0]  # what may hold a secret is not kept
        key = (act.command, act.working_directory, act.login_user, act.private, act.policy, act.allowed)
        verdict = self._memory.get(key)
        if verdict is None:
            verdict = self.judge_counted(act)[0]
            if len(self._memory) >= REMEMBERED:
                self._memory.clear()
            self._memory[key] = verdict
        return verdict

    def judge_counted(self, act: Act) -> tuple[Verdict, int]:
        """The verdict, and how many steps of the budget it took."""
        given = len(act.command) + min(len(act.stdin or b""), MAX_VALUE)
        budget = Budget(STEPS_PER_CHARACTER * max(self._length, given))
        try:
            findings = self._findings(act, budget)
        except Exception:
            # Failing closed is the one answer that is safe; the traceback tells the developers what was met.
            log.exception("the guard could not judge a command of %d characters", len(act.command))
            findings = [Finding("obfuscation", "internal-error", "could not be judged", ())]
        return self._verdict(act, findings), budget.steps

    def _findings(self, act: Act, budget: Budget) -> list[Finding]:
        findings: list[Finding] = []
        open_door = False
        if name := refused_variable(act.environment):
            findings.append(Finding("obfuscation", "environment", "changes what commands run", (f"{name}=…",)))
        for pattern in self._patterns:
            if pattern.search(act.command):
                findings.append(Finding("", f"re:{pattern.pattern}", "matches a pattern of `dangerous_commands`", ()))

        def inspect(words: Sequence[str]) -> None:
            nonlocal open_door
            open_door = open_door or keeps_ssh_open(words)
            if act.policy != policy.NORMAL and words and words[0] in policy.REDIRECTIONS:
                vetting.redirects(words)
            for prefix in self._prefixes:
                if tuple(shown(word) for word in words[: len(prefix)]) == prefix:
                    findings.append(Finding("", " ".join(prefix), "is an entry of `dangerous_commands`", tuple(words)))

            if act.private and private.touches(words, follower.state.folder, act.private):
                findings.append(Finding("access", "relay-home", private.EFFECT, tuple(words)))

        if act.private and private.names(_all_text(act), act.private):
            findings.append(Finding("access", "relay-home", private.EFFECT, ()))
        vetting = policy.Vetting(act.policy, act.allowed, findings.append)
        follower = Follower(_state(act), budget, findings.append, inspect, vetting.command)
        try:
            follower.code(from_outside(act.command), _stdin(act))
        except BudgetExceeded as error:
            findings.append(Finding("obfuscation", "budget", f"is too intricate to be judged ({error})", ()))
        # A firewall that denies by default shuts nobody out where the same command lets ssh in.
        return [finding for finding in findings if not (open_door and finding.rule == "default-deny")]

    def _verdict(self, act: Act, findings: list[Finding]) -> Verdict:
        """The gravest finding decides: one that is never let through before one that can be approved."""
        counted = [(self._setting(finding), finding) for finding in findings]
        blocking = sorted((item for item in counted if item[0] != "allow"), key=lambda item: item[0] == "approvable")
        if not blocking:
            return ALLOWED
        setting, finding = blocking[0]
        command = one_line(act.command, 120)
        what = (
            f"would run `{one_line(finding.resolved, 120)}`, which {finding.effect}" if finding.argv else finding.effect
        )
        kind = finding.kind or "custom"
        remedy = _POLICY if kind == "policy" else _APPROVE if setting == "approvable" else _REMEDY
        return Verdict(
            allowed=False,
            kind=kind,
            rule=finding.rule,
            reason=f"Blocked ({kind}, rule {finding.rule}): `{command}` {what}; {remedy}.",
            argv=tuple(shown(word) for word in finding.argv),
            approvable=setting == "approvable",
        )

    def _setting(self, finding: Finding) -> str:
        if finding.entries and not self._entries & set(finding.entries):
            return "allow"
        return self._settings.get(finding.kind, "never")


def _compiled(entry: str) -> re.Pattern[str]:
    try:
        return re.compile(entry[3:])
    except re.error as error:
        raise ConfigError(
            f"`dangerous_commands` has the invalid pattern `{entry}`: {error}. Correct or remove it."
        ) from error


def _words(entry: str) -> tuple[str, ...]:
    """The words of an entry, read as the shell would read them."""
    words = [token for token in lex(from_outside(entry), Budget(10_000)) if isinstance(token, Word)]
    return tuple("".join(getattr(part, "text", "") for part in word.parts) for word in words)


def _state(act: Act) -> State:
    home = "/root" if act.login_user == "root" else f"/home/{act.login_user or UNKNOWN}"
    folder = resolve(act.working_directory, home) if act.working_directory else home
    state = State(home=home, folder=folder, user=act.login_user or "")
    state.variables = {name: (from_outside(value),) for name, value in act.environment.items()}
    return state


def _all_text(act: Act) -> str:
    texts = [act.command, act.working_directory or "", *act.environment.values()]
    return "\n".join([*texts, (act.stdin or b"").decode(errors="replace")])


def _stdin(act: Act) -> str:
    if act.stdin is None:
        return ""
    if len(act.stdin) > MAX_VALUE:
        return UNKNOWN
    try:
        return from_outside(act.stdin.decode())
    except UnicodeDecodeError:
        return UNKNOWN
