"""Image files out: formats, transparency, quality, limits of a format."""

from __future__ import annotations

import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from imaging.colour import flatten_on_white
from imaging.encode import encode_image
from imaging.picture import Picture
from tests.helpers import decode
from tests.imaging.pictures import ALPHA, GRAY, RGB, SRGB, Array, close


@pytest.mark.parametrize("alpha", [None, ALPHA], ids=["opaque", "alpha"])
@pytest.mark.parametrize("pixels", [RGB, GRAY], ids=["rgb", "gray"])
@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_what_is_written_reads_back(image_format: str, pixels: Array, alpha: Array | None) -> None:
    data, warnings_ = encode_image(Picture(pixels, alpha), image_format, 95)
    picture, _ = decode(data)
    expected = pixels
    if image_format == "jpeg" and alpha is not None:
        weight = alpha[..., None] / 255 if pixels.ndim == 3 else alpha / 255
        expected = np.round(pixels * weight + 255 * (1 - weight)).astype(np.uint8)
        assert warnings_ == ["JPEG cannot hold transparency: it was flattened on white."]
    else:
        assert warnings_ == []
    if image_format == "webp" and pixels.ndim == 2:
        expected = np.repeat(pixels[..., None], 3, axis=2)
    if image_format == "webp" and alpha is not None:  # what cannot be seen may be anything
        assert close(picture.pixels[alpha > 30], expected[alpha > 30], 25)
    else:
        assert close(picture.pixels, expected, 0 if image_format == "png" else 12)
    if image_format == "jpeg" or alpha is None:
        assert picture.alpha is None
    else:
        np.testing.assert_array_equal(picture.alpha, alpha)


def test_flattening_rounds_to_the_nearest_for_every_value_and_alpha() -> None:
    values, alpha = (plane.astype(np.uint8) for plane in np.mgrid[0:256, 0:256])
    exact = np.round((values.astype(float) * alpha + 255.0 * (255.0 - alpha)) / 255)
    np.testing.assert_array_equal(flatten_on_white(values, alpha), exact)


@pytest.mark.parametrize(("quality", "sampling"), [(100, (1, 1)), (90, (1, 1)), (89, (2, 2)), (1, (2, 2))])
def test_jpeg_keeps_full_color_from_quality_90(quality: int, sampling: tuple[int, int]) -> None:
    data, _ = encode_image(Picture(RGB), "jpeg", quality)
    frame = data.index(b"\xff\xc0")
    assert divmod(data[frame + 11], 16) == sampling


@pytest.mark.parametrize("image_format", ["jpeg", "webp"])
def test_lower_quality_makes_a_smaller_file(image_format: str) -> None:
    sizes = [len(encode_image(Picture(RGB), image_format, quality)[0]) for quality in (1, 50, 100)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_same_picture_gives_the_same_bytes(image_format: str) -> None:
    pictures = [Picture(RGB.copy(), ALPHA.copy(), SRGB) for _ in range(2)]
    first, second = (encode_image(picture, image_format, 90)[0] for picture in pictures)
    assert first == second


def test_views_are_encoded_like_their_copies() -> None:
    view = RGB[::-1, ::2]
    assert encode_image(Picture(view), "png", 90) == encode_image(Picture(view.copy()), "png", 90)


@pytest.mark.parametrize(("image_format", "side"), [("webp", 16384), ("jpeg", 65501)])
def test_picture_too_long_for_its_format_is_a_clear_error(image_format: str, side: int) -> None:
    encode_image(Picture(np.zeros((1, side - 1), np.uint8)), image_format, 90)
    with pytest.raises(ValueError, match=f"{image_format} holds at most {side - 1} px"):
        encode_image(Picture(np.zeros((1, side), np.uint8)), image_format, 90)


@pytest.mark.parametrize("alpha", [None, ALPHA], ids=["opaque", "alpha"])
@pytest.mark.parametrize("pixels", [RGB, GRAY], ids=["rgb", "gray"])
def test_sixteen_bits_stay_in_png_to_the_last(pixels: Array, alpha: Array | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read by OpenCV, or for gray with alpha by hand; in one stripe and in many."""
    noise = np.random.default_rng(1).integers(0, 257, pixels.shape, np.uint16)
    wide = Picture(pixels * np.uint16(256) + noise, None if alpha is None else alpha * np.uint16(257), SRGB, b"\x09\x10\0\1")
    data, warnings_ = encode_image(wide, "png", 90)
    assert warnings_ == []
    samples = wide.pixels.reshape(*pixels.shape[:2], -1)
    if wide.alpha is not None:
        samples = np.dstack([samples, wide.alpha])
    assert struct.unpack_from(">IIBB", data, 16) == (
        pixels.shape[1],
        pixels.shape[0],
        16,
        {1: 0, 2: 4, 3: 2, 4: 6}[samples.shape[2]],
    )
    if samples.shape[2] != 2:
        read = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        assert read is not None
        read = read.reshape(samples.shape)
        order = [2, 1, 0, 3][: samples.shape[2]] if samples.shape[2] > 1 else [0]
        np.testing.assert_array_equal(read[..., order], samples)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert image.info["icc_profile"] == SRGB
    assert data.index(b"cICP") < data.index(b"iCCP") < data.index(b"IDAT")
    monkeypatch.setattr("imaging.picture.STRIPE_PX", 100)
    with Image.open(io.BytesIO(data)) as whole, Image.open(io.BytesIO(encode_image(wide, "png", 90)[0])) as striped:
        np.testing.assert_array_equal(np.asarray(whole), np.asarray(striped))


@pytest.mark.parametrize("image_format", ["jpeg", "webp"])
def test_sixteen_bits_become_eight_where_the_format_has_no_more(image_format: str) -> None:
    wide = Picture(RGB * np.uint16(257) - np.minimum(RGB, 100).astype(np.uint16))
    assert encode_image(wide, image_format, 90) == encode_image(Picture(RGB), image_format, 90)


def test_unknown_output_format_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match="'gif' is none of jpeg, png, webp"):
        encode_image(Picture(RGB), "gif", 90)
