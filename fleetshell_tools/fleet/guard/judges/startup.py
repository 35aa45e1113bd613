"""Judges of class startup: what writes files that run, or decide who gets in, at login, boot or a set time."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fleetshell_tools.fleet.guard.options import parse
from fleetshell_tools.fleet.guard.paths import is_critical_file, is_startup_file, resolve
from fleetshell_tools.fleet.guard.rules import Command, Finding, judges
from fleetshell_tools.fleet.guard.symbols import LOCAL, UNKNOWN, is_known

_EFFECT = "is run or read at login, boot or a set time, or by every program"
CRON_LINE = re.compile(r"\s*(?:@\w+|(?:[\d*/,\-A-Za-z]+\s+){4}[\d*/,\-A-Za-z]+)\s+(.*)")
_CRON = re.compile(r"/etc/(?:crontab|anacrontab|cron\.d/.+)|/var/spool/cron/.+")
_UNIT = re.compile(r"(?:/etc|/run|(?:/usr)?/lib|/root/\.config|/home/[^/]+/\.config)/systemd/.+")
_SHELL = re.compile(
    r"/etc/(?:profile|profile\.d/.+|bash\.bashrc|bashrc|environment)|.*/\.\w+|/etc/cron\.(?:hourly|daily|weekly|monthly)/.+"
)
_SCRIPT = re.compile(r"/etc/(?:cron\.(?:hourly|daily|weekly|monthly)/.+|rc\.local|init\.d/.+|network/if-.+)")
_MODULES = re.compile(r"/etc/(?:modules|modules-load\.d/.+)")
_KEYS = re.compile(r".*/\.ssh/.+|.*\.pam_environment")
_SETTING = re.compile(
    r"\s*(?:#.*|(?:export\s+|alias\s+(?:-g\s+)?)?[A-Za-z_][\w-]*=[^`;&|<>]*|umask\s+\d+|set\s+-o\s+\w+|shopt\s+-s\s+\w+|)\s*"
)
_COMMAND_VARIABLES = re.compile(r"\b(?:LD_\w+|PROMPT_COMMAND|BASH_ENV|ENV|PS4)\s*=|\$\(")
_DUBIOUS = re.compile(
    r"(?:^|[\s='\"(;|&])(?:/tmp|/var/tmp|/dev/shm|/dev/tcp|/dev/udp)\b|/\.[^./\s]|\b(?:nc|ncat|netcat|socat|base64)\b"
)
_GRAVE = re.compile(
    r"/etc/(?:ld\.so\.preload|nologin|(?:sudoers|pam|security)(?:\.d)?(?:/.*)?|shells|environment)|.*/security/.+|.*/\.ssh/.+|.*\.pam_environment"
)
_ANYBODYS = re.compile(r"/(?:tmp|var/tmp|dev/shm)/.*")


def commands_in(path: str, content: str) -> list[str]:
    """The shell commands that the known content of a start-up file would run."""
    if _CRON.fullmatch(path):
        lines = [match[1] for line in content.splitlines() if (match := CRON_LINE.match(line))]
        # In the system's tables the user stands before the command.
        return [line.partition(" ")[2] if path.startswith("/etc/") else line for line in lines]
    if _UNIT.fullmatch(path):
        return [
            line.partition("=")[2].lstrip("-+@!: ") for line in content.splitlines() if line.strip().startswith("Exec")
        ]
    return [content] if _SHELL.fullmatch(path) or _SCRIPT.fullmatch(path) else []


def dubious(command: str) -> bool:
    """Would a scheduled command run what anybody may have put there, or open a line to elsewhere?"""
    return bool(_DUBIOUS.search(command)) or not is_known(command)


def _harmless(path: str, content: str) -> bool:
    """Is all that is written known, or from a file of the host, and nothing in it out of the ordinary?"""
    if LOCAL in content and UNKNOWN not in content and not _GRAVE.fullmatch(path):
        return True
    if not content.strip() or not is_known(content) or _KEYS.fullmatch(path):
        return False
    if _CRON.fullmatch(path) or _UNIT.fullmatch(path):
        commands = commands_in(path, content)
        unit = "[" in content or _CRON.fullmatch(path)
        return bool(unit) and not any(dubious(command) for command in commands)
    lines = content.splitlines()
    if _SCRIPT.fullmatch(path):
        return not any(dubious(line) for line in lines)
    if _MODULES.fullmatch(path):
        return all(re.fullmatch(r"\s*(?:#.*|[\w-]*)\s*", line) for line in lines)
    return bool(_SHELL.fullmatch(path)) and all(
        _SETTING.fullmatch(line) and not _COMMAND_VARIABLES.search(line) and not dubious(line.replace("/.", "/"))
        for line in lines
    )


def _writes(command: Command, targets: Sequence[str], content: str = "") -> Finding | None:
    for target in targets:
        path = resolve(target, command.folder)
        accounts = path in _ACCOUNTS and command.name in (">>", "tee")
        if accounts or (is_startup_file(target, command.folder) and not _harmless(path, content)):
            return Finding("startup", "write-startup", _EFFECT, command.argv)
    return None


@judges(">", ">>", ">|", "&>", "&>>", "<>", "tee")
def redirects(command: Command) -> Finding | None:
    """A redirection or `tee`; where the content stands in the command it is judged, otherwise any is refused."""
    return _writes(command, parse(command.arguments).operands, command.stdin)


@judges("cat")
def brings(command: Command) -> Finding | None:
    """`cat > FILE` with content from outside the command, as `write_file` brings it; here the operator is an argument."""
    return _writes(command, command.arguments[1:]) if command.arguments[:1] == (">",) else None


_COPIES = {"cp": "tS", "mv": "tS", "install": "tSmog", "ln": "tS", "rsync": "efT", "scp": "PiFoclS"}


@judges(*_COPIES)
def copies(command: Command) -> Finding | None:
    """The destination, or what it would be called in the destination's folder."""
    options = parse(
        command.arguments, short=_COPIES[command.name], long=("target-directory", "suffix", "mode", "owner", "group")
    )
    folder = options.value("t", "target-directory")
    if options.has("help", "version", "dry-run") or (command.name == "install" and options.has("d", "directory")):
        return None
    sources, target = (options.operands, folder) if folder else (options.operands[:-1], "".join(options.operands[-1:]))
    backups = [
        source
        for source in sources
        if resolve(source, command.folder).startswith(resolve(target, command.folder).rstrip("/") + ".")
    ]
    if not sources or not target or len(backups) == len(sources):
        return None
    inside = [f"{target.rstrip('/')}/{source.rstrip('/').rpartition('/')[2] or 'x'}" for source in sources]
    names = [target, *inside]
    if target.endswith((".bak", ".orig", ".old", "~")):
        return None
    # A file of the host that is installed is daily work; what anybody may have put where it comes from is not.
    staged = any(_ANYBODYS.fullmatch(resolve(source, command.folder)) or ":" in source for source in sources)
    return _writes(command, names, "" if staged else LOCAL)


@judges("dd")
def copies_blocks(command: Command) -> Finding | None:
    return _writes(command, [word[3:] for word in command.arguments if word.startswith("of=")])


_DOWNLOADS = {"curl": ("o", "output", "oHXduAbeTmw"), "wget": ("O", "output-document", "OoPUtTQ")}


@judges(*_DOWNLOADS)
def downloads(command: Command) -> Finding | None:
    letter, name, short = _DOWNLOADS[command.name]
    target = parse(command.arguments, short=short, long=(name,)).value(letter, name)
    return _writes(command, [target] if target else [])


@judges("visudo", "vipw", "vigr")
def edits_accounts(command: Command) -> Finding | None:
    """An editor of accounts that is fed from stdin edits nothing by hand."""
    checking = parse(command.arguments, short="f").has("c", "check", "V", "version", "h", "help")
    fed = command.stdin.strip() and not checking
    return Finding("startup", "write-startup", _EFFECT, command.argv) if fed else None


_ACCOUNTS = ("/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow", "/etc/sudoers")
_EVERY_LINE = re.compile(
    r"\s*s(.)\^?\.[*+]\$?\1\1g?;?\s*|\s*(?:1,\$|/\.\*?/|/\./|/\^?\.?\*?\$?/)?\s*d\s*|.*/(?:ssh-|ecdsa|\.|AAAA).*/d"
)


@judges("sed", "perl", "awk", "gawk")
def edits(command: Command) -> Finding | None:
    """`sed -i` on a start-up file or one of accounts; on any other configuration file it is daily work."""
    if command.name in ("awk", "gawk"):
        in_place = {"-i", "inplace"} <= set(command.arguments)
    else:
        in_place = any(re.match(r"-[a-zA-Z]*i|--in-place", word) for word in command.arguments)
    if not in_place:
        return None
    options = parse(command.arguments, short="efl" if command.name == "sed" else "eE", long=("expression", "file"))
    scripts = [options.value("e", "expression") or "", *options.operands[:1]]
    targets = options.operands if options.has("e", "expression", "f", "file") else options.operands[1:]
    for target in targets:
        path = resolve(target, command.folder)
        if any(_EVERY_LINE.fullmatch(script) for script in scripts) and (
            is_critical_file(target, command.folder) or "authorized_keys" in path
        ):
            return Finding("filesystem", "overwrite-critical", "empties a file that the host needs", command.argv)
        if path in _ACCOUNTS:
            return Finding("startup", "write-startup", _EFFECT, command.argv)
    return _writes(command, targets)
