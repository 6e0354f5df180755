"""One request, one way: parse → admission → decode → device → encode → file. And what lives as long as the process does.

The event loop only waits here: parsing, decoding, encoding and files run in io threads, networks on the device's thread.
This room knows neither HTTP nor torch.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from config import EXTENSIONS, MAX_IMAGE_BYTES, MIB, TARGET_PX, VERSION, Settings
from contract import Order, parse_order
from errors import JobCancelled, ModelsLoading, ShuttingDown
from heartbeat import Heartbeat
from images import decode_image, encode_image
from upscale import Plan, Size, Upscaled, Upscaler, load_upscaler, max_input_px, plan_upscale
from utility import DeviceQueue, Job, ResultStore

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

IO_THREADS = 4
SWEEP_SECONDS = 60.0
CANCEL_SECONDS = 10.0  # a cancelled job ends at its next step: a block of the network, or one face
LOADING_RETRY_SECONDS = 10
DRAINING_RETRY_SECONDS = 5  # another instance, or this one restarted, should be there by then


class State(StrEnum):
    """What a load balancer should know."""

    STARTING = "starting"
    HEALTHY = "healthy"
    DEGRADED = "degraded"  # serving, but a configured model is missing
    DRAINING = "draining"


@dataclass(frozen=True, eq=False)
class Answer:
    """A result: the encoded file, and every other field of the response."""

    data: bytes
    fields: dict[str, object]
    device_seconds: float


class Service:
    """Built once per process; all its methods are called on the event loop."""

    def __init__(self, settings: Settings, load: Callable[[Settings], Upscaler] = load_upscaler) -> None:
        self.settings = settings
        self.store = ResultStore(settings.output_dir, settings.retention_seconds, settings.output_max_bytes)
        self.failure: Exception | None = None
        self._queue = DeviceQueue(settings.queue_limit)
        self._load = load
        self._upscaler: Upscaler | None = None
        self._io_threads = ThreadPoolExecutor(IO_THREADS, thread_name_prefix="io")
        self._heartbeat = Heartbeat(settings, self._describe) if settings.registry_url else None
        self._tasks: list[asyncio.Task[None]] = []
        self._stop = asyncio.Event()
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
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
            self._queue.cancel_all()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), CANCEL_SECONDS)

    async def close(self) -> None:
        """End the background tasks and let the threads go."""
        self.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._io_threads.shutdown(wait=False, cancel_futures=True)
        self._queue.close()

    async def _load_upscaler(self) -> None:
        try:
            upscaler = await self._queue.run(Job(0), partial(_load_without_pauses, self._load, self.settings))
            warm_up = Job(0)
            await self._queue.run(warm_up, partial(upscaler.warm_up, warm_up.advance))
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

    async def _sweep_forever(self) -> None:
        while not self._stop.is_set():
            try:
                removed = await self.io(self.store.sweep, time.time())
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
        queue = {"running": self._queue.running, "waiting": self._queue.waiting, "capacity": self._queue.limit}
        device = f"{self._upscaler.device}, {self._upscaler.precision}" if self._upscaler else None
        return {"status": self.state, "queue": queue, "device": device, "version": VERSION}

    def _models(self) -> dict[str, dict[str, object]]:
        if self._upscaler is None:
            return {}
        return {
            model: {"loaded": True, "file": status.file} if status.loaded else {"loaded": False, "reason": status.reason}
            for model, status in self._upscaler.models.items()
        }

    # one request

    @contextlib.contextmanager
    def in_flight(self) -> Iterator[None]:
        """A request from its first byte to its answer's last: what the drain waits for, if it began before it."""
        if self._stop.is_set():
            yield
            return
        self._in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._in_flight -= 1
            if self._in_flight == 0:
                self._idle.set()

    async def upscale(self, body: bytes, request_id: str) -> Answer:
        """Serve one request.

        Raises:
            BadRequest, Unavailable: see `errors`.
            asyncio.CancelledError: the client went away; its place is free and its work ends at the next step.
        """
        try:
            return await self._upscale(body, request_id)
        except JobCancelled as exc:  # a client that went away gets no answer; what is left is the shutdown
            raise _shutting_down() from exc

    async def _upscale(self, body: bytes, request_id: str) -> Answer:
        start = time.perf_counter()
        upscaler = self._ready()
        order = await self.io(parse_order, body)
        plan = plan_upscale(Size(order.header.width, order.header.height), order.target_resolution, order.fit)
        job = Job(upscaler.work(plan, order.header.has_alpha))
        with self._queue.place(job):
            picture, decode_warnings = await self.io(decode_image, order.image)
            upscaled = await self._queue.run(job, partial(upscaler.upscale, picture, plan, order.enhance_faces, job.advance))
            data, encode_warnings = await self.io(encode_image, upscaled.picture, order.output_format, order.quality)
            path, save_warnings = await self._save(data, EXTENSIONS[order.output_format])
        warnings = [*order.warnings, *decode_warnings, *upscaled.warnings, *encode_warnings, *save_warnings]
        fields = _answer_fields(order, plan, upscaled, path, warnings)
        seconds = round(time.perf_counter() - start, 3)
        return Answer(data, {**fields, "processing_time": seconds, "request_id": request_id}, job.seconds)

    def _ready(self) -> Upscaler:
        if self._stop.is_set():
            raise _shutting_down()
        if self._upscaler is None:
            raise ModelsLoading("The models are still loading. Try again soon.", retry_after_seconds=LOADING_RETRY_SECONDS)
        return self._upscaler

    async def _save(self, data: bytes, extension: str) -> tuple[str, list[str]]:
        """The path of the saved result; empty, with a warning, where the disk would not have it."""
        saving: Future[Path] = self._io_threads.submit(self.store.save, data, extension)
        try:
            path: Path = await asyncio.wrap_future(saving)
            return str(path), []
        except OSError as exc:
            logger.error("a result could not be saved in %s: %s", self.store.folder, exc)
            return "", [f"The server could not keep the file ({exc.strerror}): file_path is empty, base64 holds the result."]
        except asyncio.CancelledError:
            saving.add_done_callback(_discard)  # nobody will ever hear of that file
            raise

    async def io(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function in an io thread."""
        return await asyncio.get_running_loop().run_in_executor(self._io_threads, partial(function, *args, **kwargs))


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


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("The server is shutting down. Try again soon.", retry_after_seconds=DRAINING_RETRY_SECONDS)


def _discard(saving: Future[Path]) -> None:
    if not saving.cancelled() and saving.exception() is None:
        saving.result().unlink(missing_ok=True)


def _answer_fields(order: Order, plan: Plan, upscaled: Upscaled, path: str, warnings: list[str]) -> dict[str, object]:
    picture = upscaled.picture
    return {
        "success": True,
        "file_path": path,
        "original_size": {"width": plan.original.width, "height": plan.original.height},
        "upscaled_size": {"width": picture.width, "height": picture.height},
        "target_resolution": plan.target,
        "total_scale": float(plan.total_scale),
        "upscaling_strategy": list(plan.passes),
        "faces_detected": len(upscaled.faces),
        "faces_enhanced": upscaled.faces_enhanced,
        "faces": [{"box": list(box)} for box in upscaled.faces],
        "format": order.output_format,
        "warnings": warnings,
    }
