"""What goes out over HTTP: results in pieces, errors as JSON."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator

import orjson
import pybase64
from quart import Quart, Response, g, request
from werkzeug.exceptions import HTTPException

from dispatch import Answer
from errors import ServiceError, Unavailable, defect

logger = logging.getLogger(__name__)

BASE64_CHUNK_BYTES = 48 * 1024  # a multiple of 3, so that the pieces join without padding


def stream_answer(answer: Answer) -> Response:
    """JSON in pieces: 40 MB from one call would hold the event loop, and with it /health, for a quarter of a second."""
    head = orjson.dumps(answer.fields)[:-1] + b',"base64":"'
    tail = b'"}'
    response = Response(_chunks(head, answer.data, tail), content_type="application/json")
    response.content_length = len(head) + 4 * math.ceil(len(answer.data) / 3) + len(tail)
    return response


async def _chunks(head: bytes, data: bytes, tail: bytes) -> AsyncIterator[bytes]:
    yield head
    view = memoryview(data)
    for start in range(0, len(data), BASE64_CHUNK_BYTES):
        yield pybase64.b64encode(view[start : start + BASE64_CHUNK_BYTES])
        await asyncio.sleep(0)  # whoever else waits for the loop comes first
    yield tail


_PLACES = "POST /upscale, GET /jobs/<id>, GET /health and GET /files/<name>"


def add_error_handlers(app: Quart) -> None:
    """Whatever goes wrong is answered with JSON."""

    @app.errorhandler(ServiceError)
    async def service_error(error: ServiceError) -> Response:
        logger.info("%s %d %s: %s", g.request_id, error.status, error.code, error.message)
        response = json_response(error.body(g.request_id), error.status)
        if isinstance(error, Unavailable):
            response.headers["Retry-After"] = str(error.retry_after_seconds)
        return response

    @app.errorhandler(HTTPException)
    async def http_error(error: HTTPException) -> Response:
        status, name = error.code or 500, error.name
        allowed = dict(error.get_headers()).get("Allow")
        message = error.description or name
        if status == 404:
            message = f"There is nothing at {request.path[:80]!r}, only {_PLACES}."
        elif allowed:
            message = f"{request.path[:80]} takes {allowed}, not {request.method[:80]}."
        body = {"success": False, "error": message, "code": name.lower().replace(" ", "_"), "request_id": g.request_id}
        response = json_response(body, status)
        if allowed:
            response.headers["Allow"] = allowed
        return response

    @app.errorhandler(Exception)
    async def internal_error(error: Exception) -> Response:
        logger.error("%s 500 internal_error", g.request_id, exc_info=error)
        return json_response(defect().body(g.request_id), 500)


def json_response(body: dict[str, object], status: int) -> Response:
    return Response(orjson.dumps(body), status=status, content_type="application/json")
