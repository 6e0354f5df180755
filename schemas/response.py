"""What the service says, as JSON: results, plans, jobs, errors. The OpenAPI document describes these models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import PurePath
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from core.config import Fit, ModelName, OutputFormat, TargetResolution
from core.errors import ResultNotSaved, ServiceError
from core.logs import Values
from schemas.plan import Plan, Size

JOB_ID = "^[A-Za-z0-9_-]{8,64}$"

_REQUEST_ID = "0d9f2c5a7be84c0f9a6b1e3d5c7f8a90"
_RESULT_NAME = "5b1c0e7d9f2a4c6e8b0d1f3a5c7e9b2d.jpg"

Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
_Time = Annotated[
    str,
    Field(description="ISO 8601, in UTC", examples=["2026-11-22T12:00:00.000Z"], json_schema_extra={"format": "date-time"}),
]
_Passes = Annotated[tuple[Literal[2, 4], ...], Field(description="the passes, in order", examples=[[4, 2]])]
_Target = Annotated[TargetResolution | None, Field(description="null if a scale was asked for", examples=["2k"])]
_Warnings = Annotated[tuple[str, ...], Field(description="whole sentences; empty if there are none")]
_RequestId = Annotated[str, Field(description="as in X-Request-ID", examples=[_REQUEST_ID])]
_TotalScale = Annotated[float, Field(description="ratio of the long sides", examples=[4.0])]


class Response(BaseModel):
    """What all of them have in common."""

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        defer_build=True,  # of validators, until the first use: /health answers sooner after the start
        json_schema_serialization_defaults_required=True,
    )


class ImageSize(Response):
    """In pixels, after EXIF rotation."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"width": 480, "height": 300}]})

    width: int = Field(ge=1)
    height: int = Field(ge=1)

    @classmethod
    def of(cls, size: Size) -> ImageSize:
        return cls(width=size.width, height=size.height)

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


class FaceBox(Response):
    box: tuple[int, int, int, int] = Field(
        description="left, top, right, bottom, in pixels of the original", examples=[[171, 62, 260, 183]]
    )


class UpscaleMetadata(Response):
    """What is said of a result to everybody who asks for it; it is kept with the file."""

    original_size: ImageSize
    upscaled_size: ImageSize
    upscaling_strategy: _Passes
    target_resolution: _Target
    model: ModelName
    total_scale: _TotalScale
    faces_detected: int = Field(ge=0, description="found on the input; 0 if faces were not asked for", examples=[1])
    faces_enhanced: bool = Field(description="whether any was restored", examples=[True])
    faces: tuple[FaceBox, ...] = Field(description="where they are")
    format: OutputFormat
    warnings: _Warnings


class UpscaleSummary(UpscaleMetadata):
    """Everything that is said of a result, but the result itself."""

    success: Literal[True] = True
    file_path: str = Field(
        description="where the server keeps it; empty, with a warning, if it could not", examples=[f"/data/{_RESULT_NAME}"]
    )
    cached: bool = Field(default=False, description="whether no network ran for it alone", examples=[False])
    processing_time: Seconds = Field(description="seconds inside the server, waiting included", examples=[1.234])
    request_id: _RequestId


class UpscaleResponse(UpscaleSummary):
    """The body of POST /upscale."""

    base64: str = Field(description="the result", json_schema_extra={"contentEncoding": "base64"})


@dataclass(frozen=True, eq=False)
class UpscaleResult:
    """An encoded result and everything that is known of it, from the pipeline to the response."""

    metadata: UpscaleMetadata
    file_path: str = ""  # empty where it could not be kept
    unsaved: memoryview | None = None  # the file's bytes, in this case
    device_seconds: float = 0.0
    queue_seconds: float = 0.0
    cached: bool = False
    processing_seconds: float = 0.0
    request_id: str = ""

    def with_warnings(self, before: tuple[str, ...] = (), after: tuple[str, ...] = ()) -> UpscaleResult:
        """The same result, with the warnings of one request beside its own."""
        warnings = (*before, *self.metadata.warnings, *after)
        return replace(self, metadata=self.metadata.model_copy(update={"warnings": warnings}))

    def summary(self) -> UpscaleSummary:
        """Everything but the data."""
        return UpscaleSummary(
            **dict(self.metadata),
            file_path=self.file_path,
            cached=self.cached,
            processing_time=round(self.processing_seconds, 3),
            request_id=self.request_id,
        )

    @property
    def name(self) -> str:
        """The file's name under /files/; empty where there is no file."""
        return PurePath(self.file_path).name

    @property
    def etag(self) -> str:
        """The file's name, of which no two have the same; empty where there is no file."""
        return PurePath(self.file_path).stem

    @property
    def log_values(self) -> Values:
        """What the log tells of it."""
        return Values(
            original=str(self.metadata.original_size),
            upscaled=str(self.metadata.upscaled_size),
            format=self.metadata.format,
            passes=self.metadata.upscaling_strategy,
            faces=self.metadata.faces_detected,
            queue_seconds=round(self.queue_seconds, 3),
            device_seconds=round(self.device_seconds, 3),
            cached=self.cached,
        )


class PlanSummary(Response):
    """What will be done to an image."""

    original_size: ImageSize
    upscaled_size: ImageSize
    upscaling_strategy: _Passes
    target_resolution: _Target

    @classmethod
    def of(cls, plan: Plan) -> PlanSummary:
        return cls(
            original_size=ImageSize.of(plan.original),
            upscaled_size=ImageSize.of(plan.output),
            upscaling_strategy=plan.passes,
            target_resolution=plan.target,
        )


class PlanResponse(PlanSummary):
    """The body of POST /plan."""

    success: Literal[True] = True
    total_scale: _TotalScale
    predicted_seconds: Seconds = Field(description="on this device")
    queue_seconds: Seconds = Field(description="of work before it")
    memory_bytes: Count
    format: OutputFormat = Field(description="of the result")
    warnings: _Warnings


class _SizeChoice(Response):
    target_resolution: _Target
    fit: Fit | None = Field(description="null if a scale was asked for", examples=["passes"])
    scale: float | None = Field(description="null if a target was asked for", examples=[2.0])


class PossibleSize(_SizeChoice):
    """A size that a picture can become: the fields of a request for it, and what it gives and takes."""

    possible: Literal[True] = True
    upscaled_size: ImageSize
    upscaling_strategy: _Passes
    total_scale: _TotalScale
    memory_bytes: Count
    predicted_seconds: dict[ModelName, Seconds] = Field(description="on this device, by model; only those that are loaded")
    warnings: _Warnings


class ImpossibleSize(_SizeChoice):
    """A size that is out of reach."""

    possible: Literal[False] = False
    error: str = Field(description="why, and what would be possible")
    code: str = Field(description="as a request would get", examples=["image_too_large"])


@dataclass(frozen=True)
class Preview:
    """A small copy of a picture, as a file that browsers show."""

    data: bytes
    format: OutputFormat
    original_size: ImageSize
    warnings: tuple[str, ...]


class SizesResponse(Response):
    """The body of GET /plan."""

    success: Literal[True] = True
    original_size: ImageSize
    queue_seconds: Seconds = Field(description="until a request of one second would start")
    timeout_seconds: Seconds = Field(description="that a request may take at most")
    sizes: tuple[PossibleSize | ImpossibleSize, ...] = Field(description="each target, each target exactly, 2×, 4×")
    warnings: _Warnings


class ErrorResponse(Response):
    """Some errors have further fields, such as the name of the `field` that is wrong."""

    model_config = ConfigDict(extra="allow")

    success: Literal[False] = False
    error: str = Field(description="a sentence to act on", examples=["quality must be from 1 to 100, not 0."])
    code: str = Field(description="stable, for programs", examples=["out_of_range"])
    request_id: _RequestId

    @classmethod
    def of(cls, error: ServiceError, request_id: str, **more: object) -> Self:
        """What a client hears of an error."""
        fields = {"error": error.message, "code": error.code, "request_id": request_id, **error.details, **more}
        return cls.model_validate(fields)


class JobError(ErrorResponse):
    """The error of a job."""

    status_code: int = Field(description="the HTTP status that it would have", examples=[503])


class JobResult(UpscaleSummary):
    """The result of a job, once it has succeeded."""

    url: str = Field(description="where to fetch it until it is removed", examples=[f"/files/{_RESULT_NAME}"])

    @classmethod
    def of(cls, result: UpscaleResult) -> JobResult:
        """What is kept of a result: all but its base64, which nobody would keep; so without a file there is no result.

        Raises:
            ResultNotSaved: there is none.
        """
        if not result.name:
            raise ResultNotSaved("The server could not keep the result: its disk is full or out of order. Try again later.")
        return cls(**dict(result.summary()), url=f"/files/{result.name}")


class JobStatus(StrEnum):
    """The states of a job, in the words of cog (https://github.com/replicate/cog/blob/main/docs/http.md)."""

    STARTING = "starting"  # waits for its turn
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


class JobLinks(Response):
    get: str
    events: str
    cancel: str


class JobResponse(Response):
    """What clients see of a job."""

    id: str = Field(description="the job's id", examples=[_REQUEST_ID], pattern=JOB_ID)
    status: JobStatus = Field(description="starting: it waits for its turn")
    progress: float = Field(ge=0, le=1, description="of the work that is done", examples=[0.42])
    position: Count = Field(description="jobs before it", examples=[0])
    eta_seconds: float | None = Field(description="an estimate, if there is one")
    created_at: _Time
    started_at: _Time | None
    completed_at: _Time | None
    plan: PlanSummary
    result: JobResult | None
    error: JobError | None
    urls: JobLinks
