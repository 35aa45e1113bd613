"""Judges of class process: what ends every process, or those that nobody can do without."""

from __future__ import annotations

from fleetshell_tools.fleet.guard.options import parse
from fleetshell_tools.fleet.guard.rules import Command, Finding, judges

_ALL = frozenset([".", ".*", ".+", "", "^", "$", "^.", "*"])


@judges("kill")
def kills(command: Command) -> Finding | None:
    words = list(command.arguments)
    if not words or words[0] in ("-l", "-L", "--list", "--table", "-0") or words[:2] in (["-s", "0"], ["-n", "0"]):
        return None
    if words[0] in ("-s", "-n", "--signal"):
        del words[:2]
    elif words[0].startswith("-") and words[0] != "--" and (words[0][1:] != "1" or len(words) > 1):
        # The first word with a dash is the signal, unless it stands alone.
        del words[0]
    if any(word.strip() in ("1", "-1") for word in words):
        return Finding("process", "kill-all", "ends every process, or the first one", command.argv)
    return None


@judges("pkill", "killall", "skill")
def kills_by_name(command: Command) -> Finding | None:
    options = parse(
        command.arguments,
        short="ugtPsUGny" if command.name != "killall" else "usyoZ",
        long=("signal", "user", "older-than", "younger-than"),
    )
    if options.has("help", "version", "list", "l"):
        return None
    patterns = [operand.strip("\"'") for operand in options.operands]
    by_pattern = command.name != "killall" or options.has("r", "regexp")
    if (by_pattern and any(pattern in _ALL for pattern in patterns)) or set(patterns) & {"systemd", "init", "sshd"}:
        return Finding("process", "kill-all", "ends every process, or those that the host needs", command.argv)
    return None
