"""Policies of single servers: only commands that are known to read, or only those that the operator has listed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence

from fleetshell_tools.fleet.guard.environment import dubious_assignment
from fleetshell_tools.fleet.guard.reading import reads
from fleetshell_tools.fleet.guard.rules import Finding
from fleetshell_tools.fleet.guard.symbols import BRACKET, has_wildcard, is_known

NORMAL, READ_ONLY, ALLOW_LIST = "normal", "read_only", "allow_list"
REDIRECTIONS = frozenset([">", ">>", ">|", "&>", "&>>", ">&", "<>"])
_SINKS = frozenset(["/dev/null", "/dev/stdout", "/dev/stderr", "/dev/fd/1", "/dev/fd/2"])
_FOLDERS = ("/usr/bin/", "/bin/", "/usr/sbin/", "/sbin/", "/usr/local/bin/", "/usr/local/sbin/")
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)


class Vetting:
    """Holds each command of an act against the policy of its server; what is not known to be allowed is refused.

    Args:
        policy: `normal`, `read_only` or `allow_list`; any other is refused as a whole.
        allowed: Of `allow_list`, the beginnings of command lines, each read as a shell reads it.
        report: Called with what the policy forbids.
    """

    def __init__(self, policy: str, allowed: Sequence[str], report: Callable[[Finding], None]) -> None:
        self.policy = policy
        self.report = report
        self.prefixes = _prefixes(allowed) if policy == ALLOW_LIST else []
        if policy not in (NORMAL, READ_ONLY, ALLOW_LIST):
            self._refuse("unknown-policy", f"is not judged, because the server's policy `{policy}` is unknown", ())

    def command(self, name: str, words: Sequence[str]) -> bool:
        """Vet a command; returns whether the commands that it runs in turn are vetted with it.

        Args:
            name: The program as it is written, with its folder where that is given.
            words: All words.
        """
        if self.policy == NORMAL:
            return False
        name = "[" if name == BRACKET else name
        usual = (
            is_known(name) and not has_wildcard(name) and ("/" not in name or name.rpartition("/")[0] + "/" in _FOLDERS)
        )
        base = [name.rpartition("/")[2], *words[1:]] if usual else [name, *words[1:]]
        if self.policy == ALLOW_LIST:
            if words[0] == "cd":
                return True  # the working directory is given freely with every act
            if any(_begins(words, prefix) or (usual and _begins(base, prefix)) for prefix in self.prefixes):
                return True
            self._refuse("allow-list", "is not in the server's `allowed_commands`", words)
            return True
        verdict = reads(base) if usual else None
        if verdict is None or any(_decides(word) for word in words[1:]):
            self._refuse("read-only", "is not known to read only, which is all that the server's policy allows", words)
        return False

    def redirects(self, words: Sequence[str]) -> None:
        """Vet a redirection: an operator and its target."""
        if words[-1] not in _SINKS:
            self._refuse("redirection", f"writes, which the server's policy {self.policy} does not allow", words)

    def _refuse(self, rule: str, effect: str, words: Sequence[str]) -> None:
        self.report(Finding("policy", rule, effect, tuple(words)))


def _prefixes(allowed: Sequence[str]) -> list[tuple[str, ...]]:
    """The entries as words; an entry that no shell could read allows nothing."""
    found = []
    for entry in allowed:
        try:
            words = tuple(shlex.split(entry))
        except ValueError:
            continue
        if words:
            found.append(words)
    return found


def _begins(words: Sequence[str], prefix: tuple[str, ...]) -> bool:
    return tuple(words[: len(prefix)]) == prefix


def _decides(word: str) -> bool:
    match = _ASSIGNMENT.match(word)
    return match is not None and dubious_assignment(match[1], match[2])
