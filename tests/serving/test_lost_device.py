"""A device that a task finds lost: everybody hears of it, and the service ends."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, TypeVar

import httpx
import pytest
import pytest_asyncio

from bench.server import free_port
from core.config import Settings
from core.errors import DeviceLost, JobCancelled
from serving.workers import Workers
from tests.helpers import (
    HANG_SECONDS,
    FakeResolver,
    assert_error,
    fake_worker,
    post,
    ready,
    send_raw,
    serving,
    until,
    with_settings,
)
from tests.lost_device import REASON, accelerator_error, losable_models
from tests.serving.gated_service import ASYNC, Witness, gated_service, png_request, request_fields
from workers.task import DeviceTask

# the worker

T = TypeVar("T")


class Losable:
    """A worker, and what it says of its device."""

    def __init__(self) -> None:
        self.losses: list[tuple[DeviceLost, threading.Thread]] = []
        self.workers = Workers(lambda _: None, lost=self._hear)

    async def run(self, task: DeviceTask, function: Callable[[], T]) -> T:
        return await self.workers.run(task, lambda _: function())

    def _hear(self, loss: DeviceLost) -> None:
        self.losses.append((loss, threading.current_thread()))


@pytest_asyncio.fixture
async def device() -> AsyncIterator[Losable]:
    device = Losable()
    await device.workers.add(fake_worker)
    yield device
    device.workers.close()


def lose() -> None:
    raise DeviceLost(REASON)


async def test_who_finds_the_device_lost_who_waits_and_who_comes_later_all_fail(device: Losable) -> None:
    gate = threading.Event()

    def wait_and_lose() -> None:
        assert gate.wait(HANG_SECONDS)
        lose()

    ran: list[int] = []
    finder = asyncio.create_task(device.run(DeviceTask(1), wait_and_lose))
    waiting = [asyncio.create_task(device.run(DeviceTask(1), partial(ran.append, n))) for n in range(3)]
    await asyncio.sleep(0)
    gate.set()
    for task in (finder, *waiting):
        with pytest.raises(DeviceLost) as caught:
            await task
        assert caught.value.reason == REASON
    with pytest.raises(DeviceLost):
        await device.run(DeviceTask(1), partial(ran.append, 3))
    assert ran == []
    ((loss, thread),) = device.losses
    assert (loss.reason, thread) == (REASON, threading.current_thread())


async def test_a_short_task_that_finds_it_lost_fails_alone_and_the_long_one_by_its_next_call(device: Losable) -> None:
    started = threading.Event()
    task = DeviceTask(100)

    def long() -> None:
        started.set()
        while not task.given_seconds:
            task.advance(0)
        lose()  # as everything on the device does now

    running = asyncio.create_task(device.run(task, long))
    await asyncio.to_thread(started.wait)
    with pytest.raises(DeviceLost):
        await device.run(DeviceTask(1), lose)
    with pytest.raises(DeviceLost):
        await running
    assert len(device.losses) == 1


async def test_it_is_heard_of_where_nobody_waits_for_the_task_any_more(device: Losable) -> None:
    started, gate = threading.Event(), threading.Event()

    def held() -> None:
        started.set()
        assert gate.wait(HANG_SECONDS)
        lose()

    running = asyncio.create_task(device.run(DeviceTask(1), held))
    await asyncio.to_thread(started.wait)
    running.cancel()
    gate.set()
    await until(lambda: bool(device.losses))


async def test_another_error_is_its_tasks_own(device: Losable) -> None:
    def cancel() -> None:
        raise JobCancelled("gone")

    with pytest.raises(JobCancelled):
        await device.run(DeviceTask(1), cancel)
    assert await device.run(DeviceTask(1), lambda: 7) == 7
    assert device.losses == []


# the service


def critical_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.CRITICAL]


async def test_a_lost_device_is_a_503_for_all_leaves_jobs_and_drains_the_service(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    resolver = Witness()
    body = post(png_request(90))

    async def ask(gray: int) -> httpx.Response:
        return await client.post("/upscale", content=png_request(gray), headers={"Content-Type": "application/json"})

    async def after_its_events(job: dict[str, Any]) -> dict[str, Any]:
        async with client.stream("GET", job["urls"]["events"]) as events:
            await events.aread()
        left: dict[str, Any] = (await client.get(job["urls"]["get"])).json()
        return left

    async with serving(settings, lambda _: losable_models(resolver)) as (client, service):
        await ready(client)
        assert (await ask(10)).status_code == 200
        service._admission.speeds.clear()
        resolver.gate.clear()
        resolver.entered.clear()
        # One whose body is on its way holds the drain up, so that there is somebody to ask.
        reader, writer = await send_raw(settings.port, body[:-10])
        running = (await client.post("/upscale", json=request_fields(20), headers=ASYNC)).json()
        await asyncio.to_thread(resolver.entered.wait, HANG_SECONDS)
        waiting = (await client.post("/upscale", json=request_fields(30), headers=ASYNC)).json()
        queued = asyncio.create_task(ask(40))
        await until(lambda: service.health().queue.waiting == 2)
        resolver.error = accelerator_error()
        resolver.gate.set()

        refused = await queued
        assert_error(refused, 503, "device_lost")
        assert int(refused.headers["retry-after"]) >= 1
        assert REASON not in refused.text
        for job in (running, waiting):
            left = await after_its_events(job)
            assert (left["status"], left["completed_at"]) == ("starting", None), "the next process does it"
        health = await client.get("/health")
        assert (health.status_code, health.json()["status"], health.json()["reason"]) == (503, "draining", REASON)
        assert_error(await ask(10), 503, "device_lost")  # cached, but this process takes nothing new
        assert_error(await client.post("/plan", json=request_fields(50)), 503, "device_lost")
        assert len(critical_lines(caplog)) == 1

        writer.write(body[-10:])
        assert (await reader.readline()).startswith(b"HTTP/1.1 503 ")
        writer.close()
        await asyncio.wait_for(service.drained(), HANG_SECONDS)
    assert service.device_loss is service.failure
    assert critical_lines(caplog) == [f"the device is lost, and the service ends: {REASON}"]
    async with gated_service(with_settings(settings, port=free_port())) as h:
        h.resolver.gate.set()
        for job in (running, waiting):
            await h.job_is(job["id"], "succeeded")


async def test_an_error_that_leaves_the_device_well_is_a_500_and_the_service_goes_on(settings: Settings) -> None:
    resolver = FakeResolver()
    async with serving(settings, lambda _: losable_models(resolver)) as (client, service):
        await ready(client)
        resolver.error = RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")  # and the probe finds it well
        assert_error(await client.post("/upscale", json=request_fields(10)), 500, "internal_error")
        resolver.error = None
        assert (await client.post("/upscale", json=request_fields(10))).status_code == 200
        assert service.device_loss is None


async def test_a_device_that_is_lost_in_the_warm_up_ends_the_service_with_the_reason(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    resolver = FakeResolver(error=accelerator_error(719, "unspecified launch failure"))
    async with asyncio.timeout(HANG_SECONDS):
        async with serving(settings, lambda _: losable_models(resolver)) as (_, service):
            await service.drained()
    assert service.device_loss
    assert service.device_loss.reason == "CUDA error: unspecified launch failure"
    assert critical_lines(caplog) == ["the device is lost, and the service ends: CUDA error: unspecified launch failure"]


async def test_the_drain_of_a_lost_device_is_short(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.lifecycle.LOST_DRAIN_SECONDS", 0.2)
    resolver = FakeResolver()
    async with asyncio.timeout(HANG_SECONDS):
        async with serving(with_settings(settings, drain_seconds=3600), lambda _: losable_models(resolver)) as (
            client,
            service,
        ):
            await ready(client)
            _, writer = await send_raw(settings.port, post(png_request(90))[:-10])  # and no more
            resolver.error = accelerator_error()
            assert_error(await client.post("/upscale", json=request_fields(10)), 503, "device_lost")
            await service.drained()
            writer.close()
