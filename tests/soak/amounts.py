"""How much a test of this folder does: a short form by default, a long one with FLEETSHELL_SOAK=1, or a number of one's own."""

from __future__ import annotations

import os

LONG = os.environ.get("FLEETSHELL_SOAK") == "1"


def amount(name: str, short: int, long: int) -> int:
    """A duration or a count.

    Args:
        name: FLEETSHELL_SOAK_`name` in the environment wins over both.
        short: What `make test` takes.
        long: What `make soak` takes.
    """
    return int(os.environ.get(f"FLEETSHELL_SOAK_{name}") or (long if LONG else short))


def said(what: str) -> None:
    """Print a figure for whoever runs the long forms; pytest shows it with -s, as `make soak` does."""
    print(f"\nsoak: {what}", flush=True)
