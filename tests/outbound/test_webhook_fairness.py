"""Receivers that hang, and what they cost the others."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest

from core.config import Settings
from outbound.public_network import network_of
from outbound.webhooks import MAX_AT_ONCE, MAX_PENDING, MAX_TO_HOST, MAX_TO_NETWORK, Kind, _Host
from tests.helpers import HANG_SECONDS, fake_models, ready, serving, until
from tests.outbound.receiver import Receiver, done, receiver, webhooks
from tests.serving.gated_service import ASYNC, request_fields

JOBS = 200
ELSEWHERE = "127.0.1.1"  # in another network


@dataclass
class Hanging:
    """Takes connections and says nothing, until `answers`."""

    port: int = 0
    open: int = 0
    most: int = 0
    calls: int = 0
    answers: bool = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open, self.calls = self.open + 1, self.calls + 1
        self.most = max(self.most, self.open)
        if self.answers:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        else:
            with contextlib.suppress(ConnectionError):
                await reader.read()
                await reader.read()
        self.open -= 1
        writer.close()


@contextlib.asynccontextmanager
async def hanging() -> AsyncIterator[Hanging]:
    one = Hanging()
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
    one.port = server.sockets[0].getsockname()[1]
    try:
        yield one
    finally:
        server.close()


@contextlib.asynccontextmanager
async def elsewhere() -> AsyncIterator[Receiver]:
    one = Receiver()
    server = await asyncio.start_server(one.serve, ELSEWHERE, 0)
    one.port = server.sockets[0].getsockname()[1]
    async with server:
        yield one


def resolve(host: str, _port: int) -> list[str]:
    return [ELSEWHERE if host == "elsewhere.example" else "127.0.0.1"]


@pytest.fixture
def short_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outbound.webhooks.ATTEMPT_SECONDS", 2.0)
    monkeypatch.setattr("outbound.webhooks.FIRST_SECONDS", 2.0)


@pytest.fixture
def short_end(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """To be called when all that matters has been asserted: the end of a test need not wait for those that hang."""
    return lambda: monkeypatch.setattr("outbound.webhooks.ATTEMPT_SECONDS", 0.05)


async def test_jobs_for_a_receiver_that_hangs_hold_up_no_others(
    open_settings: Settings, short_end: Callable[[], None]
) -> None:
    async with hanging() as bad, receiver() as good, serving(open_settings, lambda _: fake_models()) as (client, _):
        await ready(client)
        fields = request_fields(webhook=f"http://127.0.0.1:{bad.port}/")
        for _ in range(2 * MAX_TO_HOST):
            assert (await client.post("/upscale", json=fields, headers=ASYNC)).status_code == 202
        await until(lambda: bad.open == MAX_TO_HOST)
        await client.post("/upscale", json=request_fields(webhook=good.url), headers=ASYNC)
        async with asyncio.timeout(HANG_SECONDS):
            await good.got.get()
        assert bad.calls == bad.most == MAX_TO_HOST
        short_end()


async def test_a_host_that_hangs_has_its_share_and_is_left_alone_after_it(
    open_settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr("outbound.webhooks.ATTEMPT_SECONDS", 0.5)
    monkeypatch.setattr("outbound.webhooks.FIRST_SECONDS", 0.5)
    async with hanging() as bad, receiver() as good, webhooks(open_settings) as sender:
        target = await sender.check(f"http://127.0.0.1:{bad.port}/")
        for _ in range(JOBS):
            sender.deliver(target, b"{}")
        sender.deliver(await sender.check(good.url), b"{}")
        async with asyncio.timeout(HANG_SECONDS):
            await good.got.get()
        await done(sender)
    assert bad.most <= MAX_TO_HOST
    assert bad.calls <= MAX_TO_HOST + 8, "it is not tried for each of its messages"
    assert sum("given up" in record.message for record in caplog.records) == JOBS


async def test_a_host_that_answers_again_gets_all_that_waits(
    open_settings: Settings, short_attempts: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with hanging() as bad, webhooks(open_settings) as sender:
        target = await sender.check(f"http://127.0.0.1:{bad.port}/")
        for _ in range(JOBS):
            sender.deliver(target, b"{}")
        await until(lambda: bad.calls >= MAX_TO_HOST)
        bad.answers = True
        await done(sender)
    assert sum("delivered" in record.message for record in caplog.records) == JOBS


async def test_names_and_ports_of_one_network_share_its_share(open_settings: Settings, short_end: Callable[[], None]) -> None:
    async with contextlib.AsyncExitStack() as stack:
        bad = [await stack.enter_async_context(hanging()) for _ in range(10)]
        good = await stack.enter_async_context(elsewhere())
        sender = await stack.enter_async_context(webhooks(open_settings, resolve))
        for number in range(JOBS):
            sender.deliver(await sender.check(f"http://a{number}.example:{bad[number % 10].port}/"), b"{}")
        await until(lambda: sum(one.open for one in bad) == MAX_TO_NETWORK)
        sender.deliver(await sender.check(f"http://elsewhere.example:{good.port}/"), b"{}")
        async with asyncio.timeout(HANG_SECONDS):
            await good.got.get()
        assert sum(one.calls for one in bad) == MAX_TO_NETWORK
        short_end()


async def test_of_all_that_wait_those_for_a_host_that_has_answered_come_first(
    open_settings: Settings, short_attempts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outbound.webhooks.MAX_TO_NETWORK", MAX_AT_ONCE)
    async with hanging() as bad, receiver() as good, webhooks(open_settings, resolve) as sender:
        known = await sender.check(good.url)
        sender.deliver(known, b"{}")
        await good.got.get()
        for number in range(3 * MAX_AT_ONCE):
            sender.deliver(await sender.check(f"http://a{number}.example:{bad.port}/"), b"{}")
        await until(lambda: bad.open == Kind.UNKNOWN.value)
        sender.deliver(known, b"{}")
        async with asyncio.timeout(HANG_SECONDS):
            await good.got.get()
        assert bad.calls == Kind.UNKNOWN.value, "there is room for hosts that have answered"


NETWORKS = 250


def resolve_far(host: str, _port: int) -> list[str]:
    """`a7.example` in the seventh network, and so on."""
    return [f"127.1.{int(host[1:].split('.')[0]) % NETWORKS}.1" if host[1].isdecimal() else ELSEWHERE]


@contextlib.asynccontextmanager
async def hanging_anywhere() -> AsyncIterator[Hanging]:
    one = Hanging()
    server = await asyncio.start_server(one.serve, "0.0.0.0", 0)  # noqa: S104 - all of 127.0.0.0/8
    one.port = server.sockets[0].getsockname()[1]
    try:
        yield one
    finally:
        server.close()


@pytest.mark.parametrize("count", [NETWORKS, 4 * NETWORKS - 1])
@pytest.mark.parametrize("seen", Kind)
async def test_a_receiver_never_seen_before_is_called_soon_beside_many_networks_that_hang(
    open_settings: Settings, short_end: Callable[[], None], monkeypatch: pytest.MonkeyPatch, count: int, seen: Kind
) -> None:
    """Beside hosts that nobody knows either, that have answered once, or that are known to hang."""
    monkeypatch.setattr("outbound.webhooks.FIRST_SECONDS", 1.0)
    async with hanging_anywhere() as bad, elsewhere() as good, webhooks(open_settings, resolve_far) as sender:
        receivers = [await sender.check(f"http://a{number}.example:{bad.port}/") for number in range(count)]
        for one in receivers:
            sender._hosts[one.host] = _Host(answered=seen is Kind.ANSWERED, failures=int(seen is Kind.SILENT))
            sender.deliver(one, b"{}")
        await until(lambda: bad.calls >= seen.value)
        before = bad.calls
        sender.deliver(await sender.check(f"http://good.example:{good.port}/"), b"{}")
        async with asyncio.timeout(HANG_SECONDS):
            await good.got.get()
        assert bad.calls - before <= 3 * MAX_AT_ONCE, "it waits for the ends of few attempts, whatever else waits"
        short_end()


async def test_a_first_attempt_is_short_and_the_next_one_has_its_time(
    open_settings: Settings, short_end: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outbound.webhooks.FIRST_SECONDS", 0.2)
    async with hanging() as bad, webhooks(open_settings) as sender:
        sender.deliver(await sender.check(f"http://127.0.0.1:{bad.port}/"), b"{}")
        await until(lambda: bad.calls == 2)
        await asyncio.sleep(3 * 0.2)
        assert bad.calls == 2
        short_end()


async def test_when_too_many_wait_the_network_with_the_most_loses_one(
    open_settings: Settings, short_end: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    async with hanging() as bad, elsewhere() as good, webhooks(open_settings, resolve) as sender:
        for number in range(MAX_PENDING):
            sender.deliver(await sender.check(f"http://a{number}.example:{bad.port}/"), b"{}")
        assert not caplog.records
        sender.deliver(await sender.check(f"http://elsewhere.example:{good.port}/"), b"{}")
        sender.deliver(await sender.check(f"http://one-more.example:{bad.port}/"), b"{}")
        async with asyncio.timeout(HANG_SECONDS):
            await good.got.get()
        assert len(sender._waiting) + len(sender._running) == MAX_PENDING
        assert [record.levelname for record in caplog.records] == ["ERROR"] * 2
        short_end()


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("93.184.216.34", "93.184.216.0/24"),
        ("::ffff:93.184.216.34", "93.184.216.0/24"),
        ("64:ff9b::5db8:d822", "93.184.216.0/24"),
        ("2606:4700:1:2::3", "2606:4700:1::/48"),
        ("fe80::1%eth0", "fe80::/48"),
    ],
)
def test_the_network_of_an_address_is_what_one_owner_has(address: str, network: str) -> None:
    assert network_of(address) == network
