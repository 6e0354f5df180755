"""What a client may ask, and what is wrong with what it asked: the fields of POST /upscale, from a body's bytes to an order.

The image comes as base64 within JSON, or as it is; the rest within JSON or a query string. `FIELDS` is the one table of all:
requests are validated and documented from it. Reads the image's header, never its pixels. Knows nothing of HTTP or networks.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import orjson

from core.config import EXTENSIONS, MODELS, TARGET_PX
from core.errors import (
    InvalidJSON,
    MissingField,
    NotAcceptable,
    NotAnObject,
    OutOfRange,
    RepeatedField,
    TooManyValues,
    WrongType,
)
from imaging.decode import ImageHeader, read_header
from utility import decode_base64

MAX_NAMED_FIELDS = 20  # of those that nobody knows
# orjson holds the interpreter's lock: a million fields made /health wait for half a second, these for a hundredth of one.
# Base64 has no comma, so commas tell how many values there can be.
MAX_COMMAS = 20_000
_KINDS = {
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "an array",
    dict: "an object",
}


@dataclass(frozen=True)
class Field:
    """One field of a request.

    A string is one of `choices`, if there are any, `any_case` or as they are written; a number is from `minimum` to `maximum`,
    both included. `default` is None where there is none, or where it depends on the image, as the description says.
    """

    name: str
    kind: type
    description: str
    example: object
    default: object = None
    required: bool = False
    choices: tuple[str, ...] = ()
    any_case: bool = False
    minimum: float = -math.inf
    maximum: float = math.inf
    pattern: str = ""  # a regular expression for a whole string, which `description` puts into words

    def take_from(self, given: Mapping[str, Any]) -> Any:
        """The valid value that was given, a choice as it is written here; the default where none was given.

        Raises:
            MissingField, WrongType, OutOfRange: each names the field, and what would be right.
        """
        if self.name in given:
            return self._validate(given[self.name])
        if self.required:
            raise MissingField(f"{self.name} is missing: it must hold {self.description}.", field=self.name)
        return self.default

    def _validate(self, value: Any) -> Any:
        if type(value) is not self.kind and (self.kind, type(value)) != (float, int):
            raise WrongType(f"{self.name} must be {_KINDS[self.kind]}, not {_shown(value)}.", field=self.name)
        if self.choices:
            return self._choose(value)
        if self.pattern and not re.fullmatch(self.pattern, value):
            raise OutOfRange(f"{self.name} must be {self.description}, not {value[:40]!r}.", field=self.name)
        if self.kind in (int, float) and not self.minimum <= value <= self.maximum:
            raise OutOfRange(f"{self.name} must be from {self.minimum:g} to {self.maximum:g}, not {value}.", field=self.name)
        return value + 0.0 if self.kind is float else value  # 1 and 1.0, 0 and -0.0, are the same order

    def _choose(self, value: str) -> str:
        chosen = value.lower() if self.any_case else value
        if chosen not in self.choices:
            allowed = ", ".join(self.choices)
            message = f"{self.name} must be one of {allowed}, not {value[:80]!r}."
            raise OutOfRange(message, field=self.name, allowed=list(self.choices))
        return chosen


IMAGE = Field(
    "image_b64",
    str,
    "the image file (PNG, JPEG, WebP or BMP) in standard base64; whitespace and a `data:image/…;base64,` prefix are accepted",
    # 8×8 gray pixels, as PNG
    example="iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAEElEQVR42mNsYIAAJgaKGAAmCACQtTEKkQAAAABJRU5ErkJggg==",
    required=True,
)
# What may be asked beside the image: one row here and one attribute of `Order` each.
OPTIONS = (
    Field(
        "target_resolution",
        str,
        "the long side to reach at most: " + ", ".join(map(str, TARGET_PX.values())) + " px",
        example="2k",
        default="4k",
        choices=tuple(TARGET_PX),
        any_case=True,
    ),
    Field(
        "model",
        str,
        "the network: `photo` for photographs, `anime` for drawings, with flat colours and clear lines",
        example="anime",
        default="photo",
        choices=MODELS,
    ),
    Field("enhance_faces", bool, "restore faces where faces are found", example=True, default=True),
    Field(
        "face_strength",
        float,
        "how much of a restored face is blended in: 0 leaves the enlarged original, 1 is the restored face alone",
        example=0.5,
        default=1.0,
        minimum=0,
        maximum=1,
    ),
    Field(
        "output_format",
        str,
        "how the result is encoded; left out: `jpeg`, or `png` where the input has alpha",
        example="webp",
        choices=tuple(EXTENSIONS),
    ),
    Field("quality", int, "JPEG and WebP only", example=90, default=95, minimum=1, maximum=100),
    Field(
        "fit",
        str,
        "`exact`: go past the target and shrink the result to it",
        example="exact",
        default="passes",
        choices=("passes", "exact"),
    ),
    Field(
        "webhook",
        str,
        "an http or https URL, without a password, to which the object of a job is posted when it is done",
        example="https://example.com/upscaled",
        pattern=r"(?=.{0,2000}$)[Hh][Tt][Tt][Pp][Ss]?://[^\s/?#@]+([/?#]\S*)?",
    ),
)
FIELDS = (IMAGE, *OPTIONS)


@dataclass(frozen=True, eq=False)
class Submission:
    """A request as it came over the wire.

    The body is a JSON object, or if `is_raw` the image file itself. `query` is the query string, without its question mark.
    `accepted` has the weight, from 0 to 1, of each output format that the client would take as the answer's body; it is empty
    where the client wants JSON, which holds any format.
    """

    body: bytes
    is_raw: bool = False
    query: str = ""
    accepted: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Order:
    """A valid request: the image, what is asked of it as in `OPTIONS`, and `warnings`, sentences for the response."""

    image: bytes
    header: ImageHeader
    target_resolution: str
    model: str
    enhance_faces: bool
    face_strength: float
    output_format: str
    quality: int
    fit: str
    webhook: str | None = None
    warnings: tuple[str, ...] = ()


def parse_order(submission: Submission) -> Order:
    """Validate a request, down to the image's header.

    Raises:
        BadRequest: which field, what was wrong with it, and what would be right.
        NotAcceptable: the format of the result is none that the client would take.
    """
    given = _parse_query(submission.query)
    if not submission.is_raw:
        given = _join(given, _parse_object(submission.body))
    image = submission.body if submission.is_raw else decode_base64(IMAGE.take_from(given))
    header = read_header(image)
    options = {option.name: option.take_from(given) for option in OPTIONS}
    options["output_format"] = _output_format(options["output_format"], header, submission.accepted)
    warnings = _unknown_fields(given, OPTIONS if submission.is_raw else FIELDS)
    return Order(image, header, **options, warnings=warnings)


def usual_format(header: ImageHeader) -> str:
    """How a result is encoded where nobody asks for a format."""
    return "png" if header.has_alpha else "jpeg"


def _output_format(asked: str | None, header: ImageHeader, accepted: Mapping[str, float]) -> str:
    """The format asked for; else of those that the client likes best the usual one, if it is among them."""
    usual = usual_format(header)
    if not accepted:
        return asked or usual
    chosen = asked or max(EXTENSIONS, key=lambda name: (accepted[name], name == usual))
    if not accepted[chosen]:
        raise NotAcceptable(
            f"The answer would be image/{chosen}, which Accept leaves out. It may name application/json, "
            f"{', '.join(f'image/{name}' for name in EXTENSIONS)} or image/*, in accordance with output_format.",
        )
    return chosen


def _unknown_fields(given: Mapping[str, Any], known: Sequence[Field]) -> tuple[str, ...]:
    names = [field.name for field in known]
    unknown = [repr(name[:80]) for name in given if name not in names]
    if not unknown:
        return ()
    named = ", ".join(unknown[:MAX_NAMED_FIELDS]) + (", …" if len(unknown) > MAX_NAMED_FIELDS else "")
    return (f"Ignored, since nobody here knows it: {named}. Known fields are {', '.join(names)}.",)


def _parse_query(query: str) -> dict[str, Any]:
    """The fields of a query string; what is no string there is written as in JSON."""
    kinds = {option.name: option.kind for option in OPTIONS}
    given: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name in given and name in kinds:
            raise RepeatedField(f"{name} is in the query string more than once.", field=name)
        given[name] = text if kinds.get(name, str) is str else _parse_literal(text)
    return given


def _join(query: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    for field in FIELDS:
        if field.name in query and field.name in body:
            raise RepeatedField(f"{field.name} is in the query string and in the body.", field=field.name)
    return query | body


def _parse_literal(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text  # whose field says what it should be


def _parse_object(body: bytes) -> dict[str, Any]:
    if body.count(b",") > MAX_COMMAS:
        names = ", ".join(field.name for field in FIELDS)
        raise TooManyValues(f"The body has more than {MAX_COMMAS:,} commas: send {names} and nothing else.")
    try:
        # orjson refuses what json lets through: NaN, bytes that are not UTF-8, nesting without end
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise InvalidJSON(f"The body is not valid JSON: {exc}.") from exc
    if not isinstance(parsed, dict):
        raise NotAnObject(f'The body must be a JSON object such as {{"image_b64": "…"}}, not {_shown(parsed)}.')
    return parsed


def _shown(value: object) -> str:
    """A value of JSON, as far as a sentence can show it."""
    if isinstance(value, str):
        return f"the string {value[:40]!r}"
    return _KINDS[type(value)] if isinstance(value, list | dict) else orjson.dumps(value).decode()


def fields_table() -> str:
    """The README's table of fields, in Markdown."""
    rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for field in FIELDS:
        default = "" if field.default is None else f"`{orjson.dumps(field.default).decode()}`"
        rows.append(f"| `{field.name}` | {_type_in_words(field)} | {default} | {field.description} |")
    return "\n".join(rows)


def _type_in_words(field: Field) -> str:
    if field.choices:
        return ", ".join(f'`"{choice}"`' for choice in field.choices) + (", any case" if field.any_case else "")
    limits = f" from {field.minimum:g} to {field.maximum:g}" if field.kind in (int, float) else ""
    return _KINDS[field.kind].removeprefix("a ") + limits + (", required" if field.required else "")
