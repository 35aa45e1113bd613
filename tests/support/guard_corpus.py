"""The labelled commands in tests/data/guard: what the guard must block and what it must let pass."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parents[1] / "data" / "guard"


@dataclass(frozen=True)
class Labelled:
    """A command and what it is; `half` 2 to 7 were each written before the guard was tried on any of them."""

    command: str
    dangerous: bool
    kind: str
    half: int


def corpus(name: str) -> list[Labelled]:
    """All labelled commands of one file, by its name without the ending."""
    rows = [json.loads(line) for line in (_FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    return [Labelled(row["command"], row["label"] == "block", row["class"], row.get("half", 1)) for row in rows]
