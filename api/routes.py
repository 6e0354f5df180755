"""The routes of pictures and of the service itself, and what every request goes through."""

from __future__ import annotations

from typing import Any, cast

from quart import Quart, Response, g, request, send_file

from api.access import CHALLENGE, Access, presented_keys, security_headers
from api.jobs import accept_job
from api.middleware import HOST
from api.requests import FORM, accepted_formats, prefers_async, read_request, request_deadline
from api.responses import json_response, preview_image, result_image, result_json
from core.errors import FileNotFound, ForeignOrigin, Unauthorized
from core.logs import current_request
from core.metrics import CONTENT_TYPE
from schemas.health import ServiceState
from serving.jobs import Jobs
from serving.lifecycle import Service


def add_access(app: Quart, access: Access) -> None:
    """Name each request, check its API key, and add the headers that every response has."""

    @app.before_request
    async def name_request() -> None:
        notes = current_request()
        g.request_id = notes.request_id
        notes.route = request.url_rule.rule if request.url_rule else ""

    @app.before_request
    async def check_access() -> Response | None:
        is_preflight = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
        if is_preflight and (headers := access.cors_headers(request.headers.get("Origin"), preflight=True)):
            return Response(b"", 204, headers)
        keys = presented_keys(request.headers.get("Authorization", ""), request.headers.get("X-API-Key", ""))
        if not access.admits(request.path, keys):
            raise Unauthorized("An API key is required: as a bearer token, as X-API-Key, or as the password of HTTP Basic.")
        origin, fetch_site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
        host: str = cast(dict[str, Any], request.scope)[HOST]
        if request.mimetype == FORM and not access.admits_form(origin, host, fetch_site):
            raise ForeignOrigin("A page of another origin may send a form only if the server's CORS_ORIGINS names its origin.")
        return None

    @app.after_request
    async def add_headers(response: Response) -> Response:
        for name, value in security_headers().items():
            response.headers.setdefault(name, value)  # a page knows better what it needs
        if response.status_code == 401:
            response.headers["WWW-Authenticate"] = CHALLENGE
        cors = access.cors_headers(request.headers.get("Origin"), preflight=False)
        if vary := cors.pop("Vary", ""):
            response.vary.add(vary)
        response.headers.update(cors)
        return response


def add_routes(app: Quart, service: Service, jobs: Jobs) -> None:
    """Upscale, plan, files, health, metrics."""
    longest_seconds = service.settings.request_timeout_seconds

    @app.post("/upscale")
    async def upscale() -> Response:
        deadline = request_deadline(longest_seconds)
        async with deadline.enforced():
            if prefers_async():
                return accept_job(await jobs.create(await read_request(), g.request_id, deadline))
            result = await service.upscale(await read_request(), g.request_id, deadline)
        current_request().values |= result.log_values
        response = result_image(result) if accepted_formats() else result_json(result)
        if result.etag:
            response.set_etag(result.etag)
        return response

    @app.post("/plan")
    async def plan() -> Response:
        deadline = request_deadline(longest_seconds)
        async with deadline.enforced():
            return json_response(await service.plan(await read_request(), deadline))

    @app.get("/plan")
    async def sizes() -> Response:
        return json_response(service.sizes(request.query_string.decode("utf-8", "replace")))

    @app.post("/preview")
    async def preview() -> Response:
        async with request_deadline(longest_seconds).enforced():
            return preview_image(await service.preview(await read_request()))

    @app.get("/health")
    async def health() -> Response:
        serving = service.state in (ServiceState.HEALTHY, ServiceState.DEGRADED)
        return json_response(service.health(), 200 if serving else 503)

    @app.get("/livez")
    async def livez() -> Response:
        return Response(b'{"alive":true}', content_type="application/json")

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.page(), content_type=CONTENT_TYPE)

    @app.get("/files/<name>")
    async def files(name: str) -> Response:
        path = await service.io.run(service.store.find, name)
        try:
            response = await send_file(path, cache_timeout=0, add_etags=False)
        except FileNotFoundError as exc:  # removed just now
            raise FileNotFound(f"{name} has been removed.") from exc
        response.headers["Cache-Control"] = "private"  # the framework says public
        response.set_etag(path.stem)  # a name is never given twice
        request.headers.remove("If-Modified-Since")  # which says less, and whose year may be one that the framework fails at
        return await response.make_conditional(request)
