"""QR codes for the terminal, so that a phone can scan the TOTP secret straight from `init` and `auth setup`.

QR Code Model 2 as in ISO/IEC 18004:2015 (section numbers below are its): byte mode, versions 1 to 10, error correction
levels L and M. That is up to 271 bytes with L and 213 with M, which is enough for an otpauth URI.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise, zip_longest
from typing import Literal

Level = Literal["L", "M"]
Matrix = list[list[bool]]

# Table 9, for versions 1 to 10: (error correction codewords per block, number of blocks).
_BLOCKS: dict[Level, tuple[tuple[int, int], ...]] = {
    "L": ((7, 1), (10, 1), (15, 1), (20, 1), (26, 1), (18, 2), (20, 2), (24, 2), (30, 2), (18, 4)),
    "M": ((10, 1), (16, 1), (26, 1), (18, 2), (24, 2), (16, 4), (18, 4), (22, 4), (22, 5), (26, 5)),
}
_LEVEL_BITS: dict[Level, int] = {"L": 0b01, "M": 0b00}  # table 12
_MASKS: tuple[Callable[[int, int], bool], ...] = (  # table 10, by row and column
    lambda r, c: (r + c) % 2 == 0,
    lambda r, c: r % 2 == 0,
    lambda r, c: c % 3 == 0,
    lambda r, c: (r + c) % 3 == 0,
    lambda r, c: (r // 2 + c // 3) % 2 == 0,
    lambda r, c: r * c % 2 + r * c % 3 == 0,
    lambda r, c: (r * c % 2 + r * c % 3) % 2 == 0,
    lambda r, c: ((r + c) % 2 + r * c % 3) % 2 == 0,
)
_QUIET_ZONE = 4
# The 256-colour black and white: a terminal's theme may redefine, and even swap, the 16 basic colours but not these.
_BLACK_ON_WHITE, _RESET = "\x1b[38;5;16;48;5;231m", "\x1b[0m"


def encode(data: str | bytes, level: Level = "M", mask: int | None = None) -> Matrix:
    """Encode data as the smallest QR code that holds it.

    Args:
        data: Bytes, or text that is encoded as UTF-8.
        level: Error correction: `L` restores about 7 % of the codewords, `M` about 15 %.
        mask: The data mask pattern, 0 to 7; without it the one with the lowest penalty.

    Returns:
        The rows from top to bottom, without quiet zone; True is a dark module.

    Raises:
        ValueError: The data does not fit into version 10, or the mask does not exist.
    """
    if mask is not None and mask not in range(len(_MASKS)):
        raise ValueError(f"There is no QR mask pattern {mask}; use 0 to {len(_MASKS) - 1}.")
    content = data.encode() if isinstance(data, str) else data
    version, template = _smallest_version(len(content), level)
    free = _placement_order(template)
    message = _message(_data_codewords(content, version, level, len(free) // 8), version, level, len(free) // 8)
    bits = [bool(codeword >> shift & 1) for codeword in message for shift in range(7, -1, -1)]
    bits += [False] * (len(free) - len(bits))  # remainder bits, 7.6

    def masked(number: int) -> Matrix:
        matrix = [[bool(module) for module in row] for row in template]
        for (row, column), bit in zip(free, bits, strict=True):
            matrix[row][column] = bit ^ _MASKS[number](row, column)
        return matrix

    # Format and version information come after the choice of the mask, which so sees them as light: the order of 7.1.
    candidates = {number: masked(number) for number in (range(len(_MASKS)) if mask is None else (mask,))}
    chosen = mask if mask is not None else min(candidates, key=lambda number: _penalty(candidates[number]))
    _add_information(candidates[chosen], version, level, chosen)
    return candidates[chosen]


def render(matrix: Sequence[Sequence[bool]], *, ansi: bool, invert: bool = False) -> str:
    """Draw a QR code with half blocks: two rows of modules per line, with the quiet zone of 4 modules around it.

    Args:
        matrix: The modules, as `encode` returns them.
        ansi: Set black on white explicitly, which scans on every terminal. Without it only plain characters are used,
            and the light modules are the drawn ones: right where the text is lighter than its background.
        invert: Without `ansi`, draw the dark modules instead: right where the text is darker than its background.

    Returns:
        Lines joined by newlines, without one at the end.
    """
    drawn = ansi or invert
    side = [False] * _QUIET_ZONE
    blank = [False] * (len(matrix) + 2 * _QUIET_ZONE)
    # A QR code has an odd number of rows: one more light row below completes the last line.
    rows = [blank] * _QUIET_ZONE + [[*side, *row, *side] for row in matrix] + [blank] * (_QUIET_ZONE + 1)
    glyphs = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}
    lines = (
        "".join(glyphs[upper == drawn, lower == drawn] for upper, lower in zip(top, bottom, strict=True))
        for top, bottom in zip(rows[::2], rows[1::2], strict=True)
    )
    return "\n".join(f"{_BLACK_ON_WHITE}{line}{_RESET}" if ansi else line for line in lines)


def _smallest_version(length: int, level: Level) -> tuple[int, list[list[bool | None]]]:
    """The first version that holds `length` bytes, and its function patterns."""
    limit = 0
    for version, (correction, blocks) in enumerate(_BLOCKS[level], start=1):
        template = _function_patterns(version)
        codewords = sum(row.count(None) for row in template) // 8 - correction * blocks
        limit = (8 * codewords - 4 - _count_bits(version)) // 8
        if length <= limit:
            return version, template
    raise ValueError(
        f"The text for the QR code is {length} bytes long, and at most {limit} fit with error correction level {level}. "
        "Use a shorter text."
    )


def _count_bits(version: int) -> int:
    """The width of the character count in byte mode (table 3)."""
    return 8 if version < 10 else 16


def _function_patterns(version: int) -> list[list[bool | None]]:
    """Finder, timing and alignment patterns (6.3); light where information will be, None where data will be."""
    size = 17 + 4 * version
    grid: list[list[bool | None]] = [[None] * size for _ in range(size)]
    for i in range(size):
        grid[6][i] = grid[i][6] = i % 2 == 0
    for row, column in ((3, 3), (3, size - 4), (size - 4, 3)):
        for r in range(max(row - 4, 0), min(row + 5, size)):
            for c in range(max(column - 4, 0), min(column + 5, size)):
                grid[r][c] = max(abs(r - row), abs(c - column)) in (0, 1, 3)
    centres = [] if version == 1 else [6, size - 7] if version < 7 else [6, size // 2, size - 7]
    for row in centres:
        for column in centres:
            if (row, column) in ((6, 6), (6, size - 7), (size - 7, 6)):  # a finder pattern is there
                continue
            for r in range(row - 2, row + 3):
                for c in range(column - 2, column + 3):
                    grid[r][c] = max(abs(r - row), abs(c - column)) != 1
    for i in (*range(6), 7, 8, *range(size - 8, size)):
        grid[8][i] = grid[i][8] = False
    if version >= 7:
        for i in range(18):
            grid[i // 3][size - 11 + i % 3] = grid[size - 11 + i % 3][i // 3] = False
    return grid


def _placement_order(template: list[list[bool | None]]) -> list[tuple[int, int]]:
    """The free modules in the order of the bits: column pairs from the right, upwards and downwards in turn (7.7.3)."""
    size = len(template)
    # The vertical timing pattern takes a whole column, which the pairs step over.
    pairs = [*range(size - 1, 6, -2), 5, 3, 1]
    order = []
    for turn, right in enumerate(pairs):
        rows = range(size) if turn % 2 else range(size - 1, -1, -1)
        order += [(row, column) for row in rows for column in (right, right - 1) if template[row][column] is None]
    return order


def _data_codewords(content: bytes, version: int, level: Level, total: int) -> bytes:
    """Mode, count, content, terminator and padding (7.4)."""
    correction, blocks = _BLOCKS[level][version - 1]
    capacity = total - correction * blocks
    # In byte mode a terminator of four zero bits always fits, and it ends on a byte's border.
    header = 0b0100 << _count_bits(version) | len(content)
    stream = (header << 8 * len(content) | int.from_bytes(content, "big")) << 4
    codewords = stream.to_bytes(1 + _count_bits(version) // 8 + len(content), "big")
    return codewords + (b"\xec\x11" * capacity)[: capacity - len(codewords)]


def _message(codewords: bytes, version: int, level: Level, total: int) -> list[int]:
    """Split the data into blocks, compute their error correction and interleave both (7.5, 7.6)."""
    correction, count = _BLOCKS[level][version - 1]
    short, longer = divmod(total, count)
    blocks, start = [], 0
    for number in range(count):
        end = start + short - correction + (number >= count - longer)
        blocks.append(codewords[start:end])
        start = end
    generator = _generator(correction)
    parity = [_remainder(block, generator) for block in blocks]
    columns = [*zip_longest(*blocks), *zip(*parity, strict=True)]
    return [codeword for column in columns for codeword in column if codeword is not None]


def _multiply(a: int, b: int) -> int:
    """Multiply in GF(256) modulo x^8 + x^4 + x^3 + x^2 + 1 (7.5.2)."""
    product = 0
    while b:
        if b & 1:
            product ^= a
        a = a << 1 ^ (0x11D if a & 0x80 else 0)
        b >>= 1
    return product


def _generator(degree: int) -> list[int]:
    """The Reed-Solomon generator (x - 2^0)(x - 2^1)...(x - 2^(degree - 1)), highest power first, without the leading 1."""
    polynomial, root = [1], 1
    for _ in range(degree):
        scaled = [_multiply(factor, root) for factor in polynomial]
        polynomial = [high ^ low for high, low in zip([*polynomial, 0], [0, *scaled], strict=True)]
        root = _multiply(root, 2)
    return polynomial[1:]


def _remainder(block: bytes, generator: list[int]) -> list[int]:
    """The error correction codewords of one block: the remainder of its division by the generator (7.5.2)."""
    remainder = [0] * len(generator)
    for codeword in block:
        factor = codeword ^ remainder[0]
        shifted = [*remainder[1:], 0]
        remainder = [value ^ _multiply(weight, factor) for value, weight in zip(shifted, generator, strict=True)]
    return remainder


def _penalty(matrix: Matrix) -> int:
    """Score how hard a masked symbol is to scan; lower is better (7.8.3.1)."""
    size = len(matrix)
    rows = ["".join("1" if module else "0" for module in row) for row in matrix]
    score = 0
    for line in (*rows, *map("".join, zip(*rows, strict=True))):
        score += sum(len(run) - 2 for run in re.findall("0{5,}|1{5,}", line))
        # What looks like a finder pattern, with four light modules on a side; the quiet zone counts as light.
        score += 40 * len(re.findall("(?<=0000)1011101|1011101(?=0000)", f"0000{line}0000"))
    for upper, lower in pairwise(rows):
        score += 3 * sum(upper[c : c + 2] == lower[c : c + 2] in ("00", "11") for c in range(size - 1))
    dark = sum(row.count("1") for row in rows)
    return score + 10 * (abs(20 * dark - 10 * size * size) // (size * size))


def _bch(value: int, generator: int) -> int:
    """Append to `value` the remainder of its division by the generator, both polynomials over GF(2) (annexes C, D)."""
    degree = generator.bit_length() - 1
    remainder = value << degree
    while remainder.bit_length() > degree:
        remainder ^= generator << remainder.bit_length() - degree - 1
    return value << degree | remainder


def _add_information(matrix: Matrix, version: int, level: Level, mask: int) -> None:
    """Write level and mask (7.9) and, from version 7, the version (7.10), each at two places."""
    size = len(matrix)
    bits = _bch(_LEVEL_BITS[level] << 3 | mask, 0x537) ^ 0x5412
    down_the_column = (*range(6), 7, 8, *range(size - 7, size))
    along_the_row = (*range(size - 1, size - 9, -1), 7, *range(5, -1, -1))
    for i, (row, column) in enumerate(zip(down_the_column, along_the_row, strict=True)):
        matrix[row][8] = matrix[8][column] = bool(bits >> i & 1)
    matrix[size - 8][8] = True  # the module that is always dark
    if version >= 7:
        bits = _bch(version, 0x1F25)
        for i in range(18):
            across, along = size - 11 + i % 3, i // 3
            matrix[across][along] = matrix[along][across] = bool(bits >> i & 1)
