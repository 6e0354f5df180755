"""Admission: who may wait for the device, and when each will be done.

It knows neither HTTP nor models: a task's work is a number, and what work takes is learned.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

from core.errors import DeadlineExceeded, QueueFull
from schemas.response import QueueStatus
from serving.workers import SHORT_SHARE, DeviceTask

NEXT_REQUEST_SECONDS = 1.0  # of the device's time: the size of the request that `wait_seconds` is about
MAX_RETRY_SECONDS = 600  # beyond that, no prediction is worth waiting for
LARGEST_ERROR = 4.0  # of a prediction that a task may show: what stalls once says nothing of the next
LEARNING = 0.5  # the share of an error, as a power, by which a prediction is corrected: one task doubles it at most
LEAST_FIXED_SECONDS = 0.001  # from which the fixed part can grow again


@dataclass
class Speed:
    """What a task takes: seconds for being one, and seconds by its work. All zero: not known.

    Small tasks are slow for their work, in ways of their own (they do not fill the device, and narrow ones are worse), so
    those below `least_work` teach the fixed part alone. A larger one corrects each part by its share of the prediction.
    """

    fixed_seconds: float = 0.0
    seconds_per_flop: float = 0.0
    least_work: float = 0.0

    @classmethod
    def of(cls, small: DeviceTask, large: DeviceTask) -> Speed:
        """That of two tasks that have run. A rate over four times that of the large one alone would be an accident."""
        by_work = max(large.seconds - small.seconds, large.seconds / LARGEST_ERROR) / (large.done - small.done)
        return cls(max(small.seconds - by_work * small.done, 0.0), by_work, large.done)

    def seconds(self, work: float) -> float:
        """Of a task of that work; 0 while nothing is known."""
        return self.fixed_seconds + work * self.seconds_per_flop

    def learn(self, work: float, seconds: float) -> None:
        """Correct what is known by a task that took so long."""
        expected = self.seconds(work)
        if not expected:
            return
        error = min(max(seconds / expected, 1 / LARGEST_ERROR), LARGEST_ERROR)
        of_work = work * self.seconds_per_flop / expected if work >= self.least_work else 0.0
        self.seconds_per_flop *= error ** (LEARNING * of_work)
        self.fixed_seconds = max(self.fixed_seconds, LEAST_FIXED_SECONDS) * error ** (LEARNING * (1 - of_work))


class Admission:
    """The places in front of the device: `limit` that wait, and one that runs.

    A place is taken before a task's image may wait in memory, and given back when its result is encoded. All methods but
    `measure` are called on the event loop.
    """

    def __init__(self, limit: int, doubt_speed: Callable[[], None] = lambda: None) -> None:
        """`doubt_speed` is called when a request is refused for its own predicted time alone."""
        self.limit = limit
        self._doubt_speed = doubt_speed
        self.speed = Speed()
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
        own, wait = self.forecast(task)
        if own > 2 * timeout_seconds:
            self._doubt_speed()
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
        """Seconds until `task` will be done, those before it included; None while the device's speed is not known."""
        if not self.speed.seconds(1):
            return None
        own = self._seconds_left(task)
        return self._wait_seconds(task.left, own, before=self.position(task)) + own

    def forecast(self, task: DeviceTask) -> tuple[float, float]:
        """Of a task that has no place yet: its own seconds, and those that it would wait; 0 while no speed is known."""
        own = self.speed.seconds(task.work)
        return own, self._wait_seconds(task.work, own)

    def status(self) -> QueueStatus:
        """What a load balancer should know: requests, and predicted seconds."""
        own, per_flop = NEXT_REQUEST_SECONDS, self.speed.seconds_per_flop
        next_work = max(own - self.speed.fixed_seconds, 0.0) / per_flop if per_flop else 0.0
        return QueueStatus(
            running=self.running,
            waiting=self.waiting,
            capacity=self.limit,
            wait_seconds=round(self._wait_seconds(next_work, own), 1),
            backlog_seconds=round(sum(map(self._seconds_left, self._tasks)), 1),
        )

    def _seconds_left(self, task: DeviceTask) -> float:
        return self.speed.seconds(task.left) if task.started_at is None else task.left * self.speed.seconds_per_flop

    def _wait_seconds(self, work: float, own_seconds: float, before: int | None = None) -> float:
        """Seconds that the first `before` tasks, or all, keep a task of that work waiting.

        Those that are long beside it let it in, at half of the device's time.
        """
        tasks = self._tasks[:before]
        total = sum(map(self._seconds_left, tasks))
        in_turn = sum(self._seconds_left(task) for task in tasks if work > SHORT_SHARE * task.left)
        return min(2 * in_turn + own_seconds, total) if in_turn < total else in_turn

    def measure(self, task: DeviceTask) -> None:
        """Learn from a task that has ended. One that was cancelled tells only that all of it would have taken too long."""
        if task.done and not (task.cancelled and task.seconds < self.speed.seconds(task.work)):
            self.speed.learn(task.done, task.seconds)
