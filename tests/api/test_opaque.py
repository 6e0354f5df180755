"""Alpha that is full throughout is no alpha: the same work, format and bytes as without it, over a real socket."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from PIL import Image

from core.config import Settings
from serving import decoding, planning
from tests.helpers import FakeResolver, assert_error, b64, encode, fake_models, ready, sample_crop, serving
from tests.serving.gated_service import ASYNC, gated_service
from workers.speed import Speed

PIXELS = sample_crop(40, 30)
IMAGE = Image.fromarray(PIXELS)


def with_alpha(alpha: int) -> Image.Image:
    image = IMAGE.copy()
    image.putalpha(255)
    image.putpixel((7, 5), (*PIXELS[5, 7], alpha))
    return image


def palette() -> Image.Image:
    return IMAGE.quantize(16)


OPAQUE: dict[str, tuple[bytes, bytes]] = {  # and the same without alpha
    "RGBA as PNG": (encode(with_alpha(255)), encode(PIXELS)),
    "gray with alpha": (encode(with_alpha(255).convert("LA")), encode(with_alpha(255).convert("L"))),
    "palette with tRNS": (encode(palette(), transparency=b"\xff" * 16), encode(palette())),
    "a colour key that no pixel has": (encode(IMAGE, transparency=(1, 2, 3)), encode(PIXELS)),
    "WebP": (encode(with_alpha(255), "WEBP", lossless=True, exact=True), encode(PIXELS)),
}


class Counting(FakeResolver):
    """Counts the planes that reach the network."""

    def __init__(self) -> None:
        super().__init__()
        self.planes = 0

    def super_resolve(self, *arguments: Any) -> Any:
        self.planes += 1
        return super().super_resolve(*arguments)


@pytest.mark.parametrize("name", OPAQUE)
async def test_work_format_and_bytes_are_those_without_alpha(settings: Settings, name: str) -> None:
    resolver = Counting()
    answers: list[tuple[Any, ...]] = []
    async with serving(settings, lambda _: fake_models(resolver)) as (client, service):
        await ready(client)
        for data in OPAQUE[name]:
            body = {"image_b64": b64(data), "target_resolution": "2k"}
            service._admission.speeds["cpu"] = Speed(0, 1e-6)
            plan = (await client.post("/plan", json=body)).json()
            resolver.planes = 0
            upscaled = (await client.post("/upscale", json={**body, "quality": 94 + len(answers)})).json()
            answers.append((plan["format"], plan["predicted_seconds"], upscaled["format"], upscaled["warnings"]))
            assert resolver.planes in (0, 3), "alpha had passes of its own"
        raw = await client.post(
            "/upscale", content=OPAQUE[name][0], headers={"Content-Type": "image/png", "Accept": "image/*"}
        )
        assert raw.headers["content-type"] == "image/jpeg"
        files = [
            (await client.post("/upscale", content=data, headers={"Content-Type": "image/png", "Accept": "image/png"})).content
            for data in OPAQUE[name]
        ]
    assert answers == [("jpeg", pytest.approx(40 * 30 * (1 + 16 + 256) / 1e6, abs=0.001), "jpeg", [])] * 2
    assert files[0] == files[1]


async def test_one_pixel_that_shows_through_is_alpha(client: httpx.AsyncClient) -> None:
    body = {"image_b64": b64(encode(with_alpha(254))), "target_resolution": "2k"}
    assert (await client.post("/plan", json=body)).json()["format"] == "png"
    upscaled = (await client.post("/upscale", json=body)).json()
    assert upscaled["format"] == "png"
    headers = {"Content-Type": "image/png", "Accept": "image/gif"}
    assert_error(await client.post("/upscale", content=encode(with_alpha(254)), headers=headers), 406, "not_acceptable")


async def test_a_large_picture_is_planned_as_its_header_says(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "LARGE_PIXELS", 100)
    for alpha in (254, 255):
        body = {"image_b64": b64(encode(with_alpha(alpha))), "target_resolution": "2k"}
        plan = (await client.post("/plan", json=body)).json()
        assert (plan["format"], plan["warnings"]) == ("png", [planning._ALPHA_NOT_READ])
    assert (await client.post("/upscale", json=body)).json()["format"] == "jpeg"
    body = {"image_b64": b64(encode(PIXELS)), "target_resolution": "2k"}
    assert (await client.post("/plan", json=body)).json()["warnings"] == []


@pytest.mark.parametrize(("alpha", "usual", "other"), [(255, "jpeg", "png"), (254, "png", "jpeg")])
async def test_a_job_in_the_usual_format_is_the_same_however_that_is_asked(
    settings: Settings, alpha: int, usual: str, other: str
) -> None:
    body: dict[str, Any] = {"image_b64": b64(encode(with_alpha(alpha))), "target_resolution": "2k"}
    async with gated_service(settings) as h:
        for job_id, first, second in (("my-job-1", {}, {"output_format": usual}), ("my-job-2", {"output_format": usual}, {})):
            for more in (first, second):
                response = await h.client.put(f"/jobs/{job_id}", json=body | more, headers=ASYNC)
                assert response.status_code == 202, response.text
            conflict = await h.client.put(f"/jobs/{job_id}", json={**body, "output_format": other}, headers=ASYNC)
            assert_error(conflict, 409, "job_conflict")
