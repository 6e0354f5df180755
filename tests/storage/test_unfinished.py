"""Jobs that nobody is at: left or taken; and what instances tell each other of jobs that are not done."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from bench.server import ROOT
from core.config import MIB
from imaging.formats import InputLimits
from schemas.request import IncomingRequest
from storage import job_store
from storage.job_store import JobRecord, JobStore
from storage.result_store import ResultStore
from storage.unfinished import JobState, UnfinishedJobs
from tests.storage.other_things import OTHER_THINGS, Put
from tests.storage.test_job_store import a_record

REQUEST = IncomingRequest(b"{}", accepted={"jpeg": 1.0})


def an_orphan(folder: Path, job_id: str = "job-of-mine", **fields: Any) -> JobRecord:
    """One with its request, whose instance has died."""
    dying = JobStore(folder)
    record = a_record(job_id, **fields)
    dying.create(record)
    dying.unfinished.save_request(job_id, REQUEST)
    dying.close()
    return record


def test_a_job_with_its_request_waits_to_be_taken_and_is_taken_by_one(tmp_path: Path) -> None:
    record = an_orphan(tmp_path)
    first, second, third = (JobStore(tmp_path) for _ in range(3))
    assert first.load("job-of-mine") == record, "not failed: it can be taken"
    assert [orphan.id for orphan in first.orphans()] == ["job-of-mine"]
    taken = first.take("job-of-mine")
    assert taken
    assert (taken.deaths, taken.owner) == (1, first.unfinished.owner)
    assert second.take("job-of-mine") is None
    assert second.orphans() == []
    first.leave(taken)
    left = second.take("job-of-mine")
    assert left
    assert left.deaths == 1, "which is no death"
    second.close()
    assert [orphan.deaths for orphan in third.orphans()] == [1]
    again = third.take("job-of-mine")
    assert again
    assert again.deaths == 2
    assert third.save(again.model_copy(update={"completed_at": 2.0}))
    assert list((tmp_path / "unfinished").iterdir()) == []
    assert JobStore(tmp_path).take("job-of-mine") is None


def test_what_a_process_left_that_died_after_its_last_record_is_removed(tmp_path: Path) -> None:
    record = an_orphan(tmp_path)
    store = JobStore(tmp_path)
    store.save(record.model_copy(update={"completed_at": 2.0}))
    store.unfinished.save_request(record.id, REQUEST)
    assert store.orphans() == []
    assert list((tmp_path / "unfinished").iterdir()) == []


def test_who_has_lost_the_lock_says_nothing_more_of_the_job(tmp_path: Path) -> None:
    """As on a network's disk, after some time without the network."""
    first, second = JobStore(tmp_path), JobStore(tmp_path)
    first.create(a_record("job-of-mine"))
    first.unfinished.save_request("job-of-mine", REQUEST)
    fcntl.flock(first._held["job-of-mine"], fcntl.LOCK_UN)
    taken = second.take("job-of-mine")
    assert taken
    assert not first.save(a_record("job-of-mine", completed_at=2.0))
    assert first._held == {}
    assert second.load("job-of-mine") == taken
    assert second.unfinished.has_request("job-of-mine")
    second.close()


def test_of_all_who_take_the_same_jobs_one_takes_each(tmp_path: Path) -> None:
    """In processes of their own, as instances are, while others look."""
    for number in range(200):
        an_orphan(tmp_path, f"job-of-mine-{number}")
    take = f"""
import sys
from storage.job_store import JobStore, Path

store = JobStore(Path({str(tmp_path)!r}))
sys.stdin.readline()
taken = [record.id for record in store.orphans() if store.take(record.id)]
for number in range(200):
    assert store.load(f"job-of-mine-{{number}}").status == "starting"
print(json.dumps(taken), flush=True)
sys.stdin.readline()
""".replace("import sys", "import json\nimport sys")
    command = [sys.executable, "-c", take]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    processes = [subprocess.Popen(command, cwd=ROOT, text=True, **pipes) for _ in range(3)]  # type: ignore[call-overload]  # noqa: S603
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    taken = [job_id for process in processes for job_id in json.loads(process.stdout.readline())]
    for process in processes:
        process.communicate("\n")
    assert len(taken) == len(set(taken))
    # One that just looks at a record keeps others from taking it, for that moment.
    assert set(taken) | {orphan.id for orphan in JobStore(tmp_path).orphans()} == {f"job-of-mine-{n}" for n in range(200)}


def before_the_lock(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Let something happen between the moment in which a record is opened and that in which it is locked, once."""
    actions, lock = [action], job_store._lock

    def act_and_lock(file: IO[bytes], kind: int) -> bool:
        if actions:
            actions.pop()()
        return lock(file, kind)

    monkeypatch.setattr(job_store, "_lock", act_and_lock)


def test_a_job_that_was_taken_a_moment_ago_is_not_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    an_orphan(tmp_path)
    first, second = JobStore(tmp_path), JobStore(tmp_path)
    before_the_lock(monkeypatch, lambda: second.take("job-of-mine"))
    assert first.take("job-of-mine") is None
    second.close()


def test_a_job_whose_record_is_just_being_replaced_has_somebody_at_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, other = JobStore(tmp_path), JobStore(tmp_path)
    record = a_record("job-of-mine", owner=owner.unfinished.owner)
    owner.create(record)
    owner.unfinished.save_request(record.id, REQUEST)
    owner.unfinished.exchange({record.id: JobState(progress=0.5)})
    before_the_lock(monkeypatch, lambda: owner.save(record))
    shown = other.load(record.id)
    assert shown
    assert shown.progress == 0.5
    owner.close()


# requests, marks and states


def test_a_request_comes_back_as_it_came(tmp_path: Path) -> None:
    tmp_path.joinpath("unfinished").mkdir()
    unfinished = UnfinishedJobs(tmp_path)
    limits = InputLimits(10)
    for incoming in (REQUEST, IncomingRequest(b"\n\x00raw\n", True, "scale=2&a=%0A\ufffd", {"png": 0.5})):
        unfinished.save_request("job-of-mine", incoming)
        read = unfinished.load_request("job-of-mine", limits, max_body_bytes=100)
        assert read
        assert (read.body, read.is_raw, read.query, read.accepted, read.limits) == (
            incoming.body,
            incoming.is_raw,
            incoming.query,
            incoming.accepted,
            limits,
        )


@pytest.mark.parametrize("put", OTHER_THINGS)
def test_what_is_no_file_is_no_request_and_no_state(tmp_path: Path, put: Put) -> None:
    tmp_path.joinpath("unfinished").mkdir()
    unfinished = UnfinishedJobs(tmp_path)
    put(unfinished.request("job-of-mine"))
    assert unfinished.load_request("job-of-mine", InputLimits(), MIB) is None
    elsewhere = tmp_path / "unfinished" / "elsewhere"
    elsewhere.unlink(missing_ok=True)
    put(unfinished._states_of("0" * 32))
    assert unfinished.state("0" * 32, "job-of-mine") is None


@pytest.mark.parametrize("content", [b"", b"[]", b'{"job-of-mine": 1}', b'{"job-of-mine": {"progress": 2}}', b"{" * 1000])
def test_states_that_are_none_say_nothing(tmp_path: Path, content: bytes) -> None:
    tmp_path.joinpath("unfinished").mkdir()
    unfinished = UnfinishedJobs(tmp_path)
    unfinished._states_of("0" * 32).write_bytes(content)
    assert unfinished.state("0" * 32, "job-of-mine") is None


def test_states_are_written_where_they_changed_and_removed_where_there_are_none(tmp_path: Path) -> None:
    one, other = UnfinishedJobs(tmp_path), UnfinishedJobs(tmp_path)
    states = {"job-of-mine": JobState(progress=0.5)}
    assert one.exchange(states) == []
    assert other.state(one.owner, "job-of-mine") == states["job-of-mine"]
    (path,) = (tmp_path / "unfinished").iterdir()
    written = path.stat().st_ino
    other.ask_to_cancel("job-of-mine")
    assert one.exchange(states) == ["job-of-mine"]
    assert path.stat().st_ino == written
    one.forget("job-of-mine")
    assert one.exchange({}) == []
    assert list((tmp_path / "unfinished").iterdir()) == []


def test_what_belongs_to_unfinished_jobs_is_swept_too(tmp_path: Path) -> None:
    an_orphan(tmp_path)
    other = UnfinishedJobs(tmp_path)
    other.ask_to_cancel("job-of-mine")
    other.exchange({"job-of-mine": JobState()})
    foreign = tmp_path / "unfinished" / "README.txt"
    foreign.touch()
    results = ResultStore(tmp_path, retention_seconds=2 * 3600, max_bytes=MIB)
    assert results.sweep(now=time.time() + 3000) == 0
    assert results.sweep(now=time.time() + 4000) == 2
    assert {path.suffix for path in foreign.parent.iterdir()} == {".request", ".txt"}
    assert results.sweep(now=time.time() + 8000) == 2
    assert list(foreign.parent.iterdir()) == [foreign]
    full = ResultStore(tmp_path, retention_seconds=2 * 3600, max_bytes=1)
    other.save_request("job-of-mine", REQUEST)
    assert full.sweep(now=time.time()) == 1, "requests count as results do"
