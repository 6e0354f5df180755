"""Connections: HTTP/1 alone is spoken, their end is seen whatever came before it, and no number of them keeps others out."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import time
from functools import partial
from pathlib import Path

import httpx
import pytest

from api import middleware
from api import server as server_module
from api.server import NOTE_SECONDS
from bench.server import running_server
from core.config import Settings
from tests.helpers import FAKE, HANG_SECONDS, post, send_raw, until
from tests.security.test_malformed_http import has_at_most, open_files
from tests.serving.gated_service import gated_service, png_request

HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n"
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
WEBSOCKET = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\n\r\n"
)
CONNECT = b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAMES = bytes.fromhex("000000040000000000") + bytes.fromhex("0000080600000000000000000000000000") * 1000  # SETTINGS, PINGs


@pytest.mark.parametrize("proposal", [H2C, H2C.replace(b"AAMAAABkAAQAAP__", b""), H2C.replace(b"h2c", b"TLS/1.0"), WEBSOCKET])
async def test_a_proposal_to_speak_anything_but_http_1_is_ignored(
    client: httpx.AsyncClient, settings: Settings, proposal: bytes
) -> None:
    reader, writer = await send_raw(settings.port, HEALTH + proposal + HEALTH + b"Connection: close\r\n\r\n")
    responses = await asyncio.wait_for(reader.read(), HANG_SECONDS)
    expected = 1 if proposal is WEBSOCKET else 2  # whoever wants that has no use for another
    assert responses.count(b"HTTP/1.1 200 ") == responses.count(b"HTTP/1.1") == expected
    writer.close()


@pytest.mark.parametrize("version", [b"2.0", b"3.0", b"0.9"])
@pytest.mark.parametrize("line", [b"PRI * HTTP/%s\r\n", b"GET /health HTTP/%s\r\nHost: x\r\n"])
async def test_another_version_gets_400_and_its_frames_are_not_read(
    client: httpx.AsyncClient, settings: Settings, line: bytes, version: bytes
) -> None:
    reader, writer = await send_raw(settings.port, line % version + b"\r\nSM\r\n\r\n" + FRAMES)
    response = await asyncio.wait_for(reader.read(), HANG_SECONDS)
    assert response.startswith(b"HTTP/1.1 400 ")
    assert response.count(b"HTTP/1.1") == 1
    writer.close()


async def test_two_lengths_get_400_and_the_connection_is_closed(client: httpx.AsyncClient, settings: Settings) -> None:
    request = post(b"0\r\n\r\n", "Transfer-Encoding: chunked")
    reader, writer = await send_raw(settings.port, request + HEALTH + b"\r\n")
    response = await asyncio.wait_for(reader.read(), HANG_SECONDS)
    assert response.startswith(b"HTTP/1.1 400 ")
    assert response.count(b"HTTP/1.1") == 1  # what follows may be another's request
    writer.close()


@pytest.mark.parametrize(
    "data",
    [
        CONNECT + H2C,
        CONNECT + b"\r\n",
        HEALTH + H2C,
        HEALTH + WEBSOCKET,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + FRAMES,
        b"PRI * ",
    ],
)
async def test_no_proposal_keeps_a_file_open(client: httpx.AsyncClient, settings: Settings, data: bytes) -> None:
    before = open_files()
    for _, writer in [await send_raw(settings.port, data) for _ in range(20)]:
        writer.close()
    await until(partial(has_at_most, before))
    assert (await client.get("/health")).status_code == 200


@pytest.mark.parametrize("headers", [(), ("Connection: close",), ("Connection: Upgrade", "Upgrade: h2c")])
@pytest.mark.parametrize(
    "stray",
    [b"", b"\r\n", b"x", b"\0" * 1000, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", b"z" * 1_000_000, post(b"{}" * 90_000)],
)
async def test_the_end_of_a_client_is_seen_whatever_it_sent_after_its_body(
    settings: Settings, headers: tuple[str, ...], stray: bytes
) -> None:
    async with gated_service(settings) as h:
        _, writer = await send_raw(settings.port, post(png_request(10), *headers))
        await h.queue_is(running=1, waiting=0)
        writer.write(stray)
        await writer.drain()
        writer.close()
        await until(lambda: h.service._open_requests == 0)  # which a drain would wait for
        h.resolver.gate.set()
        await h.queue_is(running=0, waiting=0)
        assert len(h.resolver.seen) == 1  # of three passes


@pytest.mark.parametrize("strays", [b"\r\n", b"\r\n\r\n\n", b""])
async def test_line_breaks_between_requests_and_the_next_ones_come_to_nothing_bad(
    client: httpx.AsyncClient, settings: Settings, strays: bytes
) -> None:
    requests = (post(b"{}") + strays) * 3 + HEALTH + b"Connection: close\r\n\r\nx"
    reader, writer = await send_raw(settings.port, requests)
    responses = await asyncio.wait_for(reader.read(), HANG_SECONDS)
    assert (responses.count(b"missing_field"), responses.count(b"HTTP/1.1 200 "), responses.count(b"HTTP/1.1")) == (3, 1, 4)
    writer.close()


async def test_requests_too_early_to_be_kept_are_lost_and_the_connection_ends(settings: Settings) -> None:
    async with gated_service(settings) as h:
        reader, writer = await send_raw(settings.port, post(png_request(10)))
        await h.queue_is(running=1, waiting=0)
        writer.write(post(b"x" * 1_000_000))
        await writer.drain()
        h.resolver.gate.set()
        response = await asyncio.wait_for(reader.read(), HANG_SECONDS)
        assert response.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in response
        assert response.count(b"HTTP/1.1") == 1
        writer.close()


IDLE = {
    "nothing": b"",
    "half a head": b"GET /health HTTP/1.1\r\nHost:",
    "a request that was answered": HEALTH + b"\r\n",
    "half a body": post(b"{" * 100).removesuffix(b"{" * 50),
}


def test_more_connections_than_files_keep_nobody_out(tmp_path: Path) -> None:
    with running_server(tmp_path, program=FAKE) as server, contextlib.ExitStack() as connections:
        assert server.process
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (256, 256))
        start, address = time.monotonic(), ("127.0.0.1", int(server.url.rpartition(":")[2]))
        for data in IDLE.values():
            for _ in range(300):
                connections.enter_context(connection := socket.create_connection(address, HANG_SECONDS))
                connection.sendall(data)
            assert server.health()["status"] == "healthy"
        log = "".join(server.log)
        assert "Traceback" not in log
        assert 1 <= log.count("connections are open") <= 1 + (time.monotonic() - start) / NOTE_SECONDS


async def test_followers_of_a_job_keep_nobody_out(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "max_connections", lambda: 20)
    async with gated_service(settings) as h:
        follow = f"GET {(await h.submit())['urls']['events']} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        followers = []
        for _ in range(50):
            reader, writer = await send_raw(settings.port, follow)
            assert (await asyncio.wait_for(reader.readline(), HANG_SECONDS)).startswith(b"HTTP/1.1 200 ")
            followers.append(writer)
        assert await h.queue() == (1, 0)
        for writer in followers:
            writer.close()


async def test_a_request_behind_one_whose_client_has_left_is_not_begun(settings: Settings) -> None:
    async with gated_service(settings) as h:
        for _ in range(20):
            _, writer = await send_raw(settings.port, HEALTH + b"\r\n" + post(png_request(10)))
            writer.close()
        await until(lambda: h.service._open_requests == 0)
        h.resolver.gate.set()
        await h.queue_is(running=0, waiting=0)


async def test_the_end_is_seen_at_whatever_moment_it_comes(settings: Settings) -> None:
    async with gated_service(settings) as h:
        for moments in range(60):
            _, writer = await send_raw(settings.port, post(png_request(10)))
            for _ in range(moments):
                await asyncio.sleep(0)
            writer.close()
        async with asyncio.timeout(HANG_SECONDS / 2):  # before the network gives its gate up
            await until(lambda: h.service._open_requests == 0)
        h.resolver.gate.set()
        await h.queue_is(running=0, waiting=0)


async def test_requests_that_wait_keep_nobody_out(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "max_connections", lambda: 20)
    monkeypatch.setattr(middleware, "max_connections", lambda: 20)
    async with gated_service(settings) as h:
        connections = [await send_raw(settings.port, post(png_request(10))) for _ in range(40)]  # all for the same result
        await h.queue_is(running=1, waiting=0)
        for _ in range(3):
            assert (await h.client.get("/health", headers={"Connection": "close"})).status_code == 200
        h.resolver.gate.set()
        responses = [await asyncio.wait_for(reader.read(12), HANG_SECONDS) for reader, _ in connections]
        assert 10 <= responses.count(b"HTTP/1.1 200") <= 16
        for _, writer in connections:
            writer.close()
