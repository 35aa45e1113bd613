"""The guard's budget: counted steps and nesting levels, so that no input can make it work long.

Steps are counted and time is not, so that a verdict depends on the input alone; what exceeds the budget (depth,
commands, expansion size) is refused.
"""

from __future__ import annotations

from types import TracebackType

MAX_DEPTH = 20
MAX_VALUE = 20_000


class BudgetExceeded(Exception):
    """The input asks for more work, nesting or expansion than any honest command does."""


class Budget:
    """A counter that ends the work when it runs out; as a context manager it counts one level of nesting.

    Args:
        limit: Steps allowed; a step is about one token, one expanded word or sixteen characters of text.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.steps = 0
        self.depth = 0

    def spend(self, steps: int = 1) -> None:
        """Count work.

        Raises:
            BudgetExceeded: None is left.
        """
        # Work is counted before it is done, so what is refused here is not done.
        if self.steps + steps > self.limit:
            self.steps = self.limit + 1
            raise BudgetExceeded("more steps than allowed")
        self.steps += steps

    def value(self, text: str) -> str:
        """Count a text that an expansion made, and return it.

        Raises:
            BudgetExceeded: It is too long, or no step is left.
        """
        if len(text) > MAX_VALUE:
            raise BudgetExceeded("an expansion is too long")
        self.spend(1 + len(text) // 16)
        return text

    def __enter__(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise BudgetExceeded("nested too deeply")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.depth -= 1
