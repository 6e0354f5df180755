"""Jobs after a restart, of another instance, and whose records or files are lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from bench.server import free_port
from core.config import Settings
from schemas.request import IncomingRequest
from serving.deadline import Deadline
from serving.jobs import Jobs
from storage.job_store import JobStore
from tests.helpers import HANG_SECONDS, assert_error, until, with_settings
from tests.serving.gated_service import ASYNC, gated_service, request_fields
from tests.storage.other_things import OTHER_THINGS, Put
from utility import IO_THREADS


async def test_after_a_restart_done_jobs_are_still_there_and_their_files_too(settings: Settings) -> None:
    async with gated_service(settings) as h:
        job, given_up = await h.submit(), await h.submit(20)
        await h.client.post(given_up["urls"]["cancel"])
        h.resolver.gate.set()
        done = await h.job_is(job["id"], "succeeded")
        canceled = await h.job(given_up["id"])
    async with gated_service(settings) as h:
        assert await h.job(job["id"]) == done
        assert await h.job(given_up["id"]) == canceled
        assert (await h.client.get(done["result"]["url"])).status_code == 200
        again = await h.client.put(f"/jobs/{job['id']}", json=request_fields(), headers=ASYNC)
        assert (again.status_code, again.json()) == (200, done)
        assert_error(await h.client.put(f"/jobs/{job['id']}", json=request_fields(99), headers=ASYNC), 409, "job_conflict")
        assert [event async for event in h.follow(job["id"])] == [done]


async def test_a_job_whose_file_was_removed_says_so(settings: Settings) -> None:
    async with gated_service(settings) as h:
        h.resolver.gate.set()
        job = await h.submit()
        done = await h.job_is(job["id"], "succeeded")
        await asyncio.to_thread(Path(done["result"]["file_path"]).unlink)
        failed = await h.job(job["id"])
    assert (failed["status"], failed["result"]) == ("failed", None)
    assert (failed["error"]["code"], failed["error"]["status_code"]) == ("result_expired", 410)


async def test_finished_jobs_beyond_the_memory_are_found_on_disk(settings: Settings, tmp_path: Path) -> None:
    async with gated_service(settings) as h:
        jobs = Jobs(h.service, finished_in_memory=1)
        ids = [
            (await jobs.create(IncomingRequest(orjson.dumps(request_fields(gray))), "r", Deadline.after(60))).id
            for gray in (10, 20, 30)
        ]
        h.resolver.gate.set()
        for job_id in ids:
            await jobs.wait(job_id)
        assert [(await jobs.get(job_id)).status for job_id in ids] == ["succeeded"] * 3
        assert len(jobs._runner.finished) == 1
        await jobs.close()


async def test_a_job_of_another_instance_in_the_same_folder_is_followed_but_cannot_be_cancelled(settings: Settings) -> None:
    async with gated_service(settings) as h, gated_service(with_settings(settings, port=free_port())) as other:
        job = await h.submit()
        assert (await other.job(job["id"]))["status"] == "starting"
        assert_error(await other.client.post(job["urls"]["cancel"]), 409, "job_conflict")
        events = other.follow(job["id"])
        assert (await anext(events))["status"] == "starting"
        waiting = asyncio.create_task(other.client.put(f"/jobs/{job['id']}", json=request_fields()))
        h.resolver.gate.set()
        assert [event async for event in events][-1] == (await waiting).json() == await h.job_is(job["id"], "succeeded")


async def test_of_two_instances_one_takes_an_id_and_the_other_says_so(settings: Settings) -> None:
    async with gated_service(settings) as h, gated_service(with_settings(settings, port=free_port())) as other:
        for number in range(40):
            url, fields = f"/jobs/raced-for-{number}", [request_fields(10), request_fields(20 if number % 4 else 10)]
            first, second = await asyncio.gather(
                h.client.put(url, json=fields[0], headers=ASYNC), other.client.put(url, json=fields[1], headers=ASYNC)
            )
            if number % 4 == 0:
                assert [first.status_code, second.status_code] == [202, 202], "the same request is the same job"
                assert first.json()["created_at"] == second.json()["created_at"]
            else:
                assert sorted([first.status_code, second.status_code]) == [202, 409]
                loser = first if first.status_code == 409 else second
                assert_error(loser, 409, "job_conflict")
            winner, canceled = await asyncio.gather(*(one.client.post(f"{url}/cancel") for one in (h, other)))
            assert "canceled" in [winner.json().get("status"), canceled.json().get("status")]
        for one in (h, other):
            one.resolver.gate.set()
            await one.queue_is(running=0, waiting=0)


@pytest.mark.parametrize("put", OTHER_THINGS)
async def test_what_stands_in_the_place_of_a_record_ties_nothing_up(settings: Settings, put: Put) -> None:
    async with gated_service(settings) as h:
        h.resolver.gate.set()
        for number in range(2 * IO_THREADS):
            put(JobStore(settings.output_dir)._path(f"planted-{number}"))
        for number in range(2 * IO_THREADS):
            assert_error(await h.client.get(f"/jobs/planted-{number}"), 404, "not_found")
            url = f"/jobs/planted-{number}"
            assert (await h.client.put(url, json=request_fields(), headers=ASYNC)).status_code == 202
            await h.job_is(f"planted-{number}", "succeeded")


async def test_those_who_wait_for_another_instances_job_do_not_hold_up_the_end(settings: Settings) -> None:
    async with gated_service(settings) as h:
        job = await h.submit()
        async with gated_service(with_settings(settings, port=free_port())) as other:
            following = asyncio.create_task(_all_of(other.follow(job["id"])))
            waiting = asyncio.create_task(other.client.put(f"/jobs/{job['id']}", json=request_fields()))
            await until(lambda: other.service._open_requests == 2)
            other.service.stop()
            assert [event["status"] for event in await asyncio.wait_for(following, HANG_SECONDS)] == ["starting"]
            assert_error(await asyncio.wait_for(waiting, HANG_SECONDS), 503, "shutting_down")
        h.resolver.gate.set()


async def _all_of(events: AsyncIterator[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event async for event in events]


async def test_jobs_are_forgotten_after_their_time_in_memory_too(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with gated_service(settings) as h:
        h.resolver.gate.set()
        job = await h.submit()
        await h.job_is(job["id"], "succeeded")
        await asyncio.to_thread(_remove_all, settings.output_dir)

        async def status() -> int:
            return (await h.client.get(f"/jobs/{job['id']}")).status_code

        assert await status() == 200
        later = time.time() + settings.retention_seconds + 1
        monkeypatch.setattr(time, "time", lambda: later)
        assert await status() == 404


def _remove_all(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


async def test_a_job_whose_record_cannot_be_made_still_ends(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    async with gated_service(settings) as h:
        job = await h.submit()
        h.service.store.folder.rename(settings.output_dir.with_name("away"))
        await asyncio.to_thread(settings.output_dir.write_bytes, b"a file where the folder should be")
        canceled = (await h.client.post(job["urls"]["cancel"])).json()
        assert canceled["status"] == "canceled"
        assert canceled == await h.job(job["id"])
    assert "the record of a job could not be saved" in caplog.text
