"""One way for every request: header → decode → caches → admission → device → encode → file.

The event loop only waits here: decoding, encoding and files run in io threads, models on the workers' threads.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from core.budget import Room
from core.config import EXTENSIONS, MIB, OutputFormat
from core.errors import ResultNotSaved
from core.host import memory_limit_bytes
from core.metrics import Metrics
from core.stage_timer import StageTimer
from imaging.encode import encode_image
from imaging.metadata import Metadata
from imaging.picture import Picture, beside_pixels
from schemas.params import UpscaleParams
from schemas.plan import Plan
from schemas.request import UpscaleRequest
from schemas.response import FaceBox, ImageSize, UpscaleMetadata, UpscaleResult
from serving.admission import Admission
from serving.deadline import Deadline
from serving.decoding import Decoder, is_large
from serving.pending import InFlight, PendingResult
from serving.planning import Planner, metadata_of
from serving.workers import Workers
from storage.recent_pictures import RecentPictures
from storage.result_cache import ResultCache, cache_keys
from upscale import PipelineOutput
from utility import IO_THREADS, IOExecutor
from workers.task import DeviceTask
from workers.worker import Worker

logger = logging.getLogger(__name__)

T = TypeVar("T")

KEPT_BYTES = 256 * MIB  # of pictures that were made last; less where memory is limited:
KEPT_SHARE = 16  # at most this part of the limit
KEPT_SECONDS = 5 * 60.0
ENTRY_BYTES = 4096  # of a kept picture, beside its pixels
ENCODERS = IO_THREADS - 1  # results that are encoded and saved at once, each of which is in memory meanwhile


class Dispatcher:
    """Takes requests in and sees to it that their results are made. All its methods are called on the event loop."""

    def __init__(
        self,
        admission: Admission,
        workers: Workers,
        cache: ResultCache,
        io: IOExecutor,
        decoder: Decoder,
        metrics: Metrics,
        planner: Planner,
    ) -> None:
        self.cache = cache
        self._admission = admission
        self._workers = workers
        self._io = io
        self._metrics = metrics
        self._decoder = decoder
        self._planner = planner
        self._in_flight: dict[str, InFlight[UpscaleResult]] = {}  # by their key in the cache
        self._runs: dict[str, InFlight[PipelineOutput]] = {}  # by the key of their picture; each has waiters
        kept_bytes = min(KEPT_BYTES, memory_limit_bytes() // KEPT_SHARE)
        self._pictures: RecentPictures[PipelineOutput] = RecentPictures(kept_bytes, KEPT_SECONDS, _now)
        self._encoders = asyncio.Semaphore(ENCODERS)

    async def submit(self, request: UpscaleRequest, deadline: Deadline) -> PendingResult:
        """Take a request in, and return without waiting for its result.

        Raises:
            BadRequest: its image cannot be decoded.
            ModelUnavailable: this server has no weights for the request's model.
            QueueFull: there is no place, or too much stands before it.
            DeadlineExceeded: it alone takes far longer than it may.
        """
        timer, least = StageTimer(), self._planner.task_of(request, has_alpha=False)
        if is_large(request.image):  # by its header, even if its result might be there: only seconds of decoding would tell
            self._admission.check(least, deadline.seconds_left)
        with timer.stage("decode"):
            picture, decode_warnings = await self._decoder.decode(request.image)
        self._metrics.count_stages(timer.seconds)
        has_alpha = picture.alpha is not None
        output_format = request.output_format(has_alpha)
        identity = self._workers.any().capabilities.identity
        metadata, left_out, of_picture, key = await self._io.run(_keys_of, request, picture, output_format, identity)
        in_flight = _shared(self._in_flight, key)
        if in_flight is None and (result := await self._io.run(self.cache.find, key)):
            in_flight = InFlight.of_cached(result)
        in_flight = in_flight or _shared(self._in_flight, key)  # it may have begun meanwhile
        cached = in_flight is not None
        if in_flight is None:
            run = _shared(self._runs, of_picture)
            if run is None and (output := self._pictures.find(of_picture)):
                run = InFlight.of_cached(output)
            cached = run is not None
            if run is None:
                task = self._planner.task_of(request, has_alpha)
                run = self._start_run(of_picture, request, picture, task, deadline)
            in_flight = self._start(key, request, output_format, beside_pixels(picture), metadata, run)
        if cached:
            self._metrics.count_cache_hit()
        warnings = (*request.warnings, *decode_warnings, *left_out)
        return PendingResult(in_flight, self._admission, deadline, warnings, cached=cached, has_alpha=has_alpha)

    def cancel_all(self) -> None:
        """End everything at its next step."""
        for run in self._runs.values():
            run.result.cancel()
        for in_flight in self._in_flight.values():
            in_flight.result.cancel()

    def drop_old_pictures(self) -> bool:
        """Drop the pictures that were kept long enough; whether there were any."""
        return self._pictures.drop_old()

    def _start_run(
        self,
        key: str,
        request: UpscaleRequest,
        picture: Picture,
        task: DeviceTask,
        deadline: Deadline,
    ) -> InFlight[PipelineOutput]:
        self._admission.admit(task, deadline.seconds_left)
        choices = request.plan, request.params  # without the file, which nobody needs any more
        run = self._runs[key] = InFlight(task, asyncio.create_task(self._run(key, *choices, picture, task)))
        run.left = partial(self._end_run, key, run)
        return run

    def _end_run(self, key: str, run: InFlight[PipelineOutput]) -> None:
        if self._runs.get(key) is run:
            del self._runs[key]
        self._admission.release(run.task)

    async def _run(self, key: str, plan: Plan, params: UpscaleParams, picture: Picture, task: DeviceTask) -> PipelineOutput:
        def run(worker: Worker) -> PipelineOutput:
            return worker.run(picture, plan, params, task)

        timer = StageTimer()
        with timer.stage("queue"):
            output = await self._workers.run(task, run)
        timer.seconds["queue"] -= task.seconds
        if output.is_deterministic:
            bare = Picture(output.picture.pixels, output.picture.alpha)
            self._pictures.keep(key, replace(output, picture=bare, seconds={}), bare.size_bytes + ENTRY_BYTES)
        self._metrics.count_stages(timer.seconds | output.seconds)
        self._metrics.count_upscale(plan.original.pixels, plan.output.pixels, len(output.faces))
        return replace(output, seconds=timer.seconds)

    def _start(
        self,
        key: str,
        request: UpscaleRequest,
        output_format: OutputFormat,
        beside: dict[str, Any],
        metadata: Metadata,
        run: InFlight[PipelineOutput],
    ) -> InFlight[UpscaleResult]:
        """Make a result of a picture. The last that needs the picture frees its place."""
        choices = request.plan, request.params, output_format
        made = asyncio.create_task(self._make(key, *choices, beside, metadata, run))
        in_flight = self._in_flight[key] = InFlight(run.task, made)
        run.waiters.add(in_flight)
        in_flight.left = partial(run.leave, in_flight)
        made.add_done_callback(partial(self._made, key, in_flight))
        return in_flight

    def _made(
        self,
        key: str,
        in_flight: InFlight[UpscaleResult],
        made: asyncio.Future[UpscaleResult],
    ) -> None:
        if self._in_flight.get(key) is in_flight:
            del self._in_flight[key]
        in_flight.left()
        if not made.cancelled() and isinstance(made.exception(), MemoryError):
            self._pictures.clear()

    async def _make(
        self,
        key: str,
        plan: Plan,
        params: UpscaleParams,
        output_format: OutputFormat,
        beside: dict[str, Any],
        metadata: Metadata,
        run: InFlight[PipelineOutput],
    ) -> UpscaleResult:
        output = await asyncio.shield(run.result)
        async with self._encoders:
            timer = StageTimer()
            with timer.stage("encode"):
                encode = partial(encode_image, replace(output.picture, **beside), output_format, params.quality, metadata)
                data, encode_warnings = await self._io.run(encode)
            said = _metadata(plan, output, output_format, encode_warnings)
            with timer.stage("save"):
                key_if_kept = key if output.is_deterministic else None
                path, save_warnings = await self._save(key_if_kept, data, EXTENSIONS[output_format], said)
        self._metrics.count_stages(timer.seconds)
        unsaved = None if path else self._held(data)
        result = UpscaleResult(said, path, unsaved, run.task.seconds, output.seconds.get("queue", 0.0))
        return result.with_warnings(after=save_warnings)

    async def _save(
        self, key: str | None, data: bytes, extension: str, metadata: UpscaleMetadata
    ) -> tuple[str, tuple[str, ...]]:
        """The path of the saved result, cached if there is a key; empty, with a warning, where the disk would not have it."""
        save = partial(self.cache.save, key, metadata=metadata) if key else self.cache.store.save
        saving: Future[Path] = await self._io.start(save, data, extension)
        try:
            path: Path = await asyncio.wrap_future(saving)
            return str(path), ()
        except OSError as exc:
            logger.error("a result could not be saved in %s: %s", self.cache.store.folder, exc)
            return "", (f"The server could not keep the file ({exc.strerror}): file_path is empty, base64 holds the result.",)
        except asyncio.CancelledError:
            saving.add_done_callback(_discard)  # nobody will ever hear of that file
            raise

    def _held(self, data: bytes) -> memoryview:
        """A result that is nowhere but in memory, where it counts beside the pictures until its last reader has it.

        Raises:
            ResultNotSaved: there is no room.
        """
        held, room = memoryview(data), Room(self._decoder.budget)
        if not room.grow(len(data)):
            raise ResultNotSaved("The server's disk is full or out of order, and so is its memory. Try again later.")
        room.hold_for(held)
        return held


def _now() -> float:
    return asyncio.get_running_loop().time()


def _shared(table: Mapping[str, InFlight[T]], key: str) -> InFlight[T] | None:
    """The same, in flight, unless it is being given up."""
    in_flight = table.get(key)
    return in_flight if in_flight and in_flight.waiters else None


def _keys_of(
    request: UpscaleRequest, picture: Picture, output_format: OutputFormat, identity: str
) -> tuple[Metadata, list[str], str, str]:
    """The same, and the keys of the upscaled picture and of the result."""
    metadata, left_out = metadata_of(request, output_format)
    keys = cache_keys(picture, request.plan, request.params, output_format, identity, metadata)
    return metadata, left_out, *keys


def _discard(saving: Future[Path]) -> None:
    if not saving.cancelled() and saving.exception() is None:
        saving.result().unlink(missing_ok=True)


def _metadata(plan: Plan, output: PipelineOutput, output_format: OutputFormat, encode_warnings: list[str]) -> UpscaleMetadata:
    picture = output.picture
    return UpscaleMetadata(
        original_size=ImageSize.of(plan.original),
        upscaled_size=ImageSize(width=picture.width, height=picture.height),  # of what was really made
        upscaling_strategy=plan.passes,
        target_resolution=plan.target,
        model=plan.model,
        total_scale=float(plan.total_scale),
        faces_detected=len(output.faces),
        faces_enhanced=output.faces_enhanced,
        faces=tuple(FaceBox(box=box) for box in output.faces),
        format=output_format,
        warnings=(*plan.warnings, *output.warnings, *encode_warnings),
    )
