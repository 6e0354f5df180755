"""`metadata: keep` over a real socket and on the command line."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

import cli
from core.config import Settings
from tests.helpers import b64, encode, fake_models, sample_crop
from tests.imaging.test_metadata import XMP, exif_of
from tests.serving.gated_service import gated_service

PHOTOGRAPH = encode(sample_crop(24, 16), "JPEG", exif=exif_of(), xmp=XMP, dpi=(300, 300))
DAMAGED = encode(sample_crop(24, 16), "JPEG", exif=exif_of()[:60])


async def upscale(client: httpx.AsyncClient, data: bytes = PHOTOGRAPH, **fields: Any) -> tuple[dict[str, Any], Image.Image]:
    body = {"image_b64": b64(data), "target_resolution": "2k", **fields}
    response = await client.post("/upscale", json=body)
    assert response.status_code == 200, response.text
    image = Image.open(io.BytesIO(base64.b64decode(response.json()["base64"])))
    return response.json(), image


@pytest.mark.parametrize("output_format", ["jpeg", "png", "webp"])
async def test_it_goes_out_again_if_asked_and_runs_no_network_for_it(settings: Settings, output_format: str) -> None:
    async with gated_service(settings) as h:
        h.resolver.gate.set()
        without, plain = await upscale(h.client, output_format=output_format)
        passes = len(h.resolver.seen)
        kept, image = await upscale(h.client, output_format=output_format, metadata="keep")
        again, _ = await upscale(h.client, output_format=output_format, metadata="keep")
        assert len(h.resolver.seen) == passes
        none, _ = await upscale(h.client, output_format=output_format, metadata="none")
    assert (none["file_path"], again["file_path"]) == (without["file_path"], kept["file_path"])
    assert (kept["cached"], kept["warnings"], kept["upscaled_size"]) == (True, [], {"width": 1024, "height": 1536})
    exif = image.getexif()
    assert (exif[0x0112], exif[0x0110], exif.get_ifd(0x8769)[0xA002]) == (1, "A model with a long name", 1024)
    assert b'tiff:Orientation="1"' in image.info["xmp"]
    assert image.tobytes() == plain.tobytes()
    assert (len(plain.getexif()), "xmp" in plain.info) == (0, False)


async def test_damage_is_a_warning_of_the_request_that_asks_for_it(client: httpx.AsyncClient) -> None:
    warning = "The EXIF data is damaged: it was left out."
    for _ in range(2):  # from disk, too
        body, _ = await upscale(client, DAMAGED, metadata="keep")
        assert warning in body["warnings"]
    body, _ = await upscale(client, DAMAGED)
    assert warning not in body["warnings"]
    fields = {"image_b64": b64(DAMAGED), "target_resolution": "2k", "metadata": "keep"}
    assert warning in (await client.post("/plan", json=fields)).json()["warnings"]


async def test_the_query_string_has_it_too(client: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "image/jpeg", "Accept": "image/*"}
    response = await client.post("/upscale?scale=2&metadata=keep", content=PHOTOGRAPH, headers=headers)
    with Image.open(io.BytesIO(response.content)) as image:
        assert (image.size, image.getexif()[0x0112]) == ((32, 48), 1)


def test_the_command_line_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photo.jpg").write_bytes(PHOTOGRAPH)
    assert cli.main(["photo.jpg", "-o", "out", "--scale", "2", "--metadata", "keep"], lambda _: fake_models()) == 0
    with Image.open("out/photo.jpg") as image:
        assert (image.size, image.getexif()[0x0112], image.info["dpi"]) == ((32, 48), 1, (300, 300))
