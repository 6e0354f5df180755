"""One result's work on a device."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from core.errors import JobCancelled


class DeviceTask:
    """One result's work on the device: its `Progress` and its cancellation in one object, which any thread may call."""

    def __init__(self, work: float) -> None:
        """`work` is in the unit that `advance` counts: FLOPs."""
        self.work = work
        self.done = 0.0
        self._least_progress = 0.0
        self.worker = ""  # the name of the last that took it
        self.retries = 0
        self.started_at: float | None = None  # seconds since the epoch, for others to see
        self.begun_at = 0.0  # on the worker's clock
        self.given_seconds = 0.0  # to shorter tasks
        self.seconds = 0.0  # on the device, without those
        self.future: Future[Any] | None = None
        self.cancelled = False
        self.give_way: Callable[[DeviceTask], None] = lambda _task: None  # set by the worker when the task starts

    def advance(self, work: float) -> None:
        """Note that `work` has been done. The pipeline calls it between any two steps, on the device's thread.

        Shorter tasks may run meanwhile, in this very call.

        Raises:
            JobCancelled: nobody waits for the result any more.
        """
        self.done += work
        self.check()
        self.give_way(self)
        self.check()

    def clock(self) -> float:
        """Seconds that stand still while shorter tasks run."""
        return time.perf_counter() - self.given_seconds

    def add_work(self, work: float) -> None:
        """Note that there is more to do than was known, or less; `progress` does not go back for that."""
        self._least_progress = self.progress
        self.work += work

    def check(self) -> None:
        """Raises JobCancelled: nobody waits for the result any more."""
        if self.cancelled:
            raise JobCancelled("The task was cancelled.")

    @property
    def left(self) -> float:
        """The work that is still to be done; none of a cancelled task, which ends at its next step."""
        return 0.0 if self.cancelled else max(self.work - self.done, 0.0)

    @property
    def progress(self) -> float:
        """The share of the work that is done, 0–1."""
        return max(min(self.done / self.work, 1.0), self._least_progress) if self.work else 0.0

    def begin_again(self) -> None:
        """Wait for another worker; `progress` does not go back for that."""
        self._least_progress = self.progress
        self.done = self.given_seconds = 0.0
        self.started_at = None
        self.retries += 1

    def cancel(self) -> None:
        """Let the task end at its next step, or never start."""
        self.cancelled = True
        if self.future is not None:
            self.future.cancel()
