"""Records of jobs on disk: written, read, interrupted, swept."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import PydanticSerializationError

from bench.server import ROOT
from core.config import MIB
from schemas.plan import Size, plan_upscale
from schemas.response import PlanSummary
from storage.job_store import JobRecord, JobStore
from storage.result_store import ResultStore
from tests.helpers import file_size_limit
from tests.storage.other_things import OTHER_THINGS, Put

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


def test_a_record_of_an_older_version_is_read(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    store.save(a_record("job-of-mine", completed_at=2.0))
    (path,) = tmp_path.iterdir()
    record = json.loads(path.read_bytes())
    del record["has_alpha"]
    path.write_text(json.dumps(record))
    assert store.load("job-of-mine") == a_record("job-of-mine", completed_at=2.0)


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


# what others have put in a record's place


def with_fields(**fields: Any) -> bytes:
    record = json.loads(a_record("job-of-mine", completed_at=2.0).model_dump_json())
    return json.dumps({**record, **fields}).encode()


TIMES: list[object] = ["a text", None, [], True, -1.0, 1e300, 1e13, math.nan, math.inf, 10**400]
NONSENSE: list[object] = [[], [1], "a text", {"a": {}}]
MALFORMED = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"[" * 100_000,
    b"\xff\xfe",
    b'{"id": "job-of-mine"}',
    b'{"status": "new"}',
    *(with_fields(created_at=time) for time in TIMES),
    *(with_fields(**{name: 1e300}) for name in ("started_at", "completed_at", "progress")),
    *(with_fields(**{name: nonsense}) for name in ("result", "error", "plan") for nonsense in NONSENSE),
    with_fields(id="job-of-another"),
    with_fields(status=["failed"]),
    with_fields(progress=-0.1),
    with_fields(fingerprint={"a": [[[]]]}),
    with_fields(request_id="\ud800"),
    with_fields() + b" " * MIB,
]


@pytest.mark.parametrize("content", MALFORMED)
def test_a_record_that_is_none_gives_way_and_is_one_line(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store = JobStore(tmp_path)
    store.save(a_record("job-of-mine", completed_at=2.0))
    next(tmp_path.iterdir()).write_bytes(content)
    assert store.load("job-of-mine") is None
    assert len(caplog.records) == 1
    assert store.create(a_record("job-of-mine"))
    assert store.load("job-of-mine") == a_record("job-of-mine")
    store.close()


@pytest.mark.parametrize("put", OTHER_THINGS)
def test_what_is_no_file_is_no_record_and_holds_nobody_up(tmp_path: Path, put: Put, caplog: pytest.LogCaptureFixture) -> None:
    store = JobStore(tmp_path)
    put(store._path("job-of-mine"))
    assert store.load("job-of-mine") is None
    assert len(caplog.records) == 1


# two instances


def test_of_all_who_create_the_same_job_one_succeeds(tmp_path: Path) -> None:
    """In processes of their own, as instances are."""
    create = f"""
import sys
from storage.job_store import JobRecord, JobStore, Path

store = JobStore(Path({str(tmp_path)!r}))
record = JobRecord.model_validate_json(sys.stdin.readline())
print([number for number in range(100) if store.create(record.model_copy(update={{"id": f"job-of-mine-{{number}}"}}))])
"""
    command = [sys.executable, "-c", create]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdin
        process.stdin.write(a_record("job-of-mine").model_dump_json() + "\n")
        process.stdin.flush()
    created = [number for process in processes for number in json.loads(process.communicate()[0])]
    assert sorted(created) == list(range(100))
    assert {path.suffix for path in tmp_path.iterdir()} == {".json"}


def test_a_disk_without_hard_links_takes_jobs_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    first, second = JobStore(tmp_path), JobStore(tmp_path)
    assert first.create(a_record("job-of-mine"))
    assert first.create(a_record("another-job"))
    assert ["hard links" in record.message for record in caplog.records] == [True]
    assert not second.create(a_record("job-of-mine"))
    assert second.load("job-of-mine") == a_record("job-of-mine"), "it is locked, so nobody takes it for interrupted"
    first.close()


# a full disk


@pytest.mark.parametrize("write", [JobStore.save, JobStore.create])
def test_a_full_disk_keeps_nothing_of_a_record(tmp_path: Path, write: Callable[[JobStore, JobRecord], object]) -> None:
    with file_size_limit(os.getpid(), 100), pytest.raises(OSError, match="File too large"):
        write(JobStore(tmp_path), a_record("job-of-mine"))
    assert list(tmp_path.iterdir()) == []


# age


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
