"""What systemd says of units: `systemctl show` taken apart (systemctl(1), systemd.time(7)), and what it means."""

from __future__ import annotations

import datetime
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from fleetshell_tools.core.errors import BadArgument
from fleetshell_tools.core.text import one_line

UNIT = r"[A-Za-z0-9@._:\\-]{1,255}"
"""The characters of a unit's name; the rest is escaped as `\\x20` (systemd.unit(5))."""

TYPES = tuple("service socket timer target mount automount path swap slice scope device".split())
PROPERTIES = (
    "Id,Names,Description,LoadState,LoadError,ActiveState,SubState,UnitFileState,Type,Job,MainPID,MemoryCurrent,NRestarts,Result,"
    "ExecMainCode,ExecMainStatus,ActiveEnterTimestamp,ActiveExitTimestamp,InactiveEnterTimestamp,InactiveExitTimestamp,"
    "Triggers,TriggeredBy,NextElapseUSecRealtime,NextElapseUSecMonotonic,LastTriggerUSec"
)
"""What `systemctl show` is asked for; a version that lacks one leaves it out."""

RESTARTS = 3
"""A service that systemd has had to start this often since a restart does not work."""

_LOGINS = re.compile(r"(?:ssh|sshd|dropbear)(?:@.*)?\.(?:service|socket)")
_NETWORK = re.compile(
    r"(?:networking|network|NetworkManager|systemd-networkd|dhcpcd|wpa_supplicant|iwd|connman|tailscaled|wg-quick|openvpn|"
    r"firewalld|nftables|ufw|iptables)(?:[@-].*)?\.(?:service|socket)"
)
_ENABLED = {"enabled": True, "enabled-runtime": True, "disabled": False, "masked": False, "masked-runtime": False}
_LAST_CHANGE = {
    "active": "ActiveEnterTimestamp",
    "reloading": "ActiveEnterTimestamp",
    "activating": "InactiveExitTimestamp",
    "deactivating": "ActiveExitTimestamp",
}
_UNITS = {
    "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0, "month": 2_629_800.0,
    "y": 31_557_600.0,
}  # fmt: skip
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|min|h|d|w|month|y)")
_DATE = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)(?:\.\d+)? UTC")


def unit_name(name: str) -> str:
    """A service's name as a unit's: `nginx` becomes `nginx.service`, `backup.timer` stays.

    Raises:
        BadArgument: It holds characters that no unit's name has.
    """
    if not re.fullmatch(UNIT, name):
        raise BadArgument(
            f"{one_line(name, 80)!r} is no name of a service or unit (letters, digits, `@`, `.`, `_`, `:`, `-`, `\\`); "
            f"list_services shows them."
        )
    return name if name.rpartition(".")[2] in TYPES and "." in name else f"{name}.service"


def template_glob(unit: str) -> str:
    """The pattern of a template's instances, `getty@*.service`; "" where the unit is no template."""
    stem, _, kind = unit.rpartition(".")
    return f"{stem}*.{kind}" if stem.endswith("@") else ""


def blocks(text: str) -> list[dict[str, str]]:
    """What `systemctl show` printed: one map of properties a unit."""
    found = []
    for block in text.split("\n\n"):
        pairs = (line.partition("=") for line in block.splitlines())
        properties = {key: value for key, mark, value in pairs if mark}
        if properties:
            found.append(properties)
    return found


def moment(text: str) -> str | None:
    """A point in time as ISO 8601 in UTC: `Sun 2026-11-22 19:19:53 UTC`, as `show` prints it under TZ=UTC, or `@1795375193`."""
    if re.fullmatch(r"@\d{1,11}", text):
        return iso(int(text[1:]))
    match = _DATE.search(text)
    return f"{match[1]}T{match[2]}Z" if match else None


def iso(seconds: float) -> str:
    """Seconds since the epoch as ISO 8601 in UTC."""
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def span(text: str) -> float | None:
    """A time span in seconds: `2d 4h 15min 47.26s`; None for `infinity` and what is none."""
    found = [_SPAN.fullmatch(word) for word in text.split()]
    if not found or not all(found):
        return None
    return sum(float(part[1]) * _UNITS[part[2]] for part in found if part)


def whole(text: str | None) -> int | None:
    """A number; None for `[not set]`, and for the largest there is, which older versions print in its place."""
    return int(text) if text and re.fullmatch(r"\d{1,19}", text) and int(text) < 1 << 63 else None


@dataclass(frozen=True)
class Unit:
    """The state of a unit, from its properties; what is not known is None."""

    properties: Mapping[str, str]

    def __getitem__(self, name: str) -> str:
        return one_line(self.properties.get(name, ""), 300)

    @property
    def name(self) -> str:
        return self["Id"]

    @property
    def names(self) -> list[str]:
        """All its names, its own first."""
        return list(dict.fromkeys([self.name, *self["Names"].split()]))

    @property
    def exists(self) -> bool:
        """A unit whose file was deleted while it ran exists still."""
        return self["LoadState"] != "not-found" or self.active not in ("inactive", None)

    @property
    def active(self) -> str | None:
        return self["ActiveState"] or None

    @property
    def sub(self) -> str | None:
        return self["SubState"] or None

    @property
    def enabled(self) -> bool | None:
        """Whether it starts at boot by itself; None for what others start (static, indirect, generated) or is not known."""
        return _ENABLED.get(self["UnitFileState"])

    @property
    def main_pid(self) -> int | None:
        return whole(self["MainPID"]) or None

    @property
    def memory_bytes(self) -> int | None:
        return whole(self["MemoryCurrent"])

    @property
    def restarts(self) -> int | None:
        """How often systemd has restarted it by itself since it was started."""
        return whole(self["NRestarts"])

    @property
    def since(self) -> str | None:
        return moment(self[_LAST_CHANGE.get(self.active or "", "InactiveEnterTimestamp")])

    @property
    def failure(self) -> str | None:
        """Why it ended badly: `exit code 3`, `signal 9`, `timeout`, …; None where it did not."""
        result = self["Result"]
        if self["LoadState"] in ("error", "bad-setting"):
            return self["LoadError"] or "its unit file is invalid"
        if result in ("", "success"):
            return None
        how = {"1": "exit code", "2": "signal", "3": "core dump, signal"}.get(self["ExecMainCode"])
        return f"{how} {self['ExecMainStatus']}" if how and result in ("exit-code", "signal", "core-dump") else result

    @property
    def state(self) -> str:
        """`active (running)`"""
        return f"{self.active or 'state not known'}" + (f" ({self.sub})" if self.sub else "")

    def next_run(self, now: float | None, uptime: float | None) -> str | None:
        """When a timer fires next; `now` and `uptime` are the host's, in seconds."""
        monotonic = span(self["NextElapseUSecMonotonic"])
        if monotonic and now is not None and uptime is not None:
            return iso(now + monotonic - uptime)
        return moment(self["NextElapseUSecRealtime"])


def verdict(before: Unit, after: Unit, waited: int) -> tuple[bool, str]:
    """Whether a restart worked, and in words what came of it.

    Args:
        waited: For how many seconds, at most, the end was waited for.
    """
    if after.active is None:
        return False, "its state afterwards is not known"
    if after.sub == "auto-restart" or (after.restarts or 0) >= RESTARTS:
        why = f" ({after.failure})" if after.failure else ""
        return False, f"it ends and is started again and again{why}"
    if after["Job"] not in ("", "0") or after.active in ("activating", "deactivating"):
        return False, f"still {after.state} after {waited} s; ask get_service_status again"
    if after.active in ("active", "reloading"):
        if before.main_pid and before.main_pid == after.main_pid:
            return False, f"{after.state}, but it is the same process as before"
        return True, after.state + (", though not at its first start" if after.restarts else "")
    if after.failure:
        return False, f"{after.state}, {after.failure}"
    if after.active == "inactive" and after["Type"] == "oneshot":
        return True, "it ran to its end and succeeded"
    return False, f"{after.state}, it ended right after its start"


def carrier(names: Iterable[str]) -> str | None:
    """What to know before trusting a connection after the restart of a unit with these names; None where it carries none."""
    units = list(names)
    if any(_LOGINS.fullmatch(unit) for unit in units):
        return "It takes FleetShell's own logins: open connections survive its restart, but check that new ones work."
    if any(_NETWORK.fullmatch(unit) for unit in units):
        return (
            "It carries or filters the network, and FleetShell's connection with it: check that the host still answers."
        )
    return None


def has_name(unit: Unit, pattern: str | None) -> bool:
    """Whether a glob fits one of a unit's names, with its type or without."""
    names = [form for name in unit.names for form in (name, name.rpartition(".")[0] or name)]
    return pattern is None or any(fnmatchcase(name, pattern) for name in names)


def has_state(unit: Unit, wanted: str | None) -> bool:
    """As `systemctl --state`, which compares load, active and sub states; without one, all that is not simply inactive."""
    if wanted is None:
        return unit.active != "inactive"
    return wanted == "all" or wanted in (unit["LoadState"], unit.active, unit.sub, unit["UnitFileState"])


def rank(unit: Unit) -> tuple[int, int, str]:
    """The order of a list: failed ones first, then those in between, running ones, the rest."""
    order = {"failed": 0, None: 2, "active": 3, "inactive": 4}
    return order.get(unit.active, 1), int(unit.sub != "running"), unit.name


def near(wanted: str, names: Iterable[str], limit: int = 5) -> list[str]:
    """Units whose names are like a wanted one: those that contain it or are contained in it first."""
    stem = re.split(r"[.@]", wanted)[0].lower()
    by_stem: dict[str, list[str]] = {}
    for name in names:
        by_stem.setdefault(re.split(r"[.@]", name)[0].lower(), []).append(name)
    inside = [key for key in by_stem if key and (stem in key or (len(key) > 2 and key in stem))]
    close = difflib.get_close_matches(stem, list(by_stem), n=limit, cutoff=0.6)
    found = [name for key in dict.fromkeys([*sorted(inside, key=len), *close]) for name in by_stem[key]]
    return found[:limit]
