"""Valid pictures of a thousand pixels, and what can be hidden in their files."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from PIL import Image

from core.config import MIB
from tests.helpers import encode, sample_crop
from tests.security.mutations import PNG_SIGNATURE

# One 2× pass of a thousand pixels: what is valid is answered in a tenth of a second.
STRIP = Image.fromarray(np.tile(sample_crop(260, 2, top=40), (1, 2, 1)))


PAYLOAD = b"<script>alert(document.domain)</script>"


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(*chunks: tuple[bytes, bytes], size: tuple[int, int] = STRIP.size) -> bytes:
    """A black PNG of that size, with chunks between its header and its pixels."""
    width, height = size
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    rows = zlib.compressobj(9)
    pixels = b"".join(rows.compress(bytes(1 + 3 * width)) for _ in range(height)) + rows.flush()
    return PNG_SIGNATURE + b"".join(chunk(*each) for each in (header, *chunks, (b"IDAT", pixels), (b"IEND", b"")))


def zeros(total: int) -> bytes:
    """That many zeros, compressed."""
    deflate = zlib.compressobj(9)
    return b"".join(deflate.compress(bytes(10 * MIB)) for _ in range(total // (10 * MIB))) + deflate.flush()


def segment(marker: int, body: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def jpeg(*segments: bytes) -> bytes:
    data = encode(STRIP, "JPEG")
    return data[:2] + b"".join(segments) + data[2:]


def webp(*chunks: tuple[bytes, bytes], flags: int = 0) -> bytes:
    """A WebP in the extended form, with chunks behind its pixels."""
    width, height = STRIP.size
    first = (b"VP8X", bytes([flags, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little"))

    def framed(name: bytes, body: bytes) -> bytes:
        return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)

    body = b"WEBP" + framed(*first) + encode(STRIP, "WEBP")[12:] + b"".join(framed(*each) for each in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def icc_segments(profile: bytes) -> bytes:
    parts = [profile[start : start + 60_000] for start in range(0, len(profile), 60_000)]
    return b"".join(segment(0xE2, b"ICC_PROFILE\0" + bytes([i, len(parts)]) + part) for i, part in enumerate(parts, 1))


def looping_exif() -> bytes:
    """A directory of 65,535 entries, each of which points back to it."""
    return b"MM\0*\0\0\0\x08\xff\xff" + struct.pack(">HHII", 0x8769, 4, 1, 8) * 5000
