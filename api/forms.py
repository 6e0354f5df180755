"""multipart/form-data to what a raw request is: the image file, and a query string with the other fields."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlencode

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, MultipartDecoder, NeedData

from core.errors import InvalidContentType, InvalidForm, MissingField, RepeatedField, TooManyValues
from schemas.json_body import SHOWN_CHARACTERS

IMAGE_PART = "image"
MAX_PARTS = 50
MAX_HEAD_BYTES = 16 * 1024  # of one part, and of what is before the first and behind the last
_PIECE_BYTES = MAX_HEAD_BYTES // 2  # read at once, so that nobody waits for the interpreter's lock
_PLAIN = ("binary", "8bit", "7bit")


def read_form(body: bytes, boundary: str) -> tuple[bytes, str]:
    """The image and, as a query string, the other fields; of what is too long for any of them, the beginning.

    Raises:
        InvalidForm: it is not what its Content-Type says, or ends too early.
        InvalidContentType: a part is coded.
        TooManyValues: there are too many parts, or one has too many headers, or there is too much around them.
        MissingField, RepeatedField: there is not one image.
    """
    image: bytes | None = None
    fields: list[tuple[str, bytes]] = []
    try:
        for name, data in _read_parts(body, boundary):
            if name != IMAGE_PART:
                fields.append((name, data))
            elif image is None:
                image = data
            else:
                raise RepeatedField(f"The form has two parts {IMAGE_PART!r}: send one picture a request.", field=IMAGE_PART)
    except RequestEntityTooLarge as exc:
        raise TooManyValues(
            f"The form has more than {MAX_PARTS} parts, "
            f"or over {MAX_HEAD_BYTES // 1024} KB of headers in one, or of text around them."
        ) from exc
    except ValueError as exc:
        raise InvalidForm(
            "The body is no whole multipart/form-data with the boundary that Content-Type names, or a part in it has no name."
        ) from exc
    if image is None:
        others = ", ".join(repr(name[:80]) for name, _ in fields[:5]) or "none"
        raise MissingField(
            f"The form has no part {IMAGE_PART!r}, which must be the image file. Its parts: {others}.", field=IMAGE_PART
        )
    return image, urlencode(fields)


def _read_parts(body: bytes, boundary: str) -> Iterator[tuple[str, bytes]]:
    """The name and the data of each part. What is kept of a part that is no image is bounded."""
    name, room = "", 0
    pieces: list[bytes] = []
    for event in _events(body, boundary):
        if isinstance(event, Field | File):
            name, pieces = _name_of(event), []
            room = len(body) if name == IMAGE_PART else SHOWN_CHARACTERS
        elif isinstance(event, Data):
            pieces.append(event.data[:room])
            room -= len(pieces[-1])
            if not event.more_data:
                yield name, b"".join(pieces)


def _name_of(part: Field | File) -> str:
    encoding = part.headers.get("Content-Transfer-Encoding", "binary")
    if encoding.lower() not in _PLAIN:
        raise InvalidContentType(
            f"Content-Transfer-Encoding {encoding[:40]!r} is not understood here: send the part as it is."
        )
    if not part.name:
        raise ValueError("a part has no name")
    return part.name


def _events(body: bytes, boundary: str) -> Iterator[Event]:
    decoder = MultipartDecoder(boundary.encode(), MAX_HEAD_BYTES, max_parts=MAX_PARTS)
    for start in range(0, len(body), _PIECE_BYTES):
        decoder.receive_data(body[start : start + _PIECE_BYTES])
        while not isinstance(event := decoder.next_event(), NeedData):
            yield event
    decoder.receive_data(None)
    while not isinstance(decoder.next_event(), Epilogue):
        pass
