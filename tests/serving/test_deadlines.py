"""Deadlines of requests, and connections that stay silent."""

from __future__ import annotations

import asyncio
import contextlib

import httpx
import pytest

from core.config import Settings
from tests.helpers import (
    HANG_SECONDS,
    advance_clock,
    assert_error,
    fake_models,
    files_in,
    post,
    send_raw,
    serving,
    until,
    with_settings,
)
from tests.serving.gated_service import gated_service, gray_of, png_request


async def test_a_request_that_still_waits_at_its_deadline_gets_504_and_leaves_the_queue(settings: Settings) -> None:
    async with gated_service(settings) as h, asyncio.TaskGroup() as clients:
        running = clients.create_task(h.post(10))
        await h.queue_is(running=1, waiting=0)
        late = clients.create_task(h.post(20, **{"X-Request-Timeout": "30"}))
        await h.queue_is(running=1, waiting=1)
        advance_clock(30)
        body = assert_error(await late, 504, "deadline_exceeded")
        assert body["timeout_seconds"] == 30
        assert await h.queue() == (1, 0)
        h.resolver.gate.set()
    assert gray_of(running.result()) == 10
    assert 20 not in dict(h.resolver.seen)


async def test_a_request_that_runs_over_its_deadline_gets_504_and_ends_at_its_next_step(settings: Settings) -> None:
    async with gated_service(settings) as h:
        h.resolver.entered.clear()  # which warming up has set
        late = asyncio.create_task(h.post(10, **{"X-Request-Timeout": "30"}))
        await until(h.resolver.entered.is_set)
        advance_clock(30)
        assert_error(await late, 504, "deadline_exceeded")
        h.resolver.gate.set()
        assert gray_of(await h.post(20)) == 20
    assert [height for gray, height in h.resolver.seen if gray == 10] == [20]  # the first of three passes
    assert len(files_in(settings)) == 1


async def test_a_client_may_shorten_its_time_but_not_lengthen_it(settings: Settings) -> None:
    async with gated_service(with_settings(settings, request_timeout_seconds=30)) as h:
        late = asyncio.create_task(h.post(10, **{"X-Request-Timeout": "3600"}))
        await h.queue_is(running=1, waiting=0)
        advance_clock(30)
        body = assert_error(await late, 504, "deadline_exceeded")
        assert body["timeout_seconds"] == 30


async def test_a_body_that_is_not_there_at_the_deadline_gets_504(settings: Settings) -> None:
    async with gated_service(settings) as h:
        whole = post(png_request(10), "X-Request-Timeout: 0.2")
        reader, writer = await send_raw(h.port, whole[:-10])
        assert (await reader.readline()).startswith(b"HTTP/1.1 504 ")
        writer.close()


@pytest.mark.parametrize("text", ["", "soon", "0", "-1", "nan", "inf", "1e999"])
async def test_a_timeout_that_is_no_positive_number_gets_400(client: httpx.AsyncClient, text: str) -> None:
    response = await client.post("/upscale", json={}, headers={"X-Request-Timeout": text})
    assert assert_error(response, 400, "out_of_range")["field"] == "X-Request-Timeout"


@pytest.mark.parametrize("beginning", [b"", b"GET /health HTTP/1.1\r\nHo", b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n"])
async def test_a_connection_that_stays_silent_is_cut(settings: Settings, beginning: bytes) -> None:
    async with serving(settings, lambda _: fake_models(), keep_alive_seconds=0.3), asyncio.timeout(HANG_SECONDS):
        reader, writer = await send_raw(settings.port, beginning)
        assert (await reader.read()).startswith(b"HTTP/1.1 " if beginning.endswith(b"\r\n") else b"")
        writer.close()


async def test_a_head_that_comes_byte_by_byte_is_cut(settings: Settings) -> None:
    async with serving(settings, lambda _: fake_models(), keep_alive_seconds=0.3), asyncio.timeout(HANG_SECONDS):
        reader, writer = await send_raw(settings.port, b"GET /health HTTP/1.1\r\nX: ")
        cut = asyncio.create_task(reader.read())
        while not cut.done():
            writer.write(b"x")
            await asyncio.sleep(0.02)  # faster than any timeout that begins anew with each byte
        with contextlib.suppress(ConnectionResetError):
            assert cut.result() == b""
        writer.close()
