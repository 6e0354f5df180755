"""The HTTP server: its socket, and connections that speak HTTP/1.1 alone and end when their clients have ended them."""

from __future__ import annotations

import asyncio
import enum
import errno
import logging
import socket
import sys
import time
from typing import Any

import h11
import hypercorn.asyncio.run
import hypercorn.asyncio.tcp_server
from hypercorn.asyncio import serve
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.typing import AppWrapper

from core.config import Settings
from utility import max_connections

__all__ = ["listen", "note_lost_connection", "serve"]

logger = logging.getLogger(__name__)

STALL_SECONDS = 60.0  # after which a client that takes nothing more of its response is given up
KEEP_ALIVE_SECONDS = 75  # longer than the minute for which load balancers keep idle connections
CLOSE_SECONDS = 5  # for connections that are open when everything else has ended
MAX_AHEAD_BYTES = 64 * 1024  # of the next requests, sent before the response to this one
NOTE_SECONDS = 60.0  # between two lines about too many connections


def listen(settings: Settings, stall_seconds: float = STALL_SECONDS, keep_alive_seconds: float = KEEP_ALIVE_SECONDS) -> Config:
    """Take the port, before anything loads, and return what the server needs.

    Raises:
        OSError: it cannot be taken.
    """
    config = _ServerConfig()
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
    elif isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):  # in asyncio's loop that accepts
        _note_shortage("no more files can be opened: new connections wait (%s)", error.strerror)
    else:
        loop.default_exception_handler(context)


class _RateLimitedNote:
    """A warning that is written once in `NOTE_SECONDS`, however often there is a reason for it."""

    def __init__(self) -> None:
        self._next_at = 0.0

    def __call__(self, message: str, *values: object) -> None:
        if time.monotonic() >= self._next_at:
            self._next_at = time.monotonic() + NOTE_SECONDS
            logger.warning(message, *values)


_note_shortage = _RateLimitedNote()


class _ServerConfig(Config):
    """What every connection is handed, and with it all that are open: the longest unchanged first."""

    def __init__(self) -> None:
        super().__init__()
        self.connections: dict[_Connection, None] = {}


class _Connection(TCPServer):
    """A connection that is closed when its client has closed it, or when another needs its place more.

    Hypercorn 0.18 keeps its socket until the idle timeout (https://github.com/pgjones/hypercorn/issues/241): with a new
    connection for each request, 14 requests a second were enough to use up a thousand open files.
    """

    config: _ServerConfig
    protocol: _HTTP1  # type: ignore[assignment]

    async def run(self) -> None:
        if not self._has_room():
            self.writer.transport.abort()
            return
        self._note_change()
        try:
            await super().run()
        finally:
            self.config.connections.pop(self, None)

    def _has_room(self) -> bool:
        """Whether this one may be open too. Others may be cut for it, so that /health gets in whatever they do."""
        connections, most = self.config.connections, max_connections()
        if len(connections) < most:
            return True
        _note_shortage("%d connections are open, as many as the limit of open files allows: others are cut for new ones", most)
        least = min(connections, key=lambda connection: connection.protocol.stage)
        if least.protocol.stage is Stage.WAITING:
            return False
        del connections[least]
        least.writer.transport.abort()
        return True

    def _note_change(self) -> None:
        self.config.connections.pop(self, None)
        self.config.connections[self] = None

    async def _read_data(self) -> None:
        await super()._read_data()
        await self.idle_task.stop()

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, Updated):
            if self.reader.at_eof():  # it is not idle but over
                return
            if self in self.config.connections:
                self._note_change()
        await super().protocol_send(event)


class Stage(enum.IntEnum):
    """Where a connection is; the lower, the less is lost with it."""

    IDLE = 0  # no request, or not all of its head
    RECEIVING = 1  # its body
    SENDING = 2  # the response
    WAITING = 3  # for the response to begin


class _HTTP1(H11Protocol):
    """HTTP/1.0 and 1.1 over one connection, whatever its client proposes: no HTTP/2, no WebSocket.

    In a request's time, reading goes on: only so is the end of a connection seen behind whatever came before it.
    """

    def __init__(self, app: AppWrapper, config: Config, *arguments: Any) -> None:
        *arguments_of_http1, _alpn_protocol = arguments
        super().__init__(app, config, *arguments_of_http1)
        self.connection: _H11 = _H11(h11.SERVER, max_incomplete_event_size=config.h11_max_incomplete_size)
        self._turn = asyncio.Lock()  # to take in what has come
        self._is_over = False  # what has come and was not begun is for nobody

    @property
    def stage(self) -> Stage:
        """Where it is now."""
        ours, theirs = self.connection.our_state, self.connection.their_state
        if ours is h11.IDLE:
            return Stage.IDLE
        if theirs is h11.SEND_BODY:
            return Stage.RECEIVING
        return Stage.WAITING if ours is h11.SEND_RESPONSE else Stage.SENDING

    async def handle(self, event: Event) -> None:
        if isinstance(event, RawData):
            async with self._turn:
                await super().handle(event)
        else:
            self._is_over = self._is_over or isinstance(event, Closed)
            await super().handle(event)

    async def _create_stream(self, request: h11.Request) -> None:
        if not self._is_over:
            await super()._create_stream(request)
        if self._is_over:  # since a moment ago, perhaps
            await self._close_stream()

    async def stream_send(self, event: StreamEvent) -> None:
        if self.connection.has_overrun or self.connection.is_last:
            self.keep_alive_requests = self.config.keep_alive_max_requests  # so that the response says that it is the last
        await super().stream_send(event)

    async def _maybe_recycle(self) -> None:
        if self.connection.has_overrun:  # the next requests are lost; their client sends them again
            await self._close_stream()
            await self.send(Closed())
            return
        await super()._maybe_recycle()
        if self.connection.trailing_data[0]:
            self.task_group.spawn(self._go_on)

    async def _go_on(self) -> None:
        async with self._turn:
            await self._handle_events()


class _H11(h11.Connection):
    """A connection that keeps or drops what comes too early, in place of asking that nothing more be read."""

    has_overrun = False
    is_last = False  # of its requests: its client has no use for another

    def receive_data(self, data: bytes) -> None:
        is_early = self.their_state not in (h11.IDLE, h11.SEND_BODY)
        if data and is_early and len(self._receive_buffer) + len(data) > MAX_AHEAD_BYTES:
            self.has_overrun = True
        if not (data and self.has_overrun):
            super().receive_data(data)

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """The next event, which is never PAUSED and proposes no other protocol.

        Raises:
            h11.RemoteProtocolError: it is no HTTP/1, or has two lengths; the response is 400.
        """
        self._drop_strays()
        event = super().next_event()
        if event is h11.PAUSED:
            return h11.NEED_DATA
        if not isinstance(event, h11.Request):
            return event
        if not event.http_version.startswith(b"1."):
            raise h11.RemoteProtocolError("no HTTP/1")
        names = {name for name, _ in event.headers}
        if {b"content-length", b"transfer-encoding"} <= names:  # of which a proxy may have believed the other
            raise h11.RemoteProtocolError("two lengths")
        self.is_last = any(name == b"upgrade" and value.lower() == b"websocket" for name, value in event.headers)
        headers = [(name, value) for name, value in event.headers if name != b"upgrade"]
        return h11.Request(method=event.method, target=event.target, headers=headers, http_version=event.http_version)

    def _drop_strays(self) -> None:
        """Line breaks before a request (RFC 9112, section 2.2), and whatever follows the last one."""
        if self.their_state is h11.MUST_CLOSE:
            self._receive_buffer.maybe_extract_at_most(len(self._receive_buffer))
        elif self.their_state is h11.IDLE:
            early = self.trailing_data[0]
            if strays := len(early) - len(early.lstrip(b"\r\n")):
                self._receive_buffer.maybe_extract_at_most(strays)


hypercorn.asyncio.run.TCPServer = _Connection  # type: ignore[attr-defined]
hypercorn.asyncio.tcp_server.ProtocolWrapper = _HTTP1  # type: ignore[assignment,attr-defined]
