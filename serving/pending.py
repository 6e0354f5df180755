"""What is being made: one `InFlight` for all who need the same, and one `PendingResult` for each request.

Requests for the same file share its encoding; results that differ in format and quality alone share a run on the device.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Generic, TypeVar

from core.errors import JobCancelled, OutOfMemory
from schemas.response import UpscaleResult
from serving.admission import Admission
from serving.deadline import Deadline
from workers.task import DeviceTask

logger = logging.getLogger(__name__)


T = TypeVar("T")


class InFlight(Generic[T]):
    """A result, or the picture that results are made of, which is being made or is there; and those who wait for it."""

    def __init__(self, task: DeviceTask, result: asyncio.Future[T]) -> None:
        self.left: Callable[[], None] = lambda: None  # called when the last waiter has left
        self.task = task
        self.result = result
        self.waiters: set[object] = set()

    @classmethod
    def of_cached(cls, result: T) -> InFlight[T]:
        """One that is done, without work."""
        task, future = DeviceTask(0), asyncio.get_running_loop().create_future()
        task.started_at = time.time()
        future.set_result(result)
        return cls(task, future)

    def leave(self, waiter: object) -> None:
        """Work for nobody ends at its next step."""
        if waiter in self.waiters:
            self.waiters.remove(waiter)
            if not self.waiters:
                self.result.cancel()
                self.left()


class PendingResult:
    """What one request waits for. All its methods are called on the event loop."""

    def __init__(
        self,
        in_flight: InFlight[UpscaleResult],
        admission: Admission,
        deadline: Deadline,
        warnings: tuple[str, ...],
        *,
        cached: bool,
        has_alpha: bool,
    ) -> None:
        """`warnings` are of this request, not of the result; `cached` if it costs the device no work of its own."""
        self.has_alpha = has_alpha  # in the request's picture
        self._in_flight = in_flight
        self._admission = admission
        self._deadline = deadline
        self._warnings = warnings
        self._cached = cached
        self._result: asyncio.Future[UpscaleResult] = asyncio.get_running_loop().create_future()
        in_flight.waiters.add(self)
        in_flight.result.add_done_callback(self._settle)

    @property
    def progress(self) -> float:
        """The share of the device's work that is done, 0–1."""
        return self._in_flight.task.progress

    @property
    def started_at(self) -> float | None:
        """When the device began with it, in seconds since the epoch; None if it has not."""
        return self._in_flight.task.started_at

    @property
    def position(self) -> int:
        """How many tasks the device has to do before this one."""
        return self._admission.position(self._in_flight.task)

    @property
    def predicted_seconds(self) -> float | None:
        """Seconds until the device will be done with it; None while the device's rate is not known."""
        return self._admission.predicted_seconds(self._in_flight.task)

    def cancel(self) -> None:
        """Give it up: `result` raises JobCancelled, and work for nobody ends at its next step."""
        if not self._result.done():
            self._result.set_exception(JobCancelled("The request was cancelled."))
            self._result.exception()  # whether anybody still asks or not
        self._in_flight.leave(self)

    async def result(self) -> UpscaleResult:
        """Wait for the result; a caller that is cancelled meanwhile gives it up.

        Raises:
            JobCancelled: it was given up.
            DeadlineExceeded: it is given up now.
            ServiceError, and whatever an internal error raises.
        """
        try:
            async with self._deadline.enforced():
                return await self._result
        finally:
            self.cancel()

    def _settle(self, result: asyncio.Future[UpscaleResult]) -> None:
        if self._result.done():
            return
        if result.cancelled():
            self.cancel()
        elif error := result.exception():
            if isinstance(error, MemoryError):
                logger.error("out of memory: %s", error)
                error = OutOfMemory()
            self._result.set_exception(error)
            self._result.exception()
        else:
            self._result.set_result(replace(result.result().with_warnings(before=self._warnings), cached=self._cached))
