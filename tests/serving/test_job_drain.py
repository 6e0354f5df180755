"""Jobs while the service stops."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from core.config import Settings
from serving.decoding import LANES
from serving.lifecycle import Service
from tests.helpers import assert_error, until, with_settings
from tests.serving.gated_service import ASYNC, gated_service, request_fields, unfinished


async def test_the_drain_finishes_jobs_refuses_new_ones_and_answers_about_them(settings: Settings) -> None:
    async with gated_service(settings) as h:
        job = await h.submit()
        await h.job_is(job["id"], "processing")
        h.service.stop()
        assert_error(await h.client.post("/upscale", json=request_fields(), headers=ASYNC), 503, "shutting_down")
        events = h.follow(job["id"])
        assert (await anext(events))["status"] == "processing"
        h.resolver.gate.set()
        assert [event async for event in events][-1]["status"] == "succeeded"


@contextlib.asynccontextmanager
async def decoding_held(service: Service) -> AsyncIterator[None]:
    """No image is decoded meanwhile."""
    threads = service._decoder._threads
    for _ in range(LANES[False]):
        await threads.acquire()
    yield
    for _ in range(LANES[False]):
        threads.release()


async def held(service: Service) -> None:
    """A request waits for its image to be decoded."""
    await until(lambda: service._decoder.waiting > 0)


async def test_a_job_that_is_taken_while_the_drain_begins_is_finished(settings: Settings) -> None:
    async with gated_service(settings) as h:
        async with decoding_held(h.service):
            posting = asyncio.create_task(h.submit())
            await held(h.service)
            h.service.stop()
        job = await posting
        events = h.follow(job["id"])
        assert not (await anext(events))["completed_at"]
        h.resolver.gate.set()
        assert [event async for event in events][-1]["status"] == "succeeded"


async def test_past_the_drain_time_nothing_is_begun(settings: Settings) -> None:
    async with gated_service(with_settings(settings, drain_seconds=0.1)) as h:
        h.resolver.entered.clear()  # which warming up has set
        async with decoding_held(h.service):
            posting = asyncio.create_task(h.client.post("/upscale", json=request_fields()))
            await held(h.service)
            h.service.stop()
            await until(lambda: h.service._drained)
        assert_error(await posting, 503, "shutting_down")
        assert not h.resolver.entered.is_set()


async def test_past_the_drain_time_jobs_are_left_and_the_next_process_does_them(settings: Settings) -> None:
    async with gated_service(with_settings(settings, drain_seconds=0.2)) as h:
        running, waiting = await h.submit(10), await h.submit(20)
        await h.job_is(running["id"], "processing")
        events = [event async for event in _after(h.service.stop, h.follow(waiting["id"]))]
        assert {event["status"] for event in events} == {"starting"}, "another instance has to be asked"
    async with gated_service(settings) as h:
        for job in (running, waiting):
            assert (await h.job(job["id"]))["status"] in ("starting", "processing")
        h.resolver.gate.set()
        for job in (running, waiting):
            done = await h.job_is(job["id"], "succeeded")
            assert done["created_at"] == job["created_at"]
    assert unfinished(settings) == []


async def test_past_the_drain_time_a_job_whose_request_is_not_saved_fails_and_says_why(settings: Settings) -> None:
    async with gated_service(with_settings(settings, drain_seconds=0.2)) as h:
        settings.output_dir.joinpath("unfinished").write_bytes(b"a file where the folder should be")
        job = await h.submit(10)
        await h.job_is(job["id"], "processing")
        events = [event async for event in _after(h.service.stop, h.follow(job["id"]))]
        assert (events[-1]["status"], events[-1]["error"]["code"]) == ("failed", "interrupted")


async def _after(action: Any, events: AsyncIterator[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    """The events, with something done after the first."""
    yield await anext(events)
    action()
    async for event in events:
        yield event
