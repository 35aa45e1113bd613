"""What the bytes of a file are: its encoding, or the kind of binary file; a window of it as clean text in whole lines."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

from fleetshell_tools.core.text import clean

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x7fELF", "ELF program or library"),
    (b"\x1f\x8b", "gzip (read it with zcat or zgrep)"),
    (b"BZh", "bzip2 (read it with bzcat)"),
    (b"\xfd7zXZ\0", "xz (read it with xzcat)"),
    (b"\x28\xb5\x2f\xfd", "Zstandard (read it with zstdcat)"),
    (b"PK\x03\x04", "zip archive, or a format made of one (jar, docx)"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip archive"),
    (b"!<arch>\n", "ar archive (deb, static library)"),
    (b"\xed\xab\xee\xdb", "RPM package"),
    (b"LPKSHHRH", "systemd journal (read it with journalctl --file)"),
    (b"SQLite format 3\0", "SQLite database"),
    (b"\xfe\xed\xfe\xed", "Java key store"),
    (b"\xca\xfe\xba\xbe", "Java class or Mach-O"),
    (b"%PDF-", "PDF"),
    (b"\x89PNG\r\n\x1a\n", "PNG image"),
    (b"\xff\xd8\xff", "JPEG image"),
    (b"GIF8", "GIF image"),
    (b"LUKS\xba\xbe", "LUKS encrypted volume"),
    (b"MZ\x90", "Windows program"),
    (b"\xff\xfe\0\0", "UTF-32 text"),
    (b"\0\0\xfe\xff", "UTF-32 text"),
)
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\r\f\b\x1b")) + b"\x7f"
_ASCII_ZEROS = 0.4


@dataclass(frozen=True)
class Recognised:
    """What a file is.

    Attributes:
        encoding: `utf-8`, `utf-8-sig` (with a byte order mark), `utf-16-le`, `utf-16-be`, `iso-8859-1`, `windows-1252` or `binary`.
        format: The kind of binary file, as far as it is known; "" for text.
    """

    encoding: str
    format: str = ""


@dataclass(frozen=True)
class Shown:
    """Text for people.

    Attributes:
        removed: How many control and invisible characters were left out or replaced.
        replaced: How many bytes were not of the encoding, and are shown as U+FFFD.
        newline: `lf`, `crlf`, `mixed`, or None without any.
    """

    text: str
    removed: int
    replaced: int
    newline: str | None


def recognise(head: bytes, window: bytes) -> Recognised:
    """Tell what a file is by its first bytes and a part of it.

    Args:
        head: The file's first few hundred bytes.
        window: Bytes from anywhere in it; it may begin and end inside a character.
    """
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return Recognised("binary", name)
    if head[257:262] == b"ustar":
        return Recognised("binary", "tar archive (list it with tar -tf)")
    if head.startswith(codecs.BOM_UTF8):
        return Recognised("utf-8-sig")
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return Recognised("utf-16-le" if head[0] == 0xFF else "utf-16-be")
    if encoding := _zeros_of_utf16(head):
        return Recognised(encoding)
    # What is shown decides: a log that was emptied under its writer begins with a hole of NULs, which may be gigabytes long.
    if _is_binary(window or head):
        return Recognised("binary", "unknown format")
    return Recognised(_eight_bits(window or head))


def _zeros_of_utf16(head: bytes) -> str:
    """Western text in UTF-16 without a byte order mark: every second byte is zero, and the others hardly ever."""
    half = len(head) // 2
    if half < 4:
        return ""
    even, odd = head[::2].count(0) / half, head[1::2].count(0) / half
    if odd > _ASCII_ZEROS and even < 0.05:
        return "utf-16-le"
    return "utf-16-be" if even > _ASCII_ZEROS and odd < 0.05 else ""


def _is_binary(sample: bytes) -> bool:
    """Whether it is no text; NULs alone (the holes that a crash leaves in logs) do not make it so."""
    rest = sample.replace(b"\0", b"")
    controls = len(rest) - len(rest.translate(None, _CONTROLS))
    return controls * 20 > len(rest) or len(rest) * 2 < len(sample)


def _eight_bits(window: bytes) -> str:
    text = whole_characters(window).decode("utf-8", "replace")
    bad = text.count("\ufffd")
    if not bad or sum(map(len, re.findall(r"[^\x00-\x7f\ufffd]+", text))) > bad:
        return "utf-8"
    # 0x80 to 0x9f are control characters in ISO 8859-1, and quotes, dashes and the euro sign in Windows-1252.
    return "windows-1252" if re.search(rb"[\x80-\x9f]", window) else "iso-8859-1"


def whole_characters(data: bytes) -> bytes:
    """UTF-8 without the character that is torn at either end."""
    return data[leading(data) : len(data) - torn(data)]


def leading(data: bytes) -> int:
    """How many bytes at the beginning end a UTF-8 character that is not whole."""
    most = min(3, len(data))
    return next((at for at in range(most) if data[at] & 0xC0 != 0x80), most)


def torn(data: bytes) -> int:
    """How many bytes at the end begin a UTF-8 character that is not whole."""
    for back in range(1, min(3, len(data)) + 1):
        lead = data[-back]
        if lead & 0xC0 != 0x80:
            length = 4 if lead >= 0xF0 else 3 if lead >= 0xE0 else 2 if lead >= 0xC0 else 1
            return back if back < length else 0
    return 0


def decoded(data: bytes, encoding: str) -> str:
    """Bytes as text, as they are; what the encoding does not have becomes U+FFFD. A byte order mark is dropped."""
    text = data.decode("utf-8" if encoding.startswith("utf-8") else encoding, "replace")
    return text.removeprefix("\ufeff")


def shown(text: str) -> Shown:
    """Text from a file, made safe; unlike in output of commands, `\\r\\n` stays, because who edits the file needs to know."""
    crlf = text.count("\r\n")
    lf = text.count("\n") - crlf
    safe = "\r\n".join(map(clean, text.split("\r\n")))
    lone = text.count("\r") - crlf
    newline = "mixed" if crlf and lf else "crlf" if crlf else "lf" if lf else None
    return Shown(safe, len(text) - len(safe) + lone, safe.count("\ufffd"), newline)


@dataclass(frozen=True)
class Window:
    """A part of a file in whole lines.

    Attributes:
        lines: How many lines it has; the last may lack its end.
        more: The file goes on behind it.
        inside: It ends inside a line, which is longer than what may be shown.
    """

    data: bytes
    lines: int
    more: bool
    inside: bool = False


def lines_window(data: bytes, limit: int, most: int) -> Window:
    """The first `limit` lines, and at most `most` bytes, of data of which there may be more than either."""
    more = False
    end = -1
    for _ in range(limit):
        end = data.find(b"\n", end + 1)
        if end < 0:
            break
    if 0 <= end < len(data) - 1:
        data, more = data[: end + 1], True
    if len(data) <= most:
        return Window(data, count_lines(data), more)
    cut = data[:most]
    whole = cut.rfind(b"\n") + 1
    if whole:
        return Window(cut[:whole], count_lines(cut[:whole]), True)
    cut = cut[: len(cut) - torn(cut)] or cut
    return Window(cut, 1, True, inside=True)


def count_lines(data: bytes) -> int:
    """How many lines there are; one at the end need not be ended."""
    return data.count(b"\n") + (0 if data.endswith(b"\n") or not data else 1)


def text_window(text: str, offset: int, limit: int, most: int) -> tuple[str, int, int, bool]:
    """As `lines_window`, on text that is all there.

    Returns:
        The part, the number of its first line, how many lines it has, and whether more follow.
    """
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    first = max(len(lines) + offset, 0) if offset < 0 else max(offset, 1) - 1
    part: list[str] = []
    size = 0
    for line in lines[first : first + limit]:
        size += len(line.encode("utf-8", "replace"))
        if size > most and part:
            break
        part.append(line[:most])
    return "".join(part), first + 1, len(part), first + len(part) < len(lines)
