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


def under(job: JobResponse, root_path: str) -> JobResponse:
    """The same job where all URLs begin with this path."""
    urls = JobLinks(**{name: root_path + url for name, url in job.urls})
    result = job.result and job.result.model_copy(update={"url": root_path + job.result.url})
    return job.model_copy(update={"urls": urls, "result": result})
