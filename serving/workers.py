"""The queue in front of the workers: each has a thread of its own, which alone lets it work.

It knows neither HTTP nor pictures: a task's work is a number and a function of the worker that runs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from core.errors import DeviceLost, JobCancelled, WorkerLost
from workers.task import DeviceTask
from workers.worker import Clock, Worker

logger = logging.getLogger(__name__)

T = TypeVar("T")

SHORT_SHARE = 0.25  # of what is left of the running task: a task of at most that may run in between
WATCH_SECONDS = 1.0  # between two looks at whether the threads still live, and which workers do


@dataclass(frozen=True)
class _Call:
    """What a task does: a function of its worker, in its log lines' context; and the place that alone may do it, if any."""

    function: Callable[[Worker], Any]
    context: contextvars.Context
    place: Place | None

    def is_for(self, place: Place) -> bool:
        """Whether that place may do it now."""
        return place is self.place if self.place else place.is_open


class _Thread:
    """A thread that calls what it is given, in turn."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="device", initializer=self._note_thread)
        self.submit = self._executor.submit

    def _note_thread(self) -> None:
        self._thread = threading.current_thread()

    @property
    def has_died(self) -> bool:
        """Its executor would take it for busy for ever."""
        return self._thread is not None and not self._thread.is_alive()

    def close(self) -> None:
        """Let it go, once it has finished what it is doing."""
        self._executor.shutdown(wait=False, cancel_futures=True)


class Place:
    """A worker, its thread, and what it does."""

    def __init__(self, worker: Worker, thread: _Thread) -> None:
        self.worker = worker
        self.thread = thread
        self.out_of_use = ""  # why it gets no more tasks
        self.tasks_done = 0  # of those that any worker could have done
        self.retries = 0  # tasks that began again, since this worker was lost
        self.running: dict[DeviceTask, _Call] = {}  # the last one runs; it was let in by the one before it
        self.looks_for_tasks = False

    @property
    def is_open(self) -> bool:
        """Whether it can take a task."""
        return not self.out_of_use and self.worker.is_alive


class Workers:
    """Runs tasks in the order of their coming, each on the first worker that is free.

    Between two steps of a long task, its worker runs those that are short beside what is left of it, as long as it has given
    away no more time than it had: so it takes at most twice as long, and they wait for a step.

    A task whose worker is lost begins again on another, before all that wait; once, and then it fails with WorkerLost. A
    worker whose device is lost gets no more tasks. With the last one, all that wait fail with DeviceLost, and those that come.
    """

    def __init__(
        self,
        measured: Callable[[DeviceTask], None],
        clock: Clock = time.perf_counter,
        lost: Callable[[DeviceLost], None] = lambda _: None,
        short_share: float = SHORT_SHARE,
    ) -> None:
        """`clock` is in seconds; `short_share` is 0 for workers that can do nothing between two steps.

        `measured` hears of each task that has ended well or was cancelled, on the worker's thread; `lost` of the last device's
        end, once, on the event loop, and before any task's caller does.
        """
        self.clock = clock
        self.places: list[Place] = []
        self._measured = measured
        self._hear_of_loss = lost
        self._short_share = short_share
        self._loss: DeviceLost | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: dict[DeviceTask, _Call] = {}  # in order
        self._lock = threading.Lock()  # of these, and of what the places do

    @property
    def open_count(self) -> int:
        """How many can take tasks."""
        return sum(place.is_open for place in self.places)

    def any(self) -> Worker:
        """One that can be asked what all would say alike: one that is open, if there is any."""
        return min(self.places, key=lambda place: not place.is_open).worker

    async def add(self, make: Callable[[], Worker]) -> Place:
        """Another place, whose worker is made on its thread; what `make` raises leaves none behind."""
        self._loop, thread = asyncio.get_running_loop(), _Thread()
        try:
            place = Place(await asyncio.wrap_future(thread.submit(make)), thread)
        except BaseException:
            thread.close()
            raise
        self.places.append(place)
        return place

    async def run(self, task: DeviceTask, function: Callable[[Worker], T], place: Place | None = None) -> T:
        """Run `function` of a worker, or of that one, when its turn has come; it reports to `task`.

        Raises:
            DeviceLost: there is no worker left whose device is well.
            WorkerLost: the second worker that ran it was lost too.
        """
        task.future = Future()
        with self._lock:
            if self._loss:
                raise DeviceLost(self._loss.reason)
            self._waiting[task] = _Call(function, contextvars.copy_context(), place)
            self._wake()
        result: asyncio.Future[T] = asyncio.wrap_future(task.future)
        try:
            while not (await asyncio.wait({result}, timeout=WATCH_SECONDS))[0]:
                self._watch()
            return await result
        finally:
            result.cancel()
            with self._lock:
                self._forget(task)

    def _forget(self, task: DeviceTask) -> None:
        """Keep nothing of a task that was cancelled before its turn, be it the second."""
        if self._waiting.pop(task, None) and task.future and not task.future.cancel():
            task.future.set_exception(JobCancelled("The task was cancelled."))

    def _wake(self) -> None:
        """Let one look for tasks, for each that waits and that it may do."""
        idle = [place for place in self.places if not place.looks_for_tasks]
        for call in self._waiting.values():
            if place := next(filter(call.is_for, idle), None):
                idle.remove(place)
                place.looks_for_tasks = True
                place.thread.submit(self._work, place)

    def _watch(self) -> None:
        with self._lock:
            for place in self.places:
                if place.thread.has_died:
                    logger.error("the thread of %s died; another takes its place", place.worker.name)
                    place.thread.close()
                    place.thread = _Thread()
                    self._let_go(place)
            self._wake()  # workers elsewhere come and go

    def _work(self, place: Place) -> None:
        try:
            while self._run_next(place):
                pass
        finally:
            with self._lock:
                self._let_go(place)

    def _let_go(self, place: Place) -> None:
        """Of a thread that was ended between two tasks, or with one in its hands, however that came about."""
        place.looks_for_tasks = False
        for task, call in place.running.items():
            if task not in self._waiting and task.future and not task.future.done():
                self._retry_or_fail(place, task, call, WorkerLost("its thread died"))
        place.running.clear()

    def _run_next(self, place: Place, most_work: float = math.inf) -> bool:
        """Run the first that waits for such a worker and has at most that work; False if there is none."""
        with self._lock:
            task = self._next_for(place, most_work)
            if task is None:
                place.looks_for_tasks = bool(place.running)
                return False
            place.running[task] = call = self._waiting[task]
            del self._waiting[task]
        self._run(place, task, call)
        return True

    def _next_for(self, place: Place, most_work: float = math.inf) -> DeviceTask | None:
        tasks = self._waiting.items()
        return next((task for task, call in tasks if task.work <= most_work and call.is_for(place)), None)

    def _run(self, place: Place, task: DeviceTask, call: _Call) -> None:
        future = task.future
        if future is None or not (future.running() or future.set_running_or_notify_cancel()):
            with self._lock:
                del place.running[task]
            return
        task.worker = place.worker.name
        task.started_at, task.begun_at, task.give_way = time.time(), self.clock(), partial(self._give_way, place)
        try:
            task.check()
            result = call.context.run(call.function, place.worker)
        except BaseException as exc:  # whatever it is: the thread goes on, and its caller hears of it
            if isinstance(exc, JobCancelled):
                self._measure(task)
            with self._lock:
                self._fail(place, task, call, exc)
                del place.running[task]
        else:
            self._measure(task)
            with self._lock:
                place.tasks_done += call.place is None
                future.set_result(result)
                del place.running[task]

    def _fail(self, place: Place, task: DeviceTask, call: _Call, exc: BaseException) -> None:
        if not isinstance(exc, Exception):  # must not end the event loop
            exc = WorkerLost(f"killed by {exc!r}")
        if isinstance(exc, DeviceLost):
            exc = self._put_out_of_use(place, exc)
        if isinstance(exc, WorkerLost):
            self._retry_or_fail(place, task, call, exc)
        elif task.future:
            task.future.set_exception(exc)

    def _put_out_of_use(self, place: Place, loss: DeviceLost) -> DeviceLost | WorkerLost:
        """Of a worker whose device is lost: what its task fails with."""
        is_first, place.out_of_use = not place.out_of_use, loss.reason
        if all(other.out_of_use for other in self.places):
            self._give_up(loss)
            return loss
        if is_first:
            logger.critical("%s is lost, and gets no more work: %s", place.worker.name, loss.reason, exc_info=loss.__cause__)
        return WorkerLost(loss.reason)

    def _retry_or_fail(self, place: Place, task: DeviceTask, call: _Call, lost: WorkerLost) -> None:
        if task.retries or task.cancelled:
            if task.future:
                task.future.set_exception(lost)
            return
        logger.error("%s was lost, and its task begins again: %s", place.worker.name, lost.reason)
        task.begin_again()
        self._waiting = {task: call, **self._waiting}
        place.retries += 1
        self._wake()

    def _measure(self, task: DeviceTask) -> None:
        task.seconds = self.clock() - task.begun_at - task.given_seconds
        self._measured(task)

    def _give_up(self, loss: DeviceLost) -> None:
        """Fail all that wait, and whatever will come."""
        is_first, self._loss = self._loss is None, loss
        waiting = [task.future for task in self._waiting]
        self._waiting.clear()
        if is_first and self._loop:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to hear of it
                self._loop.call_soon_threadsafe(self._hear_of_loss, loss)
        for future in waiting:
            if future and (future.running() or future.set_running_or_notify_cancel()):
                future.set_exception(DeviceLost(loss.reason))

    def _give_way(self, place: Place, task: DeviceTask) -> None:
        """Run shorter tasks, one after the other, unless `task` has given away more time than it had."""
        start = self.clock()
        while task.given_seconds <= start - task.begun_at - task.given_seconds:
            if not self._run_next(place, self._short_share * task.left):
                return
            end = self.clock()
            task.given_seconds += end - start
            start = end

    def close(self) -> None:
        """Let the threads go, once they have finished what they are doing."""
        for place in self.places:
            place.thread.close()
