"""Wherever memory runs out, a request gets 503 and the next one is served."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import pytest
import torch

from core.config import Settings
from imaging.encode import encode_image
from models.device_faults import is_out_of_memory
from tests.helpers import FakeResolver, assert_error, decode, encode, fake_models, ready, sample_crop, serving
from tests.serving.gated_service import ASYNC, request_fields

OF_DEVICE: dict[str, Exception] = {
    "engine": MemoryError("the smallest tiles do not fit"),
    "torch": RuntimeError(
        "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
    ),
    "card": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
}
STEPS = ("decode", "encode", "parse", "save", "body", *OF_DEVICE)


def fail(*_: Any, **__: Any) -> Any:
    raise MemoryError("no more of it")


def break_step(step: str, resolver: FakeResolver, monkeypatch: pytest.MonkeyPatch) -> None:
    if step in OF_DEVICE:
        resolver.error = OF_DEVICE[step]
    elif step == "body":
        monkeypatch.setattr("api.requests.bytearray", fail, raising=False)
    else:
        places = {"decode": "serving.decoding.decode_image", "encode": "serving.dispatcher.encode_image"}
        places |= {"parse": "serving.lifecycle.parse_request", "save": "storage.result_store.write_atomically"}
        monkeypatch.setattr(places[step], fail)


@pytest.mark.parametrize("step", STEPS)
async def test_a_lack_of_memory_is_503_and_one_line_wherever_it_is_met(
    settings: Settings, caplog: pytest.LogCaptureFixture, step: str
) -> None:
    resolver = FakeResolver()
    models = replace(fake_models(resolver), is_out_of_memory=is_out_of_memory)
    async with serving(settings, lambda _: models) as (client, service):
        await ready(client)
        with pytest.MonkeyPatch.context() as monkeypatch:
            break_step(step, resolver, monkeypatch)
            refused = await client.post("/upscale", json=request_fields(10))
            body = assert_error(refused, 503, "out_of_memory")
            assert int(refused.headers["retry-after"]) == body["retry_after_seconds"] >= 1
            errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
            assert [record.getMessage().startswith("out of memory: ") for record in errors] == [True]
            assert "Traceback" not in caplog.text
            started = await client.post("/upscale", json=request_fields(20), headers=ASYNC)
            if started.status_code == 202:
                async with client.stream("GET", started.json()["urls"]["events"]) as events:
                    await events.aread()
                job = (await client.get(started.json()["urls"]["get"])).json()
                assert (job["status"], job["error"]["code"]) == ("failed", "out_of_memory")
            else:
                assert_error(started, 503, "out_of_memory")
        resolver.error = None
        assert (await client.post("/upscale", json=request_fields(10))).status_code == 200
        assert (service.health().queue.running, service.health().queue.waiting) == (0, 0)


@pytest.mark.parametrize(
    "error", [OSError("out of memory when reading image file"), ValueError("encoding error 1"), MemoryError()]
)
def test_a_codec_without_memory_says_nothing_of_the_picture(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    picture, _ = decode(encode(sample_crop(8, 8)))
    failing = failing_with(error)
    with monkeypatch.context() as broken, pytest.raises(MemoryError):
        broken.setattr("imaging.decode._decode_others", failing)
        decode(encode(sample_crop(8, 8)))
    with monkeypatch.context() as broken, pytest.raises(MemoryError):
        broken.setattr("PIL.Image.Image.save", failing)
        encode_image(picture, "webp", 90)


def failing_with(error: Exception) -> Callable[..., Any]:
    def raise_error(*_: Any, **__: Any) -> Any:
        raise error

    return raise_error


def test_opencv_and_torch_without_memory_are_known() -> None:
    with pytest.raises(cv2.error) as caught:
        cv2.resize(sample_crop(8, 8), (2**26, 2**26))  # more than there are addresses
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(RuntimeError("std::bad_alloc"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
