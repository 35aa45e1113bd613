"""The judges, one module for each group of classes; importing this package registers them all."""

from fleetshell_tools.fleet.guard.judges import (
    access,
    databases,
    devices,
    files,
    firewall,
    massdelete,
    power,
    processes,
    resources,
    startup,
)

__all__ = [
    "access",
    "databases",
    "devices",
    "files",
    "firewall",
    "massdelete",
    "power",
    "processes",
    "resources",
    "startup",
]
