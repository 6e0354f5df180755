"""Jobs over a real socket, from their acceptance to their end, and the events that tell of it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from core.config import Settings
from schemas.request import IncomingRequest
from serving.deadline import Deadline
from serving.jobs import Jobs
from tests.helpers import HANG_SECONDS, advance_clock, assert_error, b64, files_in, send_raw, until, with_settings
from tests.serving.gated_service import ASYNC, gated_service, request_fields
from utility import max_jobs
from workers.speed import Speed

# the life of a job


async def test_a_job_is_accepted_at_once_and_gives_what_the_synchronous_call_gives(settings: Settings) -> None:
    async with gated_service(settings) as h:
        response = await h.client.post("/upscale", json=request_fields(), headers=ASYNC)
        job = response.json()
        assert response.status_code == 202
        assert response.headers["location"] == job["urls"]["get"] == f"/jobs/{job['id']}"
        assert response.headers["preference-applied"] == "respond-async"
        assert re.fullmatch(r"[0-9a-f]{32}", job["id"])
        assert job["plan"] == {
            "original_size": {"width": 20, "height": 20},
            "upscaled_size": {"width": 1280, "height": 1280},
            "upscaling_strategy": [4, 4, 4],
            "target_resolution": "2k",
        }
        assert (job["result"], job["error"], job["completed_at"]) == (None, None, None)
        running = await h.job_is(job["id"], "processing")
        assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", running["started_at"])
        h.resolver.gate.set()
        done = await h.job_is(job["id"], "succeeded")
        synchronous = (await h.client.post("/upscale", json=request_fields())).json()
        file = await h.client.get(done["result"]["url"])
    assert done["created_at"] <= done["started_at"] <= done["completed_at"]
    assert (done["progress"], done["position"], done["error"]) == (1.0, 0, None)
    assert b64(file.content) == synchronous["base64"]
    assert set(done["result"]) == set(synchronous) - {"base64"} | {"url"}


async def test_an_instance_with_a_name_begins_ids_and_files_with_it(settings: Settings) -> None:
    async with gated_service(with_settings(settings, instance="b2")) as h:
        h.resolver.gate.set()
        done = await h.job_is((await h.submit())["id"], "succeeded")
        assert re.fullmatch(r"b2-[0-9a-f]{32}", done["id"])
        assert re.fullmatch(r"/files/b2-[0-9a-f]{32}\.jpg", done["result"]["url"])
        file = await h.client.get(done["result"]["url"])
        assert (file.status_code, file.headers["etag"]) == (200, f'"{Path(done["result"]["file_path"]).stem}"')
        assert h.service.store.sweep(now=2 * time.time()) == 3, "the file, the record of the result and that of the job"
        assert_error(await h.client.get(done["result"]["url"]), 404, "not_found")


@pytest.mark.parametrize(
    ("prefer", "status"),
    [
        (["respond-async"], 202),
        (["Respond-Async"], 202),
        (["wait=10, respond-async; x=1"], 202),
        (["handling=lenient", "respond-async"], 202),
        (['foo="a, b" , respond-async'], 202),
        (['respond-async=""'], 202),
        (['foo="respond-async, x"'], 200),
        (["respond-asynchronously"], 200),
        (["foo; respond-async"], 200),
        ([""], 200),
    ],
)
async def test_the_preference_is_found_among_others(client: httpx.AsyncClient, prefer: list[str], status: int) -> None:
    headers = [("Prefer", value) for value in prefer]
    response = await client.post("/upscale", json=request_fields(), headers=headers)
    assert response.status_code == status, prefer
    assert ("preference-applied" in response.headers) == (status == 202)


async def test_waiting_jobs_know_their_place_and_count_in_admission(settings: Settings) -> None:
    async with gated_service(with_settings(settings, queue_limit=2)) as h:
        jobs = [await h.submit(gray) for gray in (10, 20, 30)]
        await h.job_is(jobs[0]["id"], "processing")
        assert [(await h.job(job["id"]))["position"] for job in jobs] == [0, 1, 2]
        h.service._admission.speeds["cpu"] = Speed(seconds_per_flop=0.001)
        first, second, third = [(await h.job(job["id"]))["eta_seconds"] for job in jobs]
        assert first < second < third
        refused = await h.client.post("/upscale", json=request_fields(40), headers=ASYNC)
        assert_error(refused, 503, "queue_full")
        assert int(refused.headers["retry-after"]) >= 1
        assert_error(await h.client.post("/upscale", json=request_fields(40)), 503, "queue_full")
        h.resolver.gate.set()
        for job in jobs:
            await h.job_is(job["id"], "succeeded")


async def test_a_request_that_is_wrong_is_refused_and_not_a_failed_job(client: httpx.AsyncClient) -> None:
    assert_error(await client.post("/upscale", json={"image_b64": "AAAA"}, headers=ASYNC), 400, "not_an_image")
    assert_error(await client.get("/jobs/0123456789abcdef"), 404, "not_found")
    assert_error(await client.get("/jobs/0123456789abcdef/events"), 404, "not_found")
    assert_error(await client.post("/jobs/0123456789abcdef/cancel"), 404, "not_found")


async def test_a_defect_fails_the_job_and_tells_nothing_of_the_inside(settings: Settings) -> None:
    async with gated_service(settings) as h:
        job = await h.submit()
        h.resolver.error = RuntimeError("secret of the house")
        h.resolver.gate.set()
        failed = await h.job_is(job["id"], "failed")
    assert (failed["error"]["code"], failed["error"]["status_code"], failed["result"]) == ("internal_error", 500, None)
    assert "secret" not in str(failed)


async def test_a_result_that_cannot_be_saved_fails_the_job(settings: Settings) -> None:
    async with gated_service(settings) as h:
        job = await h.submit()
        settings.output_dir.rename(settings.output_dir.with_name("away"))
        settings.output_dir.write_bytes(b"a file where the folder should be")
        h.resolver.gate.set()
        failed = await h.job_is(job["id"], "failed")
    assert (failed["error"]["code"], failed["error"]["status_code"]) == ("result_not_saved", 507)


# the end of a job


async def test_a_cancelled_job_frees_the_device_at_its_next_step_and_leaves_no_file(settings: Settings) -> None:
    async with gated_service(with_settings(settings, queue_limit=0)) as h:
        job = await h.submit()
        await h.job_is(job["id"], "processing")
        canceled = (await h.client.post(f"/jobs/{job['id']}/cancel")).json()
        assert (canceled["status"], canceled["result"], canceled["error"]) == ("canceled", None, None)
        assert canceled["completed_at"]
        h.resolver.gate.set()
        async with asyncio.timeout(HANG_SECONDS):
            while (await h.client.post("/upscale", json=request_fields(20))).status_code != 200:
                pass
        assert (await h.client.post(f"/jobs/{job['id']}/cancel")).json() == await h.job(job["id"]) == canceled
    assert len([name for name in files_in(settings) if name.endswith(".jpg")]) == 1


async def test_a_waiting_job_that_is_cancelled_never_starts(settings: Settings) -> None:
    async with gated_service(settings) as h:
        running, waiting = await h.submit(10), await h.submit(20)
        await h.job_is(running["id"], "processing")
        canceled = (await h.client.post(f"/jobs/{waiting['id']}/cancel")).json()
        assert (canceled["status"], canceled["started_at"]) == ("canceled", None)
        assert (await h.client.get("/health")).json()["queue"]["waiting"] == 0
        h.resolver.gate.set()
        await h.job_is(running["id"], "succeeded")


async def test_jobs_that_ask_for_the_same_are_bounded_too(settings: Settings) -> None:
    async with gated_service(settings) as h:
        for _ in range(max_jobs()):
            await h.submit()
        assert_error(await h.client.post("/upscale", json=request_fields(), headers=ASYNC), 503, "queue_full")
        h.resolver.gate.set()


async def test_a_job_that_is_not_done_at_its_deadline_has_failed_with_that(settings: Settings) -> None:
    async with gated_service(settings) as h:
        response = await h.client.post("/upscale", json=request_fields(), headers={**ASYNC, "X-Request-Timeout": "30"})
        await h.job_is(response.json()["id"], "processing")
        advance_clock(30)
        failed = await h.job_is(response.json()["id"], "failed")
        assert (failed["error"]["code"], failed["error"]["status_code"]) == ("deadline_exceeded", 504)
        put = await h.client.put("/jobs/my-own-id_1", json=request_fields(20), headers={"X-Request-Timeout": "no"})
        assert_error(put, 400, "out_of_range")
        h.resolver.gate.set()


# events


async def test_events_tell_every_change_of_state_and_end(settings: Settings) -> None:
    async with gated_service(settings) as h:
        before, job = await h.submit(10), await h.submit(20)
        seen = []
        async for event in h.follow(job["id"]):
            seen.append(event)
            h.resolver.gate.set()
        assert list(dict.fromkeys(event["status"] for event in seen)) == ["starting", "processing", "succeeded"]
        assert [event["progress"] for event in seen] == sorted(event["progress"] for event in seen)
        assert seen[-1] == await h.job(job["id"])
        assert [event async for event in h.follow(job["id"])] == [seen[-1]]
        await h.job_is(before["id"], "succeeded")  # its result may be encoded for longer
        assert [event["status"] async for event in h.follow(before["id"])] == ["succeeded"]
        ended = await h.client.get(f"/jobs/{job['id']}/events", headers={"Last-Event-ID": "succeeded"})
        assert (ended.status_code, ended.content) == (204, b"")


async def test_silence_is_broken_now_and_then_so_that_the_line_is_kept(settings: Settings) -> None:
    async with gated_service(settings) as h:
        jobs = Jobs(h.service, keep_alive_seconds=0.4)
        job = await jobs.create(IncomingRequest(orjson.dumps(request_fields())), "request", Deadline.after(60))
        events = [event async for event in _until_silent(jobs.events(job.id), h.resolver.gate.set)]
        assert None in events[1:-1]
        assert events[-1].status == "succeeded"
        await jobs.close()


async def _until_silent(events: AsyncIterator[Any], action: Callable[[], None]) -> AsyncIterator[Any]:
    """The events, with something done at the first silence."""
    async for event in events:
        yield event
        if event is None:
            action()


async def test_a_follower_that_leaves_disturbs_nobody_and_leaves_nothing(settings: Settings) -> None:
    async with gated_service(settings) as h:
        job = await h.submit()
        before = len(asyncio.all_tasks())
        _, writer = await send_raw(
            h.client.base_url.port or 0, f"GET {job['urls']['events']} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        )
        await until(lambda: len(asyncio.all_tasks()) > before)
        writer.close()
        await until(lambda: len(asyncio.all_tasks()) <= before)
        h.resolver.gate.set()
        await h.job_is(job["id"], "succeeded")
