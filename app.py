"""HTTP: routes, errors → JSON, start and end of the process. The only room that knows the web framework.

`python app.py` starts the service with settings from the environment.
"""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from functools import partial

import orjson
import pybase64
from hypercorn.asyncio import serve
from hypercorn.config import Config
from quart import Quart, Response, g, request, send_file
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, RequestTimeout

from config import MAX_BODY_BYTES, MIB, ConfigError, Settings
from errors import BodyTimeout, BodyTooLarge, InvalidContentType, ServiceError, Unavailable
from service import Answer, Service, State
from upscale import Upscaler, load_upscaler

logger = logging.getLogger(__name__)

BASE64_CHUNK_BYTES = 48 * 1024  # a multiple of 3, so that the pieces join without padding
RESPONSE_TIMEOUT_SECONDS = 600  # a 60 MB answer at 1 Mbit/s takes 8 minutes
KEEP_ALIVE_SECONDS = 75  # longer than the minute for which load balancers keep idle connections
CLOSE_SECONDS = 5  # for answers on their way when everything else has ended


def create_app(settings: Settings, *, load: Callable[[Settings], Upscaler] = load_upscaler) -> Quart:
    """Build the application; it starts loading the networks when it is first served.

    A test hands in its own `load`. The `Service` behind the application is `app.extensions["service"]`.
    """
    app = Quart(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.config["BODY_TIMEOUT"] = settings.body_timeout_seconds
    app.config["RESPONSE_TIMEOUT"] = RESPONSE_TIMEOUT_SECONDS
    service = app.extensions["service"] = Service(settings, load)
    app.before_serving(service.start)
    app.after_serving(service.close)
    _add_routes(app, service)
    _add_error_handlers(app)
    return app


def _add_routes(app: Quart, service: Service) -> None:
    @app.before_request
    async def name_request() -> None:
        g.request_id = uuid.uuid4().hex

    @app.after_request
    async def add_headers(response: Response) -> Response:
        response.headers["X-Request-ID"] = g.request_id
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    @app.post("/upscale")
    async def upscale() -> Response:
        try:
            answer = await service.upscale(await _read_json_body(), g.request_id)
        except asyncio.CancelledError:
            logger.info("%s client gone", g.request_id)
            raise
        _log_answer(answer)
        return _stream_answer(answer)

    @app.get("/health")
    async def health() -> Response:
        serving = service.state in (State.HEALTHY, State.DEGRADED)
        return _json(service.health(), 200 if serving else 503)

    @app.get("/files/<name>")
    async def files(name: str) -> Response:
        return await send_file(await service.io(service.store.find, name))


async def _read_json_body() -> bytes:
    if request.mimetype != "application/json":
        raise InvalidContentType(f"Content-Type must be application/json, not {request.mimetype[:80] or 'missing'}.")
    try:
        return await request.get_data(False, False, False)  # not cached, bytes, no form
    except RequestEntityTooLarge as exc:
        raise BodyTooLarge(f"The body is over {MAX_BODY_BYTES // MIB} MB.", limit_bytes=MAX_BODY_BYTES) from exc
    except RequestTimeout as exc:
        raise BodyTimeout("The body did not arrive in time.") from exc


def _log_answer(answer: Answer) -> None:
    fields = answer.fields
    sizes = ["{width}×{height}".format(**fields[key]) for key in ("original_size", "upscaled_size")]  # type: ignore[arg-type]
    logger.info(
        "%s 200 %s → %s %s, passes %s, %d faces, %s s, %d bytes",
        *(g.request_id, *sizes, fields["format"], fields["upscaling_strategy"], fields["faces_detected"]),
        *(fields["processing_time"], len(answer.data)),
    )


def _stream_answer(answer: Answer) -> Response:
    """JSON in pieces: 40 MB from one call would hold the event loop, and with it /health, for a quarter of a second."""
    head = orjson.dumps(answer.fields)[:-1] + b',"base64":"'
    tail = b'"}'
    response = Response(_chunks(head, answer.data, tail), content_type="application/json")
    response.content_length = len(head) + 4 * math.ceil(len(answer.data) / 3) + len(tail)
    return response


async def _chunks(head: bytes, data: bytes, tail: bytes) -> AsyncIterator[bytes]:
    yield head
    view = memoryview(data)
    for start in range(0, len(data), BASE64_CHUNK_BYTES):
        yield pybase64.b64encode(view[start : start + BASE64_CHUNK_BYTES])
        await asyncio.sleep(0)  # whoever else waits for the loop comes first
    yield tail


def _add_error_handlers(app: Quart) -> None:
    @app.errorhandler(ServiceError)
    async def service_error(error: ServiceError) -> Response:
        logger.info("%s %d %s: %s", g.request_id, error.status, error.code, error.message)
        response = _error(error.status, error.code, error.message, error.details)
        if isinstance(error, Unavailable):
            response.headers["Retry-After"] = str(error.retry_after_seconds)
        return response

    @app.errorhandler(HTTPException)
    async def http_error(error: HTTPException) -> Response:
        status, name = error.code or 500, error.name
        response = _error(status, name.lower().replace(" ", "_"), error.description or name, {})
        if allowed := dict(error.get_headers()).get("Allow"):
            response.headers["Allow"] = allowed
        return response

    @app.errorhandler(Exception)
    async def defect(error: Exception) -> Response:
        logger.error("%s 500 internal_error", g.request_id, exc_info=error)
        return _error(500, "internal_error", "Something is wrong on our side. Please report the request_id.", {})


def _error(status: int, code: str, message: str, details: dict[str, object]) -> Response:
    body = {"success": False, "error": message, "code": code, **details, "request_id": g.request_id}
    return _json(body, status)


def _json(body: dict[str, object], status: int) -> Response:
    return Response(orjson.dumps(body), status=status, content_type="application/json")


def main() -> int:
    """Serve until SIGTERM or SIGINT, then drain. Exit status 0; 1 if nothing can be served; 2 for a wrong setting."""
    try:
        settings = Settings.from_env()
    except ConfigError as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(message)s")
    return asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> int:
    app = create_app(settings)
    service: Service = app.extensions["service"]
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, partial(_on_signal, loop, service, number))
    try:
        await serve(app, _hypercorn_config(settings), shutdown_trigger=service.drained)
    except OSError as exc:
        logger.critical("cannot listen on %s:%d: %s", settings.host, settings.port, exc.strerror)
        return 1
    if service.failure:
        logger.critical("%s", service.failure)
        return 1
    logger.info("stopped")
    return 0


def _on_signal(loop: asyncio.AbstractEventLoop, service: Service, number: signal.Signals) -> None:
    logger.info("%s: finishing what runs, refusing what is new", number.name)
    service.stop()
    loop.remove_signal_handler(number)  # a second one ends the process at once


def _hypercorn_config(settings: Settings) -> Config:
    config = Config()
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    config.bind = [f"{host}:{settings.port}"]
    config.errorlog = logging.getLogger("hypercorn")
    config.keep_alive_timeout = KEEP_ALIVE_SECONDS
    config.graceful_timeout = CLOSE_SECONDS
    return config


if __name__ == "__main__":
    sys.exit(main())
