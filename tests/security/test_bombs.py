"""Small requests that would unpack to much: no hang, no growth of memory."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from bench.server import Server
from core.config import MAX_IMAGE_BYTES, MIB
from tests.imaging.pictures import cmyk_profile, saved, tiff
from tests.security.attack_files import icc_segments, jpeg, looping_exif, png, segment, webp, zeros
from tests.security.attacked_server import assert_unharmed, processor_seconds
from tests.security.mutations import SRGB, with_right_checksums
from tests.security.mutations import saved as file_of

BOMB_SECONDS = 5.0  # of a processor
BOMB_MARGIN_BYTES = 96 * MIB  # for one request: its body, its base64, its file and a copy or two
LARGE_PROFILE = struct.pack(">I", 6 * MIB) + SRGB[4:] + bytes(6 * MIB - len(SRGB))
LONG_EXIF = b"II*\0\x08\0\0\0\xff\xff" + struct.pack("<HHII", 1, 3, 1, 0) * 65_535
RLE_HEADER = (
    b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + struct.pack("<IiiHHIIiiII", 40, 520, 2, 1, 8, 1, 0, 0, 0, 256, 0)
)


def cmyk(profile: bytes) -> bytes:
    return saved(Image.new("CMYK", (520, 2), (90, 9, 0, 0)), "JPEG", icc_profile=profile)


def program(steps: int) -> bytes:
    """A profile of inks whose colours are computed: all steps but the last are the same four curves."""
    formula = b"parf\0\0\0\0" + struct.pack(">HH4f", 0, 0, 1.1, 1, 0, 0)
    curve = b"curf\0\0\0\0" + struct.pack(">HH", 1, 0) + formula
    curves = b"cvst\0\0\0\0" + struct.pack(">HH", 4, 4) + struct.pack(">II", 44, len(curve)) * 4 + curve
    matrix = b"matf\0\0\0\0" + struct.pack(">HH15f", 4, 3, *[0.1] * 15)
    start = 16 + 8 * steps
    places = struct.pack(">II", start, len(curves)) * (steps - 1) + struct.pack(">II", start + len(curves), len(matrix))
    computed = b"mpet\0\0\0\0" + struct.pack(">HHI", 4, 3, steps) + places + curves + matrix
    head = cmyk_profile()[:8] + b"\x04\x30\0\0" + cmyk_profile()[12:128]
    return with_tag(head + struct.pack(">I", 0), b"D2B0", computed)


def with_tag(profile: bytes, name: bytes, data: bytes) -> bytes:
    """The profile with one more tag, the first of its table."""
    (count,) = struct.unpack_from(">I", profile, 128)
    table = b"".join(
        struct.pack(">4sII", each, start + 12, size)
        for each, start, size in struct.iter_unpack(">4sII", profile[132 : 132 + 12 * count])
    )
    rest = profile[132 + 12 * count :]
    start = 132 + 12 * (count + 1) + len(rest)
    table = struct.pack(">4sII", name, start, len(data)) + table
    return struct.pack(">I", start + len(data)) + profile[4:128] + struct.pack(">I", count + 1) + table + rest + data


def lying(image_format: str, width: int, height: int) -> bytes:
    """A file that says another size than what is coded in it has."""
    return file_of(Image.new("RGB", (520, 64)), image_format).replace(
        struct.pack(">II", 520, 64), struct.pack(">II", width, height)
    )


def gif() -> bytes:
    return saved(Image.new("P", (520, 2)), "GIF")


BLACK, TILE = np.zeros((2, 520, 1), np.uint8), struct.pack("<HHII", 322, 4, 1, 16)[8:]


def strips(count: int) -> bytes:
    """A TIFF whose strips are all the same megabyte."""
    body = bytes(1 << 20)
    at = 8 + len(body)
    numbers = [(256, 1), (257, count), (258, 8), (259, 5), (262, 1), (277, 1), (278, 1)]
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in numbers]
    arrays = at + 2 + 12 * 9 + 4
    entries[5:5] = [struct.pack("<HHII", 273, 4, count, arrays)]
    entries.append(struct.pack("<HHII", 279, 4, count, arrays + 4 * count))
    directory = struct.pack("<H", 9) + b"".join(entries) + bytes(4)
    lists = struct.pack("<I", 8) * count + struct.pack("<I", 1 << 20) * count
    return b"II*\0" + struct.pack("<I", at) + body + directory + lists


def many_frames() -> bytes:
    """An AVIF whose one picture comes a thousand times, one after the other."""
    data = file_of(Image.new("RGB", (520, 2)), "AVIF")
    start = data.index(b"mdat") + 4
    frames = data[start:] * 1000
    place = data.index(b"iloc")
    old = struct.pack(">I", len(data) - start)
    at = data.index(old, place)
    return (
        data[:at]
        + struct.pack(">I", len(frames))
        + data[at + 4 : start - 8]
        + struct.pack(">I", len(frames) + 8)
        + b"mdat"
        + frames
    )


# What is sent; and the code of the refusal, or None where the picture in it is valid and is upscaled.
BOMBS: dict[str, tuple[Callable[[], bytes], str | None]] = {
    "pixels: 30,000 × 30,000 in a PNG": (
        lambda: with_right_checksums(png(size=(30_000, 300)).replace(b"\0\0\x01\x2c", b"\0\0\x75\x30", 1)),
        "too_many_pixels",
    ),
    "pixels: 7600 × 7600 that unpack": (lambda: png(size=(7600, 7600)), "image_too_large"),
    "pixels: more than a PNG says": (lambda: png((b"IDAT", zeros(300 * MIB))), None),
    "pixels: a WebP's canvas of 16,384²": (lambda: webp().replace(webp()[24:30], b"\xff\x3f\0\xff\x3f\0"), "too_many_pixels"),
    "ICC: 300 MB in a PNG": (lambda: png((b"iCCP", b"x\0\0" + zeros(300 * MIB))), None),
    "ICC: 6 MB in a JPEG": (lambda: jpeg(icc_segments(LARGE_PROFILE)), None),
    "ICC: 6 MB in a WebP": (lambda: webp((b"ICCP", LARGE_PROFILE), flags=0x20), None),
    "ICC: a program of 6,000 steps": (lambda: cmyk(program(6_000)), None),
    "ICC: that beside a table": (lambda: cmyk(with_tag(cmyk_profile(), b"D2B0", program(6_000)[144:])), None),
    "EXIF: a loop in a JPEG": (lambda: jpeg(segment(0xE1, b"Exif\0\0" + looping_exif())), None),
    "EXIF: a loop in a PNG": (lambda: png((b"eXIf", looping_exif())), None),
    "EXIF: 65,535 entries in a PNG": (lambda: png((b"eXIf", LONG_EXIF)), None),
    "EXIF: 6 MB in a WebP": (lambda: webp((b"EXIF", looping_exif() * 100), flags=8), None),
    "text: 300 MB of zTXt": (lambda: png((b"zTXt", b"k\0\0" + zeros(300 * MIB))), None),
    "text: 300 MB of iTXt": (lambda: png((b"iTXt", b"k\0\1\0\0\0" + zeros(300 * MIB))), None),
    "text: 100 × 60 MB": (lambda: png(*[(b"zTXt", b"k\0\0" + zeros(60 * MIB))] * 100), None),
    "chunks: half a million": (lambda: png(*[(b"tEXt", b"")] * 500_000), "broken_image"),
    "segments: a million": (lambda: jpeg(segment(0xFE, b"") * 1_000_000), "broken_image"),
    "chunks: half a million in a WebP": (lambda: webp(*[(b"JUNK", b"")] * 500_000), None),
    "runs: three million in a BMP": (lambda: RLE_HEADER + bytes(1024) + b"\1\0" * 3_000_000 + b"\0\1", None),
    "pixels: 20,000 × 20,000 in an AVIF": (lambda: lying("AVIF", 20_000, 20_000), "too_many_pixels"),
    "pixels: 20,000 × 20,000 in a HEIC": (lambda: lying("HEIF", 20_000, 20_000), "too_many_pixels"),
    "pixels: more than an AVIF says": (lambda: lying("AVIF", 16, 2), "broken_image"),
    "pixels: more than a HEIC says": (lambda: lying("HEIF", 16, 2), "broken_image"),
    "pixels: 65,535 × 65,535 in a GIF": (lambda: gif()[:6] + b"\xff\xff\xff\xff" + gif()[10:], "too_many_pixels"),
    "pixels: 7600 × 7600 of LZW": (
        lambda: saved(Image.new("L", (7600, 7600)), "TIFF", compression="tiff_lzw"),
        "image_too_large",
    ),
    "tiles: of a million pixels a side": (
        lambda: tiff(BLACK, 1, tile=16).replace(TILE, struct.pack("<I", 1 << 20)),
        "broken_image",
    ),
    "strips: 400,000, all the same": (lambda: strips(400_000), "broken_image"),
    "strips: 4,000 of 1 MB, all the same": (lambda: strips(4_000), "broken_image"),
    "blocks: three million in a GIF": (lambda: gif()[:-1] + b"\x21\xfe" + b"\1a" * 3_000_000 + b"\0;", "broken_image"),
    "boxes: 800,000 in a HEIC": (lambda: lying("HEIF", 520, 64) + b"\0\0\0\x08free" * 800_000, "broken_image"),
    "frames: thousands in one item": (many_frames, "broken_image"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_does_not_go_off(server: Server, bomb: str) -> None:
    make, code = BOMBS[bomb]
    data = make()
    assert len(data) <= MAX_IMAGE_BYTES
    assert_unharmed(server)
    before = server.memory_bytes("VmRSS")
    server.forget_peak_memory()
    start = processor_seconds(server)
    response = server.post(data)
    assert processor_seconds(server) - start < BOMB_SECONDS
    assert server.memory_bytes("VmHWM") < before + BOMB_MARGIN_BYTES
    body = response.json()
    assert body.get("code") == code
    if code is None:
        assert body["original_size"] == {"width": 520, "height": 2}
    assert_unharmed(server)
