"""Records of jobs, on disk beside the results, so that they survive the process.

A record is a small JSON file, written whole or not at all, named after a hash of the job's id; `ResultStore.sweep` removes it
with the results. While a job is not done, its process holds a lock on the file, which ends with the process however that ends:
so a record without a last state and without a lock is that of a job that nobody will finish.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.errors import Interrupted
from schemas.response import JOB_ID, JobError, JobResult, JobStatus, PlanSummary
from storage.result_store import MAX_RECORD_BYTES
from utility import open_regular

logger = logging.getLogger(__name__)

INTERRUPTED_RETRY_SECONDS = 1

_Time = Annotated[float, Field(ge=0, le=253402300799)]  # the end of the year 9999, beyond which there are no dates


class JobRecord(BaseModel):
    """What is known of one job. Times are in seconds since the epoch."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)

    id: str = Field(pattern=JOB_ID)
    request_id: str  # of the request that started it
    fingerprint: str  # of that request, so that another one under the same id is noticed
    has_alpha: bool = False  # in its picture, on which the usual format of a result depends
    plan: PlanSummary
    created_at: _Time
    status: JobStatus = JobStatus.STARTING
    started_at: _Time | None = None
    completed_at: _Time | None = None
    progress: float = Field(default=0.0, ge=0, le=1)
    result: JobResult | None = None
    error: JobError | None = None

    def is_older_than(self, seconds: float) -> bool:
        """Whether it is done, and was longer ago."""
        return self.completed_at is not None and time.time() - self.completed_at > seconds


class _Taken(Exception):
    """The id of a job has a record already."""


class JobStore:
    """The records in one folder. Its methods wait for the disk; no two save the same job at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, IO[bytes]] = {}  # locked, of the jobs of this process that are not done
        self._interrupting = threading.Lock()
        self._has_links = True

    def create(self, record: JobRecord) -> bool:
        """Write the first record of a job; False, and nothing is written, if its id has one already, of whatever process.

        Raises:
            OSError: the disk would not have it.
        """
        try:
            self._held[record.id] = self._write(record, partial(self._take, record.id))
        except _Taken:
            return False
        return True

    def _take(self, job_id: str, unfinished: Path, path: Path) -> None:
        try:
            os.link(unfinished, path)  # of two that try at the same moment, one succeeds
        except OSError as exc:
            if exc.errno != errno.EEXIST:
                self._note_missing_links(exc)
            if self.load(job_id):
                raise _Taken from exc
            unfinished.replace(path)  # what is there, if anything, is no record
        else:
            unfinished.unlink()

    def _note_missing_links(self, error: OSError) -> None:
        if error.errno not in _NO_LINKS:
            raise error
        if self._has_links:
            self._has_links = False
            logger.warning("OUTPUT_DIR takes no hard links: instances that share it may take one id of a job for two jobs")

    def save(self, record: JobRecord) -> None:
        """Write a record, in place of the last one of this job.

        Raises:
            OSError: the disk would not have it. The last one is still there, and will be that of a job which nobody finished
                if this one was of a job that is done.
        """
        is_done = record.completed_at is not None
        try:
            file = self._write(record, os.replace)
        except BaseException:
            if is_done:
                self._let_go(record.id)
            raise
        self._let_go(record.id)
        if is_done:
            file.close()
        else:
            self._held[record.id] = file

    def _write(self, record: JobRecord, place: Callable[[Path, Path], None]) -> IO[bytes]:
        """The record's file, locked before `place` has put it where it belongs."""
        self._folder.mkdir(parents=True, exist_ok=True)
        unfinished = self._folder / f"{secrets.token_hex(16)}.part"
        with contextlib.ExitStack() as undo:
            file = undo.enter_context(unfinished.open("xb"))
            undo.callback(unfinished.unlink, missing_ok=True)  # before it is closed, which a full disk lets fail too
            file.write(record.model_dump_json().encode())
            file.flush()
            os.fsync(file.fileno())
            fcntl.flock(file, fcntl.LOCK_EX)
            place(unfinished, self._path(record.id))
            undo.pop_all()
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
            with open_regular(self._path(job_id), MAX_RECORD_BYTES) as file:
                record = _parse(file.read(MAX_RECORD_BYTES), job_id)
                if record is None:
                    return None, False
                return record, record.completed_at is None and not _is_locked(file)
        except FileNotFoundError:
            return None, False
        except OSError as exc:
            logger.error("the record of a job cannot be read: %s", exc.strerror)
            return None, False

    def _interrupt(self, record: JobRecord) -> JobRecord:
        died = interrupted()
        error = JobError.of(died, record.request_id, status_code=died.status)
        changes = {"status": JobStatus.FAILED, "completed_at": time.time(), "error": error}
        failed = record.model_copy(update=changes)
        try:
            self.save(failed)
        except OSError as exc:
            logger.error("the record of an interrupted job could not be saved: %s", exc.strerror)
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


def _parse(data: bytes, job_id: str) -> JobRecord | None:
    try:
        record = JobRecord.model_validate_json(data)
    except ValidationError as exc:  # of another version
        logger.warning("the record of a job cannot be read: %d of its fields are wrong", exc.error_count())
        return None
    if record.id != job_id:
        logger.warning("the record of a job is in the place of another's")
        return None
    return record


def _is_locked(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # which those who only look share
    except BlockingIOError:
        return True
    return False


_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)  # what file systems say that have none
