"""Admission to the queue, and clients that leave it, over a real socket."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from core.config import MIB, Settings
from storage.result_cache import ResultCache
from storage.result_store import ResultStore
from tests.helpers import HANG_SECONDS, assert_error, files_in, post, send_raw, until, with_settings
from tests.serving.gated_service import gated_service, gray_of, png_request


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
