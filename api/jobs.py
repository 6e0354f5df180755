"""The routes of jobs, their responses and their events."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

from quart import Quart, Response, g, request

from api.requests import prefers_async, read_request, request_deadline
from api.responses import json_response
from schemas.response import JobResponse
from serving.jobs import Jobs
from serving.jobs.responses import under


def add_job_routes(app: Quart, jobs: Jobs, longest_seconds: float) -> None:
    """`/jobs/<id>` and what is below it. No request takes longer than `longest_seconds`."""

    @app.put("/jobs/<job_id>")
    async def put_job(job_id: str) -> Response:
        deadline = request_deadline(longest_seconds)
        async with deadline.enforced():
            job = await jobs.put(job_id, await read_request(), g.request_id, deadline)
        if prefers_async() and not job.completed_at:
            return accept_job(job)
        async with deadline.enforced():  # a job that another request has started goes on
            return show_job(await jobs.wait(job_id))

    @app.get("/jobs/<job_id>")
    async def get_job(job_id: str) -> Response:
        return show_job(await jobs.get(job_id))

    @app.post("/jobs/<job_id>/cancel")
    async def cancel_job(job_id: str) -> Response:
        async with request_deadline(longest_seconds).enforced():  # another instance may be frozen
            return show_job(await jobs.cancel(job_id))

    @app.get("/jobs/<job_id>/events")
    async def follow_job(job_id: str) -> Response:
        job = await jobs.get(job_id)
        if job.completed_at and request.headers.get("Last-Event-ID") == job.status:
            return Response(b"", status=204)  # a browser that comes back after the end, until it is told not to
        return stream_events(jobs.events(job_id) if request.method == "GET" else None, request.root_path)


def show_job(job: JobResponse, status: int = 200) -> Response:
    """The job object as it is now, with URLs for the current client."""
    response = json_response(under(job, request.root_path), status)
    response.headers["Cache-Control"] = "no-store"
    return response


def accept_job(job: JobResponse) -> Response:
    """202, and where the job is to be found."""
    response = show_job(job, 202)
    response.headers["Location"] = request.root_path + job.urls.get
    response.headers["Preference-Applied"] = "respond-async"
    return response


def stream_events(jobs: AsyncGenerator[JobResponse | None] | None, root_path: str) -> Response:
    """Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html), held back by nobody on the way.

    Without `jobs`, the head alone.
    """
    response = Response(_events(jobs, root_path) if jobs else None, content_type="text/event-stream")
    response.headers.update({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
    response.timeout = None
    return response


async def _events(jobs: AsyncGenerator[JobResponse | None], root_path: str) -> AsyncIterator[bytes]:
    async with contextlib.aclosing(jobs):
        async for job in jobs:
            yield _event(under(job, root_path)) if job else b":\n\n"  # a comment keeps the line alive


def _event(job: JobResponse) -> bytes:
    return f"event: {job.status}\nid: {job.status}\ndata: {job.model_dump_json()}\n\n".encode()
