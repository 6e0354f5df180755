"""What may be asked of an upscale beside the image: one field of `UpscaleParams` each, with its limits and its words.

Requests are validated from it, and the OpenAPI document, the tables of the documents and the flags of the command line are
made from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import ErrorDetails, PydanticCustomError

from core.config import (
    MAX_PIXELS,
    MAX_SCALE,
    MAX_URL_CHARACTERS,
    TARGET_PX,
    Fit,
    MetadataChoice,
    ModelName,
    OutputFormat,
    TargetResolution,
)
from core.errors import ConflictingFields, MissingField, OutOfRange, ServiceError, WrongType
from schemas.json_schema import Schema, properties_of

_URL = r"^[Hh][Tt][Tt][Pp][Ss]?://[^\s\x1c-\x1f/?#@]+([/?#][^\s\x1c-\x1f]*)?$"
_Scale = Annotated[float, Field(gt=1, le=MAX_SCALE)]
P = TypeVar("P", bound=BaseModel)
_WebhookURL = Annotated[str, Field(max_length=MAX_URL_CHARACTERS, pattern=_URL)]


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _whole(value: Any) -> Any:
    """To JSON Schema, 95.0 is an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _refuse_null(value: Any) -> Any:
    """A field that is left out has its default; null is a value, and of the wrong type."""
    if value is None:
        raise PydanticCustomError("string_type", "null")
    return value


def _positive_zero(value: float) -> float:
    """0 and -0.0 ask for the same."""
    return value + 0.0


class UpscaleParams(BaseModel):
    """The parameters of one upscale. Unknown fields are ignored here, and named in the response's warnings."""

    model_config = ConfigDict(strict=True, frozen=True, hide_input_in_errors=True)

    target_resolution: Annotated[TargetResolution, BeforeValidator(_lower)] = Field(
        default="4k",
        description="the long side to reach at most: " + ", ".join(map(str, TARGET_PX.values())) + " px; upper or lower case",
        examples=["2k"],
    )
    model: ModelName = Field(
        default="photo",
        description="`photo` for photographs, `anime` for drawings with flat colours and clear lines; `photo_fast` and "
        "`anime_fast` take a small part of the time, and show less detail",
        examples=["anime"],
    )
    denoise: Annotated[float, AfterValidator(_positive_zero)] = Field(
        default=1.0,
        ge=0,
        le=1,
        description="for `photo_fast`: 1 removes noise and grain, 0 keeps most of them",
        examples=[1.0],
    )
    enhance_faces: bool = Field(default=True, description="restore faces where faces are found", examples=[True])
    face_strength: Annotated[float, AfterValidator(_positive_zero)] = Field(
        default=1.0,
        ge=0,
        le=1,
        description="share of the restored face: 0 keeps the enlarged original, 1 uses the restored face alone",
        examples=[0.5],
    )
    output_format: Annotated[OutputFormat | SkipJsonSchema[None], BeforeValidator(_refuse_null)] = Field(
        default=None,
        description="format of the result; default: `jpeg`, or `png` if the input has alpha",
        examples=["webp"],
    )
    quality: Annotated[int, BeforeValidator(_whole)] = Field(
        default=95, ge=1, le=100, description="for JPEG and WebP", examples=[90]
    )
    fit: Fit = Field(
        default="passes",
        description="`exact`: go past the target, then shrink the result to it",
        examples=["exact"],
    )
    scale: Annotated[_Scale | SkipJsonSchema[None], BeforeValidator(_refuse_null)] = Field(
        default=None,
        description="the factor by which both sides grow, in place of `target_resolution` and `fit`",
        examples=[1.5],
    )
    metadata: MetadataChoice = Field(
        default="none",
        description="`keep`: EXIF with its position, XMP and print density go out again",
        examples=["keep"],
    )
    webhook: Annotated[_WebhookURL | SkipJsonSchema[None], BeforeValidator(_refuse_null)] = Field(
        default=None,
        description="an http or https URL, without a password, to which the job object is posted when the job is done",
        examples=["https://example.com/upscaled"],
    )


class SizeParams(BaseModel):
    """What is asked of a picture of which only the size is known."""

    model_config = ConfigDict(strict=True, frozen=True)

    width: int = Field(ge=1, le=MAX_PIXELS, description="of the picture, upright, in pixels", examples=[480])
    height: int = Field(ge=1, le=MAX_PIXELS, description="likewise", examples=[300])
    enhance_faces: bool = Field(default=True, description="whether faces are to be restored", examples=[True])
    alpha: bool = Field(default=False, description="whether the picture has transparency, which takes twice the time")


class PreviewParams(BaseModel):
    """What is asked of a preview, beside the image."""

    model_config = ConfigDict(strict=True, frozen=True)

    max_px: int = Field(default=2048, ge=16, le=4096, description="the longest that its long side may be, in pixels")


PARAMS = properties_of(UpscaleParams)
KINDS = {
    "string": "a string",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "array": "an array",
    "object": "an object",
}


def parse_params(given: Mapping[str, Any]) -> UpscaleParams:
    """Validate what was given, by name.

    Raises:
        WrongType, OutOfRange: as `validated`.
        ConflictingFields: two fields say how large the result shall be.
    """
    params = validated(UpscaleParams, given)
    for name in ("target_resolution", "fit"):
        if "scale" in given and name in given:
            raise ConflictingFields(f"scale and {name} cannot be given together: send one of them.", field="scale")
    return params


def validated(kind: type[P], given: Mapping[str, Any]) -> P:
    """The parameters of that kind among what was given.

    Raises:
        MissingField, WrongType, OutOfRange: the first field that is wrong, and what would be right. Little of its value is
            repeated.
    """
    try:
        return kind.model_validate(given)
    except ValidationError as exc:
        error, schemas = exc.errors(include_url=False)[0], properties_of(kind)
        name = str(error["loc"][0])
        if error["type"] == "missing":
            raise MissingField(f"{name} is missing: it must be {KINDS[schemas[name]['type']]}.", field=name) from None
        raise _as_error(name, schemas[name], given[name], error) from None  # the exception holds all that was given


def _as_error(name: str, schema: Schema, value: Any, error: ErrorDetails) -> ServiceError:
    if error["type"].endswith("_type") or (schema["type"] == "string" and not isinstance(value, str)):
        return WrongType(f"{name} must be {KINDS[schema['type']]}, not {shown(value)}.", field=name)
    if allowed := schema.get("enum"):
        message = f"{name} must be one of {', '.join(allowed)}, not {value[:80]!r}."
        return OutOfRange(message, field=name, allowed=allowed)
    if schema["type"] == "string":
        return OutOfRange(f"{name} must be {schema['description']}, not {value[:40]!r}.", field=name)
    return OutOfRange(f"{name} must be {limits_of(schema)}, not {value}.", field=name)


def limits_of(schema: Mapping[str, Any]) -> str:
    """The range of a number."""
    least, most = schema.get("minimum", schema.get("exclusiveMinimum")), f"{schema['maximum']:.10g}"
    return f"from {least:.10g} to {most}" if "minimum" in schema else f"above {least:.10g} and at most {most}"


def shown(value: object) -> str:
    """A value of JSON, as far as a sentence can show it."""
    if isinstance(value, str):
        return f"the string {value[:40]!r}"
    if isinstance(value, list | dict):
        return KINDS["array" if isinstance(value, list) else "object"]
    return orjson.dumps(value).decode()


def usual_format(has_alpha: bool) -> OutputFormat:
    """How a result is encoded where nobody asks for a format."""
    return "png" if has_alpha else "jpeg"
