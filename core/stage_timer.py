"""Seconds by stage: how long each step of a piece of work took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class StageTimer:
    """Measures stages one after the other; a stage that comes twice adds up."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """`clock` is in seconds."""
        self._clock = clock
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what is done within, unless it raises."""
        start = self._clock()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self._clock() - start
