"""The one place where FleetShell's version number stands."""

__version__ = "0.1.0"
