"""Command lines shown without the secrets in their arguments: passwords, tokens, URL credentials, keys."""

from __future__ import annotations

import re
from collections.abc import Sequence

HIDDEN = "***"

_SECRET = (
    r"(?:pass(?:w(?:or)?d|phrase)?|pwd|secret(?:[_-]?(?:access)?[_-]?key)?|(?:access|auth|bearer|id|refresh|session)?[_-]?token|"
    r"(?:api|private|access|encryption|master|account)[_-]?key|credentials?|requirepass|masterauth)"
)
_NAME = rf"(?:[\w.-]*passw(?:or)?d|(?:[\w.-]*[_.-])?{_SECRET})(?:[_.-]?[0-9]+)?"
_CAMEL = r"[a-z][A-Za-z0-9.]*(?:Password|Passwd|Secret|Token|ApiKey|PrivateKey|AccessKey)"

_OPTION = re.compile(rf"--?(?:(?i:{_NAME})|{_CAMEL})")
_ASSIGNED = re.compile(
    rf"(?P<keep>(?<![\w.-])-{{0,2}}D?(?:(?i:{_NAME})|{_CAMEL})[\"']?[=:]\s*)(?P<quote>[\"']?)[^\s\"'&;,]+"
)
_FOLLOWED = re.compile(rf"(?P<keep>(?<!\S)--(?:(?i:{_NAME})|{_CAMEL})\s+)(?P<quote>[\"']?)(?!-)[^\s\"']+")

_CLIENT_OPTIONS: tuple[tuple[str, str, str], ...] = (
    # programs, options whose value may follow at once (`-pX`), options whose value is the next argument
    (r"mysql\w*|mariadb(?:-\w+)*|mycli|7z[azr]?|rar", "p", ""),
    (r"sshpass|mongo\w*|rclone", "p", "p"),
    (r"redis-(?:cli|benchmark)", "", "a"),
    (r"ldap(?:search|modify|add|delete|passwd|whoami)|ipmitool", "", "wP"),
    (r"mosquitto_\w+|sqlcmd|bcp|zip|unzip|sshfs|ipmitool", "P", "P"),
)
"""Programs whose short options hold a password; elsewhere `-p` is a port, a path or something else."""
_CLIENTS = tuple(
    (re.compile(names), tuple(f"-{letter}" for letter in attached), tuple(f"-{letter}" for letter in following))
    for names, attached, following in _CLIENT_OPTIONS
)


def _inline(names: str, attached: str, following: str) -> re.Pattern[str]:
    ways = [f"[{attached}]"] if attached else []
    ways += [rf"[{following}]\s+"] if following else []
    start = rf"(?<![\w.-])(?:{names})\s(?:[^|;&]*?\s)?-(?:{'|'.join(ways)})"
    return re.compile(rf"(?P<keep>{start})(?P<quote>[\"']?)(?![\s\"'-])[^\s\"']+")


_INLINE = tuple(_inline(*entry) for entry in _CLIENT_OPTIONS)
"""The same within one argument, as in `sh -c 'mysql -pX'`."""

_SHAPES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?P<keep>(?<![\w+.-])[a-zA-Z][\w+.-]*://[^\s/:@]*):[^\s/@]+@"), rf"\g<keep>:{HIDDEN}@"),
    (re.compile(r"(?P<keep>(?<![\w+.-])[a-zA-Z][\w+.-]*://)[^\s/:@]{20,}@"), rf"\g<keep>{HIDDEN}@"),
    (re.compile(r"(?P<keep>(?i:\b(?:bearer|basic|digest|token)\s+))[\w.~+/=-]{8,}"), rf"\g<keep>{HIDDEN}"),
    (re.compile(r"(?P<keep>(?i:(?<![\w-])[\w-]*(?:api-key|auth-token|authorization)\s*:\s*))(?!(?i:bearer|basic|digest|token)\s)\S+"), rf"\g<keep>{HIDDEN}"),
    (re.compile(r"\b(?:gh[opsur]_\w{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}|xox[abeprs]-[\w-]{10,}|sk-[\w-]{16,}|AKIA[A-Z0-9]{16}|AIza[\w-]{30,}|eyJ[\w-]{8,}\.[\w-]+\.[\w-]*)"), HIDDEN),
    (re.compile(r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"), HIDDEN),
    (re.compile(r"(?P<keep>(?<![\w])(?:pass):)[^\s\"']+"), rf"\g<keep>{HIDDEN}"),
)  # fmt: skip
_USER_AND_PASSWORD = re.compile(r"(?P<keep>[^:%\s]*[:%])\S+")
_LONGEST = 4096


def mask(text: str) -> str:
    """Text that may hold a command line, with what looks like a secret replaced by `***`."""
    text = text[:_LONGEST]
    for pattern, shown in _SHAPES:
        text = pattern.sub(shown, text)
    for pattern in (_ASSIGNED, _FOLLOWED, *_INLINE):
        text = pattern.sub(rf"\g<keep>\g<quote>{HIDDEN}", text)
    return text


def mask_arguments(arguments: Sequence[str]) -> list[str]:
    """A program's arguments, the program first, with secrets replaced by `***`.

    It works by the names of options and by known shapes, so a secret in a place of its own is still shown.
    """
    shown: list[str] = []
    program = arguments[0].rpartition("/")[2] if arguments else ""
    clients = [entry for entry in _CLIENTS if entry[0].fullmatch(program)]
    attached = tuple(option for entry in clients for option in entry[1])
    following = {option for entry in clients for option in entry[2]}
    hide = user = False
    for argument in arguments:
        if hide and not argument.startswith("-"):
            shown.append(HIDDEN)
        elif user:
            shown.append(_USER_AND_PASSWORD.sub(rf"\g<keep>{HIDDEN}", argument))
        elif shown and argument.startswith(attached) and argument[:2] in attached and len(argument) > 2:
            shown.append(argument[:2] + HIDDEN)
        else:
            shown.append(mask(argument))
        hide = bool(_OPTION.fullmatch(argument)) or argument in following
        user = argument in ("-u", "--user", "--proxy-user", "-U") and program in ("curl", "smbclient", "rpcclient")
    return shown
