"""The HTTP server: its socket, and connections that end when their clients have ended them."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from typing import Any

import hypercorn.asyncio.run
from hypercorn.asyncio import serve
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.config import Config
from hypercorn.events import Event, Updated

from core.config import Settings

__all__ = ["listen", "note_lost_connection", "serve"]

logger = logging.getLogger(__name__)

STALL_SECONDS = 60.0  # after which a client that takes nothing more of its response is given up
KEEP_ALIVE_SECONDS = 75  # longer than the minute for which load balancers keep idle connections
CLOSE_SECONDS = 5  # for connections that are open when everything else has ended


def listen(settings: Settings, stall_seconds: float = STALL_SECONDS, keep_alive_seconds: float = KEEP_ALIVE_SECONDS) -> Config:
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


def note_lost_connection(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An exception handler for the event loop: a connection that broke or was cut is one line at DEBUG, and no traceback.

    The server awaits the end of a connection's transport and lets whatever ended it pass; its request has its line already.
    """
    error = context.get("exception")
    of_connection = any(name in context["message"] for name in ("client_connected_cb", "StreamReaderProtocol"))
    if of_connection and isinstance(error, OSError | asyncio.CancelledError):
        logger.debug("a connection ended: %r", error)
    else:
        loop.default_exception_handler(context)


class _Connection(TCPServer):
    """A connection that is closed when its client has closed it.

    Hypercorn 0.18 keeps its socket until the idle timeout (https://github.com/pgjones/hypercorn/issues/241): with a new
    connection for each request, 14 requests a second were enough to use up a thousand open files.
    """

    async def _read_data(self) -> None:
        await super()._read_data()
        await self.idle_task.stop()

    async def protocol_send(self, event: Event) -> None:
        if not (isinstance(event, Updated) and self.reader.at_eof()):  # it is not idle but over
            await super().protocol_send(event)


hypercorn.asyncio.run.TCPServer = _Connection  # type: ignore[attr-defined]
