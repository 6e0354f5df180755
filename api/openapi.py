"""The OpenAPI 3.1 document: each operation with its parameters, and every status and code that it may respond with.

Made from the models of bodies, the tree of errors and the list of headers that the service itself uses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api.forms import IMAGE_PART
from api.requests import FORM, JSON
from api.responses import PREVIEW_HEADERS, RESULT_HEADERS
from core import errors
from core.config import (
    EXTENSIONS,
    INPUT_FORMATS,
    VERSION,
    Fit,
    MetadataChoice,
    ModelName,
    OutputFormat,
    TargetResolution,
    either,
)
from core.errors import ServiceError
from schemas.health import HealthResponse
from schemas.json_schema import PlainJsonSchema, Schema, properties_of, with_default_in_words, with_named_choices
from schemas.params import PARAMS, PreviewParams, SizeParams
from schemas.request import IMAGE, IMAGE_FIELD, UpscaleBody
from schemas.response import ErrorResponse, JobResponse, PlanResponse, SizesResponse, UpscaleResponse

Fields = dict[str, Any]


def build_document() -> Fields:
    """The document as JSON will have it."""
    document: Fields = with_named_choices(_document(), _CHOICES, _REF)
    document["components"]["schemas"] |= {name: {"type": "string", "enum": [*values]} for name, values in _CHOICES.items()}
    return document


def _document() -> Fields:
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Upscale",
            "version": VERSION,
            "description": "Makes photographs larger and better, with Real-ESRGAN and GFPGAN.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in ("pictures", "jobs", "service")],
        "paths": _paths(),
        "components": {"schemas": _schemas(), "headers": _HEADERS, "securitySchemes": _KEYS},
        "security": [{}, *({name: []} for name in _KEYS)],
    }


def _schemas() -> dict[str, Schema]:
    """Of every body, and of what is in them, by the names of the models."""
    plans: list[type[BaseModel]] = [PlanResponse, SizesResponse]
    responses = [UpscaleResponse, *plans, JobResponse, HealthResponse, ErrorResponse]
    models = [(UpscaleBody, "validation"), *((response, "serialization") for response in responses)]
    _, document = models_json_schema(models, ref_template=_REF, schema_generator=PlainJsonSchema)  # type: ignore[arg-type]
    schemas: dict[str, Schema] = document["$defs"]
    schemas["UpscaleBody"]["properties"] |= _FIELDS
    form = {"type": "object", "properties": {IMAGE_PART: _FILE, **_FIELDS}, "required": [IMAGE_PART]}
    return {**schemas, "UpscaleForm": form}


_REF = "#/components/schemas/{model}"
_CHOICES = {
    "TargetResolution": get_args(TargetResolution),
    "ModelName": get_args(ModelName),
    "OutputFormat": get_args(OutputFormat),
    "Fit": get_args(Fit),
    "MetadataChoice": get_args(MetadataChoice),
}


def _ref(model: type[BaseModel]) -> Schema:
    return {"$ref": _REF.format(model=model.__name__)}


# Required where the service has API keys.
_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "Authorization: Bearer KEY"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "basic": {"type": "http", "scheme": "basic", "description": "the key as the password, for browsers"},
}
_HEADERS = {
    "RequestId": {"description": "on every line of this request in the log", "schema": {"type": "string"}, "required": True},
    "ProcessTime": {"description": "seconds since its headers came", "schema": {"type": "number"}, "required": True},
    "RetryAfter": {"description": "seconds", "schema": {"type": "integer", "minimum": 1}, "required": True},
}


def _leaves(kind: type[ServiceError]) -> list[type[ServiceError]]:
    children = kind.__subclasses__()
    return [leaf for child in children for leaf in _leaves(child)] if children else [kind]


_OVERLOADED = [error for error in _leaves(errors.Unavailable) if error is not errors.Interrupted]
_BODIES = [errors.ForeignOrigin, errors.BodyTimeout, errors.BodyTooLarge]
_TO_UPSCALE = [*_leaves(errors.BadRequest), errors.NotAcceptable, *_BODIES, *_OVERLOADED, errors.DeadlineExceeded]


def _paths() -> Fields:
    return {
        "/upscale": {"post": _upscale()},
        "/plan": {"get": _sizes(), "post": _plan()},
        "/preview": {"post": _preview()},
        "/jobs/{id}": {"parameters": [_JOB_ID], "put": _put_job(), "get": _get_job()},
        "/jobs/{id}/cancel": {"parameters": [_JOB_ID], "post": _cancel_job()},
        "/jobs/{id}/events": {"parameters": [_JOB_ID], "get": _follow_job()},
        "/files/{name}": {"get": _get_file()},
        "/health": {"get": _get_health()},
        "/livez": {"get": _get_livez()},
        "/metrics": {"get": _plain("getMetrics", "Metrics for Prometheus", "text/plain", {"type": "string"})},
        "/openapi.json": {"get": _plain("getOpenapi", "This document", JSON, {"type": "object"})},
    }


def _operation(name: str, tag: str, summary: str, description: str, responses: Fields, **more: Any) -> Fields:
    return {"operationId": name, "tags": [tag], "summary": summary, "description": description, **more, "responses": responses}


def _plain(name: str, summary: str, media_type: str, schema: Schema) -> Fields:
    ok = _response(f"{summary}.", {media_type: {"schema": schema}})
    return _operation(name, "service", summary, f"{summary}.", {"200": ok, **_failures(())})


def _plan() -> Fields:
    return _operation(
        "plan",
        "pictures",
        "See what a request would give",
        "Takes what `POST /upscale` takes, and responds with the plan, or with the error that the request itself would get.",
        {"200": _response("The plan.", {JSON: {"schema": _ref(PlanResponse)}}), **_failures(_TO_UPSCALE)},
        parameters=[*_QUERY, _TIMEOUT],
        requestBody=_BODY,
    )


def _sizes() -> Fields:
    failures = [errors.MissingField, errors.WrongType, errors.OutOfRange, errors.RepeatedField, errors.TooManyPixels]
    return _operation(
        "listSizes",
        "pictures",
        "See what a picture of some size could become",
        "Each target, as far as passes go and exactly, then 2× and 4×: the result's size, and the seconds of each model.",
        {
            "200": _response("The sizes.", {JSON: {"schema": _ref(SizesResponse)}}),
            **_failures([*failures, errors.ModelsLoading, errors.ShuttingDown, errors.DeviceLost]),
        },
        parameters=_query_of(SizeParams),
    )


def _preview() -> Fields:
    text = {"schema": {"type": "string"}, "required": True}
    headers = {f"X-Upscale-{name}": {"description": f"`{RESULT_HEADERS[name]}`", **text} for name in PREVIEW_HEADERS}
    ok = _response("The small copy.", _images("jpeg", "png"), headers)
    ending = [errors.ShuttingDown, errors.DeviceLost]
    failures = [*_leaves(errors.BadRequest), *_BODIES, errors.QueueFull, errors.OutOfMemory, *ending]
    return _operation(
        "preview",
        "pictures",
        "See a picture",
        "A small copy of the image, for browsers that cannot show its format: JPEG, or PNG if it has transparency.",
        {"200": ok, **_failures([*failures, errors.DeadlineExceeded])},
        parameters=[*_query_of(PreviewParams), _TIMEOUT],
        requestBody=_BODY,
    )


def _query_of(kind: type[BaseModel]) -> list[Fields]:
    required = kind.model_json_schema().get("required", [])
    return [{**parameter, "required": parameter["name"] in required} for parameter in _query(properties_of(kind))]


def _query(schemas: Mapping[str, Schema]) -> list[Fields]:
    return [{"name": name, "in": "query", "schema": with_default_in_words(schema)} for name, schema in schemas.items()]


def _upscale() -> Fields:
    return _operation(
        "upscale",
        "pictures",
        "Make a picture larger",
        "The picture comes as base64 within JSON, as a part of a form, or as it is; the other fields within JSON, the form or "
        "the query string. The result goes out in JSON, or as it is if `Accept` likes an image better. With "
        "`Prefer: respond-async` a job is started.",
        {"200": _result(), "202": _accepted(), **_failures(_TO_UPSCALE)},
        parameters=[*_QUERY, _PREFER, _TIMEOUT],
        requestBody=_BODY,
    )


def _put_job() -> Fields:
    return _operation(
        "putJob",
        "jobs",
        "Start a job under an id of your own",
        "The body is that of `POST /upscale`. It may be sent again: the same request is the same job. Without "
        "`Prefer: respond-async` the response comes when the job is done, or with 504 when its time is over.",
        {"200": _job("The job is done."), "202": _accepted(), **_failures([*_TO_UPSCALE, errors.JobConflict])},
        parameters=[*_QUERY, _PREFER, _TIMEOUT],
        requestBody=_BODY,
    )


def _get_job() -> Fields:
    responses = {"200": _job("What is known of it now."), **_failures([errors.JobNotFound])}
    return _operation("getJob", "jobs", "Look at a job", "Its state, its progress, and its result when it is done.", responses)


def _cancel_job() -> Fields:
    done = _job("The job, which ends at its next step, if it was not done.")
    failures: list[type[ServiceError]] = [errors.JobNotFound, errors.JobConflict, errors.ShuttingDown]
    failures += [errors.OutOfRange, errors.DeadlineExceeded]
    responses, about = {"200": done, **_failures(failures)}, "A job that is done stays as it is."
    return _operation("cancelJob", "jobs", "Cancel a job", about, responses, parameters=[_TIMEOUT])


def _follow_job() -> Fields:
    events = _response(
        "Events of the kind `event: <status>`, each with the job object as `data`.",
        {"text/event-stream": {}},
    )
    gone = _response("The last event was received before.")
    responses = {"200": events, "204": gone, **_failures([errors.JobNotFound])}
    description = "Server-sent events, at every change of state and a few times a second, until the job is done."
    return _operation("followJob", "jobs", "Follow a job", description, responses)


def _get_file() -> Fields:
    name = _path_parameter("name", "the last part of `file_path`", "5b1c0e7d9f2a4c6e8b0d1f3a5c7e9b2d.jpg")
    responses = {
        "200": _response("The file.", _images(*EXTENSIONS)),
        "304": _response("It is still the same."),
        **_failures([errors.FileNotFound]),
    }
    description = "Results are removed after a while."
    return _operation("getFile", "pictures", "Fetch a result", description, responses, parameters=[name])


def _get_health() -> Fields:
    content = {JSON: {"schema": _ref(HealthResponse)}}
    responses = {
        "200": _response("Requests are accepted.", content),
        "503": _response("The models load, or the server drains.", content),
    }
    description = "Answers at once, whatever else runs, and asks for no key."
    return _operation("getHealth", "service", "How the service is", description, responses, security=[])


def _get_livez() -> Fields:
    schema = {"type": "object", "properties": {"alive": {"type": "boolean"}}, "required": ["alive"]}
    responses = {"200": _response("The process answers.", {JSON: {"schema": schema}})}
    description = "200 as long as the process answers, whatever it can serve; asks for no key."
    return _operation("getLivez", "service", "Whether the process lives", description, responses, security=[])


def _path_parameter(name: str, description: str, example: str) -> Fields:
    schema = {"type": "string"}
    return {"name": name, "in": "path", "required": True, "description": description, "schema": schema, "example": example}


_JOB_ID = _path_parameter("id", "the job's id", "0d9f2c5a7be84c0f9a6b1e3d5c7f8a90")

_FIELDS = {name: with_default_in_words(schema) for name, schema in PARAMS.items()}
_QUERY = _query(PARAMS)
_PREFER = {
    "name": "Prefer",
    "in": "header",
    "description": "`respond-async`: do not wait, start a job",
    "schema": {"type": "string"},
}
_TIMEOUT = {
    "name": "X-Request-Timeout",
    "in": "header",
    "description": "seconds that the response may take; less than the service allows, if given",
    "schema": {"type": "number", "exclusiveMinimum": 0},
}
# Not image/*, of which few generators of clients know anything; without type and format they make nothing of a file.
_BINARY: Schema = {"type": "string", "format": "binary"}
_FILE: Schema = {**_BINARY, "description": f"the image file: {either(INPUT_FORMATS)}"}
_EXAMPLE = {IMAGE_FIELD: IMAGE["examples"][0], "target_resolution": "2k"}
_BODY = {
    "required": True,
    "description": "JSON, a form, or the image file itself, which may also be sent as `image/…`.",
    "content": {
        JSON: {"schema": _ref(UpscaleBody), "example": _EXAMPLE},
        FORM: {"schema": {"$ref": _REF.format(model="UpscaleForm")}},
        "application/octet-stream": {"schema": _FILE},
    },
}


def _images(*formats: str) -> Fields:
    """An image as a body; the last, for the same reason, stands for any of the others."""
    return {kind: {"schema": _BINARY} for kind in (*(f"image/{name}" for name in formats), "application/octet-stream")}


def _response(description: str, content: Fields | None = None, headers: Fields | None = None) -> Fields:
    common = {"X-Request-ID": "RequestId", "X-Process-Time": "ProcessTime"}
    named = {name: {"$ref": f"#/components/headers/{header}"} for name, header in common.items()} | (headers or {})
    return {"description": description, "headers": named, **({"content": content} if content else {})}


def _result() -> Fields:
    """Both kinds of result in one response: the headers are those of an image."""
    headers: Fields = {
        f"X-Upscale-{header}": {"description": f"`{field}`, if the body is the image itself", "schema": {"type": "string"}}
        for header, field in RESULT_HEADERS.items()
    }
    headers["ETag"] = {"description": "of the result, if the server keeps it", "schema": {"type": "string"}}
    return _response("The result.", {JSON: {"schema": _ref(UpscaleResponse)}, **_images(*EXTENSIONS)}, headers)


def _job(description: str, headers: Fields | None = None) -> Fields:
    return _response(description, {JSON: {"schema": _ref(JobResponse)}}, headers)


def _accepted() -> Fields:
    text = {"schema": {"type": "string"}, "required": True}
    return _job("A job has been started.", {"Location": text, "Preference-Applied": text})


def _failures(kinds: Iterable[type[ServiceError]]) -> Fields:
    """A response for each status that these errors have, and for internal errors, with the codes that come with it."""
    codes: dict[int, list[str]] = {}
    every: list[type[ServiceError]] = [*kinds, errors.Unauthorized, ServiceError]
    for error in every:
        codes.setdefault(error.status, []).append(error.code)
    return {str(status): _failure(status, codes[status]) for status in sorted(codes)}


def _failure(status: int, codes: list[str]) -> Fields:
    headers = {"Retry-After": {"$ref": "#/components/headers/RetryAfter"}} if status == 503 else None
    return _response(", ".join(f"`{code}`" for code in codes), {JSON: {"schema": _ref(ErrorResponse)}}, headers)
