"""Image files in: every format and mode, damage, and anything at all."""

from __future__ import annotations

import io
import random
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from core.errors import BadRequest, BrokenImage
from imaging.formats import open_image
from tests.helpers import decode
from tests.imaging.pictures import (
    ALPHA,
    EXACT,
    GRAY,
    RGB,
    SRGB,
    Array,
    H,
    W,
    bmp_with_alpha,
    close,
    cmyk_profile,
    exif,
    flat,
    in_mode,
    png,
    saved,
    unfiltered,
)
from tests.security.mutations import mutated_file

LOSSLESS = [
    ("PNG", "RGB", RGB, None),
    ("PNG", "RGBA", RGB, ALPHA),
    ("PNG", "L", GRAY, None),
    ("PNG", "LA", GRAY, ALPHA),
    ("BMP", "RGB", RGB, None),
    ("BMP", "RGBA", RGB, ALPHA),
    ("BMP", "L", GRAY, None),
    ("WEBP", "RGB", RGB, None),
    ("WEBP", "RGBA", RGB, ALPHA),
]


@pytest.mark.parametrize(("image_format", "mode", "pixels", "alpha"), LOSSLESS, ids=lambda v: v if isinstance(v, str) else "")
def test_lossless_files_give_their_very_pixels(image_format: str, mode: str, pixels: Array, alpha: Array | None) -> None:
    image = Image.fromarray(pixels)
    if alpha is not None:
        image.putalpha(Image.fromarray(alpha))
    assert image.mode == mode
    data = bmp_with_alpha(image) if (image_format, mode) == ("BMP", "RGBA") else saved(image, image_format, **EXACT)
    picture, warnings_ = decode(data)
    assert warnings_ == []
    np.testing.assert_array_equal(picture.pixels, pixels)
    if alpha is None:
        assert picture.alpha is None
    else:
        np.testing.assert_array_equal(picture.alpha, alpha)


@pytest.mark.parametrize("image_format", ["JPEG", "WEBP"])
@pytest.mark.parametrize("progressive", [False, True])
def test_lossy_files_give_nearly_their_pixels_in_rgb_order(image_format: str, progressive: bool) -> None:
    data = saved(in_mode("RGB"), image_format, quality=95, subsampling=0, progressive=progressive)
    assert close(decode(data)[0].pixels, RGB)


def test_gray_jpeg_stays_gray() -> None:
    picture, _ = decode(saved(Image.fromarray(GRAY), "JPEG", quality=95))
    assert close(picture.pixels, GRAY)


def test_decoded_arrays_can_be_written_to() -> None:
    picture, _ = decode(saved(in_mode("RGBA"), "PNG"))
    assert picture.alpha is not None
    assert picture.pixels.flags.writeable and picture.pixels.flags.c_contiguous
    assert picture.alpha.flags.writeable and picture.alpha.flags.c_contiguous


@pytest.mark.parametrize("image_format", ["PNG", "BMP"])
def test_one_bit_becomes_black_and_white_gray(image_format: str) -> None:
    bits = RGB[..., 0] > 127
    picture, _ = decode(saved(Image.fromarray(bits), image_format))
    np.testing.assert_array_equal(picture.pixels, np.where(bits, 255, 0))


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_palettes_of_every_depth_become_rgb(depth: int) -> None:
    colors = RGB.reshape(-1, 3)[:: max(1, H * W // 2**depth)][: 2**depth]
    indices = (np.arange(H * W).reshape(H, W) % len(colors)).astype(np.uint8)
    bits = np.unpackbits(indices[..., None], axis=2)[..., -depth:].reshape(H, -1)
    picture, _ = decode(png(depth, 3, unfiltered(np.packbits(bits, axis=1)), (b"PLTE", colors.tobytes())))
    np.testing.assert_array_equal(picture.pixels, colors[indices])


@pytest.mark.parametrize("transparent", [b"\0", b"\xff\x80\x40"], ids=["one colour", "a value for each"])
def test_transparency_of_a_palette_becomes_alpha(transparent: bytes) -> None:
    indices = (np.arange(H * W).reshape(H, W) % 4).astype(np.uint8)
    colors = RGB.reshape(-1, 3)[40:44]
    data = png(8, 3, unfiltered(indices), (b"PLTE", colors.tobytes()), (b"tRNS", transparent))
    picture, _ = decode(data)
    opacities = np.frombuffer(transparent.ljust(4, b"\xff"), np.uint8)
    np.testing.assert_array_equal(picture.pixels, colors[indices])
    np.testing.assert_array_equal(picture.alpha, opacities[indices])


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_transparent_gray_level_of_a_png_becomes_alpha(depth: int) -> None:
    levels = (np.arange(H * W).reshape(H, W) % 2**depth).astype(np.uint8)
    bits = np.unpackbits(levels[..., None], axis=2)[..., -depth:].reshape(H, -1)
    picture, _ = decode(png(depth, 0, unfiltered(np.packbits(bits, axis=1)), (b"tRNS", struct.pack(">H", 1))))
    np.testing.assert_array_equal(picture.pixels, levels.astype(int) * 255 // (2**depth - 1))
    np.testing.assert_array_equal(picture.alpha, np.where(levels == 1, 0, 255))


def test_transparent_color_of_a_png_becomes_alpha() -> None:
    key = RGB[3, 5]
    picture, _ = decode(png(8, 2, unfiltered(RGB), (b"tRNS", struct.pack(">3H", *key))))
    np.testing.assert_array_equal(picture.pixels, RGB)
    np.testing.assert_array_equal(picture.alpha, np.where((key == RGB).all(axis=2), 0, 255))


DEEP = np.random.default_rng(5).integers(0, 65536, (H, W, 4), np.uint16)


@pytest.mark.parametrize(("color_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)], ids=["L", "RGB", "LA", "RGBA"])
def test_sixteen_bits_of_a_png_stay_sixteen(color_type: int, channels: int) -> None:
    samples = DEEP[..., :channels]
    picture, _ = decode(png(16, color_type, unfiltered(samples)))
    assert picture.pixels.dtype == np.uint16
    np.testing.assert_array_equal(picture.pixels, samples[..., 0] if channels < 3 else samples[..., :3])
    if color_type in (4, 6):
        np.testing.assert_array_equal(picture.alpha, samples[..., -1])
    else:
        assert picture.alpha is None


def test_a_sixteen_bit_color_key_is_one_color_of_sixteen_bits() -> None:
    for color_type, samples in ((0, DEEP[..., 0].copy()), (2, DEEP[..., :3].copy())):
        samples[0, 1] = samples[0, 0] ^ 1  # the same in eight bits
        key = struct.pack(f">{samples[0, 0].size}H", *np.atleast_1d(samples[0, 0]))
        picture, _ = decode(png(16, color_type, unfiltered(samples), (b"tRNS", key)))
        np.testing.assert_array_equal(picture.pixels, samples)
        expected = np.full((H, W), 65535, np.uint16)
        expected[0, 0] = 0
        np.testing.assert_array_equal(picture.alpha, expected)
        assert picture.alpha is not None and picture.alpha.dtype == np.uint16


def test_alpha_that_is_full_throughout_is_none() -> None:
    image = in_mode("RGB")
    image.putalpha(255)
    for data in (saved(image, "PNG"), bmp_with_alpha(image)):
        assert open_image(data).has_alpha
        assert decode(data)[0].alpha is None
    image.putpixel((3, 2), (0, 0, 0, 254))
    alpha = decode(saved(image, "PNG"))[0].alpha
    assert alpha is not None
    assert alpha.sum() == alpha.size * 255 - 1


def test_image_of_one_pixel_is_valid() -> None:
    for image_format in ("PNG", "JPEG", "WEBP", "BMP"):
        picture, _ = decode(saved(Image.new("RGB", (1, 1), (255, 255, 255)), image_format))
        assert close(picture.pixels, np.full((1, 1, 3), 255, np.uint8), 2)


def test_stripes_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imaging.picture.STRIPE_PX", 5 * W)
    picture, _ = decode(saved(in_mode("RGBA"), "PNG"))
    np.testing.assert_array_equal(picture.pixels, RGB)
    np.testing.assert_array_equal(picture.alpha, ALPHA)


def test_multi_picture_jpeg_gives_its_first_frame() -> None:
    data = saved(in_mode("RGB"), "MPO", save_all=True, append_images=[flat((1, 2, 3), "RGB")], quality=95, subsampling=0)
    opened = Image.open(io.BytesIO(data))
    assert opened.format == "MPO" and getattr(opened, "n_frames") == 2  # noqa: B009 - of MPO alone
    picture, warnings_ = decode(data)
    assert close(picture.pixels, RGB) and warnings_ == []


def test_bytes_after_the_image_do_no_harm() -> None:
    for image_format in ("PNG", "JPEG", "WEBP", "BMP"):
        assert open_image(saved(in_mode("RGB"), image_format) + b"\xff\xda\xff\xd8video" * 99).width == W


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.15, 0.5, 0.9])
def test_truncated_file_is_broken(image_format: str, share: float) -> None:
    data = saved(in_mode("RGB"), image_format)
    with pytest.raises(BrokenImage, match=image_format.replace("WEBP", "WebP")) as caught:
        decode(data[: int(len(data) * share)])
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    "foreign",
    [OSError, SyntaxError, ValueError, struct.error, EOFError, zlib.error, IndexError, KeyError, TypeError, OverflowError],
)
def test_every_foreign_exception_becomes_one_of_ours(monkeypatch: pytest.MonkeyPatch, foreign: type[Exception]) -> None:
    def fail(*_: object) -> None:
        raise foreign("from deep inside")

    monkeypatch.setattr(PngImageFile, "load", fail)
    with pytest.raises(BrokenImage) as caught:
        decode(saved(in_mode("RGB"), "PNG"))
    assert isinstance(caught.value.__cause__, foreign)
    assert "deep inside" not in caught.value.message


def seeds() -> list[bytes]:
    files = [
        saved(in_mode(mode), image_format)
        for image_format, modes in {
            "PNG": ("1", "L", "LA", "P", "RGB", "RGBA"),
            "JPEG": ("L", "RGB", "CMYK"),
            "WEBP": ("RGB", "RGBA"),
            "BMP": ("1", "L", "P", "RGB"),
        }.items()
        for mode in modes
    ]
    files.append(saved(in_mode("RGB"), "JPEG", progressive=True, icc_profile=SRGB, exif=exif(6)))
    files.append(saved(in_mode("RGBA"), "WEBP", lossless=True, icc_profile=SRGB, exif=exif(6)))
    files.append(bmp_with_alpha(in_mode("RGBA")))
    files.append(png(16, 0, unfiltered(np.arange(H * W, dtype=np.uint16).reshape(H, W)), (b"tRNS", b"\0\7")))
    files.append(saved(flat((255, 0, 0, 0), "CMYK"), "JPEG", icc_profile=cmyk_profile()))
    return files


def outcome(function: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return function(data)
    except BadRequest as exc:
        assert exc.message
        return None


def test_damaged_files_give_a_picture_or_a_refusal_and_nothing_else() -> None:
    rng = random.Random(7)  # noqa: S311
    files = seeds()
    for turn in range(25 * len(files)):
        data = mutated_file(files[turn % len(files)], rng)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            header, decoded = outcome(open_image, data), outcome(decode, data)
        if decoded is not None:
            picture = decoded[0]
            assert (header.width, header.height) == (picture.width, picture.height)
            assert header.has_alpha or picture.alpha is None


def test_header_agrees_with_the_picture() -> None:
    for data in seeds():
        opened, (picture, _) = open_image(data), decode(data)
        assert (opened.width, opened.height, opened.is_gray) == (picture.width, picture.height, picture.pixels.ndim == 2)
        assert opened.has_alpha or picture.alpha is None
