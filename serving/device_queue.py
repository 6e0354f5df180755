"""The queue in front of the device: who may wait, who is next, when each will be done, and the one thread that alone touches
the device.

This room knows neither HTTP nor networks: a job's work is a number and a function.
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

from core.errors import DeadlineExceeded, JobCancelled, QueueFull

logger = logging.getLogger(__name__)

T = TypeVar("T")

SHORT_SHARE = 0.25  # of what is left of the running job: a job of at most that may run in between
NEXT_REQUEST_SECONDS = 1.0  # of the device's time: the request whose wait `wait_seconds` tells
MAX_RETRY_SECONDS = 600  # beyond that, no prediction is worth waiting for
MEMORY_OF_RATE = 0.7  # what a measurement still weighs after the next
WATCH_SECONDS = 1.0  # between two looks at whether the device's thread still lives


class DeviceThreadDied(RuntimeError):
    """The thread was ended in the middle of a job.

    A plain error: what ends a thread must not end the event loop that hears of it.
    """


class Job:
    """One result's work on the device: its progress and its cancellation in one object, which any thread may call."""

    def __init__(self, work: float) -> None:
        """`work` is in the unit that `advance` counts, FLOPs here."""
        self.work = work
        self.done = 0.0
        self._least_progress = 0.0
        self.started_at: float | None = None  # seconds since the epoch, for others to see
        self.begun_at = 0.0  # on the queue's clock
        self.given_seconds = 0.0  # to shorter jobs
        self.seconds = 0.0  # on the device, without those
        self.future: Future[Any] | None = None
        self.cancelled = False
        self.give_way: Callable[[Job], None] = lambda _job: None  # set by the queue when the job starts

    def advance(self, work: float) -> None:
        """Note that `work` has been done. The pipeline calls it between any two steps, on the device's thread.

        Shorter jobs may run meanwhile, in this very call.

        Raises:
            JobCancelled: nobody waits for the result any more.
        """
        self.done += work
        self._check()
        self.give_way(self)
        self._check()

    def clock(self) -> float:
        """Seconds that stand still while shorter jobs run."""
        return time.perf_counter() - self.given_seconds

    def expect(self, work: float) -> None:
        """Note that there is more to do than was known; what is told of the progress does not go back for that."""
        self._least_progress = self.progress
        self.work += work

    def _check(self) -> None:
        if self.cancelled:
            raise JobCancelled("The job was cancelled.")

    @property
    def left(self) -> float:
        """The work that is not done."""
        return max(self.work - self.done, 0.0)

    @property
    def progress(self) -> float:
        """The share of the work that is done, 0–1."""
        return max(min(self.done / self.work, 1.0), self._least_progress) if self.work else 0.0

    def cancel(self) -> None:
        """Let the job end at its next step, or never start."""
        self.cancelled = True
        if self.future is not None:
            self.future.cancel()


class DeviceQueue:
    """Admission, and the one thread that alone touches the device.

    Jobs start in the order of their coming. Between two steps of a long one, those run that are short beside what is left of
    it, as long as it has given away no more time than it had: so it takes at most twice as long, and they wait for a step.

    A place is taken before a job's image may wait in memory, and given back when its result is encoded: `limit + 1` at most.
    All methods without an underscore are called on the event loop.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self.limit = limit
        self._clock = clock  # in seconds
        self._measured_work = self._measured_seconds = 0.0  # of past jobs, the older the less
        self._jobs: list[Job] = []
        self._waiting: dict[Job, Callable[[], Any]] = {}  # in order, for the device's thread
        self._lock = threading.Lock()  # of these
        self._thread: threading.Thread | None = None
        self._executor = self._start_thread()

    # admission

    @property
    def running(self) -> int:
        """Jobs on the device, those that let a shorter one in among them, or past it and being encoded."""
        return sum(job.started_at is not None for job in self._jobs)

    @property
    def waiting(self) -> int:
        """Jobs that have a place and whose turn has not come."""
        return len(self._jobs) - self.running

    def admit(self, job: Job, timeout_seconds: float) -> None:
        """Take a place for `job`, which `release` gives back.

        Raises:
            QueueFull: `limit` jobs wait already, or what stands before `job` takes too long for it.
            DeadlineExceeded: `job` alone takes longer than twice the time that it has.
        """
        self.check(job, timeout_seconds)
        self._jobs.append(job)

    def check(self, job: Job, timeout_seconds: float) -> None:
        """Make sure that `admit` would take the job now.

        Raises:
            QueueFull, DeadlineExceeded: as `admit`.
        """
        wait, own = self._wait_seconds(job.work), self._seconds(job.work)
        if own > 2 * timeout_seconds:
            raise DeadlineExceeded(
                f"This alone takes about {own:.0f} s here, and may take {round(timeout_seconds, 1):g} s. "
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
        if len(self._jobs) > self.limit:
            raise self._full(
                f"The queue is full: {self.limit} requests are waiting already. Try again later.",
                min(self.predicted_seconds(each) or 0.0 for each in self._jobs),
            )

    def _full(self, message: str, seconds: float) -> QueueFull:
        return QueueFull(message, retry_after_seconds=min(max(math.ceil(seconds), 1), MAX_RETRY_SECONDS))

    def release(self, job: Job) -> None:
        """Cancel what is not done of `job`, and free its place: at once, or when the device has reached its next step."""
        job.cancel()
        with self._lock:
            self._waiting.pop(job, None)
        if job.future is None or job.future.done():
            self._jobs.remove(job)
        else:
            job.future.add_done_callback(partial(self._remove_later, asyncio.get_running_loop(), job))

    def _remove_later(self, loop: asyncio.AbstractEventLoop, job: Job, _: Future[Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends, and nobody counts places any more
            loop.call_soon_threadsafe(self._jobs.remove, job)

    # prediction

    def position(self, job: Job) -> int:
        """How many jobs came before `job` and are not done."""
        return self._jobs.index(job) if job in self._jobs else 0

    def predicted_seconds(self, job: Job) -> float | None:
        """Seconds until `job` will be done, those before it included; None while no rate is known."""
        if not self._measured_seconds:
            return None
        return self._wait_seconds(job.left, before=self.position(job)) + self._seconds(job.left)

    def forecast(self, job: Job) -> tuple[float, float]:
        """Of a job that has no place yet: its own seconds, and those that it would wait; 0 while no rate is known."""
        return self._seconds(job.work), self._wait_seconds(job.work)

    def describe(self) -> dict[str, object]:
        """What a load balancer should know: heads, and predicted seconds."""
        next_work = NEXT_REQUEST_SECONDS * self._rate
        return {
            "running": self.running,
            "waiting": self.waiting,
            "capacity": self.limit,
            "wait_seconds": round(self._wait_seconds(next_work), 1),
            "backlog_seconds": round(self._seconds(sum(job.left for job in self._jobs)), 1),
        }

    @property
    def _rate(self) -> float:
        """FLOPs in a second, as measured; 0: not measured yet."""
        return self._measured_work / self._measured_seconds if self._measured_seconds else 0.0

    def _seconds(self, work: float) -> float:
        return work / self._rate if self._rate else 0.0

    def _wait_seconds(self, work: float, before: int | None = None) -> float:
        """Seconds that the first `before` jobs, or all, keep a job of that work waiting.

        Those that are long beside it let it in, at half of the device's time.
        """
        left = [job.left for job in self._jobs[:before]]
        in_turn = sum(each for each in left if work > SHORT_SHARE * each)
        if in_turn < sum(left):
            return self._seconds(min(2 * in_turn + work, sum(left)))
        return self._seconds(in_turn)

    # the device's thread

    async def run(self, job: Job, function: Callable[[], T]) -> T:
        """Run `function` on the device's thread, when its turn has come; it reports to `job.advance`."""
        job.future = Future()
        with self._lock:
            self._waiting[job] = partial(contextvars.copy_context().run, function)  # for its log lines
        self._executor.submit(self._run_next)
        answer: asyncio.Future[T] = asyncio.wrap_future(job.future)
        try:
            while not (await asyncio.wait({answer}, timeout=WATCH_SECONDS))[0]:
                self._watch_thread(job)
            return await answer
        finally:
            answer.cancel()

    def _start_thread(self) -> ThreadPoolExecutor:
        def note_thread() -> None:
            self._thread = threading.current_thread()

        return ThreadPoolExecutor(1, thread_name_prefix="device", initializer=note_thread)

    def _watch_thread(self, job: Job) -> None:
        """Replace a thread that has died, with what it had taken: the executor takes it for a busy one for ever."""
        if self._thread is None or self._thread.is_alive():
            return
        logger.error("the device's thread died; another takes its place")
        for each in {job, *self._jobs} - self._waiting.keys():
            if each.future and not each.future.done():
                each.future.set_exception(DeviceThreadDied("It ended with this job in its hands."))
        self._thread = None
        self._executor.shutdown(wait=False)
        self._executor = self._start_thread()
        for _ in range(len(self._waiting)):
            self._executor.submit(self._run_next)

    def _run_next(self, most_work: float = math.inf) -> bool:
        """Run the first that waits and has at most that work; False if there is none."""
        with self._lock:
            job = next((job for job in self._waiting if job.work <= most_work), None)
            if job is None:
                return False
            function = self._waiting.pop(job)
        self._run(job, function)
        return True

    def _run(self, job: Job, function: Callable[[], Any]) -> None:
        future = job.future
        if future is None or not future.set_running_or_notify_cancel():
            return
        job.started_at, job.begun_at, job.give_way = time.time(), self._clock(), self._give_way
        try:
            result = function()
        except BaseException as exc:  # whatever it is: the thread goes on, and its caller hears of it
            future.set_exception(exc if isinstance(exc, Exception) else DeviceThreadDied(f"killed by {exc!r}"))
        else:
            job.seconds = self._clock() - job.begun_at - job.given_seconds
            self._measure(job)
            future.set_result(result)

    def _give_way(self, job: Job) -> None:
        """Run shorter jobs, one after the other, unless `job` has given away more time than it had."""
        start = self._clock()
        while job.given_seconds <= start - job.begun_at - job.given_seconds and self._run_next(SHORT_SHARE * job.left):
            end = self._clock()
            job.given_seconds += end - start
            start = end

    def _measure(self, job: Job) -> None:
        if job.done:
            self._measured_work = MEMORY_OF_RATE * self._measured_work + job.done
            self._measured_seconds = MEMORY_OF_RATE * self._measured_seconds + job.seconds

    def close(self) -> None:
        """Let the device's thread go, once it has finished what it is doing."""
        self._executor.shutdown(wait=False, cancel_futures=True)
