"""Records of jobs as clients see them."""

from __future__ import annotations

from core.logs import timestamp
from schemas.response import JobLinks, JobResponse
from storage.job_store import JobRecord


def to_response(record: JobRecord) -> JobResponse:
    """The job object."""
    url = f"/jobs/{record.id}"
    return JobResponse(
        id=record.id,
        status=record.status,
        progress=record.progress,
        position=record.position,
        eta_seconds=record.eta_seconds,
        created_at=timestamp(record.created_at),
        started_at=None if record.started_at is None else timestamp(record.started_at),
        completed_at=None if record.completed_at is None else timestamp(record.completed_at),
        plan=record.plan,
        result=record.result,
        error=record.error,
        urls=JobLinks(get=url, events=f"{url}/events", cancel=f"{url}/cancel"),
    )
