"""The mux protocol's messages, against what a control master of OpenSSH 9.2p1 really sent (tests/data/mux)."""

from __future__ import annotations

import contextlib
import itertools
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetshell_tools.fleet.mux import wire
from fleetshell_tools.fleet.mux.wire import Alive, Event, Exited, Failed, Opened, ProtocolError, Reader

DATA = Path(__file__).resolve().parents[1] / "data" / "mux"


def recorded(name: str, side: str = "received") -> bytes:
    return bytes.fromhex((DATA / f"{name}.{side}.hex").read_text())


RECORDED: dict[str, list[Event]] = {
    "exit": [Opened(2), Exited(3)],
    "signal": [Opened(2)],  # no word of the exit: that is how an end by a signal looks
    "refused": [Failed("Session open refused by peer")],
    "alive": [Alive(int.from_bytes(recorded("alive")[-4:], "big"))],
    "terminate": [],
}


@pytest.mark.parametrize("name", RECORDED)
def test_what_a_real_master_sent_is_understood(name: str) -> None:
    assert Reader().feed(recorded(name)) == RECORDED[name]


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("exit", wire.new_session(1, b"exit 3")),
        ("refused", wire.new_session(1, b"true")),
        ("alive", wire.alive_check(7)),
        ("terminate", wire.terminate(9)),
    ],
)
def test_what_we_send_is_what_a_real_master_understood(name: str, ours: bytes) -> None:
    assert wire.hello() + ours == recorded(name, "sent")


@given(name=st.sampled_from(list(RECORDED)), cuts=st.lists(st.integers(0, 80)))
def test_any_split_of_the_bytes_gives_the_same_events(name: str, cuts: list[int]) -> None:
    data = recorded(name)
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    reader = Reader()
    assert [event for start, end in itertools.pairwise(places) for event in reader.feed(data[start:end])] == RECORDED[
        name
    ]


@given(data=st.binary(max_size=200), greeted=st.booleans())
def test_garbage_raises_nothing_but_a_protocol_error(data: bytes, greeted: bool) -> None:
    reader = Reader()
    if greeted:
        reader.feed(wire.hello())
    with contextlib.suppress(ProtocolError):
        reader.feed(data)


@given(name=st.sampled_from(["exit", "refused", "alive"]), place=st.integers(0, 60), value=st.integers(0, 255))
def test_a_changed_byte_raises_nothing_but_a_protocol_error(name: str, place: int, value: int) -> None:
    data = bytearray(recorded(name))
    data[place % len(data)] = value
    with contextlib.suppress(ProtocolError):
        Reader().feed(bytes(data))


def test_that_a_session_was_opened_is_told_before_the_garbage_behind_it() -> None:
    reader = Reader()
    assert reader.feed(recorded("signal") + b"\xff" * 8) == [Opened(2)]
    with pytest.raises(ProtocolError):
        reader.feed(b"")


@pytest.mark.parametrize("version", [0, 3, 5, 0xFFFFFFFF])
def test_another_version_is_refused(version: int) -> None:
    with pytest.raises(ProtocolError, match="another version"):
        Reader().feed(struct.pack(">III", 8, wire.HELLO, version))
