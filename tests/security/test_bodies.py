"""Bodies that are too large, too slow or without an end."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from api import middleware
from core.config import MAX_BODY_BYTES, MAX_IMAGE_BYTES, MIB, Settings
from tests.helpers import HANG_SECONDS, assert_error, encode, fake_models, post, ready, send_raw, serving, with_settings

JSON = {"Content-Type": "application/json"}
OVERSIZED = 20 * MIB


async def pieces(total: int) -> AsyncIterator[bytes]:
    for _ in range(total // MIB):
        yield b"x" * MIB


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_client_that_sends_20_mb_gets_its_413(client: httpx.AsyncClient, chunked: bool) -> None:
    response = await client.post("/upscale", content=pieces(OVERSIZED) if chunked else b"x" * OVERSIZED, headers=JSON)
    body = assert_error(response, 413, "body_too_large")
    assert "16 MB" in body["error"]
    assert "7 MB" in body["error"]


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_client_that_sends_all_before_it_reads_gets_its_413(
    client: httpx.AsyncClient, settings: Settings, chunked: bool
) -> None:
    head = b"POST /upscale HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
    body = b"x" * OVERSIZED
    framed = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (OVERSIZED, body)
    plain = b"Content-Length: %d\r\n\r\n%s" % (OVERSIZED, body)
    reader, writer = await send_raw(settings.port, head + (framed if chunked else plain))
    response = await asyncio.wait_for(reader.readuntil(b"}"), HANG_SECONDS)
    assert response.startswith(b"HTTP/1.1 413 ")
    assert b"body_too_large" in response
    writer.close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("framing", ["Transfer-Encoding: chunked", "Content-Type: application/json", "Expect:"])
async def test_curl_shows_the_413(client: httpx.AsyncClient, settings: Settings, tmp_path: Path, framing: str) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"x" * OVERSIZED)
    curl = await asyncio.create_subprocess_exec(
        *("curl", "-sS", "-H", "Content-Type: application/json", "-H", framing, "--data-binary", f"@{body}"),
        *("-w", "%{http_code}", f"http://127.0.0.1:{settings.port}/upscale"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await curl.communicate()
    assert (curl.returncode, out[-3:], err) == (0, b"413", b"")
    assert json.loads(out[:-3])["code"] == "body_too_large"


@pytest.fixture
def short_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that was answered early is soon taken to have stopped sending."""
    monkeypatch.setattr(middleware, "LINGER_SILENCE_SECONDS", 0.05)


@pytest.mark.usefixtures("short_linger")
async def test_a_body_without_end_is_cut_off(client: httpx.AsyncClient, settings: Settings) -> None:
    reader, writer = await send_raw(
        settings.port,
        b"POST /upscale HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
    )
    response = asyncio.create_task(reader.readuntil(b"\r\n"))
    sent = 0
    while not response.done():
        writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        await writer.drain()
        sent += 65536
    assert (await response).startswith(b"HTTP/1.1 413 ")
    assert MAX_BODY_BYTES < sent < 4 * MAX_BODY_BYTES, sent
    await asyncio.wait_for(reader.read(), HANG_SECONDS)  # it closes although we do not
    writer.close()


@pytest.mark.usefixtures("short_linger")
async def test_a_body_that_stops_coming_gets_408_and_the_connection_is_closed(settings: Settings) -> None:
    async with serving(with_settings(settings, body_timeout_seconds=0.2), lambda _: fake_models()) as (client, _):
        await ready(client)
        reader, writer = await send_raw(settings.port, post(b"{" * 100).removesuffix(b"{" * 99))
        response = await asyncio.wait_for(reader.read(), HANG_SECONDS)
        writer.close()
        health = await client.get("/health")
    assert response.startswith(b"HTTP/1.1 408 ")
    assert b"body_timeout" in response
    assert health.json()["queue"]["waiting"] == 0


async def test_of_bodies_that_outgrow_the_room_together_one_is_refused_and_the_other_goes_on(settings: Settings) -> None:
    body = b"{" + b" " * (12 * MIB) + b"}"
    request = post(body)
    sent_bytes = len(request) - 3 * MIB
    async with serving(with_settings(settings, bodies_max_bytes=16 * MIB), lambda _: fake_models()) as (client, _):
        await ready(client)
        connections = [await send_raw(settings.port, request[:sent_bytes]) for _ in range(2)]  # neither is whole yet
        responses = [asyncio.create_task(reader.readuntil(b"}")) for reader, _ in connections]
        (first,), _ = await asyncio.wait(responses, timeout=HANG_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        assert b"queue_full" in first.result()
        other = 1 - responses.index(first)
        connections[other][1].write(request[sent_bytes:])
        assert b"missing_field" in await asyncio.wait_for(responses[other], HANG_SECONDS)
        for _, writer in connections:
            writer.close()


async def test_the_image_of_a_form_counts_beside_the_form(settings: Settings) -> None:
    image = encode(np.zeros((8, 8, 3), np.uint8), "BMP").ljust(MAX_IMAGE_BYTES, b"\0")
    async with serving(with_settings(settings, bodies_max_bytes=16 * MIB), lambda _: fake_models()) as (client, _):
        await ready(client)
        assert (await client.post("/upscale", files={"image": image})).status_code == 200
        body = b"{" + b" " * (3 * MIB) + b"}"
        reader, writer = await send_raw(settings.port, post(body)[:-1])  # it is not whole yet
        assert_error(await client.post("/upscale", files={"image": image}), 503, "queue_full")
        writer.write(b"}")
        assert b"missing_field" in await asyncio.wait_for(reader.readuntil(b"}"), HANG_SECONDS)
        writer.close()
        assert (await client.post("/upscale", files={"image": image})).status_code == 200


async def test_a_slow_reader_of_a_response_keeps_no_room_of_others_bodies(settings: Settings) -> None:
    image = encode(np.random.default_rng(0).integers(0, 256, (1400, 1400, 3), dtype=np.uint8))  # some 6 MB
    query = "target_resolution=4k&output_format=png"  # and an response that no socket's buffer holds
    head = f"POST /upscale?{query} HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(image)}\r\n\r\n"
    async with serving(with_settings(settings, bodies_max_bytes=16 * MIB), lambda _: fake_models()) as (client, _):
        await ready(client)
        writers = []
        for quality in (80, 81):  # so that they are two results
            reader, writer = await send_raw(settings.port, head.replace("png ", f"png&quality={quality} ", 1).encode() + image)
            assert await asyncio.wait_for(reader.readuntil(b"\r\n"), HANG_SECONDS) == b"HTTP/1.1 200 \r\n"
            writers.append(writer)
        response = await client.post(f"/plan?{query}", content=image, headers={"Content-Type": "image/png"})
        assert response.status_code == 200, response.text
        for writer in writers:
            writer.close()


async def test_a_refused_request_whose_body_comes_later_gets_its_response(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    reader, writer = await send_raw(settings.port, b"POST /nowhere HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n")
    response = await reader.readuntil(b"}")
    assert response.startswith(b"HTTP/1.1 404 ")
    assert b"connection: close" in response
    writer.write(b"0123456789")
    await writer.drain()
    assert await asyncio.wait_for(reader.read(), HANG_SECONDS) == b""
    writer.close()
