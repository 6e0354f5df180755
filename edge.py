"""Between the server and the framework: what neither does for clients that misbehave, in the terms of ASGI alone."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable
from contextlib import AbstractContextManager

from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGIReceiveEvent, ASGISendCallable, ASGISendEvent, Scope

LINGER_SECONDS = 30.0  # in which a client that was answered early may go on sending
LINGER_SILENCE_SECONDS = 2.0  # after which it is taken to have stopped


class Edge:
    """Around the framework. Each request runs within `in_flight()`, so that a drain can count them."""

    def __init__(self, app: ASGIFramework, in_flight: Callable[[], AbstractContextManager[None]]) -> None:
        self._app = app
        self._in_flight = in_flight

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] == "websocket":  # the framework's answer to one without a route is a 500
            await send({"type": "websocket.close", "code": 1000, "reason": None})  # which becomes a 403
        elif scope["type"] == "http":
            scope["path"] = _path_of(scope["path"])
            # Nothing here depends on the host, and the framework answers 500 to one that is no domain name.
            scope["headers"] = [(name, b"localhost" if name == b"host" else value) for name, value in scope["headers"]]
            exchange = _Exchange(receive, send, can_close=scope["http_version"].startswith("1"))
            with self._in_flight():
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
