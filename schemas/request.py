"""A request as it came over the wire, its fields, and what it asks for once it is valid.

The image comes as base64 within JSON, or as it is; the parameters come within JSON or a query string.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import orjson
from pydantic import Field

from core.config import EXTENSIONS, INPUT_FORMATS, OutputFormat, either
from core.errors import MissingField, NotAnObject, RepeatedField, WrongType
from imaging.formats import InputLimits, OpenedImage
from schemas.json_body import LongString, parse_json
from schemas.json_schema import Schema, properties_of
from schemas.params import KINDS, PARAMS, UpscaleParams, shown, usual_format
from schemas.plan import Plan

MAX_NAMED_FIELDS = 20  # of the unknown ones


class UpscaleBody(UpscaleParams):
    """The JSON object that a request may be, for the OpenAPI document; `read_fields` and `parse_params` validate requests."""

    image_b64: str = Field(
        description=f"the image file ({either(INPUT_FORMATS)}) in standard base64, in JSON only; "
        "whitespace and a `data:…;base64,` prefix are accepted",
        # 8×8 gray pixels, as PNG
        examples=["iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAEElEQVR42mNsYIAAJgaKGAAmCACQtTEKkQAAAABJRU5ErkJggg=="],
    )


IMAGE_FIELD = "image_b64"
IMAGE = properties_of(UpscaleBody)[IMAGE_FIELD]
FIELDS = {IMAGE_FIELD: IMAGE, **PARAMS}


@dataclass(frozen=True, eq=False)
class IncomingRequest:
    """A request as it came over the wire.

    The body is a JSON object, or if `is_raw` the image file itself. `query` is the query string, without its question mark.
    `accepted` has the weight, from 0 to 1, of each output format that the client would take as the response's body; it is
    empty where the client wants JSON, which holds any format. `limits` are the service's.
    """

    body: bytes
    is_raw: bool = False
    query: str = ""
    accepted: Mapping[OutputFormat, float] = field(default_factory=dict)
    limits: InputLimits = field(default_factory=InputLimits)


@dataclass(frozen=True, eq=False)
class UpscaleRequest:
    """A valid request. `warnings` are sentences for the response; the image is decoded once, and then closed."""

    image: OpenedImage
    params: UpscaleParams
    accepted: Mapping[OutputFormat, float]  # as in IncomingRequest
    plan: Plan
    sha256: str  # of the image file
    warnings: tuple[str, ...] = ()

    def output_format(self, has_alpha: bool) -> OutputFormat:
        """The format asked for; else of those that the client likes best the usual one, if it is among them."""
        usual = usual_format(has_alpha)
        best = max(EXTENSIONS, key=lambda name: (self.accepted.get(name, 0), name == usual))
        return self.params.output_format or best

    def fingerprint(self, has_alpha: bool) -> str:
        """The SHA-256 of what is asked, the image and every choice, however it was written down; for a job."""
        choices = {**self.params.model_dump(), "output_format": self.output_format(has_alpha)}
        return hashlib.sha256(repr((sorted(choices.items()), self.sha256)).encode()).hexdigest()


def read_fields(incoming: IncomingRequest, params: Mapping[str, Schema] = PARAMS) -> dict[str, Any]:
    """The fields of the query string and, unless it is the image itself, of the body; nothing of them is validated.

    Args:
        incoming: the request.
        params: what it may have beside the image, by name.

    Raises:
        InvalidJSON, TooManyValues, NotAnObject: the body is no JSON object of a bearable size.
        RepeatedField: a field was given twice.
    """
    query = parse_query(incoming.query, params)
    if incoming.is_raw:
        return query
    body = _parse_object(incoming.body)
    for name in (IMAGE_FIELD, *params):
        if name in query and name in body:
            raise RepeatedField(f"{name} is in the query string and in the body.", field=name)
    return query | body


def image_text(given: Mapping[str, Any]) -> str | Iterable[bytes]:
    """The base64 of the image among the fields of a request, a long one in pieces.

    Raises:
        MissingField, WrongType: there is none.
    """
    if IMAGE_FIELD not in given:
        raise MissingField(f"{IMAGE_FIELD} is missing: it must hold {IMAGE['description']}.", field=IMAGE_FIELD)
    text = given[IMAGE_FIELD]
    if isinstance(text, LongString):
        return text.pieces()
    if not isinstance(text, str):
        raise WrongType(f"{IMAGE_FIELD} must be {KINDS['string']}, not {shown(text)}.", field=IMAGE_FIELD)
    return text


def unknown_fields_warning(given: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    """A sentence that names the fields which are ignored; none where there are none."""
    known = list(known)
    unknown = [repr(name[:80]) for name in given if name not in known]
    if not unknown:
        return ()
    named = ", ".join(unknown[:MAX_NAMED_FIELDS]) + (", …" if len(unknown) > MAX_NAMED_FIELDS else "")
    return (f"Ignored unknown fields: {named}. Known fields are {', '.join(known)}.",)


def parse_query(query: str, params: Mapping[str, Schema]) -> dict[str, Any]:
    """The fields of a query string; what is no string among `params` is written as in JSON.

    Raises:
        RepeatedField: one of `params` is there twice.
    """
    given: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name in given and name in params:
            raise RepeatedField(f"{name} is in the query string more than once.", field=name)
        is_text = params.get(name, IMAGE)["type"] == "string"
        given[name] = text if is_text else _parse_literal(text)
    return given


def _parse_literal(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text  # whose field says what it should be


def _parse_object(body: bytes) -> dict[str, Any]:
    parsed = parse_json(body)
    if not isinstance(parsed, dict):
        raise NotAnObject(f'The body must be a JSON object such as {{"image_b64": "…"}}, not {shown(parsed)}.')
    return {
        name: value.shortened() if isinstance(value, LongString) and name != IMAGE_FIELD else value
        for name, value in parsed.items()
    }
