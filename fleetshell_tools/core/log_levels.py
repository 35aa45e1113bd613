"""How bad a log line is: the levels of common formats brought to six names, and a guess by words where a format has none."""

from __future__ import annotations

import re

LEVELS = ("critical", "error", "warning", "info", "debug", "unknown")
"""The worst first. `unknown` is a line whose format has no level and whose words suggest none."""

ERRORS = frozenset({"critical", "error"})

_BY_PRIORITY = ("critical", "critical", "critical", "error", "warning", "info", "info", "debug")

_NAMES = {
    "critical": "emerg emergency alert crit critical fatal panic dpanic disaster",
    "error": "err error severe failure",
    "warning": "warn warning",
    "info": "notice info information informational log hint detail statement context ok config",
    "debug": "debug trace verbose fine finer finest dbug debug1 debug2 debug3 debug4 debug5",
}
_LEVEL_OF = {name: level for level, names in _NAMES.items() for name in names.split()}

_CAPITALS = "EMERG|EMERGENCY|ALERT|CRIT|CRITICAL|FATAL|PANIC|DPANIC|ERR|ERROR|SEVERE|WARN|WARNING|NOTICE|INFO|DEBUG|TRACE|LOG|HINT|DETAIL|STATEMENT|CONTEXT|FINE|FINER|FINEST|VERBOSE"
_STATED = re.compile(
    rf"(?<![\w.=/-])(?:(?P<a>{_CAPITALS}|Fatal|Error|Warning|Info|Debug)(?![\w=/.])"  # a word of its own
    r"|\[(?P<b>[A-Za-z]{3,13})\]"  # in brackets
    rf"|level=\"?(?P<c>[A-Za-z]{{3,13}}))"
)
_STATED_AT_ONCE = re.compile(
    r"\W{0,4}(?:(?P<a>[A-Za-z]{3,13})\s?[:\]|>]|"
    rf"(?P<b>{_CAPITALS})(?=[\s,]))"
)

_CRITICAL = (
    r"fatal|panic|emergency|segfault|segmentation fault|out of memory|oom-kill\w*|kernel bug|core dumped|no space left|"
    r"critical|read-only file system|i/o error"
)
_ERROR = (
    r"error|errors|err|failed|fails|failure|failures|exception|traceback|bounced|undeliverable|corrupt\w*|abort\w*|crash\w*|"
    r"status=expired|exit status [1-9]\d*|killed"
)
_WARNING = (
    r"warn|warning|warnings|reject|rejected|rejecting|deferred|denied|refused|timeout|timed out|time-?outs?|retry|retrying|deprecated|"
    r"invalid|unreachable|unable to|cannot|can't|could not|couldn't|not found|no such|degraded|throttl\w*|overload\w*|"
    r"lost connection|reset by peer|illegal|unauthorized|forbidden|expired"
)
# A hyphen or a dot glues words into names (`error-pages`, `error.log`, `failed.target`), which say nothing of this line.
_WORDS = re.compile(
    rf"(?<![\w./-])(?:(?P<critical>{_CRITICAL})|(?P<error>{_ERROR})|(?P<warning>{_WARNING}))(?![\w/-]|\.\w)|(?-i:\w(?:Error|Exception)\b)",
    re.IGNORECASE,
)
_NEGATED = re.compile(
    r"\b(?:0|no|without|zero)\s+(?:\w+\s+)?(?:errors?|failures?|warnings?)\b|\b(?:errors?|failures?|failed|warnings?|rejected|aborted)\s?[=:]\s?0\b",
    re.IGNORECASE,
)
# Somebody at the door with a wrong key: every host on the Internet has thousands of these, and they are no error of ours.
_AUTH = re.compile(
    r"\b(?:failed (?:password|publickey|none|keyboard-interactive)|authentication fail\w+|auth\w* failed|login failed|invalid user|maximum authentication|"
    r"failed login|preauth)",
    re.IGNORECASE,
)
_LOOKED_AT = 600


def named(name: str) -> str | None:
    """The level of a name such as `WARN`, `err` or `Notice`; None where it is none."""
    return _LEVEL_OF.get(name.strip().lower())


def priority(number: int) -> str:
    """The level of a syslog severity, 0 to 7 (RFC 5424 section 6.2.1)."""
    return _BY_PRIORITY[number & 7]


def number(value: float) -> str | None:
    """The level of a number in a JSON line: a syslog severity, or 10 to 60 as bunyan, pino and Python logging count."""
    if 0 <= value <= 7:
        return priority(int(value))
    if 10 <= value <= 60:
        return (
            "debug"
            if value < 30
            else "info"
            if value < 40
            else "warning"
            if value < 50
            else "error"
            if value < 60
            else "critical"
        )
    return None


def status(code: int) -> str:
    """The level of an HTTP status: 5xx is an error, 4xx a warning."""
    return "error" if code >= 500 else "warning" if code >= 400 else "info"


def at_the_start(message: str) -> str | None:
    """The level that a message begins with, as in `warning: …`, `[error] …` or `ERROR …`."""
    match = _STATED_AT_ONCE.match(message, 0, 40)
    return named(match["a"] or match["b"]) if match else None


def stated(text: str, limit: int = 100) -> tuple[str, int, int] | None:
    """The level that stands near the start of a line whose format is not known, and from where to where."""
    for match in _STATED.finditer(text, 0, limit):
        level = named(match["a"] or match["b"] or match["c"])
        if level is not None:
            return level, match.start(), match.end()
    return None


def by_words(message: str) -> str | None:
    """The level that a message's words suggest; None where they suggest nothing."""
    text = message[:_LOOKED_AT]
    found = {match.lastgroup or "error" for match in _WORDS.finditer(text)}
    if not found:
        return None
    if _NEGATED.search(text):
        text = _NEGATED.sub(" ", text)
        found = {match.lastgroup or "error" for match in _WORDS.finditer(text)}
    if "error" in found and "critical" not in found and _AUTH.search(text):
        return "warning"
    return next((level for level in ("critical", "error", "warning") if level in found), None)


def of_syslog(told: str | None, program: str, message: str) -> str:
    """What syslog or the journal tells; where that is nothing or `info` (services that write to standard output are `info` all),
    what the message begins with or suggests."""
    if told is not None and told not in ("info", "unknown"):
        return told
    if program.startswith("postfix/") or program == "postfix":
        return _postfix_level(message)
    if program == "CRON" and message.startswith("(CRON) info"):
        return "info"
    own = at_the_start(message)
    if own is not None:
        return own
    if program == "systemd" and message.startswith(_ROUTINE):
        return "info"  # what follows is the description of a unit
    return told or by_words(message) or "info"


_ROUTINE = (
    "Starting ",
    "Started ",
    "Stopping ",
    "Stopped ",
    "Finished ",
    "Reached ",
    "Listening ",
    "Created ",
    "Reloading ",
    "Reloaded ",
    "Mounted ",
    "Set up ",
    "Closed ",
    "Removed ",
)


_POSTFIX_STATUS = {
    "sent": "info",
    "deliverable": "info",
    "deferred": "warning",
    "undeliverable": "warning",
    "bounced": "error",
    "expired": "error",
}
_STATUS = re.compile(r"\bstatus=([a-z]+)")
_POSTFIX_WORD = re.compile(r"(?:^|: )(fatal|panic|error|warning|reject\w*|hold|discard|milter-reject)\b")


def _postfix_level(message: str) -> str:
    """By the fate of a delivery, else by the word that Postfix puts in front; what remote servers said counts for nothing."""
    fate = _STATUS.search(message)
    if fate and fate[1] in _POSTFIX_STATUS:
        return _POSTFIX_STATUS[fate[1]]
    word = _POSTFIX_WORD.search(message)
    if word is None:
        return (
            "warning"
            if message.startswith(("lost connection", "timeout", "too many errors", "connect to "))
            else "info"
        )
    return {"fatal": "critical", "panic": "critical", "error": "error"}.get(word[1], "warning")
