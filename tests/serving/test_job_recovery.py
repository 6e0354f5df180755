"""Taking up the jobs of an instance that died, where one of them makes trouble."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from core.config import Settings
from schemas.request import IncomingRequest
from storage.job_store import JobRecord, JobStore
from storage.unfinished import UnfinishedJobs
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
