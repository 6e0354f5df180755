"""What clients ask of jobs: to start, show, follow and cancel them. Any instance that shares the folder can answer."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import AsyncGenerator
from pathlib import PurePath
from weakref import WeakValueDictionary

from core import errors
from schemas.health import ServiceState
from schemas.request import IncomingRequest
from schemas.response import JOB_ID, JobError, JobResponse, JobStatus
from serving.deadline import Deadline
from serving.jobs.recovery import recover_until
from serving.jobs.responses import to_response
from serving.jobs.runner import JobRunner, LiveJob
from serving.lifecycle import Service, shutting_down
from serving.planning import parse_request
from storage.job_store import JobRecord
from storage.unfinished import JobState
from utility import wait_at_most

logger = logging.getLogger(__name__)

EVENT_SECONDS = 0.2  # between two events of progress
FOREIGN_SECONDS = 1.0  # between two looks at the record of a job that another instance is at
EXCHANGE_SECONDS = 1.0  # between two times at which instances tell each other how far jobs are, and which to cancel
STATES_AT_ONCE = 8
KEEP_SECONDS = 10.0  # between two times at which the files of unfinished jobs are made young, so that none is swept
KEEP_ALIVE_SECONDS = 15.0  # of silence, after which proxies begin to wonder
FINISHED_IN_MEMORY = 1000  # records, of about 2 kB each


class Jobs:
    """All jobs of one service; its methods are called on the event loop."""

    def __init__(
        self,
        service: Service,
        *,
        finished_in_memory: int = FINISHED_IN_MEMORY,
        keep_alive_seconds: float = KEEP_ALIVE_SECONDS,
    ) -> None:
        self._service = service
        self._keep_alive_seconds = keep_alive_seconds
        self._runner = JobRunner(service, finished_in_memory)
        self._store = self._runner.store
        self._naming: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by the id, of callers that chose it
        self._closing = asyncio.Event()
        self._background: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Return at once; from now on, this instance and the others that share its folder know of each other's jobs."""
        background = self._exchange(), self._keep(), recover_until(self._closing, self._service, self._runner)
        self._background = [asyncio.create_task(coroutine) for coroutine in background]

    async def close(self) -> None:
        """End what still runs, or leave it to another instance; its records say so."""
        self._closing.set()
        await asyncio.gather(*self._background)
        await self._runner.close()

    async def create(self, incoming: IncomingRequest, request_id: str, deadline: Deadline) -> JobResponse:
        """Start a job under a new id of 128 random bits, which nobody can guess.

        Raises:
            BadRequest, Unavailable: as the same request would get without a job.
        """
        return await self._start(self._service.settings.name_prefix + secrets.token_hex(16), incoming, request_id, deadline)

    async def put(self, job_id: str, incoming: IncomingRequest, request_id: str, deadline: Deadline) -> JobResponse:
        """Start a job under the caller's id, or return the one that the same request has started.

        Raises:
            BadRequest, Unavailable: as the same request would get without a job.
            OutOfRange: the id is not 8 to 64 letters, digits, - and _.
            JobConflict: another request has this id.
        """
        if not re.fullmatch(JOB_ID, job_id):
            raise errors.OutOfRange("The id of a job must be 8 to 64 letters, digits, - and _.", field="id")
        naming = self._naming.setdefault(job_id, asyncio.Lock())
        async with naming:
            record = await self._look_up(job_id)
            if record is None:
                try:
                    return await self._start(job_id, incoming, request_id, deadline)
                except errors.JobConflict:  # another instance was quicker
                    record = await self._look_up(job_id)
        try:
            request = await self._service.io.run(parse_request, incoming)
            fingerprint = request.fingerprint(record is not None and record.has_alpha)
        except errors.ImageTooLarge:  # which no job's is
            fingerprint = ""
        if record is None or record.fingerprint != fingerprint:
            raise errors.JobConflict("Another request was sent under this id. Choose another id, or send the same request.")
        return to_response(record)

    async def get(self, job_id: str) -> JobResponse:
        """The job object.

        Raises:
            JobNotFound: there is no job of that id.
        """
        record = await self._look_up(job_id)
        if record is None:
            raise errors.JobNotFound("There is no such job. Records of jobs are removed after a while, with their results.")
        return to_response(record)

    async def wait(self, job_id: str) -> JobResponse:
        """The job object, once the job is done.

        Raises:
            JobNotFound: there is no job of that id.
            ShuttingDown: this instance will not live to see the end.
        """
        while True:
            if live := await self._own(job_id):
                await live.done.wait()
            job = await self.get(job_id)
            if job.completed_at:
                return job
            if self._is_draining:
                raise shutting_down()
            await asyncio.sleep(FOREIGN_SECONDS)

    async def cancel(self, job_id: str) -> JobResponse:
        """End a job: its place is free at once, or when the device has reached its next step. One that is done stays as it is.

        Raises:
            JobNotFound: there is no job of that id.
            JobConflict: another instance is at it, and cannot be told.
            ShuttingDown: this instance will not live to see the end.
        """
        live, job = await self._own(job_id), await self.get(job_id)
        if live:
            live.cancel()
        elif not job.completed_at:
            try:
                await self._service.io.run(self._store.unfinished.ask_to_cancel, job_id)
            except OSError as exc:
                logger.error("another instance cannot be told to cancel a job: %s", exc.strerror)
                raise errors.JobConflict(
                    "Another instance is at this job, and this one cannot tell it: try again there."
                ) from exc
        return await self.wait(job_id)

    async def events(self, job_id: str) -> AsyncGenerator[JobResponse | None]:
        """The job object at every change of state and, while anything else changes, every `EVENT_SECONDS`.

        Ends after the last state, or where another instance has to be asked. None stands for `keep_alive_seconds` without a
        change.

        Raises:
            JobNotFound: there is no job of that id.
        """
        last, silent_seconds = await self.get(job_id), 0.0
        yield last
        while not last.completed_at:
            live = await self._own(job_id)
            pause_seconds = EVENT_SECONDS if live else FOREIGN_SECONDS
            await wait_at_most(pause_seconds, live.done if live else asyncio.Event())
            record = live.snapshot() if live else await self._look_up(job_id)
            if record is None or (live.is_left if live else self._is_draining):
                return
            response = to_response(record)
            if last.status == JobStatus.STARTING and response.completed_at and response.started_at:
                # It was shorter than a look.
                yield last.model_copy(update={"status": JobStatus.PROCESSING, "started_at": response.started_at})
            silent_seconds += pause_seconds
            if response != last or silent_seconds >= self._keep_alive_seconds:
                yield response if response != last else None
                last, silent_seconds = response, 0.0

    async def _start(self, job_id: str, incoming: IncomingRequest, request_id: str, deadline: Deadline) -> JobResponse:
        request = await self._service.validate(incoming)
        return to_response(await self._runner.start(job_id, incoming, request, request_id, deadline))

    async def _exchange(self) -> None:
        """Tell the other instances how far the jobs of this one are, and hear which of them shall be cancelled."""
        is_failing = False
        while not self._closing.is_set():
            try:
                for job_id in await self._service.io.run(self._store.unfinished.exchange, await self._states()):
                    if live := self._runner.live.get(job_id):
                        live.cancel()
                is_failing = False
            except OSError as exc:
                if not is_failing:
                    logger.error("other instances cannot be told how far jobs are: %s", exc.strerror)
                is_failing = True
            await wait_at_most(EXCHANGE_SECONDS, self._closing)

    async def _keep(self) -> None:
        while not self._closing.is_set():
            await self._service.io.run(self._store.keep)
            await wait_at_most(KEEP_SECONDS, self._closing)

    async def _states(self) -> dict[str, JobState]:
        """Of all jobs of this instance, a few at a time: one takes the event loop half a millisecond if 200 wait."""
        states = {}
        for number, (job_id, live) in enumerate(list(self._runner.live.items())):
            if number % STATES_AT_ONCE == 0:
                await asyncio.sleep(0)
            states[job_id] = live.state()
        return states

    # what is known of a job

    @property
    def _is_draining(self) -> bool:
        return self._service.state is ServiceState.DRAINING

    async def _own(self, job_id: str) -> LiveJob | None:
        """The job of that id, if it is this instance's and not done."""
        if live := self._runner.live.get(job_id):
            await live.saved.wait()
        return self._runner.live.get(job_id)

    async def _look_up(self, job_id: str) -> JobRecord | None:
        if live := await self._own(job_id):
            return live.snapshot()
        finished = self._runner.finished
        if (known := finished.get(job_id)) and known.is_older_than(self._service.settings.retention_seconds):
            del finished[job_id]
        record = finished.get(job_id) or await self._service.io.run(self._store.load, job_id)
        if record is None or record.result is None:
            return record
        try:
            await self._service.io.run(self._service.store.find, PurePath(record.result.file_path).name)
        except errors.FileNotFound:
            error = errors.ResultExpired("The result of this job was removed after its time. Send it again, as another job.")
            expired = JobError.of(error, record.request_id, status_code=error.status)
            return record.model_copy(update={"status": JobStatus.FAILED, "result": None, "error": expired})
        return record
