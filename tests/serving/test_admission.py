"""Admission to the queue, clients that leave it, and the speed by which it judges, over a real socket."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from core.config import MIB, Settings
from core.errors import QueueFull
from core.progress import Progress
from serving.admission import Admission
from serving.workers import Workers
from storage.result_cache import ResultCache
from storage.result_store import ResultStore
from tests.helpers import (
    HANG_SECONDS,
    FakeResolver,
    assert_error,
    b64,
    encode,
    fake_models,
    files_in,
    post,
    ready,
    send_raw,
    serving,
    until,
    with_settings,
)
from tests.serving.gated_service import gated_service, gray_of, png_request
from workers.speed import Speed
from workers.task import DeviceTask


async def test_a_full_queue_answers_503_with_retry_after(settings: Settings) -> None:
    async with gated_service(with_settings(settings, queue_limit=2)) as h, asyncio.TaskGroup() as clients:
        accepted = [clients.create_task(h.post(gray)) for gray in (10, 20, 30)]
        await h.queue_is(running=1, waiting=2)
        refused = await h.post(40)
        body = assert_error(refused, 503, "queue_full")
        assert "2 requests are waiting" in body["error"]
        assert int(refused.headers["retry-after"]) == body["retry_after_seconds"] >= 1
        h.resolver.gate.set()
    assert [gray_of(client.result()) for client in accepted] == [10, 20, 30]
    assert 40 not in dict(h.resolver.seen)


async def test_no_place_to_wait_still_serves_one(settings: Settings) -> None:
    async with gated_service(with_settings(settings, queue_limit=0)) as h, asyncio.TaskGroup() as clients:
        accepted = clients.create_task(h.post(10))
        await h.queue_is(running=1, waiting=0)
        assert_error(await h.post(20), 503, "queue_full")
        h.resolver.gate.set()
    assert gray_of(accepted.result()) == 10


async def test_a_waiting_client_that_leaves_frees_its_place_and_costs_no_work(settings: Settings) -> None:
    async with gated_service(with_settings(settings, queue_limit=1)) as h, asyncio.TaskGroup() as clients:
        running = clients.create_task(h.post(10))
        await h.queue_is(running=1, waiting=0)
        leaving = await h.send(20)
        await h.queue_is(running=1, waiting=1)
        leaving.close()
        await h.queue_is(running=1, waiting=0)  # while the first is still running
        following = clients.create_task(h.post(30))
        await h.queue_is(running=1, waiting=1)
        h.resolver.gate.set()
    assert [gray_of(running.result()), gray_of(following.result())] == [10, 30]
    assert 20 not in dict(h.resolver.seen)


async def test_the_work_of_a_running_client_that_leaves_stops_at_its_next_step(settings: Settings) -> None:
    async with gated_service(settings) as h:
        leaving = await h.send(10)
        await h.queue_is(running=1, waiting=0)
        leaving.close()
        following = asyncio.create_task(h.post(20))
        await h.queue_is(running=1, waiting=1)
        h.resolver.gate.set()
        assert gray_of(await following) == 20
        assert await h.queue() == (0, 0)
    assert [height for gray, height in h.resolver.seen if gray == 10] == [20]  # the first of three passes
    assert files_in(settings) == [Path((await following).json()["file_path"]).name]


async def test_clients_that_leave_at_any_moment_leave_no_half_file_and_no_place_behind(settings: Settings) -> None:
    async with gated_service(with_settings(settings, queue_limit=100)) as h:
        h.resolver.gate.set()
        bodies = post(png_request(10))
        for turns in range(30):  # of the event loop, between the request and the hanging up
            _, writer = await send_raw(settings.port, bodies)
            for _ in range(turns):
                await asyncio.sleep(0)
            writer.close()
        await h.queue_is(running=0, waiting=0)
        response = await h.post(20)
        assert gray_of(response) == 20
    assert [name for name in files_in(settings) if name.endswith(".part")] == []


async def test_a_client_that_leaves_while_its_result_is_saved_leaves_no_file_behind(settings: Settings) -> None:
    saving, gate = threading.Event(), threading.Event()

    class SlowStore(ResultStore):
        def save(self, data: bytes, extension: str) -> Path:
            saving.set()
            assert gate.wait(HANG_SECONDS)
            return super().save(data, extension)

    async with gated_service(settings) as h:
        h.resolver.gate.set()
        h.service._dispatcher.cache = ResultCache(SlowStore(settings.output_dir, retention_seconds=60, max_bytes=MIB))
        leaving = await h.send(10)
        await asyncio.to_thread(saving.wait)
        leaving.close()
        await h.queue_is(running=0, waiting=0)
        gate.set()
        assert gray_of(await h.post(20)) == 20
        await until(lambda: len(files_in(settings)) == 1)


async def test_health_answers_while_the_device_is_busy(settings: Settings) -> None:
    async with gated_service(settings) as h, asyncio.TaskGroup() as clients:
        running = clients.create_task(h.post(10))
        await h.queue_is(running=1, waiting=0)
        health = await h.client.get("/health")
        assert (health.status_code, health.json()["status"]) == (200, "healthy")
        h.resolver.gate.set()
    assert gray_of(running.result()) == 10


# the speed of the device

PX_FLOPS = 36e6  # of a pass, for each pixel
DEVICES = {"CPU": (0.03, 0.5e12), "card": (0.01, 300e12)}  # seconds for being a task, FLOPs a second
SMALL, LARGE = 273 * PX_FLOPS, 35e6 * PX_FLOPS  # work: 1×1 in three passes, 1920×1080 in 4 and 2


class SlowDevice(FakeResolver):
    """Its clock stands still but in its passes, which take a fixed part for a task, and a part by their work."""

    def __init__(self, fixed_seconds: float, flops_per_second: float) -> None:
        super().__init__()
        self.fixed_seconds = fixed_seconds
        self.flops_per_second = flops_per_second
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def flops(self, height: int, width: int, scale: int) -> float:
        return PX_FLOPS * height * width

    def seconds(self, work: float) -> float:
        return self.fixed_seconds + work / self.flops_per_second

    def super_resolve(self, image: NDArray[np.uint8], scale: int, progress: Progress) -> NDArray[np.uint8]:
        is_first = not getattr(progress, "done", 0.0)
        self.now += self.seconds(self.flops(image.shape[0], image.shape[1], scale)) - (0.0 if is_first else self.fixed_seconds)
        return super().super_resolve(image, scale, progress)

    def run(self, admission: Admission, work: float, stall_seconds: float = 0.0, *, cancelled_after: float = math.inf) -> None:
        """Of a task, what admission gets to know."""
        task = DeviceTask(work)
        task.worker = "cpu"
        task.seconds = min(self.seconds(work) + stall_seconds, cancelled_after)
        task.cancelled = task.seconds == cancelled_after
        task.done = max(task.seconds - self.fixed_seconds, 0.0) * self.flops_per_second if task.cancelled else work
        admission.measure(task)

    def assert_known(self, admission: Admission) -> None:
        for work in (SMALL, LARGE):
            predicted, _ = admission.forecast(DeviceTask(work))
            assert 1 / 1.3 < predicted / self.seconds(work) < 1.3, f"{work:g}: {predicted} s for {self.seconds(work)}"


@pytest.fixture(params=DEVICES)
def slow_device(request: pytest.FixtureRequest) -> SlowDevice:
    return SlowDevice(*DEVICES[request.param])


@asynccontextmanager
async def slow_service(
    settings: Settings, device: SlowDevice, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[httpx.AsyncClient, Admission]]:
    monkeypatch.setattr("serving.devices.Workers", partial(Workers, clock=device.clock))
    async with serving(settings, lambda _: fake_models(device)) as (client, service):
        await ready(client)
        yield client, service._admission


def fields_of(gray: int, width: int, height: int) -> dict[str, Any]:
    return {"image_b64": b64(encode(np.full((height, width), gray, np.uint8))), "target_resolution": "8k"}


async def test_pictures_of_one_pixel_say_nothing_of_large_ones(
    settings: Settings, slow_device: SlowDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with slow_service(settings, slow_device, monkeypatch) as (client, admission):
        slow_device.assert_known(admission)
        for gray in range(15):
            assert (await client.post("/upscale", json=fields_of(gray, 1, 1))).status_code == 200
        plan = (await client.post("/plan", json=fields_of(0, 1920, 1080))).json()
        assert plan["upscaling_strategy"] == [4]
        assert plan["predicted_seconds"] == pytest.approx(slow_device.seconds(1920 * 1080 * PX_FLOPS), rel=0.3)
        for _ in range(1000):
            slow_device.run(admission, SMALL)
        slow_device.assert_known(admission)
        for _ in range(1000):  # narrow ones, which waste most of what the device does
            slow_device.run(admission, 1000 * PX_FLOPS, stall_seconds=5 * slow_device.seconds(1000 * PX_FLOPS))
        plan = (await client.post("/plan", json=fields_of(0, 1920, 1080))).json()
        assert plan["predicted_seconds"] == pytest.approx(slow_device.seconds(1920 * 1080 * PX_FLOPS), rel=0.3, abs=1)


async def test_a_stall_is_forgotten(settings: Settings, slow_device: SlowDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    async with slow_service(settings, slow_device, monkeypatch) as (_, admission):
        for work in (SMALL, LARGE):
            slow_device.run(admission, work, stall_seconds=60)
            predicted, _ = admission.forecast(DeviceTask(LARGE))
            assert predicted < 2.1 * slow_device.seconds(LARGE)
        for _ in range(5):
            slow_device.run(admission, SMALL)
            slow_device.run(admission, LARGE)
        slow_device.assert_known(admission)


@pytest.mark.parametrize("factor", [0.1, 10])
async def test_a_speed_that_is_wrong_is_right_after_a_few_tasks(
    settings: Settings, slow_device: SlowDevice, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    async with slow_service(settings, slow_device, monkeypatch) as (_, admission):
        right = admission.speeds["cpu"]
        admission.speeds["cpu"] = replace(
            right, fixed_seconds=right.fixed_seconds * factor, seconds_per_flop=right.seconds_per_flop * factor
        )
        for _ in range(6):
            slow_device.run(admission, SMALL)
            slow_device.run(admission, LARGE)
        slow_device.assert_known(admission)


async def test_what_is_given_up_tells_that_the_speed_was_too_high_and_nothing_else(
    settings: Settings, slow_device: SlowDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with slow_service(settings, slow_device, monkeypatch) as (_, admission):
        before = copy(admission.speeds["cpu"])
        for _ in range(100):
            slow_device.run(admission, LARGE, cancelled_after=slow_device.fixed_seconds * 1.1)
        assert admission.speeds["cpu"] == before
        admission.speeds["cpu"].seconds_per_flop /= 10
        for _ in range(5):
            slow_device.run(admission, LARGE, cancelled_after=slow_device.seconds(LARGE) * 0.9)
        slow_device.assert_known(admission)


async def test_a_speed_for_which_requests_are_refused_is_measured_again(
    settings: Settings, slow_device: SlowDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with slow_service(settings, slow_device, monkeypatch) as (client, admission):
        admission.speeds["cpu"].seconds_per_flop *= 10
        timeout = {"X-Request-Timeout": str(slow_device.seconds(1920 * 1080 * PX_FLOPS))}
        refused = await client.post("/upscale", json=fields_of(0, 1920, 1080), headers=timeout)
        assert_error(refused, 504, "deadline_exceeded")
        await until(lambda: admission.speeds["cpu"].seconds_per_flop * slow_device.flops_per_second < 2)
        slow_device.assert_known(admission)
        assert (await client.post("/plan", json=fields_of(0, 1920, 1080), headers=timeout)).status_code == 200


async def test_a_task_that_has_begun_has_its_fixed_part_behind_it() -> None:
    admission, task = Admission(limit=4), DeviceTask(100)
    admission.speeds["cpu"] = Speed(fixed_seconds=3, seconds_per_flop=0.01)
    admission.admit(task, 60)
    assert (admission.predicted_seconds(task), admission.status().backlog_seconds) == (4, 4)
    task.started_at = 1.0
    assert (admission.predicted_seconds(task), admission.status().backlog_seconds) == (1, 1)


async def test_a_cancelled_task_that_still_runs_its_step_keeps_nobody_out() -> None:
    admission, task = Admission(limit=4), DeviceTask(1000)
    admission.speeds["cpu"] = Speed(fixed_seconds=0, seconds_per_flop=0.01)
    admission.admit(task, 60)
    task.started_at, task.future = 1.0, Future()
    task.future.set_running_or_notify_cancel()
    with pytest.raises(QueueFull):
        admission.check(DeviceTask(1000), 10)
    admission.release(task)
    assert (admission.running, admission.status().backlog_seconds) == (1, 0)
    admission.check(DeviceTask(1000), 10)
