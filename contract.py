"""What a client may ask, and what is wrong with what it asked: the fields of POST /upscale, from JSON bytes to an order.

Reads the image's header, never its pixels. Knows nothing of HTTP or networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from config import EXTENSIONS, TARGET_PX
from errors import InvalidJSON, MissingField, NotAnObject, OutOfRange, TooManyValues, WrongType
from images import ImageHeader, read_header
from utility import decode_base64

FITS = ("passes", "exact")
DEFAULT_QUALITY = 95
MAX_NAMED_FIELDS = 20  # of those that nobody knows
# orjson holds the interpreter's lock: a million fields made /health wait for half a second, these for a hundredth of one.
# Base64 has no comma, so commas tell how many values there can be.
MAX_COMMAS = 20_000
_FIELDS = ("image_b64", "target_resolution", "enhance_faces", "output_format", "quality", "fit")
_KINDS = {
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "an array",
    dict: "an object",
}


@dataclass(frozen=True, eq=False)
class Order:
    """A valid request. `warnings` are sentences for the response."""

    image: bytes
    header: ImageHeader
    target: str
    enhance_faces: bool
    output_format: str
    quality: int
    fit: str
    warnings: tuple[str, ...] = ()


def parse_order(body: bytes) -> Order:
    """Validate a request body, down to the image's header.

    Raises:
        BadRequest: which field, what was wrong with it, and what would be right.
    """
    fields = _parse_object(body)
    image = decode_base64(_text(fields, "image_b64"))
    header = read_header(image)
    return Order(
        image=image,
        header=header,
        target=_choice(fields, "target_resolution", TARGET_PX, default="4k", any_case=True),
        enhance_faces=_boolean(fields, "enhance_faces", default=True),
        output_format=_choice(fields, "output_format", EXTENSIONS, default="png" if header.has_alpha else "jpeg"),
        quality=_quality(fields),
        fit=_choice(fields, "fit", FITS, default="passes"),
        warnings=_unknown_fields(fields),
    )


def _unknown_fields(fields: Mapping[str, Any]) -> tuple[str, ...]:
    unknown = [repr(name[:80]) for name in fields if name not in _FIELDS]
    if not unknown:
        return ()
    named = ", ".join(unknown[:MAX_NAMED_FIELDS]) + (", …" if len(unknown) > MAX_NAMED_FIELDS else "")
    return (f"Ignored, since nobody here knows it: {named}. Known fields are {', '.join(_FIELDS)}.",)


def _parse_object(body: bytes) -> dict[str, Any]:
    if body.count(b",") > MAX_COMMAS:
        raise TooManyValues(f"The body has more than {MAX_COMMAS:,} commas: send {', '.join(_FIELDS)} and nothing else.")
    try:
        # orjson refuses what json lets through: NaN, bytes that are not UTF-8, nesting without end
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise InvalidJSON(f"The body is not valid JSON: {exc}.") from exc
    if not isinstance(parsed, dict):
        raise NotAnObject(f'The body must be a JSON object such as {{"image_b64": "…"}}, not {_kind(parsed)}.')
    return parsed


def _kind(value: object) -> str:
    return "null" if value is None else _KINDS[type(value)]


def _wrong_type(name: str, value: object, wanted: type) -> WrongType:
    return WrongType(f"{name} must be {_KINDS[wanted]}, not {_kind(value)}.", field=name)


def _text(fields: Mapping[str, Any], name: str) -> str:
    if name not in fields:
        raise MissingField(f"{name} is missing: it must hold the image file in base64.", field=name)
    value = fields[name]
    if not isinstance(value, str):
        raise _wrong_type(name, value, str)
    return value


def _choice(
    fields: Mapping[str, Any], name: str, allowed: Mapping[str, Any] | tuple[str, ...], *, default: str, any_case: bool = False
) -> str:
    value = fields.get(name, default)
    if not isinstance(value, str):
        raise _wrong_type(name, value, str)
    chosen = value.lower() if any_case else value
    if chosen not in allowed:
        raise OutOfRange(f"{name} must be one of {', '.join(allowed)}, not {value[:80]!r}.", field=name, allowed=list(allowed))
    return chosen


def _boolean(fields: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = fields.get(name, default)
    if not isinstance(value, bool):
        raise _wrong_type(name, value, bool)
    return value


def _quality(fields: Mapping[str, Any]) -> int:
    value = fields.get("quality", DEFAULT_QUALITY)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong_type("quality", value, int)
    if not 1 <= value <= 100:
        raise OutOfRange(f"quality must be from 1 to 100, not {value}.", field="quality")
    return value
