"""GET /livez: whether the process lives, whatever it can serve."""

from __future__ import annotations

import asyncio
import threading

import httpx

from core.config import Settings
from model_utility import Models
from tests.helpers import HANG_SECONDS, assert_error, fake_models, serving, with_settings
from tests.serving.gated_service import gated_service


async def is_alive(client: httpx.AsyncClient) -> bool:
    response = await client.get("/livez")
    return (response.status_code, response.json()) == (200, {"alive": True})


async def test_it_lives_while_the_models_load_and_needs_no_key(settings: Settings) -> None:
    may_load = threading.Event()

    def load(_: Settings) -> Models:
        assert may_load.wait(HANG_SECONDS)
        return fake_models()

    async with serving(with_settings(settings, api_key="key"), load) as (client, _):
        try:
            assert (await client.get("/health")).status_code == 503
            assert await is_alive(client)
            assert_error(await client.get("/metrics"), 401, "unauthorized")
        finally:
            may_load.set()


async def test_it_lives_while_the_service_drains(settings: Settings) -> None:
    async with gated_service(settings) as h, asyncio.TaskGroup() as clients:
        running = clients.create_task(h.post(10))
        await h.queue_is(running=1, waiting=0)
        h.service.stop()
        assert (await h.client.get("/health")).status_code == 503
        assert await is_alive(h.client)
        h.resolver.gate.set()
    assert running.result().status_code == 200
