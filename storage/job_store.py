"""Records of jobs, on disk beside the results, so that they survive the process.

A record is a small JSON file, written whole or not at all, named after a hash of the job's id; `ResultStore.sweep` removes it
with the results. While a job is not done, its process holds a lock on the file, which ends with the process however that ends:
so a record without a last state and without a lock is that of an orphan, a job that nobody is at. Whoever locks that very file
may take the job, if its request is there, or end it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO

from pydantic import Field, ValidationError

from core.errors import Interrupted
from schemas.response import JOB_ID, JobError, JobResult, JobStatus, PlanSummary
from storage.result_store import MAX_RECORD_BYTES
from storage.unfinished import JobState, Time, UnfinishedJobs, key_of
from utility import open_regular

logger = logging.getLogger(__name__)

INTERRUPTED_RETRY_SECONDS = 1


class JobRecord(JobState):
    """What is known of one job. Times are in seconds since the epoch."""

    id: str = Field(pattern=JOB_ID)
    request_id: str  # of the request that started it
    fingerprint: str  # of that request, so that another one under the same id is noticed
    has_alpha: bool = False  # in its picture, on which the usual format of a result depends
    plan: PlanSummary
    created_at: Time
    timeout_seconds: float = 0.0  # as its client has chosen it
    expires_at: Time = 0.0
    owner: str = Field(default="", pattern="^([0-9a-f]{32})?$")  # the instance that is at it
    deaths: int = Field(default=0, ge=0)  # of instances that were at it
    is_left: bool = False  # by an instance that lives: for another to take, and no death
    completed_at: Time | None = None
    result: JobResult | None = None
    error: JobError | None = None

    @property
    def deaths_so_far(self) -> int:
        """Of an orphan: with that of its last owner, unless it left the job."""
        return self.deaths + (not self.is_left)

    def is_older_than(self, seconds: float) -> bool:
        """Whether it is done, and was longer ago."""
        return self.completed_at is not None and time.time() - self.completed_at > seconds


class _Taken(Exception):
    """The id of a job has a record already."""


class JobStore:
    """The records in one folder. Its methods wait for the disk; no two save the same job at once."""

    def __init__(self, folder: Path) -> None:
        self.unfinished = UnfinishedJobs(folder)
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
            self._held[record.id] = self._write(record, partial(self._place, record.id))
        except _Taken:
            return False
        self.unfinished.forget(record.id)  # what an older job of this id has left
        return True

    def _place(self, job_id: str, unfinished: Path, path: Path) -> None:
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

    def save(self, record: JobRecord) -> bool:
        """Write a record, in place of the last one of this job.

        Returns:
            False, and nothing is written, if another instance has taken the job: the lock was lost on the way to the disk.

        Raises:
            OSError: the disk would not have it. The last one is still there, and will be that of an orphan, which nobody can
                take if this one was of a job that is done.
        """
        is_done = record.completed_at is not None
        held = self._held.get(record.id)
        if held and not self._is_in_place(held, record.id):
            self.let_go(record.id)
            return False
        try:
            file = self._write(record, os.replace)
        except BaseException:
            if is_done:
                self.let_go(record.id)
            raise
        finally:
            if is_done:
                self.unfinished.forget(record.id)
        self.let_go(record.id)
        if is_done:
            file.close()
        else:
            self._held[record.id] = file
        return True

    def keep(self) -> None:
        """Let whoever sweeps the folder find all that belongs to the jobs of this process new, however long they take."""
        for job_id in list(self._held):
            for path in (self._path(job_id), self.unfinished.request(job_id)):
                with contextlib.suppress(OSError):  # it is done, or was not saved
                    os.utime(path)

    def leave(self, record: JobRecord) -> None:
        """Give a job up, for another instance to take.

        Raises:
            OSError: the disk would not have it. The job can be taken as that of an instance that died.
        """
        left = record.model_copy(update={**dict(JobState()), "is_left": True})
        try:
            self.save(left)
        finally:
            self.let_go(record.id)

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

    def let_go(self, job_id: str) -> None:
        """Hold a job's record no longer: if the job is not done, it is as if this instance had died."""
        if held := self._held.pop(job_id, None):
            held.close()

    def load(self, job_id: str) -> JobRecord | None:
        """The record of a job, with how far its instance says that it is; None where there is none.

        An orphan that nobody can take is failed from here on.
        """
        record, is_orphan = self._read(key_of(job_id))
        if record and is_orphan and not self.unfinished.has_request(job_id):
            with self._interrupting:  # all who ask at once hear the same
                record, is_orphan = self._read(key_of(job_id))
                if record and is_orphan:
                    return self._interrupt(record)
        if record is None or is_orphan or record.completed_at or not record.owner:
            return record
        state = self.unfinished.state(record.owner, job_id)
        return record.model_copy(update=dict(state)) if state else record

    def orphans(self) -> list[JobRecord]:
        """The jobs, the oldest first, that nobody is at and whose requests are there."""
        orphans = []
        for key in set(self.unfinished.requests()) - set(map(key_of, list(self._held))):
            record, is_orphan = self._read(key)
            if record and is_orphan:
                orphans.append(record)
            elif record and record.completed_at:
                self.unfinished.forget(record.id)  # its instance died in between
        return sorted(orphans, key=lambda record: record.created_at)

    def take(self, job_id: str) -> JobRecord | None:
        """Take an orphan; None if another instance was quicker.

        Raises:
            OSError: the disk would not have the record.
        """
        path = self._path(job_id)
        try:
            with open_regular(path, MAX_RECORD_BYTES, is_writable=True) as file:  # without which NFS has no such lock
                if not _lock(file, fcntl.LOCK_EX) or not _is_at(file, path):
                    return None
                orphan = _parse(file.read(MAX_RECORD_BYTES), key_of(job_id))
                if orphan is None or orphan.completed_at:
                    return None
                changes = {"owner": self.unfinished.owner, "deaths": orphan.deaths_so_far, "is_left": False}
                record = orphan.model_copy(update=changes)
                self.save(record)
                return record
        except FileNotFoundError:
            return None

    def _read(self, key: str) -> tuple[JobRecord | None, bool]:
        """The record in a file, and whether it is an orphan's."""
        path = self._folder / f"{key}.json"
        try:
            while True:
                with open_regular(path, MAX_RECORD_BYTES) as file:
                    record = _parse(file.read(MAX_RECORD_BYTES), key)
                    if record is None or record.completed_at or not _lock(file, fcntl.LOCK_SH):  # which those who look share
                        return record, False
                    if _is_at(file, path):
                        return record, True
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

    def _is_in_place(self, held: IO[bytes], job_id: str) -> bool:
        """Whether the record that is held is still that of its job, or nothing is in its place."""
        try:
            return _is_at(held, self._path(job_id))
        except OSError:  # it was swept, or the folder is not there
            return True

    def _path(self, job_id: str) -> Path:
        return self._folder / f"{key_of(job_id)}.json"

    def close(self) -> None:
        """Give up what is not done."""
        self.unfinished.close()
        for file in self._held.values():
            file.close()


def interrupted() -> Interrupted:
    """What became of a job that its process did not live to finish."""
    return Interrupted(
        "The server was stopped before this was done. Send it again, as another job.",
        retry_after_seconds=INTERRUPTED_RETRY_SECONDS,
    )


def _parse(data: bytes, key: str) -> JobRecord | None:
    try:
        record = JobRecord.model_validate_json(data)
    except ValidationError as exc:  # of another version
        logger.warning("the record of a job cannot be read: %d of its fields are wrong", exc.error_count())
        return None
    if key_of(record.id) != key:
        logger.warning("the record of a job is in the place of another's")
        return None
    return record


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Whether it is this file that is there, and not one that has replaced it."""
    return os.path.samestat(os.fstat(file.fileno()), path.lstat())


def _lock(file: IO[bytes], kind: int) -> bool:
    """Lock it for as long as it is open; False if another holds it."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)  # what file systems say that have none
