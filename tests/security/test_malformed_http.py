"""What is no HTTP, or hardly: 4xx, and the server goes on."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import httpx
import pytest

from core.config import Settings
from tests.helpers import HANG_SECONDS, post, send_raw, until

GARBAGE = {
    "binary": b"\x00\x01\x02\xff\r\n\r\n",
    "TLS": bytes.fromhex("16030100a5010000a10303"),
    "no version": b"GET /health\r\n\r\n",
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "a header without colon": b"GET /health HTTP/1.1\r\nHost: test\r\nnonsense\r\n\r\n",
    "an endless header": b"GET /health HTTP/1.1\r\nA: " + b"a" * 200_000,
    "a length below zero": b"POST /upscale HTTP/1.1\r\nHost: test\r\nContent-Length: -1\r\n\r\n",
    "two lengths": b"POST /upscale HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "a length and chunks": b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: x\r\nTransfer-Encoding: chunked\r\n\r\n",
    "an unknown coding": b"POST /upscale HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: gzip\r\n\r\n",
    "a broken chunk": post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + b"zz\r\n",
    "a target without path": b"DELETE ?x HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
    "a broken URL": b"GET http://[x/nowhere HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
    "a broken URL alone": b"DELETE http://[x HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
    "an authority": b"CONNECT example.org:443 HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
    "a WebSocket": b"GET /upscale HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
}


@pytest.mark.parametrize("case", GARBAGE)
async def test_garbage_gets_4xx_and_the_server_goes_on(
    client: httpx.AsyncClient, settings: Settings, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    reader, writer = await send_raw(settings.port, GARBAGE[case])
    response = await asyncio.wait_for(reader.read(), HANG_SECONDS)
    writer.close()
    assert response.split()[1] == b"501" if case == "an unknown coding" else response.split()[1].startswith(b"4")
    assert "Traceback" not in caplog.text
    assert (await client.get("/health")).status_code == 200


@pytest.mark.parametrize("host", ["a..b", "a" * 70, "xn--", "ä", ""])
async def test_a_host_that_is_no_domain_name_does_not_matter(client: httpx.AsyncClient, settings: Settings, host: str) -> None:
    request = f"GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    reader, writer = await send_raw(settings.port, request)
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_a_target_may_be_a_whole_url(client: httpx.AsyncClient, settings: Settings) -> None:
    reader, writer = await send_raw(
        settings.port, b"GET http://other/health HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
    )
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_a_connection_that_its_client_has_closed_is_closed(client: httpx.AsyncClient, settings: Settings) -> None:
    for request in (b"", b"GET /heal", b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n", post(b"{}")):
        before = open_files()
        connections = [await send_raw(settings.port, request) for _ in range(10)]
        for reader, writer in connections:
            if request.endswith((b"\n", b"{}")):
                await reader.readuntil(b"}")
            writer.close()
        await until(partial(has_at_most, before))


def has_at_most(count: int) -> bool:
    return open_files() <= count


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
