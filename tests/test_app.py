"""HTTP: responses, files, health and errors over a real socket, with a fake network behind the real pipeline."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from core.config import Settings
from model_utility import Models, ModelStatus
from tests.helpers import (
    HANG_SECONDS,
    FakeResolver,
    assert_error,
    b64,
    encode,
    fake_models,
    files_in,
    ready,
    sample_crop,
    send_raw,
    serving,
    with_settings,
)

PICTURE = sample_crop(60, 40, left=200, top=100)
IMAGE = b64(encode(PICTURE))
NAME = re.compile(r"[0-9a-f]{32}\.(jpg|png|webp)")


def saved(fields: dict[str, str]) -> bytes:
    """The file that the server kept."""
    return Path(fields["file_path"]).read_bytes()


async def test_response_has_every_field_of_the_contract(client: httpx.AsyncClient) -> None:
    response = await client.post("/upscale", json={"image_b64": IMAGE, "target_resolution": "2K", "output_format": "png"})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert int(response.headers["content-length"]) == len(response.content)
    fields = response.json()
    assert {name: type(value) for name, value in fields.items()} == {
        "success": bool,
        "cached": bool,
        "file_path": str,
        "base64": str,
        "original_size": dict,
        "upscaled_size": dict,
        "target_resolution": str,
        "model": str,
        "total_scale": float,
        "upscaling_strategy": list,
        "faces_detected": int,
        "faces_enhanced": bool,
        "faces": list,
        "processing_time": float,
        "format": str,
        "request_id": str,
        "warnings": list,
    }
    variable = ("file_path", "base64", "processing_time", "request_id")
    assert {name: value for name, value in fields.items() if name not in variable} == {
        "success": True,
        "cached": False,
        "original_size": {"width": 60, "height": 40},
        "upscaled_size": {"width": 1920, "height": 1280},
        "target_resolution": "2k",
        "model": "photo",
        "total_scale": 32.0,
        "upscaling_strategy": [4, 4, 2],
        "faces_detected": 0,
        "faces_enhanced": False,
        "faces": [],
        "format": "png",
        "warnings": [],
    }
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(fields["base64"]))))
    np.testing.assert_array_equal(pixels, PICTURE.repeat(32, axis=0).repeat(32, axis=1))


@pytest.mark.parametrize(
    ("image_format", "ending", "media_type"),
    [("jpeg", ".jpg", "image/jpeg"), ("png", ".png", "image/png"), ("webp", ".webp", "image/webp")],
)
async def test_base64_file_and_download_are_the_same_bytes(
    client: httpx.AsyncClient, settings: Settings, image_format: str, ending: str, media_type: str
) -> None:
    fields = (await client.post("/upscale", json={"image_b64": IMAGE, "output_format": image_format})).json()
    path = Path(fields["file_path"])
    assert path.is_absolute()
    assert path.suffix == ending
    assert NAME.fullmatch(path.name)
    assert files_in(settings) == [path.name]
    download = await client.get(f"/files/{path.name}")
    assert (download.status_code, download.headers["content-type"]) == (200, media_type)
    assert download.headers["x-content-type-options"] == "nosniff"
    assert download.headers["cache-control"] == "private"
    assert int(download.headers["content-length"]) == len(download.content)
    assert base64.b64decode(fields["base64"], validate=True) == saved(fields) == download.content
    width, height = Image.open(io.BytesIO(download.content)).size
    assert fields["upscaled_size"] == {"width": width, "height": height}


async def test_two_requests_at_once_get_each_its_own_picture(client: httpx.AsyncClient) -> None:
    async def upscale(gray: int) -> tuple[int, int]:
        image = b64(encode(np.full((30, 30, 3), gray, np.uint8)))
        fields = (
            await client.post("/upscale", json={"image_b64": image, "output_format": "png", "target_resolution": "2k"})
        ).json()
        low, high = Image.open(io.BytesIO(base64.b64decode(fields["base64"]))).convert("L").getextrema()
        return int(low), int(high)  # type: ignore[arg-type]

    grays = [0, 50, 100, 150, 200, 250]
    assert await asyncio.gather(*map(upscale, grays)) == [(gray, gray) for gray in grays]


async def test_file_names_that_lead_elsewhere_are_not_found(
    client: httpx.AsyncClient, settings: Settings, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"house secret")
    settings.output_dir.mkdir(exist_ok=True)
    name = "0123456789abcdef" * 2
    (settings.output_dir / f"{name}.jpg").symlink_to(secret)
    (settings.output_dir / f"{name}.part").write_bytes(b"house secret")
    (settings.output_dir / "foreign.jpg").write_bytes(b"house secret")
    (settings.output_dir / f"{name}.png").mkdir()
    names = [
        f"{name}.jpg",
        f"{name}.part",
        f"{name}.png",
        "foreign.jpg",
        "..%2Fsecret.jpg",
        "%2e%2e%2fsecret.jpg",
        "..",
        "%00",
    ]
    names += [f"../{secret.name}", f"%2F{secret}", f"{secret}", f"{name}.jpg%0a", "..\\secret.jpg", "%ff", "", f"{name}.webp"]
    for bad_name in names:
        reader, writer = await send_raw(
            settings.port, f"GET /files/{bad_name} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode()
        )
        response = await reader.read()
        assert response.startswith(b"HTTP/1.1 404 "), bad_name
        assert json.loads(response.partition(b"\r\n\r\n")[2])["code"] == "not_found"
        assert b"house secret" not in response
        writer.close()


async def test_unknown_path_names_the_known_ones(client: httpx.AsyncClient) -> None:
    body = assert_error(await client.get("/upscael"), 404, "not_found")
    assert "'/upscael'" in body["error"]
    assert "POST /upscale" in body["error"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "/upscale", "POST"), ("PUT", "/upscale", "POST"), ("BREW", "/upscale", "POST"), ("POST", "/health", "GET")],
)
async def test_wrong_method_answers_405_with_allow(client: httpx.AsyncClient, method: str, path: str, allowed: str) -> None:
    response = await client.request(method, path)
    body = assert_error(response, 405, "method_not_allowed")
    assert allowed in response.headers["allow"]
    assert allowed in body["error"]
    assert method in body["error"]


async def test_head_and_options_say_what_get_and_post_would(client: httpx.AsyncClient) -> None:
    fields = (await client.post("/upscale", json={"image_b64": IMAGE})).json()
    path = Path(fields["file_path"])
    for url in ("/health", f"/files/{path.name}"):
        head = await client.head(url)
        assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) == len(saved(fields))
    options = await client.options("/upscale")
    assert (options.status_code, "POST" in options.headers["allow"]) == (200, True)


async def test_health_has_every_field_of_the_contract(client: httpx.AsyncClient) -> None:
    response = await client.get("/health")
    assert response.status_code == 200
    fields = response.json()
    assert fields.pop("timestamp") > 1.7e9
    assert fields.pop("uptime_seconds") > 0
    assert re.fullmatch(r"\d+\.\d+\.\d+", fields.pop("version"))
    assert fields == {
        "status": "healthy",
        "reason": None,
        "max_image_size_mb": 7,
        "supported_resolutions": ["2k", "4k", "8k"],
        "heartbeat_active": False,
        "limits": {
            "2k": {"target_px": 2048, "max_input_px": 1024},
            "4k": {"target_px": 3840, "max_input_px": 1920},
            "8k": {"target_px": 7680, "max_input_px": 3840},
        },
        "models": {},
        "device": "cpu, repeated pixels",
        "workers": [{"name": "cpu", "state": "idle", "reason": None}],
        "queue": {"running": 0, "waiting": 0, "capacity": 8, "wait_seconds": 0.0, "backlog_seconds": 0.0},
    }


async def test_while_models_load_health_and_requests_get_503(settings: Settings) -> None:
    loaded = threading.Event()

    def load(_: Settings) -> Models:
        assert loaded.wait(HANG_SECONDS)
        return fake_models()

    async with serving(settings, load) as (client, _):
        health = await client.get("/health")
        assert (health.status_code, health.json()["status"], health.json()["device"]) == (503, "starting", None)
        response = await client.post("/upscale", json={"image_b64": IMAGE})
        assert_error(response, 503, "models_loading")
        assert int(response.headers["retry-after"]) == response.json()["retry_after_seconds"] >= 1
        loaded.set()
        await ready(client)
        assert (await client.post("/upscale", json={"image_b64": IMAGE})).status_code == 200


async def test_a_missing_model_degrades_health_and_is_named(settings: Settings) -> None:
    status = {
        "upscale_x4": ModelStatus("x4.pth"),
        "face_restoration": ModelStatus(reason="GFPGANv1.4.pth is missing", fix="Run it."),
    }
    models = replace(fake_models(), face_restorer=None, status=status)
    async with serving(settings, lambda _: models) as (client, _):
        await ready(client)
        health = await client.get("/health")
        response = await client.post("/upscale", json={"image_b64": IMAGE})
    assert (health.status_code, health.json()["status"]) == (200, "degraded")
    assert health.json()["models"] == {
        "upscale_x4": {"loaded": True, "file": "x4.pth"},
        "face_restoration": {"loaded": False, "reason": "GFPGANv1.4.pth is missing"},
    }
    assert (response.status_code, response.json()["faces_enhanced"]) == (200, False)
    assert "GFPGANv1.4.pth is missing" in response.json()["warnings"][0]


async def test_a_model_that_is_not_there_is_refused_and_photographs_are_served(settings: Settings) -> None:
    status = {"upscale_x4_anime": ModelStatus(reason="anime.pth is missing", fix="Run it.")}
    models = replace(fake_models(), super_resolvers={"photo": FakeResolver()}, status=status)  # type: ignore[dict-item]
    async with serving(settings, lambda _: models) as (client, _):
        await ready(client)
        refused = await client.post("/upscale", json={"image_b64": IMAGE, "model": "anime"})
        assert (await client.post("/upscale", json={"image_b64": IMAGE})).json()["model"] == "photo"
    body = assert_error(refused, 400, "model_unavailable")
    assert "anime.pth is missing. Ask for photo." in body["error"]
    assert (body["field"], body["allowed"]) == ("model", ["photo"])


async def test_a_fast_model_or_its_denoise_that_is_not_there_is_refused_and_nothing_else(settings: Settings) -> None:
    status = {
        "upscale_x4": ModelStatus("x4.pth", "0"),
        "upscale_x4_photo_fast_wdn": ModelStatus(reason="wdn.pth is missing"),
        "upscale_x4_anime_fast": ModelStatus(reason="video.pth is missing"),
    }
    resolver: Any = FakeResolver()
    fast: Any = SimpleNamespace(can_mix=False, measure=lambda _rate: None)
    names = ("photo", "anime", "photo_fast")
    models = replace(fake_models(), super_resolvers=dict.fromkeys(names, resolver), fast={"photo_fast": fast}, status=status)
    async with serving(settings, lambda _: models) as (client, _):
        await ready(client)

        async def send(**fields: object) -> httpx.Response:
            return await client.post("/upscale", json={"image_b64": IMAGE, **fields})

        assert (await client.get("/health")).json()["status"] == "degraded"
        no_model, no_denoise = await send(model="anime_fast"), await send(model="photo_fast", denoise=0.5)
        served = [await send(model=model) for model in names] + [await send(model="photo_fast", denoise=1)]
    body = assert_error(no_model, 400, "model_unavailable")
    assert "video.pth is missing. Ask for photo, anime or photo_fast." in body["error"]
    body = assert_error(no_denoise, 400, "model_unavailable")
    assert (body["field"], "wdn.pth is missing. Leave denoise out." in body["error"]) == ("denoise", True)
    assert [response.status_code for response in served] == [200] * 4


async def test_denoise_reaches_its_model_and_is_refused_beside_another(settings: Settings) -> None:
    strengths: list[float] = []
    resolver = FakeResolver()

    def at(denoise: float) -> FakeResolver:
        strengths.append(denoise)
        return resolver

    fast: Any = SimpleNamespace(can_mix=True, at=at, measure=lambda _rate: None)
    models = replace(fake_models(resolver), fast={"photo_fast": fast})
    async with serving(settings, lambda _: models) as (client, _):
        await ready(client)
        request = {"image_b64": IMAGE, "denoise": 0.25}
        made = [
            await client.post("/upscale", json={**request, "model": "photo_fast", "denoise": d}) for d in (0.25, 0.5, 0.25)
        ]
        refused = [await client.post(path, json=request) for path in ("/upscale", "/plan")]
        refused.append(await client.post("/upscale", json={**request, "model": "anime_fast"}))
        out_of_range = await client.post("/upscale", json={**request, "denoise": 1.5})
    assert [response.json()["cached"] for response in made] == [False, False, True]
    assert set(strengths) == {0.25, 0.5}
    for response in refused:
        body = assert_error(response, 400, "conflicting_fields")
        assert "denoise is for the model photo_fast" in body["error"]
        assert body["field"] == "denoise"
    assert_error(out_of_range, 400, "out_of_range")


async def test_a_defect_is_logged_with_its_request_id_and_not_told(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    resolver = FakeResolver()
    async with serving(settings, lambda _: fake_models(resolver)) as (client, _):
        await ready(client)
        resolver.error = RuntimeError("the secret of the house")
        response = await client.post("/upscale", json={"image_b64": IMAGE})
        resolver.error = None
        following = await client.post("/upscale", json={"image_b64": IMAGE})
    body = assert_error(response, 500, "internal_error")
    assert "secret" not in response.text
    assert "RuntimeError" not in response.text
    assert body["request_id"]
    assert "the secret of the house" in caplog.text
    assert following.status_code == 200
    assert files_in(settings) == [Path(following.json()["file_path"]).name]


async def test_a_folder_that_cannot_be_written_costs_the_file_and_not_the_response(settings: Settings, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_bytes(b"a file, not a folder")
    async with serving(with_settings(settings, output_dir=blocked), lambda _: fake_models()) as (client, _):
        await ready(client)
        response = await client.post("/upscale", json={"image_b64": IMAGE})
    fields = response.json()
    assert (response.status_code, fields["file_path"]) == (200, "")
    assert "could not keep the file" in fields["warnings"][0]
    assert Image.open(io.BytesIO(base64.b64decode(fields["base64"]))).size == (3840, 2560)


@pytest.mark.parametrize("path", ["/files//a", "/jobs//abcdefgh", "/web//index.html"])
async def test_a_slash_too_many_leads_nowhere_and_not_to_another_host(client: httpx.AsyncClient, path: str) -> None:
    assert_error(await client.get(path), 404, "not_found")
