"""The raw way in and out: the image file as the body, options in the query, the result as the response's body."""

from __future__ import annotations

import asyncio
import base64
import io
from pathlib import Path
from urllib.parse import unquote

import httpx
import numpy as np
import pytest
from PIL import Image

from core.config import MAX_IMAGE_BYTES, MIB, Settings
from tests.helpers import HANG_SECONDS, assert_error, b64, encode, files_in, sample_crop, send_raw

PICTURE = sample_crop(60, 40, left=200, top=100)
PNG = encode(PICTURE)
TRANSPARENT = encode(np.zeros((20, 30, 4), np.uint8))
RAW = {"Content-Type": "image/png"}
WANTS_IMAGE = {**RAW, "Accept": "image/*"}


async def post_raw(client: httpx.AsyncClient, query: str = "", accept: str | None = None, body: bytes = PNG) -> httpx.Response:
    headers = RAW if accept is None else {**RAW, "Accept": accept}
    return await client.post(f"/upscale?{query}", content=body, headers=headers)


def fixed_fields(response: httpx.Response) -> dict[str, object]:
    """What is the same in every response to the same request."""
    differ = ("processing_time", "request_id", "file_path", "cached")
    return {name: value for name, value in response.json().items() if name not in differ}


def saved(path: str) -> bytes:
    return Path(path).read_bytes()


# in


@pytest.mark.parametrize("media_type", ["image/png", "image/jpeg", "IMAGE/x-unknown", "application/octet-stream"])
async def test_a_raw_body_gives_what_the_same_image_gives_in_json(client: httpx.AsyncClient, media_type: str) -> None:
    query = "target_resolution=2K&enhance_faces=false&output_format=webp&quality=80&fit=exact"
    raw = await client.post(f"/upscale?{query}", content=PNG, headers={"Content-Type": media_type})
    fields = {"target_resolution": "2K", "enhance_faces": False, "output_format": "webp", "quality": 80, "fit": "exact"}
    other = await client.post("/upscale", json={"image_b64": b64(PNG), **fields})
    assert (raw.status_code, other.status_code) == (200, 200)
    differ = {"processing_time", "request_id", "file_path", "cached"}
    assert {k: v for k, v in raw.json().items() if k not in differ} == {
        k: v for k, v in other.json().items() if k not in differ
    }


@pytest.mark.parametrize(
    ("query", "code", "words"),
    [
        ("enhance_faces=yes", "wrong_type", "enhance_faces must be true or false, not the string 'yes'"),
        ("enhance_faces=1", "wrong_type", "enhance_faces must be true or false, not 1"),
        ("quality=abc", "wrong_type", "quality must be a whole number, not the string 'abc'"),
        ("quality=", "wrong_type", "quality must be a whole number"),
        ("quality=9.5", "wrong_type", "quality must be a whole number, not 9.5"),
        ("quality=%2295%22", "wrong_type", "quality must be a whole number, not the string '95'"),
        ("quality=101", "out_of_range", "quality must be from 1 to 100, not 101"),
        ("target_resolution=16k", "out_of_range", "2k, 4k, 8k"),
        ("target_resolution=", "out_of_range", "2k, 4k, 8k"),
        ("output_format=gif", "out_of_range", "jpeg, png, webp"),
        ("quality=90&fit=exact&quality=80", "repeated_field", "quality was given more than once"),
    ],
)
async def test_a_wrong_option_is_named(client: httpx.AsyncClient, query: str, code: str, words: str) -> None:
    assert words in assert_error(await post_raw(client, query), 400, code)["error"]


async def test_an_option_that_nobody_knows_is_ignored_and_named(client: httpx.AsyncClient) -> None:
    response = await post_raw(client, "target_resolution=2k&image_b64=abc&x=1&x=2&%ff=&ä=")
    (warning,) = response.json()["warnings"]
    for words in ("'image_b64'", "'x'", "'ä'", "Known fields are target_resolution"):
        assert words in warning


async def test_a_query_beside_json_holds_as_well(client: httpx.AsyncClient) -> None:
    fields = {"image_b64": b64(PNG), "output_format": "png"}
    response = await client.post("/upscale?target_resolution=2k&x=1", json=fields)
    assert (response.json()["target_resolution"], response.json()["format"]) == ("2k", "png")
    assert "'x'" in response.json()["warnings"][0]
    twice = await client.post("/upscale?output_format=png", json=fields)
    assert "in the query string and in the body" in assert_error(twice, 400, "repeated_field")["error"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "not_an_image"),
        (b64(PNG).encode(), "not_an_image"),
        (PNG[:60], "broken_image"),
        (b"GIF89a" + PNG, "broken_image"),
        (b"8BPS" + PNG, "unsupported_format"),
    ],
)
async def test_the_bytes_are_looked_at_and_not_their_type(
    client: httpx.AsyncClient, settings: Settings, body: bytes, code: str
) -> None:
    assert_error(await post_raw(client, body=body), 400, code)
    assert files_in(settings) == []


async def test_a_raw_image_of_7_mb_is_accepted(client: httpx.AsyncClient) -> None:
    image = encode(PICTURE, "BMP")
    response = await post_raw(client, "target_resolution=2k", body=image + bytes(MAX_IMAGE_BYTES - len(image)))
    assert response.status_code == 200


@pytest.mark.parametrize("framing", [b"Content-Length: 7340033", b"Transfer-Encoding: chunked"])
async def test_a_raw_body_over_7_mb_gets_413_before_it_has_come(
    client: httpx.AsyncClient, settings: Settings, framing: bytes
) -> None:
    head = b"POST /upscale HTTP/1.1\r\nHost: test\r\nContent-Type: image/png\r\n%s\r\n\r\n" % framing
    reader, writer = await send_raw(settings.port, head)
    if b"chunked" in framing:
        writer.write(b"%x\r\n" % (8 * MIB) + bytes(MAX_IMAGE_BYTES + 1))
    response = await asyncio.wait_for(reader.readuntil(b"}"), HANG_SECONDS)
    writer.close()
    assert response.startswith(b"HTTP/1.1 413 ")
    assert b"body_too_large" in response
    assert b"over 7 MB" in response


# out


async def test_the_image_itself_with_the_fields_as_headers(client: httpx.AsyncClient, settings: Settings) -> None:
    response = await post_raw(client, "target_resolution=2k&output_format=png", "image/*")
    assert (response.status_code, response.headers["content-type"]) == (200, "image/png")
    assert int(response.headers["content-length"]) == len(response.content)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(response.content))), PICTURE.repeat(32, 0).repeat(32, 1))
    ours = {
        name.removeprefix("x-upscale-"): value for name, value in response.headers.items() if name.startswith("x-upscale-")
    }
    assert float(ours.pop("processing-time")) > 0
    path = unquote(ours.pop("file-path"))
    assert saved(path) == response.content
    assert files_in(settings) == [Path(path).name]
    assert ours == {
        "original-size": "60x40",
        "size": "1920x1280",
        "target-resolution": "2k",
        "model": "photo",
        "passes": "4, 4, 2",
        "total-scale": "32.0",
        "faces-detected": "0",
        "faces-enhanced": "false",
        "cached": "false",
        "warnings": "",
    }
    assert response.headers["content-disposition"] == 'inline; filename="upscaled-1920x1280.png"'
    assert response.headers["x-content-type-options"] == "nosniff"
    assert len(response.headers["x-request-id"]) == 32


async def test_json_in_and_image_out_gives_the_bytes_of_base64(client: httpx.AsyncClient) -> None:
    fields = {"image_b64": b64(PNG), "target_resolution": "2k"}
    image = await client.post("/upscale", json=fields, headers={"Accept": "image/jpeg"})
    assert base64.b64decode((await client.post("/upscale", json=fields)).json()["base64"]) == image.content


async def test_warnings_are_headers_of_ascii_and_not_too_long(client: httpx.AsyncClient) -> None:
    query = "target_resolution=2k&output_format=jpeg&" + "&".join(f"ä{number}{'ö' * 70}=" for number in range(30))
    response = await post_raw(client, query, "image/*", TRANSPARENT)
    text = response.headers["x-upscale-warnings"]
    assert text.isascii()
    assert len(text) < 4000
    unknown, flattened = [unquote(warning) for warning in text.split(", ")]
    assert unknown.startswith("Ignored unknown fields: 'ä0öö")
    assert flattened == "JPEG cannot hold transparency: it was flattened on white."


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("text/html", "application/json"),
        ("image/*, application/json", "application/json"),
        ("image/png;q=0.5, */*", "application/json"),
        ("image/*;q=0", "application/json"),
        ("nonsense/, ;q=, */, image", "application/json"),
        ("image/*", "image/jpeg"),
        ("IMAGE/*", "image/jpeg"),
        ("image/webp", "image/webp"),
        ("image/*, application/json;q=0.5", "image/jpeg"),
        ("image/png, image/webp;q=0.9, image/jpeg;q=0.8", "image/png"),
        ("image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5", "image/png"),
    ],
)
async def test_accept_says_whether_json_or_an_image_comes_and_which(
    client: httpx.AsyncClient, accept: str | None, media_type: str
) -> None:
    response = await post_raw(client, "target_resolution=2k", accept)
    assert (response.status_code, response.headers["content-type"]) == (200, media_type)
    if media_type != "application/json":
        assert Image.open(io.BytesIO(response.content)).format == media_type.removeprefix("image/").upper()


async def test_the_usual_format_is_taken_where_accept_leaves_a_choice(client: httpx.AsyncClient) -> None:
    transparent = await post_raw(client, "target_resolution=2k", "image/*", TRANSPARENT)
    asked = await post_raw(client, "target_resolution=2k&output_format=webp", "image/*", TRANSPARENT)
    assert [response.headers["content-type"] for response in (transparent, asked)] == ["image/png", "image/webp"]


@pytest.mark.parametrize(
    ("query", "accept"), [("output_format=webp", "image/png"), ("", "image/gif"), ("", "image/png;q=0, image/gif")]
)
async def test_a_format_that_accept_leaves_out_gets_406_before_any_work(
    client: httpx.AsyncClient, settings: Settings, query: str, accept: str
) -> None:
    body = assert_error(await post_raw(client, query, accept), 406, "not_acceptable")
    assert "Accept" in body["error"]
    assert files_in(settings) == []


async def test_errors_are_json_whatever_is_accepted(client: httpx.AsyncClient) -> None:
    assert_error(await post_raw(client, "quality=0", "image/*"), 400, "out_of_range")
