"""Admission: who may wait for the device, and when each will be done.

It knows neither HTTP nor models: a task's work is a number, and the rate at which it is done is learned.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from concurrent.futures import Future
from functools import partial
from typing import Any

from core.errors import DeadlineExceeded, QueueFull
from schemas.response import QueueStatus
from serving.workers import SHORT_SHARE, DeviceTask

NEXT_REQUEST_SECONDS = 1.0  # of the device's time: the size of the request that `wait_seconds` is about
MAX_RETRY_SECONDS = 600  # beyond that, no prediction is worth waiting for
MEMORY_OF_RATE = 0.7  # what a measurement still weighs after the next


class Admission:
    """The places in front of the device: `limit` that wait, and one that runs.

    A place is taken before a task's image may wait in memory, and given back when its result is encoded. All methods but
    `measure` are called on the event loop.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._measured_work = self._measured_seconds = 0.0  # of past tasks, the older the less
        self._tasks: list[DeviceTask] = []

    @property
    def running(self) -> int:
        """Tasks on the device, those that let a shorter one in among them, or past it and being encoded."""
        return sum(task.started_at is not None for task in self._tasks)

    @property
    def waiting(self) -> int:
        """Tasks that have a place and whose turn has not come."""
        return len(self._tasks) - self.running

    def admit(self, task: DeviceTask, timeout_seconds: float) -> None:
        """Take a place for `task`, which `release` gives back.

        Raises:
            QueueFull: `limit` tasks wait already, or what stands before `task` takes too long for it.
            DeadlineExceeded: `task` alone takes longer than twice the time that it has.
        """
        self.check(task, timeout_seconds)
        self._tasks.append(task)

    def check(self, task: DeviceTask, timeout_seconds: float) -> None:
        """Make sure that `admit` would take the task now.

        Raises:
            QueueFull, DeadlineExceeded: as `admit`.
        """
        wait, own = self._wait_seconds(task.work), self._seconds(task.work)
        if own > 2 * timeout_seconds:
            raise DeadlineExceeded(
                f"This alone takes about {own:.0f} s here; the limit is {round(timeout_seconds, 1):g} s. "
                "Send a smaller image, ask for a smaller target_resolution, or allow more time.",
                predicted_seconds=round(own, 1),
                timeout_seconds=round(timeout_seconds, 1),
            )
        allowed = timeout_seconds if own <= timeout_seconds else 2 * timeout_seconds  # predictions err
        if wait and wait + own > allowed:
            raise self._full(
                f"About {wait:.0f} s of work stand before this request, which takes {own:.0f} s and may take "
                f"{round(timeout_seconds, 1):g} s in all. Try again later.",
                wait + own - allowed,
            )
        if len(self._tasks) > self.limit:
            raise self._full(
                f"The queue is full: {self.limit} requests are waiting already. Try again later.",
                min(self.predicted_seconds(each) or 0.0 for each in self._tasks),
            )

    def _full(self, message: str, seconds: float) -> QueueFull:
        return QueueFull(message, retry_after_seconds=min(max(math.ceil(seconds), 1), MAX_RETRY_SECONDS))

    def release(self, task: DeviceTask) -> None:
        """Cancel what is not done of `task`, and free its place: at once, or when the device has reached its next step."""
        task.cancel()
        if task.future is None or task.future.done():
            self._tasks.remove(task)
        else:
            task.future.add_done_callback(partial(self._remove_later, asyncio.get_running_loop(), task))

    def _remove_later(self, loop: asyncio.AbstractEventLoop, task: DeviceTask, _: Future[Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends, and nobody counts places any more
            loop.call_soon_threadsafe(self._tasks.remove, task)

    def position(self, task: DeviceTask) -> int:
        """How many tasks came before `task` and are not done."""
        return self._tasks.index(task) if task in self._tasks else 0

    def predicted_seconds(self, task: DeviceTask) -> float | None:
        """Seconds until `task` will be done, those before it included; None while no rate is known."""
        if not self._measured_seconds:
            return None
        return self._wait_seconds(task.left, before=self.position(task)) + self._seconds(task.left)

    def forecast(self, task: DeviceTask) -> tuple[float, float]:
        """Of a task that has no place yet: its own seconds, and those that it would wait; 0 while no rate is known."""
        return self._seconds(task.work), self._wait_seconds(task.work)

    def status(self) -> QueueStatus:
        """What a load balancer should know: requests, and predicted seconds."""
        next_work = NEXT_REQUEST_SECONDS * self._rate
        return QueueStatus(
            running=self.running,
            waiting=self.waiting,
            capacity=self.limit,
            wait_seconds=round(self._wait_seconds(next_work), 1),
            backlog_seconds=round(self._seconds(sum(task.left for task in self._tasks)), 1),
        )

    @property
    def _rate(self) -> float:
        """FLOPs in a second, as measured; 0: not measured yet."""
        return self._measured_work / self._measured_seconds if self._measured_seconds else 0.0

    def _seconds(self, work: float) -> float:
        return work / self._rate if self._rate else 0.0

    def _wait_seconds(self, work: float, before: int | None = None) -> float:
        """Seconds that the first `before` tasks, or all, keep a task of that work waiting.

        Those that are long beside it let it in, at half of the device's time.
        """
        left = [task.left for task in self._tasks[:before]]
        in_turn = sum(each for each in left if work > SHORT_SHARE * each)
        if in_turn < sum(left):
            return self._seconds(min(2 * in_turn + work, sum(left)))
        return self._seconds(in_turn)

    def measure(self, task: DeviceTask) -> None:
        """Learn the device's rate from a task that has ended."""
        if task.done:
            self._measured_work = MEMORY_OF_RATE * self._measured_work + task.done
            self._measured_seconds = MEMORY_OF_RATE * self._measured_seconds + task.seconds
