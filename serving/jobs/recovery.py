"""Takes up the jobs that instances which share the folder were at when they died, or that they have left.

A job is taken once. If that instance dies too it may be the job that ends them, and it is interrupted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from core.errors import MEMORY_SECONDS, Interrupted, Unavailable, WebhookRefused
from core.logs import Values, begin_request
from imaging.formats import InputLimits
from schemas.health import ServiceState
from schemas.request import UpscaleRequest
from schemas.response import JobStatus
from serving.deadline import Deadline
from serving.jobs.runner import MAX_DEATHS, JobRunner, failure
from serving.lifecycle import Service
from serving.planning import parse_request
from storage.job_store import interrupted
from utility import wait_at_most

if TYPE_CHECKING:
    from outbound.webhooks import Receiver

logger = logging.getLogger(__name__)

RECOVERY_SECONDS = 2.0  # between two looks at whether a job has nobody who is at it
REFUSED_SECONDS = 30.0  # at most, before a job that the queue has refused is tried again


async def recover_until(stop: asyncio.Event, service: Service, runner: JobRunner) -> None:
    """Look for such jobs now and then, until `stop` is set, while this instance serves requests."""
    recovery = _Recovery(service, runner)
    while not stop.is_set():
        try:
            await recovery.take_orphans()
        except OSError as exc:
            logger.error("jobs that nobody is at cannot be taken up: %s", exc.strerror)
        await wait_at_most(RECOVERY_SECONDS, stop)


class _Recovery:
    def __init__(self, service: Service, runner: JobRunner) -> None:
        self._service = service
        self._runner = runner
        self._store = runner.store
        self._not_before: dict[str, float] = {}  # by the ids of jobs that were refused

    async def take_orphans(self) -> None:
        """Take those for which there is a place in the queue.

        Raises:
            OSError: the disk has failed, for one of them at least.
        """
        if not self._is_serving:
            return
        orphans = await self._service.io.run(self._store.orphans)
        self._not_before = {record.id: self._not_before.get(record.id, 0.0) for record in orphans}
        failure_of_one: OSError | None = None
        for record in orphans:
            is_over = record.expires_at < time.time() or record.deaths_so_far > MAX_DEATHS
            is_over = is_over or await self._service.io.run(self._store.unfinished.is_to_cancel, record.id)
            is_refused = time.monotonic() < self._not_before[record.id]
            if self._is_serving and (is_over or (self._service.has_place and not is_refused)):
                try:
                    await asyncio.create_task(self._take(record.id))  # in a context of its own, whose log lines are the job's
                except OSError as exc:  # the others may be taken all the same
                    failure_of_one = exc
        if failure_of_one:
            raise failure_of_one

    @property
    def _is_serving(self) -> bool:
        return self._service.state in (ServiceState.HEALTHY, ServiceState.DEGRADED)

    async def _take(self, job_id: str) -> None:
        settings, run = self._service.settings, self._service.io.run
        with self._service.waited_for():
            record = await run(self._store.take, job_id)
            if record is None:
                return  # another instance was quicker
            begin_request(record.request_id)
            limits = InputLimits(settings.max_image_bytes, settings.formats)
            receiver = None
            try:
                incoming = await run(self._store.unfinished.load_request, job_id, limits, settings.max_body_bytes)
                if incoming is None:
                    raise interrupted()
                request = await run(parse_request, incoming)
                del incoming  # with its bytes
                receiver = await self._receiver(request)
                if await run(self._store.unfinished.is_to_cancel, job_id):
                    outcome: dict[str, Any] = {"status": JobStatus.CANCELED}
                elif record.deaths > MAX_DEATHS:
                    raise interrupted()
                else:
                    deadline = Deadline.of(record.timeout_seconds, record.expires_at - time.time())
                    async with deadline.enforced():
                        await self._runner.resume(record, request, receiver, deadline)
                    logger.info("a job that nobody was at is taken up")
                    return
            except Interrupted as exc:
                outcome = failure(record, exc)
            except (Unavailable, MemoryError) as exc:  # it may be taken later, or by another instance
                seconds = exc.retry_after_seconds if isinstance(exc, Unavailable) else MEMORY_SECONDS
                self._not_before[job_id] = time.monotonic() + min(seconds, REFUSED_SECONDS)
                await run(self._store.leave, record)
                return
            except Exception as exc:
                outcome = failure(record, exc)
            await self._runner.finish(record, receiver, outcome, Values())

    async def _receiver(self, request: UpscaleRequest) -> Receiver | None:
        try:
            return await self._runner.receiver(request)
        except WebhookRefused as exc:  # which it was not when the job began
            logger.warning("the webhook of a job that is taken up is not called: %s", exc.code)
            return None
