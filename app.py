"""HTTP: routes, errors → JSON, start and end of the process. The only room that knows the web framework.

`python app.py` starts the service with settings from the environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import re
import signal
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import cast

import orjson
import pybase64
from hypercorn.asyncio import serve
from hypercorn.config import Config
from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGIReceiveEvent, ASGISendCallable, ASGISendEvent, Scope
from quart import Quart, Response, g, request, send_file
from quart.wrappers.response import FileBody
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, RequestTimeout

from config import MAX_BODY_BYTES, MAX_IMAGE_BYTES, MIB, ConfigError, Settings
from errors import BodyTimeout, BodyTooLarge, FileNotFound, InvalidContentType, ServiceError, Unavailable
from service import Answer, Service, State
from upscale import Upscaler, WeightsError, load_upscaler

logger = logging.getLogger(__name__)

BASE64_CHUNK_BYTES = 48 * 1024  # a multiple of 3, so that the pieces join without padding
FILE_CHUNK_BYTES = 256 * 1024
RESPONSE_TIMEOUT_SECONDS = 600  # a 60 MB answer at 1 Mbit/s takes 8 minutes
STALL_SECONDS = 60.0  # after which a client that takes nothing more of its answer is given up
KEEP_ALIVE_SECONDS = 75  # longer than the minute for which load balancers keep idle connections
LINGER_SECONDS = 30.0  # in which a client that was answered early may go on sending
LINGER_SILENCE_SECONDS = 2.0  # after which it is taken to have stopped
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
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.config["BODY_TIMEOUT"] = settings.body_timeout_seconds
    app.config["RESPONSE_TIMEOUT"] = RESPONSE_TIMEOUT_SECONDS
    service = app.extensions["service"] = Service(settings, load)
    app.before_serving(service.start)
    app.after_serving(service.close)
    _add_routes(app, service)
    _add_error_handlers(app)
    app.asgi_app = _Edge(cast(ASGIFramework, app.asgi_app), service)  # type: ignore[method-assign]
    return app


class _Edge:
    """Around the framework: what neither it nor the server does for clients that misbehave. Counts requests for the drain."""

    def __init__(self, app: ASGIFramework, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] == "websocket":  # the framework's answer to one without a route is a 500
            await send({"type": "websocket.close", "code": 1000, "reason": None})  # which becomes a 403
        elif scope["type"] == "http":
            scope["path"] = _path_of(scope["path"])
            # Nothing here depends on the host, and the framework answers 500 to one that is no domain name.
            scope["headers"] = [(name, b"localhost" if name == b"host" else value) for name, value in scope["headers"]]
            exchange = _Exchange(receive, send, can_close=scope["http_version"].startswith("1"))
            with self._service.in_flight():
                await self._app(scope, exchange.receive, exchange.send)
        else:
            await self._app(scope, receive, send)


def _path_of(target: str) -> str:
    """The path of a request target, which a client may also send whole (`http://host/path`), or without a slash.

    The framework answers 500 to `?x` and to `http://[x/`.
    """
    return target if target.startswith("/") else "/" + re.sub(r"^https?://[^/]*/?", "", target)


class _Exchange:
    """One request and its answer, which may come before all of the request has.

    A server that closes the connection then, with something unread in it, makes the kernel send a reset, and that may
    overtake the answer on its way to the client (RFC 9112, section 9.6). So it says that it will close, and reads on a while.
    """

    def __init__(self, receive: ASGIReceiveCallable, send: ASGISendCallable, *, can_close: bool) -> None:
        self._receive = receive
        self._send = send
        self._can_close = can_close  # HTTP/2 has streams, which need none of this
        self._arrived = asyncio.Event()
        self._ended = False

    async def receive(self) -> ASGIReceiveEvent:
        message = await self._receive()
        self._ended = message["type"] != "http.request" or not message["more_body"]
        self._arrived.set()
        return message

    async def send(self, message: ASGISendEvent) -> None:
        if self._can_close and not self._ended:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            elif message["type"] == "http.response.body" and not message["more_body"]:
                await self._read_on()
        await self._send(message)

    async def _read_on(self) -> None:
        """Wait while the framework takes in, and throws away, what the client still sends."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while not self._ended:
                    self._arrived.clear()
                    await asyncio.wait_for(self._arrived.wait(), LINGER_SILENCE_SECONDS)


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
        path = await service.io(service.store.find, name)
        try:
            response = await send_file(path, cache_timeout=0)
        except FileNotFoundError as exc:  # removed just now
            raise FileNotFound(f"{name} has been removed.") from exc
        response.headers["Cache-Control"] = "private"  # the framework says public
        cast(FileBody, response.response).buffer_size = FILE_CHUNK_BYTES  # 8 KiB otherwise, each through a thread
        return response


async def _read_json_body() -> bytes:
    if request.mimetype != "application/json":
        raise InvalidContentType(f"Content-Type must be application/json, not {request.mimetype[:80] or 'missing'}.")
    try:
        return await request.get_data(False, False, False)  # not cached, bytes, no form
    except RequestEntityTooLarge as exc:
        raise BodyTooLarge(
            f"The body is over {MAX_BODY_BYTES // MIB} MB. The image in it may have up to {MAX_IMAGE_BYTES // MIB} MB.",
            limit_bytes=MAX_BODY_BYTES,
        ) from exc
    except RequestTimeout as exc:
        raise BodyTimeout("The body did not arrive in time: the connection is too slow, or Content-Length too large.") from exc


def _log_answer(answer: Answer) -> None:
    fields = answer.fields
    sizes = ["{width}×{height}".format(**fields[key]) for key in ("original_size", "upscaled_size")]  # type: ignore[arg-type]
    logger.info(
        "%s 200 %s → %s %s, passes %s, %d faces, %s s, %.3f s of them on the device, %d bytes",
        *(g.request_id, *sizes, fields["format"], fields["upscaling_strategy"], fields["faces_detected"]),
        *(fields["processing_time"], answer.device_seconds, len(answer.data)),
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
        allowed = dict(error.get_headers()).get("Allow")
        message = error.description or name
        if status == 404:
            message = f"There is nothing at {request.path[:80]!r}, only POST /upscale, GET /health and GET /files/<name>."
        elif allowed:
            message = f"{request.path[:80]} takes {allowed}, not {request.method[:80]}."
        response = _error(status, name.lower().replace(" ", "_"), message, {})
        if allowed:
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
        server_config = _listen(settings)
    except OSError as exc:
        logger.critical("cannot listen on %s:%d: %s", settings.host, settings.port, exc.strerror)
        return 1
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


def _listen(settings: Settings, stall_seconds: float = STALL_SECONDS) -> Config:
    """Take the port, before anything loads, and return what the server needs.

    Raises:
        OSError: it cannot be taken.
    """
    config = Config()
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    config.bind = [f"{host}:{settings.port}"]
    config.errorlog = logging.getLogger("hypercorn")
    config.keep_alive_timeout = KEEP_ALIVE_SECONDS
    config.graceful_timeout = CLOSE_SECONDS
    (listener,) = config.create_sockets().insecure_sockets
    if sys.platform == "linux":  # connections inherit it; the server itself would wait for ever, and not even end
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(stall_seconds * 1000))
    config.bind = [f"fd://{listener.detach()}"]
    return config


if __name__ == "__main__":
    sys.exit(main())
