"""A mutator for any format: it takes known inputs apart, and keeps what led to an outcome that was not seen before."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

FOUND = Path(__file__).resolve().parents[1] / "data" / "fuzz"
"""Inputs that once were handled wrongly, in a folder for each target; each is tried at every run."""

LONGEST = 6000


@dataclass
class Target:
    """What is fed.

    Attributes:
        seeds: Inputs to begin with.
        words: Pieces that mean something in this format.
        check: Takes an input, asserts what must hold for any, and returns how it came out, in few different values.
        share: Of all inputs of a run.
    """

    name: str
    seeds: Sequence[bytes]
    words: Sequence[bytes]
    check: Callable[[bytes], Hashable]
    share: float
    outcomes: set[Hashable] = field(default_factory=set)

    def found(self) -> list[Path]:
        """The inputs that were found in earlier runs."""
        return sorted((FOUND / self.name).glob("*"))

    def run(self, count: int, seed: int) -> int:
        """Try `count` inputs, which depend on `seed` alone; returns how many there were.

        Raises:
            AssertionError: An input was handled wrongly; the message has it, as a file of `FOUND` would hold it.
        """
        chance = random.Random(f"{self.name} {seed}")
        pool = [*self.seeds, *(path.read_bytes() for path in self.found())]
        for number in range(count):
            data = pool[number] if number < len(self.seeds) else self._mutant(chance, pool)
            try:
                outcome = self.check(data)
            except Exception as error:
                raise AssertionError(f"{self.name} mishandled {data!r}: {type(error).__name__}: {error}") from error
            if outcome not in self.outcomes:
                self.outcomes.add(outcome)
                pool.append(data)
        return count

    def _mutant(self, chance: random.Random, pool: list[bytes]) -> bytes:
        data = chance.choice(pool)
        for _ in range(chance.choice((1, 1, 2, 3, 6))):
            at = chance.randrange(len(data) + 1)
            length = chance.choice((0, 0, 1, 2, 8, 40, 400))
            other = chance.choice(pool)
            start = chance.randrange(len(other) + 1)
            piece = chance.choice(
                (
                    b"",
                    chance.choice(self.words),
                    chance.choice(self.words) * chance.choice((1, 2, 50)),
                    bytes([chance.randrange(256)]),
                    chance.randbytes(chance.randrange(6)),
                    other[start : start + chance.choice((1, 10, 100, 1000))],
                    data[at : at + length] * 2,
                )
            )
            data = data[:at] + piece + data[at + length :]
        return data[:LONGEST]
