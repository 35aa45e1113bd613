"""`fleetshell` on a wall clock that a test sets: the offset in seconds stands in the file named first, and is read at each look."""

from __future__ import annotations

import sys
import time
from datetime import datetime, tzinfo
from pathlib import Path

OFFSET = Path(sys.argv[1])
TRUE_TIME = time.time


def shifted() -> float:
    return TRUE_TIME() + float(OFFSET.read_text() or 0)


class Shifted(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Shifted:
        return cls.fromtimestamp(shifted(), tz)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    time.time = shifted
    from fleetshell_tools.cli import main
    from fleetshell_tools.core import audit

    audit.datetime = Shifted  # type: ignore[attr-defined]
    sys.exit(main(sys.argv[2:]))
