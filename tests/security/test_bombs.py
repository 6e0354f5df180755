"""Small requests that would unpack to much: no hang, no growth of memory."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from bench.server import Server
from core.config import MAX_IMAGE_BYTES, MIB
from tests.security.attack_files import icc_segments, jpeg, looping_exif, png, segment, webp, zeros
from tests.security.attacked_server import assert_unharmed, processor_seconds
from tests.security.mutations import SRGB, with_right_checksums

BOMB_SECONDS = 5.0  # of a processor
BOMB_MARGIN_BYTES = 96 * MIB  # for one request: its body, its base64, its file and a copy or two
LARGE_PROFILE = struct.pack(">I", 6 * MIB) + SRGB[4:] + bytes(6 * MIB - len(SRGB))
RLE_HEADER = (
    b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + struct.pack("<IiiHHIIiiII", 40, 1024, 1024, 1, 8, 1, 0, 0, 0, 256, 0)
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
    "EXIF: a loop in a JPEG": (lambda: jpeg(segment(0xE1, b"Exif\0\0" + looping_exif())), None),
    "EXIF: a loop in a PNG": (lambda: png((b"eXIf", looping_exif())), None),
    "EXIF: 6 MB in a WebP": (lambda: webp((b"EXIF", looping_exif() * 100), flags=8), None),
    "text: 300 MB of zTXt": (lambda: png((b"zTXt", b"k\0\0" + zeros(300 * MIB))), None),
    "text: 300 MB of iTXt": (lambda: png((b"iTXt", b"k\0\1\0\0\0" + zeros(300 * MIB))), None),
    "text: 100 × 60 MB": (lambda: png(*[(b"zTXt", b"k\0\0" + zeros(60 * MIB))] * 100), None),
    "chunks: half a million": (lambda: png(*[(b"tEXt", b"")] * 500_000), "broken_image"),
    "segments: a million": (lambda: jpeg(segment(0xFE, b"") * 1_000_000), "broken_image"),
    "chunks: half a million in a WebP": (lambda: webp(*[(b"JUNK", b"")] * 500_000), None),
    "runs: three million in a BMP": (lambda: RLE_HEADER + bytes(1024) + b"\1\0" * 3_000_000 + b"\0\1", "unsupported_format"),
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
