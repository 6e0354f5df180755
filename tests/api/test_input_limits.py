"""INPUT_FORMATS and MAX_IMAGE_MB over HTTP, and a byte order mark before JSON."""

from __future__ import annotations

from codecs import BOM_UTF8

import httpx
import numpy as np
import orjson
import pytest
from PIL import Image

from core.config import MIB, Settings
from tests.helpers import assert_error, b64, encode, fake_models, ready, serving, with_settings

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))
PNG, BMP = encode(PICTURE), encode(PICTURE, "BMP")
JSON = {"Content-Type": "application/json"}
RAW = {"Content-Type": "application/octet-stream"}
PLAN = "/plan?target_resolution=2k"


@pytest.mark.parametrize(("megabytes", "body_mb"), [(1, 16), (20, 46)])
async def test_every_limit_follows_that_of_files(settings: Settings, megabytes: int, body_mb: int) -> None:
    async with serving(with_settings(settings, max_image_mb=megabytes), lambda _: fake_models()) as (client, _):
        await ready(client)
        assert (await client.get("/health")).json()["max_image_size_mb"] == megabytes
        image = BMP + bytes(megabytes * MIB - len(BMP))
        for body, headers in ((image, RAW), (orjson.dumps({"image_b64": b64(image)}), JSON)):
            response = await client.post(PLAN, content=body, headers=headers)
            assert response.status_code == 200, response.text
        raw = await client.post(PLAN, content=image + b"\0", headers=RAW)
        assert f"over {megabytes} MB" in assert_error(raw, 413, "body_too_large")["error"]
        inside = await client.post(PLAN, json={"image_b64": b64(image + b"\0\0\0\0")})
        assert f"the limit is {megabytes} MB" in assert_error(inside, 400, "file_too_large")["error"]
        outside = await client.post(PLAN, content=bytes(body_mb * MIB + 1), headers=JSON)
        error = assert_error(outside, 413, "body_too_large")["error"]
        assert f"over {body_mb} MB" in error and f"up to {megabytes} MB" in error


async def test_a_format_that_is_left_out_is_refused_with_those_that_are_not(settings: Settings) -> None:
    narrow = with_settings(settings, input_formats="png,jpeg")
    async with serving(narrow, lambda _: fake_models()) as (client, _):
        await ready(client)
        assert (await client.post(PLAN, content=PNG, headers=RAW)).status_code == 200
        for name in ("BMP", "TIFF", "WEBP", "GIF", "AVIF"):
            response = await client.post(PLAN, content=encode(PICTURE, name), headers=RAW)
            assert assert_error(response, 400, "unsupported_format")["error"].endswith("Send PNG or JPEG.")


@pytest.mark.parametrize("blanks", [0, 2 * MIB])
async def test_a_byte_order_mark_before_json_is_skipped(client: httpx.AsyncClient, blanks: int) -> None:
    body = BOM_UTF8 + orjson.dumps({"image_b64": b64(PNG) + " " * blanks})
    response = await client.post(PLAN, content=body, headers=JSON)
    assert response.status_code == 200, response.text
