"""Tasks, admission, and the worker that runs them."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import numpy as np
import pytest
import pytest_asyncio

from core.errors import DeadlineExceeded, JobCancelled, QueueFull
from serving.admission import Admission
from serving.workers import Workers
from tests.helpers import HANG_SECONDS, fake_worker, until
from workers.speed import Speed
from workers.task import DeviceTask


def test_a_task_counts_its_work_until_it_is_cancelled() -> None:
    task = DeviceTask(100)
    task.advance(30)
    task.advance(20)
    assert task.done == 50
    task.cancel()
    with pytest.raises(JobCancelled):
        task.advance(10)


T = TypeVar("T")


class Device:
    """Admission and a worker, as the service puts them together."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self.admission = Admission(limit)
        self.workers = Workers(self.admission.measure, clock)

    async def run(self, task: DeviceTask, function: Callable[[], T]) -> T:
        return await self.workers.run(task, lambda _: function())


@contextmanager
def place(device: Device, task: DeviceTask, timeout_seconds: float = 1e9) -> Iterator[None]:
    """Hold a place, as the dispatcher does."""
    device.admission.admit(task, timeout_seconds)
    try:
        yield
    finally:
        device.admission.release(task)


@pytest_asyncio.fixture
async def device() -> AsyncIterator[Device]:
    device = Device(limit=2)
    await device.workers.add(fake_worker)
    yield device
    device.workers.close()


def test_progress_does_not_go_back_when_there_is_more_to_do_than_was_known() -> None:
    task = DeviceTask(100)
    task.advance(10)
    task.add_work(900)
    assert task.progress == 0.1
    task.advance(400)
    assert task.progress == 0.41


async def test_work_runs_one_at_a_time_in_order_on_one_thread(device: Device) -> None:
    seen: list[tuple[int, str]] = []

    def work(number: int) -> int:
        seen.append((number, threading.current_thread().name))
        return number

    async def serve(number: int) -> int:
        task = DeviceTask(1)
        with place(device, task):
            return await device.run(task, partial(work, number))

    assert await asyncio.gather(*map(serve, range(3))) == [0, 1, 2]
    assert seen == [(number, "device_0") for number in range(3)]
    assert (device.admission.running, device.admission.waiting) == (0, 0)


async def test_one_more_than_waiting_and_running_is_refused(device: Device) -> None:
    with place(device, DeviceTask(1)), place(device, DeviceTask(1)), place(device, DeviceTask(1)):
        assert device.admission.waiting == 3
        with pytest.raises(QueueFull) as refused, place(device, DeviceTask(1)):
            pass
        assert (refused.value.status, refused.value.retry_after_seconds) == (503, 1)
    with place(device, DeviceTask(1)):
        assert device.admission.waiting == 1


async def test_a_place_that_is_given_back_cancels_what_is_not_done(device: Device) -> None:
    task = DeviceTask(1)
    with place(device, task):
        assert not task.cancelled
    assert (task.cancelled, device.admission.waiting) == (True, 0)


async def test_a_task_knows_its_progress_its_position_and_when_it_will_be_done(device: Device) -> None:
    first, second = DeviceTask(400), DeviceTask(100)
    with place(device, first), place(device, second):
        assert [device.admission.position(task) for task in (first, second)] == [0, 1]
        assert device.admission.predicted_seconds(second) is None  # no rate is known
        first.advance(100)
        assert (first.progress, second.progress) == (0.25, 0.0)
        first.advance(1000)
        assert first.progress == 1.0
    assert device.admission.position(second) == 0


async def test_a_callers_own_cancellation_stays_one_and_keeps_the_place_until_the_next_step(device: Device) -> None:
    gate, task = threading.Event(), DeviceTask(2)

    def work() -> None:
        gate.wait()
        task.advance(1)
        task.advance(1)

    async def serve() -> None:
        with place(device, task):
            await device.run(task, work)

    serving = asyncio.create_task(serve())
    await until(lambda: device.admission.running == 1)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert device.admission.running == 1
    gate.set()
    await until(lambda: device.admission.running == 0)
    assert task.done == 1


# prediction


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest_asyncio.fixture
async def measured(clock: Clock) -> AsyncIterator[Device]:
    """A device that does 100 units a second."""
    device = Device(limit=4, clock=clock)
    await device.workers.add(fake_worker)
    device.admission.speeds["cpu"] = Speed(seconds_per_flop=0.01)
    yield device
    device.workers.close()


async def test_a_full_queue_says_when_the_next_place_is_free(measured: Device) -> None:
    measured.admission.limit = 1
    first, second = DeviceTask(1000), DeviceTask(50_000)
    with place(measured, first), place(measured, second):
        for done, seconds in ((0, 10), (550, 5), (10_000, 1)):  # 4.5 is rounded up; the last estimate was too low
            first.advance(done)
            with pytest.raises(QueueFull) as refused:
                measured.admission.admit(DeviceTask(1), 1e9)
            assert refused.value.retry_after_seconds == seconds


async def test_what_stands_before_a_request_refuses_it_if_it_would_be_late(measured: Device) -> None:
    with place(measured, DeviceTask(1000)), place(measured, DeviceTask(1000)):
        with pytest.raises(QueueFull, match="20 s of work stand before") as refused:
            measured.admission.admit(DeviceTask(500), timeout_seconds=18)
        assert refused.value.retry_after_seconds == 7  # 25 − 18
        with place(measured, DeviceTask(500), timeout_seconds=26):
            pass
        with place(measured, DeviceTask(1_000_000)), pytest.raises(QueueFull) as refused:
            measured.admission.admit(DeviceTask(300_000), timeout_seconds=3001)
        assert refused.value.retry_after_seconds == 600  # the most


async def test_what_alone_takes_over_twice_its_time_is_refused_for_good_and_no_less(measured: Device) -> None:
    with pytest.raises(DeadlineExceeded, match="takes about 21 s here; the limit is 10 s") as refused:
        measured.admission.admit(DeviceTask(2100), timeout_seconds=10)
    assert (refused.value.status, refused.value.details) == (504, {"predicted_seconds": 21.0, "timeout_seconds": 10})
    with place(measured, DeviceTask(1900), timeout_seconds=10):
        pass


async def test_a_long_task_keeps_a_short_one_waiting_for_half_of_the_device_only(measured: Device) -> None:
    long, short, equal = DeviceTask(100_000), DeviceTask(100), DeviceTask(90_000)
    with place(measured, long), place(measured, short), place(measured, equal):
        assert measured.admission.predicted_seconds(long) == 1000
        assert measured.admission.predicted_seconds(short) == 1 + 1  # the long one's share meanwhile, its own
        assert measured.admission.predicted_seconds(equal) == 1000 + 1 + 900
        status = measured.admission.status()
        assert (status.running, status.waiting, status.capacity) == (0, 3, 4)
        assert (status.wait_seconds, status.backlog_seconds) == (3.0, 1901.0)
    assert measured.admission.status().wait_seconds == 0


# short tasks within long ones


async def run_beside_a_long_one(device: Device, clock: Clock, short_work: float, count: int) -> tuple[DeviceTask, list[str]]:
    """A task of 1000 units in ten steps, and short ones that come when it has begun; and the order of it all."""
    long, begun, go, order = DeviceTask(1000), threading.Event(), threading.Event(), list[str]()

    def work_long() -> None:
        begun.set()
        assert go.wait(HANG_SECONDS)
        for step in range(10):
            clock.now += 1
            order.append(f"long {step}")
            long.advance(100)

    def work_short(task: DeviceTask, name: str) -> None:
        clock.now += task.work / 100
        order.append(name)
        task.advance(task.work)

    shorts = [DeviceTask(short_work) for _ in range(count)]
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(device.run(long, work_long))
        await asyncio.to_thread(begun.wait, HANG_SECONDS)
        for number, task in enumerate(shorts):
            tasks.create_task(device.run(task, partial(work_short, task, f"short {number}")))
        await asyncio.sleep(0)
        go.set()
    return long, order


async def test_a_short_task_runs_between_two_steps_of_a_long_one(measured: Device, clock: Clock) -> None:
    _, order = await run_beside_a_long_one(measured, clock, short_work=100, count=1)
    assert order[:3] == ["long 0", "short 0", "long 1"]


async def test_a_task_of_over_a_quarter_of_what_is_left_waits_for_its_turn(measured: Device, clock: Clock) -> None:
    _, order = await run_beside_a_long_one(measured, clock, short_work=240, count=1)
    assert order[-2:] == ["long 9", "short 0"]


async def test_short_tasks_take_at_most_half_of_the_time_of_a_long_one_and_come_in_order(
    measured: Device, clock: Clock
) -> None:
    long, order = await run_beside_a_long_one(measured, clock, short_work=50, count=100)
    assert [name for name in order if name.startswith("short")] == [f"short {n}" for n in range(100)]
    during = order[: order.index("long 9")]
    assert 12 <= sum(name.startswith("short") for name in during) <= 20
    assert long.given_seconds <= long.seconds == 10


async def test_an_error_in_a_short_task_is_its_own(measured: Device) -> None:
    long, short, begun, go = DeviceTask(1000), DeviceTask(1), threading.Event(), threading.Event()

    def work_long() -> str:
        begun.set()
        assert go.wait(HANG_SECONDS)
        long.advance(1)
        return "done"

    def work_short() -> None:
        raise RuntimeError("of the short one")

    running = asyncio.create_task(measured.run(long, work_long))
    await asyncio.to_thread(begun.wait, HANG_SECONDS)
    failing = asyncio.create_task(measured.run(short, work_short))
    await asyncio.sleep(0)
    go.set()
    assert await running == "done"
    with pytest.raises(RuntimeError, match="of the short one"):
        await failing


async def test_a_result_goes_with_its_task_and_waits_for_no_garbage_collection(device: Device) -> None:
    class Result:
        """What a weak reference can be made to."""

    async def serve() -> weakref.ref[Result]:
        task = DeviceTask(1)
        with place(device, task):
            return weakref.ref(await device.run(task, Result))

    gc.disable()
    try:
        result = await serve()
        await asyncio.sleep(0)  # callbacks of what has ended
        await until(lambda: result() is None)
    finally:
        gc.enable()


async def test_of_a_task_that_is_cancelled_before_its_turn_nothing_is_kept(device: Device) -> None:
    begun, go = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        assert go.wait(60)

    running = asyncio.create_task(device.run(DeviceTask(1), hold))
    await asyncio.to_thread(begun.wait, 60)
    task, picture = DeviceTask(1), np.zeros(1)
    picture_ref = weakref.ref(picture)
    waiting = asyncio.create_task(device.run(task, partial(np.sum, picture)))
    del picture
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    del waiting
    await until(lambda: picture_ref() is None)
    go.set()
    await running
