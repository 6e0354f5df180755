"""One order, one way: decode → made before? → admission → device → encode → file; and the ticket of the client that waits.

The event loop only waits here: decoding, encoding and files run in io threads, networks on the device's thread. This room
knows neither HTTP nor torch.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast
from weakref import WeakValueDictionary

from core.config import EXTENSIONS
from core.errors import JobCancelled
from core.logs import Values
from core.metrics import Metrics
from core.stage_timer import StageTimer
from imaging.decode import decode_image
from imaging.encode import encode_image
from imaging.picture import Picture
from schemas.request import Order
from serving.deadline import Deadline
from serving.device_queue import DeviceQueue, Job
from storage.result_cache import ResultCache, key_of
from upscale import Plan, Size, Upscaled, Upscaler, plan_upscale
from utility import IO_THREADS, IOThreads

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Answer:
    """A result: the encoded file, and the response's fields that tell of it."""

    data: bytes
    fields: dict[str, object]
    device_seconds: float
    queue_seconds: float = 0.0
    origin: Answer | None = None  # what this was made from; whoever has this keeps that

    @property
    def values(self) -> Values:
        """What the log tells of it."""
        original, upscaled = (cast(dict[str, int], self.fields[name]) for name in ("original_size", "upscaled_size"))
        return Values(
            original=f"{original['width']}x{original['height']}",
            upscaled=f"{upscaled['width']}x{upscaled['height']}",
            format=self.fields["format"],
            passes=self.fields["upscaling_strategy"],
            faces=self.fields["faces_detected"],
            queue_seconds=round(self.queue_seconds, 3),
            device_seconds=round(self.device_seconds, 3),
            cached=self.fields.get("cached", False),
        )

    @property
    def etag(self) -> str:
        """The name of the file, of which no two have the same; empty if there is no file."""
        return Path(str(self.fields["file_path"])).stem


class _Making:
    """A result that is being made, or is there, and the tickets of those who wait for it."""

    def __init__(self, job: Job, result: asyncio.Future[Answer]) -> None:
        self.job = job
        self.result = result
        self.tickets: set[Ticket] = set()

    def leave(self, ticket: Ticket) -> None:
        """Work for nobody ends at its next step."""
        self.tickets.discard(ticket)
        if not self.tickets:
            self.result.cancel()


class Ticket:
    """A client's claim to the answer of its order. All its methods are called on the event loop."""

    def __init__(
        self, making: _Making, queue: DeviceQueue, deadline: Deadline, warnings: Iterable[str], *, cached: bool
    ) -> None:
        """`warnings` are of this order, not of what is made; `cached` if it costs no work of its own."""
        self._making = making
        self._queue = queue
        self._deadline = deadline
        self._warnings = warnings
        self._cached = cached
        self._answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        making.tickets.add(self)
        making.result.add_done_callback(self._settle)

    @property
    def progress(self) -> float:
        """The share of the device's work that is done, 0–1."""
        return self._making.job.progress

    @property
    def started_at(self) -> float | None:
        """When the device began with it, in seconds since the epoch; None if it has not."""
        return self._making.job.started_at

    @property
    def position(self) -> int:
        """How many jobs the device has to do before this one."""
        return self._queue.position(self._making.job)

    @property
    def predicted_seconds(self) -> float | None:
        """Seconds until the device will be done with it; None while the device's rate is not known."""
        return self._queue.predicted_seconds(self._making.job)

    def cancel(self) -> None:
        """Give the claim up: `answer` raises JobCancelled, and work for nobody ends at its next step."""
        if not self._answer.done():
            self._answer.set_exception(JobCancelled("The job was cancelled."))
            self._answer.exception()  # whether anybody still asks or not
        self._making.leave(self)

    async def answer(self) -> Answer:
        """Wait for the answer; a caller that is cancelled meanwhile gives the claim up.

        Raises:
            JobCancelled: of this ticket.
            DeadlineExceeded: the claim is given up.
            ServiceError, and whatever a defect raises.
        """
        try:
            async with self._deadline.enforced():
                return await self._answer
        finally:
            self.cancel()

    def _settle(self, result: asyncio.Future[Answer]) -> None:
        if self._answer.done():
            return
        if result.cancelled():
            self.cancel()
        elif error := result.exception():
            self._answer.set_exception(error)
            self._answer.exception()
        else:
            self._answer.set_result(self._own(result.result()))

    def _own(self, made: Answer) -> Answer:
        warnings = [*self._warnings, *cast(list[str], made.fields["warnings"])]
        return replace(made, fields={**made.fields, "warnings": warnings, "cached": self._cached}, origin=made)


def _pixels(size: Size) -> int:
    return size.width * size.height


def _decode_warnings(image: bytes) -> list[str]:
    """The pixels are decoded too, and dropped in this thread: only that tells whether the file is whole."""
    return decode_image(image)[1]


def plan_fields(plan: Plan) -> dict[str, object]:
    """The plan as clients see it."""
    return {
        "original_size": {"width": plan.original.width, "height": plan.original.height},
        "upscaled_size": {"width": plan.output.width, "height": plan.output.height},
        "upscaling_strategy": list(plan.passes),
        "target_resolution": plan.target,
    }


def plan_order(order: Order) -> Plan:
    """What will be done to the order's image.

    Raises:
        ImageTooLarge: no pass fits below the order's target.
    """
    return plan_upscale(Size(order.header.width, order.header.height), order.target_resolution, order.fit, order.model)


class Dispatcher:
    """Takes orders in and sees to it that they are made. All its methods are called on the event loop."""

    def __init__(self, queue: DeviceQueue, cache: ResultCache, io: IOThreads, metrics: Metrics) -> None:
        self.cache = cache
        self._queue = queue
        self._io = io
        self._metrics = metrics
        self._decoding = asyncio.Semaphore(IO_THREADS)  # pictures in memory that have no place in the queue yet
        self._makings: dict[str, _Making] = {}  # by their key
        self._recalled: WeakValueDictionary[str, Answer] = WeakValueDictionary()  # in memory once, for all who still read it

    async def submit(self, order: Order, upscaler: Upscaler, deadline: Deadline) -> Ticket:
        """Take an order in, and return without waiting for its answer.

        Raises:
            BadRequest: its image cannot be decoded, or no pass fits below its target.
            ModelUnavailable: this server has no weights for the order's network.
            QueueFull: there is no place, or too much stands before it.
            DeadlineExceeded: it alone takes far longer than it may.
        """
        plan = plan_order(order)
        async with self._decoding:
            watch = StageTimer()
            with watch.stage("decode"):
                picture, decode_warnings = await self._io.run(decode_image, order.image)
            self._metrics.count_stages(watch.seconds)
            key = await self._io.run(key_of, picture, order, upscaler.identity)
            making = self._shared(key)
            if making is None and (answer := await self._io.run(self._recall, key)):
                making = _made_before(answer)
            making = making or self._shared(key)  # it may have begun meanwhile
            cached = making is not None
            if cached:
                self._metrics.count_cache_hit()
            if making is None:
                making = self._start(key, order, plan, picture, upscaler, deadline)
        return Ticket(making, self._queue, deadline, (*order.warnings, *decode_warnings), cached=cached)

    async def preview(self, order: Order, upscaler: Upscaler, deadline: Deadline) -> dict[str, object]:
        """What would become of an order, and what it would take, without running it.

        Raises:
            BadRequest, ModelUnavailable, QueueFull, DeadlineExceeded: as `submit`, for what was not made before.
        """
        plan = plan_order(order)
        async with self._decoding:
            decode_warnings = await self._io.run(_decode_warnings, order.image)
        job = Job(upscaler.work(plan, order.header.has_alpha, order.enhance_faces))
        self._queue.check(job, deadline.seconds_left)
        own_seconds, queue_seconds = self._queue.forecast(job)
        return {
            "success": True,
            **plan_fields(plan),
            "total_scale": float(plan.total_scale),
            "predicted_seconds": round(own_seconds, 3),
            "queue_seconds": round(queue_seconds, 3),
            "memory_bytes": upscaler.memory_bytes(plan),
            "warnings": [*order.warnings, *decode_warnings, *plan.warnings],
        }

    def _shared(self, key: str) -> _Making | None:
        """The same, in flight, unless it is being given up."""
        making = self._makings.get(key)
        return making if making and making.tickets else None

    def _recall(self, key: str) -> Answer | None:
        if answer := self._recalled.get(key):
            if Path(str(answer.fields["file_path"])).is_file():
                return answer
            self._recalled.pop(key, None)
        if found := self.cache.find(key):
            path, data, told = found
            return self._recalled.setdefault(key, Answer(data, {**told, "file_path": str(path)}, device_seconds=0.0))
        return None

    def _start(self, key: str, order: Order, plan: Plan, picture: Picture, upscaler: Upscaler, deadline: Deadline) -> _Making:
        job = Job(upscaler.work(plan, order.header.has_alpha, order.enhance_faces))
        self._queue.admit(job, deadline.seconds_left)
        strength = order.face_strength
        run = partial(upscaler.upscale, picture, plan, order.enhance_faces, job.advance, strength, job.expect, job.clock)
        task = asyncio.create_task(self._make(key, plan, order.output_format, order.quality, job, run))
        making = self._makings[key] = _Making(job, task)
        task.add_done_callback(partial(self._made, key, making))
        return making

    def _made(self, key: str, making: _Making, _: asyncio.Future[Answer]) -> None:
        if self._makings.get(key) is making:
            del self._makings[key]
        self._queue.release(making.job)

    def cancel_all(self) -> None:
        """End everything at its next step."""
        for making in self._makings.values():
            making.result.cancel()

    async def _make(
        self, key: str, plan: Plan, image_format: str, quality: int, job: Job, run: Callable[[], Upscaled]
    ) -> Answer:
        watch = StageTimer()
        with watch.stage("queue"):
            upscaled = await self._queue.run(job, run)
        watch.seconds["queue"] -= job.seconds
        with watch.stage("encode"):
            data, encode_warnings = await self._io.run(encode_image, upscaled.picture, image_format, quality)
        told = _told(plan, upscaled, image_format, encode_warnings)
        with watch.stage("save"):
            path, save_warnings = await self._save(key if upscaled.is_usual else None, data, EXTENSIONS[image_format], told)
        self._metrics.count_stages(watch.seconds | upscaled.seconds)
        self._metrics.count_upscale(_pixels(plan.original), _pixels(plan.output), len(upscaled.faces))
        fields = {**told, "file_path": path, "warnings": [*cast(list[str], told["warnings"]), *save_warnings]}
        return Answer(data, fields, job.seconds, watch.seconds["queue"])

    async def _save(self, key: str | None, data: bytes, extension: str, told: dict[str, object]) -> tuple[str, list[str]]:
        """The path of the saved result, cached if there is a key; empty, with a warning, where the disk would not have it."""
        keep = partial(self.cache.keep, key, told=told) if key else self.cache.store.save
        saving: Future[Path] = self._io.submit(keep, data, extension)
        try:
            path: Path = await asyncio.wrap_future(saving)
            return str(path), []
        except OSError as exc:
            logger.error("a result could not be saved in %s: %s", self.cache.store.folder, exc)
            return "", [f"The server could not keep the file ({exc.strerror}): file_path is empty, base64 holds the result."]
        except asyncio.CancelledError:
            saving.add_done_callback(_discard)  # nobody will ever hear of that file
            raise


def _made_before(answer: Answer) -> _Making:
    job, result = Job(0), asyncio.get_running_loop().create_future()
    job.started_at = time.time()
    result.set_result(answer)
    return _Making(job, result)


def _discard(saving: Future[Path]) -> None:
    if not saving.cancelled() and saving.exception() is None:
        saving.result().unlink(missing_ok=True)


def _told(plan: Plan, upscaled: Upscaled, image_format: str, warnings: Iterable[str]) -> dict[str, object]:
    """The response's fields that are the same for all who ask for the same."""
    picture = upscaled.picture
    return {
        "success": True,
        **plan_fields(plan),
        "upscaled_size": {"width": picture.width, "height": picture.height},  # of what was really made
        "model": plan.model,
        "total_scale": float(plan.total_scale),
        "faces_detected": len(upscaled.faces),
        "faces_enhanced": upscaled.faces_enhanced,
        "faces": [{"box": list(box)} for box in upscaled.faces],
        "format": image_format,
        "warnings": [*upscaled.warnings, *warnings],
    }
