"""One order, one way: admission → decode → device → encode → file; and the ticket by which its client waits for the answer.

The event loop only waits here: decoding, encoding and files run in io threads, networks on the device's thread. This room
knows neither HTTP nor torch.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

from config import EXTENSIONS
from contract import Order
from device_queue import DeviceQueue, Job
from errors import JobCancelled
from images import decode_image, encode_image
from logs import Values
from upscale import Plan, Size, Upscaled, Upscaler, plan_upscale
from utility import IOThreads, ResultStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Answer:
    """A result: the encoded file, and the response's fields that tell of it."""

    data: bytes
    fields: dict[str, object]
    device_seconds: float

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
            device_seconds=round(self.device_seconds, 3),
        )


class Ticket:
    """A client's claim to the answer of its order. All its methods are called on the event loop."""

    def __init__(self, job: Job, queue: DeviceQueue, making: asyncio.Task[Answer]) -> None:
        self._job = job
        self._queue = queue
        self._making = making
        self._answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        making.add_done_callback(self._settle)

    @property
    def progress(self) -> float:
        """The share of the device's work that is done, 0–1."""
        return self._job.progress

    @property
    def started_at(self) -> float | None:
        """When the device began with it, in seconds since the epoch; None if it has not."""
        return self._job.started_at

    @property
    def position(self) -> int:
        """How many jobs the device has to do before this one."""
        return self._queue.position(self._job)

    @property
    def predicted_seconds(self) -> float | None:
        """Seconds until the device will be done with it; None while the device's rate is not known."""
        return self._queue.predicted_seconds(self._job)

    def cancel(self) -> None:
        """Give the claim up: `answer` raises JobCancelled, and work for nobody ends at its next step."""
        if not self._answer.done():
            self._answer.set_exception(JobCancelled("The job was cancelled."))
            self._answer.exception()  # whether anybody still asks or not
        self._making.cancel()

    async def answer(self) -> Answer:
        """Wait for the answer; a caller that is cancelled meanwhile gives the claim up.

        Raises:
            JobCancelled: of this ticket.
            ServiceError, and whatever a defect raises.
        """
        try:
            return await self._answer
        except asyncio.CancelledError:
            self.cancel()
            raise

    def _settle(self, making: asyncio.Task[Answer]) -> None:
        if self._answer.done():
            return
        if making.cancelled():
            self.cancel()
        elif error := making.exception():
            self._answer.set_exception(error)
            self._answer.exception()
        else:
            self._answer.set_result(making.result())


def plan_order(order: Order) -> Plan:
    """What will be done to the order's image.

    Raises:
        ImageTooLarge: no pass fits below the order's target.
    """
    return plan_upscale(Size(order.header.width, order.header.height), order.target_resolution, order.fit, order.model)


class Dispatcher:
    """Takes orders in and sees to it that they are made. All its methods are called on the event loop."""

    def __init__(self, queue: DeviceQueue, store: ResultStore, io: IOThreads) -> None:
        self.store = store
        self._queue = queue
        self._io = io
        self._making: set[asyncio.Task[Answer]] = set()

    async def submit(self, order: Order, upscaler: Upscaler) -> Ticket:
        """Take an order in, and return without waiting for its answer.

        Raises:
            ImageTooLarge: no pass fits below the order's target.
            ModelUnavailable: this server has no weights for the order's network.
            QueueFull: there is no place.
        """
        plan = plan_order(order)
        job = Job(upscaler.work(plan, order.header.has_alpha))
        self._queue.admit(job)
        making = asyncio.create_task(self._make(order, plan, job, upscaler))
        self._making.add(making)
        making.add_done_callback(partial(self._made, job))
        return Ticket(job, self._queue, making)

    def _made(self, job: Job, making: asyncio.Task[Answer]) -> None:
        self._making.discard(making)
        self._queue.release(job)

    def cancel_all(self) -> None:
        """End everything at its next step."""
        for making in self._making:
            making.cancel()

    async def _make(self, order: Order, plan: Plan, job: Job, upscaler: Upscaler) -> Answer:
        picture, decode_warnings = await self._io.run(decode_image, order.image)
        run = partial(upscaler.upscale, picture, plan, order.enhance_faces, job.advance, order.face_strength)
        upscaled = await self._queue.run(job, run)
        data, encode_warnings = await self._io.run(encode_image, upscaled.picture, order.output_format, order.quality)
        path, save_warnings = await self._save(data, EXTENSIONS[order.output_format])
        warnings = [*order.warnings, *decode_warnings, *upscaled.warnings, *encode_warnings, *save_warnings]
        return Answer(data, _answer_fields(order, plan, upscaled, path, warnings), job.seconds)

    async def _save(self, data: bytes, extension: str) -> tuple[str, list[str]]:
        """The path of the saved result; empty, with a warning, where the disk would not have it."""
        saving: Future[Path] = self._io.submit(self.store.save, data, extension)
        try:
            path: Path = await asyncio.wrap_future(saving)
            return str(path), []
        except OSError as exc:
            logger.error("a result could not be saved in %s: %s", self.store.folder, exc)
            return "", [f"The server could not keep the file ({exc.strerror}): file_path is empty, base64 holds the result."]
        except asyncio.CancelledError:
            saving.add_done_callback(_discard)  # nobody will ever hear of that file
            raise


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
        "model": plan.model,
        "total_scale": float(plan.total_scale),
        "upscaling_strategy": list(plan.passes),
        "faces_detected": len(upscaled.faces),
        "faces_enhanced": upscaled.faces_enhanced,
        "faces": [{"box": list(box)} for box in upscaled.faces],
        "format": order.output_format,
        "warnings": warnings,
    }
