"""What the service says of itself, as JSON: to load balancers, to people, and to the registry."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from core.config import VERSION, TargetResolution
from schemas.response import Count, Response, Seconds


class ServiceState(StrEnum):
    """What a load balancer should know."""

    STARTING = "starting"
    HEALTHY = "healthy"
    DEGRADED = "degraded"  # serving, but a configured model is missing
    DRAINING = "draining"


class QueueStatus(Response):
    running: Count
    waiting: Count
    capacity: Count
    wait_seconds: Seconds = Field(description="until a request of one second on the device would start", examples=[1.5])
    backlog_seconds: Seconds = Field(description="until all is done", examples=[7.2])


class ServiceStatus(Response):
    """What the registry hears of the service."""

    status: ServiceState = Field(description="degraded: a model is missing")
    queue: QueueStatus
    device: str | None = Field(description="null while the models load", examples=["cpu (8 threads), winograd fp32 (avx512)"])
    version: str = Field(default=VERSION, description="of the service", examples=[VERSION])


class TargetLimits(Response):
    target_px: int
    max_input_px: int


class LoadedModel(Response):
    loaded: Literal[True] = True
    file: str


class MissingModel(Response):
    loaded: Literal[False] = False
    reason: str


class WorkerState(StrEnum):
    IDLE = "idle"
    RUNNING = "running"
    ABSENT = "absent"  # elsewhere, and not there at the moment
    LOST = "lost"  # gets no more tasks


class WorkerStatus(Response):
    """One of what runs networks, one picture at a time."""

    name: str = Field(examples=["cuda:0"])
    state: WorkerState = Field(description="absent: not there at the moment; lost: until the service starts again")
    reason: str | None = Field(description="why it is lost")


class HealthResponse(ServiceStatus):
    """The body of GET /health."""

    reason: str | None = Field(description="why the device was lost, for which the server drains and ends; else null")
    timestamp: float = Field(description="seconds since the epoch", examples=[1795348800.0])
    max_image_size_mb: int
    supported_resolutions: tuple[TargetResolution, ...]
    limits: dict[TargetResolution, TargetLimits]
    models: dict[str, LoadedModel | MissingModel]
    workers: tuple[WorkerStatus, ...] = Field(description="empty while the models load")
    heartbeat_active: bool
    uptime_seconds: Seconds
