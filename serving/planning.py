"""From a request as it came to one that can be run, and what it would take: fields, image, plan, time. Nothing runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, get_args

from core.config import EXTENSIONS, MAX_PIXELS, ModelName, OutputFormat
from core.errors import ImageTooLarge, NotAcceptable
from imaging.decode import header_warnings
from imaging.formats import OpenedImage, open_image, too_many_pixels
from imaging.metadata import Metadata, chosen_metadata
from schemas.json_schema import properties_of
from schemas.params import PARAMS, PreviewParams, SizeParams, parse_params, validated
from schemas.plan import Plan, Size, plan_for, size_choices
from schemas.request import (
    IMAGE_FIELD,
    IncomingRequest,
    UpscaleRequest,
    image_text,
    parse_query,
    read_fields,
    unknown_fields_warning,
)
from schemas.response import ImageSize, ImpossibleSize, PlanResponse, PlanSummary, PossibleSize, SizesResponse
from serving.admission import Admission
from serving.deadline import Deadline
from serving.decoding import Decoder, is_large
from serving.workers import Workers
from utility import IOExecutor, decode_base64
from workers.task import DeviceTask

Warnings = tuple[str, ...]


def parse_request(incoming: IncomingRequest) -> UpscaleRequest:
    """Validate a request, down to the image's header. The image is opened here, once; its pixels are not read.

    Raises:
        BadRequest: which field, what was wrong with it, and what would be right.
        NotAcceptable: the client accepts no format that the result may have.
    """
    given = read_fields(incoming)
    data = _file_of(incoming, given)
    image = open_image(data, incoming.limits)
    params = parse_params(given)
    _check_acceptable(params.output_format, incoming.accepted)
    plan = plan_for(Size(image.width, image.height), params)
    warnings = _ignored(incoming, given, PARAMS)
    return UpscaleRequest(image, params, incoming.accepted, plan, hashlib.sha256(data).hexdigest(), warnings)


def parse_preview(incoming: IncomingRequest) -> tuple[OpenedImage, int, Warnings]:
    """Of a request for a preview: the image, opened as above, how long its long side may be, in pixels, and warnings.

    Raises:
        BadRequest: as `parse_request`.
    """
    known = properties_of(PreviewParams)
    given = read_fields(incoming, known)
    max_px = validated(PreviewParams, given).max_px
    return open_image(_file_of(incoming, given), incoming.limits), max_px, _ignored(incoming, given, known)


def parse_size(query: str) -> tuple[SizeParams, Warnings]:
    """A query string that asks what a picture of some size could become, and warnings.

    Raises:
        BadRequest: which parameter, what was wrong with it, and what would be right.
    """
    known = properties_of(SizeParams)
    given = parse_query(query, known)
    params = validated(SizeParams, given)
    if params.width * params.height > MAX_PIXELS:
        raise too_many_pixels()
    return params, unknown_fields_warning(given, known)


def _file_of(incoming: IncomingRequest, given: Mapping[str, Any]) -> bytes:
    return incoming.body if incoming.is_raw else decode_base64(image_text(given), incoming.limits.max_bytes)


def _ignored(incoming: IncomingRequest, given: Iterable[str], params: Iterable[str]) -> Warnings:
    return unknown_fields_warning(given, params if incoming.is_raw else (IMAGE_FIELD, *params))


def _check_acceptable(asked: OutputFormat | None, accepted: Mapping[OutputFormat, float]) -> None:
    if accepted and not (accepted[asked] if asked else any(accepted.values())):
        response = f"would be image/{asked}, which Accept leaves out" if asked else "cannot be of any kind in Accept"
        raise NotAcceptable(
            f"The response {response}. It may name application/json, "
            f"{', '.join(f'image/{name}' for name in EXTENSIONS)} or image/*, in accordance with output_format.",
        )


class Planner:
    """What requests would give and take. All its methods are called on the event loop."""

    def __init__(self, admission: Admission, workers: Workers, decoder: Decoder, io: IOExecutor) -> None:
        self._admission = admission
        self._workers = workers
        self._decoder = decoder
        self._io = io

    def task_of(self, request: UpscaleRequest, has_alpha: bool) -> DeviceTask:
        """The task that a request would be.

        Raises:
            ModelUnavailable: this server has no weights for its model.
        """
        return DeviceTask(self._workers.any().work(request.plan, has_alpha, request.params.enhance_faces))

    async def plan(self, request: UpscaleRequest, deadline: Deadline) -> PlanResponse:
        """What would become of a request, and what it would take, without running it. The cache is not looked at.

        A large picture is not decoded: its header tells all but whether the rest of the file is whole, and whether alpha that
        it has is full throughout.

        Raises:
            BadRequest, ModelUnavailable, QueueFull, DeadlineExceeded: as `submit`.
        """
        plan, has_alpha = request.plan, request.image.has_alpha
        self._admission.check(self.task_of(request, has_alpha=False), deadline.seconds_left)
        if is_large(request.image):
            warnings = await self._io.run(header_warnings, request.image)
            if has_alpha:
                warnings.append(_ALPHA_NOT_READ)
        else:
            picture, warnings = await self._decoder.decode(request.image)
            has_alpha = picture.alpha is not None
        _, left_out = await self._io.run(metadata_of, request, request.output_format(has_alpha))
        task = self.task_of(request, has_alpha)
        self._admission.check(task, deadline.seconds_left)
        own_seconds, queue_seconds = self._admission.forecast(task)
        return PlanResponse(
            **dict(PlanSummary.of(plan)),
            total_scale=float(plan.total_scale),
            predicted_seconds=round(own_seconds, 3),
            queue_seconds=round(queue_seconds, 3),
            memory_bytes=self._workers.any().memory_bytes(plan),
            format=request.output_format(has_alpha),
            warnings=(*request.warnings, *warnings, *left_out, *plan.warnings),
        )

    def sizes(self, query: str, timeout_seconds: float) -> SizesResponse:
        """What a picture of the size in a query string could become, and what each would take.

        Raises:
            BadRequest: as `parse_size`.
        """
        asked, warnings = parse_size(query)
        original = Size(asked.width, asked.height)
        return SizesResponse(
            original_size=ImageSize.of(original),
            queue_seconds=self._admission.status().wait_seconds,
            timeout_seconds=timeout_seconds,
            sizes=tuple(self._size(asked, choice, plan) for choice, plan in size_choices(original)),
            warnings=warnings,
        )

    def _size(self, asked: SizeParams, choice: dict[str, Any], plan: Plan | ImageTooLarge) -> PossibleSize | ImpossibleSize:
        if isinstance(plan, ImageTooLarge):
            return ImpossibleSize(**choice, error=plan.message, code=plan.code)
        worker = self._workers.any()
        plans = [replace(plan, model=model) for model in get_args(ModelName) if model in worker.capabilities.models]
        work = {one.model: worker.work(one, asked.alpha, asked.enhance_faces) for one in plans}
        return PossibleSize(
            **choice,
            upscaled_size=ImageSize.of(plan.output),
            upscaling_strategy=plan.passes,
            total_scale=float(plan.total_scale),
            memory_bytes=max(map(worker.memory_bytes, plans)),
            predicted_seconds={model: round(self._admission.own_seconds(flops), 3) for model, flops in work.items()},
            warnings=plan.warnings,
        )


_ALPHA_NOT_READ = "Whether any pixel of so large a picture is transparent was not looked at: this is its plan if one is."


def metadata_of(request: UpscaleRequest, output_format: OutputFormat) -> tuple[Metadata, list[str]]:
    """What of the file's own goes out again, and what was left out of it."""
    size = request.plan.output
    return chosen_metadata(request.params.metadata, request.image.file, size.width, size.height, output_format)
