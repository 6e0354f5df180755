"""PNG and JPEG files reduced to what makes their pixels and colour.

Either can carry anything: text bombs, thumbnails, animation chunks, damaged metadata. None of it gets past here, so that no
decoder ever parses it.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from core.config import MIB
from imaging.containers import png
from imaging.containers.png import PNG_SIGNATURE

MAX_PROFILE_BYTES = (
    4 * MIB
)  # a PNG's profile is compressed: 7 MB could hold 7 GB of it; profiles of printing presses have 2 MB at most
# Empty chunks cost 12 bytes and 1 µs of the interpreter each: 7 MB of them, 0.4 s. Encoders write 8 kB to a chunk, or more.
MAX_PNG_CHUNKS = 20_000
# An empty scan of a progressive JPEG costs 14 bytes and, at 7680×7680, 10 ms: 7 MB of them would keep a thread for an hour.
# Encoders write 10. Empty segments cost 4 bytes and 3 µs of the interpreter each; of the largest, 64 kB, 112 fill a file.
MAX_JPEG_SCANS = 100
MAX_JPEG_SEGMENTS = 2000
_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")


@dataclass(frozen=True)
class SanitizedFile:
    """A file that holds pixels and colour alone, and what else was found in it."""

    data: bytes
    exif: bytes = b""
    icc_profile: bytes | None = None  # b"" where there was one that cannot be read
    frame_count: int = 1
    color_key: tuple[int, ...] | None = None  # the one colour that a PNG without alpha declares transparent
    is_gray: bool | None = None  # None: Pillow tells
    depth: int = 8  # bits of a sample of the decoded pixels: 8 or 16
    is_unended: bool = False  # a JPEG whose mark of the end is missing: its pixels may be whole or not
    cicp: bytes | None = None  # ITU-T H.273: primaries, transfer, matrix, range; of the decoded pixels
    is_srgb: bool = False  # a PNG says so, by its sRGB; then gAMA and cHRM do not count
    gama: bytes | None = None
    chrm: bytes | None = None
    xmp: bytes = b""
    density: tuple[float, float] | None = None  # dots per inch, across and down

    @property
    def profile(self) -> bytes | None:
        """The colour profile, unless it is too large to go out again; b"" in place of one that cannot be used."""
        return self.icc_profile if self.icc_profile is None or len(self.icc_profile) <= MAX_PROFILE_BYTES else b""


def sanitize_png(data: bytes) -> SanitizedFile:
    """Keep the header, the palette and the pixels. As libpng does, forgive damage elsewhere: such a chunk is left out.

    Raises:
        ValueError, KeyError, struct.error: the file is damaged, or has more than MAX_PNG_CHUNKS chunks.
    """
    chunks: dict[bytes, bytes] = {}
    pixel_chunks = []
    for name, chunk in _png_chunks(data):
        if name == b"IDAT":
            pixel_chunks.append(chunk[8:-4])
        elif name == b"iTXt" and chunk.startswith(_PNG_XMP, 8):
            chunks.setdefault(_PNG_XMP, chunk)
        else:
            chunks.setdefault(name, chunk)
    header = chunks[b"IHDR"]
    depth, color_type = header[16], header[17]
    kept = [b"IHDR", b"PLTE", b"tRNS"] if color_type == 3 else [b"IHDR"]
    pixels = png.chunk(b"IDAT", b"".join(pixel_chunks))  # one chunk: Pillow takes 4 µs for each
    if not pixel_chunks:
        raise ValueError("no pixels")
    essential = [PNG_SIGNATURE, *(chunks.get(name, b"") for name in kept), pixels, png.chunk(b"IEND", b"")]
    frames = chunks.get(b"acTL", b"")
    return SanitizedFile(
        b"".join(essential),
        exif=chunks.get(b"eXIf", b"")[8:-4],
        icc_profile=_png_profile(chunks[b"iCCP"][8:-4]) if b"iCCP" in chunks else None,
        frame_count=struct.unpack_from(">I", frames, 8)[0] if len(frames) == 20 else 1,
        color_key=_png_color_key(chunks.get(b"tRNS", b"")[8:-4], depth, color_type),
        is_gray=color_type in (0, 4),
        depth=max(depth, 8),
        cicp=chunks[b"cICP"][8:-4] if b"cICP" in chunks else None,
        is_srgb=b"sRGB" in chunks,
        gama=chunks[b"gAMA"][8:-4] if b"gAMA" in chunks else None,
        chrm=chunks[b"cHRM"][8:-4] if b"cHRM" in chunks else None,
        xmp=_png_xmp(chunks[_PNG_XMP][8:-4]) if _PNG_XMP in chunks else b"",
        density=_png_density(chunks.get(b"pHYs", b"")[8:-4]),
    )


_PNG_XMP = b"XML:com.adobe.xmp\0"


def _png_xmp(body: bytes) -> bytes:
    """The packet; a byte that no packet begins with where it is compressed, which XMP forbids."""
    is_compressed, texts = body[len(_PNG_XMP) :][:1] != b"\0", body[len(_PNG_XMP) + 2 :].split(b"\0", 2)
    return b"\xff" if is_compressed or len(texts) < 3 else texts[2]


def _png_density(body: bytes) -> tuple[float, float] | None:
    if len(body) != 9 or body[8] != 1:  # not in pixels a metre
        return None
    across, down = struct.unpack_from(">II", body)
    return (across * 0.0254, down * 0.0254) if across and down else None


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Each whole chunk's name, and the whole of it. Pillow does not look at the checksums of the pixels."""
    position, name, chunk_count = len(PNG_SIGNATURE), b"", 0
    while name != b"IEND":
        chunk_count += 1
        if chunk_count > MAX_PNG_CHUNKS:
            raise ValueError(f"{chunk_count} chunks")
        if position + 12 > len(data):
            return
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + length + 12
        is_whole = end <= len(data) and zlib.crc32(data[position + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")
        if is_whole:
            yield name, data[position:end]
        elif name == b"IDAT" or (end <= len(data) and name in _CRITICAL):
            raise ValueError(f"checksum of {name!r}")
        position = end


def _png_profile(body: bytes) -> bytes:
    inflater = zlib.decompressobj()
    try:
        profile = inflater.decompress(body.partition(b"\0")[2][1:], MAX_PROFILE_BYTES)
    except zlib.error:
        return b""
    return profile if inflater.eof else b""


def _png_color_key(body: bytes, depth: int, color_type: int) -> tuple[int, ...] | None:
    """The transparent colour on the scale of the decoded pixels."""
    if color_type not in (0, 2) or len(body) != (2 if color_type == 0 else 6):
        return None
    most = 2**depth - 1
    return tuple((value & most) * (65535 if depth == 16 else 255) // most for (value,) in struct.iter_unpack(">H", body))


def sanitize_jpeg(data: bytes) -> SanitizedFile:
    """Keep everything but application data, of which only JFIF and Adobe decide on the colour space.

    Raises:
        ValueError, struct.error: the file is damaged, or has too many segments or scans.
    """
    kept, exif, xmp, profile, scan_count, marker = [b"\xff\xd8"], b"", b"", [], 0, 0
    components, scanned = {0}, set[int]()
    for segment_count, (marker, segment) in enumerate(_jpeg_segments(data), 1):
        scan_count += marker == 0xDA
        if segment_count > MAX_JPEG_SEGMENTS or scan_count > MAX_JPEG_SCANS:
            raise ValueError(f"{segment_count} segments, {scan_count} scans")
        if marker in (0xC0, 0xC1):
            components = set(segment[10::3])
        elif marker == 0xDA:
            scanned |= set(segment[5 : 5 + 2 * segment[4] : 2])
        if segment.startswith(b"Exif\0\0", 4):
            exif = exif or segment[10:]
        elif segment.startswith(_JPEG_XMP, 4):
            xmp = xmp or segment[4 + len(_JPEG_XMP) :]
        elif segment.startswith(b"ICC_PROFILE\0", 4):
            profile.append(segment[16:])
        elif marker in (0xE0, 0xEE) or not 0xE0 <= marker <= 0xEF:  # JFIF and Adobe decide on the colour space
            kept.append(segment)
    density = next((_jfif_density(segment) for segment in kept if segment.startswith(b"JFIF\0", 4)), None)
    return SanitizedFile(
        b"".join(kept),
        exif=exif,
        icc_profile=_join_profile(profile),
        is_unended=marker != 0xD9 and components == scanned,  # of a progressive one, nobody knows how many scans there are
        xmp=xmp,
        density=density,
    )


_JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"


def _jfif_density(segment: bytes) -> tuple[float, float] | None:
    if len(segment) < 16 or segment[11] not in (1, 2):  # neither an inch nor a centimetre
        return None
    unit = {1: 1.0, 2: 2.54}[segment[11]]
    across, down = struct.unpack_from(">HH", segment, 12)
    return (across * unit, down * unit) if across and down else None


# Not a byte that was escaped in the pixels (00), a restart mark within them (D0-D7) or padding (FF).
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Each segment's marker, and the whole of it; that of a scan ends with its pixels. What follows the image is left out."""
    position = 2
    while found := _JPEG_MARKER.search(data, position):
        start, marker = found.start(), data[found.start() + 1]
        if marker == 0xD9:
            yield marker, data[start : start + 2]
            return
        position = start + 2 + struct.unpack_from(">H", data, start + 2)[0]
        if marker == 0xDA:
            following = _JPEG_MARKER.search(data, position)
            position = following.start() if following else len(data)
        yield marker, data[start:position]


def _join_profile(parts: list[bytes]) -> bytes | None:
    """Each part begins with its number and the count of all."""
    if not parts:
        return None
    parts.sort(key=lambda part: part[:1])
    complete = [part[:2] for part in parts] == [bytes([i, len(parts)]) for i in range(1, len(parts) + 1)]
    return b"".join(part[2:] for part in parts) if complete else b""
