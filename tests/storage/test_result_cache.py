"""The result cache and request coalescing: what makes a result the same, and what comes from disk, over a real socket."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from bench.server import free_port
from core.config import MIB, OutputFormat, Settings
from imaging.metadata import Metadata
from imaging.picture import Picture
from schemas.params import UpscaleParams
from schemas.plan import Plan, Size, plan_upscale
from schemas.response import ImageSize, UpscaleMetadata
from storage.result_cache import ResultCache, cache_keys
from storage.result_store import ResultStore
from tests.helpers import assert_error, b64, encode, fake_models, files_in, ready, serving, until, with_settings
from tests.serving.gated_service import gated_service, gray_of
from tests.storage.other_things import OTHER_THINGS, Put

PIXELS = np.arange(20 * 10 * 3, dtype=np.uint8).reshape(10, 20, 3)
METADATA = UpscaleMetadata(
    original_size=ImageSize(width=20, height=10),
    upscaled_size=ImageSize(width=80, height=40),
    upscaling_strategy=(4,),
    target_resolution="2k",
    model="photo",
    total_scale=4.0,
    faces_detected=0,
    faces_enhanced=False,
    faces=(),
    format="png",
    warnings=(),
)
KEY = "a" * 64
PARAMS = UpscaleParams(target_resolution="2k")
PICTURE = Picture(PIXELS)


async def upscale(client: httpx.AsyncClient, image: bytes, accept: str = "*/*", **fields: Any) -> httpx.Response:
    body = {"image_b64": b64(image), "target_resolution": "2k", "output_format": "png", **fields}
    response = await client.post("/upscale", json=body, headers={"Accept": accept})
    assert response.status_code == 200, response.text
    return response


# the key


OF_PIXELS: dict[str, Any] = {"enhance_faces": False, "model": "anime", "face_strength": 0.5}
OF_FILES: dict[str, Any] = {"target_resolution": "4k", "quality": 90, "fit": "exact", "scale": 2.0}
METADATA_KEPT: list[dict[str, Any]] = [{"exif": b"x"}, {"xmp": b"x"}, {"density": (72, 72)}]
PLAN = plan_upscale(Size(20, 10), "2k")


def keys_of(
    picture: Picture = PICTURE,
    params: UpscaleParams = PARAMS,
    output_format: OutputFormat = "png",
    identity: str = "models",
    plan: Plan = PLAN,
) -> tuple[str, str]:
    return cache_keys(picture, plan, params, output_format, identity)


def test_whatever_changes_the_bytes_changes_the_key() -> None:
    gray, alpha = PIXELS[:, :, 0].copy(), np.zeros((10, 20), np.uint8)
    pictures = [
        PICTURE,
        Picture(np.bitwise_xor(PIXELS, np.uint8(1))),
        Picture(PIXELS.reshape(20, 10, 3)),
        Picture(gray),
        Picture(gray, alpha),
        Picture(PIXELS, alpha),
    ]
    keys = [keys_of(picture) for picture in pictures]
    keys += [keys_of(params=PARAMS.model_copy(update={name: value})) for name, value in OF_PIXELS.items()]
    plans = [replace(PLAN, passes=(2, 2)), replace(PLAN, output=Size(20, 9)), replace(PLAN, output=Size(9, 20))]
    keys += [*(keys_of(plan=plan) for plan in plans), keys_of(identity="other models")]
    for number in (0, 1):
        assert len({key[number] for key in keys}) == len(keys) == len(pictures) + len(OF_PIXELS) + len(plans) + 1


def test_what_changes_no_pixel_changes_the_key_of_the_file_alone() -> None:
    changed = [PARAMS.model_copy(update={name: value}) for name, value in OF_FILES.items()]
    keys = [keys_of(params=params) for params in (PARAMS, *changed)]
    keys += [keys_of(output_format="webp"), keys_of(Picture(PIXELS, icc_profile=b"profile"))]
    keys += [cache_keys(PICTURE, PLAN, PARAMS, "png", "models", Metadata(**each)) for each in METADATA_KEPT]
    assert len({of_picture for of_picture, _ in keys}) == 1
    assert len({of_file for _, of_file in keys}) == len(keys)
    with_webhook = PARAMS.model_copy(update={"webhook": "https://example.com", "output_format": "png"})
    assert keys[0] == keys_of(Picture(PIXELS.copy()), with_webhook)


# from disk


async def test_the_second_time_is_answered_from_disk_with_the_same_bytes(settings: Settings) -> None:
    async with gated_service(settings) as h:
        h.resolver.gate.set()
        first = await h.post(10)
        passes = len(h.resolver.seen)
        again = await h.post(10)
        assert len(h.resolver.seen) == passes, "the model ran again"
        assert gray_of(await h.post(20)) == 20
    assert first.headers["etag"] == again.headers["etag"]
    own = {"processing_time", "request_id", "cached"}
    assert {name: value for name, value in first.json().items() if name not in own} == {
        name: value for name, value in again.json().items() if name not in own
    }
    assert (first.json()["cached"], again.json()["cached"]) == (False, True)
    assert first.json()["request_id"] != again.json()["request_id"]


async def test_a_file_of_another_kind_with_the_same_pixels_is_the_same_and_a_warning_stays_its_own(
    client: httpx.AsyncClient,
) -> None:
    await upscale(client, encode(PIXELS), unheard_of=1)
    again = (await upscale(client, encode(PIXELS, "BMP"))).json()
    assert (again["cached"], again["warnings"]) == (True, [])
    warned = (await upscale(client, encode(PIXELS), unheard_of=1)).json()
    assert (warned["cached"], "unheard_of" in warned["warnings"][0]) == (True, True)


async def test_another_parameter_is_another_result(client: httpx.AsyncClient) -> None:
    responses = [
        (await upscale(client, encode(PIXELS), **fields)).json() for fields in ({}, {"quality": 90}, {"face_strength": 0.5})
    ]
    assert [response["cached"] for response in responses] == [False, True, False]
    assert len({response["file_path"] for response in responses}) == 3


def flip_last_bit(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


DAMAGES: list[tuple[str, Callable[[Path], object]]] = [
    ("*.png", Path.unlink),
    ("*.png", lambda path: os.truncate(path, path.stat().st_size - 1)),
    ("*.png", flip_last_bit),
    ("*.json", Path.unlink),
    ("*.json", lambda path: os.truncate(path, path.stat().st_size - 5)),
    ("*.json", lambda path: path.write_bytes(b"[1]")),
]


@pytest.mark.parametrize(("pattern", "damage"), DAMAGES)
async def test_what_is_damaged_or_gone_is_made_again(
    client: httpx.AsyncClient, settings: Settings, pattern: str, damage: Callable[[Path], object]
) -> None:
    first = (await upscale(client, encode(PIXELS))).json()
    (damaged,) = settings.output_dir.glob(pattern)
    damage(damaged)
    again = (await upscale(client, encode(PIXELS))).json()
    assert (again["cached"], again["base64"]) == (True, first["base64"])  # of the picture in memory
    assert again["file_path"] != first["file_path"]
    assert (await upscale(client, encode(PIXELS))).json()["cached"] is True


async def test_what_is_asked_for_again_is_kept_as_long_as_what_is_new(settings: Settings) -> None:
    async with gated_service(settings) as h:
        h.resolver.gate.set()
        first = (await h.post(10)).json()
        for path in settings.output_dir.iterdir():
            os.utime(path, (1000, 1000))
        assert (await h.post(10)).json()["cached"]
        assert h.service.store.sweep(now=1000 + settings.retention_seconds + 1) == 0
        assert (await h.client.get(f"/files/{Path(first['file_path']).name}")).status_code == 200


async def test_a_repeat_is_served_by_the_next_process_too(settings: Settings) -> None:
    responses = []
    for port in (settings.port, free_port()):
        async with serving(with_settings(settings, port=port), lambda _: fake_models()) as (client, _):
            await ready(client)
            responses.append((await upscale(client, encode(PIXELS))).json())
    assert [response["cached"] for response in responses] == [False, True]


async def test_the_etag_of_a_response_is_that_of_its_file_and_saves_the_download(client: httpx.AsyncClient) -> None:
    response = await upscale(client, encode(PIXELS))
    url = f"/files/{Path(response.json()['file_path']).name}"
    whole = await client.get(url)
    assert whole.headers["etag"] == response.headers["etag"]
    saved = await client.get(url, headers={"If-None-Match": response.headers["etag"]})
    assert (saved.status_code, saved.content) == (304, b"")
    changed = await client.get(url, headers={"If-None-Match": '"another"'})
    assert (changed.status_code, changed.content) == (200, base64.b64decode(response.json()["base64"]))


def test_a_record_is_swept_with_its_result(tmp_path: Path) -> None:
    store = ResultStore(tmp_path, retention_seconds=60, max_bytes=10**6)
    path = ResultCache(store).save(KEY, b"result", "png", METADATA)
    found = ResultCache(store).find(KEY)
    assert found
    assert (found.file_path, found.metadata) == (str(path), METADATA)
    assert path.stem not in ("a" * 32, KEY)
    assert json.loads((tmp_path / f"{KEY}.json").read_bytes())["name"] == path.name
    assert store.sweep(path.stat().st_mtime + 61) == 2
    assert list(tmp_path.iterdir()) == []


# what others have put in its place


@pytest.mark.parametrize("content", [b"", b"[]", b"[" * 10**5, b'{"name": 7}', b"\xff", b"{}" + b" " * MIB])
def test_a_record_that_is_none_is_one_line(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    cache = ResultCache(ResultStore(tmp_path, retention_seconds=60, max_bytes=10**6))
    (tmp_path / f"{KEY}.json").write_bytes(content)
    assert cache.find(KEY) is None
    assert len(caplog.records) == 1
    cache.save(KEY, b"result", "png", METADATA)
    assert cache.find(KEY)


@pytest.mark.parametrize("put", OTHER_THINGS)
@pytest.mark.parametrize("suffix", [".json", ".png"])
def test_what_is_no_file_is_no_result_and_holds_nobody_up(tmp_path: Path, suffix: str, put: Put) -> None:
    cache = ResultCache(ResultStore(tmp_path, retention_seconds=60, max_bytes=10**6))
    cache.save(KEY, b"result", "png", METADATA)
    (replaced,) = tmp_path.glob(f"*{suffix}")
    replaced.unlink()
    put(replaced)
    assert cache.find(KEY) is None


async def test_a_record_of_strange_values_is_sent_or_made_again(client: httpx.AsyncClient, settings: Settings) -> None:
    strange: list[object] = [None, True, -1, 10**30, 1e300, "a\r\nb", [], [[]], {"a": 1}]
    await upscale(client, encode(PIXELS))
    (path,) = [path for path in settings.output_dir.glob("*.json") if len(path.stem) == len(KEY)]
    record = json.loads(path.read_bytes())
    for name in (*record, *METADATA.model_dump()):
        for value in strange:
            changed = {**record, "metadata": {**record["metadata"], name: value}, **({name: value} if name in record else {})}
            path.write_text(json.dumps(changed))
            await upscale(client, encode(PIXELS), accept="image/png")


async def test_what_is_no_file_is_not_sent(client: httpx.AsyncClient, settings: Settings) -> None:
    await asyncio.to_thread(settings.output_dir.mkdir, exist_ok=True)
    for number, put in enumerate(OTHER_THINGS[:-1]):  # without the large file, which may be a result
        name = f"{number:032x}.png"
        put(settings.output_dir / name)
        assert_error(await client.get(f"/files/{name}"), 404, "not_found")


# in flight


async def test_the_same_requests_in_flight_share_one_job_and_each_gets_its_response(settings: Settings) -> None:
    async with gated_service(with_settings(settings, queue_limit=0)) as h, asyncio.TaskGroup() as clients:
        first = clients.create_task(h.post(10))
        await h.queue_is(running=1, waiting=0)
        others = [clients.create_task(h.post(10)) for _ in range(5)]
        (in_flight,) = h.service._dispatcher._in_flight.values()
        await until(lambda: len(in_flight.waiters) == 6)
        assert_error(await h.post(20), 503, "queue_full")
        h.resolver.gate.set()
    responses = [first.result(), *(other.result() for other in others)]
    assert [gray_of(response) for response in responses] == [10] * 6
    assert [response.json()["cached"] for response in responses] == [False] + [True] * 5
    assert len({response.json()["request_id"] for response in responses}) == 6
    assert len([gray for gray, _ in h.resolver.seen if gray == 10]) == 3, "each of three passes ran once"
    assert len(files_in(settings)) == 1


async def test_a_shared_job_goes_on_until_the_last_has_gone(settings: Settings) -> None:
    async with gated_service(settings) as h, asyncio.TaskGroup() as clients:
        leaving = await h.send(10)
        await h.queue_is(running=1, waiting=0)
        staying = clients.create_task(h.post(10))
        (in_flight,) = h.service._dispatcher._in_flight.values()
        await until(lambda: len(in_flight.waiters) == 2)
        assert_error(await h.post(10, **{"X-Request-Timeout": "0.2"}), 504, "deadline_exceeded")  # its own deadline
        leaving.close()
        await until(lambda: len(in_flight.waiters) == 1)
        assert not in_flight.result.cancelled()
        h.resolver.gate.set()
    assert gray_of(staying.result()) == 10


async def test_a_job_that_all_have_left_is_not_joined(settings: Settings) -> None:
    async with gated_service(settings) as h:
        leaving = await h.send(10)
        await h.queue_is(running=1, waiting=0)
        leaving.close()
        await until(lambda: not h.service._dispatcher._in_flight)
        again = asyncio.create_task(h.post(10))
        await h.queue_is(running=1, waiting=1)
        h.resolver.gate.set()
        assert gray_of(await again) == 10
        assert (await again).json()["cached"] is False
