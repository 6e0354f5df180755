"""What others see of the service: GET /health, what the registry hears, the gauges of GET /metrics, the log's first steps."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from core.config import TARGET_PX, Settings
from core.metrics import MetricsSnapshot, WorkerGauges
from model_utility import ModelStatus
from schemas.health import (
    HealthResponse,
    LoadedModel,
    MissingModel,
    ServiceState,
    ServiceStatus,
    TargetLimits,
    WorkerState,
    WorkerStatus,
)
from schemas.plan import max_input_px
from serving.admission import Admission
from serving.workers import Place, Workers

_TRY_IT = (
    "curl -sS --fail '{url}upscale?target_resolution=2k'{key} -H 'Content-Type: application/octet-stream' "
    "-H 'Accept: image/*' --data-binary @photo.jpg -o larger.jpg"
)


def first_steps(settings: Settings) -> str:
    """For people, once the service is ready: where its page is, and a request that works wherever they have a picture."""
    url, where = settings.local_url, ""
    if settings.public_url:
        url = f"{settings.public_url.rstrip('/')}/"
    elif os.getpid() == 1:
        where = f" (port {settings.port} of the container: take the one that it is published at)"
    key = " -H 'X-API-Key: KEY'" if settings.api_key or settings.api_key_file else ""
    return f"open {url}{where}, or send a picture of yours: {_TRY_IT.format(url=url, key=key)}"


def service_state(workers: Workers | None, *, stopping: bool) -> ServiceState:
    """`workers` is None while they load."""
    if stopping:
        return ServiceState.DRAINING
    if workers is None:
        return ServiceState.STARTING
    complete = all(status.loaded for status in workers.any().capabilities.status.values())
    in_use = workers.open_count and not any(place.out_of_use for place in workers.places)
    return ServiceState.HEALTHY if complete and in_use else ServiceState.DEGRADED


def devices_text(workers: Workers) -> str:
    """For people: what the workers are, the same ones once."""
    return ", ".join(dict.fromkeys(place.worker.capabilities.device for place in workers.places))


def service_status(state: ServiceState, workers: Workers | None, admission: Admission) -> ServiceStatus:
    """What the registry hears."""
    device = f"{devices_text(workers)}, {workers.any().capabilities.engine}" if workers else None
    return ServiceStatus(status=state, queue=admission.status(), device=device)


def health_response(
    status: ServiceStatus,
    workers: Workers | None,
    *,
    reason: str | None,
    settings: Settings,
    uptime_seconds: float,
) -> HealthResponse:
    """The body of GET /health."""
    return HealthResponse(
        **dict(status),
        reason=reason,
        timestamp=time.time(),
        max_image_size_mb=settings.max_image_mb,
        supported_resolutions=tuple(TARGET_PX),
        limits={target: TargetLimits(target_px=px, max_input_px=max_input_px(target)) for target, px in TARGET_PX.items()},
        models=_models(workers.any().capabilities.status if workers else {}),
        workers=tuple(map(_worker_status, workers.places)) if workers else (),
        heartbeat_active=bool(settings.registry_url),
        uptime_seconds=round(uptime_seconds, 3),
    )


def _models(statuses: Mapping[str, ModelStatus]) -> dict[str, LoadedModel | MissingModel]:
    return {
        name: LoadedModel(file=status.file) if status.file is not None else MissingModel(reason=status.reason)
        for name, status in statuses.items()
    }


def _worker_status(place: Place) -> WorkerStatus:
    if place.out_of_use:
        return WorkerStatus(name=place.worker.name, state=WorkerState.LOST, reason=place.out_of_use)
    state = WorkerState.RUNNING if place.running else WorkerState.IDLE if place.is_open else WorkerState.ABSENT
    return WorkerStatus(name=place.worker.name, state=state, reason=None)


def metrics_snapshot(
    workers: Workers | None, admission: Admission, decode_waiting: int, heartbeat_age_seconds: float | None
) -> MetricsSnapshot:
    """The gauges, as they are now."""
    queue = admission.running, admission.waiting, admission.limit
    if workers is None:
        return MetricsSnapshot(*queue, heartbeat_age_seconds, decode_waiting=decode_waiting)
    gauges = tuple(map(_worker_gauges, workers.places))
    build = devices_text(workers), workers.any().capabilities.precision
    return MetricsSnapshot(*queue, heartbeat_age_seconds, *build, decode_waiting, gauges)


def _worker_gauges(place: Place) -> WorkerGauges:
    worker, is_running = place.worker, bool(place.running)
    return WorkerGauges(worker.name, place.is_open, is_running, place.tasks_done, place.retries, worker.allocated_bytes())
