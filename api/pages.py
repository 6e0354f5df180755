"""Pages for people: the one at `/`, made of the files of `web/`, and `/docs`, the OpenAPI document in Swagger UI."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import orjson
from quart import Quart, Response, request, send_file

from api.openapi import build_document
from core.config import PROJECT, ConfigError
from core.errors import FileNotFound

WEB = PROJECT / "web"
# By ending, and not as the machine's own table has it, which differs from system to system; no other file is given out.
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".png": "image/png"}
# Nothing from another host, and no script or style inside the page; blob: is a picture before it is sent.
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
)


def add_page(app: Quart, root_path: str) -> None:
    """`GET /`, and what the page there loads from `/web/`, by URLs relative to `root_path` and a slash. Comes last.

    Raises:
        ConfigError: `root_path` is that of another route.
    """

    @app.get("/")
    async def page() -> Response:
        return await _send(WEB / "index.html", CONTENT_SECURITY_POLICY)

    @app.get("/web/<name>")
    async def web(name: str) -> Response:
        if name not in {path.name for path in WEB.iterdir() if path.suffix in TYPES}:
            raise FileNotFound(f"The page has no file {name[:80]!r}.")
        return await _send(WEB / name, CONTENT_SECURITY_POLICY)

    if root_path:
        # Not /upscale, where nothing is to GET.
        ours = [rule.rule for rule in app.url_map.iter_rules() if "GET" in (rule.methods or ())]
        if any(f"{rule}/".startswith(f"{root_path}/") for rule in ours):
            raise ConfigError(f"ROOT_PATH must not be a path of the service's own, as {root_path!r} is")

        @app.get(root_path)
        async def page_without_slash() -> Response:
            return Response(b"", 308, {"Location": f"{root_path}/"})


async def _send(path: Path, policy: str) -> Response:
    response = await send_file(path, mimetype=TYPES[path.suffix], cache_timeout=0, conditional=True)
    response.headers["Cache-Control"] = "no-cache"  # to be kept, and asked after each time: 304 while it is the same
    response.headers["Content-Security-Policy"] = policy
    return response


_PACKAGE = "drf_spectacular_sidecar"  # which carries Swagger UI's files; its own code, for Django, is never imported
_DOCS_PARTS = ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png")
# Swagger UI draws its icons from data: URLs and puts style elements into the page; scripts come from here alone.
DOCS_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def add_docs(app: Quart) -> None:
    """`GET /openapi.json`, and `GET /docs` with what that page loads; nothing comes from another host."""

    @app.get("/openapi.json")
    async def openapi_json() -> Response:
        document = {**_document(), "servers": [{"url": request.root_path or "/"}]}
        return Response(orjson.dumps(document), content_type="application/json", headers={"Cache-Control": "no-store"})

    @app.get("/docs")
    async def docs() -> Response:
        return await _send(WEB / "docs" / "index.html", DOCS_CONTENT_SECURITY_POLICY)

    @app.get("/docs/<name>")
    async def docs_part(name: str) -> Response:
        if name not in ("start.js", *_DOCS_PARTS):
            raise FileNotFound(f"The page of documents has no part {name[:80]!r}.")
        folder = WEB / "docs" if name == "start.js" else _swagger_ui()
        return await _send(folder / name, DOCS_CONTENT_SECURITY_POLICY)


@cache
def _document() -> dict[str, Any]:
    return build_document()


def _swagger_ui() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise FileNotFound(f"{_PACKAGE} is not installed: it carries the page of documents.")
    return Path(spec.origin).parent / "static" / _PACKAGE / "swagger-ui-dist"
