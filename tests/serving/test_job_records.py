"""Jobs after a restart, and whose records or files are lost."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import orjson
import pytest

from core.config import Settings
from schemas.request import IncomingRequest
from serving.deadline import Deadline
from serving.jobs import Jobs
from storage.job_store import JobStore
from tests.helpers import assert_error
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
    for path in folder.glob("*.*"):
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
