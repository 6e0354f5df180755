"""Requests that differ in what is applied afterwards share one run of the network, in flight and for a while after it."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from bench.server import free_port
from core.config import Settings
from core.progress import Progress
from imaging.encode import encode_image
from serving import dispatcher
from tests.helpers import advance_clock, assert_error, b64, encode, fake_models, files_in, ready, serving, until, with_settings
from tests.serving.gated_service import ASYNC, GatedService, gated_service, gray_of, request_fields

PASSES = 3


async def upscale(h: GatedService, **fields: Any) -> dict[str, Any]:
    response = await h.client.post("/upscale", json=request_fields(**fields))
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


OTHERS: list[dict[str, Any]] = [
    {"output_format": "png"},
    {"output_format": "webp"},
    {"quality": 50},
    {"fit": "exact"},  # the same passes, and nothing to shrink
]


@pytest.mark.parametrize("other", OTHERS)
async def test_another_format_or_quality_runs_no_network_again_and_gives_the_bytes_of_a_fresh_server(
    settings: Settings, tmp_path: Path, other: dict[str, Any]
) -> None:
    async with gated_service(settings) as h:
        h.resolver.gate.set()
        first = await upscale(h)
        second = await upscale(h, **other)
        assert len(h.resolver.seen) == PASSES
        assert (first["cached"], second["cached"]) == (False, True)
        metrics = (await h.client.get("/metrics")).text
        assert "upscale_cache_hits_total 1.0" in metrics
        assert 'upscale_stage_seconds_count{stage="pass_1"} 1.0' in metrics
        assert 'upscale_stage_seconds_count{stage="encode"} 2.0' in metrics
        assert (await upscale(h, **other))["file_path"] == second["file_path"]
    fresh = with_settings(settings, port=free_port(), output_dir=tmp_path / "fresh")
    async with gated_service(fresh) as h:
        h.resolver.gate.set()
        alone = await upscale(h, **other)
    own = ("cached", "file_path", "processing_time", "request_id")
    assert {name: value for name, value in second.items() if name not in own} == {
        name: value for name, value in alone.items() if name not in own
    }


async def test_a_scale_and_a_target_with_the_same_passes_are_the_same_picture(settings: Settings) -> None:
    async with gated_service(settings) as h:
        h.resolver.gate.set()
        body = {"image_b64": b64(encode(np.full((30, 480, 3), 10, np.uint8)))}
        by_target = (await h.client.post("/upscale", json={**body, "target_resolution": "2k"})).json()
        by_scale = (await h.client.post("/upscale", json={**body, "scale": 4})).json()
        assert len(h.resolver.seen) == 1
        assert (by_scale["cached"], by_scale["base64"]) == (True, by_target["base64"])
        assert (by_target["target_resolution"], by_scale["target_resolution"]) == ("2k", None)


async def test_each_result_has_the_profile_of_its_own_request(settings: Settings) -> None:
    pixels = Image.fromarray(np.full((20, 20, 3), 10, np.uint8))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    async with gated_service(settings) as h:
        h.resolver.gate.set()
        results = []
        for given in (profile, None, profile):
            headers = {"Content-Type": "image/png", "Accept": "image/png"}
            response = await h.client.post("/upscale", content=encode(pixels, icc_profile=given), headers=headers)
            results.append(Image.open(io.BytesIO(response.content)).info.get("icc_profile"))
    assert results == [profile, None, profile]
    assert len(h.resolver.seen) == PASSES


async def test_two_formats_at_once_share_the_run_and_its_place(settings: Settings) -> None:
    async with gated_service(with_settings(settings, queue_limit=0)) as h, asyncio.TaskGroup() as clients:
        first = clients.create_task(upscale(h, output_format="png"))
        await h.queue_is(running=1, waiting=0)
        others = [clients.create_task(upscale(h, output_format=name)) for name in ("webp", "jpeg")]
        (run,) = h.service._dispatcher._runs.values()
        await until(lambda: len(run.waiters) == 3)
        assert await h.queue() == (1, 0)
        assert_error(await h.post(20), 503, "queue_full")
        h.resolver.gate.set()
    assert [task.result()["format"] for task in (first, *others)] == ["png", "webp", "jpeg"]
    assert [task.result()["cached"] for task in (first, *others)] == [False, True, True]
    assert len([gray for gray, _ in h.resolver.seen if gray == 10]) == PASSES
    assert len(files_in(settings)) == 3
    assert not h.service._dispatcher._runs
    assert h.service._admission.running == 0


async def test_one_that_leaves_does_not_end_the_run_of_another_format_and_the_last_does(settings: Settings) -> None:
    async with gated_service(settings) as h:
        leaving = await h.send(10)
        await h.queue_is(running=1, waiting=0)
        job = (await h.client.post("/upscale", json=request_fields(output_format="webp"), headers=ASYNC)).json()
        (run,) = h.service._dispatcher._runs.values()
        assert len(run.waiters) == 2
        hurried = {"X-Request-Timeout": "0.2"}
        late = await h.client.post("/upscale", json=request_fields(output_format="jpeg"), headers=hurried)
        assert_error(late, 504, "deadline_exceeded")
        leaving.close()
        await until(lambda: len(run.waiters) == 1)
        assert not run.result.cancelled()
        assert (await h.job(job["id"]))["status"] == "processing"
        await h.client.post(job["urls"]["cancel"])
        await until(lambda: run.result.cancelled())
        assert not h.service._dispatcher._runs
        again = asyncio.create_task(h.post(10))
        await h.queue_is(running=1, waiting=1)
        h.resolver.gate.set()
        assert gray_of(await again) == 10
        assert (await again).json()["cached"] is False


async def test_a_run_that_fails_fails_all_that_share_it_and_the_next_one_runs_anew(settings: Settings) -> None:
    async with gated_service(settings) as h:
        h.resolver.error = ValueError("a defect")
        answers = [asyncio.create_task(h.client.post("/upscale", json=request_fields(quality=q))) for q in (50, 60)]
        await until(lambda: sum(len(run.waiters) for run in h.service._dispatcher._runs.values()) == 2)
        h.resolver.gate.set()
        for answer in answers:
            assert_error(await answer, 500, "internal_error")
        h.resolver.error = None
        assert (await upscale(h))["cached"] is False


async def test_a_job_in_another_format_has_its_own_end(settings: Settings) -> None:
    async with gated_service(settings) as h:
        h.resolver.gate.set()
        await upscale(h)
        job = (await h.client.put("/jobs/another-format", json=request_fields(output_format="webp"))).json()
    assert (job["status"], job["progress"], job["result"]["format"], job["result"]["cached"]) == ("succeeded", 1, "webp", True)
    assert len(h.resolver.seen) == PASSES


async def test_a_picture_is_kept_for_minutes_after_its_last_use(settings: Settings) -> None:
    async with gated_service(settings) as h:
        h.client.headers["Connection"] = "close"  # the server ends an idle one when its time has come
        h.resolver.gate.set()
        await upscale(h)
        for quality in (50, 60):
            advance_clock(dispatcher.KEPT_SECONDS - 60)
            assert (await upscale(h, quality=quality))["cached"]
        advance_clock(dispatcher.KEPT_SECONDS)
        await until(lambda: not h.service._dispatcher._pictures._kept)  # an idle server drops it by itself
        assert not (await upscale(h, quality=70))["cached"]


async def test_what_does_not_fit_is_not_kept(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "KEPT_BYTES", 1280 * 1280 * 3 - 1)
    async with gated_service(settings) as h:
        h.resolver.gate.set()
        assert [(await upscale(h, quality=quality))["cached"] for quality in (50, 60)] == [False, False]


async def test_what_may_differ_another_time_is_not_kept(settings: Settings) -> None:
    async with gated_service(settings) as h:
        super_resolve = h.resolver.super_resolve

        def short(image: NDArray[np.uint8], scale: int, progress: Progress) -> NDArray[np.uint8]:
            h.resolver.shortages += 1
            return super_resolve(image, scale, progress)

        h.resolver.super_resolve = short  # type: ignore[method-assign]
        h.resolver.gate.set()
        assert [(await upscale(h, quality=quality))["cached"] for quality in (50, 60)] == [False, False]


async def test_a_lack_of_memory_drops_what_is_kept(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: object) -> None:
        raise MemoryError("no room")

    async with gated_service(settings) as h:
        h.resolver.gate.set()
        await upscale(h)
        with monkeypatch.context() as patch:
            patch.setattr(dispatcher, "encode_image", out_of_memory)
            response = await h.client.post("/upscale", json=request_fields(quality=50))
        assert_error(response, 503, "out_of_memory")
        assert not h.service._dispatcher._pictures._kept


async def test_few_results_are_encoded_at_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    now, most = 0, 0

    def counted(*arguments: Any) -> Any:
        nonlocal now, most
        now += 1
        most = max(most, now)
        try:
            return encode_image(*arguments)
        finally:
            now -= 1

    monkeypatch.setattr(dispatcher, "encode_image", counted)
    async with gated_service(settings) as h, asyncio.TaskGroup() as clients:
        h.resolver.gate.set()
        await upscale(h)
        for quality in range(1, 21):
            clients.create_task(upscale(h, quality=quality))
    assert 1 <= most <= dispatcher.ENCODERS


async def test_the_disk_is_asked_before_a_picture_in_memory(settings: Settings) -> None:
    async with serving(settings, lambda _: fake_models()) as (client, _):
        await ready(client)
        responses: list[httpx.Response] = [await client.post("/upscale", json=request_fields()) for _ in range(2)]
    assert len({response.json()["file_path"] for response in responses}) == 1
    assert len(files_in(settings)) == 1
