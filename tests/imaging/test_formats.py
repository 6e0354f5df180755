"""Which files are refused, and why: foreign formats, limits, bombs, animation, wrong headers."""

from __future__ import annotations

import gc
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.ImageFile import ImageFile

from core.config import MAX_IMAGE_BYTES, MAX_PIXELS
from core.errors import AnimatedImage, BadRequest, BrokenImage, FileTooLarge, NotAnImage, TooManyPixels, UnsupportedFormat
from imaging.containers.png import PNG_SIGNATURE
from imaging.decode import decode_image
from imaging.formats import InputLimits, open_image
from tests.helpers import decode, encode
from tests.imaging.pictures import RGB, W, chunk, close, flat, huge, in_mode, png, saved, unfiltered

ALLOWED = "PNG, JPEG, WebP, BMP, TIFF, AVIF, HEIC or GIF"


def test_nothing_is_not_an_image() -> None:
    with pytest.raises(NotAnImage, match="empty"):
        decode(b"")


@pytest.mark.parametrize(
    "data", [b"hello", b"\0" * 100, b"BMW is a maker of cars and of motorcycles", b"RIFF\0\0\0\0", b"\xff\xd8"]
)
def test_unknown_bytes_are_not_an_image(data: bytes) -> None:
    with pytest.raises(NotAnImage, match=ALLOWED):
        open_image(data)


FOREIGN = [
    (b"MM\0+\0\0\0\x08", "BigTIFF"),
    (b"\0\0\0\x18ftypisom\0\0\0\0", "video"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"%PDF-1.7", "PDF"),
    (b"8BPS\0\1", "PSD"),
    (b"\xef\xbb\xbf \n<SVG xmlns=", "SVG"),
    (b"<?xml version='1.0'?><svg>", "SVG"),
    (b"<!DOCTYPE html>", "HTML"),
]


@pytest.mark.parametrize(("data", "name"), FOREIGN, ids=[name for _, name in FOREIGN])
def test_other_formats_are_named_with_those_that_are_allowed(data: bytes, name: str) -> None:
    for function in (open_image, decode):
        with pytest.raises(UnsupportedFormat, match=f"{name}.*{ALLOWED}"):
            function(data)


def test_file_over_the_limit_is_refused_with_both_figures() -> None:
    data = saved(Image.new("L", (1, 1)), "PNG")
    data += b"\0" * (MAX_IMAGE_BYTES - len(data))
    assert open_image(data).width == 1
    with pytest.raises(FileTooLarge, match=r"7,340,033.*7,340,032"):
        open_image(data + b"\0")


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "BMP"])
@pytest.mark.parametrize(("width", "height"), [(50_000, 50_000), (7681, 7680), (10_000, 10_000)])
def test_claim_of_too_many_pixels_is_refused_by_the_header(image_format: str, width: int, height: int) -> None:
    with pytest.raises(BadRequest) as caught:
        open_image(huge(image_format, width, height))
    # A still WebP whose canvas is not its picture's size is already damaged for libwebp.
    assert isinstance(caught.value, TooManyPixels | BrokenImage if image_format == "WEBP" else TooManyPixels)


def test_largest_allowed_header_is_read() -> None:
    header = open_image(huge("PNG", 7680, 7680))
    assert header.width * header.height == MAX_PIXELS


def test_text_bomb_in_a_png_is_never_unpacked() -> None:
    bomb = (b"zTXt", b"k\0\0" + zlib.compress(b"\0" * 100_000_000))
    picture, warnings_ = decode(png(8, 2, unfiltered(RGB), bomb))
    np.testing.assert_array_equal(picture.pixels, RGB)
    assert warnings_ == []


def test_jpeg_of_endless_scans_is_refused() -> None:
    data = saved(in_mode("RGB"), "JPEG", progressive=True)
    scan = b"\xff\xda\0\x0c\x03\x01\0\x02\0\x03\0\0\0\x10"
    decode(data[:-2] + scan * 50 + data[-2:])
    with pytest.raises(BrokenImage):
        open_image(data[:-2] + scan * 1000 + data[-2:])


def test_png_of_endless_chunks_is_refused() -> None:
    data = png(8, 2, unfiltered(RGB))
    empty, end = chunk((b"IDAT", b"")), data.index(b"IDAT") - 4
    np.testing.assert_array_equal(decode(data[:end] + empty * 1000 + data[end:])[0].pixels, RGB)
    with pytest.raises(BrokenImage):
        open_image(data[:end] + empty * 500_000 + data[end:])


def bmp_in_runs(depth: int, rows: bytes, size: tuple[int, int]) -> bytes:
    palette = b"".join(bytes([i, 255 - i, i // 2, 0]) for i in range(2**depth))
    header = struct.pack("<IiiHHIIiiII", 40, *size, 1, depth, {8: 1, 4: 2}[depth], len(rows), 0, 0, 2**depth, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + len(palette)) + header + palette + rows


def test_bmp_in_runs_is_decoded_in_c_as_pillow_decodes_it() -> None:
    eight = b"\x05\x09\0\x03\x01\x02\x03\0\0\0" + b"\x08\x63\0\0" + b"\x02\x01\0\x02\x03\0\x03\x07\0\1"
    four = b"\x05\x9a\0\x03\x12\x30\0\0" + b"\x08\x63\0\0" + b"\x08\x07\0\1"
    for depth, rows in ((8, eight), (4, four)):
        data = bmp_in_runs(depth, rows, (8, 3))
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        np.testing.assert_array_equal(decode(data)[0].pixels, expected)
        with pytest.raises(BrokenImage):
            decode(data[:-5])


def test_the_list_of_formats_may_be_narrowed() -> None:
    data, limits = saved(in_mode("RGB"), "WEBP"), InputLimits(formats=("JPEG", "PNG"))
    with pytest.raises(UnsupportedFormat, match=r"The file is WebP, which is not supported\. Send JPEG or PNG"):
        open_image(data, limits)
    with pytest.raises(NotAnImage, match="Send JPEG or PNG"):
        open_image(b"hello", limits)
    assert open_image(saved(in_mode("RGB"), "PNG"), limits).width == W


def test_a_limit_of_bytes_of_ones_own() -> None:
    with pytest.raises(FileTooLarge, match=r"at most 1,048,576 \(1 MB\)"):
        open_image(bytes(1024 * 1024 + 1), InputLimits(1024 * 1024))


def test_jpeg_of_endless_segments_is_refused() -> None:
    data = saved(in_mode("RGB"), "JPEG", quality=95, subsampling=0)
    assert close(decode(data[:2] + b"\xff\xfe\0\2" * 300 + data[2:])[0].pixels, RGB)
    with pytest.raises(BrokenImage):
        open_image(data[:2] + b"\xff\xfe\0\2" * 1_000_000 + data[2:])


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_animation_is_refused(image_format: str) -> None:
    data = saved(in_mode("RGB"), image_format, save_all=True, append_images=[flat((1, 2, 3), "RGB")], duration=100)
    with pytest.raises(AnimatedImage, match="2 frames"):
        open_image(data)


@pytest.mark.parametrize("extra", [(b"acTL", struct.pack(">II", 0, 0)), (b"acTL", struct.pack(">II", 1, 0))])
def test_animation_of_one_frame_is_a_still(extra: tuple[bytes, bytes]) -> None:
    np.testing.assert_array_equal(decode(png(8, 2, unfiltered(RGB), extra))[0].pixels, RGB)


@pytest.mark.parametrize(
    "data",
    [PNG_SIGNATURE, b"\xff\xd8\xff", b"\xff\xd8\xff\xd9", b"RIFF\0\0\0\0WEBP", b"BM" + b"\0" * 12 + b"\x28\0\0\0"],
)
def test_only_a_signature_is_broken(data: bytes) -> None:
    with pytest.raises(BrokenImage):
        open_image(data)


@pytest.mark.parametrize("name", [b"IHDR", b"IDAT", b"IEND"])
def test_wrong_checksum_in_a_png_is_broken(name: bytes) -> None:
    data = bytearray(saved(in_mode("RGB"), "PNG"))
    start = data.index(name)
    data[start + 4 + int.from_bytes(data[start - 4 : start], "big")] ^= 1
    with pytest.raises(BrokenImage):
        open_image(bytes(data))


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_image_of_no_size_is_broken(size: tuple[int, int]) -> None:
    for data in (png(8, 2, b"", size=size), huge("JPEG", *size), huge("BMP", *size)):
        with pytest.raises(BrokenImage):
            open_image(data)


def test_png_without_pixels_is_broken() -> None:
    for data in (png(8, 2, b""), png(8, 2, unfiltered(RGB)[:100]), png(8, 9, unfiltered(RGB)), png(3, 2, unfiltered(RGB))):
        with pytest.raises(BrokenImage):
            decode(data)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "BMP"])
def test_an_opened_file_holds_no_decoder(image_format: str) -> None:
    """Requests wait with it, and that of a WebP holds two pictures of its size."""
    opened = open_image(encode(np.zeros((40, 60, 3), np.uint8), image_format))
    decode_image(opened)
    assert not any(isinstance(referent, ImageFile) for referent in gc.get_referents(opened.__dict__))
    assert [name for name, value in vars(opened).items() if isinstance(value, ImageFile)] == []
