"""HTTP: errors, health and admission over a real socket, with a fake network behind the real pipeline."""

from __future__ import annotations

from config import Settings
from tests.conftest import b64, encode, fake_upscaler, ready, sample_crop, serving


async def test_a_request_gets_its_picture(settings: Settings) -> None:
    async with serving(settings, lambda _: fake_upscaler()) as (client, _):
        await ready(client)
        answer = await client.post("/upscale", json={"image_b64": b64(encode(sample_crop(60, 40))), "target_resolution": "2k"})
    assert answer.status_code == 200
    assert answer.json()["upscaling_strategy"] == [4, 4, 2]
