"""What a picture of some size could become, and small copies for browsers that cannot show the file."""

from __future__ import annotations

import asyncio
import io
from typing import Any
from urllib.parse import unquote

import httpx
import numpy as np
import pillow_heif
import pytest
from PIL import Image

from core.config import Settings
from tests.helpers import assert_error, b64, decode, encode, fake_models, ready, sample_crop, serving
from tests.serving.gated_service import gated_service
from workers.speed import Speed

ASKED = [(target, fit, None) for fit in ("passes", "exact") for target in ("2k", "4k", "8k")] + [
    (None, None, 2.0),
    (None, None, 4.0),
]


async def sizes_of(client: httpx.AsyncClient, **params: Any) -> dict[str, Any]:
    response = await client.get("/plan", params=params)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


async def test_every_size_is_there_and_is_what_a_request_for_it_is_planned_to_give(client: httpx.AsyncClient) -> None:
    body = await sizes_of(client, width=60, height=40)
    assert [(one["target_resolution"], one["fit"], one["scale"]) for one in body["sizes"]] == ASKED
    for size in body["sizes"]:
        asked = {name: size[name] for name in ("target_resolution", "fit", "scale") if size[name] is not None}
        plan = (await client.post("/plan", json={"image_b64": b64(encode(sample_crop(60, 40))), **asked})).json()
        assert size["possible"]
        assert size["predicted_seconds"].keys() == {"photo", "anime", "photo_fast", "anime_fast"}
        for name in ("upscaled_size", "upscaling_strategy", "total_scale", "memory_bytes", "warnings"):
            assert size[name] == plan[name], name


async def test_what_is_out_of_reach_says_why(client: httpx.AsyncClient) -> None:
    body = await sizes_of(client, width=3840, height=10)
    possible = {(one["target_resolution"] or one["scale"], one["fit"]): one["possible"] for one in body["sizes"]}
    assert [key for key, is_possible in possible.items() if is_possible] == [("8k", "passes"), ("8k", "exact"), (2.0, None)]
    too_small = body["sizes"][0]
    assert too_small["code"] == "image_too_large"
    assert "1024 px" in too_small["error"]
    assert not any(one["possible"] for one in (await sizes_of(client, width=7680, height=7680))["sizes"])


async def test_transparency_takes_twice_the_work(settings: Settings) -> None:
    async with serving(settings, lambda _: fake_models()) as (client, service):
        await ready(client)
        service._admission.speeds = {"cpu": Speed(0.0, seconds_per_flop=1e-5)}
        for alpha, seconds in (("false", 1.7), ("true", 3.4)):  # passes of 100×100 and 400×400, a FLOP for each pixel
            body = await sizes_of(client, width=100, height=100, alpha=alpha)
            assert body["sizes"][0]["predicted_seconds"]["photo"] == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("query", "code", "field"),
    [
        ("", "missing_field", "width"),
        ("width=10", "missing_field", "height"),
        ("width=0&height=1", "out_of_range", "width"),
        ("width=1.5&height=1", "wrong_type", "width"),
        ("width=x&height=1", "wrong_type", "width"),
        ("width=1&height=58982401", "out_of_range", "height"),
        ("width=1&width=2&height=1", "repeated_field", "width"),
        ("width=1&height=1&alpha=yes", "wrong_type", "alpha"),
    ],
)
async def test_a_wrong_parameter_is_named(client: httpx.AsyncClient, query: str, code: str, field: str) -> None:
    response = await client.get(f"/plan?{query}")
    assert_error(response, 400, code)
    assert response.json()["field"] == field


async def test_unknown_parameters_are_ignored_and_named(client: httpx.AsyncClient) -> None:
    assert (await sizes_of(client, width=60, height=40))["warnings"] == []
    (warning,) = (await sizes_of(client, width=60, height=40, fit="exact"))["warnings"]
    assert warning == "Ignored unknown fields: 'fit'. Known fields are width, height, enhance_faces, alpha."

    file = encode(sample_crop(30, 20))
    raw = await client.post("/preview?max_px=16", content=file, headers={"Content-Type": "image/png"})
    assert raw.headers["X-Upscale-Warnings"] == ""
    raw = await client.post("/preview?px=16", content=file, headers={"Content-Type": "image/png"})
    assert unquote(raw.headers["X-Upscale-Warnings"]) == "Ignored unknown fields: 'px'. Known fields are max_px."
    body = await client.post("/preview", json={"image_b64": b64(file), "px": 16})
    assert unquote(body.headers["X-Upscale-Warnings"]).endswith("Known fields are image_b64, max_px.")


async def test_what_of_a_file_could_not_be_used_is_said_with_its_preview(client: httpx.AsyncClient) -> None:
    file = encode(sample_crop(30, 20), "JPEG", icc_profile=b"no profile")
    response = await client.post("/preview", content=file, headers={"Content-Type": "image/jpeg"})
    assert "profile" in unquote(response.headers["X-Upscale-Warnings"])


async def test_more_pixels_than_are_opened_are_refused_as_the_image_would_be(client: httpx.AsyncClient) -> None:
    assert_error(await client.get("/plan?width=7681&height=7680"), 400, "too_many_pixels")


async def test_a_preview_is_upright_small_and_tells_the_size(client: httpx.AsyncClient) -> None:
    image = sample_crop(120, 80)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = encode(Image.fromarray(image), "JPEG", exif=exif)
    response = await client.post("/preview?max_px=60", content=file, headers={"Content-Type": "image/jpeg"})
    assert response.headers["Content-Type"] == "image/jpeg"
    assert response.headers["X-Upscale-Original-Size"] == "80x120"
    small = decode(response.content)[0].pixels
    assert small.shape == (60, 40, 3)
    expected = np.asarray(Image.fromarray(np.rot90(image, -1)).resize((40, 60), Image.Resampling.LANCZOS), int)
    assert np.abs(small.astype(int) - expected).mean() < 6


async def test_a_preview_is_not_enlarged_and_keeps_transparency(client: httpx.AsyncClient) -> None:
    pixels = np.dstack([sample_crop(30, 20), np.full((20, 30), 100, np.uint8)])
    response = await client.post("/preview", json={"image_b64": b64(encode(pixels))})
    assert response.headers["Content-Type"] == "image/png"
    alpha = decode(response.content)[0].alpha
    assert alpha is not None
    assert np.array_equal(alpha, pixels[..., 3])


async def test_a_heic_is_shown(client: httpx.AsyncClient) -> None:
    file = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(sample_crop(64, 48))).save(file)
    response = await client.post("/preview", content=file.getvalue(), headers={"Content-Type": "image/heic"})
    assert decode(response.content)[0].pixels.shape == (48, 64, 3)


async def test_a_limit_is_said_in_digits(client: httpx.AsyncClient) -> None:
    response = await client.get("/plan?width=0&height=1")
    assert assert_error(response, 400, "out_of_range")["error"] == "width must be from 1 to 58982400, not 0."


async def test_a_wrong_request_for_a_preview_says_why(client: httpx.AsyncClient) -> None:
    for query, body, code in [
        ("max_px=0", encode(sample_crop(8, 8)), "out_of_range"),
        ("", b"no picture", "not_an_image"),
        ("", encode(sample_crop(60, 40), "JPEG")[:-300], "broken_image"),
    ]:
        response = await client.post(f"/preview?{query}", content=body, headers={"Content-Type": "image/png"})
        assert_error(response, 400, code)


async def test_a_service_that_drains_makes_no_preview(settings: Settings) -> None:
    async with gated_service(settings) as h, asyncio.TaskGroup() as clients:
        running = clients.create_task(h.post(10))
        await h.queue_is(running=1, waiting=0)
        h.service.stop()
        response = await h.client.post("/preview", content=encode(sample_crop(30, 20)), headers={"Content-Type": "image/png"})
        assert_error(response, 503, "shutting_down")
        h.resolver.gate.set()
    assert running.result().status_code == 200
