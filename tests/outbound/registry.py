"""A real HTTP registry on loopback, in all the moods that a registry can have, and a heartbeat in a hurry."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from core.config import VERSION, Settings
from outbound.heartbeat import Heartbeat
from tests.helpers import HANG_SECONDS, with_settings

TOKEN = "s3cret-token"
PASSWORD = "pa55word"
PUBLIC_URL = "http://upscale.example:10005"
DESCRIPTION: dict[str, object] = {
    "status": "healthy",
    "queue": {"running": 1, "waiting": 2, "capacity": 8},
    "device": "cpu",
    "version": VERSION,
}


@dataclass(frozen=True)
class Beat:
    """One request as the registry saw it."""

    request_line: str
    headers: dict[str, str]
    content: dict[str, object]


Respond = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def plain(raw: bytes) -> Respond:
    """Answers `raw` and hangs up."""

    async def respond(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)

    return respond


def status(line: str, headers: str = "") -> Respond:
    return plain(f"HTTP/1.1 {line}\r\n{headers}Content-Length: 2\r\n\r\n{{}}".encode())


async def silence(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Answers nothing until the client has gone."""
    await reader.read()


async def endless_body(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers a body without an end, for as long as the client lets it."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    while True:
        writer.write(b"[" * 65536)
        await writer.drain()


class Registry:
    """A registry that keeps what it hears in `beats` and can be closed and opened again on the same port."""

    def __init__(self) -> None:
        self.port = 0
        self.respond: Respond = status("200 OK")
        self.beats: asyncio.Queue[Beat] = asyncio.Queue()
        self.handled: asyncio.Queue[None] = asyncio.Queue()  # one entry for each connection that has ended
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/register"

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def next_beat(self) -> Beat:
        async with asyncio.timeout(HANG_SECONDS):
            return await self.beats.get()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            request_line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            content = json.loads(await reader.readexactly(int(headers["content-length"])))
            self.beats.put_nowait(Beat(request_line, headers, content))
            await self.respond(reader, writer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        self.handled.put_nowait(None)


def heartbeat(url: str, *, timeout_seconds: float = HANG_SECONDS, **settings: object) -> Heartbeat:
    """A heartbeat in a hurry: it beats and retries after some 10 ms."""
    chosen: dict[str, object] = {"registry_url": url, "public_url": PUBLIC_URL, "heartbeat_seconds": 0.01, **settings}
    return Heartbeat(
        with_settings(Settings(), **chosen),
        lambda: dict(DESCRIPTION),
        timeout_seconds=timeout_seconds,
        rng=lambda: 0.001,
    )


@contextlib.asynccontextmanager
async def running(beating: Heartbeat) -> AsyncIterator[asyncio.Task[None]]:
    """Runs it for the block, then stops it; it must have ended by itself and without an error."""
    stop = asyncio.Event()
    task = asyncio.create_task(beating.run(stop))
    try:
        yield task
    finally:
        stop.set()
        await asyncio.wait_for(task, HANG_SECONDS)


def logged(caplog: pytest.LogCaptureFixture) -> str:
    """Everything that a handler could print, tracebacks and arguments included."""
    formatter = logging.Formatter("%(name)s %(levelname)s %(message)s")
    return "\n".join(f"{formatter.format(record)} {record.args!r}" for record in caplog.records)


def own_warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "outbound.heartbeat" and r.levelno >= logging.WARNING]
