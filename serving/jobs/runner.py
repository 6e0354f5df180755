"""Runs jobs, from their place in the queue to their last record and their webhook; those that it cannot finish it leaves.

A job takes the one way through `Service` that every request takes, and counts in the queue like any other. What is added here
is a record: state, times, progress, result or error.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from core import errors
from core.config import Settings
from core.logs import Values
from schemas.request import IncomingRequest, UpscaleRequest
from schemas.response import JobError, JobResult, JobStatus, PlanSummary
from serving.deadline import Deadline
from serving.jobs.responses import to_response, under
from serving.lifecycle import Service
from serving.pending import PendingResult
from storage.job_store import JobRecord, JobStore, interrupted
from storage.unfinished import JobState
from utility import max_jobs

if TYPE_CHECKING:
    from outbound.webhooks import Receiver, Webhooks

logger = logging.getLogger(__name__)

MAX_DEATHS = 1  # of instances that were at a job; then it may be the job that ends them

FULL_RETRY_SECONDS = 5


@dataclass(eq=False)
class LiveJob:
    """A job that this instance is at: its record, and the result that it waits for."""

    record: JobRecord
    pending: PendingResult
    receiver: Receiver | None  # of its webhook
    incoming: IncomingRequest | None = None  # until it is saved
    can_be_taken: bool = False  # by another instance, which finds its request
    given_up: bool = False
    is_taken: bool = False  # its id, by another instance that was quicker
    is_left: bool = False  # to another instance
    saved: asyncio.Event = field(default_factory=asyncio.Event)  # so that it is known whether the id is taken
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def cancel(self) -> None:
        """End it, because somebody wants that."""
        self.given_up = True
        self.pending.cancel()

    def state(self) -> JobState:
        """How far the work is."""
        started_at, eta_seconds = self.pending.started_at, self.pending.predicted_seconds
        if started_at:  # for another request, perhaps, that asks for the same
            started_at = max(started_at, self.record.created_at)
        return JobState(
            status=JobStatus.PROCESSING if started_at else JobStatus.STARTING,
            started_at=started_at,
            progress=round(self.pending.progress, 4),
            position=0 if started_at else self.pending.position,
            eta_seconds=None if eta_seconds is None else round(eta_seconds, 1),
        )

    def snapshot(self) -> JobRecord:
        """The record, with how far the work is."""
        return self.record if self.done.is_set() else self.record.model_copy(update=dict(self.state()))


class JobRunner:
    """The jobs of one instance; its methods are called on the event loop."""

    def __init__(self, service: Service, finished_in_memory: int) -> None:
        self.store = JobStore(service.settings.output_dir)
        self.live: dict[str, LiveJob] = {}
        self.finished: OrderedDict[str, JobRecord] = OrderedDict()
        self._service = service
        self._finished_in_memory = finished_in_memory
        self._tasks: set[asyncio.Task[None]] = set()
        self._webhooks: Webhooks | None = None

    async def start(
        self, job_id: str, incoming: IncomingRequest, request: UpscaleRequest, request_id: str, deadline: Deadline
    ) -> JobRecord:
        """Start a job; its record, once its id is its own.

        Raises:
            BadRequest, Unavailable: as the same request would get without a job.
            JobConflict: another instance has just started a job under this id.
        """
        receiver = await self.receiver(request)
        pending = await self._submit(request, deadline)
        record = JobRecord(
            id=job_id,
            request_id=request_id,
            fingerprint=request.fingerprint(pending.has_alpha),
            has_alpha=pending.has_alpha,
            plan=PlanSummary.of(request.plan),
            created_at=time.time(),
            timeout_seconds=deadline.seconds,
            expires_at=time.time() + deadline.seconds_left,
            owner=self.store.unfinished.owner,
        )
        live = LiveJob(record, pending, receiver, incoming)
        self._begin(live, self._start(live))
        await live.saved.wait()
        if live.is_taken:
            raise errors.JobConflict("Another instance of this service has just started a job under this id.")
        return live.snapshot()

    async def resume(self, record: JobRecord, request: UpscaleRequest, receiver: Receiver | None, deadline: Deadline) -> None:
        """Go on with a job that another instance has begun, and that this one has taken.

        Raises:
            BadRequest, Unavailable, DeadlineExceeded: it cannot be run.
        """
        live = LiveJob(record, await self._submit(request, deadline), receiver, can_be_taken=True)
        live.saved.set()
        self._begin(live, self._follow(live))

    async def finish(
        self, record: JobRecord, receiver: Receiver | None, outcome: dict[str, Any], log_values: Values
    ) -> JobRecord:
        """Write a job's last record, with `outcome` in it, and tell of it."""
        completed_at = time.time()
        record = record.model_copy(update={"position": 0, "eta_seconds": None, **outcome, "completed_at": completed_at})
        # Before anybody hears of it: what was said once must be true after a restart.
        if not await self._save(self.store.save, record):
            return record  # as another instance has it, or will
        self.finished[record.id] = record
        while len(self.finished) > self._finished_in_memory:
            self.finished.popitem(last=False)
        if receiver and self._webhooks:
            job = under(to_response(record), self._service.settings.root_path)
            self._webhooks.deliver(receiver, job.model_dump_json().encode())
        seconds = round(max(completed_at - record.created_at, 0.0), 3)
        code = record.error.code if record.error else ""
        logger.info(Values(message="job", status=record.status, code=code, seconds=seconds, **log_values))
        self._service.metrics.count_job(record.status, code)
        return record

    async def receiver(self, request: UpscaleRequest) -> Receiver | None:
        """Of the job's webhook, if it has one.

        Raises:
            WebhookRefused, QueueFull: nothing can be sent there.
        """
        if not request.params.webhook:
            return None
        if self._webhooks is None:
            made = await self._service.io.run(_build_webhooks, self._service.settings)
            self._webhooks = self._webhooks or made  # another job may have been quicker
        return await self._webhooks.check(request.params.webhook)

    async def close(self) -> None:
        """End what still runs, or leave it to another instance; its records say so."""
        for live in self.live.values():
            live.pending.cancel()
        await asyncio.gather(*self._tasks)
        if self._webhooks:
            await self._webhooks.close()
        self.store.close()

    async def _submit(self, request: UpscaleRequest, deadline: Deadline) -> PendingResult:
        pending = await self._service.submit(request, deadline)
        if len(self.live) >= max_jobs():  # those that ask for the same share one place in the queue
            pending.cancel()
            raise errors.QueueFull("Too many jobs are under way. Try again later.", retry_after_seconds=FULL_RETRY_SECONDS)
        return pending

    def _begin(self, live: LiveJob, run: Coroutine[Any, Any, None]) -> None:
        self.live[live.record.id] = live
        task = asyncio.create_task(self._waited_for(run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _waited_for(self, run: Coroutine[Any, Any, None]) -> None:
        with self._service.waited_for():
            await run

    async def _start(self, live: LiveJob) -> None:
        live.is_taken = not await self._save(self.store.create, live.record)
        if not live.is_taken and live.incoming:
            live.can_be_taken = await self._save_request(live.record.id, live.incoming)
        live.incoming = None
        live.saved.set()
        if live.is_taken:
            live.pending.cancel()
            del self.live[live.record.id]
        else:
            await self._follow(live)

    async def _save_request(self, job_id: str, incoming: IncomingRequest) -> bool:
        try:
            await self._service.io.run(self.store.unfinished.save_request, job_id, incoming)
        except OSError as exc:
            logger.warning("a job's request could not be saved: if this instance dies, the job is lost: %s", exc.strerror)
            return False
        return True

    async def _follow(self, live: LiveJob) -> None:
        outcome, log_values = await self._outcome(live)
        if outcome:
            live.record = await self.finish(live.snapshot(), live.receiver, outcome, log_values)
        else:
            live.is_left = True
            logger.info("a job is left to another instance")
        live.done.set()
        del self.live[live.record.id]

    async def _outcome(self, live: LiveJob) -> tuple[dict[str, Any], Values]:
        """How the job ended, as fields of its record, and what the log tells of it; nothing if others shall go on with it."""
        record = live.record
        try:
            result = await live.pending.result()
            seconds = max(time.time() - record.created_at, 0.0)  # clocks are set back
            kept = JobResult.of(replace(result, processing_seconds=seconds, request_id=record.request_id))
            return {"status": JobStatus.SUCCEEDED, "progress": 1.0, "result": kept}, result.log_values
        except errors.JobCancelled:
            if live.given_up:
                return {"status": JobStatus.CANCELED}, Values()
            if live.can_be_taken:  # the drain took too long
                await self._save(self.store.leave, record)
                return {}, Values()
            return failure(record, interrupted()), Values()
        except errors.DeviceLost as exc:
            if live.can_be_taken and record.deaths < MAX_DEATHS:
                self.store.let_go(record.id)
                return {}, Values()
            return failure(record, exc), Values()
        except Exception as exc:
            return failure(record, exc), Values()

    async def _save(self, save: Callable[[JobRecord], bool | None], record: JobRecord) -> bool:
        """Whether the record is this job's, in memory at least; not if `save` says False."""
        try:
            return await self._service.io.run(save, record) is not False
        except Exception as exc:  # whatever it is: the job is in memory, for a while, and its clients must hear of its end
            reason, traceback = (exc.strerror, None) if isinstance(exc, OSError) else (type(exc).__name__, exc)
            logger.error("the record of a job could not be saved: %s", reason, exc_info=traceback)
            return True


def failure(record: JobRecord, exc: Exception) -> dict[str, Any]:
    """The end of a job that failed, as fields of its record."""
    if isinstance(exc, errors.ServiceError):
        error = exc
    else:
        logger.error("internal error in a job", exc_info=exc)
        error = errors.internal_error()
    return {"status": JobStatus.FAILED, "error": JobError.of(error, record.request_id, status_code=error.status)}


def _build_webhooks(settings: Settings) -> Webhooks:
    from outbound.public_network import PublicNetwork  # with httpx, like the heartbeat's: not before it is needed
    from outbound.webhooks import Webhooks

    return Webhooks(settings.webhook_key, PublicNetwork(allow_private=settings.webhook_allow_private))
