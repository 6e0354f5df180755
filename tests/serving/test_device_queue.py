"""Jobs, and the queue in front of the device."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import pytest_asyncio

from core.errors import DeadlineExceeded, JobCancelled, QueueFull
from serving.device_queue import DeviceQueue, Job
from tests.helpers import until


def test_a_job_counts_its_work_until_it_is_cancelled() -> None:
    job = Job(100)
    job.advance(30)
    job.advance(20)
    assert job.done == 50
    job.cancel()
    with pytest.raises(JobCancelled):
        job.advance(10)


@contextmanager
def place(queue: DeviceQueue, job: Job, timeout_seconds: float = 1e9) -> Iterator[None]:
    """Hold a place, as the dispatcher does."""
    queue.admit(job, timeout_seconds)
    try:
        yield
    finally:
        queue.release(job)


@pytest.fixture
def queue() -> Iterator[DeviceQueue]:
    queue = DeviceQueue(limit=2)
    yield queue
    queue.close()


def test_progress_does_not_go_back_when_there_is_more_to_do_than_was_known() -> None:
    job = Job(100)
    job.advance(10)
    job.expect(900)
    assert job.progress == 0.1
    job.advance(400)
    assert job.progress == 0.41


async def test_work_runs_one_at_a_time_in_order_on_one_thread(queue: DeviceQueue) -> None:
    seen: list[tuple[int, str]] = []

    def work(number: int) -> int:
        seen.append((number, threading.current_thread().name))
        return number

    async def serve(number: int) -> int:
        job = Job(1)
        with place(queue, job):
            return await queue.run(job, partial(work, number))

    assert await asyncio.gather(*map(serve, range(3))) == [0, 1, 2]
    assert seen == [(number, "device_0") for number in range(3)]
    assert (queue.running, queue.waiting) == (0, 0)


async def test_one_more_than_waiting_and_running_is_refused(queue: DeviceQueue) -> None:
    with place(queue, Job(1)), place(queue, Job(1)), place(queue, Job(1)):
        assert queue.waiting == 3
        with pytest.raises(QueueFull) as refused, place(queue, Job(1)):
            pass
        assert (refused.value.status, refused.value.retry_after_seconds) == (503, 1)
    with place(queue, Job(1)):
        assert queue.waiting == 1


async def test_a_place_that_is_given_back_cancels_what_is_not_done(queue: DeviceQueue) -> None:
    job = Job(1)
    with place(queue, job):
        assert not job.cancelled
    assert (job.cancelled, queue.waiting) == (True, 0)


async def test_a_job_knows_its_progress_its_position_and_when_it_will_be_done(queue: DeviceQueue) -> None:
    first, second = Job(400), Job(100)
    with place(queue, first), place(queue, second):
        assert [queue.position(job) for job in (first, second)] == [0, 1]
        assert queue.predicted_seconds(second) is None  # no rate is known
        first.advance(100)
        assert (first.progress, second.progress) == (0.25, 0.0)
        first.advance(1000)
        assert first.progress == 1.0
    assert queue.position(second) == 0


async def test_a_callers_own_cancellation_stays_one_and_keeps_the_place_until_the_next_step(queue: DeviceQueue) -> None:
    gate, job = threading.Event(), Job(2)

    def work() -> None:
        gate.wait()
        job.advance(1)
        job.advance(1)

    async def serve() -> None:
        with place(queue, job):
            await queue.run(job, work)

    task = asyncio.create_task(serve())
    await until(lambda: queue.running == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert queue.running == 1
    gate.set()
    await until(lambda: queue.running == 0)
    assert job.done == 1


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
async def measured(clock: Clock) -> AsyncIterator[DeviceQueue]:
    """A queue before a device that does 100 units a second."""
    queue, job = DeviceQueue(limit=4, clock=clock), Job(0)

    def work() -> None:
        clock.now += 2
        job.advance(200)

    await queue.run(job, work)
    yield queue
    queue.close()


async def test_a_full_queue_says_when_the_next_place_is_free(measured: DeviceQueue) -> None:
    measured.limit = 1
    first, second = Job(1000), Job(50_000)
    with place(measured, first), place(measured, second):
        for done, seconds in ((0, 10), (550, 5), (10_000, 1)):  # 4.5 is rounded up; the last estimate was too low
            first.advance(done)
            with pytest.raises(QueueFull) as refused:
                measured.admit(Job(1), 1e9)
            assert refused.value.retry_after_seconds == seconds


async def test_what_stands_before_a_request_refuses_it_if_it_would_be_late(measured: DeviceQueue) -> None:
    with place(measured, Job(1000)), place(measured, Job(1000)):
        with pytest.raises(QueueFull, match="20 s of work stand before") as refused:
            measured.admit(Job(500), timeout_seconds=18)
        assert refused.value.retry_after_seconds == 7  # 25 − 18
        with place(measured, Job(500), timeout_seconds=26):
            pass
        with place(measured, Job(1_000_000)), pytest.raises(QueueFull) as refused:
            measured.admit(Job(300_000), timeout_seconds=3001)
        assert refused.value.retry_after_seconds == 600  # the most


async def test_what_alone_takes_over_twice_its_time_is_refused_for_good_and_no_less(measured: DeviceQueue) -> None:
    with pytest.raises(DeadlineExceeded, match="takes about 21 s here, and may take 10 s") as refused:
        measured.admit(Job(2100), timeout_seconds=10)
    assert (refused.value.status, refused.value.details) == (504, {"predicted_seconds": 21.0, "timeout_seconds": 10})
    with place(measured, Job(1900), timeout_seconds=10):
        pass


async def test_a_long_job_keeps_a_short_one_waiting_for_half_of_the_device_only(measured: DeviceQueue) -> None:
    long, short, equal = Job(100_000), Job(100), Job(90_000)
    with place(measured, long), place(measured, short), place(measured, equal):
        assert measured.predicted_seconds(long) == 1000
        assert measured.predicted_seconds(short) == 1 + 1  # the long one's share meanwhile, its own
        assert measured.predicted_seconds(equal) == 1000 + 1 + 900
        assert measured.describe() == {
            **{"running": 0, "waiting": 3, "capacity": 4},
            **{"wait_seconds": 3.0, "backlog_seconds": 1901.0},
        }
    assert measured.describe()["wait_seconds"] == 0


# short jobs within long ones


async def run_beside_a_long_one(queue: DeviceQueue, clock: Clock, short_work: float, count: int) -> tuple[Job, list[str]]:
    """A job of 1000 units in ten steps, and short ones that come when it has begun; and the order of it all."""
    long, begun, go, order = Job(1000), threading.Event(), threading.Event(), list[str]()

    def work_long() -> None:
        begun.set()
        assert go.wait(10)
        for step in range(10):
            clock.now += 1
            order.append(f"long {step}")
            long.advance(100)

    def work_short(job: Job, name: str) -> None:
        clock.now += job.work / 100
        order.append(name)
        job.advance(job.work)

    shorts = [Job(short_work) for _ in range(count)]
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(queue.run(long, work_long))
        await asyncio.to_thread(begun.wait, 10)
        for number, job in enumerate(shorts):
            tasks.create_task(queue.run(job, partial(work_short, job, f"short {number}")))
        await asyncio.sleep(0)
        go.set()
    return long, order


async def test_a_short_job_runs_between_two_steps_of_a_long_one(measured: DeviceQueue, clock: Clock) -> None:
    _, order = await run_beside_a_long_one(measured, clock, short_work=100, count=1)
    assert order[:3] == ["long 0", "short 0", "long 1"]


async def test_a_job_of_over_a_quarter_of_what_is_left_waits_for_its_turn(measured: DeviceQueue, clock: Clock) -> None:
    _, order = await run_beside_a_long_one(measured, clock, short_work=240, count=1)
    assert order[-2:] == ["long 9", "short 0"]


async def test_short_jobs_take_at_most_half_of_the_time_of_a_long_one_and_come_in_order(
    measured: DeviceQueue, clock: Clock
) -> None:
    long, order = await run_beside_a_long_one(measured, clock, short_work=50, count=100)
    assert [name for name in order if name.startswith("short")] == [f"short {n}" for n in range(100)]
    during = order[: order.index("long 9")]
    assert 12 <= sum(name.startswith("short") for name in during) <= 20
    assert long.given_seconds <= long.seconds == 10


async def test_an_error_in_a_short_job_is_its_own(measured: DeviceQueue) -> None:
    long, short, begun, go = Job(1000), Job(1), threading.Event(), threading.Event()

    def work_long() -> str:
        begun.set()
        assert go.wait(10)
        long.advance(1)
        return "done"

    def work_short() -> None:
        raise RuntimeError("of the short one")

    running = asyncio.create_task(measured.run(long, work_long))
    await asyncio.to_thread(begun.wait, 10)
    failing = asyncio.create_task(measured.run(short, work_short))
    await asyncio.sleep(0)
    go.set()
    assert await running == "done"
    with pytest.raises(RuntimeError, match="of the short one"):
        await failing
