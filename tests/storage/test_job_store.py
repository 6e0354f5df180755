"""Records of jobs on disk: written, read, interrupted, swept."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import PydanticSerializationError

from core.config import MIB
from schemas.plan import Size, plan_upscale
from schemas.response import PlanSummary
from storage.job_store import JobRecord, JobStore
from storage.result_store import ResultStore

WRONG_TYPE = b'{"id":"job-of-mine","request_id":"r","fingerprint":"f","plan":{},"created_at":"a text"}'
PLAN = PlanSummary.of(plan_upscale(Size(20, 10), "2k"))
NO_JSON = {"progress": object()}


def a_record(job_id: str, **fields: Any) -> JobRecord:
    return JobRecord(id=job_id, request_id="request", fingerprint="fingerprint", plan=PLAN, created_at=1.0, **fields)


def test_a_job_of_a_process_that_died_is_interrupted_and_one_of_a_process_that_lives_is_not(tmp_path: Path) -> None:
    dying, other = JobStore(tmp_path), JobStore(tmp_path)
    dying.save(a_record("job-of-mine"))
    assert other.load("job-of-mine") == a_record("job-of-mine")
    dying.close()  # as the kernel does it
    record = other.load("job-of-mine")
    assert record
    assert (record.status, record.error.code if record.error else "") == ("failed", "interrupted")
    assert JobStore(tmp_path).load("job-of-mine") == record


def test_a_record_that_cannot_be_written_leaves_the_last_one(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    store.save(a_record("job-of-mine"))
    with pytest.raises(PydanticSerializationError):
        store.save(a_record("job-of-mine").model_copy(update=NO_JSON))
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]
    assert store.load("job-of-mine") == a_record("job-of-mine"), "it is not done, and nobody takes it for interrupted"
    with pytest.raises(PydanticSerializationError):
        store.save(a_record("job-of-mine", completed_at=2.0).model_copy(update=NO_JSON))
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


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"id": "job-of-mine"}', b'{"status": "new"}', WRONG_TYPE])
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
