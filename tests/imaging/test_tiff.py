"""TIFF files in: depths, colours, tiles, compressions, pages, damage."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from core.errors import AnimatedImage, BadRequest, BrokenImage, TooManyPixels, UnsupportedFormat
from imaging.containers import tiff as container
from imaging.decode import decoding_bytes
from imaging.formats import open_image
from tests.helpers import decode
from tests.imaging.pictures import ALPHA, GRAY, RGB, SRGB, H, W, close, cmyk_profile, flat, in_mode, saved, tiff

RANDOM = np.random.default_rng(3)
DEEP = RANDOM.integers(0, 65536, (H, W, 4), np.uint16)
EIGHT = RANDOM.integers(0, 256, (H, W, 4), np.uint8)
LAYOUTS: list[dict[str, Any]] = [
    {},
    {"order": ">"},
    {"tile": 16},
    {"tile": 16, "order": ">", "planar": True},
    {"planar": True},
    {"plain": True},
    {"plain": True, "order": ">", "tile": 16},
]


@pytest.mark.parametrize("samples", [EIGHT, DEEP], ids=["8", "16"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_layout_gives_the_very_samples(samples: NDArray[Any], layout: dict[str, Any]) -> None:
    rgb, alpha = samples[..., :3], samples[..., 3]
    picture, warnings_ = decode(tiff(rgb, 2, **layout))
    np.testing.assert_array_equal(picture.pixels, rgb)
    assert picture.pixels.dtype == samples.dtype and picture.alpha is None and warnings_ == []
    picture, _ = decode(tiff(samples, 2, extra=2, **layout))
    np.testing.assert_array_equal(picture.pixels, rgb)
    np.testing.assert_array_equal(picture.alpha, alpha)
    gray = samples[..., :1]
    np.testing.assert_array_equal(decode(tiff(gray, 1, **layout))[0].pixels, gray[..., 0])
    np.testing.assert_array_equal(decode(tiff(gray, 0, **layout))[0].pixels, np.iinfo(samples.dtype).max - gray[..., 0])
    picture, _ = decode(tiff(samples[..., :2], 1, extra=2, **layout))
    np.testing.assert_array_equal(picture.pixels, gray[..., 0])
    np.testing.assert_array_equal(picture.alpha, samples[..., 1])


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_what_pillow_writes_is_read(compression: str | None, mode: str) -> None:
    image = Image.fromarray(DEEP[..., 0]) if mode == "I;16" else in_mode(mode)
    picture, _ = decode(saved(image, "TIFF", compression=compression))
    if mode == "I;16":
        np.testing.assert_array_equal(picture.pixels, DEEP[..., 0])
        return
    expected = np.asarray(image.convert("RGBA"))
    np.testing.assert_array_equal(picture.pixels, expected[..., 0] if mode in ("1", "L", "LA") else expected[..., :3])
    if mode in ("LA", "RGBA"):
        np.testing.assert_array_equal(picture.alpha, ALPHA)


@pytest.mark.parametrize("depth", [8, 16])
def test_premultiplied_alpha_is_divided_out(depth: int) -> None:
    full = 2**depth - 1
    alpha = np.linspace(0, full, H * W).astype(f"u{depth // 8}").reshape(H, W)
    color = (RGB.astype(np.uint64) * full // 255 * alpha[..., None] + full // 2) // full
    picture, _ = decode(tiff(np.dstack([color, alpha]).astype(alpha.dtype), 2, extra=1))
    np.testing.assert_array_equal(picture.alpha, alpha)
    visible = alpha > full // 2
    error = np.abs(picture.pixels.astype(int) - RGB.astype(int) * full // 255)
    assert error[visible].max() <= 1
    assert picture.pixels[alpha == 0].max(initial=0) == 0


def test_palette_of_sixteen_or_eight_bits_becomes_rgb() -> None:
    colors = RANDOM.integers(0, 256, (256, 3), np.uint8)
    indices = EIGHT[..., :1]
    for factor in (257, 1):
        palette = (colors.T.astype(int) * factor).ravel().tolist()
        np.testing.assert_array_equal(decode(tiff(indices, 3, palette=palette))[0].pixels, colors[indices[..., 0]])


def test_inks_become_rgb_through_their_profile_if_they_have_one() -> None:
    for color, expected in [((255, 0, 0, 0), (0, 255, 255)), ((0, 0, 0, 0), (255, 255, 255)), ((0, 0, 0, 255), (0, 0, 0))]:
        picture, _ = decode(saved(flat(color, "CMYK"), "TIFF"))
        assert close(picture.pixels, np.full((H, W, 3), expected, np.uint8))
    picture, warnings_ = decode(saved(flat((255, 0, 0, 0), "CMYK"), "TIFF", icc_profile=cmyk_profile()))
    red, green, blue = picture.pixels[3, 3].astype(int)
    assert green > red + 60 and green > blue + 60 and picture.icc_profile is None and warnings_ == []


@pytest.mark.parametrize("orientation", range(9))
def test_orientation_is_applied(orientation: int) -> None:
    methods = [None, None, *(Image.Transpose(i) for i in (0, 3, 1, 5, 4, 6, 2))]
    method, image = methods[orientation], Image.fromarray(RGB)
    data = tiff(RGB, 2, orientation=orientation)
    picture, _ = decode(data)
    np.testing.assert_array_equal(picture.pixels, np.asarray(image if method is None else image.transpose(method)))
    assert (open_image(data).width, open_image(data).height) == (picture.width, picture.height)


def test_the_profile_is_kept() -> None:
    assert decode(tiff(RGB, 2, profile=SRGB))[0].icc_profile == SRGB


def test_pages_are_counted_and_smaller_copies_are_not() -> None:
    data = saved(in_mode("RGB"), "TIFF", save_all=True, append_images=[flat((1, 2, 3), "RGB")] * 2)
    with pytest.raises(AnimatedImage, match="3 pages"):
        open_image(data)
    first = struct.unpack_from("<I", data, 4)[0]
    (count,) = struct.unpack_from("<H", data, first)
    second = struct.unpack_from("<I", data, first + 2 + 12 * count)[0]
    copy = bytearray(data)
    copy[second + 2 : second + 14] = struct.pack("<HHII", 254, 4, 1, 1)
    with pytest.raises(AnimatedImage, match="2 pages"):
        open_image(bytes(copy))


def test_a_loop_of_directories_ends() -> None:
    data = bytearray(tiff(RGB, 2))
    first = struct.unpack_from("<I", data, 4)[0]
    (count,) = struct.unpack_from("<H", data, first)
    data[first + 2 + 12 * count : first + 6 + 12 * count] = struct.pack("<I", first)
    np.testing.assert_array_equal(decode(bytes(data))[0].pixels, RGB)


def patched(data: bytes, tag: int, value: int) -> bytes:
    """With another number in a tag that has one."""
    result, (first,) = bytearray(data), struct.unpack_from("<I", data, 4)
    for entry in range(first + 2, first + 2 + 12 * struct.unpack_from("<H", data, first)[0], 12):
        if struct.unpack_from("<H", data, entry)[0] == tag:
            result[entry + 8 : entry + 12] = struct.pack("<I", value)
            return bytes(result)
    raise KeyError(tag)


@pytest.mark.parametrize(
    ("tag", "value", "error"),
    [
        (256, 50_000_000, TooManyPixels),
        (257, 50_000_000, BrokenImage),
        (256, 0, BrokenImage),
        (278, 1, BrokenImage),  # more strips than there are
        (277, 2, BrokenImage),
        (259, 6, UnsupportedFormat),
        (259, 34712, UnsupportedFormat),
        (262, 8, UnsupportedFormat),
        (317, 3, UnsupportedFormat),
    ],
)
def test_a_header_that_lies_is_refused(tag: int, value: int, error: type[BadRequest]) -> None:
    with pytest.raises(error):
        decode(patched(tiff(RGB, 2), tag, value))


def test_tiles_of_gigabytes_are_refused() -> None:
    data = tiff(RGB, 2, tile=16)
    for tag in (322, 323):
        with pytest.raises(BrokenImage):
            open_image(patched(data, tag, 1 << 20))


def test_pieces_that_overlap_are_refused() -> None:
    data = tiff(np.zeros((5, 2000, 1), np.uint8), 1, plain=True)
    whole = tiff(np.zeros((2000, 5, 1), np.uint8), 1, plain=True)
    assert decode(data)[0].width == 2000
    lengths = [25] * 400
    assert struct.pack("<400I", *lengths) in whole
    with pytest.raises(BrokenImage):
        open_image(whole.replace(struct.pack("<400I", *lengths), struct.pack("<400I", *[9000] * 400)))


@pytest.mark.parametrize("options", [{}, {"plain": True}, {"tile": 16}])
def test_missing_pixels_are_refused(options: dict[str, Any]) -> None:
    image = np.ascontiguousarray(GRAY[..., None])
    data = tiff(image, 1, **options)
    (first,) = struct.unpack_from("<I", data, 4)
    cut = data[:8] + data[8 + first // 2 :]  # everything after it has moved
    moved = cut[:4] + struct.pack("<I", first - first // 2) + cut[8:]
    with pytest.raises(BrokenImage):
        decode(moved)
    for share in (0.15, 0.5, 0.9):
        with pytest.raises(BrokenImage):
            decode(saved(in_mode("RGB"), "TIFF")[: int(H * W * 3 * share)])


def test_a_decoder_sees_the_strips_and_no_other_tag() -> None:
    header = container.read_header(tiff(DEEP, 2, extra=1, profile=SRGB, orientation=6))
    data = container.samples_file(tiff(DEEP, 2, extra=1, profile=SRGB, orientation=6), header, 0)
    with Image.open(io.BytesIO(data)) as image:
        assert (image.mode, image.size) == ("L", (W * 8, H))
        assert set(dict(image.tag_v2)) == {256, 257, 258, 259, 262, 266, 273, 277, 278, 279}  # type: ignore[attr-defined]


def test_a_large_tiff_of_sixteen_bits_has_no_more_pixels_than_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", DEEP.size // 3)  # Pillow's limit, of which the bytes are more than twice
    np.testing.assert_array_equal(decode(tiff(DEEP[..., :3], 2))[0].pixels, DEEP[..., :3])


def test_what_libtiff_unpacks_counts_as_memory() -> None:
    opened = open_image(tiff(DEEP, 2, extra=2, tile=1008))  # of which a small part is the picture
    assert decoding_bytes(opened) > 1008 * 1008 * 4 * 2
    assert decode(tiff(DEEP, 2, extra=2, tile=1008))[0].pixels.shape == (H, W, 3)


def test_a_pixel_has_few_samples() -> None:
    with pytest.raises(BrokenImage):
        open_image(tiff(np.zeros((H, W, container.MAX_SAMPLES + 1), np.uint8), 2))


@pytest.mark.parametrize("tags", [{700: (254, 4, 1, 1), 305: (330, 4, 1, 8)}, {305: (50706, 1, 4, 0x401)}], ids=["NEF", "DNG"])
def test_the_thumbnail_of_a_raw_file_is_no_picture(tags: dict[int, tuple[int, int, int, int]]) -> None:
    data = saved(in_mode("RGB"), "TIFF", tiffinfo={305: "software", 700: b"packet"})
    at = struct.unpack_from("<I", data, 4)[0]
    (count,) = struct.unpack_from("<H", data, at)
    entries = [data[start : start + 12] for start in range(at + 2, at + 2 + 12 * count, 12)]
    changed = sorted(
        (
            struct.pack("<HHII", *tags[tag]) if (tag := struct.unpack("<H", entry[:2])[0]) in tags else entry
            for entry in entries
        ),
        key=lambda entry: struct.unpack("<H", entry[:2]),
    )
    with pytest.raises(UnsupportedFormat, match="raw"):
        open_image(data[: at + 2] + b"".join(changed) + data[at + 2 + 12 * count :])
