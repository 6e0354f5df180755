"""Small pictures, and files that Pillow would not write; for the tests of image files."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from imaging.containers.png import PNG_SIGNATURE

Array = NDArray[np.uint8 | np.uint16]
H, W = 17, 24
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
EXACT = {"lossless": True, "exact": True}  # for WebP; the others' writers do not look at these
LONG_PROFILE = struct.pack(">I", len(SRGB) + 200_000) + SRGB[4:] + b"\0" * 200_000
GRAY_PROFILE = SRGB[:16] + b"GRAY" + SRGB[20:]

# The smooth picture that every test starts from: red goes across, green down, blue both ways.
_y, _x = np.mgrid[0:H, 0:W]
RGB = np.stack([_x * 255 // (W - 1), _y * 255 // (H - 1), (_x + _y) * 255 // (W + H - 2)], axis=2).astype(np.uint8)
GRAY: Array = RGB[..., 0] // 2 + RGB[..., 1] // 2
ALPHA: Array = np.ascontiguousarray(RGB[:, ::-1, 0])


def saved(image: Image.Image, image_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def bmp_with_alpha(image: Image.Image) -> bytes:
    """Pillow writes RGBA into a BMP whose header does not speak of alpha; this one has masks for four channels."""
    header = struct.pack("<IiiHHIIiiII", 108, W, -H, 1, 32, 3, 0, 0, 0, 0, 0)
    header += struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"\0" * 52
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + len(header)) + header + image.tobytes("raw", "BGRA")


def in_mode(mode: str) -> Image.Image:
    image = Image.fromarray(RGB)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(ALPHA))
    return image.convert(mode)


def png(depth: int, color_type: int, rows: bytes, *chunks: tuple[bytes, bytes], size: tuple[int, int] = (W, H)) -> bytes:
    """A PNG of unfiltered rows, for what Pillow cannot write."""
    header = struct.pack(">IIBBBBB", *size, depth, color_type, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return PNG_SIGNATURE + b"".join(map(chunk, parts))


def chunk(name_and_body: tuple[bytes, bytes]) -> bytes:
    name, body = name_and_body
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def unfiltered(samples: NDArray[Any]) -> bytes:
    big_endian = samples.astype(samples.dtype.newbyteorder(">"))
    return b"".join(b"\0" + row.tobytes() for row in big_endian)


def close(actual: Array, expected: Array, tolerance: int = 12) -> bool:
    return actual.shape == expected.shape and int(np.abs(actual.astype(int) - expected).max()) <= tolerance


def flat(color: tuple[int, ...], mode: str) -> Image.Image:
    return Image.new(mode, (W, H), color)


def cmyk_profile() -> bytes:
    """A press whose cyan ink is green, so that using the profile can be told from ignoring it."""
    corners = bytearray()
    for node in range(16):
        inks = [node >> 3 & 1, node >> 2 & 1, node >> 1 & 1, node & 1]
        lab = (150, 70, 180) if inks == [1, 0, 0, 0] else (255 - 60 * sum(inks), 128, 128)
        corners += bytes(max(0, v) for v in lab)
    ramp = bytes(range(256))
    identity = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + ramp * 4 + bytes(corners) + ramp * 3
    lut += b"\0" * (-len(lut) % 4)
    tags = struct.pack(">I4sII", 1, b"A2B0", 144, len(lut))
    header = bytearray(128)
    header[0:4] = struct.pack(">I", 144 + len(lut))
    header[8:12] = b"\x02\x40\0\0"
    header[12:24] = b"prtrCMYKLab "
    header[36:40] = b"acsp"
    header[68:80] = struct.pack(">3i", 63190, 65536, 54061)
    return bytes(header) + tags + lut


def exif(orientation: int, order: str = "<", kind: int = 3) -> bytes:
    """One other tag before the one that counts."""
    magic = b"II*\0" if order == "<" else b"MM\0*"
    value = struct.pack(order + {1: "B", 3: "H", 4: "I"}[kind], orientation).ljust(4, b"\0")
    entries = struct.pack(order + "HHII", 0x0100, 3, 1, 7) + struct.pack(order + "HHI", 0x0112, kind, 1) + value
    return b"Exif\0\0" + magic + struct.pack(order + "IH", 8, 2) + entries + b"\0\0\0\0"


def with_exif(image: Image.Image, image_format: str, body: bytes) -> bytes:
    """Pillow's writer would read the EXIF itself."""
    if image_format == "JPEG":
        data = saved(image, "JPEG", quality=95, subsampling=0)
        return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]
    return saved(image, image_format, **EXACT, exif=body)


def huge(image_format: str, width: int, height: int) -> bytes:
    """A small file whose header claims to be large."""
    if image_format == "PNG":
        return png(8, 2, b"", size=(width, height))
    data = bytearray(saved(Image.new("RGB", (8, 8)), image_format))
    if image_format == "JPEG":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", height, width)
    elif image_format == "BMP":
        data[18:26] = struct.pack("<ii", width, height)
    else:
        canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        extended = b"VP8X" + struct.pack("<II", 10, 0) + canvas + data[12:]
        data = bytearray(b"RIFF" + struct.pack("<I", len(extended) + 4) + b"WEBP" + extended)
    return bytes(data)


def tiff(
    samples: NDArray[Any], photometric: int, order: str = "<", tile: int = 0, planar: bool = False, **options: Any
) -> bytes:
    """A TIFF of samples `(h, w, n)`, for what Pillow cannot write: deflated, with differences, in tiles or strips of 5 rows.

    `options`: extra (what the sample behind the colours is), palette, orientation, profile, plain (not compressed).
    """
    height, width, count = samples.shape
    stored = samples.dtype.str.replace("<", order)
    depth = samples.dtype.itemsize * 8
    pieces = []
    planes = [samples[..., [i]] for i in range(count)] if planar else [samples]
    for plane in planes:
        steps = [(y, x) for y in range(0, height, tile or 5) for x in range(0, width, tile or width)]
        for y, x in steps:
            piece = plane[y : y + (tile or 5), x : x + (tile or width)]
            if tile:
                piece = np.pad(piece, ((0, tile - piece.shape[0]), (0, tile - piece.shape[1]), (0, 0)), "edge")
            if options.get("plain"):
                pieces.append(piece.astype(stored).tobytes())
            else:
                changes = np.diff(piece, axis=1, prepend=np.zeros_like(piece[:, :1]))
                pieces.append(zlib.compress(changes.astype(stored).tobytes()))
    tags: dict[int, tuple[int, list[int]]] = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [depth] * count),
        259: (3, [1 if options.get("plain") else 8]),
        262: (3, [photometric]),
        274: (3, [options.get("orientation", 1)]),
        277: (3, [count]),
        284: (3, [2 if planar else 1]),
        317: (3, [1 if options.get("plain") else 2]),
    }
    tags |= {322: (4, [tile]), 323: (4, [tile])} if tile else {278: (4, [5])}
    if "extra" in options:
        tags[338] = (3, [options["extra"]])
    if "palette" in options:
        tags[320] = (3, options["palette"])
    if "profile" in options:
        tags[34675] = (7, list(options["profile"]))
    lengths = [len(piece) for piece in pieces]
    starts = [8 + sum(lengths[:i]) for i in range(len(pieces))]
    tags |= {324: (4, starts), 325: (4, lengths)} if tile else {273: (4, starts), 279: (4, lengths)}
    body = b"".join(pieces)
    at = 8 + len(body)
    entries, tail, kinds = b"", b"", {3: "H", 4: "I", 7: "B"}
    for tag, (kind, values) in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}{kinds[kind]}", *values)
        place = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack(order + "I", at + 6 + 12 * len(tags) + len(tail))
        tail += packed if len(packed) > 4 else b""
        entries += struct.pack(order + "HHI", tag, kind, len(values)) + place
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", at)
    return head + body + struct.pack(order + "H", len(tags)) + entries + b"\0" * 4 + tail
