"""/proc as several kernels write it: names that mislead, fields that are not there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetshell_tools.core import proc

FIELDS = (
    "S 1 812 812 0 -1 4194560 1203 0 0 0 57 21 0 0 20 0 3 0 4242 12345678 512 18446744073709551615 1 1 0 0 0 0 0 4096 81923 0 "
    "0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0"
)


@pytest.mark.parametrize(
    "name",
    ["nginx", "a b", "x) R 7 (y", "((", ")", "new\nline", "\n1 (init) S 0", "(sd-pam)", "kworker/0:1H-events", ""],
)
def test_the_fields_of_a_stat_line_begin_after_the_last_parenthesis(name: str) -> None:
    found = proc.stat(f"812 ({name}) {FIELDS}\n".encode())
    assert found == proc.Stat(812, name, "S", 1, 4194560, 78, 3, 4242, 512)


@pytest.mark.parametrize(
    "raw", [b"", b"812", b"812 (x", b"812 (x) S 1", b"x (x) S " + b"1 " * 30, b"1 (x) S " + b"y " * 30]
)
def test_a_line_that_is_none_has_no_fields(raw: bytes) -> None:
    assert proc.stat(raw) is None


@given(st.binary(max_size=300))
def test_no_bytes_break_the_parsers(raw: bytes) -> None:
    proc.stat(raw), proc.status(raw), proc.meminfo(raw), proc.cpuinfo(raw), proc.mounts(raw), proc.arguments(raw)


def test_of_two_lines_with_one_key_the_first_counts() -> None:
    raw = b"Name:\tx\\nUid:\\t0\nUid:\t1000\t1000\t1000\t1000\nVmRSS:\t    1084 kB\nUid:\t0\n"
    found = proc.status(raw)
    assert (found["Uid"].split()[0], proc.kilobytes(found["VmRSS"])) == ("1000", 1084 * 1024)
    assert proc.kilobytes(None) is None and proc.kilobytes("many kB") is None


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"/bin/sh\0-c\0echo a b\0", ["/bin/sh", "-c", "echo a b"]),
        (b"a\0\0b\0", ["a", "", "b"]),
        (b"nginx: worker process\0\0\0\0\0", ["nginx: worker process"]),
        (b"postgres: writer", ["postgres: writer"]),
        (b"caf\xe9\0", ["caf\ufffd"]),
        (b"", []),
    ],
)
def test_a_command_line_is_cut_at_its_nul_bytes(raw: bytes, words: list[str]) -> None:
    assert proc.arguments(raw) == words


DEBIAN_12 = b"MemTotal:       24684084 kB\nMemFree:        22998000 kB\nMemAvailable:   23382000 kB\nBuffers:           1 kB\nCached:   2 kB\nSwapTotal:       1048572 kB\nSwapFree:        1048000 kB\n"
RHEL_6 = b"MemTotal:        1020128 kB\nMemFree:          100 kB\nBuffers:           20 kB\nCached:              3 kB\nSwapTotal:             0 kB\nSwapFree:              0 kB\n"


def test_memory_is_in_bytes() -> None:
    assert proc.meminfo(DEBIAN_12) == proc.Memory(24684084 << 10, 23382000 << 10, 1048572 << 10, 1048000 << 10)


def test_a_kernel_that_does_not_tell_what_is_available_is_reckoned_for() -> None:
    assert proc.meminfo(RHEL_6) == proc.Memory(1020128 << 10, 123 << 10, 0, 0, estimated=True)


def test_without_meminfo_all_is_unknown() -> None:
    assert proc.meminfo(b"") == proc.Memory(None, None, None, None)


@pytest.mark.parametrize(
    ("raw", "model", "count"),
    [
        (b"processor\t: 0\nmodel name\t: Xeon X\nprocessor\t: 1\nmodel name\t: Xeon X\n", "Xeon X", 2),
        (b"processor\t: 0\nBogoMIPS\t: 50\nCPU part\t: 0xd0c\nprocessor\t: 1\n", None, 2),
        (
            b"processor\t: 0\nmodel name\t: ARMv7\nprocessor\t: 1\nHardware\t: BCM2835\nModel\t: Raspberry Pi 3\n",
            "ARMv7",
            2,
        ),
        (b"processor\t: 0\ncpu\t\t: POWER9 (raw), altivec\nprocessor\t: 4\n", "POWER9 (raw), altivec", 2),
        (b"processor\t: 0\nhart\t: 0\nuarch\t: sifive,u74-mc\n", "sifive,u74-mc", 1),
        (b"processor 0: version = FF\nprocessor 1: version = FF\n", None, 2),
        (b"", None, None),
    ],
)
def test_processors_of_several_architectures(raw: bytes, model: str | None, count: int | None) -> None:
    assert proc.cpuinfo(raw) == (model, count)


def test_mounts_have_spaces_and_other_characters_in_their_names() -> None:
    raw = (
        b"/dev/sda1 / ext4 rw,relatime 0 0\n//nas/My\\040Files /mnt/a\\040b\\011c\\134d\\012 cifs rw 0 0\n"
        b"tmpfs /caf\xc3\xa9 tmpfs ro,size=1k 0 0\nbroken\n"
    )
    assert proc.mounts(raw) == [
        proc.Mount("/dev/sda1", "/", "ext4", ("rw", "relatime")),
        proc.Mount("//nas/My Files", "/mnt/a b\tc\\d\n", "cifs", ("rw",)),
        proc.Mount("tmpfs", "/café", "tmpfs", ("ro", "size=1k")),
    ]


@pytest.mark.parametrize(
    ("text", "count", "found"), [("0.1 2 3 1/99 4", 3, [0.1, 2, 3]), ("1.5", 3, None), ("x", 1, None), ("", 1, None)]
)
def test_numbers_are_all_there_or_none(text: str, count: int, found: list[float] | None) -> None:
    assert proc.numbers(text, count) == found
