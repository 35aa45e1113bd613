"""Tests of the QR encoder against segno's matrices, and of the terminal drawing by scanning it with zbar."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import segno
import segno.encoder
from hypothesis import given, settings
from hypothesis import strategies as st
from support.screen import DARK_TERMINAL, LIGHT_TERMINAL, scan, screenshot

from fleetshell_tools.cli.qr import Level, Matrix, encode, render

# Table 7 of ISO/IEC 18004: how many bytes versions 1 to 10 hold.
CAPACITY: dict[Level, list[int]] = {
    "L": [17, 32, 53, 78, 106, 134, 154, 192, 230, 271],
    "M": [14, 26, 42, 62, 84, 106, 122, 152, 180, 213],
}
LEVELS: list[Level] = ["L", "M"]
URI = (
    "otpauth://totp/FleetShell:operator%40relay.example.com?secret=JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
    "&issuer=FleetShell&algorithm=SHA1&digits=6&period=30"
)


def segno_matrix(data: str, level: Level, mask: int | None = None, version: int | None = None) -> Matrix:
    code = segno.make_qr(
        data, error=level, mask=mask, version=version, boost_error=False, mode="byte", encoding="utf-8", eci=False
    )
    return [[bool(module) for module in row] for row in code.matrix]


def zero_bits_to_the_byte_border(buffer: Any, version: int, length: int) -> None:
    buffer.extend([0] * (-length % 8))


def segno_matrix_with_the_standards_padding(data: str, level: Level, mask: int | None = None) -> Matrix:
    """segno 1.6 adds a whole zero byte where the stream already ends on a byte's border, as it always does in byte mode.

    Section 7.4.10 asks for zero bits only where it does not. The extra byte follows the terminator, so every reader
    ignores it, but the matrices differ; everything but this step stays segno's own.
    """
    with patch.object(segno.encoder, "write_padding_bits", zero_bits_to_the_byte_border):
        return segno_matrix(data, level, mask)


def text_of(length: int) -> str:
    return (URI * 3)[:length]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("version", range(1, 11))
def test_a_full_code_is_the_one_segno_makes_with_every_mask_and_with_the_automatic_one(
    version: int, level: Level
) -> None:
    data = text_of(CAPACITY[level][version - 1])
    for mask in (*range(8), None):
        assert encode(data, level, mask) == segno_matrix(data, level, mask, version), f"mask {mask}"


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("version", range(1, 11))
def test_a_code_grows_to_the_next_version_only_when_it_is_full(version: int, level: Level) -> None:
    capacities = [0, *CAPACITY[level]]
    for length in (capacities[version - 1] + 1, capacities[version]):
        assert len(encode(text_of(length), level, mask=0)) == 17 + 4 * version


@settings(max_examples=80, deadline=None)
@given(
    data=st.text(st.characters(min_codepoint=33, max_codepoint=0x2FFF), min_size=1, max_size=71),
    level=st.sampled_from(LEVELS),
    mask=st.none() | st.integers(0, 7),
)
def test_any_text_is_padded_and_masked_as_the_standard_says(data: str, level: Level, mask: int | None) -> None:
    assert encode(data, level, mask) == segno_matrix_with_the_standards_padding(data, level, mask)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("length", range(1, 214, 9))
def test_padding_and_the_automatic_mask_are_right_at_all_sizes(length: int, level: Level) -> None:
    assert encode(text_of(length), level) == segno_matrix_with_the_standards_padding(text_of(length), level)


def test_text_is_encoded_as_utf_8_at_level_m() -> None:
    assert encode("Zürich") == encode("Zürich".encode(), "M")


@pytest.mark.parametrize("length", [1, 17, 90, 150, 213])
@pytest.mark.parametrize("terminal", [DARK_TERMINAL, LIGHT_TERMINAL], ids=["dark", "light"])
def test_the_coloured_drawing_scans_on_any_terminal(terminal: tuple[int, int], length: int) -> None:
    drawing = render(encode(text_of(length)), ansi=True)
    assert scan(screenshot(drawing, terminal)) == [text_of(length).encode()]


@pytest.mark.parametrize(
    ("terminal", "invert"), [(DARK_TERMINAL, False), (LIGHT_TERMINAL, True)], ids=["dark", "light-inverted"]
)
def test_the_plain_drawing_scans_on_the_terminal_it_is_for(terminal: tuple[int, int], invert: bool) -> None:
    drawing = render(encode(URI), ansi=False, invert=invert)
    assert "\x1b" not in drawing
    assert scan(screenshot(drawing, terminal)) == [URI.encode()]


@pytest.mark.parametrize(("ansi", "invert"), [(True, False), (False, False), (False, True)])
def test_the_drawing_shows_the_modules_in_a_quiet_zone_of_four(ansi: bool, invert: bool) -> None:
    matrix = encode(URI)
    terminal = LIGHT_TERMINAL if invert else DARK_TERMINAL
    image = screenshot(render(matrix, ansi=ansi, invert=invert), terminal)
    side = len(matrix) + 8
    pixels = image.crop((6, 6, 6 + side, 6 + side)).tobytes()
    light, dark = max(pixels), min(pixels)
    expected = [[light] * side for _ in range(side)]
    for row, modules in enumerate(matrix, start=4):
        expected[row][4:-4] = [dark if module else light for module in modules]
    assert pixels == b"".join(map(bytes, expected))


def test_the_largest_drawing_fits_into_eighty_columns() -> None:
    assert max(map(len, render(encode(text_of(213)), ansi=False).split("\n"))) == 65


@pytest.mark.parametrize(("level", "limit"), [("L", 271), ("M", 213)])
def test_data_that_does_not_fit_is_refused_with_its_length_and_the_limit_but_not_with_itself(
    level: Level, limit: int
) -> None:
    encode(text_of(limit), level)
    with pytest.raises(
        ValueError, match=rf"is {limit + 1} bytes long, and at most {limit} fit .* level {level}"
    ) as caught:
        encode(text_of(limit + 1), level)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("mask", [-1, 8])
def test_a_mask_that_does_not_exist_is_refused(mask: int) -> None:
    with pytest.raises(ValueError, match=f"no QR mask pattern {mask}"):
        encode(URI, mask=mask)
