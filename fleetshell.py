#!/usr/bin/env python3
"""FleetShell's entry point: `fleetshell …`, or `python3 fleetshell.py …` in a checkout."""

import sys

from fleetshell_tools.cli import main
from fleetshell_tools.core.version import __version__

__all__ = ["__version__", "main"]

if __name__ == "__main__":
    sys.exit(main())
