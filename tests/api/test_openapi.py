"""The OpenAPI document and its page; that the responses of all tests are as documented is seen to in `documented.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from app import create_app
from core.config import Settings
from schemas.request import FIELDS
from tests.documented import DOCUMENT, PAGES, check_response
from tests.helpers import assert_error, b64, encode, sample_crop

HEADERS = {"x-request-id": "1", "x-process-time": "0.1"}


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            if method != "parameters":
                yield path, method, operation


async def test_the_document_is_served_and_is_openapi_3_1(client: httpx.AsyncClient) -> None:
    response = await client.get("/openapi.json")
    assert response.json() == DOCUMENT
    OpenAPIV31SpecValidator(response.json()).validate()


def test_every_route_but_those_of_pages_is_documented(settings: Settings) -> None:
    rules = create_app(settings).url_map.iter_rules()
    routes = {
        (rule.rule.replace("<name>", "{name}").replace("<job_id>", "{id}"), method.lower())
        for rule in rules
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert {route for route in routes if not PAGES.fullmatch(route[0])} == {(path, method) for path, method, _ in operations()}


def test_every_operation_has_a_name_of_its_own_and_words() -> None:
    found = [operation for _, _, operation in operations()]
    assert len({operation["operationId"] for operation in found}) == len(found)
    assert all(operation["summary"] and operation["description"] for operation in found)


def test_every_field_is_in_the_request_and_but_the_image_in_the_query() -> None:
    properties = DOCUMENT["components"]["schemas"]["UpscaleBody"]["properties"]
    query = [item["name"] for item in DOCUMENT["paths"]["/upscale"]["post"]["parameters"] if item["in"] == "query"]
    assert {*properties} == {"image_b64", *query} == {*FIELDS}
    assert {*DOCUMENT["components"]["schemas"]["UpscaleForm"]["properties"]} == {"image", *query}
    assert properties["quality"] == {
        "type": "integer",
        "description": "for JPEG and WebP; default: `95`",
        "minimum": 1,
        "maximum": 100,
    }


def schemas_with_examples(node: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from schemas_with_examples(value)
    if isinstance(node, dict):
        if isinstance(node.get("examples"), list):
            yield from ((node, example) for example in node["examples"])
        if "example" in node:
            yield node["schema"], node["example"]


def test_every_example_is_valid() -> None:
    found = [*schemas_with_examples(DOCUMENT)]
    assert len(found) > 20
    for schema, example in found:
        Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(example)


async def test_the_page_of_documents_loads_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'; script-src 'self'" in page.headers["content-security-policy"]
    assert "//" not in page.text
    for part in ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png", "start.js"):
        response = await client.get(f"/docs/{part}")
        assert (response.status_code, len(response.content) > 50, part in page.text) == (200, True, part in page.text)
    assert_error(await client.get("/docs/index.html"), 404, "not_found")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"success": "yes"}, "success"),
        ({"surprise": 1}, "surprise"),
        ({"upscaled_size": {"width": 0, "height": 1}}, "width"),
    ],
)
async def test_a_response_that_is_not_as_documented_is_noticed(
    client: httpx.AsyncClient, change: dict[str, Any], words: str
) -> None:
    response = await client.post("/upscale", json={"image_b64": b64(encode(sample_crop(20, 10))), "target_resolution": "2k"})
    changed = httpx.Response(200, json={**response.json(), **change}, request=response.request, headers=HEADERS)
    with pytest.raises(AssertionError, match=words):
        check_response(changed, changed.content)


async def test_a_status_and_a_header_that_are_not_documented_are_noticed(client: httpx.AsyncClient) -> None:
    response = await client.get("/health")
    with pytest.raises(AssertionError, match="does not have this status"):
        check_response(httpx.Response(418, request=response.request), b"")
    with pytest.raises(AssertionError, match="X-Request-ID is missing"):
        check_response(httpx.Response(200, json=response.json(), request=response.request), response.content)
