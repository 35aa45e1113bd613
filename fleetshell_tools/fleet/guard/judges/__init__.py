"""The judges, one module for each group of classes; importing this package registers them all."""

from fleetshell_tools.fleet.guard.judges import devices, files, power, processes, services

__all__ = ["devices", "files", "power", "processes", "services"]
