"""What goes out over HTTP about jobs: job objects, and streams of events; and whether a client prefers a job."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator

import orjson
from quart import Response, request
from werkzeug.http import parse_list_header

from api.responses import json_response
from serving.jobs import JobObject


def prefers_async() -> bool:
    """Whether the client has sent `Prefer: respond-async` (RFC 7240), among other preferences perhaps."""
    preferences = parse_list_header(", ".join(request.headers.getlist("Prefer")))
    return any(re.split("[;=]", preference, maxsplit=1)[0].strip().lower() == "respond-async" for preference in preferences)


def show_job(job: JobObject, status: int = 200) -> Response:
    """The job object as it is now."""
    response = json_response(job, status)
    response.headers["Cache-Control"] = "no-store"
    return response


def accept_job(job: JobObject) -> Response:
    """202, and where the job is to be found."""
    response = show_job(job, 202)
    response.headers["Location"] = job["urls"]["get"]
    response.headers["Preference-Applied"] = "respond-async"
    return response


def stream_events(jobs: AsyncGenerator[JobObject | None]) -> Response:
    """Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html), held back by nobody on the way."""
    response = Response(_events(jobs), content_type="text/event-stream")
    response.headers.update({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
    response.timeout = None
    return response


async def _events(jobs: AsyncGenerator[JobObject | None]) -> AsyncIterator[bytes]:
    async with contextlib.aclosing(jobs):
        async for job in jobs:
            yield _event(job) if job else b":\n\n"  # a comment keeps the line alive


def _event(job: JobObject) -> bytes:
    status = job["status"].encode()
    return b"event: %b\nid: %b\ndata: %b\n\n" % (status, status, orjson.dumps(job))
