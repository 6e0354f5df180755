"""Admission: who may wait for the device, and when each will be done.

It knows neither HTTP nor models: a task's work is a number, and what work takes is learned.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from statistics import fmean
from typing import Any

from core.errors import DeadlineExceeded, QueueFull
from schemas.health import QueueStatus
from serving.workers import SHORT_SHARE
from workers.speed import Speed
from workers.task import DeviceTask

NEXT_REQUEST_SECONDS = 1.0  # of the device's time: the size of the request that `wait_seconds` is about
MAX_RETRY_SECONDS = 600  # beyond that, no prediction is worth waiting for


class Admission:
    """The places in front of the workers: `limit` that wait, and one for each worker that is there.

    A place is taken before a task's image may wait in memory, and given back when its result is encoded. All methods but
    `measure` are called on the event loop.
    """

    def __init__(
        self,
        limit: int,
        doubt_speed: Callable[[], None] = lambda: None,
        workers: Callable[[], int] = lambda: 1,
        short_share: float = SHORT_SHARE,
    ) -> None:
        """`doubt_speed` is called when a request is refused for its own predicted time alone; `workers` counts those there.

        `short_share` is that of the workers.
        """
        self.limit = limit
        self._short_share = short_share
        self.speeds: dict[str, Speed] = {}  # by the worker's name; none: nothing can be predicted
        self._doubt_speed = doubt_speed
        self._count_workers = workers
        self._tasks: list[DeviceTask] = []

    @property
    def workers(self) -> int:
        """That run tasks, or would, were one there."""
        return max(self._count_workers(), 1)

    @property
    def running(self) -> int:
        """Tasks on the device, those that let a shorter one in among them, or past it and being encoded."""
        return sum(task.started_at is not None for task in self._tasks)

    @property
    def waiting(self) -> int:
        """Tasks that have a place and whose turn has not come."""
        return len(self._tasks) - self.running

    @property
    def has_place(self) -> bool:
        """Whether one more can run or wait."""
        return len(self._tasks) < self.limit + self.workers

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
        if not self.has_place:
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
        if not self._usual.seconds(1):
            return None
        own = self._seconds_left(task)
        return self._wait_seconds(task.left, own, before=self.position(task)) + own

    def forecast(self, task: DeviceTask) -> tuple[float, float]:
        """Of a task that has no place yet: its own seconds, and those that it would wait; 0 while no speed is known."""
        own = self.own_seconds(task.work)
        return own, self._wait_seconds(task.work, own)

    def own_seconds(self, work: float) -> float:
        """Of a task of that work on the device alone; 0 while no speed is known."""
        return self._usual.seconds(work)

    def status(self) -> QueueStatus:
        """What a load balancer should know: requests, and predicted seconds."""
        own, usual = NEXT_REQUEST_SECONDS, self._usual
        next_work = max(own - usual.fixed_seconds, 0.0) / usual.seconds_per_flop if usual.seconds_per_flop else 0.0
        return QueueStatus(
            running=self.running,
            waiting=self.waiting,
            capacity=self.limit,
            wait_seconds=round(self._wait_seconds(next_work, own), 1),
            backlog_seconds=round(max(self._free_at(self._tasks)), 1),
        )

    @property
    def _usual(self) -> Speed:
        """What the workers do on average."""
        known = self.speeds.values()
        if not known:
            return Speed()
        return Speed(fmean(speed.fixed_seconds for speed in known), fmean(speed.seconds_per_flop for speed in known))

    def _seconds_left(self, task: DeviceTask) -> float:
        if task.started_at is None:
            return self._usual.seconds(task.left)
        return task.left * self.speeds.get(task.worker, self._usual).seconds_per_flop

    def _wait_seconds(self, work: float, own_seconds: float, before: int | None = None) -> float:
        """Seconds that the first `before` tasks, or all, keep a task of that work waiting.

        Those that are long beside it let it in, at half of the device's time.
        """
        tasks = self._tasks[:before]
        total = min(self._free_at(tasks))
        in_turn = min(self._free_at([task for task in tasks if work > self._short_share * task.left]))
        return min(2 * in_turn + own_seconds, total) if in_turn < total else in_turn

    def _free_at(self, tasks: Sequence[DeviceTask]) -> list[float]:
        """When each worker will have done what it has of these: the next task goes to the one that is free first."""
        free_at = [0.0] * self.workers
        for task in sorted(tasks, key=lambda task: task.started_at is None):
            heapq.heapreplace(free_at, free_at[0] + self._seconds_left(task))
        return free_at

    def measure(self, task: DeviceTask) -> None:
        """Learn from a task that has ended. One that was cancelled tells only that all of it would have taken too long."""
        speed = self.speeds.get(task.worker)
        if speed and task.done and not (task.cancelled and task.seconds < speed.seconds(task.work)):
            speed.learn(task.done, task.seconds)
