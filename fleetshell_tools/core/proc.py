"""What Linux says in /proc, taken apart: proc(5). What is not there is None, never 0."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ESCAPED = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True)
class Stat:
    """One line of /proc/PID/stat; times in clock ticks, `rss` in pages."""

    pid: int
    name: str
    state: str
    ppid: int
    flags: int
    ticks: int
    threads: int
    start: int
    rss: int


def stat(raw: bytes) -> Stat | None:
    """/proc/PID/stat. The name may hold spaces, parentheses and newlines, so the fields are counted from the last `)`."""
    head, mark, rest = raw.rpartition(b")")
    pid, _, name = head.partition(b" (")
    fields = rest.split()
    if not mark or not pid.isdigit() or len(fields) < 22:
        return None
    try:
        ppid, flags, user, system, threads, start, rss = (int(fields[at]) for at in (1, 6, 11, 12, 17, 19, 21))
    except ValueError:
        return None
    shown = name.decode("utf-8", "replace")
    return Stat(int(pid), shown, fields[0].decode("ascii", "replace"), ppid, flags, user + system, threads, start, rss)


def status(raw: bytes) -> dict[str, str]:
    """/proc/PID/status, or another file of `key: value` lines; of two lines with one key the first counts."""
    found: dict[str, str] = {}
    for line in raw.decode("utf-8", "replace").split("\n"):
        key, mark, value = line.partition(":")
        if mark:
            found.setdefault(key.strip(), value.strip())
    return found


def kilobytes(value: str | None) -> int | None:
    """Bytes of a value like `1024 kB`."""
    number = (value or "").split()
    return int(number[0]) * 1024 if number and number[0].isdigit() else None


def arguments(raw: bytes) -> list[str]:
    """/proc/PID/cmdline. A program that wrote its title there has one argument, and no end to it."""
    text = raw.rstrip(b"\0").decode("utf-8", "replace")
    return text.split("\0") if text else []


def numbers(text: str, count: int) -> list[float] | None:
    """The first numbers of /proc/loadavg or /proc/uptime."""
    try:
        found = [float(word) for word in text.split()[:count]]
    except ValueError:
        return None
    return found if len(found) == count else None


@dataclass(frozen=True)
class Memory:
    """/proc/meminfo in bytes; `estimated` where the kernel is too old (before 3.14) to say what is available."""

    total: int | None
    available: int | None
    swap_total: int | None
    swap_free: int | None
    estimated: bool = False


def meminfo(raw: bytes) -> Memory:
    """/proc/meminfo."""
    fields = status(raw)
    sizes = {key: kilobytes(fields.get(key)) for key in ("MemTotal", "MemAvailable", "SwapTotal", "SwapFree")}
    available = sizes["MemAvailable"]
    parts = [kilobytes(fields.get(key)) for key in ("MemFree", "Buffers", "Cached")]
    estimated = available is None and None not in parts
    if estimated:
        available = sum(part for part in parts if part is not None)
    return Memory(sizes["MemTotal"], available, sizes["SwapTotal"], sizes["SwapFree"], estimated)


def cpuinfo(raw: bytes) -> tuple[str | None, int | None]:
    """/proc/cpuinfo, of which `processor` and model lines are enough: the model, and how many processors."""
    model: dict[str, str] = {}
    count = 0
    for line in raw.decode("utf-8", "replace").splitlines():
        key, mark, value = (part.strip() for part in line.partition(":"))
        if not mark:
            continue
        if re.fullmatch(r"processor( [0-9]+)?", key):
            count += 1
        model.setdefault(key, value)
    names = ("model name", "cpu model", "Processor", "cpu", "uarch", "Hardware", "Model")
    return next((model[name] for name in names if model.get(name)), None), count or None


@dataclass(frozen=True)
class Mount:
    """One line of /proc/mounts."""

    source: str
    point: str
    type: str
    options: tuple[str, ...]


def mounts(raw: bytes) -> list[Mount]:
    """/proc/mounts; spaces, tabs, newlines and backslashes in names come as octal numbers (fstab(5))."""
    found = []
    for line in raw.split(b"\n"):
        words = [_ESCAPED.sub(lambda match: bytes([int(match[1], 8) & 255]), word) for word in line.split(b" ")]
        if len(words) >= 4:
            source, point, kind, options = (word.decode("utf-8", "replace") for word in words[:4])
            found.append(Mount(source, point, kind, tuple(options.split(","))))
    return found
