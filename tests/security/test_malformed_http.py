"""What is no HTTP, or hardly: 4xx, and the server goes on."""

from __future__ import annotations

import asyncio
import re
import time
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


# headers

FILE = "0" * 32 + ".png"
HEADERS = {  # by the request that may read them
    f"GET /files/{FILE}": ("If-Match", "If-Modified-Since", "If-None-Match", "If-Range", "If-Unmodified-Since", "Range"),
    "GET /jobs/12345678/events": ("Last-Event-ID", "Cookie", "Date", "Max-Forwards", "Pragma", "Referer", "Upgrade"),
    "OPTIONS /plan": ("Access-Control-Request-Headers", "Access-Control-Request-Method", "Origin", "TE", "Trailer", "Via"),
    "POST /upscale": (
        *("Accept", "Accept-Charset", "Accept-Encoding", "Accept-Language", "Authorization", "Cache-Control"),
        *("Content-Encoding", "Content-Type", "Expect", "Forwarded", "Prefer", "Remote-Addr", "X-API-Key", "X-Forwarded-For"),
        *("X-Forwarded-Host", "X-Forwarded-Proto", "X-Request-ID", "X-Request-Timeout", "User-Agent"),
    ),
}
KEYS = ("é", "!!!", "=", "Og==", "AAAA", "4pyT", "/////w==", "AAAA AAAA", "A" * 9001)
VALUES = (
    *("", " ", "é\xff", "\x80", "\x01", "\x7f", ",", ";", "=", '"', "\\", "*", "/", "a\tb", "'", "%", "é=é;é=é"),
    *("0", "-1", "9" * 5000, "1e9", "nan", "٣", "," * 9000, ";" * 9000, '"' * 9001, "a" + " " * 15_000 + "b"),
    *("a=" * 7000, ";a*0='" * 2000, 'a;b="\\', 'W/"', '"' + '\\"' * 5000),
    *("application/json; charset=é", "application/json; charset=x; boundary", "image/png;q=1.1, */*;q=é", "multipart/*"),
    *("bytes=0-", "bytes=9-1", "bytes=-0", "bytes=" + "9" * 5000 + "-", "bytes=" + "0-0," * 3000),
    *("Sun, 06 Nov 99999999999 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:37 +" + "9" * 5000, "1 Jan 0 25:61:61 -9999", "(" * 99),
    *("respond-async; é", "respond-async" + ";" * 9000, "100-continue", "gzip", "identity, identity"),
    *(f"{scheme} {key}" for scheme in ("Basic", "Bearer", "Digest", "basic\t") for key in KEYS),
)


@pytest.mark.parametrize(("line", "header"), [(line, header) for line, headers in HEADERS.items() for header in headers])
async def test_no_value_of_a_header_is_an_error_of_the_server(
    client: httpx.AsyncClient, settings: Settings, caplog: pytest.LogCaptureFixture, line: str, header: str
) -> None:
    settings.output_dir.mkdir(exist_ok=True)
    (settings.output_dir / FILE).write_bytes(b"kept")
    for value in VALUES:
        for each, times in ((line, 1), ("GET /health", 2 if len(value) < 7000 else 1)):
            given = {"Content-Type": "application/json", "Content-Length": "2"}
            given.pop(header, None)
            fields = "".join(f"{name}: {text}\r\n" for name, text in [*given.items(), *[(header, value)] * times])
            request = f"{each} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{fields}\r\n{{}}"
            reader, writer = await send_raw(settings.port, request.encode("latin-1", "replace"))
            response = await asyncio.wait_for(reader.read(), HANG_SECONDS)
            writer.close()
            statuses = re.findall(rb"^HTTP/1\.1 (\d)", response, re.MULTILINE)  # of 100, too
            assert statuses and b"5" not in statuses, (each, value[:100])
    assert "Traceback" not in caplog.text


async def test_a_header_of_many_values_holds_nobody_up(client: httpx.AsyncClient) -> None:
    """The framework takes most of a second for each of these."""
    accept = ", ".join(["image/png", "a/" + " " * 15_000 + "b"])
    start = time.process_time()
    for _ in range(10):
        await client.post("/upscale", json={}, headers={"Accept": accept})
    assert time.process_time() - start < 3
