"""Registries that misbehave, or that are not there, cost a warning and nothing else."""

from __future__ import annotations

import asyncio

import pytest

from tests.helpers import HANG_SECONDS
from tests.outbound.registry import Registry, Respond, endless_body, heartbeat, own_warnings, plain, running, status


@pytest.mark.parametrize(
    ("respond", "reason"),
    [
        (status("500 Internal Server Error"), "status 500"),
        (status("404 Not Found"), "status 404"),
        (status("302 Found", "Location: http://127.0.0.1:1/elsewhere\r\n"), "status 302"),
        (plain(b""), "RemoteProtocolError"),
        (plain(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), "RemoteProtocolError"),
        (plain(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n"), "RemoteProtocolError"),
        (plain(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 1_000_000), "RemoteProtocolError"),
    ],
    ids=["500", "404", "302", "hang-up", "not-http", "bad-length", "long-header"],
)
async def test_bad_response_costs_one_warning_and_the_next_good_one_recovers(
    registry: Registry, caplog: pytest.LogCaptureFixture, respond: Respond, reason: str
) -> None:
    registry.respond = respond
    beating = heartbeat(registry.url)
    async with running(beating):
        for _ in range(3):
            await registry.next_beat()
        assert beating.seconds_since_success is None
        registry.respond = status("200 OK")
        await registry.next_beat()
        await registry.next_beat()
        await registry.next_beat()
        assert beating.seconds_since_success is not None
    broke, recovered = own_warnings(caplog)
    assert reason in broke
    assert "accepted again" in recovered


@pytest.mark.parametrize(
    "respond",
    [
        endless_body,
        plain(b"HTTP/1.1 200 OK\r\nContent-Length: 10485760\r\n\r\n" + bytes(10 * 1024 * 1024)),
        plain(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope"),
        plain(b"HTTP/1.1 204 No Content\r\n\r\n"),
    ],
    ids=["endless", "10-MB", "not-gzip", "none"],
)
async def test_body_of_the_response_is_not_read(
    registry: Registry, caplog: pytest.LogCaptureFixture, respond: Respond
) -> None:
    registry.respond = respond
    beating = heartbeat(registry.url)
    async with running(beating):
        await registry.next_beat()
        await asyncio.wait_for(registry.handled.get(), HANG_SECONDS)
        await registry.next_beat()
        assert beating.seconds_since_success is not None
    assert own_warnings(caplog) == []


@pytest.mark.parametrize(
    "url",
    ["registry", "http://", "ftp://registry/x", "http://127.0.0.1:99999/", "http://[::1/", "http://no such host/", "\x00"],
)
async def test_registry_url_that_cannot_work_costs_a_warning(caplog: pytest.LogCaptureFixture, url: str) -> None:
    async with running(heartbeat(url, public_url="")):
        pass  # the last beat is an attempt too
    assert len(own_warnings(caplog)) == 1


async def test_host_that_does_not_resolve_costs_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    async with running(heartbeat("http://registry.invalid/")):
        pass
    assert len(own_warnings(caplog)) == 1
