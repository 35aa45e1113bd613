"""When log lines were written: the timestamps of common formats as seconds since the epoch, and `since` of the log tools.

Lines without a zone (RFC 3164 syslog, nginx and Apache errors, Python logging) are in the host's zone: a `Clock` holds the
offset that the host has now, so across a change to or from summer time they may be an hour off.
"""

from __future__ import annotations

import datetime
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass

from fleetshell_tools.core.errors import BadArgument

_DAY = 86_400
_EPOCH_DAY = 719_163  # date(1970, 1, 1).toordinal()
_MONTHS = {name: number for number, name in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)}
_LOOKED_AT = 600


@dataclass(frozen=True)
class Clock:
    """What a host's clock shows: `now` in seconds since the epoch, and its zone's `offset` in seconds east of UTC."""

    now: float
    offset: int = 0

    @classmethod
    def read(cls, text: str) -> Clock | None:
        """From what `date '+%s %z'` prints; None where it is something else."""
        match = re.fullmatch(r"(\d{1,12}) ([+-])(\d{2})(\d{2})", text.strip())
        if match is None:
            return None
        offset = int(match[3]) * 3600 + int(match[4]) * 60
        return cls(float(match[1]), -offset if match[2] == "-" else offset)


def iso(seconds: float) -> str:
    """Seconds since the epoch as `2024-01-15T10:30:00Z`."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


_TIME = r"(?P<H>\d{2}):(?P<M>\d{2}):(?P<S>\d{2})(?:[.,](?P<f>\d{1,9}))?"
_ZONE = r"(?P<z>Z|[+-]\d{2}:?\d{2}|(?: (?:UTC|GMT|[+-]\d{4}))(?![\w:]))?"
_ISO = rf"(?P<y>\d{{4}})(?P<sep>[-/])(?P<m>\d{{2}})(?P=sep)(?P<d>\d{{2}})[T _]{_TIME}{_ZONE}"
_NAMED = r"(?P<b>Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_DAY_NAME = r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
# RFC 5424 and raw RFC 3164 begin with <PRI>; other programs put a bracket, a level or a key before the time.
_HEAD = r"(?:<\d{1,3}>\d? ?)?\W{0,3}(?:[A-Za-z]{1,12}\W{1,3})?"

_FORMATS: tuple[tuple[str, Callable[[str], re.Match[str] | None]], ...] = (
    ("syslog", re.compile(rf"(?:<\d{{1,3}}>)?{_NAMED} +(?P<d>\d{{1,2}}) (?:(?P<y>\d{{4}}) )?{_TIME}").match),
    ("iso", re.compile(_HEAD + _ISO).match),
    ("access", re.compile(rf"\[(?P<d>\d{{2}})/{_NAMED}/(?P<y>\d{{4}}):{_TIME}{_ZONE}\]").search),
    (
        "ctime",
        re.compile(rf"\W{{0,2}}{_DAY_NAME},? {_NAMED} +(?P<d>\d{{1,2}}) {_TIME}{_ZONE}(?: [A-Z]{{3,5}})? (?P<y>\d{{4}})").match,
    ),
    ("json", re.compile(r'\{.*?"(?:@?timestamp|time|ts|datetime|date|asctime|eventTime)" ?: ?(?:"(?P<t>[^"]{10,40})"|(?P<e>\d{10,19}(?:\.\d+)?))').match),
    ("epoch", re.compile(r"\W{0,2}(?P<e>\d{10}(?:\.\d{1,9})?|\d{13})(?![\w.])").match),
    ("audit", re.compile(r"(?:\S+ )?(?:\S+ )?msg=audit\((?P<e>\d{10}\.\d{3}):").match),
    ("day-first", re.compile(rf"(?:\d+:[A-Z] )?\W?(?P<d>\d{{2}})[- ]{_NAMED}[- ](?P<y>\d{{4}}) {_TIME}").match),
    ("klog", re.compile(rf"[IWEF](?P<m>\d{{2}})(?P<d>\d{{2}}) {_TIME} ").match),
    ("logfmt", re.compile(rf'.*?\s(?:time|ts|timestamp)="?{_ISO}').match),
)  # fmt: skip


class Stamps:
    """Finds the timestamps of a log's lines; tries the format of the line before first, because a log has but one.

    Attributes:
        format: The name of the format that was found last; "" where none was.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.format = ""
        self._order = list(_FORMATS)

    def of(self, line: str) -> float | None:
        """When a line was written, in seconds since the epoch; None where it bears no time that we know.

        Known are RFC 3164 (the year is the latest that makes no future), RFC 3339, RFC 5424, ISO 8601 and Python logging,
        nginx and Apache access and error logs, ctime, seconds or milliseconds since the epoch, the audit log, JSON lines
        and logfmt with a time, redis and BIND, and klog.
        """
        start = line[:_LOOKED_AT]
        for index, (name, find) in enumerate(self._order):
            match = find(start)
            if match is None:
                continue
            seconds = self._seconds(match.groupdict())
            if seconds is not None:
                self.format = name
                if index:
                    self._order.insert(0, self._order.pop(index))
                return seconds
        return None

    def _seconds(self, found: dict[str, str | None]) -> float | None:
        if found.get("e"):
            return self._epoch(str(found["e"]))
        if found.get("t"):
            return Stamps(self.clock).of(str(found["t"]))
        named = found.get("b")
        month = _MONTHS[named.lower()] if named else int(found["m"] or 0)
        time = int(found["H"] or 0) * 3600 + int(found["M"] or 0) * 60 + int(found["S"] or 0)
        fraction = float(f"0.{found['f']}") if found.get("f") else 0.0
        zone = found.get("z")
        offset = self.clock.offset if zone is None else _offset(zone)
        day, year = int(found["d"] or 0), found.get("y")
        days = _days(int(year), month, day) if year else self._latest(month, day, time - offset)
        return None if days is None or time > _DAY else days * _DAY + time - offset + fraction

    def _latest(self, month: int, day: int, rest: int) -> int | None:
        """The day of the latest year that is not in the future, with a day's grace for clocks that are ahead."""
        this_year = datetime.datetime.fromtimestamp(self.clock.now + _DAY, datetime.timezone.utc).year
        for year in range(this_year, this_year - 9, -1):
            days = _days(year, month, day)
            if days is not None and days * _DAY + rest <= self.clock.now + _DAY:
                return days
        return None

    def _epoch(self, text: str) -> float | None:
        """A bare number is a time where it lies between 2001 and tomorrow; its magnitude tells the unit."""
        value = float(text)
        while value >= 1e11:
            value /= 1000
        return value if 1e9 <= value <= self.clock.now + _DAY else None


@functools.lru_cache(maxsize=256)
def _days(year: int, month: int, day: int) -> int | None:
    """Days since the epoch; None where there is no such day."""
    try:
        return datetime.date(year, month, day).toordinal() - _EPOCH_DAY
    except ValueError:
        return None


def _offset(zone: str) -> int:
    """Seconds east of UTC of `Z`, ` UTC`, `+02:00` or ` +0200`."""
    zone = zone.strip().replace(":", "")
    if zone[0] not in "+-":
        return 0
    seconds = int(zone[1:3]) * 3600 + int(zone[3:5]) * 60
    return -seconds if zone[0] == "-" else seconds


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": _DAY, "w": 7 * _DAY}
_AGO = re.compile(r"(?:\d{1,6}[smhdw])+")
_MOMENT = re.compile(
    r"(?P<y>\d{4})-(?P<m>\d{2})-(?P<d>\d{2})(?:[T ](?P<H>\d{2}):(?P<M>\d{2})(?::(?P<S>\d{2})(?:[.,]\d{1,9})?)?)? ?(?P<z>Z|[+-]\d{2}:?\d{2})?"
)


@dataclass(frozen=True)
class Since:
    """The moment from which on a caller wants to see lines, as the host's clock will tell it.

    Attributes:
        kind: `ago`: `seconds` before the host's now; `at`: `seconds` since the epoch; `local`: the same as if the host's
            time were UTC; `ever`: all there is.
    """

    kind: str = "ever"
    seconds: int = 0

    def moment(self, clock: Clock) -> float | None:
        """It in seconds since the epoch; None for `ever`."""
        if self.kind == "ago":
            return clock.now - self.seconds
        if self.kind == "local":
            return self.seconds - clock.offset
        return self.seconds if self.kind == "at" else None


def parse_since(text: str | None) -> Since:
    """Read the argument `since`: ISO 8601 (in the host's zone where none is given), or `90m`, `2h`, `1d12h`: so long ago.

    Raises:
        BadArgument: It is neither.
    """
    if text is None:
        return Since()
    said = text.strip()
    if _AGO.fullmatch(said):
        return Since("ago", sum(int(count) * _UNITS[unit] for count, unit in re.findall(r"(\d+)([smhdw])", said)))
    match = _MOMENT.fullmatch(said)
    days = _days(int(match["y"]), int(match["m"]), int(match["d"])) if match else None
    if match is None or days is None or int(match["H"] or 0) > 24 or int(match["M"] or 0) > 59:
        raise BadArgument(
            f"The argument `since` is {text[:60]!r}; allowed: ISO 8601 such as 2024-01-15T10:30:00Z (without a zone it is the "
            "host's time), or how long ago, such as 90m, 2h or 3d."
        )
    seconds = days * _DAY + int(match["H"] or 0) * 3600 + int(match["M"] or 0) * 60 + int(match["S"] or 0)
    return Since("at", seconds - _offset(match["z"])) if match["z"] else Since("local", seconds)
