"""Messages of a log mined into templates: what differs from line to line is masked, what is alike is counted together.

Masking finds most of what varies by its shape. The rest (names, states) is found as Drain does (He, Zhu, Zheng, Lyu: "Drain: An
online log parsing approach with fixed depth tree", ICWS 2017): messages of one program, level, length and first word are
compared, and where they are alike the words that differ become `<*>`. Unlike Drain, words are not given up at the first
difference but when several values were seen, so that `logged in` and `logged out` stay two templates.
"""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass, field

WILD = "<*>"

MOST = 2000
"""Templates in memory; beyond it the rare half is given up and counted as `other`."""
LEAF = 48
"""Templates that one message is compared with, at most."""
VARIANTS = 4
"""So many templates that are alike become one."""
LONGEST = 40
"""Tokens of a message that are looked at."""
_LONGEST_TOKEN = 120
_CACHED = 20_000

_QUOTED = re.compile(r"\"(?:[^\"\\]|\\.)*\"|(?<![\w>])'[^']{0,500}'(?!\w)|`[^`']{0,500}['`]")
_ADDRESS = r"(?:\d{1,3}\.){3}\d{1,3}"
_MASKS = re.compile(
    r"(?P<url>[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s\"'<>,;]+)"
    r"|(?P<email><[\w.+%=-]{1,64}@(?:[\w-]+\.)+[\w-]+>|[\w.+%-]{1,64}@(?:[\w-]+\.)+[\w-]+)"
    r"|(?P<uuid>(?<![\w-])[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}(?![\w-]))"
    r"|(?P<mac>(?<![\w:-])[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){5,19}(?![\w:-]))"
    r"|(?P<time>(?<!\w)\d{4}[-/]\d\d[-/]\d\d(?:[T_ ]\d\d:\d\d(?::\d\d)?(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?)?(?!\w)|(?<![\w:])\d{1,2}:\d\d:\d\d(?:[.,]\d+)?(?![\w:]))"
    rf"|(?P<ip>(?<![\w.]){_ADDRESS}(?:/\d{{1,2}}|:\d{{1,5}})?(?![\w.]*\w)"
    rf"|(?<![\w:])(?:[0-9A-Fa-f]{{1,4}}:){{7}}[0-9A-Fa-f]{{1,4}}(?![\w:])|(?<![\w:])(?=[0-9A-Fa-f:]*::)(?:[0-9A-Fa-f]{{0,4}}:){{2,7}}(?:{_ADDRESS}|[0-9A-Fa-f]{{0,4}})(?:%\w+)?(?![\w:]))"
    r"|(?P<path>(?<![\w<>.])~?(?:/[\w.@%+~:=-]+){2,}/?|(?<!\w)[A-Za-z]:\\[^\s\"'<>|]+)"
    r"|(?P<hex>(?<!\w)0[xX][0-9A-Fa-f]+(?!\w)|(?<![A-Za-z0-9])(?=[A-Fa-f]*\d)(?=\d*[A-Fa-f])[0-9A-Fa-f]{6,}(?![A-Za-z0-9]))"
    r"|(?P<id>(?<![A-Za-z0-9])(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{12,}(?![A-Za-z0-9]))"
    r"|(?P<duration>(?<![\w.])\d+(?:\.\d+)?(?:ns|us|µs|ms|s|sec|secs|min|mins|h|hrs|d)(?!\w)|(?<!\w)(?:\d+(?:\.\d+)?(?:h|m|min|s|ms)){2,}(?!\w))"
    r"|(?P<n>(?<![A-Za-z0-9])[+-]?\d+(?:[.,:]\d+)*(?:[kKMGT]i?[bB]?|B|%)?(?![A-Za-z0-9]))"
)
_PLAIN = re.compile(r"[^\d/@:.\\~-]*[:.,;!?)]*")
"""A token that holds nothing to mask."""
_ONE_SEGMENT = re.compile(r"\d")


@dataclass(slots=True)
class Template:
    """What lines have in common, and how often it came.

    Attributes:
        count: Lines in the window; no whole number where they were sampled.
        before: Lines in the window that it is compared with.
        seen: Count of all lines, for what is given up when memory is full.
        wild: Tokens that stand for any.
        dead: The template that took this one in.
    """

    level: str
    program: str
    tokens: list[str]
    count: float = 0.0
    before: float = 0.0
    seen: int = 0
    first: float | None = None
    last: float | None = None
    sample: str = ""
    wild: int = 0
    dead: Template | None = None

    @property
    def text(self) -> str:
        return " ".join(self.tokens)

    def add(self, weight: float, earlier: float, seconds: float | None, sample: str) -> None:
        """Count a line: `weight` in the window, `earlier` in the one before."""
        self.seen += 1
        self.count += weight
        self.before += earlier
        if weight and seconds is not None:
            self.first = seconds if self.first is None else min(self.first, seconds)
            self.last = seconds if self.last is None else max(self.last, seconds)
        if weight or not self.sample:
            self.sample = sample

    def absorb(self, other: Template) -> None:
        """Take another template's counts; it lives on as this one."""
        self.count, self.before, self.seen = (
            self.count + other.count,
            self.before + other.before,
            self.seen + other.seen,
        )
        if other.last is not None and (self.last is None or other.last >= self.last):
            self.last, self.sample = other.last, other.sample
        if other.first is not None and (self.first is None or other.first < self.first):
            self.first = other.first
        other.dead = self


def mask(message: str) -> list[str]:
    """A message's tokens, with what varies by its shape replaced by `<ip>`, `<n>`, `<path>` and the like.

    Masked are quoted strings, URLs, e-mail, UUIDs, MAC and IP addresses, times, paths of two segments and more, hexadecimal numbers,
    long ids, durations and numbers. Longer messages are cut after `LONGEST` tokens.
    """
    if '"' in message or "'" in message or "`" in message:
        message = _QUOTED.sub("<str>", message)
    words = message.split(None, LONGEST)
    more = len(words) > LONGEST
    tokens = [_masked(word) for word in words[:LONGEST]]
    return [*tokens, "…"] if more else tokens


_cache: dict[str, str] = {}


def _masked(word: str) -> str:
    if word.isalpha():
        return word[:_LONGEST_TOKEN]
    shown = _cache.get(word)
    if shown is None:
        short = word[:_LONGEST_TOKEN]
        shown = short if _PLAIN.fullmatch(short) else _MASKS.sub(_name, short)
        if len(_cache) >= _CACHED:
            _cache.clear()
        _cache[word[:_LONGEST_TOKEN]] = shown
    return shown


def _name(match: re.Match[str]) -> str:
    return f"<{match.lastgroup}>"


def mask_path(path: str, depth: int = 6) -> str:
    """The path of a request without its query, numbers and ids masked in each segment, cut after `depth` segments."""
    segments = path.partition("?")[0].partition("#")[0][:500].split("/")
    shown = [
        _masked(segment) if _ONE_SEGMENT.search(segment) else segment[:_LONGEST_TOKEN]
        for segment in segments[: depth + 1]
    ]
    return "/".join(shown) + ("/…" if len(segments) > depth + 1 else "")


@dataclass
class Miner:
    """Counts messages by template, in bounded memory and in work linear in their number.

    Attributes:
        other: Lines of templates that were given up, by level: what was in the window and what in the one before.
        steps: Comparisons of tokens so far.
    """

    most: int = MOST
    other: dict[str, list[float]] = field(default_factory=dict)
    steps: int = 0
    _leaves: dict[tuple[str, ...], list[Template]] = field(default_factory=dict)
    _exact: dict[tuple[str, str, str], Template] = field(default_factory=dict)
    _alive: int = 0

    def templates(self) -> list[Template]:
        """All that are in memory."""
        return [template for leaf in self._leaves.values() for template in leaf]

    def find(self, level: str, program: str, message: str) -> Template:
        """The template of a message, perhaps a new one."""
        tokens = mask(message)
        key = (level, program, " ".join(tokens))
        known = self._known(key)
        if known is not None:
            return known
        self._make_room()
        first = tokens[0] if tokens and not _varies(tokens[0]) else WILD
        leaf = self._leaves.setdefault((level, program, str(len(tokens)), first), [])
        return self._remember(key, self._like(leaf, tokens) or self._new(leaf, Template(level, program, tokens)))

    def find_exact(self, level: str, program: str, text: str, spill: str) -> Template:
        """The template with this very text; where there are too many of its kind, the one named `spill`."""
        key = (level, program, text)
        known = self._known(key)
        if known is not None:
            return known
        self._make_room()
        leaf = self._leaves.setdefault((level, program, "", spill), [])
        for template in leaf:
            if template.text == text:
                return self._remember(key, template)
        if len(leaf) >= LEAF * 2:
            keep = next((template for template in leaf if template.text == spill), None) or Template(
                level, program, [spill]
            )
            leaf.sort(key=lambda template: (template is keep, template.seen), reverse=True)
            for rare in leaf[LEAF:]:
                keep.absorb(rare)
            self._alive -= len(leaf) - LEAF
            del leaf[LEAF:]
            if keep not in leaf:
                leaf.append(keep)
                self._alive += 1
        return self._remember(key, self._new(leaf, Template(level, program, [text])))

    def _known(self, key: tuple[str, str, str]) -> Template | None:
        known = self._exact.get(key)
        while known is not None and known.dead is not None:
            known = self._exact[key] = known.dead
        return known

    def _remember(self, key: tuple[str, str, str], template: Template) -> Template:
        if len(self._exact) >= self.most * 4:
            self._exact.clear()
        self._exact[key] = template
        return template

    def _new(self, leaf: list[Template], template: Template) -> Template:
        if len(leaf) >= LEAF * 2:
            self._give_up(leaf)
        leaf.append(template)
        self._alive += 1
        return template

    def _like(self, leaf: list[Template], tokens: list[str]) -> Template | None:
        """The template of the leaf that has a place for these tokens; may merge several that are alike to make one."""
        alike: dict[tuple[int, ...], list[Template]] = {}
        for template in leaf[-LEAF:]:
            self.steps += len(tokens)
            if sum(map(operator.ne, template.tokens, tokens)) > len(tokens) // 3 + template.wild:
                continue
            differ = [
                i for i, (a, b) in enumerate(zip(template.tokens, tokens, strict=True)) if a != b and not _fits(a, b)
            ]
            if not differ:
                return template
            if len(differ) * 3 <= len(tokens) and (len(differ) + template.wild) * 2 <= len(tokens):
                if all(_varies(template.tokens[i]) and _varies(tokens[i]) for i in differ):
                    return self._merge(leaf, [template], tokens)
                alike.setdefault(tuple(differ), []).append(template)
        for group in alike.values():
            if len(group) >= VARIANTS:
                return self._merge(leaf, group, tokens)
        return None

    def _merge(self, leaf: list[Template], group: list[Template], tokens: list[str]) -> Template:
        merged, *rest = group
        merged.tokens = list(map(_common, merged.tokens, tokens))
        for template in rest:
            merged.tokens = list(map(_common, merged.tokens, template.tokens))
            merged.absorb(template)
        merged.wild = sum(token.endswith(WILD) for token in merged.tokens)
        if rest:
            gone = set(map(id, rest))
            leaf[:] = [template for template in leaf if id(template) not in gone]
            self._alive -= len(rest)
        return merged

    def _give_up(self, leaf: list[Template]) -> None:
        """Count the rarer half of a leaf as `other`."""
        leaf.sort(key=lambda template: template.seen, reverse=True)
        for template in leaf[len(leaf) // 2 :]:
            self._drop(template)
        del leaf[len(leaf) // 2 :]

    def _make_room(self) -> None:
        """Where memory is full, count the rarer half of all templates as `other`."""
        if self._alive < self.most:
            return
        everything = sorted(self.templates(), key=lambda template: template.seen, reverse=True)
        gone = set(map(id, everything[len(everything) // 2 :]))
        for template in everything[len(everything) // 2 :]:
            self._drop(template)
        kept = {key: [template for template in leaf if id(template) not in gone] for key, leaf in self._leaves.items()}
        self._leaves = {key: leaf for key, leaf in kept.items() if leaf}

    def _drop(self, template: Template) -> None:
        counts = self.other.setdefault(template.level, [0.0, 0.0])
        counts[0] += template.count
        counts[1] += template.before
        self._alive -= 1
        self._exact = {}


def _varies(token: str) -> bool:
    """Whether a token looks like a value rather than a word."""
    return "<" in token or any(char.isdigit() for char in token)


def _fits(pattern: str, token: str) -> bool:
    """Whether a token is one that `<*>` or `key=<*>` stands for."""
    return pattern.endswith(WILD) and token.startswith(pattern[: -len(WILD)])


def _common(one: str, other: str) -> str:
    """What stands for both tokens: `key=` stays where both have it."""
    if one == other:
        return one
    key, mark, _ = one.partition("=")
    return f"{key}={WILD}" if mark and other.startswith(f"{key}=") else WILD
