"""The marks of a shell session's stream, without a shell: found wherever the stream is cut, and never in our own echo."""

from __future__ import annotations

import pytest

from fleetshell_tools.core.errors import BadArgument
from fleetshell_tools.core.types import Captured
from fleetshell_tools.fleet import framing
from fleetshell_tools.fleet.framing import Began, Finished, Framing, Mark, Prompted

NONCE, PROMPT = "0123456789abcdef01234567", "feedfeedfeedfeed"
START = f"\x1e{NONCE}+\x1f".encode()
END = f"\x1e{NONCE}=3z;/a;b\n\x1e\x1f\x1f{NONCE}\x1e".encode()
MARKED_PROMPT = f"\x1e{PROMPT}\x1f".encode()


def fed(*pieces: bytes) -> tuple[list[Mark], bytes]:
    text = bytearray()
    stream = Framing(PROMPT, text.extend)
    stream.expect(NONCE)
    marks = [mark for piece in pieces for mark in stream.feed(piece)]
    stream.finish()
    return marks, bytes(text)


def test_marks_are_found_wherever_the_stream_is_cut() -> None:
    whole = b"late" + START + b"a\x1eb\x1e0123\x1f" + END + MARKED_PROMPT + b"rest"
    expected = [Began(), Finished(3, b"/a;b\n\x1e\x1f", True), Prompted()], b"latea\x1eb\x1e0123\x1frest"
    assert fed(whole) == expected
    assert fed(*(whole[at : at + 1] for at in range(len(whole)))) == expected
    for at in range(len(whole)):
        assert fed(whole[:at], whole[at:]) == expected


def test_another_commands_marks_and_half_a_mark_are_output() -> None:
    other = START.replace(b"0123", b"9999")
    assert fed(other) == ([], other)
    assert fed(END[:-1]) == ([], END[:-1])
    assert fed(f"\x1e{NONCE}=x;/\x1f{NONCE}\x1e".encode()) == ([], f"\x1e{NONCE}=x;/\x1f{NONCE}\x1e".encode())


def test_text_behind_a_mark_comes_after_it() -> None:
    order: list[object] = []
    stream = Framing(PROMPT, order.append)
    stream.expect(NONCE)
    for mark in stream.feed(b"a" + START + b"b"):
        order.append(mark)
    assert order == [b"a", Began(), b"b"]


@pytest.mark.parametrize("command", ["echo x", "it's\n\x03\x04\tü", "x" * 9000, "%s \\n '", "\x1e"])
def test_an_echo_of_what_is_typed_is_no_mark_and_no_line_is_cut_by_a_terminal(command: str) -> None:
    for line in (
        framing.typed(command, NONCE, zsh=False),
        framing.typed(command, NONCE, zsh=True),
        framing.prepare(NONCE, PROMPT),
    ):
        assert fed(line)[0] == []
        assert max(map(len, line.split(b"\n"))) < 4095
        assert all(byte == 0x0A or 0x20 <= byte < 0x7F for byte in line)


def test_output_is_shown_as_the_terminal_would_have_left_it() -> None:
    raw = b"10%\r20%\r30%\r\none\r\r\n+ fs" + NONCE.encode() + b"\nlast\nexit\n"
    assert framing.tidy(Captured(raw, b"", len(raw)), [NONCE], farewell=True) == Captured(b"30%\none\nlast\n", b"", 13)
    cut = framing.tidy(Captured(b"a\rb", b"c\nexit\n", 1000), [NONCE], farewell=True)
    assert (cut.head, cut.tail, cut.complete) == (b"b", b"c\n", False)


def test_input_ends_with_enter_unless_it_ends_with_a_control_character() -> None:
    assert [framing.keys(text) for text in ("", "yes", "yes\n", "\x04", "a\nb")] == [
        b"",
        b"yes\n",
        b"yes\n",
        b"\x04",
        b"a\nb\n",
    ]
    with pytest.raises(BadArgument, match="would cut"):
        framing.keys("x" * 4000)


@pytest.mark.parametrize(
    ("command", "replaces"),
    [
        ("exec bash", True),
        ("cd /; exec /bin/zsh -l", True),
        ("exec sh -i;", True),
        ("exec bash script", False),
        ("exec 3>x", False),
        ("echo exec.sh", False),
    ],
)
def test_a_command_that_puts_another_shell_in_place_of_ours_is_known(command: str, replaces: bool) -> None:
    assert framing.replaces_the_shell(command) is replaces
