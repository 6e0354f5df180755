"""When the heartbeat beats, what it says, and how it ends."""

from __future__ import annotations

import asyncio
import logging

import httpx
import pytest

from core.config import Settings
from outbound.heartbeat import Heartbeat
from tests.helpers import HANG_SECONDS, advance_clock
from tests.outbound.registry import DESCRIPTION, PUBLIC_URL, Registry, heartbeat, own_warnings, running, silence, status


async def test_first_beat_comes_at_once_and_says_where_what_and_how(registry: Registry) -> None:
    async with running(heartbeat(registry.url, heartbeat_seconds=3600.0)):
        beat = await registry.next_beat()
    assert beat.request_line == "POST /register HTTP/1.1"
    assert beat.headers["content-type"] == "application/json"
    assert beat.content == {"url": PUBLIC_URL, "type": "upscale", **DESCRIPTION}


async def test_beats_go_on_and_each_asks_again_how_the_service_is(registry: Registry) -> None:
    states = iter(["starting", "healthy", "degraded"])
    settings = Settings(registry_url=registry.url, public_url=PUBLIC_URL, heartbeat_seconds=0.01)
    async with running(Heartbeat(settings, lambda: {"status": next(states, "healthy")})):
        seen = [(await registry.next_beat()).content["status"] for _ in range(3)]
    assert seen == ["starting", "healthy", "degraded"]


async def test_interval_counts_from_the_start_of_a_beat(registry: Registry) -> None:
    now = 0.0

    def describe() -> dict[str, object]:
        """Takes an hour, all of the interval, on the injected clock."""
        nonlocal now
        now += 3600.0
        return {}

    settings = Settings(registry_url=registry.url, public_url=PUBLIC_URL, heartbeat_seconds=3600.0)
    async with running(Heartbeat(settings, describe, clock=lambda: now)):
        await registry.next_beat()
        await registry.next_beat()


async def test_age_of_the_last_success_is_none_before_and_grows_after(registry: Registry) -> None:
    now = 100.0
    settings = Settings(registry_url=registry.url, public_url=PUBLIC_URL, heartbeat_seconds=3600.0)
    beating = Heartbeat(settings, lambda: {}, clock=lambda: now)
    assert beating.seconds_since_success is None
    async with running(beating):
        await registry.next_beat()
    now = 107.5
    assert beating.seconds_since_success == 7.5


async def test_last_beat_says_draining_without_waiting_for_the_interval(registry: Registry) -> None:
    async with running(heartbeat(registry.url, heartbeat_seconds=3600.0)):
        await registry.next_beat()
    assert (await registry.next_beat()).content == {"url": PUBLIC_URL, "type": "upscale", **DESCRIPTION, "status": "draining"}
    assert registry.beats.empty()


async def test_stopped_before_it_began_says_draining_alone(registry: Registry) -> None:
    stop = asyncio.Event()
    stop.set()
    await heartbeat(registry.url).run(stop)
    assert (await registry.next_beat()).content["status"] == "draining"
    assert registry.beats.empty()


async def test_hanging_registry_holds_up_the_shutdown_for_one_timeout_at_most(registry: Registry) -> None:
    registry.respond = silence
    beating = heartbeat(registry.url, timeout_seconds=3600.0)
    stop = asyncio.Event()
    task = asyncio.create_task(beating.run(stop))
    await registry.next_beat()
    stop.set()
    assert (await registry.next_beat()).content["status"] == "draining"  # while the first has no response yet
    advance_clock(3600.0)
    await asyncio.wait_for(task, HANG_SECONDS)
    assert beating.seconds_since_success is None


async def test_hanging_registry_is_given_up_and_asked_again(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    registry.respond = silence
    beating = heartbeat(registry.url, timeout_seconds=0.1)
    async with running(beating):
        await registry.next_beat()
        await registry.next_beat()
        registry.respond = status("200 OK")
    assert "no answer within 0.1 s" in own_warnings(caplog)[0]


async def test_cancelled_task_ends_and_leaves_no_other_task_behind(registry: Registry) -> None:
    task = asyncio.create_task(heartbeat(registry.url).run(asyncio.Event()))
    await registry.next_beat()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "_beat_forever" not in str(asyncio.all_tasks())


async def test_registry_that_went_away_gets_beats_again_when_it_is_back(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    failed_often = asyncio.Event()

    def retry_soon() -> float:
        failures.append(1)
        if len(failures) == 3:
            failed_often.set()
        return 0.001

    failures: list[int] = []
    caplog.set_level(logging.DEBUG, logger="outbound.heartbeat")
    settings = Settings(registry_url=registry.url, public_url=PUBLIC_URL, heartbeat_seconds=0.01)
    beating = Heartbeat(settings, lambda: dict(DESCRIPTION), rng=retry_soon)
    async with running(beating) as task:
        await registry.next_beat()
        await registry.close()
        await asyncio.wait_for(failed_often.wait(), HANG_SECONDS)
        while not registry.beats.empty():
            registry.beats.get_nowait()
        await registry.open()
        await registry.next_beat()
        await registry.next_beat()  # so the first has been accepted
        assert not task.done()
    broke, recovered = own_warnings(caplog)
    assert "ConnectError" in broke
    assert "accepted again" in recovered


@pytest.mark.parametrize("flaw", [{"status": object()}, {"status": float("nan")}, None])
async def test_service_that_cannot_describe_itself_is_logged_and_still_announced(
    registry: Registry, caplog: pytest.LogCaptureFixture, flaw: dict[str, object] | None
) -> None:
    def describe() -> dict[str, object]:
        if flaw is None:
            raise RuntimeError("a defect of ours")
        return flaw

    settings = Settings(registry_url=registry.url, public_url=PUBLIC_URL, heartbeat_seconds=0.01)
    async with running(Heartbeat(settings, describe)):
        assert (await registry.next_beat()).content == {"url": PUBLIC_URL, "type": "upscale"}
        await registry.next_beat()
    assert any(record.exc_info for record in caplog.records if record.name == "outbound.heartbeat")


async def test_transport_can_be_handed_in() -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    def hear(request: httpx.Request) -> httpx.Response:
        heard.put_nowait(request.content)
        return httpx.Response(200)

    settings = Settings(registry_url="http://registry.invalid/", public_url=PUBLIC_URL, heartbeat_seconds=3600.0)
    async with running(Heartbeat(settings, lambda: DESCRIPTION, transport=httpx.MockTransport(hear))):
        assert PUBLIC_URL.encode() in await asyncio.wait_for(heard.get(), HANG_SECONDS)
