"""multipart/form-data, as browsers, curl -F and requests send it."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest

from api.forms import MAX_HEAD_BYTES, MAX_PARTS, read_form
from core.config import MAX_IMAGE_BYTES, MIB
from core.errors import TooManyValues
from schemas.json_body import SHOWN_CHARACTERS
from tests.helpers import assert_error, encode, sample_crop

PICTURE = sample_crop(60, 40, left=200, top=100)
PNG = encode(PICTURE)
FILE = {"image": ("photo.png", PNG, "image/png")}
QUERY = "target_resolution=2K&enhance_faces=false&output_format=webp&quality=80&fit=exact"
FIELDS = {"target_resolution": "2K", "enhance_faces": "False", "output_format": "webp", "quality": "80", "fit": "exact"}
RAW = {"Content-Type": "image/png", "Accept": "image/*"}


def form(*parts: bytes, end: bytes = b"--b--\r\n") -> dict[str, Any]:
    """A body of these parts, each a head, an empty line and data."""
    body = b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + end
    return {"content": body, "headers": {"Content-Type": "multipart/form-data; boundary=b"}}


def part(name: str, data: bytes, more: str = "") -> bytes:
    return f'Content-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + data


async def test_a_form_gives_what_the_raw_file_gives(client: httpx.AsyncClient) -> None:
    raw = await client.post(f"/upscale?{QUERY}", content=PNG, headers=RAW)
    sent = await client.post("/upscale", data=FIELDS, files=FILE, headers={"Accept": "image/*"})
    shared = await client.post("/upscale?quality=80&fit=exact", data=dict(list(FIELDS.items())[:3]), files=FILE)
    assert (raw.status_code, sent.content) == (200, raw.content)
    assert shared.json()["file_path"] == sent.headers["x-upscale-file-path"]


async def test_a_form_plans_and_is_the_job_that_the_raw_file_is(client: httpx.AsyncClient) -> None:
    plan = await client.post("/plan", data={"target_resolution": "2k"}, files=FILE)
    assert plan.json()["upscaled_size"] == {"width": 1920, "height": 1280}
    job = await client.put("/jobs/of-a-form?target_resolution=2k", content=PNG, headers=RAW)
    again = await client.put("/jobs/of-a-form", data={"target_resolution": "2k"}, files=FILE)
    assert (job.status_code, again.json()) == (200, job.json())
    assert_error(await client.put("/jobs/of-a-form", data={"target_resolution": "4k"}, files=FILE), 409, "job_conflict")


@pytest.mark.parametrize(
    "tail", [b"", b"\r", b"\n", b"\r\n", b"\r\n--", b"\r\n--bx", b"--b\r\r\n--bb\r\n--b-", b"\r\n\r\n--", bytes(20_000)]
)
async def test_the_image_arrives_byte_for_byte(client: httpx.AsyncClient, tail: bytes) -> None:
    image = PNG + tail
    job = await client.put("/jobs/its-bytes", content=image, headers=RAW)
    again = await client.put("/jobs/its-bytes", **form(part("image", image)))
    assert (job.status_code, again.json()) == (200, job.json())


async def test_no_file_name_and_a_field_behind_the_image_are_fine(client: httpx.AsyncClient) -> None:
    sent = form(part("image", PNG), part("target_resolution", b"2k"), part("ä", "\xff".encode()), part("x", b"a" * MIB))
    response = await client.post("/upscale", **sent)
    assert response.json()["target_resolution"] == "2k"
    (warning,) = response.json()["warnings"]
    assert "Ignored unknown fields: 'ä', 'x'. Known fields are target_resolution, " in warning


@pytest.mark.parametrize(
    ("parts", "code", "field", "words"),
    [
        (
            [part("target_resolution", b"2k"), part("file", PNG)],
            "missing_field",
            "image",
            "Its parts: 'target_resolution', 'file'",
        ),
        ([], "missing_field", "image", "no part 'image'"),
        ([part("image", PNG), part("image", PNG)], "repeated_field", "image", "two parts 'image'"),
        ([part("image", PNG), part("fit", b"exact"), part("fit", b"exact")], "repeated_field", "fit", "more than once"),
        ([part("image", PNG), part("quality", b"high")], "wrong_type", "quality", "quality must be a whole number"),
        ([part("image", PNG), part("quality", b"9" * 50_000)], "wrong_type", "quality", "quality must be a whole number"),
        ([part("image", PNG), part("fit", b"\xff")], "out_of_range", "fit", "passes, exact"),
        ([part("image", b"no picture")], "not_an_image", None, "PNG"),
        ([part("image", PNG[:60])], "broken_image", None, ""),
        ([part("", PNG)], "invalid_form", None, "no name"),
        ([b"Content-Disposition: form-data\r\n\r\n" + PNG], "invalid_form", None, "no name"),
        ([b"Content-Type: image/png\r\n\r\n" + PNG], "invalid_form", None, "boundary"),
        ([b"\r\n" + PNG], "invalid_form", None, "boundary"),
        ([b"Content-Transfer-Encoding: base64\r\n" + part("image", PNG)], "invalid_content_type", None, "'base64'"),
    ],
)
async def test_what_is_wrong_with_a_form_is_said(
    client: httpx.AsyncClient, parts: list[bytes], code: str, field: str | None, words: str
) -> None:
    error = assert_error(await client.post("/upscale", **form(*parts)), 400, code)
    assert (error.get("field"), words in error["error"]) == (field, True), error


def test_what_is_too_long_for_any_field_is_not_kept() -> None:
    image, query = read_form(form(part("image", PNG), *[part("x", b"a" * MIB)] * 8)["content"], "b")
    assert (image, len(query)) == (PNG, 8 * (len("x=") + SHOWN_CHARACTERS) + 7)


@pytest.mark.parametrize(("head", "count"), [(b"", MAX_PARTS), (b"X: " + b"x" * MAX_HEAD_BYTES + b"\r\n", 1)])
def test_parts_and_their_heads_are_bounded(head: bytes, count: int) -> None:
    with pytest.raises(TooManyValues, match="50 parts"):
        read_form(form(part("image", PNG), *[head + part("x", b"")] * count)["content"], "b")


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=", "multipart/mixed; boundary=b"])
async def test_a_boundary_must_be_named(client: httpx.AsyncClient, kind: str) -> None:
    response = await client.post("/upscale", content=form(part("image", PNG))["content"], headers={"Content-Type": kind})
    assert "multipart/form-data with its boundary" in assert_error(response, 400, "invalid_content_type")["error"]


@pytest.mark.parametrize("end", [b"", b"--c--\r\n", b"--b", b"--b\r\n"])
async def test_a_form_that_ends_too_early_is_refused(client: httpx.AsyncClient, end: bytes) -> None:
    assert_error(await client.post("/upscale", **form(part("image", PNG), end=end)), 400, "invalid_form")


async def test_an_image_and_a_form_may_be_as_large_as_elsewhere(client: httpx.AsyncClient) -> None:
    largest = encode(np.zeros((8, 8, 3), np.uint8), "BMP").ljust(MAX_IMAGE_BYTES, b"\0")
    assert (await client.post("/upscale", **form(part("image", largest)))).status_code == 200
    larger = assert_error(await client.post("/upscale", **form(part("image", largest + b"\0"))), 400, "file_too_large")
    assert "7 MB" in larger["error"]
    largest_of_all = assert_error(await client.post("/upscale", **form(part("image", bytes(8 * MIB)))), 413, "body_too_large")
    assert "over 8 MB. The image in it may have up to 7 MB" in largest_of_all["error"]
