"""Progress on a terminal, for the command line."""

from __future__ import annotations

import time

from tqdm import tqdm

_STEPS = 10_000
_FORMAT = "{desc} {bar} {percentage:3.0f} % {elapsed} < {remaining}"


class ProgressBar(tqdm):  # type: ignore[misc]
    """On a terminal, how much of some work is done: the progress of one picture, or of all of them as `overall`."""

    clock = staticmethod(time.perf_counter)

    def __init__(self, description: str, work: float, overall: ProgressBar | None = None, hidden: bool = False) -> None:
        super().__init__(
            total=_STEPS,
            desc=description,
            bar_format=_FORMAT,
            position=0 if overall else 1,
            leave=False,
            disable=hidden or None,
        )
        self.left = work
        self.interrupted = False
        self._overall = overall
        self._at = 0.0  # steps; what is shown is whole, and so ends at the end

    def advance(self, work: float) -> None:
        """That work has been done. Raises KeyboardInterrupt if Ctrl-C was pressed."""
        if self.interrupted:
            raise KeyboardInterrupt
        if self.left:
            self._at += (_STEPS - self._at) * min(work / self.left, 1)
            self.update(round(self._at) - self.n)
        self.left = max(self.left - work, 0)
        if self._overall:
            self._overall.advance(work)

    def add_work(self, work: float) -> None:
        """There is more to do than was known."""
        self.left += work
        if self._overall:
            self._overall.add_work(work)
