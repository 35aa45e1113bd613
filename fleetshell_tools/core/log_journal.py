"""The journal of a unit: the shell text that asks for it, and its entries (`journalctl -o json`) as lines."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from fleetshell_tools.core.log_time import iso
from fleetshell_tools.core.scripts import Ran
from fleetshell_tools.core.text import clean, decode, one_line

FIELDS = "MESSAGE,PRIORITY,SYSLOG_IDENTIFIER,_COMM,_PID,SYSLOG_PID,_SYSTEMD_UNIT"

JOURNAL = r"""
[ -n "$journal" ] || { part none; exit 0; }
root journalctl --no-pager -n 0 >/dev/null || sudo=
entries() { ${limit:+timeout $limit} ${sudo:+sudo -n --} journalctl "$@"; }
set -- --no-pager -u "$unit"
part unit
case $(systemctl show -p LoadState -- "$unit" 2>/dev/null) in
  *=not-found) [ -n "$(entries "$@" -q -n 1 -o cat)" ] || echo missing=1 ;;
esac
[ -z "$oldest" ] || set -- "$@" "--since=@$oldest"
"""
"""Expects `unit`, `oldest` and `limit` (seconds, or empty); sets `$@` to options that select the unit's entries.

`entries "$@" …` reads them. The part `none` says that there is no journal, `missing=1` in the part `unit` that there is neither
such a unit nor anything of it in the journal.
"""


@dataclass(frozen=True)
class Entry:
    """An entry of the journal.

    Attributes:
        time: Seconds since the epoch.
        priority: 0 (emergency) to 7 (debug) as in RFC 5424; None where it has none.
        origin: Who wrote it: `nginx[123]`.
        message: Its text, cleaned, perhaps of several lines.
    """

    cursor: str
    time: float
    priority: int | None
    origin: str
    message: str

    @property
    def line(self) -> str:
        """It as a line, without its time."""
        return f"{self.origin}: {self.message}" if self.origin else self.message

    @property
    def dated(self) -> str:
        """It as a line, with its time in UTC."""
        return f"{iso(self.time)} {self.line}"


def entries(raw: bytes) -> list[Entry]:
    """The entries among the lines of `journalctl -o json`; lines that are none are left out."""
    found = []
    for line in raw.split(b"\n"):
        if not line.startswith(b"{"):
            continue
        try:
            data = json.loads(line)
            time = int(data["__REALTIME_TIMESTAMP"]) / 1_000_000
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        priority = str(_first(data.get("PRIORITY")) or "")
        found.append(
            Entry(
                cursor=one_line(str(data.get("__CURSOR", "")), 500),
                time=time,
                priority=int(priority) if priority in tuple("01234567") else None,
                origin=_origin(data),
                message=_text(data.get("MESSAGE", "")).rstrip("\n"),
            )
        )
    return found


def _origin(data: dict[str, Any]) -> str:
    name = _text(data.get("SYSLOG_IDENTIFIER") or data.get("_COMM") or "")
    pid = _text(data.get("SYSLOG_PID") or data.get("_PID") or "")
    return one_line(f"{name}[{pid}]" if name and pid else name, 80)


def _first(value: Any) -> Any:
    """A field may come several times; then it is a list of texts."""
    return value[0] if isinstance(value, list) and value and isinstance(value[0], str) else value


def _text(value: Any) -> str:
    """A field: text, bytes as a list of numbers, or null for what is longer than 4,096 bytes (systemd.journal-fields)."""
    value = _first(value)
    if value is None:
        return "[a message of more than 4,096 bytes]"
    if isinstance(value, list):
        try:
            return decode(bytes(value))
        except (ValueError, TypeError):
            return ""
    return clean(str(value))


def hint(ran: Ran) -> str:
    """What journalctl said about entries that the login user may not see; "" where it said nothing.

    It says so only where its output is meant for people, so the program asks it for no lines of that first.
    """
    said = one_line(ran.stderr, 2000)
    if "not seeing messages from other users" in said or "insufficient permissions" in said:
        user = ran.facts["user"] or "the login user"
        return (
            f"{user} may not read the whole journal; the operator can add {user} to the group systemd-journal "
            "or set `sudo: true` in the server's file."
        )
    return ""
