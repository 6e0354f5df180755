"""Jobs that make trouble where one instance takes up what another was at, or sweeps the folder of both."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from typing import Any

import pytest

from core.config import Settings
from schemas.request import IncomingRequest
from storage.job_store import JobRecord, JobStore
from storage.unfinished import UnfinishedJobs
from tests.helpers import assert_error
from tests.serving.gated_service import gated_service
from tests.serving.orphans import an_orphan, another, hurry


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instances look for each other's news more often."""
    hurry(monkeypatch)


async def test_a_job_that_cannot_be_taken_keeps_no_other_waiting(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stuck, take = await an_orphan(settings, 10), JobStore.take

    def take_all_but_one(store: JobStore, job_id: str) -> JobRecord | None:
        if job_id == stuck:  # another user's, perhaps, which this one cannot write
            raise PermissionError(errno.EACCES, "Permission denied")
        return take(store, job_id)

    monkeypatch.setattr(JobStore, "take", take_all_but_one)
    async with gated_service(another(settings)) as h:
        h.resolver.gate.set()
        await h.job_is(await an_orphan(settings, 20), "succeeded")
        assert (await h.job(stuck))["status"] == "starting"
    assert "cannot be taken up: Permission denied" in caplog.text


async def test_a_job_whose_request_did_not_fit_into_memory_is_tried_again_later(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures, load = [MemoryError()], UnfinishedJobs.load_request

    def load_second(*arguments: Any) -> IncomingRequest | None:
        if failures:
            raise failures.pop()
        return load(*arguments)

    monkeypatch.setattr(UnfinishedJobs, "load_request", load_second)
    async with gated_service(another(settings)) as h:
        h.resolver.gate.set()
        await h.job_is(await an_orphan(settings), "succeeded")


async def test_a_job_that_takes_longer_than_results_are_kept_is_not_swept(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.jobs.jobs.KEEP_SECONDS", 0.05)
    async with gated_service(settings) as h, gated_service(another(settings)) as other:
        job = await h.submit()
        for path in (*settings.output_dir.glob("*.json"), *settings.output_dir.glob("unfinished/*.request")):
            await asyncio.to_thread(os.utime, path, (1, 1))
        await asyncio.sleep(0.5)  # it is kept some times
        assert await asyncio.to_thread(other.service.store.sweep, time.time()) == 0
        await other.job(job["id"])
        h.resolver.gate.set()
        assert await other.job_is(job["id"], "succeeded") == await h.job_is(job["id"], "succeeded")


async def test_who_cancels_a_job_of_a_frozen_instance_waits_no_longer_than_asked(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gated_service(settings) as h, gated_service(another(settings)) as other:
        job = await h.submit()
        with monkeypatch.context() as frozen:
            frozen.setattr(UnfinishedJobs, "exchange", lambda *_: [])
            late = await other.client.post(job["urls"]["cancel"], headers={"X-Request-Timeout": "0.3"})
        assert_error(late, 504, "deadline_exceeded")
        await h.job_is(job["id"], "canceled")  # it hears of it all the same
        h.resolver.gate.set()
