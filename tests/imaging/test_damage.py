"""Damage where nobody looks refuses nothing; damage to pixels still does."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from core.errors import BrokenImage
from tests.helpers import decode
from tests.imaging.pictures import ALPHA, EXACT, RGB, SRGB, chunk, exif, in_mode, png, saved, unfiltered

ANCILLARY = b"tEXt iTXt zTXt eXIf tIME pHYs gAMA cHRM sRGB iCCP tRNS acTL juNk".split()
NOISE = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)


@pytest.mark.parametrize("name", ANCILLARY)
@pytest.mark.parametrize("body", [b"", b"\0\1\0\1\0\1", b"x" * 300])
def test_a_chunk_with_a_wrong_checksum_is_left_out(name: bytes, body: bytes) -> None:
    whole = chunk((name, body))
    bad = whole[:-1] + bytes([whole[-1] ^ 1])
    plain = png(8, 2, unfiltered(RGB))
    for at in (plain.index(b"IDAT") - 4, plain.index(b"IEND") - 4):
        picture, warnings_ = decode(plain[:at] + bad + plain[at:])
        np.testing.assert_array_equal(picture.pixels, RGB)
        assert picture.alpha is None and picture.icc_profile is None and warnings_ == []


@pytest.mark.parametrize("name", [b"IHDR", b"PLTE", b"IDAT"])
def test_a_chunk_of_the_pixels_with_a_wrong_checksum_is_refused(name: bytes) -> None:
    data = bytearray(saved(in_mode("P"), "PNG"))
    at = data.index(name)
    data[at + 4 + int.from_bytes(data[at - 4 : at], "big")] ^= 1
    with pytest.raises(BrokenImage):
        decode(bytes(data))


def test_a_png_without_its_end_is_whole_if_its_pixels_are() -> None:
    data = png(8, 2, unfiltered(RGB))
    end = data.index(b"IEND") - 4
    text = chunk((b"tEXt", b"a\0b"))
    for tail in (b"", data[end : end + 3], data[end:-1], text, text[:-5], b"\0" * 50, b"junk after the image"):
        np.testing.assert_array_equal(decode(data[:end] + tail)[0].pixels, RGB)
    for cut in (data[: end - 1], data[: end - 30]):
        with pytest.raises(BrokenImage):
            decode(cut)


def test_a_png_cut_between_two_chunks_of_pixels_is_refused() -> None:
    data = saved(Image.fromarray(NOISE), "PNG")
    start = data.index(b"IDAT") - 4
    body = data[start + 8 : data.index(b"IEND") - 8]
    for parts in ((body[:99],), (body[:-6],)):
        with pytest.raises(BrokenImage):
            decode(data[:start] + b"".join(chunk((b"IDAT", part)) for part in parts))


def test_transparency_of_a_wrong_length_is_left_out() -> None:
    for body in (b"", b"\0", b"\0" * 5, b"\0" * 700):
        assert decode(png(8, 2, unfiltered(RGB), (b"tRNS", body)))[0].alpha is None


@pytest.mark.parametrize("subsampling", [0, 2])
def test_a_baseline_jpeg_without_its_end_is_whole_if_its_pixels_are(subsampling: int) -> None:
    data = saved(Image.fromarray(NOISE), "JPEG", subsampling=subsampling)
    np.testing.assert_array_equal(decode(data[:-2])[0].pixels, decode(data)[0].pixels)
    for cut in (3, 4, 5, 10, 11, 100, 1000):
        with pytest.raises(BrokenImage):
            decode(data[:-cut])


def test_a_progressive_jpeg_that_is_cut_is_refused() -> None:
    data = saved(Image.fromarray(NOISE), "JPEG", progressive=True)
    for cut in (3, 10, 100, 1000):
        with pytest.raises(BrokenImage):
            decode(data[:-cut])


@pytest.mark.parametrize(
    "body", [b"", b"Exif\0\0" + b"\xff" * 60, b"JFXX\0\x10\xff\xd8\xff", b"http://ns.adobe.com/xap/1.0/\0<"]
)
@pytest.mark.parametrize("marker", [0xE0, 0xE1, 0xED, 0xFE])
def test_damaged_application_data_of_a_jpeg_does_no_harm(marker: int, body: bytes) -> None:
    data = saved(Image.fromarray(NOISE), "JPEG")
    segment = b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body
    np.testing.assert_array_equal(decode(data[:2] + segment + data[2:])[0].pixels, decode(data)[0].pixels)


@pytest.mark.parametrize("lossless", [True, False])
def test_a_webp_with_damage_around_its_pixels_is_read(lossless: bool) -> None:
    image = in_mode("RGBA")
    data = saved(image, "WEBP", **EXACT | {"lossless": lossless}, exif=exif(6), icc_profile=SRGB)
    expected = decode(saved(image, "WEBP", **EXACT | {"lossless": lossless}))[0]
    at = data.index(b"EXIF")
    files = [data[: at + 10], data[:at]]
    files += [data[: at + 4] + struct.pack("<I", size) + data[at + 8 :] for size in (0, 3, 10**6, 2**32 - 1)]
    files += [data[:4] + struct.pack("<I", size) + data[8:] for size in (10, at, 10**6, 2**32 - 10)]
    for file in files:
        picture, _ = decode(file)
        turned = picture.pixels if picture.pixels.shape == expected.pixels.shape else np.rot90(picture.pixels)
        np.testing.assert_array_equal(turned, expected.pixels)
    if lossless:
        np.testing.assert_array_equal(expected.alpha, ALPHA)
    with pytest.raises(BrokenImage):
        decode(data[: data.index(b"VP8", 16) + 60])


def test_bytes_behind_every_format_do_no_harm() -> None:
    for name in ("TIFF", "GIF", "AVIF"):
        data = saved(in_mode("P" if name == "GIF" else "RGB"), name)
        picture, _ = decode(data + b"junk" * 99)
        np.testing.assert_array_equal(picture.pixels, decode(data)[0].pixels)
