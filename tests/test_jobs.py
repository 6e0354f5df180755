"""Jobs over a real socket, with a network that waits for the test."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from bench.server import free_port
from contract import Submission
from core.config import MIB, Settings
from deadline import Deadline
from job_store import JobRecord, JobStore
from jobs import MAX_LIVE, Jobs
from service import Service
from tests.conftest import FakeResolver, assert_error, b64, encode, fake_upscaler, files_in, ready, send_raw, serving, until
from utility import IO_THREADS, ResultStore

ASYNC = {"Prefer": "respond-async"}


def order(gray: int = 10, **fields: Any) -> dict[str, Any]:
    """A request of three passes."""
    return {"image_b64": b64(encode(np.full((20, 20, 3), gray, np.uint8))), "target_resolution": "2k", **fields}


class House:
    """A service whose network waits at `gate`, and what a test asks of it."""

    def __init__(self, client: httpx.AsyncClient, service: Service, resolver: FakeResolver) -> None:
        self.client = client
        self.service = service
        self.resolver = resolver

    async def submit(self, gray: int = 10) -> dict[str, Any]:
        answer = await self.client.post("/upscale", json=order(gray), headers=ASYNC)
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = answer.json()
        return job

    async def job(self, job_id: str) -> dict[str, Any]:
        answer = await self.client.get(f"/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        return job

    async def job_is(self, job_id: str, status: str) -> dict[str, Any]:
        async with asyncio.timeout(10):
            while (job := await self.job(job_id))["status"] != status:
                assert not job["completed_at"], job
        return job

    async def follow(self, job_id: str) -> AsyncIterator[dict[str, Any]]:
        """The events of a job, until the server ends them."""
        async with self.client.stream("GET", f"/jobs/{job_id}/events") as stream:
            assert stream.headers["content-type"] == "text/event-stream"
            event = ""
            async for line in stream.aiter_lines():
                if line.startswith("event: "):
                    event = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    job = orjson.loads(line.removeprefix("data: "))
                    assert job["status"] == event
                    yield job


@contextlib.asynccontextmanager
async def house(settings: Settings) -> AsyncIterator[House]:
    resolver = FakeResolver()
    async with serving(settings, lambda _: fake_upscaler(resolver)) as (client, service):
        await ready(client)
        resolver.gate.clear()
        try:
            yield House(client, service, resolver)
        finally:
            resolver.gate.set()


# the life of a job


async def test_a_job_is_accepted_at_once_and_gives_what_the_synchronous_call_gives(settings: Settings) -> None:
    async with house(settings) as h:
        answer = await h.client.post("/upscale", json=order(), headers=ASYNC)
        job = answer.json()
        assert answer.status_code == 202
        assert answer.headers["location"] == job["urls"]["get"] == f"/jobs/{job['id']}"
        assert answer.headers["preference-applied"] == "respond-async"
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
        synchronous = (await h.client.post("/upscale", json=order())).json()
        file = await h.client.get(done["result"]["url"])
    assert done["created_at"] <= done["started_at"] <= done["completed_at"]
    assert (done["progress"], done["position"], done["error"]) == (1.0, 0, None)
    assert b64(file.content) == synchronous["base64"]
    assert set(done["result"]) == set(synchronous) - {"base64"} | {"url"}


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
    answer = await client.post("/upscale", json=order(), headers=headers)
    assert answer.status_code == status, prefer
    assert ("preference-applied" in answer.headers) == (status == 202)


async def test_waiting_jobs_know_their_place_and_count_in_admission(settings: Settings) -> None:
    async with house(replace(settings, queue_limit=2)) as h:
        jobs = [await h.submit(gray) for gray in (10, 20, 30)]
        await h.job_is(jobs[0]["id"], "processing")
        assert [(await h.job(job["id"]))["position"] for job in jobs] == [0, 1, 2]
        queue = h.service._queue
        queue._measured_work, queue._measured_seconds = 1000.0, 1.0  # a rate: the fake network is too fast to have one
        first, second, third = [(await h.job(job["id"]))["eta_seconds"] for job in jobs]
        assert first < second < third
        refused = await h.client.post("/upscale", json=order(40), headers=ASYNC)
        assert_error(refused, 503, "queue_full")
        assert int(refused.headers["retry-after"]) >= 1
        assert_error(await h.client.post("/upscale", json=order(40)), 503, "queue_full")
        h.resolver.gate.set()
        for job in jobs:
            await h.job_is(job["id"], "succeeded")


async def test_a_request_that_is_wrong_is_refused_and_not_a_failed_job(client: httpx.AsyncClient) -> None:
    assert_error(await client.post("/upscale", json={"image_b64": "AAAA"}, headers=ASYNC), 400, "not_an_image")
    assert_error(await client.get("/jobs/0123456789abcdef"), 404, "not_found")
    assert_error(await client.get("/jobs/0123456789abcdef/events"), 404, "not_found")
    assert_error(await client.post("/jobs/0123456789abcdef/cancel"), 404, "not_found")


async def test_a_defect_fails_the_job_and_tells_nothing_of_the_inside(settings: Settings) -> None:
    async with house(settings) as h:
        job = await h.submit()
        h.resolver.error = RuntimeError("secret of the house")
        h.resolver.gate.set()
        failed = await h.job_is(job["id"], "failed")
    assert (failed["error"]["code"], failed["error"]["status_code"], failed["result"]) == ("internal_error", 500, None)
    assert "secret" not in str(failed)


async def test_a_result_that_cannot_be_saved_fails_the_job(settings: Settings) -> None:
    async with house(settings) as h:
        job = await h.submit()
        settings.output_dir.rename(settings.output_dir.with_name("away"))
        settings.output_dir.write_bytes(b"a file where the folder should be")
        h.resolver.gate.set()
        failed = await h.job_is(job["id"], "failed")
    assert (failed["error"]["code"], failed["error"]["status_code"]) == ("result_not_saved", 507)


# the end of a job


async def test_a_cancelled_job_frees_the_device_at_its_next_step_and_leaves_no_file(settings: Settings) -> None:
    async with house(replace(settings, queue_limit=0)) as h:
        job = await h.submit()
        await h.job_is(job["id"], "processing")
        canceled = (await h.client.post(f"/jobs/{job['id']}/cancel")).json()
        assert (canceled["status"], canceled["result"], canceled["error"]) == ("canceled", None, None)
        assert canceled["completed_at"]
        h.resolver.gate.set()
        async with asyncio.timeout(10):
            while (await h.client.post("/upscale", json=order(20))).status_code != 200:
                pass
        assert (await h.client.post(f"/jobs/{job['id']}/cancel")).json() == await h.job(job["id"]) == canceled
    assert len([name for name in files_in(settings) if name.endswith(".jpg")]) == 1


async def test_a_waiting_job_that_is_cancelled_never_starts(settings: Settings) -> None:
    async with house(settings) as h:
        running, waiting = await h.submit(10), await h.submit(20)
        await h.job_is(running["id"], "processing")
        canceled = (await h.client.post(f"/jobs/{waiting['id']}/cancel")).json()
        assert (canceled["status"], canceled["started_at"]) == ("canceled", None)
        assert (await h.client.get("/health")).json()["queue"]["waiting"] == 0
        h.resolver.gate.set()
        await h.job_is(running["id"], "succeeded")


async def test_the_drain_finishes_jobs_refuses_new_ones_and_answers_about_them(settings: Settings) -> None:
    async with house(settings) as h:
        job = await h.submit()
        await h.job_is(job["id"], "processing")
        h.service.stop()
        assert_error(await h.client.post("/upscale", json=order(), headers=ASYNC), 503, "shutting_down")
        events = h.follow(job["id"])
        assert (await anext(events))["status"] == "processing"
        h.resolver.gate.set()
        assert [event async for event in events][-1]["status"] == "succeeded"


@contextlib.asynccontextmanager
async def decoding_held(service: Service) -> AsyncIterator[None]:
    """No image is decoded meanwhile."""
    decoding = service._dispatcher._decoding
    for _ in range(IO_THREADS):
        await decoding.acquire()
    yield
    for _ in range(IO_THREADS):
        decoding.release()


async def held(service: Service) -> None:
    """A request waits for its image to be decoded."""
    await until(lambda: bool(service._dispatcher._decoding._waiters))


async def test_a_job_that_is_taken_while_the_drain_begins_is_finished(settings: Settings) -> None:
    async with house(settings) as h:
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
    async with house(replace(settings, drain_seconds=0.1)) as h:
        h.resolver.entered.clear()  # which warming up has set
        async with decoding_held(h.service):
            posting = asyncio.create_task(h.client.post("/upscale", json=order()))
            await held(h.service)
            h.service.stop()
            await until(lambda: h.service._drained)
        assert_error(await posting, 503, "shutting_down")
        assert not h.resolver.entered.is_set()


async def test_past_the_drain_time_a_job_fails_and_says_why(settings: Settings) -> None:
    async with house(replace(settings, drain_seconds=0.2)) as h:
        running, waiting = await h.submit(10), await h.submit(20)
        await h.job_is(running["id"], "processing")
        events = [event async for event in _after(h.service.stop, h.follow(waiting["id"]))]
        assert (events[-1]["status"], events[-1]["error"]["code"]) == ("failed", "interrupted")


async def _after(action: Any, events: AsyncIterator[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    """The events, with something done after the first."""
    yield await anext(events)
    action()
    async for event in events:
        yield event


# what survives


async def test_after_a_restart_done_jobs_are_still_there_and_their_files_too(settings: Settings) -> None:
    async with house(settings) as h:
        job, given_up = await h.submit(), await h.submit(20)
        await h.client.post(given_up["urls"]["cancel"])
        h.resolver.gate.set()
        done = await h.job_is(job["id"], "succeeded")
        canceled = await h.job(given_up["id"])
    async with house(settings) as h:
        assert await h.job(job["id"]) == done
        assert await h.job(given_up["id"]) == canceled
        assert (await h.client.get(done["result"]["url"])).status_code == 200
        again = await h.client.put(f"/jobs/{job['id']}", json=order(), headers=ASYNC)
        assert (again.status_code, again.json()) == (200, done)
        assert_error(await h.client.put(f"/jobs/{job['id']}", json=order(99), headers=ASYNC), 409, "job_conflict")
        assert [event async for event in h.follow(job["id"])] == [done]


async def test_a_job_whose_file_was_removed_says_so(settings: Settings) -> None:
    async with house(settings) as h:
        h.resolver.gate.set()
        job = await h.submit()
        done = await h.job_is(job["id"], "succeeded")
        await asyncio.to_thread(Path(done["result"]["file_path"]).unlink)
        failed = await h.job(job["id"])
    assert (failed["status"], failed["result"]) == ("failed", None)
    assert (failed["error"]["code"], failed["error"]["status_code"]) == ("result_expired", 410)


async def test_finished_jobs_beyond_the_memory_are_found_on_disk(settings: Settings, tmp_path: Path) -> None:
    async with house(settings) as h:
        jobs = Jobs(h.service, finished_in_memory=1)
        ids = [
            (await jobs.create(Submission(orjson.dumps(order(gray))), "r", Deadline.after(60)))["id"] for gray in (10, 20, 30)
        ]
        h.resolver.gate.set()
        for job_id in ids:
            await jobs.wait(job_id)
        assert [(await jobs.get(job_id))["status"] for job_id in ids] == ["succeeded"] * 3
        assert len(jobs._finished) == 1
        await jobs.close()


def a_record(job_id: str, **fields: Any) -> JobRecord:
    return JobRecord(job_id, "request", "fingerprint", {}, created_at=1.0, **fields)


def test_a_job_of_a_process_that_died_is_interrupted_and_one_of_a_process_that_lives_is_not(tmp_path: Path) -> None:
    dying, other = JobStore(tmp_path), JobStore(tmp_path)
    dying.save(a_record("job-of-mine"))
    assert other.load("job-of-mine") == a_record("job-of-mine")
    dying.close()  # as the kernel does it
    record = other.load("job-of-mine")
    assert record
    assert (record.status, record.error["code"] if record.error else "") == ("failed", "interrupted")
    assert JobStore(tmp_path).load("job-of-mine") == record


def test_a_record_that_cannot_be_written_leaves_the_last_one(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    store.save(a_record("job-of-mine"))
    with pytest.raises(TypeError):
        store.save(a_record("job-of-mine", result={"no JSON": object()}))
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]
    assert store.load("job-of-mine") == a_record("job-of-mine"), "it is not done, and nobody takes it for interrupted"
    with pytest.raises(TypeError):
        store.save(a_record("job-of-mine", completed_at=2.0, result={"no JSON": object()}))
    assert store._held == {}
    record = store.load("job-of-mine")
    assert record
    assert record.status == "failed", "nobody waits for it for ever"


def test_a_last_record_that_has_no_place_at_all_keeps_nothing_open(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "records")
    store.save(a_record("job-of-mine"))
    store._folder.rename(tmp_path / "away")
    store._folder.write_bytes(b"a file where the folder should be")
    with pytest.raises(OSError, match="File exists"):
        store.save(a_record("job-of-mine", completed_at=2.0))
    assert store._held == {}


def test_all_who_ask_at_once_for_a_job_that_died_hear_the_same(tmp_path: Path) -> None:
    for number in range(50):
        dying, store = JobStore(tmp_path), JobStore(tmp_path)
        dying.save(a_record(f"job-of-mine-{number}"))
        dying.close()
        with ThreadPoolExecutor(4) as threads:
            records = list(threads.map(store.load, [f"job-of-mine-{number}"] * 4))
        assert [record.status for record in records if record] == ["failed"] * 4
        assert len({record.completed_at for record in records if record}) == 1


async def test_a_job_of_another_instance_in_the_same_folder_is_followed_but_cannot_be_cancelled(settings: Settings) -> None:
    async with house(settings) as h, house(replace(settings, port=free_port())) as other:
        job = await h.submit()
        assert (await other.job(job["id"]))["status"] == "starting"
        assert_error(await other.client.post(job["urls"]["cancel"]), 409, "job_conflict")
        events = other.follow(job["id"])
        assert (await anext(events))["status"] == "starting"
        waiting = asyncio.create_task(other.client.put(f"/jobs/{job['id']}", json=order()))
        h.resolver.gate.set()
        assert [event async for event in events][-1] == (await waiting).json() == await h.job_is(job["id"], "succeeded")


async def test_those_who_wait_for_another_instances_job_do_not_hold_up_the_end(settings: Settings) -> None:
    async with house(settings) as h:
        job = await h.submit()
        async with house(replace(settings, port=free_port())) as other:
            following = asyncio.create_task(_all_of(other.follow(job["id"])))
            waiting = asyncio.create_task(other.client.put(f"/jobs/{job['id']}", json=order()))
            await until(lambda: other.service._in_flight == 2)
            other.service.stop()
            assert [event["status"] for event in await asyncio.wait_for(following, 5)] == ["starting"]
            assert_error(await asyncio.wait_for(waiting, 5), 503, "shutting_down")
        h.resolver.gate.set()


async def _all_of(events: AsyncIterator[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event async for event in events]


async def test_jobs_are_forgotten_after_their_time_in_memory_too(settings: Settings) -> None:
    async with house(replace(settings, retention_seconds=0.3)) as h:
        h.resolver.gate.set()
        job = await h.submit()
        await h.job_is(job["id"], "succeeded")
        await asyncio.to_thread(_remove_all, settings.output_dir)

        async def status() -> int:
            return (await h.client.get(f"/jobs/{job['id']}")).status_code

        async with asyncio.timeout(10):
            while await status() != 404:
                pass


def _remove_all(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


async def test_a_job_whose_record_cannot_be_made_still_ends(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    async with house(settings) as h:
        job = await h.submit()
        h.service.store.folder.rename(settings.output_dir.with_name("away"))
        await asyncio.to_thread(settings.output_dir.write_bytes, b"a file where the folder should be")
        canceled = (await h.client.post(job["urls"]["cancel"])).json()
        assert canceled["status"] == "canceled"
        assert canceled == await h.job(job["id"])
    assert "the record of a job could not be saved" in caplog.text


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"id": "job-of-mine"}', b'{"status": "new"}'])
def test_a_record_of_another_version_is_no_record(tmp_path: Path, content: bytes) -> None:
    store = JobStore(tmp_path)
    store.save(a_record("job-of-mine", completed_at=2.0))
    next(tmp_path.iterdir()).write_bytes(content)
    assert store.load("job-of-mine") is None


def test_records_are_swept_by_age_and_by_number(tmp_path: Path) -> None:
    store, results = JobStore(tmp_path), ResultStore(tmp_path, retention_seconds=100, max_bytes=MIB, max_records=2)
    for age in range(4):
        store.save(a_record(f"job-of-mine-{age}", completed_at=2.0))
        (path,) = [path for path in tmp_path.iterdir() if path.stat().st_mtime > 1000]
        os.utime(path, (900 - age, 900 - age))
    assert results.sweep(now=950) == 2
    assert [store.load(f"job-of-mine-{age}") is None for age in range(4)] == [False, False, True, True]
    assert results.sweep(now=1001) == 2


def test_cached_results_push_no_job_out(tmp_path: Path) -> None:
    store, results = JobStore(tmp_path), ResultStore(tmp_path, retention_seconds=100, max_bytes=MIB, max_records=1)
    store.save(a_record("job-of-mine", completed_at=2.0))
    for number in range(3):
        tmp_path.joinpath(f"{number:064x}.json").write_bytes(b"{}")
    assert results.sweep(now=time.time()) == 0
    assert store.load("job-of-mine")


# PUT


async def test_the_same_put_is_the_same_job_in_whatever_state(settings: Settings) -> None:
    async with house(settings) as h:
        first, second = await asyncio.gather(
            *(h.client.put("/jobs/my-own-id_1", json=order(), headers=ASYNC) for _ in range(2))
        )
        assert (first.status_code, second.status_code) == (202, 202)
        assert first.headers["location"] == second.headers["location"] == "/jobs/my-own-id_1"
        assert first.json()["created_at"] == second.json()["created_at"]
        queue = (await h.client.get("/health")).json()["queue"]
        assert queue["running"] + queue["waiting"] == 1
        other_words = dict(reversed([*order(target_resolution="2K", unknown=1).items()]))
        assert (await h.client.put("/jobs/my-own-id_1", json=other_words, headers=ASYNC)).status_code == 202
        conflict = await h.client.put("/jobs/my-own-id_1", json=order(20), headers=ASYNC)
        assert_error(conflict, 409, "job_conflict")
        waiting = asyncio.create_task(h.client.put("/jobs/my-own-id_1", json=order()))
        h.resolver.gate.set()
        answer = await waiting
        assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
        again = await h.client.put("/jobs/my-own-id_1", json=order(), headers=ASYNC)
        assert (again.status_code, again.json()) == (200, answer.json())
        for other in ({"quality": 5}, {"fit": "exact"}, {"webhook": "http://8.8.8.8/"}):
            assert_error(await h.client.put("/jobs/my-own-id_1", json=order(**other)), 409, "job_conflict")
        h.service.stop()
        assert (await h.client.put("/jobs/my-own-id_1", json=order(), headers=ASYNC)).status_code == 200


async def test_a_put_that_waits_too_long_says_so_and_another_requests_job_goes_on(settings: Settings) -> None:
    async with house(settings) as h:
        job = (await h.client.put("/jobs/my-own-id_1", json=order(), headers=ASYNC)).json()
        waiting = await h.client.put("/jobs/my-own-id_1", json=order(), headers={"X-Request-Timeout": "0.2"})
        assert_error(waiting, 504, "deadline_exceeded")
        own = await h.client.put("/jobs/my-own-id_2", json=order(20), headers={"X-Request-Timeout": "0.2"})
        assert_error(own, 504, "deadline_exceeded")
        failed = await h.job_is("my-own-id_2", "failed")
        assert failed["error"]["code"] == "deadline_exceeded"
        h.resolver.gate.set()
        await h.job_is(job["id"], "succeeded")


async def test_a_number_is_the_same_however_it_is_written_down(settings: Settings) -> None:
    async with house(settings) as h:
        statuses = [
            (await h.client.put("/jobs/my-own-id_1", json=order(**choice), headers=ASYNC)).status_code
            for choice in ({}, {"face_strength": 1}, {"face_strength": 1.0})
        ]
    assert statuses == [202, 202, 202]


async def test_jobs_that_ask_for_the_same_are_bounded_too(settings: Settings) -> None:
    async with house(settings) as h:
        for _ in range(MAX_LIVE):
            await h.submit()
        assert_error(await h.client.post("/upscale", json=order(), headers=ASYNC), 503, "queue_full")
        h.resolver.gate.set()


async def test_a_job_that_is_not_done_at_its_deadline_has_failed_with_that(settings: Settings) -> None:
    async with house(settings) as h:
        answer = await h.client.post("/upscale", json=order(), headers={**ASYNC, "X-Request-Timeout": "0.3"})
        failed = await h.job_is(answer.json()["id"], "failed")
        assert (failed["error"]["code"], failed["error"]["status_code"]) == ("deadline_exceeded", 504)
        put = await h.client.put("/jobs/my-own-id_1", json=order(20), headers={"X-Request-Timeout": "no"})
        assert_error(put, 400, "out_of_range")
        h.resolver.gate.set()


@pytest.mark.parametrize("job_id", ["short", "x" * 65, "with.dot.in.it", "with%20space", "%ff%ff%ff%ff%ff%ff%ff%ff"])
async def test_an_id_that_is_none_is_refused(client: httpx.AsyncClient, job_id: str) -> None:
    assert_error(await client.put(f"/jobs/{job_id}", json=order()), 400, "out_of_range")
    assert_error(await client.get(f"/jobs/{job_id}"), 404, "not_found")


# events


async def test_events_tell_every_change_of_state_and_end(settings: Settings) -> None:
    async with house(settings) as h:
        before, job = await h.submit(10), await h.submit(20)
        seen = []
        async for event in h.follow(job["id"]):
            seen.append(event)
            h.resolver.gate.set()
        assert list(dict.fromkeys(event["status"] for event in seen)) == ["starting", "processing", "succeeded"]
        assert [event["progress"] for event in seen] == sorted(event["progress"] for event in seen)
        assert seen[-1] == await h.job(job["id"])
        assert [event async for event in h.follow(job["id"])] == [seen[-1]]
        assert [event["status"] async for event in h.follow(before["id"])] == ["succeeded"]
        ended = await h.client.get(f"/jobs/{job['id']}/events", headers={"Last-Event-ID": "succeeded"})
        assert (ended.status_code, ended.content) == (204, b"")


async def test_silence_is_broken_now_and_then_so_that_the_line_is_kept(settings: Settings) -> None:
    async with house(settings) as h:
        jobs = Jobs(h.service, keep_alive_seconds=0.4)
        job = await jobs.create(Submission(orjson.dumps(order())), "request", Deadline.after(60))
        events = [event async for event in _until_silent(jobs.events(job["id"]), h.resolver.gate.set)]
        assert None in events[1:-1]
        assert events[-1]["status"] == "succeeded"
        await jobs.close()


async def _until_silent(events: AsyncIterator[Any], action: Callable[[], None]) -> AsyncIterator[Any]:
    """The events, with something done at the first silence."""
    async for event in events:
        yield event
        if event is None:
            action()


async def test_a_follower_that_leaves_disturbs_nobody_and_leaves_nothing(settings: Settings) -> None:
    async with house(settings) as h:
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
