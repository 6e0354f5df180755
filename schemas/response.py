"""The bodies that go over the wire, as JSON Schema 2020-12: those of requests from `contract.FIELDS`, those of answers here.

The service builds its answers without these; the tests hold every answer against them.
"""

from __future__ import annotations

import math
from typing import Any

from core.config import EXTENSIONS, MAX_IMAGE_BYTES, MIB, MODELS, TARGET_PX, VERSION
from schemas.request import FIELDS, OPTIONS, Field

Schema = dict[str, Any]

_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number"}
_REQUEST_ID = "0d9f2c5a7be84c0f9a6b1e3d5c7f8a90"
_RESULT_NAME = "5b1c0e7d9f2a4c6e8b0d1f3a5c7e9b2d.jpg"


def field_schema(field: Field) -> Schema:
    """What a value of this field looks like in JSON."""
    any_case = ", in any case" if field.any_case else ""
    schema: Schema = {"type": _TYPES[field.kind], "description": field.description + any_case, "examples": [field.example]}
    if field.default is not None:
        schema["default"] = field.default
    if field.choices:
        schema["enum"] = list(field.choices)
    if field.pattern:
        schema["pattern"] = f"^{field.pattern}$"
    if math.isfinite(field.minimum):
        schema["minimum"] = field.minimum
    if math.isfinite(field.maximum):
        schema["maximum"] = field.maximum
    return schema


def _object(properties: dict[str, Schema], *, optional: tuple[str, ...] = (), **more: Any) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, **more}


def _of(kind: str, description: str, example: object, **more: Any) -> Schema:
    return {"type": kind, "description": description, "examples": [example], **more}


def _nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def ref(name: str) -> Schema:
    """A reference to one of `SCHEMAS`."""
    return {"$ref": f"#/components/schemas/{name}"}


_SIZE = _object(
    {side: {"type": "integer", "minimum": 1} for side in ("width", "height")},
    description="in pixels, after EXIF rotation",
    examples=[{"width": 480, "height": 300}],
)
_PASSES = {"type": "array", "items": {"enum": [2, 4]}, "description": "the passes, in order", "examples": [[4, 2]]}
_WARNINGS = {"type": "array", "items": {"type": "string"}, "description": "whole sentences; empty if there are none"}
_BOX = {
    "type": "array",
    "items": {"type": "integer"},
    "minItems": 4,
    "maxItems": 4,
    "description": "left, top, right, bottom, in pixels of the original",
    "examples": [[171, 62, 260, 183]],
}
_RESULT: dict[str, Schema] = {
    "success": {"const": True},
    "file_path": _of("string", "where the server keeps it; empty, with a warning, if it could not", f"/data/{_RESULT_NAME}"),
    "original_size": ref("Size"),
    "upscaled_size": ref("Size"),
    "target_resolution": {"enum": list(TARGET_PX)},
    "model": {"enum": list(MODELS), "description": "the network"},
    "total_scale": _of("number", "ratio of the long sides", 4.0),
    "upscaling_strategy": _PASSES,
    "faces_detected": _of("integer", "found on the input; 0 if faces were not asked for", 1, minimum=0),
    "faces_enhanced": _of("boolean", "whether any was restored", True),
    "faces": {"type": "array", "items": _object({"box": _BOX}), "description": "where they are"},
    "processing_time": _of("number", "seconds inside the server, waiting included", 1.234, minimum=0),
    "format": {"enum": list(EXTENSIONS)},
    "request_id": _of("string", "as in X-Request-ID", _REQUEST_ID),
    "warnings": _WARNINGS,
}
_BASE64 = _of("string", "the result", FIELDS[0].example, contentEncoding="base64")
_URL = _of("string", "where to fetch it until it is removed", f"/files/{_RESULT_NAME}")
_CACHED = _of("boolean", "whether the same was made before, and cost nothing now", False)
_TIME = _of("string", "ISO 8601, in UTC", "2026-11-22T12:00:00.000Z", format="date-time")

_PLAN: dict[str, Schema] = {
    "original_size": ref("Size"),
    "upscaled_size": ref("Size"),
    "upscaling_strategy": _PASSES,
    "target_resolution": {"enum": list(TARGET_PX)},
}

SCHEMAS: dict[str, Schema] = {
    "UpscaleRequest": _object({field.name: field_schema(field) for field in FIELDS}, optional=tuple(o.name for o in OPTIONS)),
    "Size": _SIZE,
    "UpscaleAnswer": _object({**_RESULT, "cached": _CACHED, "base64": _BASE64}),
    "Error": _object(
        {
            "success": {"const": False},
            "error": _of("string", "a sentence to act on", "quality must be from 1 to 100, not 0."),
            "code": _of("string", "stable, for programs", "out_of_range"),
            "request_id": _of("string", "as in X-Request-ID", _REQUEST_ID),
        },
        additionalProperties=True,
        description="Some errors have further fields, such as the name of the `field` that is wrong.",
    ),
    "Plan": _object(_PLAN),
    "Preview": _object(
        {
            "success": {"const": True},
            **_PLAN,
            "total_scale": _of("number", "ratio of the long sides", 4.0),
            "predicted_seconds": {"type": "number", "minimum": 0, "description": "on this device"},
            "queue_seconds": {"type": "number", "minimum": 0, "description": "of work before it"},
            "memory_bytes": {"type": "integer", "minimum": 0},
            "warnings": _WARNINGS,
        },
    ),
    "JobError": {"allOf": [ref("Error"), _object({"status_code": _of("integer", "the HTTP status that it would have", 503)})]},
    "Job": _object(
        {
            "id": _of("string", "the job's id", _REQUEST_ID, pattern="^[A-Za-z0-9_-]{8,64}$"),
            "status": {
                "enum": ["starting", "processing", "succeeded", "failed", "canceled"],
                "description": "starting: it waits for its turn",
            },
            "progress": _of("number", "of the work that is done", 0.42, minimum=0, maximum=1),
            "position": _of("integer", "jobs before it", 0, minimum=0),
            "eta_seconds": {"type": ["number", "null"], "description": "an estimate, if there is one"},
            "created_at": _TIME,
            "started_at": _nullable(_TIME),
            "completed_at": _nullable(_TIME),
            "plan": ref("Plan"),
            "result": _nullable(
                _object({**_RESULT, "cached": _CACHED, "url": _URL}, optional=("cached",), description="once it has succeeded")
            ),
            "error": _nullable(ref("JobError")),
            "urls": _object({name: {"type": "string"} for name in ("get", "events", "cancel")}),
        }
    ),
    "Health": _object(
        {
            "status": {"enum": ["starting", "healthy", "degraded", "draining"], "description": "degraded: a model is missing"},
            "timestamp": _of("number", "seconds since the epoch", 1795348800.0),
            "max_image_size_mb": {"const": MAX_IMAGE_BYTES // MIB},
            "supported_resolutions": {"const": list(TARGET_PX)},
            "limits": _object(
                {
                    name: _object({"target_px": {"const": px}, "max_input_px": {"type": "integer"}})
                    for name, px in TARGET_PX.items()
                }
            ),
            "models": {
                "type": "object",
                "additionalProperties": _object(
                    {"loaded": {"type": "boolean"}, "file": {"type": "string"}, "reason": {"type": "string"}},
                    optional=("file", "reason"),
                ),
            },
            "device": {"type": ["string", "null"], "examples": ["cpu, bf16"], "description": "null while the models load"},
            "queue": _object(
                {
                    **{name: {"type": "integer", "minimum": 0} for name in ("running", "waiting", "capacity")},
                    "wait_seconds": _of("number", "until a request of one second on the device would start", 1.5, minimum=0),
                    "backlog_seconds": _of("number", "until all is done", 7.2, minimum=0),
                }
            ),
            "heartbeat_active": {"type": "boolean"},
            "version": _of("string", "of the service", VERSION),
            "uptime_seconds": {"type": "number", "minimum": 0},
        }
    ),
}
