"""What a terminal shows, as an image, and reading a QR code from it with zbar."""

from __future__ import annotations

import re
from typing import cast

import pytest
from PIL import Image

DARK_TERMINAL = (210, 25)  # brightness of text and background
LIGHT_TERMINAL = (40, 250)


def screenshot(drawing: str, terminal: tuple[int, int]) -> Image.Image:
    """What a terminal with these default colours shows: one pixel per module, with a margin of empty terminal around."""
    text, background = terminal
    lines = drawing.split("\n")
    width = max(len(re.sub("\x1b[^m]*m", "", line)) for line in lines)
    margin = 6
    image = Image.new("L", (width + 2 * margin, 2 * len(lines) + 2 * margin), background)
    foreground, behind = text, background
    for y, line in enumerate(lines):
        x = 0
        for escape, glyph in re.findall("\x1b\\[([0-9;]*)m|(.)", line):
            if glyph:
                upper, lower = {" ": (0, 0), "▀": (1, 0), "▄": (0, 1), "█": (1, 1)}[glyph]
                image.putpixel((margin + x, margin + 2 * y), foreground if upper else behind)
                image.putpixel((margin + x, margin + 2 * y + 1), foreground if lower else behind)
                x += 1
            elif escape == "0":
                foreground, behind = text, background
            else:
                assert escape == "38;5;16;48;5;231", "teach this terminal the new colours"
                foreground, behind = 0, 255
    assert (foreground, behind) == terminal, "the colours leak into what is printed next"
    return image


def scan(image: Image.Image) -> list[bytes]:
    pyzbar = pytest.importorskip("pyzbar.pyzbar", reason="needs the zbar shared library", exc_type=ImportError)
    enlarged = image.resize((image.width * 4, image.height * 4), Image.Resampling.NEAREST)
    return [cast(bytes, symbol.data) for symbol in pyzbar.decode(enlarged)]
