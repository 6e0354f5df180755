"""Jobs, and the queue in front of the device."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from device_queue import DeviceQueue, Job
from errors import JobCancelled, QueueFull
from tests.conftest import until


def test_a_job_counts_its_work_until_it_is_cancelled() -> None:
    job = Job(100)
    job.advance(30)
    job.advance(20)
    assert job.done == 50
    job.cancel()
    with pytest.raises(JobCancelled):
        job.advance(10)


@contextmanager
def place(queue: DeviceQueue, job: Job) -> Iterator[None]:
    """Hold a place, as the dispatcher does."""
    queue.admit(job)
    try:
        yield
    finally:
        queue.release(job)


@pytest.fixture
def queue() -> Iterator[DeviceQueue]:
    queue = DeviceQueue(limit=2)
    yield queue
    queue.close()


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


async def test_retry_after_is_what_the_oldest_job_still_needs_at_the_measured_rate() -> None:
    queue = DeviceQueue(limit=2, clock=iter([0.0, 2.0]).__next__)
    measured = Job(200)
    await queue.run(measured, partial(measured.advance, 200))  # in 2 s
    assert queue.retry_after_seconds() == 1  # nobody is there
    oldest, younger = Job(1000), Job(50_000)
    with place(queue, oldest), place(queue, younger):
        assert queue.retry_after_seconds() == 10
        oldest.advance(550)
        assert queue.retry_after_seconds() == 5  # 4.5, rounded up
        oldest.advance(10_000)
        assert queue.retry_after_seconds() == 1  # the estimate was too low
    queue.close()


async def test_retry_after_is_one_second_while_no_rate_is_known(queue: DeviceQueue) -> None:
    with place(queue, Job(10**18)):
        assert queue.retry_after_seconds() == 1
