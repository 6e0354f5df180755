"""`scale` over a real socket: sizes of results, what is said of them, and what conflicts with it."""

from __future__ import annotations

import base64
import io
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from core.config import Settings
from storage.job_store import JobStore
from tests.helpers import assert_error, b64, encode
from tests.serving.gated_service import ASYNC, gated_service

PICTURE = encode(np.zeros((7, 11, 3), np.uint8))


def fields(**more: Any) -> dict[str, Any]:
    return {"image_b64": b64(PICTURE), **more}


@pytest.mark.parametrize(
    ("scale", "passes", "size"), [(2, [2], (22, 14)), (1.5, [2], (16, 10)), (3, [4], (33, 21)), (5, [4, 2], (55, 35))]
)
async def test_the_result_has_exactly_that_size(
    client: httpx.AsyncClient, scale: float, passes: list[int], size: tuple[int, int]
) -> None:
    body = (await client.post("/upscale", json=fields(scale=scale))).json()
    assert Image.open(io.BytesIO(base64.b64decode(body["base64"]))).size == size
    assert body["upscaled_size"] == {"width": size[0], "height": size[1]}
    assert (body["target_resolution"], body["upscaling_strategy"], body["total_scale"]) == (None, passes, size[0] / 11)
    plan = (await client.post("/plan", json=fields(scale=scale))).json()
    for name in ("upscaled_size", "target_resolution", "upscaling_strategy", "total_scale"):
        assert plan[name] == body[name]


async def test_a_raw_response_names_no_target(client: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "image/png", "Accept": "image/*"}
    response = await client.post("/upscale?scale=2", content=PICTURE, headers=headers)
    assert (response.status_code, response.headers["x-upscale-size"]) == (200, "22x14")
    assert response.headers["x-upscale-target-resolution"] == ""


async def test_what_conflicts_or_does_not_fit_is_refused(client: httpx.AsyncClient) -> None:
    for other in ({"target_resolution": "4k"}, {"fit": "passes"}):
        response = await client.post("/upscale", json=fields(scale=2, **other))
        assert assert_error(response, 400, "conflicting_fields")["field"] == "scale"
    assert_error(await client.post("/plan?scale=2", json=fields(fit="exact")), 400, "conflicting_fields")
    long = b64(encode(np.zeros((1, 1000), np.uint8)))
    error = assert_error(await client.post("/upscale", json={"image_b64": long, "scale": 7.7}), 400, "image_too_large")
    assert "the largest scale that fits is 7.68" in error["error"]
    assert (await client.post("/plan", json={"image_b64": long, "scale": error["max_scale"]})).status_code == 200


async def test_a_job_with_a_scale_is_kept_and_is_another_than_one_without(settings: Settings) -> None:
    async with gated_service(settings) as h:
        h.resolver.gate.set()
        job = (await h.client.put("/jobs/with-a-scale", json=fields(scale=2))).json()
        assert (job["status"], job["plan"]["target_resolution"], job["result"]["target_resolution"]) == (
            "succeeded",
            None,
            None,
        )
        again = await h.client.put("/jobs/with-a-scale", json=fields(scale=2.0), headers=ASYNC)
        assert again.json() == job
        assert_error(await h.client.put("/jobs/with-a-scale", json=fields()), 409, "job_conflict")
        record = JobStore(settings.output_dir).load("with-a-scale")
        assert record
        assert record.plan.target_resolution is None
