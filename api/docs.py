"""`GET /openapi.json`, and `GET /docs`: the same for people, by Swagger UI, with nothing from another host."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import orjson
from quart import Quart, Response, send_file

from api.openapi import build_document
from core.errors import FileNotFound

_PACKAGE = "drf_spectacular_sidecar"  # which carries Swagger UI's files; its own code, for Django, is never imported
_PARTS = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Upscale: the API</title>
<link rel="icon" href="/docs/favicon-32x32.png">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
_START = """SwaggerUIBundle({ url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null });
"""
# Swagger UI draws its icons from data: URLs and puts style elements into the page; scripts come from here alone.
_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def add_api_docs(app: Quart) -> None:
    """The document and its page; both are built once."""
    document = orjson.dumps(build_document())

    @app.get("/openapi.json")
    async def openapi_json() -> Response:
        return Response(document, content_type="application/json")

    @app.get("/docs")
    async def docs() -> Response:
        response = Response(_PAGE, content_type="text/html; charset=utf-8")
        response.headers["Content-Security-Policy"] = _CONTENT_SECURITY_POLICY
        return response

    @app.get("/docs/<name>")
    async def docs_part(name: str) -> Response:
        if name == "start.js":
            return Response(_START, content_type="text/javascript")
        if name not in _PARTS:
            raise FileNotFound(f"The page of documents has no part {name[:80]!r}.")
        return await send_file(_folder() / name, mimetype=_PARTS[name])


def _folder() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise FileNotFound(f"{_PACKAGE} is not installed: it carries the page of documents.")
    return Path(spec.origin).parent / "static" / _PACKAGE / "swagger-ui-dist"
