"""EXIF orientation, and EXIF that is damaged."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from imaging.encode import encode_image
from imaging.formats import open_image
from tests.helpers import decode
from tests.imaging.pictures import RGB, H, W, close, exif, in_mode, with_exif


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_orientation_is_applied(image_format: str, orientation: int) -> None:
    methods = [None, None, *(Image.Transpose(i) for i in (0, 3, 1, 5, 4, 6, 2))]
    method = methods[orientation]
    image = in_mode("RGBA" if image_format != "JPEG" else "RGB")
    expected = np.asarray(image if method is None else image.transpose(method))
    data = with_exif(image, image_format, exif(orientation))
    picture, warnings_ = decode(data)
    assert warnings_ == []
    assert close(picture.pixels, expected[..., :3])
    if image_format != "JPEG":
        np.testing.assert_array_equal(picture.alpha, expected[..., 3])
    header = open_image(data)
    assert (header.width, header.height) == (picture.width, picture.height) == ((W, H) if orientation < 5 else (H, W))
    assert "exif" not in Image.open(io.BytesIO(encode_image(picture, "jpeg", 90)[0])).info


@pytest.mark.parametrize(("order", "kind"), [("<", 1), (">", 3), ("<", 4), (">", 4)])
def test_orientation_is_found_in_either_byte_order_and_any_width(order: str, kind: int) -> None:
    header = open_image(with_exif(in_mode("RGB"), "JPEG", exif(6, order, kind)))
    assert (header.width, header.height) == (H, W)


def test_orientation_zero_means_that_the_camera_did_not_know() -> None:
    picture, warnings_ = decode(with_exif(in_mode("RGB"), "JPEG", exif(0)))
    assert close(picture.pixels, RGB) and warnings_ == []


BROKEN_EXIF = [
    exif(9),
    exif(6)[:20],
    b"Exif\0\0II*\0\xff\xff\xff\xff",
    b"Exif\0\0nonsense",
    exif(6).replace(b"\x12\x01\x03", b"\x12\x01\x07"),
]


@pytest.mark.parametrize("body", BROKEN_EXIF)
@pytest.mark.parametrize("image_format", ["JPEG", "WEBP"])
def test_broken_exif_is_a_warning_and_no_error(image_format: str, body: bytes) -> None:
    data = with_exif(in_mode("RGB"), image_format, body)
    picture, warnings_ = decode(data)
    assert close(picture.pixels, RGB)
    assert warnings_ == ["The EXIF data is damaged: the image was not rotated."]
    assert open_image(data).width == W
