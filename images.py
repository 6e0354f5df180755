"""Image files and arrays: bytes → Picture → bytes.

PNG, JPEG, WebP and BMP come in; JPEG, PNG and WebP go out. Only what makes pixels and colour reaches Pillow: of PNG and JPEG,
which are the ones that carry everything, the file is first reduced to that, so that text bombs, thumbnails, animation chunks
and damaged metadata are never parsed. This room knows nothing of HTTP, of torch or of networks.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from config import MAX_IMAGE_BYTES, MIB, TARGET_PX
from errors import AnimatedImage, BadRequest, BrokenImage, FileTooLarge, NotAnImage, TooManyPixels, UnsupportedFormat

Array = NDArray[np.uint8]

MAX_PIXELS = TARGET_PX["8k"] ** 2  # 58,982,400: nothing larger can become smaller than the largest target
MAX_PROFILE_BYTES = 4 * MIB  # a PNG's profile is compressed: 7 MB could hold 7 GB of it
# An empty scan of a progressive JPEG costs 14 bytes and, at 7680×7680, 10 ms: 7 MB of them would keep a thread for an hour.
# Encoders write 10. Empty segments cost 4 bytes and 3 µs of the interpreter each; of the largest, 64 kB, 112 fill a file.
MAX_JPEG_SCANS = 100
MAX_JPEG_SEGMENTS = 2000
STRIPE_PX = 4 * 1024 * 1024  # pixels converted at a time, so that no second whole copy exists

ALLOWED = "PNG, JPEG, WebP or BMP"
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


@dataclass(frozen=True, eq=False)
class Picture:
    """One still image, upright.

    pixels: uint8, (h, w, 3) in RGB order or (h, w) gray; alpha: uint8, (h, w), 0 is transparent, or None; icc_profile: of the
    same colour space as the pixels, None where they are sRGB or nothing is known. Both arrays of decode_image are contiguous
    and writable.
    """

    pixels: Array
    alpha: Array | None = None
    icc_profile: bytes | None = None

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])


@dataclass(frozen=True)
class ImageHeader:
    """What is known of a file before a pixel is decoded; width and height are those after EXIF rotation."""

    width: int
    height: int
    has_alpha: bool


@dataclass
class _Source:
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


def read_header(data: bytes) -> ImageHeader:
    """Size and transparency of an image file, without decoding a pixel.

    Raises:
        FileTooLarge, NotAnImage, UnsupportedFormat, BrokenImage, AnimatedImage, TooManyPixels: each for what it says.
    """
    source = _open(data)
    width, height = source.image.size
    if (_orientation(source.exif) or 1) >= 5:
        width, height = height, width
    return ImageHeader(width, height, source.has_alpha)


def decode_image(data: bytes) -> tuple[Picture, list[str]]:
    """The upright picture in an image file, and warnings for the client in whole sentences.

    Sixteen bits become eight, palettes and CMYK become RGB; gray stays gray. A profile is kept only where it describes the
    pixels that are returned: not one of RGB on a gray image, which PNG forbids and other readers ignore as well.

    Raises:
        FileTooLarge, NotAnImage, UnsupportedFormat, BrokenImage, AnimatedImage, TooManyPixels: each for what it says.
    """
    source = _open(data)
    warnings: list[str] = []
    orientation = _orientation(source.exif)
    if orientation is None:
        warnings.append("The EXIF data is damaged: the image was not rotated.")
    icc_profile, to_srgb = _use_profile(source, warnings)
    with _foreign_errors(source.image.format):
        source.image.load()
        pixels, alpha = _to_arrays(source, to_srgb)
    turn = _TURNS[orientation or 1]
    upright_alpha = None if alpha is None else np.ascontiguousarray(turn(alpha))
    return Picture(np.ascontiguousarray(turn(pixels)), upright_alpha, icc_profile), warnings


def encode_image(picture: Picture, image_format: str, quality: int) -> tuple[bytes, list[str]]:
    """An image file of the picture, and warnings for the client in whole sentences.

    The same picture always gives the same bytes: no date and no EXIF is written, only the profile, unchanged. WebP has no
    gray, and its encoder drops an alpha plane that is 255 throughout.

    Args:
        picture: gray or RGB, with or without alpha.
        image_format: "jpeg", "png" or "webp".
        quality: 1 to 100, for JPEG and WebP.

    Raises:
        ValueError: the format is none of the three, or cannot hold a picture of this size (a defect of the caller).
    """
    if image_format not in _MAX_SIDE_PX:
        raise ValueError(f"{image_format!r} is none of {', '.join(_MAX_SIDE_PX)}.")
    longest = max(picture.width, picture.height)
    if longest > _MAX_SIDE_PX[image_format]:
        raise ValueError(f"{image_format} holds at most {_MAX_SIDE_PX[image_format]} px a side, not {longest}.")
    warnings: list[str] = []
    pixels, alpha = picture.pixels, picture.alpha
    if alpha is not None and image_format == "jpeg":
        pixels, alpha = _flatten_on_white(pixels, alpha), None
        warnings.append("JPEG cannot hold transparency: it was flattened on white.")
    image = Image.fromarray(pixels)
    if alpha is not None:
        image.putalpha(Image.fromarray(alpha))
    file = io.BytesIO()
    image.save(file, image_format, icc_profile=picture.icc_profile, **_save_options(image_format, quality))
    return file.getvalue(), warnings


_MAX_SIDE_PX = {"jpeg": 65500, "png": 2**31 - 1, "webp": 16383}


def _save_options(image_format: str, quality: int) -> dict[str, Any]:
    """Pillow's options. Figures: astronaut enlarged to 2048×2048, one core; coffee, 2400×1600, differs by a few per cent."""
    if image_format == "png":
        # Level 1: 237 ms, 4.06 MB; 4: 397 ms, 3.53 MB; 6: 1117 ms, 3.42 MB; 9: 7121 ms, 3.29 MB.
        return {"compress_level": 4}
    if image_format == "webp":
        # Quality 95, method 2: 148 ms, 455 kB, 45.9 dB; 4: 300 ms, 451 kB, 46.3 dB; 6: 638 ms, 443 kB, 46.3 dB. Above about
        # 15 million pixels of detail, 4 encodes again and again: 7680×7680 took 15 s, and 2.2 s with 2.
        return {"quality": quality, "method": 2}
    return {"quality": quality, "subsampling": "4:4:4" if quality >= 90 else "4:2:0"}


def _flatten_on_white(pixels: Array, alpha: Array) -> Array:
    """round(p·a/255 + 255 − a), in whole numbers, some rows at a time."""
    flat = np.empty_like(pixels)
    for rows in _stripes(*alpha.shape):
        a = alpha[rows].astype(np.uint16)
        if pixels.ndim == 3:
            a = a[..., None]
        flat[rows] = 255 - ((255 - pixels[rows]) * a + 127) // 255  # at most 65,152: fits in 16 bits
    return flat


def _stripes(height: int, width: int) -> Iterator[slice]:
    step = max(1, STRIPE_PX // width)
    for top in range(0, height, step):
        yield slice(top, min(top + step, height))


@contextmanager
def _foreign_errors(format_name: str | None) -> Iterator[None]:
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


def _open(data: bytes) -> _Source:
    if len(data) > MAX_IMAGE_BYTES:
        limit = f"{MAX_IMAGE_BYTES:,} ({MAX_IMAGE_BYTES // MIB} MB)"
        raise FileTooLarge(f"The image file has {len(data):,} bytes; at most {limit} are accepted.")
    format_name = _recognise(data)
    with _foreign_errors(format_name):
        source = _OPENERS[format_name](data)
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


def _open_png(data: bytes) -> _Source:
    chunks: dict[bytes, bytes] = {}
    pixel_chunks = []
    for name, chunk in _png_chunks(data):
        if name == b"IDAT":
            pixel_chunks.append(chunk)
        else:
            chunks.setdefault(name, chunk)
    header = chunks[b"IHDR"]
    depth, color_type = header[16], header[17]
    kept = [b"IHDR", b"PLTE", b"tRNS"] if color_type == 3 else [b"IHDR"]
    essential = [PNG_SIGNATURE, *(chunks.get(name, b"") for name in kept), *pixel_chunks, chunks[b"IEND"]]
    source = _Source(
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
    position, name = len(PNG_SIGNATURE), b""
    while name != b"IEND":
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + length + 12
        (checksum,) = struct.unpack_from(">I", data, end - 4)
        chunk = data[position:end]
        if zlib.crc32(chunk[4:-4]) != checksum:
            raise ValueError(f"checksum of {name!r}")
        yield name, chunk
        position = end


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


def _open_jpeg(data: bytes) -> _Source:
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
    return _Source(JpegImageFile(io.BytesIO(b"".join(kept))), exif=exif, icc_profile=_join_profile(profile))


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


def _open_webp(data: bytes) -> _Source:
    image = WebPImageFile(io.BytesIO(data))
    exif, profile = image.info.get("exif", b""), image.info.get("icc_profile")
    return _Source(image, exif=exif, icc_profile=profile, frame_count=image.n_frames)


def _open_bmp(data: bytes) -> _Source:
    return _Source(BmpImageFile(io.BytesIO(data)))


_OPENERS: dict[str, Callable[[bytes], _Source]] = {
    "PNG": _open_png,
    "JPEG": _open_jpeg,
    "WebP": _open_webp,
    "BMP": _open_bmp,
}


def _orientation(exif: bytes) -> int | None:
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
                return {0: 1}.get(value, value if value in _TURNS else None)  # 0: cameras that did not know
    except (struct.error, KeyError):
        return None
    return 1


_TURNS: dict[int, Callable[[Array], Array]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def _use_profile(source: _Source, warnings: list[str]) -> tuple[bytes | None, ImageCms.ImageCmsTransform | None]:
    """The profile to keep, or for CMYK the way from it to sRGB."""
    profile = source.icc_profile
    if profile is None:
        return None, None
    is_cmyk = source.image.mode == "CMYK"
    space = b"CMYK" if is_cmyk else b"GRAY" if source.is_gray else b"RGB "
    to_srgb = None
    is_usable = profile[36:40] == b"acsp" and profile[16:20] == space
    if is_usable and is_cmyk:
        to_srgb = _cmyk_to_srgb(profile)
        is_usable = to_srgb is not None
    if not is_usable:
        warnings.append("The colour profile is damaged or of another kind of image: it was ignored.")
    return (profile if is_usable and not is_cmyk else None), to_srgb


def _cmyk_to_srgb(profile: bytes) -> ImageCms.ImageCmsTransform | None:
    try:
        source, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(source, srgb, "CMYK", "RGB")
    except (OSError, ImageCms.PyCMSError):
        return None


def _to_arrays(source: _Source, to_srgb: ImageCms.ImageCmsTransform | None) -> tuple[Array, Array | None]:
    width, height = source.image.size
    pixels = np.empty((height, width, 1 if source.is_gray else 3), np.uint8)
    alpha = np.empty((height, width), np.uint8) if source.has_alpha else None
    for rows in _stripes(height, width):
        stripe = _plain(source.image.crop((0, rows.start, width, rows.stop)), to_srgb)
        samples = np.asarray(stripe).reshape(-1, width, len(stripe.getbands()))
        color = samples[..., : pixels.shape[2]]
        if alpha is not None:
            key = source.color_key
            alpha[rows] = samples[..., -1] if key is None else np.where((color == key).all(axis=2), 0, 255)
        pixels[rows] = color if color.dtype == np.uint8 else (color.astype(np.uint32) + 128) // 257  # round(v / 257)
    return pixels[..., 0] if source.is_gray else pixels, alpha


def _plain(image: Image.Image, to_srgb: ImageCms.ImageCmsTransform | None) -> Image.Image:
    """The same in a mode that numpy reads as it is: L, LA, I;16, RGB or RGBA."""
    if to_srgb is not None:
        return cast(Image.Image, ImageCms.applyTransform(image, to_srgb))
    if image.mode in ("L", "LA", "I;16", "RGB", "RGBA"):
        return image
    if image.mode == "1":
        return image.convert("L")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")
