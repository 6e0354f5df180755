"""Image files as their containers: which format, how large, what surrounds the pixels. No pixel is decoded here.

PNG, JPEG, WebP and BMP are opened, and nothing else reaches Pillow. A PNG or a JPEG, which can carry anything, is first
reduced to what makes pixels and colour, so that text bombs, thumbnails, animation chunks and damaged metadata are never
parsed.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from core.config import MAX_IMAGE_BYTES, MIB, TARGET_PX
from core.errors import AnimatedImage, BadRequest, BrokenImage, FileTooLarge, NotAnImage, TooManyPixels, UnsupportedFormat

MAX_PIXELS = TARGET_PX["8k"] ** 2  # 58,982,400: nothing larger can become smaller than the largest target
MAX_PROFILE_BYTES = 4 * MIB  # a PNG's profile is compressed: 7 MB could hold 7 GB of it; that of a press has 2 MB at most
# Empty chunks cost 12 bytes and 1 µs of the interpreter each: 7 MB of them, 0.4 s. Encoders write 8 kB to a chunk, or more.
MAX_PNG_CHUNKS = 20_000
# An empty scan of a progressive JPEG costs 14 bytes and, at 7680×7680, 10 ms: 7 MB of them would keep a thread for an hour.
# Encoders write 10. Empty segments cost 4 bytes and 3 µs of the interpreter each; of the largest, 64 kB, 112 fill a file.
MAX_JPEG_SCANS = 100
MAX_JPEG_SEGMENTS = 2000

ALLOWED = "PNG, JPEG, WebP or BMP"
ALLOWED_OTHERS = "PNG, JPEG or WebP"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
DIB_HEADER_BYTES = (12, 40, 52, 56, 64, 108, 124)

# What people send by mistake: name, offset, signatures. The first that fits counts.
_OTHER_FORMATS: list[tuple[str, int, tuple[bytes, ...]]] = [
    ("GIF", 0, (b"GIF8",)),
    ("TIFF", 0, (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    ("AVIF", 4, (b"ftypavi",)),
    ("HEIC", 4, (b"ftyphe", b"ftypmif1", b"ftypmsf1")),
    ("a video (MP4 or QuickTime)", 4, (b"ftyp",)),
    ("JPEG 2000", 0, (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")),
    ("JPEG XL", 0, (b"\0\0\0\x0cJXL ", b"\xff\x0a")),
    ("PDF", 0, (b"%PDF",)),
    ("Photoshop (PSD)", 0, (b"8BPS",)),
    ("ICO", 0, (b"\0\0\1\0",)),
    ("OpenEXR", 0, (b"\x76\x2f\x31\x01",)),
    ("a ZIP archive", 0, (b"PK\3\4",)),
]
_MARKUP = [("SVG or other XML", (b"<svg", b"<?xml")), ("an HTML page", (b"<!doctype html", b"<html"))]


@dataclass
class Source:
    """An opened file: its header is read, its pixels are not."""

    image: ImageFile
    exif: bytes = b""
    icc_profile: bytes | None = None  # b"" where there was one that cannot be read
    frame_count: int = 1
    color_key: tuple[int, ...] | None = None  # the one colour that a PNG without alpha declares transparent
    is_gray: bool = field(init=False)
    has_alpha: bool = field(init=False)

    def __post_init__(self) -> None:
        self.is_gray = self.image.mode in ("1", "L", "LA", "I;16")
        self.has_alpha = self.color_key is not None or self.image.has_transparency_data


@contextmanager
def translate_errors(format_name: str | None) -> Iterator[None]:
    """Pillow raises nearly anything on damaged files; here it becomes an error of ours. A lack of memory stays what it is."""
    try:
        yield
    except (BadRequest, MemoryError):
        raise
    except Image.DecompressionBombError as exc:
        raise _too_many_pixels() from exc
    except Exception as exc:
        raise BrokenImage(
            f"The {format_name} file is damaged, incomplete or of a rare variant. Save it anew as PNG or JPEG and send that."
        ) from exc


def _too_many_pixels() -> TooManyPixels:
    side = TARGET_PX["8k"]
    return TooManyPixels(f"The image has more than {MAX_PIXELS:,} pixels ({side}×{side}), the most that is opened.")


def open_image(data: bytes) -> Source:
    """Recognise a file by its first bytes and read its header.

    Raises:
        FileTooLarge, NotAnImage, UnsupportedFormat, BrokenImage, AnimatedImage, TooManyPixels: each for what it says.
    """
    if len(data) > MAX_IMAGE_BYTES:
        limit = f"{MAX_IMAGE_BYTES:,} ({MAX_IMAGE_BYTES // MIB} MB)"
        raise FileTooLarge(f"The image file has {len(data):,} bytes; at most {limit} are accepted.")
    format_name = _recognise(data)
    with translate_errors(format_name):
        source = _OPENERS[format_name](data)
    if len(source.icc_profile or b"") > MAX_PROFILE_BYTES:
        source.icc_profile = b""
    if source.image.width * source.image.height > MAX_PIXELS:
        raise _too_many_pixels()
    if source.frame_count > 1:
        raise AnimatedImage(f"The {format_name} file has {source.frame_count} frames: send a single still image.")
    return source


def _recognise(data: bytes) -> str:
    if not data:
        raise NotAnImage("The image is empty: it has no bytes.")
    if data.startswith(PNG_SIGNATURE):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"RIFF") and data.startswith(b"WEBP", 8):
        return "WebP"
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in DIB_HEADER_BYTES:  # "BM" alone begins many a text
        return "BMP"
    if name := _name_of_other(data[:100]):
        raise UnsupportedFormat(f"The file is {name}, which is not supported. Send {ALLOWED}.")
    raise NotAnImage(f"The data is not an image that this service recognises. Send {ALLOWED}.")


def _name_of_other(start: bytes) -> str | None:
    markup = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    names = [name for name, offset, signatures in _OTHER_FORMATS if start.startswith(signatures, offset)]
    names += [name for name, signatures in _MARKUP if markup.startswith(signatures)]
    return names[0] if names else None


# The plugins' classes are called directly, not through Image.open: that would also look for multi-picture JPEGs (telephones
# write them; their first frame is the photograph) and warn, globally, about sizes that we judge ourselves.


def _open_png(data: bytes) -> Source:
    chunks: dict[bytes, bytes] = {}
    pixel_chunks = []
    for name, chunk in _png_chunks(data):
        if name == b"IDAT":
            pixel_chunks.append(chunk[8:-4])
        else:
            chunks.setdefault(name, chunk)
    header = chunks[b"IHDR"]
    depth, color_type = header[16], header[17]
    kept = [b"IHDR", b"PLTE", b"tRNS"] if color_type == 3 else [b"IHDR"]
    pixels = _png_chunk(b"IDAT", b"".join(pixel_chunks))  # one chunk: Pillow takes 4 µs for each
    essential = [PNG_SIGNATURE, *(chunks.get(name, b"") for name in kept), pixels, chunks[b"IEND"]]
    source = Source(
        PngImageFile(io.BytesIO(b"".join(essential))),
        exif=chunks.get(b"eXIf", b"")[8:-4],
        icc_profile=_png_profile(chunks[b"iCCP"][8:-4]) if b"iCCP" in chunks else None,
        frame_count=struct.unpack_from(">I", chunks[b"acTL"], 8)[0] if b"acTL" in chunks else 1,
        color_key=_png_color_key(chunks[b"tRNS"][8:-4], depth, color_type) if b"tRNS" in chunks else None,
    )
    source.is_gray = color_type in (0, 4)  # Pillow opens 16-bit gray with alpha as RGBA
    return source


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Each chunk's name, and the whole of it. Pillow does not look at the checksums of the pixels."""
    position, name, chunk_count = len(PNG_SIGNATURE), b"", 0
    while name != b"IEND":
        chunk_count += 1
        if chunk_count > MAX_PNG_CHUNKS:
            raise ValueError(f"{chunk_count} chunks")
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + length + 12
        (checksum,) = struct.unpack_from(">I", data, end - 4)
        chunk = data[position:end]
        if zlib.crc32(chunk[4:-4]) != checksum:
            raise ValueError(f"checksum of {name!r}")
        yield name, chunk
        position = end


def _png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _png_profile(body: bytes) -> bytes:
    inflater = zlib.decompressobj()
    try:
        profile = inflater.decompress(body.partition(b"\0")[2][1:], MAX_PROFILE_BYTES)
    except zlib.error:
        return b""
    return profile if inflater.eof else b""


def _png_color_key(body: bytes, depth: int, color_type: int) -> tuple[int, ...] | None:
    """The transparent colour on the scale of Pillow's pixels; Pillow itself leaves it on the file's."""
    if color_type == 0:
        (value,) = struct.unpack_from(">H", body)
        return (value if depth == 16 else (value & (2**depth - 1)) * 255 // (2**depth - 1),)
    if color_type == 2:
        return tuple(value >> 8 if depth == 16 else value & 255 for value in struct.unpack_from(">3H", body))
    return None


def _open_jpeg(data: bytes) -> Source:
    kept, exif, profile, scan_count = [b"\xff\xd8"], b"", [], 0
    for segment_count, (marker, segment) in enumerate(_jpeg_segments(data), 1):
        scan_count += marker == 0xDA
        if segment_count > MAX_JPEG_SEGMENTS or scan_count > MAX_JPEG_SCANS:
            raise ValueError(f"{segment_count} segments, {scan_count} scans")
        if segment.startswith(b"Exif\0\0", 4):
            exif = exif or segment[10:]
        elif segment.startswith(b"ICC_PROFILE\0", 4):
            profile.append(segment[16:])
        elif marker in (0xE0, 0xEE) or not 0xE0 <= marker <= 0xEF:  # JFIF and Adobe decide on the colour space
            kept.append(segment)
    return Source(JpegImageFile(io.BytesIO(b"".join(kept))), exif=exif, icc_profile=_join_profile(profile))


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


def _open_webp(data: bytes) -> Source:
    image = WebPImageFile(io.BytesIO(data))
    exif, profile = image.info.get("exif", b""), image.info.get("icc_profile")
    return Source(image, exif=exif, icc_profile=profile, frame_count=image.n_frames)


def _open_bmp(data: bytes) -> Source:
    image = BmpImageFile(io.BytesIO(data))
    if any(tile.codec_name == "bmp_rle" for tile in image.tile):  # Pillow decodes it in Python: 7 MB would take seconds
        raise UnsupportedFormat(f"The BMP file is compressed (RLE). Save it without compression, or send {ALLOWED_OTHERS}.")
    return Source(image)


_OPENERS: dict[str, Callable[[bytes], Source]] = {
    "PNG": _open_png,
    "JPEG": _open_jpeg,
    "WebP": _open_webp,
    "BMP": _open_bmp,
}


def read_orientation(exif: bytes) -> int | None:
    """1 to 8 as in the EXIF standard, 1 where nothing is said, None where the data is damaged.

    Only this one tag is looked for: Pillow's reader parses all of them, and warns, globally, about each that is odd.
    """
    tiff = exif.removeprefix(b"Exif\0\0")
    if not tiff:
        return 1
    try:
        order = {b"II*\0": "<", b"MM\0*": ">"}[tiff[:4]]
        (directory,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, directory)
        for entry in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + "HH", tiff, entry)
            if tag == 0x0112:
                (value,) = struct.unpack_from(order + {1: "B", 3: "H", 4: "I"}[kind], tiff, entry + 8)
                return {0: 1}.get(value, value if 1 <= value <= 8 else None)  # 0: cameras that did not know
    except (struct.error, KeyError):
        return None
    return 1
