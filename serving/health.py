"""What others see of the service: the body of GET /health, what the registry hears, the gauges of GET /metrics."""

from __future__ import annotations

import time
from collections.abc import Mapping

from core.config import TARGET_PX, Settings
from core.metrics import MetricsSnapshot
from model_utility import Models, ModelStatus
from schemas.plan import max_input_px
from schemas.response import HealthResponse, LoadedModel, MissingModel, ServiceState, ServiceStatus, TargetLimits
from serving.admission import Admission


def service_state(models: Models | None, *, stopping: bool) -> ServiceState:
    """`models` is None while they load."""
    if stopping:
        return ServiceState.DRAINING
    if models is None:
        return ServiceState.STARTING
    complete = all(status.loaded for status in models.status.values())
    return ServiceState.HEALTHY if complete else ServiceState.DEGRADED


def service_status(state: ServiceState, models: Models | None, admission: Admission) -> ServiceStatus:
    """What the registry hears."""
    device = f"{models.device}, {models.engine}" if models else None
    return ServiceStatus(status=state, queue=admission.status(), device=device)


def health_response(
    status: ServiceStatus,
    models: Models | None,
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
        models=_models(models.status if models else {}),
        heartbeat_active=bool(settings.registry_url),
        uptime_seconds=round(uptime_seconds, 3),
    )


def _models(statuses: Mapping[str, ModelStatus]) -> dict[str, LoadedModel | MissingModel]:
    return {
        name: LoadedModel(file=status.file) if status.file is not None else MissingModel(reason=status.reason)
        for name, status in statuses.items()
    }


def metrics_snapshot(
    models: Models | None, admission: Admission, decode_waiting: int, heartbeat_age_seconds: float | None
) -> MetricsSnapshot:
    """The gauges, as they are now."""
    queue = admission.running, admission.waiting, admission.limit
    if models is None:
        return MetricsSnapshot(*queue, heartbeat_age_seconds, decode_waiting=decode_waiting)
    device = models.allocated_bytes(), models.device, models.precision
    return MetricsSnapshot(*queue, heartbeat_age_seconds, *device, decode_waiting)
