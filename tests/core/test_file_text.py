"""What the bytes of a file are, windows of lines, and text made safe."""

from __future__ import annotations

import gzip
import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetshell_tools.core import file_text
from fleetshell_tools.core.file_text import Recognised, Window, lines_window, recognise, shown, text_window


def whole(data: bytes) -> Recognised:
    return recognise(data[:512], data)


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (b"", "utf-8"),
        (b"plain\n", "utf-8"),
        ("grün €\n".encode(), "utf-8"),
        ("\ufeffgrün\n".encode(), "utf-8-sig"),
        ("grün\n".encode("latin-1"), "iso-8859-1"),
        ("“quoted” – 5 €\n".encode("cp1252"), "windows-1252"),
        ("\ufeffWindows\r\n".encode("utf-16-le"), "utf-16-le"),
        ("\ufeffWindows\r\n".encode("utf-16-be"), "utf-16-be"),
        ("[section]\r\nkey=value\r\n".encode("utf-16-le"), "utf-16-le"),
        ("[section]\r\nkey=value\r\n".encode("utf-16-be"), "utf-16-be"),
        ("viele Zeilen mit ä, ö und ü\n".encode() * 20 + b"one bad byte \xff\n", "utf-8"),
        (b"a log with a hole \0\0\0\0\0\0 of NULs\n" * 5, "utf-8"),
        (b"\x1b[31mcoloured\x1b[0m\n", "utf-8"),
        (random.Random(1).randbytes(600), "binary"),
        (b"\0" * 600, "binary"),
        (gzip.compress(b"x"), "binary"),
    ],
)  # fmt: skip
def test_the_encoding_is_told_by_the_bytes(data: bytes, encoding: str) -> None:
    assert whole(data).encoding == encoding


@pytest.mark.parametrize(
    ("head", "format"),
    [
        (b"\x7fELF\2\1\1", "ELF"),
        (gzip.compress(b"x"), "zcat"),
        (b"SQLite format 3\0", "SQLite"),
        (b"LPKSHHRH", "journalctl"),
        (b"x" * 257 + b"ustar\x0000", "tar"),
        (b"\x01\x02\x03\x04" * 30, "unknown"),
    ],
)  # fmt: skip
def test_a_binary_file_is_named_by_its_first_bytes(head: bytes, format: str) -> None:
    assert format in recognise(head, head).format


def test_a_window_that_begins_and_ends_inside_characters_is_still_utf_8() -> None:
    text = "€" * 300
    for start in range(3):
        for end in range(3):
            window = text.encode()[start : 900 - end]
            assert recognise("€".encode() * 100, window).encoding == "utf-8"


@pytest.mark.parametrize(
    ("data", "limit", "most", "expected"),
    [
        (b"", 3, 10, Window(b"", 0, False)),
        (b"a\nb\n", 3, 10, Window(b"a\nb\n", 2, False)),
        (b"a\nb", 2, 10, Window(b"a\nb", 2, False)),
        (b"a\nb\nc\n", 2, 10, Window(b"a\nb\n", 2, True)),
        (b"a\nb\n", 2, 10, Window(b"a\nb\n", 2, False)),
        (b"a\nbbbbbbbb\n", 9, 5, Window(b"a\n", 1, True)),
        (b"aaaaaaaa\nb\n", 9, 5, Window(b"aaaaa", 1, True, inside=True)),
        ("ab€€\n".encode(), 9, 4, Window(b"ab", 1, True, inside=True)),
        (b"\n\n\n", 2, 9, Window(b"\n\n", 2, True)),
    ],
)  # fmt: skip
def test_a_window_has_whole_lines(data: bytes, limit: int, most: int, expected: Window) -> None:
    assert lines_window(data, limit, most) == expected


@given(st.binary(max_size=60), st.integers(1, 5), st.integers(16, 40))
def test_a_window_is_the_beginning_and_says_whether_more_follows(data: bytes, limit: int, most: int) -> None:
    window = lines_window(data, limit, most)
    assert data.startswith(window.data) and len(window.data) <= most
    assert window.more == (len(window.data) < len(data)) and window.lines == file_text.count_lines(window.data) <= limit


@pytest.mark.parametrize(
    ("offset", "limit", "most", "expected"),
    [
        (1, 2, 99, ("a\nb\n", 1, 2, True)),
        (3, 9, 99, ("c", 3, 1, False)),
        (4, 9, 99, ("", 4, 0, False)),
        (-2, 9, 99, ("b\nc", 2, 2, False)),
        (-9, 1, 99, ("a\n", 1, 1, True)),
        (1, 9, 3, ("a\n", 1, 1, True)),
    ],
)  # fmt: skip
def test_lines_of_text_are_counted_from_either_end(
    offset: int, limit: int, most: int, expected: tuple[str, int, int, bool]
) -> None:
    assert text_window("a\nb\nc", offset, limit, most) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\r\nb\r\n", file_text.Shown("a\r\nb\r\n", 0, 0, "crlf")),
        ("a\nb\r\n", file_text.Shown("a\nb\r\n", 0, 0, "mixed")),
        ("a\n", file_text.Shown("a\n", 0, 0, "lf")),
        ("a", file_text.Shown("a", 0, 0, None)),
        ("a\rb", file_text.Shown("a\nb", 1, 0, None)),
        ("\x1b[31mred\u202e", file_text.Shown("red", 6, 0, None)),
        ("a\ufffd", file_text.Shown("a\ufffd", 0, 1, None)),
    ],
)  # fmt: skip
def test_line_ends_are_kept_and_what_could_deceive_is_counted(text: str, expected: file_text.Shown) -> None:
    assert shown(text) == expected


@given(st.binary(max_size=80))
def test_no_bytes_are_too_odd(data: bytes) -> None:
    what = whole(data)
    if what.encoding != "binary":
        shown(file_text.decoded(data, what.encoding))


def test_random_bytes_are_binary_whatever_the_seed() -> None:
    assert {whole(os.urandom(4096)).encoding for _ in range(50)} <= {"binary"}
