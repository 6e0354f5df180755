"""How far a task is: what the pipeline tells, between any two steps, to whoever waits for it."""

from __future__ import annotations

import time
from typing import Protocol


class Progress(Protocol):
    """Work is in FLOPs of a super-resolving pass."""

    def advance(self, work: float) -> None:
        """Note that `work` has been done. What it raises ends the task."""

    def add_work(self, work: float) -> None:
        """Note that there is more to do than was known when the task began."""

    def clock(self) -> float:
        """Seconds that stand still while the task lets others run."""


class NullProgress:
    """Progress that nobody follows."""

    def advance(self, work: float) -> None:
        """Does nothing."""

    def add_work(self, work: float) -> None:
        """Does nothing."""

    def clock(self) -> float:
        """Seconds on the process's own clock."""
        return time.perf_counter()
