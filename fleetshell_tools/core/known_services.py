"""The services of a server's file, and which of them, or which unit, a service's name means."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fleetshell_tools.core.errors import BadArgument
from fleetshell_tools.core.servers import Server
from fleetshell_tools.core.systemd import UNIT, unit_name
from fleetshell_tools.core.text import one_line


@dataclass(frozen=True)
class Known:
    """A service that is asked about, and what the operator's file tells of it.

    Attributes:
        unit: The unit that it is: the key `unit` of its entry, else its name.
        entry: Its entry under `services`; empty where there is none.
    """

    name: str
    unit: str
    entry: Mapping[str, Any] = field(default_factory=dict)

    @property
    def critical(self) -> bool:
        # The files keep `yes` as text, and a service that is critical by mistake is the smaller harm.
        return str(self.entry.get("critical") or "no").lower() not in ("no", "false", "off", "0")

    @property
    def common_issues(self) -> list[str]:
        issues = self.entry.get("common_issues") or []
        return [str(issue) for issue in issues] if isinstance(issues, list) else [str(issues)]


def listed(server: Server) -> list[Known]:
    """The services of a server's file; those whose name can't be a unit's are left out."""
    found = []
    for name, entry in server.section("services").items():
        about = entry if isinstance(entry, dict) else {}
        unit = str(about.get("unit") or name)
        if re.fullmatch(UNIT, unit):
            found.append(Known(name, unit_name(unit), about))
    return found


def find(server: Server, service_name: str) -> Known:
    """The service of a server's file with this name or this unit; else the unit of this name.

    Raises:
        BadArgument: It is neither, nor could it be.
    """
    services = listed(server)
    for known in services:
        if known.name == service_name:
            return known
    if service_name in server.section("services"):
        raise BadArgument(
            f"The service {one_line(service_name, 60)!r} of {server.id} can't be the name of a unit. "
            f"Ask for its unit, or have the operator add the key `unit` to it in the server's file."
        )
    return of_units(services, [unit_name(service_name)]) or Known(service_name, unit_name(service_name))


def of_units(services: Iterable[Known], units: Iterable[str]) -> Known | None:
    """The service that is one of these units."""
    names = set(units)
    return next((known for known in services if known.unit in names), None)
