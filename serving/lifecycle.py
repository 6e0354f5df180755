"""What lives as long as the process does: the service from its start to its end, and the requests that it serves meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from core.config import Settings
from core.errors import DeviceLost, JobCancelled, ModelsLoading, ShuttingDown, Unavailable
from core.host import unusable_folder
from core.metrics import Metrics, MetricsSnapshot
from model_utility import Models, load_models
from schemas.health import HealthResponse, ServiceState, ServiceStatus
from schemas.request import IncomingRequest, UpscaleRequest
from schemas.response import ImageSize, PlanResponse, Preview, SizesResponse, UpscaleResult
from serving import health
from serving.deadline import Deadline
from serving.decoding import Decoder
from serving.devices import Devices
from serving.dispatcher import Dispatcher
from serving.pending import PendingResult
from serving.planning import Planner, parse_preview, parse_request
from serving.workers import Workers
from storage.result_cache import ResultCache
from storage.result_store import ResultStore
from storage.sweeper import sweep_until
from utility import IOExecutor, wait_at_most

if TYPE_CHECKING:
    from outbound.heartbeat import Heartbeat

logger = logging.getLogger(__name__)

RETURN_MEMORY_SECONDS = 5.0  # between two looks at whether there is any to give back
CANCEL_SECONDS = 10.0  # a cancelled task ends at its next step: a convolution, a tile of the upsampler, a batch of faces
LOST_DRAIN_SECONDS = 30.0  # for responses that are under way when the device is lost; nothing else is left to be made
LOADING_RETRY_SECONDS = 10
DRAINING_RETRY_SECONDS = 5  # another instance, or this one restarted, should be there by then


class Service:
    """Built once per process; all its methods are called on the event loop."""

    def __init__(self, settings: Settings, load: Callable[[Settings], Models] = load_models) -> None:
        self.settings = settings
        self.store = ResultStore.of(settings)
        self.failure: Exception | None = None
        self.io = IOExecutor()
        self.metrics = Metrics(self._snapshot)
        self._devices = Devices(settings, load, lost=self._end_without_device)
        self._admission, self._workers = self._devices.admission, self._devices.workers
        self._decoder = Decoder(self.io)
        cache = ResultCache(self.store)
        self._planner = Planner(self._admission, self._workers, self._decoder, self.io)
        self._dispatcher = Dispatcher(
            self._admission, self._workers, cache, self.io, self._decoder, self.metrics, self._planner
        )
        self._is_loaded = False
        self._heartbeat = _build_heartbeat(settings, self._describe) if settings.registry_url else None
        self._tasks: list[asyncio.Task[None]] = []
        self._loading: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._open_requests = 0
        self._was_used = False  # since memory was given back
        self._idle = asyncio.Event()
        self._idle.set()
        self._drained = False  # what is not done will not be
        self._started_at = time.monotonic()

    # start and end

    async def start(self) -> None:
        """Return at once; the models load in the background."""
        background: list[Coroutine[Any, Any, None]] = [self._open_workers(), self._return_memory()]
        background.append(sweep_until(self._stop, self.store, self.io))
        if self._heartbeat:
            background.append(self._heartbeat.run(self._stop))
        self._tasks = [asyncio.create_task(coroutine) for coroutine in background]
        self._loading = self._tasks[0]

    def stop(self) -> None:
        """Refuse new requests from now on, and say so to the registry."""
        self._stop.set()

    async def stopping(self) -> None:
        """Wait for `stop`, or for a failure."""
        await self._stop.wait()

    async def drained(self) -> None:
        """Wait for the same, then for the requests that are being served, up to `drain_seconds`."""
        await self.stopping()
        longest = LOST_DRAIN_SECONDS if self.device_loss else self.settings.drain_seconds
        seconds = min(self.settings.drain_seconds, longest)
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            logger.warning("%d requests are not done after %g s and are cancelled", self._open_requests, seconds)
            self._drained = True
            self._dispatcher.cancel_all()
            await wait_at_most(CANCEL_SECONDS, self._idle)

    async def close(self) -> None:
        """End the background tasks and let the threads go."""
        self.stop()
        if self._loading:  # nobody waits for the models any more
            self._loading.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.io.close()
        self._devices.close()

    async def _open_workers(self) -> None:
        await self._check_output_dir()
        gc.disable()  # while models load it would stop every thread, for longer with each of a million objects
        try:
            await self._devices.open(self.io)
        except Exception as exc:  # whatever it is, nothing can be served: the process ends and says why
            self.failure = exc
            self.stop()
            return
        finally:
            gc.freeze()  # these objects stay for good, and later collections need not go through them: 0.2 s of /health
            gc.enable()
        self._is_loaded = True
        capabilities = self._workers.any().capabilities
        for name, status in capabilities.status.items():
            if status.loaded:
                logger.info("%s: loaded %s", name, status.file)
            else:
                logger.warning("%s: %s. %s", name, status.reason, status.fix)
        devices = health.devices_text(self._workers)
        logger.info("ready after %.1f s, on %s in %s", self.uptime_seconds, devices, capabilities.engine)
        logger.info("%s", health.first_steps(self.settings))

    async def _return_memory(self) -> None:
        """Give the system back what requests have freed, which the allocator keeps for passes, when none runs."""
        while not self._stop.is_set():
            await wait_at_most(RETURN_MEMORY_SECONDS, self._stop)
            self._was_used |= self._dispatcher.drop_old_pictures()
            if self._was_used and self._is_loaded and not self._admission.running:
                self._was_used = self._decoder.budget.held_bytes > 0  # by a client that has left, and will be given back
                await self.io.run(self._workers.any().return_freed_memory)

    def _end_without_device(self, loss: DeviceLost) -> None:
        """Another process may find the device well; this one cannot go on."""
        logger.critical("the device is lost, and the service ends: %s", loss.reason, exc_info=loss.__cause__)
        self.failure = loss
        self.stop()

    async def _check_output_dir(self) -> None:
        try:
            await self.io.run(self.store.check_writable)
        except OSError as exc:
            fault = unusable_folder("OUTPUT_DIR", self.store.folder, exc)
            logger.warning("%s. Responses will hold the result alone, and jobs fail", fault)

    # what others see of it

    @property
    def uptime_seconds(self) -> float:
        """Since the process began."""
        return time.monotonic() - self._started_at

    @property
    def state(self) -> ServiceState:
        """What a load balancer should know."""
        return health.service_state(self._ready_workers, stopping=self._stop.is_set())

    @property
    def device_loss(self) -> DeviceLost | None:
        """Why the service ends by itself; None as long as its device is well."""
        return self.failure if isinstance(self.failure, DeviceLost) else None

    @property
    def has_busy_threads(self) -> bool:
        """Whether a thread does what cannot be stopped: load models, decode, a last step on the device."""
        is_loading = not self._is_loaded and self.failure is None
        return is_loading or self.io.is_busy or self._admission.running > 0

    @property
    def has_place(self) -> bool:
        """Whether the queue takes one more, if it is not too long for it."""
        return self._admission.has_place

    def health(self) -> HealthResponse:
        """The body of GET /health."""
        return health.health_response(
            self._status(),
            self._ready_workers,
            reason=self.device_loss.reason if self.device_loss else None,
            settings=self.settings,
            uptime_seconds=self.uptime_seconds,
        )

    @property
    def _ready_workers(self) -> Workers | None:
        return self._workers if self._is_loaded else None

    def _status(self) -> ServiceStatus:
        return health.service_status(self.state, self._ready_workers, self._admission)

    def _describe(self) -> dict[str, object]:
        return self._status().model_dump(mode="json")

    def _snapshot(self) -> MetricsSnapshot:
        age_seconds = self._heartbeat.seconds_since_success if self._heartbeat else None
        return health.metrics_snapshot(self._ready_workers, self._admission, self._decoder.waiting, age_seconds)

    # one request

    def held_for_drain(self) -> contextlib.AbstractContextManager[None]:
        """A request from its first byte to its response's last: what the drain waits for, if it began before it."""
        return contextlib.nullcontext() if self._stop.is_set() else self.waited_for()

    @contextlib.contextmanager
    def waited_for(self) -> Iterator[None]:
        """What the drain waits for, also if it begins after it: a job whose request was in flight."""
        self._open_requests += 1
        self._was_used = True
        self._idle.clear()
        try:
            yield
        finally:
            self._open_requests -= 1
            if self._open_requests == 0:
                self._idle.set()

    async def upscale(self, incoming: IncomingRequest, request_id: str, deadline: Deadline) -> UpscaleResult:
        """Serve one request.

        Raises:
            BadRequest, Unavailable, DeadlineExceeded: see `core.errors`.
            asyncio.CancelledError: the client went away; its place is free and its work ends at the next step.
        """
        start = time.perf_counter()
        request = await self.validate(incoming)
        pending, has_webhook = await self.submit(request, deadline), bool(request.params.webhook)
        del incoming, request  # with their bytes, which others may need the room of
        try:
            result = await pending.result()
        except JobCancelled as exc:  # a client that went away gets no response; what is left is the shutdown
            raise self._ending() from exc
        if has_webhook:
            result = result.with_warnings(after=(_NO_WEBHOOK,))
        return replace(result, processing_seconds=time.perf_counter() - start, request_id=request_id)

    async def validate(self, incoming: IncomingRequest) -> UpscaleRequest:
        """The valid request, where requests can be served now.

        Raises:
            BadRequest, Unavailable: see `core.errors`.
        """
        self._check_ready()
        return await self.io.run(parse_request, incoming)

    async def plan(self, incoming: IncomingRequest, deadline: Deadline) -> PlanResponse:
        """What a request would give, and take, without running it.

        Raises:
            BadRequest, Unavailable, DeadlineExceeded: as the request itself would.
        """
        return await self._planner.plan(await self.validate(incoming), deadline)

    def sizes(self, query: str) -> SizesResponse:
        """What a picture of the size in a query string could become, and what each would take.

        Raises:
            BadRequest, Unavailable: see `core.errors`.
        """
        self._check_ready()
        return self._planner.sizes(query, self.settings.request_timeout_seconds)

    async def preview(self, incoming: IncomingRequest) -> Preview:
        """A small copy of an image file for a browser that cannot show the file.

        Raises:
            BadRequest, Unavailable: see `core.errors`. It needs no models, so it is there before they are.
        """
        self._check_running()
        image, max_px, warnings = await self.io.run(parse_preview, incoming)
        data, image_format, more = await self._decoder.preview(image, max_px)
        return Preview(data, image_format, ImageSize(width=image.width, height=image.height), (*warnings, *more))

    async def submit(self, request: UpscaleRequest, deadline: Deadline) -> PendingResult:
        """Take a request in, and return without waiting for its result.

        Raises:
            BadRequest, Unavailable, DeadlineExceeded: it cannot be taken; see `core.errors`.
        """
        self._check_ready()
        pending = await self._dispatcher.submit(request, deadline)
        if self._drained:  # while the image was decoded
            pending.cancel()
        return pending

    def _check_running(self) -> None:
        if self._stop.is_set():
            raise self._ending()

    def _check_ready(self) -> None:
        self._check_running()
        if not self._is_loaded:
            raise ModelsLoading("The models are still loading. Try again soon.", retry_after_seconds=LOADING_RETRY_SECONDS)

    def _ending(self) -> Unavailable:
        return DeviceLost(self.device_loss.reason) if self.device_loss else shutting_down()


def _build_heartbeat(settings: Settings, describe: Callable[[], dict[str, object]]) -> Heartbeat:
    from outbound.heartbeat import Heartbeat  # httpx takes a tenth of the time to the first /health, and few have a registry

    return Heartbeat(settings, describe)


_NO_WEBHOOK = "webhook was not called: it is for jobs, which the header `Prefer: respond-async` starts."


def shutting_down() -> ShuttingDown:
    """What a client hears that comes too late, or that cannot be served to the end."""
    return ShuttingDown("The server is shutting down. Try again soon.", retry_after_seconds=DRAINING_RETRY_SECONDS)
