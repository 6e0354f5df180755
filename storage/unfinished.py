"""What instances with one folder tell each other of jobs that are not done, in a folder of its own beside the results.

There are requests, so that another instance can take up the job of one that died; marks of those who want a job cancelled; and
of each instance one file that says how far its jobs are. All of it can be lost without harm to a job.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from core.config import MIB, OutputFormat
from imaging.formats import InputLimits
from schemas.request import IncomingRequest
from schemas.response import JobStatus
from storage.result_store import MAX_RECORD_BYTES, UNFINISHED
from utility import open_regular, read_regular, write_atomically

logger = logging.getLogger(__name__)

MAX_HEAD_BYTES = MIB  # of a saved request, beside its body

Time = Annotated[float, Field(ge=0, le=253402300799)]  # the end of the year 9999, beyond which there are no dates


class JobState(BaseModel):
    """How far a job is that its instance has not done."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)

    status: JobStatus = JobStatus.STARTING
    started_at: Time | None = None
    progress: float = Field(default=0.0, ge=0, le=1)
    position: int = Field(default=0, ge=0)
    eta_seconds: float | None = None


_States = TypeAdapter(dict[str, JobState])


class _Head(BaseModel):
    """What belongs to a request beside its body."""

    model_config = ConfigDict(strict=True)

    is_raw: bool
    query: str
    accepted: dict[OutputFormat, float]


class UnfinishedJobs:
    """The folder, as one instance uses it. Its methods wait for the disk."""

    def __init__(self, results: Path) -> None:
        self.owner = secrets.token_hex(16)  # by which the others find this one's states
        self._folder = results / UNFINISHED
        self._states: Mapping[str, JobState] = {}  # as they were written last

    # requests

    def save_request(self, job_id: str, incoming: IncomingRequest) -> None:
        """Keep a request for whoever takes up its job.

        Raises:
            OSError: the disk would not have it; nothing is left behind.
        """
        head = _Head(is_raw=incoming.is_raw, query=incoming.query, accepted=dict(incoming.accepted))
        self._write(self.request(job_id), head.model_dump_json().encode(), b"\n", incoming.body)

    def load_request(self, job_id: str, limits: InputLimits, max_body_bytes: int) -> IncomingRequest | None:
        """A request that was kept; None where it is not there whole."""
        try:
            with open_regular(self.request(job_id), MAX_HEAD_BYTES + max_body_bytes) as file:
                head = _Head.model_validate_json(file.readline(MAX_HEAD_BYTES))
                return IncomingRequest(file.read(), head.is_raw, head.query, head.accepted, limits)
        except (OSError, ValidationError) as exc:
            logger.error("the request of a job cannot be read: %s", getattr(exc, "strerror", "it is damaged"))
            return None

    def request(self, job_id: str) -> Path:
        """Where a request is kept."""
        return self._folder / f"{key_of(job_id)}{_REQUEST}"

    def has_request(self, job_id: str) -> bool:
        """Whether the job could be taken up."""
        return self.request(job_id).is_file()

    def requests(self) -> Iterator[str]:
        """The keys of the jobs whose requests are here."""
        for path in self._folder.glob(f"*{_REQUEST}"):
            if _KEY.fullmatch(path.stem):
                yield path.stem

    # marks

    def ask_to_cancel(self, job_id: str) -> None:
        """Tell whoever runs the job that somebody wants it cancelled.

        Raises:
            OSError: the disk would not have it.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._mark(job_id).touch(mode=0o600)

    def is_to_cancel(self, job_id: str) -> bool:
        """Whether somebody has asked for that."""
        return self._mark(job_id).exists()

    def forget(self, job_id: str) -> None:
        """Remove what is here of a job that is done."""
        try:
            self.request(job_id).unlink(missing_ok=True)
            self._mark(job_id).unlink(missing_ok=True)
        except OSError as exc:
            logger.error("what is left of a job cannot be removed: %s", exc.strerror)

    # states

    def exchange(self, states: Mapping[str, JobState]) -> list[str]:
        """Tell the others how far this instance's jobs are, by their ids; and which of them they want cancelled.

        Raises:
            OSError: the disk would not have it.
        """
        if states != self._states:
            path = self._states_of(self.owner)
            if states:
                self._write(path, _States.dump_json(dict(states)), is_lasting=False)
            else:
                path.unlink(missing_ok=True)
            self._states = dict(states)
        return [job_id for job_id in states if self.is_to_cancel(job_id)]

    def state(self, owner: str, job_id: str) -> JobState | None:
        """How far a job is, by what its instance has told last."""
        try:
            return _States.validate_json(read_regular(self._states_of(owner), MAX_RECORD_BYTES)).get(job_id)
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as exc:
            logger.warning("the states of another instance's jobs cannot be read: %s", getattr(exc, "strerror", "damaged"))
            return None

    def close(self) -> None:
        """Remove this instance's states."""
        with contextlib.suppress(OSError):  # they are swept some time
            self._states_of(self.owner).unlink(missing_ok=True)

    # files

    def _write(self, path: Path, *pieces: bytes, is_lasting: bool = True) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        unfinished = path.with_name(f"{secrets.token_hex(16)}.part")
        write_atomically(path, *pieces, unfinished=unfinished, mode=0o600, is_lasting=is_lasting)

    def _mark(self, job_id: str) -> Path:
        return self._folder / f"{key_of(job_id)}.cancel"

    def _states_of(self, owner: str) -> Path:
        return self._folder / f"{owner}.states"


def key_of(job_id: str) -> str:
    """What a job's files are named: a hash, since some file systems take Ab and aB for the same name."""
    return hashlib.sha256(job_id.encode()).hexdigest()[:32]


_KEY = re.compile("[0-9a-f]{32}")
_REQUEST = ".request"
