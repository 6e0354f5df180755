"""HTTP: routes, start and end of the process.

`python app.py` starts the service with settings from the environment.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import cast

from hypercorn.config import Config
from hypercorn.typing import ASGIFramework
from quart import Quart, Response, g, request, send_file

from api.access import CHALLENGE, Access, security_headers
from api.docs import add_api_docs
from api.jobs import accept_job, prefers_async, show_job, stream_events
from api.middleware import Edge, note_lost_connection
from api.pages import add_page
from api.requests import UpscaleRequest, read_submission
from api.responses import RESULT_HEADERS, FileResponse, add_error_handlers, image_response, json_answer, json_response
from api.server import serve
from core.config import MAX_BODY_BYTES, ConfigError, Settings
from core.errors import FileNotFound, Unauthorized
from core.logs import configure_logging, current_request
from core.metrics import CONTENT_TYPE
from serving.deadline import TIMEOUT_HEADER, Deadline, parse_timeout
from serving.jobs import Jobs
from serving.lifecycle import Service, State
from upscale import Upscaler, WeightsError, load_upscaler

logger = logging.getLogger(__name__)

RESPONSE_TIMEOUT_SECONDS = 600  # a 60 MB answer at 1 Mbit/s takes 8 minutes
STALL_SECONDS = 60.0  # after which a client that takes nothing more of its answer is given up
KEEP_ALIVE_SECONDS = 75  # longer than the minute for which load balancers keep idle connections
TRY_IT = (
    """(printf '{{"target_resolution": "2k", "image_b64": "'; base64 -w0 samples/astronaut.jpg; printf '"}}') | """
    "curl -sS http://127.0.0.1:{port}/upscale -H 'Content-Type: application/json' --data-binary @- -o answer.json"
)
CLOSE_SECONDS = 5  # for connections that are open when everything else has ended


def create_app(settings: Settings, *, load: Callable[[Settings], Upscaler] = load_upscaler) -> Quart:
    """Build the application; it starts loading the networks when it is first served.

    A test hands in its own `load`. The `Service` behind the application is `app.extensions["service"]`.
    """
    app = Quart(__name__, static_folder=None)
    app.url_map.merge_slashes = False  # it would redirect to the host's name, which is not known here
    app.request_class = UpscaleRequest
    app.response_class = FileResponse
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.config["BODY_TIMEOUT"] = settings.body_timeout_seconds
    app.config["RESPONSE_TIMEOUT"] = RESPONSE_TIMEOUT_SECONDS
    service = app.extensions["service"] = Service(settings, load)
    jobs = Jobs(service)
    app.before_serving(_watch_connections)
    app.before_serving(service.start)
    app.after_serving(jobs.close)
    app.after_serving(service.close)
    access = app.extensions["access"] = Access(settings, (f"X-Upscale-{name}" for name in RESULT_HEADERS))
    _add_access(app, access)
    _add_routes(app, service, jobs)
    _add_job_routes(app, service, jobs)
    add_api_docs(app)
    add_page(app)
    add_error_handlers(app)
    edge = Edge(cast(ASGIFramework, app.asgi_app), service.in_flight, settings.bodies_max_bytes, service.metrics.count_request)
    app.asgi_app = edge  # type: ignore[method-assign]
    return app


async def _watch_connections() -> None:
    asyncio.get_running_loop().set_exception_handler(note_lost_connection)


def _add_access(app: Quart, access: Access) -> None:
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
        given = request.authorization
        keys = [request.headers.get("X-API-Key")]
        if given and given.type in ("bearer", "basic"):
            keys.append(given.token or given.password)
        if not access.admits(request.path, keys):
            raise Unauthorized("A key is asked for: as a bearer token, as X-API-Key, or as the password of HTTP Basic.")
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


def _add_routes(app: Quart, service: Service, jobs: Jobs) -> None:
    @app.post("/upscale")
    async def upscale() -> Response:
        deadline = _deadline(service)
        async with deadline.enforced():
            submission = await read_submission()
        if prefers_async():
            return accept_job(await jobs.create(submission, g.request_id, deadline))
        async with deadline.enforced():
            answer = await service.upscale(submission, g.request_id, deadline)
        current_request().values |= answer.values
        response = image_response(answer) if submission.accepted else json_answer(answer)
        if answer.etag:
            response.set_etag(answer.etag)
        return response

    @app.post("/plan")
    async def plan() -> Response:
        deadline = _deadline(service)
        async with deadline.enforced():
            return json_response(await service.plan(await read_submission(), deadline), 200)

    @app.get("/health")
    async def health() -> Response:
        serving = service.state in (State.HEALTHY, State.DEGRADED)
        return json_response(service.health(), 200 if serving else 503)

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
        return await response.make_conditional(request)


def _deadline(service: Service) -> Deadline:
    """Of the current request, from now on."""
    return Deadline.after(parse_timeout(request.headers.get(TIMEOUT_HEADER), service.settings.request_timeout_seconds))


def _add_job_routes(app: Quart, service: Service, jobs: Jobs) -> None:
    @app.put("/jobs/<job_id>")
    async def put_job(job_id: str) -> Response:
        deadline = _deadline(service)
        async with deadline.enforced():
            submission = await read_submission()
        job = await jobs.put(job_id, submission, g.request_id, deadline)
        if prefers_async() and not job["completed_at"]:
            return accept_job(job)
        async with deadline.enforced():  # a job that another request has started goes on
            return show_job(await jobs.wait(job_id))

    @app.get("/jobs/<job_id>")
    async def get_job(job_id: str) -> Response:
        return show_job(await jobs.get(job_id))

    @app.post("/jobs/<job_id>/cancel")
    async def cancel_job(job_id: str) -> Response:
        return show_job(await jobs.cancel(job_id))

    @app.get("/jobs/<job_id>/events")
    async def follow_job(job_id: str) -> Response:
        job = await jobs.get(job_id)
        if job["completed_at"] and request.headers.get("Last-Event-ID") == job["status"]:
            return Response(b"", status=204)  # a browser that comes back after the end, until it is told not to
        return stream_events(jobs.events(job_id))


def main() -> int:
    """Serve until SIGTERM or SIGINT, then drain. Exit status 0; 1 if nothing can be served; 2 for a wrong setting."""
    try:
        settings = Settings.from_env()
        configure_logging(settings.log_level, settings.log_format)
        return asyncio.run(_serve(settings))
    except ConfigError as exc:
        sys.stderr.write(f"{exc}\n")
        return 2


async def _serve(settings: Settings) -> int:
    app = create_app(settings)
    service: Service = app.extensions["service"]
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, partial(_on_signal, loop, service, number))
    try:
        server_config = _listen(settings)
    except OSError as exc:
        logger.critical("cannot listen on %s:%d: %s", settings.host, settings.port, exc.strerror)
        return 1
    access: Access = app.extensions["access"]
    logger.info("API_KEY is not set: anybody who reaches the port is served" if access.is_open else "a key is asked for")
    logger.info("loading the networks; once they are ready, try: %s", TRY_IT.format(port=settings.port))
    await serve(app, server_config, shutdown_trigger=service.drained)
    if service.failure:
        expected = isinstance(service.failure, (ConfigError, WeightsError))
        logger.critical("%s", service.failure, exc_info=None if expected else service.failure)
        return 1
    logger.info("stopped")
    return 0


def _on_signal(loop: asyncio.AbstractEventLoop, service: Service, number: signal.Signals) -> None:
    logger.info("%s: finishing what runs, refusing what is new", number.name)
    service.stop()
    loop.remove_signal_handler(number)  # a second one ends the process at once


def _listen(
    settings: Settings, stall_seconds: float = STALL_SECONDS, keep_alive_seconds: float = KEEP_ALIVE_SECONDS
) -> Config:
    """Take the port, before anything loads, and return what the server needs.

    Raises:
        OSError: it cannot be taken.
    """
    config = Config()
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    config.bind = [f"{host}:{settings.port}"]
    config.errorlog = logging.getLogger("hypercorn")
    config.keep_alive_timeout = keep_alive_seconds
    config.graceful_timeout = CLOSE_SECONDS
    (listener,) = config.create_sockets().insecure_sockets
    if sys.platform == "linux":  # connections inherit it; the server itself would wait for ever, and not even end
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(stall_seconds * 1000))
    config.bind = [f"fd://{listener.detach()}"]
    return config


if __name__ == "__main__":
    sys.exit(main())
