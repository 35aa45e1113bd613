"""How much the benchmark does, and what it has to say besides its table."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Effort:
    """Counts and times of one run.

    Args:
        rounds: How often the servers are loaded in turn.
        seconds: How long each load lasts.
        warm_up: How long the load before it lasts, which does not count; seconds.
        starts: How often each program is started.
        commands: How many commands are run over SSH in each way.
        daemons: How many SSH servers a fan-out goes to; each has as many addresses, which are the hosts.
        fan_outs: How often a command goes to all hosts in each way.
        notes: What a reader of the table should know; parts append to it.
    """

    rounds: int
    seconds: float
    warm_up: float
    starts: int
    commands: int
    daemons: int
    fan_outs: int
    notes: list[str] = field(default_factory=list)

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)


def full() -> Effort:
    return Effort(rounds=3, seconds=1.5, warm_up=0.3, starts=15, commands=600, daemons=16, fan_outs=5)


def quick() -> Effort:
    """Enough to see that everything works; its numbers mean little."""
    return Effort(rounds=1, seconds=0.1, warm_up=0.02, starts=1, commands=3, daemons=2, fan_outs=1)
