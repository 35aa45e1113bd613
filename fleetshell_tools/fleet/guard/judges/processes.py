"""Judges of class process: what ends every process, or those that nobody can do without."""

from __future__ import annotations

import re

from fleetshell_tools.fleet.guard.options import parse
from fleetshell_tools.fleet.guard.rules import SHUTDOWN, Command, Finding, judges
from fleetshell_tools.fleet.guard.symbols import QUESTION, STAR, UNKNOWN, has_wildcard, matches, plain

_ALL = frozenset([".", ".*", ".+", "", "^", "$", "^.", "*", "^.*", "^.*$", ".*$", "[a-z]", "[a-z]*"])
_NEEDED = frozenset(
    ["systemd", "init", "sshd", "systemd-logind", "dbus-daemon", "systemd-journald", "systemd-udevd", "kthreadd"]
)
_EFFECT = "ends every process, or those that the host needs"
# systemd takes these for orders to stop the host: systemd(1), "Signals".
_STOPPING = re.compile(r"-?-?(?:s|n|signal=)?(?:SIG)?RTMIN\+(?:[3-6]|1[3-6])|-(?:3[79]|38|4[07-9]|50)")
_HARMLESS = frozenset(["-0", "-HUP", "-1", "-SIGHUP", "-USR1", "-CONT"])


# The first process reloads what it reads, or says how it is.
_MOST_BY_NUMBER = 200
_MILD = frozenset("-HUP -SIGHUP HUP -USR1 USR1 -USR2 -CONT -0 -WINCH -SIGUSR1".split())


@judges("kill")
def kills(command: Command) -> Finding | None:
    words = list(command.arguments)
    if not words or words[0] in ("-l", "-L", "--list", "--table", "-0") or words[:2] in (["-s", "0"], ["-n", "0"]):
        return None
    if "1" in words[1:] and _STOPPING.fullmatch(words[0]):
        return Finding("power", "stop", "stops the host", command.argv, (SHUTDOWN,))
    if sum(word.isdigit() for word in words) > _MOST_BY_NUMBER:
        return Finding("process", "kill-all", _EFFECT, command.argv[:9])
    if set(words[:2]) & _MILD and not any(word.strip() == "-1" for word in words[1:]):
        return None
    if words[0] in ("-s", "-n", "--signal"):
        del words[:2]
    elif words[0].startswith("-") and words[0] != "--" and (words[0][1:] != "1" or len(words) > 1):
        # The first word with a dash is the signal, unless it stands alone.
        del words[0]
    if any(word.strip() in ("1", "-1") or (has_wildcard(word) and matches(word, "1")) for word in words):
        return Finding("process", "kill-all", "ends every process, or the first one", command.argv)
    return None


@judges("pkill", "killall", "skill", "killall5", "slay")
def kills_by_name(command: Command) -> Finding | None:
    options = parse(
        command.arguments,
        short="ugtPsUGnyF" if command.name != "killall" else "usyoZ",
        long=("signal", "user", "older-than", "younger-than", "uid", "euid", "pidfile"),
    )
    if options.has("help", "version", "list", "l") or (command.name == "killall5" and options.has("HUP", "0")):
        return None
    patterns = [plain(operand.strip("\"'")) for operand in options.operands]
    by_pattern = command.name != "killall" or options.has("r", "regexp")
    user = options.value("u", "U", "user", "uid", "euid") or ""
    everybody = bool(
        {"root", "0", UNKNOWN, command.user or "root"} & set(user.split(","))
        and not [p for p in patterns if not p.startswith("-")]
    )
    inverted = command.name == "pkill" and (options.has("inverse") or "v" in options.values)
    needed = {re.sub(r"[\^$]", "", pattern) for pattern in patterns} & _NEEDED
    mild = _HARMLESS & set(command.arguments) and not (by_pattern and _ALL & set(patterns))
    if (
        command.name in ("killall5", "slay")
        or everybody
        or inverted
        or (by_pattern and _ALL & set(patterns))
        or (needed and not mild)
    ):
        return Finding("process", "kill-all", _EFFECT, command.argv)
    return None


@judges("fuser")
def kills_users_of(command: Command) -> Finding | None:
    options = parse(command.arguments, short="nN")
    folders = {operand.rstrip("/") or "/" for operand in options.operands}
    critical = folders & {"/", "/usr", "/etc", "/var", "/home", "/bin", "/lib", "/dev/null", "22/tcp", "ssh/tcp"}
    return Finding("process", "kill-all", _EFFECT, command.argv) if options.has("k", "kill") and critical else None


@judges("systemctl")
def stops_everything(command: Command) -> Finding | None:
    """`systemctl stop '*'`: a pattern that takes every unit."""
    words = [word for word in command.arguments if not word.startswith("-")]
    if not words or words[0] not in ("stop", "kill", "disable", "mask", "restart"):
        return None
    for unit in words[1:]:
        if not unit.removesuffix(".service").strip("*?" + STAR + QUESTION):
            return Finding("process", "kill-all", _EFFECT, command.argv)
    return None
