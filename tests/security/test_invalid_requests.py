"""Requests that are wrong in a field, a body or a header get an error that says what is wrong."""

from __future__ import annotations

import base64
import gzip
import json
import struct
import zlib
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from core.config import MAX_BODY_BYTES, MAX_IMAGE_BYTES, MIB, Settings
from tests.helpers import assert_error, b64, encode, files_in, sample_crop

PICTURE = sample_crop(48, 32)
PNG = encode(PICTURE)
IMAGE = b64(PNG)
JSON = {"Content-Type": "application/json"}


def black(width: int, height: int) -> str:
    return b64(encode(Image.new("L", (width, height))))


def png_of_size(width: int, height: int) -> str:
    """A few hundred bytes that claim to be an image of that size."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b64(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(5000))) + chunk(b"IEND", b"")
    )


def animated_webp() -> bytes:
    frames = [Image.fromarray(np.full((16, 16, 3), gray, np.uint8)) for gray in (0, 255)]
    return encode(frames[0], "WEBP", save_all=True, append_images=frames[1:])


BAD_FIELDS: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
    "image missing": ({}, "missing_field", ("image_b64", "base64")),
    "image null": ({"image_b64": None}, "wrong_type", ("image_b64 must be a string, not null",)),
    "image a number": ({"image_b64": 7}, "wrong_type", ("image_b64 must be a string, not 7",)),
    "image an array": ({"image_b64": [IMAGE]}, "wrong_type", ("not an array",)),
    "image empty": ({"image_b64": ""}, "not_an_image", ("empty",)),
    "image only white": ({"image_b64": " \n"}, "not_an_image", ("empty",)),
    "image only a prefix": ({"image_b64": "data:image/png;base64,"}, "not_an_image", ("empty",)),
    "image not ASCII": ({"image_b64": "ÄÖÜ€"}, "invalid_base64", ("'Ä'", "A–Z")),
    "base64 cut off": ({"image_b64": IMAGE[:-3]}, "invalid_base64", ("multiple of 4", "padding")),
    "base64 without padding": (
        {"image_b64": b64(PNG + b"!" * (2 - len(PNG) % 3)).rstrip("=")},
        "invalid_base64",
        ("padding",),
    ),
    "base64 for URLs": (
        {"image_b64": base64.urlsafe_b64encode(b"\xff\xfe" * 30).decode()},
        "invalid_base64",
        ("URL-safe", "+"),
    ),
    "base64 with padding inside": ({"image_b64": "QQ==" + IMAGE}, "invalid_base64", ("= may only be",)),
    "a URL": ({"image_b64": "https://example.org/a.png"}, "invalid_base64", ("':'",)),
    "data URL of a text": ({"image_b64": "data:text/plain," + IMAGE}, "invalid_base64", (";base64",)),
    "text": ({"image_b64": b64(b"hello, world")}, "not_an_image", ("PNG, JPEG, WebP, BMP, TIFF, AVIF, HEIC or GIF",)),
    "SVG": ({"image_b64": b64(b'<svg xmlns="http://www.w3.org/2000/svg"/>')}, "unsupported_format", ("SVG", "PNG")),
    "JPEG 2000": ({"image_b64": b64(encode(PICTURE, "JPEG2000"))}, "unsupported_format", ("JPEG 2000", "PNG")),
    "half a GIF": ({"image_b64": b64(encode(PICTURE, "GIF")[:-200])}, "broken_image", ("GIF", "incomplete")),
    "half a TIFF": ({"image_b64": b64(encode(PICTURE, "TIFF")[:400])}, "broken_image", ("TIFF", "incomplete")),
    "half an AVIF": ({"image_b64": b64(encode(PICTURE, "AVIF")[:-20])}, "broken_image", ("AVIF", "incomplete")),
    "half a PNG": ({"image_b64": b64(PNG[: len(PNG) // 2])}, "broken_image", ("PNG", "incomplete")),
    "half a JPEG": ({"image_b64": b64(encode(PICTURE, "JPEG")[:400])}, "broken_image", ("JPEG", "incomplete")),
    "half a WebP": ({"image_b64": b64(encode(PICTURE, "WEBP")[:200])}, "broken_image", ("WebP", "incomplete")),
    "PNG's first bytes": ({"image_b64": b64(PNG[:8])}, "broken_image", ("PNG",)),
    "animated WebP": ({"image_b64": b64(animated_webp())}, "animated_image", ("2 frames", "single still image")),
    "a bomb": ({"image_b64": png_of_size(50_000, 50_000)}, "too_many_pixels", ("58,982,400",)),
    "no width": ({"image_b64": png_of_size(0, 10)}, "broken_image", ("PNG",)),
    "over 7 MB": ({"image_b64": b64(bytes(MAX_IMAGE_BYTES + 1))}, "file_too_large", ("7 MB",)),
    "far over 7 MB": ({"image_b64": b64(bytes(10 * MIB))}, "file_too_large", ("10.0 MB", "7 MB")),
    "too long for 2k": (
        {"image_b64": black(1025, 10), "target_resolution": "2k"},
        "image_too_large",
        ("1025", "1024", "2048"),
    ),
    "too long for 4k": ({"image_b64": black(10, 1921)}, "image_too_large", ("1921", "1920", "3840")),
    "too long for 8k": ({"image_b64": black(3841, 9), "target_resolution": "8k"}, "image_too_large", ("3841", "3840", "7680")),
    "too long for exact": (
        {"image_b64": black(2048, 9), "target_resolution": "2k", "fit": "exact"},
        "image_too_large",
        ("2048 px is over the limit of 2047",),
    ),
    "target 16k": (
        {"image_b64": IMAGE, "target_resolution": "16k"},
        "out_of_range",
        ("target_resolution", "2k, 4k, 8k", "'16k'"),
    ),
    "target a number": ({"image_b64": IMAGE, "target_resolution": 4}, "wrong_type", ("target_resolution must be a string",)),
    "target null": ({"image_b64": IMAGE, "target_resolution": None}, "wrong_type", ("not null",)),
    "faces yes": (
        {"image_b64": IMAGE, "enhance_faces": "yes"},
        "wrong_type",
        ("enhance_faces must be true or false, not the string",),
    ),
    "faces 1": ({"image_b64": IMAGE, "enhance_faces": 1}, "wrong_type", ("enhance_faces must be true or false",)),
    "format gif": (
        {"image_b64": IMAGE, "output_format": "gif"},
        "out_of_range",
        ("output_format", "jpeg, png, webp", "'gif'"),
    ),
    "format upper case": ({"image_b64": IMAGE, "output_format": "PNG"}, "out_of_range", ("jpeg, png, webp",)),
    "quality 0": ({"image_b64": IMAGE, "quality": 0}, "out_of_range", ("quality must be from 1 to 100, not 0",)),
    "quality 101": ({"image_b64": IMAGE, "quality": 101}, "out_of_range", ("from 1 to 100, not 101",)),
    "quality true": (
        {"image_b64": IMAGE, "quality": True},
        "wrong_type",
        ("quality must be a whole number, not true",),
    ),
    "quality 1.5": ({"image_b64": IMAGE, "quality": 1.5}, "wrong_type", ("quality must be a whole number, not 1.5",)),
    "quality a string": ({"image_b64": IMAGE, "quality": "95"}, "wrong_type", ("not the string '95'",)),
    "quality null": ({"image_b64": IMAGE, "quality": None}, "wrong_type", ("not null",)),
    "quality an object": ({"image_b64": IMAGE, "quality": {}}, "wrong_type", ("not an object",)),
    "quality beyond 64 bits": ({"image_b64": IMAGE, "quality": 10**30}, "out_of_range", ("quality must be from 1 to 100",)),
    "fit cover": ({"image_b64": IMAGE, "fit": "cover"}, "out_of_range", ("fit", "passes, exact")),
}
BAD_BODIES: dict[str, tuple[bytes, str, str]] = {
    "nothing": (b"", "invalid_json", "JSON"),
    "no JSON": (b"image_b64=abc", "invalid_json", "JSON"),
    "an array": (b"[]", "not_an_object", "not an array"),
    "null": (b"null", "not_an_object", "not null"),
    "a string": (b'"hello"', "not_an_object", "not the string 'hello'"),
    "a number": (b"7.5", "not_an_object", "not 7.5"),
    "a thousand arrays": (b"[" * 1000 + b"]" * 1000, "not_an_object", "an array"),
    "a thousand objects": (b'{"a":' * 1000 + b"1" + b"}" * 1000, "missing_field", "image_b64"),
    "a hundred thousand brackets": (b"[" * 100_000, "invalid_json", "depth"),
    "NaN": (b'{"image_b64": "", "quality": NaN}', "invalid_json", "JSON"),
    "Infinity": (b'{"quality": Infinity}', "invalid_json", "JSON"),
    "not UTF-8": (b'{"image_b64": "\xff\xfe"}', "invalid_json", "UTF-8"),
    "UTF-16": ('{"image_b64": ""}'.encode("utf-16"), "invalid_json", "UTF-8"),
    "half a surrogate pair": (b'{"\\ud800": 1}', "invalid_json", "surrogate"),
    "two byte order marks": (b"\xef\xbb\xbf\xef\xbb\xbf{}", "invalid_json", "JSON"),
    "a NUL": (b"{}\0", "invalid_json", "JSON"),
    "cut off": (b'{"image_b64": "abc', "invalid_json", "JSON"),
    "two": (b"{}{}", "invalid_json", "JSON"),
}


@pytest.mark.parametrize("case", BAD_FIELDS)
async def test_bad_field_is_named_with_what_would_be_right(client: httpx.AsyncClient, settings: Settings, case: str) -> None:
    fields, code, words = BAD_FIELDS[case]
    body = assert_error(await client.post("/upscale", json=fields), 400, code)
    assert [word for word in words if word not in body["error"]] == [], body["error"]
    assert files_in(settings) == []


@pytest.mark.parametrize("case", BAD_BODIES)
async def test_bad_body_is_named(client: httpx.AsyncClient, case: str) -> None:
    content, code, word = BAD_BODIES[case]
    body = assert_error(await client.post("/upscale", content=content, headers=JSON), 400, code)
    assert word in body["error"]


async def test_a_body_that_is_compressed_is_refused_by_the_name_of_that(client: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    body = gzip.compress(json.dumps({"image_b64": IMAGE}).encode())
    response = await client.post("/upscale", content=body, headers=headers)
    assert "Content-Encoding 'gzip'" in assert_error(response, 400, "invalid_content_type")["error"]


@pytest.mark.parametrize(
    "media_type", [None, "", "text/plain", "application/x-www-form-urlencoded", "application/json2", "\xe4" * 500]
)
async def test_other_content_types_are_refused(client: httpx.AsyncClient, media_type: str | None) -> None:
    headers = {} if media_type is None else {b"Content-Type": media_type.encode("latin1")}
    response = await client.post("/upscale", content=json.dumps({"image_b64": IMAGE}), headers=headers)
    body = assert_error(response, 400, "invalid_content_type")
    assert "must be application/json" in body["error"]
    assert len(body["error"]) < 200


@pytest.mark.parametrize("media_type", ["application/json; charset=utf-8", "APPLICATION/JSON"])
async def test_content_type_of_json_may_be_written_otherwise(client: httpx.AsyncClient, media_type: str) -> None:
    response = await client.post("/upscale", content=json.dumps({"image_b64": IMAGE}), headers={"Content-Type": media_type})
    assert response.status_code == 200


@pytest.mark.parametrize(
    "text",
    [
        f"data:image/png;base64,{IMAGE}",
        f" data:image/x-icon;name=a.png;base64,\n{IMAGE}\n",
        "\r\n".join(IMAGE),
        f"\t{IMAGE} \v\f",
    ],
)
async def test_whitespace_and_a_data_url_are_accepted(client: httpx.AsyncClient, text: str) -> None:
    response = await client.post("/upscale", json={"image_b64": text, "target_resolution": "2k"})
    assert (response.status_code, response.json()["original_size"]) == (200, {"width": 48, "height": 32})


@pytest.mark.parametrize("target", ["4K", "4k"])
async def test_target_may_be_in_any_case(client: httpx.AsyncClient, target: str) -> None:
    response = await client.post("/upscale", json={"image_b64": IMAGE, "target_resolution": target})
    assert (response.status_code, response.json()["target_resolution"]) == (200, "4k")


async def test_unknown_fields_are_ignored_and_named(client: httpx.AsyncClient) -> None:
    fields = {"image_b64": IMAGE, "target_resolution": "2k", "face_enhance": True, "<script>": 1, "ä\n": None}
    response = await client.post("/upscale", json=fields)
    assert response.status_code == 200
    (warning,) = response.json()["warnings"]
    for words in ("'face_enhance'", "'<script>'", r"'ä\n'", "enhance_faces"):
        assert words in warning


def with_unknown_fields(count: int) -> bytes:
    many = ",".join(f'"{number}":0' for number in range(count))
    return f'{{"image_b64":"{IMAGE}","target_resolution":"2k",{many}}}'.encode()


async def test_ten_thousand_unknown_fields_make_one_short_warning(client: httpx.AsyncClient) -> None:
    response = await client.post("/upscale", content=with_unknown_fields(10_000), headers=JSON)
    assert response.status_code == 200
    assert len(response.json()["warnings"][0]) < 1000


async def test_a_million_unknown_fields_are_refused_before_they_are_parsed(client: httpx.AsyncClient) -> None:
    content = with_unknown_fields(1_000_000)
    assert len(content) < MAX_BODY_BYTES
    body = assert_error(await client.post("/upscale", content=content, headers=JSON), 400, "too_many_values")
    assert "image_b64" in body["error"]


async def test_of_a_field_given_twice_the_last_counts(client: httpx.AsyncClient) -> None:
    content = f'{{"image_b64":7,"image_b64":"{IMAGE}","target_resolution":"4k","target_resolution":"2k"}}'.encode()
    response = await client.post("/upscale", content=content, headers=JSON)
    assert (response.status_code, response.json()["target_resolution"]) == (200, "2k")


async def test_broken_exif_is_a_warning(client: httpx.AsyncClient) -> None:
    image = encode(PICTURE, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xffnonsense")
    response = await client.post("/upscale", json={"image_b64": b64(image), "target_resolution": "2k"})
    assert (response.status_code, response.json()["original_size"]) == (200, {"width": 48, "height": 32})
    assert "EXIF" in response.json()["warnings"][0]


async def test_an_image_of_7_mb_is_accepted(client: httpx.AsyncClient) -> None:
    image = encode(PICTURE, "BMP")
    image += bytes(MAX_IMAGE_BYTES - len(image))
    response = await client.post("/upscale", json={"image_b64": b64(image), "target_resolution": "2k"})
    assert response.status_code == 200
