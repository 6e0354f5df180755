"""ASGI middleware, for what neither framework nor server does: a request's id, its line in the log, clients that misbehave.

It knows nothing of what a request is about.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, cast

from hypercorn.typing import (
    ASGIFramework,
    ASGIReceiveCallable,
    ASGIReceiveEvent,
    ASGISendCallable,
    ASGISendEvent,
    HTTPRequestEvent,
    HTTPScope,
    Scope,
)

from core.budget import MemoryBudget, Room
from core.config import MAX_PATH_CHARACTERS, URL_PATH
from core.logs import RequestNotes, Values, begin_request
from core.metrics import METHODS, UNKNOWN
from utility import max_connections

logger = logging.getLogger(__name__)

WAITING_SHARE = 0.75  # of all connections that can be open
LINGER_SECONDS = 30.0  # in which a client that was answered early may go on sending
LINGER_SILENCE_SECONDS = 2.0  # after which it is taken to have stopped
HOST = "upscale.host"  # in a scope: the Host header as it came
ROOM = "upscale.room"  # in a scope: its body's share of the budget; who takes the body on takes it out
OVERLOADED = "upscale.overloaded"  # in a scope: its body was over the budget
IS_CROWDED = "upscale.is_crowded"  # in a scope: a function that tells whether too many requests wait for their responses
CLIENT_GONE = 499  # nobody gets to see it; nginx, too, logs this for a client that did not wait for its response
INTERNAL_ERROR = 500  # the server's status where the framework does not

Count = Callable[[str, str, int, str, float], None]  # of a request: method, route, status, code, seconds


class RequestMiddleware:
    """The outermost layer of the application.

    `held_for_drain` holds a request for the drain to wait for; `bodies_max_bytes` may be held of all bodies at one time;
    clients find the service at `root_path`.
    """

    def __init__(
        self,
        app: ASGIFramework,
        held_for_drain: Callable[[], AbstractContextManager[None]],
        bodies_max_bytes: int,
        count: Count,
        root_path: str = "",
    ) -> None:
        self._app = app
        self._held_for_drain = held_for_drain
        self._count = count
        self._root_path = root_path
        self._bodies = MemoryBudget(bodies_max_bytes)
        self._cycles: set[RequestCycle] = set()

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _serve(self, scope: HTTPScope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        notes = begin_request(_request_id_of(scope))
        scope["root_path"] = self._root_path or _forwarded_prefix(scope)
        scope["path"] = scope["root_path"] + self._path_of(scope["path"])
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        # Nothing else depends on the host, and the framework responds with 500 to one that is no domain name.
        scope["headers"] = [(name, b"localhost" if name == b"host" else value) for name, value in scope["headers"]]
        scope = cast(HTTPScope, {**scope, HOST: host, ROOM: Room(self._bodies), IS_CROWDED: self._is_crowded})
        cycle = RequestCycle(scope, notes.request_id, receive, send)
        self._cycles.add(cycle)
        try:
            with self._held_for_drain():
                await self._app(scope, cycle.receive, cycle.send)
        except Exception:
            cycle.failed = True
            raise
        finally:
            self._cycles.remove(cycle)
            cycle.let_go()
            self._note(scope, notes, cycle)

    def _path_of(self, target: str) -> str:
        """The path of a request target, which a client may also send whole (`http://host/path`), or without a slash.

        The framework responds with 500 to `?x` and to `http://[x/`. A proxy may have left `root_path` in it.
        """
        path = target if target.startswith("/") else "/" + re.sub(r"^https?://[^/]*/?", "", target)
        return path.removeprefix(self._root_path) if path.startswith(f"{self._root_path}/") else path

    def _is_crowded(self) -> bool:
        """Whether those that wait take more than their part of all connections: the rest is for quick ones, as for /health."""
        return sum(cycle.is_waiting for cycle in self._cycles) > max_connections() * WAITING_SHARE

    def _note(self, scope: HTTPScope, notes: RequestNotes, cycle: RequestCycle) -> None:
        seconds, code = cycle.seconds, cycle.outcome or notes.code
        self._count(scope["method"], notes.route, cycle.status, code, seconds)
        line = Values(
            message="request",
            method=scope["method"] if scope["method"] in METHODS else UNKNOWN,
            path=notes.route or UNKNOWN,  # a route holds no name of a result, and nothing else of the client's
            status=cycle.status,
            code=code,
            seconds=round(seconds, 3),
            bytes_in=cycle.bytes_in,
            bytes_out=cycle.bytes_out,
            **notes.values,
        )
        logger.info(line)


def _request_id_of(scope: HTTPScope) -> str:
    """The client's own, where it cannot be mistaken for anything else in a log or a header; else a new one."""
    given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)


def _forwarded_prefix(scope: HTTPScope) -> str:
    """Where a proxy says that it serves this, if that is a plain path. Only the response to this request may hold it."""
    given = dict(scope["headers"]).get(b"x-forwarded-prefix", b"").decode("latin-1")
    is_plain = len(given) <= MAX_PATH_CHARACTERS and re.fullmatch(rf"{URL_PATH}/?", given)
    return given.rstrip("/") if is_plain else ""


class RequestCycle:
    """One request and its response, which may come before all of the request has.

    A server that closes the connection then, with something unread in it, makes the kernel send a reset, and that may
    overtake the response (RFC 9112, section 9.6). So it says that it will close, and reads on a while.
    """

    def __init__(
        self,
        scope: HTTPScope,
        request_id: str,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
    ) -> None:
        self.bytes_in = 0
        self.bytes_out = 0
        self.failed = False
        self._scope = cast(dict[str, Any], scope)
        self._request_id = request_id
        self._receive = receive
        self._send = send
        self._has_body = scope["method"] != "HEAD"
        self._start = time.perf_counter()
        self._status: int | None = None
        self._answered = False
        self._arrived = asyncio.Event()
        self._ended = False

    @property
    def seconds(self) -> float:
        """Since the request's headers were there."""
        return time.perf_counter() - self._start

    @property
    def is_waiting(self) -> bool:
        """Whether all of the request has come, and nothing of the response is there."""
        return self._ended and self._status is None

    @property
    def status(self) -> int:
        """Of the response, if it was begun."""
        return self._status or (INTERNAL_ERROR if self.failed else CLIENT_GONE)

    @property
    def outcome(self) -> str:
        """What kept the response from being given; empty where nothing did."""
        if self._answered:
            return ""
        return "internal_error" if self.failed else "client_gone"

    async def receive(self) -> ASGIReceiveEvent:
        message = await self._receive()
        if message["type"] == "http.request":
            self.bytes_in += len(message["body"])
        self._ended = message["type"] != "http.request" or not message["more_body"]
        self._arrived.set()
        if message["type"] == "http.request":
            self._hold(message)
        return message

    def _hold(self, message: HTTPRequestEvent) -> None:
        """Count a piece of the body in, or throw it away: what is answered already, or over the budget."""
        room: Room | None = self._scope.get(ROOM)
        if room and room.grow(len(message["body"])):
            return
        message["body"] = b""
        if room:
            message["more_body"] = False  # for the framework: its response need not wait
            self._scope[OVERLOADED] = True
            self.let_go()  # now: while this client goes on sending, the bodies of others may come in

    def let_go(self) -> None:
        """Of the body, nothing is in memory any more, or somebody has taken it on."""
        if room := self._scope.pop(ROOM, None):
            room.release()

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self.let_go()  # whoever reads a response slowly takes nothing of others' budget
            message["headers"] = [*message["headers"], *self._headers()]
        elif message["type"] == "http.response.body":
            self.bytes_out += len(message["body"]) if self._has_body else 0
            if not self._ended and not message["more_body"]:
                await self._read_on()
        await self._send(message)
        if message["type"] == "http.response.body":
            self._answered = not message["more_body"]

    def _headers(self) -> list[tuple[bytes, bytes]]:
        headers = [(b"x-request-id", self._request_id.encode()), (b"x-process-time", f"{self.seconds:.6f}".encode())]
        return headers if self._ended else [*headers, (b"connection", b"close")]

    async def _read_on(self) -> None:
        """Wait while the framework takes in, and throws away, what the client still sends."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while not self._ended:
                    self._arrived.clear()
                    async with asyncio.timeout(LINGER_SILENCE_SECONDS):
                        await self._arrived.wait()
