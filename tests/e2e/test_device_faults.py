"""Faults of the network and of the device's thread, in this process."""

from __future__ import annotations

import asyncio
import base64
import ctypes
import io
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from unittest import mock

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from core.config import Settings
from core.progress import Progress
from imaging.encode import encode_image
from model_utility import Models
from models.checkpoint import load_state_dict
from models.engines.rrdbnet import build_rrdbnet
from models.engines.torch_engine import TorchEngine
from models.super_resolution import SuperResolver
from tests.e2e.faults import golden_bytes, new_picture
from tests.helpers import WEIGHTS, FakeResolver, assert_error, b64, decode, fake_models, psnr, ready, serving

pytestmark = pytest.mark.xdist_group("faults")  # they share a server

# the network, in this process


@pytest.fixture(scope="module", autouse=True)
def torchs_engine() -> Iterator[None]:
    """It alone has hooks to raise faults in, and shortages as a GPU has them."""
    with mock.patch("models.super_resolution.build_engine", TorchEngine):
        yield


@pytest.fixture(scope="module")
def golden(models: Models) -> Callable[[bytes], bytes]:
    """The right response's bytes, by that engine."""
    network = build_rrdbnet(load_state_dict(WEIGHTS / "RealESRGAN_x4plus.pth"), 4)
    resolver = SuperResolver({4: network}, models.super_resolvers["photo"].device)
    return partial(golden_bytes, replace(models, super_resolvers={"photo": resolver}))


@asynccontextmanager
async def faulty(settings: Settings, models: Models, faults: list[Exception]) -> AsyncIterator[httpx.AsyncClient]:
    """The service with the real model, one of whose blocks raises the `faults`, one a call, until there are none left."""
    network = build_rrdbnet(load_state_dict(WEIGHTS / "RealESRGAN_x4plus.pth"), 4)

    def fail(*_: object) -> None:
        if faults:
            raise faults.pop()

    network.conv_body.register_forward_pre_hook(fail)
    resolver = SuperResolver({4: network}, models.super_resolvers["photo"].device)

    class ColdModels(Models):
        def run_all_once(self) -> None:
            """Nothing."""

        def warm_up(self, side_px: int, progress: Progress) -> None:
            """Nothing but its work told: the faults are for requests."""
            progress.advance(self.super_resolvers["photo"].flops(side_px, side_px, 4))

    faulty_models = ColdModels(**{**vars(models), "super_resolvers": {"photo": resolver}})
    async with serving(settings, lambda _: faulty_models) as (client, _):
        await ready(client)
        yield client


async def ask(client: httpx.AsyncClient, image: bytes) -> httpx.Response:
    return await client.post("/upscale", json={"image_b64": b64(image), "target_resolution": "2k"})


def bytes_of(response: httpx.Response) -> bytes:
    assert response.status_code == 200, response.text
    return base64.b64decode(response.json()["base64"])


async def test_an_exception_in_the_network_is_a_500_and_the_next_response_is_right(
    settings: Settings, models: Models, golden: Callable[[bytes], bytes]
) -> None:
    async with faulty(settings, models, [ValueError("in block 17")]) as client:
        assert_error(await ask(client, new_picture()), 500, "internal_error")
        image = new_picture()
        assert bytes_of(await ask(client, image)) == golden(image)


@pytest.mark.parametrize(
    "shortage",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("GET was unable to find an engine to execute this computation"),  # all that cuDNN says of it
    ],
    ids=["torch", "cuDNN"],
)
async def test_a_lack_of_memory_in_the_network_costs_tiles_and_not_the_response(
    settings: Settings, models: Models, golden: Callable[[bytes], bytes], shortage: RuntimeError
) -> None:
    async with faulty(settings, models, [shortage]) as client:
        image = new_picture()
        response = await ask(client, image)
        tiled, whole = (Image.open(io.BytesIO(data)) for data in (bytes_of(response), golden(image)))
        assert psnr(np.asarray(tiled), np.asarray(whole)) > 35
        assert any("Memory ran out" in warning for warning in response.json()["warnings"])
        again = await ask(client, image)  # what was made in a shortage is not kept for the next
        assert (bytes_of(again), again.json()["cached"]) == (golden(image), False)


async def test_a_lack_of_memory_for_good_is_an_error_and_the_next_response_is_right(
    settings: Settings, models: Models, golden: Callable[[bytes], bytes]
) -> None:
    faults: list[Exception] = [torch.OutOfMemoryError("CUDA out of memory")] * 100
    async with faulty(settings, models, faults) as client:
        assert_error(await ask(client, new_picture()), 503, "out_of_memory")
        faults.clear()
        image = new_picture()
        assert bytes_of(await ask(client, image)) == golden(image)


# the device's thread, in this process


def kill_device_thread() -> None:
    """Python's only way to kill a thread: at its next step it raises what asks it to end, wherever that is."""
    (thread,) = (thread for thread in threading.enumerate() if thread.name.startswith("device"))
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit)) == 1


@pytest.mark.no_cover  # Python 3.11 traces for ever while another thread has an exception pending
@pytest.mark.parametrize("times", [1, 3])
async def test_an_idle_device_thread_that_is_killed_is_replaced(settings: Settings, times: int) -> None:
    async with serving(settings, lambda _: fake_models()) as (client, _):
        await ready(client)
        for _ in range(times):
            kill_device_thread()
            image = new_picture()
            assert_repeats_pixels(await ask(client, image), image)


@pytest.mark.no_cover
async def test_a_busy_device_thread_that_is_killed_costs_no_request(settings: Settings) -> None:
    resolver = FakeResolver()
    async with serving(settings, lambda _: fake_models(resolver)) as (client, service):
        await ready(client)
        resolver.gate.clear()
        resolver.entered.clear()
        first_image, image = new_picture(), new_picture()
        first = asyncio.create_task(ask(client, first_image))
        await asyncio.to_thread(resolver.entered.wait)
        waiting = asyncio.create_task(ask(client, image))
        kill_device_thread()
        resolver.gate.set()
        assert_repeats_pixels(await first, first_image)
        assert_repeats_pixels(await waiting, image)
        assert 'upscale_retries_total{device="cpu"} 1.0' in (await client.get("/metrics")).text
        assert service.health().queue.running == 0


def assert_repeats_pixels(response: httpx.Response, image: bytes) -> None:
    picture, _ = decode(image)
    repeated = replace(picture, pixels=picture.pixels.repeat(2, axis=0).repeat(2, axis=1))
    assert bytes_of(response) == encode_image(repeated, "jpeg", 95)[0]
