"""The header of a WebP file, read without a decoder: libwebp's clears two whole pictures before it tells a size."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

MAX_CHUNKS = 20_000  # behind which nothing is looked for; a still image has six
_KEPT = (b"VP8X", b"ALPH", b"VP8 ", b"VP8L")
_ANIMATION, _ALPHA = 0x02, 0x10  # flags of VP8X


@dataclass(frozen=True)
class WebPHeader:
    """What a file says of its image. Sizes in pixels."""

    size: tuple[int, int]
    has_alpha: bool
    frame_count: int
    icc_profile: bytes | None
    exif: bytes
    xmp: bytes
    essential: bytes  # a file of the pixels alone, so that damage elsewhere does no harm


def read_header(data: bytes) -> WebPHeader:
    """Read the chunks of a WebP file (RFC 9649); no pixel is looked at.

    Raises:
        ValueError, struct.error: it has no image, or one of no known kind.
    """
    size, has_alpha, is_animated = None, False, False
    frame_count, profile, exif, xmp = 0, None, b"", b""
    kept: dict[bytes, bytes] = {}
    for name, start, end in _chunks(data):
        if name in _KEPT:
            kept.setdefault(name, data[start - 8 : end + (end - start) % 2])
        if name == b"VP8X" and size is None:
            is_animated, has_alpha = bool(data[start] & _ANIMATION), bool(data[start] & _ALPHA)
            size = _read24(data, start + 4) + 1, _read24(data, start + 7) + 1
        elif name == b"VP8 ":
            frame_count += 1
            size = size or _size_of_lossy(data, start)
        elif name == b"VP8L":
            frame_count += 1
            (head, bits) = struct.unpack_from("<BI", data, start)
            if head != 0x2F:
                raise ValueError("a lossless image without its signature")
            if size is None:
                size, has_alpha = ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1), bool(bits >> 28 & 1)
        elif name == b"ANMF":
            frame_count += 1
        elif name == b"ICCP" and profile is None:
            profile = data[start:end]
        elif name == b"EXIF" and not exif:
            exif = data[start:end]
        elif name == b"XMP " and not xmp:
            xmp = data[start:end]
    if size is None or not frame_count:
        raise ValueError("no image")
    essential = data if is_animated else _file_of(kept)
    return WebPHeader(size, has_alpha, frame_count if is_animated else 1, profile, exif, xmp, essential)


def _file_of(chunks: dict[bytes, bytes]) -> bytes:
    if extended := chunks.get(b"VP8X"):
        chunks[b"VP8X"] = extended[:8] + bytes([extended[8] & _ALPHA]) + extended[9:]
    body = b"WEBP" + b"".join(chunks[name] for name in _KEPT if name in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, and where the body begins and ends."""
    position = 12
    for _ in range(MAX_CHUNKS):
        if position + 8 > len(data):
            return
        name, length = struct.unpack_from("<4sI", data, position)
        end = min(position + 8 + length, len(data))
        yield name, position + 8, end
        position = end + length % 2


def _size_of_lossy(data: bytes, start: int) -> tuple[int, int]:
    mark, width, height = struct.unpack_from("<3sHH", data, start + 3)
    if mark != b"\x9d\x01\x2a":
        raise ValueError("a lossy image without its signature")
    return width & 0x3FFF, height & 0x3FFF


def _read24(data: bytes, start: int) -> int:
    return int.from_bytes(data[start : start + 3], "little")
