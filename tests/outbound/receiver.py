"""Receivers of webhooks on loopback, and a sender in a hurry."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from core.config import Settings
from outbound.public_network import PublicNetwork, Resolve, resolve_host
from outbound.webhooks import Webhooks
from tests.helpers import until

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


@dataclass
class Receiver:
    """An HTTP server that notes what it gets and answers what it is told to, the last one again and again."""

    port: int = 0
    responses: list[bytes] = field(default_factory=lambda: [b"HTTP/1.1 204 No Content\r\n\r\n"])
    heads: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    got: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/done?a=b"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        head = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
        body = await reader.readexactly(int(head["content-length"]))
        self.heads.append({"line": lines[0], **head})
        self.bodies.append(body)
        writer.write(self.responses.pop(0) if len(self.responses) > 1 else self.responses[0])
        self.got.put_nowait(body)
        await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    one = Receiver()
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
    one.port = server.sockets[0].getsockname()[1]
    async with server:
        yield one


def network(settings: Settings, resolve: Resolve = resolve_host) -> PublicNetwork:
    return PublicNetwork(allow_private=settings.webhook_allow_private, resolve=resolve)


@contextlib.asynccontextmanager
async def webhooks(settings: Settings, resolve: Resolve = resolve_host) -> AsyncIterator[Webhooks]:
    """With retries that wait no time."""
    chosen = Webhooks(settings.webhook_key, network(settings, resolve), rng=lambda: 0.0)
    try:
        yield chosen
    finally:
        await chosen.close()


async def done(sender: Webhooks) -> None:
    """Wait until everything is delivered or given up."""
    await until(lambda: not (sender._waiting or sender._running))
