"""The queue in front of the device: who may wait, who is next, and the one thread that alone touches the device.

This room knows neither HTTP nor networks: a job's work is a number and a function.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from device_thread import DeviceThread
from errors import JobCancelled, QueueFull

T = TypeVar("T")


class Job:
    """One result's work on the device: its progress and its cancellation in one object, which any thread may call."""

    def __init__(self, work: float) -> None:
        """`work` is in the unit that `advance` counts, FLOPs here."""
        self.work = work
        self.done = 0.0
        self.started_at: float | None = None  # seconds since the epoch
        self.seconds = 0.0  # on the device
        self.future: Future[Any] | None = None
        self.cancelled = False

    def advance(self, work: float) -> None:
        """Note that `work` has been done. The pipeline calls it between any two steps.

        Raises:
            JobCancelled: nobody waits for the result any more.
        """
        self.done += work
        if self.cancelled:
            raise JobCancelled("The job was cancelled.")

    @property
    def progress(self) -> float:
        """The share of the work that is done, 0–1."""
        return min(self.done / self.work, 1.0) if self.work else 0.0

    def cancel(self) -> None:
        """Let the job end at its next step, or never start."""
        self.cancelled = True
        if self.future is not None:
            self.future.cancel()


class DeviceQueue:
    """Admission, and the one thread that alone touches the device.

    A place is taken before an image is decoded and given back when its result is encoded, so that at most `limit + 1` images
    are in memory: one that runs, `limit` that wait. All methods are called on the event loop.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self.limit = limit
        self._clock = clock  # in seconds
        self._flops_per_second = 0.0  # 0: not measured yet
        self._jobs: list[Job] = []
        self._executor = DeviceThread("device_0")

    @property
    def running(self) -> int:
        """Jobs on the device, or past it and being encoded."""
        return sum(job.started_at is not None for job in self._jobs)

    @property
    def waiting(self) -> int:
        """Jobs that have a place and whose turn has not come."""
        return len(self._jobs) - self.running

    def admit(self, job: Job) -> None:
        """Take a place for `job`, which `release` gives back.

        Raises:
            QueueFull: `limit` jobs wait already.
        """
        if len(self._jobs) > self.limit:
            raise QueueFull(
                f"The queue is full: {self.limit} requests are waiting already. Try again later.",
                retry_after_seconds=self.retry_after_seconds(),
            )
        self._jobs.append(job)

    def release(self, job: Job) -> None:
        """Cancel what is not done of `job`, and free its place: at once, or when the device has reached its next step."""
        job.cancel()
        if job.future is None or job.future.done():
            self._jobs.remove(job)
        else:
            job.future.add_done_callback(partial(self._remove_later, asyncio.get_running_loop(), job))

    def _remove_later(self, loop: asyncio.AbstractEventLoop, job: Job, _: Future[Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends, and nobody counts places any more
            loop.call_soon_threadsafe(self._jobs.remove, job)

    def position(self, job: Job) -> int:
        """How many jobs came before `job` and are not done."""
        return self._jobs.index(job) if job in self._jobs else 0

    def predicted_seconds(self, job: Job) -> float | None:
        """Seconds until `job` will be done, those before it included; None while no rate is known."""
        if not self._flops_per_second:
            return None
        ahead = self._jobs[: self.position(job)]
        return sum(max(each.work - each.done, 0.0) for each in (*ahead, job)) / self._flops_per_second

    async def run(self, job: Job, function: Callable[[], T]) -> T:
        """Run `function` on the device's thread, when the jobs before it are done; it reports to `job.advance`."""
        job.future = self._executor.submit(self._work, job, function)
        return await asyncio.wrap_future(job.future)

    def _work(self, job: Job, function: Callable[[], T]) -> T:
        job.started_at = time.time()
        job.advance(0.0)
        start = self._clock()
        result = function()
        job.seconds = self._clock() - start
        if job.done:
            self._measured(job.done / job.seconds)
        return result

    def _measured(self, rate: float) -> None:
        known = self._flops_per_second
        self._flops_per_second = 0.7 * known + 0.3 * rate if known else rate

    def retry_after_seconds(self) -> int:
        """When the next place is likely to be free: what is left of the oldest job at the rate measured so far, or 1."""
        oldest = self.predicted_seconds(self._jobs[0]) if self._jobs else None
        return max(1, math.ceil(oldest or 0))

    def close(self) -> None:
        """Let the device's thread go, once it has finished what it is doing."""
        self._executor.shutdown(wait=False, cancel_futures=True)
