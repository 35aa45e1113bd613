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
_QUOTED = r"(?:(?<=\")(?!\s)[^\"]+(?=\")|(?<=')(?!\s)[^']+(?=')"
_ASSIGNED = re.compile(
    rf"(?P<keep>(?<![\w.-])-{{0,2}}D?(?:(?i:{_NAME})|{_CAMEL})[\"']?[=:]\s*)(?P<quote>[\"']?){_QUOTED}|[^\s\"'&;,]+)"
)
_FOLLOWED = re.compile(rf"(?P<keep>(?<!\S)--(?:(?i:{_NAME})|{_CAMEL})\s+)(?P<quote>[\"']?)(?!-){_QUOTED}|[^\s\"']+)")

_CLIENT_OPTIONS: tuple[tuple[str, str, str], ...] = (
    # programs, options whose value may follow at once (`-pX`), options whose value is the next argument
    (r"mysql\w*|mariadb(?:-\w+)*|mycli|7z[azr]?|rar", "p", ""),
    (r"sshpass|mongo\w*|rclone", "p", "p"),
    (r"redis-(?:cli|benchmark)", "", "a"),
    (r"ldap(?:search|modify|add|delete|passwd|whoami)|ipmitool", "", "wP"),
    (r"mosquitto_\w+|sqlcmd|bcp|zip|unzip|sshfs|ipmitool", "P", "P"),
    (r"(?:docker|podman|buildah)\s+login", "", "p"),
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
    return re.compile(rf"(?P<keep>{start})(?P<quote>[\"']?)(?![\s\"'-]){_QUOTED}|[^\s\"']+)")


_INLINE = tuple(_inline(*entry) for entry in _CLIENT_OPTIONS)
"""The same within one argument, as in `sh -c 'mysql -pX'`."""

_SHAPES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?P<keep>(?<![\w+.-])[a-zA-Z][\w+.-]*://[^\s/:@]*):[^\s/@]+@"), rf"\g<keep>:{HIDDEN}@"),
    (re.compile(r"(?P<keep>(?<![\w+.-])[a-zA-Z][\w+.-]*://)[^\s/:@]{20,}@"), rf"\g<keep>{HIDDEN}@"),
    (re.compile(r"(?P<keep>(?i:\b(?:bearer|basic|digest|token)\s+))[\w.~+/=-]{8,}"), rf"\g<keep>{HIDDEN}"),
    (re.compile(r"(?P<keep>(?i:(?<![\w-])[\w-]*(?:api-key|auth-token|authorization)\s*:\s*))(?!(?i:bearer|basic|digest|token)\s)\S+"), rf"\g<keep>{HIDDEN}"),
    (re.compile(r"\b(?:gh[opsur]_\w{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}|xox[abeprs]-[\w-]{10,}|sk[-_][\w-]{16,}|A[KS]IA[A-Z0-9]{16}|AIza[\w-]{30,}|ya29\.[\w-]{16,}|npm_\w{20,}|pypi-[\w-]{16,}|hv[sb]\.[\w-]{16,}|do[opr]_v1_\w{16,}|eyJ[\w-]{8,}\.[\w-]+\.[\w-]*)"), HIDDEN),
    (re.compile(r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"), HIDDEN),
    (re.compile(r"(?P<keep>(?<![\w])(?:pass):)[^\s\"']+"), rf"\g<keep>{HIDDEN}"),
    (re.compile(r"(?P<keep>--from-literal[= ][\"']?[\w.-]+=)[^\s\"']+"), rf"\g<keep>{HIDDEN}"),
    (re.compile(r"(?P<keep>(?i:\b(?:aws_secret_access_key|aws_session_token))\s+)[^\s=]\S*"), rf"\g<keep>{HIDDEN}"),
    (re.compile(r"(?P<keep>(?i:\b(?:identified(?:\s+with\s+\S+)?\s+by|password)\s+)(?P<mark>\\?[\"']))[^\"'\\]+"), rf"\g<keep>{HIDDEN}"),
    (re.compile(r"(?P<keep>\b(?:curl|wget)\s(?:[^|;&]*?\s)?(?:-u|--user|--proxy-user|-U)[ =]?[\"']?[^\s:\"'-][^\s:\"']*:)[^\s\"']+"), rf"\g<keep>{HIDDEN}"),
    (re.compile(r"(?P<keep>\b(?:echo|printf)\s+)[^|;&<>]+(?=\|\s*(?:sudo\s+)?(?:\S*/)?(?:chpasswd|passwd\b|sudo\s+(?:-\w+\s+)*-S\b|cryptsetup|smbpasswd|docker\s+login))"), rf"\g<keep>{HIDDEN} "),
    (re.compile(r"(?P<keep>\b(?:chpasswd|passwd\s+--stdin|sudo\s+-S\b[^|;&<]*?)\s*<<<\s*)\S+"), rf"\g<keep>{HIDDEN}"),
    (re.compile(r"(?P<keep>\bhtpasswd\s+(?:-\w+\s+)*-\w*b\w*\s+(?:-\w+\s+)*\S+\s+\S+\s+)\S+"), rf"\g<keep>{HIDDEN}"),
    (re.compile(r"(?P<keep>\b(?:useradd|usermod)\s(?:[^|;&]*?\s)?(?:-p\s*))[^\s-]\S*"), rf"\g<keep>{HIDDEN}"),
)  # fmt: skip
_USER_AND_PASSWORD = re.compile(r"(?P<keep>[^:%\s]*[:%])\S+")
_LONGEST = 4096
_SUSPECTS = (
    *("pass", "pwd", "secret", "token", "key", "credential", "auth", "bearer", "basic", "digest", "identified", "://"),
    *(
        "akia",
        "asia",
        "aiza",
        "eyj",
        "sk-",
        "sk_",
        "xox",
        "gho_",
        "ghp_",
        "ghs_",
        "ghu_",
        "ghr_",
        "github_pat",
        "glpat",
    ),
    *("ya29", "npm_", "pypi-", "hvs.", "hvb.", "doo_v1", "dop_v1", "dor_v1", "mysql", "mariadb", "mycli", "7z", "rar"),
    *("mongo", "rclone", "redis", "ldap", "ipmitool", "mosquitto", "sqlcmd", "bcp", "zip", "sshfs", "curl", "wget"),
    *("| sudo", "|sudo", "sudo -s", "<<<", "cryptsetup", " login", "useradd", "usermod", "--from-literal"),
)
"""In lower case; where none of them stands, no pattern can match: a quick look in place of thirty slow ones."""
_BREAK = re.compile(r"[\s;|&]+")


def mask(text: str) -> str:
    """Text that may hold a command line, with what looks like a secret replaced by `***`."""
    text = text[:_LONGEST]
    for pattern, shown in _SHAPES:
        text = pattern.sub(shown, text)
    for pattern in (_ASSIGNED, _FOLLOWED, *_INLINE):
        text = pattern.sub(rf"\g<keep>\g<quote>{HIDDEN}", text)
    return text


def is_suspect(text: str) -> bool:
    """Whether text could hold something to mask; a quick answer that is never wrongly no."""
    text = text.lower()
    return any(word in text for word in _SUSPECTS)


def mask_whole(text: str) -> str:
    """`mask` for text of any length, in time that is linear in it: nothing is cut off.

    Beyond 4096 characters it works piece by piece, so an option may there be parted from a program that stands far before it.
    """
    if not is_suspect(text):
        return text
    if len(text) <= _LONGEST:
        return mask(text)
    for pattern, shown in _SHAPES:
        if pattern.flags & re.DOTALL:  # a key spans pieces
            text = pattern.sub(shown, text)
    pieces, start = [], 0
    while start < len(text):
        end = start + _LONGEST
        breaks = (
            [found.span() for found in _BREAK.finditer(text, start + _LONGEST // 2, end)] if end < len(text) else []
        )
        end = next((after for before, after in reversed(breaks) if not _binds(text, before)), end)
        pieces.append(mask(text[start:end]))
        if not breaks and pieces[-1].endswith(HIDDEN):  # the rest of a secret that is longer than a piece
            found = _BREAK.search(text, end)
            end = found.start() if found else len(text)
        start = end
    return "".join(pieces)


def _binds(text: str, end: int) -> bool:
    """Whether the word that ends at `end` may belong to a secret after it."""
    words = text[max(0, end - 80) : end].split()
    return not words or words[-1].startswith("-") or words[-1].endswith(("=", ":")) or is_suspect(words[-1])


def mask_arguments(arguments: Sequence[str], *, whole: bool = False) -> list[str]:
    """A program's arguments, the program first, with secrets replaced by `***`.

    It works by the names of options and by known shapes, so a secret in a place of its own is still shown.

    Args:
        whole: Cut off nothing of long arguments.
    """
    masked = mask_whole if whole else mask
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
            shown.append(masked(argument))
        hide = bool(_OPTION.fullmatch(argument)) or argument in following
        user = argument in ("-u", "--user", "--proxy-user", "-U") and program in ("curl", "smbclient", "rpcclient")
    return shown
