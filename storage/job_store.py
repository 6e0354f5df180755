"""Records of jobs, on disk beside the results, so that they survive the process.

A record is a small JSON file, written whole or not at all, named after a hash of the job's id; `ResultStore.sweep` removes it
with the results. While a job is not done, its process holds a lock on the file, which ends with the process however that ends:
so a record without a last state and without a lock is that of a job that nobody will finish.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import secrets
import threading
import time
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict, ValidationError

from core.errors import Interrupted
from schemas.response import JobError, JobResult, JobStatus, PlanSummary

logger = logging.getLogger(__name__)

INTERRUPTED_RETRY_SECONDS = 1


class JobRecord(BaseModel):
    """What is known of one job. Times are in seconds since the epoch."""

    model_config = ConfigDict(strict=True, frozen=True)

    id: str
    request_id: str  # of the request that started it
    fingerprint: str  # of that request, so that another one under the same id is noticed
    plan: PlanSummary
    created_at: float
    status: JobStatus = JobStatus.STARTING
    started_at: float | None = None
    completed_at: float | None = None
    progress: float = 0.0  # 0–1
    result: JobResult | None = None
    error: JobError | None = None

    def is_older_than(self, seconds: float) -> bool:
        """Whether it is done, and was longer ago."""
        return self.completed_at is not None and time.time() - self.completed_at > seconds


class JobStore:
    """The records in one folder. Its methods wait for the disk; no two save the same job at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, IO[bytes]] = {}  # locked, of the jobs of this process that are not done
        self._interrupting = threading.Lock()

    def save(self, record: JobRecord) -> None:
        """Write a record, in place of the last one of this job.

        Raises:
            OSError: the disk would not have it. The last one is still there, and will be that of a job which nobody finished
                if this one was of a job that is done.
        """
        is_done = record.completed_at is not None
        try:
            file = self._write(record)
        except BaseException:
            if is_done:
                self._let_go(record.id)
            raise
        self._let_go(record.id)
        if is_done:
            file.close()
        else:
            self._held[record.id] = file

    def _write(self, record: JobRecord) -> IO[bytes]:
        """The record's file, in its place and locked."""
        self._folder.mkdir(parents=True, exist_ok=True)
        unfinished = self._folder / f"{secrets.token_hex(16)}.part"
        file = unfinished.open("xb")
        try:
            file.write(record.model_dump_json().encode())
            file.flush()
            os.fsync(file.fileno())
            fcntl.flock(file, fcntl.LOCK_EX)
            unfinished.replace(self._path(record.id))
        except BaseException:
            file.close()
            unfinished.unlink(missing_ok=True)
            raise
        return file

    def _let_go(self, job_id: str) -> None:
        if held := self._held.pop(job_id, None):
            held.close()

    def load(self, job_id: str) -> JobRecord | None:
        """The record of a job, None where there is none. A job that nobody will finish is failed from here on."""
        record, is_orphan = self._read(job_id)
        if record and is_orphan:
            with self._interrupting:  # all who ask at once hear the same
                record, is_orphan = self._read(job_id)
                if record and is_orphan:
                    return self._interrupt(record)
        return record

    def _read(self, job_id: str) -> tuple[JobRecord | None, bool]:
        """The record, and whether nobody will finish its job."""
        try:
            with self._path(job_id).open("rb") as file:
                record = _parse(file.read())
                if record is None or record.id != job_id:
                    return None, False
                return record, record.completed_at is None and not _is_locked(file)
        except FileNotFoundError:
            return None, False
        except OSError as exc:
            logger.error("the record of a job cannot be read: %s", exc)
            return None, False

    def _interrupt(self, record: JobRecord) -> JobRecord:
        died = interrupted()
        error = JobError.of(died, record.request_id, status_code=died.status)
        changes = {"status": JobStatus.FAILED, "completed_at": time.time(), "error": error}
        failed = record.model_copy(update=changes)
        try:
            self.save(failed)
        except OSError as exc:
            logger.error("the record of an interrupted job could not be saved: %s", exc)
        return failed

    def _path(self, job_id: str) -> Path:
        """A hash, since some file systems take Ab and aB for the same name."""
        return self._folder / f"{hashlib.sha256(job_id.encode()).hexdigest()[:32]}.json"

    def close(self) -> None:
        """Give up what is not done."""
        for file in self._held.values():
            file.close()


def interrupted() -> Interrupted:
    """What became of a job that its process did not live to finish."""
    return Interrupted(
        "The server was stopped before this was done. Send it again, as another job.",
        retry_after_seconds=INTERRUPTED_RETRY_SECONDS,
    )


def _parse(data: bytes) -> JobRecord | None:
    try:
        return JobRecord.model_validate_json(data)
    except ValidationError as exc:  # of another version
        logger.warning("the record of a job cannot be read: %d of its fields are wrong", exc.error_count())
        return None


def _is_locked(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # which those who only look share
    except BlockingIOError:
        return True
    return False
