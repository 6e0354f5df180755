"""Metadata that goes out again with a result: EXIF, XMP and print density, made right for it and put into its file."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from core.config import MetadataChoice
from imaging.containers.exif import MAX_METADATA_BYTES, Density, Directories, TooLarge
from imaging.containers.png import with_chunks
from imaging.sanitize import SanitizedFile

MAX_JPEG_SEGMENT_BYTES = 65_533


@dataclass(frozen=True)
class Metadata:
    """What goes into a result's file beside its picture."""

    exif: bytes = b""  # a TIFF structure
    xmp: bytes = b""  # a packet in UTF-8
    density: Density | None = None


NO_METADATA = Metadata()


def chosen_metadata(
    choice: MetadataChoice, file: SanitizedFile, width: int, height: int, image_format: str
) -> tuple[Metadata, list[str]]:
    """What of a file's own goes out again, as `kept_metadata`; nothing unless it is asked for."""
    return kept_metadata(file, width, height, image_format) if choice == "keep" else (NO_METADATA, [])


def kept_metadata(file: SanitizedFile, width: int, height: int, image_format: str) -> tuple[Metadata, list[str]]:
    """What a file holds, made right for an upright result of that size, and warnings of what had to be left out."""
    warnings: list[str] = []
    exif, xmp, density, room = b"", b"", file.density, MAX_METADATA_BYTES
    try:
        directories = Directories.of(file.exif)
        density = density or directories.density
        directories.fit_to(width, height, density if image_format == "webp" else None)
        exif = _checked(directories.written(), room, _EXIF_MARK, image_format)
        room -= len(exif)
    except (ValueError, KeyError, struct.error) as exc:
        warnings.append(_left_out("EXIF data", exc))
    try:
        xmp = _checked(_fitting_xmp(file.xmp, width, height), room, _XMP_MARK, image_format)
    except ValueError as exc:
        warnings.append(_left_out("XMP data", exc))
    return Metadata(exif, xmp, density), warnings


def _checked(block: bytes, room: int, mark: bytes, image_format: str) -> bytes:
    if len(block) > room or (image_format == "jpeg" and len(mark) + len(block) > MAX_JPEG_SEGMENT_BYTES):
        raise TooLarge
    return block


def _left_out(name: str, error: Exception) -> str:
    limit = f"over {MAX_METADATA_BYTES // 1024} KiB, or more than the format holds"
    return f"The {name} is {limit if isinstance(error, TooLarge) else 'damaged'}: it was left out."


# XMP

_XMP_VALUES = {  # of which property, what: the orientation or a side
    "orientation": b"tiff:Orientation",
    "width": b"(?:tiff:ImageWidth|exif:PixelXDimension)",
    "height": b"(?:tiff:ImageLength|exif:PixelYDimension)",
}
_XMP_PATTERNS = {
    name: re.compile(rb"(\b%b\s*=\s*[\"']|<%b\s*>)[^<>\"']*" % (property_name, property_name))
    for name, property_name in _XMP_VALUES.items()
}
_EXTENDED = re.compile(rb"\s?\bxmpNote:HasExtendedXMP\s*=\s*([\"'])[^<>\"']*\1")  # the rest of it, which is left out


def _fitting_xmp(xmp: bytes, width: int, height: int) -> bytes:
    """The packet of an upright picture of that size.

    Raises:
        ValueError: it is none, or declares entities.
        TooLarge: it is too large.
    """
    if not xmp:
        return b""
    if len(xmp) > MAX_METADATA_BYTES:
        raise TooLarge
    xmp.decode()  # or it is a UnicodeDecodeError, which is a ValueError
    if b"<rdf:RDF" not in xmp or b"</rdf:RDF>" not in xmp or b"<!DOCTYPE" in xmp or b"<!ENTITY" in xmp or b"\0" in xmp:
        raise ValueError("no XMP")
    for name, value in {"orientation": 1, "width": width, "height": height}.items():
        xmp = _XMP_PATTERNS[name].sub(rb"\g<1>%d" % value, xmp)
    return _EXTENDED.sub(b"", xmp)


# into files

_EXIF_MARK = b"Exif\0\0"
_XMP_MARK = b"http://ns.adobe.com/xap/1.0/\0"
_WEBP_ALPHA, _WEBP_EXIF, _WEBP_XMP = 0x10, 0x08, 0x04  # flags of VP8X


def with_metadata(data: bytes, image_format: str, metadata: Metadata, width: int, height: int) -> bytes:
    """A file that our encoder has made, with metadata in it; its pixels and their encoding stay as they are."""
    if metadata == NO_METADATA:
        return data
    return {"jpeg": _into_jpeg, "png": _into_png, "webp": _into_webp}[image_format](data, metadata, width, height)


def _into_jpeg(data: bytes, metadata: Metadata, _width: int, _height: int) -> bytes:
    """Behind JFIF's segment, where readers look for it."""
    head = bytearray(data[:20])
    if metadata.density:
        struct.pack_into(">BHH", head, 13, *_jfif_density(metadata.density))
    blocks = [mark + block for mark, block in ((_EXIF_MARK, metadata.exif), (_XMP_MARK, metadata.xmp)) if block]
    segments = [b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block for block in blocks]
    return b"".join([head, *segments, memoryview(data)[20:]])


def _jfif_density(density: Density) -> tuple[int, int, int]:
    """Unit (1: inch, 2: cm) and whole numbers, in the unit in which they are such."""
    in_cm = [value / 2.54 for value in density]
    is_of_cm = not _are_whole(density) and _are_whole(in_cm)
    unit, values = (2, in_cm) if is_of_cm else (1, density)
    across, down = (min(max(round(value), 1), 65_535) for value in values)
    return unit, across, down


def _are_whole(values: Iterable[float]) -> bool:
    return all(abs(value - round(value)) < 0.02 for value in values)


def _into_png(data: bytes, metadata: Metadata, _width: int, _height: int) -> bytes:
    chunks = []
    if metadata.density:
        across, down = (min(max(round(value / 0.0254), 1), 2**31 - 1) for value in metadata.density)
        chunks.append((b"pHYs", struct.pack(">IIB", across, down, 1)))
    if metadata.exif:
        chunks.append((b"eXIf", metadata.exif))
    if metadata.xmp:
        chunks.append((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + metadata.xmp))
    return with_chunks(data, chunks)


def _into_webp(data: bytes, metadata: Metadata, width: int, height: int) -> bytes:
    """At the end, as RFC 9649 wants it, with the header of an extended file."""
    flags = _WEBP_EXIF * bool(metadata.exif) | _WEBP_XMP * bool(metadata.xmp)
    chunks: bytes | memoryview = memoryview(data)[12:]
    if data.startswith(b"VP8X", 12):
        flags |= data[20]
        chunks = chunks[18:]
    elif data.startswith(b"VP8L", 12):
        flags |= _WEBP_ALPHA * (data[24] >> 4 & 1)
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    parts: list[bytes | memoryview] = [_webp_chunk(b"VP8X", struct.pack("<I", flags) + sides), chunks]
    parts += [_webp_chunk(name, block) for name, block in ((b"EXIF", metadata.exif), (b"XMP ", metadata.xmp)) if block]
    return b"".join([b"RIFF", struct.pack("<I", 4 + sum(map(len, parts))), b"WEBP", *parts])


def _webp_chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
