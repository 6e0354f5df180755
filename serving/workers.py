"""The worker: the one thread that alone touches the device, and the tasks that it runs.

It knows neither HTTP nor models: a task's work is a number and a function.
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
from functools import partial
from typing import Any, TypeVar

from core.errors import DeviceLost, JobCancelled

logger = logging.getLogger(__name__)

T = TypeVar("T")

SHORT_SHARE = 0.25  # of what is left of the running task: a task of at most that may run in between
WATCH_SECONDS = 1.0  # between two looks at whether the thread still lives


class WorkerDied(RuntimeError):
    """The thread was ended in the middle of a task.

    A plain error: what ends a thread must not end the event loop that hears of it.
    """


class DeviceTask:
    """One result's work on the device: its `Progress` and its cancellation in one object, which any thread may call."""

    def __init__(self, work: float) -> None:
        """`work` is in the unit that `advance` counts: FLOPs."""
        self.work = work
        self.done = 0.0
        self._least_progress = 0.0
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
        self._check()
        self.give_way(self)
        self._check()

    def clock(self) -> float:
        """Seconds that stand still while shorter tasks run."""
        return time.perf_counter() - self.given_seconds

    def add_work(self, work: float) -> None:
        """Note that there is more to do than was known; `progress` does not go back for that."""
        self._least_progress = self.progress
        self.work += work

    def _check(self) -> None:
        if self.cancelled:
            raise JobCancelled("The task was cancelled.")

    @property
    def left(self) -> float:
        """The work that is not done."""
        return max(self.work - self.done, 0.0)

    @property
    def progress(self) -> float:
        """The share of the work that is done, 0–1."""
        return max(min(self.done / self.work, 1.0), self._least_progress) if self.work else 0.0

    def cancel(self) -> None:
        """Let the task end at its next step, or never start."""
        self.cancelled = True
        if self.future is not None:
            self.future.cancel()


class DeviceWorker:
    """Runs tasks in the order of their coming, on one thread.

    Between two steps of a long task, those run that are short beside what is left of it, as long as it has given away no more
    time than it had: so it takes at most twice as long, and they wait for a step.

    A task that finds the device lost is the last: those that wait, and those that come, fail with `DeviceLost` too.
    """

    def __init__(
        self,
        measured: Callable[[DeviceTask], None],
        clock: Callable[[], float] = time.perf_counter,
        lost: Callable[[DeviceLost], None] = lambda _: None,
    ) -> None:
        """`clock` is in seconds.

        `measured` hears of each task that has ended well or was cancelled, on the worker's thread; `lost` of the device's end,
        once, on the event loop, and before any task's caller does.
        """
        self._measured = measured
        self._clock = clock
        self._hear_of_loss = lost
        self._loss: DeviceLost | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: dict[DeviceTask, Callable[[], Any]] = {}  # in order
        self._lock = threading.Lock()  # of these
        self._running: list[DeviceTask] = []  # the last one runs; it was let in by the one before it
        self._thread: threading.Thread | None = None
        self._executor = self._start_thread()

    async def run(self, task: DeviceTask, function: Callable[[], T]) -> T:
        """Run `function` on the device's thread, when its turn has come; it reports to `task`.

        Raises:
            DeviceLost: `function` or another's found the device lost.
        """
        task.future = Future()
        self._loop = asyncio.get_running_loop()
        with self._lock:
            if self._loss:
                raise DeviceLost(self._loss.reason)
            self._waiting[task] = partial(contextvars.copy_context().run, function)  # for its log lines
        self._executor.submit(self._run_next)
        result: asyncio.Future[T] = asyncio.wrap_future(task.future)
        try:
            while not (await asyncio.wait({result}, timeout=WATCH_SECONDS))[0]:
                self._watch_thread(task)
            return await result
        finally:
            result.cancel()
            with self._lock:
                self._waiting.pop(task, None)  # of a task that was cancelled before its turn, nothing is kept

    def _start_thread(self) -> ThreadPoolExecutor:
        def note_thread() -> None:
            self._thread = threading.current_thread()

        return ThreadPoolExecutor(1, thread_name_prefix="device", initializer=note_thread)

    def _watch_thread(self, watched: DeviceTask) -> None:
        """Replace a thread that has died, and fail the tasks that it had: the executor would take it for busy for ever."""
        if self._thread is None or self._thread.is_alive():
            return
        logger.error("the device's thread died; another takes its place")
        for task in {watched, *self._running} - self._waiting.keys():
            if task.future and not task.future.done():
                task.future.set_exception(WorkerDied("It ended with this task in its hands."))
        self._running.clear()
        self._thread = None
        self._executor.shutdown(wait=False)
        self._executor = self._start_thread()
        for _ in range(len(self._waiting)):
            self._executor.submit(self._run_next)

    def _run_next(self, most_work: float = math.inf) -> bool:
        """Run the first that waits and has at most that work; False if there is none."""
        with self._lock:
            task = next((task for task in self._waiting if task.work <= most_work), None)
            if task is None:
                return False
            function = self._waiting.pop(task)
            self._running.append(task)
        self._run(task, function)
        return True

    def _run(self, task: DeviceTask, function: Callable[[], Any]) -> None:
        future = task.future
        if future is None or not future.set_running_or_notify_cancel():
            self._running.remove(task)
            return
        task.started_at, task.begun_at, task.give_way = time.time(), self._clock(), self._give_way
        try:
            result = function()
        except BaseException as exc:  # whatever it is: the thread goes on, and its caller hears of it
            if isinstance(exc, JobCancelled):
                self._measure(task)
            self._running.remove(task)
            if isinstance(exc, DeviceLost):
                self._give_up(exc)
            future.set_exception(exc if isinstance(exc, Exception) else WorkerDied(f"killed by {exc!r}"))
        else:
            self._measure(task)
            self._running.remove(task)
            future.set_result(result)

    def _measure(self, task: DeviceTask) -> None:
        task.seconds = self._clock() - task.begun_at - task.given_seconds
        self._measured(task)

    def _give_up(self, loss: DeviceLost) -> None:
        """Fail all that wait, and whatever will come."""
        with self._lock:
            is_first, self._loss = self._loss is None, loss
            waiting = [task.future for task in self._waiting]
            self._waiting.clear()
        if is_first and self._loop:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to hear of it
                self._loop.call_soon_threadsafe(self._hear_of_loss, loss)
        for future in waiting:
            if future and future.set_running_or_notify_cancel():
                future.set_exception(DeviceLost(loss.reason))

    def _give_way(self, task: DeviceTask) -> None:
        """Run shorter tasks, one after the other, unless `task` has given away more time than it had."""
        start = self._clock()
        while task.given_seconds <= start - task.begun_at - task.given_seconds and self._run_next(SHORT_SHARE * task.left):
            end = self._clock()
            task.given_seconds += end - start
            start = end

    def close(self) -> None:
        """Let the thread go, once it has finished what it is doing."""
        self._executor.shutdown(wait=False, cancel_futures=True)
