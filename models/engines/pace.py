"""Progress on a GPU: steps are queued faster than they run, and only what has run may be told."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from core.progress import Progress

DEPTH = 2  # steps that may be queued beyond the one that runs: enough to keep the GPU busy, few enough to cancel quickly
STEPS = 100  # in which a pass is told; an event for each of 351 convolutions would cost the host a tenth of a small pass


class Event(Protocol):
    """A mark in the GPU's queue, as `torch.cuda.Event` is one."""

    def query(self) -> bool:
        """Whether all that was queued before it has run."""

    def synchronize(self) -> None:
        """Wait until it has."""


class Paced:
    """Tells `progress` of each step when the GPU has done it, and lets no more than `DEPTH` others wait behind it."""

    def __init__(self, progress: Progress, record: Callable[[], Event], pass_work: float) -> None:
        """`record` puts an event into the GPU's queue; `pass_work` is that of the whole pass."""
        self._progress = progress
        self._record = record
        self._step_work = pass_work / STEPS
        self._unmarked = 0.0  # work that no event stands behind yet
        self._queued: deque[tuple[Event, float]] = deque()

    def advance(self, work: float) -> None:
        """Note that `work` has been queued. What the task's own progress raises ends it; `DEPTH` steps still run then."""
        self._unmarked += work
        if self._unmarked >= self._step_work:
            self._mark()
        while self._queued and (len(self._queued) > DEPTH or self._queued[0][0].query()):
            self._tell_first()

    def drain(self) -> None:
        """Wait for all that is queued."""
        self._mark()
        while self._queued:
            self._tell_first()

    def add_work(self, work: float) -> None:
        """Note that there is more to do than was known."""
        self._progress.add_work(work)

    def clock(self) -> float:
        """Seconds that stand still while the task lets others run."""
        return self._progress.clock()

    def _mark(self) -> None:
        self._queued.append((self._record(), self._unmarked))
        self._unmarked = 0.0

    def _tell_first(self) -> None:
        event, work = self._queued.popleft()
        event.synchronize()
        self._progress.advance(work)
