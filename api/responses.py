"""What goes out over HTTP: results in pieces, everything else as JSON."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import AsyncIterator
from typing import BinaryIO
from urllib.parse import quote

import pybase64
from pydantic import BaseModel
from quart import Quart, Response, g, request
from quart.wrappers.response import FileBody
from werkzeug.exceptions import HTTPException

from core.config import EXTENSIONS
from core.errors import OutOfMemory, ResultExpired, ServiceError, Unavailable, internal_error
from core.logs import current_request
from schemas.response import ErrorResponse, ImageSize, Preview, UpscaleResult
from utility import open_regular

logger = logging.getLogger(__name__)

CHUNK_BYTES = 192 * 1024  # a multiple of 3, so that pieces in base64 join without padding
MAX_HEADER_ITEMS = 6  # of a list, in a header: proxies give up on a response with some 4 KB of headers
MAX_HEADER_ITEM_CHARACTERS = 300
RESULT_HEADERS = {  # X-Upscale-<name>: the field of a result, where the body is the image itself
    "Original-Size": "original_size",
    "Size": "upscaled_size",
    "Target-Resolution": "target_resolution",
    "Model": "model",
    "Passes": "upscaling_strategy",
    "Total-Scale": "total_scale",
    "Faces-Detected": "faces_detected",
    "Faces-Enhanced": "faces_enhanced",
    "File-Path": "file_path",
    "Cached": "cached",
    "Processing-Time": "processing_time",
    "Warnings": "warnings",
}
PREVIEW_HEADERS = ("Original-Size", "Warnings")


class LocalFile(FileBody):
    """A file, or a range of it, in pieces worth a thread's while.

    It is opened and closed without a thread: the framework waits for one to close it, and where the client is gone meanwhile,
    that wait is cancelled, and the file stays open.
    """

    buffer_size = CHUNK_BYTES
    _file: BinaryIO

    async def __aenter__(self) -> LocalFile:
        self._file = open_regular(self.file_path)
        self._file.seek(self.begin)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._file.close()

    async def __anext__(self) -> bytes:
        size_bytes = min(self.buffer_size, self.end - self._file.tell())
        if data := await asyncio.to_thread(self._file.read, size_bytes):
            return data
        raise StopAsyncIteration


class FileResponse(Response):
    """What the framework's `send_file` builds here."""

    file_body_class = LocalFile


def result_json(result: UpscaleResult) -> Response:
    """JSON in pieces: 40 MB from one call would hold the event loop, and with it /health, for a quarter of a second."""
    head = result.summary().model_dump_json().encode()[:-1] + b',"base64":"'
    tail = b'"}'
    body = _body_of(result)

    async def chunks() -> AsyncIterator[bytes]:
        yield head
        async for chunk in _in_chunks(body):
            yield pybase64.b64encode(chunk)
        yield tail

    response = Response(chunks(), content_type="application/json")
    response.content_length = len(head) + 4 * math.ceil(_size_bytes(body) / 3) + len(tail)
    return response


def result_image(result: UpscaleResult) -> Response:
    """The encoded file itself; what JSON says beside it is in headers, texts percent-encoded."""
    summary, image_format = result.summary(), result.metadata.format
    headers = {f"X-Upscale-{name}": _header_text(getattr(summary, field)) for name, field in RESULT_HEADERS.items()}
    file_name = f"upscaled-{summary.upscaled_size}.{EXTENSIONS[image_format]}"
    headers["Content-Disposition"] = f'inline; filename="{file_name}"'
    body = _body_of(result)
    response = Response(_in_chunks(body), headers=headers, content_type=f"image/{image_format}")
    response.content_length = _size_bytes(body)
    return response


def preview_image(preview: Preview) -> Response:
    """A small copy of a picture; in headers, how large the picture is, and warnings."""
    headers = {f"X-Upscale-{name}": _header_text(getattr(preview, RESULT_HEADERS[name])) for name in PREVIEW_HEADERS}
    return Response(preview.data, headers=headers, content_type=f"image/{preview.format}")


def _body_of(result: UpscaleResult) -> LocalFile | memoryview:
    """The file's bytes, read as the client takes them, so that slow readers hold nothing in memory.

    Raises:
        ResultExpired: the file was removed just now.
    """
    if result.unsaved is not None:
        return result.unsaved
    try:
        return LocalFile(result.file_path)
    except FileNotFoundError as exc:
        raise ResultExpired("The result was removed after its time. Send the request again.") from exc


def _size_bytes(body: LocalFile | memoryview) -> int:
    return body.size if isinstance(body, LocalFile) else len(body)


async def _in_chunks(body: LocalFile | memoryview) -> AsyncIterator[bytes]:
    if isinstance(body, LocalFile):
        async with body as file:
            async for chunk in file:
                yield chunk
        return
    for start in range(0, len(body), CHUNK_BYTES):
        yield bytes(body[start : start + CHUNK_BYTES])
        await asyncio.sleep(0)  # whoever else waits for the loop comes first


def _header_text(value: object) -> str:
    """In ASCII: null as nothing, a size as 480x300, a list with commas (the beginning of a long one), a text as in a URL."""
    if isinstance(value, tuple):
        kept = value if len(value) <= MAX_HEADER_ITEMS else (*value[: MAX_HEADER_ITEMS - 1], "…")
        return ", ".join(_header_text(item[:MAX_HEADER_ITEM_CHARACTERS] if isinstance(item, str) else item) for item in kept)
    if isinstance(value, str | ImageSize):
        return quote(str(value), safe=" /:;.()'=")
    return "" if value is None else json.dumps(value)


_PLACES = (
    "GET / (a page for people), GET /docs (all of this), POST /upscale, GET and POST /plan, POST /preview, GET /jobs/<id>, "
    "GET /files/<name> and GET /health"
)


def add_error_handlers(app: Quart) -> None:
    """Whatever goes wrong is answered with JSON."""

    @app.errorhandler(ServiceError)
    async def service_error(error: ServiceError) -> Response:
        response = _error_response(ErrorResponse.of(error, g.request_id), error.status)
        if isinstance(error, Unavailable):
            response.headers["Retry-After"] = str(error.retry_after_seconds)
        return response

    @app.errorhandler(MemoryError)
    async def out_of_memory(error: MemoryError) -> Response:
        logger.error("out of memory: %s", error)
        return await service_error(OutOfMemory())

    @app.errorhandler(HTTPException)
    async def http_error(error: HTTPException) -> Response:
        status, name = error.code or 500, error.name
        allowed = dict(error.get_headers()).get("Allow")
        message = error.description or name
        if status == 404:
            message = f"There is nothing at {request.path[:80]!r}, only {_PLACES}."
        elif allowed:
            message = f"{request.path[:80]} takes {allowed}, not {request.method[:80]}."
        code = name.lower().replace(" ", "_")
        response = _error_response(ErrorResponse(error=message, code=code, request_id=g.request_id), status)
        if allowed:
            response.headers["Allow"] = allowed
        return response

    @app.errorhandler(Exception)
    async def unexpected_error(error: Exception) -> Response:
        logger.error("internal error", exc_info=error)
        return _error_response(ErrorResponse.of(internal_error(), g.request_id), 500)


def _error_response(body: ErrorResponse, status: int) -> Response:
    """The log has the code and the field, and not the sentence, which quotes what the client sent."""
    notes = current_request()
    notes.code = body.code
    if field := (body.model_extra or {}).get("field"):
        notes.values["field"] = field
    return json_response(body, status)


def json_response(body: BaseModel, status: int = 200) -> Response:
    """Any other body."""
    return Response(body.model_dump_json(), status=status, content_type="application/json")
