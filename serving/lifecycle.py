"""What lives as long as the process does: start and end, state and health; and a request from its bytes to its answer.

The event loop only waits here. This room knows neither HTTP nor torch.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from enum import StrEnum
from functools import partial
from typing import Any, cast

from core.config import MAX_IMAGE_BYTES, MIB, TARGET_PX, VERSION, Settings
from core.errors import JobCancelled, ModelsLoading, ShuttingDown
from core.metrics import Metrics, MetricsSnapshot
from outbound.heartbeat import Heartbeat
from schemas.request import Order, Submission, parse_order
from serving.deadline import Deadline
from serving.device_queue import DeviceQueue, Job
from serving.dispatcher import Answer, Dispatcher, Ticket
from storage.result_cache import ResultCache
from upscale import Upscaler, load_upscaler, max_input_px
from utility import IOThreads, ResultStore

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 60.0
WARM_UP_PX = (64, 128, 256, 512)
WARM_UP_SECONDS = 0.2
CANCEL_SECONDS = 10.0  # a cancelled job ends at its next step: a convolution, a tile of the upsampler, a batch of faces
LOADING_RETRY_SECONDS = 10
DRAINING_RETRY_SECONDS = 5  # another instance, or this one restarted, should be there by then


class State(StrEnum):
    """What a load balancer should know."""

    STARTING = "starting"
    HEALTHY = "healthy"
    DEGRADED = "degraded"  # serving, but a configured model is missing
    DRAINING = "draining"


class Service:
    """Built once per process; all its methods are called on the event loop."""

    def __init__(self, settings: Settings, load: Callable[[Settings], Upscaler] = load_upscaler) -> None:
        self.settings = settings
        self.store = ResultStore(settings.output_dir, settings.retention_seconds, settings.output_max_bytes)
        self.failure: Exception | None = None
        self.io = IOThreads()
        self.metrics = Metrics(self._now)
        self._queue = DeviceQueue(settings.queue_limit)
        self._dispatcher = Dispatcher(self._queue, ResultCache(self.store), self.io, self.metrics)
        self._load = load
        self._upscaler: Upscaler | None = None
        self._heartbeat = Heartbeat(settings, self._describe) if settings.registry_url else None
        self._tasks: list[asyncio.Task[None]] = []
        self._stop = asyncio.Event()
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._drained = False  # what is not done will not be
        self._started_at = time.monotonic()

    # life

    async def start(self) -> None:
        """Return at once; the networks load in the background."""
        background: list[Coroutine[Any, Any, None]] = [self._load_upscaler(), self._sweep_forever()]
        if self._heartbeat:
            background.append(self._heartbeat.run(self._stop))
        self._tasks = [asyncio.create_task(coroutine) for coroutine in background]

    def stop(self) -> None:
        """Refuse new requests from now on, and say so to the registry."""
        self._stop.set()

    async def drained(self) -> None:
        """Wait for `stop`, then for the requests that are being served, up to `drain_seconds`."""
        await self._stop.wait()
        try:
            async with asyncio.timeout(self.settings.drain_seconds):
                await self._idle.wait()
        except TimeoutError:
            logger.warning(
                "%d requests are not done after %g s and are cancelled", self._in_flight, self.settings.drain_seconds
            )
            self._drained = True
            self._dispatcher.cancel_all()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), CANCEL_SECONDS)

    async def close(self) -> None:
        """End the background tasks and let the threads go."""
        self.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.io.close()
        self._queue.close()

    async def _load_upscaler(self) -> None:
        await self._check_output_dir()
        try:
            upscaler = await self._queue.run(Job(0), partial(_load_without_pauses, self._load, self.settings))
            await self._measure_device(upscaler)
        except Exception as exc:  # whatever it is, nothing can be served: the process ends and says why
            self.failure = exc
            self.stop()
            return
        self._upscaler = upscaler
        for model, status in upscaler.models.items():
            if status.loaded:
                logger.info("%s: loaded %s", model, status.file)
            else:
                logger.warning("%s: %s. %s", model, status.reason, status.remedy)
        logger.info("ready after %.1f s, on %s in %s", self.uptime_seconds, upscaler.device, upscaler.precision)

    async def _measure_device(self, upscaler: Upscaler) -> None:
        """Passes of growing size until one takes long enough for its rate to be that of a request."""
        first = partial(upscaler.warm_up, WARM_UP_PX[0], lambda _work: None)  # slow, as first times are, so not measured
        await self._queue.run(Job(0), first)
        for side_px in WARM_UP_PX:
            job = Job(0)
            await self._queue.run(job, partial(upscaler.warm_up, side_px, job.advance))
            if job.seconds > WARM_UP_SECONDS:
                break

    async def _check_output_dir(self) -> None:
        try:
            await self.io.run(self.store.check_writable)
        except OSError as exc:
            logger.warning(
                "OUTPUT_DIR %s cannot be written: %s; answers will hold the result alone", self.store.folder, exc.strerror
            )

    async def _sweep_forever(self) -> None:
        while not self._stop.is_set():
            try:
                removed = await self.io.run(self.store.sweep, time.time())
            except OSError as exc:
                logger.error("the output folder cannot be tidied: %s", exc)
            else:
                if removed:
                    logger.info("removed %d old files from %s", removed, self.store.folder)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), SWEEP_SECONDS)

    # what others see of it

    @property
    def uptime_seconds(self) -> float:
        return time.monotonic() - self._started_at

    @property
    def state(self) -> State:
        if self._stop.is_set():
            return State.DRAINING
        if self._upscaler is None:
            return State.STARTING
        complete = all(status.loaded for status in self._upscaler.models.values())
        return State.HEALTHY if complete else State.DEGRADED

    def health(self) -> dict[str, object]:
        """The body of GET /health."""
        return {
            **self._describe(),
            "timestamp": time.time(),
            "max_image_size_mb": MAX_IMAGE_BYTES // MIB,
            "supported_resolutions": list(TARGET_PX),
            "limits": {name: {"target_px": px, "max_input_px": max_input_px(name)} for name, px in TARGET_PX.items()},
            "models": self._models(),
            "heartbeat_active": self._heartbeat is not None,
            "uptime_seconds": round(self.uptime_seconds, 3),
        }

    def _describe(self) -> dict[str, object]:
        device = f"{self._upscaler.device}, {self._upscaler.precision}" if self._upscaler else None
        return {"status": self.state, "queue": self._queue.describe(), "device": device, "version": VERSION}

    def _now(self) -> MetricsSnapshot:
        age_seconds = self._heartbeat.seconds_since_success if self._heartbeat else None
        queue = self._queue.running, self._queue.waiting, self._queue.limit
        if self._upscaler is None:
            return MetricsSnapshot(*queue, age_seconds)
        return MetricsSnapshot(
            *queue, age_seconds, self._upscaler.allocated_bytes(), self._upscaler.device, self._upscaler.precision
        )

    def _models(self) -> dict[str, dict[str, object]]:
        if self._upscaler is None:
            return {}
        return {
            model: {"loaded": True, "file": status.file} if status.loaded else {"loaded": False, "reason": status.reason}
            for model, status in self._upscaler.models.items()
        }

    # one request

    def in_flight(self) -> contextlib.AbstractContextManager[None]:
        """A request from its first byte to its answer's last: what the drain waits for, if it began before it."""
        return contextlib.nullcontext() if self._stop.is_set() else self.waited_for()

    @contextlib.contextmanager
    def waited_for(self) -> Iterator[None]:
        """What the drain waits for, also if it begins after it: a job whose request was in flight."""
        self._in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._in_flight -= 1
            if self._in_flight == 0:
                self._idle.set()

    async def upscale(self, submission: Submission, request_id: str, deadline: Deadline) -> Answer:
        """Serve one request.

        Raises:
            BadRequest, Unavailable, DeadlineExceeded: see `errors`.
            asyncio.CancelledError: the client went away; its place is free and its work ends at the next step.
        """
        start = time.perf_counter()
        order = await self.read_order(submission)
        ticket = await self.submit(order, deadline)
        try:
            answer = await ticket.answer()
        except JobCancelled as exc:  # a client that went away gets no answer; what is left is the shutdown
            raise shutting_down() from exc
        seconds = round(time.perf_counter() - start, 3)
        fields = {**answer.fields, "processing_time": seconds, "request_id": request_id}
        if order.webhook:
            fields["warnings"] = [*cast(list[str], answer.fields["warnings"]), _NO_WEBHOOK]
        return replace(answer, fields=fields)

    async def read_order(self, submission: Submission) -> Order:
        """The order in a request, where orders can be served now.

        Raises:
            BadRequest, Unavailable: see `errors`.
        """
        self._ready()
        return await self.io.run(parse_order, submission)

    async def plan(self, submission: Submission, deadline: Deadline) -> dict[str, object]:
        """What a request would give, and take, without running it: the body of POST /plan.

        Raises:
            BadRequest, Unavailable, DeadlineExceeded: as the request itself would.
        """
        return await self._dispatcher.preview(await self.read_order(submission), self._ready(), deadline)

    async def submit(self, order: Order, deadline: Deadline) -> Ticket:
        """Take an order in, and return without waiting for its answer: the ticket has its progress, its place and its end.

        Raises:
            BadRequest, Unavailable, DeadlineExceeded: it cannot be taken; see `errors`.
        """
        ticket = await self._dispatcher.submit(order, self._ready(), deadline)
        if self._drained:  # while the image was decoded
            ticket.cancel()
        return ticket

    def _ready(self) -> Upscaler:
        if self._stop.is_set():
            raise shutting_down()
        if self._upscaler is None:
            raise ModelsLoading("The models are still loading. Try again soon.", retry_after_seconds=LOADING_RETRY_SECONDS)
        return self._upscaler


def _load_without_pauses(load: Callable[[Settings], Upscaler], settings: Settings) -> Upscaler:
    """Load, and collect no garbage meanwhile: it would stop every thread, for longer with each of a million new objects.

    These objects stay for good; freezing them also spares every later collection the way through them, 0.2 s of /health.
    """
    gc.disable()
    try:
        return load(settings)
    finally:
        gc.freeze()
        gc.enable()


_NO_WEBHOOK = "webhook was not called: it is for jobs, which the header `Prefer: respond-async` starts."


def shutting_down() -> ShuttingDown:
    """What a client hears that comes too late, or that cannot be served to the end."""
    return ShuttingDown("The server is shutting down. Try again soon.", retry_after_seconds=DRAINING_RETRY_SECONDS)
