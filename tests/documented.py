"""A client that holds every response it gets against the OpenAPI document: status, media type, headers and body."""

from __future__ import annotations

import copy
import re
from fnmatch import fnmatch
from typing import Any

import httpx
from jsonschema import Draft202012Validator

from api.openapi import build_document
from api.responses import RESULT_HEADERS

DOCUMENT = build_document()
PAGES = re.compile("/|/docs|/(web|docs)/[^/]+")  # for people, and so in no document for programs


class DocumentedClient(httpx.AsyncClient):
    """Fails a test at the first response that is not as documented."""

    async def send(self, request: httpx.Request, *, stream: bool = False, **options: Any) -> httpx.Response:
        response = await super().send(request, stream=stream, **options)
        check_response(response, body=None if stream else response.content)
        return response


def check_response(response: httpx.Response, body: bytes | None) -> None:
    """Hold one response against the document; `body` is None where it has not been read."""
    request = response.request
    if request.method == "OPTIONS":
        assert "allow" in response.headers or response.status_code in (204, 401)  # a preflight, or one without a key
        return
    where = f"{request.method} {request.url.path} → {response.status_code}"
    operation = find_operation("get" if request.method == "HEAD" else request.method.lower(), request.url.path)
    if operation is None and PAGES.fullmatch(request.url.path) and response.status_code in (200, 304):
        return
    if operation is None:
        assert response.status_code in (401, 404, 405), f"{where}: the document does not have this operation"
        documented: dict[str, Any] = {
            "description": "`unauthorized`, `not_found`, `method_not_allowed`",
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}},
        }
    else:
        assert str(response.status_code) in operation["responses"], f"{where}: the document does not have this status"
        documented = operation["responses"][str(response.status_code)]
    _check_headers(response, documented, where)
    if body is not None and request.method != "HEAD":
        _check_body(response, body, documented, where)


def find_operation(method: str, path: str) -> dict[str, Any] | None:
    """The operation that serves this path; None where there is none."""
    for template, operations in DOCUMENT["paths"].items():
        if method in operations and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path):
            found: dict[str, Any] = operations[method]
            return found
    return None


def _check_headers(response: httpx.Response, documented: dict[str, Any], where: str) -> None:
    for name, header in documented.get("headers", {}).items():
        header = DOCUMENT["components"]["headers"][header["$ref"].rpartition("/")[2]] if "$ref" in header else header
        if not header.get("required"):
            continue
        assert name in response.headers, f"{where}: {name} is missing"
        if header["schema"]["type"] == "integer":
            assert int(response.headers[name]) >= header["schema"]["minimum"]
    is_raw_result = response.request.url.path == "/upscale" and response.headers["content-type"].startswith("image/")
    missing = [name for name in RESULT_HEADERS if is_raw_result and f"x-upscale-{name}" not in response.headers]
    assert not missing, f"{where}: {missing}"


def _check_body(response: httpx.Response, body: bytes, documented: dict[str, Any], where: str) -> None:
    if not (content := documented.get("content")):
        assert body == b"", where
        return
    media_type = response.headers["content-type"].partition(";")[0]
    matching = [entry for pattern, entry in content.items() if fnmatch(media_type, pattern)]
    assert matching, f"{where}: {media_type} is none of {list(content)}"
    if media_type == "application/json":
        if response.is_error and response.request.url.path != "/health":
            assert f"`{response.json()['code']}`" in documented["description"], f"{where}: {response.json()['code']}"
        errors = [*_validator(matching[0]["schema"]).iter_errors(response.json())]
        assert not errors, f"{where}: {errors[0].json_path}: {errors[0].message[:500]}"


def _validator(schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**closed(schema), "components": COMPONENTS})


def closed(schema: Any) -> Any:
    """The same schema where no object may have a property that it does not name, so that none is forgotten."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    parts = {key: copy.deepcopy(value) if key == "allOf" else closed(value) for key, value in schema.items()}
    return {"additionalProperties": False, **parts} if "properties" in schema and "type" in schema else parts


COMPONENTS = closed(DOCUMENT["components"])
