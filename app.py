"""The service: build the Quart app, listen, serve, drain.

`python app.py` starts it with settings from the environment.
"""

from __future__ import annotations

import gc

from core.signals import STOP_SIGNALS, end_at_once, hold_reload, ignore_reload, on_reload, on_stop

if __name__ == "__main__":
    on_stop(end_at_once)
    hold_reload()
    gc.disable()  # while modules are imported and models loaded: without it, /health answers a tenth later

import asyncio
import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import NoReturn, cast

from hypercorn.typing import ASGIFramework
from quart import Quart

from api.access import Access
from api.jobs import add_job_routes
from api.middleware import RequestMiddleware
from api.pages import add_docs, add_page
from api.requests import limited_requests
from api.responses import RESULT_HEADERS, FileResponse, add_error_handlers
from api.routes import add_access, add_routes
from api.server import listen, note_lost_connection, serve
from core.config import ConfigError, Settings
from core.errors import DEVICE_LOST_STATUS
from core.logs import configure_logging
from model_utility import Models, WeightsError, load_models
from serving.jobs import Jobs
from serving.lifecycle import Service
from weights.manifest import too_little_memory

logger = logging.getLogger(__name__)

LOST_END_SECONDS = 90.0  # after the device is lost: the drain, whose own limits add up to less, is taken to hang
RESPONSE_TIMEOUT_SECONDS = 600  # a response of 60 MB at 1 Mbit/s takes 8 minutes


def create_app(settings: Settings, *, load: Callable[[Settings], Models] = load_models) -> Quart:
    """Build the application; it starts loading the models when it is first served.

    A test hands in its own `load`. The `Service` behind the application is `app.extensions["service"]`.
    """
    app = Quart(__name__, static_folder=None)
    app.url_map.merge_slashes = False  # it would redirect to the host's name, which is not known here
    app.request_class = limited_requests(settings)
    app.response_class = FileResponse
    app.config["MAX_CONTENT_LENGTH"] = max(settings.max_body_bytes, settings.max_image_bytes)
    app.config["BODY_TIMEOUT"] = settings.body_timeout_seconds
    app.config["RESPONSE_TIMEOUT"] = RESPONSE_TIMEOUT_SECONDS
    service = app.extensions["service"] = Service(settings, load)
    jobs = Jobs(service)
    app.before_serving(_watch_connections)
    app.before_serving(service.start)
    app.before_serving(jobs.start)
    app.after_serving(jobs.close)
    app.after_serving(service.close)
    access = app.extensions["access"] = Access(settings, (f"X-Upscale-{name}" for name in RESULT_HEADERS))
    add_access(app, access)
    add_routes(app, service, jobs)
    add_job_routes(app, jobs, settings.request_timeout_seconds)
    add_docs(app)
    add_page(app, settings.root_path)
    add_error_handlers(app)
    inner, count = cast(ASGIFramework, app.asgi_app), service.metrics.count_request
    middleware = RequestMiddleware(inner, service.held_for_drain, settings.bodies_max_bytes, count, settings.root_path)
    app.asgi_app = middleware  # type: ignore[method-assign]
    return app


async def _watch_connections() -> None:
    asyncio.get_running_loop().set_exception_handler(note_lost_connection)


def main() -> int:
    """Serve until SIGTERM or SIGINT, then drain.

    Exit status 0; 1 if nothing can be served; 2 for a wrong setting; 75 if the device is lost, and a new process may serve.
    A signal while it drains, or before it listens, ends it at once, with 128 + the signal's number.
    """
    try:
        settings = Settings.from_env()
        configure_logging(settings.log_level, settings.log_format)
        if reason := too_little_memory():
            logger.critical("%s", reason)
            return 1
        return asyncio.run(_serve(settings))
    except ConfigError as exc:
        sys.stderr.write(f"{exc}\n")
        return 2


async def _serve(settings: Settings) -> int:
    app = create_app(settings)
    service: Service = app.extensions["service"]
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, partial(_on_signal, loop, service, number))
    try:
        server_config = listen(settings)
    except OSError as exc:
        logger.critical("cannot listen on %s:%d: %s", settings.host, settings.port, exc.strerror)
        return 1
    access: Access = app.extensions["access"]
    is_hang_up = not settings.api_key_file and os.isatty(0)  # what SIGHUP means where there is nothing to read again
    on_reload(partial(_on_signal, loop, service, signal.SIGHUP) if is_hang_up else partial(_read_keys_again, access))
    logger.info("API_KEY is not set: anybody who reaches the port is served" if access.is_open else "an API key is required")
    logger.info("loading the models")
    await serve(app, server_config, shutdown_trigger=partial(_drain, service))
    ignore_reload()
    if service.device_loss:
        _end_at_once(DEVICE_LOST_STATUS)
    if service.failure:
        expected = isinstance(service.failure, (ConfigError, WeightsError))
        logger.critical("%s", service.failure, exc_info=None if expected else service.failure)
        return 1
    if service.has_busy_threads:
        _end_at_once(0)
    logger.info("stopped")
    return 0


async def _drain(service: Service) -> None:
    await service.stopping()
    if service.device_loss:  # a call into the driver may hold the interpreter's lock for ever; this needs none
        faulthandler.dump_traceback_later(LOST_END_SECONDS, exit=True)
    await service.drained()


def _read_keys_again(access: Access) -> None:
    try:
        count = access.read_keys_again()
    except ConfigError as exc:
        logger.error("SIGHUP: the keys stay as they were, since %s", exc)
    else:
        logger.info("SIGHUP: %s", f"API_KEY_FILE has been read, keys: {count}" if count else "no API_KEY_FILE to read again")


def _end_at_once(status: int) -> NoReturn:
    """End without the interpreter's own end, which would wait for threads, and for a driver, that may never return."""
    logger.info("stopped, with exit status %d", status)
    logging.shutdown()
    os._exit(status)


def _on_signal(loop: asyncio.AbstractEventLoop, service: Service, number: signal.Signals) -> None:
    logger.info("%s: finishing what runs, refusing what is new", number.name)
    service.stop()
    for stop_signal in STOP_SIGNALS:
        loop.remove_signal_handler(stop_signal)
    on_stop(end_at_once)


if __name__ == "__main__":
    sys.exit(main())
