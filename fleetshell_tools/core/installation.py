"""Where this FleetShell is installed: what starts it, and whether it is the single file that `bundle` writes."""

from __future__ import annotations

import sys
from pathlib import Path

_ROOT = Path(__file__).absolute().parents[2]
"""What has to be on `sys.path`: the folder of `fleetshell.py`, or the single file itself, which Python takes for a folder."""


def archive() -> Path | None:
    """The single file that this is; None where it is installed as files."""
    return _ROOT if _ROOT.is_file() else None


def evidence() -> Path:
    """A file that whoever runs this installation must be able to read."""
    return archive() or Path(__file__)


def program() -> list[str]:
    """The beginning of a command line that starts this installation from anywhere: absolute paths alone."""
    script = Path(sys.executable).with_name("fleetshell")
    if archive() is None and sys.prefix != sys.base_prefix and script.is_file():
        return [str(script)]  # what pip made in a virtual environment
    return [sys.executable, str(archive() or _ROOT / "fleetshell.py")]
