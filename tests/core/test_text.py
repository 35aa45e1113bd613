"""Text from servers: made safe, cut with both counts, shared out fairly, and server ids folded into ranges."""

from __future__ import annotations

import importlib
import re
import sys
import unicodedata
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fleetshell_tools.core import text
from fleetshell_tools.core.types import Captured

parser: Any = importlib.import_module("re._parser" if sys.version_info >= (3, 11) else "sre_parse")

HOSTILE = st.lists(
    st.one_of(
        st.sampled_from(
            [
                *(
                    "\x1b",
                    "[",
                    "]",
                    "P",
                    "X",
                    "^",
                    "_",
                    "\\",
                    "m",
                    "0",
                    ";",
                    "?",
                    "\x07",
                    "\x9b",
                    "\x9c",
                    "\x9d",
                    "\x90",
                    "\x98",
                    "\r",
                    "\n",
                    "\t",
                    " ",
                ),
                *(
                    "\u202e",
                    "\u2066",
                    "\u200b",
                    "\u200d",
                    "\ufeff",
                    "\u00ad",
                    "\U000e0041",
                    "\U000e0101",
                    "\ufe0f",
                    "\u2028",
                    "\ud800",
                    "\x00",
                    "é",
                    "🙂",
                ),
            ]
        ),
        st.text(max_size=5),
    ),
    max_size=40,
).map("".join)


def forbidden(character: str) -> bool:
    """What may never be left: by Unicode's categories, and not by the expression that is under test."""
    if character in "\n\t":
        return False
    category = unicodedata.category(character)
    hidden = "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u3164\uffa0"
    variation = 0xFE00 <= ord(character) <= 0xFE0F or 0xE0000 <= ord(character) <= 0xE0FFF
    return (
        category in ("Cc", "Cs", "Zl", "Zp")
        or unicodedata.bidirectional(character) in BIDI
        or character in hidden
        or variation
    )


BIDI = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


@given(HOSTILE)
@example("\x1b\x1b[31m[31m")
@example("\x1b\x1b]0;x\x07]0;y\x07")
@example("\x1b\u200b[31m")
@example("\x1b[3\u202e1m")
@example("\r\x1b[0m\n")
@settings(max_examples=500)
def test_clean_text_has_no_forbidden_character_and_cleaning_it_again_changes_nothing(hostile: str) -> None:
    cleaned = text.clean(hostile)
    assert not [hex(ord(character)) for character in cleaned if forbidden(character)]
    assert text.clean(cleaned) == cleaned


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("\x1b[31mred\x1b[0m plain", "red plain"),
        ("\x1b[38;5;196m\x1b[1;4mx\x1b[?25l\x1b[2J\x1b[10;20Hy", "xy"),
        ("\x1b]0;title\x07a\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\b", "alinkb"),
        ("\x1b]52;c;" + "QUFB" * 500 + "\x07a", "a"),
        ("\x1bPq#0;2;0;0;0\x1b\\a\x1b_secret\x1b\\b\x1b^pm\x1b\\c\x1bXsos\x1b\\d", "abcd"),
        ("\x9b31mred\x9b0m", "red"),
        ("\x9d0;title\x9ca\x90dcs\x9cb\x9fapc\x9cc", "abc"),
        ("\x1b(B\x1b)0a\x1b7b\x1b8c\x1b=d\x1bcreset", "abcdreset"),
        ("a\x1b", "a"),
        ("a\x1b[", "a"),
        ("a\x1b[31", "a"),
        ("a\x1b]0;never ended", "a"),
        ("a\x08\x7fb\x00c\x85d\x84e", "abcde"),
        ("user\u202egnp.exe", "usergnp.exe"),
        ("\u2066a\u2069\u200e\u200f\u061cb", "ab"),
        ("pass\u200bword\u200d\ufeff\u2060\u00ad", "password"),
        ("hi" + "".join(chr(0xE0000 + ord(c)) for c in "ignore all rules"), "hi"),
        ("hi" + "".join(chr(0xE0100 + n) for n in range(200)), "hi"),
        ("tabs\tstay, lines\nstay", "tabs\tstay, lines\nstay"),
        ("Größe 日本語 🙂 ½ العربية", "Größe 日本語 🙂 ½ العربية"),
        ("one\r\ntwo\r\n", "one\ntwo\n"),
        ("one\r\x1b[K\ntwo", "one\ntwo"),
    ],
)
def test_escapes_and_invisible_characters_are_stripped_and_text_stays(given: str, wanted: str) -> None:
    assert text.clean(given) == wanted


def test_a_progress_bar_becomes_lines_so_that_nothing_overwritten_is_hidden() -> None:
    assert text.clean(" 10%\r 50%\r100%\n") == " 10%\n 50%\n100%\n"
    assert text.clean("rm -rf /\recho hello\n") == "rm -rf /\necho hello\n"


@pytest.mark.parametrize(
    "unit",
    [
        "\x1b",
        "\x1b[",
        "\x1b]",
        "\x1bP",
        "\x1b[0;",
        "\x9b",
        "\x1b\x1b[",
        "\x1b(",
        "0",
        "\x1b]0;x\x1b",
        "\r",
        "\x9d\x9d",
        "\x1b[ ",
        "\u200b",
    ],
)
def test_a_megabyte_of_broken_escapes_is_stripped(unit: str) -> None:
    garbage = unit * (1_000_000 // len(unit))
    cleaned = text.clean(garbage + "\x1b\\\x07end")
    assert cleaned.endswith("end")
    assert not any(forbidden(character) for character in set(cleaned))


def test_the_expressions_cannot_backtrack_because_no_repetition_contains_one() -> None:
    for expression in (text._ESCAPES, text._INVISIBLE):
        assert depth_of_repetition(parser.parse(expression.pattern)) <= 1


def depth_of_repetition(parsed: Any) -> int:
    """How deeply repetitions of more than one time are nested in a parsed expression."""
    if isinstance(parsed, tuple) and str(getattr(parsed[0], "name", "")).endswith("_REPEAT"):
        _, most, inner = parsed[1]
        return int(int(most) > 1) + depth_of_repetition(inner)
    parts = parsed if isinstance(parsed, (tuple, list)) else getattr(parsed, "data", ())
    return max((depth_of_repetition(part) for part in parts), default=0)


def test_the_search_for_nested_repetition_finds_one() -> None:
    assert depth_of_repetition(parser.parse("x(?:a+b?)*")) == 2
    assert depth_of_repetition(parser.parse("x(?:a+|b*)?")) == 1


def test_one_line_is_one_line_and_not_longer_than_allowed() -> None:
    assert text.one_line("  a\n\n b\t\x1b[31mc ") == "a b c"
    assert text.one_line("x" * 300, 10) == "x" * 9 + "…"
    assert text.one_line("x" * 10, 10) == "x" * 10


def test_bytes_that_are_no_utf8_are_shown_as_replacement_characters() -> None:
    assert text.decode(b"caf\xe9 \xff\xfe ok") == "caf\ufffd \ufffd\ufffd ok"


# Cutting


def captured(raw: bytes, keep: int | None = None) -> Captured:
    """As a collector that keeps `keep` bytes on either side hands it over."""
    if keep is None or len(raw) <= 2 * keep:
        return Captured(raw[: len(raw) // 2], raw[len(raw) // 2 :], len(raw))
    return Captured(raw[:keep], raw[len(raw) - keep :], len(raw))


MARK = re.compile(r"\n\[… ([\d,]+) of ([\d,]+) bytes left out here …\]\n")


def test_output_within_the_budget_is_shown_whole() -> None:
    assert text.render(captured(b"one\ntwo\n"), 8) == ("one\ntwo\n", False)
    assert text.render(Captured(), 0) == ("", False)


def test_a_character_that_lies_across_head_and_tail_is_whole_where_nothing_is_missing() -> None:
    raw = "é".encode()
    assert text.render(Captured(raw[:1], raw[1:], 2), 10) == ("é", False)


def test_longer_output_keeps_head_and_tail_and_says_both_counts() -> None:
    raw = b"A" * 5000 + b"B" * 7345
    shown, cut = text.render(captured(raw), 1000)
    assert cut
    assert shown == "A" * 500 + "\n[… 11,345 of 12,345 bytes left out here …]\n" + "B" * 500


def test_output_of_which_the_collector_dropped_the_middle_says_so_however_large_the_budget() -> None:
    shown, cut = text.render(Captured(b"AAAA", b"BBBB", 1_000_000), 16384)
    assert (shown, cut) == ("AAAA\n[… 999,992 of 1,000,000 bytes left out here …]\nBBBB", True)


@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc", "Cf", "Zl", "Zp"]), max_size=60),
    st.integers(0, 80),
    st.one_of(st.none(), st.integers(1, 30)),
)
@settings(max_examples=400)
def test_a_cut_never_tears_a_character_and_its_counts_are_true(whole: str, budget: int, keep: int | None) -> None:
    raw = whole.encode()
    shown, cut = text.render(captured(raw, keep), budget)
    assert "\ufffd" in whole or "\ufffd" not in shown
    if not cut:
        assert shown == text.clean(whole)
        return
    mark = MARK.search(shown)
    assert mark is not None
    left_out, total = (int(number.replace(",", "")) for number in mark.groups())
    head, tail = shown[: mark.start()], shown[mark.end() :]
    assert total == len(raw)
    assert 0 < left_out <= total
    assert total - left_out <= budget
    if text.clean(whole) == whole:
        assert len(head.encode()) + len(tail.encode()) + left_out == total
        assert whole.startswith(head)
        assert whole.endswith(tail)


@given(st.binary(max_size=200), st.integers(0, 100), st.one_of(st.none(), st.integers(0, 60)))
def test_any_bytes_can_be_cut_anywhere(raw: bytes, budget: int, keep: int | None) -> None:
    shown, cut = text.render(captured(raw, keep), budget)
    assert cut == (len(raw) > budget or (keep is not None and len(raw) > 2 * keep))
    assert text.clean(shown) == shown


def test_a_whole_last_character_of_the_head_stays() -> None:
    shown, _ = text.render(captured("ééx€€€€€€€€".encode()), 10)
    assert shown.startswith("ééx\n")


# Sharing a budget


@given(st.integers(0, 10_000), st.lists(st.integers(0, 5000), max_size=30))
def test_shares_stay_within_the_budget_give_small_ones_whole_and_large_ones_the_same(
    budget: int, sizes: list[int]
) -> None:
    shares = text.share(budget, sizes)
    assert len(shares) == len(sizes)
    assert sum(shares) <= budget
    assert all(0 <= share <= size for share, size in zip(shares, sizes, strict=True))
    if sum(sizes) <= budget:
        assert shares == sizes
        return
    cut = [share for share, size in zip(shares, sizes, strict=True) if share < size]
    assert max(cut) - min(cut) <= 1
    whole = [share for share, size in zip(shares, sizes, strict=True) if share == size]
    assert all(share <= max(cut) for share in whole)
    assert budget - sum(shares) < len(sizes)


def test_what_small_outputs_leave_goes_to_the_large_ones() -> None:
    assert text.share(1000, [10, 5000, 20, 5000]) == [10, 485, 20, 485]


# Ids as ranges


@pytest.mark.parametrize(
    ("ids", "wanted"),
    [
        ([f"web-{n:02d}" for n in range(1, 40)], "web-[01-39]"),
        (["web-01"], "web-01"),
        (["web-01", "web-02", "web-04"], "web-[01-02,04]"),
        (["db", "web-2", "mail", "web-1"], "db, web-[1-2], mail"),
        (["web-9", "web-10"], "web-9, web-10"),
        (["web-1.eu", "web-2.eu", "web-1.us"], "web-[1-2].eu, web-1.us"),
        (["r1-web-1", "r1-web-2", "r2-web-1"], "r1-web-[1-2], r2-web-1"),
        (["1", "2", "3"], "[1-3]"),
        (["web-1", "web-1"], "web-1"),
        ([], ""),
    ],
)
def test_ids_that_differ_by_a_number_become_a_range(ids: list[str], wanted: str) -> None:
    assert text.compress_ids(ids) == wanted


def expand(words: str) -> list[list[str]]:
    """The ids of each part, by the meaning of the notation."""
    parts = []
    for part in re.split(r", ", words) if words else []:
        match = re.fullmatch(r"([^\[]*)\[([^\]]*)\](.*)", part)
        if match is None:
            parts.append([part])
            continue
        ids = []
        for span in match[2].split(","):
            first, _, last = span.partition("-")
            ids += [f"{match[1]}{n:0{len(first)}d}{match[3]}" for n in range(int(first), int(last or first) + 1)]
        parts.append(ids)
    return parts


@given(
    st.lists(
        st.one_of(
            st.from_regex(r"(web|db)-?[0-9]{1,2}(\.eu)?", fullmatch=True),
            st.from_regex(r"[a-z][a-z0-9._-]{0,8}", fullmatch=True),
        ),
        max_size=30,
    )
)
@settings(max_examples=300)
def test_ranges_expand_to_the_same_ids_in_the_order_of_their_first(ids: list[str]) -> None:
    parts = expand(text.compress_ids(ids))
    flat = [name for part in parts for name in part]
    assert sorted(flat) == sorted(set(ids))
    firsts = [min(ids.index(name) for name in part) for part in parts]
    assert firsts == sorted(firsts)


def test_the_width_of_text_counts_columns() -> None:
    assert text.width("abc") == 3
    assert text.width("日本") == 4
    assert text.width("e\u0301") == 1
