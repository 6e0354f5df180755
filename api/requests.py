"""What comes in over HTTP: a body of either kind, within its limits, and what the client would take as a response."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Generator
from typing import Any, cast

from quart import Request, request
from quart.wrappers.request import Body
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_list_header

from api.forms import read_form
from api.middleware import IS_CROWDED, OVERLOADED, ROOM
from core.budget import Room
from core.config import EXTENSIONS, MAX_BODY_BYTES, MIB, OutputFormat, Settings
from core.errors import BodyTimeout, BodyTooLarge, InvalidContentType, QueueFull
from imaging.formats import InputLimits
from schemas.json_body import MAX_OTHER_BYTES
from schemas.request import IncomingRequest
from serving.deadline import TIMEOUT_HEADER, Deadline, parse_timeout

JSON = "application/json"
FORM = "multipart/form-data"
RETRY_SECONDS = 5
PIECE_BYTES = 64 * 1024  # of a body: what the server reads at once
_BOUNDARY = re.compile("[!-~]|[!-~][ -~]{0,68}[!-~]")  # RFC 2046, section 5.1.1


class RequestBody(Body):
    """A body in pieces, until it is awaited, which empties it.

    An array that grows to megabytes is moved again and again, and leaves a hole in memory each time. It ends where there is no
    memory for it: an exception in `append` would end the connection, and not the request.
    """

    def __init__(self, expected_content_length: int | None, max_content_length: int | None) -> None:
        super().__init__(expected_content_length, max_content_length)
        self._left_bytes = float("inf") if max_content_length is None else max_content_length
        self._pieces: list[bytearray] = []

    def append(self, data: bytes) -> None:
        if self._must_raise is not None:
            return
        try:
            if not self._pieces or len(self._pieces[-1]) + len(data) > PIECE_BYTES:
                self._pieces.append(bytearray())
            self._pieces[-1] += data
        except MemoryError as exc:
            self._end(exc)
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            self._end(RequestEntityTooLarge())

    def _end(self, reason: Exception) -> None:
        self.clear()
        self._must_raise = reason
        self.set_complete()

    def __await__(self) -> Generator[Any, None, bytes]:
        yield from super().__await__()
        data = b"".join(self._pieces)
        self.clear()
        return data

    def clear(self) -> None:
        self._pieces.clear()


class BodyRequest(Request):
    """A request whose body may be as large as its kind allows; whatever is beyond that is not kept."""

    body_class = RequestBody
    max_body_bytes = MAX_BODY_BYTES
    limits = InputLimits()

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.is_raw = self.mimetype.startswith("image/") or self.mimetype == "application/octet-stream"
        given = self.mimetype_params.get("boundary", "") if self.mimetype == FORM else ""
        self.boundary = given if _BOUNDARY.fullmatch(given) else ""
        self.limit_bytes = self.limits.max_bytes if self.is_raw else self.max_body_bytes
        if self.boundary:
            self.limit_bytes = self.limits.max_bytes + MAX_OTHER_BYTES
        self.body = self.body_class(self.content_length, self.limit_bytes)


def limited_requests(settings: Settings) -> type[BodyRequest]:
    """Those of a service with these settings."""
    limits = InputLimits(settings.max_image_bytes, settings.formats)
    return type("LimitedRequest", (BodyRequest,), {"max_body_bytes": settings.max_body_bytes, "limits": limits})


async def read_request() -> IncomingRequest:
    """The current request's body and what belongs to it; nothing of it is validated but its size and kind.

    Raises:
        InvalidContentType, BodyTooLarge, BodyTimeout: as they say.
        BadRequest: the form is none, or has not one image.
        QueueFull: together with the others under way it would be too large.
    """
    current = cast(BodyRequest, request)
    scope = cast(dict[str, Any], current.scope)
    body, query, boundary = await _read_body(current), current.query_string.decode("utf-8", "replace"), current.boundary
    # A form's image is in memory beside the body that holds it.
    if OVERLOADED in scope or (boundary and not scope[ROOM].grow(len(body))):
        current.body.clear()  # its share of the budget is given to others already
        raise QueueFull("Too many large requests are under way. Try again soon.", retry_after_seconds=RETRY_SECONDS)
    if scope[IS_CROWDED]():
        raise QueueFull("Too many requests wait for their results. Try again later.", retry_after_seconds=RETRY_SECONDS)
    if boundary:
        body, fields = await asyncio.to_thread(read_form, body, boundary)
        query = "&".join(filter(None, (query, fields)))
        scope[ROOM].resize(len(body))
    incoming = IncomingRequest(body, current.is_raw or bool(boundary), query, accepted_formats(), current.limits)
    room: Room = scope.pop(ROOM)
    room.hold_for(incoming)
    return incoming


async def _read_body(current: BodyRequest) -> bytes:
    if not (current.is_raw or current.boundary or current.mimetype == JSON):
        sent = f"{FORM} without a boundary" if current.mimetype == FORM else current.mimetype[:80] or "missing"
        raise InvalidContentType(
            f"Content-Type must be {JSON}, {FORM} with its boundary, or image/* for the image itself, not {sent}."
        )
    if (encoding := current.headers.get("Content-Encoding") or "identity").lower() != "identity":
        raise InvalidContentType(f"Content-Encoding {encoding[:40]!r} is not understood here: send the body as it is.")
    try:
        async with asyncio.timeout(current.body_timeout):
            body: bytes = await current.body
    except RequestEntityTooLarge as exc:
        raise _too_large(current) from exc
    except TimeoutError as exc:
        raise BodyTimeout("The body did not arrive in time: the connection is too slow, or Content-Length too large.") from exc
    return body


def _too_large(current: BodyRequest) -> BodyTooLarge:
    within = "" if current.is_raw else f" The image in it may have up to {current.limits.max_bytes // MIB} MB."
    return BodyTooLarge(f"The body is over {current.limit_bytes // MIB} MB.{within}", limit_bytes=current.limit_bytes)


def accepted_formats() -> dict[OutputFormat, float]:
    """The weight of each output format, where the current client would rather have an image than JSON; else nothing.

    The framework's own reading of Accept takes most of a second where it is 16 KB of spaces.
    """
    weights: dict[str, float] = {}
    header = ",".join(request.headers.getlist("Accept"))
    for item in header.lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        given = next((text.removeprefix("q=") for text in parameters if text.startswith("q=")), "1")
        weight = float(given) if _WEIGHT.fullmatch(given) else 0.0
        weights[name] = max(weight, weights.get(name, 0.0))

    def weight_of(media_type: str) -> float:
        of_kind = media_type.partition("/")[0] + "/*"
        return next((weights[name] for name in (media_type, of_kind, "*/*") if name in weights), 0.0)

    liking_for_images = max((weight for name, weight in weights.items() if name.startswith("image/")), default=0.0)
    if liking_for_images <= weight_of(JSON):
        return {}
    return {name: weight_of(f"image/{name}") for name in EXTENSIONS}


_WEIGHT = re.compile(r"0(\.\d*)?|1(\.0*)?", re.ASCII)


def prefers_async() -> bool:
    """Whether the client has sent `Prefer: respond-async` (RFC 7240), among other preferences perhaps."""
    preferences = parse_list_header(", ".join(request.headers.getlist("Prefer")))
    return any(re.split("[;=]", preference, maxsplit=1)[0].strip().lower() == "respond-async" for preference in preferences)


def request_deadline(longest_seconds: float) -> Deadline:
    """Of the current request, from now on: as long as its client allows, and no longer than the server does.

    Raises:
        OutOfRange: the client's header is no positive number.
    """
    return Deadline.after(parse_timeout(request.headers.get(TIMEOUT_HEADER), longest_seconds))
