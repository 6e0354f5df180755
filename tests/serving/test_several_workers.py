"""Several workers behind one queue: in the service over a real socket, and on their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from numpy.typing import NDArray

from core.config import Settings
from core.errors import DeviceLost, JobCancelled, QueueFull, WorkerLost
from core.progress import Progress
from model_utility import Models
from serving.admission import Admission
from serving.workers import Workers
from tests.helpers import (
    HANG_SECONDS,
    FakeResolver,
    assert_error,
    b64,
    encode,
    fake_models,
    fake_worker,
    ready,
    serving,
    until,
    with_settings,
)
from tests.lost_device import REASON, accelerator_error, losable_models
from tests.serving.gated_service import Witness, gated_service, gray_of, png_request, request_fields
from workers.speed import Speed
from workers.task import DeviceTask
from workers.worker import Worker

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def pair(settings: Settings) -> Settings:
    return with_settings(settings, device="cpu,cpu")


def by_name(health: dict[str, Any]) -> dict[str, tuple[str, str | None]]:
    return {worker["name"]: (worker["state"], worker["reason"]) for worker in health["workers"]}


# the service


async def test_as_many_run_at_once_as_there_are_workers_and_as_many_wait_as_may(pair: Settings) -> None:
    async with gated_service(with_settings(pair, queue_limit=1)) as h, asyncio.TaskGroup() as clients:
        accepted = [clients.create_task(h.post(gray)) for gray in (10, 20, 30)]
        await h.queue_is(running=2, waiting=1)
        assert by_name((await h.client.get("/health")).json()) == {"cpu:0": ("running", None), "cpu:1": ("running", None)}
        assert_error(await h.post(40), 503, "queue_full")
        h.resolver.gate.set()
    assert [gray_of(client.result()) for client in accepted] == [10, 20, 30]
    assert h.service.health().queue.running == 0


async def test_metrics_tell_of_each_worker(pair: Settings) -> None:
    async with gated_service(pair) as h:
        h.resolver.gate.set()
        assert gray_of(await h.post(10)) == 10
        page = (await h.client.get("/metrics")).text
        for name in ("cpu:0", "cpu:1"):
            assert f'upscale_worker_up{{device="{name}"}} 1.0' in page
            assert f'upscale_retries_total{{device="{name}"}} 0.0' in page


async def test_a_worker_that_would_give_other_bytes_is_refused(pair: Settings, caplog: pytest.LogCaptureFixture) -> None:
    platforms = iter(("card of one kind", "card of another"))
    async with serving(pair, lambda _: replace(fake_models(), platform=next(platforms))) as (client, _):
        await ready(client)
        health = (await client.get("/health")).json()
        assert (health["status"], health["workers"][0]["state"]) == ("degraded", "idle")
        assert by_name(health)["cpu:1"] == ("lost", "it would give other bytes than cpu:0")
        assert "card of another" in caplog.text
        assert gray_of(await client.post("/upscale", content=png_request(10), headers=JSON)) == 10


async def test_of_two_devices_one_that_is_lost_costs_no_request_and_the_second_ends_the_service(pair: Settings) -> None:
    resolvers = [FakeResolver(), FakeResolver()]
    unused = iter(resolvers)

    def load(_: Settings) -> Models:
        return losable_models(next(unused))

    async with serving(pair, load) as (client, service):
        await ready(client)
        resolvers[0].error = accelerator_error()
        for gray in (10, 20, 30):
            assert gray_of(await client.post("/upscale", content=png_request(gray), headers=JSON)) == gray
        health = await client.get("/health")
        assert (health.status_code, health.json()["status"]) == (200, "degraded")
        assert by_name(health.json()) == {"cpu:0": ("lost", REASON), "cpu:1": ("idle", None)}
        page = (await client.get("/metrics")).text
        assert 'upscale_retries_total{device="cpu:0"} 1.0' in page
        assert 'upscale_worker_up{device="cpu:0"} 0.0' in page
        resolvers[1].error = accelerator_error()
        assert_error(await client.post("/upscale", content=png_request(40), headers=JSON), 503, "device_lost")
        await asyncio.wait_for(service.drained(), HANG_SECONDS)
    assert service.device_loss


@pytest.mark.parametrize("lost", [0, 1])
async def test_a_device_that_is_lost_in_the_warm_up_is_left_out(pair: Settings, lost: int) -> None:
    resolvers = [FakeResolver(), FakeResolver()]
    resolvers[lost].error, unused = accelerator_error(), iter(resolvers)
    async with serving(pair, lambda _: losable_models(next(unused))) as (client, _):
        await ready(client)
        states = by_name((await client.get("/health")).json())
        assert states == {f"cpu:{lost}": ("lost", REASON), f"cpu:{1 - lost}": ("idle", None)}
        assert gray_of(await client.post("/upscale", content=png_request(10), headers=JSON)) == 10


async def test_a_client_whose_workers_were_lost_twice_hears_that_it_may_try_again(pair: Settings) -> None:
    lost = [WorkerLost("gone"), WorkerLost("gone too")]

    class Losing(FakeResolver):
        def super_resolve(self, image: NDArray[np.uint8], scale: int, progress: Progress) -> NDArray[np.uint8]:
            if losing.is_set() and lost:
                progress.advance(self.flops(image.shape[0], image.shape[1], scale) / 2)
                raise lost.pop()
            return super().super_resolve(image, scale, progress)

    losing, resolver = threading.Event(), Losing()
    async with serving(pair, lambda _: fake_models(resolver)) as (client, _):
        await ready(client)
        losing.set()
        refused = await client.post("/upscale", content=png_request(10), headers=JSON)
        assert int(assert_error(refused, 503, "worker_lost")["retry_after_seconds"]) >= 1
        assert gray_of(await client.post("/upscale", content=png_request(10), headers=JSON)) == 10


async def test_a_worker_elsewhere_finishes_a_task_before_a_short_one(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver = Witness()
    monkeypatch.setattr("workers.ray_client.connect", lambda: [fake_worker("ray:0", resolver)])
    async with serving(with_settings(settings, device="ray"), lambda _: fake_models()) as (client, service):
        await ready(client)
        service._admission.speeds.clear()  # on a busy machine it would be one at which requests are late
        resolver.seen.clear()
        resolver.gate.clear()
        large = request_fields(10, image_b64=b64(encode(np.full((200, 200, 3), 10, np.uint8))))
        long = asyncio.create_task(client.post("/upscale", json=large))
        await until(lambda: len(resolver.seen) == 1)
        short = asyncio.create_task(client.post("/upscale", json=request_fields(20)))
        await until(lambda: service.health().queue.waiting == 1)
        resolver.gate.set()
        assert {response.status_code for response in await asyncio.gather(long, short)} == {200}
    grays = [gray for gray, _ in resolver.seen]
    assert grays == sorted(grays)


# the queue


class Queue:
    """Workers, and admission that counts them."""

    def __init__(self) -> None:
        self.workers = Workers(lambda _: None)
        self.admission = Admission(2, workers=lambda: self.workers.open_count)


@pytest_asyncio.fixture
async def queue() -> AsyncIterator[Queue]:
    queue = Queue()
    for name in ("first", "second"):
        await queue.workers.add(partial(fake_worker, name))
        queue.admission.speeds[name] = Speed(seconds_per_flop=0.01)
    yield queue
    queue.workers.close()


async def test_a_task_that_begins_again_goes_before_all_that_wait_and_shows_no_less_progress(queue: Queue) -> None:
    order, gate, free, task = list[str](), threading.Event(), threading.Event(), DeviceTask(100)

    def lose_once(worker: Worker) -> str:
        order.append(f"task on {worker.name}")
        if task.retries == 0:
            task.advance(60)
            assert gate.wait(HANG_SECONDS)
            raise WorkerLost("it ended")
        assert (task.progress, task.done) == (0.6, 0)
        return worker.name

    def hold(_: Worker) -> None:
        assert free.wait(HANG_SECONDS)

    running = asyncio.create_task(queue.workers.run(task, lose_once))
    await until(lambda: len(order) == 1)
    others = [asyncio.create_task(queue.workers.run(DeviceTask(90), hold))]
    await until(lambda: len(queue.workers.places[1].running) == 1)
    others += [asyncio.create_task(queue.workers.run(DeviceTask(90), lambda _: order.append("other"))) for _ in range(3)]
    await asyncio.sleep(0)
    gate.set()
    assert await running == "first"
    free.set()
    await asyncio.gather(*others)
    assert order[1].startswith("task on")
    assert sum(place.retries for place in queue.workers.places) == 1


async def test_a_task_that_nobody_waits_for_does_not_begin_again(queue: Queue) -> None:
    begun, gate, task = threading.Event(), threading.Event(), DeviceTask(100)

    def lose(_: Worker) -> None:
        begun.set()
        assert gate.wait(HANG_SECONDS)
        raise WorkerLost("it ended")

    running = asyncio.create_task(queue.workers.run(task, lose))
    await asyncio.to_thread(begun.wait, HANG_SECONDS)
    task.cancel()
    gate.set()
    with pytest.raises(WorkerLost):
        await running
    assert task.retries == 0


async def test_one_that_is_given_up_while_it_waits_to_begin_again_frees_its_place(queue: Queue) -> None:
    begun, gate, task, lost = threading.Event(), threading.Event(), DeviceTask(100), threading.Event()

    def hold(_: Worker) -> None:
        assert gate.wait(HANG_SECONDS)

    def lose(_: Worker) -> None:
        begun.set()
        assert lost.wait(HANG_SECONDS)
        raise WorkerLost("it ended")

    queue.admission.admit(task, 1e9)
    running = asyncio.create_task(queue.workers.run(task, lose))
    await asyncio.to_thread(begun.wait, HANG_SECONDS)
    place = next(place for place in queue.workers.places if not place.running)
    holding = asyncio.create_task(queue.workers.run(DeviceTask(100), hold))
    await until(lambda: bool(place.running))
    # Its worker is out of use for good, and the other one is busy.
    next(other for other in queue.workers.places if other is not place).out_of_use = "lost"
    lost.set()
    await until(lambda: task.retries == 1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    queue.admission.release(task)
    await until(lambda: queue.admission.running + queue.admission.waiting == 0)
    assert isinstance(task.future and task.future.exception(), JobCancelled)
    gate.set()
    await holding


async def test_the_last_device_that_is_lost_fails_what_waits_to_begin_again_too(queue: Queue) -> None:
    gate = threading.Event()

    def lose(_: Worker) -> None:
        assert gate.wait(HANG_SECONDS)
        raise DeviceLost(REASON)

    tasks = [asyncio.create_task(queue.workers.run(DeviceTask(1), lose)) for _ in range(5)]
    await until(lambda: all(place.running for place in queue.workers.places))
    gate.set()
    for task in tasks:
        with pytest.raises(DeviceLost):
            await task


async def test_a_short_task_slips_into_a_long_one_where_all_workers_are_busy(queue: Queue) -> None:
    begun, go, order = threading.Semaphore(0), threading.Event(), list[str]()

    def long_of(task: DeviceTask) -> Callable[[Worker], None]:
        def work(_: Worker) -> None:
            begun.release()
            assert go.wait(HANG_SECONDS)
            for _step in range(10):
                order.append("long")
                task.advance(100)

        return work

    longs = [DeviceTask(1000), DeviceTask(1000)]
    running = [asyncio.create_task(queue.workers.run(task, long_of(task))) for task in longs]
    for _ in longs:
        assert await asyncio.to_thread(begun.acquire, timeout=HANG_SECONDS)
    short = asyncio.create_task(queue.workers.run(DeviceTask(10), lambda _: order.append("short")))
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(*running, short)
    assert order.index("short") <= 2


# admission


async def test_what_waits_is_shared_out_among_the_workers(queue: Queue) -> None:
    tasks = [DeviceTask(work) for work in (1000, 500, 400)]
    for task in tasks:
        queue.admission.admit(task, 1e9)
    assert [queue.admission.predicted_seconds(task) for task in tasks] == [10, 5, 5 + 4]
    status = queue.admission.status()
    assert (status.wait_seconds, status.backlog_seconds) == (1.0, 10.0)  # the next one slips in between
    queue.admission.admit(DeviceTask(1), 1e9)
    with pytest.raises(QueueFull):
        queue.admission.admit(DeviceTask(1), 1e9)  # two run and two wait
    queue.workers.places[1].out_of_use = "lost"
    assert [queue.admission.predicted_seconds(task) for task in tasks] == [10, 15, 19]


async def test_each_worker_has_a_speed_of_its_own(queue: Queue) -> None:
    queue.admission.speeds = {"first": Speed(seconds_per_flop=0.01), "second": Speed(seconds_per_flop=0.03)}
    task = DeviceTask(1000)
    assert queue.admission.forecast(task) == (20, 0)
    for name, seconds in (("first", 10), ("second", 30)):
        task.worker, task.started_at = name, 1.0
        queue.admission.admit(task, 1e9)
        assert queue.admission.predicted_seconds(task) == seconds
        queue.admission.release(task)
        task.cancelled = False
    task.worker, task.done, task.seconds = "second", 1000, 15.0
    queue.admission.measure(task)
    assert queue.admission.speeds["first"].seconds_per_flop == 0.01
    assert queue.admission.speeds["second"].seconds_per_flop == pytest.approx(0.03 * 0.5**0.5)
