"""Pure programs whose output can be computed: `echo`, `printf`, `base64 -d`, `rev`, `tr`, `dirname` and more.

They are what commands are hidden with: `echo cmVib290 | base64 -d | sh` is `reboot`.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import posixpath
import re
from collections.abc import Callable, Sequence

from fleetshell_tools.fleet.guard.lexer import unescape_ansi
from fleetshell_tools.fleet.guard.options import parse
from fleetshell_tools.fleet.guard.symbols import LOCAL, STAR, UNKNOWN, from_outside, is_known, plain

Producer = Callable[[Sequence[str], str], str]
"""Takes a program's arguments and its stdin; returns what it prints."""

_FORMAT = re.compile(r"%(?:%|([-0 +#]*\d{0,4}(?:\.\d{0,4})?)([a-zA-Z]))")
_SETS = {"[:upper:]": "A-Z", "[:lower:]": "a-z", "[:digit:]": "0-9"}


def _echo(arguments: Sequence[str], stdin: str) -> str:
    words = list(arguments)
    newline, escapes = "\n", False
    while words and re.fullmatch(r"-[neE]+", words[0]):
        newline = "" if "n" in words[0] else newline
        escapes = escapes or "e" in words[0]
        del words[0]
    text = " ".join(words)
    return (unescape_ansi(_zero_octal(text)) if escapes else text) + newline


def _zero_octal(text: str) -> str:
    """`echo -e` and `printf %b` write octal as `\\0nnn`, where `$'…'` has `\\nnn`."""
    return re.sub(r"\\0([0-7]{1,3})", r"\\\1", text)


_NUL = re.compile(r"\\(?:x00|000|0(?![0-7]))")


def _printf(arguments: Sequence[str], stdin: str) -> str:
    words = list(arguments)
    if words[:1] == ["-v"]:
        return ""
    if words[:1] == ["--"]:
        del words[0]
    if not words:
        return ""
    # Items that end in NUL are for `xargs -0`, which takes lines as well here.
    template, values = unescape_ansi(_NUL.sub("\n", words[0])), words[1:]
    found = []

    def fill(match: re.Match[str]) -> str:
        if not match[2]:
            return "%"
        value = values.pop(0) if values else ""
        if match[2] == "b":
            return unescape_ansi(_zero_octal(value))
        if match[2] == "c":
            return value[:1]
        if match[2] in "diuxXo":
            return _number(match[1], match[2], value)
        precision = match[1].partition(".")[2]
        return value[: int(precision)] if precision and is_known(value) else value

    while True:
        before = len(values)
        found.append(_FORMAT.sub(fill, template))
        if not values or len(values) == before:
            return "".join(found)


def _number(flags: str, letter: str, value: str) -> str:
    try:
        number = ord(value[1]) if value[:1] in ("'", '"') and len(value) > 1 else int(value or "0", 0)
        return ("%" + flags + letter) % number if len(flags) < 4 else str(number)
    except ValueError:
        return UNKNOWN


def _base64(arguments: Sequence[str], stdin: str) -> str:
    options = parse(arguments, short="w", long=("wrap",))
    if options.operands not in ([], ["-"]) or not is_known(stdin):
        return UNKNOWN
    if not options.has("d", "D", "decode"):
        return base64.b64encode(stdin.encode()).decode() + "\n"
    kept = re.sub(r"[^A-Za-z0-9+/]", "", stdin)
    kept = kept[: len(kept) - (len(kept) % 4 == 1)]
    return _text(base64.b64decode(kept + "=" * (-len(kept) % 4)))


def _base32(arguments: Sequence[str], stdin: str) -> str:
    options = parse(arguments, short="w", long=("wrap",))
    if options.operands or not options.has("d", "decode") or not is_known(stdin):
        return UNKNOWN
    try:
        return _text(base64.b32decode("".join(stdin.split())))
    except binascii.Error:
        return UNKNOWN


def _openssl(arguments: Sequence[str], stdin: str) -> str:
    decoding = arguments[:1] in (["base64"], ["enc"], ("base64",), ("enc",)) and "-d" in arguments
    return _base64(["-d"], stdin) if decoding and not {"-in", "-k", "-pass"} & set(arguments) else UNKNOWN


def _xxd(arguments: Sequence[str], stdin: str) -> str:
    options = parse([re.sub(r"\A-ps\Z", "-p", argument) for argument in arguments], short="clsgo")
    if (
        not options.has("r", "revert")
        or not options.has("p")
        or options.operands not in ([], ["-"])
        or not is_known(stdin)
    ):
        return UNKNOWN
    digits = re.sub(r"[^0-9A-Fa-f]", "", stdin)
    return _text(bytes.fromhex(digits[: len(digits) // 2 * 2]))


def _text(raw: bytes) -> str:
    return from_outside(raw.decode("utf-8", errors="replace"))


def _rev(arguments: Sequence[str], stdin: str) -> str:
    return UNKNOWN if arguments else "\n".join(line[::-1] for line in stdin.split("\n"))


def _tac(arguments: Sequence[str], stdin: str) -> str:
    return UNKNOWN if arguments else "".join(reversed(stdin.splitlines(keepends=True)))


def _tr(arguments: Sequence[str], stdin: str) -> str:
    options = parse(arguments)
    sets = [_characters(operand) for operand in options.operands]
    if options.has("c", "C", "complement") or not sets or not is_known(stdin):
        return UNKNOWN
    if options.has("d", "delete"):
        return stdin.translate(dict.fromkeys(map(ord, sets[0])))
    if len(sets) < 2 or not sets[1]:
        return stdin
    target = sets[1].ljust(len(sets[0]), sets[1][-1])
    return stdin.translate({ord(old): new for old, new in reversed(list(zip(sets[0], target, strict=False)))})


def _characters(text: str) -> str:
    """Expand the ranges and classes of a `tr` set."""
    for name, members in _SETS.items():
        text = text.replace(name, members)
    text = unescape_ansi(text)

    def expand(match: re.Match[str]) -> str:
        low, high = ord(match[1]), min(ord(match[2]), ord(match[1]) + 255)
        return "".join(map(chr, range(low, high + 1)))

    return re.sub(r"(.)-(.)", expand, text, flags=re.DOTALL)


def _rot13(arguments: Sequence[str], stdin: str) -> str:
    return codecs.encode(stdin, "rot13")


def _dirname(arguments: Sequence[str], stdin: str) -> str:
    return "".join((posixpath.dirname(path.rstrip("/") or "/") or ".") + "\n" for path in arguments)


def _basename(arguments: Sequence[str], stdin: str) -> str:
    path = posixpath.basename((arguments[0] if arguments else "").rstrip("/"))
    return (path.removesuffix(arguments[1]) if len(arguments) > 1 else path) + "\n"


def _which(arguments: Sequence[str], stdin: str) -> str:
    return "".join(f"/usr/bin/{posixpath.basename(name)}\n" for name in arguments if not name.startswith("-"))


def _command(arguments: Sequence[str], stdin: str) -> str:
    return _which(arguments, "") if arguments[:1] in (["-v"], ("-v",)) else UNKNOWN


def _pgrep(arguments: Sequence[str], stdin: str) -> str:
    """The number of the first process stands for all, where the pattern takes all."""
    options = parse(arguments, short="ugtPsUGd")
    patterns = options.operands
    named = plain(patterns[0]).strip(".*^$") if patterns else ""
    user = options.value("u", "U", "euid", "uid")
    everything = (
        (options.has("v") if named else bool(patterns)) or named == "sshd" or (not patterns and user in ("root", "0"))
    )
    return "1\n" if everything else UNKNOWN


def _pidof(arguments: Sequence[str], stdin: str) -> str:
    return "1\n" if {"systemd", "init", "/sbin/init", "sshd", "dbus-daemon"} & set(arguments) else UNKNOWN


def _redis(arguments: Sequence[str], stdin: str) -> str:
    """`redis-cli keys '*'` and `--scan` without a narrower pattern name every key."""
    words = list(arguments)
    pattern = words[words.index("--pattern") + 1 :][:1] if "--pattern" in words else ["*"]
    words = ["keys" if word == "KEYS" else word for word in words]
    pattern = words[words.index("keys") + 1 :][:1] if "keys" in words else pattern
    listing = "--scan" in words or "keys" in words
    return STAR + "\n" if listing and [plain(word) for word in pattern] == ["*"] else UNKNOWN


def _docker(arguments: Sequence[str], stdin: str) -> str:
    """`docker ps -q` without a filter names every container."""
    options = parse(arguments, short="fn", long=("filter", "format", "last"))
    words = options.operands
    listing = words in (["ps"], ["images"]) or words[-1:] in (["ls"], ["list"])
    return STAR + "\n" if listing and options.has("q", "quiet") and not options.has("f", "filter") else UNKNOWN


def _kubectl(arguments: Sequence[str], stdin: str) -> str:
    """`kubectl get KIND -o name` names every object of a kind; what `completion` prints is made to be evaluated."""
    options = parse(arguments, short="onlL", long=("output", "namespace", "selector", "field-selector"))
    kinds = options.operands[1:] if options.operands[:1] == ["get"] else []
    narrow = len(kinds) != 1 or "/" in kinds[0] or options.has("l", "selector", "field-selector")
    return "" if narrow else STAR + "\n"


def _systemctl(arguments: Sequence[str], stdin: str) -> str:
    """`list-units` without a pattern names every unit."""
    operands = parse(arguments, short="t", long=("type", "state", "property")).operands
    return STAR + "\n" if operands in (["list-units"], ["list-unit-files"]) else UNKNOWN


def _df(arguments: Sequence[str], stdin: str) -> str:
    return "/\n" if "--output=target" in arguments else UNKNOWN


def _tree(arguments: Sequence[str], stdin: str) -> str:
    options = parse(arguments, short="LPI")
    return "".join(f"{path.rstrip('/')}/{STAR}\n" for path in options.operands) if options.has("f", "i") else UNKNOWN


def _type(arguments: Sequence[str], stdin: str) -> str:
    return _which(arguments, "") if {"-P", "-p", "-fP", "-fp"} & set(arguments) else UNKNOWN


def _mktemp(arguments: Sequence[str], stdin: str) -> str:
    return f"/tmp/tmp.{UNKNOWN}\n"


def _seq(arguments: Sequence[str], stdin: str) -> str:
    return "1\n" if all(re.fullmatch(r"-?\d{1,9}", argument) for argument in arguments) else UNKNOWN


def _same_path(arguments: Sequence[str], stdin: str) -> str:
    return "".join(path + "\n" for path in arguments if not path.startswith("-"))


def _ps(arguments: Sequence[str], stdin: str) -> str:
    """Of a list of all processes the first stands for all; without a filter it is taken by everybody who reads it."""
    text = "".join(arguments)
    everything = any(flag in text for flag in ("e", "A", "ax", "aux")) and "p" not in text.replace("pid", "").replace(
        "ppid", ""
    )
    return "1 1 1 1 1 1 1 1\n" if everything else UNKNOWN


def _some_lines(arguments: Sequence[str], stdin: str) -> str:
    """`head` and `tail`: of the names that a wildcard stands for only some."""
    printed = _passes_on([word for word in arguments if not word.lstrip("-").isdigit()], stdin)
    return (
        printed.replace(STAR, f"{UNKNOWN}/" * 8) if any(word.startswith(("-", "+")) for word in arguments) else printed
    )


def _grep(arguments: Sequence[str], stdin: str) -> str:
    """`grep -v` leaves nearly all; what another pattern leaves is not known."""
    options = parse(arguments, short="efmABC")
    if not options.has("v", "invert-match") or len(options.operands) > 1:
        named = plain("".join(options.operands[:1])).replace("[", "").replace("]", "")
        if stdin.startswith("1 1 1") and re.fullmatch(r".*\b(?:sshd|systemd|init)\b.*", named):
            return stdin
        digits = stdin == "1\n" and any(_DIGITS.fullmatch(plain(word)) for word in options.operands[:1])
        return stdin if digits else UNKNOWN
    return stdin if STAR in stdin or stdin.startswith("1 1 1") or stdin == "1\n" else UNKNOWN


_DIGITS = re.compile(r"\^?(?:\[0-9\]|\[\[:digit:\]\]|\\d)[+*]?\$?")


def _uname(arguments: Sequence[str], stdin: str) -> str:
    return LOCAL + "\n" if "-r" in arguments else "Linux\n"


def _passes_on(arguments: Sequence[str], stdin: str) -> str:
    """Filters whose output holds lines of their input; which ones is not decided."""
    return stdin if not [argument for argument in arguments if not argument.startswith(("-", "+"))] else UNKNOWN


def _silent(arguments: Sequence[str], stdin: str) -> str:
    return ""


PRODUCERS: dict[str, Producer] = {
    "echo": _echo,
    "printf": _printf,
    "base64": _base64,
    "base32": _base32,
    "openssl": _openssl,
    "xxd": _xxd,
    "rev": _rev,
    "tac": _tac,
    "tr": _tr,
    "rot13": _rot13,
    "dirname": _dirname,
    "basename": _basename,
    "which": _which,
    "command": _command,
    "pgrep": _pgrep,
    "pidof": _pidof,
    "mktemp": _mktemp,
    **dict.fromkeys(("docker", "podman", "nerdctl", "crictl", "ctr", "lxc", "incus", "helm"), _docker),
    "kubectl": _kubectl,
    "systemctl": _systemctl,
    "tree": _tree,
    "df": _df,
    "type": _type,
    "seq": _seq,
    "realpath": _same_path,
    "readlink": _same_path,
    "sort": _passes_on,
    "uniq": _passes_on,
    "head": _some_lines,
    "tail": _some_lines,
    "grep": _grep,
    "egrep": _grep,
    "ps": _ps,
    "redis-cli": _redis,
    "valkey-cli": _redis,
    "uname": _uname,
    "sponge": _passes_on,
    "true": _silent,
    "false": _silent,
    "sleep": _silent,
    "test": _silent,
    "[": _silent,
    "rm": _silent,
    "mkdir": _silent,
    "touch": _silent,
    "cp": _silent,
    "mv": _silent,
    "kill": _silent,
    "ssh-agent": _silent,
    "dircolors": _silent,
    "direnv": _silent,
    "brew": _silent,
    "pyenv": _silent,
    "rbenv": _silent,
    "starship": _silent,
    "resize": _silent,
    "locale": _silent,
    "lesspipe": _silent,
}
"""The last two lines are programs made to be evaluated (`eval "$(ssh-agent -s)"`), whose output is trusted."""


def produce(name: str, arguments: Sequence[str], stdin: str) -> str:
    """What a program prints; the unknown mark where it is not modelled."""
    producer = PRODUCERS.get(name)
    return producer(arguments, stdin) if producer else UNKNOWN
