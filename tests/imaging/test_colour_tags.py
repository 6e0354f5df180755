"""Colour tags of a PNG: the same colours before and after, as a colour-managed viewer sees them."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from core.progress import NullProgress
from imaging.decode import header_warnings
from imaging.encode import encode_image
from imaging.formats import open_image
from model_utility import Models
from schemas.params import UpscaleParams
from schemas.plan import Plan, Size
from tests.helpers import WEIGHTS, b64, decode
from tests.imaging.pictures import GRAY, RGB, SRGB, Array, H, W, png, unfiltered
from upscale import Upscaler

P3 = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
BT709 = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
PQ = bytes([9, 16, 0, 1])


def gama(gamma: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", round(gamma * 100_000))


def chrm(places: tuple[int, ...]) -> tuple[bytes, bytes]:
    return b"cHRM", struct.pack(">8I", *places)


def rgb_png(*chunks: tuple[bytes, bytes]) -> bytes:
    return png(8, 2, unfiltered(RGB), *chunks)


def srgb_encoded(linear: NDArray[Any]) -> NDArray[Any]:
    linear = linear.clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255


def to_xyz(places: tuple[int, ...]) -> NDArray[Any]:
    """Linear RGB to XYZ with a white of Y 1, from the definition of chromaticities."""
    x, y = (np.array(places[i::2]) / 100_000 for i in (0, 1))
    columns = np.array([x / y, np.ones(4), (1 - x - y) / y])
    amounts = np.linalg.solve(columns[:, 1:], columns[:, 0])
    return np.asarray(columns[:, 1:] * amounts)


def meant(samples: Array, gamma: float, places: tuple[int, ...]) -> NDArray[Any]:
    """sRGB of what gAMA and cHRM say; their white is that of sRGB here, so nothing is adapted."""
    linear = (samples / 255.0) ** (1 / gamma)
    return srgb_encoded(linear @ (np.linalg.inv(to_xyz(BT709)) @ to_xyz(places)).T)


def seen(data: bytes) -> NDArray[Any]:
    """sRGB as littlecms converts a file by its profile."""
    image = Image.open(io.BytesIO(data))
    profile = image.info.get("icc_profile")
    if profile is None:
        return np.asarray(image.convert("RGB"))
    source, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(
        image, source, srgb, renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode="RGB"
    )
    assert converted is not None
    return np.asarray(converted)


@pytest.mark.parametrize(
    ("gamma", "places"), [(1.0, BT709), (1 / 1.8, BT709), (0.45455, P3), (1.0, P3)], ids=["linear", "Mac", "P3", "linear P3"]
)
@pytest.mark.parametrize("output", ["png", "webp", "jpeg"])
def test_gama_and_chrm_mean_the_same_colours_in_the_result(gamma: float, places: tuple[int, ...], output: str) -> None:
    data = rgb_png(gama(gamma), chrm(places)) if places != BT709 else rgb_png(gama(gamma))
    picture, warnings_ = decode(data)
    assert warnings_ == header_warnings(open_image(data)) == []
    assert np.array_equal(picture.pixels, RGB), "the pixels stay what they were"
    written, _ = encode_image(picture, output, 100)
    difference = np.abs(seen(written) - meant(RGB, gamma, places))
    assert np.percentile(difference, 99 if output == "png" else 90) <= (2 if output == "png" else 12)
    assert np.abs(seen(written).astype(int) - RGB).mean() > 3, "without the tags they would be others"


@pytest.mark.parametrize("output", ["png", "jpeg"])
async def test_the_service_gives_the_colours_that_the_tags_mean(client: httpx.AsyncClient, output: str) -> None:
    data = rgb_png(gama(1.0), chrm(P3))
    response = await client.post("/upscale", json={"image_b64": b64(data), "target_resolution": "2k", "output_format": output})
    assert response.json()["warnings"] == []
    enlarged = seen(base64.b64decode(response.json()["base64"]))
    assert np.percentile(np.abs(enlarged[32::64, 32::64] - meant(RGB, 1.0, P3)), 90) <= 4


def test_the_networks_picture_has_the_colours_that_the_tags_mean() -> None:
    """By and large: the network changes a smooth picture little."""
    from models.checkpoint import load_state_dict
    from models.device import select_device
    from models.engines.rrdbnet import build_rrdbnet
    from models.super_resolution import SuperResolver

    network = build_rrdbnet(load_state_dict(WEIGHTS / "RealESRGAN_x4plus.pth"), 4)
    upscaler = Upscaler(Models({"photo": SuperResolver({4: network}, select_device("cpu"))}))
    picture, _ = decode(rgb_png(gama(0.45455), chrm(P3)))
    plan = Plan(Size(W, H), "2k", (4,), Size(4 * W, 4 * H))
    output = upscaler.run(picture, plan, UpscaleParams(enhance_faces=False), NullProgress()).picture
    enlarged = seen(encode_image(output, "png", 90)[0]).reshape(H, 4, W, 4, 3).mean(axis=(1, 3))
    expected = meant(RGB, 0.45455, P3)
    assert np.abs(enlarged - expected).mean() < 5
    assert np.abs(enlarged - expected).mean() < np.abs(RGB - expected).mean()


def test_gama_of_gray_means_the_same_grays_in_the_result() -> None:
    picture, warnings_ = decode(png(8, 0, unfiltered(GRAY), gama(1.0), chrm(P3)))
    written, _ = encode_image(picture, "png", 90)
    assert warnings_ == []
    difference = np.abs(seen(written)[..., 1] - srgb_encoded(GRAY / 255))
    assert difference[GRAY > 40].max() <= 2, "littlecms itself is coarse in the shadows of gray"


@pytest.mark.parametrize(
    "chunks",
    [
        [gama(0.45455)],
        [gama(0.45455), chrm(BT709)],
        [chrm(BT709)],
        [(b"sRGB", b"\0"), gama(1.0), chrm(P3)],
        [(b"cICP", bytes([1, 13, 0, 1])), gama(1.0)],
        [(b"cICP", bytes([2, 2, 0, 1]))],
    ],
)
def test_srgb_by_any_name_needs_no_profile(chunks: list[tuple[bytes, bytes]]) -> None:
    picture, warnings_ = decode(rgb_png(*chunks))
    assert (picture.icc_profile, picture.cicp, warnings_) == (None, None, [])


def test_where_a_profile_is_damaged_gama_counts() -> None:
    damaged = (b"iCCP", b"p\0\0" + zlib.compress(SRGB[:100]))
    expected = decode(rgb_png(gama(1.0)))[0].icc_profile
    picture, warnings_ = decode(rgb_png(damaged, gama(1.0)))
    assert expected is not None and picture.icc_profile == expected
    assert len(warnings_) == 1 and "profile is damaged" in warnings_[0]


def test_a_profile_counts_before_gama_and_cicp_before_a_profile() -> None:
    profile = (b"iCCP", b"name\0\0" + zlib.compress(SRGB))
    assert decode(rgb_png(profile, gama(1.0)))[0].icc_profile == SRGB
    of_p3 = decode(rgb_png(profile, (b"cICP", bytes([12, 13, 0, 1]))))[0].icc_profile
    assert of_p3 not in (None, SRGB)
    hdr = decode(rgb_png(profile, (b"cICP", PQ)))[0]
    assert (hdr.icc_profile, hdr.cicp) == (SRGB, PQ)


@pytest.mark.parametrize(
    "chunk",
    [
        (b"gAMA", b""),
        gama(0),
        gama(0.00001),
        gama(40000),
        (b"cHRM", b"\0" * 31),
        chrm((31270, 0, *P3[2:])),
        chrm((31270, 2**32 - 5, *P3[2:])),
        chrm((31270, 32900, *(64000, 33000) * 3)),
        chrm((100, 90000, *P3[2:])),
        chrm((0,) * 8),
        (b"cICP", b"\1"),
        (b"cICP", bytes([9, 16, 9, 1])),
    ],
)
def test_absurd_tags_are_ignored_with_a_warning(chunk: tuple[bytes, bytes]) -> None:
    data = rgb_png(chunk)
    picture, warnings_ = decode(data)
    assert (picture.icc_profile, picture.cicp) == (None, None)
    assert np.array_equal(picture.pixels, RGB)
    assert len(warnings_) == 1 and chunk[0].decode() in warnings_[0]
    assert header_warnings(open_image(data)) == warnings_


@pytest.mark.parametrize("transfer", [1, 4, 8, 13, 14])
def test_cicp_of_sdr_becomes_a_profile_that_littlecms_takes(transfer: int) -> None:
    picture, warnings_ = decode(rgb_png((b"cICP", bytes([9, transfer, 0, 1]))))
    assert (picture.cicp, warnings_) == (None, [])
    white = seen(encode_image(picture, "png", 90)[0])[RGB.min(axis=2) > 250]
    assert not white.size or white.min() > 245
    assert decode(rgb_png((b"cICP", bytes([9, transfer, 0, 1]))))[0].icc_profile == picture.icc_profile


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("cicp", [PQ, bytes([9, 18, 0, 1])], ids=["PQ", "HLG"])
def test_cicp_of_hdr_goes_out_in_png_and_is_named_elsewhere(cicp: bytes, depth: int) -> None:
    picture, warnings_ = decode(png(depth, 2, unfiltered(RGB if depth == 8 else RGB * np.uint16(257)), (b"cICP", cicp)))
    assert (picture.cicp, warnings_) == (cicp, [])
    written, warnings_ = encode_image(picture, "png", 90)
    assert warnings_ == []
    assert decode(written)[0].cicp == cicp
    assert written.index(b"cICP") < written.index(b"IDAT")
    for output in ("jpeg", "webp"):
        assert any("HDR" in warning for warning in encode_image(picture, output, 90)[1])
