"""Every route under every method, as a client on one connection sees them: each response ends, and so another may come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import h11
import pytest

from app import create_app
from core.config import Settings
from tests.helpers import HANG_SECONDS
from tests.serving.gated_service import GatedService, gated_service

METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND")
PREFLIGHT = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
BODY = b"[1]"


@dataclass
class Wire:
    """A client that opens another connection where the server has closed one."""

    port: int
    connections: int = 0
    _protocol: h11.Connection | None = None

    async def send(self, method: str, target: str, headers: dict[str, str], body: bytes = b"") -> tuple[int, bytes]:
        """The status and the body of the response, which must have an end."""
        if self._protocol is None or self._protocol.our_state is not h11.IDLE:
            await self._connect()
        protocol = self._protocol
        assert protocol
        events = [h11.Request(method=method, target=target, headers=[("Host", "test"), *headers.items()])]
        for event in [*events, *([h11.Data(data=body)] if body else []), h11.EndOfMessage()]:
            self._writer.write(protocol.send(event) or b"")
        async with asyncio.timeout(HANG_SECONDS):
            status, data = await self._read(protocol)
        if protocol.our_state is h11.DONE and protocol.their_state is h11.DONE:
            protocol.start_next_cycle()
        else:  # the server has said so
            assert await self._reader.read() == b""
        return status, data

    async def _read(self, protocol: h11.Connection) -> tuple[int, bytes]:
        status, data = 0, b""
        while True:
            event = protocol.next_event()
            if event is h11.NEED_DATA:
                protocol.receive_data(await self._reader.read(65536))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                data += event.data
            elif isinstance(event, h11.EndOfMessage):
                return status, data

    async def _connect(self) -> None:
        self.close()
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._protocol = h11.Connection(h11.CLIENT)
        self.connections += 1

    def close(self) -> None:
        if self._protocol:
            self._writer.close()


@pytest.fixture
async def service(settings: Settings) -> AsyncIterator[GatedService]:
    async with gated_service(settings.model_copy(update={"cors_origins": PREFLIGHT["Origin"]})) as service:
        yield service


def paths(settings: Settings, names: dict[str, str]) -> list[str]:
    """Of every route, with what stands for its variables."""
    rules = [rule.rule for rule in create_app(settings).url_map.iter_rules()]
    for variable, value in names.items():
        rules = [rule.replace(f"<{variable}>", value) for rule in rules]
    assert not [rule for rule in rules if "<" in rule]
    return sorted({*rules, "/nothing"})


@pytest.mark.parametrize("method", METHODS)
async def test_every_response_ends_and_the_connection_lives_on(service: GatedService, settings: Settings, method: str) -> None:
    running = (await service.submit(10))["id"]
    kept = settings.output_dir / ("0" * 32 + ".png")
    kept.write_bytes(b"kept")
    wire, with_body = Wire(settings.port), Wire(settings.port)
    for path in paths(settings, {"job_id": running, "name": kept.name, "path": "app.js"}):
        if (method, path) == ("GET", f"/jobs/{running}/events"):
            continue  # whose end is that of the job
        for status, data in (
            await wire.send(method, path, {}),
            await wire.send(method, path, PREFLIGHT),
            await with_body.send(method, path, {"Content-Length": str(len(BODY))}, BODY),
        ):
            assert 200 <= status < 500, path
            assert not (data and method == "HEAD"), path
        assert (await with_body.send("GET", "/health", {}))[0] == 200
    assert wire.connections == 1
    wire.close()
    with_body.close()


async def test_the_head_of_a_stream_of_events_is_that_of_the_stream(service: GatedService) -> None:
    job = await service.submit(10)
    head = await service.client.head(job["urls"]["events"])
    assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream")
    assert "content-length" not in head.headers
