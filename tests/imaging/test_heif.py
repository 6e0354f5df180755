"""AVIF, HEIC and GIF files in: tiles, depth, alpha, turns, other images around, damage."""

from __future__ import annotations

import io
import struct
from typing import Any

import cv2
import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageOps

from core.errors import AnimatedImage, BadRequest, BrokenImage, TooManyPixels, UnsupportedFormat
from imaging.formats import open_image
from tests.helpers import decode
from tests.imaging.pictures import ALPHA, GRAY, RGB, SRGB, H, W, close, flat, in_mode, saved

LARGE = np.asarray(Image.fromarray(RGB).resize((240, 170)))


def heic(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    pillow_heif.from_pillow(image).save(file, quality=-1, chroma=444, **options)
    return file.getvalue()


def avif(image: Image.Image, **options: Any) -> bytes:
    return saved(image, "AVIF", quality=100, subsampling=options.pop("subsampling", "4:4:4"), **options)


@pytest.mark.parametrize("write", [heic, avif])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_color_and_alpha_are_read(write: Any, mode: str) -> None:
    data = write(in_mode(mode))
    opened, (picture, warnings_) = open_image(data), decode(data)
    assert close(picture.pixels, RGB, 4) and warnings_ == []
    assert (opened.size, opened.has_alpha) == ((W, H), mode == "RGBA")
    if mode == "RGBA":
        assert picture.alpha is not None and close(picture.alpha, ALPHA, 2)


def test_gray_stays_gray() -> None:
    for data in (heic(Image.fromarray(GRAY)), avif(Image.fromarray(GRAY), subsampling="4:0:0")):
        opened, (picture, _) = open_image(data), decode(data)
        assert opened.is_gray and close(picture.pixels, GRAY, 2)


def test_gray_with_alpha_stays_so() -> None:
    image = Image.fromarray(GRAY).convert("RGBA")
    image.putalpha(Image.fromarray(ALPHA))
    picture, _ = decode(avif(image, subsampling="4:0:0"))
    assert picture.alpha is not None and close(picture.pixels, GRAY, 2) and close(picture.alpha, ALPHA, 2)


@pytest.mark.parametrize("size", [(240, 170), (239, 167), (65, 64)])
def test_a_grid_of_tiles_is_one_picture(size: tuple[int, int]) -> None:
    image = Image.fromarray(LARGE).resize(size)
    data = heic(image, tile_size=64)
    assert b"grid" in data
    assert close(decode(data)[0].pixels, np.asarray(image), 4)


@pytest.mark.parametrize("depth", [10, 12])
def test_ten_and_twelve_bits_become_eight(depth: int) -> None:
    samples = (LARGE[..., ::-1].astype(np.uint32) * (2**depth - 1) // 255).astype(np.uint16)
    parameters = [cv2.IMWRITE_AVIF_DEPTH, depth, cv2.IMWRITE_AVIF_QUALITY, 95]
    picture, _ = decode(cv2.imencode(".avif", samples, parameters)[1].tobytes())
    assert picture.pixels.dtype == np.uint8 and close(picture.pixels, LARGE, 8)


def test_ten_bits_of_a_heic_become_eight() -> None:
    file = io.BytesIO()
    sixteen = (LARGE.astype(np.uint16) * 257).tobytes()
    pillow_heif.from_bytes("RGB;16", LARGE.shape[1::-1], sixteen).save(file, quality=-1, chroma=444)
    picture, _ = decode(file.getvalue())
    assert picture.pixels.dtype == np.uint8 and close(picture.pixels, LARGE, 4)


def test_ten_bits_of_a_gray_heic_become_eight() -> None:
    file = io.BytesIO()
    sixteen = (GRAY.astype(np.uint16) * 257).tobytes()
    pillow_heif.from_bytes("I;16", GRAY.shape[::-1], sixteen).save(file, quality=-1)
    picture, _ = decode(file.getvalue())
    assert picture.pixels.dtype == np.uint8 and close(picture.pixels, GRAY, 2)


def test_a_profile_counts_before_what_is_said_of_the_coding() -> None:
    data = avif(in_mode("RGB"), icc_profile=SRGB)
    assert b"nclx" in data and b"prof" in data
    at = data.index(b"nclx") + 4
    file = open_image(data[:at] + struct.pack(">HH", 12, 13) + data[at + 4 :]).file
    assert (file.icc_profile, file.cicp) == (SRGB, None)


def test_a_grid_may_leave_its_profile_to_the_tiles() -> None:
    data = heic(Image.fromarray(LARGE), tile_size=64, icc_profile=SRGB)
    of_the_grid = b"\0\1\3\x01\x85\x03"  # item 1 has three properties, of which the third is the profile
    assert data.count(of_the_grid) == 1
    file = open_image(data.replace(of_the_grid, of_the_grid[:-1] + b"\x05")).file
    assert file.icc_profile == SRGB


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("write", [heic, avif])
def test_a_turn_is_applied_once(write: Any, orientation: int) -> None:
    """Both writers turn the EXIF orientation into `irot` and `imir`, and may leave it in the EXIF data too."""
    tag = Image.Exif()
    tag[0x0112] = orientation
    image = Image.fromarray(LARGE)
    data = write(image, exif=tag.tobytes())
    assert orientation == 1 or b"irot" in data or b"imir" in data
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(saved(image, "PNG", exif=tag)))))
    opened, (picture, warnings_) = open_image(data), decode(data)
    assert close(picture.pixels, expected, 4) and warnings_ == []
    assert (opened.width, opened.height) == (picture.width, picture.height)


def test_other_images_beside_the_primary_one_do_not_count() -> None:
    images = pillow_heif.from_pillow(Image.fromarray(LARGE))
    images.add_from_pillow(flat((1, 2, 3), "RGB"))
    file = io.BytesIO()
    images.save(file, quality=-1, chroma=444, primary_index=0)
    assert close(decode(file.getvalue())[0].pixels, LARGE, 4)


def test_the_profile_or_what_stands_in_its_place_is_kept() -> None:
    for write in (heic, avif):
        assert decode(write(in_mode("RGB"), icc_profile=SRGB))[0].icc_profile == SRGB
        assert (open_image(write(in_mode("RGB"))).file.cicp or b"")[:2] == b"\x01\x0d"  # sRGB


def test_an_avif_of_several_frames_is_refused() -> None:
    data = avif(in_mode("RGB"), save_all=True, append_images=[flat((1, 2, 3), "RGB")] * 2)
    with pytest.raises(AnimatedImage, match="AVIF file has 3 frames"):
        open_image(data)


@pytest.mark.parametrize("write", [heic, avif])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.95])
def test_a_truncated_file_is_broken(write: Any, share: float) -> None:
    data = write(Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8)))
    with pytest.raises(BrokenImage):
        decode(data[: int(len(data) * share)])


@pytest.mark.parametrize("write", [heic, avif])
@pytest.mark.parametrize(
    ("width", "height", "error"), [(20_000, 20_000, TooManyPixels), (8, 8, BrokenImage), (0, 9, BrokenImage)]
)
def test_a_size_that_is_not_the_coded_ones_is_refused(write: Any, width: int, height: int, error: type[BadRequest]) -> None:
    data = write(Image.fromarray(LARGE))
    lie = data.replace(struct.pack(">II", 240, 170), struct.pack(">II", width, height))
    assert lie != data
    with pytest.raises(error):
        decode(lie)


def test_of_an_image_made_of_others_nothing_is_decoded() -> None:
    with pytest.raises(UnsupportedFormat, match="iovl"):
        open_image(heic(Image.fromarray(LARGE), tile_size=64).replace(b"grid", b"iovl"))


@pytest.mark.parametrize(
    ("brand", "name"), [(b"avif", "AVIF"), (b"avis", "AVIF"), (b"heic", "HEIC"), (b"heix", "HEIC"), (b"mif1", "HEIC")]
)
def test_the_brand_tells_the_format(brand: bytes, name: str) -> None:
    with pytest.raises(BrokenImage, match=f"The {name} file"):
        open_image(b"\0\0\0\x10ftyp" + brand + b"\0\0\0\0")


# GIF


def test_a_gif_gives_its_very_pixels_and_transparency() -> None:
    image = in_mode("P")
    expected = np.asarray(image.convert("RGB"))
    for options in ({"interlace": 0}, {"interlace": 1}):
        np.testing.assert_array_equal(decode(saved(image, "GIF", **options))[0].pixels, expected)
    indices = np.asarray(image)
    picture, _ = decode(saved(image, "GIF", transparency=int(indices[2, 2])))
    clear = (expected == expected[2, 2]).all(axis=2)
    np.testing.assert_array_equal(picture.alpha, np.where(clear, 0, 255))


def test_a_gray_gif_stays_gray() -> None:
    np.testing.assert_array_equal(decode(saved(Image.fromarray(GRAY), "GIF"))[0].pixels, GRAY)


def test_around_a_frame_that_is_smaller_than_its_gif_nothing_is_drawn() -> None:
    data = bytearray(saved(in_mode("P"), "GIF"))
    data[6:10] = struct.pack("<HH", W + 3, H + 2)
    at = data.index(b"\x2c\0\0\0\0")
    data[at + 1 : at + 5] = struct.pack("<HH", 2, 1)
    picture, _ = decode(bytes(data))
    inside = np.zeros((H + 2, W + 3), np.uint8)
    inside[1 : 1 + H, 2 : 2 + W] = 255
    np.testing.assert_array_equal(picture.alpha, inside)
    np.testing.assert_array_equal(picture.pixels[1 : 1 + H, 2 : 2 + W], np.asarray(in_mode("P").convert("RGB")))


def test_a_gif_of_several_frames_or_with_pixels_missing_is_refused() -> None:
    data = saved(in_mode("P"), "GIF", save_all=True, append_images=[flat((1, 2, 3), "RGB")])
    with pytest.raises(AnimatedImage, match="2 frames"):
        open_image(data)
    still = saved(in_mode("P"), "GIF")
    for cut in (still[: len(still) // 2], still[:-20], still[:12]):
        with pytest.raises(BrokenImage):
            decode(cut)
    np.testing.assert_array_equal(decode(still[:-1])[0].pixels, np.asarray(in_mode("P").convert("RGB")))  # no trailer
