"""Inputs that nobody would think of, in numbers, for everything that reads what others wrote; what was found stays a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from soak.amounts import amount, said
from soak.fuzzing import Target
from soak.targets import TARGETS

INPUTS = amount("INPUTS", 6000, 1_200_000)
SEED = amount("SEED", 1, 1)
CASES = [(target, path) for target in TARGETS for path in target.found()]
tried: dict[str, int] = {}


@pytest.mark.timeout(max(120, INPUTS // 100))
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_no_input_is_mishandled(target: Target) -> None:
    tried[target.name] = target.run(round(INPUTS * target.share), SEED)
    said(
        f"{target.name}: {tried[target.name]:,} inputs, {len(target.outcomes)} different outcomes; {sum(tried.values()):,} inputs so far"
    )
    assert len(target.outcomes) > 3


@pytest.mark.parametrize(("target", "path"), CASES, ids=[f"{target.name}/{path.name}" for target, path in CASES])
def test_what_was_once_mishandled_is_not_any_more(target: Target, path: Path) -> None:
    target.check(path.read_bytes())


def test_the_fuzzer_finds_what_is_hidden_and_shows_it() -> None:
    def check(data: bytes) -> str:
        assert b"open" not in data or b"sesame" not in data
        return "open" if b"open" in data else ""

    target = Target("door", [b"knock"], [b"open", b"sesame"], check, 1)
    with pytest.raises(AssertionError, match="door mishandled b'.*sesame"):
        target.run(100_000, SEED)
