"""What a request would give and take, without running it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import httpx
import numpy as np
import pytest

from bench.server import ROOT
from core.config import Settings
from tests.helpers import WEIGHTS, assert_error, b64, encode, files_in, sample_crop, with_settings
from tests.serving.gated_service import gated_service, request_fields

PHOTOGRAPH = encode(sample_crop(60, 40), "JPEG")
WRONG: list[Any] = [
    {},
    [],
    {"image_b64": 7},
    {"image_b64": "%"},
    {"image_b64": b64(b"no picture")},
    {"image_b64": b64(PHOTOGRAPH[:-300])},
    {"image_b64": b64(encode(sample_crop(60, 40))[:-40])},
    {"image_b64": b64(encode(np.zeros((10, 1025), np.uint8))), "target_resolution": "2k"},
    request_fields(target_resolution="16k"),
    request_fields(quality=0),
    request_fields(output_format="gif"),
    request_fields(fit=1),
]


@pytest.mark.parametrize("body", WRONG)
async def test_a_wrong_request_gets_the_error_that_it_would_get(client: httpx.AsyncClient, body: Any) -> None:
    real, planned = [await client.post(path, json=body) for path in ("/upscale", "/plan")]
    assert real.status_code == 400
    assert_error(planned, 400, real.json()["code"])
    assert planned.json() | {"request_id": ""} == real.json() | {"request_id": ""}


async def test_other_refusals_are_the_same_too(client: httpx.AsyncClient) -> None:
    for path in ("/upscale", "/plan"):
        assert_error(
            await client.post(path, content=b"x", headers={"Content-Type": "text/plain"}), 400, "invalid_content_type"
        )
        assert_error(
            await client.post(path, content=b"x" * (7 * 1024 * 1024 + 1), headers={"Content-Type": "image/png"}),
            413,
            "body_too_large",
        )
        assert_error(await client.delete(path), 405, "method_not_allowed")


@pytest.mark.parametrize(
    "body",
    [
        request_fields(),
        request_fields(fit="exact", unknown=1),
        {"image_b64": b64(encode(np.zeros((3, 2, 4), np.uint8))), "target_resolution": "8k"},
    ],
)
async def test_the_plan_is_what_the_request_then_does(
    client: httpx.AsyncClient, settings: Settings, body: dict[str, Any]
) -> None:
    planned = await client.post("/plan", json=body)
    assert planned.status_code == 200, planned.text
    assert files_in(settings) == []
    real, plan = (await client.post("/upscale", json=body)).json(), planned.json()
    same = ("success", "original_size", "upscaled_size", "target_resolution", "upscaling_strategy", "total_scale", "format")
    assert {name: plan[name] for name in same} == {name: real[name] for name in same}
    assert set(plan) == {*same, "predicted_seconds", "queue_seconds", "memory_bytes", "warnings"}
    assert set(plan["warnings"]) <= set(real["warnings"])
    assert plan["predicted_seconds"] >= 0
    assert plan["queue_seconds"] == 0


async def test_the_image_file_itself_can_be_planned(client: httpx.AsyncClient) -> None:
    response = await client.post("/plan?target_resolution=2k", content=PHOTOGRAPH, headers={"Content-Type": "image/jpeg"})
    assert response.json()["upscaled_size"] == {"width": 1920, "height": 1280}


async def test_the_wait_is_that_of_the_queue_and_a_full_one_refuses(settings: Settings) -> None:
    async with gated_service(with_settings(settings, queue_limit=1)) as h:
        running = await h.submit(10)
        await h.job_is(running["id"], "processing")
        one = (await h.client.post("/plan", json=request_fields())).json()
        assert one["queue_seconds"] == pytest.approx(one["predicted_seconds"], rel=0.01, abs=0.002)
        waiting = await h.submit(20)
        assert_error(await h.client.post("/plan", json=request_fields()), 503, "queue_full")
        await h.client.post(waiting["urls"]["cancel"])
        assert (await h.client.post("/plan", json=request_fields())).status_code == 200
        h.service.stop()
        assert_error(await h.client.post("/plan", json=request_fields()), 503, "shutting_down")


MEASURE = """
import re, sys
from pathlib import Path
import numpy as np
from core.progress import NullProgress
from models.checkpoint import load_state_dict
from models.device import select_device
from models.engines.rrdbnet import build_rrdbnet
from models.super_resolution import SuperResolver

def resident(key):
    return int(re.search(key + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

resolver = SuperResolver({4: build_rrdbnet(load_state_dict(Path(sys.argv[1])), 4)}, select_device("cpu"))
resolver.super_resolve(np.zeros((8, 8, 3), np.uint8), 4, NullProgress())
before = resident("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
resolver.super_resolve(np.zeros((100, 150, 3), np.uint8), 4, NullProgress())
sys.stdout.write(f"{(resident('VmHWM') - before) / resolver.memory_bytes(100, 150, 4)}")
"""


async def test_the_predicted_memory_is_what_the_model_takes_to_a_factor_of_two() -> None:
    command = [sys.executable, "-c", MEASURE, str(WEIGHTS / "RealESRGAN_x4plus.pth")]
    run = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert 0.5 < float(run.stdout) < 2
