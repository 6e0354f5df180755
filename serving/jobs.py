"""Jobs: requests that run while nobody waits on the line, and the record of each, by its id.

A job takes the one way through `Service` that every request takes, and counts in the queue like any other. What is added here
is a record: state, times, progress, result or error.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from core import errors
from core.config import Settings
from core.logs import Values, timestamp
from schemas.request import IncomingRequest, UpscaleRequest
from schemas.response import (
    JOB_ID,
    JobError,
    JobLinks,
    JobResponse,
    JobResult,
    JobStatus,
    PlanSummary,
    ServiceState,
)
from serving.deadline import Deadline
from serving.lifecycle import Service, shutting_down
from serving.pending import PendingResult
from serving.validation import parse_request
from storage.job_store import JobRecord, JobStore, interrupted
from utility import max_jobs, wait_at_most

if TYPE_CHECKING:
    from outbound.webhooks import Receiver, Webhooks

logger = logging.getLogger(__name__)

EVENT_SECONDS = 0.2  # between two events of progress
FOREIGN_SECONDS = 1.0  # between two looks at the record of a job that another process, in the same folder, is at
KEEP_ALIVE_SECONDS = 15.0  # of silence, after which proxies begin to wonder
FINISHED_IN_MEMORY = 1000  # records, of about 2 kB each

FULL_RETRY_SECONDS = 5


@dataclass(eq=False)
class _Live:
    """A job that is not done: its record, and the result that it waits for."""

    record: JobRecord
    pending: PendingResult
    receiver: Receiver | None  # of its webhook
    given_up: bool = False
    is_taken: bool = False  # its id, by another instance that was quicker
    log_values: Values = field(default_factory=Values)  # of its result
    saved: asyncio.Event = field(default_factory=asyncio.Event)  # so that it is known whether the id is taken
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def snapshot(self) -> JobRecord:
        """The record, with how far the work is."""
        if self.done.is_set():
            return self.record
        started_at, progress = self.pending.started_at, round(self.pending.progress, 4)
        if started_at:  # for another request, perhaps, that asks for the same
            started_at = max(started_at, self.record.created_at)
        status = JobStatus.PROCESSING if started_at else JobStatus.STARTING
        return self.record.model_copy(update={"status": status, "started_at": started_at, "progress": progress})


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
        self._finished_in_memory = finished_in_memory
        self._keep_alive_seconds = keep_alive_seconds
        self._live: dict[str, _Live] = {}
        self._finished: OrderedDict[str, JobRecord] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._webhooks: Webhooks | None = None
        self._store = JobStore(service.settings.output_dir)
        self._naming: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by the id, of callers that chose it

    async def create(self, incoming: IncomingRequest, request_id: str, deadline: Deadline) -> JobResponse:
        """Start a job under a new id of 128 random bits, which nobody can guess.

        Raises:
            BadRequest, Unavailable: as the same request would get without a job.
        """
        request = await self._service.validate(incoming)
        return await self._start(self._service.settings.name_prefix + secrets.token_hex(16), request, request_id, deadline)

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
                request = await self._service.validate(incoming)
                try:
                    return await self._start(job_id, request, request_id, deadline)
                except errors.JobConflict:  # another instance was quicker
                    record = await self._look_up(job_id)
        try:
            request = await self._service.io.run(parse_request, incoming)
            fingerprint = request.fingerprint(record is not None and record.has_alpha)
        except errors.ImageTooLarge:  # which no job's is
            fingerprint = ""
        if record is None or record.fingerprint != fingerprint:
            raise errors.JobConflict("Another request was sent under this id. Choose another id, or send the same request.")
        return self._to_response(record)

    async def get(self, job_id: str) -> JobResponse:
        """The job object.

        Raises:
            JobNotFound: there is no job of that id.
        """
        record = await self._look_up(job_id)
        if record is None:
            raise errors.JobNotFound("There is no such job. Records of jobs are removed after a while, with their results.")
        return self._to_response(record)

    async def wait(self, job_id: str) -> JobResponse:
        """The job object, once the job is done.

        Raises:
            JobNotFound: there is no job of that id.
            ShuttingDown: another process is at it, and this one will not live to see the end.
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
            JobConflict: another process, which has the same folder of results, is at it.
        """
        live, job = await self._own(job_id), await self.get(job_id)
        if live:
            live.given_up = True
            live.pending.cancel()
        elif not job.completed_at:
            raise errors.JobConflict("Another instance of this service is at this job, and it alone can cancel it.")
        return await self.wait(job_id)

    async def events(self, job_id: str) -> AsyncGenerator[JobResponse | None]:
        """The job object at every change of state and, while anything else changes, every `EVENT_SECONDS`.

        Ends after the last state. None stands for `keep_alive_seconds` without a change.

        Raises:
            JobNotFound: there is no job of that id.
        """
        live = await self._own(job_id)
        last, silent_seconds = await self.get(job_id), 0.0
        yield last
        pause_seconds = EVENT_SECONDS if live else FOREIGN_SECONDS
        while not last.completed_at:
            await wait_at_most(pause_seconds, live.done if live else asyncio.Event())
            record = live.snapshot() if live else await self._look_up(job_id)
            if record is None or (self._is_draining and not live):
                return  # whoever follows it will ask another instance
            response = self._to_response(record)
            if last.status == JobStatus.STARTING and response.completed_at and response.started_at:
                # It was shorter than a look.
                yield last.model_copy(update={"status": JobStatus.PROCESSING, "started_at": response.started_at})
            silent_seconds += pause_seconds
            if response != last or silent_seconds >= self._keep_alive_seconds:
                yield response if response != last else None
                last, silent_seconds = response, 0.0

    async def close(self) -> None:
        """End what still runs; its records say so."""
        for live in self._live.values():
            live.pending.cancel()
        await asyncio.gather(*self._tasks)
        if self._webhooks:
            await self._webhooks.close()
        self._store.close()

    # one job

    async def _start(self, job_id: str, request: UpscaleRequest, request_id: str, deadline: Deadline) -> JobResponse:
        receiver = None
        if webhook := request.params.webhook:
            if self._webhooks is None:
                made = await self._service.io.run(_build_webhooks, self._service.settings)
                self._webhooks = self._webhooks or made  # another job may have been quicker
            receiver = await self._webhooks.check(webhook)
        pending = await self._service.submit(request, deadline)
        if len(self._live) >= max_jobs():  # those that ask for the same share one place in the queue
            pending.cancel()
            raise errors.QueueFull("Too many jobs are under way. Try again later.", retry_after_seconds=FULL_RETRY_SECONDS)
        record = JobRecord(
            id=job_id,
            request_id=request_id,
            fingerprint=request.fingerprint(pending.has_alpha),
            has_alpha=pending.has_alpha,
            plan=PlanSummary.of(request.plan),
            created_at=time.time(),
        )
        live = self._live[job_id] = _Live(record, pending, receiver)
        task = asyncio.create_task(self._run(live))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await live.saved.wait()
        if live.is_taken:
            raise errors.JobConflict("Another instance of this service has just started a job under this id.")
        return self._to_response(live.snapshot())

    async def _run(self, live: _Live) -> None:
        with self._service.waited_for():
            live.is_taken = not await self._save(self._store.create, live.record)
            live.saved.set()
            if live.is_taken:
                live.pending.cancel()
                del self._live[live.record.id]
                return
            outcome = await self._outcome(live)
            completed_at = time.time()
            record = live.snapshot().model_copy(update={**outcome, "completed_at": completed_at})
            # Before anybody hears of it: what was said once must be true after a restart.
            await self._save(self._store.save, record)
            live.record = self._finished[record.id] = record
            live.done.set()
            del self._live[record.id]
            if live.receiver and self._webhooks:
                self._webhooks.deliver(live.receiver, self._to_response(record).model_dump_json().encode())
            while len(self._finished) > self._finished_in_memory:
                self._finished.popitem(last=False)
            seconds = round(max(completed_at - record.created_at, 0.0), 3)
            code = record.error.code if record.error else ""
            logger.info(Values(message="job", status=record.status, code=code, seconds=seconds, **live.log_values))
            self._service.metrics.count_job(record.status, code)

    async def _outcome(self, live: _Live) -> dict[str, Any]:
        """How the job ended, as fields of its record."""
        record = live.record
        try:
            result = await live.pending.result()
            live.log_values = result.log_values
            seconds = max(time.time() - record.created_at, 0.0)  # clocks are set back
            kept = JobResult.of(replace(result, processing_seconds=seconds, request_id=record.request_id))
            return {"status": JobStatus.SUCCEEDED, "progress": 1.0, "result": kept}
        except errors.JobCancelled:
            if live.given_up:
                return {"status": JobStatus.CANCELED}
            error: errors.ServiceError = interrupted()  # the drain took too long
        except errors.ServiceError as exc:
            error = exc
        except Exception as exc:
            logger.error("internal error in a job", exc_info=exc)
            error = errors.internal_error()
        return {"status": JobStatus.FAILED, "error": JobError.of(error, record.request_id, status_code=error.status)}

    async def _save(self, save: Callable[[JobRecord], bool | None], record: JobRecord) -> bool:
        """Whether the record is this job's, in memory at least; not if `save` says False."""
        try:
            return await self._service.io.run(save, record) is not False
        except Exception as exc:  # whatever it is: the job is in memory, for a while, and its clients must hear of its end
            reason, traceback = (exc.strerror, None) if isinstance(exc, OSError) else (type(exc).__name__, exc)
            logger.error("the record of a job could not be saved: %s", reason, exc_info=traceback)
            return True

    # what is known of it

    @property
    def _is_draining(self) -> bool:
        return self._service.state is ServiceState.DRAINING

    async def _own(self, job_id: str) -> _Live | None:
        """The job of that id, if it is this instance's and not done."""
        if live := self._live.get(job_id):
            await live.saved.wait()
        return self._live.get(job_id)

    async def _look_up(self, job_id: str) -> JobRecord | None:
        if live := await self._own(job_id):
            return live.snapshot()
        if (known := self._finished.get(job_id)) and known.is_older_than(self._service.settings.retention_seconds):
            del self._finished[job_id]
        record = self._finished.get(job_id) or await self._service.io.run(self._store.load, job_id)
        if record is None or record.result is None:
            return record
        try:
            await self._service.io.run(self._service.store.find, PurePath(record.result.file_path).name)
        except errors.FileNotFound:
            error = errors.ResultExpired("The result of this job was removed after its time. Send it again, as another job.")
            expired = JobError.of(error, record.request_id, status_code=error.status)
            return record.model_copy(update={"status": JobStatus.FAILED, "result": None, "error": expired})
        return record

    def _to_response(self, record: JobRecord) -> JobResponse:
        live = self._live.get(record.id)
        eta_seconds = live.pending.predicted_seconds if live else None
        url = f"/jobs/{record.id}"
        return JobResponse(
            id=record.id,
            status=record.status,
            progress=record.progress,
            position=live.pending.position if live and record.status is JobStatus.STARTING else 0,
            eta_seconds=None if eta_seconds is None else round(eta_seconds, 1),
            created_at=timestamp(record.created_at),
            started_at=None if record.started_at is None else timestamp(record.started_at),
            completed_at=None if record.completed_at is None else timestamp(record.completed_at),
            plan=record.plan,
            result=record.result,
            error=record.error,
            urls=JobLinks(get=url, events=f"{url}/events", cancel=f"{url}/cancel"),
        )


def _build_webhooks(settings: Settings) -> Webhooks:
    from outbound.public_network import PublicNetwork  # with httpx, like the heartbeat's: not before it is needed
    from outbound.webhooks import Webhooks

    return Webhooks(settings.webhook_key, PublicNetwork(allow_private=settings.webhook_allow_private))
