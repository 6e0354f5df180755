"""CMYK and colour profiles, from file to picture to file."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from imaging import sanitize
from imaging.encode import encode_image
from tests.helpers import decode
from tests.imaging.pictures import (
    GRAY_PROFILE,
    LONG_PROFILE,
    RGB,
    SRGB,
    H,
    W,
    close,
    cmyk_profile,
    flat,
    in_mode,
    png,
    saved,
    unfiltered,
)


def test_cmyk_without_profile_becomes_rgb() -> None:
    for color, expected in [((255, 0, 0, 0), (0, 255, 255)), ((0, 0, 0, 0), (255, 255, 255)), ((0, 0, 0, 255), (0, 0, 0))]:
        picture, warnings_ = decode(saved(flat(color, "CMYK"), "JPEG", quality=95))
        assert close(picture.pixels, np.full((H, W, 3), expected, np.uint8))
        assert warnings_ == []


def test_cmyk_goes_through_its_profile_which_is_then_dropped() -> None:
    picture, warnings_ = decode(saved(flat((255, 0, 0, 0), "CMYK"), "JPEG", quality=95, icc_profile=cmyk_profile()))
    red, green, blue = picture.pixels[3, 3].astype(int)
    assert green > red + 60 and green > blue + 60
    assert picture.icc_profile is None
    assert warnings_ == []


def test_ycck_jpeg_becomes_rgb() -> None:
    """Pillow writes none: the stored 200, 128, 128, 255 of this CMYK file are declared to be a gray in YCC, and no black."""
    cmyk = saved(flat((55, 127, 127, 0), "CMYK"), "JPEG", quality=95)
    transform = cmyk.index(b"Adobe") + 11
    picture, _ = decode(cmyk[:transform] + b"\x02" + cmyk[transform + 1 :])
    assert close(picture.pixels, np.full((H, W, 3), 55, np.uint8), 3)


@pytest.mark.parametrize("profile", [b"x" * 200, SRGB, cmyk_profile()[:200], cmyk_profile()[:128]])
def test_unusable_cmyk_profile_gives_a_warning_and_the_plain_conversion(profile: bytes) -> None:
    picture, warnings_ = decode(saved(flat((255, 0, 0, 0), "CMYK"), "JPEG", quality=95, icc_profile=profile))
    assert close(picture.pixels, np.full((H, W, 3), (0, 255, 255), np.uint8))
    assert len(warnings_) == 1 and "profile" in warnings_[0]


@pytest.mark.parametrize(
    ("image_format", "mode", "profile"),
    [
        *((image_format, "RGB", SRGB) for image_format in ("PNG", "JPEG", "WEBP")),
        *((image_format, "RGB", LONG_PROFILE) for image_format in ("PNG", "JPEG", "WEBP")),
        *((image_format, "L", GRAY_PROFILE) for image_format in ("PNG", "JPEG")),
    ],
)
@pytest.mark.parametrize("output", ["png", "jpeg", "webp"])
def test_profile_survives_byte_for_byte(image_format: str, mode: str, profile: bytes, output: str) -> None:
    picture, warnings_ = decode(saved(in_mode(mode), image_format, icc_profile=profile))
    assert picture.icc_profile == profile and warnings_ == []
    written, warnings_ = encode_image(picture, output, 90)
    kept = Image.open(io.BytesIO(written)).info.get("icc_profile")
    if (mode, output) == ("L", "webp"):  # its pixels are RGB, which a profile of gray does not describe
        assert kept is None and "colour profile" in warnings_[0]
    else:
        assert kept == profile and warnings_ == []


def test_profile_of_a_palette_image_is_kept() -> None:
    picture, warnings_ = decode(saved(in_mode("P"), "PNG", icc_profile=SRGB))
    assert picture.icc_profile == SRGB and warnings_ == []


@pytest.mark.parametrize(
    ("mode", "profile"), [("L", SRGB), ("RGB", GRAY_PROFILE), ("RGB", b"no profile"), ("RGB", cmyk_profile())]
)
@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
def test_profile_of_another_color_space_is_dropped_with_a_warning(image_format: str, mode: str, profile: bytes) -> None:
    picture, warnings_ = decode(saved(in_mode(mode), image_format, icc_profile=profile))
    assert picture.icc_profile is None
    assert len(warnings_) == 1 and "profile" in warnings_[0]


@pytest.mark.parametrize(
    "body", [b"", b"name\0\0garbage", b"name\0\0" + zlib.compress(b"\0" * (sanitize.MAX_PROFILE_BYTES + 1))]
)
def test_broken_or_exploding_profile_of_a_png_is_dropped_with_a_warning(body: bytes) -> None:
    picture, warnings_ = decode(png(8, 2, unfiltered(RGB), (b"iCCP", body)))
    np.testing.assert_array_equal(picture.pixels, RGB)
    assert picture.icc_profile is None and len(warnings_) == 1


def test_jpeg_profile_with_a_part_missing_is_dropped_with_a_warning() -> None:
    whole = saved(in_mode("RGB"), "JPEG", icc_profile=SRGB)
    data = whole.replace(b"ICC_PROFILE\0\x01\x01", b"ICC_PROFILE\0\x01\x02")
    picture, warnings_ = decode(data)
    assert picture.icc_profile is None and len(warnings_) == 1


@pytest.mark.parametrize("image_format", ["JPEG", "WEBP", "PNG"])
def test_what_follows_a_profile_does_not_go_out_again(image_format: str) -> None:
    picture, warnings_ = decode(saved(in_mode("RGB"), image_format, icc_profile=SRGB + b"<script>"))
    assert picture.icc_profile == SRGB and warnings_ == []


@pytest.mark.parametrize("image_format", ["JPEG", "WEBP", "PNG"])
def test_profile_of_many_megabytes_is_dropped_with_a_warning(image_format: str) -> None:
    size = sanitize.MAX_PROFILE_BYTES + 4
    profile = struct.pack(">I", size) + SRGB[4:] + b"\0" * (size - len(SRGB))
    picture, warnings_ = decode(saved(in_mode("RGB"), image_format, icc_profile=profile))
    assert picture.icc_profile is None and len(warnings_) == 1


def test_the_profile_of_a_bmp_is_kept() -> None:
    head = struct.pack("<IiiHHIIiiII", 124, W, -H, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(16)
    rows = np.pad(RGB[..., ::-1].reshape(H, -1), ((0, 0), (0, -W * 3 % 4))).tobytes()
    head += b"DEBM" + bytes(36 + 12 + 4) + struct.pack("<III", 124 + len(rows), len(SRGB), 0)
    data = b"BM" + struct.pack("<IHHI", 14 + 124 + len(rows) + len(SRGB), 0, 0, 14 + 124) + head + rows + SRGB
    picture, warnings_ = decode(data)
    np.testing.assert_array_equal(picture.pixels, RGB)
    assert (picture.icc_profile, warnings_) == (SRGB, [])
